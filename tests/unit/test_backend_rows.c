/* test_backend_rows.c - kernels of the cpu backend around stored rows, every tier of this
 * machine bit for bit: making rows and the Hadamard transform against op/rows.c, and the
 * indexer on integers against plain F32 loops in the order of op.h, for rows and queries inside
 * the bounds of index_int.h, on them, and outside. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/index_int.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "op/rows.h"
#include "unit/kern_tiers.h"

/* ---- making rows ---- */

/* Values on rounding borders of both forms, signs, zeros, NaN, infinities, huge and tiny. */
static float odd_value(struct rng *r)
{
    static const float special[] = {0.0f,      -0.0f,  0.25f,  0.75f,  1.25f,   1.75f,
                                    2.5f,      3.5f,   5.0f,   6.0f,   NAN,     INFINITY,
                                    -INFINITY, 1e-44f, 448.0f, 464.0f, 1.0625f, 0x1p-10f,
                                    0x1.8p-9f, 3e38f,  -3e38f};
    uint64_t what = rng_below(r, 4);
    if (what == 0) {
        return special[rng_below(r, ARRAY_LEN(special))];
    }
    if (what == 1) { /* halfway between two E4M3 codes of some exponent */
        float m = 1.0f + (2.0f * (float)rng_below(r, 8) + 1.0f) / 16.0f;
        return ldexpf(rng_below(r, 2) ? m : -m, (int)rng_below(r, 20) - 12);
    }
    return rng_sym(r) * (what == 2 ? 1.0f : 100.0f);
}

static void test_row_store(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    const struct row_geom geoms[] = {
        row_geom_make(ROW_FP8, 192, 64), row_geom_make(ROW_FP8, 70, 6),
        row_geom_make(ROW_F32, 50, 8), row_geom_make(ROW_FP4, 96, 32)};
    struct rng r = {51};
    for (int round = 0; round < 3000; round++) {
        const struct row_geom *g = &geoms[round % ARRAY_LEN(geoms)];
        float x[192], scale = round % 3 ? 1.0f : ldexpf(1.0f, (int)rng_below(&r, 270) - 149);
        for (uint32_t i = 0; i < g->n; i++) {
            x[i] = odd_value(&r) * scale;
        }
        unsigned char codes[768], scales[16], got[768], got_scales[16];
        memset(codes, 0xA5, sizeof codes);
        memset(scales, 0xA5, sizeof scales);
        row_encode(g, x, codes, scales);
        for (uint32_t t = 0; t < n_tier; t++) {
            memset(got, 0xA5, sizeof got);
            memset(got_scales, 0xA5, sizeof got_scales);
            k[t].row_store(g, x, got, got_scales);
            assert_memory_equal(codes, got, sizeof got);
            assert_memory_equal(scales, got_scales, sizeof got_scales);
        }
    }
}

static void test_hadamard(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    struct rng r = {52};
    for (uint32_t n = 1; n <= 512; n *= 2) {
        float x[512], want[512], got[512];
        for (uint32_t i = 0; i < n; i++) {
            x[i] = rng_sym(&r) * (i % 7 ? 1.0f : 1e20f);
        }
        memcpy(want, x, sizeof x);
        hadamard(want, n);
        for (uint32_t t = 0; t < n_tier; t++) {
            memcpy(got, x, sizeof x);
            k[t].hadamard(got, n);
            assert_memory_equal(want, got, n * sizeof *got);
        }
    }
}

/* Every E4M3 code and scale, whichever way it is decoded. */
static void test_row_floats_all(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    const struct row_geom g = row_geom_make(ROW_FP8, 256, 0);
    for (int s = 0; s < 256; s++) {
        unsigned char codes[256], scales[8] = {0};
        float want[256], got[256];
        for (int i = 0; i < 256; i++) {
            codes[i] = (unsigned char)(s & 1 ? i : i & 0xFE ? i & 0xBE : 0); /* odd: with NaN */
        }
        memset(scales, s, 4);
        row_decode(&g, codes, scales, want);
        for (uint32_t t = 0; t < n_tier; t++) {
            k[t].row_floats(&g, codes, scales, got);
            for (int i = 0; i < 256; i++) {
                assert_true(f32_bits(want[i]) == f32_bits(got[i]) ||
                            (isnan(want[i]) && isnan(got[i])));
            }
        }
    }
}

/* ---- the indexer on integers ---- */

enum { HEADS_MAX = 24, N = INDEX_MAX_N, GROUPS = N / 32 };

