/* test_op_rows.c - stored rows (op/rows.h): the roundings against a search over all codes, the
 * codecs against the roundings, exactly; the primitive checks of model.md 17; Hadamard against
 * its matrix; RoPE angles up to position 1,048,575 against extended precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "base/rng.h"
#include "op/program.h"
#include "op/rows.h"

static void assert_same_bits(float a, float b)
{
    if (f32_bits(a) != f32_bits(b) && !(isnan(a) && isnan(b))) {
        fail_msg("%a (%08x) is not %a (%08x)", (double)a, f32_bits(a), (double)b, f32_bits(b));
    }
}

/* Nearest value of a grid of non-negative codes in ascending order, ties to the even code: the
 * definition, by search. scale is a power of two, so the products are exact. */
static float nearest(float x, float scale, float (*value)(uint8_t), uint8_t max_code)
{
    double a = fabs((double)x), best = 1e300;
    uint8_t code = 0;
    for (unsigned c = 0; c <= max_code; c++) {
        double dist = fabs(a - (double)value((uint8_t)c) * (double)scale);
        if (dist < best || (dist == best && c % 2 == 0)) {
            best = dist;
            code = (uint8_t)c;
        }
    }
    float v = value(code) * scale;
    return signbit(x) ? -v : v;
}

/* 2^ceil(log2(m / max)), by doubling and halving; m / max as the float product the model uses.
 */
static float block_scale(const float *x, unsigned n, float floor, float inv_max)
{
    float m = floor;
    for (unsigned i = 0; i < n; i++) {
        m = fabsf(x[i]) > m ? fabsf(x[i]) : m;
    }
    float t = m * inv_max, s = 1;
    while (s < t) {
        s *= 2;
    }
    while (s / 2 >= t) {
        s /= 2;
    }
    return s;
}

static void test_primitives(void **state)
{
    (void)state;
    float x[64] = {0.1f, -3.3f, 449, 1e-5f}, want[64] = {0.1015625f, -3.25f, 448};
    fp8_sim(x, 64);
    float y[32] = {0.1f, 0.3f, -1.3f, 5, 2.5f, 0.26f}, want4[32] = {0, 0.5f, -1.5f, 4, 2, 0.5f};
    fp4_sim(y, 32);
    for (int i = 0; i < 64; i++) {
        assert_same_bits(x[i], want[i]);
    }
    for (int i = 0; i < 32; i++) {
        assert_same_bits(y[i], want4[i]);
    }
    float ties[32] = {6, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -0.25f, -5};
    float tied[32] = {6, 0, 1, 1, 2, 2, 4, 4, -0.0f, -4};
    fp4_sim(ties, 32);
    for (int i = 0; i < 32; i++) {
        assert_same_bits(ties[i], tied[i]);
    }
}

/* Every bf16 value that is at most the block's maximum, under several maxima. */
static void test_fp8_exhaustive(void **state)
{
    (void)state;
    const float maxima[] = {448, 449, 1, 0.99f, 1e-4f, 0, 3e-3f, 1e30f};
    struct row_geom g = row_geom_make(ROW_FP8, 64 + 4, 4);
    for (size_t k = 0; k < sizeof maxima / sizeof maxima[0]; k++) {
        for (uint32_t u = 0; u < 0x10000; u += 62) {
            float x[68] = {maxima[k]}, sim[64], row[68];
            for (uint32_t i = 1; i < 63; i++) {
                float v = bf16_to_f32((uint16_t)(u + i - 1));
                x[i] = fabsf(v) <= maxima[k] ? v : 0;
            }
            memcpy(sim, x, sizeof sim);
            fp8_sim(sim, 64);
            uint8_t codes[64 + 8], scales[8];
            row_encode(&g, x, codes, scales);
            row_decode(&g, codes, scales, row);
            float scale = block_scale(x, 64, 1e-4f, 1.0f / 448.0f);
            assert_same_bits(e8m0_to_f32(scales[0]), scale);
            for (int i = 0; i < 64; i++) {
                assert_same_bits(sim[i], nearest(x[i], scale, e4m3_to_f32, 0x7E));
                assert_same_bits(row[i], sim[i]);
            }
        }
    }
}

