/* layout.c - see layout.h. Planes are packed in layer order; each starts on a 64-byte boundary,
 * which for Flash and Pro adds no byte. Read next: kv/state.c, which moves these bytes around.
 */
#include "model/layout.h"

#include "base/mem.h"
#include "op/rows.h"
#include "op/step.h"

enum { PLANE_ALIGN = 64, DEFAULT_PAGE = 2048 };

static uint64_t take(uint64_t *at, uint64_t bytes)
{
    uint64_t here = *at;
    *at = align_up(here + bytes, PLANE_ALIGN);
    return here;
}

static uint64_t comp_row_bytes(uint32_t k, uint32_t n)
{
    return (uint64_t)2 * k * n * sizeof(float);
}

static void page_layer(struct layout *l, struct layout_layer *y, uint64_t *at)
{
    if (y->ratio == 0) {
        return;
    }
    y->rows_per_page = l->page_tokens / y->ratio;
    y->codes = take(at, (uint64_t)y->rows_per_page * l->row.code_bytes);
    y->scales = take(at, (uint64_t)y->rows_per_page * l->row.scale_bytes);
    if (y->index) {
        y->index_codes = take(at, (uint64_t)y->rows_per_page * l->index_row.code_bytes);
        y->index_scales = take(at, (uint64_t)y->rows_per_page * l->index_row.scale_bytes);
    }
}

static void slot_layer(struct layout *l, struct layout_layer *y, uint64_t *at)
{
    uint64_t from = *at;
    y->ring_codes = take(at, (uint64_t)l->ring_slots * l->row.code_bytes);
    y->ring_scales = take(at, (uint64_t)l->ring_slots * l->row.scale_bytes);
    l->window_bytes += *at - from;
    if (y->ratio == 0) {
        return;
    }
    from = *at;
    y->comp = take(at, y->comp_slots * comp_row_bytes(y->k, l->row.n));
    if (y->index) {
        y->index_comp = take(at, y->comp_slots * comp_row_bytes(y->k, l->index_row.n));
    }
    *(y->k == 2 ? &l->comp4_bytes : &l->comp_other_bytes) += *at - from;
    from = *at;
    if (y->k == 2) { /* the last two multiples of A */
        y->bound = take(at, 2 * y->ratio * comp_row_bytes(1, l->row.n));
        if (y->index) {
            y->index_bound = take(at, 2 * y->ratio * comp_row_bytes(1, l->index_row.n));
        }
    }
    l->bound_bytes += *at - from;
}

int layout_make(struct layout *l, const struct shape *s, bool sim, uint32_t page_tokens,
                fathom_err *err)
{
    int rc = shape_check(s, sim, "model", err);
    if (rc) {
        return rc;
    }
    uint32_t a = s->max_ratio;
    uint32_t want = page_tokens ? page_tokens : DEFAULT_PAGE;
    *l = (struct layout){.sim = sim,
                         .align = a,
                         .page_tokens = (want + a - 1) / a * a,
                         .ring_slots = a + s->window + STEP_VERIFY_MAX,
                         .n_layer = s->n_layer,
                         .window = s->window};
    l->row = row_geom_make(sim ? ROW_FP8 : ROW_F32, s->head_dim, s->rope_dim);
    if (s->index_dim) {
        l->index_row = row_geom_make(sim ? ROW_FP4 : ROW_F32, s->index_dim, s->rope_dim);
    }
    uint64_t page = 0, slot = 0;
    for (uint32_t il = 0; il < s->n_layer; il++) {
        struct layout_layer *y = &l->layer[il];
        y->ratio = s->ratio[il];
        y->k = shape_overlap(y->ratio);
        y->index = y->ratio == 4;
        y->comp_slots = y->ratio ? y->k * y->ratio + STEP_VERIFY_MAX : 0;
        page_layer(l, y, &page);
        slot_layer(l, y, &slot);
    }
    l->page_bytes = page;
    l->slot_bytes = slot;
    return 0;
}

static uint64_t row_bytes(const struct layout *l, const struct layout_layer *y)
{
    uint64_t b = l->row.code_bytes + l->row.scale_bytes;
    return y->index ? b + l->index_row.code_bytes + l->index_row.scale_bytes : b;
}

uint64_t layout_row_bytes(const struct layout *l, uint64_t n_tokens)
{
    uint64_t sum = 0;
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        sum += y->ratio ? n_tokens / y->ratio * row_bytes(l, y) : 0;
    }
    return sum;
}

uint64_t layout_pages(const struct layout *l, uint64_t n_tokens)
{
    return (n_tokens + l->page_tokens - 1) / l->page_tokens;
}

uint64_t layout_sequence_bytes(const struct layout *l, uint64_t n_tokens)
{
    return layout_pages(l, n_tokens) * l->page_bytes + l->slot_bytes;
}

uint64_t layout_frontier_bytes(const struct layout *l, uint64_t n_tokens)
{
    uint64_t window = MIN((uint64_t)l->window, n_tokens);
    uint64_t sum = 0;
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        sum += window * (l->row.code_bytes + l->row.scale_bytes);
        if (y->ratio == 0) {
            continue;
        }
        uint32_t n = l->row.n + (y->index ? l->index_row.n : 0);
        if (y->k == 2) {
            sum += y->ratio * comp_row_bytes(1, n);
        }
        sum += n_tokens % y->ratio * comp_row_bytes(y->k, n);
    }
    return sum;
}
