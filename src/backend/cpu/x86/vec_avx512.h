/* vec_avx512.h - the words of vec_c.h for AVX-512 (F, BW, DQ, VL): one register each. */
#ifndef CPU_VEC_AVX512_H
#define CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/x86/x_pack.h"

typedef __m512 v16;
typedef __m512i i16;

#define V16_TOKENS 8
#define V16_PANELS 2
#define V16_MIX_ROWS 16
#define V16_SCORE_HEADS 4
#define V16_SCORE_ROWS 4
#define V16_VALUE_HEADS 4
#define V16_VALUE_COLS 4
#define V16_FAST_F16
#ifdef __AVX512VNNI__
/* Sixteen chains of dots, of which a few more than ten keep two ports busy; the float sums come
 * from the first-level cache and go back. */
#define TILE_TOKENS 8
#else
#define TILE_TOKENS 4
#endif
#define TILE_HALVES 4

static inline v16 v16_set1(float a)
{
    return _mm512_set1_ps(a);
}
static inline v16 v16_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
static inline void v16_store(void *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
static inline v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
static inline v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
static inline v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline v16 v16_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
static inline v16 v16_load_bf16(const void *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
static inline float v16_sum(v16 a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
/* Folds lanes +8 of two vectors into one: [a (8) | b (8)]; then +4, +2, +1 alike. */
static inline __m512 fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
static inline void v16_sum4(const v16 a[4], float *out)
{
    __m512 ab = fold8(a[0], a[1]), cd = fold8(a[2], a[3]);
    /* groups of four lanes: [a b c d] */
    __m512 x =
        _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4E));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xB1));
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, x)));
}
static inline void v16_transpose(v16 r[16])
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) { /* pairs of lanes */
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* 4x4 inside each 128 bits: r[i + c] = column 4g + c */
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int c = 0; c < 4; c++) { /* 4x4 of 128-bit groups */
        __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
        __m512 b = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xDD);
        __m512 d = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        __m512 e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xDD);
        t[c] = _mm512_shuffle_f32x4(a, d, 0x88);
        t[8 + c] = _mm512_shuffle_f32x4(a, d, 0xDD);
        t[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
        t[12 + c] = _mm512_shuffle_f32x4(b, e, 0xDD);
    }
    for (int i = 0; i < 16; i++) {
        r[i] = t[i];
    }
}
static inline void v16_store_halves(void *lo, void *hi, v16 a)
{
    _mm256_storeu_ps(lo, _mm512_castps512_ps256(a));
    _mm256_storeu_ps(hi, _mm512_extractf32x8_ps(a, 1));
}

static inline i16 i16_zero(void)
{
    return _mm512_setzero_si512();
}
static inline i16 i16_madd(i16 acc, const int16_t *w, const int16_t *pair)
{
    int32_t p;
    memcpy(&p, pair, 4);
    return _mm512_add_epi32(acc,
                            _mm512_madd_epi16(_mm512_loadu_si512(w), _mm512_set1_epi32(p)));
}
#define V16_AS_F32
static inline v16 i16_as_f32(i16 a) /* the bits */
{
    return _mm512_castsi512_ps(a);
}
static inline v16 i16_to_f32(i16 a)
{
    return _mm512_cvtepi32_ps(a);
}
/* The sums of four vectors, as floats. */
static inline void isum4(const __m512i p[4], float *out)
{
    __m512i ab = _mm512_add_epi32(_mm512_shuffle_i32x4(p[0], p[1], 0x44),
                                  _mm512_shuffle_i32x4(p[0], p[1], 0xEE));
    __m512i cd = _mm512_add_epi32(_mm512_shuffle_i32x4(p[2], p[3], 0x44),
                                  _mm512_shuffle_i32x4(p[2], p[3], 0xEE));
    __m512i x = _mm512_add_epi32(_mm512_shuffle_i32x4(ab, cd, 0x88),
                                 _mm512_shuffle_i32x4(ab, cd, 0xDD));
    x = _mm512_add_epi32(x, _mm512_shuffle_epi32(x, 0x4E));
    x = _mm512_add_epi32(x, _mm512_shuffle_epi32(x, 0xB1));
    x = _mm512_maskz_compress_epi32(0x1111, x);
    _mm_storeu_ps(out, _mm_cvtepi32_ps(_mm512_castsi512_si128(x)));
}
static inline __m512i widen8(const void *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(p));
}
static inline void idot32x4(const int16_t *w, const int8_t *q, float *out)
{
    __m512i p[4];
    for (int b = 0; b < 4; b++) {
        p[b] = _mm512_madd_epi16(_mm512_loadu_si512(w + 32 * b), widen8(q + 32 * b));
    }
    isum4(p, out);
}
static inline void idot_q8_0x4(const char *w, const int8_t *q, float *out)
{
    __m512i p[4];
    for (int b = 0; b < 4; b++) {
        p[b] = _mm512_madd_epi16(widen8(w + 34 * b + 2), widen8(q + 32 * b));
    }
    isum4(p, out);
}