static void test_fp4_exhaustive(void **state)
{
    (void)state;
    const float maxima[] = {6, 6.001f, 1, 0, 0x1p-126f, 3e-3f, 1e30f};
    struct row_geom g = row_geom_make(ROW_FP4, 32, 0);
    for (size_t k = 0; k < sizeof maxima / sizeof maxima[0]; k++) {
        for (uint32_t u = 0; u < 0x10000; u += 31) {
            float x[32] = {maxima[k]}, sim[32], row[32];
            for (uint32_t i = 1; i < 32; i++) {
                float v = bf16_to_f32((uint16_t)(u + i - 1));
                x[i] = fabsf(v) <= maxima[k] ? v : 0;
            }
            memcpy(sim, x, sizeof sim);
            fp4_sim(sim, 32);
            uint8_t codes[16], scales[1];
            row_encode(&g, x, codes, scales);
            row_decode(&g, codes, scales, row);
            float scale = block_scale(x, 32, 6 * 0x1p-126f, 1.0f / 6.0f);
            for (int i = 0; i < 32; i++) {
                assert_same_bits(sim[i], nearest(x[i], scale, e2m1_to_f32, 7));
                assert_same_bits(row[i], sim[i]);
            }
        }
    }
}

/* Every code under every scale byte a finite row can have decodes to a value that encodes to
 * the same bytes again, if the block's largest is the top code. */
static void test_codes_round_trip(void **state)
{
    (void)state;
    struct row_geom g = row_geom_make(ROW_FP8, 256, 0);
    for (unsigned s = 105; s < 240; s++) {
        uint8_t codes[256], scales[8] = {0}, codes2[256], scales2[8];
        float x[256];
        for (unsigned c = 0; c < 256; c++) {
            codes[c] = c % 64 == 63 ? 0x7E : (uint8_t)c;
        }
        memset(scales, (int)s, 4);
        row_decode(&g, codes, scales, x);
        row_encode(&g, x, codes2, scales2);
        assert_memory_equal(codes, codes2, sizeof codes);
        assert_memory_equal(scales, scales2, sizeof scales);
    }
}

static void test_geometry(void **state)
{
    (void)state;
    struct row_geom row = row_geom_make(ROW_FP8, 512, 64);
    struct row_geom index = row_geom_make(ROW_FP4, 128, 64);
    struct row_geom plain = row_geom_make(ROW_F32, 512, 64);
    assert_int_equal(row.code_bytes, 576);
    assert_int_equal(row.scale_bytes, 8);
    assert_int_equal(index.code_bytes, 64);
    assert_int_equal(index.scale_bytes, 4);
    assert_int_equal(plain.code_bytes, 2048);
    assert_int_equal(plain.scale_bytes, 0);

    float x[512] = {0};
    x[448] = 1.00390625f; /* between bf16 1.0 and 1.0078125: ties to even */
    x[511] = -2;
    uint8_t codes[576], scales[8];
    memset(scales, 0xAA, sizeof scales);
    row_encode(&row, x, codes, scales);
    assert_int_equal(scales[7],
                     0); /* padding is zero: stored bytes are a function of the row */
    assert_int_equal(load_le16(codes + 448), 0x3F80);
    assert_int_equal(load_le16(codes + 574), 0xC000);

    float y[128] = {0, 6, 1};
    row_encode(&index, y, codes, scales);
    assert_int_equal(codes[0], 0x70); /* low nibble: even element */
    assert_int_equal(codes[1], 0x02);

    float z[512];
    row_encode(&plain, x, z, NULL);
    assert_memory_equal(x, z, sizeof x);
    memset(x, 0, sizeof x);
    row_decode(&plain, z, NULL, x);
    assert_memory_equal(x, z, sizeof x);
}

/* A NaN or infinity stays where it is and leaves its neighbours alone. */
static void test_not_finite(void **state)
{
    (void)state;
    float x[64] = {448, NAN, INFINITY, -INFINITY, 1};
    fp8_sim(x, 64);
    assert_true(x[0] == 448 && isnan(x[1]) && isnan(x[2]) && isnan(x[3]) && x[4] == 1);
    struct row_geom g = row_geom_make(ROW_FP8, 66, 2);
    float row[66] = {448, NAN}, back[66];
    row[64] = NAN;
    row[65] = INFINITY;
    uint8_t codes[68], scales[8];
    row_encode(&g, row, codes, scales);
    row_decode(&g, codes, scales, back);
    assert_true(back[0] == 448 && isnan(back[1]) && isnan(back[64]) && isinf(back[65]));
    float y[32] = {3, NAN, INFINITY, -INFINITY, 1};
    fp4_sim(y, 32);
    assert_true(y[0] == 3 && y[1] == 3 && y[2] == 3 && y[3] == -3 && y[4] == 1);
}

