/* vec_neon.h - the words of vec_c.h for arm64: four registers each, lanes 0..3 in val[0].
 * Compiled with the dot product extension, sums of 8-bit products use it. */
#ifndef CPU_VEC_NEON_H
#define CPU_VEC_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

typedef float32x4x4_t v16;
typedef int32x4x4_t i16;

#define V16_TOKENS 4
#define V16_PANELS 1
#define V16_MIX_ROWS 4
#define V16_SCORE_HEADS 2
#define V16_SCORE_ROWS 2
#define V16_VALUE_HEADS 2
#define V16_VALUE_COLS 2
#define V16_FAST_F16
#define W_BIAS 0
#define X_BYTES 32
#define TILE_TOKENS 4
#define TILE_HALVES 4

static inline v16 v16_set1(float a)
{
    float32x4_t v = vdupq_n_f32(a);
    return (v16){{v, v, v, v}};
}
static inline v16 v16_load(const void *p)
{
    const char *b = p; /* by bytes: no alignment is promised */
    return (v16){{vreinterpretq_f32_u8(vld1q_u8((const void *)b)),
                  vreinterpretq_f32_u8(vld1q_u8((const void *)(b + 16))),
                  vreinterpretq_f32_u8(vld1q_u8((const void *)(b + 32))),
                  vreinterpretq_f32_u8(vld1q_u8((const void *)(b + 48)))}};
}
static inline void v16_store(void *p, v16 a)
{
    char *b = p;
    for (int i = 0; i < 4; i++) {
        vst1q_u8((void *)(b + 16 * i), vreinterpretq_u8_f32(a.val[i]));
    }
}
static inline v16 v16_add(v16 a, v16 b)
{
    return (v16){{vaddq_f32(a.val[0], b.val[0]), vaddq_f32(a.val[1], b.val[1]),
                  vaddq_f32(a.val[2], b.val[2]), vaddq_f32(a.val[3], b.val[3])}};
}
static inline v16 v16_mul(v16 a, v16 b)
{
    return (v16){{vmulq_f32(a.val[0], b.val[0]), vmulq_f32(a.val[1], b.val[1]),
                  vmulq_f32(a.val[2], b.val[2]), vmulq_f32(a.val[3], b.val[3])}};
}
static inline float32x4_t max4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline v16 v16_max(v16 a, v16 b)
{
    return (v16){{max4(a.val[0], b.val[0]), max4(a.val[1], b.val[1]), max4(a.val[2], b.val[2]),
                  max4(a.val[3], b.val[3])}};
}
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){
        {vfmaq_f32(c.val[0], a.val[0], b.val[0]), vfmaq_f32(c.val[1], a.val[1], b.val[1]),
         vfmaq_f32(c.val[2], a.val[2], b.val[2]), vfmaq_f32(c.val[3], a.val[3], b.val[3])}};
}
static inline float32x4_t f16_load4(const char *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const void *)p)));
}
static inline v16 v16_load_f16(const void *p)
{
    const char *b = p;
    return (v16){{f16_load4(b), f16_load4(b + 8), f16_load4(b + 16), f16_load4(b + 24)}};
}
static inline float32x4_t bf16_load4(const char *p)
{
    return vreinterpretq_f32_u32(
        vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const void *)p)), 16));
}
static inline v16 v16_load_bf16(const void *p)
{
    const char *b = p;
    return (v16){{bf16_load4(b), bf16_load4(b + 8), bf16_load4(b + 16), bf16_load4(b + 24)}};
}
/* Steps +8 and +4 of the halving tree. */
static inline float32x4_t fold4(v16 a)
{
    return vaddq_f32(vaddq_f32(a.val[0], a.val[2]), vaddq_f32(a.val[1], a.val[3]));
}
static inline float v16_sum(v16 a)
{
    float32x4_t x = fold4(a);
    float32x2_t y = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(y, 0) + vget_lane_f32(y, 1);
}
/* r[i] lane j becomes r[j] lane i. */
static inline void transpose4(float32x4_t r[4])
{
    float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}
