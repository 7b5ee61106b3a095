/* encode_fit.h - what the searching quantisers share: a block made ready for fitting, the f16
 * scale as it will be read back, and four-lane arithmetic. Internal to src/quant/encode*.c.
 *
 * The metric everywhere is the weighted squared error of the decoded values,
 *   sum over the block of w[i] * (x[i] - decoded[i])^2,
 * w being the importance (quantization.md 4: proportional to the expected error of the matrix
 * product), tilted a little towards large elements (fit_block_load). All sums run in a fixed
 * order over fixed lanes and only correctly rounded operations are used, so the bytes written
 * depend on nothing but the row and its importance. */
#ifndef QUANT_ENCODE_FIT_H
#define QUANT_ENCODE_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { FIT_N = 256 }; /* elements of a block; all searching formats have the same */

/* Four lanes; both compilers map these to one vector register on x86-64 and arm64. */
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

static inline f32x4 load4(const float *p)
{
    f32x4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store4(float *p, f32x4 v)
{
    memcpy(p, &v, sizeof v);
}
static inline f32x4 splat4(float v)
{
    return (f32x4){v, v, v, v};
}
static inline f32x4 min4(f32x4 a, f32x4 b)
{
    f32x4 r;
    for (int i = 0; i < 4; i++) {
        r[i] = a[i] < b[i] ? a[i] : b[i];
    }
    return r;
}
static inline f32x4 max4(f32x4 a, f32x4 b)
{
    f32x4 r;
    for (int i = 0; i < 4; i++) {
        r[i] = a[i] > b[i] ? a[i] : b[i];
    }
    return r;
}
/* mask ? a : b, lane by lane; mask is the result of a comparison. */
static inline f32x4 select4(i32x4 mask, f32x4 a, f32x4 b)
{
    return (f32x4)((mask & (i32x4)a) | (~mask & (i32x4)b));
}
/* Nearest integer, ties to even, of |v| < 2^22: the float adder rounds at the unit. */
static inline f32x4 round4(f32x4 v)
{
    const f32x4 magic = {0x1.8p23f, 0x1.8p23f, 0x1.8p23f, 0x1.8p23f};
    return (v + magic) - magic;
}
static inline f32x4 clamp4(f32x4 v, float low, float high)
{
    return min4(max4(v, splat4(low)), splat4(high));
}
/* 1 / v, and 0 where v is practically 0: a group with scale 0 gets codes 0. */
static inline f32x4 inverse4(f32x4 v)
{
    const f32x4 one = {1.0f, 1.0f, 1.0f, 1.0f};
    i32x4 usable = (v > 1e-20f * one) | (v < -1e-20f * one);
    return select4(usable, one / select4(usable, v, one), 0.0f * one);
}
static inline float sum4(f32x4 v)
{
    return (v[0] + v[1]) + (v[2] + v[3]);
}
static inline float highest4(f32x4 v)
{
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}

#define FIT_LEAST 0x1p-20f /* what keeps elements without importance encoded sensibly */

/* A block scaled by a power of two (exact) so that its largest magnitude is in [1, 2), with
 * weights of mean 1 before the tilt. Where all importance is zero it counts as ones; elements
 * without importance inside a block that has some keep a weight of about 2^-20, so that they
 * are encoded sensibly but decide nothing. */
struct fit_block {
    float x[FIT_N];
    float w[FIT_N];
    float plain[FIT_N]; /* w without tilt, and 0 where there is no importance */
    float unit;         /* the original is x * unit; a power of two */
};

enum fit_state {
    FIT_OK,
    FIT_ZERO,      /* all elements are zero: write a block of zeros */
    FIT_UNDERFLOW, /* not all zero, but no f16 scale reaches them: write zeros and report */
    FIT_BAD,       /* NaN or infinity: write a NaN scale and report */
};

/* Fills b (only for FIT_OK) from FIT_N elements; importance may be NULL (ones). */
enum fit_state fit_block_load(struct fit_block *b, const float *x, const float *importance);

/* Four groups of a block side by side: lane v of element i is element i of group first + v.
 * Sums over a group then need no shuffling, and trials are made for four groups at once. */
enum { FIT_MAX_GROUP = 32, FIT_MAX_QUADS = 4 };
struct fit_lanes {
    f32x4 x[FIT_MAX_GROUP], w[FIT_MAX_GROUP];
};
void fit_lanes_load(struct fit_lanes *l, const struct fit_block *b, int group_size, int first);

/* A scale as stored and as the decoder will use it. */
struct fit_scale {
    float d;       /* in units of the normalised block */
    uint16_t bits; /* f16 */
    bool clipped;  /* the wanted scale is beyond f16; this is the largest finite one */
};
struct fit_scale fit_scale_round(const struct fit_block *b, float d);
/* The same, but a positive d becomes at least the smallest f16, not zero. */
struct fit_scale fit_scale_round_up(const struct fit_block *b, float d);

#endif
