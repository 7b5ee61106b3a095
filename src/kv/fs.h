/* fs.h - the file layer of the disk store: every system call it makes, as a table of functions,
 * so that tests can put a file system in its place that fails, tears and forgets. All functions
 * return 0 (or what is said) or -errno; handles are >= 0. Names are single components. */
#ifndef KV_FS_H
#define KV_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_file_type { KV_TYPE_FILE, KV_TYPE_DIR, KV_TYPE_OTHER };
struct kv_stat {
    enum kv_file_type type;
    uint64_t bytes;
    int64_t mtime; /* unix seconds */
};

struct kv_fs {
    void *user;
    /* A directory by path; create: missing folders are made, 0700. -EPERM: it belongs to
     * somebody else, or group or world may write into it. Handle. */
    int (*dir_open)(void *user, const char *path, bool create);
    /* A folder in it, never through a symbolic link; the same checks. Handle. */
    int (*dir_open_at)(void *user, int dir, const char *name, bool create);
    int (*dir_close)(void *user, int dir);
    /* Calls fn for every name but . and .. */
    int (*list)(void *user, int dir, void (*fn)(void *fn_user, const char *name),
                void *fn_user);
    /* Changes whenever a name of the directory is added or removed (its modification time in
     * nanoseconds). */
    int (*dir_stamp)(void *user, int dir, uint64_t *out);
    int (*dir_remove)(void *user, int dir, const char *name); /* an empty folder */
    /* Without following a symbolic link. */
    int (*stat)(void *user, int dir, const char *name, struct kv_stat *out);
    /* A regular file for reading; -ELOOP for anything else (never blocks on it). direct: around
     * the page cache where the system can; offsets, lengths and memory are then multiples of
     * 4096. Handle. */
    int (*open_read)(void *user, int dir, const char *name, bool direct);
    /* A new file, 0600; -EEXIST. Handle. */
    int (*create)(void *user, int dir, const char *name);
    int (*file_bytes)(void *user, int file, uint64_t *out);
    int64_t (*pread)(void *user, int file, void *p, size_t n, uint64_t at);        /* bytes */
    int64_t (*pwrite)(void *user, int file, const void *p, size_t n, uint64_t at); /* bytes */
    /* Reserves room for the file; 0 where the file system cannot. */
    int (*allocate)(void *user, int file, uint64_t bytes);
    int (*sync)(void *user, int file);
    void (*forget)(void *user, int file); /* its pages need not stay cached */
    int (*close)(void *user, int file);
    /* Renames unless `to` exists (-EEXIST). */
    int (*rename_new)(void *user, int dir, const char *from, const char *to);
    int (*remove)(void *user, int dir, const char *name); /* a file */
    int (*set_mtime)(void *user, int dir, const char *name, int64_t mtime);
    /* An exclusive lock on the file `name`, which is created if missing, held until the handle
     * is closed or the process ends. -EAGAIN: somebody else has it; another error: there is no
     * locking here. Handle. */
    int (*lock)(void *user, int dir, const char *name);
    int (*space)(void *user, int dir, uint64_t *free_bytes, uint64_t *total_bytes);
};
extern const struct kv_fs kv_fs_real;

/* Repeats after interruptions and short transfers. Reading: a file that ends early is
 * -ENODATA. */
int kv_fs_read_full(const struct kv_fs *fs, int file, void *p, size_t n, uint64_t at);
int kv_fs_write_full(const struct kv_fs *fs, int file, const void *p, size_t n, uint64_t at);

#endif
