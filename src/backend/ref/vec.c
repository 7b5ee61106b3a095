/* vec.c - the vector arithmetic that several ops of the reference backend share: products with
 * decoded weights, normalisation, rotation, selection of the largest, and rounding on output.
 *
 * All of it works on double. A weight is decoded to float first (that is its value), an A8
 * activation is read as d * q in double (that is its value), so a product differs from the real
 * number only by double rounding, and an optimised backend's error is what a test then
 * measures. Read next: linear.c, the simplest user. */
#include "backend/ref/ref_int.h"

double ref_dot(const float *w, struct act_row x, size_t k0, size_t n)
{
    if (x.f) {
        return dot_f32(w, x.f + k0, n);
    }
    double c[16] = {0};
    for (size_t i = 0; i < n; i++) {
        size_t k = k0 + i;
        c[i / 32 % 16] += (double)w[i] * ((double)x.d[k / 32] * (double)x.q[k]);
    }
    return lanes16_sum(c);
}

void ref_weight_row(const struct exec *e, const struct opmat *m, uint32_t mat, uint32_t row,
                    float *out)
{
    quant_decode(host_weight(&e->h, m)->type, host_mat_row(&e->h, m, mat, row), 0, m->cols,
                 out);
}

float *ref_out_row(const struct exec *e, const struct opnd *y, const struct opnd *y_act,
                   uint32_t row)
{
    return opnd_present(y) ? host_row(&e->h, y, row) : e->tmp.spill + (size_t)row * y_act->cols;
}

void ref_out_finish(const struct exec *e, const struct opnd *y, const struct opnd *y_act,
                    uint32_t n)
{
    if (!opnd_present(y_act)) {
        return;
    }
    for (uint32_t row = 0; row < n; row++) {
        act8_encode(ref_out_row(e, y, y_act, row), 0, y_act->cols, y_act->cols,
                    host_row(&e->h, y_act, row));
    }
}

void ref_rms_norm(double *x, uint32_t n, float eps, const float *w)
{
    double r = 1.0 / sqrt(sum_squares(x, n) / n + (double)eps);
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= w ? r * (double)w[i] : r;
    }
}

void ref_rope(double *x, uint32_t n, const struct rope_table *t, uint32_t pos, bool inverse)
{
    float cs[2 * ROPE_MAX];
    rope_angles(t, pos, cs);
    double *tail = x + n - 2 * t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        double a = tail[2 * i], b = tail[2 * i + 1];
        double c = (double)cs[2 * i], s = (double)cs[2 * i + 1];
        if (inverse) {
            s = -s;
        }
        tail[2 * i] = a * c - b * s;
        tail[2 * i + 1] = a * s + b * c;
    }
}

void ref_hadamard(double *x, uint32_t n)
{
    for (uint32_t stride = 1; stride < n; stride *= 2) {
        for (uint32_t i = 0; i < n; i++) {
            if ((i & stride) == 0) {
                double a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
        }
    }
    double norm = (double)(float)(1.0 / sqrt(n));
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= norm;
    }
}

void ref_round(const double *x, uint32_t n, float *out)
{
    for (uint32_t i = 0; i < n; i++) {
        out[i] = (float)x[i];
    }
}

uint32_t ref_top_k(const double *v, uint32_t n, uint32_t k, uint32_t *idx)
{
    uint32_t n_top = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = n_top; /* behind everything that is as large: lower indices come first */
        while (at > 0 && v[i] > v[idx[at - 1]]) {
            at--;
        }
        if (at == k) {
            continue;
        }
        n_top += n_top < k;
        for (uint32_t j = n_top - 1; j > at; j--) {
            idx[j] = idx[j - 1];
        }
        idx[at] = i;
    }
    return n_top;
}

void ref_sort(uint32_t *v, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        uint32_t x = v[i], at = i;
        for (; at > 0 && v[at - 1] > x; at--) {
            v[at] = v[at - 1];
        }
        v[at] = x;
    }
}

void ref_hc_post(const struct exec *e, const struct opnd *hc_x, const struct opnd *post,
                 const struct opnd *comb, uint32_t hc, uint32_t width, uint32_t t, uint32_t d,
                 double y)
{
    float *x = host_row(&e->h, hc_x, t); /* [hc][width] */
    const float *p = host_row(&e->h, post, t), *c = host_row(&e->h, comb, t);
    double xnew[REF_HC_MAX];
    for (uint32_t k = 0; k < hc; k++) {
        xnew[k] = (double)p[k] * y;
        for (uint32_t j = 0; j < hc; j++) {
            xnew[k] += (double)c[j * hc + k] * (double)x[(size_t)j * width + d];
        }
    }
    for (uint32_t k = 0; k < hc; k++) {
        x[(size_t)k * width + d] = (float)xnew[k];
    }
}

double ref_swiglu(double g, double u, float lim)
{
    if (lim > 0) { /* written so that NaN passes through */
        g = g > (double)lim ? (double)lim : g;
        u = u > (double)lim ? (double)lim : u < -(double)lim ? -(double)lim : u;
    }
    return g * sigmoid(g) * u;
}