static void test_hadamard(void **state)
{
    (void)state;
    float e0[128] = {1};
    hadamard(e0, 128);
    for (int i = 0; i < 128; i++) {
        assert_true(fabsf(e0[i] - 0.08838835f) < 1e-8f);
    }
    struct rng r = {17};
    float x[128], y[128];
    for (int i = 0; i < 128; i++) {
        x[i] = y[i] = rng_sym(&r);
    }
    hadamard(y, 128);
    for (int i = 0; i < 128; i++) {
        double sum = 0; /* H[i][j] = (-1)^popcount(i & j) / sqrt(n) */
        for (int j = 0; j < 128; j++) {
            sum += __builtin_popcount((unsigned)(i & j)) % 2 ? -(double)x[j] : (double)x[j];
        }
        assert_true(fabs((double)y[i] - sum / sqrt(128)) < 1e-6);
    }
    hadamard(y, 128); /* its own inverse */
    for (int i = 0; i < 128; i++) {
        assert_true(fabsf(x[i] - y[i]) < 1e-6f);
    }
}

static void test_rope_angles(void **state)
{
    (void)state;
    struct rope_table t = {.n = 32};
    for (int i = 0; i < 32; i++) {
        t.freq[i] = (float)pow(160000, -2.0 * i / 64);
    }
    const uint32_t special[] = {0, 1, 2, 127, 65535, 65536, 1000003, 1048574, 1048575};
    struct rng r = {23};
    double largest_drift = 0;
    for (int k = 0; k < 2000; k++) {
        uint32_t pos = k < 9 ? special[k] : rng_below(&r, 1048576);
        float cs[64];
        rope_angles(&t, pos, cs);
        for (int i = 0; i < 32; i++) {
            /* The product of a 20-bit and a 24-bit number is exact in double, so this is the
             * rounding to float and nothing else. */
            float phi = (float)((double)pos * (double)t.freq[i]);
            long double c = cosl((long double)phi), s = sinl((long double)phi);
            assert_true(fabsl((long double)cs[2 * i] - c) < 3.1e-8L);
            assert_true(fabsl((long double)cs[2 * i + 1] - s) < 3.1e-8L);
            double drift = fabs(cos((double)pos * (double)t.freq[i]) - (double)cs[2 * i]);
            largest_drift = drift > largest_drift ? drift : largest_drift;
        }
    }
    /* The rounded product is visible: without it, the tolerance above would fail. */
    assert_true(largest_drift > 0.01 && largest_drift < 0.04);
}

static void test_rope_apply(void **state)
{
    (void)state;
    struct rope_table t = {.n = 2, .freq = {1, 0.25f}};
    float cs[4], x[4] = {1, 2, -3, 0.5f};
    rope_angles(&t, 3, cs);
    rope_apply(x, 2, cs, false);
    assert_true(fabs((double)x[0] - (cos(3) - 2 * sin(3))) < 1e-6);
    assert_true(fabs((double)x[1] - (sin(3) + 2 * cos(3))) < 1e-6);
    assert_true(fabs((double)x[2] - (-3 * cos(0.75) - 0.5 * sin(0.75))) < 1e-6);
    assert_true(fabs((double)x[3] - (-3 * sin(0.75) + 0.5 * cos(0.75))) < 1e-6);
    rope_apply(x, 2, cs, true);
    const float want[4] = {1, 2, -3, 0.5f};
    for (int i = 0; i < 4; i++) {
        assert_true(fabsf(x[i] - want[i]) < 1e-6f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_primitives),     cmocka_unit_test(test_fp8_exhaustive),
        cmocka_unit_test(test_fp4_exhaustive), cmocka_unit_test(test_codes_round_trip),
        cmocka_unit_test(test_geometry),       cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_hadamard),       cmocka_unit_test(test_rope_angles),
        cmocka_unit_test(test_rope_apply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
