/* encode.c - float rows to the stored types that need no search: F32, F16, BF16, Q8_0, MXFP4;
 * and the entry to the searching ones (encode_k.c, encode_sym.c, encode_iq.c: read those next).
 * Each is a fixed sequence of roundings, so the output does not depend on compiler or thread
 * count. Q8_0 rounds half away from zero and divides by the unrounded scale, as other writers
 * do: its bytes are comparable between programs. MXFP4 is exact for rows that were E2M1 times a
 * power of two to begin with; quant_mxfp4_repack moves such codes without going through floats.
 * What does not survive (overflow, underflow, NaN) is counted for the writer to report. */
#include "quant/encode.h"

#include <assert.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>

#include "base/num.h"
#include "quant/encode_fit.h"
#include "quant/encode_iq.h"
#include "quant/encode_k.h"
#include "quant/encode_sym.h"
#include "quant/formats.h"

/* As in act.c: below 2^-119 the reciprocal of a scale can overflow. */
#define MAX_MIN 0x1p-119f

static size_t encode_f16(const float *x, size_t n, uint8_t *out)
{
    size_t lost = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_f16(x[i]);
        store_le16(out + 2 * i, h);
        lost += (h & 0x7FFF) == 0x7C00 || ((h & 0x7FFF) == 0 && x[i] != 0.0f) || x[i] != x[i];
    }
    return lost;
}

static size_t encode_bf16(const float *x, size_t n, uint8_t *out)
{
    size_t lost = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = f32_to_bf16(x[i]);
        store_le16(out + 2 * i, h);
        lost += (h & 0x7FFF) >= 0x7F80 || ((h & 0x7FFF) == 0 && x[i] != 0.0f);
    }
    return lost;
}

/* max|x| over 32; NaN if any element is NaN or infinite. */
static float block_max(const float *x)
{
    uint32_t max = 0;
    for (int i = 0; i < 32; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7FFFFFFFu;
        max = a > max ? a : max;
    }
    return f32_from_bits(max >= 0x7F800000u ? 0x7FC00000u : max);
}

/* Rounds half away from zero; |v| < 2^23. The fraction v - trunc(v) is exact. */
static int round_half_away(float v)
{
    int t = (int)v;
    float rest = v - (float)t;
    return t + (rest >= 0.5f) - (rest <= -0.5f);
}

/* d = max / 127, q = x * (1 / d); the stored scale is d rounded to f16. A block with NaN or
 * infinity gets a NaN scale and zero codes. Returns 1 if the scale is not usable. */
static size_t encode_q8_0_block(const float *x, uint8_t *out)
{
    float max = block_max(x);
    bool finite = max == max, tiny = !(max >= MAX_MIN);
    float d = max / 127.0f, inverse = tiny ? 0.0f : 1.0f / d;
    uint16_t h = f32_to_f16(d);
    store_le16(out, h);
    for (int i = 0; i < 32; i++) {
        out[2 + i] = finite ? (uint8_t)round_half_away(x[i] * inverse) : 0;
    }
    return !finite || h == 0x7C00 || (h == 0 && max > 0.0f);
}

/* f32_to_e2m1 for a finite value without branches, so that a loop over it vectorises. */
static inline uint8_t nearest_e2m1(float v)
{
    float a = fabsf(v);
    int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
               (a >= 3.5f) + (a > 5.0f);
    return (uint8_t)(code | (int)(f32_bits(v) >> 28 & 8u));
}

/* e = floor(log2 max) - 2 + 127, so that the largest element becomes 4 <= |x| < 8 and saturates
 * at 6; each code is the nearest E2M1 value. A block with NaN or infinity gets e = 255. */
static size_t encode_mxfp4_block(const float *x, uint8_t *out)
{
    float max = block_max(x);
    if (max != max) {
        memset(out, 0, 17);
        out[0] = 255;
        return 1;
    }
    uint32_t exponent = f32_bits(max) >> 23;
    uint32_t e = exponent > 2 ? exponent - 2 : 0;
    float inverse = e8m0_to_f32((uint8_t)(254 - e));
    uint8_t code[32], any = 0;
    for (int i = 0; i < 32; i++) {
        code[i] = nearest_e2m1(x[i] * inverse);
    }
    out[0] = (uint8_t)e;
    for (int j = 0; j < 16; j++) {
        any |= (code[j] | code[j + 16]) & 7;
        out[1 + j] = (uint8_t)(code[j] | code[j + 16] << 4);
    }
    return any == 0 && max > 0.0f;
}

#define LOW 0x0F0F0F0F0F0F0F0Fu

/* The four bytes of x at every second byte. */
static uint64_t spread(uint64_t x)
{
    x = (x | x << 16) & 0x0000FFFF0000FFFFu;
    return (x | x << 8) & 0x00FF00FF00FF00FFu;
}

