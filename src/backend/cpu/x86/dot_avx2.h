/* dot_avx2.h - the words of dot_rows.h for AVX2, and what its formats share. Included by
 * rows_avx2.c only.
 *
 * A vector of 32 unsigned codes meets its 32 activations by vpmaddubsw: pairs, in 16 bits.
 * Codes are below 64, so that a pair (2 * 63 * 127) may be added to another one before it is
 * widened. Signed codes are stored with an offset, whose part is subtracted at the end.
 * Read next: dot_k_avx2.h (Q2_K to Q6_K, blocks of 32, IQ4), dot_iq2_avx2.h. */
#ifndef CPU_DOT_AVX2_H
#define CPU_DOT_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/kern_order.h"
#include "base/num.h"

/* Specialised once per format: the format's function is a constant. */
#define DOT_INLINE static inline __attribute__((always_inline))

struct sums8 {
    __m256i i1, i2;
    __m256 d, m; /* i2 and m only where the format has minima */
};
typedef __m256 lanes8;

DOT_INLINE lanes8 lanes8_zero(void)
{
    return _mm256_setzero_ps();
}

DOT_INLINE float halving_sum(lanes8 lo, lanes8 hi)
{
    __m256 h = _mm256_add_ps(lo, hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* c += of one step. */
DOT_INLINE lanes8 step_add(lanes8 c, const struct sums8 *s, const float *d_act, bool has_min)
{
    __m256 da = _mm256_loadu_ps(d_act);
    c = _mm256_fmadd_ps(_mm256_mul_ps(s->d, da), _mm256_cvtepi32_ps(s->i1), c);
    if (has_min) {
        c = _mm256_fnmadd_ps(_mm256_mul_ps(s->m, da), _mm256_cvtepi32_ps(s->i2), c);
    }
    return c;
}

#include "backend/cpu/dot_rows.h"

DOT_INLINE __m256i load32(const void *p)
{
    return _mm256_loadu_si256(p);
}
DOT_INLINE __m256i and_bytes(__m256i a, int byte)
{
    return _mm256_and_si256(a, _mm256_set1_epi8((char)byte));
}
/* `add` in the bytes of v where bits has `bit`; v has none of it. */
DOT_INLINE __m256i add_where(__m256i v, __m256i bits, int bit, int add)
{
    __m256i one = _mm256_set1_epi8((char)bit);
    __m256i has = _mm256_cmpeq_epi8(_mm256_and_si256(bits, one), one);
    return _mm256_or_si256(v, and_bytes(has, add));
}
/* Products of 32 codes and activations, added in pairs. */
DOT_INLINE __m256i dot2(__m256i codes, const int8_t *q)
{
    return _mm256_maddubs_epi16(codes, load32(q));
}

/* Pairs of blocks a and b, four each per 128 bits (16 elements), times s. */
DOT_INLINE __m256i fold_two(__m256i a, __m256i b, __m256i s)
{
    __m256i sum = _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    return _mm256_madd_epi16(sum, s);
}
DOT_INLINE __m256i fold_four(__m256i ab, __m256i cd)
{
    __m256 x = _mm256_castsi256_ps(ab), y = _mm256_castsi256_ps(cd);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xDD)));
}
/* The same from the sums of four products of four blocks. */
DOT_INLINE __m256i fold_wide(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i x = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    __m256i y = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y));
}
/* dot2 of four blocks to two dwords each, 0..3 from the lower halves, 4..7 from the upper ones.
 * s0, for blocks 0 and 1: in 128-bit lane h four times the scale of half h of the first, then
 * of the second; s1 for 2 and 3. */
DOT_INLINE __m256i fold_scaled(const __m256i p[4], __m256i s0, __m256i s1)
{
    return fold_four(fold_two(p[0], p[1], s0), fold_two(p[2], p[3], s1));
}
DOT_INLINE __m256i fold_plain(const __m256i p[4])
{
    __m256i one = _mm256_set1_epi16(1);
    return fold_scaled(p, one, one);
}
/* Two folds to the sums of eight blocks, in order. */
DOT_INLINE __m256i fold_join(__m256i a, __m256i b)
{
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}
/* Sixteen scales to the form that fold_scaled wants. */
DOT_INLINE void spread_scales(__m256i scales, __m256i s[4])
{
    const __m256i c0 = _mm256_set_epi64x(0x0706070607060706, 0x0302030203020302,
                                         0x0504050405040504, 0x0100010001000100);
    const __m256i c1 = _mm256_add_epi8(c0, _mm256_set1_epi8(8));
    __m256i lo = _mm256_permute2x128_si256(scales, scales, 0x00);
    __m256i hi = _mm256_permute2x128_si256(scales, scales, 0x11);
    s[0] = _mm256_shuffle_epi8(lo, c0);
    s[1] = _mm256_shuffle_epi8(lo, c1);
    s[2] = _mm256_shuffle_epi8(hi, c0);
    s[3] = _mm256_shuffle_epi8(hi, c1);
}

/* k times the sum of a block's activations. */
DOT_INLINE __m256i offset_sums(const int16_t *sum, int k)
{
    return _mm256_madd_epi16(load32(sum), _mm256_set1_epi16((short)k));
}
DOT_INLINE __m256 scale_f16(const uint8_t *p)
{
    return _mm256_set1_ps(_cvtsh_ss(load_le16(p)));
}
/* Neighbouring F16 d and m. */
DOT_INLINE void scales_f16(const uint8_t *p, struct sums8 *s)
{
    __m256 both = _mm256_cvtph_ps(_mm_set1_epi32((int)load_le32(p)));
    s->d = _mm256_moveldup_ps(both);
    s->m = _mm256_movehdup_ps(both);
}
/* F16 scales of eight blocks, `step` bytes apart. */
DOT_INLINE __m256 scales_of_eight(const uint8_t *w, const size_t step)
{
    __m128i h = _mm_cvtsi32_si128(load_le16(w));
    h = _mm_insert_epi16(h, load_le16(w + step), 1);
    h = _mm_insert_epi16(h, load_le16(w + 2 * step), 2);
    h = _mm_insert_epi16(h, load_le16(w + 3 * step), 3);
    h = _mm_insert_epi16(h, load_le16(w + 4 * step), 4);
    h = _mm_insert_epi16(h, load_le16(w + 5 * step), 5);
    h = _mm_insert_epi16(h, load_le16(w + 6 * step), 6);
    h = _mm_insert_epi16(h, load_le16(w + 7 * step), 7);
    return _mm256_cvtph_ps(h);
}

#endif
