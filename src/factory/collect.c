/* collect.c - see collect.h. The trace calls on_op after each product; its input still lies in
 * the arena then, because the arena's plan keeps what an op reads until its level has ended.
 * Products that share their input share one array of sums: gate and up, and the parts of one
 * LINEAR. */
#include "factory/collect.h"

#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "factory/corpus.h"
#include "factory/imatrix.h"

/* The sums of one weight tensor; sum is NULL until it is met, and if another has them. */
struct stat {
    uint32_t leader; /* the weight whose sums these are: usually itself */
    double *sum;     /* [n_mat][cols], owned */
    double *count;   /* [n_mat], owned */
    uint32_t cols, n_mat;
};

struct collector {
    fathom_engine *e;
    const struct op_weight *w; /* borrowed from the programs */
    uint32_t n_w;
    struct stat *stat;    /* [n_w] */
    unsigned char *stage; /* operand of a device that the host cannot see */
    size_t stage_bytes;
    size_t n_sequences;
    uint32_t longest;
    fathom_err err; /* the first thing that went wrong inside the trace */
};

/* ---- reading operands ---- */

/* An arena operand, readable: rows are row_bytes apart. NULL (with c->err) without memory. */
static const unsigned char *view(struct collector *c, const struct opnd *o, uint64_t rows)
{
    struct device *dev;
    const struct backend *be = engine_backend(c->e, &dev);
    struct buffer *arena = engine_arena(c->e);
    const unsigned char *base = be->buf_map(dev, arena);
    if (o->space != SPACE_ARENA) {
        err_set(&c->err, FATHOM_EUNSUPPORTED, "an operand outside the arena");
        return NULL;
    }
    if (base) {
        return base + o->offset;
    }
    size_t bytes = (size_t)(rows * o->row_bytes);
    if (bytes > c->stage_bytes) {
        mem_free(c->stage);
        c->stage = mem_alloc(bytes, 1);
        c->stage_bytes = c->stage ? bytes : 0;
    }
    if (!c->stage) {
        err_nomem(&c->err, "an operand", bytes);
        return NULL;
    }
    be->buf_read(dev, arena, o->offset, c->stage, bytes);
    return c->stage;
}

static const float *row_of(const unsigned char *base, const struct opnd *o, uint64_t i)
{
    return (const float *)(const void *)(base + i * o->row_bytes);
}

/* ---- sums ---- */

/* The sums of weight w, made when first met; NULL (with c->err) without memory. */
static struct stat *stat_of(struct collector *c, uint16_t w)
{
    struct stat *s = &c->stat[w];
    if (!s->sum) {
        const struct op_weight *t = &c->w[w];
        s->cols = t->cols;
        s->n_mat = t->n_mat;
        s->sum = mem_calloc((size_t)t->n_mat, (size_t)t->cols * sizeof *s->sum);
        s->count = mem_calloc(t->n_mat, sizeof *s->count);
        if (!s->sum || !s->count) {
            err_nomem(&c->err, t->name, (size_t)t->n_mat * t->cols * sizeof *s->sum);
            return NULL;
        }
    }
    return s;
}

static void add_squares(double *sum, const float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        double v = (double)x[i];
        sum[i] += v * v;
    }
}

static void follow(struct collector *c, const struct opmat *m, uint16_t leader)
{
    if (m->w != WEIGHT_NONE) {
        c->stat[m->w].leader = leader;
    }
}

/* Rows [0, n) of x through one matrix; `groups` inputs side by side in a row. */
static void dense(struct collector *c, const struct opmat *m, const struct opnd *x, uint32_t n,
                  uint32_t groups)
{
    struct stat *s = m->w != WEIGHT_NONE && n ? stat_of(c, m->w) : NULL;
    const unsigned char *base = s ? view(c, x, n) : NULL;
    if (!base) {
        return;
    }
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t g = 0; g < groups; g++) {
            add_squares(s->sum, row_of(base, x, t) + (size_t)g * s->cols, s->cols);
        }
    }
    s->count[0] += (double)n * groups;
}

/* A stack of experts. The input of slot s of token t is row t of x, or t * k + s if per_slot. */
static void routed(struct collector *c, const struct opmat *m, const struct opnd *x,
                   const struct opnd *idx, uint32_t k, bool per_slot, uint32_t n)
{
    struct stat *s = stat_of(c, m->w);
    struct device *dev;
    const struct backend *be = engine_backend(c->e, &dev);
    const unsigned char *base = s ? view(c, x, (uint64_t)n * (per_slot ? k : 1)) : NULL;
    for (uint32_t t = 0; base && t < n; t++) {
        int32_t e[64];
        be->buf_read(dev, engine_arena(c->e), idx->offset + t * idx->row_bytes, e,
                     k * sizeof *e);
        for (uint32_t slot = 0; slot < k; slot++) {
            uint64_t row = per_slot ? (uint64_t)t * k + slot : t;
            uint32_t expert = (uint32_t)e[slot];
            if (expert >= s->n_mat) {
                err_set(&c->err, FATHOM_EFORMAT, "%s: expert %u was chosen of %u",
                        c->w[m->w].name, expert, s->n_mat);
                return;
            }
            add_squares(s->sum + (size_t)expert * s->cols, row_of(base, x, row), s->cols);
            s->count[expert]++;
        }
    }
}

