/* test_backend_kern.c - single kernels of the cpu backend, every tier of this machine: the exp
 * of the arithmetic class against double precision, stored rows against op/rows.c, and products
 * (row by row, packed), attention, pooling, index scores and hyper-connections bit for bit
 * against plain loops in the order of operations that op.h words. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/cpu/kern.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "op/rows.h"
#include "quant/act.h"
#include "quant/encode.h"
#include "quant/formats.h"
#include "unit/kern_tiers.h"

static void test_ladder(void **state)
{
    (void)state;
    struct cpu_kern k;
    assert_int_equal(kern_select(&k, CPU_TIER_C), CPU_TIER_C);
    assert_string_equal(k.name, "c");
    uint32_t have = kern_available();
    assert_true(have & CPU_TIER_C);
    enum cpu_tier best = kern_select(&k, 0);
    assert_true(best & have);
    assert_true(best * 2 > have); /* the highest bit */
}

/* Error in units of the last place of the true value. */
static double ulps(float got, double want)
{
    int e;
    frexp(want, &e);
    double ulp = ldexp(1.0, (e - 24 > -149 ? e - 24 : -149));
    return fabs((double)got - want) / ulp;
}

static void test_exp(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    enum { N = 1 << 16 };
    float *x = mem_alloc(N, sizeof *x), *y = mem_alloc(N, sizeof *y);
    struct rng r = {77};
    double worst = 0;
    for (uint32_t i = 0; i < N; i++) {
        float wide = i % 2 ? 104.0f : 3.0f;
        x[i] = i < 400 ? -88.0f - 0.04f * (float)i : wide * rng_sym(&r);
    }
    for (uint32_t tier = 0; tier < n_tier; tier++) {
        float *z = tier == 0 ? y : mem_alloc(N, sizeof *z);
        memcpy(z, x, N * sizeof *x);
        k[tier].exp_vec(z, N);
        for (uint32_t i = 0; i < N; i++) {
            double want = exp((double)x[i]);
            if (want < 3.4028235e38) {
                double u = ulps(z[i], want);
                worst = u > worst ? u : worst;
            }
        }
        assert_memory_equal(y, z, N * sizeof *y);
        if (z != y) {
            mem_free(z);
        }
        float s[] = {0.0f,  -0.0f,   NAN,     -INFINITY, INFINITY, 88.7228f,
                     89.0f, -104.0f, -200.0f, 1e30f,     -1e30f};
        k[tier].exp_vec(s, ARRAY_LEN(s));
        assert_true(s[0] == 1.0f && s[1] == 1.0f && isnan(s[2]) && s[3] == 0.0f);
        assert_true(isinf(s[4]) && s[5] < INFINITY && isinf(s[6]) && s[7] == 0.0f);
        assert_true(s[8] == 0.0f && isinf(s[9]) && s[10] == 0.0f);
    }
    print_message("exp: worst error %.3f ulp\n", worst);
    assert_true(worst <= 2.0);
    mem_free(x);
    mem_free(y);
}

static void test_row_floats(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    const struct row_geom geoms[] = {row_geom_make(ROW_FP8, 192, 64),
                                     row_geom_make(ROW_F32, 50, 8),
                                     row_geom_make(ROW_FP4, 96, 32)};
    struct rng r = {78};
    for (size_t g = 0; g < ARRAY_LEN(geoms); g++) {
        for (int round = 0; round < 50; round++) {
            unsigned char codes[512], scales[16] = {0};
            float want[192], got[192];
            for (uint32_t i = 0; i < geoms[g].code_bytes; i++) {
                codes[i] =
                    (unsigned char)(round == 0 ? i : rng_u64(&r)); /* first: every code */
            }
            for (uint32_t i = 0; i < geoms[g].scale_bytes; i++) {
                scales[i] = (unsigned char)(100 + rng_below(&r, 50));
            }
            row_decode(&geoms[g], codes, scales, want);
            for (uint32_t t = 0; t < n_tier; t++) {
                k[t].row_floats(&geoms[g], codes, scales, got);
                for (uint32_t i = 0; i < geoms[g].n; i++) {
                    assert_true(f32_bits(want[i]) == f32_bits(got[i]) ||
                                (isnan(want[i]) && isnan(got[i])));
                }
            }
        }
    }
}

