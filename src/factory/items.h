/* items.h - a conversion cut into pieces that can be made in any order and by any thread: one
 * matrix of a stack of experts, or some rows of another tensor, with its fixed place in the
 * file. The cut depends on the plan alone, so a journal can name items by number, and the bytes
 * of an item on its source alone, so the file is the same for any number of threads. */
#ifndef FACTORY_ITEMS_H
#define FACTORY_ITEMS_H

#include "factory/plan.h"

struct gguf_writer;

struct item {
    uint32_t tensor, mat;
    uint64_t row, n_rows; /* of the matrix */
    uint64_t at, bytes;   /* in the file */
};

/* The items of a plan in the order of their sources (shard, offset), so that the checkpoint is
 * read once from front to back. *items is released with mem_free. */
int items_make(struct item **items, size_t *n, const struct plan *p,
               const struct gguf_writer *w, fathom_err *err);

/* What one thread needs to make items. Memory: a slice of raw, of float and of encoded rows, so
 * three times slice_bytes, the scale codes of a matrix, and 12 bytes per column. */
struct item_maker {
    const struct plan *plan;
    uint64_t slice_bytes;
    float *rows;
    uint8_t *coded;
    double *energy;
    float *importance;
};
int item_maker_init(struct item_maker *m, const struct plan *p, uint64_t slice_bytes,
                    fathom_err *err);
void item_maker_free(struct item_maker *m); /* also safe after a failed init */

/* Takes the next n bytes of an item, which belong at `at` in the file. */
typedef int item_put_fn(void *ctx, const void *p, size_t n, uint64_t at, fathom_err *err);
/* Encodes an item slice by slice; *lost counts what the type could not hold (encode.h). */
int item_make(struct item_maker *m, const struct item *it, item_put_fn *put, void *ctx,
              uint64_t *lost, fathom_err *err);

#endif
