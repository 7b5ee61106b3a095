/* moe.c - ROUTE, MOE_UP, MOE_DOWN (op.h, model.md 10).
 *
 * ROUTE lists the (token, slot) pairs of each expert. MOE_UP shares out (expert, range of rows)
 * and runs all of the expert's tokens through it, so each weight is decoded once. MOE_DOWN
 * shares out ranges of output columns: a worker goes through the experts in ascending order,
 * which is the order in which a token's slots are summed, adds the shared expert and updates
 * the residual. Nothing is ever added by two workers. Read next: pick.c. */
#include <math.h>
#include <string.h>

#include "backend/cpu/prod.h"
#include "quant/formats.h"

/* ---- ROUTE ---- */

static float route_score(float z)
{
    double s = z > 20.0f ? (double)z : log1p(exp((double)z));
    return (float)sqrt(s);
}

struct route_tmp {
    float *score;   /* [E] */
    uint32_t *next; /* [E] */
};

static void route_tmp_take(struct route_tmp *t, struct carve *c, const struct op_route *o)
{
    t->score = carve_take(c, o->n_expert, sizeof(float));
    t->next = carve_take(c, o->n_expert, sizeof(uint32_t));
}

static void route_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct route_tmp t;
    route_tmp_take(&t, c, &op->route);
}

/* The k largest of score + bias, ties to the lower expert, NaN last; ascending by expert. */
static void choose(const float *score, const float *bias, uint32_t n, uint32_t k, uint32_t *idx)
{
    float best[64];
    uint32_t n_best = 0;
    for (uint32_t x = 0; x < n; x++) {
        float v = bias ? score[x] + bias[x] : score[x];
        v = v != v ? -INFINITY : v;
        uint32_t at = n_best;
        while (at > 0 && v > best[at - 1]) {
            at--;
        }
        if (at == k) {
            continue;
        }
        n_best += n_best < k;
        for (uint32_t j = n_best - 1; j > at; j--) {
            best[j] = best[j - 1];
            idx[j] = idx[j - 1];
        }
        best[at] = v;
        idx[at] = x;
    }
}

static void sort_ascending(uint32_t *v, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        uint32_t x = v[i], j = i;
        for (; j > 0 && v[j - 1] > x; j--) {
            v[j] = v[j - 1];
        }
        v[j] = x;
    }
}

static void route_token(const struct worker *w, const struct op_route *o, uint32_t t,
                        float *score)
{
    const struct host_bind *h = &w->e->h;
    const float *z = host_row(h, &o->z, t);
    const int32_t *table = host_vec(h, &o->table);
    uint32_t *idx = host_row(h, &o->idx, t);
    float *wt = host_row(h, &o->wt, t);
    if (table) {
        memcpy(idx, table + (size_t)w->s->tok[t] * o->k, o->k * sizeof *idx);
        for (uint32_t s = 0; s < o->k; s++) {
            score[idx[s]] = route_score(z[idx[s]]);
        }
    } else {
        for (uint32_t x = 0; x < o->n_expert; x++) {
            score[x] = route_score(z[x]);
        }
        choose(score, host_vec(h, &o->bias), o->n_expert, o->k, idx);
    }
    sort_ascending(idx, o->k);
    float sum = 0.0f;
    for (uint32_t s = 0; s < o->k; s++) {
        sum += score[idx[s]];
    }
    for (uint32_t s = 0; s < o->k; s++) {
        wt[s] = score[idx[s]] / sum * o->scale;
    }
}

/* off and pair by counting; pairs of an expert in token order. */
static void group_pairs(const struct worker *w, const struct op_route *o, uint32_t *next)
{
    const struct host_bind *h = &w->e->h;
    uint32_t *off = host_row(h, &o->off, 0), *pair = host_row(h, &o->pair, 0);
    memset(off, 0, (o->n_expert + 1) * sizeof *off);
    for (uint32_t t = 0; t < w->s->n_tok; t++) {
        const uint32_t *idx = host_row(h, &o->idx, t);
        for (uint32_t s = 0; s < o->k; s++) {
            off[idx[s] + 1]++;
        }
    }
    for (uint32_t x = 0; x < o->n_expert; x++) {
        off[x + 1] += off[x];
    }
    memcpy(next, off, o->n_expert * sizeof *next);
    for (uint32_t t = 0; t < w->s->n_tok; t++) {
        const uint32_t *idx = host_row(h, &o->idx, t);
        for (uint32_t s = 0; s < o->k; s++) {
            pair[next[idx[s]]++] = t * o->k + s;
        }
    }
}

