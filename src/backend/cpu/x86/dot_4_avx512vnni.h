/* dot_4_avx512vnni.h - formats whose 16 bytes hold the nibbles of one group of 32 (low:
 * elements 0 to 15), for dot_avx512vnni.h: MXFP4, Q4_0, IQ4_NL, IQ4_XS (layouts:
 * quant/decode.c, decode_iq.c). The values are looked up with an offset that makes them
 * unsigned. */
#ifndef CPU_DOT_4_AVX512VNNI_H
#define CPU_DOT_4_AVX512VNNI_H

#include "backend/cpu/x86/dot_avx512vnni.h"
#include "quant/tables.h"

/* Nibbles of two groups, in element order. */
DOT_INLINE __m512i nibbles_two(const uint8_t *a, const uint8_t *b)
{
    const __m512i shift = _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0,
                                           0x0004000400040004, 0x0004000400040004, 0, 0);
    __m256i two =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)a)),
                                _mm_loadu_si128((const void *)b), 1);
    __m512i wide = _mm512_castsi256_si512(two);
    wide = _mm512_shuffle_i64x2(wide, wide, 0x50); /* a a b b */
    return _mm512_and_si512(_mm512_srlv_epi16(wide, shift), _mm512_set1_epi8(15));
}

/* values[16] plus k in every 128 bits. */
DOT_INLINE __m512i value_table(const int8_t *values, int k)
{
    __m128i t = _mm_loadu_si128((const void *)values);
    return _mm512_broadcast_i32x4(_mm_add_epi8(t, _mm_set1_epi8((char)k)));
}

/* Block sums of values[code] + k; group i begins at w + i * step. */
DOT_INLINE __m512i table_sums(const uint8_t *w, size_t step, const int8_t *values, int k,
                              const int8_t *q)
{
    __m512i p[8], table = values ? value_table(values, k) : _mm512_setzero_si512();
    for (size_t i = 0; i < 8; i++) {
        __m512i v = nibbles_two(w + 2 * i * step, w + (2 * i + 1) * step);
        p[i] = dot4(values ? _mm512_shuffle_epi8(table, v) : v, q + 64 * i);
    }
    return fold_natural(fold_plain(p), fold_plain(p + 4));
}

/* ---- MXFP4 ---- */

/* 2^(e - 128) of the scale bytes of 16 blocks. A load of 64 bytes has four of them, 17 apart;
 * two permutes take eight each to the low bytes of their lanes. */
DOT_INLINE __m512 scales_mxfp4(const uint8_t *w)
{
    const __m512i lo =
        _mm512_setr_epi32(0, 17, 34, 51, 64, 81, 98, 115, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i hi =
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 17, 34, 51, 64, 81, 98, 115);
    __m512i e = _mm512_or_si512(
        _mm512_maskz_permutex2var_epi8(0x0000000011111111u, load64(w), lo, load64(w + 68)),
        _mm512_maskz_permutex2var_epi8(0x1111111100000000u, load64(w + 136), hi,
                                       load64(w + 204)));
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    bits = _mm512_mask_sllv_epi32(bits, tiny, _mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(bits);
}

DOT_INLINE struct sums16 sums_mxfp4(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m512i all = table_sums(w + 1, 17, quant_values_mxfp4, 12, a->q);
    s.i1 = _mm512_sub_epi32(all, load64(a->offset));
    s.d = scales_mxfp4(w);
    return s;
}
DOT_ROWS(mxfp4, FORMAT(.bytes = 272, .offset = 12, .sums = sums_mxfp4))

/* ---- Q4_0 and IQ4_NL ---- */

DOT_INLINE __m512 scales_f16(const uint8_t *w, size_t step)
{
    uint16_t half[16];
    for (size_t i = 0; i < 16; i++) {
        half[i] = load_le16(w + step * i);
    }
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
}

DOT_INLINE struct sums16 sums_q4_0(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m512i all = table_sums(w + 2, 18, NULL, 0, a->q);
    s.i1 = _mm512_sub_epi32(all, load64(a->offset));
    s.d = scales_f16(w, 18);
    return s;
}
DOT_ROWS(q4_0, FORMAT(.bytes = 288, .offset = 8, .sums = sums_q4_0))

DOT_INLINE struct sums16 sums_iq4_nl(const void *tables, const uint8_t *w,
                                     const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m512i all = table_sums(w + 2, 18, quant_values_iq4_nl, 127, a->q);
    s.i1 = _mm512_sub_epi32(all, load64(a->offset));
    s.d = scales_f16(w, 18);
    return s;
}
DOT_ROWS(iq4_nl, FORMAT(.bytes = 288, .offset = 127, .sums = sums_iq4_nl))

/* ---- IQ4_XS ---- */

/* The eight 6-bit scales as bytes. */
DOT_INLINE uint64_t scales_iq4_xs(const uint8_t *w)
{
    uint64_t low = load_le32(w + 4), high = load_le16(w + 2);
    low = _pdep_u64(low, 0x0F0F0F0F0F0F0F0Fu);
    return low | _pdep_u64(high, 0x3030303030303030u);
}

DOT_INLINE struct sums16 sums_iq4_xs(const void *tables, const uint8_t *w,
                                     const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m512i p[8], table = value_table(quant_values_iq4_nl, 127);
    for (size_t i = 0; i < 8; i++) {
        const uint8_t *from = w + (i < 4 ? 8 : 144 - 128) + 32 * i;
        p[i] = dot4(_mm512_shuffle_epi8(table, nibbles_two(from, from + 16)), a->q + 64 * i);
    }
    __m512i all = fold_natural(fold_plain(p), fold_plain(p + 4));
    __m512i scales = _mm512_cvtepu8_epi32(
        _mm_set_epi64x((long long)scales_iq4_xs(w + 136), (long long)scales_iq4_xs(w)));
    s.i1 = _mm512_mullo_epi32(_mm512_sub_epi32(all, load64(a->offset)),
                              _mm512_sub_epi32(scales, _mm512_set1_epi32(32)));
    s.d = scale_of_two(w, w + 136);
    return s;
}
DOT_ROWS(iq4_xs, FORMAT(.bytes = 272, .offset = 127, .sums = sums_iq4_xs))

#endif
