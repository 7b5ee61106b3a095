/* dot_k_avx2.h - Q2_K to Q6_K, MXFP4, Q4_0, Q8_0 and IQ4 for dot_avx2.h (layouts: quant/decode.c,
 * decode_iq.c). The 2-bit formats leave the codes of odd groups of 32 in bits 2 and 3, four times
 * their value, and divide the finished sums. */
#ifndef CPU_DOT_K_AVX2_H
#define CPU_DOT_K_AVX2_H

#include "backend/cpu/x86/dot_avx2.h"
#include "quant/tables.h"

/* Four times the sum of odd blocks to once. */
DOT_INLINE __m256i quarter_odd(__m256i sums)
{
    return _mm256_srav_epi32(sums, _mm256_set1_epi64x(2LL << 32));
}

/* ---- Q2_K ---- */

/* Blocks 4n to 4n + 3, folded. */
DOT_INLINE __m256i fold_q2_k(const uint8_t *w, const int8_t *q, __m256i s0, __m256i s1)
{
    __m256i two = load32(w), up = _mm256_srli_epi16(two, 4);
    __m256i p[4] = {dot2(and_bytes(two, 3), q), dot2(and_bytes(two, 12), q + 32),
                    dot2(and_bytes(up, 3), q + 64), dot2(and_bytes(up, 12), q + 96)};
    return fold_scaled(p, s0, s1);
}

/* Four times scale `first` + h in the low half of 128-bit lane h, then first + 2 + h. */
DOT_INLINE __m256i spread_q2_k(__m256i bytes, int first)
{
    const __m256i at =
        _mm256_set_epi64x((long long)0x8003800380038003, (long long)0x8001800180018001,
                          (long long)0x8002800280028002, (long long)0x8000800080008000);
    return _mm256_shuffle_epi8(bytes, _mm256_add_epi8(at, _mm256_set1_epi16((short)first)));
}

DOT_INLINE struct sums8 sums_q2_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    __m128i both = _mm_loadu_si128((const void *)w);
    __m256i scales = and_bytes(_mm256_broadcastsi128_si256(both), 15);
    __m256i a = fold_q2_k(w + 16, q, spread_q2_k(scales, 0), spread_q2_k(scales, 4));
    __m256i b = fold_q2_k(w + 48, q + 128, spread_q2_k(scales, 8), spread_q2_k(scales, 12));
    s.i1 = quarter_odd(fold_join(a, b));
    __m256i mins = _mm256_srli_epi16(_mm256_cvtepu8_epi16(both), 4);
    s.i2 = _mm256_madd_epi16(mins, load32(sum));
    scales_f16(w + 80, &s);
    return s;
}
DOT_ROWS(q2_k, 84, true)

/* ---- Q3_K ---- */

/* The sixteen scales, minus 32, as words. */
DOT_INLINE __m256i scales_q3_k(const uint8_t *b)
{
    uint64_t s[2];
    unpack_q3_k(b, s);
    __m128i bytes = _mm_set_epi64x((long long)s[1], (long long)s[0]);
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(32));
}

DOT_INLINE struct sums8 sums_q3_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i a[2], spread[4], high = load32(w), scales = scales_q3_k(w + 96);
    struct sums8 s;
    spread_scales(scales, spread);
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m256i two = load32(w + 32 + 32 * n), up = _mm256_srli_epi16(two, 4), p[4];
        __m256i v[4] = {and_bytes(two, 3), and_bytes(two, 12), and_bytes(up, 3),
                        and_bytes(up, 12)};
        UNROLL for (int j = 0; j < 4; j++)
        {
            int g = 4 * n + j;
            p[j] = dot2(add_where(v[j], high, 1 << g, j % 2 ? 16 : 4), q + 32 * g);
        }
        a[n] = fold_scaled(p, spread[2 * n], spread[2 * n + 1]);
    }
    __m256i off = _mm256_madd_epi16(scales, load32(sum));
    s.i1 = _mm256_sub_epi32(quarter_odd(fold_join(a[0], a[1])), _mm256_slli_epi32(off, 2));
    s.d = scale_f16(w + 108);
    return s;
}
DOT_ROWS(q3_k, 110, false)

/* ---- Q4_K and Q5_K ---- */

/* Eight bytes, one a lane. */
DOT_INLINE __m256i widen8(uint64_t bytes)
{
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
}