static inline void v16_sum4(const v16 a[4], float *out)
{
    float32x4_t r[4] = {fold4(a[0]), fold4(a[1]), fold4(a[2]), fold4(a[3])};
    transpose4(r);
    vst1q_f32(out, vaddq_f32(vaddq_f32(r[0], r[2]), vaddq_f32(r[1], r[3])));
}
static inline void v16_transpose(v16 r[16])
{
    v16 t[16];
    for (int i = 0; i < 4; i++) { /* squares of 4x4, each to its mirror place */
        for (int j = 0; j < 4; j++) {
            float32x4_t q[4];
            for (int k = 0; k < 4; k++) {
                q[k] = r[4 * i + k].val[j];
            }
            transpose4(q);
            for (int k = 0; k < 4; k++) {
                t[4 * j + k].val[i] = q[k];
            }
        }
    }
    memcpy(r, t, sizeof t);
}
static inline void v16_store_halves(void *lo, void *hi, v16 a)
{
    float *l = lo, *h = hi;
    vst1q_f32(l, a.val[0]);
    vst1q_f32(l + 4, a.val[1]);
    vst1q_f32(h, a.val[2]);
    vst1q_f32(h + 4, a.val[3]);
}

static inline i16 i16_zero(void)
{
    int32x4_t z = vdupq_n_s32(0);
    return (i16){{z, z, z, z}};
}
static inline i16 i16_madd(i16 acc, const int16_t *w, const int16_t *pair)
{
    int16x4_t p = vld1_dup_s16(pair), q = vld1_dup_s16(pair + 1);
    int16x8x2_t lo = vld2q_s16(w), hi = vld2q_s16(w + 16); /* even elements, odd elements */
    int32x4_t a = vmlal_s16(acc.val[0], vget_low_s16(lo.val[0]), p);
    int32x4_t b = vmlal_s16(acc.val[1], vget_high_s16(lo.val[0]), p);
    int32x4_t c = vmlal_s16(acc.val[2], vget_low_s16(hi.val[0]), p);
    int32x4_t d = vmlal_s16(acc.val[3], vget_high_s16(hi.val[0]), p);
    return (i16){
        {vmlal_s16(a, vget_low_s16(lo.val[1]), q), vmlal_s16(b, vget_high_s16(lo.val[1]), q),
         vmlal_s16(c, vget_low_s16(hi.val[1]), q), vmlal_s16(d, vget_high_s16(hi.val[1]), q)}};
}
static inline v16 i16_to_f32(i16 a)
{
    return (v16){{vcvtq_f32_s32(a.val[0]), vcvtq_f32_s32(a.val[1]), vcvtq_f32_s32(a.val[2]),
                  vcvtq_f32_s32(a.val[3])}};
}

/* The sums of four vectors. */
static inline int32x4_t isums4(const int32x4_t p[4])
{
    return vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]));
}
static inline void isum4(const int32x4_t p[4], float *out) /* as floats */
{
    vst1q_f32(out, vcvtq_f32_s32(isums4(p)));
}

/* acc and 16 products, four to a lane; w any bytes, |x| <= 127. */
static inline int32x4_t idot16(int32x4_t acc, int8x16_t w, int8x16_t x)
{
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(acc, w, x);
#else /* two products fit 16 bits: 2 * 128 * 127 = 32512 */
    int16x8_t two = vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x);
    return vpadalq_s16(acc, two);
#endif
}
static inline void idot_q8_0x4(const char *w, const int8_t *q, float *out)
{
    int32x4_t p[4];
    for (int b = 0; b < 4; b++) {
        const int8_t *codes = (const int8_t *)w + 34 * b + 2;
        p[b] = idot16(vdupq_n_s32(0), vld1q_s8(codes), vld1q_s8(q + 32 * b));
        p[b] = idot16(p[b], vld1q_s8(codes + 16), vld1q_s8(q + 32 * b + 16));
    }
    isum4(p, out);
}

#ifdef __ARM_FEATURE_DOTPROD
/* w = 256 * high + low with both in 8 bits, signed: a low byte of 128 or more counts as 256
 * less, and adds one to the high one. No format's code comes near the one value range this
 * cannot hold, above 32639. */