static void route_run(struct worker *w, const struct op *op)
{
    const struct op_route *o = &op->route;
    struct carve c = {.base = w->mem};
    struct route_tmp tmp;
    route_tmp_take(&tmp, &c, o);
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        route_token(w, o, t, tmp.score);
    }
    worker_barrier(w);
    if (w->rank == 0) {
        group_pairs(w, o, tmp.next);
    }
}

static const char *route_supports(const struct program *p, const struct op *op)
{
    const struct op_route *o = &op->route;
    if (o->k == 0 || o->k > 64 || o->k > o->n_expert) {
        return "more than 64 experts per token, or more than there are";
    }
    if (o->table.w == WEIGHT_NONE) {
        return NULL;
    }
    const struct op_weight *w = &p->weights[o->table.w];
    if (w->type != QT_I32 || w->cols != o->k) {
        return "the expert table must be I32, one column per slot";
    }
    const int32_t *id = w->data; /* from a file, and used as an index */
    for (uint64_t i = 0; id && i < (uint64_t)w->rows * w->cols; i++) {
        if (id[i] < 0 || (uint32_t)id[i] >= o->n_expert) {
            return "the expert table names an expert that does not exist";
        }
    }
    return NULL;
}

const struct cpu_op cpu_route = {
    .run = route_run, .private_scratch = route_scratch, .supports = route_supports};

/* ---- MOE_UP ---- */

static uint32_t blocks_of(uint32_t rows)
{
    return (rows + KERN_ROWS - 1) / KERN_ROWS;
}

struct up_tmp {
    struct prod_tmp prod;
    struct prod_x px;
    const uint32_t *pair; /* px has the tokens of these */
    uint32_t *tok;        /* [CPU_PACK_TOKENS] */
    uint32_t *active;     /* [E] experts with tokens */
};

static void up_tmp_take(struct up_tmp *t, struct carve *c, const struct exec *e,
                        const struct op_moe_up *o)
{
    *t = (struct up_tmp){0};
    /* an expert may get several slots of one token only through the table of hash layers */
    prod_tmp_take(&t->prod, c, e->p->lim.t_max * o->k, MAX(o->w1.cols, o->w3.cols),
                  prod_act(&o->w1) | prod_act(&o->w3));
    t->tok = carve_take(c, CPU_PACK_TOKENS, sizeof(uint32_t));
    t->active = carve_take(c, o->n_expert, sizeof(uint32_t));
}

static void moe_up_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    struct up_tmp t;
    up_tmp_take(&t, c, e, &op->moe_up);
}

/* The tokens of n pairs of the list, unless they are there already. */
static void up_tokens(struct worker *w, const struct op_moe_up *o, struct up_tmp *tmp,
                      const uint32_t *pair, uint32_t n)
{
    if (tmp->pair == pair) { /* lists of experts do not overlap: the same n, too */
        return;
    }
    tmp->pair = pair;
    for (uint32_t i = 0; i < n; i++) {
        tmp->tok[i] = pair[i] / o->k;
    }
    prod_x_set(&tmp->px, w, &tmp->prod, &o->x, &o->x_act, tmp->tok, 0, n);
}