static void on_linear(struct collector *c, const struct op_linear *o, const struct step *st)
{
    dense(c, &o->part[0].w, &o->x, o->rows_out ? st->n_out : st->n_tok, o->groups);
    for (uint32_t p = 1; p < o->n_part; p++) {
        follow(c, &o->part[p].w, o->part[0].w.w);
    }
}

/* The mixers of the head see the wanted rows of the streams only. */
static void on_hc_mix(struct collector *c, const struct op_hc_mix *o, const struct step *st)
{
    if (!o->rows_out) {
        dense(c, &o->fn, &o->x, st->n_tok, 1);
        return;
    }
    for (uint32_t i = 0; i < st->n_out; i++) {
        struct opnd x = o->x;
        x.offset += st->out[i] * x.row_bytes;
        dense(c, &o->fn, &x, 1, 1);
    }
}

static void on_op(void *user, const struct op *op, const struct step *st, double seconds)
{
    struct collector *c = user;
    (void)seconds;
    if (c->err.code) {
        return;
    }
    switch (op->kind) {
    case OP_HC_MIX: on_hc_mix(c, &op->hc_mix, st); break;
    case OP_LINEAR: on_linear(c, &op->linear, st); break;
    case OP_LINEAR_HC: dense(c, &op->linear_hc.w, &op->linear_hc.x, st->n_tok, 1); break;
    case OP_FFN_UP:
        dense(c, &op->ffn_up.w1, &op->ffn_up.x, st->n_tok, 1);
        follow(c, &op->ffn_up.w3, op->ffn_up.w1.w);
        break;
    case OP_MOE_UP:
        routed(c, &op->moe_up.w1, &op->moe_up.x, &op->moe_up.idx, op->moe_up.k, false,
               st->n_tok);
        follow(c, &op->moe_up.w3, op->moe_up.w1.w);
        break;
    case OP_MOE_DOWN:
        routed(c, &op->moe_down.w2, &op->moe_down.h, &op->moe_down.idx, op->moe_down.k, true,
               st->n_tok);
        dense(c, &op->moe_down.shared, &op->moe_down.hs, st->n_tok, 1);
        break;
    default: break;
    }
}

/* ---- one sequence ---- */

int collect_new(struct collector **out, fathom_engine *e, fathom_err *err)
{
    const struct program *p = engine_program(e, 0);
    struct collector *c = mem_calloc(1, sizeof *c);
    *out = c;
    if (c) {
        *c = (struct collector){.e = e, .w = p->weights, .n_w = p->n_weights};
        c->stat = mem_calloc(c->n_w + 1, sizeof *c->stat);
    }
    if (!c || !c->stat) {
        collect_free(c);
        *out = NULL;
        return err_nomem(err, "the collector", sizeof *c);
    }
    for (uint32_t i = 0; i < c->n_w; i++) {
        c->stat[i].leader = i;
    }
    return 0;
}

void collect_free(struct collector *c)
{
    if (!c) {
        return;
    }
    for (uint32_t i = 0; c->stat && i < c->n_w; i++) {
        mem_free(c->stat[i].sum);
        mem_free(c->stat[i].count);
    }
    mem_free(c->stat);
    mem_free(c->stage);
    mem_free(c);
}

static int run(struct collector *c, fathom_session *s, uint32_t n,
               bool (*done)(void *user, uint32_t n), void *user, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(c->e, &info);
    int rc = 0;
    for (uint32_t at = 0; rc == 0 && at < n;) {
        struct fathom_work work = {s, MIN(info.chunk, n - at), FATHOM_WANT_ALL};
        rc = fathom_step(c->e, &work, 1, err);
        if (rc == 0 && c->err.code) {
            rc = err_set(err, c->err.code, "%s", c->err.msg);
        }
        at += work.n_tok;
        if (rc == 0 && done && !done(user, at)) {
            rc = err_set(err, FATHOM_ECANCEL, "cancelled");
        }
    }
    return rc;
}

