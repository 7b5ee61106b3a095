/* dot_k_neon.h - Q2_K to Q6_K for dot_neon.h (layouts: quant/decode.c). Pieces of codes are
 * joined by the instructions that shift and insert; what they insert too much is masked. In
 * Q2_K and Q3_K, codes of groups 1 and 2 of four stay where they lie in their bytes, 4 and 16
 * times their value (at most 112), and the finished sums are divided. */
#ifndef CPU_ARM_DOT_K_NEON_H
#define CPU_ARM_DOT_K_NEON_H

#include "backend/cpu/arm/dot_neon.h"

/* The sums of four blocks, of which the second and third are 4 and 16 times what they should
 * be. */
DOT_INLINE int32x4_t undo_places(int32x4_t sums)
{
    static const int32_t by[4] = {0, -2, -4, 0};
    return vshlq_s32(sums, vld1q_s32(by));
}

/* Sixteen bytes, signed, as words. */
DOT_INLINE void widen16(int8x16_t a, int16x8_t to[2])
{
    to[0] = vmovl_s8(vget_low_s8(a));
    to[1] = vmovl_high_s8(a);
}

/* ---- Q2_K ---- */

DOT_INLINE struct sums8 sums_q2_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    uint8x16_t both = vld1q_u8(w);
    int16x8_t scales[2], mins[2];
    widen16(vreinterpretq_s8_u8(and_bytes(both, 15)), scales);
    widen16(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), mins);
    UNROLL for (int n = 0; n < 2; n++, q += 128)
    {
        int32x4_t p[8], sc[2];
        UNROLL for (int h = 0; h < 2; h++)
        {
            uint8x16_t v = vld1q_u8(w + 16 + 32 * n + 16 * h);
            p[h] = dot_half(and_bytes(v, 3), q + 16 * h);
            p[2 + h] = dot_half(and_bytes(v, 12), q + 32 + 16 * h);
            p[4 + h] = dot_half(and_bytes(v, 48), q + 64 + 16 * h);
            p[6 + h] = dot_half(vshrq_n_u8(v, 6), q + 96 + 16 * h);
        }
        widen_s16(scales[n], sc);
        s.i1[n] = undo_places(fold_scaled(p, sc[0], sc[1]));
        s.i2[n] = fold_sums(mins[n], sum + 8 * n);
    }
    scales_f16(w + 80, &s);
    return s;
}
DOT_ROWS(q2_k, 84, true)

/* ---- Q3_K ---- */

/* Codes plus 4 of group g (of eight) from its bytes and the high bits, times 1, 4, 16 and 1. */
DOT_INLINE uint8x16_t codes_q3_k(uint8x16_t v, uint8x16_t high, int g)
{
    int j = g % 4, at = j == 3 ? 2 : 2 * j + 2;
    uint8x16_t bit = move_bit(high, g, at), has = vdupq_n_u8((uint8_t)(1 << at));
    if (j == 3) {
        return vsriq_n_u8(vandq_u8(bit, has), v, 6);
    }
    return and_bytes(vbslq_u8(has, bit, v), (uint8_t)(7 << 2 * j));
}

DOT_INLINE struct sums8 sums_q3_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    uint8x16_t high[2] = {vld1q_u8(w), vld1q_u8(w + 16)};
    uint64_t scales[2];
    unpack_q3_k(w + 96, scales);
    UNROLL for (int n = 0; n < 2; n++)
    {
        int32x4_t p[8], sc[2];
        UNROLL for (int h = 0; h < 2; h++)
        {
            uint8x16_t v = vld1q_u8(w + 32 + 32 * n + 16 * h);
            UNROLL for (int j = 0; j < 4; j++)
            {
                p[2 * j + h] =
                    dot_half(codes_q3_k(v, high[h], 4 * n + j), q + 128 * n + 32 * j + 16 * h);
            }
        }
        int16x8_t s16 = vsubq_s16(widen_bytes(scales[n]), vdupq_n_s16(32));
        widen_s16(s16, sc);
        int32x4_t off = vshlq_n_s32(fold_sums(s16, sum + 8 * n), 2);
        s.i1[n] = vsubq_s32(undo_places(fold_scaled(p, sc[0], sc[1])), off);
    }
    scale_f16(w + 108, &s);
    return s;
}
DOT_ROWS(q3_k, 110, false)

/* ---- Q4_K and Q5_K ---- */

