/* hc.c - hyper-connections (model.md 5): HC_MIX, HC_NORM, HC_HEAD of op/op.h.
 *
 * The residual is hc parallel streams X[j][d]. Before a sublayer they are mixed into one vector
 * x with weights `pre`; after it, HCpost (vec.c) spreads the result over the streams with
 * weights `post` and mixes them with the matrix C. All three come from one small product of the
 * whole residual, whose partial sums HC_MIX makes per chunk of 32 columns and HC_NORM adds up.
 * Read next: attn.c and moe.c, the two sublayers. */
#include "backend/ref/ref_int.h"

enum { CHUNK = 32 };

/* Token row that row i of the op stands for. */
static uint32_t token_row(const struct step *s, bool rows_out, uint32_t i)
{
    return rows_out ? s->out[i] : i;
}

/* Sum over the streams and over columns [d0, d1) of fn * X, or of X^2 without fn. */
static double chunk_sum(const struct op_hc_mix *o, const float *fn, const float *x, uint32_t d0,
                        uint32_t d1)
{
    double c[16] = {0};
    for (uint32_t j = 0; j < o->hc; j++) {
        for (uint32_t d = d0; d < d1; d++) {
            size_t at = (size_t)j * o->d + d;
            c[(d - d0) % 16] += (double)(fn ? fn[at] : x[at]) * (double)x[at];
        }
    }
    return lanes16_sum(c);
}

void ref_hc_mix(const struct exec *e, const struct op *op)
{
    const struct op_hc_mix *o = &op->hc_mix;
    const struct step *s = &e->step.s;
    for (uint32_t i = 0; i <= o->m; i++) { /* the last column is the sum of squares */
        const float *fn = NULL;
        if (i < o->m) {
            ref_weight_row(e, &o->fn, 0, i, e->tmp.w[0]);
            fn = e->tmp.w[0];
        }
        for (uint32_t row = 0; row < step_rows(s, o->rows_out); row++) {
            const float *x = host_row(&e->h, &o->x, token_row(s, o->rows_out, row));
            float *mixp = host_row(&e->h, &o->mixp, row);
            for (uint32_t c = 0; c < o->nc; c++) {
                uint32_t d0 = c * CHUNK, d1 = d0 + CHUNK < o->d ? d0 + CHUNK : o->d;
                mixp[(size_t)c * (o->m + 1) + i] = (float)chunk_sum(o, fn, x, d0, d1);
            }
        }
    }
}

/* Adds up the chunks and normalises: mix[i] = s_i / sqrt(q / n_x + eps). */
static void mix_finish(const float *mixp, uint32_t nc, uint32_t m, uint32_t n_x, float eps,
                       double *mix)
{
    double q = 0;
    for (uint32_t i = 0; i < m; i++) {
        mix[i] = 0;
    }
    for (uint32_t c = 0; c < nc; c++) {
        const float *part = mixp + (size_t)c * (m + 1);
        for (uint32_t i = 0; i < m; i++) {
            mix[i] += (double)part[i];
        }
        q += (double)part[m];
    }
    double r = 1.0 / sqrt(q / n_x + (double)eps);
    for (uint32_t i = 0; i < m; i++) {
        mix[i] *= r;
    }
}

/* One Sinkhorn half step: divides rows (or columns) by their sum + eps. */
static void sinkhorn_step(double *c, uint32_t hc, double eps, bool rows)
{
    uint32_t line = rows ? hc : 1, along = rows ? 1 : hc; /* strides */
    for (uint32_t a = 0; a < hc; a++) {
        double sum = 0;
        for (uint32_t b = 0; b < hc; b++) {
            sum += c[a * line + b * along];
        }
        for (uint32_t b = 0; b < hc; b++) {
            c[a * line + b * along] /= sum + eps;
        }
    }
}

/* C: softmax of each row of z, then column, row, column ... steps; the last is a column step.
 */
