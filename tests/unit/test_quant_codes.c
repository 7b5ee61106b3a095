/* test_quant_codes.c - quant_codes32 against quant_decode: in real arithmetic d * w - m * mc is
 * the decoded value before its last rounding, so the two may differ by that rounding only. Also
 * the integer bounds that A8 kernels rely on. Blocks: the golden ones and random bytes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/formats.h"
#include "testdata.h"

/* Half a unit in the last place of a float sum of these terms. */
static double rounding(double a, double b)
{
    return fmax((fabs(a) + fabs(b)) * 0x1p-24, 0x1p-150);
}

static void check_row(uint32_t id, const void *row, size_t n)
{
    float x[32];
    struct codes32 c;
    for (size_t j = 0; j < n / 32; j++) {
        memset(&c, 0x5A, sizeof c);
        quant_decode(id, row, 32 * j, 32, x);
        quant_codes32(id, row, j, &c);
        if (!isfinite(c.d) || !isfinite(c.m)) {
            assert_false(quant_row_finite(id, row, n));
            continue;
        }
        int32_t sum = 0;
        for (int i = 0; i < 32; i++) {
            double a = (double)c.d * c.w[i], b = (double)c.m * c.mc[i / 16];
            if (isfinite(x[i]) && !(fabs(a - b - (double)x[i]) <= rounding(a, b))) {
                fail_msg("%s, group %zu, element %d: %a - %a is not %a", qformat(id)->name, j,
                         i, a, b, (double)x[i]);
            }
            if (!isfinite(x[i])) { /* MXFP4 with a scale near the end of the range */
                assert_true(id == QT_MXFP4 && fabs(a) >= 0x1p128);
            }
            assert_in_range(abs(c.w[i]), 0, 4096);
            sum += abs(c.w[i]) * 127;
        }
        assert_in_range(sum, 0, 4096 * 32 * 127);
        assert_in_range(c.mc[0], 0, 63);
        assert_in_range(c.mc[1], 0, 63);
    }
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const names[] = {
        "q4_0",   "q4_1",  "q5_0",    "q5_1",   "q8_0",   "q2_K",  "q3_K",
        "q4_K",   "q5_K",  "q6_K",    "iq1_s",  "iq1_m",  "iq2_s", "iq2_xxs",
        "iq2_xs", "iq3_s", "iq3_xxs", "iq4_nl", "iq4_xs", "mxfp4",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char file[64];
        struct buf b = {0};
        fathom_err err = {0};
        snprintf(file, sizeof file, "quant-vectors/deq_%s.bin", names[i]);
        if (file_read_all(&b, test_data_path(file), 1 << 24, &err) != 0) {
            fail_msg("%s", err.msg);
        }
        uint32_t id = load_le32(b.p + 8);
        check_row(id, b.p + 24, (size_t)load_le32(b.p + 20) * qformat(id)->block_elems);
        buf_free(&b);
    }
}

static void test_random(void **state)
{
    (void)state;
    struct rng r = {424242};
    print_message("seed %llu\n", (unsigned long long)r.s);
    uint8_t row[4 * 256];
    for (uint32_t id = 0; id < QT_COUNT; id++) {
        const struct qformat *f = qformat(id);
        for (int round = 0; f->cls == QC_BLOCK && round < 200; round++) {
            for (size_t i = 0; i < sizeof row; i++) {
                row[i] = (uint8_t)rng_u64(&r);
            }
            check_row(id, row, 3 * f->block_elems);
        }
    }
}

/* The largest codes a format can produce are reached and within the header's bound. */
static void test_extremes(void **state)
{
    (void)state;
    int largest = 0;
    for (uint32_t id = 0; id < QT_COUNT; id++) {
        const struct qformat *f = qformat(id);
        for (int fill = 0; f->cls == QC_BLOCK && fill < 256; fill++) {
            uint8_t block[256];
            memset(block, fill, sizeof block);
            for (uint32_t j = 0; j < f->block_elems / 32; j++) {
                struct codes32 c;
                quant_codes32(id, block, j, &c);
                for (int i = 0; i < 32; i++) {
                    assert_in_range(abs(c.w[i]), 0, 4096);
                    largest = MAX(largest, abs(c.w[i]));
                }
            }
        }
    }
    uint8_t q6[210] = {0}; /* code 0 - 32 times scale -128 */
    q6[192] = 0x80;
    struct codes32 c;
    quant_codes32(QT_Q6_K, q6, 0, &c);
    assert_int_equal(c.w[0], 4096);
    assert_int_equal(c.w[16], 0);
    assert_true(largest >= 3000);
}

/* How fast the portable form is; printed, not judged. */
static void test_speed(void **state)
{
    (void)state;
    static const uint32_t ids[] = {QT_Q8_0, QT_Q2_K, QT_Q4_K, QT_IQ2_XXS, QT_MXFP4, QT_IQ1_M};
    enum { N = 4096 };
    struct rng r = {1};
    uint8_t *row = mem_alloc(N / 32, 34);
    for (size_t i = 0; i < N / 32 * 34; i++) {
        row[i] = (uint8_t)rng_u64(&r);
    }
    for (size_t t = 0; t < ARRAY_LEN(ids); t++) {
        unsigned sum = 0;
        double t0 = clock_now();
        for (int round = 0; round < 200; round++) {
            for (size_t j = 0; j < N / 32; j++) {
                struct codes32 c;
                quant_codes32(ids[t], row, j, &c);
                sum += (unsigned)c.w[round % 32];
            }
        }
        double s = clock_now() - t0;
        print_message("%s: %.0f M weights/s (%u)\n", qformat(ids[t])->name, N * 200 / s / 1e6,
                      sum);
    }
    mem_free(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
