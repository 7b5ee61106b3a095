/* kern_c.h - the kernels of every cpu tier. Included once per tier, after a vocabulary (vec_c.h
 * or x86/vec_*.h) and the two macros KERN_NAME and KERN_INIT; all functions are static and
 * reached only through the table.
 *
 * Two kinds of code: products and reductions are written in the vocabulary, whose words fix the
 * order of operations of op.h; element-wise loops are plain C, which the compiler vectorises
 * without any freedom over the result (no contraction, no reassociation; fmaf is always one
 * rounding). So the tiers agree bit for bit. Read next: kern_prod.h, kern_float.h, kern_rows.h
 * and kern_index.h, the large families, included below; prod.c, which feeds the products. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/ahead.h"
#include "backend/cpu/kern.h"
#include "backend/cpu/kern_order.h"
#include "base/num.h"
#include "op/rows.h"
#include "quant/formats.h"

/* exp, error below 1.5 units in the last place, exactly 1 at 0, NaN passes, -inf gives 0. x = n
 * ln 2 + r with |r| <= ln 2 / 2; exp r by a polynomial; 2^n in two factors, so that results
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

#include "backend/cpu/kern_prod.h"
#include "backend/cpu/kern_rows.h"
#include "backend/cpu/kern_index.h"
#include "backend/cpu/kern_panel.h"
#include "backend/cpu/kern_tile.h"
#include "backend/cpu/kern_float.h"

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

/* As act8_encode (quant/act.c), whose comments say why. */
static void act8(const float *x, size_t n_block, int8_t *q, float *d, int16_t *sum)
{
    const int32_t least = 0x04000000, infinite = 0x7F800000; /* bits: 2^-119, infinity */
    const i16 magnitude = i16_set1(0x7FFFFFFF), back = i16_set1(-0x4B400000);
    const v16 shift = v16_set1(0x1.8p23f);
    for (size_t b = 0; b < n_block; b++, x += 32, q += 32, sum += 2) {
        v16 lo = v16_load(x), hi = v16_load(x + 16);
        int32_t max_bits = i16_top(
            i16_max(i16_and(v16_bits(lo), magnitude), i16_and(v16_bits(hi), magnitude)));
        if (max_bits < least || max_bits >= infinite) {
            memset(q, 0, 32);
            sum[0] = sum[1] = 0;
            d[b] = max_bits < least ? 0.0f : f32_from_bits(0x7FC00000u);
            continue;
        }
        float max = f32_from_bits((uint32_t)max_bits);
        v16 factor = v16_set1(127.0f / max);
        d[b] = max / 127.0f;
        lo = v16_add(v16_mul(lo, factor), shift);
        hi = v16_add(v16_mul(hi, factor), shift);
        i16_store_bytes(i16_add(v16_bits(lo), back), i16_add(v16_bits(hi), back), q, sum);
    }
}

/* ---- hyper-connections ---- */

/* Chunks of many tokens: a vector holds sixteen tokens, and weights are broadcast, so that no
 * sum is ever added up across a vector, which would cost as much as its eight products. */

/* Term q of lane l is column l + 16 (q mod 2) of stream q / 2. */
static void hc_pack(const float *const x[16], size_t d, uint32_t hc, uint32_t cols, float *tile)
{
    for (uint32_t q = 0; q < 2 * hc; q++) {
        const uint32_t first = q % 2 * 16, left = cols > first ? cols - first : 0;
        const size_t at = q / 2 * d + first;
        v16 r[16];
        if (left >= 16) {
            UNROLL for (int t = 0; t < 16; t++)
            {
                r[t] = v16_load(x[t] + at);
            }
        } else {
            for (int t = 0; t < 16; t++) {
                float part[16] = {0};
                memcpy(part, x[t] + at, left * sizeof *part);
                r[t] = v16_load(part);
            }
        }
        v16_transpose(r);
        UNROLL for (uint32_t i = 0; i < 16; i++)
        {
            v16_store(tile + (i * 2 * hc + q) * 16, r[lane_order[i]]);
        }
    }
}

/* n rows, side by side in a panel; the squares are returned if they are wanted. n and `squares`
 * are constants. */