/* ---- bits and bytes ---- */

static inline i16 i16_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
static inline void i16_store(void *p, i16 a)
{
    _mm512_storeu_si512(p, a);
}
#define V16_STORE_FIRST
static inline void i16_store_first(void *p, uint32_t n, i16 a) /* the first n lanes */
{
    _mm512_mask_storeu_epi32(p, (__mmask16)((1u << n) - 1), a);
}
static inline i16 i16_set1(int32_t a)
{
    return _mm512_set1_epi32(a);
}
static inline i16 i16_and(i16 a, i16 b)
{
    return _mm512_and_si512(a, b);
}
static inline i16 i16_or(i16 a, i16 b)
{
    return _mm512_or_si512(a, b);
}
static inline i16 i16_xor(i16 a, i16 b)
{
    return _mm512_xor_si512(a, b);
}
static inline i16 i16_add(i16 a, i16 b)
{
    return _mm512_add_epi32(a, b);
}
static inline i16 i16_max(i16 a, i16 b)
{
    return _mm512_max_epi32(a, b);
}
static inline int32_t i16_top(i16 a)
{
    return _mm512_reduce_max_epi32(a);
}
static inline i16 v16_bits(v16 a)
{
    return _mm512_castps_si512(a);
}
static inline void i16_store_bytes(i16 lo, i16 hi, int8_t *q, int16_t *sum)
{
    x_store_sums(_mm256_set_m128i(_mm512_cvtepi32_epi8(hi), _mm512_cvtepi32_epi8(lo)), q, sum);
}
static inline i16 i16_srl(i16 a, int by)
{
    return (i16)((__v16su)a >> by);
}
static inline i16 i16_sll(i16 a, int by)
{
    return (i16)((__v16su)a << by);
}
static inline i16 i16_sub8(i16 a, i16 b)
{
    return _mm512_sub_epi8(a, b);
}
#ifdef __GFNI__
/* bits() of kern_panel.h in one step. Row 7 - i of the matrix makes bit i of a byte. */
#define I16_BITS
static inline i16 i16_bits(i16 a, int shift, int mask)
{
    uint64_t rows = 0;
    for (int i = 0; i < 8; i++) {
        rows |= (uint64_t)(mask >> i & 1) << (8 * (7 - i) + i);
    }
    return _mm512_gf2p8affine_epi64_epi8(a, _mm512_set1_epi64((long long)(rows << shift)), 0);
}
#endif
/* Bytes lo and hi of each dword, as its two halves. */
#define I16_TWO
static inline i16 i16_two(i16 a, int lo, int hi)
{
    const __m128i from = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    __m128i at = _mm_add_epi8(
        from, _mm_set1_epi32((int)(0x80008000u | (unsigned)hi << 16 | (unsigned)lo)));
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(at));
}
static inline i16 i16_mul16(i16 a, i16 b)
{
    return _mm512_mullo_epi16(a, b);
}
static inline i16 i16_lookup(const int8_t *table, i16 a)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), a);
}
static inline i16 rows_4(const char *p, size_t stride) /* rows 0, 4, 8, 12 */
{
    /* inserting 128 bits from memory takes any vector port, halves of a register only one */
    i16 a = _mm512_castsi128_si512(_mm_loadu_si128((const void *)p));
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p + 4 * stride)), 1);
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p + 8 * stride)), 2);
    return _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p + 12 * stride)), 3);
}
static inline void i16_rows(const char *p, size_t stride, i16 out[4])
{
    i16 a = rows_4(p, stride), b = rows_4(p + stride, stride);
    i16 c = rows_4(p + 2 * stride, stride), d = rows_4(p + 3 * stride, stride);
    i16 ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab, cd);
    out[1] = _mm512_unpackhi_epi64(ab, cd);
    ab = _mm512_unpackhi_epi32(a, b);
    cd = _mm512_unpackhi_epi32(c, d);
    out[2] = _mm512_unpacklo_epi64(ab, cd);
    out[3] = _mm512_unpackhi_epi64(ab, cd);
}
static inline v16 v16_half(i16 a)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

/* ---- 8-bit products of panels ---- */

#if defined(KERN_AMX)
/* none: x86/tile_amx.h multiplies */
#elif defined(__AVX512VNNI__)
typedef __m512i w4, x4;

static inline w4 w4_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
static inline x4 x4_load(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}
#else
/* Without the instruction: even and odd bytes as words. */
typedef struct {
    __m512i even, odd;
} w4;
typedef w4 x4;

static inline w4 w4_load(const void *p)
{
    __m512i v = _mm512_loadu_si512(p);
    return (w4){_mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8), _mm512_srai_epi16(v, 8)};
}
static inline x4 x4_load(const void *p)
{
    int32_t x[2];
    memcpy(x, p, 8);
    return (x4){_mm512_set1_epi32(x[0]), _mm512_set1_epi32(x[1])};
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(w.even, x.even));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(w.odd, x.odd));
}
#endif

#endif
