/* test_quant_decode.c - the format table and quant_decode.
 * Golden: every deq_*.bin of quant-vectors, bit for bit, whole rows and every sub-range.
 * Random: blocks of random bytes against a second decoder that computes one element at a time,
 * written separately from the unpackers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/formats.h"
#include "quant/tables.h"
#include "testdata.h"

static const char *const golden[] = {
    "q4_0",  "q4_1",  "q5_0",  "q5_1",    "q8_0",   "q2_K",  "q3_K",
    "q4_K",  "q5_K",  "q6_K",  "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs",
    "iq3_s", "iq1_s", "iq1_m", "iq4_nl",  "iq4_xs", "mxfp4",
};

/* Equal bits, or both NaN. */
static void same(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        if (f32_bits(a[i]) != f32_bits(b[i]) && !(isnan(a[i]) && isnan(b[i]))) {
            fail_msg("%s: element %zu is %a, expected %a", what, i, (double)a[i], (double)b[i]);
        }
    }
}

static void test_table(void **state)
{
    (void)state;
    static const uint32_t removed[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, 97, 1000, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(removed); i++) {
        assert_int_equal(qformat(removed[i])->cls, QC_NONE);
        assert_null(qformat(removed[i])->name);
        assert_int_equal(qformat_row_bytes(removed[i], 256), 0);
    }
    int n_types = 0;
    for (uint32_t id = 0; id < QT_COUNT; id++) {
        const struct qformat *f = qformat(id);
        if (f->cls != QC_NONE) {
            n_types++;
            assert_int_equal(qformat_by_name(f->name), (int)id);
            assert_int_equal(qformat_row_bytes(id, f->block_elems * 3), f->block_bytes * 3);
            if (f->block_elems > 1) {
                assert_int_equal(qformat_row_bytes(id, f->block_elems + 1), 0);
            }
        }
    }
    assert_int_equal(n_types, 35);
    assert_int_equal(qformat_by_name("iq2_xxs"), QT_IQ2_XXS);
    assert_int_equal(qformat_by_name("Q2_k"), QT_Q2_K);
    assert_int_equal(qformat_by_name("Q2"), -1);
    assert_int_equal(qformat_by_name(""), -1);
    assert_int_equal(qformat_row_bytes(QT_F32, UINT64_MAX / 2), 0); /* overflow */
    assert_int_equal(qformat_row_bytes(QT_IQ2_XXS, 4096), 1056);
    assert_int_equal(qformat_row_bytes(QT_Q2_K, 2048), 672);
    assert_int_equal(qformat_row_bytes(QT_Q4_K, 4096), 2304);
    assert_int_equal(qformat_row_bytes(QT_MXFP4, 4096), 2176);
    assert_int_equal(qformat_row_bytes(QT_F32, 0), 0);
}

static void check_golden(const char *name)
{
    char file[64];
    struct buf b = {0};
    fathom_err err = {0};
    snprintf(file, sizeof file, "quant-vectors/deq_%s.bin", name);
    if (file_read_all(&b, test_data_path(file), 1 << 24, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_true(b.n > 24);
    const uint8_t *p = (const uint8_t *)b.p;
    assert_memory_equal(p, "QVDQ", 4);
    assert_int_equal(load_le32(p + 4), 1);
    uint32_t id = load_le32(p + 8), elems = load_le32(p + 12), bytes = load_le32(p + 16);
    size_t n = (size_t)load_le32(p + 20) * elems;
    assert_int_equal(qformat_by_name(name), (int)id);
    assert_int_equal(qformat(id)->cls, QC_BLOCK);
    assert_int_equal(qformat(id)->block_elems, elems);
    assert_int_equal(qformat(id)->block_bytes, bytes);
    assert_int_equal(b.n, 24 + n / elems * bytes + 4 * n);
    const uint8_t *row = p + 24;
    float *want = mem_alloc(n, 4), *got = mem_alloc(n + 1, 4);
    memcpy(want, row + n / elems * bytes, 4 * n);
    got[n] = 12345.0f;
    quant_decode(id, row, 0, n, got);
    same(got, want, n, name);
    for (size_t k0 = 0; k0 < n; k0 += 32) {
        for (size_t len = 32; k0 + len <= n && len <= 320; len += 32) {
            memset(got, 0xAB, len * 4);
            quant_decode(id, row, k0, len, got);
            same(got, want + k0, len, name);
        }
    }
    assert_true(got[n] == 12345.0f);
    assert_true(quant_row_finite(id, row, n));
    mem_free(want);
    mem_free(got);
    buf_free(&b);
}

static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
        check_golden(golden[i]);
    }
}

/* ---- the second decoder: element i of a block, straight from the definitions ---- */

static float h(const uint8_t *b)
{
    return f16_to_f32(load_le16(b));
}
static int nibble(const uint8_t *q, int i) /* placement of the 32-element formats */
{
    return i < 16 ? q[i] & 15 : q[i - 16] >> 4;
}
static int fifth(const uint8_t *b, int i)
{
    return (load_le32(b) >> i & 1) != 0 ? 16 : 0;
}

