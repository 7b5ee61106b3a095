/* kern_c.h - the kernels of every cpu tier. Included once per tier, after a vocabulary (vec_c.h or
 * x86/vec_*.h) and the two macros KERN_NAME and KERN_INIT; all functions are static and reached
 * only through the table.
 *
 * Two kinds of code: products and reductions are written in the vocabulary, whose words fix the
 * order of operations of op.h; element-wise loops are plain C, which the compiler vectorises
 * without any freedom over the result (no contraction, no reassociation; fmaf is always one
 * rounding). So the tiers agree bit for bit. Read next: prod.c, which feeds the products. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "base/num.h"
#include "op/rows.h"
#include "quant/formats.h"

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Order in which lanes are visited: the halving tree joins neighbours of this list. */
static const uint8_t lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

/* Where the terms of lane l begin in a packed form of n terms: base[l]. */
static void lane_bases(size_t n, size_t base[16])
{
    size_t at = 0;
    for (int i = 0; i < 16; i++) {
        int l = lane_order[i];
        base[l] = at;
        at += n / 16 + ((size_t)l < n % 16);
    }
}

/* exp, error below 1.5 units in the last place, exactly 1 at 0, NaN passes, -inf gives 0.
 * x = n ln 2 + r with |r| <= ln 2 / 2; exp r by a polynomial; 2^n in two factors, so that results
 * below 2^-126 are rounded once, at the end. */
static inline float exp_one(float x)
{
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = fmaf(x, 0x1.715476p+0f, 0x1.8p23f);
    float n = shifted - 0x1.8p23f;
    float r = fmaf(n, -0x1.62e4p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0x1.a01a02p-13f;
    p = fmaf(p, r, 0x1.6c16c2p-10f);
    p = fmaf(p, r, 0x1.111112p-7f);
    p = fmaf(p, r, 0x1.555556p-5f);
    p = fmaf(p, r, 0x1.555556p-3f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r * r, r);
    p = p + 1.0f;
    uint32_t u;
    memcpy(&u, &shifted, 4);
    int32_t e = (int32_t)(u - 0x4B400000u), e1 = e >> 1, e2 = e - e1;
    uint32_t b1 = (uint32_t)(e1 + 127) << 23, b2 = (uint32_t)(e2 + 127) << 23;
    float s1, s2;
    memcpy(&s1, &b1, 4);
    memcpy(&s2, &b2, 4);
    return p * s1 * s2;
}

static void exp_vec(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = exp_one(x[i]);
    }
}

/* ---- weights to numbers ---- */

static void weight_decode(uint32_t type, const void *row, size_t k0, size_t n, float *out)
{
    size_t i = 0;
    if (type == QT_F16) {
        const char *p = (const char *)row + 2 * k0;
        for (; i + 16 <= n; i += 16) {
            v16_store(out + i, v16_load_f16(p + 2 * i));
        }
    } else if (type == QT_BF16) {
        const char *p = (const char *)row + 2 * k0;
        for (; i + 16 <= n; i += 16) {
            v16_store(out + i, v16_load_bf16(p + 2 * i));
        }
    }
    if (i < n) {
        quant_decode(type, row, k0 + i, n - i, out + i);
    }
}

static void codes_q8_0(const char *row, size_t n, struct row_codes *out)
{
    for (size_t b = 0; b < n / 32; b++) {
        const char *block = row + 34 * b;
        int8_t q[32];
        memcpy(q, block + 2, sizeof q);
        int16_t *w = out->w + 32 * b;
        for (int i = 0; i < 32; i++) {
            w[i] = q[i];
        }
        out->d[b] = f16_to_f32(load_le16(block));
    }
    out->has_min = false;
}

static void weight_codes(uint32_t type, const void *row, size_t n, struct row_codes *out)
{
    if (type == QT_Q8_0) {
        codes_q8_0(row, n, out);
        return;
    }
    out->has_min = type == QT_Q4_1 || type == QT_Q5_1 || type == QT_Q2_K || type == QT_Q4_K ||
                   type == QT_Q5_K;
    for (size_t b = 0; b < n / 32; b++) {
        struct codes32 c;
        quant_codes32(type, row, b, &c);
        memcpy(out->w + 32 * b, c.w, sizeof c.w);
        out->d[b] = c.d;
        out->m[b] = c.m;
        out->mc[2 * b] = c.mc[0];
        out->mc[2 * b + 1] = c.mc[1];
    }
}

/* ---- products, few tokens ---- */

static inline v16 load_w(uint32_t type, const char *p, size_t i)
{
    return type == QT_F32   ? v16_load(p + 4 * i)
           : type == QT_F16 ? v16_load_f16(p + 2 * i)
                            : v16_load_bf16(p + 2 * i);
}

