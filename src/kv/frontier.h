/* frontier.h - a frontier: what a sequence needs at position m besides the compressed rows
 * of [0, m), m a multiple of A (kv-store.md 2.2): the last W window rows of every layer and,
 * for the overlapping (ratio 4) compressors, the first-half inputs of the previous group.
 * With it a later rewind to m or a little beyond costs nothing; without it the same bits are
 * computed again (state.h).
 *
 * The bytes, in layer order: window codes [min(m, W)][code_bytes] of positions ascending,
 * window scales, previous group [ratio][a n | g n] of the main compressor, the same of the
 * indexer's. Their number is layout_frontier_bytes(m).
 *
 * A struct frontier is immutable and shared by reference count between forks. Engine thread. */
#ifndef KV_FRONTIER_H
#define KV_FRONTIER_H

#include "kv/pool.h"

struct frontier {
    struct kv_pool *pool; /* borrowed; its ledger counts the bytes */
    uint32_t refs;
    uint32_t pos;    /* m */
    uint64_t serial; /* order of last use: the smallest is dropped first */
    uint64_t bytes;
    unsigned char data[];
};

/* An empty frontier with one reference, charged to the pool; NULL if the budget or memory is
 * out. */
struct frontier *frontier_new(struct kv_pool *p, uint32_t pos);
struct frontier *frontier_ref(struct frontier *f);
void frontier_drop(struct frontier *f); /* NULL is fine */

/* Copies from state slot `slot`: window rows from the ring, previous groups from boundary
 * copy (m / A) % 2. The caller knows that they are there (state.h). Window positions below
 * `lo` are written as zeros. */
void frontier_gather(struct frontier *f, uint32_t slot, uint32_t lo);
/* Writes it into a state slot: window ring, ratio-4 rings and the boundary copy of m. */
void frontier_scatter(const struct frontier *f, uint32_t slot);

/* Of n >= 4 frontiers at ascending positions on one path, the one whose loss costs least: never
 * the lowest (end of the system prompt) nor the two newest; of the others the one whose
 * neighbours are closest relative to their distance from the head, so that what stays is
 * spaced as powers of two behind it (kv-store.md 2.5). */
uint32_t frontier_spare(const uint32_t *pos, uint32_t n);

/* Boundary copy of multiple m into the ratio-4 rings, inside a slot. */
void boundary_scatter(struct kv_pool *p, uint32_t slot, uint32_t m);

#endif
