/* norm.c - the small per-row ops between the products: RMS_NORM, KV_ROW, HEAD_FINISH,
 * RING_STORE (op.h). A row, or a head of a row, is one item; the value is made in the worker's
 * scratch and then written in the forms that others read. Read next: attn.c. */
#include <math.h>
#include <string.h>

#include "backend/cpu/ahead.h"
#include "backend/cpu/cpu_int.h"

static float norm_factor(const struct cpu_kern *k, const float *x, uint32_t n, float eps)
{
    return 1.0f / sqrtf(k->sum_squares(x, n) / (float)n + eps);
}

/* ---- RMS_NORM ---- */

static void rms_norm_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    carve_take(c, op->rms_norm.n, sizeof(float));
}

static void rms_norm_run(struct worker *w, const struct op *op)
{
    const struct op_rms_norm *o = &op->rms_norm;
    const float *weight = host_vec(&w->e->h, &o->w);
    float *y = (float *)w->mem;
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        const float *x = host_row(&w->e->h, &o->x, t);
        w->k->scale_vec(x, norm_factor(w->k, x, o->n, o->eps), weight, o->n, y);
        out_put(w, &o->y, &o->y_act, t, 0, y, o->n);
    }
}

const struct cpu_op cpu_rms_norm = {.run = rms_norm_run, .private_scratch = rms_norm_scratch};

/* ---- KV_ROW ---- */

static void kv_row_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    carve_take(c, op->kv_row.geom.n, sizeof(float));
}

static void kv_row_run(struct worker *w, const struct op *op)
{
    const struct op_kv_row *o = &op->kv_row;
    const float *weight = host_vec(&w->e->h, &o->w);
    uint32_t n = o->geom.n, n_pairs = w->e->p->rope[o->rope].n;
    float *y = (float *)w->mem;
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        const float *x = host_row(&w->e->h, &o->x, t);
        w->k->scale_vec(x, norm_factor(w->k, x, n, o->eps), weight, n, y);
        rope_apply(y + n - 2 * n_pairs, n_pairs, angles_of_row(w, o->rope, t), false);
        struct host_rows out = host_rows_arena(&w->e->h, &o->wrow, t);
        w->k->row_store(&o->geom, y, out.codes, out.scales);
    }
}

const struct cpu_op cpu_kv_row = {.run = kv_row_run, .private_scratch = kv_row_scratch};

/* ---- HEAD_FINISH ---- */

/* Heads of a token that are one item when there are many tokens: their lines follow each other,
 * and workers meet less often at the counter of items. */
enum { HEAD_GROUP = 16 };

static void head_finish(const struct worker *w, const struct op_head_finish *o, uint32_t t,
                        float *q)
{
    uint32_t n_pairs = w->e->p->rope[o->rope].n;
    if (o->norm) {
        w->k->scale_vec(q, norm_factor(w->k, q, o->n, o->eps), NULL, o->n, q);
    }
    rope_apply(q + o->n - 2 * n_pairs, n_pairs, angles_of_row(w, o->rope, t), false);
    if (o->index) {
        w->k->hadamard(q, o->n);
    }
    if (o->fp4) {
        w->k->fp4_round(q, o->n);
    }
}

static void head_finish_run(struct worker *w, const struct op *op)
{
    const struct op_head_finish *o = &op->head_finish;
    uint32_t group = w->s->n_tok > CPU_FEW ? HEAD_GROUP : 1;
    uint32_t groups = (o->heads + group - 1) / group;
    struct share sh = share_make(w, 0, w->s->n_tok * groups);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = i / groups, h = i % groups * group, end = MIN(h + group, o->heads);
        float *q = host_row(&w->e->h, &o->q, t);
        for (; h < end; h++) {
            for (uint32_t at = 0; h + 1 < end && at < o->n; at += AHEAD_LINE / sizeof *q) {
                __builtin_prefetch(q + (size_t)(h + 1) * o->n + at, 1);
            }
            head_finish(w, o, t, q + (size_t)h * o->n);
        }
    }
}

const struct cpu_op cpu_head_finish = {.run = head_finish_run};

/* ---- RING_STORE ---- */

static void ring_store_run(struct worker *w, const struct op *op)
{
    const struct op_ring_store *o = &op->ring_store;
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        const struct step_seq *q = step_seq_of(w->s, t);
        uint32_t p = step_pos(q, t);
        if (p < step_ring_first(q, o->slots)) {
            continue;
        }
        struct host_rows from = host_rows_arena(&w->e->h, &o->wrow, t);
        struct host_rows to =
            host_rows_state(&w->e->h, &o->ring, q->state, step_ring(p, o->slots));
        memcpy(to.codes, from.codes, o->wrow.codes.cols);
        if (to.scales) {
            memcpy(to.scales, from.scales, o->wrow.scales.cols);
        }
    }
}

const struct cpu_op cpu_ring_store = {.run = ring_store_run};
