/* file.c - see file.h. Only regular files are mapped: a FIFO or device could block or change
 * size. SIGBUS after another process truncates a mapped file is the caller's documented risk.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

int file_map_open(struct file_map *m, const char *path, fathom_err *err)
{
    *m = (struct file_map){.fd = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return err_sys(err, path, "cannot open");
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        err_sys(err, path, "cannot stat");
        close(fd);
        return FATHOM_EIO;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, FATHOM_EFORMAT, "%s: not a regular file", path);
    }
    m->fd = fd;
    m->n = (size_t)st.st_size;
    m->p = (const unsigned char *)"";
    if (m->n > 0) {
        void *p = mmap(NULL, m->n, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int rc = err_sys(err, path, "cannot map");
            close(fd);
            m->fd = -1;
            return rc;
        }
        m->p = p;
        m->mapped = true;
    }
    return 0;
}

void file_map_close(struct file_map *m)
{
    if (m->mapped) {
        munmap((void *)(uintptr_t)m->p, m->n);
    }
    if (m->fd >= 0) {
        close(m->fd);
    }
    *m = (struct file_map){.fd = -1};
}

int file_read_all(struct buf *b, const char *path, size_t max_bytes, fathom_err *err)
{
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_sys(err, path, "cannot open");
    }
    int rc = 0;
    for (;;) {
        if (b->n > max_bytes) {
            rc = err_set(err, FATHOM_ELIMIT, "%s: larger than %zu bytes", path, max_bytes);
            break;
        }
        if (!buf_reserve(b, 65536)) {
            rc = err_nomem(err, path, b->n + 65536);
            break;
        }
        ssize_t k = read(fd, b->p + b->n, b->cap - b->n - 1);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0) {
            rc = err_sys(err, path, "cannot read");
            break;
        }
        if (k == 0) {
            break;
        }
        b->n += (size_t)k;
        b->p[b->n] = 0;
    }
    if (!is_stdin) {
        close(fd);
    }
    return rc;
}

static int open_part(struct file_out *f, const char *path, int flags, fathom_err *err)
{
    *f = (struct file_out){.fd = -1};
    size_t n = strlen(path);
    f->path = mem_strdup(path);
    f->part = mem_alloc(n + 6, 1);
    if (!f->path || !f->part) {
        file_out_abort(f);
        return err_nomem(err, path, n);
    }
    memcpy(f->part, path, n);
    memcpy(f->part + n, ".part", 6);
    f->fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0666);
    if (f->fd < 0) {
        int rc = err_sys(err, f->part, "cannot create");
        mem_free(f->part); /* not ours to remove */
        f->part = NULL;
        file_out_abort(f);
        return rc;
    }
    return 0;
}

int file_out_open(struct file_out *f, const char *path, fathom_err *err)
{
    return open_part(f, path, O_TRUNC, err);
}

int file_out_resume(struct file_out *f, const char *path, fathom_err *err)
{
    return open_part(f, path, 0, err);
}

int file_out_write(struct file_out *f, const void *p, size_t n, fathom_err *err)
{
    const char *c = p;
    while (n > 0) {
        ssize_t k = write(f->fd, c, n);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return err_sys(err, f->part, "cannot write");
        }
        c += k;
        n -= (size_t)k;
    }
    return 0;
}

/* Asks the system to begin writing what was just given: else it waits for the next flush, and the
 * disk stands idle until then. Only a hint. */
static void begin_writing(int fd, uint64_t at, size_t n)
{
#ifdef SYNC_FILE_RANGE_WRITE
    if (n >= 256u << 10) { /* not worth a call for less */
        sync_file_range(fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE);
    }
#else
    (void)fd;
    (void)at;
    (void)n;
#endif
}

int file_out_pwrite(struct file_out *f, const void *p, size_t n, uint64_t at, fathom_err *err)
{
    const char *c = p;
    const uint64_t from = at;
    const size_t all = n;
    while (n > 0) {
        ssize_t k = pwrite(f->fd, c, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return err_sys(err, f->part, "cannot write");
        }
        c += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    begin_writing(f->fd, from, all);
    return 0;
}

/* A new name is durable when its directory is. The best that can be done: not every file system
 * flushes directories, not every directory may be read, and the name stands already. */
static void sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = mem_strdup(!slash ? "." : slash == path ? "/" : path);
    if (dir && slash && slash != path) {
        dir[slash - path] = 0;
    }
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    mem_free(dir);
}

int file_out_commit(struct file_out *f, fathom_err *err)
{
    int rc = 0;
    if (fsync(f->fd) != 0) {
        rc = err_sys(err, f->part, "cannot flush");
    }
    if (close(f->fd) != 0 && rc == 0) {
        rc = err_sys(err, f->part, "cannot close");
    }
    f->fd = -1;
    if (rc == 0 && rename(f->part, f->path) != 0) {
        rc = err_sys(err, f->path, "cannot rename into place");
    }
    if (rc == 0) {
        sync_directory(f->path);
    }
    if (rc == 0 || f->keeps_part) {
        file_out_keep(f); /* nothing to remove */
    } else {
        file_out_abort(f);
    }
    return rc;
}

void file_out_abort(struct file_out *f)
{
    if (f->fd >= 0) {
        close(f->fd);
    }
    if (f->part) {
        unlink(f->part);
    }
    mem_free(f->part);
    mem_free(f->path);
    *f = (struct file_out){.fd = -1};
}

void file_out_keep(struct file_out *f)
{
    mem_free(f->part);
    f->part = NULL;
    file_out_abort(f);
}

int file_pread_full(int fd, void *p, size_t n, uint64_t at, const char *path, fathom_err *err)
{
    char *c = p;
    while (n > 0) {
        ssize_t k = pread(fd, c, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k < 0) {
            return err_sys(err, path, "cannot read");
        }
        if (k == 0) {
            return err_set(err, FATHOM_EFORMAT, "%s: ends %zu bytes early", path, n);
        }
        c += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

uint64_t file_free_bytes(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof dir) {
        return UINT64_MAX;
    }
    memcpy(dir, path, n);
    dir[n] = 0;
    struct statvfs v;
    if (statvfs(slash ? (n ? dir : "/") : ".", &v) != 0) {
        return UINT64_MAX;
    }
    return (uint64_t)v.f_bavail * (uint64_t)v.f_frsize;
}
