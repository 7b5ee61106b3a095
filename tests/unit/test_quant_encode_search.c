/* test_quant_encode_search.c - the searching quantisers against the recorded outputs of the
 * reference (tests/data/quant-vectors: no record worse, better on average, the 2-bit grids by
 * at least 6 % of squared error) and, on random rows of many kinds, against the reference
 * searches written down in quant_reference.h; and the rules of encode.h: losses, refusals, zero
 * rows, missing importance, the same bytes for any split of the work. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/encode.h"
#include "quant/encode_fit.h"
#include "quant/formats.h"
#include "quant_reference.h"
#include "testdata.h"

enum { COLS = 1024, MAX_ROW_BYTES = COLS };

static const struct searched {
    uint32_t type;
    const char *file;
    double squared; /* geometric mean of squared-error ratios to the records, at most */
} SEARCHED[] = {
    {QT_Q2_K, "quant-vectors/quant_q2_K.bin", 0.9},
    {QT_Q3_K, "quant-vectors/quant_q3_K.bin", 0.95},
    {QT_Q4_K, "quant-vectors/quant_q4_K.bin", 0.95},
    {QT_Q5_K, "quant-vectors/quant_q5_K.bin", 0.95},
    {QT_Q6_K, "quant-vectors/quant_q6_K.bin", 0.95},
    {QT_IQ2_XXS, "quant-vectors/quant_iq2_xxs.bin", 0.8},
    {QT_IQ2_XS, "quant-vectors/quant_iq2_xs.bin", 0.85},
    {QT_IQ3_XXS, "quant-vectors/quant_iq3_xxs.bin", 0.85},
    {QT_IQ4_XS, "quant-vectors/quant_iq4_xs.bin", 0.95},
};
enum { N_SEARCHED = sizeof SEARCHED / sizeof SEARCHED[0] };

static double weighted_error(const float *x, const float *y, const float *w, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)x[i] - (double)y[i];
        sum += (w ? (double)w[i] : 1.0) * e * e;
    }
    return sum;
}

/* Encodes, decodes, returns the sum of weighted squared errors; nothing may be lost. */
static double our_error(uint32_t type, const float *x, const float *w, float *y)
{
    uint8_t row[MAX_ROW_BYTES];
    assert_true(qformat_row_bytes(type, COLS) <= sizeof row);
    assert_int_equal(quant_encode_weighted(type, x, COLS, w, row), 0);
    quant_decode(type, row, 0, COLS, y);
    return weighted_error(x, y, w, COLS);
}

/* ---- recorded reference outputs ---- */

