/* test_quant_num.c - the scalar formats of base/num.h: golden F16 and BF16 conversions,
 * exhaustive round trips of every code, and nearest-even rounding of E4M3, E2M1, F16 and BF16
 * against a search over all codes in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "testdata.h"

static void test_golden(void **state)
{
    (void)state;
    struct buf b = {0};
    fathom_err err = {0};
    if (file_read_all(&b, test_data_path("quant-vectors/scalar_conv.bin"), 1 << 24, &err) !=
        0) {
        fail_msg("%s", err.msg);
    }
    assert_memory_equal(b.p, "QVCV", 4);
    uint32_t n = load_le32(b.p + 8);
    assert_int_equal(b.n, 12 + 8 * (size_t)n);
    for (uint32_t i = 0; i < n; i++) {
        const char *p = b.p + 12 + 8 * (size_t)i;
        float x = f32_from_bits(load_le32(p));
        uint16_t h = load_le16(p + 4), bf = load_le16(p + 6);
        if (isnan(x)) {
            assert_true(isnan(f16_to_f32(h)) && isnan(f16_to_f32(f32_to_f16(x))));
            assert_true(isnan(bf16_to_f32(bf)) && isnan(bf16_to_f32(f32_to_bf16(x))));
        } else {
            assert_int_equal(f32_to_f16(x), h);
            assert_int_equal(f32_to_bf16(x), bf);
        }
    }
    buf_free(&b);
}

/* Value of a small float format, from its definition. */
static double value_of(unsigned code, int exp_bits, int man_bits, int bias)
{
    unsigned e = code >> man_bits & ((1u << exp_bits) - 1), m = code & ((1u << man_bits) - 1);
    double v = e == 0 ? ldexp(m, 1 - bias - man_bits)
                      : ldexp((double)(m | 1u << man_bits), (int)e - bias - man_bits);
    return code >> (exp_bits + man_bits) & 1 ? -v : v;
}

static void test_round_trips(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 65536; c++) {
        uint16_t h = (uint16_t)c;
        float x = f16_to_f32(h), y = bf16_to_f32(h);
        if ((c & 0x7C00) != 0x7C00) {
            assert_true((double)x == value_of(c, 5, 10, 15));
        } else {
            assert_true((c & 0x3FF) ? isnan(x) : isinf(x));
        }
        assert_true(isnan(x) ? isnan(f16_to_f32(f32_to_f16(x))) : f32_to_f16(x) == h);
        assert_true(isnan(y) ? isnan(bf16_to_f32(f32_to_bf16(y))) : f32_to_bf16(y) == h);
    }
    for (unsigned c = 0; c < 256; c++) {
        uint8_t b = (uint8_t)c;
        float x = e4m3_to_f32(b);
        if ((c & 0x7F) == 0x7F) {
            assert_true(isnan(x));
            assert_int_equal(f32_to_e4m3(x) & 0x7F, 0x7F);
        } else {
            assert_true((double)x == value_of(c, 4, 3, 7));
            assert_int_equal(f32_to_e4m3(x), b);
        }
        float s = e8m0_to_f32(b);
        assert_true(c == 255 ? isnan(s) : (double)s == ldexp(1.0, (int)c - 127));
        if (c > 0 && c < 255) {
            assert_int_equal(ue8m0_ceil(s), b);
            if (c > 1) { /* below that are no normal floats */
                assert_int_equal(ue8m0_ceil(nextafterf(s, 0)), b);
            }
            assert_int_equal(ue8m0_ceil(nextafterf(s, INFINITY)), c == 254 ? 254 : b + 1);
        }
    }
    for (unsigned c = 0; c < 16; c++) {
        assert_true((double)e2m1_to_f32((uint8_t)c) == value_of(c, 2, 1, 1));
        assert_int_equal(f32_to_e2m1(e2m1_to_f32((uint8_t)c)), c);
    }
}

/* The code of |x| by search: the nearest of the values of codes 0..max, ties to the even code.
 */
static unsigned nearest(double x, unsigned max, int exp_bits, int man_bits, int bias)
{
    unsigned best = 0;
    double a =
        fmin(fabs(x), 1000.0); /* far beyond either maximum, where differences are exact */
    for (unsigned c = 1; c <= max; c++) {
        double d = fabs(value_of(c, exp_bits, man_bits, bias) - a);
        double d0 = fabs(value_of(best, exp_bits, man_bits, bias) - a);
        if (d < d0 || (d == d0 && (c & 1) == 0)) {
            best = c;
        }
    }
    return best | (signbit(x) ? 1u << (exp_bits + man_bits) : 0);
}

