/* dot_8_avx512vnni.h - Q8_0 for dot_avx512vnni.h (layout: quant/decode.c). The signed codes are
 * made unsigned by their top bit, which adds 128. */
#ifndef CPU_DOT_8_AVX512VNNI_H
#define CPU_DOT_8_AVX512VNNI_H

#include "backend/cpu/x86/dot_avx512vnni.h"

/* The F16 scales of 16 blocks, 17 words apart, in the order of lanes_pairs: even, then odd
 * blocks of eight. Two loads of 64 bytes have four of them, and a permute takes those to their
 * own words. */
DOT_INLINE __m512 scales_q8_0(const uint8_t *w)
{
    const __m512i pick = _mm512_castsi256_si512(
        _mm256_setr_epi16(0, 34, 0, 34, 17, 51, 17, 51, 0, 34, 0, 34, 17, 51, 17, 51));
    __m512i d[4];
    UNROLL for (int i = 0; i < 4; i++)
    {
        const __mmask32 four[4] = {0x0033, 0x00CC, 0x3300, 0xCC00};
        const uint8_t *from = w + 136 * i;
        d[i] = _mm512_maskz_permutex2var_epi16(four[i], load64(from), pick, load64(from + 64));
    }
    __m512i all = _mm512_or_si512(_mm512_or_si512(d[0], d[1]), _mm512_or_si512(d[2], d[3]));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(all));
}

DOT_INLINE struct sums16 sums_q8_0(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    __m512i p[8];
    (void)tables;
    UNROLL for (size_t i = 0; i < 8; i++)
    {
        const uint8_t *two = w + 68 * i + 2;
        __m512i codes = halves(_mm256_loadu_si256((const void *)two),
                               _mm256_loadu_si256((const void *)(two + 34)));
        p[i] = dot4(_mm512_xor_si512(codes, _mm512_set1_epi8(-128)), a->q + 64 * i);
    }
    s.i1 = _mm512_sub_epi32(fold_join(fold_plain(p), fold_plain(p + 4)), load64(a->offset));
    s.d = scales_q8_0(w);
    return s;
}
DOT_ROWS(q8_0, FORMAT(.bytes = 544, .offset = 128, .sums = sums_q8_0, .lanes = &lanes_pairs))

#endif
