/* dot_k_avx512vnni.h - Q2_K to Q6_K for dot_avx512vnni.h (layouts: quant/decode.c). A step
 * takes two blocks of 256. The 2-bit formats leave the codes of odd groups of 32 in bits 2 and
 * 3, four times their value, and divide the finished sums: one mask serves two groups. */
#ifndef CPU_DOT_K_AVX512VNNI_H
#define CPU_DOT_K_AVX512VNNI_H

#include "backend/cpu/x86/dot_avx512vnni.h"

/* Four times the sum of odd blocks to once. */
DOT_INLINE __m512i quarter_odd(__m512i sums)
{
    return _mm512_srav_epi32(sums, _mm512_set1_epi64(2LL << 32));
}

/* ---- Q2_K ---- */

/* 64 bytes hold all codes of 256 elements: bits 2s, 2s + 1 of byte j those of block s (j < 32)
 * and of block 4 + s. */
static void order_q2_k(const int8_t *q, int8_t *out)
{
    for (int i = 0; i < STEP_COLS; i += 256, q += 256, out += 256) {
        __m512i a = load64(q), b = load64(q + 64), c = load64(q + 128), d = load64(q + 192);
        _mm512_store_si512(out, _mm512_shuffle_i64x2(a, c, 0x44));
        _mm512_store_si512(out + 64, _mm512_shuffle_i64x2(a, c, 0xEE));
        _mm512_store_si512(out + 128, _mm512_shuffle_i64x2(b, d, 0x44));
        _mm512_store_si512(out + 192, _mm512_shuffle_i64x2(b, d, 0xEE));
    }
}

/* Dword s of 128-bit lane l: 16 elements of block s or 4 + s, times their scale. */
DOT_INLINE __m512i fold_q2_k(const uint8_t *w, const int8_t *q)
{
    /* bytes to words: scale 8 (l / 2) + l % 2 of a lane four times, and that two further on */
    const __m512i at01 = _mm512_add_epi8(
        _mm512_broadcast_i32x4(
            _mm_set_epi64x((long long)0x8002800280028002, (long long)0x8000800080008000)),
        _mm512_set_epi64(0x0009000900090009, 0x0009000900090009, 0x0008000800080008,
                         0x0008000800080008, 0x0001000100010001, 0x0001000100010001, 0, 0));
    const __m512i at23 = _mm512_add_epi8(at01, _mm512_set1_epi16(4));
    const __m512i even = _mm512_set1_epi8(3), odd = _mm512_set1_epi8(12);
    __m512i v = load64(w + 16), high = _mm512_srli_epi16(v, 4);
    __m512i p0 = dot4(_mm512_and_si512(v, even), q);
    __m512i p1 = dot4(_mm512_and_si512(v, odd), q + 64);
    __m512i p2 = dot4(_mm512_and_si512(high, even), q + 128);
    __m512i p3 = dot4(_mm512_and_si512(high, odd), q + 192);
    __m512i s = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)w));
    s = _mm512_and_si512(s, _mm512_set1_epi8(15));
    __m512i x = _mm512_madd_epi16(_mm512_packs_epi32(p0, p1), _mm512_shuffle_epi8(s, at01));
    __m512i y = _mm512_madd_epi16(_mm512_packs_epi32(p2, p3), _mm512_shuffle_epi8(s, at23));
    return _mm512_add_epi32(shuffle_dwords(x, y, 0x88), shuffle_dwords(x, y, 0xDD));
}

DOT_INLINE struct sums16 sums_q2_k(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    s.i1 = quarter_odd(fold_join(fold_q2_k(w, a->q), fold_q2_k(w + 84, a->q + 256)));
    __m256i mins =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const void *)w)),
                                _mm_loadu_si128((const void *)(w + 84)), 1);
    mins = _mm256_and_si256(_mm256_srli_epi16(mins, 4), _mm256_set1_epi8(15));
    s.i2 = _mm512_madd_epi16(_mm512_cvtepu8_epi16(mins), load64(a->sum));
    scales_of_two(w + 80, w + 164, &s);
    return s;
}
DOT_ROWS(q2_k, FORMAT(.bytes = 168, .has_min = true, .sums = sums_q2_k, .order = order_q2_k))