/* Values around every rounding border, signs, zeros, NaN, infinities, tiny and huge blocks. */
static void test_fp4_round(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    static const float special[] = {0.0f,     -0.0f,     0.25f,  0.75f, 1.25f, 1.75f,
                                    2.5f,     3.5f,      5.0f,   6.0f,  NAN,   -NAN,
                                    INFINITY, -INFINITY, 1e-44f, 0.5f};
    struct rng r = {81};
    for (int round = 0; round < 400; round++) {
        float x[64], want[64], got[64];
        float scale = ldexpf(1.0f, (int)rng_below(&r, 270) - 149);
        for (int i = 0; i < 64; i++) {
            float v = rng_below(&r, 2) ? special[rng_below(&r, ARRAY_LEN(special))]
                                       : 6.0f * rng_sym(&r);
            x[i] = (rng_below(&r, 2) ? v : -v) * scale;
        }
        memcpy(want, x, sizeof x);
        fp4_sim(want, 64);
        for (uint32_t t = 0; t < n_tier; t++) {
            memcpy(got, x, sizeof x);
            k[t].fp4_round(got, 64);
            assert_memory_equal(want, got, sizeof got);
        }
    }
}

/* ---- products in the words of op.h ---- */

static float halving_tree(float c[16])
{
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            c[l] += c[l + half];
        }
    }
    return c[0];
}

static float dot_f32(const float *w, const float *x, size_t n)
{
    float c[16] = {0};
    for (size_t i = 0; i < n; i++) {
        c[i % 16] = fmaf(w[i], x[i], c[i % 16]);
    }
    return halving_tree(c);
}

static float dot_a8(uint32_t type, const void *row, void *act, size_t n)
{
    float c[16] = {0};
    for (size_t b = 0; b < n / 32; b++) {
        struct codes32 w;
        quant_codes32(type, row, b, &w);
        int32_t i1 = 0, i2 = 0;
        for (size_t i = 0; i < 32; i++) {
            i1 += w.w[i] * act8_q(act)[32 * b + i];
        }
        for (size_t h = 0; h < 2; h++) {
            i2 += w.mc[h] * act8_sum(act, n)[2 * b + h];
        }
        float da = act8_d(act, n)[b];
        c[b % 16] = fmaf(w.d * da, (float)i1, c[b % 16]);
        if (w.m != 0) {
            c[b % 16] = fmaf(-(w.m * da), (float)i2, c[b % 16]);
        }
    }
    return halving_tree(c);
}

enum { ROWS = 32, TOKS = 16, MAX_N = 4352, MAX_TOK = 53 };

/* Lengths on both sides of every tail. */
static const size_t lengths[] = {1, 15, 16, 17, 31, 32, 33, 128, 250, 1024, 1087};

static void test_products_f32(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    static float w[ROWS][MAX_N], x[TOKS][MAX_N], tile[2 * KERN_TERMS(MAX_N) * 8],
        panel[2][KERN_TERMS(MAX_N) * 16];
    struct rng r = {79};
    for (size_t li = 0; li < ARRAY_LEN(lengths); li++) {
        size_t n = lengths[li];
        const float *xp[TOKS];
        for (int i = 0; i < ROWS; i++) {
            for (size_t j = 0; j < n; j++) {
                w[i][j] = rng_sym(&r) * (li % 3 == 1 ? 1e-25f : 1.0f);
                x[i % TOKS][j] = rng_sym(&r) * (li % 3 == 1 ? 1e-18f : 1.0f);
            }
        }
        for (int t = 0; t < TOKS; t++) {
            xp[t] = x[t];
        }
        for (uint32_t tier = 0; tier < n_tier; tier++) {
            float few[5][ROWS], many[TOKS][KERN_ROWS];
            k[tier].rows_f32(QT_F32, w, sizeof w[0], ROWS, xp, 5, n, few[0], ROWS);
            float one[ROWS];
            k[tier].rows_f32(QT_F32, w, sizeof w[0], ROWS - 1, xp, 1, n, one, ROWS);
            for (int p = 0; p < 2; p++) {
                k[tier].pack_rows_f32(QT_F32, w[p * 16], sizeof w[0], 16, n, panel[p]);
            }
            k[tier].pack_tokens_f32(xp, n, tile, tile + KERN_TERMS(n) * 8);
            k[tier].tiles_f32((const float *const[2]){panel[0], panel[1]}, tile, TOKS, n,
                              (struct next_rows){0}, many);
            for (int i = 0; i < ROWS; i++) {
                for (int t = 0; t < TOKS; t++) {
                    float want = dot_f32(w[i], x[t], n);
                    assert_true(f32_bits(want) == f32_bits(many[t][i]));
                    assert_true(t >= 5 || f32_bits(want) == f32_bits(few[t][i]));
                    assert_true(t > 0 || i == ROWS - 1 || f32_bits(want) == f32_bits(one[i]));
                }
            }
        }
    }
}

