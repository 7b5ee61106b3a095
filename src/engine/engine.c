/* engine.c - opening a model: file, shape, weights, memory plan, backend, KV pool, programs;
 * and what the public header says about engines and tokens.
 *
 * Order matters: everything that can be refused (file, sizes, memory) is checked before the
 * first large allocation. The step of each size class {1, 8, 64, chunk} is recorded and
 * compiled here, once; the classes share one arena and one host-visible buffer, because one
 * step runs at a time. Invariant: after fathom_engine_open nothing here changes but the KV
 * pool, what is known of earlier tokens, and the last step's place. Read next: step.c (a step),
 * session.c (sequences), plan.c (the estimate). */
#include "engine/engine_int.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "quant/formats.h"
#include "text/text.h"

/* ---- opening ---- */

/* The name of the format that has the most bytes of the weights. */
static const char *main_format(const struct gguf *g)
{
    uint64_t bytes[QT_COUNT] = {0};
    uint32_t best = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        bytes[t->type] += t->bytes;
        best = bytes[t->type] > bytes[best] ? t->type : best;
    }
    return qformat(best)->name;
}

static int open_file(fathom_engine *e, const fathom_engine_options *o, fathom_err *err)
{
    if (!o->model_path == !o->model_data) {
        return err_set(err, FATHOM_EINVAL, "give either model_path or model_data");
    }
    int rc = o->model_path
                 ? gguf_open(&e->gguf, o->model_path, err)
                 : gguf_open_mem(&e->gguf, o->model_data, o->model_bytes, "model", err);
    rc = rc ? rc : shape_from_gguf(&e->shape, e->gguf, err);
    rc = rc ? rc : weights_bind(&e->weights, e->gguf, &e->shape, err);
    rc = rc ? rc : layout_make(&e->layout, &e->shape, !o->sim_off, o->page_tokens, err);
    if (rc != 0) {
        return rc;
    }
    struct slice name = {0};
    e->weight_format = main_format(e->gguf);
    if (gguf_str(gguf_find(e->gguf, "general.name"), &name) && name.n > 0) {
        snprintf(e->name, sizeof e->name, "%.*s", (int)MIN(name.n, sizeof e->name - 1), name.p);
    } else {
        snprintf(e->name, sizeof e->name, "DeepSeek V4");
    }
    fathom_err tok_err = {0};
    rc = tokenizer_from_gguf(&e->tok, e->gguf, &tok_err);
    if (rc == FATHOM_ENOENT) {
        e->tok = NULL;
        log_info("%s", tok_err.msg);
        return 0;
    }
    return rc ? err_set(err, rc, "%s", tok_err.msg) : 0;
}

static int open_backend(fathom_engine *e, const fathom_engine_options *o, fathom_err *err)
{
    e->be = o->backend ? backend_by_name(o->backend) : backend_default();
    if (!e->be) {
        char names[256] = "";
        for (size_t i = 0; backend_at(i); i++) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, " %s", backend_at(i)->name);
        }
        return err_set(err, FATHOM_EUNSUPPORTED, "no backend \"%s\"; this build has:%s",
                       o->backend ? o->backend : "default", names);
    }
    int rc = e->be->probe(&e->hw, err);
    if (rc == 0 && !e->hw.available) {
        rc = err_set(err, FATHOM_EUNSUPPORTED, "backend %s: no usable device", e->be->name);
    }
    struct backend_config cfg = {
        .n_threads = o->n_threads, .pin = o->pin, .cpu_mask = o->cpu_mask, .debug = o->debug};
    rc = rc ? rc : e->be->open(&e->dev, &cfg, err);
    if (rc != 0) {
        e->dev = NULL;
        return rc;
    }
    e->be->caps(e->dev, &e->caps);
    return 0;
}

/* Records the programs of all size classes; ctx bounds the scratch of the index. */
static int record(fathom_engine *e, const fathom_engine_options *o, uint32_t ctx,
                  fathom_err *err)
{
    uint32_t sizes[ENGINE_CLASSES] = {1, 8, 64, e->chunk};
    struct forward_options fo = {.act_f32 = o->act_f32};
    uint64_t arena = 0, io = 0;
    for (int i = 0; i < ENGINE_CLASSES; i++) {
        if (i + 1 < ENGINE_CLASSES && sizes[i] >= e->chunk) {
            continue;
        }
        struct program_limits lim = {.t_max = sizes[i],
                                     .out_max = sizes[i],
                                     .seq_max = MIN(sizes[i], e->max_seq),
                                     .n_slots = e->max_seq,
                                     .max_ctx = ctx,
                                     .live_slack = e->caps.live_slack};
        fathom_err own = {0};
        struct program *p = forward_record(&e->shape, &e->weights, &e->layout, &lim, &fo, &own);
        if (!p) {
            return err_set(err, own.code, "%s", own.msg);
        }
        e->cls[e->n_cls++].prog = p;
        arena = MAX(arena, p->arena_bytes);
        io = MAX(io, p->io_bytes);
    }
    e->scratch_bytes = arena + io;
    return 0;
}

