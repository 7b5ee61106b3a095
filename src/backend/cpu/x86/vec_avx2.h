/* vec_avx2.h - the words of vec_c.h for AVX2, FMA and F16C: two registers each, lanes 0..7 in
 * `lo`. */
#ifndef CPU_VEC_AVX2_H
#define CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/x86/x_pack.h"

typedef struct {
    __m256 lo, hi;
} v16;
typedef struct {
    __m256i lo, hi;
} i16;

#define V16_TOKENS 4
#define V16_PANELS 1
#define V16_MIX_ROWS 4
#define V16_SCORE_HEADS 2
#define V16_SCORE_ROWS 2
#define V16_VALUE_HEADS 2
#define V16_VALUE_COLS 2
#define V16_FAST_F16
#ifdef __AVXVNNI__
#define TILE_TOKENS 3
#define TILE_HALVES 3
#else
#define TILE_TOKENS 4
#define TILE_HALVES 4
#endif

static inline v16 v16_set1(float a)
{
    return (v16){_mm256_set1_ps(a), _mm256_set1_ps(a)};
}
static inline v16 v16_load(const void *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps((const float *)p + 8)};
}
static inline void v16_store(void *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps((float *)p + 8, a.hi);
}
static inline v16 v16_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline v16 v16_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline v16 v16_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline v16 v16_load_f16(const void *p)
{
    const char *b = p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)b)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(b + 16)))};
}
static inline __m256 bf16_load8(const void *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
static inline v16 v16_load_bf16(const void *p)
{
    return (v16){bf16_load8(p), bf16_load8((const char *)p + 16)};
}
static inline float v16_sum(v16 a)
{
    __m256 h = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
/* [a (4) | b (4)] after lanes +4 of both. */
static inline __m256 fold4(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20),
                         _mm256_permute2f128_ps(a, b, 0x31));
}
static inline void v16_sum4(const v16 a[4], float *out)
{
    __m256 ab = fold4(_mm256_add_ps(a[0].lo, a[0].hi), _mm256_add_ps(a[1].lo, a[1].hi));
    __m256 cd = fold4(_mm256_add_ps(a[2].lo, a[2].hi), _mm256_add_ps(a[3].lo, a[3].hi));
    /* lanes +2: [a c | b d], two lanes each; then +1 */
    __m256 x = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    x = _mm256_add_ps(x, _mm256_movehdup_ps(x));
    __m128 ac = _mm256_castps256_ps128(x), bd = _mm256_extractf128_ps(x, 1);
    __m128 r = _mm_shuffle_ps(ac, bd, 0x88); /* a c b d */
    _mm_storeu_ps(out, _mm_shuffle_ps(r, r, 0xD8));
}
static inline void transpose8(__m256 r[8])
{
    __m256 t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}
static inline void v16_transpose(v16 r[16])
{
    __m256 q[4][8]; /* quarters: rows 0..7 lo, rows 0..7 hi, rows 8..15 lo, rows 8..15 hi */
    for (int i = 0; i < 8; i++) {
        q[0][i] = r[i].lo;
        q[1][i] = r[i].hi;
        q[2][i] = r[i + 8].lo;
        q[3][i] = r[i + 8].hi;
    }
    for (int i = 0; i < 4; i++) {
        transpose8(q[i]);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = (v16){q[0][i], q[2][i]};
        r[i + 8] = (v16){q[1][i], q[3][i]};
    }
}
static inline void v16_store_halves(void *lo, void *hi, v16 a)
{
    _mm256_storeu_ps(lo, a.lo);
    _mm256_storeu_ps(hi, a.hi);
}

