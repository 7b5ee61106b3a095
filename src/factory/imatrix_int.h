/* imatrix_int.h - private to imatrix*.c: what both readers fill. */
#ifndef FACTORY_IMATRIX_INT_H
#define FACTORY_IMATRIX_INT_H

#include "base/file.h"
#include "base/mem.h"
#include "factory/imatrix.h"

struct gguf;

struct imatrix {
    struct gguf *gguf;           /* owned; NULL: legacy */
    struct file_map map;         /* legacy: owned */
    const struct file_map *file; /* where the values lie: read around the mapping */
    char *label;                 /* owned */
    struct imatrix_entry *e;     /* owned through the arena, file order */
    size_t n;
    uint32_t *sorted; /* [n] numbers of entries by name; in the arena */
    struct slice *dataset;
    size_t n_dataset;
    uint32_t chunk_count, chunk_size;
    uint64_t digest;
    struct arena arena;
};

/* Fill e, n, dataset, chunk_count, chunk_size from im->gguf / im->file; values are not read. */
int imatrix_parse_gguf(struct imatrix *im, fathom_err *err);
int imatrix_parse_legacy(struct imatrix *im, fathom_err *err);
/* Copies n bytes at `at` of the file. */
int imatrix_bytes(const struct imatrix *im, uint64_t at, size_t n, void *out, fathom_err *err);

/* More entries, names and values than any model has: what a hostile file may cost. */
enum { IMATRIX_MAX_ENTRIES = 1 << 20, IMATRIX_MAX_NAME = 255, IMATRIX_MAX_MATS = 1 << 16 };

#endif