/* Block sums to I1 and I2 with the scales and minima of the block at w. */
DOT_INLINE struct sums8 finish_min6(__m256i sums, const uint8_t *w, const int16_t *sum)
{
    uint64_t sc, mn;
    unpack_min6(w + 4, &sc, &mn);
    struct sums8 s;
    s.i1 = _mm256_mullo_epi32(sums, widen8(sc));
    s.i2 = _mm256_mullo_epi32(offset_sums(sum, 1), widen8(mn));
    scales_f16(w, &s);
    return s;
}

DOT_INLINE __m256i fold_q4_k(const uint8_t *w, const int8_t *q)
{
    __m256i v = load32(w), u = load32(w + 32);
    __m256i p[4] = {
        dot2(and_bytes(v, 15), q), dot2(and_bytes(_mm256_srli_epi16(v, 4), 15), q + 32),
        dot2(and_bytes(u, 15), q + 64), dot2(and_bytes(_mm256_srli_epi16(u, 4), 15), q + 96)};
    return fold_plain(p);
}

DOT_INLINE struct sums8 sums_q4_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i all = fold_join(fold_q4_k(w + 16, q), fold_q4_k(w + 80, q + 128));
    return finish_min6(all, w, sum);
}
DOT_ROWS(q4_k, 144, true)

DOT_INLINE struct sums8 sums_q5_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i fold[2], high = load32(w + 16);
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m256i p[4];
        UNROLL for (int i = 0; i < 2; i++)
        {
            int g = 4 * n + 2 * i;
            __m256i v = load32(w + 48 + 16 * g);
            __m256i a = and_bytes(v, 15), b = and_bytes(_mm256_srli_epi16(v, 4), 15);
            p[2 * i] = dot2(add_where(a, high, 1 << g, 16), q + 32 * g);
            p[2 * i + 1] = dot2(add_where(b, high, 2 << g, 16), q + 32 * g + 32);
        }
        fold[n] = fold_plain(p);
    }
    return finish_min6(fold_join(fold[0], fold[1]), w, sum);
}
DOT_ROWS(q5_k, 176, true)

/* ---- Q6_K ---- */

DOT_INLINE struct sums8 sums_q6_k(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i fold[2], spread[4];
    struct sums8 s;
    __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 192)));
    spread_scales(scales, spread);
    UNROLL for (int n = 0; n < 2; n++)
    {
        __m256i a = load32(w + 64 * n), b = load32(w + 64 * n + 32);
        __m256i h = load32(w + 128 + 32 * n), p[4];
        __m256i low[4] = {a, b, _mm256_srli_epi16(a, 4), _mm256_srli_epi16(b, 4)};
        __m256i high[4] = {_mm256_slli_epi16(h, 4), _mm256_slli_epi16(h, 2), h,
                           _mm256_srli_epi16(h, 2)};
        UNROLL for (int j = 0; j < 4; j++)
        {
            __m256i v = _mm256_or_si256(and_bytes(low[j], 15), and_bytes(high[j], 0x30));
            p[j] = dot2(v, q + 128 * n + 32 * j);
        }
        fold[n] = fold_scaled(p, spread[2 * n], spread[2 * n + 1]);
    }
    __m256i off = _mm256_madd_epi16(scales, load32(sum));
    s.i1 = _mm256_sub_epi32(fold_join(fold[0], fold[1]), _mm256_slli_epi32(off, 5));
    s.d = scale_f16(w + 208);
    return s;
}
DOT_ROWS(q6_k, 210, false)

/* ---- blocks of 32: 16 bytes of nibbles behind the scale ---- */

DOT_INLINE __m256i nibbles(const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const void *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    return and_bytes(both, 15);
}

/* Block sums of table[code], or of the code itself; entries are below 64. The nibbles of block i
 * begin at w + i * step. */
DOT_INLINE __m256i table_sums(const uint8_t *w, size_t step, const __m256i *table,
                              const int8_t *q)
{
    __m256i fold[2];
    UNROLL for (size_t n = 0; n < 8; n += 4)
    {
        __m256i p[4];
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            __m256i v = nibbles(w + (n + i) * step);
            p[i] = dot2(table ? _mm256_shuffle_epi8(*table, v) : v, q + 32 * (n + i));
        }
        fold[n / 4] = fold_plain(p);
    }
    return fold_join(fold[0], fold[1]);
}