static void random_row(struct rng *r, uint32_t type, size_t n, unsigned char *row)
{
    const struct qformat *f = qformat(type);
    for (size_t b = 0; b < n / f->block_elems; b++) {
        do {
            for (uint32_t i = 0; i < f->block_bytes; i++) {
                row[b * f->block_bytes + i] = (unsigned char)rng_u64(r);
            }
        } while (!quant_row_finite(type, row + b * f->block_bytes, f->block_elems));
    }
}

/* Finite scales in a block of ones; IQ1_M's is spread over the block and stays. */
static void set_scales(uint32_t type, unsigned char *block)
{
    size_t at = type == QT_Q2_K ? 80 : type == QT_Q3_K ? 108 : type == QT_Q6_K ? 208 : 0;
    bool two = type == QT_Q2_K || type == QT_Q4_K || type == QT_Q5_K || type == QT_Q4_1 ||
               type == QT_Q5_1;
    if (type == QT_MXFP4) {
        block[0] = 130;
    } else if (type != QT_IQ1_M) {
        store_le16(block + at, 0x7BFF); /* 65504 */
        store_le16(block + at + (two ? 2 : 0), 0x7BFF);
    }
}

/* What the rows and activations of a check are made of. */
enum contents {
    RANDOM_FINITE,
    RANDOM_BYTES, /* scales of any bits: NaN, infinite, subnormal */
    ALL_ONES,     /* largest codes, scales and minima against activations of +-127 */
    TOP_BITS,     /* bytes of -128, against the same: as low as signed codes and scales get */
    ZERO_CODES,   /* zeros but for the block's scales, as large as they get, against the same */
    ALL_ZEROS,
    N_CONTENTS
};

static void fill_row(struct rng *r, uint32_t type, enum contents what, size_t n,
                     unsigned char *row)
{
    size_t bytes = qformat_row_bytes(type, n);
    if (what == RANDOM_FINITE) {
        random_row(r, type, n, row);
    } else if (what == RANDOM_BYTES) {
        for (size_t i = 0; i < bytes; i++) {
            row[i] = (unsigned char)rng_u64(r);
        }
    } else {
        /* ones in the scale would be NaN: 0x7BFF and alike keep it finite */
        memset(row, what == ALL_ONES ? 0xFF : what == TOP_BITS ? 0x80 : 0, bytes);
        for (size_t b = 0; what != ALL_ZEROS && b < bytes; b += qformat(type)->block_bytes) {
            set_scales(type, row + b);
        }
    }
}

/* Activations: random, or as large as they get, of one sign or of two. */
static float act_value(struct rng *r, enum contents what, int t)
{
    bool large = what == ALL_ONES || what == TOP_BITS || what == ZERO_CODES;
    return large ? (t % 3 == 0       ? 1.0f
                    : t % 3 == 1     ? -1.0f
                    : rng_u64(r) & 1 ? 1.0f
                                     : -1.0f)
                 : rng_sym(r);
}

static bool same_value(float a, float b)
{
    return f32_bits(a) == f32_bits(b) || (isnan(a) && isnan(b));
}

/* Room for the packed tokens of a check. */
struct tokens {
    unsigned char q[(MAX_TOK + PACK_PAD) * MAX_N * 2];
    float d[(MAX_TOK + PACK_PAD) * MAX_N / 32];
    int32_t bias[(MAX_TOK + PACK_PAD) * MAX_N / 32];
    int16_t sum[(MAX_TOK + PACK_PAD) * MAX_N / 32][2];
};

/* Products of n_tok tokens with n_row rows: with two panels, of sixteen rows and of what is left,
 * or lane by lane where the tier can and `lanes` is set; false: it cannot. */
