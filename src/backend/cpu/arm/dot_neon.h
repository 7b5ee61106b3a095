/* dot_neon.h - the words of dot_rows.h for arm64, and what its formats share. Included by
 * rows_neon.c and rows_dotprod.c only, which differ in idot16 of vec_neon.h and nothing else.
 *
 * Codes and activations meet as signed bytes, sixteen of a block at a time, in the order of the
 * file; four lanes hold their sum in parts, and pairwise additions join the parts of four
 * vectors to one. Offsets that all codes of a format share are subtracted at the end, by the
 * sums of the activations. Read next: dot_k_neon.h (Q2_K to Q6_K), dot_32_neon.h (blocks of 32,
 * IQ4, IQ2_XXS). */
#ifndef CPU_ARM_DOT_NEON_H
#define CPU_ARM_DOT_NEON_H

#include <stdbool.h>

#include "backend/cpu/arm/vec_neon.h"
#include "backend/cpu/kern_order.h"
#include "base/num.h"

/* Specialised once per format: the format's function is a constant. */
#define DOT_INLINE static inline __attribute__((always_inline))

struct sums8 { /* index 0: blocks 0..3 */
    int32x4_t i1[2], i2[2];
    float32x4_t d[2], m[2]; /* i2 and m only where the format has minima */
};
typedef float32x4x2_t lanes8;

DOT_INLINE lanes8 lanes8_zero(void)
{
    return (lanes8){{vdupq_n_f32(0), vdupq_n_f32(0)}};
}

DOT_INLINE float halving_sum(lanes8 lo, lanes8 hi)
{
    return v16_sum((v16){{lo.val[0], lo.val[1], hi.val[0], hi.val[1]}});
}

/* c += of one step. */
DOT_INLINE lanes8 step_add(lanes8 c, const struct sums8 *s, const float *d_act, bool has_min)
{
    UNROLL for (int i = 0; i < 2; i++)
    {
        float32x4_t da = vld1q_f32(d_act + 4 * i), d = vmulq_f32(s->d[i], da);
        c.val[i] = vfmaq_f32(c.val[i], d, vcvtq_f32_s32(s->i1[i]));
        if (has_min) {
            float32x4_t m = vmulq_f32(s->m[i], da);
            c.val[i] = vfmsq_f32(c.val[i], m, vcvtq_f32_s32(s->i2[i]));
        }
    }
    return c;
}

#include "backend/cpu/dot_rows.h"

/* ---- codes ---- */

/* Products of sixteen codes, or of the 32 of a block, with their activations. */
DOT_INLINE int32x4_t dot_half(uint8x16_t codes, const int8_t *q)
{
    return idot16(vdupq_n_s32(0), vreinterpretq_s8_u8(codes), vld1q_s8(q));
}
DOT_INLINE int32x4_t dot_block(int8x16_t lo, int8x16_t hi, const int8_t *q)
{
    return idot16(idot16(vdupq_n_s32(0), lo, vld1q_s8(q)), hi, vld1q_s8(q + 16));
}

DOT_INLINE uint8x16_t and_bytes(uint8x16_t a, uint8_t byte)
{
    return vandq_u8(a, vdupq_n_u8(byte));
}
/* Bytes shifted so that bit `from` comes to bit `to`. */
DOT_INLINE uint8x16_t move_bit(uint8x16_t a, int from, int to)
{
    return from > to ? a >> (from - to) : a << (to - from);
}

/* ---- sums of blocks ---- */

/* Of four blocks from their halves in order, s0 and s1: the scales of those. */
DOT_INLINE int32x4_t fold_scaled(const int32x4_t p[8], int32x4_t s0, int32x4_t s1)
{
    return vpaddq_s32(vmulq_s32(isums4(p), s0), vmulq_s32(isums4(p + 4), s1));
}
/* Sums of the activations of four blocks, each half times its factor. */
DOT_INLINE int32x4_t fold_sums(int16x8_t factors, const int16_t *sum)
{
    int16x8_t s = vld1q_s16(sum);
    return vpaddq_s32(vmull_s16(vget_low_s16(factors), vget_low_s16(s)),
                      vmull_high_s16(factors, s));
}
/* Of eight blocks. */
DOT_INLINE int16x8_t block_sums(const int16_t *sum)
{
    return vpaddq_s16(vld1q_s16(sum), vld1q_s16(sum + 8));
}

/* ---- scales ---- */

DOT_INLINE void widen_s16(int16x8_t a, int32x4_t to[2])
{
    to[0] = vmovl_s16(vget_low_s16(a));
    to[1] = vmovl_high_s16(a);
}
/* Eight bytes below 128. */
DOT_INLINE int16x8_t widen_bytes(uint64_t a)
{
    return vmovl_s8(vcreate_s8(a));
}

/* F16 at p, for all blocks. */
DOT_INLINE void scale_f16(const uint8_t *p, struct sums8 *s)
{
    s->d[0] = s->d[1] = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(load_le16(p))));
}
/* Neighbouring F16 d and m. */
DOT_INLINE void scales_f16(const uint8_t *p, struct sums8 *s)
{
    float32x4_t both = vcvt_f32_f16(vreinterpret_f16_u32(vdup_n_u32(load_le32(p))));
    s->d[0] = s->d[1] = vdupq_laneq_f32(both, 0);
    s->m[0] = s->m[1] = vdupq_laneq_f32(both, 1);
}
/* F16 scales of eight blocks, `step` bytes apart. */
DOT_INLINE void scales_of_eight(const uint8_t *w, size_t step, struct sums8 *s)
{
    uint16x8_t h = vdupq_n_u16(load_le16(w));
    h = vsetq_lane_u16(load_le16(w + step), h, 1);
    h = vsetq_lane_u16(load_le16(w + 2 * step), h, 2);
    h = vsetq_lane_u16(load_le16(w + 3 * step), h, 3);
    h = vsetq_lane_u16(load_le16(w + 4 * step), h, 4);
    h = vsetq_lane_u16(load_le16(w + 5 * step), h, 5);
    h = vsetq_lane_u16(load_le16(w + 6 * step), h, 6);
    h = vsetq_lane_u16(load_le16(w + 7 * step), h, 7);
    s->d[0] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h)));
    s->d[1] = vcvt_high_f32_f16(vreinterpretq_f16_u16(h));
}

#endif
