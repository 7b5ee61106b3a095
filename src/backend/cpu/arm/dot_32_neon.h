/* dot_32_neon.h - the formats with blocks of 32 and those of value tables for dot_neon.h
 * (layouts: quant/decode.c, decode_iq.c): Q8_0, Q4_0, MXFP4, IQ4_NL, IQ4_XS and IQ2_XXS. The
 * grid of IQ2_XXS stays in memory (2 KiB, first-level cache); its signs are made for four groups
 * at a time, and where a bit is set the code is negated. */
#ifndef CPU_ARM_DOT_32_NEON_H
#define CPU_ARM_DOT_32_NEON_H

#include "backend/cpu/arm/dot_neon.h"
#include "quant/tables.h"

/* ---- Q8_0 ---- */

DOT_INLINE struct sums8 sums_q8_0(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    UNROLL for (int n = 0; n < 2; n++)
    {
        int32x4_t p[4];
        UNROLL for (int i = 0; i < 4; i++)
        {
            const uint8_t *from = w + 34 * (4 * n + i) + 2;
            p[i] = dot_block(vreinterpretq_s8_u8(vld1q_u8(from)),
                             vreinterpretq_s8_u8(vld1q_u8(from + 16)), q + 128 * n + 32 * i);
        }
        s.i1[n] = isums4(p);
    }
    scales_of_eight(w, 34, &s);
    return s;
}
DOT_ROWS(q8_0, 272, false)

/* ---- sixteen bytes of nibbles a block ---- */

/* Sums of table[code], or of the code itself; the nibbles of block i begin at w + i * step. */
DOT_INLINE void nibble_sums(const uint8_t *w, size_t step, const int8_t *table, const int8_t *q,
                            int32x4_t out[2])
{
    int8x16_t values = table ? vld1q_s8(table) : vdupq_n_s8(0);
    UNROLL for (size_t n = 0; n < 2; n++)
    {
        int32x4_t p[4];
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            size_t b = 4 * n + i;
            uint8x16_t v = vld1q_u8(w + b * step);
            uint8x16_t lo = and_bytes(v, 15), hi = vshrq_n_u8(v, 4);
            p[i] =
                table ? dot_block(vqtbl1q_s8(values, lo), vqtbl1q_s8(values, hi), q + 32 * b)
                      : dot_block(vreinterpretq_s8_u8(lo), vreinterpretq_s8_u8(hi), q + 32 * b);
        }
        out[n] = isums4(p);
    }
}

DOT_INLINE struct sums8 sums_q4_0(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    nibble_sums(w + 2, 18, NULL, q, s.i1);
    int16x8_t off = vshlq_n_s16(block_sums(sum), 3); /* 8 * 32 * 127 fits */
    s.i1[0] = vsubw_s16(s.i1[0], vget_low_s16(off));
    s.i1[1] = vsubw_high_s16(s.i1[1], off);
    scales_of_eight(w, 18, &s);
    return s;
}
DOT_ROWS(q4_0, 144, false)

DOT_INLINE struct sums8 sums_iq4_nl(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    nibble_sums(w + 2, 18, quant_values_iq4_nl, q, s.i1);
    scales_of_eight(w, 18, &s);
    return s;
}
DOT_ROWS(iq4_nl, 144, false)

/* 2^(e - 128), below 2^-126 as subnormals. */
DOT_INLINE float32x4_t scales_mxfp4(uint16x4_t exponents)
{
    uint32x4_t e = vmovl_u16(exponents), one = vdupq_n_u32(1);
    uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
    uint32x4_t bits = vshlq_n_u32(vsubq_u32(e, one), 23);
    return vreinterpretq_f32_u32(vbslq_u32(vcleq_u32(e, one), tiny, bits));
}

DOT_INLINE struct sums8 sums_mxfp4(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    nibble_sums(w + 1, 17, quant_values_mxfp4, q, s.i1);
    uint8x8_t e = vdup_n_u8(w[0]);
    e = vset_lane_u8(w[17], e, 1);
    e = vset_lane_u8(w[34], e, 2);
    e = vset_lane_u8(w[51], e, 3);
    e = vset_lane_u8(w[68], e, 4);
    e = vset_lane_u8(w[85], e, 5);
    e = vset_lane_u8(w[102], e, 6);
    e = vset_lane_u8(w[119], e, 7);
    s.d[0] = scales_mxfp4(vget_low_u16(vmovl_u8(e)));
    s.d[1] = scales_mxfp4(vget_high_u16(vmovl_u8(e)));
    return s;
}
DOT_ROWS(mxfp4, 136, false)

