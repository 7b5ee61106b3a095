/* kern_index.h - the part of kern_c.h that scores rows for the indexer, 16 rows side by side in
 * the lanes: in F32, where the 16 partial sums of a group join as in the tiles of kern_prod.h,
 * and on integers (index_int.h), where the order does not matter. Included by kern_c.h only.
 * Read next: x86/index_avx512vnni.c, the fast form of the last function; index.c, the caller. */
#ifndef CPU_KERN_INDEX_H
#define CPU_KERN_INDEX_H

#include "backend/cpu/index_int.h"

/* ---- F32 ---- */

static void index_pack(const float *rows, uint32_t n_row, size_t n, float *panel)
{
    for (size_t k = 0; k < n; k += 32) {
        size_t w = n - k < 32 ? n - k : 32, base[16];
        lane_bases(w, base);
        pack_typed(QT_F32, (const char *)(rows + k), n * sizeof *rows, n_row, w, base,
                   panel + k * KERN_PANEL);
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

/* ---- integers ---- */

static uint32_t index_rows(const uint8_t *const *codes, const uint8_t *const *scales, size_t n,
                           struct index_rows *out)
{
    static const uint8_t value[16] = {INDEX_CODES};
    uint8_t shift[INDEX_MAX_N / 32][KERN_PANEL];
    uint32_t wide = index_units(scales, n / 32, shift, out->unit);
    for (size_t j = 0; j < n / 8; j++) {
        for (int r = 0; r < KERN_PANEL; r++) {
            for (size_t i = 0; i < 4; i++) {
                uint8_t c = codes[r][4 * j + i];
                out->w[2 * j][r][i] = value[c & 15];
                out->w[2 * j + 1][r][i] = value[c >> 4];
            }
        }
    }
    for (size_t g = 0; g < n / 32; g++) {
        for (int r = 0; r < KERN_PANEL; r++) {
            out->mul[g][r][0] = out->mul[g][r][1] = (int16_t)(1 << shift[g][r]);
        }
    }
    return wide;
}

typedef int8_t bytes32 __attribute__((vector_size(32)));

/* One group of a query: integers c with x = c * 2^*unit and |c| <= 12. A group of zeros takes
 * any unit and leaves *unit alone. */
static bool query_group(const float *x, int8_t c[32], int *unit)
{
    int32_t bits[32], max_bits = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < 32; i++) {
        int32_t a = bits[i] & 0x7FFFFFFF;
        max_bits = a > max_bits ? a : max_bits;
    }
    if (max_bits == 0) {
        memset(c, 0, 32);
        return true;
    }
    int e = (max_bits >> 23) - 127 - 3; /* the largest is 8 or 12 units */
    if (e < INDEX_UNIT_MIN || e > INDEX_UNIT_MAX + INDEX_FAR) {
        return false;
    }
    float per_unit = f32_from_bits((uint32_t)(127 - e) << 23);
    int32_t v[32], bad = 0; /* below 16, so far */
    for (int i = 0; i < 32; i++) {
        float y = x[i] * per_unit;
        int32_t u = (int32_t)y, square = u * u;
        bad |= (float)u != y ? 1 : 0;
        bad |= square > 144 ? 1 : 0;
        v[i] = u;
    }
    bytes32 b;
    int8_t narrow[32];
    for (int i = 0; i < 32; i++) {
        narrow[i] = (int8_t)v[i];
    }
    memcpy(&b, narrow, sizeof b);
    b = __builtin_shufflevector(b, b, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 16,
                                18, 20, 22, 17, 19, 21, 23, 24, 26, 28, 30, 25, 27, 29, 31);
    memcpy(c, &b, sizeof b); /* in the order of steps */
    *unit = e;
    return !bad;
}

/* Brings the groups of head h, c [n], to one unit, the smallest, or marks the head as wide.
 * Returns the unit's exponent; INT_MAX if the groups are too far apart for that, too. */
static int query_align(struct index_query *out, uint32_t h, size_t groups, const int *unit,
                       int8_t *c)
{
    int lo = INT_MAX, hi = INT_MIN;
    out->wide[h] = 0;
    for (size_t g = 0; g < groups; g++) {
        if (unit[g] != INT_MAX) {
            lo = unit[g] < lo ? unit[g] : lo;
            hi = unit[g] > hi ? unit[g] : hi;
        }
    }
    if (lo == INT_MAX) { /* all zero */
        return 0;
    }
    if (lo > INDEX_UNIT_MAX || hi - lo > INDEX_FAR) {
        return INT_MAX;
    }
    out->wide[h] = hi - lo > INDEX_SHIFT;
    out->some_wide |= out->wide[h];
    for (size_t g = 0; g < groups; g++) {
        int up = unit[g] == INT_MAX ? 0 : unit[g] - lo;
        out->factor[h * groups + g] = f32_from_bits((uint32_t)(127 + up) << 23);
        int8_t times = (int8_t)(out->wide[h] ? 1 : 1 << up);
        for (size_t i = 32 * g; i < 32 * g + 32; i++) {
            c[i] = (int8_t)(c[i] * times);
        }
    }
    return lo;
}

/* The finished codes of head h to their places, and their sums. */
static void query_store(struct index_query *out, uint32_t h, size_t n, const int8_t *c)
{
    int32_t all = 0;
    for (size_t g = 0; g < n / 32; g++) {
        int16_t t[32]; /* halved until the sums of bytes 0, 1, 2, 3 are left */
        for (size_t i = 0; i < 32; i++) {
            t[i] = c[32 * g + i];
        }
        for (size_t i = 0; i < 16; i++) {
            t[i] = (int16_t)(t[i] + t[i + 16]);
        }
        for (size_t i = 0; i < 8; i++) {
            t[i] = (int16_t)(t[i] + t[i + 8]);
        }
        for (size_t i = 0; i < 4; i++) {
            t[i] = (int16_t)(t[i] + t[i + 4]);
        }
        int16_t *sum2 = out->sum2 + 2 * (h * (n / 32) + g);
        sum2[0] = (int16_t)(-12 * (t[0] + t[1]));
        sum2[1] = (int16_t)(-12 * (t[2] + t[3]));
        all += t[0] + t[1] + t[2] + t[3];
    }
    for (size_t s = 0; s < n / 4; s++) {
        memcpy(index_at(out, h, s, n), c + 4 * s, 4);
    }
    out->sum[h] = -128 * all;
}

/* w * 2^unit, if that is zero or inside the bounds of index_int.h. */
static bool query_weight(float w, int unit, float *out)
{
    float scaled = w * f32_from_bits((uint32_t)(127 + unit) << 23);
    int e = (int)(f32_bits(scaled) >> 23 & 255u) - 127;
    *out = scaled;
    return w == 0.0f || (e >= INDEX_WEIGHT_MIN && e <= INDEX_WEIGHT_MAX);
}

static bool index_query(const float *q, const float *w, uint32_t heads, size_t n,
                        struct index_query *out)
{
    size_t groups = n / 32;
    int8_t c[INDEX_MAX_N] = {0};
    out->some_wide = false;
    for (uint32_t h = heads; h < out->heads; h++) {
        query_store(out, h, n, c);
        out->w[h] = 0.0f;
        out->wide[h] = 0;
    }
    for (uint32_t h = 0; h < heads; h++) {
        int unit[INDEX_MAX_N / 32];
        for (size_t g = 0; g < groups; g++) {
            unit[g] = INT_MAX;
            if (!query_group(q + h * n + 32 * g, c + 32 * g, &unit[g])) {
                return false;
            }
        }
        int e = query_align(out, h, groups, unit, c);
        if (e == INT_MAX || !query_weight(w[h], e, &out->w[h])) {
            return false;
        }
        query_store(out, h, n, c);
    }
    return true;
}

static void index_dots(const struct index_rows *rows, const struct index_query *q, size_t n,
                       float out[KERN_PANEL])
{
    float score[KERN_PANEL] = {0}, dot[KERN_PANEL];
    for (uint32_t h = 0; h < q->heads; h++) {
        if (q->wide[h]) {
            index_wide_head(rows, 12, q, h, n, dot);
        } else {
            int32_t sum[KERN_PANEL] = {0};
            for (size_t s = 0; s < n / 4; s++) {
                const int8_t *qs = index_at(q, h, s, n);
                for (int r = 0; r < KERN_PANEL; r++) {
                    const uint8_t *v = rows->w[s][r];
                    int32_t part = (v[0] - 12) * qs[0] + (v[1] - 12) * qs[1] +
                                   (v[2] - 12) * qs[2] + (v[3] - 12) * qs[3];
                    sum[r] += part * rows->mul[s / 8][r][0];
                }
            }
            for (int r = 0; r < KERN_PANEL; r++) {
                dot[r] = (float)sum[r];
            }
        }
        for (int r = 0; r < KERN_PANEL; r++) {
            score[r] = fmaf(dot[r] > 0.0f ? dot[r] : 0.0f, q->w[h], score[r]);
        }
    }
    for (int r = 0; r < KERN_PANEL; r++) {
        out[r] = score[r] * rows->unit[r];
    }
}

#endif
