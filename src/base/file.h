/* file.h - files: read-only mapping, whole reads, and replacement that is all or nothing.
 * Thread rule: a struct file_map is immutable after open and may be shared. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/err.h"
#include "base/str.h"

/* A read-only view of a regular file (or of borrowed memory: fd -1). */
struct file_map {
    const unsigned char *p;
    size_t n;
    int fd;
    bool mapped; /* p came from mmap and is unmapped by file_unmap */
};
/* Maps a regular file (anything else is refused). An empty file gives n = 0. */
int file_map_open(struct file_map *m, const char *path, fathom_err *err);
void file_map_close(struct file_map *m);

/* Reads a whole file (path "-" = stdin) of at most max_bytes into b. */
int file_read_all(struct buf *b, const char *path, size_t max_bytes, fathom_err *err);

/* Writes into "PATH.part" next to PATH; commit makes it durable and renames it into place,
 * abort removes it, keep leaves it for file_out_resume. Exactly one of the three ends it; until
 * commit the old PATH stays untouched. A commit that fails removes PATH.part, too, or with
 * keeps_part leaves it. */
struct file_out {
    int fd;
    bool keeps_part;
    char *path, *part; /* owned */
};
int file_out_open(struct file_out *f, const char *path, fathom_err *err);
/* The same, but what PATH.part holds stays, for writers that go on where they were. */
int file_out_resume(struct file_out *f, const char *path, fathom_err *err);
int file_out_write(struct file_out *f, const void *p, size_t n, fathom_err *err); /* appends */
int file_out_pwrite(struct file_out *f, const void *p, size_t n, uint64_t at, fathom_err *err);
int file_out_commit(struct file_out *f, fathom_err *err);
void file_out_abort(struct file_out *f); /* also safe after a failed open or commit */
void file_out_keep(struct file_out *f);  /* ends it, too, but PATH.part stays */

/* pread until n bytes are there; a short file is FATHOM_EFORMAT. */
int file_pread_full(int fd, void *p, size_t n, uint64_t at, const char *path, fathom_err *err);
/* Free bytes on the file system that holds `path`'s directory; UINT64_MAX if unknown. */
uint64_t file_free_bytes(const char *path);

#endif
