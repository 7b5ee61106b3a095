/* num.h - scalar number formats: binary16, bfloat16, E4M3 (fn variant), E2M1, E8M0.
 * Conversions to float are exact; conversions from float round to nearest, ties to even
 * (model.md 3, quantization.md 2). All inline, pure, thread-safe. */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)(u >> 16 | 0x40u); /* NaN stays NaN */
    }
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 0x3FFu;
    if (e == 31) {
        return f32_from_bits(sign | 0x7F800000u | m << 13);
    }
    if (e == 0) { /* zero or subnormal: m * 2^-24, exact */
        float v = (float)m * 0x1p-24f;
        return f32_from_bits(f32_bits(v) | sign);
    }
    return f32_from_bits(sign | (e + 112u) << 23 | m << 13);
}
static inline uint16_t f32_to_f16(float f)
{
    uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) {
        return (uint16_t)(sign | 0x7E00u);
    }
    if (a >= 0x477FF000u) { /* 65520 and above */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (a < 0x38800000u) { /* below 2^-14: scale so that the float adder rounds at 2^-24 */
        float v = f32_from_bits(a) + 0.5f;
        return (uint16_t)(sign | (f32_bits(v) - 0x3F000000u));
    }
    a += 0xFFFu + (a >> 13 & 1u);
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

/* E8M0 byte b means 2^(b-127); 255 is NaN. Byte 0 is the subnormal float 2^-127. */
static inline float e8m0_to_f32(uint8_t b)
{
    if (b == 255) {
        return f32_from_bits(0x7FC00000u);
    }
    return f32_from_bits(b ? (uint32_t)b << 23 : 0x00400000u);
}

/* E4M3 fn: sign, 4 exponent bits (bias 7), 3 mantissa bits; 0x7f and 0xff are NaN, no infinity.
 */
static inline float e4m3_to_f32(uint8_t c)
{
    uint32_t e = c >> 3 & 15u, m = c & 7u, sign = (uint32_t)(c & 0x80u) << 24;
    if ((c & 0x7F) == 0x7F) {
        return f32_from_bits(sign | 0x7FC00000u);
    }
    if (e == 0) {
        return f32_from_bits(f32_bits((float)m * 0x1p-9f) | sign);
    }
    return f32_from_bits(sign | (e + 120u) << 23 | m << 20);
}
/* Nearest E4M3 code, ties to even mantissa; magnitudes above 448 saturate; NaN -> 0x7f. */
static inline uint8_t f32_to_e4m3(float f)
{
    uint32_t u = f32_bits(f), sign = u >> 24 & 0x80u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) {
        return (uint8_t)(sign | 0x7Fu);
    }
    if (a >= 0x43E00000u) { /* 448 */
        return (uint8_t)(sign | 0x7Eu);
    }
    if (a < 0x3C800000u) {                    /* below 2^-6: steps of 2^-9 */
        float v = f32_from_bits(a) + 0x1p14f; /* ulp of 2^14 is 2^-9 */
        return (uint8_t)(sign | (f32_bits(v) - 0x46800000u));
    }
    a += 0x7FFFFu + (a >> 20 & 1u);
    return (uint8_t)(sign | (a - 0x3C000000u) >> 20);
}

/* E2M1: bit 3 sign, low three bits index {0, .5, 1, 1.5, 2, 3, 4, 6}. */
static inline float e2m1_to_f32(uint8_t c)
{
    static const float v[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    return c & 8 ? -v[c & 7] : v[c & 7];
}
/* Nearest E2M1 code of a value clamped to +-6; ties to the even code (model.md 3). */
static inline uint8_t f32_to_e2m1(float f)
{
    float a = fabsf(f);
    uint8_t c = a <= 0.25f   ? 0
                : a < 0.75f  ? 1
                : a <= 1.25f ? 2
                : a < 1.75f  ? 3
                : a <= 2.5f  ? 4
                : a < 3.5f   ? 5
                : a <= 5.0f  ? 6
                             : 7;
    return f < 0.0f || (f == 0.0f && signbit(f)) ? (uint8_t)(c | 8) : c;
}

/* Smallest power of two >= t for normal t > 0, as the E8M0 byte (model.md 3, UE8M0 rounding).
 */
static inline uint8_t ue8m0_ceil(float t)
{
    uint32_t u = f32_bits(t);
    uint32_t e = u >> 23 & 255u;
    return (uint8_t)(e + ((u & 0x7FFFFFu) != 0 && e < 254u));
}

static inline uint16_t load_le16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t load_le32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
static inline uint64_t load_le64(const void *p)
{
    return (uint64_t)load_le32(p) | (uint64_t)load_le32((const uint8_t *)p + 4) << 32;
}
static inline void store_le16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}
static inline void store_le32(void *p, uint32_t v)
{
    store_le16(p, (uint16_t)v);
    store_le16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}
static inline void store_le64(void *p, uint64_t v)
{
    store_le32(p, (uint32_t)v);
    store_le32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

#endif