size_t quant_mxfp4_repack(const uint8_t *codes, const uint8_t *scales, size_t n, void *row)
{
    assert(n % 32 == 0);
    uint8_t *out = row;
    size_t bad = 0;
    for (size_t k = 0; k < n / 32; k++, codes += 16, out += 17) {
        out[0] = scales[k];
        bad += scales[k] == 255;
        /* Source byte j holds elements 2 j (low) and 2 j + 1, byte j of ours j and 16 + j. */
        uint64_t a = load_le64(codes), b = load_le64(codes + 8);
        uint64_t even = (a & LOW) | (b & LOW) << 4, odd = (a >> 4 & LOW) | (b & ~LOW);
        store_le64(out + 1, spread((uint32_t)even) | spread((uint32_t)odd) << 8);
        store_le64(out + 9, spread((uint32_t)(even >> 32)) | spread((uint32_t)(odd >> 32))
                                                                 << 8);
    }
    return bad;
}

bool quant_can_encode(uint32_t type_id)
{
    return type_id == QT_F32 || type_id == QT_F16 || type_id == QT_BF16 || type_id == QT_Q8_0 ||
           type_id == QT_MXFP4;
}

size_t quant_encode(uint32_t type_id, const float *x, size_t n, void *row)
{
    assert(quant_can_encode(type_id) && n % qformat(type_id)->block_elems == 0);
    uint8_t *out = row;
    size_t lost = 0;
    switch (type_id) {
    case QT_F32: memcpy(out, x, n * 4); break;
    case QT_F16: lost = encode_f16(x, n, out); break;
    case QT_BF16: lost = encode_bf16(x, n, out); break;
    case QT_Q8_0:
        for (size_t k = 0; k < n; k += 32, out += 34) {
            lost += encode_q8_0_block(x + k, out);
        }
        break;
    default:
        for (size_t k = 0; k < n; k += 32, out += 17) {
            lost += encode_mxfp4_block(x + k, out);
        }
        break;
    }
    return lost;
}

static bool is_searching(uint32_t type_id)
{
    switch (type_id) {
    case QT_Q2_K:
    case QT_Q3_K:
    case QT_Q4_K:
    case QT_Q5_K:
    case QT_Q6_K:
    case QT_IQ2_XXS:
    case QT_IQ2_XS:
    case QT_IQ3_XXS:
    case QT_IQ4_XS: return true;
    default: return false;
    }
}

bool quant_can_encode_weighted(uint32_t type_id)
{
    return quant_can_encode(type_id) || is_searching(type_id);
}

bool quant_needs_importance(uint32_t type_id)
{
    return type_id == QT_IQ2_XXS || type_id == QT_IQ2_XS;
}

/* Where a searching format has its f16 scale (the first one). */
static size_t scale_offset(uint32_t type_id)
{
    switch (type_id) {
    case QT_Q2_K: return 80;
    case QT_Q3_K: return 108;
    case QT_Q6_K: return 208;
    default: return 0;
    }
}

enum encode_tier quant_encode_tier(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        return ENCODE_AVX2;
    }
#endif
    return ENCODE_BASE;
}

bool encode_block_tier(enum encode_tier tier, uint32_t type_id, const struct fit_block *b,
                       uint8_t *out)
{
    bool (*k)(uint32_t, const struct fit_block *, uint8_t *) = k_encode_block;
    bool (*sym)(uint32_t, const struct fit_block *, uint8_t *) = sym_encode_block;
    bool (*iq)(uint32_t, const struct fit_block *, uint8_t *) = iq_encode_block;
#if defined(__x86_64__)
    if (tier == ENCODE_AVX2) {
        k = k_encode_block_avx2;
        sym = sym_encode_block_avx2;
        iq = iq_encode_block_avx2;
    }
#else
    (void)tier;
#endif
    switch (type_id) {
    case QT_Q2_K:
    case QT_Q4_K:
    case QT_Q5_K: return k(type_id, b, out);
    case QT_Q3_K:
    case QT_Q6_K:
    case QT_IQ4_XS: return sym(type_id, b, out);
    default: return iq(type_id, b, out);
    }
}

/* One block of a searching format. Returns 1 if it is lost. */
static int encode_searched(uint32_t type_id, const float *x, const float *importance,
                           uint8_t *out)
{
    struct fit_block b;
    memset(out, 0, qformat(type_id)->block_bytes);
    switch (fit_block_load(&b, x, importance)) {
    case FIT_ZERO: return 0;
    case FIT_UNDERFLOW: return 1;
    case FIT_BAD: store_le16(out + scale_offset(type_id), 0x7E00); return 1;
    case FIT_OK: break;
    }
    return encode_block_tier(quant_encode_tier(), type_id, &b, out);
}

int quant_encode_weighted(uint32_t type_id, const float *x, size_t n, const float *importance,
                          void *row)
{
    if (!quant_can_encode_weighted(type_id) || n % qformat(type_id)->block_elems != 0) {
        return -EINVAL;
    }
    for (size_t i = 0; importance && i < n; i++) {
        if (!(importance[i] >= 0.0f && importance[i] <= FLT_MAX)) {
            return -EINVAL;
        }
    }
    size_t lost = 0;
    if (is_searching(type_id)) {
        uint8_t *out = row;
        for (size_t k = 0; k < n; k += FIT_N, out += qformat(type_id)->block_bytes) {
            lost += (size_t)encode_searched(type_id, x + k, importance ? importance + k : NULL,
                                            out);
        }
    } else {
        lost = quant_encode(type_id, x, n, row);
    }
    return lost < INT_MAX ? (int)lost : INT_MAX;
}
