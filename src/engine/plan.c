/* plan.c - what a model will occupy, before anything is allocated: weights (mapped, they
 * count in full), scratch (arena and host-visible memory of the largest recorded program),
 * and the KV pool. fathom_engine_open refuses by the same numbers that fathom_plan_make
 * prints. The size formula itself is model/layout. Read next: engine.c. */
#include "engine/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine_int.h"
#include "gguf/gguf.h"

#define GB(x) ((double)(x) / 1e9)

static uint64_t sat_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}
static uint64_t sat_mul(uint64_t a, uint64_t b)
{
    uint64_t c;
    return __builtin_mul_overflow(a, b, &c) ? UINT64_MAX : c;
}

/* Weights, scratch and n_seq sequences of ctx tokens. */
static uint64_t total_bytes(const struct plan_need *need, uint64_t ctx, uint32_t n_seq)
{
    uint64_t kv = sat_mul(layout_sequence_bytes(need->layout, ctx), n_seq);
    return sat_add(sat_add(need->weight_bytes, need->scratch_bytes), kv);
}

uint32_t plan_max_ctx(const struct plan_need *need, uint32_t n_seq)
{
    const struct layout *l = need->layout;
    uint64_t fixed = total_bytes(need, 0, n_seq);
    if (fixed > need->available || n_seq == 0) {
        return 0;
    }
    if (l->page_bytes == 0) {
        return need->model_ctx;
    }
    uint64_t pages = (need->available - fixed) / l->page_bytes / n_seq;
    return (uint32_t)MIN(sat_mul(pages, l->page_tokens), (uint64_t)need->model_ctx);
}

/* "weights 86.71 GB, scratch 0.23 GB, ... ; 64.00 GB are available" */
static int refuse(const struct plan_need *need, uint64_t kv, const char *lever, fathom_err *err)
{
    uint32_t fits = plan_max_ctx(need, 1);
    char most[96];
    if (fits) {
        snprintf(most, sizeof most, "the longest context that fits is %u tokens", fits);
    } else {
        snprintf(most, sizeof most, "no context fits beside the weights");
    }
    return err_set(err, FATHOM_ENOMEM,
                   "not enough memory: weights %.3f GB, scratch %.3f GB, KV %.3f GB for %u "
                   "sequences; %.3f GB are available; %s. %s",
                   GB(need->weight_bytes), GB(need->scratch_bytes), GB(kv), need->max_seq,
                   GB(need->available), most, lever);
}

int plan_pool(struct plan_pool *out, const struct plan_need *need, fathom_err *err)
{
    const struct layout *l = need->layout;
    if (need->max_ctx > need->model_ctx) {
        return err_set(err, FATHOM_ELIMIT, "a context of %u tokens: the model ends at %u",
                       need->max_ctx, need->model_ctx);
    }
    uint32_t ctx = need->max_ctx ? need->max_ctx : need->model_ctx;
    uint64_t fixed = sat_add(need->weight_bytes, need->scratch_bytes);
    uint64_t room = need->available > fixed ? need->available - fixed : 0;
    uint64_t slots = sat_mul(need->max_seq, l->slot_bytes);
    uint64_t want = sat_mul(need->max_seq, layout_sequence_bytes(l, ctx));
    uint64_t budget = need->kv_bytes ? MIN(need->kv_bytes, want) : want;
    if (need->available != UINT64_MAX && budget > room) {
        if (need->kv_bytes) {
            return refuse(need, budget, "Lower kv_bytes, or free memory.", err);
        }
        budget = room;
    }
    uint64_t pages = 0, most = sat_mul(need->max_seq, layout_pages(l, ctx));
    if (budget >= slots) {
        pages = l->page_bytes ? MIN((budget - slots) / l->page_bytes, most) : most;
    }
    uint64_t fit = MIN(sat_mul(pages, l->page_tokens), (uint64_t)ctx);
    if (pages == 0 || (need->max_ctx && fit < need->max_ctx)) {
        const char *lever = need->kv_bytes && need->kv_bytes < want
                                ? "Raise kv_bytes, or lower the context or max_seq."
                                : "Lower the context or max_seq, use a smaller file, or free "
                                  "memory.";
        uint64_t one =
            sat_add(slots, sat_mul(layout_pages(l, need->max_ctx ? ctx : 1), l->page_bytes));
        return refuse(need, one, lever, err);
    }
    if (pages > UINT32_MAX / 2) {
        return err_set(err, FATHOM_ENOMEM, "%llu KV pages are more than can be counted",
                       (unsigned long long)pages);
    }
    *out = (struct plan_pool){.max_ctx = (uint32_t)fit,
                              .n_pages = l->page_bytes ? (uint32_t)pages : 0};
    return 0;
}

/* ---- fathom_plan_make ---- */

struct plan_work {
    struct gguf *gguf;
    struct shape shape;
    struct weights weights;
    struct layout layout;
};

