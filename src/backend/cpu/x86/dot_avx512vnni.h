/* dot_avx512vnni.h - products of weight rows in file layout with an A8 row, for AVX-512 with
 * VNNI and VBMI: what the formats share. Included by kern_avx512vnni.c only.
 *
 * Sixteen blocks of 32 (512 elements) make one step: a format's function delivers their exact
 * integer sums I1 and I2 of op.h, one block a lane, and their scales; one fma (two with minima)
 * adds them to the 16 lanes. A vector of 64 codes meets 64 activations by vpdpbusd, which takes
 * unsigned codes: signed ones are stored with an offset, whose part (offset times the sum of
 * the activations) is subtracted at the end. Nothing saturates: u8 x s8 x 4 fits 32 bits, and
 * where four products are narrowed to 16 bits the codes are below 64 (4 * 63 * 127 = 32004).
 * Read next: dot_k_avx512vnni.h (Q2_K to Q6_K), dot_4_avx512vnni.h, dot_iq2_avx512vnni.h. */
#ifndef CPU_DOT_AVX512VNNI_H
#define CPU_DOT_AVX512VNNI_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "base/num.h"

/* Specialised once per format: the format's function is a constant. */
#define DOT_INLINE static inline __attribute__((always_inline))

struct sums16 {
    __m512i i1, i2;
    __m512 d, m; /* i2 and m only where the format has minima */
};
/* w: 16 blocks of 32; q and sum: their activations. */
typedef struct sums16 sums16_fn(const uint8_t *w, const int8_t *q, const int16_t *sum);

/* What lies behind the last block of a row, as zeros: scale 0 adds 0 to a lane, which is never
 * -0. */
struct pad16 {
    uint8_t w[16 * 36];
    int8_t q[512];
    int16_t sum[32];
    float d[16];
};

static void pad_tail(struct pad16 *p, const uint8_t *w, size_t w_bytes,
                     const struct act_codes *x, size_t b0, size_t left)
{
    memset(p, 0, sizeof *p);
    memcpy(p->w, w, w_bytes);
    memcpy(p->q, x->q + 32 * b0, 32 * left);
    memcpy(p->sum, x->sum + 2 * b0, 2 * left * sizeof *p->sum);
    memcpy(p->d, x->d + b0, left * sizeof *p->d);
}

DOT_INLINE float halving_sum(__m512 a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* c += of one step. */
DOT_INLINE __m512 step_add(__m512 c, const struct sums16 *s, const float *d_act, bool has_min)
{
    __m512 da = _mm512_loadu_ps(d_act);
    c = _mm512_fmadd_ps(_mm512_mul_ps(s->d, da), _mm512_cvtepi32_ps(s->i1), c);
    if (has_min) {
        c = _mm512_fnmadd_ps(_mm512_mul_ps(s->m, da), _mm512_cvtepi32_ps(s->i2), c);
    }
    return c;
}

/* One row and token; bytes16: of 16 blocks. */
DOT_INLINE float dot_row(const uint8_t *w, const struct act_codes *x, size_t n, size_t bytes16,
                         bool has_min, sums16_fn *fn)
{
    __m512 c = _mm512_setzero_ps();
    struct pad16 pad;
    for (size_t b = 0; b < n / 32; b += 16, w += bytes16) {
        struct act_codes a = {x->q + 32 * b, x->d + b, x->sum + 2 * b};
        const uint8_t *from = w;
        if (n / 32 - b < 16) {
            pad_tail(&pad, w, bytes16 * (n / 32 - b) / 16, x, b, n / 32 - b);
            a = (struct act_codes){pad.q, pad.d, pad.sum};
            from = pad.w;
        }
        struct sums16 s = fn(from, a.q, a.sum);
        c = step_add(c, &s, a.d, has_min);
    }
    return halving_sum(c);
}

#define DOT_ROWS(name, bytes16, has_min)                                                     \
    static void rows_##name(const void *w, size_t row_bytes, uint32_t n_row,                 \
                            const struct act_codes *x, uint32_t n_tok, size_t n, float *out, \
                            size_t out_ld)                                                   \
    {                                                                                        \
        for (uint32_t r = 0; r < n_row; r++) {                                               \
            const uint8_t *row = (const uint8_t *)w + r * row_bytes;                         \
            for (uint32_t t = 0; t < n_tok; t++) {                                           \
                out[t * out_ld + r] = dot_row(row, &x[t], n, bytes16, has_min, sums_##name); \
            }                                                                                \
        }                                                                                    \
    }

DOT_INLINE __m512i load64(const void *p)
{
    return _mm512_loadu_si512(p);
}
/* 32 bytes into both halves. */
DOT_INLINE __m512i load32x2(const void *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(p));
}
DOT_INLINE __m512i halves(__m256i lo, __m256i hi)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}
DOT_INLINE __m512i halves_set1(int lo, int hi)
{
    return halves(_mm256_set1_epi8((char)lo), _mm256_set1_epi8((char)hi));
}
/* Products of 64 codes and activations, added by fours. */
DOT_INLINE __m512i dot4(__m512i codes, const int8_t *q)
{
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, load64(q));
}

