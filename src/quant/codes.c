/* codes.c - from the unpacked form of a block (quant_int.h) to what callers want: floats
 * (quant_decode), exact integers for A8 dot products (quant_codes32), or a check of the scales.
 * This file is where type ids meet the unpackers; decode.c and decode_iq.c define the formats.
 * Exactness: d * s, m * mc and d * s * v need at most 11 + 8 + 8 bits, of which one
 * multiplication rounds at most once; so the float and the integer form describe the same
 * number. */
#include "quant/formats.h"

#include <assert.h>
#include <math.h>

#include "base/num.h"
#include "quant/quant_int.h"

static unpack_fn *const unpackers[QT_COUNT] = {
    [QT_Q4_0] = q4_0_unpack,     [QT_Q4_1] = q4_1_unpack,       [QT_Q5_0] = q5_0_unpack,
    [QT_Q5_1] = q5_1_unpack,     [QT_Q8_0] = q8_0_unpack,       [QT_Q2_K] = q2_k_unpack,
    [QT_Q3_K] = q3_k_unpack,     [QT_Q4_K] = q4_k_unpack,       [QT_Q5_K] = q5_k_unpack,
    [QT_Q6_K] = q6_k_unpack,     [QT_IQ2_XXS] = iq2_xxs_unpack, [QT_IQ2_XS] = iq2_xs_unpack,
    [QT_IQ2_S] = iq2_s_unpack,   [QT_IQ3_XXS] = iq3_xxs_unpack, [QT_IQ3_S] = iq3_s_unpack,
    [QT_IQ1_S] = iq1_s_unpack,   [QT_IQ1_M] = iq1_m_unpack,     [QT_IQ4_NL] = iq4_nl_unpack,
    [QT_IQ4_XS] = iq4_xs_unpack, [QT_MXFP4] = mxfp4_unpack,
};

void quant_unpack32(uint32_t type_id, const void *row, size_t j, struct unpacked32 *out)
{
    const struct qformat *f = qformat(type_id);
    assert(f->cls == QC_BLOCK);
    size_t groups = f->block_elems / 32;
    const uint8_t *block = (const uint8_t *)row + j / groups * f->block_bytes;
    unpackers[type_id](block, (unsigned)(j % groups), out);
}

static void decode_float(uint32_t type_id, const void *row, size_t k0, size_t n, float *out)
{
    const uint8_t *p = (const uint8_t *)row + k0 * qformat(type_id)->block_bytes;
    if (type_id == QT_F32) {
        memcpy(out, p, n * sizeof *out);
    } else if (type_id == QT_F16) {
        for (size_t i = 0; i < n; i++) {
            out[i] = f16_to_f32(load_le16(p + 2 * i));
        }
    } else {
        assert(type_id == QT_BF16);
        for (size_t i = 0; i < n; i++) {
            out[i] = bf16_to_f32(load_le16(p + 2 * i));
        }
    }
}

void quant_decode(uint32_t type_id, const void *row, size_t k0, size_t n, float *out)
{
    if (qformat(type_id)->cls == QC_FLOAT) {
        decode_float(type_id, row, k0, n, out);
        return;
    }
    assert(k0 % 32 == 0 && n % 32 == 0);
    for (size_t j = 0; j < n / 32; j++, out += 32) {
        struct unpacked32 u;
        quant_unpack32(type_id, row, k0 / 32 + j, &u);
        for (int h = 0; h < 2; h++) {
            float scale = u.d * (float)u.s[h], min = u.m * (float)u.mc[h];
            for (int i = 16 * h; i < 16 * h + 16; i++) {
                out[i] = scale * (float)u.v[i] - min;
            }
        }
    }
}

void quant_codes32(uint32_t type_id, const void *row, size_t j, struct codes32 *out)
{
    struct unpacked32 u;
    quant_unpack32(type_id, row, j, &u);
    out->d = u.d;
    out->m = u.m;
    for (int h = 0; h < 2; h++) {
        out->mc[h] = u.mc[h];
        for (int i = 16 * h; i < 16 * h + 16; i++) {
            out->w[i] = (int16_t)(u.s[h] * u.v[i]);
        }
    }
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

/* An MXFP4 scale byte of 255 is NaN by the standard; 253 and 254 overflow with large codes
 * only. */
static bool mxfp4_finite(const uint8_t *block)
{
    float x[32];
    if (block[0] < 253) {
        return true;
    }
    if (block[0] == 255) {
        return false;
    }
    quant_decode(QT_MXFP4, block, 0, 32, x);
    return all_finite(x, 32);
}

bool quant_row_finite(uint32_t type_id, const void *row, size_t n)
{
    const struct qformat *f = qformat(type_id);
    const uint8_t *p = row;
    for (size_t k = 0; k < n; k += f->block_elems, p += f->block_bytes) {
        if (f->cls == QC_FLOAT) {
            float x;
            decode_float(type_id, p, 0, 1, &x);
            if (!isfinite(x)) {
                return false;
            }
        } else if (type_id == QT_MXFP4) {
            if (!mxfp4_finite(p)) {
                return false;
            }
        } else {
            struct unpacked32 u;
            quant_unpack32(type_id, p, 0, &u); /* d and m are those of the whole block */
            if (!isfinite(u.d) || !isfinite(u.m)) {
                return false;
            }
        }
    }
    return true;
}
