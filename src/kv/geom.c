/* geom.c - see geom.h. */
#include "kv/geom.h"

#include "base/mem.h"
#include "kv/format.h"
#include "model/layout.h"

static bool power_of_two(uint32_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

static int bad(fathom_err *err, const char *what)
{
    return err_set(err, FATHOM_EUNSUPPORTED,
                   "KV state of this model cannot be stored on disk: %s", what);
}

int kv_geom_check(const struct kv_geom *g, fathom_err *err)
{
    if (!power_of_two(g->page_tokens) || g->page_tokens < 8 || g->page_tokens > 16384) {
        return bad(err, "tokens per page must be a power of two in [8, 16384]");
    }
    if (g->align == 0 || g->page_tokens % g->align != 0 || g->window == 0 || g->n_vocab == 0) {
        return bad(err,
                   "the largest ratio must divide a page, and window and vocabulary exist");
    }
    if (g->n_layer == 0 || g->n_layer > KV_MAX_LAYERS) {
        return bad(err, "1 to 94 layers");
    }
    for (uint32_t il = 0; il < g->n_layer; il++) {
        const struct kv_geom_layer *y = &g->layer[il];
        if (y->ratio != 0 && g->align % y->ratio != 0) {
            return bad(err, "every ratio must divide the largest one");
        }
        uint64_t rows = y->ratio ? g->page_tokens / y->ratio : 0;
        for (int i = 0; i < KV_PLANES; i++) {
            const struct kv_plane *p = &y->plane[i];
            uint64_t bytes = rows * p->row_bytes;
            if (bytes > g->page_bytes || p->at > g->page_bytes - bytes) {
                return bad(err, "a plane lies outside its page");
            }
        }
        if ((y->ratio != 0) != (y->plane[0].row_bytes != 0) || y->window_row_bytes == 0) {
            return bad(err, "a layer has rows if and only if it has a ratio, and a window");
        }
    }
    if (kv_geom_segment_file_bytes(g) > KV_MAX_FILE ||
        kv_geom_frontier_file_bytes(g, UINT32_MAX) > KV_MAX_FILE) {
        return bad(err, "a file would be larger than 64 MiB");
    }
    return 0;
}

static struct kv_plane plane(uint32_t row_bytes, uint64_t at)
{
    return (struct kv_plane){row_bytes, row_bytes ? at : 0};
}

int kv_geom_from_layout(struct kv_geom *g, const struct layout *l, uint32_t n_vocab,
                        fathom_err *err)
{
    *g = (struct kv_geom){.page_tokens = l->page_tokens,
                          .align = l->align,
                          .window = l->window,
                          .n_layer = l->n_layer,
                          .n_vocab = n_vocab,
                          .layout = KV_LAYOUT_NATIVE,
                          .page_bytes = l->page_bytes};
    if (!l->sim) {
        return bad(err, "F32 rows (--sim off) are a test form");
    }
    if (l->n_layer > KV_MAX_LAYERS) {
        return bad(err, "more than 94 layers");
    }
    for (uint32_t il = 0; il < l->n_layer; il++) {
        const struct layout_layer *y = &l->layer[il];
        struct kv_geom_layer *o = &g->layer[il];
        o->ratio = y->ratio;
        o->window_row_bytes = l->row.code_bytes + l->row.scale_bytes;
        if (y->ratio == 0) {
            continue;
        }
        uint32_t n = l->row.n + (y->index ? l->index_row.n : 0);
        uint32_t values = 2 * y->k * n; /* a and g of one slot */
        o->slot_bytes = values * (uint32_t)sizeof(float);
        o->group_bytes = y->k == 2 ? y->ratio * 2 * n * (uint32_t)sizeof(float) : 0;
        o->plane[0] = plane(l->row.code_bytes, y->codes);
        o->plane[1] = plane(l->row.scale_bytes, y->scales);
        if (y->index) {
            o->plane[2] = plane(l->index_row.code_bytes, y->index_codes);
            o->plane[3] = plane(l->index_row.scale_bytes, y->index_scales);
        }
    }
    return kv_geom_check(g, err);
}

uint64_t kv_geom_row_bytes(const struct kv_geom *g, uint32_t il, uint32_t n_tokens)
{
    const struct kv_geom_layer *y = &g->layer[il];
    uint64_t bytes = 0;
    for (int i = 0; i < KV_PLANES; i++) {
        bytes += y->plane[i].row_bytes;
    }
    return y->ratio ? n_tokens / y->ratio * bytes : 0;
}

uint64_t kv_geom_state_bytes_layer(const struct kv_geom *g, uint32_t il, uint64_t n)
{
    const struct kv_geom_layer *y = &g->layer[il];
    uint64_t bytes = MIN((uint64_t)g->window, n) * y->window_row_bytes + y->group_bytes;
    return y->ratio ? bytes + n % y->ratio * y->slot_bytes : bytes;
}

uint64_t kv_geom_state_bytes(const struct kv_geom *g, uint64_t n)
{
    uint64_t sum = 0;
    for (uint32_t il = 0; il < g->n_layer; il++) {
        sum += kv_geom_state_bytes_layer(g, il, n);
    }
    return sum;
}

uint64_t kv_geom_segment_file_bytes(const struct kv_geom *g)
{
    uint64_t sum = KV_HEADER_BYTES + align_up((uint64_t)g->page_tokens * 4, KV_ALIGN);
    for (uint32_t il = 0; il < g->n_layer; il++) {
        sum += align_up(kv_geom_row_bytes(g, il, g->page_tokens), KV_ALIGN);
    }
    return sum;
}

uint64_t kv_geom_frontier_file_bytes(const struct kv_geom *g, uint64_t n)
{
    uint32_t tail = (uint32_t)(n % g->page_tokens);
    uint64_t sum = KV_HEADER_BYTES + align_up((uint64_t)tail * 4, KV_ALIGN);
    for (uint32_t il = 0; il < g->n_layer; il++) {
        sum += align_up(kv_geom_state_bytes_layer(g, il, n) + kv_geom_row_bytes(g, il, tail),
                        KV_ALIGN);
    }
    return sum;
}
