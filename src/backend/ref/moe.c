/* moe.c - the mixture of experts (model.md 10): ROUTE, MOE_UP, MOE_DOWN of op/op.h.
 *
 * ROUTE picks k experts per token and also lists all (token, slot) pairs grouped by expert, so
 * that MOE_UP and MOE_DOWN decode each expert's weights once. Pair number t * k + slot names a
 * row of h. The sum over a token's experts is taken in slot order, which is ascending expert
 * order, with the shared expert last; grouping does not change it. Read next: pick.c, the end
 * of the step. */
#include <string.h>

#include "backend/ref/ref_int.h"

static double softplus(double z)
{
    return z > 20 ? z : log1p(exp(z));
}

/* The k experts of a token, ascending. */
static void choose_experts(const struct exec *e, const struct op_route *o, const float *z,
                           uint32_t tok, uint32_t *idx)
{
    const int32_t *table = host_vec(&e->h, &o->table);
    const float *bias = host_vec(&e->h, &o->bias);
    if (table) {
        memcpy(idx, table + (size_t)tok * o->k, o->k * sizeof *idx);
    } else {
        for (uint32_t i = 0; i < o->n_expert; i++) {
            double sc = sqrt(softplus((double)z[i])) + (bias ? (double)bias[i] : 0);
            e->tmp.score[i] = isnan(sc) ? -INFINITY : sc;
        }
        ref_top_k(e->tmp.score, o->n_expert, o->k, idx);
    }
    ref_sort(idx, o->k);
}

/* off[e] and pair[] by counting: how many pairs each expert has, where each list starts, then
 * the pairs in token order. */
static void group_pairs(const struct exec *e, const struct op_route *o)
{
    uint32_t n_tok = e->step.s.n_tok;
    uint32_t *off = host_row(&e->h, &o->off, 0), *pair = host_row(&e->h, &o->pair, 0);
    memset(off, 0, (o->n_expert + 1) * sizeof *off);
    for (uint32_t t = 0; t < n_tok; t++) {
        const uint32_t *idx = host_row(&e->h, &o->idx, t);
        for (uint32_t s = 0; s < o->k; s++) {
            off[idx[s] + 1]++;
        }
    }
    for (uint32_t x = 0; x < o->n_expert; x++) {
        off[x + 1] += off[x];
    }
    uint32_t *next = e->tmp.order; /* next free entry of each expert's list */
    memcpy(next, off, o->n_expert * sizeof *next);
    for (uint32_t t = 0; t < n_tok; t++) {
        const uint32_t *idx = host_row(&e->h, &o->idx, t);
        for (uint32_t s = 0; s < o->k; s++) {
            pair[next[idx[s]]++] = t * o->k + s;
        }
    }
}

void ref_route(const struct exec *e, const struct op *op)
{
    const struct op_route *o = &op->route;
    for (uint32_t t = 0; t < e->step.s.n_tok; t++) {
        const float *z = host_row(&e->h, &o->z, t);
        uint32_t *idx = host_row(&e->h, &o->idx, t);
        float *wt = host_row(&e->h, &o->wt, t);
        choose_experts(e, o, z, e->step.s.tok[t], idx);
        double sum = 0; /* the bias chooses, it does not weigh */
        for (uint32_t s = 0; s < o->k; s++) {
            sum += sqrt(softplus((double)z[idx[s]]));
        }
        for (uint32_t s = 0; s < o->k; s++) {
            wt[s] = (float)(sqrt(softplus((double)z[idx[s]])) / sum * (double)o->scale);
        }
    }
    group_pairs(e, o);
}

void ref_moe_up(const struct exec *e, const struct op *op)
{
    const struct op_moe_up *o = &op->moe_up;
    const uint32_t *off = host_row(&e->h, &o->off, 0), *pair = host_row(&e->h, &o->pair, 0);
    float *w1 = e->tmp.w[0], *w3 = e->tmp.w[1];
    uint32_t d = o->w1.cols;
    for (uint32_t x = 0; x < o->n_expert; x++) {
        for (uint32_t f = 0; f < o->f && off[x] < off[x + 1]; f++) {
            ref_weight_row(e, &o->w1, x, f, w1);
            ref_weight_row(e, &o->w3, x, f, w3);
            for (uint32_t i = off[x]; i < off[x + 1]; i++) {
                uint32_t t = pair[i] / o->k, s = pair[i] % o->k;
                double g = ref_dot(w1, ref_act_row(e, &o->w1, &o->x, &o->x_act, t), 0, d);
                double u = ref_dot(w3, ref_act_row(e, &o->w3, &o->x, &o->x_act, t), 0, d);
                double wt = (double)((const float *)host_row(&e->h, &o->wt, t))[s];
                float *h = ref_out_row(e, &o->h, &o->h_act, pair[i]);
                h[f] = (float)(ref_swiglu(g, u, o->lim) * wt);
            }
        }
    }
    ref_out_finish(e, &o->h, &o->h_act, e->step.s.n_tok * o->k);
}

void ref_moe_down(const struct exec *e, const struct op *op)
{
    const struct op_moe_down *o = &op->moe_down;
    const uint32_t *off = host_row(&e->h, &o->off, 0), *pair = host_row(&e->h, &o->pair, 0);
    float *w = e->tmp.w[0];
    double *part = e->tmp.part; /* [T * k] products of row d */
    for (uint32_t d = 0; d < o->d; d++) {
        for (uint32_t x = 0; x < o->n_expert; x++) {
            if (off[x] < off[x + 1]) {
                ref_weight_row(e, &o->w2, x, d, w);
            }
            for (uint32_t i = off[x]; i < off[x + 1]; i++) {
                struct act_row h = ref_act_row(e, &o->w2, &o->h, &o->h_act, pair[i]);
                part[pair[i]] = ref_dot(w, h, 0, o->w2.cols);
            }
        }
        ref_weight_row(e, &o->shared, 0, d, w);
        for (uint32_t t = 0; t < e->step.s.n_tok; t++) {
            double y = part[(size_t)t * o->k];
            for (uint32_t s = 1; s < o->k; s++) {
                y += part[(size_t)t * o->k + s];
            }
            struct act_row hs = ref_act_row(e, &o->shared, &o->hs, &o->hs_act, t);
            y += ref_dot(w, hs, 0, o->shared.cols);
            ref_hc_post(e, &o->hc_x, &o->post, &o->comb, o->hc, o->d, t, d, y);
        }
    }
}
