/* encode_lanes.h - arithmetic in lanes for the searching quantisers. A vector f32v has LANES
 * floats: eight where this file is compiled for AVX2 (src/quant/x86), else four. The width never
 * shows in a result: lanes do not meet except in the sums below, and those take the lanes four
 * by four in ascending order, whatever the width. Internal to src/quant/encode_*.c. */
#ifndef QUANT_ENCODE_LANES_H
#define QUANT_ENCODE_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "quant/encode_fit.h"

/* Four lanes; both compilers map these to one vector register on x86-64 and arm64. */
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

/* The instructions of x86-64 for a < b ? a : b, a > b ? a : b, mask ? a : b, and the sign bits of
 * all lanes; elsewhere the same from comparisons. */
#if defined(__SSE4_1__)
#define LANES_MIN4(a, b) _mm_min_ps(a, b)
#define LANES_MAX4(a, b) _mm_max_ps(a, b)
#define LANES_SELECT4(mask, a, b) _mm_blendv_ps(b, a, (f32x4)(mask))
#define LANES_ANY4(mask) (_mm_movemask_ps((f32x4)(mask)) != 0)
#else
#define LANES_SELECT4(mask, a, b) ((f32x4)(((mask) & (i32x4)(a)) | (~(mask) & (i32x4)(b))))
#define LANES_MIN4(a, b) LANES_SELECT4((a) < (b), a, b)
#define LANES_MAX4(a, b) LANES_SELECT4((a) > (b), a, b)
#define LANES_ANY4(mask) (((mask)[0] | (mask)[1] | (mask)[2] | (mask)[3]) != 0)
#endif

#if defined(__AVX2__)
enum { LANES = 8 };
typedef float f32v __attribute__((vector_size(32)));
typedef int32_t i32v __attribute__((vector_size(32)));
#define LANES_MIN(a, b) _mm256_min_ps(a, b)
#define LANES_MAX(a, b) _mm256_max_ps(a, b)
#define LANES_SELECT(mask, a, b) _mm256_blendv_ps(b, a, (f32v)(mask))
#define LANES_ANY(mask) (_mm256_movemask_ps((f32v)(mask)) != 0)
#else
enum { LANES = 4 };
typedef f32x4 f32v;
typedef i32x4 i32v;
#define LANES_MIN LANES_MIN4
#define LANES_MAX LANES_MAX4
#define LANES_SELECT LANES_SELECT4
#define LANES_ANY LANES_ANY4
#endif

/* The functions of four lanes (loadN is load4 ...) and of LANES (loadv ...):
 * loadN, storeN, splatN;
 * minN, maxN, clampN;
 * selectN: mask ? a : b, lane by lane; mask is the result of a comparison;
 * anyN: is the comparison true in any lane?
 * roundN: nearest integer, ties to even, of |v| < 2^22: the float adder rounds at the unit;
 * inverseN: 1 / v, and 0 where v is practically 0: a group with scale 0 gets codes 0. */
#define LANE_FUNCTIONS(N, vec, ivec, MIN, MAX, SELECT, ANY)                    \
    static inline vec load##N(const float *p)                                  \
    {                                                                          \
        vec v;                                                                 \
        memcpy(&v, p, sizeof v);                                               \
        return v;                                                              \
    }                                                                          \
    static inline void store##N(float *p, vec v)                               \
    {                                                                          \
        memcpy(p, &v, sizeof v);                                               \
    }                                                                          \
    static inline vec splat##N(float v)                                        \
    {                                                                          \
        return v - (vec){0};                                                   \
    }                                                                          \
    static inline vec select##N(ivec mask, vec a, vec b)                       \
    {                                                                          \
        return SELECT(mask, a, b);                                             \
    }                                                                          \
    static inline vec min##N(vec a, vec b)                                     \
    {                                                                          \
        return MIN(a, b);                                                      \
    }                                                                          \
    static inline vec max##N(vec a, vec b)                                     \
    {                                                                          \
        return MAX(a, b);                                                      \
    }                                                                          \
    static inline bool any##N(ivec mask)                                       \
    {                                                                          \
        return ANY(mask);                                                      \
    }                                                                          \
    static inline vec round##N(vec v)                                          \
    {                                                                          \
        const vec magic = splat##N(0x1.8p23f);                                 \
        return (v + magic) - magic;                                            \
    }                                                                          \
    static inline vec clamp##N(vec v, float low, float high)                   \
    {                                                                          \
        return min##N(max##N(v, splat##N(low)), splat##N(high));               \
    }                                                                          \
    static inline vec inverse##N(vec v)                                        \
    {                                                                          \
        const vec one = splat##N(1.0f);                                        \
        ivec usable = (v > 1e-20f * one) | (v < -1e-20f * one);                \
        return select##N(usable, one / select##N(usable, v, one), 0.0f * one); \
    }

LANE_FUNCTIONS(4, f32x4, i32x4, LANES_MIN4, LANES_MAX4, LANES_SELECT4, LANES_ANY4)
LANE_FUNCTIONS(v, f32v, i32v, LANES_MIN, LANES_MAX, LANES_SELECT, LANES_ANY)

static inline float sum4(f32x4 v)
{
    return (v[0] + v[1]) + (v[2] + v[3]);
}
/* Four lanes of v: lanes 4 i .. 4 i + 3. */
static inline f32x4 quarter(f32v v, int i)
{
    f32x4 q;
    memcpy(&q, (const char *)&v + 16 * i, sizeof q);
    return q;
}
/* sum + the lanes of v, four at a time. */
static inline f32x4 add_lanes(f32x4 sum, f32v v)
{
    for (int i = 0; i < LANES / 4; i++) {
        sum += quarter(v, i);
    }
    return sum;
}
/* sum + the sums of four lanes each. */
static inline double add_sums(double sum, f32v v)
{
    for (int i = 0; i < LANES / 4; i++) {
        sum += (double)sum4(quarter(v, i));
    }
    return sum;
}
static inline float highestv(f32v v)
{
    float max = v[0];
    for (int i = 1; i < LANES; i++) {
        max = v[i] > max ? v[i] : max;
    }
    return max;
}

/* LANES groups of a block side by side: lane v of element i is element i of group first + v.
 * Sums over a group then need no shuffling, and trials are made for LANES groups at once. */
enum { FIT_MAX_GROUP = 32, FIT_MAX_PARTS = 16 / LANES };
struct fit_lanes {
    f32v x[FIT_MAX_GROUP], w[FIT_MAX_GROUP];
};

static inline void fit_lanes_load(struct fit_lanes *l, const float *x, const float *w,
                                  int group_size, int first)
{
    for (int v = 0; v < LANES; v++) {
        const float *from = x + group_size * (first + v),
                    *weight = w + group_size * (first + v);
        for (int i = 0; i < group_size; i++) {
            l->x[i][v] = from[i];
            l->w[i][v] = weight[i];
        }
    }
}

#endif
