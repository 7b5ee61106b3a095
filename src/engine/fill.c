/* fill.c - a sequence of random tokens with random KV content, so that decoding at any depth
 * can be measured (or tested) without the prefill. The bytes are drawn directly in stored
 * form: any code and scale whose value is finite and of the size real rows have. Read next:
 * kv/state.c (state_adopt). */
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "engine/engine_int.h"

/* One page, or one plane of a slot, is made here and then written in one piece. */
struct fill {
    struct kv_pool *pool;
    struct rng g;
    unsigned char *p; /* [cap] */
    uint64_t cap;
};

/* E4M3 codes of magnitude 2^-3 .. 2^1: any sign and mantissa, exponent field 4 .. 7. */
static void fill_e4m3(struct rng *g, unsigned char *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 8) {
        uint64_t r = rng_u64(g) & 0x9F9F9F9F9F9F9F9Fu;
        r |= 0x2020202020202020u;
        memcpy(p + i, &r, MIN(n - i, (uint64_t)8));
    }
}

static void fill_floats(struct rng *g, unsigned char *p, uint64_t bytes)
{
    for (uint64_t i = 0; i + 4 <= bytes; i += 4) {
        float f = rng_sym(g);
        memcpy(p + i, &f, 4);
    }
}

static void fill_codes(struct rng *g, const struct row_geom *r, unsigned char *p, uint64_t rows)
{
    for (uint64_t i = 0; i < rows; i++, p += r->code_bytes) {
        if (r->kind == ROW_F32) {
            fill_floats(g, p, r->code_bytes);
        } else if (r->kind == ROW_FP8) {
            fill_e4m3(g, p, r->n - r->rope);
            for (uint32_t k = 0; k < r->rope; k++) {
                store_le16(p + r->n - r->rope + 2 * k, f32_to_bf16(rng_sym(g)));
            }
        } else { /* every E2M1 nibble is a number */
            for (uint32_t k = 0; k < r->code_bytes; k++) {
                p[k] = (unsigned char)rng_u64(g);
            }
        }
    }
}

static void fill_scales(struct rng *g, unsigned char *p, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        p[i] = (unsigned char)(126 + (rng_u64(g) & 1)); /* 1/2 or 1 */
    }
}

static void fill_page(struct fill *f, uint32_t page)
{
    const struct layout *l = f->pool->layout;
    memset(f->p, 0, l->page_bytes);
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        uint64_t n = y->rows_per_page;
        if (y->ratio) {
            fill_codes(&f->g, &l->row, f->p + y->codes, n);
            fill_scales(&f->g, f->p + y->scales, n * l->row.scale_bytes);
        }
        if (y->index) {
            fill_codes(&f->g, &l->index_row, f->p + y->index_codes, n);
            fill_scales(&f->g, f->p + y->index_scales, n * l->index_row.scale_bytes);
        }
    }
    f->pool->be->buf_write(f->pool->dev, f->pool->page, page * l->page_bytes, f->p,
                           l->page_bytes);
}

static void fill_slot(struct fill *f, uint32_t slot)
{
    const struct layout *l = f->pool->layout;
    memset(f->p, 0, l->slot_bytes);
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        fill_codes(&f->g, &l->row, f->p + y->ring_codes, l->ring_slots);
        fill_scales(&f->g, f->p + y->ring_scales, (uint64_t)l->ring_slots * l->row.scale_bytes);
        if (y->ratio) {
            fill_floats(&f->g, f->p + y->comp,
                        (uint64_t)y->comp_slots * 2 * y->k * l->row.n * sizeof(float));
        }
        if (y->index) {
            fill_floats(&f->g, f->p + y->index_comp,
                        (uint64_t)y->comp_slots * 2 * y->k * l->index_row.n * sizeof(float));
        }
    }
    f->pool->be->buf_write(f->pool->dev, f->pool->state, pool_slot_at(f->pool, slot, 0), f->p,
                           l->slot_bytes);
}

int session_fill(fathom_session *s, uint32_t n, uint64_t seed, fathom_err *err)
{
    const struct layout *l = &s->e->layout;
    if (s->n_ids != 0 || state_rows(&s->kv) != 0 || n > s->e->max_ctx || n % l->align != 0) {
        return err_set(err, FATHOM_EINVAL,
                       "fill: %u tokens; needs an empty session and a multiple of %u up to %u",
                       n, l->align, s->e->max_ctx);
    }
    struct fill f = {
        .pool = &s->e->pool, .g = {splitmix64(seed)}, .cap = MAX(l->page_bytes, l->slot_bytes)};
    f.p = mem_alloc(1, (size_t)f.cap);
    if (!f.p) {
        return err_nomem(err, "fill", (size_t)f.cap);
    }
    int rc = state_adopt(&s->kv, n, err);
    if (rc == 0) {
        for (uint32_t i = 0; i < n; i++) {
            s->ids[i] = rng_below(&f.g, s->e->shape.n_vocab);
        }
        for (uint32_t i = 0; i < s->kv.n_pages; i++) {
            fill_page(&f, s->kv.pages[i]);
        }
        fill_slot(&f, s->kv.slot);
        state_assume(&s->kv);
        s->n_ids = n;
        s->no_reuse = s->no_store = true; /* random rows are nobody else's prefix */
    }
    mem_free(f.p);
    return rc;
}