static inline __attribute__((always_inline)) v16 hc_rows(const float *w, const float *tile,
                                                         uint32_t hc, int n, bool squares,
                                                         float *sums)
{
    enum { SUMS = V16_MIX_ROWS + 1 }; /* clang unrolls loops only to numbers written there */
    v16 stack[5][SUMS];
    const int n_sum = n + squares;
    for (int i = 0; i < 16; i++) {
        v16 acc[SUMS];
        UNROLL for (int r = 0; r < SUMS; r++)
        {
            acc[r] = v16_set1(0);
        }
        for (const float *end = w + 32 * (size_t)hc; w < end; w += 16, tile += 16) {
            v16 x = v16_load(tile);
            UNROLL for (int r = 0; r < V16_MIX_ROWS; r++)
            {
                if (r < n) {
                    acc[r] = v16_fma(v16_set1(w[r]), x, acc[r]);
                }
            }
            if (squares) {
                acc[n] = v16_fma(x, x, acc[n]);
            }
        }
        int top = lanes_waiting(i);
        for (int join = i; join & 1; join >>= 1) {
            top--;
            UNROLL for (int r = 0; r < SUMS; r++)
            {
                if (r < n_sum) {
                    acc[r] = v16_add(stack[top][r], acc[r]);
                }
            }
        }
        UNROLL for (int r = 0; r < SUMS; r++)
        {
            if (r < n_sum) {
                stack[top][r] = acc[r];
            }
        }
    }
    UNROLL for (int r = 0; r < V16_MIX_ROWS; r++)
    {
        if (r < n) {
            v16_store(sums + 16 * r, stack[0][r]);
        }
    }
    return stack[0][squares ? n : 0];
}

/* Rows behind the last are computed as they lie there; squares take the place of the first. */
static void hc_tile(const float *fn, const float *tile, uint32_t hc, uint32_t m, float *sums)
{
    enum { MOST = V16_MIX_ROWS, LESS = MOST > 8 ? 8 : MOST };
    const size_t panel = (size_t)hc * KERN_CHUNK * 16;
    uint32_t i = 0;
    for (; i + MOST < m; i += MOST) {
        hc_rows(fn + i / 16 * panel + i % 16, tile, hc, MOST, false, sums + (size_t)i * 16);
    }
    const float *w = fn + i / 16 * panel + i % 16;
    float *to = sums + (size_t)i * 16;
    v16 squares = m - i <= LESS ? hc_rows(w, tile, hc, LESS, true, to)
                                : hc_rows(w, tile, hc, MOST, true, to);
    v16_store(sums + (size_t)m * 16, squares);
}

/* Sixteen values of all tokens at a time; the last ones again if n is no multiple. */
static void hc_turn(const float *sums, uint32_t n, float *const *out, uint32_t n_tok)
{
    if (n < 16) {
        for (uint32_t t = 0; t < n_tok; t++) {
            for (uint32_t i = 0; i < n; i++) {
                out[t][i] = sums[i * 16 + t];
            }
        }
        return;
    }
    for (uint32_t i = 0; i < n; i += 16) {
        const uint32_t at = i + 16 <= n ? i : n - 16;
        v16 r[16];
        for (uint32_t j = 0; j < 16; j++) {
            r[j] = v16_load(sums + (at + j) * 16);
        }
        v16_transpose(r);
        for (uint32_t t = 0; t < n_tok; t++) {
            v16_store(out[t] + at, r[t]);
        }
    }
}

/* Four rows at a time: their lines of all streams lie far from each other, which no hardware
 * prefetches over a page's end, so those of the next four are asked for meanwhile. */