static float element32(uint32_t id, const uint8_t *b, int i)
{
    switch (id) {
    case QT_Q4_0: return (float)(nibble(b + 2, i) - 8) * h(b);
    case QT_Q4_1: return (float)nibble(b + 4, i) * h(b) + h(b + 2);
    case QT_Q5_0: return (float)(nibble(b + 6, i) + fifth(b + 2, i) - 16) * h(b);
    case QT_Q5_1: return (float)(nibble(b + 8, i) + fifth(b + 4, i)) * h(b) + h(b + 2);
    case QT_Q8_0: return (float)(int8_t)b[2 + i] * h(b);
    case QT_IQ4_NL: return h(b) * (float)quant_values_iq4_nl[nibble(b + 2, i)];
    default: /* MXFP4 */
        return (float)quant_values_mxfp4[nibble(b + 1, i)] * ldexpf(1.0f, b[0] - 128);
    }
}

static float element_k(uint32_t id, const uint8_t *b, int i)
{
    int n = i / 128, j = i % 128 / 32, l = i % 32, g = i / 32, t = i / 16;
    if (id == QT_Q2_K) {
        int v = b[16 + 32 * n + l] >> 2 * j & 3;
        return h(b + 80) * (float)(b[t] & 15) * (float)v - h(b + 82) * (float)(b[t] >> 4);
    }
    if (id == QT_Q3_K) {
        int v = (b[32 + 32 * n + l] >> 2 * j & 3) - (b[l] >> (4 * n + j) & 1 ? 0 : 4);
        int s = t < 8 ? b[96 + t] & 15 : b[96 + t - 8] >> 4;
        s |= (b[96 + 8 + t % 4] >> 2 * (t / 4) & 3) << 4;
        return h(b + 108) * (float)(s - 32) * (float)v;
    }
    if (id == QT_Q6_K) {
        int low = b[64 * n + l + 32 * (j & 1)], high = b[128 + 32 * n + l] >> 2 * j & 3;
        int v = ((j < 2 ? low & 15 : low >> 4) | high << 4) - 32;
        return h(b + 208) * (float)(int8_t)b[192 + t] * (float)v;
    }
    const uint8_t *q = b + (id == QT_Q4_K ? 16 : 48), *c = b + 4;
    int byte = q[32 * (i / 64) + l], v = g % 2 ? byte >> 4 : byte & 15;
    int s = g < 4 ? c[g] & 63 : (c[g + 4] & 15) | (c[g - 4] >> 6) << 4;
    int m = g < 4 ? c[g + 4] & 63 : (c[g + 4] >> 4) | (c[g] >> 6) << 4;
    if (id == QT_Q5_K) {
        v += b[16 + l] >> g & 1 ? 16 : 0;
    }
    return h(b) * (float)s * (float)v - h(b + 2) * (float)m;
}

static float parity_signed(float x, unsigned field, int j)
{
    unsigned parity = 0;
    for (unsigned f = field; f; f >>= 1) {
        parity ^= f & 1;
    }
    return (field | parity << 7) >> j & 1 ? -x : x;
}

static float element_iq2_3(uint32_t id, const uint8_t *b, int i)
{
    int g = i / 32, k = i % 32 / 8, j = i % 8, sub = i / 8;
    if (id == QT_IQ2_XXS) {
        uint32_t w = load_le32(b + 2 + 8 * g + 4);
        float scale = h(b) * (0.5f + (float)(w >> 28)) * 0.25f;
        return scale *
               parity_signed(quant_grid_iq2_xxs[b[2 + 8 * g + k]][j], w >> 7 * k & 127, j);
    }
    if (id == QT_IQ3_XXS) {
        uint32_t w = load_le32(b + 66 + 4 * g);
        float scale = h(b) * (0.5f + (float)(w >> 28)) * 0.5f;
        uint8_t x = quant_grid_iq3_xxs[b[2 + 2 * sub + j / 4]][j % 4];
        return scale * parity_signed(x, w >> 7 * k & 127, j);
    }
    if (id == QT_IQ3_S) {
        int index = b[2 + 2 * sub + j / 4] | (b[66 + g] >> (2 * k + j / 4) & 1) << 8;
        int s = g % 2 ? b[106 + g / 2] >> 4 : b[106 + g / 2] & 15;
        float x = quant_grid_iq3_s[index][j % 4];
        return h(b) * (float)(1 + 2 * s) * (b[74 + sub] >> j & 1 ? -x : x);
    }
    int s = b[(id == QT_IQ2_XS ? 66 : 74) + g];
    float scale = h(b) * (0.5f + (float)(k < 2 ? s & 15 : s >> 4)) * 0.25f;
    if (id == QT_IQ2_XS) {
        unsigned w = load_le16(b + 2 + 2 * sub);
        return scale * parity_signed(quant_grid_iq2_xs[w & 511][j], w >> 9, j);
    }
    int index = b[2 + sub] | (b[66 + g] >> 2 * k & 3) << 8;
    float x = quant_grid_iq2_s[index][j];
    return scale * (b[34 + sub] >> j & 1 ? -x : x);
}

