/* linear.c - embedding rows, matrix products and the ops built on them: EMBED, LINEAR,
 * RMS_NORM, LINEAR_HC, FFN_UP (op/op.h).
 *
 * Every product is y[t][i] = sum over k of w[i][k] * x[t][k]. The loops run over weight rows
 * outside and tokens inside, so that a row is decoded once; a token's value does not depend on
 * that. A weight reads its input in the form its opmat names: floats, or 8-bit blocks.
 * Read next: hc.c, where the residual streams come from and go to. */
#include <string.h>

#include "backend/ref/ref_int.h"

void ref_embed(const struct exec *e, const struct op *op)
{
    const struct op_embed *o = &op->embed;
    const struct step *s = &e->step.s;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        float *x = host_row(&e->h, &o->x, t);
        ref_weight_row(e, &o->table, 0, s->tok[t], x);
        for (uint32_t j = 1; j < o->hc; j++) {
            memcpy(x + (size_t)j * o->d, x, o->d * sizeof *x);
        }
    }
}

void ref_linear(const struct exec *e, const struct op *op)
{
    const struct op_linear *o = &op->linear;
    uint32_t n_rows = step_rows(&e->step.s, o->rows_out);
    float *w = e->tmp.w[0];
    for (uint32_t p = 0; p < o->n_part; p++) {
        const struct opmat *m = &o->part[p].w;
        uint32_t groups = o->groups > 1 ? o->groups : 1;
        for (uint32_t i = 0; i < m->rows; i++) {
            uint32_t g = i / (m->rows / groups);
            ref_weight_row(e, m, 0, i, w);
            for (uint32_t t = 0; t < n_rows; t++) {
                struct act_row x = ref_act_row(e, m, &o->x, &o->x_act, t);
                float *y = ref_out_row(e, &o->part[p].y, &o->y_act, t);
                y[i] = (float)ref_dot(w, x, (size_t)g * m->cols, m->cols);
            }
        }
    }
    ref_out_finish(e, &o->part[0].y, &o->y_act, n_rows);
}

void ref_rms_norm_op(const struct exec *e, const struct op *op)
{
    const struct op_rms_norm *o = &op->rms_norm;
    uint32_t n_tok = e->step.s.n_tok;
    double *row = e->tmp.row;
    for (uint32_t t = 0; t < n_tok; t++) {
        const float *x = host_row(&e->h, &o->x, t);
        for (uint32_t i = 0; i < o->n; i++) {
            row[i] = (double)x[i];
        }
        ref_rms_norm(row, o->n, o->eps, host_vec(&e->h, &o->w));
        ref_round(row, o->n, ref_out_row(e, &o->y, &o->y_act, t));
    }
    ref_out_finish(e, &o->y, &o->y_act, n_tok);
}

void ref_linear_hc(const struct exec *e, const struct op *op)
{
    const struct op_linear_hc *o = &op->linear_hc;
    float *w = e->tmp.w[0];
    for (uint32_t d = 0; d < o->d; d++) {
        ref_weight_row(e, &o->w, 0, d, w);
        for (uint32_t t = 0; t < e->step.s.n_tok; t++) {
            struct act_row x = ref_act_row(e, &o->w, &o->x, &o->x_act, t);
            double y = ref_dot(w, x, 0, o->w.cols);
            ref_hc_post(e, &o->hc_x, &o->post, &o->comb, o->hc, o->d, t, d, y);
        }
    }
}

void ref_ffn_up(const struct exec *e, const struct op *op)
{
    const struct op_ffn_up *o = &op->ffn_up;
    uint32_t n_tok = e->step.s.n_tok, d = o->w1.cols;
    float *w1 = e->tmp.w[0], *w3 = e->tmp.w[1];
    for (uint32_t f = 0; f < o->f; f++) {
        ref_weight_row(e, &o->w1, 0, f, w1);
        ref_weight_row(e, &o->w3, 0, f, w3);
        for (uint32_t t = 0; t < n_tok; t++) {
            double g = ref_dot(w1, ref_act_row(e, &o->w1, &o->x, &o->x_act, t), 0, d);
            double u = ref_dot(w3, ref_act_row(e, &o->w3, &o->x, &o->x_act, t), 0, d);
            ref_out_row(e, &o->h, &o->h_act, t)[f] = (float)ref_swiglu(g, u, o->lim);
        }
    }
    ref_out_finish(e, &o->h, &o->h_act, n_tok);
}
