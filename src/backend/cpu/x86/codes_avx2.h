/* codes_avx2.h - weight rows to integer codes for packed products (struct row_codes of kern.h),
 * for AVX2: the formats of the usual recipes (layouts: quant/decode.c, decode_iq.c). Same
 * integers as quant_codes32, a group of 32 at a time. Included by rows_avx2.c only. */
#ifndef CPU_CODES_AVX2_H
#define CPU_CODES_AVX2_H

#include "backend/cpu/x86/dot_iq2_avx2.h"
#include "backend/cpu/x86/dot_k_avx2.h"

/* 32 codes times the scales of their halves. */
DOT_INLINE void put_codes(int16_t *w, __m256i v, int s0, int s1)
{
    __m256i a = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(v));
    __m256i b = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(v, 1));
    _mm256_storeu_si256((__m256i *)w, _mm256_mullo_epi16(a, _mm256_set1_epi16((short)s0)));
    _mm256_storeu_si256((__m256i *)(w + 16),
                        _mm256_mullo_epi16(b, _mm256_set1_epi16((short)s1)));
}
/* One value for the eight groups of a block of 256. */
DOT_INLINE void put_scale(float *to, float d)
{
    _mm256_storeu_ps(to, _mm256_set1_ps(d));
}
DOT_INLINE void store_words(int16_t *to, __m256i v)
{
    _mm256_storeu_si256((__m256i *)to, v);
}

static void codes_q2_k(const void *row, size_t n, struct row_codes *out)
{
    const uint8_t *b = row;
    int16_t s[16], *w = out->w;
    for (size_t i = 0; i < n; i += 256, b += 84) {
        __m256i both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)b));
        store_words(s, _mm256_and_si256(both, _mm256_set1_epi16(15)));
        store_words(out->mc + i / 16, _mm256_srli_epi16(both, 4));
        put_scale(out->d + i / 32, _cvtsh_ss(load_le16(b + 80)));
        put_scale(out->m + i / 32, _cvtsh_ss(load_le16(b + 82)));
        for (int g = 0; g < 8; g++, w += 32) {
            __m256i v = _mm256_srli_epi16(load32(b + 16 + 32 * (g / 4)), 2 * (g % 4));
            put_codes(w, and_bytes(v, 3), s[2 * g], s[2 * g + 1]);
        }
    }
    out->has_min = true;
}

static void codes_q4_k(const void *row, size_t n, struct row_codes *out)
{
    const uint8_t *b = row;
    int16_t *w = out->w;
    for (size_t i = 0; i < n; i += 256, b += 144) {
        uint8_t s[8], m[8];
        unpack_min6(b + 4, s, m);
        put_scale(out->d + i / 32, _cvtsh_ss(load_le16(b)));
        put_scale(out->m + i / 32, _cvtsh_ss(load_le16(b + 2)));
        for (int g = 0; g < 8; g++, w += 32) {
            __m256i v = _mm256_srli_epi16(load32(b + 16 + 32 * (g / 2)), 4 * (g % 2));
            put_codes(w, and_bytes(v, 15), s[g], s[g]);
            out->mc[i / 16 + 2 * (size_t)g] = out->mc[i / 16 + 2 * (size_t)g + 1] = m[g];
        }
    }
    out->has_min = true;
}

static void codes_q6_k(const void *row, size_t n, struct row_codes *out)
{
    const uint8_t *b = row;
    int16_t *w = out->w;
    for (size_t i = 0; i < n; i += 256, b += 210) {
        put_scale(out->d + i / 32, _cvtsh_ss(load_le16(b + 208)));
        for (int g = 0; g < 8; g++, w += 32) {
            int half = g / 4, j = g % 4;
            __m256i low = load32(b + 64 * half + 32 * (j & 1));
            __m256i high = _mm256_srli_epi16(load32(b + 128 + 32 * half), 2 * j);
            low = and_bytes(_mm256_srli_epi16(low, 4 * (j / 2)), 15);
            high = _mm256_slli_epi16(and_bytes(high, 3), 4);
            __m256i v = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
            put_codes(w, v, (int8_t)b[192 + 2 * g], (int8_t)b[193 + 2 * g]);
        }
    }
    out->has_min = false;
}

static void codes_mxfp4(const void *row, size_t n, struct row_codes *out)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_load_si128((const void *)quant_values_mxfp4));
    const uint8_t *b = row;
    for (size_t i = 0; i < n; i += 32, b += 17) {
        uint32_t e = b[0];
        out->d[i / 32] = f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        put_codes(out->w + i, _mm256_shuffle_epi8(table, nibbles(b + 1)), 1, 1);
    }
    out->has_min = false;
}

static void codes_iq2_xxs(const void *row, size_t n, struct row_codes *out)
{
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i copy =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const uint8_t *b = row;
    int16_t *w = out->w;
    for (size_t i = 0; i < n; i += 256, b += 66) {
        __m256i word = iq2_words(b);
        int32_t signs[8], s[8];
        _mm256_storeu_si256((__m256i *)signs, iq2_signs(word));
        _mm256_storeu_si256((__m256i *)s, iq2_scales(word));
        put_scale(out->d + i / 32, _cvtsh_ss(load_le16(b)) * 0.125f);
        for (int g = 0; g < 8; g++, w += 32) {
            uint32_t p = load_le32(b + 2 + 8 * g);
            __m256i v = _mm256_set_epi64x(iq2_entry(p, 3), iq2_entry(p, 2), iq2_entry(p, 1),
                                          iq2_entry(p, 0));
            __m256i minus = _mm256_shuffle_epi8(_mm256_set1_epi32(signs[g]), copy);
            minus = _mm256_cmpeq_epi8(_mm256_and_si256(minus, bit), bit);
            v = _mm256_sign_epi8(v, _mm256_or_si256(minus, _mm256_set1_epi8(1)));
            put_codes(w, v, s[g], s[g]);
        }
    }
    out->has_min = false;
}

#endif