/* Lanes of `acc` plus the terms [i, n) behind the last full vector, then the tree. */
static float dot_tail(v16 acc, uint32_t type, const void *w, const float *x, size_t i, size_t n)
{
    float c[16], tail[16];
    v16_store(c, acc);
    quant_decode(type, w, i, n - i, tail);
    for (size_t l = 0; i + l < n; l++) {
        c[l] = fmaf(tail[l], x[i + l], c[l]);
    }
    return v16_sum(v16_load(c));
}

/* Four products side by side: one of rows and tokens has stride 0. */
static inline void dot_four(uint32_t type, const char *const w[4], const float *const x[4],
                            size_t n, float out[4])
{
    v16 acc[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        UNROLL for (int j = 0; j < 4; j++)
        {
            acc[j] = v16_fma(load_w(type, w[j], i), v16_load(x[j] + i), acc[j]);
        }
    }
    if (i == n) {
        v16_sum4(acc, out);
        return;
    }
    for (int j = 0; j < 4; j++) {
        out[j] = dot_tail(acc[j], type, w[j], x[j], i, n);
    }
}

static inline void rows_typed(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                              const float *const *x, uint32_t n_tok, size_t n, float *out,
                              size_t out_ld)
{
    const char *base = w;
    float y[4];
    for (uint32_t t = 0; n_tok < 4 && t < n_tok; t++) {
        for (uint32_t r = 0; r < n_row; r += 4) {
            uint32_t left = n_row - r < 4 ? n_row - r : 4;
            const char *wr[4];
            const float *const xr[4] = {x[t], x[t], x[t], x[t]};
            for (uint32_t j = 0; j < 4; j++) {
                wr[j] = base + (r + (j < left ? j : 0)) * row_bytes;
            }
            dot_four(type, wr, xr, n, y);
            memcpy(out + t * out_ld + r, y, left * sizeof *y);
        }
    }
    for (uint32_t r = 0; n_tok >= 4 && r < n_row; r++) {
        const char *row = base + r * row_bytes;
        const char *const wr[4] = {row, row, row, row};
        for (uint32_t t = 0; t < n_tok; t += 4) {
            uint32_t left = n_tok - t < 4 ? n_tok - t : 4;
            const float *xr[4];
            for (uint32_t j = 0; j < 4; j++) {
                xr[j] = x[t + (j < left ? j : 0)];
            }
            dot_four(type, wr, xr, n, y);
            for (uint32_t j = 0; j < left; j++) {
                out[(t + j) * out_ld + r] = y[j];
            }
        }
    }
}

