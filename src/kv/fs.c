/* fs.c - see fs.h: the real file layer, POSIX with what Linux and macOS add. */
#include "kv/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

/* -errno of a call that returned r < 0, else r. */
static int result(int r)
{
    return r < 0 ? -errno : r;
}

/* An open directory that is nobody else's to write to; closes it otherwise. */
static int check_dir(int fd)
{
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) != 0) {
        rc = -errno;
    } else if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        rc = -EPERM;
    }
    if (rc != 0) {
        close(fd);
    }
    return rc != 0 ? rc : fd;
}

/* Makes the folders of path that are missing. */
static int make_path(const char *path)
{
    char *copy = mem_strdup(path);
    if (!copy) {
        return -ENOMEM;
    }
    int rc = 0;
    for (char *p = copy + 1; rc == 0; p++) {
        if (*p != '/' && *p != 0) {
            continue;
        }
        char was = *p;
        *p = 0;
        if (mkdir(copy, 0700) != 0 && errno != EEXIST) {
            struct stat st; /* a parent that is there may refuse mkdir for another reason */
            int e = errno;
            rc = stat(copy, &st) == 0 ? 0 : -e;
        }
        *p = was;
        if (was == 0) {
            break;
        }
    }
    mem_free(copy);
    return rc;
}

static int real_dir_open(void *user, const char *path, bool create)
{
    (void)user;
    if (path[0] == 0) {
        return -ENOENT;
    }
    int rc = create ? make_path(path) : 0;
    if (rc != 0) {
        return rc;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : check_dir(fd);
}

static int real_dir_open_at(void *user, int dir, const char *name, bool create)
{
    (void)user;
    if (create && mkdirat(dir, name, 0700) != 0 && errno != EEXIST) {
        return -errno;
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : check_dir(fd);
}

static int real_close(void *user, int fd)
{
    (void)user;
    return result(close(fd));
}

static int real_list(void *user, int dir, void (*fn)(void *fn_user, const char *name),
                     void *fn_user)
{
    (void)user;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        int e = errno;
        if (fd >= 0) {
            close(fd);
        }
        return -e;
    }
    int rc = 0;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            rc = -errno;
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            fn(fn_user, e->d_name);
        }
    }
    closedir(d);
    return rc;
}

static int real_dir_stamp(void *user, int dir, uint64_t *out)
{
    (void)user;
    struct stat st;
    if (fstat(dir, &st) != 0) {
        return -errno;
    }
#if defined(__APPLE__)
    *out = (uint64_t)st.st_mtimespec.tv_sec * 1000000000u + (uint64_t)st.st_mtimespec.tv_nsec;
#else
    *out = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
#endif
    return 0;
}

static int real_dir_remove(void *user, int dir, const char *name)
{
    (void)user;
    return result(unlinkat(dir, name, AT_REMOVEDIR));
}

static int real_stat(void *user, int dir, const char *name, struct kv_stat *out)
{
    (void)user;
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return -errno;
    }
    *out = (struct kv_stat){.type = S_ISREG(st.st_mode)   ? KV_TYPE_FILE
                                    : S_ISDIR(st.st_mode) ? KV_TYPE_DIR
                                                          : KV_TYPE_OTHER,
                            .bytes = (uint64_t)st.st_size,
                            .mtime = (int64_t)st.st_mtime};
    return 0;
}

static int real_open_read(void *user, int dir, const char *name, bool direct)
{
    (void)user;
    int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, fd = -1;
#if defined(O_DIRECT)
    if (direct) {
        fd = openat(dir, name, flags | O_DIRECT);
        if (fd < 0 && errno != EINVAL) {
            return -errno;
        }
    }
#endif
    if (fd < 0) {
        fd = openat(dir, name, flags);
    }
    if (fd < 0) {
        return -errno;
    }
#if defined(F_NOCACHE)
    if (direct) {
        fcntl(fd, F_NOCACHE, 1);
    }
#else
    (void)direct;
#endif
    struct stat st;
    int rc = fstat(fd, &st) != 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -ELOOP;
    if (rc != 0) {
        close(fd);
    }
    return rc != 0 ? rc : fd;
}