static int load_shape(struct plan_work *w, const fathom_engine_options *opt, const char *shape,
                      const char *recipe, fathom_err *err)
{
    if (opt && (opt->model_path || opt->model_data)) {
        int rc = opt->model_path
                     ? gguf_open(&w->gguf, opt->model_path, err)
                     : gguf_open_mem(&w->gguf, opt->model_data, opt->model_bytes, "model", err);
        rc = rc ? rc : shape_from_gguf(&w->shape, w->gguf, err);
        return rc ? rc : weights_bind(&w->weights, w->gguf, &w->shape, err);
    }
    const struct shape *s = shape ? shape_preset(shape) : NULL;
    if (!s || !recipe) {
        return err_set(err, FATHOM_EINVAL,
                       "a plan needs a model file, or a shape (flash, pro) and a recipe");
    }
    w->shape = *s;
    return weights_from_shape(&w->weights, &w->shape, recipe, err);
}

static int scratch_of(uint64_t *out, const struct plan_work *w,
                      const fathom_engine_options *opt, uint32_t ctx, uint32_t n_seq,
                      fathom_err *err)
{
    uint32_t chunk = opt && opt->chunk ? opt->chunk : ENGINE_CHUNK;
    struct program_limits lim = {.t_max = chunk,
                                 .out_max = chunk,
                                 .seq_max = MIN(n_seq, chunk),
                                 .n_slots = n_seq,
                                 .max_ctx = ctx};
    struct forward_options fo = {.act_f32 = opt && opt->act_f32};
    struct program *p = forward_record(&w->shape, &w->weights, &w->layout, &lim, &fo, err);
    if (!p) {
        return err && err->code ? err->code : FATHOM_ENOMEM;
    }
    *out = p->arena_bytes + p->io_bytes;
    program_free(p);
    return 0;
}

static void advise(struct fathom_plan *out)
{
    if (out->fits) {
        snprintf(out->advice, sizeof out->advice, "fits, %.2f GB remain",
                 GB(out->available_bytes - MIN(out->total_bytes, out->available_bytes)));
    } else if (out->max_ctx_fits >= 1) {
        snprintf(out->advice, sizeof out->advice,
                 "%.2f GB too much: use a context of at most %u tokens for %u sequences, fewer "
                 "sequences, or a smaller file",
                 GB(out->total_bytes - out->available_bytes), out->max_ctx_fits, out->n_seq);
    } else {
        snprintf(
            out->advice, sizeof out->advice,
            "%.2f GB too much even without context: use a file with smaller weights (2-bit "
            "experts), free memory, or a machine with at least %.0f GB",
            GB(out->total_bytes - out->available_bytes), GB(out->total_bytes) + 4.0);
    }
}

static int fill_plan(struct fathom_plan *out, const struct plan_work *w,
                     const fathom_engine_options *opt, uint32_t ctx, fathom_err *err)
{
    const struct layout *l = &w->layout;
    uint64_t scratch = 0;
    out->n_seq = opt && opt->max_seq ? opt->max_seq : 1;
    memory_info(&out->memory_bytes, &out->available_bytes);
    int rc = scratch_of(&scratch, w, opt, w->shape.max_ctx, out->n_seq, err);
    if (rc != 0) {
        return rc;
    }
    struct plan_need need = {.layout = l,
                             .model_ctx = w->shape.max_ctx,
                             .max_seq = out->n_seq,
                             .weight_bytes = w->weights.bytes,
                             .scratch_bytes = scratch,
                             .available =
                                 out->available_bytes ? out->available_bytes : UINT64_MAX};
    out->max_ctx_fits = plan_max_ctx(&need, out->n_seq);
    if (ctx == 0) {
        ctx = opt && opt->max_ctx ? opt->max_ctx
                                  : MIN(MAX(out->max_ctx_fits, 2048u), w->shape.max_ctx);
    }
    if (ctx > w->shape.max_ctx) {
        return err_set(err, FATHOM_ELIMIT, "a context of %u tokens: the model ends at %u", ctx,
                       w->shape.max_ctx);
    }
    out->ctx = ctx;
    out->weight_bytes = need.weight_bytes;
    out->scratch_bytes = scratch;
    out->slot_bytes = l->slot_bytes;
    out->page_bytes = l->page_bytes;
    out->rows_bytes = layout_row_bytes(l, ctx);
    out->kv_bytes = layout_sequence_bytes(l, ctx);
    out->frontier_bytes = layout_frontier_bytes(l, ctx / l->align * l->align);
    out->total_bytes = total_bytes(&need, ctx, out->n_seq);
    out->fits = out->total_bytes <= need.available;
    advise(out);
    return 0;
}

int fathom_plan_make(fathom_plan *out, const fathom_engine_options *opt, const char *shape,
                     const char *recipe, uint32_t ctx, fathom_err *err)
{
    memset(out, 0, sizeof *out);
    struct plan_work *w = mem_calloc(1, sizeof *w);
    if (!w) {
        return err_nomem(err, "plan", sizeof *w);
    }
    int rc = load_shape(w, opt, shape, recipe, err);
    if (rc == 0) {
        rc = layout_make(&w->layout, &w->shape, !(opt && opt->sim_off),
                         opt ? opt->page_tokens : 0, err);
    }
    rc = rc ? rc : fill_plan(out, w, opt, ctx, err);
    weights_free(&w->weights);
    gguf_close(w->gguf);
    mem_free(w);
    return rc;
}