static void rows_f32(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                     const float *const *x, uint32_t n_tok, size_t n, float *out, size_t out_ld)
{
    if (type == QT_F32) { /* constant types, so that each loop is specialised */
        rows_typed(QT_F32, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    } else if (type == QT_F16) {
        rows_typed(QT_F16, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    } else {
        rows_typed(QT_BF16, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    }
}

/* Integer sums of 16 blocks as floats; those behind the last block are 0. */
static void block_sums(const struct row_codes *w, const struct act_codes *x, size_t b0,
                       size_t n_block, float i1[16])
{
    size_t b = 0;
    for (; b + 4 <= n_block; b += 4) {
        idot32x4(w->w + 32 * (b0 + b), x->q + 32 * (b0 + b), i1 + b);
    }
    for (; b < n_block; b++) {
        int32_t sum = 0;
        for (size_t i = 32 * (b0 + b); i < 32 * (b0 + b) + 32; i++) {
            sum += w->w[i] * x->q[i];
        }
        i1[b] = (float)sum;
    }
    for (; b < 16; b++) {
        i1[b] = 0.0f;
    }
}

static float dot_a8(const struct row_codes *w, const struct act_codes *x, size_t n)
{
    v16 c = v16_set1(0);
    for (size_t b0 = 0; b0 < n / 32; b0 += 16) {
        size_t left = n / 32 - b0 < 16 ? n / 32 - b0 : 16;
        float i1[16], dw[16] = {0}, da[16] = {0};
        block_sums(w, x, b0, left, i1);
        memcpy(dw, w->d + b0, left * sizeof *dw);
        memcpy(da, x->d + b0, left * sizeof *da);
        /* absent blocks add 0 to a lane that cannot be -0: a finite, exact no-op */
        c = v16_fma(v16_mul(v16_load(dw), v16_load(da)), v16_load(i1), c);
        if (w->has_min) {
            float i2[16] = {0}, mw[16] = {0};
            for (size_t b = 0; b < left; b++) {
                const int16_t *mc = w->mc + 2 * (b0 + b), *sum = x->sum + 2 * (b0 + b);
                i2[b] = (float)(mc[0] * sum[0] + mc[1] * sum[1]);
                mw[b] = -w->m[b0 + b];
            }
            c = v16_fma(v16_mul(v16_load(mw), v16_load(da)), v16_load(i2), c);
        }
    }
    return v16_sum(c);
}

/* Rows of Q8_0 (34 bytes a block: f16 scale, 32 codes) without unpacking. */
static float dot_q8_0(const char *row, const struct act_codes *x, size_t n)
{
    v16 c = v16_set1(0);
    for (size_t b0 = 0; b0 < n / 32; b0 += 16, row += 16 * 34) {
        size_t left = n / 32 - b0 < 16 ? n / 32 - b0 : 16, b = 0;
        uint16_t half[16] = {0};
        float i1[16] = {0}, da[16] = {0};
        for (; b + 4 <= left; b += 4) {
            idot_q8_0x4(row + 34 * b, x->q + 32 * (b0 + b), i1 + b);
        }
        for (; b < left; b++) {
            int32_t sum = 0;
            for (size_t i = 0; i < 32; i++) {
                sum += (int8_t)row[34 * b + 2 + i] * x->q[32 * (b0 + b) + i];
            }
            i1[b] = (float)sum;
        }
        for (b = 0; b < left; b++) {
            memcpy(&half[b], row + 34 * b, 2);
        }
        memcpy(da, x->d + b0, left * sizeof *da);
        c = v16_fma(v16_mul(v16_load_f16(half), v16_load(da)), v16_load(i1), c);
    }
    return v16_sum(c);
}

static void rows_q8_0(const void *w, size_t row_bytes, uint32_t n_row,
                      const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                      size_t out_ld)
{
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t t = 0; t < n_tok; t++) {
            out[t * out_ld + r] = dot_q8_0((const char *)w + r * row_bytes, &x[t], n);
        }
    }
}

static void row_a8(const struct row_codes *w, const struct act_codes *x, uint32_t n_tok,
                   size_t n, float *out, size_t out_ld)
{
    for (uint32_t t = 0; t < n_tok; t++) {
        out[t * out_ld] = dot_a8(w, &x[t], n);
    }
}

/* ---- products, many tokens: packing ---- */

static void pack_rows_f32(const float *w, size_t ld, uint32_t n_row, size_t n, float *panel)
{
    size_t base[16], i = 0;
    lane_bases(n, base);
    for (; i + 16 <= n; i += 16) {
        v16 r[16];
        for (uint32_t j = 0; j < 16; j++) {
            r[j] = j < n_row ? v16_load(w + j * ld + i) : v16_set1(0);
        }
        v16_transpose(r);
        for (int l = 0; l < 16; l++) {
            v16_store(panel + (base[l] + i / 16) * KERN_PANEL, r[l]);
        }
    }
    for (; i < n; i++) {
        float *to = panel + (base[i % 16] + i / 16) * KERN_PANEL;
        for (uint32_t j = 0; j < 16; j++) {
            to[j] = j < n_row ? w[j * ld + i] : 0.0f;
        }
    }
}

static void pack_row_a8(const struct row_codes *w, uint32_t r, size_t n, struct pack_w *panel)
{
    size_t base[16];
    lane_bases(n / 32, base);
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_w *to = &panel[base[b % 16] + b / 16];
        for (int p = 0; p < 16; p++) {
            memcpy(to->w[p][r], w->w + 32 * b + 2 * p, 4);
        }
        to->d[r] = w->d[b];
        to->m[r] = w->has_min ? -w->m[b] : 0.0f;
        memcpy(to->mc[r], w->has_min ? w->mc + 2 * b : (const int16_t[2]){0, 0}, 4);
    }
}

static void pack_tokens_f32(const float *const x[16], size_t n, float *lo, float *hi)
{
    size_t base[16], i = 0;
    lane_bases(n, base);
    for (; i + 16 <= n; i += 16) {
        v16 r[16];
        for (int j = 0; j < 16; j++) {
            r[j] = v16_load(x[j] + i);
        }
        v16_transpose(r);
        for (int l = 0; l < 16; l++) {
            size_t at = (base[l] + i / 16) * KERN_TOKENS;
            v16_store_halves(lo + at, hi + at, r[l]);
        }
    }
    for (; i < n; i++) {
        size_t at = (base[i % 16] + i / 16) * KERN_TOKENS;
        for (int j = 0; j < 8; j++) {
            lo[at + (size_t)j] = x[j][i];
            hi[at + (size_t)j] = x[j + 8][i];
        }
    }
}

static void pack_tokens_a8(const struct act_codes x[8], size_t n, struct pack_x *tile)
{
    size_t base[16];
    lane_bases(n / 32, base);
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_x *to = &tile[base[b % 16] + b / 16];
        for (int t = 0; t < KERN_TOKENS; t++) {
            int16_t wide[32];
            for (int i = 0; i < 32; i++) {
                wide[i] = x[t].q[32 * b + (size_t)i];
            }
            for (int p = 0; p < 16; p++) {
                memcpy(to->q[p][t], wide + 2 * p, 4);
            }
            to->d[t] = x[t].d[b];
            memcpy(to->sum[t], x[t].sum + 2 * b, 4);
        }
    }
}