static inline int8x16x2_t split_codes(const int16_t *w)
{
    int8x16x2_t b = vld2q_s8((const int8_t *)w);
    b.val[1] = vreinterpretq_s8_u8(
        vsraq_n_u8(vreinterpretq_u8_s8(b.val[1]), vreinterpretq_u8_s8(b.val[0]), 7));
    return b;
}
static inline void idot32x4(const int16_t *w, const int8_t *q, float *out)
{
    int32x4_t p[4];
    for (int b = 0; b < 4; b++) {
        int8x16x2_t w0 = split_codes(w + 32 * b), w1 = split_codes(w + 32 * b + 16);
        int8x16_t q0 = vld1q_s8(q + 32 * b), q1 = vld1q_s8(q + 32 * b + 16);
        int32x4_t low = vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0.val[0], q0), w1.val[0], q1);
        int32x4_t high = vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0.val[1], q0), w1.val[1], q1);
        p[b] = vaddq_s32(low, vshlq_n_s32(high, 8));
    }
    isum4(p, out);
}
#else
static inline int32x4_t idot16_wide(int32x4_t acc, const int16_t *w, const int8_t *q)
{
    int8x16_t x = vld1q_s8(q);
    int16x8_t x0 = vmovl_s8(vget_low_s8(x)), x1 = vmovl_high_s8(x);
    int16x8_t w0 = vld1q_s16(w), w1 = vld1q_s16(w + 8);
    acc = vmlal_s16(acc, vget_low_s16(w0), vget_low_s16(x0));
    acc = vmlal_high_s16(acc, w0, x0);
    acc = vmlal_s16(acc, vget_low_s16(w1), vget_low_s16(x1));
    return vmlal_high_s16(acc, w1, x1);
}
static inline void idot32x4(const int16_t *w, const int8_t *q, float *out)
{
    int32x4_t p[4];
    for (int b = 0; b < 4; b++) {
        p[b] = idot16_wide(vdupq_n_s32(0), w + 32 * b, q + 32 * b);
        p[b] = idot16_wide(p[b], w + 32 * b + 16, q + 32 * b + 16);
    }
    isum4(p, out);
}
#endif

/* ---- bits and bytes ---- */

#define EACH(expr)                    \
    do {                              \
        for (int i = 0; i < 4; i++) { \
            a.val[i] = expr;          \
        }                             \
        return a;                     \
    } while (0)