static bool packed_products(const struct cpu_kern *k, uint32_t type, const void *w,
                            size_t row_bytes, uint32_t n_row, const struct act_codes *x,
                            uint32_t n_tok, size_t n, bool lanes, float (*out)[KERN_ROWS])
{
    static _Alignas(64) struct pack_w panel[2][MAX_N / 32];
    static struct tokens t;
    const struct cpu_panels *panels = kern_panels(k, n_tok);
    struct pack_x px = {.stride = n_tok + PACK_PAD,
                        .turned = k->turned[type],
                        .q = t.q,
                        .d = t.d,
                        .bias = t.bias,
                        .sum = t.sum};
    assert_true(n_tok <= MAX_TOK);
    struct next_rows next = {w, n_row * row_bytes};
    if (lanes && (!panels->lanes[type] || n_row != KERN_ROWS || n_tok > KERN_LANE_TOKENS)) {
        return false;
    }
    k->pack_tokens_a8(x, n_tok, n, &px);
    if (lanes) {
        panels->lanes[type](w, row_bytes, &px, n_tok, n, next, panel[0], out);
        return true;
    }
    panels->pack[type](type, w, row_bytes, 16, n, panel[0]);
    panels->pack[type](type, (const char *)w + 16 * row_bytes, row_bytes, n_row - 16, n,
                       panel[1]);
    panels->tiles[type]((const struct pack_w *const[2]){panel[0], panel[1]}, &px, n_tok, n,
                        next, out);
    return true;
}

static void check_a8(const struct cpu_kern *k, struct rng *r, uint32_t type, size_t n,
                     enum contents what, uint32_t n_tok)
{
    static unsigned char w[ROWS][MAX_N * 4], act[MAX_TOK][MAX_N * 2];
    static int16_t cw[MAX_N], mc[MAX_N / 16];
    static float d[MAX_N / 32], m[MAX_N / 32];
    static float few[MAX_TOK][ROWS], many[MAX_TOK][KERN_ROWS], lane[MAX_TOK][KERN_ROWS];
    struct row_codes codes = {cw, d, m, mc, false};
    struct act_codes x[MAX_TOK];
    for (uint32_t t = 0; t < n_tok; t++) {
        float v[MAX_N];
        for (size_t i = 0; i < n; i++) {
            v[i] = act_value(r, what, (int)t);
        }
        act8_encode(v, 0, n, n, act[t]);
        x[t] = (struct act_codes){act8_q(act[t]), act8_d(act[t], n), act8_sum(act[t], n)};
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        fill_row(r, type, what, n, w[i]);
        k->weight_codes(type, w[i], n, &codes);
        k->row_a8(&codes, x, n_tok, n, few[0] + i, ROWS);
    }
    int n_row = n_tok % 2 ? ROWS : ROWS - 3; /* whole panels, and not */
    packed_products(k, type, w, sizeof w[0], (uint32_t)n_row, x, n_tok, n, false, many);
    if (packed_products(k, type, w, sizeof w[0], (uint32_t)n_row, x, n_tok, n, true, lane)) {
        for (uint32_t t = 0; t < n_tok; t++) { /* one that is different is seen below */
            for (uint32_t i = 0; i < KERN_ROWS; i++) {
                many[t][i] = same_value(many[t][i], lane[t][i]) ? many[t][i] : -1e30f;
            }
        }
    }
    if (k->rows_a8[type]) { /* the direct kernel instead, in two calls of any size */
        uint32_t first = 1 + n_tok % 8;
        memset(few, 0xFF, sizeof few);
        k->rows_a8[type](w, sizeof w[0], first, x, n_tok, n, few[0], ROWS);
        k->rows_a8[type](w[first], sizeof w[0], ROWS - first, x, n_tok, n, few[0] + first,
                         ROWS);
    }
    for (int i = 0; i < ROWS; i++) {
        for (uint32_t t = 0; t < n_tok; t++) {
            float want = dot_a8(type, w[i], act[t], n);
            if (!same_value(want, few[t][i]) || (i < n_row && !same_value(want, many[t][i]))) {
                fail_msg("%s %s n %zu contents %d row %d token %u of %u: want %a, row by row "
                         "%a, packed %a",
                         k->name, qformat(type)->name, n, (int)what, i, t, n_tok, (double)want,
                         (double)few[t][i], (double)many[t][i]);
            }
        }
    }
}

