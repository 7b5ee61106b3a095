/* ref_int.h - private to backend/ref: the running program, its scratch, and the few pieces of
 * arithmetic that the op files share. Everything is computed in double and rounded to float
 * only when an op stores its output; sums run in the order of op/op.h. */
#ifndef BACKEND_REF_REF_INT_H
#define BACKEND_REF_REF_INT_H

#include <math.h>

#include "backend/host/host.h"
#include "op/rows.h"
#include "quant/act.h"
#include "quant/formats.h"

enum {
    REF_HC_MAX = 16, /* residual streams */
    REF_SPLIT = 128, /* ATTN: entries of one split */
};

/* Temporary arrays, sized when the program is compiled; none lives longer than one op. */
struct ref_scratch {
    float *w[2];       /* decoded weight rows */
    double *row;       /* one vector before rounding */
    float *rounded;    /* the same, rounded to be stored or encoded */
    float *spill;      /* F32 outputs that only exist in A8 form */
    double *part;      /* MOE_DOWN: one product per (token, slot) */
    double *score;     /* one per index row, expert or token id */
    uint32_t *order;   /* what top_k keeps */
    float *kv;         /* ATTN: the rows of one split; COMPRESS, INDEX_SELECT: one row */
    double *acc, *den; /* ATTN: O [heads][n]; M and S [heads][2] */
};

/* A compiled program: the list itself, where its spaces are, and the step being run. */
struct exec {
    const struct program *p;
    struct host_bind h;
    struct host_step step;
    struct ref_scratch tmp;
};

/* ---- sums (op.h, "lanes16") ---- */
static inline double lanes16_sum(double c[16])
{
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            c[l] += c[l + half];
        }
    }
    return c[0];
}
static inline double dot_f32(const float *w, const float *x, size_t n)
{
    double c[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) { /* element i goes to lane i % 16 */
        for (size_t l = 0; l < 16; l++) {
            c[l] += (double)w[i + l] * (double)x[i + l]; /* exact product of two floats */
        }
    }
    for (; i < n; i++) {
        c[i % 16] += (double)w[i] * (double)x[i];
    }
    return lanes16_sum(c);
}
static inline double sum_squares(const double *x, size_t n)
{
    double c[16] = {0};
    for (size_t i = 0; i < n; i++) {
        c[i % 16] += x[i] * x[i];
    }
    return lanes16_sum(c);
}

static inline double sigmoid(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* ---- activation rows, as weights read them ---- */
struct act_row {
    const float *f;  /* F32 form, or NULL: */
    const int8_t *q; /* A8 form: value = d[i / 32] * q[i] */
    const float *d;
};
/* Row of the form that weight w reads. */
static inline struct act_row ref_act_row(const struct exec *e, const struct opmat *w,
                                         const struct opnd *x, const struct opnd *x_act,
                                         uint32_t row)
{
    if (w->act == FORM_F32) {
        return (struct act_row){.f = host_row(&e->h, x, row)};
    }
    void *a8 = host_row(&e->h, x_act, row);
    return (struct act_row){.q = act8_q(a8), .d = act8_d(a8, x_act->cols)};
}
/* Product of decoded weights w[0..n) and the row's elements from k0 on. */
double ref_dot(const float *w, struct act_row x, size_t k0, size_t n);

/* Decodes row `row` of matrix `mat` into out. */
void ref_weight_row(const struct exec *e, const struct opmat *m, uint32_t mat, uint32_t row,
                    float *out);

/* ---- outputs that exist in F32 form, in A8 form, or both ---- */
/* Where to put row `row` of output y: in the operand, or in scratch if only the A8 form exists.
 */
float *ref_out_row(const struct exec *e, const struct opnd *y, const struct opnd *y_act,
                   uint32_t row);
/* When rows [0, n) are complete: writes their A8 form, if there is one. */
void ref_out_finish(const struct exec *e, const struct opnd *y, const struct opnd *y_act,
                    uint32_t n);

/* ---- vectors ---- */
/* x *= 1 / sqrt(mean(x^2) + eps), then times w if there is one. */
void ref_rms_norm(double *x, uint32_t n, float eps, const float *w);
/* Rotates the pairs of the last 2 * n_pairs values of x[0..n) by the angles of position pos. */
void ref_rope(double *x, uint32_t n, const struct rope_table *t, uint32_t pos, bool inverse);
void ref_hadamard(double *x, uint32_t n);
/* out[i] = (float)x[i]. */
void ref_round(const double *x, uint32_t n, float *out);
/* Indices of the k largest of v[0..n), largest first, ties to the lower index; returns how
 * many. No NaN in v. */
uint32_t ref_top_k(const double *v, uint32_t n, uint32_t k, uint32_t *idx);
/* Ascending. */
void ref_sort(uint32_t *v, uint32_t n);
/* Xnew[k][d] = post[k] * y + sum over j of comb[j][k] * X[j][d], for column d of token t
 * (model.md 5, HCpost). */
void ref_hc_post(const struct exec *e, const struct opnd *hc_x, const struct opnd *post,
                 const struct opnd *comb, uint32_t hc, uint32_t width, uint32_t t, uint32_t d,
                 double y);
/* Clamped SwiGLU of one gate and up value (model.md 10); lim 0: no clamp. */
double ref_swiglu(double g, double u, float lim);

/* ---- the ops; definitions in op/op.h ---- */
typedef void ref_op(const struct exec *e, const struct op *op);
ref_op ref_embed, ref_linear, ref_rms_norm_op, ref_linear_hc, ref_ffn_up; /* linear.c */
ref_op ref_hc_mix, ref_hc_norm, ref_hc_head;                              /* hc.c */
ref_op ref_kv_row, ref_head_finish, ref_attn, ref_ring_store;             /* attn.c */
ref_op ref_compress;                                                      /* compress.c */
ref_op ref_index_select;                                                  /* index.c */
ref_op ref_route, ref_moe_up, ref_moe_down;                               /* moe.c */
ref_op ref_pick;                                                          /* pick.c */

#endif