/* ---- products, many tokens: tiles ---- */

/* Finished lanes wait here until the tree joins them: never more than five. */
struct lane_stack {
    v16 sum[5][V16_PANELS][V16_TOKENS];
    int n;
};

/* After the i-th lane of lane_order: pushes it and joins what the tree joins. */
static inline void lane_push(struct lane_stack *s, int i, v16 acc[V16_PANELS][V16_TOKENS])
{
    for (; i & 1; i >>= 1) {
        s->n--;
        for (int p = 0; p < V16_PANELS; p++) {
            UNROLL for (int t = 0; t < V16_TOKENS; t++)
            {
                acc[p][t] = v16_add(s->sum[s->n][p][t], acc[p][t]);
            }
        }
    }
    for (int p = 0; p < V16_PANELS; p++) { /* element by element: acc stays in registers */
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            s->sum[s->n][p][t] = acc[p][t];
        }
    }
    s->n++;
}

static inline void tile_part_f32(const float *const w[V16_PANELS], const float *x, size_t n,
                                 float out[][KERN_ROWS])
{
    struct lane_stack s;
    s.n = 0;
    size_t k = 0;
    for (int i = 0; i < 16; i++) {
        size_t end = k + n / 16 + (lane_order[i] < n % 16);
        v16 acc[V16_PANELS][V16_TOKENS];
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            UNROLL for (int t = 0; t < V16_TOKENS; t++)
            {
                acc[p][t] = v16_set1(0);
            }
        }
        for (; k < end; k++) {
            v16 wv[V16_PANELS];
            UNROLL for (int p = 0; p < V16_PANELS; p++)
            {
                wv[p] = v16_load(w[p] + k * KERN_PANEL);
            }
            UNROLL for (int t = 0; t < V16_TOKENS; t++)
            {
                v16 xv = v16_set1(x[k * KERN_TOKENS + (size_t)t]);
                UNROLL for (int p = 0; p < V16_PANELS; p++)
                {
                    acc[p][t] = v16_fma(wv[p], xv, acc[p][t]);
                }
            }
        }
        lane_push(&s, i, acc);
    }
    for (int p = 0; p < V16_PANELS; p++) {
        for (int t = 0; t < V16_TOKENS; t++) {
            v16_store(out[t] + p * KERN_PANEL, s.sum[0][p][t]);
        }
    }
}

static void tile_f32(const float *lo, const float *hi, const float *x, size_t n,
                     float out[KERN_TOKENS][KERN_ROWS])
{
    const float *const w[2] = {lo, hi};
    for (int p = 0; p < 2; p += V16_PANELS) {
        for (int t = 0; t < KERN_TOKENS; t += V16_TOKENS) {
            tile_part_f32(w + p, x + t, n, (float(*)[KERN_ROWS])(&out[t][p * KERN_PANEL]));
        }
    }
}

/* One block into the running lane sums. */
static inline void block_a8(const struct pack_w *const w[V16_PANELS], const struct pack_x *x,
                            int t0, bool has_min, v16 acc[V16_PANELS][V16_TOKENS])
{
    i16 sum[V16_PANELS][V16_TOKENS];
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            sum[p][t] = i16_zero();
        }
    }
    for (int i = 0; i < 16; i++) {
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            UNROLL for (int p = 0; p < V16_PANELS; p++)
            {
                sum[p][t] = i16_madd(sum[p][t], w[p]->w[i][0], x->q[i][t0 + t]);
            }
        }
    }
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        v16 d = v16_load(w[p]->d), m = v16_load(w[p]->m);
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            v16 da = v16_set1(x->d[t0 + t]);
            acc[p][t] = v16_fma(v16_mul(d, da), i16_to_f32(sum[p][t]), acc[p][t]);
            if (has_min) {
                i16 i2 = i16_madd(i16_zero(), w[p]->mc[0], x->sum[t0 + t]);
                acc[p][t] = v16_fma(v16_mul(m, da), i16_to_f32(i2), acc[p][t]);
            }
        }
    }
}

static inline void tile_part_a8(const struct pack_w *const w[V16_PANELS],
                                const struct pack_x *x, int t0, size_t n_block, bool has_min,
                                float out[][KERN_ROWS])
{
    struct lane_stack s;
    s.n = 0;
    size_t k = 0;
    for (int i = 0; i < 16; i++) {
        size_t end = k + n_block / 16 + (lane_order[i] < n_block % 16);
        v16 acc[V16_PANELS][V16_TOKENS];
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            UNROLL for (int t = 0; t < V16_TOKENS; t++)
            {
                acc[p][t] = v16_set1(0);
            }
        }
        for (; k < end; k++) {
            const struct pack_w *wk[V16_PANELS];
            UNROLL for (int p = 0; p < V16_PANELS; p++)
            {
                wk[p] = w[p] + k;
            }
            block_a8(wk, x + k, t0, has_min, acc);
        }
        lane_push(&s, i, acc);
    }
    for (int p = 0; p < V16_PANELS; p++) {
        for (int t = 0; t < V16_TOKENS; t++) {
            v16_store(out[t] + p * KERN_PANEL, s.sum[0][p][t]);
        }
    }
}

