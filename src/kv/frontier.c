/* frontier.c - moves the parts of a frontier between a state slot and host memory.
 *
 * All offsets come from model/layout. A ring plane holds the row of position p at slot p %
 * slots, so a range of positions is at most two contiguous pieces. A ratio-4 compressor's ring
 * row is [a first half | a second half | g first half | g second half] of n floats each; a
 * frontier and a boundary copy keep [a first half | g first half]: the second halves of a
 * finished group are never read again. Read next: state.c (when which part is valid). */
#include "kv/frontier.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "op/step.h"

struct frontier *frontier_new(struct kv_pool *p, uint32_t pos)
{
    assert(pos % p->layout->align == 0);
    uint64_t bytes = layout_frontier_bytes(p->layout, pos);
    if (bytes > SIZE_MAX - sizeof(struct frontier) || !pool_charge(p, KV_FRONTIERS, bytes)) {
        return NULL;
    }
    struct frontier *f = mem_alloc(1, sizeof *f + (size_t)bytes);
    if (!f) {
        pool_discharge(p, KV_FRONTIERS, bytes);
        return NULL;
    }
    *f = (struct frontier){.pool = p, .refs = 1, .pos = pos, .bytes = bytes};
    return f;
}

struct frontier *frontier_ref(struct frontier *f)
{
    f->refs++;
    return f;
}

void frontier_drop(struct frontier *f)
{
    if (f && --f->refs == 0) {
        pool_discharge(f->pool, KV_FRONTIERS, f->bytes);
        mem_free(f);
    }
}

uint32_t frontier_spare(const uint32_t *pos, uint32_t n)
{
    assert(n >= 4);
    uint32_t best = 1, head = pos[n - 1];
    double least = 0;
    for (uint32_t i = 1; i + 2 < n; i++) {
        double cost = (double)(pos[i + 1] - pos[i - 1]) / (head - pos[i]);
        if (i == 1 || cost < least) {
            best = i;
            least = cost;
        }
    }
    return best;
}

/* ---- moving ---- */

/* A walk over the parts of a frontier, in file order; host memory on one side, a slot on the
 * other. */
struct walk {
    struct kv_pool *p;
    uint32_t slot, pos, lo;
    unsigned char *data; /* of the frontier */
    uint64_t at;         /* bytes walked */
    bool gather;
};

/* n contiguous bytes at `offset` of the slot. */
static void move(struct walk *w, uint64_t offset, uint64_t n)
{
    uint64_t at = pool_slot_at(w->p, w->slot, offset);
    if (w->gather) {
        w->p->be->buf_read(w->p->dev, w->p->state, at, w->data + w->at, n);
    } else {
        w->p->be->buf_write(w->p->dev, w->p->state, at, w->data + w->at, n);
    }
    w->at += n;
}

/* Rows of the last min(m, W) positions of a window plane. */
static void move_window(struct walk *w, uint64_t plane, uint32_t row_bytes)
{
    const struct layout *l = w->p->layout;
    uint32_t p = w->pos > l->window ? w->pos - l->window : 0;
    if (w->gather && p < w->lo) {
        uint64_t n = (uint64_t)(w->lo - p) * row_bytes;
        memset(w->data + w->at, 0, (size_t)n);
        w->at += n;
        p = w->lo;
    }
    while (p < w->pos) {
        uint32_t slot = step_ring(p, l->ring_slots);
        uint32_t n = MIN(w->pos - p, l->ring_slots - slot);
        move(w, plane + (uint64_t)slot * row_bytes, (uint64_t)n * row_bytes);
        p += n;
    }
}

/* Rows [a | g] of the previous group: from, or into, the boundary copy. */
static void move_group(struct walk *w, uint64_t bound, uint32_t ratio, uint32_t n)
{
    uint64_t copy_bytes = (uint64_t)ratio * 2 * n * sizeof(float);
    uint64_t which = w->pos / w->p->layout->align % 2;
    move(w, bound + which * copy_bytes, copy_bytes);
}

static void walk_all(struct walk *w)
{
    const struct layout *l = w->p->layout;
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        move_window(w, y->ring_codes, l->row.code_bytes);
        if (l->row.scale_bytes) {
            move_window(w, y->ring_scales, l->row.scale_bytes);
        }
        if (y->k == 2 && w->pos >= y->ratio) {
            move_group(w, y->bound, y->ratio, l->row.n);
            if (y->index) {
                move_group(w, y->index_bound, y->ratio, l->index_row.n);
            }
        }
    }
}

void frontier_gather(struct frontier *f, uint32_t slot, uint32_t lo)
{
    struct walk w = {f->pool, slot, f->pos, lo, f->data, 0, true};
    walk_all(&w);
    assert(w.at == f->bytes);
}

void frontier_scatter(const struct frontier *f, uint32_t slot)
{
    struct frontier *src = (struct frontier *)f; /* only read */
    struct walk w = {f->pool, slot, f->pos, 0, src->data, 0, false};
    walk_all(&w);
    assert(w.at == f->bytes);
    boundary_scatter(f->pool, slot, f->pos);
}

/* One compressor: the [a | g] rows of the copy to the first halves of the ring rows. */
static void scatter_group(struct kv_pool *p, uint32_t slot, uint32_t m, uint64_t bound,
                          uint64_t ring, const struct layout_layer *y, uint32_t n)
{
    uint64_t half = (uint64_t)n * sizeof(float), row_bytes = 2 * y->k * half;
    uint64_t from =
        pool_slot_at(p, slot, bound) + m / p->layout->align % 2 * y->ratio * 2 * half;
    for (uint32_t j = 0; j < y->ratio; j++) {
        uint32_t r = step_ring(m - y->ratio + j, y->comp_slots);
        uint64_t to = pool_slot_at(p, slot, ring) + r * row_bytes;
        p->be->buf_copy(p->dev, p->state, to, p->state, from + j * 2 * half, half);
        p->be->buf_copy(p->dev, p->state, to + y->k * half, p->state, from + (j * 2 + 1) * half,
                        half);
    }
}

void boundary_scatter(struct kv_pool *p, uint32_t slot, uint32_t m)
{
    const struct layout *l = p->layout;
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        if (y->k == 2 && m >= y->ratio) {
            scatter_group(p, slot, m, y->bound, y->comp, y, l->row.n);
            if (y->index) {
                scatter_group(p, slot, m, y->index_bound, y->index_comp, y, l->index_row.n);
            }
        }
    }
}
