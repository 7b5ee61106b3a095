/* x_pack.h - how the vocabularies of x86 (vec_avx2.h, vec_avx512.h) hold the operands of 8-bit
 * products: for the tiles of AMX, both signed, as they are; for dot instructions, weights
 * unsigned and activations as they are; without either, activations as words, even elements of
 * each four before odd ones, which meet the even and odd bytes of the weights. */
#ifndef CPU_X_PACK_H
#define CPU_X_PACK_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#ifdef KERN_AMX
#define W_BIAS 0
#else
#define W_BIAS 128
#endif
#define X_BYTES 32

static inline void x_pack(const int8_t *q, unsigned char *to)
{
    memcpy(to, q, 32);
}
#else
#define W_BIAS 0
#define X_BYTES 64

static inline void x_pack(const int8_t *q, unsigned char *to)
{
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    __m128i a = _mm_shuffle_epi8(_mm_loadu_si128((const void *)q), order);
    __m128i b = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(q + 16)), order);
    _mm256_storeu_si256((void *)to, _mm256_cvtepi8_epi16(a));
    _mm256_storeu_si256((void *)(to + 32), _mm256_cvtepi8_epi16(b));
}
#endif

/* 32 codes of -127 to 127 to q, the sums of both halves to sum. Bytes are added by the sum of
 * absolute differences from 0, which wants them unsigned: 128 more each. */
static inline void x_store_sums(__m256i codes, int8_t *q, int16_t *sum)
{
    __m256i above = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    __m256i s = _mm256_sad_epu8(above, _mm256_setzero_si256()); /* of eight bytes each */
    __m128i lo = _mm256_castsi256_si128(s), hi = _mm256_extracti128_si256(s, 1);
    __m128i both =
        _mm_add_epi32(_mm_unpacklo_epi16(lo, hi), /* dword 0: lo's word 0, then hi's */
                      _mm_unpackhi_epi16(lo, hi));
    int32_t two = _mm_cvtsi128_si32(_mm_sub_epi16(both, _mm_set1_epi16(16 * 128)));
    _mm256_storeu_si256((void *)q, codes);
    memcpy(sum, &two, sizeof two);
}

#endif