static inline i16 i16_load(const void *p)
{
    const int8_t *b = p;
    return (i16){{vreinterpretq_s32_s8(vld1q_s8(b)), vreinterpretq_s32_s8(vld1q_s8(b + 16)),
                  vreinterpretq_s32_s8(vld1q_s8(b + 32)),
                  vreinterpretq_s32_s8(vld1q_s8(b + 48))}};
}
static inline void i16_store(void *p, i16 a)
{
    int8_t *b = p;
    for (int i = 0; i < 4; i++) {
        vst1q_s8(b + 16 * i, vreinterpretq_s8_s32(a.val[i]));
    }
}
static inline i16 i16_set1(int32_t a)
{
    int32x4_t v = vdupq_n_s32(a);
    return (i16){{v, v, v, v}};
}
static inline i16 i16_and(i16 a, i16 b)
{
    EACH(vandq_s32(a.val[i], b.val[i]));
}
static inline i16 i16_add(i16 a, i16 b)
{
    EACH(vaddq_s32(a.val[i], b.val[i]));
}
static inline i16 i16_max(i16 a, i16 b)
{
    EACH(vmaxq_s32(a.val[i], b.val[i]));
}
static inline int32_t i16_top(i16 a)
{
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.val[0], a.val[1]), vmaxq_s32(a.val[2], a.val[3])));
}
static inline i16 v16_bits(v16 a)
{
    return (i16){{vreinterpretq_s32_f32(a.val[0]), vreinterpretq_s32_f32(a.val[1]),
                  vreinterpretq_s32_f32(a.val[2]), vreinterpretq_s32_f32(a.val[3])}};
}
static inline int8x16_t i16_narrow(i16 a) /* the low bytes */
{
    int16x8_t lo = vcombine_s16(vmovn_s32(a.val[0]), vmovn_s32(a.val[1]));
    int16x8_t hi = vcombine_s16(vmovn_s32(a.val[2]), vmovn_s32(a.val[3]));
    return vcombine_s8(vmovn_s16(lo), vmovn_s16(hi));
}
static inline void i16_store_bytes(i16 lo, i16 hi, int8_t *q, int16_t *sum)
{
    int8x16_t a = i16_narrow(lo), b = i16_narrow(hi);
    vst1q_s8(q, a);
    vst1q_s8(q + 16, b);
    sum[0] = vaddlvq_s8(a);
    sum[1] = vaddlvq_s8(b);
}
static inline i16 i16_or(i16 a, i16 b)
{
    EACH(vorrq_s32(a.val[i], b.val[i]));
}
static inline i16 i16_xor(i16 a, i16 b)
{
    EACH(veorq_s32(a.val[i], b.val[i]));
}
static inline i16 i16_srl(i16 a, int by)
{
    int32x4_t s = vdupq_n_s32(-by);
    EACH(vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.val[i]), s)));
}
static inline i16 i16_sll(i16 a, int by)
{
    int32x4_t s = vdupq_n_s32(by);
    EACH(vshlq_s32(a.val[i], s));
}
static inline i16 i16_sub8(i16 a, i16 b)
{
    EACH(vreinterpretq_s32_s8(
        vsubq_s8(vreinterpretq_s8_s32(a.val[i]), vreinterpretq_s8_s32(b.val[i]))));
}
static inline i16 i16_mul16(i16 a, i16 b)
{
    EACH(vreinterpretq_s32_s16(
        vmulq_s16(vreinterpretq_s16_s32(a.val[i]), vreinterpretq_s16_s32(b.val[i]))));
}
static inline i16 i16_lookup(const int8_t *table, i16 a)
{
    int8x16_t t = vld1q_s8(table);
    EACH(vreinterpretq_s32_s8(vqtbl1q_s8(t, vreinterpretq_u8_s32(a.val[i]))));
}
#undef EACH
static inline void i16_rows(const char *p, size_t stride, i16 out[4])
{
    for (int k = 0; k < 4; k++) {
        float32x4_t r[4];
        for (int i = 0; i < 4; i++, p += stride) {
            r[i] = vreinterpretq_f32_u8(vld1q_u8((const void *)p));
        }
        transpose4(r);
        for (int j = 0; j < 4; j++) {
            out[j].val[k] = vreinterpretq_s32_f32(r[j]);
        }
    }
}
static inline v16 v16_half(i16 a)
{
    v16 r;
    for (int i = 0; i < 4; i++) {
        r.val[i] =
            vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_s32(a.val[i]))));
    }
    return r;
}

/* ---- 8-bit products of panels ---- */

static inline void x_pack(const int8_t *q, unsigned char *to)
{
    memcpy(to, q, 32);
}
#ifdef __ARM_FEATURE_DOTPROD
typedef struct {
    int8x16_t val[4];
} w4;
typedef int8x16_t x4;

static inline w4 w4_load(const void *p)
{
    const int8_t *b = p;
    return (w4){{vld1q_s8(b), vld1q_s8(b + 16), vld1q_s8(b + 32), vld1q_s8(b + 48)}};
}
static inline x4 x4_load(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(x));
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    for (int i = 0; i < 4; i++) {
        acc.val[i] = vdotq_s32(acc.val[i], w.val[i], x);
    }
    return acc;
}
#else
typedef const int8_t *w4;
typedef int16x8_t x4; /* four elements, twice */

static inline w4 w4_load(const void *p)
{
    return p;
}
static inline x4 x4_load(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(x)));
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    for (int i = 0; i < 4; i++) { /* rows 4i, 4i + 1, then 4i + 2, 4i + 3 */
        int16x8_t a = vmovl_s8(vld1_s8(w + 16 * i)), b = vmovl_s8(vld1_s8(w + 16 * i + 8));
        int32x4_t lo = vmull_s16(vget_low_s16(a), vget_low_s16(x));
        int32x4_t lo2 = vmull_high_s16(a, x);
        int32x4_t hi = vmull_s16(vget_low_s16(b), vget_low_s16(x));
        int32x4_t hi2 = vmull_high_s16(b, x);
        acc.val[i] =
            vaddq_s32(acc.val[i], vpaddq_s32(vpaddq_s32(lo, lo2), vpaddq_s32(hi, hi2)));
    }
    return acc;
}
#endif

#endif