static void test_products_a8(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    struct rng r = {80};
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        if (qformat(type)->cls != QC_BLOCK) {
            continue;
        }
        bool big = qformat(type)->block_elems > 32;
        for (uint32_t tier = 0; tier < n_tier; tier++) {
            for (int i = 0; i < N_CONTENTS; i++) { /* all widths of tiles, two batches */
                enum contents what = (enum contents)i;
                check_a8(&k[tier], &r, type, big ? 256 : 32, what, MAX_TOK);
                check_a8(&k[tier], &r, type, big ? 768 : 544, what, 11);
                check_a8(&k[tier], &r, type, 1024, what, 7);
                check_a8(&k[tier], &r, type, big ? 4096 + 256 : 4096 + 32, what, 2);
            }
            /* two groups of sixteen tokens, the second not full */
            check_a8(&k[tier], &r, type, big ? 768 : 1056, RANDOM_FINITE, 29);
            for (uint32_t n_tok = 1; n_tok <= 26; n_tok++) {
                check_a8(&k[tier], &r, type, big ? 768 : 544, RANDOM_FINITE, n_tok);
            }
            /* the products of many tokens: all widths, blocks that turns do and do not divide */
            for (uint32_t n_tok = k[tier].wide_from; n_tok > 0 && n_tok <= MAX_TOK; n_tok++) {
                size_t n = n_tok % 4 == 0 ? 4096 + 256 : n_tok % 4 == 1 ? 256 : 1280;
                check_a8(&k[tier], &r, type, n, RANDOM_FINITE, n_tok);
                check_a8(&k[tier], &r, type, big ? 768 : 544 + 32 * (n_tok % 8), RANDOM_BYTES,
                         n_tok);
            }
        }
    }
}

/* Rows that end where a mapping ends, as those of a file may: nothing behind them is read. */
static void test_rows_at_end(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    uint32_t n_tier = tiers(k);
    enum { N = 1280 };
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *map =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + page, page, PROT_NONE), 0);
    struct rng r = {83};
    float v[N], want, got;
    unsigned char act[2 * N];
    for (int i = 0; i < N; i++) {
        v[i] = rng_sym(&r);
    }
    act8_encode(v, 0, N, N, act);
    struct act_codes x = {act8_q(act), act8_d(act, N), act8_sum(act, N)};
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        for (uint32_t tier = 0; qformat(type)->cls == QC_BLOCK && tier < n_tier; tier++) {
            unsigned char *row = map + page - qformat_row_bytes(type, N);
            random_row(&r, type, N, row);
            want = dot_a8(type, row, act, N);
            if (k[tier].rows_a8[type]) {
                k[tier].rows_a8[type](row, 0, 1, &x, 1, N, &got, 1);
                assert_int_equal(f32_bits(want), f32_bits(got));
            }
        }
    }
    munmap(map, 2 * page);
}

/* ---- the other kernels, in plain loops that spell out op.h ---- */

/* exp of the arithmetic class, one value at a time. */
static float exp_of(const struct cpu_kern *k, float x)
{
    k->exp_vec(&x, 1);
    return x;
}

static void fill(struct rng *r, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = 2.0f * rng_sym(r);
    }
}

static void same_floats(const char *what, const float *want, const float *got, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (f32_bits(want[i]) != f32_bits(got[i])) {
            fail_msg("%s: value %zu: want %a, got %a", what, i, (double)want[i],
                     (double)got[i]);
        }
    }
}

static void test_pool(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { POS = 7, N = 150 };
    float a[POS][N], g[POS][N], ape[POS][N], want[N], got[N];
    const float *pa[POS], *pg[POS], *pape[POS];
    struct rng r = {90};
    fill(&r, a[0], POS * N);
    fill(&r, g[0], POS * N);
    fill(&r, ape[0], POS * N);
    for (int i = 0; i < POS; i++) {
        pa[i] = a[i];
        pg[i] = g[i];
        pape[i] = i < 3 ? NULL : ape[i];
    }
    for (uint32_t t = 0, n = tiers(k); t < n; t++) {
        for (int c = 0; c < N; c++) {
            float max = -INFINITY, den = 0, num = 0, s[POS];
            for (int i = 0; i < POS; i++) {
                s[i] = pape[i] ? g[i][c] + ape[i][c] : g[i][c];
                max = s[i] > max ? s[i] : max;
            }
            for (int i = 0; i < POS; i++) {
                float e = exp_of(&k[t], s[i] - max);
                den += e;
                num = fmaf(e, a[i][c], num);
            }
            want[c] = num / den;
        }
        k[t].pool(pa, pg, pape, POS, N, got);
        same_floats("pool", want, got, N);
    }
}

