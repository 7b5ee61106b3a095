/* vec_c.h - the vocabulary of kern_c.h in plain C: sixteen floats or sixteen 32-bit integers at
 * a time. x86/vec_*.h say the same words in intrinsics; every word has exactly one meaning, so
 * the kernels give the same bits with any of them. Loads and stores need no alignment. */
#ifndef CPU_VEC_C_H
#define CPU_VEC_C_H

#include <math.h>
#include <string.h>

#include "base/num.h"

struct v16 {
    float f[16];
};
struct i16 { /* sixteen 32-bit integers */
    int32_t i[16];
};
typedef struct v16 v16;
typedef struct i16 i16;

#define V16_TOKENS 4      /* tokens of a product tile kept in registers at a time */
#define V16_PANELS 1      /* panels of 16 rows at a time */
#define V16_MIX_ROWS 4    /* rows of HC_MIX whose sums are kept in registers: 1, 2, 4, 8, 16 */
#define V16_SCORE_HEADS 4 /* attention scores kept in registers: heads times rows */
#define V16_SCORE_ROWS 1
#define V16_VALUE_HEADS 1 /* attention outputs kept in registers: heads times 16 columns */
#define V16_VALUE_COLS 4
/* V16_FAST_F16: v16_load_f16 is one instruction or few.
 * V16_STORE_FIRST: there is i16_store_first, which stores some of the lanes by one instruction.
 * I16_BITS, I16_TWO: there are i16_bits and i16_two, bits() and two() of kern_panel.h in one step.
 * V16_AS_F32: there is i16_as_f32, the bits of a vector as floats, for nothing. */

#define W_BIAS 0      /* added to the codes of panels, for dot instructions that want it */
#define X_BYTES 32    /* of 32 activations in a packed tile */
#define TILE_TOKENS 4 /* tokens of a tile of 8-bit products */
#define TILE_HALVES 4 /* the same where scales go by halves */

static inline v16 v16_set1(float a)
{
    v16 r;
    for (int l = 0; l < 16; l++) {
        r.f[l] = a;
    }
    return r;
}
static inline v16 v16_load(const void *p)
{
    v16 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void v16_store(void *p, v16 a)
{
    memcpy(p, &a, sizeof a);
}
static inline v16 v16_add(v16 a, v16 b)
{
    for (int l = 0; l < 16; l++) {
        a.f[l] += b.f[l];
    }
    return a;
}
static inline v16 v16_mul(v16 a, v16 b)
{
    for (int l = 0; l < 16; l++) {
        a.f[l] *= b.f[l];
    }
    return a;
}
static inline v16 v16_max(v16 a, v16 b) /* a > b ? a : b */
{
    for (int l = 0; l < 16; l++) {
        b.f[l] = a.f[l] > b.f[l] ? a.f[l] : b.f[l];
    }
    return b;
}
static inline v16 v16_fma(v16 a, v16 b, v16 c) /* a * b + c, rounded once */
{
    for (int l = 0; l < 16; l++) {
        c.f[l] = fmaf(a.f[l], b.f[l], c.f[l]);
    }
    return c;
}
static inline v16 v16_load_f16(const void *p)
{
    v16 r;
    for (int l = 0; l < 16; l++) {
        r.f[l] = f16_to_f32(load_le16((const char *)p + 2 * l));
    }
    return r;
}
static inline v16 v16_load_bf16(const void *p)
{
    v16 r;
    for (int l = 0; l < 16; l++) {
        r.f[l] = bf16_to_f32(load_le16((const char *)p + 2 * l));
    }
    return r;
}
/* The halving tree of op.h: lanes +8, +4, +2, +1. */
static inline float v16_sum(v16 a)
{
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            a.f[l] += a.f[l + half];
        }
    }
    return a.f[0];
}
static inline void v16_sum4(const v16 a[4], float *out) /* four at once */
{
    for (int i = 0; i < 4; i++) {
        out[i] = v16_sum(a[i]);
    }
}
/* r[i] lane j becomes r[j] lane i. */
static inline void v16_transpose(v16 r[16])
{
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < i; j++) {
            float x = r[i].f[j];
            r[i].f[j] = r[j].f[i];
            r[j].f[i] = x;
        }
    }
}
/* Lanes 0..7 to lo, 8..15 to hi. */
static inline void v16_store_halves(void *lo, void *hi, v16 a)
{
    memcpy(lo, a.f, 32);
    memcpy(hi, a.f + 8, 32);
}

static inline i16 i16_zero(void)
{
    return (i16){{0}};
}
/* acc[l] += w[2l] * pair.lo + w[2l + 1] * pair.hi, exact; pair: two int16 in memory order. */
static inline i16 i16_madd(i16 acc, const int16_t *w, const int16_t *pair)
{
    for (int l = 0; l < 16; l++) {
        acc.i[l] += w[2 * l] * pair[0] + w[2 * l + 1] * pair[1];
    }
    return acc;
}
static inline v16 i16_to_f32(i16 a)
{
    v16 r;
    for (int l = 0; l < 16; l++) {
        r.f[l] = (float)a.i[l];
    }
    return r;
}
/* out[b] = (float)(sum of w[32 b + i] * q[32 b + i]), b < 4. */
static inline void idot32x4(const int16_t *w, const int8_t *q, float *out)
{
    for (int b = 0; b < 4; b++) {
        int32_t sum = 0;
        for (int i = 0; i < 32; i++) {
            sum += w[32 * b + i] * q[32 * b + i];
        }
        out[b] = (float)sum;
    }
}
/* The same for four blocks of Q8_0, 34 bytes each: scale, then 32 codes. Widened first:
 * compilers turn a sum of int16 products into multiply-add instructions. */