static void tile_a8(const struct pack_w *lo, const struct pack_w *hi, const struct pack_x *x,
                    size_t n, bool has_min, float out[KERN_TOKENS][KERN_ROWS])
{
    const struct pack_w *const w[2] = {lo, hi};
    for (int p = 0; p < 2; p += V16_PANELS) {
        for (int t = 0; t < KERN_TOKENS; t += V16_TOKENS) {
            tile_part_a8(w + p, x, t, n / 32, has_min,
                         (float(*)[KERN_ROWS])(&out[t][p * KERN_PANEL]));
        }
    }
}

/* ---- vectors ---- */

static float sum_squares(const float *x, size_t n)
{
    v16 acc = v16_set1(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v = v16_load(x + i);
        acc = v16_fma(v, v, acc);
    }
    float c[16];
    v16_store(c, acc);
    for (size_t l = 0; i + l < n; l++) {
        c[l] = fmaf(x[i + l], x[i + l], c[l]);
    }
    return v16_sum(v16_load(c));
}

static void scale_vec(const float *x, float r, const float *w, size_t n, float *y)
{
    if (!w) {
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i] * r;
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
}

static void swiglu(float *g, const float *u, size_t n, float lim, const float *wt)
{
    float top = lim > 0 ? lim : INFINITY;
    for (size_t i = 0; i < n; i++) { /* comparisons let NaN through */
        float a = g[i] > top ? top : g[i];
        float b = u[i] > top ? top : u[i];
        b = b < -top ? -top : b;
        g[i] = a / (1.0f + exp_one(-a)) * b;
    }
    for (size_t i = 0; wt && i < n; i++) {
        g[i] *= *wt;
    }
}

