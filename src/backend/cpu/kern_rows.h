/* kern_rows.h - the part of kern_c.h that works on stored rows: decoding them, FP4 rounding,
 * attention and the compressor's pooling. Included by kern_c.h only.
 *
 * Attention keeps scores as [entry][16 heads], so that maximum, exp and sum of all heads run
 * side by side while each head's sum stays in entry order. The indexer holds 16 rows in the
 * lanes and joins the 16 partial sums of a group as the tiles of kern_prod.h do. Read next:
 * attn.c, index.c, compress.c, the callers. */
#ifndef CPU_KERN_ROWS_H
#define CPU_KERN_ROWS_H

/* ---- stored rows ---- */

/* One block of 64 E4M3 codes, any code and scale. */
static void block_fp8(const uint8_t *codes, uint8_t scale_code, float *out)
{
    float scale = e8m0_to_f32(scale_code);
    uint32_t u[64];
    for (int i = 0; i < 64; i++) { /* exponent field 0: multiples of 2^-9 */
        uint32_t c = codes[i], a = c & 0x7Fu;
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
        out[i] = v * scale;
    }
}

#ifdef V16_FAST_F16
/* An E4M3 code moved up by 7 bits is the binary16 of 2^-8 of its value, subnormals included;
 * what is left is one product with 2^8 of the scale. False: NaN codes or a scale too large. */
static bool block_fp8_f16(const uint8_t *codes, uint8_t scale_code, float *out)
{
    uint16_t h[64];
    uint8_t nan = 0;
    for (int i = 0; i < 64; i++) {
        nan |= (uint8_t)((codes[i] & 0x7F) == 0x7F);
        h[i] = (uint16_t)((uint32_t)(int32_t)(int8_t)codes[i] << 7 & 0xBFFFu);
    }
    if (nan || scale_code > 240) {
        return false;
    }
    v16 scale = v16_set1(f32_from_bits(((uint32_t)scale_code + 8) << 23));
    for (int i = 0; i < 64; i += 16) {
        v16_store(out + i, v16_mul(v16_load_f16(h + i), scale));
    }
    return true;
}
#endif