static void check_small(float x)
{
    unsigned e4m3 = f32_to_e4m3(x), e2m1 = f32_to_e2m1(x);
    if (e4m3 != nearest(x, 0x7E, 4, 3, 7) || e2m1 != nearest(x, 7, 2, 1, 1)) {
        fail_msg("%a: E4M3 %02x, E2M1 %x", (double)x, e4m3, e2m1);
    }
}

/* Every value, every midpoint between neighbours, and the floats next to both. */
static void test_ties(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 0x7E; c++) {
        float v = (float)value_of(c, 4, 3, 7), next = (float)value_of(c + 1, 4, 3, 7);
        float points[2] = {v, (v + next) / 2};
        for (int k = 0; k < 2; k++) {
            for (int sign = -1; sign <= 1; sign += 2) {
                float p = (float)sign * points[k];
                check_small(p);
                check_small(nextafterf(p, INFINITY));
                check_small(nextafterf(p, -INFINITY));
            }
        }
    }
    for (unsigned c = 0; c < 7; c++) {
        float mid = (e2m1_to_f32((uint8_t)c) + e2m1_to_f32((uint8_t)(c + 1))) / 2;
        assert_int_equal(f32_to_e2m1(mid), c + (c & 1));
        assert_int_equal(f32_to_e2m1(-mid), (c + (c & 1)) | 8);
    }
    check_small(448.0f);
    check_small(464.0f); /* half way to the absent 480 */
    check_small(1e30f);
    assert_int_equal(f32_to_e4m3(INFINITY), 0x7E);
    assert_int_equal(f32_to_e4m3(-INFINITY), 0xFE);
    assert_int_equal(f32_to_e2m1(INFINITY), 7);
    assert_int_equal(f32_to_e2m1(-100.0f), 15);
    assert_int_equal(f32_to_e2m1(-0.0f), 8);
}

/* 16-bit formats: the neighbours of a random float, compared in double. */
static void check_16(float x, uint16_t got, float (*value)(uint16_t), double limit)
{
    double a = fabs((double)x), v = fabs((double)value(got & 0x7FFF));
    assert_int_equal(got >> 15, signbit(x) != 0);
    if (a >= limit) {
        assert_true(isinf(v));
        return;
    }
    double up = (double)value((uint16_t)((got & 0x7FFF) + 1)), d = fabs(v - a);
    double down = (got & 0x7FFF) ? (double)value((uint16_t)((got & 0x7FFF) - 1)) : -INFINITY;
    double d_up = isinf(up) ? INFINITY : fabs(up - a), d_down = fabs(down - a);
    assert_true(d < d_up || (d == d_up && (got & 1) == 0));
    assert_true(d < d_down || (d == d_down && (got & 1) == 0));
}

static void test_random(void **state)
{
    (void)state;
    struct rng r = {12345};
    print_message("seed %llu\n", (unsigned long long)r.s);
    double bf16_limit = ldexp(511.0, 119); /* half way between the largest and infinity */
    for (int i = 0; i < 300000; i++) {
        float x = f32_from_bits((uint32_t)rng_u64(&r));
        float y = ldexpf(rng_sym(&r), (int)rng_below(&r, 50) - 30);
        if (isfinite(x)) {
            check_16(x, f32_to_f16(x), f16_to_f32, 65520.0);
            check_16(x, f32_to_bf16(x), bf16_to_f32, bf16_limit);
        }
        check_16(y, f32_to_f16(y), f16_to_f32, 65520.0);
        if (i < 20000) {
            check_small(y);
        }
    }
    check_16(65519.996f, f32_to_f16(65519.996f), f16_to_f32, 65520.0);
    check_16(65520.0f, f32_to_f16(65520.0f), f16_to_f32, 65520.0);
}

static void test_loads(void **state)
{
    (void)state;
    uint8_t b[9];
    for (int k = 0; k < 2; k++) { /* unaligned as well */
        store_le64(b + k, 0x0123456789ABCDEFu);
        assert_int_equal(b[k], 0xEF);
        assert_int_equal(b[k + 7], 0x01);
        assert_true(load_le64(b + k) == 0x0123456789ABCDEFu);
        assert_int_equal(load_le32(b + k), 0x89ABCDEF);
        assert_int_equal(load_le16(b + k), 0xCDEF);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_ties),   cmocka_unit_test(test_random),
        cmocka_unit_test(test_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