DOT_INLINE struct sums8 sums_mxfp4(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i table =
        _mm256_broadcastsi128_si256(_mm_load_si128((const void *)quant_values_mxfp4));
    struct sums8 s;
    table = _mm256_add_epi8(table, _mm256_set1_epi8(12));
    s.i1 = _mm256_sub_epi32(table_sums(w + 1, 17, &table, q), offset_sums(sum, 12));
    /* 2^(e - 128), below 2^-126 as subnormals */
    __m256i e = _mm256_setr_epi32(w[0], w[17], w[34], w[51], w[68], w[85], w[102], w[119]);
    __m256i bits = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    s.d = _mm256_castsi256_ps(
        _mm256_blendv_epi8(bits, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
    return s;
}
DOT_ROWS(mxfp4, 136, false)

DOT_INLINE struct sums8 sums_q4_0(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    s.i1 = _mm256_sub_epi32(table_sums(w + 2, 18, NULL, q), offset_sums(sum, 8));
    s.d = scales_of_eight(w, 18);
    return s;
}
DOT_ROWS(q4_0, 144, false)

/* ---- signed codes: Q8_0, IQ4_NL, IQ4_XS ---- */

/* Sums of four products. Codes reach -128, so the products take the sign of the activation and
 * the size of the code: 128 * 127 * 2 fits 16 bits, but not twice. */
DOT_INLINE __m256i dot4_signed(__m256i c, const int8_t *q)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(load32(q), c));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

DOT_INLINE __m256i dot4_q8_0(const uint8_t *w, const int8_t *q)
{
    return dot4_signed(load32(w), q);
}

DOT_INLINE struct sums8 sums_q8_0(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    __m256i fold[2];
    struct sums8 s;
    (void)sum;
    UNROLL for (size_t n = 0; n < 8; n += 4)
    {
        const uint8_t *from = w + 34 * n + 2;
        const int8_t *x = q + 32 * n;
        fold[n / 4] = fold_wide(dot4_q8_0(from, x), dot4_q8_0(from + 34, x + 32),
                                dot4_q8_0(from + 68, x + 64), dot4_q8_0(from + 102, x + 96));
    }
    s.i1 = fold_join(fold[0], fold[1]);
    s.d = scales_of_eight(w, 34);
    return s;
}
DOT_ROWS(q8_0, 272, false)

/* Block sums of the values; the nibbles of block i begin at w + i * step. */
DOT_INLINE __m256i iq4_sums(const uint8_t *w, size_t step, const int8_t *q)
{
    __m256i fold[2],
        table = _mm256_broadcastsi128_si256(_mm_load_si128((const void *)quant_values_iq4_nl));
    UNROLL for (size_t n = 0; n < 8; n += 4)
    {
        __m256i p[4];
        UNROLL for (size_t i = 0; i < 4; i++)
        {
            __m256i v = _mm256_shuffle_epi8(table, nibbles(w + (n + i) * step));
            p[i] = dot4_signed(v, q + 32 * (n + i));
        }
        fold[n / 4] = fold_wide(p[0], p[1], p[2], p[3]);
    }
    return fold_join(fold[0], fold[1]);
}

DOT_INLINE struct sums8 sums_iq4_nl(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    s.i1 = iq4_sums(w + 2, 18, q);
    s.d = scales_of_eight(w, 18);
    return s;
}
DOT_ROWS(iq4_nl, 144, false)

/* The eight 6-bit scales, minus 32. */
DOT_INLINE __m256i scales_iq4_xs(const uint8_t *w)
{
    const __m256i fours = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i twos = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)load_le32(w + 4)), fours);
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_le16(w + 2)), twos);
    low = _mm256_and_si256(low, _mm256_set1_epi32(15));
    high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
    return _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
}

DOT_INLINE struct sums8 sums_iq4_xs(const uint8_t *w, const int8_t *q, const int16_t *sum)
{
    struct sums8 s;
    (void)sum;
    s.i1 = _mm256_mullo_epi32(iq4_sums(w + 8, 16, q), scales_iq4_xs(w));
    s.d = scale_f16(w);
    return s;
}
DOT_ROWS(iq4_xs, 136, false)

#endif
