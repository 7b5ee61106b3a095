/* dot_iq2_avx2.h - IQ2_XXS for dot_avx2.h (layout: quant/decode_iq.c). The grid stays in memory
 * (2 KiB, first-level cache), and its entries are loaded as qwords of the vectors: since every
 * qword is chosen on its own, a vector takes sub-vector k of four groups, and the sums of a
 * group need no horizontal additions but the last. The activations are brought into that order
 * once per call. The signs are made for 256 elements at a time: fields to bytes, parity by
 * nibble tables; where a bit is set the activation is negated. */
#ifndef CPU_DOT_IQ2_AVX2_H
#define CPU_DOT_IQ2_AVX2_H

#include "backend/cpu/x86/dot_avx2.h"
#include "quant/tables.h"

enum { IQ2_COLS = 4096 }; /* columns whose activations are ordered at a time */

/* Per 128 activations: vector k gets elements 8k .. 8k + 7 of the four groups. */
static void iq2_order(const int8_t *q, size_t n, int8_t *out)
{
    for (size_t i = 0; i < n; i += 128) {
        __m256i g0 = load32(q + i), g1 = load32(q + i + 32);
        __m256i g2 = load32(q + i + 64), g3 = load32(q + i + 96);
        __m256i a02 = _mm256_unpacklo_epi64(g0, g1), a13 = _mm256_unpackhi_epi64(g0, g1);
        __m256i b02 = _mm256_unpacklo_epi64(g2, g3), b13 = _mm256_unpackhi_epi64(g2, g3);
        __m256i *to = (__m256i *)(out + i);
        _mm256_store_si256(to, _mm256_permute2x128_si256(a02, b02, 0x20));
        _mm256_store_si256(to + 1, _mm256_permute2x128_si256(a13, b13, 0x20));
        _mm256_store_si256(to + 2, _mm256_permute2x128_si256(a02, b02, 0x31));
        _mm256_store_si256(to + 3, _mm256_permute2x128_si256(a13, b13, 0x31));
    }
}

/* The second words of the eight groups of a block, in order: sign fields and scale. */
DOT_INLINE __m256i iq2_words(const uint8_t *b)
{
    __m256 lo = _mm256_castsi256_ps(load32(b + 2)), hi = _mm256_castsi256_ps(load32(b + 34));
    return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(lo, hi, 0xDD)), 0xD8);
}
/* 2 s + 1 */
DOT_INLINE __m256i iq2_scales(__m256i word)
{
    __m256i twice = and_bytes(_mm256_srli_epi32(word, 27), 0x1E);
    return _mm256_or_si256(twice, _mm256_set1_epi32(1));
}

/* The sign bytes of eight groups from their words: dword g has those of sub-vectors 0..3. */
DOT_INLINE __m256i iq2_signs(__m256i word)
{
    const __m256i parity = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    __m256i f = _mm256_and_si256(word, _mm256_set1_epi32(0x7F));
    f = _mm256_or_si256(
        f, _mm256_and_si256(_mm256_slli_epi32(word, 1), _mm256_set1_epi32(0x7F00)));
    f = _mm256_or_si256(
        f, _mm256_and_si256(_mm256_slli_epi32(word, 2), _mm256_set1_epi32(0x7F0000)));
    f = _mm256_or_si256(
        f, _mm256_and_si256(_mm256_slli_epi32(word, 3), _mm256_set1_epi32(0x7F000000)));
    __m256i x = and_bytes(_mm256_xor_si256(f, _mm256_srli_epi16(f, 4)), 15);
    return _mm256_or_si256(f, _mm256_shuffle_epi8(parity, x));
}

DOT_INLINE long long iq2_entry(uint32_t indices, int k)
{
    return (long long)load_le64(quant_grid_iq2_xxs[indices >> 8 * k & 255]);
}

/* Pair sums of sub-vector k of four groups; p: their bytes; signs: qword j has the sign bytes
 * of group j. */
DOT_INLINE __m256i iq2_dot2(const uint32_t p[4], int k, __m256i signs, const int8_t *q)
{
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i copy = _mm256_setr_epi64x(0, 0x0808080808080808, 0, 0x0808080808080808);
    __m256i grid = _mm256_set_epi64x(iq2_entry(p[3], k), iq2_entry(p[2], k), iq2_entry(p[1], k),
                                     iq2_entry(p[0], k));
    __m256i s = _mm256_shuffle_epi8(signs, _mm256_add_epi8(copy, _mm256_set1_epi8((char)k)));
    __m256i minus = _mm256_cmpeq_epi8(_mm256_and_si256(s, bit), bit);
    __m256i x =
        _mm256_sign_epi8(load32(q + 32 * k), _mm256_or_si256(minus, _mm256_set1_epi8(1)));
    return _mm256_maddubs_epi16(grid, x);
}

/* Two dwords for each of four groups. Two pairs fit 16 bits: 4 * 43 * 127 = 21844. */
DOT_INLINE __m256i iq2_quad(const uint8_t *p, __m128i signs, const int8_t *q)
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i s = _mm256_cvtepu32_epi64(signs);
    const uint32_t i[4] = {load_le32(p), load_le32(p + 8), load_le32(p + 16),
                           load_le32(p + 24)};
    __m256i a = _mm256_add_epi16(iq2_dot2(i, 0, s, q), iq2_dot2(i, 1, s, q));
    __m256i b = _mm256_add_epi16(iq2_dot2(i, 2, s, q), iq2_dot2(i, 3, s, q));
    return _mm256_add_epi32(_mm256_madd_epi16(a, one), _mm256_madd_epi16(b, one));
}

/* A step; q in the order of iq2_order. */
DOT_INLINE struct sums8 sums_iq2_xxs(const uint8_t *w, const int8_t *q)
{
    struct sums8 s;
    __m256i word = iq2_words(w);
    __m256i signs = iq2_signs(word);
    __m256i p0 = iq2_quad(w + 2, _mm256_castsi256_si128(signs), q);
    __m256i p1 = iq2_quad(w + 34, _mm256_extracti128_si256(signs, 1), q + 128);
    __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(p0, p1), 0xD8);
    s.i1 = _mm256_mullo_epi32(sums, iq2_scales(word));
    s.d = _mm256_mul_ps(scale_f16(w), _mm256_set1_ps(0.125f));
    return s;
}

static void rows_iq2_xxs(const void *w, size_t row_bytes, uint32_t n_row,
                         const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                         size_t out_ld)
{
    _Alignas(32) int8_t q[IQ2_COLS];
    __m256 c[KERN_ROWS][2];
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t r = 0; r < n_row; r++) {
            c[r][0] = c[r][1] = _mm256_setzero_ps();
        }
        for (size_t k = 0; k < n; k += IQ2_COLS) {
            size_t len = n - k < IQ2_COLS ? n - k : IQ2_COLS;
            iq2_order(x[t].q + k, len, q);
            for (uint32_t r = 0; r < n_row; r++) {
                const uint8_t *from = (const uint8_t *)w + r * row_bytes + k / 256 * 66;
                for (size_t i = 0; i < len; i += 256, from += 66) {
                    ahead(from, 66);
                    struct sums8 s = sums_iq2_xxs(from, q + i);
                    __m256 *half = &c[r][i / 256 % 2];
                    *half = step_add(*half, &s, x[t].d + (k + i) / 32, false);
                }
            }
        }
        for (uint32_t r = 0; r < n_row; r++) {
            out[t * out_ld + r] = halving_sum(c[r][0], c[r][1]);
        }
    }
}

#endif