static void floats_fp8(const struct row_geom *g, const uint8_t *codes, const uint8_t *scales,
                       float *out)
{
    size_t n = g->n - g->rope;
    for (size_t b = 0; b < n; b += 64) {
#ifdef V16_FAST_F16
        if (block_fp8_f16(codes + b, scales[b / 64], out + b)) {
            continue;
        }
#endif
        block_fp8(codes + b, scales[b / 64], out + b);
    }
    size_t i = 0;
    for (; i + 16 <= g->rope; i += 16) {
        v16_store(out + n + i, v16_load_bf16(codes + n + 2 * i));
    }
    for (; i < g->rope; i++) {
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

/* ---- making rows ---- */

typedef float f16lanes __attribute__((vector_size(64)));

/* One stage inside 16 lanes: a lane with bit `stride` clear takes x + y, its partner x - y. */
#define HADAMARD_STAGE(stride, ...)                                         \
    do {                                                                    \
        f16lanes other = __builtin_shufflevector(v, v, __VA_ARGS__), signs; \
        for (int l = 0; l < 16; l++) {                                      \
            signs[l] = l & (stride) ? -1.0f : 1.0f;                         \
        }                                                                   \
        v = other + v * signs;                                              \
    } while (0)

/* hadamard of op/rows.h: strides below 16 inside 16 lanes at a time, the others between them.
 * The products with 1 and -1 are exact. */
static void hadamard_vec(float *x, size_t n)
{
    if (n % 16 != 0) {
        hadamard(x, (uint32_t)n);
        return;
    }
    for (size_t i = 0; i < n; i += 16) {
        f16lanes v;
        memcpy(&v, x + i, sizeof v);
        HADAMARD_STAGE(1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
        HADAMARD_STAGE(2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
        HADAMARD_STAGE(4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
        HADAMARD_STAGE(8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
        memcpy(x + i, &v, sizeof v);
    }
    for (size_t stride = 16; stride < n; stride *= 2) {
        for (size_t i = 0; i < n; i += 2 * stride) {
            for (size_t j = i; j < i + stride; j += 16) {
                v16 a = v16_load(x + j), b = v16_load(x + j + stride);
                v16_store(x + j, v16_add(a, b));
                v16_store(x + j + stride, v16_fma(b, v16_set1(-1.0f), a));
            }
        }
    }
    float norm = (float)(1.0 / sqrt((double)n));
    for (size_t i = 0; i < n; i++) {
        x[i] *= norm;
    }
}

/* Bits of the largest finite magnitude of n values, at least those of floor. */
static inline int32_t max_finite_bits(const float *x, int n, float floor)
{
    int32_t max_bits;
    memcpy(&max_bits, &floor, 4);
    for (int i = 0; i < n; i++) {
        int32_t a;
        memcpy(&a, x + i, 4);
        a &= 0x7FFFFFFF;
        a = a < 0x7F800000 ? a : 0;
        max_bits = a > max_bits ? a : max_bits;
    }
    return max_bits;
}

/* f32_to_e4m3 of base/num.h without branches, for 64 values; what is not finite is NaN. */
static void store_fp8(const float *x, uint8_t *codes, uint8_t *scale_code)
{
    float max = f32_from_bits((uint32_t)max_finite_bits(x, 64, 1e-4f));
    *scale_code = ue8m0_ceil(max * (1.0f / 448.0f));
    float scale = e8m0_to_f32(*scale_code);
    for (int i = 0; i < 64; i++) {
        float y = x[i] / scale, small;
        uint32_t own, u;
        memcpy(&own, x + i, 4);
        memcpy(&u, &y, 4);
        uint32_t a = u & 0x7FFFFFFFu, s;
        memcpy(&small, &a, 4);
        small += 0x1p14f; /* steps of 2^-9 */
        memcpy(&s, &small, 4);
        uint32_t normal = (a + 0x7FFFFu + (a >> 20 & 1u) - 0x3C000000u) >> 20;
        uint32_t c = a < 0x3C800000u ? s - 0x46800000u : normal;
        c = (int32_t)a >= 0x43E00000 ? 0x7Eu : c;
        c |= u >> 24 & 0x80u;
        codes[i] = (uint8_t)((own & 0x7F800000u) == 0x7F800000u ? 0x7Fu : c);
    }
}

/* f32_to_e2m1 without branches, for 32 values; a NaN is the code of 6. */
static void store_fp4(const float *x, uint8_t *codes, uint8_t *scale_code)
{
    float max = f32_from_bits((uint32_t)max_finite_bits(x, 32, 6 * 0x1p-126f));
    *scale_code = ue8m0_ceil(max * (1.0f / 6.0f));
    float scale = e8m0_to_f32(*scale_code);
    uint8_t c[32];
    for (int i = 0; i < 32; i++) {
        float y = x[i] / scale, a = fabsf(y);
        uint32_t u;
        memcpy(&u, &y, 4);
        uint32_t v = !(a <= 0.25f);
        v += !(a < 0.75f);
        v += !(a <= 1.25f);
        v += !(a < 1.75f);
        v += !(a <= 2.5f);
        v += !(a < 3.5f);
        v += !(a <= 5.0f);
        c[i] = (uint8_t)(v | (y != y ? 0 : u >> 28 & 8u));
    }
    for (int i = 0; i < 16; i++) {
        codes[i] = (uint8_t)(c[2 * i] | c[2 * i + 1] << 4);
    }
}

static void row_store(const struct row_geom *g, const float *x, uint8_t *codes, uint8_t *scales)
{
    if (g->kind == ROW_FP8) {
        uint32_t n = g->n - g->rope;
        memset(scales, 0, g->scale_bytes);
        for (uint32_t b = 0; b < n; b += 64) {
            store_fp8(x + b, codes + b, scales + b / 64);
        }
        for (uint32_t i = 0; i < g->rope; i++) {
            store_le16(codes + n + 2 * i, f32_to_bf16(x[n + i]));
        }
    } else if (g->kind == ROW_FP4) {
        for (uint32_t b = 0; b < g->n; b += 32) {
            store_fp4(x + b, codes + b / 2, scales + b / 32);
        }
    } else {
        row_encode(g, x, codes, scales);
    }
}

/* ---- reading rows ---- */

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

/* ---- attention ---- */

enum {
    SCORE_CELLS = V16_SCORE_HEADS * V16_SCORE_ROWS, /* a multiple of 4 */
    VALUE_COLS = 16 * V16_VALUE_COLS
};

/* Scores, without the scale, of V16_SCORE_HEADS heads and V16_SCORE_ROWS rows, whose partial
 * sums all stay in registers. */
static inline void score_block(const float *const *q, const float *const *rows, size_t n,
                               float out[SCORE_CELLS])
{
    v16 acc[SCORE_CELLS];
    UNROLL for (int c = 0; c < SCORE_CELLS; c++)
    {
        acc[c] = v16_set1(0);
    }
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 v[V16_SCORE_HEADS];
        UNROLL for (int j = 0; j < V16_SCORE_HEADS; j++)
        {
            v[j] = v16_load(q[j] + i);
        }
        UNROLL for (int r = 0; r < V16_SCORE_ROWS; r++)
        {
            v16 row = v16_load(rows[r] + i);
            UNROLL for (int j = 0; j < V16_SCORE_HEADS; j++)
            {
                v16 *a = &acc[r * V16_SCORE_HEADS + j];
                *a = v16_fma(v[j], row, *a);
            }
        }
    }
    if (i == n) {
        UNROLL for (int c = 0; c < SCORE_CELLS; c += 4)
        {
            v16_sum4(acc + c, out + c);
        }
        return;
    }
    for (int c = 0; c < SCORE_CELLS; c++) {
        out[c] =
            dot_tail(acc[c], QT_F32, rows[c / V16_SCORE_HEADS], q[c % V16_SCORE_HEADS], i, n);
    }
}

/* A block of rows meets all heads while it lies in the nearest cache. Rows and heads behind the
 * last repeat it. */
static void attn_scores(const float *q, uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float scale, float (*s)[KERN_HEADS])
{
    for (uint32_t i = 0; i < n_row; i += V16_SCORE_ROWS) {
        const float *row[V16_SCORE_ROWS];
        for (uint32_t r = 0; r < V16_SCORE_ROWS; r++) {
            row[r] = rows[i + r < n_row ? i + r : n_row - 1];
        }
        for (uint32_t h = 0; h < heads; h += V16_SCORE_HEADS) {
            const float *qh[V16_SCORE_HEADS];
            float out[SCORE_CELLS];
            for (uint32_t j = 0; j < V16_SCORE_HEADS; j++) {
                qh[j] = q + (size_t)(h + j < heads ? h + j : heads - 1) * n;
            }
            score_block(qh, row, n, out);
            for (uint32_t r = 0; r < V16_SCORE_ROWS && i + r < n_row; r++) {
                for (uint32_t j = 0; j < V16_SCORE_HEADS; j++) {
                    s[i + r][h + j] = out[r * V16_SCORE_HEADS + j] * scale;
                }
            }
        }
        uint32_t h0 = (heads + V16_SCORE_HEADS - 1) / V16_SCORE_HEADS * V16_SCORE_HEADS;
        for (uint32_t r = i; r < i + V16_SCORE_ROWS && r < n_row; r++) {
            for (uint32_t h = h0; h < KERN_HEADS; h++) {
                s[r][h] = 0.0f;
            }
        }
    }
}

static void attn_softmax(float (*s)[KERN_HEADS], uint32_t n_row, float *max, float *sum)
{
    v16 m = v16_set1(-INFINITY), total = v16_set1(0);
    for (uint32_t i = 0; i < n_row; i++) {
        m = v16_max(v16_load(s[i]), m);
    }
    v16_store(max, m);
    for (uint32_t i = 0; i < n_row; i++) {
        for (int h = 0; h < KERN_HEADS; h++) {
            s[i][h] = exp_one(s[i][h] - max[h]);
        }
        total = v16_add(total, v16_load(s[i]));
    }
    v16_store(sum, total);
}

/* Columns [c, c + VALUE_COLS) of the V16_VALUE_HEADS heads from h on: all sums stay in
 * registers over the entries. Heads behind the last repeat it. */
static inline void value_block(const float (*e)[KERN_HEADS], uint32_t h, uint32_t heads,
                               const float *const *rows, uint32_t n_row, size_t n, size_t c,
                               float *o)
{
    v16 acc[V16_VALUE_HEADS][V16_VALUE_COLS];
    uint32_t head[V16_VALUE_HEADS];
    for (uint32_t j = 0; j < V16_VALUE_HEADS; j++) {
        head[j] = h + j < heads ? h + j : h;
        UNROLL for (int v = 0; v < V16_VALUE_COLS; v++)
        {
            acc[j][v] = v16_set1(0);
        }
    }
    for (uint32_t i = 0; i < n_row; i++) {
        v16 row[V16_VALUE_COLS];
        UNROLL for (int v = 0; v < V16_VALUE_COLS; v++)
        {
            row[v] = v16_load(rows[i] + c + 16 * (size_t)v);
        }
        UNROLL for (int j = 0; j < V16_VALUE_HEADS; j++)
        {
            v16 w = v16_set1(e[i][head[j]]);
            UNROLL for (int v = 0; v < V16_VALUE_COLS; v++)
            {
                acc[j][v] = v16_fma(w, row[v], acc[j][v]);
            }
        }
    }
    for (uint32_t j = 0; j < V16_VALUE_HEADS; j++) {
        for (int v = 0; v < V16_VALUE_COLS; v++) {
            v16_store(o + head[j] * n + c + 16 * (size_t)v, acc[j][v]);
        }
    }
}

/* A column block of all rows meets all heads while it lies in the nearest cache. */
static void attn_values(const float (*e)[KERN_HEADS], uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float *o)
{
    size_t c = 0;
    for (; c + VALUE_COLS <= n; c += VALUE_COLS) {
        for (uint32_t h = 0; h < heads; h += V16_VALUE_HEADS) {
            value_block(e, h, heads, rows, n_row, n, c, o);
        }
    }
    for (; c < n; c++) {
        for (uint32_t h = 0; h < heads; h++) {
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

#endif