struct query {
    struct index_query q;
    int8_t codes[HEADS_MAX * N];
    int16_t sum2[HEADS_MAX * GROUPS * 2];
    int32_t sum[HEADS_MAX];
    float w[HEADS_MAX], factor[HEADS_MAX * GROUPS];
    uint8_t wide[HEADS_MAX];
};

static void query_open(struct query *x, uint32_t heads)
{
    memset(x, 0xA5, sizeof *x);
    x->q = (struct index_query){x->codes,  x->sum2, x->sum, x->w,
                                x->factor, x->wide, false,  (heads + 7) / 8 * 8};
}

/* op.h: lanes16 of a group of 32. */
static float group_dot(const float *a, const float *b)
{
    float c[16] = {0};
    for (int i = 0; i < 32; i++) {
        c[i % 16] = fmaf(a[i], b[i], c[i % 16]);
    }
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            c[l] += c[l + half];
        }
    }
    return c[0];
}

static float score_of(const float *row, const float *q, const float *w, uint32_t heads,
                      size_t n)
{
    float score = 0;
    for (uint32_t h = 0; h < heads; h++, q += n) {
        float dot = 0;
        for (size_t g = 0; g < n; g += 32) {
            dot += group_dot(row + g, q + g);
        }
        score = fmaf(dot > 0 ? dot : 0, w[h], score);
    }
    return score;
}

/* 16 rows of any nibbles; the first scale is s0, the others lie up to `spread` steps above. */
struct rows {
    unsigned char codes[KERN_PANEL][N / 2], scales[KERN_PANEL][GROUPS];
    const uint8_t *pc[KERN_PANEL], *ps[KERN_PANEL];
    float x[KERN_PANEL][N];
};

static void random_rows(struct rng *r, size_t n, uint32_t s0, uint32_t spread, struct rows *out)
{
    const struct row_geom g = row_geom_make(ROW_FP4, (uint32_t)n, 0);
    for (int i = 0; i < KERN_PANEL; i++) {
        for (size_t j = 0; j < n / 2; j++) {
            uint64_t v = rng_u64(r);
            out->codes[i][j] = (unsigned char)(i == 0 ? 0x77 : i == 1 ? 0xFF : v);
        }
        for (size_t j = 0; j < n / 32; j++) {
            out->scales[i][j] = (unsigned char)(s0 + (j ? rng_below(r, spread + 1) : 0));
        }
        out->pc[i] = out->codes[i];
        out->ps[i] = out->scales[i];
        row_decode(&g, out->codes[i], out->scales[i], out->x[i]);
    }
}

/* FP4 values times 2^(e0 .. e0 + spread) by group; now and then a group or a head of zeros. */
static void random_queries(struct rng *r, uint32_t heads, size_t n, int e0, uint32_t spread,
                           float *q)
{
    for (size_t i = 0; i < heads * n; i += 32) {
        int e = e0 + (int)rng_below(r, spread + 1);
        bool zero = rng_below(r, 8) == 0 || (i / n == 3 && heads > 3);
        uint64_t full = rng_below(r, 6);
        for (size_t j = i; j < i + 32; j++) {
            float v = e2m1_to_f32(full == 0 ? 7 : full == 1 ? 15 : (uint8_t)rng_below(r, 16));
            q[j] = zero ? (v < 0 ? -0.0f : 0.0f) : ldexpf(v, e);
        }
    }
}

static void check_scores(const struct cpu_kern *k, const struct rows *rows, const float *q,
                         const float *w, uint32_t heads, size_t n, bool need)
{
    static struct query x;
    static struct index_rows codes;
    query_open(&x, heads);
    bool exact = k->index_query(q, w, heads, n, &x.q);
    assert_true(exact || !need);
    if (!exact) {
        return;
    }
    float got[KERN_PANEL];
    uint32_t wide = k->index_rows(rows->pc, rows->ps, n, &codes);
    assert_true(wide == 0 || !need);
    k->index_dots(&codes, &x.q, n, got);
    for (int i = 0; i < KERN_PANEL; i++) {
        float want = score_of(rows->x[i], q, w, heads, n);
        if (!(wide >> i & 1) && want != got[i]) {
            fail_msg("%s: row %d, %u heads of %zu: want %a, got %a", k->name, i, heads, n,
                     (double)want, (double)got[i]);
        }
    }
}

/* Rows and queries the size of a check, in static memory. */
static struct {
    struct rows rows;
    float q[HEADS_MAX * N], w[HEADS_MAX];
} in;