static void test_attention(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { N = 150, E = 37, MAX_HEADS = KERN_HEADS };
    static float q[MAX_HEADS][N], kv[E][N], s[E][KERN_HEADS], o[MAX_HEADS][N];
    const float *rows[E];
    struct rng r = {91};
    fill(&r, q[0], MAX_HEADS * N);
    fill(&r, kv[0], E * N);
    for (int i = 0; i < E; i++) {
        rows[i] = kv[i];
    }
    for (uint32_t t = 0, n_tier = tiers(k); t < n_tier; t++) {
        for (uint32_t heads = 1; heads <= MAX_HEADS; heads += 5) {
            float max[KERN_HEADS], sum[KERN_HEADS];
            k[t].attn_scores(q[0], heads, rows, E, N, 0.3f, s);
            k[t].attn_softmax(s, E, max, sum);
            k[t].attn_values((const float(*)[KERN_HEADS])s, heads, rows, E, N, o[0]);
            for (uint32_t h = 0; h < heads; h++) {
                float score[E], m = -INFINITY, total = 0, want[N] = {0};
                for (int i = 0; i < E; i++) {
                    score[i] = dot_f32(q[h], kv[i], N) * 0.3f;
                    m = score[i] > m ? score[i] : m;
                }
                for (int i = 0; i < E; i++) {
                    float e = exp_of(&k[t], score[i] - m);
                    total += e;
                    for (int c = 0; c < N; c++) {
                        want[c] = fmaf(e, kv[i][c], want[c]);
                    }
                }
                same_floats("attention max", &m, &max[h], 1);
                same_floats("attention sum", &total, &sum[h], 1);
                same_floats("attention values", want, o[h], N);
            }
            float merged[N], want[N];
            memcpy(merged, q[0], sizeof merged);
            k[t].attn_merge(merged, 0.7f, o[0], 0.4f, N);
            for (int c = 0; c < N; c++) {
                float a = q[0][c] * 0.7f, b = o[0][c] * 0.4f;
                want[c] = a + b;
            }
            same_floats("attention merge", want, merged, N);
        }
    }
}

static void test_index_scores(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { N = 80, HEADS = 5, PANEL = KERN_PANEL };
    static float q[HEADS][N], ordered[HEADS][N], rows[PANEL][N], panel[PANEL * N];
    float w[HEADS], got[PANEL];
    struct rng r = {92};
    fill(&r, q[0], HEADS * N);
    fill(&r, rows[0], PANEL * N);
    fill(&r, w, HEADS);
    for (uint32_t t = 0, n_tier = tiers(k); t < n_tier; t++) {
        for (int h = 0; h < HEADS; h++) {
            k[t].index_order(q[h], N, ordered[h]);
        }
        k[t].index_pack(rows[0], PANEL - 1, N, panel);
        k[t].index_scores(panel, ordered[0], w, HEADS, N, got);
        for (int i = 0; i < PANEL - 1; i++) {
            float want = 0;
            for (int h = 0; h < HEADS; h++) {
                float dot = 0;
                for (int g = 0; g < N; g += 32) {
                    dot += dot_f32(q[h] + g, rows[i] + g, N - g < 32 ? N - g : 32);
                }
                want = fmaf(dot > 0 ? dot : 0, w[h], want);
            }
            same_floats("index score", &want, &got[i], 1);
        }
    }
}

/* One sum of HC_MIX: `cols` columns of hc streams, which are ld_w and ld_x apart. */
static float mix_sum(const float *w, size_t ld_w, const float *x, size_t ld_x, int hc, int cols)
{
    float c[16] = {0};
    for (int j = 0; j < hc; j++) {
        for (int d = 0; d < cols; d++) {
            c[d % 16] = fmaf(w[(size_t)j * ld_w + (size_t)d], x[(size_t)j * ld_x + (size_t)d],
                             c[d % 16]);
        }
    }
    return halving_tree(c);
}