/* Sums of blocks to I1 and I2 with the scales and minima of the block at w. */
DOT_INLINE struct sums8 finish_min6(const int32x4_t sums[2], const uint8_t *w,
                                    const int16_t *sum)
{
    struct sums8 s;
    uint64_t sc, mn;
    int32x4_t scales[2];
    unpack_min6(w + 4, &sc, &mn);
    widen_s16(widen_bytes(sc), scales);
    int16x8_t mins = widen_bytes(mn), total = block_sums(sum);
    s.i1[0] = vmulq_s32(sums[0], scales[0]);
    s.i1[1] = vmulq_s32(sums[1], scales[1]);
    s.i2[0] = vmull_s16(vget_low_s16(mins), vget_low_s16(total));
    s.i2[1] = vmull_high_s16(mins, total);
    scales_f16(w, &s);
    return s;
}

DOT_INLINE struct sums8 sums_q4_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    int32x4_t sums[2];
    UNROLL for (int n = 0; n < 2; n++)
    {
        int32x4_t p[4];
        UNROLL for (int i = 0; i < 2; i++)
        {
            int two = 2 * n + i;
            uint8x16_t a = vld1q_u8(w + 16 + 32 * two), b = vld1q_u8(w + 32 + 32 * two);
            p[2 * i] = dot_block(vreinterpretq_s8_u8(and_bytes(a, 15)),
                                 vreinterpretq_s8_u8(and_bytes(b, 15)), q + 64 * two);
            p[2 * i + 1] = dot_block(vreinterpretq_s8_u8(vshrq_n_u8(a, 4)),
                                     vreinterpretq_s8_u8(vshrq_n_u8(b, 4)), q + 64 * two + 32);
        }
        sums[n] = isums4(p);
    }
    return finish_min6(sums, w, sum);
}
DOT_ROWS(q4_k, 144, true)

/* Codes of group g from its nibbles and the high bits. */
DOT_INLINE int8x16_t codes_q5_k(uint8x16_t v, uint8x16_t high, int g)
{
    uint8x16_t five =
        g % 2 ? vsriq_n_u8(move_bit(high, g, 4), v, 4) : vsliq_n_u8(v, move_bit(high, g, 0), 4);
    return vreinterpretq_s8_u8(g == 7 ? five : and_bytes(five, 31)); /* 7: nothing too much */
}

DOT_INLINE struct sums8 sums_q5_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    int32x4_t sums[2];
    uint8x16_t high[2] = {vld1q_u8(w + 16), vld1q_u8(w + 32)};
    UNROLL for (int n = 0; n < 2; n++)
    {
        int32x4_t p[4];
        UNROLL for (int i = 0; i < 4; i++)
        {
            int g = 4 * n + i;
            const uint8_t *from = w + 48 + 32 * (g / 2);
            p[i] = dot_block(codes_q5_k(vld1q_u8(from), high[0], g),
                             codes_q5_k(vld1q_u8(from + 16), high[1], g), q + 32 * g);
        }
        sums[n] = isums4(p);
    }
    return finish_min6(sums, w, sum);
}
DOT_ROWS(q5_k, 176, true)

/* ---- Q6_K ---- */

DOT_INLINE struct sums8 sums_q6_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    int16x8_t scales[2];
    widen16(vreinterpretq_s8_u8(vld1q_u8(w + 192)), scales);
    UNROLL for (int n = 0; n < 2; n++, q += 128)
    {
        int32x4_t p[8], sc[2];
        UNROLL for (int h = 0; h < 2; h++)
        {
            uint8x16_t a = vld1q_u8(w + 64 * n + 16 * h);
            uint8x16_t b = vld1q_u8(w + 64 * n + 32 + 16 * h);
            uint8x16_t high = vld1q_u8(w + 128 + 32 * n + 16 * h), up = vshrq_n_u8(high, 2);
            p[h] = dot_half(and_bytes(vsliq_n_u8(a, high, 4), 63), q + 16 * h);
            p[2 + h] = dot_half(and_bytes(vsliq_n_u8(b, up, 4), 63), q + 32 + 16 * h);
            p[4 + h] = dot_half(and_bytes(vsriq_n_u8(high, a, 4), 63), q + 64 + 16 * h);
            p[6 + h] = dot_half(vsriq_n_u8(up, b, 4), q + 96 + 16 * h);
        }
        widen_s16(scales[n], sc);
        int32x4_t off = vshlq_n_s32(fold_sums(scales[n], sum + 8 * n), 5);
        s.i1[n] = vsubq_s32(fold_scaled(p, sc[0], sc[1]), off);
    }
    scale_f16(w + 208, &s);
    return s;
}
DOT_ROWS(q6_k, 210, false)

#endif