static void load(struct buf *b, const char *name, const char *magic)
{
    fathom_err err = {0};
    if (file_read_all(b, test_data_path(name), 1 << 24, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_memory_equal(b->p, magic, 4);
}

/* Row or importance vector `index` after `skip` others. */
static void input(const struct buf *inputs, size_t index, float *x)
{
    assert_int_equal(load_le32(inputs->p + 16), COLS);
    assert_true(20 + (index + 1) * COLS * 4 <= inputs->n);
    memcpy(x, inputs->p + 20 + index * COLS * 4, COLS * 4);
}

/* One record: the weighted rmse is at most the recorded one times 1.001. Returns the log of the
 * ratio, 0 if the record is of a zero row. */
static double check_record(const struct searched *s, const struct buf *inputs, const char *p,
                           bool *counts)
{
    float x[COLS], w[COLS], y[COLS];
    int32_t vector = (int32_t)load_le32(p + 4);
    double want, total = 0;
    memcpy(&want, p + 16, sizeof want);
    input(inputs, load_le32(p), x);
    if (vector >= 0) {
        input(inputs, load_le32(inputs->p + 8) + (size_t)vector, w);
    }
    uint8_t row[MAX_ROW_BYTES];
    int lost = quant_encode_weighted(s->type, x, COLS, vector >= 0 ? w : NULL, row);
    assert_true(lost >= 0);
    assert_true(quant_row_finite(s->type, row, COLS));
    quant_decode(s->type, row, 0, COLS, y);
    for (int i = 0; i < COLS; i++) {
        total += vector >= 0 ? (double)w[i] : 1.0;
    }
    double got = sqrt(weighted_error(x, y, vector >= 0 ? w : NULL, COLS) / total);
    if (!(got <= want * 1.001)) {
        fail_msg("%s, row %u, importance %d: %g, recorded %g", s->file, load_le32(p), vector,
                 got, want);
    }
    *counts = want > 0 && got > 0;
    return *counts ? log(got / want) : 0;
}

static void test_records(void **state)
{
    (void)state;
    struct buf inputs = {0};
    load(&inputs, "quant-vectors/inputs.bin", "QVIN");
    for (int t = 0; t < N_SEARCHED; t++) {
        const struct searched *s = &SEARCHED[t];
        struct buf records = {0};
        load(&records, s->file, "QVQT");
        assert_int_equal(load_le32(records.p + 8), s->type);
        size_t stride = 32 + load_le32(records.p + 20), n = load_le32(records.p + 24), used = 0;
        assert_int_equal(stride - 32, qformat_row_bytes(s->type, COLS));
        assert_true(n >= 12 && 28 + n * stride <= records.n);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            bool counts;
            sum += check_record(s, &inputs, records.p + 28 + i * stride, &counts);
            used += counts;
        }
        double ratio = exp(2 * sum / (double)used);
        print_message("%s: squared error %.3f of the records'\n", s->file + 20, ratio);
        assert_true(used > 0 && ratio <= s->squared);
        buf_free(&records);
    }
    buf_free(&inputs);
}

/* ---- random rows against the reference searches ---- */

static double gauss(struct rng *r)
{
    double u = 1.0 - rng_unit(r), v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* How often the random rows are drawn; `FATHOM_TEST_SEEDS=100` takes five minutes. */
static unsigned seeds(void)
{
    const char *text = getenv("FATHOM_TEST_SEEDS");
    return text ? (unsigned)strtoul(text, NULL, 10) : 1;
}

static const char *const KINDS[] = {
    "gauss",       "heavy tails", "fp4",    "fp4, wide scales",
    "offset",      "sparse",      "spikes", "uniform",
    "zero blocks", "large",       "mixed",  "negative",
};
enum { N_KINDS = sizeof KINDS / sizeof KINDS[0] };

static void random_row(unsigned kind, struct rng *r, float *x)
{
    double s = 1;
    for (int i = 0; i < COLS; i++) {
        double g = gauss(r), v = 0;
        bool start16 = i % 16 == 0, start32 = i % 32 == 0;
        switch (kind) {
        case 0: v = 0.02 * g; break;
        case 1: v = 0.02 * g / (0.1 + rng_unit(r)); break;
        case 2: s = start32 ? ldexp(1, -8 - (int)rng_below(r, 3)) : s; break;
        case 3: s = start32 ? ldexp(1, -4 - (int)rng_below(r, 8)) : s; break;
        case 4: v = 0.03 + 0.01 * g; break;
        case 5: v = rng_below(r, 26) == 0 ? g : 0; break;
        case 6: v = i % 128 == 77 ? 3 * g : 0.02 * g; break;
        case 7: v = 0.02 * (double)rng_sym(r); break;
        case 8: v = i / 256 % 2 ? 0.02 * g : 0; break;
        case 9: v = 1000 * g; break;
        case 10:
            s = start16 ? exp(gauss(r)) : s;
            v = 0.01 * s * g;
            break;
        default: v = -0.02 - 0.02 * fabs(g); break;
        }
        if (kind == 2 || kind == 3) {
            v = s * (double)e2m1_to_f32((uint8_t)rng_below(r, 16));
        }
        x[i] = (float)v;
    }
}

/* Rows and importance of the kinds that the recorded vectors have (tests/data/quant-vectors,
 * index.json), from any seed. */
enum { N_RECORDED_KINDS = 10, N_RECORDED_WEIGHTS = 4 };
static void recorded_kind_row(unsigned kind, struct rng *r, float *x)
{
    double s = 1;
    for (int i = 0; i < COLS; i++) {
        double g = gauss(r), v = 0.02 * g;
        switch (kind) {
        case 1: v = g; break;
        case 2: { /* Student's t, three degrees of freedom */
            double a = gauss(r), b = gauss(r), c = gauss(r);
            v /= sqrt((a * a + b * b + c * c) / 3);
            break;
        }
        case 3: /* FP4 with block scales close together, and far apart */
        case 4:
            s = i % 32 ? s
                       : ldexp(1, kind == 3 ? -8 - (int)rng_below(r, 2)
                                            : -5 - (int)rng_below(r, 8));
            v = s * (double)e2m1_to_f32((uint8_t)rng_below(r, 16));
            break;
        case 5: v = 0.03 + 0.01 * g; break;
        case 6: v = rng_below(r, 26) == 0 ? g : 0; break;
        case 7: v = i % 128 == 77 ? 1.5 * g : v; break;
        case 8: v = 1e-7 * g; break;
        case 9: v = 1000 * g; break;
        default: break;
        }
        x[i] = (float)v;
    }
    for (int b = 0; kind == 0 && b < 9; b++) { /* some groups of zeros */
        memset(x + 32 * rng_below(r, COLS / 32), 0, 32 * sizeof *x);
    }
}

static void recorded_kind_weights(unsigned kind, struct rng *r, float *w)
{
    for (int i = 0; i < COLS; i++) {
        double g = gauss(r);
        w[i] = kind == 0 ? 1.0f : (float)exp(kind == 2 ? 2.5 * g - 7 : g);
    }
    for (int i = 0; kind == 3 && i < 64; i++) {
        w[rng_below(r, COLS)] = 0;
    }
}

/* Ones; log-normal; very log-normal; some columns without importance; a few that dominate. */
enum { N_IMPORTANCES = 5 };
static void random_importance(unsigned kind, struct rng *r, float *w)
{
    for (int i = 0; i < COLS; i++) {
        double g = gauss(r);
        switch (kind) {
        case 0: w[i] = 1; break;
        case 1: w[i] = (float)exp(g); break;
        case 2: w[i] = (float)exp(2.5 * g - 5); break;
        case 3: w[i] = rng_below(r, 16) == 0 ? 0 : (float)exp(g); break;
        default: w[i] = rng_below(r, 64) == 0 ? 100 : (float)(0.1 * exp(g)); break;
        }
    }
}

/* The error in the reference's own measure (quantization.md 3: large elements count more). */
static double reference_measure(const float *x, const float *y, const float *w)
{
    float v[COLS];
    for (int i = 0; i < COLS; i += 256) {
        ref_weights(x + i, w + i, 1.0f, v + i);
    }
    return weighted_error(x, y, v, COLS);
}

/* No block is worse than the reference's: the encoders compare. Both sides have the reference's
 * search, ours in lanes; a tie may fall another way, and then the other block is nearly as good. */
static void check_blocks(const struct searched *s, const char *what, const float *x,
                         const float *y, const float *z, const float *w)
{
    for (int i = 0; i < COLS; i += 256) {
        double ours = weighted_error(x + i, y + i, w + i, 256);
        double theirs = weighted_error(x + i, z + i, w + i, 256);
        if (!(ours <= 1.01 * theirs)) {
            fail_msg("%s, %s, block %d: %g, reference %g", qformat(s->type)->name, what,
                     i / 256, ours, theirs);
        }
    }
}

/* On average over kinds and importances ours is better, in both measures, and for every kind by
 * itself. */
static void check_random(const struct searched *s, uint64_t seed, int rounds)
{
    double sum = 0, sum_theirs = 0;
    int n = 0;
    for (unsigned kind = 0; kind < N_KINDS; kind++) {
        double kind_sum = 0;
        for (unsigned i = 0; i < (unsigned)rounds * N_IMPORTANCES; i++) {
            struct rng r = {seed + 1000 * kind + i};
            float x[COLS], w[COLS], y[COLS], z[COLS];
            random_row(kind, &r, x);
            random_importance(i % N_IMPORTANCES, &r, w);
            double ours = our_error(s->type, x, w, y);
            ref_quantise(s->type, x, w, COLS, z);
            check_blocks(s, KINDS[kind], x, y, z, w);
            double ratio = ours / weighted_error(x, z, w, COLS);
            if (!(ratio <= 1.002)) {
                fail_msg("%s, %s, importance %u: ratio %g", qformat(s->type)->name, KINDS[kind],
                         i % N_IMPORTANCES, ratio);
            }
            kind_sum += log(ratio);
            sum_theirs += log(reference_measure(x, y, w) / reference_measure(x, z, w));
            n++;
        }
        assert_true(kind_sum < 0);
        sum += kind_sum;
    }
    print_message("%-8s squared error %.3f of the reference search, %.3f in its measure\n",
                  qformat(s->type)->name, exp(sum / n), exp(sum_theirs / n));
    assert_true(sum / n <= log(s->squared) && sum_theirs < 0);
}

static void test_random(void **state)
{
    (void)state;
    for (int t = 0; t < N_SEARCHED; t++) {
        uint64_t seed = 900000 + (uint64_t)t;
        print_message("seed %llu\n", (unsigned long long)seed);
        check_random(&SEARCHED[t], seed, (int)(seeds() + 9) / 10);
    }
}

/* Vectors of the recorded kinds with seeds of our own: under every weighting better than the
 * reference search on average, the 2-bit grids by 6 %, and not one row worse. */
static void test_unseen(void **state)
{
    (void)state;
    for (int t = 0; t < N_SEARCHED; t++) {
        const struct searched *s = &SEARCHED[t];
        double sum[N_RECORDED_WEIGHTS] = {0};
        unsigned worse = 0;
        for (unsigned i = 0; i < seeds() * N_RECORDED_KINDS * N_RECORDED_WEIGHTS; i++) {
            unsigned weights = i % N_RECORDED_WEIGHTS,
                     kind = i / N_RECORDED_WEIGHTS % N_RECORDED_KINDS;
            struct rng r = {7777 + 1000003 * (uint64_t)i};
            float x[COLS], w[COLS], y[COLS], z[COLS];
            uint8_t row[MAX_ROW_BYTES];
            recorded_kind_row(kind, &r, x);
            recorded_kind_weights(weights, &r, w);
            quant_encode_weighted(s->type, x, COLS, w, row);
            quant_decode(s->type, row, 0, COLS, y);
            ref_quantise(s->type, x, w, COLS, z);
            check_blocks(s, "recorded kinds", x, y, z, w);
            double ours = weighted_error(x, y, w, COLS), theirs = weighted_error(x, z, w, COLS);
            if (!(sqrt(ours) <= 1.001 * sqrt(theirs))) {
                print_message("%s, row kind %u, weighting %u, number %u: %g, reference %g\n",
                              qformat(s->type)->name, kind, weights, i, ours, theirs);
                worse++;
            }
            sum[weights] += kind == 8 ? 0 : log(ours / theirs); /* tiny: both are zeros */
        }
        print_message("%-8s %u rows, %u worse\n", qformat(s->type)->name,
                      seeds() * N_RECORDED_KINDS * N_RECORDED_WEIGHTS, worse);
        assert_int_equal(worse, 0);
        for (unsigned k = 0; k < N_RECORDED_WEIGHTS; k++) {
            double ratio = exp(sum[k] / (seeds() * (N_RECORDED_KINDS - 1)));
            assert_true(ratio < 1 && (!quant_needs_importance(s->type) || ratio <= 0.94));
        }
    }
}

/* Every tier writes the bytes of the baseline. */
static void test_tiers(void **state)
{
    (void)state;
    enum encode_tier tier = quant_encode_tier();
    if (tier == ENCODE_BASE) {
        skip(); /* this processor has no other */
    }
    for (int t = 0; t < N_SEARCHED; t++) {
        for (unsigned i = 0; i < N_KINDS * N_IMPORTANCES; i++) {
            struct rng r = {31 + i};
            float x[COLS], w[COLS];
            struct fit_block b;
            uint8_t base[256] = {0}, wide[256] = {0};
            random_row(i % N_KINDS, &r, x);
            random_importance(i / N_KINDS, &r, w);
            if (fit_block_load(&b, x, w) != FIT_OK) {
                continue;
            }
            bool lost = encode_block_tier(ENCODE_BASE, SEARCHED[t].type, &b, base);
            assert_int_equal(encode_block_tier(tier, SEARCHED[t].type, &b, wide), lost);
            assert_memory_equal(base, wide, sizeof base);
        }
    }
}

/* ---- the rules ---- */

static void test_types(void **state)
{
    (void)state;
    for (int t = 0; t < N_SEARCHED; t++) {
        uint32_t type = SEARCHED[t].type;
        assert_true(quant_can_encode_weighted(type));
        assert_true(quant_needs_importance(type) == (type == QT_IQ2_XXS || type == QT_IQ2_XS));
    }
    assert_true(quant_can_encode_weighted(QT_F16) && quant_can_encode_weighted(QT_MXFP4));
    assert_false(quant_can_encode_weighted(QT_IQ1_S));
    assert_false(quant_can_encode_weighted(4) || quant_can_encode_weighted(UINT32_MAX));
    assert_false(quant_needs_importance(QT_Q2_K) || quant_needs_importance(UINT32_MAX));
}

static void test_refusals(void **state)
{
    (void)state;
    float x[512] = {1.0f}, w[512];
    uint8_t row[512], same[512];
    memset(row, 0xA5, sizeof row);
    memcpy(same, row, sizeof row);
    static const float bad[] = {NAN, INFINITY, -INFINITY, -1e-30f};
    for (int t = 0; t < N_SEARCHED; t++) {
        uint32_t type = SEARCHED[t].type;
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            for (int j = 0; j < 512; j++) {
                w[j] = 1.0f;
            }
            w[511] = bad[i];
            assert_int_equal(quant_encode_weighted(type, x, 512, w, row), -EINVAL);
        }
        assert_int_equal(quant_encode_weighted(type, x, 255, NULL, row), -EINVAL);
        assert_int_equal(quant_encode_weighted(type, x, 128, NULL, row), -EINVAL);
        assert_int_equal(quant_encode_weighted(type, x, 0, NULL, row), 0);
    }
    assert_int_equal(quant_encode_weighted(QT_IQ1_S, x, 256, NULL, row), -EINVAL);
    assert_int_equal(quant_encode_weighted(UINT32_MAX, x, 256, NULL, row), -EINVAL);
    assert_memory_equal(row, same, sizeof row);
    uint8_t direct[544];
    assert_int_equal(quant_encode_weighted(QT_Q8_0, x, 512, NULL, direct), 0);
    uint8_t plain[544];
    quant_encode(QT_Q8_0, x, 512, plain);
    assert_memory_equal(direct, plain, sizeof plain);
}

/* Number of lost blocks of a row of one block, all elements `scale` times a Gaussian row except
 * the first, which is `first` (kept if 0); *error gets the squared error relative to zeros. */
static int lost(uint32_t type, double scale, float first, double *error)
{
    struct rng r = {77};
    float x[256], y[256], zero[256] = {0};
    uint8_t row[256];
    for (int i = 0; i < 256; i++) {
        x[i] = (float)(scale * gauss(&r));
    }
    x[0] = first != 0.0f ? first : x[0];
    int n = quant_encode_weighted(type, x, 256, NULL, row);
    assert_true(quant_row_finite(type, row, 256) == (bool)isfinite(first));
    quant_decode(type, row, 0, 256, y);
    *error = weighted_error(x, y, NULL, 256) / weighted_error(x, zero, NULL, 256);
    return n;
}

static void test_losses(void **state)
{
    (void)state;
    for (int t = 0; t < N_SEARCHED; t++) {
        uint32_t type = SEARCHED[t].type;
        double e;
        assert_int_equal(lost(type, 1.0, 0, &e), 0);
        assert_true(e < 0.15);
        assert_int_equal(lost(type, 1e4, 0, &e), 0);
        assert_true(e < 0.15);
        assert_int_equal(lost(type, 1e-5, 0, &e), 0); /* subnormal scales */
        assert_true(e < 0.3);
        assert_int_equal(lost(type, 1e-10, 0, &e), 1);
        assert_true(e == 1.0);
        assert_int_equal(lost(type, 1e-42, 0, &e), 1);
        assert_int_equal(lost(type, 1e12, 0, &e), 1); /* saturated, still better than zeros */
        assert_true(e < 1.0);
        assert_int_equal(lost(type, 1e37, 0, &e), 1);
        assert_int_equal(lost(type, 1.0, NAN, &e), 1);
        assert_int_equal(lost(type, 1.0, INFINITY, &e), 1);
        assert_int_equal(lost(type, 1.0, -INFINITY, &e), 1);
    }
}

/* Zero rows decode to zeros; importance all zero counts as ones, in a whole row and in a block;
 * its absolute size does not matter. */
static void test_importance(void **state)
{
    (void)state;
    struct rng r = {78};
    float x[COLS], zero[COLS] = {0}, w[COLS], scaled[COLS], y[COLS];
    uint8_t a[MAX_ROW_BYTES], b[MAX_ROW_BYTES];
    random_row(0, &r, x);
    random_importance(1, &r, w);
    for (int i = 0; i < COLS; i++) {
        scaled[i] = w[i] * 0x1p-100f;
    }
    for (int t = 0; t < N_SEARCHED; t++) {
        uint32_t type = SEARCHED[t].type;
        size_t bytes = qformat_row_bytes(type, COLS);
        assert_true(our_error(type, zero, w, y) == 0 && our_error(type, zero, NULL, y) == 0);
        quant_encode_weighted(type, x, COLS, NULL, a);
        quant_encode_weighted(type, x, COLS, zero, b);
        assert_memory_equal(a, b, bytes);
        quant_encode_weighted(type, x, COLS, w, a);
        quant_encode_weighted(type, x, COLS, scaled, b);
        assert_memory_equal(a, b, bytes);
        float part[COLS]; /* a block and a group without importance */
        memcpy(part, w, sizeof part);
        memset(part + 256, 0, 256 * sizeof *part);
        memset(part + 576, 0, 32 * sizeof *part);
        assert_int_equal(quant_encode_weighted(type, x, COLS, part, b), 0);
        quant_decode(type, b, 0, COLS, y);
        double energy = weighted_error(x, zero, NULL, 256);
        assert_true(weighted_error(x + 256, y + 256, NULL, 256) < 0.2 * energy);
        assert_true(weighted_error(x + 576, y + 576, NULL, 32) < 0.1 * energy);
        assert_memory_equal(a, b, bytes / 4);
    }
}

/* A block's bytes do not depend on what is encoded around it or before it. */
static void test_split(void **state)
{
    (void)state;
    struct rng r = {79};
    float x[COLS], w[COLS];
    uint8_t whole[MAX_ROW_BYTES], part[MAX_ROW_BYTES];
    random_row(10, &r, x);
    random_importance(3, &r, w);
    for (int t = 0; t < N_SEARCHED; t++) {
        uint32_t type = SEARCHED[t].type;
        size_t bytes = qformat(type)->block_bytes;
        quant_encode_weighted(type, x, COLS, w, whole);
        for (size_t k = COLS / 256; k-- > 0;) {
            quant_encode_weighted(type, x + 256 * k, 256, w + 256 * k, part + bytes * k);
        }
        assert_memory_equal(whole, part, bytes * (COLS / 256));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records), cmocka_unit_test(test_random),
        cmocka_unit_test(test_unseen),  cmocka_unit_test(test_tiers),
        cmocka_unit_test(test_types),   cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_losses),  cmocka_unit_test(test_importance),
        cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