static void add_vec(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void floats_fp8(const struct row_geom *g, const uint8_t *codes, const uint8_t *scales,
                       float *out)
{
    size_t n = g->n - g->rope;
    for (size_t b = 0; b < n; b += 64) {
        float scale = e8m0_to_f32(scales[b / 64]);
        uint32_t u[64];
        for (int i = 0; i < 64; i++) { /* exponent field 0: multiples of 2^-9 */
            uint32_t c = codes[b + (size_t)i], a = c & 0x7Fu;
            float small = (float)(int32_t)a * 0x1p-9f;
            uint32_t su;
            memcpy(&su, &small, 4);
            uint32_t normal = (a << 20) + (120u << 23);
            uint32_t value = a < 8 ? su : normal;
            u[i] = (a == 0x7F ? 0x7FC00000u : value) | (c & 0x80u) << 24;
        }
        for (int i = 0; i < 64; i++) {
            float v;
            memcpy(&v, &u[i], 4);
            out[b + (size_t)i] = v * scale;
        }
    }
    for (size_t i = 0; i < g->rope; i++) {
        out[n + i] = bf16_to_f32(load_le16(codes + n + 2 * i));
    }
}

/* Magnitude of an E2M1 code as the bits of a float; the sign is the code's bit 3. */
static inline uint32_t e2m1_bits(uint32_t code)
{
    uint32_t exponent = code >> 1 & 3u, mantissa = code & 1u;
    uint32_t normal = (exponent + 126u) << 23 | mantissa << 22;
    uint32_t small = mantissa ? 0x3F000000u : 0u; /* 0 and 0.5 */
    return (exponent ? normal : small) | (code & 8u) << 28;
}

static void floats_fp4(const struct row_geom *g, const uint8_t *codes, const uint8_t *scales,
                       float *out)
{
    for (size_t b = 0; b < g->n; b += 32) {
        float scale = e8m0_to_f32(scales[b / 32]), v[32];
        uint32_t lo[16], hi[16];
        for (int i = 0; i < 16; i++) {
            uint32_t c = codes[b / 2 + (size_t)i];
            lo[i] = e2m1_bits(c & 15u);
            hi[i] = e2m1_bits(c >> 4);
        }
        uint32_t u[32];
        for (int i = 0; i < 16; i++) {
            u[2 * i] = lo[i];
            u[2 * i + 1] = hi[i];
        }
        memcpy(v, u, sizeof v);
        for (int i = 0; i < 32; i++) {
            out[b + (size_t)i] = v[i] * scale;
        }
    }
}

/* fp4_sim of op/rows.h without branches; each comparison that holds is one step up the list of
 * values 0, 0.5, 1, 1.5, 2, 3, 4, 6, written so that NaN climbs to the end. */
static void fp4_round(float *x, size_t n)
{
    for (size_t b = 0; b < n; b += 32, x += 32) {
        int32_t bits[32], max_bits = 0;
        memcpy(bits, x, sizeof bits);
        for (int i = 0; i < 32; i++) {
            int32_t a = bits[i] & 0x7FFFFFFF;
            a = a < 0x7F800000 ? a : 0;
            max_bits = a > max_bits ? a : max_bits;
        }
        float max = f32_from_bits((uint32_t)max_bits), floor = 6 * 0x1p-126f;
        max = max > floor ? max : floor;
        float scale = e8m0_to_f32(ue8m0_ceil(max * (1.0f / 6.0f)));
        for (int i = 0; i < 32; i++) {
            float a = fabsf(x[i] / scale), v = !(a <= 0.25f) ? 0.5f : 0.0f;
            v += !(a < 0.75f) ? 0.5f : 0.0f;
            v += !(a <= 1.25f) ? 0.5f : 0.0f;
            v += !(a < 1.75f) ? 0.5f : 0.0f;
            v += !(a <= 2.5f) ? 1.0f : 0.0f;
            v += !(a < 3.5f) ? 1.0f : 0.0f;
            v += !(a <= 5.0f) ? 2.0f : 0.0f;
            v = a != a ? v : copysignf(v, x[i]);
            x[i] = v * scale;
        }
    }
}

static void row_floats(const struct row_geom *g, const void *codes, const void *scales,
                       float *out)
{
    if (g->kind == ROW_FP8) {
        floats_fp8(g, codes, scales, out);
    } else if (g->kind == ROW_FP4) {
        floats_fp4(g, codes, scales, out);
    } else {
        row_decode(g, codes, scales, out);
    }
}

/* ---- hyper-connections ---- */

static void hc_chunk(const float *fn, const float *x, uint32_t hc, uint32_t m, float *out)
{
    v16 q = v16_set1(0);
    for (uint32_t j = 0; j < 2 * hc; j++) {
        v16 v = v16_load(x + 16 * j);
        q = v16_fma(v, v, q);
    }
    uint32_t i = 0;
    for (; i + 4 <= m; i += 4) {
        v16 acc[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
        const float *w = fn + (size_t)i * hc * KERN_CHUNK;
        for (uint32_t j = 0; j < 2 * hc; j++) {
            v16 v = v16_load(x + 16 * j);
            UNROLL for (int r = 0; r < 4; r++)
            {
                const float *wr = w + (size_t)r * hc * KERN_CHUNK + 16 * j;
                acc[r] = v16_fma(v16_load(wr), v, acc[r]);
            }
        }
        v16_sum4(acc, out + i);
    }
    for (; i < m; i++) {
        v16 acc = v16_set1(0);
        for (uint32_t j = 0; j < 2 * hc; j++) {
            acc = v16_fma(v16_load(fn + (size_t)i * hc * KERN_CHUNK + 16 * j),
                          v16_load(x + 16 * j), acc);
        }
        out[i] = v16_sum(acc);
    }
    out[m] = v16_sum(q);
}

static void hc_collapse(const float *x, size_t ld, const float *w, uint32_t hc, size_t n,
                        float *y)
{
    memset(y, 0, n * sizeof *y);
    for (uint32_t j = 0; j < hc; j++) {
        const float *xj = x + j * ld;
        float wj = w[j];
        for (size_t d = 0; d < n; d++) {
            y[d] = fmaf(wj, xj[d], y[d]);
        }
    }
}

static void hc_post(float *x, size_t ld, const float *post, const float *comb, uint32_t hc,
                    const float *y, size_t n)
{
    float fresh[16][KERN_ROWS]; /* [k][column] */
    for (uint32_t k = 0; k < hc; k++) {
        for (size_t d = 0; d < n; d++) {
            fresh[k][d] = post[k] * y[d];
        }
        for (uint32_t j = 0; j < hc; j++) {
            float c = comb[j * hc + k];
            for (size_t d = 0; d < n; d++) {
                fresh[k][d] = fmaf(c, x[j * ld + d], fresh[k][d]);
            }
        }
    }
    for (uint32_t k = 0; k < hc; k++) {
        memcpy(x + k * ld, fresh[k], n * sizeof *x);
    }
}

/* ---- attention ---- */

/* Scores of four heads and one row, without the scale. */
static inline void score_four(const float *const q[4], const float *row, size_t n, float out[4])
{
    v16 acc[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v = v16_load(row + i);
        UNROLL for (int j = 0; j < 4; j++)
        {
            acc[j] = v16_fma(v16_load(q[j] + i), v, acc[j]);
        }
    }
    if (i == n) {
        v16_sum4(acc, out);
        return;
    }
    for (int j = 0; j < 4; j++) {
        out[j] = dot_tail(acc[j], QT_F32, row, q[j], i, n);
    }
}

static void attn_scores(const float *q, uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float scale, float (*s)[KERN_HEADS])
{
    for (uint32_t h = 0; h < heads; h += 4) {
        const float *qh[4];
        for (uint32_t j = 0; j < 4; j++) { /* heads behind the last repeat it; never read */
            qh[j] = q + (size_t)(h + j < heads ? h + j : heads - 1) * n;
        }
        for (uint32_t i = 0; i < n_row; i++) {
            float out[4];
            score_four(qh, rows[i], n, out);
            for (uint32_t j = 0; j < 4; j++) {
                s[i][h + j] = out[j] * scale;
            }
        }
    }
    for (uint32_t h = (heads + 3) / 4 * 4; h < KERN_HEADS; h++) {
        for (uint32_t i = 0; i < n_row; i++) {
            s[i][h] = 0.0f;
        }
    }
}

static void attn_softmax(float (*s)[KERN_HEADS], uint32_t n_row, float *max, float *sum)
{
    float m[KERN_HEADS], total[KERN_HEADS];
    for (int h = 0; h < KERN_HEADS; h++) {
        m[h] = -INFINITY;
        total[h] = 0.0f;
    }
    for (uint32_t i = 0; i < n_row; i++) {
        for (int h = 0; h < KERN_HEADS; h++) {
            m[h] = s[i][h] > m[h] ? s[i][h] : m[h];
        }
    }
    for (uint32_t i = 0; i < n_row; i++) {
        for (int h = 0; h < KERN_HEADS; h++) {
            s[i][h] = exp_one(s[i][h] - m[h]);
        }
    }
    for (uint32_t i = 0; i < n_row; i++) {
        for (int h = 0; h < KERN_HEADS; h++) {
            total[h] += s[i][h];
        }
    }
    memcpy(max, m, sizeof m);
    memcpy(sum, total, sizeof total);
}

/* Columns [c, c + 64) of the V16_HEADS heads from h on: all sums stay in registers over the
 * entries. Heads behind the last repeat it. */
static inline void value_part(const float (*e)[KERN_HEADS], uint32_t h, uint32_t heads,
                              const float *const *rows, uint32_t n_row, size_t n, size_t c,
                              float *o)
{
    v16 acc[V16_HEADS][4];
    uint32_t head[V16_HEADS];
    for (uint32_t j = 0; j < V16_HEADS; j++) {
        head[j] = h + j < heads ? h + j : h;
        UNROLL for (int v = 0; v < 4; v++)
        {
            acc[j][v] = v16_set1(0);
        }
    }
    for (uint32_t i = 0; i < n_row; i++) {
        UNROLL for (int v = 0; v < 4; v++)
        {
            v16 row = v16_load(rows[i] + c + 16 * (size_t)v);
            UNROLL for (int j = 0; j < V16_HEADS; j++)
            {
                acc[j][v] = v16_fma(v16_set1(e[i][head[j]]), row, acc[j][v]);
            }
        }
    }
    for (uint32_t j = 0; j < V16_HEADS; j++) {
        for (int v = 0; v < 4; v++) {
            v16_store(o + head[j] * n + c + 16 * (size_t)v, acc[j][v]);
        }
    }
}

static void attn_values(const float (*e)[KERN_HEADS], uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float *o)
{
    for (uint32_t h = 0; h < heads; h += V16_HEADS) {
        for (size_t c = 0; c + 64 <= n; c += 64) {
            value_part(e, h, heads, rows, n_row, n, c, o);
        }
    }
    for (uint32_t h = 0; h < heads; h++) {
        for (size_t c = n / 64 * 64; c < n; c++) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < n_row; i++) {
                sum = fmaf(e[i][h], rows[i][c], sum);
            }
            o[h * n + c] = sum;
        }
    }
}