/* Blocks [b0, b1) of expert x for n pairs of the list. */
static void up_blocks(struct worker *w, const struct op_moe_up *o, struct up_tmp *tmp,
                      uint32_t x, const uint32_t *pair, uint32_t n, uint32_t b0, uint32_t b1)
{
    const struct host_bind *h = &w->e->h;
    up_tokens(w, o, tmp, pair, n);
    for (uint32_t b = b0; b < b1; b++) {
        uint32_t r0 = b * KERN_ROWS, rows = MIN(o->f - r0, (uint32_t)KERN_ROWS);
        prod_block(&tmp->px, &o->w1, x, r0, rows, 0, tmp->prod.out[0]);
        prod_block(&tmp->px, &o->w3, x, r0, rows, 0, tmp->prod.out[1]);
        for (uint32_t i = 0; i < n; i++) {
            const float *wt = (const float *)host_row(h, &o->wt, tmp->tok[i]) + pair[i] % o->k;
            w->k->swiglu(tmp->prod.out[0][i], tmp->prod.out[1][i], rows, o->lim, wt);
        }
        out_block(w, &o->h, &o->h_act, pair, 0, n, r0, tmp->prod.out[0], rows);
    }
}

static void moe_up_run(struct worker *w, const struct op *op)
{
    const struct op_moe_up *o = &op->moe_up;
    struct carve c = {.base = w->mem};
    struct up_tmp tmp;
    up_tmp_take(&tmp, &c, w->e, o);
    const uint32_t *off = host_row(&w->e->h, &o->off, 0);
    const uint32_t *pair = host_row(&w->e->h, &o->pair, 0);
    uint32_t n_active = 0, n_block = blocks_of(o->f), range = 1;
    for (uint32_t x = 0; x < o->n_expert; x++) {
        if (off[x] < off[x + 1]) {
            tmp.active[n_active++] = x;
        }
    }
    if (w->s->n_tok >
        CPU_FEW) { /* about four items a worker, in ranges that are worth packing */
        uint32_t ranges = MIN((4 * w->n + n_active - 1) / n_active, MAX(n_block / 4, 1u));
        range = (n_block + ranges - 1) / ranges;
    }
    uint32_t ranges = (n_block + range - 1) / range;
    struct share sh = share_make(w, 0, n_active * ranges);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t x = tmp.active[i / ranges], b0 = i % ranges * range;
        for (uint32_t p = off[x]; p < off[x + 1]; p += tmp.prod.max_tok) {
            up_blocks(w, o, &tmp, x, pair + p, MIN(off[x + 1] - p, tmp.prod.max_tok), b0,
                      MIN(b0 + range, n_block));
        }
    }
}

static const char *moe_up_supports(const struct program *p, const struct op *op)
{
    const char *why = prod_supports(p, &op->moe_up.w1);
    return why ? why : prod_supports(p, &op->moe_up.w3);
}

const struct cpu_op cpu_moe_up = {
    .run = moe_up_run, .private_scratch = moe_up_scratch, .supports = moe_up_supports};

/* ---- MOE_DOWN ---- */

struct down_tmp {
    struct prod_tmp prod;
    float *y; /* [n_tok][range]: sums of a range of columns */
    uint32_t range;
};

/* Columns that a worker sums up at a time, of all tokens: about two ranges a worker, but not
 * more than CPU_DOWN_ROWS columns, so that the sums of a few blocks stay in its caches. Every
 * range packs the tokens of all experts again. */
static uint32_t down_range(uint32_t n_tok, uint32_t d, uint32_t n_worker)
{
    uint32_t blocks = (blocks_of(d) + 2 * n_worker - 1) / (2 * n_worker);
    return n_tok > CPU_FEW ? MIN(blocks * KERN_ROWS, (uint32_t)CPU_DOWN_ROWS) : KERN_ROWS;
}

static void down_tmp_take(struct down_tmp *t, struct carve *c, const struct exec *e,
                          const struct op_moe_down *o)
{
    prod_tmp_take(&t->prod, c, e->p->lim.t_max * o->k, MAX(o->w2.cols, o->shared.cols),
                  prod_act(&o->w2) | prod_act(&o->shared));
    t->range = down_range(e->p->lim.t_max, o->d, e->dev->n_workers);
    t->y = carve_take(c, (uint64_t)e->p->lim.t_max * t->range, sizeof(float));
}

static void moe_down_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    struct down_tmp t;
    down_tmp_take(&t, c, e, &op->moe_down);
}

/* Asks for the sums of a block that products will be added to. */
static void down_ahead(const struct op_moe_down *o, const struct down_tmp *tmp,
                       const uint32_t *pair, uint32_t n, uint32_t at)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *y = tmp->y + (size_t)(pair[i] / o->k) * tmp->range + at;
        __builtin_prefetch(y, 1, 2);
        __builtin_prefetch(y + KERN_ROWS / 2, 1, 2);
    }
}