enum { MIX_HC = 4, MIX_M = 33, MIX_D = 3 * KERN_CHUNK + 5 };

/* Chunks straight from a weight of floats. */
static void hc_direct(const struct cpu_kern *k, uint32_t type)
{
    enum { N = 3, M = 26, FROM = 2 };
    static float fn[M][MIX_HC][MIX_D], x[MIX_HC][MIX_D];
    static unsigned char file[M][MIX_HC * MIX_D * sizeof(float)];
    float got[N][M + 1];
    struct rng r = {94};
    fill(&r, fn[0][0], M * MIX_HC * MIX_D);
    fill(&r, x[0], MIX_HC * MIX_D);
    const size_t bytes = type == QT_F32 ? 4 : 2;
    for (size_t i = 0; i < (size_t)M * MIX_HC * MIX_D; i++) {
        unsigned char *to = file[i / (MIX_HC * MIX_D)] + i % (MIX_HC * MIX_D) * bytes;
        float *v = &fn[0][0][0] + i;
        if (type == QT_F32) {
            memcpy(to, v, sizeof *v);
        } else {
            uint16_t half = type == QT_F16 ? f32_to_f16(*v) : f32_to_bf16(*v);
            store_le16(to, half);
            *v = type == QT_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
    k->hc_chunks(type, file[0] + FROM * bytes, sizeof file[0], x[0] + FROM, MIX_D, MIX_HC, M, N,
                 got[0]);
    for (int c = 0; c < N; c++) {
        const float *xc = x[0] + FROM + (size_t)c * KERN_CHUNK;
        for (int i = 0; i <= M; i++) {
            const float *w = i < M ? fn[i][0] + FROM + (size_t)c * KERN_CHUNK : xc;
            float want = mix_sum(w, MIX_D, xc, MIX_D, MIX_HC, KERN_CHUNK);
            same_floats("HC_MIX chunks", &want, &got[c][i], 1);
        }
    }
}

/* A chunk of `cols` columns for m rows and n_tok tokens; nothing else is written. */
static void hc_packed(const struct cpu_kern *k, uint32_t m, uint32_t cols, uint32_t n_tok)
{
    enum { TILE = MIX_HC * KERN_CHUNK * 16, PANELS = (MIX_M + 15) / 16 };
    static float fn[16 * PANELS][MIX_HC][MIX_D], x[16][MIX_HC][MIX_D];
    static float w[PANELS * TILE], tile[TILE], sums[KERN_MIX_SUMS(MIX_M) * 16];
    static float got[17][MIX_M + 2];
    const float *rows[16];
    float *out[16];
    struct rng r = {95};
    fill(&r, fn[0][0], 16 * PANELS * MIX_HC * MIX_D);
    fill(&r, x[0][0], 16 * MIX_HC * MIX_D);
    for (uint32_t i = 0; i < m; i += 16) {
        for (uint32_t j = 0; j < 16; j++) {
            rows[j] = fn[i + j][0] + 1;
        }
        k->hc_pack(rows, MIX_D, MIX_HC, cols, w + i / 16 * TILE);
    }
    for (uint32_t t = 0; t < 16; t++) {
        rows[t] = x[t][0] + 1;
        out[t] = got[t];
    }
    memset(got, 0x55, sizeof got);
    k->hc_pack(rows, MIX_D, MIX_HC, cols, tile);
    k->hc_tile(w, tile, MIX_HC, m, sums);
    k->hc_turn(sums, m + 1, out, n_tok);
    for (uint32_t t = 0; t < 17; t++) {
        for (uint32_t i = 0; i < MIX_M + 2; i++) {
            float want;
            memset(&want, 0x55, sizeof want);
            if (t < n_tok && i <= m) {
                want = mix_sum(i < m ? fn[i][0] + 1 : x[t][0] + 1, MIX_D, x[t][0] + 1, MIX_D,
                               MIX_HC, (int)cols);
            }
            same_floats("HC_MIX tile", &want, &got[t][i], 1);
        }
    }
}

static void test_hyper_connections(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { HC = 4 };
    static float x[HC][KERN_CHUNK], post[HC], comb[HC][HC], y[KERN_ROWS];
    static const uint32_t ms[] = {1, 4, 8, 9, 15, 16, 24, 26, MIX_M};
    float z[HC][KERN_CHUNK], flat[KERN_CHUNK];
    struct rng r = {93};
    fill(&r, x[0], HC * KERN_CHUNK);
    fill(&r, post, HC);
    fill(&r, comb[0], HC * HC);
    fill(&r, y, KERN_ROWS);
    for (uint32_t t = 0, n_tier = tiers(k); t < n_tier; t++) {
        for (size_t i = 0; i < ARRAY_LEN(ms); i++) {
            hc_packed(&k[t], ms[i], KERN_CHUNK, 16);
            hc_packed(&k[t], ms[i], 5, 13);
            hc_packed(&k[t], ms[i], 21, 1);
        }
        hc_direct(&k[t], QT_F32);
        hc_direct(&k[t], QT_F16);
        hc_direct(&k[t], QT_BF16);
        k[t].hc_collapse(x[0], KERN_CHUNK, post, HC, 30, flat);
        memcpy(z, x, sizeof z);
        k[t].hc_post(z[0], KERN_CHUNK, post, comb[0], HC, y, 30);
        for (int d = 0; d < 30; d++) {
            float want = 0;
            for (int j = 0; j < HC; j++) {
                want = fmaf(post[j], x[j][d], want);
            }
            same_floats("collapse", &want, &flat[d], 1);
            for (int i = 0; i < HC; i++) {
                want = post[i] * y[d];
                for (int j = 0; j < HC; j++) {
                    want = fmaf(comb[j][i], x[j][d], want);
                }
                same_floats("HCpost", &want, &z[i][d], 1);
            }
        }
    }
}

/* HCpost with other numbers of streams than V4's, columns in sixteens and not. */
static void test_hc_post(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { MOST = 16, LD = KERN_ROWS + 3 };
    static float x[MOST][LD], z[MOST][LD], post[MOST], comb[MOST * MOST], y[KERN_ROWS];
    struct rng r = {95};
    fill(&r, x[0], MOST * LD);
    fill(&r, post, MOST);
    fill(&r, comb, MOST * MOST);
    fill(&r, y, KERN_ROWS);
    for (uint32_t t = 0, n_tier = tiers(k); t < n_tier; t++) {
        for (uint32_t hc = 1; hc <= MOST; hc++) {
            uint32_t n = hc % 2 ? 19 : KERN_ROWS;
            memcpy(z, x, sizeof z);
            k[t].hc_post(z[0], LD, post, comb, hc, y, n);
            for (uint32_t i = 0; i < hc; i++) {
                for (uint32_t d = 0; d < n; d++) {
                    float want = post[i] * y[d];
                    for (uint32_t j = 0; j < hc; j++) {
                        want = fmaf(comb[j * hc + i], x[j][d], want);
                    }
                    same_floats("HCpost", &want, &z[i][d], 1);
                }
                assert_memory_equal(&x[i][n], &z[i][n], (LD - n) * sizeof(float));
            }
        }
    }
}

static void test_vectors(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { N = 77 };
    float x[N], w[N], u[N], got[N], want[N];
    struct rng r = {94};
    fill(&r, x, N);
    fill(&r, w, N);
    fill(&r, u, N);
    for (uint32_t t = 0, n_tier = tiers(k); t < n_tier; t++) {
        float sum = dot_f32(x, x, N), squares = k[t].sum_squares(x, N), wt = 0.3f;
        same_floats("sum of squares", &sum, &squares, 1);
        k[t].scale_vec(x, 1.7f, w, N, got);
        for (int i = 0; i < N; i++) {
            float scaled = x[i] * 1.7f;
            want[i] = scaled * w[i];
        }
        same_floats("scale", want, got, N);
        memcpy(got, x, sizeof got);
        k[t].swiglu(got, u, N, 1.5f, &wt);
        for (int i = 0; i < N; i++) {
            float g = fminf(x[i], 1.5f), v = fmaxf(fminf(u[i], 1.5f), -1.5f);
            float h = g / (1.0f + exp_of(&k[t], -g)) * v;
            want[i] = h * wt;
        }
        same_floats("SwiGLU", want, got, N);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ladder),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_row_floats),
        cmocka_unit_test(test_products_f32),
        cmocka_unit_test(test_fp4_round),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_index_scores),
        cmocka_unit_test(test_hyper_connections),
        cmocka_unit_test(test_hc_post),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_products_a8),
        cmocka_unit_test(test_rows_at_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