static void attn_merge(float *o, float a, const float *p, float b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        o[i] = o[i] * a + p[i] * b;
    }
}

static void div_vec(float *x, float by, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] / by;
    }
}

/* ---- compressor ---- */

static void pool(const float *const *a, const float *const *g, const float *const *ape,
                 uint32_t n_pos, size_t n, float *out)
{
    enum { W = 64 }; /* channels at a time, so that the sums stay in registers or L1 */
    for (size_t c0 = 0; c0 < n; c0 += W) {
        size_t w = n - c0 < W ? n - c0 : W;
        float max[W], den[W], num[W];
        for (size_t c = 0; c < w; c++) {
            max[c] = -INFINITY;
            den[c] = num[c] = 0.0f;
        }
        for (uint32_t i = 0; i < n_pos; i++) {
            for (size_t c = 0; c < w; c++) {
                float s = ape[i] ? g[i][c0 + c] + ape[i][c0 + c] : g[i][c0 + c];
                max[c] = s > max[c] ? s : max[c];
            }
        }
        for (uint32_t i = 0; i < n_pos; i++) {
            for (size_t c = 0; c < w; c++) {
                float s = ape[i] ? g[i][c0 + c] + ape[i][c0 + c] : g[i][c0 + c];
                float e = exp_one(s - max[c]);
                den[c] += e;
                num[c] = fmaf(e, a[i][c0 + c], num[c]);
            }
        }
        for (size_t c = 0; c < w; c++) {
            out[c0 + c] = num[c] / den[c];
        }
    }
}