/* ---- from dot4 sums of eight blocks, p[i] holding blocks 2i and 2i + 1, to block sums ---- */

/* 128-bit lane l of the result: dword i is lane l of p[i] (16 elements), added up. */
DOT_INLINE __m512i fold_plain(const __m512i p[4])
{
    __m512i a =
        _mm512_add_epi32(_mm512_unpacklo_epi32(p[0], p[1]), _mm512_unpackhi_epi32(p[0], p[1]));
    __m512i b =
        _mm512_add_epi32(_mm512_unpacklo_epi32(p[2], p[3]), _mm512_unpackhi_epi32(p[2], p[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

DOT_INLINE __m512i shuffle_dwords(__m512i a, __m512i b, const int imm)
{
    return _mm512_castps_si512(
        imm == 0x88 ? _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0x88)
                    : _mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xDD));
}

/* The same, each 16 elements multiplied with their scale; the sums in p fit 16 bits. */
DOT_INLINE __m512i fold_scaled(const __m512i p[4], __m256i scales)
{
    const __m512i i01 = _mm512_set_epi16(7, 7, 7, 7, 3, 3, 3, 3, 6, 6, 6, 6, 2, 2, 2, 2, 5, 5,
                                         5, 5, 1, 1, 1, 1, 4, 4, 4, 4, 0, 0, 0, 0);
    const __m512i i23 = _mm512_add_epi16(i01, _mm512_set1_epi16(8));
    __m512i s = _mm512_castsi256_si512(scales);
    __m512i a =
        _mm512_madd_epi16(_mm512_packs_epi32(p[0], p[1]), _mm512_permutexvar_epi16(i01, s));
    __m512i b =
        _mm512_madd_epi16(_mm512_packs_epi32(p[2], p[3]), _mm512_permutexvar_epi16(i23, s));
    return _mm512_add_epi32(shuffle_dwords(a, b, 0x88), shuffle_dwords(a, b, 0xDD));
}

/* Folds of blocks 0..7 and 8..15 to one sum a block, in order. */
DOT_INLINE __m512i fold_join(__m512i a, __m512i b)
{
    const __m512i order =
        _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    __m512i sum =
        _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
    return _mm512_permutexvar_epi32(order, sum);
}

/* k times the sum of a block's activations. */
DOT_INLINE __m512i offset_sums(const int16_t *sum, int k)
{
    return _mm512_madd_epi16(load64(sum), _mm512_set1_epi16((short)k));
}

/* ---- scales ---- */

/* f16 at a for blocks 0..7, at b for 8..15. */
DOT_INLINE __m512 scale_of_two(const uint8_t *a, const uint8_t *b)
{
    uint32_t two = load_le16(a) | (uint32_t)load_le16(b) << 16;
    __m512 f = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128((int)two)));
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), f);
}
/* Neighbouring f16 d and m at a and b. */
DOT_INLINE void scales_of_two(const uint8_t *a, const uint8_t *b, struct sums16 *s)
{
    __m128i four = _mm_insert_epi32(_mm_cvtsi32_si128((int)load_le32(a)), (int)load_le32(b), 1);
    __m512 f = _mm512_castps128_ps512(_mm_cvtph_ps(four));
    s->d = _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2), f);
    s->m = _mm512_permutexvar_ps(
        _mm512_setr_epi32(1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3), f);
}

#endif