int collect_sequence(struct collector *c, const uint32_t *ids, uint32_t n,
                     bool (*done)(void *user, uint32_t n), void *user, fathom_err *err)
{
    const uint64_t kinds = 1u << OP_HC_MIX | 1u << OP_LINEAR | 1u << OP_LINEAR_HC |
                           1u << OP_FFN_UP | 1u << OP_MOE_UP | 1u << OP_MOE_DOWN;
    struct backend_trace trace = {.kinds = kinds, .fn = on_op, .user = c};
    fathom_session *s =
        NULL; /* a new one: a shared prefix must be computed and counted again */
    int rc = fathom_session_new(&s, c->e, err);
    rc = rc ? rc : fathom_session_set(s, ids, n, NULL, err);
    if (rc == 0) {
        engine_trace(c->e, &trace);
        rc = run(c, s, n, done, user, err);
        engine_trace(c->e, NULL);
    }
    fathom_session_free(s);
    if (rc == 0) {
        c->n_sequences++;
        c->longest = MAX(c->longest, n);
    }
    return rc;
}

/* ---- the file ---- */

struct saving {
    const struct collector *c;
    uint32_t *weight; /* [n] of each tensor of the file */
};

static int saved_sums(void *user, size_t i, uint32_t mat, double *out, fathom_err *err)
{
    const struct saving *v = user;
    const struct stat *s = &v->c->stat[v->c->stat[v->weight[i]].leader];
    (void)err;
    memcpy(out, s->sum + (size_t)mat * s->cols, s->cols * sizeof *out);
    return 0;
}

int collect_save(const struct collector *c, const char *path, const char *dataset,
                 fathom_err *err)
{
    struct slice name = slice_of(dataset);
    struct saving v = {c, mem_alloc(c->n_w + 1, sizeof *v.weight)};
    struct imatrix_tensor *t = mem_alloc(c->n_w + 1, sizeof *t);
    struct imatrix_writing w = {.t = t,
                                .datasets = &name,
                                .n_datasets = 1,
                                .chunk_count = (uint32_t)c->n_sequences,
                                .chunk_size = c->longest,
                                .sums = saved_sums,
                                .user = &v};
    int rc = v.weight && t ? 0 : err_nomem(err, path, c->n_w * sizeof *t);
    for (uint32_t i = 0; rc == 0 && i < c->n_w; i++) {
        const struct stat *s = &c->stat[c->stat[i].leader];
        if (s->sum) {
            v.weight[w.n] = i;
            t[w.n++] = (struct imatrix_tensor){c->w[i].name, s->cols, s->n_mat, s->count};
        }
    }
    rc = rc ? rc : imatrix_write(path, &w, err);
    mem_free(v.weight);
    mem_free(t);
    return rc;
}

/* ---- a corpus ---- */

struct running {
    const struct collect_options *opt;
    uint64_t done, total; /* tokens before the sequence that runs; of all */
};

static bool on_chunk(void *user, uint32_t n)
{
    struct running *r = user;
    return !r->opt->progress ||
           r->opt->progress(r->opt->user, "imatrix", r->done + n, r->total);
}

/* How many sequences from `skip` on the limits allow, and their tokens. */
static size_t choose(const struct corpus *c, const struct collect_options *o, uint64_t *tokens)
{
    size_t n = 0;
    *tokens = 0;
    for (size_t i = o->skip; i < c->n; i++, n++) {
        uint32_t len;
        if ((o->max_prompts && n >= o->max_prompts) ||
            (o->max_tokens && *tokens >= o->max_tokens)) {
            break;
        }
        corpus_ids(c, i, &len);
        *tokens += len;
    }
    return n;
}

static int save(const struct collector *c, const struct collect_options *opt,
                struct collect_result *result, fathom_err *err)
{
    int rc = collect_save(c, opt->out, opt->dataset, err);
    result->n_saved = rc ? result->n_saved : result->n_prompts;
    return rc;
}

static int collect_all(struct collector *c, const struct corpus *corpus, size_t n,
                       struct running *r, struct collect_result *result, fathom_err *err)
{
    double saved_at = clock_now();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        uint32_t len;
        const uint32_t *ids = corpus_ids(corpus, r->opt->skip + i, &len);
        rc = collect_sequence(c, ids, len, on_chunk, r, err);
        if (rc) {
            break;
        }
        r->done = result->n_tokens += len;
        result->n_prompts++;
        bool due = r->opt->save_seconds > 0 && clock_now() - saved_at >= r->opt->save_seconds;
        if (i + 1 == n || due) {
            rc = save(c, r->opt, result, err);
            saved_at = clock_now();
        }
    }
    return rc;
}

int collect_corpus(fathom_engine *e, const struct corpus *corpus,
                   const struct collect_options *opt, struct collect_result *result,
                   fathom_err *err)
{
    struct collector *c;
    struct running r = {.opt = opt};
    *result = (struct collect_result){0};
    size_t n = choose(corpus, opt, &r.total);
    if (n == 0) {
        return err_set(err, FATHOM_EINVAL,
                       "no prompts are left: %zu are there, %zu are skipped", corpus->n,
                       opt->skip);
    }
    int rc = collect_new(&c, e, err);
    rc = rc ? rc : collect_all(c, corpus, n, &r, result, err);
    collect_free(c);
    return rc;
}
