/* geom.h - what the disk store has to know about the shape of KV state: rows per token and
 * plane, where planes lie in a page, and how many bytes a frontier has. Plain numbers, so that
 * the store needs neither engine nor model and is tested with tiny shapes. One geometry is one
 * layout of model/layout.h. Immutable after it was made; pure functions. */
#ifndef KV_GEOM_H
#define KV_GEOM_H

#include "base/err.h"

struct layout;

enum { KV_MAX_LAYERS = 94, KV_PLANES = 4, KV_LAYOUT_NATIVE = 1 };

struct kv_plane {
    uint32_t row_bytes; /* 0: this layer has no such plane */
    uint64_t at;        /* offset of the plane in a page; row i lies at + i * row_bytes */
};
struct kv_geom_layer {
    uint32_t ratio; /* tokens per compressed row; 0: window only, no rows in pages */
    struct kv_plane plane[KV_PLANES]; /* codes, scales, index codes, index scales */
    /* Frontier: bytes of one window row, of the finished group before, and of one slot of the
     * incomplete group (kv-store.md 2.2). */
    uint32_t window_row_bytes, group_bytes, slot_bytes;
};
struct kv_geom {
    uint32_t page_tokens; /* S: a power of two in [8, 16384], a multiple of align */
    uint32_t align;       /* A: largest ratio */
    uint32_t window;      /* W */
    uint32_t n_layer, n_vocab;
    uint32_t layout; /* KV_LAYOUT_NATIVE; other numbers are other row forms */
    uint64_t page_bytes;
    struct kv_geom_layer layer[KV_MAX_LAYERS];
};

/* Is every number usable (limits above, planes inside the page, files below 64 MiB)?
 * FATHOM_EUNSUPPORTED says what is not. */
int kv_geom_check(const struct kv_geom *g, fathom_err *err);
/* From the engine's layout. FATHOM_EUNSUPPORTED for F32 rows (`--sim off`), which are never
 * stored on disk. */
int kv_geom_from_layout(struct kv_geom *g, const struct layout *l, uint32_t n_vocab,
                        fathom_err *err);

/* Bytes of layer il's compressed rows of n tokens (all planes). */
uint64_t kv_geom_row_bytes(const struct kv_geom *g, uint32_t il, uint32_t n_tokens);
/* Bytes of layer il's part of a frontier at position n: min(n, W) window rows, the group
 * before, the incomplete group. The sum over layers in order is what kv/frontier.h holds
 * (= layout_frontier_bytes). */
uint64_t kv_geom_state_bytes_layer(const struct kv_geom *g, uint32_t il, uint64_t n);
uint64_t kv_geom_state_bytes(const struct kv_geom *g, uint64_t n);
/* File sizes: a segment; a frontier at position n (its tail rows included). */
uint64_t kv_geom_segment_file_bytes(const struct kv_geom *g);
uint64_t kv_geom_frontier_file_bytes(const struct kv_geom *g, uint64_t n);

#endif