static int real_create(void *user, int dir, const char *name)
{
    (void)user;
    return result(openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
}

static int real_file_bytes(void *user, int file, uint64_t *out)
{
    (void)user;
    struct stat st;
    if (fstat(file, &st) != 0) {
        return -errno;
    }
    *out = (uint64_t)st.st_size;
    return 0;
}

static int64_t real_pread(void *user, int file, void *p, size_t n, uint64_t at)
{
    (void)user;
    ssize_t k = pread(file, p, n, (off_t)at);
    return k < 0 ? -errno : k;
}

static int64_t real_pwrite(void *user, int file, const void *p, size_t n, uint64_t at)
{
    (void)user;
    ssize_t k = pwrite(file, p, n, (off_t)at);
    return k < 0 ? -errno : k;
}

static int real_allocate(void *user, int file, uint64_t bytes)
{
    (void)user;
#if defined(__linux__)
    /* Not posix_fallocate: where it is not supported, that one writes every block. */
    if (fallocate(file, 0, 0, (off_t)bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS &&
        errno != EINVAL) {
        return -errno;
    }
#else
    (void)file;
    (void)bytes;
#endif
    return 0;
}

static int real_sync(void *user, int file)
{
    (void)user;
#if defined(__APPLE__)
    return result(fsync(file));
#else
    return result(fdatasync(file));
#endif
}

static void real_forget(void *user, int file)
{
    (void)user;
#if defined(POSIX_FADV_DONTNEED)
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
#else
    (void)file;
#endif
}

static int real_rename_new(void *user, int dir, const char *from, const char *to)
{
    (void)user;
#if defined(__APPLE__)
    if (renameatx_np(dir, from, dir, to, RENAME_EXCL) == 0) {
        return 0;
    }
    if (errno != ENOTSUP && errno != EINVAL) {
        return -errno;
    }
#elif defined(RENAME_NOREPLACE)
    if (renameat2(dir, from, dir, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != ENOSYS && errno != EINVAL) {
        return -errno;
    }
#endif
    /* A file system without it: the holder of the lock is the only one who makes names. */
    struct stat st;
    if (fstatat(dir, to, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        return -EEXIST;
    }
    return errno == ENOENT ? result(renameat(dir, from, dir, to)) : -errno;
}

static int real_remove(void *user, int dir, const char *name)
{
    (void)user;
    return result(unlinkat(dir, name, 0));
}

static int real_set_mtime(void *user, int dir, const char *name, int64_t mtime)
{
    (void)user;
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)mtime}};
    return result(utimensat(dir, name, t, AT_SYMLINK_NOFOLLOW));
}

/* Open-file-description locks end with the descriptor and are seen by other stores of the same
 * process; flock is as good where they do not exist (macOS, old kernels). */
static int take_lock(int fd)
{
#if defined(F_OFD_SETLK)
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &l) == 0) {
        return 0;
    }
    if (errno != EINVAL) {
        return errno == EACCES ? -EAGAIN : -errno;
    }
#endif
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

static int real_lock(void *user, int dir, const char *name)
{
    (void)user;
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (fd < 0) {
        return -errno;
    }
    int rc = take_lock(fd);
    if (rc != 0) {
        close(fd);
    }
    return rc != 0 ? rc : fd;
}

static int real_space(void *user, int dir, uint64_t *free_bytes, uint64_t *total_bytes)
{
    (void)user;
    struct statvfs v;
    if (fstatvfs(dir, &v) != 0) {
        return -errno;
    }
    *free_bytes = (uint64_t)v.f_bavail * (uint64_t)v.f_frsize;
    *total_bytes = (uint64_t)v.f_blocks * (uint64_t)v.f_frsize;
    return 0;
}

const struct kv_fs kv_fs_real = {
    .dir_open = real_dir_open,
    .dir_open_at = real_dir_open_at,
    .dir_close = real_close,
    .list = real_list,
    .dir_stamp = real_dir_stamp,
    .dir_remove = real_dir_remove,
    .stat = real_stat,
    .open_read = real_open_read,
    .create = real_create,
    .file_bytes = real_file_bytes,
    .pread = real_pread,
    .pwrite = real_pwrite,
    .allocate = real_allocate,
    .sync = real_sync,
    .forget = real_forget,
    .close = real_close,
    .rename_new = real_rename_new,
    .remove = real_remove,
    .set_mtime = real_set_mtime,
    .lock = real_lock,
    .space = real_space,
};

/* ---- helpers ---- */

int kv_fs_read_full(const struct kv_fs *fs, int file, void *p, size_t n, uint64_t at)
{
    char *c = p;
    while (n > 0) {
        int64_t k = fs->pread(fs->user, file, c, n, at);
        if (k == -EINTR) {
            continue;
        }
        if (k <= 0) {
            return k == 0 ? -ENODATA : (int)k;
        }
        c += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

int kv_fs_write_full(const struct kv_fs *fs, int file, const void *p, size_t n, uint64_t at)
{
    const char *c = p;
    while (n > 0) {
        int64_t k = fs->pwrite(fs->user, file, c, n, at);
        if (k == -EINTR) {
            continue;
        }
        if (k <= 0) {
            return k == 0 ? -EIO : (int)k;
        }
        c += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}
