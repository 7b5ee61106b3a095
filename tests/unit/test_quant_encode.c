/* test_quant_encode.c - the encoders that need no search. Q8_0 must match the recorded bytes,
 * MXFP4 must be no worse than the records and exact on E2M1 sources, also through the repacker;
 * what is lost is counted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/encode.h"
#include "quant/formats.h"
#include "testdata.h"

enum { COLS = 1024 };

static void load(struct buf *b, const char *name, const char *magic)
{
    fathom_err err = {0};
    if (file_read_all(b, test_data_path(name), 1 << 24, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_memory_equal(b->p, magic, 4);
}

static const float *input_row(const struct buf *inputs, uint32_t row)
{
    static float x[COLS];
    assert_true(row < load_le32(inputs->p + 8));
    assert_int_equal(load_le32(inputs->p + 16), COLS);
    memcpy(x, inputs->p + 20 + (size_t)row * sizeof x, sizeof x);
    return x;
}

static double rmse(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    }
    return sqrt(sum / (double)n);
}

/* Every record: rmse at most the recorded one (times 1.001), same bytes if `exact`; and over
 * all records that are not zero, no worse on the geometric mean. */
static void check_records(const char *file, uint32_t id, bool exact)
{
    struct buf inputs = {0}, records = {0};
    load(&inputs, "quant-vectors/inputs.bin", "QVIN");
    load(&records, file, "QVQT");
    assert_int_equal(load_le32(records.p + 8), id);
    size_t row_bytes = load_le32(records.p + 20), n = load_le32(records.p + 24);
    assert_int_equal(row_bytes, qformat_row_bytes(id, COLS));
    assert_true(n >= 12);
    uint8_t *row = mem_alloc(row_bytes, 1);
    float y[COLS];
    double log_ratio = 0;
    const char *p = records.p + 28;
    for (size_t i = 0; i < n; i++, p += 32 + row_bytes) {
        const float *x = input_row(&inputs, load_le32(p));
        double want;
        memcpy(&want, p + 8, sizeof want);
        quant_encode(id, x, COLS, row);
        quant_decode(id, row, 0, COLS, y);
        double got = rmse(x, y, COLS);
        if (!(got <= want * 1.001)) {
            fail_msg("%s, record %zu: rmse %g, recorded %g", file, i, got, want);
        }
        log_ratio += got > 0 ? log(got / want) : 0;
        if (exact && memcmp(row, p + 32, row_bytes) != 0) {
            fail_msg("%s, record %zu: bytes differ", file, i);
        }
    }
    assert_true(log_ratio <= 1e-12);
    mem_free(row);
    buf_free(&inputs);
    buf_free(&records);
}

static void test_q8_0_records(void **state)
{
    (void)state;
    check_records("quant-vectors/quant_q8_0.bin", QT_Q8_0, true);
}

static void test_mxfp4_records(void **state)
{
    (void)state;
    check_records("quant-vectors/quant_mxfp4.bin", QT_MXFP4, false);
}

/* Random E2M1 codes with every scale byte the format can hold finitely: floats and back are the
 * same numbers, and the repacked source decodes to the same numbers as well. */
static void test_mxfp4_lossless(void **state)
{
    (void)state;
    struct rng r = {61};
    print_message("seed %llu\n", (unsigned long long)r.s);
    for (int e = 0; e <= 252; e++) {
        for (int round = 0; round < 16; round++) {
            uint8_t packed[16], scale = (uint8_t)e, row[17], repacked[17];
            unsigned codes = 1 + rng_below(&r, 8); /* sometimes small codes only */
            float x[32], y[32], z[32];
            for (int i = 0; i < 16; i++) {
                unsigned a = rng_below(&r, codes) | rng_below(&r, 2) << 3;
                unsigned b = rng_below(&r, codes) | rng_below(&r, 2) << 3;
                packed[i] = (uint8_t)(a | b << 4);
                x[2 * i] = ldexpf(e2m1_to_f32((uint8_t)a), e - 127);
                x[2 * i + 1] = ldexpf(e2m1_to_f32((uint8_t)b), e - 127);
            }
            assert_int_equal(quant_encode(QT_MXFP4, x, 32, row), 0);
            assert_int_equal(quant_mxfp4_repack(packed, &scale, 32, repacked), 0);
            quant_decode(QT_MXFP4, row, 0, 32, y);
            quant_decode(QT_MXFP4, repacked, 0, 32, z);
            for (int i = 0; i < 32; i++) {
                assert_true(x[i] == y[i] && x[i] == z[i]);
            }
        }
    }
    uint8_t packed[32] = {0}, scales[2] = {255, 254}, rows[34];
    assert_int_equal(quant_mxfp4_repack(packed, scales, 64, rows), 1);
    assert_false(quant_row_finite(QT_MXFP4, rows, 64));
    assert_true(quant_row_finite(QT_MXFP4, rows + 17, 32));
}