/* Sizes of everything, refused before anything is allocated. */
static int plan(fathom_engine *e, const fathom_engine_options *o, struct plan_pool *pool,
                fathom_err *err)
{
    e->max_seq = o->max_seq ? o->max_seq : ENGINE_MAX_SEQ;
    e->chunk = o->chunk ? o->chunk : ENGINE_CHUNK;
    if (e->caps.t_max && e->chunk > e->caps.t_max) {
        e->chunk = e->caps.t_max;
    }
    if (e->max_seq > 65536 || e->chunk > 65536) {
        return err_set(err, FATHOM_EINVAL, "max_seq and chunk may be at most 65536");
    }
    uint32_t ctx = o->max_ctx ? MIN(o->max_ctx, e->shape.max_ctx) : e->shape.max_ctx;
    int rc = record(e, o, ctx, err);
    if (rc != 0) {
        return rc;
    }
    uint64_t total, available;
    memory_info(&total, &available);
    bool check = available != 0 && !str_list_has(o->debug, "overcommit");
    struct plan_need need = {.layout = &e->layout,
                             .model_ctx = e->shape.max_ctx,
                             .max_ctx = o->max_ctx,
                             .max_seq = e->max_seq,
                             .weight_bytes = o->model_data ? 0 : e->weights.bytes,
                             .scratch_bytes = e->scratch_bytes,
                             .kv_bytes = o->kv_bytes,
                             .available = check ? available : UINT64_MAX};
    rc = plan_pool(pool, &need, err);
    e->max_ctx = pool->max_ctx;
    return rc;
}

static int alloc_room(fathom_engine *e, fathom_err *err)
{
    struct step_room *r = &e->room;
    size_t pages = (size_t)layout_pages(&e->layout, e->max_ctx) * e->max_seq;
    r->seq = mem_calloc(e->max_seq, sizeof *r->seq);
    r->tok = mem_calloc(e->chunk, sizeof *r->tok);
    r->tok_seq = mem_calloc(e->chunk, sizeof *r->tok_seq);
    r->out = mem_calloc(e->chunk, sizeof *r->out);
    r->pages = mem_calloc(pages, sizeof *r->pages);
    e->row_read = mem_calloc(e->chunk, sizeof *e->row_read);
    if (!r->seq || !r->tok || !r->tok_seq || !r->out || !r->pages || !e->row_read) {
        return err_nomem(err, "step block", pages * sizeof *r->pages);
    }
    if (!e->io_map) {
        e->host_logits = mem_alloc((size_t)e->chunk * e->shape.n_vocab, sizeof(float));
        if (!e->host_logits) {
            return err_nomem(err, "logits",
                             (size_t)e->chunk * e->shape.n_vocab * sizeof(float));
        }
    }
    return sample_room_init(&e->sample, e->shape.n_vocab, err);
}

static int alloc_device(fathom_engine *e, const fathom_engine_options *o,
                        const struct plan_pool *pool, fathom_err *err)
{
    uint64_t arena = 0, io = 0;
    for (uint32_t i = 0; i < e->n_cls; i++) {
        arena = MAX(arena, e->cls[i].prog->arena_bytes);
        io = MAX(io, e->cls[i].prog->io_bytes);
    }
    int rc = pool_open(&e->pool, e->be, e->dev, &e->layout, e->max_seq, pool->n_pages, err);
    rc = rc ? rc : e->be->buf_alloc(e->dev, &e->arena, arena, BUF_ARENA, err);
    rc = rc ? rc : e->be->buf_alloc(e->dev, &e->io, io, BUF_IO, err);
    if (rc != 0) {
        return rc;
    }
    e->pool.relieve = engine_relieve;
    e->pool.relieve_user = e;
    rc = share_open(e, err);
    rc = rc || o->kv_no_share ? rc : tree_open(&e->tree, &e->pool, err);
    if (rc != 0) {
        return rc;
    }
    if (e->caps.host_visible) {
        e->io_map = e->be->buf_map(e->dev, e->io);
    }
    return alloc_room(e, err);
}

static int load(fathom_engine *e, const fathom_engine_options *o, fathom_err *err)
{
    uint64_t bytes = e->weights.bytes;
    if (o->progress && !o->progress(o->progress_user, "load", 0, bytes)) {
        return err_set(err, FATHOM_ECANCEL, "loading was cancelled");
    }
    int rc = e->be->weights_load(e->dev, e->weights.w, e->weights.n, err);
    struct exec_bind bind = {
        .arena = e->arena, .state = e->pool.state, .page = e->pool.page, .io = e->io};
    for (uint32_t i = 0; i < e->n_cls && rc == 0; i++) {
        rc = e->be->compile(e->dev, &e->cls[i].exec, e->cls[i].prog, &bind, err);
    }
    if (rc == 0 && o->progress && !o->progress(o->progress_user, "load", bytes, bytes)) {
        return err_set(err, FATHOM_ECANCEL, "loading was cancelled");
    }
    return rc;
}