static void mix_matrix(double *c, uint32_t hc, uint32_t iters, double eps)
{
    for (uint32_t j = 0; j < hc; j++) {
        double *row = c + j * hc, max = row[0], sum = 0;
        for (uint32_t k = 1; k < hc; k++) {
            max = row[k] > max ? row[k] : max;
        }
        for (uint32_t k = 0; k < hc; k++) {
            row[k] = exp(row[k] - max);
            sum += row[k];
        }
        for (uint32_t k = 0; k < hc; k++) {
            row[k] = row[k] / sum + eps;
        }
    }
    sinkhorn_step(c, hc, eps, false);
    for (uint32_t i = 1; i < iters; i++) {
        sinkhorn_step(c, hc, eps, true);
        sinkhorn_step(c, hc, eps, false);
    }
}

/* sum over streams of weight[j] * X[j][:], normed. */
static void collapse(const float *x, const double *weight, uint32_t hc, uint32_t n, float eps,
                     const float *norm, double *out)
{
    for (uint32_t d = 0; d < n; d++) {
        out[d] = 0;
        for (uint32_t j = 0; j < hc; j++) {
            out[d] += weight[j] * (double)x[(size_t)j * n + d];
        }
    }
    ref_rms_norm(out, n, eps, norm);
}

void ref_hc_norm(const struct exec *e, const struct op *op)
{
    const struct op_hc_norm *o = &op->hc_norm;
    const float *scale = host_vec(&e->h, &o->scale), *base = host_vec(&e->h, &o->base);
    uint32_t hc = o->hc, n_tok = e->step.s.n_tok;
    for (uint32_t t = 0; t < n_tok; t++) {
        double mix[(2 + REF_HC_MAX) * REF_HC_MAX], pre[REF_HC_MAX];
        mix_finish(host_row(&e->h, &o->mixp, t), o->nc, (2 + hc) * hc, hc * o->d, o->eps, mix);
        float *post = host_row(&e->h, &o->post, t), *comb = host_row(&e->h, &o->comb, t);
        for (uint32_t j = 0; j < hc; j++) {
            pre[j] = sigmoid(mix[j] * (double)scale[0] + (double)base[j]) + (double)o->hc_eps;
            post[j] =
                (float)(2 * sigmoid(mix[hc + j] * (double)scale[1] + (double)base[hc + j]));
        }
        double *c = mix + 2 * hc;
        for (uint32_t i = 0; i < hc * hc; i++) {
            c[i] = c[i] * (double)scale[2] + (double)base[2 * hc + i];
        }
        mix_matrix(c, hc, o->iters, (double)o->hc_eps);
        ref_round(c, hc * hc, comb);
        collapse(host_row(&e->h, &o->x, t), pre, hc, o->d, o->eps, host_vec(&e->h, &o->norm),
                 e->tmp.row);
        ref_round(e->tmp.row, o->d, ref_out_row(e, &o->xn, &o->xn_act, t));
    }
    ref_out_finish(e, &o->xn, &o->xn_act, n_tok);
}

void ref_hc_head(const struct exec *e, const struct op *op)
{
    const struct op_hc_head *o = &op->hc_head;
    const struct step *s = &e->step.s;
    const float *scale = host_vec(&e->h, &o->scale), *base = host_vec(&e->h, &o->base);
    for (uint32_t row = 0; row < s->n_out; row++) {
        double mix[REF_HC_MAX], w[REF_HC_MAX];
        mix_finish(host_row(&e->h, &o->mixp, row), o->nc, o->hc, o->hc * o->d, o->eps, mix);
        for (uint32_t j = 0; j < o->hc; j++) {
            w[j] = sigmoid(mix[j] * (double)scale[0] + (double)base[j]) + (double)o->hc_eps;
        }
        collapse(host_row(&e->h, &o->x, s->out[row]), w, o->hc, o->d, o->eps,
                 host_vec(&e->h, &o->norm), e->tmp.row);
        ref_round(e->tmp.row, o->d, ref_out_row(e, &o->hn, &o->hn_act, row));
    }
    ref_out_finish(e, &o->hn, &o->hn_act, s->n_out);
}