/* ---- indexer ---- */

static void index_pack(const float *rows, uint32_t n_row, size_t n, float *panel)
{
    for (size_t k = 0; k < n; k += 32) {
        pack_rows_f32(rows + k, n, n_row, n - k < 32 ? n - k : 32, panel + k * KERN_PANEL);
    }
}

static void index_order(const float *q, size_t n, float *out)
{
    for (size_t k = 0; k < n; k += 32) {
        size_t w = n - k < 32 ? n - k : 32, base[16];
        lane_bases(w, base);
        for (size_t i = 0; i < w; i++) {
            out[k + base[i % 16] + i / 16] = q[k + i];
        }
    }
}

/* Dot products of one group of 32 elements: two terms a lane, 16 rows side by side. */
static inline v16 group_dot(const float *panel, const float *q)
{
    v16 stack[5];
    int n = 0;
    UNROLL for (int i = 0; i < 16; i++)
    {
        v16 c = v16_set1(0);
        c = v16_fma(v16_load(panel + 2 * i * KERN_PANEL), v16_set1(q[2 * i]), c);
        c = v16_fma(v16_load(panel + (2 * i + 1) * KERN_PANEL), v16_set1(q[2 * i + 1]), c);
        for (int m = i; m & 1; m >>= 1) {
            c = v16_add(stack[--n], c);
        }
        stack[n++] = c;
    }
    return stack[0];
}

/* The last group, shorter than 32: any length. */
static v16 group_dot_short(const float *panel, const float *q, size_t n)
{
    v16 stack[5];
    int top = 0;
    size_t k = 0;
    for (int i = 0; i < 16; i++) {
        size_t end = k + n / 16 + (lane_order[i] < n % 16);
        v16 c = v16_set1(0);
        for (; k < end; k++) {
            c = v16_fma(v16_load(panel + k * KERN_PANEL), v16_set1(q[k]), c);
        }
        for (int m = i; m & 1; m >>= 1) {
            c = v16_add(stack[--top], c);
        }
        stack[top++] = c;
    }
    return stack[0];
}

static void index_scores(const float *panel, const float *q, const float *w, uint32_t heads,
                         size_t n, float out[KERN_PANEL])
{
    float score[16] = {0};
    for (uint32_t h = 0; h < heads; h++, q += n) {
        v16 dot = v16_set1(0);
        for (size_t k = 0; k < n; k += 32) {
            v16 g = n - k >= 32 ? group_dot(panel + k * KERN_PANEL, q + k)
                                : group_dot_short(panel + k * KERN_PANEL, q + k, n - k);
            dot = v16_add(dot, g);
        }
        float d[16];
        v16_store(d, dot);
        for (int l = 0; l < 16; l++) {
            float v = d[l] < 0.0f ? 0.0f : d[l]; /* NaN stays */
            score[l] = fmaf(v, w[h], score[l]);
        }
    }
    memcpy(out, score, sizeof score);
}

/* ---- pick ---- */

static float exp_sum(const float *x, size_t n, float max)
{
    float c[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int l = 0; l < 16; l++) {
            c[l] += exp_one(x[i + (size_t)l] - max);
        }
    }
    for (size_t l = 0; i + l < n; l++) {
        c[l] += exp_one(x[i + l] - max);
    }
    return v16_sum(v16_load(c));
}

void KERN_INIT(struct cpu_kern *k)
{
    *k = (struct cpu_kern){
        .name = KERN_NAME,
        .weight_decode = weight_decode,
        .weight_codes = weight_codes,
        .rows_f32 = rows_f32,
        .rows_q8_0 = rows_q8_0,
        .row_a8 = row_a8,
        .pack_rows_f32 = pack_rows_f32,
        .pack_row_a8 = pack_row_a8,
        .pack_tokens_f32 = pack_tokens_f32,
        .pack_tokens_a8 = pack_tokens_a8,
        .tile_f32 = tile_f32,
        .tile_a8 = tile_a8,
        .exp_vec = exp_vec,
        .sum_squares = sum_squares,
        .scale_vec = scale_vec,
        .swiglu = swiglu,
        .add_vec = add_vec,
        .row_floats = row_floats,
        .fp4_round = fp4_round,
        .hc_chunk = hc_chunk,
        .hc_collapse = hc_collapse,
        .hc_post = hc_post,
        .attn_scores = attn_scores,
        .attn_softmax = attn_softmax,
        .attn_values = attn_values,
        .attn_merge = attn_merge,
        .div_vec = div_vec,
        .pool = pool,
        .index_pack = index_pack,
        .index_order = index_order,
        .index_scores = index_scores,
        .exp_sum = exp_sum,
    };
}