int fathom_engine_open(fathom_engine **out, const fathom_engine_options *opt, fathom_err *err)
{
    *out = NULL;
    double t0 = clock_now();
    fathom_engine *e = mem_calloc(1, sizeof *e);
    if (!e) {
        return err_nomem(err, "engine", sizeof *e);
    }
    struct plan_pool pool = {0};
    int rc = open_file(e, opt, err);
    rc = rc ? rc : open_backend(e, opt, err);
    rc = rc ? rc : plan(e, opt, &pool, err);
    rc = rc ? rc : alloc_device(e, opt, &pool, err);
    rc = rc ? rc : load(e, opt, err);
    rc = rc ? rc : disk_open(e, opt, err);
    if (rc != 0) {
        fathom_engine_close(e);
        err_prefix(err, "cannot load %s", opt->model_path ? opt->model_path : "the model");
        return rc;
    }
    e->pool.poison = str_list_has(opt->debug, "poison-kv");
    e->load_seconds = clock_now() - t0;
    log_info("%s on %s (%s): %u tokens, %u sequences, chunk %u", e->name, e->be->name,
             e->caps.arith_class, e->max_ctx, e->max_seq, e->chunk);
    *out = e;
    return 0;
}

void fathom_engine_close(fathom_engine *e)
{
    if (!e) {
        return;
    }
    assert(!e->sessions);
    for (uint32_t i = 0; i < e->n_cls; i++) {
        if (e->cls[i].exec) {
            e->be->exec_free(e->dev, e->cls[i].exec);
        }
        program_free(e->cls[i].prog);
    }
    disk_close(e);
    share_close(e);
    pool_close(&e->pool);
    if (e->dev) {
        if (e->arena) {
            e->be->buf_free(e->dev, e->arena);
        }
        if (e->io) {
            e->be->buf_free(e->dev, e->io);
        }
        e->be->weights_free(e->dev);
        e->be->close(e->dev);
    }
    mem_free(e->room.seq);
    mem_free(e->room.tok);
    mem_free(e->room.tok_seq);
    mem_free(e->room.out);
    mem_free(e->room.pages);
    mem_free(e->row_read);
    mem_free(e->host_logits);
    sample_room_fini(&e->sample);
    tokenizer_free(e->tok);
    weights_free(&e->weights);
    gguf_close(e->gguf);
    mem_free(e);
}

void fathom_engine_info(const fathom_engine *e, fathom_info *out)
{
    *out = (fathom_info){.model_name = e->name,
                         .backend = e->be->name,
                         .arith_class = e->caps.arith_class,
                         .device_name = e->hw.device_name,
                         .release = e->shape.release_0731 ? "0731" : "preview",
                         .weight_format = e->weight_format,
                         .n_vocab = e->shape.n_vocab,
                         .n_layer = e->shape.n_layer,
                         .max_ctx = e->max_ctx,
                         .max_seq = e->max_seq,
                         .chunk = e->chunk,
                         .has_tokenizer = e->tok != NULL,
                         .weight_bytes = e->weights.bytes,
                         .kv_budget_bytes = pool_budget_bytes(&e->pool),
                         .kv_used_bytes = pool_used_bytes(&e->pool, KV_KIND_COUNT),
                         .scratch_bytes = e->scratch_bytes,
                         .load_seconds = e->load_seconds};
}

/* ---- tokens ---- */

int fathom_tokenize(const fathom_engine *e, const char *text, size_t n, bool trusted,
                    uint32_t **out, size_t *n_out, fathom_err *err)
{
    *out = NULL;
    *n_out = 0;
    if (!e->tok) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "%s has no tokenizer; use a file with tokenizer keys", e->name);
    }
    struct ids v = {0};
    tokenizer_encode(e->tok, text, n, trusted, &v);
    if (v.failed) {
        ids_free(&v);
        return err_nomem(err, "token ids", n * sizeof *v.p);
    }
    if (!v.p) { /* an empty text: still a pointer for fathom_free */
        v.p = mem_alloc(1, sizeof *v.p);
        if (!v.p) {
            return err_nomem(err, "token ids", sizeof *v.p);
        }
    }
    *out = v.p;
    *n_out = v.n;
    return 0;
}

const char *fathom_token_bytes(const fathom_engine *e, uint32_t id, size_t *n)
{
    struct slice s = {0};
    if (e->tok && id < tokenizer_n_vocab(e->tok)) {
        s = tokenizer_bytes(e->tok, id);
    }
    *n = s.n;
    return s.p;
}

bool fathom_token_is_control(const fathom_engine *e, uint32_t id)
{
    return e->tok && tokenizer_is_control(e->tok, id);
}

int32_t fathom_token_eos(const fathom_engine *e)
{
    return e->tok ? tokenizer_control(e->tok, CT_EOS) : -1;
}