/* ---- Q3_K ---- */

/* The sixteen scales, minus 32, as words. */
DOT_INLINE __m256i scales_q3_k(const uint8_t *b)
{
    const uint64_t nibbles = 0x0F0F0F0F0F0F0F0Fu, pairs = 0x0303030303030303u;
    uint64_t low = load_le64(b), top = load_le32(b + 8);
    uint64_t top01 = (top | top << 30) & pairs, top23 = (top >> 4 | top << 26) & pairs;
    __m128i s = _mm_set_epi64x((long long)((low >> 4 & nibbles) | top23 << 4),
                               (long long)((low & nibbles) | top01 << 4));
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(s), _mm256_set1_epi16(32));
}

/* Codes of blocks 2i and 2i + 1 with their third bit. */
DOT_INLINE __m512i codes_q3_k(__m512i low, __m512i high, int i)
{
    __mmask64 has = _mm512_test_epi8_mask(high, halves_set1(1 << 2 * i, 2 << 2 * i));
    return _mm512_mask_add_epi8(low, has, low, halves_set1(4, 16));
}

DOT_INLINE __m512i fold_q3_k(const uint8_t *w, const int8_t *q, __m256i scales)
{
    const __m512i mask = halves_set1(3, 12);
    __m512i high = load32x2(w), p[4];
    for (int n = 0; n < 2; n++) {
        __m512i two = load32x2(w + 32 + 32 * n);
        __m512i a = _mm512_and_si512(two, mask);
        __m512i b = _mm512_and_si512(_mm512_srli_epi16(two, 4), mask);
        p[2 * n] = dot4(codes_q3_k(a, high, 2 * n), q + 128 * n);
        p[2 * n + 1] = dot4(codes_q3_k(b, high, 2 * n + 1), q + 128 * n + 64);
    }
    return fold_scaled(p, scales);
}

DOT_INLINE struct sums16 sums_q3_k(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m256i sa = scales_q3_k(w + 96), sb = scales_q3_k(w + 206);
    __m512i all =
        quarter_odd(fold_natural(fold_q3_k(w, a->q, sa), fold_q3_k(w + 110, a->q + 256, sb)));
    __m512i off = _mm512_madd_epi16(halves(sa, sb), load64(a->sum));
    s.i1 = _mm512_sub_epi32(all, _mm512_slli_epi32(off, 2));
    s.d = scale_of_two(w + 108, w + 218);
    return s;
}
DOT_ROWS(q3_k, FORMAT(.bytes = 220, .sums = sums_q3_k))

/* ---- Q4_K and Q5_K ---- */

/* The 6-bit scales (low half) and minima of eight groups, as bytes. */
DOT_INLINE __m128i scales_min6(const uint8_t *b)
{
    const uint32_t six = 0x3F3F3F3Fu, four = 0x0F0F0F0Fu, two = 0x30303030u;
    uint32_t x = load_le32(b), y = load_le32(b + 4), z = load_le32(b + 8);
    uint64_t s = (x & six) | (uint64_t)((z & four) | (x >> 2 & two)) << 32;
    uint64_t m = (y & six) | (uint64_t)((z >> 4 & four) | (y >> 2 & two)) << 32;
    return _mm_set_epi64x((long long)m, (long long)s);
}

/* Blocks 2i and 2i + 1: low and high nibbles of 32 bytes. */
DOT_INLINE __m512i nibbles_k(const uint8_t *p)
{
    const __m512i shift = halves(_mm256_setzero_si256(), _mm256_set1_epi16(4));
    return _mm512_and_si512(_mm512_srlv_epi16(load32x2(p), shift), _mm512_set1_epi8(15));
}

DOT_INLINE __m512i fold_q4_k(const uint8_t *w, const int8_t *q)
{
    __m512i p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = dot4(nibbles_k(w + 16 + 32 * i), q + 64 * i);
    }
    return fold_plain(p);
}