static void test_index_integers(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    struct rng r = {53};
    static const size_t lengths[] = {128, 32, 256, 64, 96};
    static const uint32_t head_counts[] = {24, 5, 8, 1};
    for (int round = 0; round < 240; round++) {
        size_t n = lengths[round % ARRAY_LEN(lengths)];
        uint32_t heads = head_counts[round / 5 % 4];
        /* both ends of what must have an integer form, and the middle */
        int place = round % 3 - 1;
        random_rows(&r, n,
                    place < 0   ? INDEX_SCALE_MIN
                    : place > 0 ? INDEX_SCALE_MAX
                                : 125,
                    round % 7 ? INDEX_SHIFT : 0, &in.rows);
        int e0 = place < 0 ? INDEX_UNIT_MIN + 2 : place > 0 ? INDEX_UNIT_MAX - 1 : -3;
        uint32_t spread = round % 4 == 3 ? INDEX_FAR - 2 : round % 4 == 2 ? 5 : 1;
        random_queries(&r, heads, n, e0, spread, in.q);
        for (uint32_t h = 0; h < heads; h++) {
            float m = rng_below(&r, 9) ? rng_sym(&r) : 0.0f;
            in.w[h] = ldexpf(m, place < 0 ? 20 : place > 0 ? -30 : -4);
        }
        for (uint32_t t = 0; t < n_tier; t++) {
            check_scores(&k[t], &in.rows, in.q, in.w, heads, n,
                         place == 0 || spread <= (place < 0 ? 5 : 1));
        }
    }
}

/* Anything: either it is reported, or the bits agree. */
static void test_index_bounds(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    struct rng r = {54};
    for (int round = 0; round < 300; round++) {
        uint32_t s0 = (uint32_t)rng_below(&r, 240), heads = 8;
        random_rows(&r, 128, s0, (uint32_t)rng_below(&r, 16), &in.rows);
        random_queries(&r, heads, 128, (int)rng_below(&r, 220) - 130,
                       (uint32_t)rng_below(&r, 26), in.q);
        for (uint32_t h = 0; h < heads; h++) {
            in.w[h] = ldexpf(rng_sym(&r), (int)rng_below(&r, 200) - 100);
        }
        for (uint32_t t = 0; t < n_tier; t++) {
            check_scores(&k[t], &in.rows, in.q, in.w, heads, 128, false);
        }
    }
}

static void test_index_refusals(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    static struct rows rows;
    static struct index_rows codes;
    static struct query x;
    static float q[8 * 128];
    float w[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct rng r = {55};
    static const float bad[] = {NAN, INFINITY, 0.3f, 7.0f, 1e-44f, 6.25f};
    for (uint32_t t = 0; t < n_tier; t++) {
        for (size_t i = 0; i < ARRAY_LEN(bad); i++) { /* no FP4 value next to 6 */
            random_queries(&r, 8, 128, 0, 0, q);
            q[32] = 6.0f;
            q[40] = bad[i];
            query_open(&x, 8);
            assert_false(k[t].index_query(q, w, 8, 128, &x.q));
        }
        random_queries(&r, 8, 128, 0, 0, q);
        for (int i = 0; i < 3; i++) {
            w[3] = i == 0 ? NAN : i == 1 ? INFINITY : 1e30f;
            random_queries(&r, 8, 128, i == 2 ? 10 : 0, 0, q);
            query_open(&x, 8);
            assert_false(k[t].index_query(q, w, 8, 128, &x.q));
            w[3] = 1;
        }
        random_rows(&r, 128, 120, INDEX_SHIFT, &rows);
        rows.scales[2][1] = 255; /* NaN */
        rows.scales[5][0] = 0;
        memset(rows.scales[7], 255, 4);
        memset(rows.scales[9], INDEX_SCALE_MIN - 1, 4);
        memset(rows.scales[11], INDEX_SCALE_MAX + 1, 4);
        rows.scales[15][0] = 120;
        rows.scales[15][3] = 120 + INDEX_SHIFT + 1;
        uint32_t wide = k[t].index_rows(rows.pc, rows.ps, 128, &codes);
        assert_int_equal(wide, 1 << 2 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 11 | 1 << 15);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row_store),      cmocka_unit_test(test_hadamard),
        cmocka_unit_test(test_row_floats_all), cmocka_unit_test(test_index_integers),
        cmocka_unit_test(test_index_bounds),   cmocka_unit_test(test_index_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