/* Adds expert x's products of pairs [0, n) to y; slot 0 starts a token's sum. */
static void down_expert(struct worker *w, const struct op_moe_down *o, struct down_tmp *tmp,
                        uint32_t x, const uint32_t *pair, uint32_t n, uint32_t d0, uint32_t d1)
{
    struct prod_x px = {0};
    prod_x_set(&px, w, &tmp->prod, &o->h, &o->h_act, pair, 0, n);
    for (uint32_t d = d0; d < d1; d += KERN_ROWS) {
        uint32_t rows = MIN(d1 - d, (uint32_t)KERN_ROWS);
        down_ahead(o, tmp, pair, n, d - d0);
        prod_block(&px, &o->w2, x, d, rows, 0, tmp->prod.out[0]);
        for (uint32_t i = 0; i < n; i++) {
            float *y = tmp->y + (size_t)(pair[i] / o->k) * tmp->range + (d - d0);
            if (pair[i] % o->k == 0) {
                copy_floats(y, tmp->prod.out[0][i], rows);
            } else {
                w->k->add_vec(y, tmp->prod.out[0][i], rows);
            }
        }
    }
}

/* Adds the shared expert for tokens [t0, t0 + n) and updates the residual streams. */
static void down_shared(struct worker *w, const struct op_moe_down *o, struct down_tmp *tmp,
                        uint32_t t0, uint32_t n, uint32_t d0, uint32_t d1)
{
    const struct streams s = {&o->hc_x, &o->post, &o->comb, o->hc, o->d};
    struct prod_x px = {0};
    prod_x_set(&px, w, &tmp->prod, &o->hs, &o->hs_act, NULL, t0, n);
    for (uint32_t d = d0; d < d1; d += KERN_ROWS) {
        uint32_t rows = MIN(d1 - d, (uint32_t)KERN_ROWS);
        prod_block(&px, &o->shared, 0, d, rows, 0, tmp->prod.out[0]);
        float *y = tmp->y + (size_t)t0 * tmp->range + (d - d0);
        for (uint32_t t = 0; t < n; t++) {
            w->k->add_vec(y + (size_t)t * tmp->range, tmp->prod.out[0][t], rows);
        }
        stream_update(w, &s, t0, n, d, rows, y, tmp->range);
    }
}

static void moe_down_run(struct worker *w, const struct op *op)
{
    const struct op_moe_down *o = &op->moe_down;
    struct carve c = {.base = w->mem};
    struct down_tmp tmp;
    down_tmp_take(&tmp, &c, w->e, o);
    const uint32_t *off = host_row(&w->e->h, &o->off, 0);
    const uint32_t *pair = host_row(&w->e->h, &o->pair, 0);
    uint32_t n_tok = w->s->n_tok, range = down_range(n_tok, o->d, w->n);
    tmp.range = range;
    struct share sh = share_make(w, 0, (o->d + range - 1) / range);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t d0 = i * range, d1 = MIN(d0 + range, o->d);
        for (uint32_t x = 0; x < o->n_expert; x++) {
            for (uint32_t p = off[x]; p < off[x + 1]; p += tmp.prod.max_tok) {
                down_expert(w, o, &tmp, x, pair + p, MIN(off[x + 1] - p, tmp.prod.max_tok), d0,
                            d1);
            }
        }
        for (uint32_t t = 0; t < n_tok; t += tmp.prod.max_tok) {
            down_shared(w, o, &tmp, t, MIN(n_tok - t, tmp.prod.max_tok), d0, d1);
        }
    }
}

static const char *moe_down_supports(const struct program *p, const struct op *op)
{
    if (op->moe_down.hc > CPU_HC_MAX) {
        return "more than 16 residual streams";
    }
    const char *why = prod_supports(p, &op->moe_down.w2);
    return why ? why : prod_supports(p, &op->moe_down.shared);
}

const struct cpu_op cpu_moe_down = {
    .run = moe_down_run, .private_scratch = moe_down_scratch, .supports = moe_down_supports};
