/* layout.h - where everything of a sequence's KV state lies: the one place that knows the byte
 * offsets of a state slot and of a page, and the one size formula (kv-store.md 2.1, 2.2).
 * Page: per layer in order: codes, scales, index codes, index scales of S tokens.
 * State slot: per layer window ring (codes, scales), compressor input rings, boundary copies.
 * Sizes for Flash, native rows, S = 2048: page 7,197,184 B; slot 22,071,488 B; row 584 B. */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "model/shape.h"

struct layout_layer {
    uint32_t ratio, k, rows_per_page; /* rows_per_page = S / ratio; 0 for ratio 0 */
    uint32_t comp_slots;              /* k * ratio + V */
    bool index;                       /* ratio 4 */
    /* page offsets */
    uint64_t codes, scales, index_codes, index_scales;
    /* state slot offsets; rows of the rings as op_compress says */
    uint64_t ring_codes, ring_scales;
    uint64_t comp, index_comp;   /* [comp_slots][2*k*n] floats */
    uint64_t bound, index_bound; /* [2][ratio][2*n] floats, k = 2 only */
};

struct layout {
    bool sim;             /* native rows; else F32 */
    uint32_t page_tokens; /* S, a multiple of A */
    uint32_t align;       /* A */
    uint32_t ring_slots;  /* R = A + W + V */
    uint32_t n_layer, window;
    struct row_geom row, index_row;
    uint64_t page_bytes, slot_bytes;
    /* slot_bytes by part, for `plan` */
    uint64_t window_bytes, comp4_bytes, comp_other_bytes, bound_bytes;
    struct layout_layer layer[SHAPE_MAX_LAYERS];
};

/* page_tokens 0: the default 2048, raised to a multiple of A (tests use small ones). */
int layout_make(struct layout *l, const struct shape *s, bool sim, uint32_t page_tokens,
                fathom_err *err);
/* Bytes of compressed and index rows that n tokens have produced (row counts n / ratio). */
uint64_t layout_row_bytes(const struct layout *l, uint64_t n_tokens);
/* Pages that n tokens need, and bytes of a conversation of n tokens (pages + one slot). */
uint64_t layout_pages(const struct layout *l, uint64_t n_tokens);
uint64_t layout_sequence_bytes(const struct layout *l, uint64_t n_tokens);
/* Bytes of a frontier at n (kv-store.md 2.2): window rows, previous group of the k = 2
 * compressors and the incomplete groups. */
uint64_t layout_frontier_bytes(const struct layout *l, uint64_t n_tokens);

#endif