/* Scale 1 (largest element 4 to 6): nearest value, ties to the even code, saturation at 6. */
static void test_mxfp4_rounding(void **state)
{
    (void)state;
    static const float in[12] = {4.0f, 0.25f, 0.26f, 0.75f, 1.25f, 1.75f,
                                 2.5f, 3.5f,  5.0f,  5.01f, -5.0f, 7.9f};
    static const float out[12] = {4.0f, 0.0f, 0.5f, 1.0f, 1.0f,  2.0f,
                                  2.0f, 4.0f, 4.0f, 6.0f, -4.0f, 6.0f};
    float x[32] = {0}, y[32];
    uint8_t row[17];
    memcpy(x, in, sizeof in);
    quant_encode(QT_MXFP4, x, 32, row);
    assert_int_equal(row[0], 127);
    quant_decode(QT_MXFP4, row, 0, 32, y);
    for (int i = 0; i < 12; i++) {
        assert_true(y[i] == out[i]);
    }
}

static void test_plain(void **state)
{
    (void)state;
    static const float x[8] = {0.0f, -0.0f, 1.0f, 65519.0f, 65520.0f, 1e-9f, INFINITY, NAN};
    float y[8];
    assert_int_equal(quant_encode(QT_F32, x, 8, y), 0);
    assert_memory_equal(x, y, sizeof x);
    uint16_t h[8];
    assert_int_equal(quant_encode(QT_F16, x, 8, h), 4); /* 65520, 1e-9, both specials */
    for (int i = 0; i < 8; i++) {
        assert_int_equal(h[i], f32_to_f16(x[i]));
    }
    assert_int_equal(quant_encode(QT_BF16, x, 8, h), 2);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(h[i], f32_to_bf16(x[i]));
    }
    float edge[2] = {3.4e38f, 1e-45f}; /* rounds to infinity; rounds to zero */
    assert_int_equal(quant_encode(QT_BF16, edge, 2, h), 2);
    assert_true(quant_can_encode(QT_MXFP4) && quant_can_encode(QT_Q8_0));
    assert_true(quant_can_encode(QT_F32) && quant_can_encode(QT_F16) &&
                quant_can_encode(QT_BF16));
    assert_false(quant_can_encode(QT_Q8_K));
    assert_false(quant_can_encode(4));
    assert_false(quant_can_encode(UINT32_MAX));
}

static size_t lost(uint32_t id, float first, float second)
{
    float x[32] = {0}, y[32];
    uint8_t row[34];
    x[0] = first;
    x[31] = second;
    size_t n = quant_encode(id, x, 32, row);
    assert_int_equal(quant_row_finite(id, row, 32),
                     isfinite(first) && isfinite(second) &&
                         (id == QT_MXFP4 || fabsf(first) < 8e6f));
    quant_decode(id, row, 0, 32, y); /* any result, but no trap */
    return n;
}

static void test_block_losses(void **state)
{
    (void)state;
    assert_int_equal(lost(QT_Q8_0, 1.0f, -1.0f), 0);
    assert_int_equal(lost(QT_Q8_0, 0.0f, 0.0f), 0);
    assert_int_equal(lost(QT_Q8_0, 1e-7f, 0.0f), 1); /* scale underflows */
    assert_int_equal(lost(QT_Q8_0, 1e-45f, 0.0f), 1);
    assert_int_equal(lost(QT_Q8_0, 9e6f, 0.0f), 1); /* scale overflows */
    assert_int_equal(lost(QT_Q8_0, 3.4e38f, 0.0f), 1);
    assert_int_equal(lost(QT_Q8_0, NAN, 1.0f), 1);
    assert_int_equal(lost(QT_Q8_0, 1.0f, -INFINITY), 1);
    assert_int_equal(lost(QT_MXFP4, 1e-7f, 0.0f), 0);
    assert_int_equal(lost(QT_MXFP4, 3.4e38f, 0.0f), 0);
    assert_int_equal(lost(QT_MXFP4, 1e-45f, 0.0f), 1);
    assert_int_equal(lost(QT_MXFP4, NAN, 1.0f), 1);
    assert_int_equal(lost(QT_MXFP4, 1.0f, INFINITY), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_q8_0_records),   cmocka_unit_test(test_mxfp4_records),
        cmocka_unit_test(test_mxfp4_lossless), cmocka_unit_test(test_mxfp4_rounding),
        cmocka_unit_test(test_plain),          cmocka_unit_test(test_block_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