static inline void idot_q8_0x4(const char *w, const int8_t *q, float *out)
{
    int16_t wide[128];
    for (int b = 0; b < 4; b++) {
        int8_t codes[32];
        memcpy(codes, w + 34 * b + 2, sizeof codes);
        for (int i = 0; i < 32; i++) {
            wide[32 * b + i] = codes[i];
        }
    }
    idot32x4(wide, q, out);
}

/* ---- bits and bytes: decoding weights sixteen rows at a time ---- */

static inline i16 i16_load(const void *p)
{
    i16 r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline void i16_store(void *p, i16 a)
{
    memcpy(p, &a, sizeof a);
}
static inline i16 i16_set1(int32_t a)
{
    i16 r;
    for (int l = 0; l < 16; l++) {
        r.i[l] = a;
    }
    return r;
}
static inline i16 i16_and(i16 a, i16 b)
{
    for (int l = 0; l < 16; l++) {
        a.i[l] &= b.i[l];
    }
    return a;
}
static inline i16 i16_or(i16 a, i16 b)
{
    for (int l = 0; l < 16; l++) {
        a.i[l] |= b.i[l];
    }
    return a;
}
static inline i16 i16_xor(i16 a, i16 b)
{
    for (int l = 0; l < 16; l++) {
        a.i[l] ^= b.i[l];
    }
    return a;
}
static inline i16 i16_add(i16 a, i16 b) /* wrapping */
{
    for (int l = 0; l < 16; l++) {
        a.i[l] = (int32_t)((uint32_t)a.i[l] + (uint32_t)b.i[l]);
    }
    return a;
}
static inline i16 i16_max(i16 a, i16 b) /* signed */
{
    for (int l = 0; l < 16; l++) {
        a.i[l] = a.i[l] > b.i[l] ? a.i[l] : b.i[l];
    }
    return a;
}
static inline int32_t i16_top(i16 a) /* the largest */
{
    int32_t top = a.i[0];
    for (int l = 1; l < 16; l++) {
        top = a.i[l] > top ? a.i[l] : top;
    }
    return top;
}
static inline i16 v16_bits(v16 a) /* the bits of floats as integers */
{
    i16 r;
    memcpy(&r, &a, sizeof r);
    return r;
}
/* Integers of -127 to 127 as bytes: lo, then hi; sum: those of lo and of hi. */
static inline void i16_store_bytes(i16 lo, i16 hi, int8_t *q, int16_t *sum)
{
    int32_t s0 = 0, s1 = 0;
    for (int l = 0; l < 16; l++) {
        q[l] = (int8_t)lo.i[l];
        q[16 + l] = (int8_t)hi.i[l];
        s0 += lo.i[l];
        s1 += hi.i[l];
    }
    sum[0] = (int16_t)s0;
    sum[1] = (int16_t)s1;
}
static inline i16 i16_srl(i16 a, int by)
{
    for (int l = 0; l < 16; l++) {
        a.i[l] = (int32_t)((uint32_t)a.i[l] >> by);
    }
    return a;
}
static inline i16 i16_sll(i16 a, int by)
{
    for (int l = 0; l < 16; l++) {
        a.i[l] = (int32_t)((uint32_t)a.i[l] << by);
    }
    return a;
}
static inline i16 i16_sub8(i16 a, i16 b) /* byte by byte, wrapping */
{
    uint8_t x[64], y[64];
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (int i = 0; i < 64; i++) {
        x[i] = (uint8_t)(x[i] - y[i]);
    }
    return i16_load(x);
}
static inline i16 i16_mul16(i16 a, i16 b) /* 16 bits at a time, the low half of each product */
{
    for (int l = 0; l < 16; l++) {
        uint32_t x = (uint32_t)a.i[l], y = (uint32_t)b.i[l];
        a.i[l] =
            (int32_t)(((x & 0xFFFF) * (y & 0xFFFF) & 0xFFFF) | (x >> 16) * (y >> 16) << 16);
    }
    return a;
}
/* Every byte, below 16, through a table of 16. */
static inline i16 i16_lookup(const int8_t *table, i16 a)
{
    uint8_t x[64];
    memcpy(x, &a, sizeof x);
    for (int i = 0; i < 64; i++) {
        x[i] = (uint8_t)table[x[i]];
    }
    return i16_load(x);
}
/* Four dwords of sixteen rows, `stride` bytes apart: out[j] lane r = dword j of row r. */
static inline void i16_rows(const char *p, size_t stride, i16 out[4])
{
    for (size_t r = 0; r < 16; r++) {
        for (size_t j = 0; j < 4; j++) {
            out[j].i[r] = (int32_t)load_le32(p + r * stride + 4 * j);
        }
    }
}
/* The low 16 bits of each lane as f16. */
static inline v16 v16_half(i16 a)
{
    v16 r;
    for (int l = 0; l < 16; l++) {
        r.f[l] = f16_to_f32((uint16_t)a.i[l]);
    }
    return r;
}

/* ---- 8-bit products of panels: four codes of sixteen rows with four of a token ---- */

typedef const int8_t *w4, *x4;

/* 32 activations as a tile holds them. */
static inline void x_pack(const int8_t *q, unsigned char *to)
{
    memcpy(to, q, 32);
}
static inline w4 w4_load(const void *p)
{
    return p;
}
static inline x4 x4_load(const void *p)
{
    return p;
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    for (int l = 0; l < 16; l++) {
        for (int i = 0; i < 4; i++) {
            acc.i[l] += w[4 * l + i] * x[i];
        }
    }
    return acc;
}

#endif