static inline void hc_typed(uint32_t type, const char *fn, size_t row_bytes, const float *x,
                            size_t d, uint32_t hc, uint32_t m, uint32_t n_chunk, float *out)
{
    const size_t bytes = type == QT_F32 ? 4 : 2;
    for (uint32_t i = 0; i < m; i += 4) {
        const char *row[4];
        const uint32_t left = m - i < 4 ? m - i : 4;
        for (uint32_t r = 0; r < 4; r++) {
            row[r] = fn + (i + (r < left ? r : 0)) * row_bytes;
        }
        for (uint32_t c = 0; c < n_chunk; c++) {
            v16 acc[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
            float y[4];
            for (uint32_t j = 0; j < hc; j++) {
                const size_t at = j * d + (size_t)c * KERN_CHUNK;
                v16 lo = v16_load(x + at), hi = v16_load(x + at + 16);
                UNROLL for (int r = 0; r < 4; r++)
                {
                    const char *w = row[r] + at * bytes;
                    for (size_t b = 0; b < KERN_CHUNK * bytes; b += AHEAD_LINE) {
                        __builtin_prefetch(w + 4 * row_bytes + b);
                    }
                    acc[r] = v16_fma(load_w(type, w, 0), lo, acc[r]);
                    acc[r] = v16_fma(load_w(type, w, 16), hi, acc[r]);
                }
            }
            v16_sum4(acc, y);
            memcpy(out + (size_t)c * (m + 1) + i, y, left * sizeof *y);
        }
    }
    for (uint32_t c = 0; c < n_chunk; c++) {
        v16 q = v16_set1(0);
        for (uint32_t j = 0; j < 2 * hc; j++) {
            v16 v = v16_load(x + j / 2 * d + (size_t)c * KERN_CHUNK + 16 * (j % 2));
            q = v16_fma(v, v, q);
        }
        out[(size_t)c * (m + 1) + m] = v16_sum(q);
    }
}

static void hc_chunks(uint32_t type, const void *fn, size_t row_bytes, const float *x, size_t d,
                      uint32_t hc, uint32_t m, uint32_t n_chunk, float *out)
{
    if (type == QT_F32) { /* constant types, so that each loop is specialised */
        hc_typed(QT_F32, fn, row_bytes, x, d, hc, m, n_chunk, out);
    } else if (type == QT_F16) {
        hc_typed(QT_F16, fn, row_bytes, x, d, hc, m, n_chunk, out);
    } else {
        hc_typed(QT_BF16, fn, row_bytes, x, d, hc, m, n_chunk, out);
    }
}

static void hc_collapse(const float *x, size_t ld, const float *w, uint32_t hc, size_t n,
                        float *y)
{
    size_t d = 0;
    for (; d + 16 <= n; d += 16) {
        v16 sum = v16_set1(0);
        for (uint32_t j = 0; j < hc; j++) {
            sum = v16_fma(v16_set1(w[j]), v16_load(x + j * ld + d), sum);
        }
        v16_store(y + d, sum);
    }
    for (; d < n; d++) {
        y[d] = 0.0f;
        for (uint32_t j = 0; j < hc; j++) {
            y[d] = fmaf(w[j], x[j * ld + d], y[d]);
        }
    }
}

/* Four streams, as V4 has: old and fresh values of 16 columns stay in registers. */
static inline void hc_post4(float *x, size_t ld, const float *post, const float *comb,
                            const float *y)
{
    v16 old[4], add = v16_load(y);
    UNROLL for (uint32_t j = 0; j < 4; j++)
    {
        old[j] = v16_load(x + j * ld);
    }
    UNROLL for (uint32_t k = 0; k < 4; k++)
    {
        v16 fresh = v16_mul(v16_set1(post[k]), add);
        UNROLL for (uint32_t j = 0; j < 4; j++)
        {
            fresh = v16_fma(v16_set1(comb[j * 4 + k]), old[j], fresh);
        }
        v16_store(x + k * ld, fresh);
    }
}

static void hc_post(float *x, size_t ld, const float *post, const float *comb, uint32_t hc,
                    const float *y, size_t n)
{
    size_t d = 0;
    for (; hc == 4 && d + 16 <= n; d += 16) {
        hc_post4(x + d, ld, post, comb, y + d);
    }
    for (; d < n; d++) {
        float fresh[16];
        for (uint32_t k = 0; k < hc; k++) {
            fresh[k] = post[k] * y[d];
        }
        for (uint32_t j = 0; j < hc; j++) {
            for (uint32_t k = 0; k < hc; k++) {
                fresh[k] = fmaf(comb[j * hc + k], x[j * ld + d], fresh[k]);
            }
        }
        for (uint32_t k = 0; k < hc; k++) {
            x[k * ld + d] = fresh[k];
        }
    }
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

#ifndef KERN_TIER_FEW
#define KERN_TIER_FEW KERN_FEW
#endif

void KERN_INIT(struct cpu_kern *k)
{
    *k = (struct cpu_kern){
        .name = KERN_NAME,
        .weight_decode = weight_decode,
        .weight_codes = weight_codes,
        .rows_f32 = rows_f32,
        .rows_a8 = {[QT_Q8_0] = rows_q8_0},
        .few = KERN_TIER_FEW,
        .row_a8 = row_a8,
        .pack_rows_f32 = pack_rows_f32,
        .pack_tokens_f32 = pack_tokens_f32,
        .pack_tokens_a8 = pack_tokens_a8,
        .tiles_f32 = tiles_f32,
        .exp_vec = exp_vec,
        .sum_squares = sum_squares,
        .scale_vec = scale_vec,
        .swiglu = swiglu,
        .add_vec = add_vec,
        .act8 = act8,
        .row_floats = row_floats,
        .row_store = row_store,
        .hadamard = hadamard_vec,
        .fp4_round = fp4_round,
        .hc_pack = hc_pack,
        .hc_tile = hc_tile,
        .hc_turn = hc_turn,
        .hc_chunks = hc_chunks,
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
        .index_rows = index_rows,
        .index_query = index_query,
        .index_dots = index_dots,
        .exp_sum = exp_sum,
    };
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        k->panels.pack[type] = pack_panel;
        k->panels.tiles[type] = tiles_a8(type);
    }
}
