/* kern_rows.h - the part of kern_c.h that works on stored rows: decoding them, FP4 rounding,
 * attention, the compressor's pooling and the indexer's scores. Included by kern_c.h only.
 *
 * Attention keeps scores as [entry][16 heads], so that maximum, exp and sum of all heads run
 * side by side while each head's sum stays in entry order. The indexer holds 16 rows in the
 * lanes and joins the 16 partial sums of a group as the tiles of kern_prod.h do. Read next:
 * attn.c, index.c, compress.c, the callers. */
#ifndef CPU_KERN_ROWS_H
#define CPU_KERN_ROWS_H

/* ---- stored rows ---- */

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

#endif
