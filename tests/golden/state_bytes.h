/* state_bytes.h - the KV state of a session as one byte string, for tests that compare sequences
 * which came to the same tokens in different ways. Include after cmocka.h and engine/engine.h. */
#ifndef TESTS_STATE_BYTES_H
#define TESTS_STATE_BYTES_H

#include "base/mem.h"

/* Rows, and all ring positions that are still to be read; to be freed with mem_free. */
static inline unsigned char *state_bytes(fathom_engine *e, fathom_session *s, size_t *n_out)
{
    const struct kv_state *st = session_state(s);
    const struct kv_pool *p = engine_pool(e);
    const struct layout *l = engine_layout(e);
    size_t cap = 1 << 24, n = 0;
    unsigned char *out = mem_alloc(cap, 1);
#define COPY(buffer, at, bytes)                                    \
    do {                                                           \
        assert_true(n + (bytes) <= cap);                           \
        p->be->buf_read(p->dev, (buffer), (at), out + n, (bytes)); \
        n += (bytes);                                              \
    } while (0)
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        for (uint32_t i = 0; y->ratio && i < st->n / y->ratio; i++) {
            uint64_t page = st->pages[i / y->rows_per_page] * l->page_bytes;
            uint64_t k = i % y->rows_per_page;
            COPY(p->page, page + y->codes + k * l->row.code_bytes, l->row.code_bytes);
            COPY(p->page, page + y->scales + k * l->row.scale_bytes, l->row.scale_bytes);
            if (y->index) {
                COPY(p->page, page + y->index_codes + k * l->index_row.code_bytes,
                     l->index_row.code_bytes);
                COPY(p->page, page + y->index_scales + k * l->index_row.scale_bytes,
                     l->index_row.scale_bytes);
            }
        }
        uint32_t first = st->n >= l->window ? st->n - l->window + 1 : 0;
        for (uint32_t q = first; q < st->n; q++) {
            uint64_t k = q % l->ring_slots;
            COPY(p->state, pool_slot_at(p, st->slot, y->ring_codes + k * l->row.code_bytes),
                 l->row.code_bytes);
            COPY(p->state, pool_slot_at(p, st->slot, y->ring_scales + k * l->row.scale_bytes),
                 l->row.scale_bytes);
        }
        for (uint32_t q = y->ratio ? st->n / y->ratio * y->ratio : st->n; q < st->n; q++) {
            uint64_t bytes = 2ull * y->k * l->row.n * 4;
            COPY(p->state, pool_slot_at(p, st->slot, y->comp + q % y->comp_slots * bytes),
                 bytes);
        }
    }
#undef COPY
    *n_out = n;
    return out;
}

#endif