/* ---- IQ4_XS ---- */

/* The 6-bit scales, minus 32, of four blocks, from bit 4 `first` of low, 2 `first` of high. */
DOT_INLINE int32x4_t scales_iq4_xs(uint32_t low, uint32_t high, int first)
{
    static const int32_t fours[4] = {0, -4, -8, -12}, twos[4] = {0, -2, -4, -6};
    uint32x4_t lo = vshlq_u32(vdupq_n_u32(low >> 4 * first), vld1q_s32(fours));
    uint32x4_t hi = vshlq_u32(vdupq_n_u32(high >> 2 * first), vld1q_s32(twos));
    uint32x4_t six = vandq_u32(vsliq_n_u32(lo, hi, 4), vdupq_n_u32(63));
    return vsubq_s32(vreinterpretq_s32_u32(six), vdupq_n_s32(32));
}

DOT_INLINE struct sums8 sums_iq4_xs(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    uint32_t high = load_le16(w + 2), low = load_le32(w + 4);
    (void)sum;
    nibble_sums(w + 8, 16, quant_values_iq4_nl, q, s.i1);
    s.i1[0] = vmulq_s32(s.i1[0], scales_iq4_xs(low, high, 0));
    s.i1[1] = vmulq_s32(s.i1[1], scales_iq4_xs(low, high, 4));
    scale_f16(w, &s);
    return s;
}
DOT_ROWS(iq4_xs, 136, false)

/* ---- IQ2_XXS ---- */

/* The sign bytes of four groups from their words: dword g has those of sub-vectors 0..3. The
 * 7-bit fields are inserted one behind the other, eight bits apart; bit 7 is their parity. */
DOT_INLINE uint8x16_t iq2_signs(uint32x4_t word)
{
    uint32x4_t f = vsliq_n_u32(vshrq_n_u32(word, 14), vshrq_n_u32(word, 21), 8);
    f = vsliq_n_u32(vshrq_n_u32(word, 7), f, 8);
    f = vsliq_n_u32(word, f, 8);
    uint8x16_t fields = vreinterpretq_u8_u32(f);
    return vsliq_n_u8(fields, vcntq_u8(and_bytes(fields, 0x7F)), 7);
}

/* Sub-vectors k and k + 1 of a group. */
DOT_INLINE uint8x16_t iq2_entries(uint32_t indices, int k)
{
    return vcombine_u8(vld1_u8(quant_grid_iq2_xxs[indices >> 8 * k & 255]),
                       vld1_u8(quant_grid_iq2_xxs[indices >> (8 * k + 8) & 255]));
}

/* The same with signs; at: where their bytes are. */
DOT_INLINE int8x16_t iq2_codes(uint32_t indices, int k, uint8x16_t signs, int at)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    static const uint8_t copy[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    uint8x16_t from = vaddq_u8(vld1q_u8(copy), vdupq_n_u8((uint8_t)at));
    uint8x16_t minus = vtstq_u8(vqtbl1q_u8(signs, from), vld1q_u8(bits));
    uint8x16_t v = veorq_u8(iq2_entries(indices, k), minus);
    return vreinterpretq_s8_u8(vsubq_u8(v, minus));
}

DOT_INLINE struct sums8 sums_iq2_xxs(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    UNROLL for (int n = 0; n < 2; n++)
    {
        const uint8_t *from = w + 2 + 32 * n;
        uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(from));
        uint32x4_t b = vreinterpretq_u32_u8(vld1q_u8(from + 16)), word = vuzp2q_u32(a, b);
        uint8x16_t signs = iq2_signs(word);
        int32x4_t p[4];
        UNROLL for (int g = 0; g < 4; g++)
        {
            uint32_t indices = load_le32(from + 8 * g);
            p[g] = dot_block(iq2_codes(indices, 0, signs, 4 * g),
                             iq2_codes(indices, 2, signs, 4 * g + 2), q + 128 * n + 32 * g);
        }
        uint32x4_t scale = vorrq_u32(vshrq_n_u32(word, 27), vdupq_n_u32(1)); /* 2 s + 1 */
        s.i1[n] = vmulq_s32(isums4(p), vreinterpretq_s32_u32(scale));
    }
    scale_f16(w, &s);
    s.d[0] = s.d[1] = vmulq_f32(s.d[0], vdupq_n_f32(0.125f));
    return s;
}
DOT_ROWS(iq2_xxs, 66, false)

#endif