static inline i16 i16_zero(void)
{
    return (i16){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
static inline i16 i16_madd(i16 acc, const int16_t *w, const int16_t *pair)
{
    int32_t p;
    memcpy(&p, pair, 4);
    __m256i b = _mm256_set1_epi32(p);
    __m256i lo = _mm256_loadu_si256((const void *)w);
    __m256i hi = _mm256_loadu_si256((const void *)(w + 16));
    return (i16){_mm256_add_epi32(acc.lo, _mm256_madd_epi16(lo, b)),
                 _mm256_add_epi32(acc.hi, _mm256_madd_epi16(hi, b))};
}
#define V16_AS_F32
static inline v16 i16_as_f32(i16 a) /* the bits */
{
    return (v16){_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
static inline v16 i16_to_f32(i16 a)
{
    return (v16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
/* 16 products of int16 w and int8 q, added in pairs */
static inline __m256i idot16(__m256i w, const int8_t *q)
{
    return _mm256_madd_epi16(w, _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)q)));
}
/* The sums of four vectors, as floats. */
static inline void isum4(const __m256i p[4], float *out)
{
    __m256i x = _mm256_hadd_epi32(_mm256_hadd_epi32(p[0], p[1]), _mm256_hadd_epi32(p[2], p[3]));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storeu_ps(out, _mm_cvtepi32_ps(sum));
}
static inline void idot32x4(const int16_t *w, const int8_t *q, float *out)
{
    __m256i p[4];
    for (int b = 0; b < 4; b++) {
        __m256i lo = _mm256_loadu_si256((const void *)(w + 32 * b));
        __m256i hi = _mm256_loadu_si256((const void *)(w + 32 * b + 16));
        p[b] = _mm256_add_epi32(idot16(lo, q + 32 * b), idot16(hi, q + 32 * b + 16));
    }
    isum4(p, out);
}
static inline void idot_q8_0x4(const char *w, const int8_t *q, float *out)
{
    __m256i p[4];
    for (int b = 0; b < 4; b++) {
        const char *codes = w + 34 * b + 2;
        __m256i lo = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
        __m256i hi = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(codes + 16)));
        p[b] = _mm256_add_epi32(idot16(lo, q + 32 * b), idot16(hi, q + 32 * b + 16));
    }
    isum4(p, out);
}

/* ---- bits and bytes ---- */

static inline i16 i16_load(const void *p)
{
    return (i16){_mm256_loadu_si256(p),
                 _mm256_loadu_si256((const void *)((const char *)p + 32))};
}
static inline void i16_store(void *p, i16 a)
{
    _mm256_storeu_si256(p, a.lo);
    _mm256_storeu_si256((void *)((char *)p + 32), a.hi);
}
static inline i16 i16_set1(int32_t a)
{
    return (i16){_mm256_set1_epi32(a), _mm256_set1_epi32(a)};
}
static inline i16 i16_and(i16 a, i16 b)
{
    return (i16){_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
static inline i16 i16_add(i16 a, i16 b)
{
    return (i16){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
static inline i16 i16_max(i16 a, i16 b)
{
    return (i16){_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
static inline int32_t i16_top(i16 a)
{
    __m256i h = _mm256_max_epi32(a.lo, a.hi);
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
static inline i16 v16_bits(v16 a)
{
    return (i16){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
static inline void i16_store_bytes(i16 lo, i16 hi, int8_t *q, int16_t *sum)
{
    /* packs work in each 128 bits: dwords come out as 0 2 4 6, 1 3 5 7 */
    __m256i codes =
        _mm256_packs_epi16(_mm256_packs_epi32(lo.lo, lo.hi), _mm256_packs_epi32(hi.lo, hi.hi));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    x_store_sums(_mm256_permutevar8x32_epi32(codes, order), q, sum);
}
static inline i16 i16_or(i16 a, i16 b)
{
    return (i16){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
static inline i16 i16_xor(i16 a, i16 b)
{
    return (i16){_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
static inline i16 i16_srl(i16 a, int by)
{
    return (i16){(__m256i)((__v8su)a.lo >> by), (__m256i)((__v8su)a.hi >> by)};
}
static inline i16 i16_sll(i16 a, int by)
{
    return (i16){(__m256i)((__v8su)a.lo << by), (__m256i)((__v8su)a.hi << by)};
}
static inline i16 i16_sub8(i16 a, i16 b)
{
    return (i16){_mm256_sub_epi8(a.lo, b.lo), _mm256_sub_epi8(a.hi, b.hi)};
}
static inline i16 i16_mul16(i16 a, i16 b)
{
    return (i16){_mm256_mullo_epi16(a.lo, b.lo), _mm256_mullo_epi16(a.hi, b.hi)};
}
static inline i16 i16_lookup(const int8_t *table, i16 a)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
    return (i16){_mm256_shuffle_epi8(t, a.lo), _mm256_shuffle_epi8(t, a.hi)};
}
static inline __m256i rows_2(const char *p, size_t stride) /* rows 0 and 4 */
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)p)),
                                   _mm_loadu_si128((const void *)(p + 4 * stride)), 1);
}
static inline void rows_8(const char *p, size_t stride, __m256i out[4])
{
    __m256i a = rows_2(p, stride), b = rows_2(p + stride, stride);
    __m256i c = rows_2(p + 2 * stride, stride), d = rows_2(p + 3 * stride, stride);
    __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    out[0] = _mm256_unpacklo_epi64(ab, cd);
    out[1] = _mm256_unpackhi_epi64(ab, cd);
    ab = _mm256_unpackhi_epi32(a, b);
    cd = _mm256_unpackhi_epi32(c, d);
    out[2] = _mm256_unpacklo_epi64(ab, cd);
    out[3] = _mm256_unpackhi_epi64(ab, cd);
}
static inline void i16_rows(const char *p, size_t stride, i16 out[4])
{
    __m256i lo[4], hi[4];
    rows_8(p, stride, lo);
    rows_8(p + 8 * stride, stride, hi);
    for (int j = 0; j < 4; j++) {
        out[j] = (i16){lo[j], hi[j]};
    }
}
static inline v16 v16_half(i16 a)
{
    const __m256i low = _mm256_set1_epi32(0xFFFF);
    __m256i x = _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low));
    x = _mm256_permute4x64_epi64(x, 0xD8);
    return (v16){_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
                 _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}

/* ---- 8-bit products of panels ---- */

#ifdef __AVXVNNI__
typedef i16 w4;
typedef __m256i x4;

static inline w4 w4_load(const void *p)
{
    return i16_load(p);
}
static inline x4 x4_load(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    return (i16){_mm256_dpbusd_avx_epi32(acc.lo, w.lo, x),
                 _mm256_dpbusd_avx_epi32(acc.hi, w.hi, x)};
}
#else
/* Without the instruction: even and odd bytes as words. */
typedef struct {
    i16 even, odd;
} w4;
typedef struct {
    __m256i even, odd;
} x4;

static inline __m256i even_words(__m256i a)
{
    return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
}
static inline w4 w4_load(const void *p)
{
    i16 v = i16_load(p);
    return (w4){{even_words(v.lo), even_words(v.hi)},
                {_mm256_srai_epi16(v.lo, 8), _mm256_srai_epi16(v.hi, 8)}};
}
static inline x4 x4_load(const void *p)
{
    int32_t x[2];
    memcpy(x, p, 8);
    return (x4){_mm256_set1_epi32(x[0]), _mm256_set1_epi32(x[1])};
}
static inline i16 i16_dot(i16 acc, w4 w, x4 x)
{
    acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(w.even.lo, x.even));
    acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(w.even.hi, x.even));
    acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(w.odd.lo, x.odd));
    acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(w.odd.hi, x.odd));
    return acc;
}
#endif

#endif
