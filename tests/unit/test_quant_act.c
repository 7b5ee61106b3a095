/* test_quant_act.c - A8 activation blocks against a scalar restatement of the definition in
 * act.h: equal bytes for random rows of every size of number, ties, limits, NaN and infinity;
 * and workers that fill disjoint parts of a row. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/act.h"

/* One block as the definition says, element by element, rounding by nearbyintf. */
static void encode_block(const float *x, int8_t *q, float *d, int16_t *sum)
{
    float max = 0.0f;
    bool finite = true;
    for (int i = 0; i < 32; i++) {
        finite = finite && isfinite(x[i]);
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    }
    bool zero = !finite || max < 0x1p-119f;
    float factor = 127.0f / max;
    *d = !finite ? NAN : zero ? 0.0f : max / 127.0f;
    sum[0] = sum[1] = 0;
    for (int i = 0; i < 32; i++) {
        q[i] = zero ? 0 : (int8_t)nearbyintf(x[i] * factor);
        sum[i / 16] = (int16_t)(sum[i / 16] + q[i]);
    }
}

static void check_row(const float *x, size_t n)
{
    void *got = mem_alloc_aligned(64, act8_row_bytes(n));
    memset(got, 0xCC, act8_row_bytes(n));
    act8_encode(x, 0, n, n, got);
    for (size_t b = 0; b < n / 32; b++) {
        int8_t q[32];
        int16_t sum[2];
        float d;
        encode_block(x + 32 * b, q, &d, sum);
        assert_memory_equal(act8_q(got) + 32 * b, q, 32);
        assert_memory_equal(act8_sum(got, n) + 2 * b, sum, 4);
        float stored = act8_d(got, n)[b];
        assert_true(isnan(d) ? isnan(stored) : f32_bits(d) == f32_bits(stored));
    }
    mem_free(got);
}

static void test_random(void **state)
{
    (void)state;
    struct rng r = {9001};
    print_message("seed %llu\n", (unsigned long long)r.s);
    enum { N = 2048 };
    float x[N];
    for (int round = 0; round < 300; round++) {
        int spread = round % 4;
        for (size_t i = 0; i < N; i++) {
            int e = spread == 0   ? 0
                    : spread == 1 ? (int)rng_below(&r, 20) - 10
                    : spread == 2 ? (int)rng_below(&r, 276) - 149
                                  : -round;
            x[i] = ldexpf(rng_sym(&r), e);
        }
        check_row(x, N);
    }
}

/* Random bit patterns: subnormals, infinities, NaNs, both zeros. */
static void test_bits(void **state)
{
    (void)state;
    struct rng r = {5};
    enum { N = 320 };
    float x[N];
    for (int round = 0; round < 2000; round++) {
        for (size_t i = 0; i < N; i++) {
            x[i] = f32_from_bits((uint32_t)rng_u64(&r));
            if (round % 2 && !isfinite(x[i])) {
                x[i] = 0.0f;
            }
        }
        check_row(x, N);
    }
}

static void encode32(const float *x, int8_t *q, float *d, int16_t *sum)
{
    _Alignas(64) uint8_t row[64];
    assert_int_equal(act8_row_bytes(32), 40);
    memset(row, 0xCC, sizeof row);
    act8_encode(x, 0, 32, 32, row);
    memcpy(q, act8_q(row), 32);
    *d = act8_d(row, 32)[0];
    memcpy(sum, act8_sum(row, 32), 4);
    for (size_t i = 40; i < sizeof row; i++) {
        assert_int_equal(row[i], 0xCC);
    }
}

static void test_ties_and_limits(void **state)
{
    (void)state;
    float x[32] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, 0.49999997f};
    static const int8_t want[10] = {127, 0, 2, 2, 0, -2, -2, 126, -126, 0};
    int8_t q[32];
    float d;
    int16_t sum[2];
    encode32(x, q, &d, sum);
    assert_memory_equal(q, want, sizeof want); /* the factor is 1: ties to even */
    assert_true(d == 1.0f);
    assert_int_equal(sum[0], 127 + 2 + 2 - 2 - 2);
    assert_int_equal(sum[1], 0);
    for (int i = 0; i < 32; i++) { /* largest possible sums */
        x[i] = -3e38f;
    }
    encode32(x, q, &d, sum);
    assert_int_equal(q[31], -127);
    assert_int_equal(sum[0], -127 * 16);
    float zero[32] = {0};
    zero[3] = -0.0f;
    encode32(zero, q, &d, sum);
    assert_int_equal(f32_bits(d), 0);
    zero[3] = 0x1.fffffep-120f; /* just below the threshold: counts as zero */
    encode32(zero, q, &d, sum);
    assert_int_equal(f32_bits(d), 0);
    assert_int_equal(q[3], 0);
    zero[3] = -0x1p-119f;
    encode32(zero, q, &d, sum);
    assert_int_equal(q[3], -127);
    assert_true(d >= 0x1p-126f); /* never subnormal */
}

static void test_not_finite(void **state)
{
    (void)state;
    static const uint32_t bits[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001};
    for (size_t k = 0; k < ARRAY_LEN(bits); k++) {
        float x[32];
        for (int i = 0; i < 32; i++) {
            x[i] = (float)i;
        }
        x[7 + k] = f32_from_bits(bits[k]);
        int8_t q[32], none[32] = {0};
        float d;
        int16_t sum[2];
        encode32(x, q, &d, sum);
        assert_true(isnan(d));
        assert_memory_equal(q, none, 32);
        assert_int_equal(sum[0] | sum[1], 0);
    }
}

static void test_parts(void **state)
{
    (void)state;
    enum { N = 512 };
    float x[N];
    struct rng r = {3};
    for (size_t i = 0; i < N; i++) {
        x[i] = rng_sym(&r);
    }
    uint8_t whole[N * 10 / 8], parts[N * 10 / 8];
    assert_int_equal(act8_row_bytes(N), sizeof whole);
    act8_encode(x, 0, N, N, whole);
    memset(parts, 0xCC, sizeof parts);
    static const size_t cuts[] = {480, 512, 0, 32, 128, 480, 32, 128};
    for (size_t i = 0; i < ARRAY_LEN(cuts); i += 2) {
        act8_encode(x + cuts[i], cuts[i], cuts[i + 1] - cuts[i], N, parts);
    }
    assert_memory_equal(whole, parts, sizeof whole);
    act8_encode(x + 64, 64, 0, N, parts); /* nothing */
    assert_memory_equal(whole, parts, sizeof whole);
}

static void test_speed(void **state)
{
    (void)state;
    enum { N = 4096 };
    float *x = mem_alloc(N, 4);
    void *row = mem_alloc_aligned(64, act8_row_bytes(N));
    struct rng r = {3};
    for (size_t i = 0; i < N; i++) {
        x[i] = rng_sym(&r);
    }
    double t0 = clock_now();
    for (int round = 0; round < 500; round++) {
        act8_encode(x, 0, N, N, row);
    }
    print_message("%.0f M values/s\n", N * 500 / (clock_now() - t0) / 1e6);
    mem_free(x);
    mem_free(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),          cmocka_unit_test(test_bits),
        cmocka_unit_test(test_ties_and_limits), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_parts),           cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