DOT_INLINE __m512i fold_q5_k(const uint8_t *w, const int8_t *q)
{
    __m512i p[4], high = load32x2(w + 16);
    for (int i = 0; i < 4; i++) {
        __mmask64 has = _mm512_test_epi8_mask(high, halves_set1(1 << 2 * i, 2 << 2 * i));
        __m512i v = nibbles_k(w + 48 + 32 * i);
        p[i] = dot4(_mm512_mask_add_epi8(v, has, v, _mm512_set1_epi8(16)), q + 64 * i);
    }
    return fold_plain(p);
}

/* Block sums to I1 and I2; b: the second block of 256. */
DOT_INLINE struct sums16 finish_min6(__m512i sums, const uint8_t *w, const uint8_t *b,
                                     const struct act16 *a)
{
    struct sums16 s;
    __m128i sa = scales_min6(w + 4), sb = scales_min6(b + 4);
    s.i1 = _mm512_mullo_epi32(sums, _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(sa, sb)));
    s.i2 =
        _mm512_mullo_epi32(load64(a->offset), _mm512_cvtepu8_epi32(_mm_unpackhi_epi64(sa, sb)));
    scales_of_two(w, b, &s);
    return s;
}

DOT_INLINE struct sums16 sums_q4_k(const void *tables, const uint8_t *w, const struct act16 *a)
{
    (void)tables;
    __m512i all = fold_natural(fold_q4_k(w, a->q), fold_q4_k(w + 144, a->q + 256));
    return finish_min6(all, w, w + 144, a);
}
DOT_ROWS(q4_k, FORMAT(.bytes = 288, .has_min = true, .offset = 1, .sums = sums_q4_k))

DOT_INLINE struct sums16 sums_q5_k(const void *tables, const uint8_t *w, const struct act16 *a)
{
    (void)tables;
    __m512i all = fold_natural(fold_q5_k(w, a->q), fold_q5_k(w + 176, a->q + 256));
    return finish_min6(all, w, w + 176, a);
}
DOT_ROWS(q5_k, FORMAT(.bytes = 352, .has_min = true, .offset = 1, .sums = sums_q5_k))

/* ---- Q6_K ---- */

/* low: four bits; high: the byte that has the upper two, rotated into bits 4 and 5. */
DOT_INLINE __m512i codes_q6_k(__m512i low, __m512i high, long long r0, long long r1)
{
    const __m512i by = halves(_mm256_set1_epi64x(r0), _mm256_set1_epi64x(r1));
    __m512i h = _mm512_and_si512(_mm512_rolv_epi64(high, by), _mm512_set1_epi8(0x30));
    return _mm512_ternarylogic_epi64(low, _mm512_set1_epi8(15), h, 0xEA); /* (a & b) | c */
}

DOT_INLINE __m512i fold_q6_k(const uint8_t *w, const int8_t *q, __m256i scales)
{
    __m512i p[4];
    for (int n = 0; n < 2; n++) {
        __m512i low = load64(w + 64 * n), high = load32x2(w + 128 + 32 * n);
        p[2 * n] = dot4(codes_q6_k(low, high, 4, 2), q + 128 * n);
        p[2 * n + 1] =
            dot4(codes_q6_k(_mm512_srli_epi16(low, 4), high, 0, 62), q + 128 * n + 64);
    }
    return fold_scaled(p, scales);
}

DOT_INLINE struct sums16 sums_q6_k(const void *tables, const uint8_t *w, const struct act16 *a)
{
    struct sums16 s;
    (void)tables;
    __m256i sa = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 192)));
    __m256i sb = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 402)));
    __m512i all = fold_natural(fold_q6_k(w, a->q, sa), fold_q6_k(w + 210, a->q + 256, sb));
    __m512i off = _mm512_madd_epi16(halves(sa, sb), load64(a->sum));
    s.i1 = _mm512_sub_epi32(all, _mm512_slli_epi32(off, 5));
    s.d = scale_of_two(w + 208, w + 418);
    return s;
}
DOT_ROWS(q6_k, FORMAT(.bytes = 420, .sums = sums_q6_k))

#endif