static float element_iq1_4(uint32_t id, const uint8_t *b, int i)
{
    int g = i / 32, k = i % 32 / 8, j = i % 8, sub = i / 8;
    if (id == QT_IQ4_XS) {
        int s = (g % 2 ? b[4 + g / 2] >> 4 : b[4 + g / 2] & 15) |
                (load_le16(b + 2) >> 2 * g & 3) << 4;
        int v = nibble(b + 8 + 16 * g, i % 32);
        return h(b) * (float)(s - 32) * (float)quant_values_iq4_nl[v];
    }
    if (id == QT_IQ1_S) {
        unsigned w = load_le16(b + 34 + 2 * g);
        float delta = w & 0x8000 ? -0.125f : 0.125f;
        int index = b[2 + sub] | (int)(w >> 3 * k & 7) << 8;
        return h(b) * (float)(2 * (w >> 12 & 7) + 1) *
               ((float)quant_grid_iq1[index][j] + delta);
    }
    unsigned d16 = 0;
    for (int w = 0; w < 4; w++) {
        d16 |= (unsigned)(load_le16(b + 48 + 2 * w) >> 12) << 4 * w;
    }
    int q = sub % 2 ? b[32 + sub / 2] >> 4 : b[32 + sub / 2] & 15;
    unsigned s = load_le16(b + 48 + 2 * (g / 2)) >> (6 * (g & 1) + 3 * (k / 2)) & 7;
    float delta = q & 8 ? -0.125f : 0.125f, grid = quant_grid_iq1[b[sub] | (q & 7) << 8][j];
    return f16_to_f32((uint16_t)d16) * (float)(2 * s + 1) * (grid + delta);
}

static float element(uint32_t id, const uint8_t *b, int i)
{
    switch (id) {
    case QT_Q2_K:
    case QT_Q3_K:
    case QT_Q4_K:
    case QT_Q5_K:
    case QT_Q6_K: return element_k(id, b, i);
    case QT_IQ2_XXS:
    case QT_IQ2_XS:
    case QT_IQ2_S:
    case QT_IQ3_XXS:
    case QT_IQ3_S: return element_iq2_3(id, b, i);
    case QT_IQ1_S:
    case QT_IQ1_M:
    case QT_IQ4_XS: return element_iq1_4(id, b, i);
    default: return element32(id, b, i);
    }
}

static void test_random(void **state)
{
    (void)state;
    struct rng r = {20260901};
    print_message("seed %llu\n", (unsigned long long)r.s);
    for (uint32_t id = 0; id < QT_COUNT; id++) {
        const struct qformat *f = qformat(id);
        for (int round = 0; f->cls == QC_BLOCK && round < 200; round++) {
            uint8_t block[256];
            float got[256], want[256];
            for (uint32_t i = 0; i < f->block_bytes; i++) {
                block[i] = (uint8_t)rng_u64(&r);
            }
            for (int i = 0; i < (int)f->block_elems; i++) {
                want[i] = element(id, block, i);
            }
            quant_decode(id, block, 0, f->block_elems, got);
            same(got, want, f->block_elems, f->name);
            bool finite = true;
            for (uint32_t i = 0; i < f->block_elems; i++) {
                finite = finite && isfinite(got[i]);
            }
            bool nan_scale = id == QT_MXFP4 && block[0] == 255;
            assert_int_equal(quant_row_finite(id, block, f->block_elems), finite && !nan_scale);
        }
    }
}

static void test_floats(void **state)
{
    (void)state;
    float x[7] = {0.0f, -1.5f, 65504.0f, 1e-7f, -0.0f, 3.0f, INFINITY}, y[7];
    uint16_t f16[7], bf16[7];
    for (int i = 0; i < 7; i++) {
        f16[i] = f32_to_f16(x[i]);
        bf16[i] = f32_to_bf16(x[i]);
    }
    for (size_t k0 = 0; k0 < 7; k0++) {
        size_t n = 7 - k0;
        quant_decode(QT_F32, x, k0, n, y);
        same(y, x + k0, n, "F32");
        quant_decode(QT_F16, f16, k0, n, y);
        for (size_t i = 0; i < n; i++) {
            assert_true(y[i] == f16_to_f32(f16[k0 + i]));
        }
        quant_decode(QT_BF16, bf16, k0, n, y);
        for (size_t i = 0; i < n; i++) {
            assert_true(y[i] == bf16_to_f32(bf16[k0 + i]));
        }
    }
    assert_false(quant_row_finite(QT_F32, x, 7));
    assert_true(quant_row_finite(QT_F32, x, 6));
    assert_false(quant_row_finite(QT_F16, f16, 7));
    assert_true(quant_row_finite(QT_F16, f16, 6));
    assert_false(quant_row_finite(QT_BF16, bf16, 7));
    assert_true(quant_row_finite(QT_BF16, bf16, 6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
