/* dot_avx512vnni.h - products of weight rows in file layout with an A8 row, for AVX-512 with
 * VNNI and VBMI: what the formats share. Included by kern_avx512vnni.c only.
 *
 * Sixteen blocks of 32 (512 elements) make one step: a format's function delivers their exact
 * integer sums I1 and I2 of op.h, one block a lane, and their scales; one fma (two with minima)
 * adds them to the 16 lanes. A vector of 64 codes meets 64 activations by vpdpbusd, which takes
 * unsigned codes: signed ones are stored with an offset, whose part (offset times the sum of
 * the activations) is subtracted at the end. Nothing saturates: u8 x s8 x 4 fits 32 bits, and
 * where four products are narrowed to 16 bits the codes are below 64 (4 * 63 * 127 = 32004).
 *
 * These loops are limited by the two ports that take 512-bit instructions. So what depends on
 * the activations alone is done once for the rows of a call (struct chunk): the activations in
 * the order in which a format's codes come out of their bytes, the offset's part, and the
 * scales in the order in which its sums come out of the folding.
 * Read next: dot_k_avx512vnni.h (Q2_K to Q6_K), dot_4_avx512vnni.h, dot_8_avx512vnni.h,
 * dot_iq2_avx512vnni.h. */
#ifndef CPU_DOT_AVX512VNNI_H
#define CPU_DOT_AVX512VNNI_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/ahead.h"
#include "backend/cpu/kern.h"
#include "base/num.h"

/* Specialised once per format: the format's functions are constants. */
#define DOT_INLINE static inline __attribute__((always_inline))

enum { CHUNK_COLS = 4096, STEP_COLS = 512, STEP_BLOCKS = 16 };

/* Up to CHUNK_COLS activations of one token, prepared; zeros up to the end of a step. */
struct chunk {
    _Alignas(64) int8_t q[CHUNK_COLS];
    int16_t sum[CHUNK_COLS / 16];    /* of 16 activations, as in A8 */
    int32_t offset[CHUNK_COLS / 32]; /* the format's offset times a block's sum, by lane */
    float d[CHUNK_COLS / 32];        /* scales, by lane */
};
/* The part of a chunk that belongs to one step. */
struct act16 {
    const int8_t *q;
    const int16_t *sum;
    const int32_t *offset;
    const float *d;
};

struct sums16 {
    __m512i i1, i2;
    __m512 d, m; /* i2 and m only where the format has minima */
};
/* w: 16 blocks of 32; a: their activations; tables: the format's, made once a call. */
typedef struct sums16 sums16_fn(const void *tables, const uint8_t *w, const struct act16 *a);

/* Which block of a step a lane of the sums belongs to, and the lane of each block. */
struct lanes16 {
    int32_t block[16], lane[16];
};

struct format16 {
    size_t bytes; /* of 16 blocks */
    bool has_min;
    int offset; /* what codes are stored with, if it is the same for all; or minus that */
    sums16_fn *sums;
    void (*order)(const int8_t *q, int8_t *out); /* of a step; NULL: as they are */
    const struct lanes16 *lanes;                 /* NULL: lane i is block i */
};

DOT_INLINE __m512i load64(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* Columns [k, k + n) of x, n at most CHUNK_COLS. */
DOT_INLINE void chunk_make(struct chunk *c, const struct format16 *f, const struct act_codes *x,
                           size_t k, size_t n)
{
    size_t pad = (n + STEP_COLS - 1) / STEP_COLS * STEP_COLS;
    memcpy(c->q, x->q + k, n);
    memset(c->q + n, 0, pad - n);
    memcpy(c->sum, x->sum + k / 16, n / 16 * sizeof *c->sum);
    memset(c->sum + n / 16, 0, (pad - n) / 16 * sizeof *c->sum);
    memcpy(c->d, x->d + k / 32, n / 32 * sizeof *c->d);
    memset(c->d + n / 32, 0, (pad - n) / 32 * sizeof *c->d);
    for (size_t i = 0; f->order && i < pad; i += STEP_COLS) {
        f->order(c->q + i, c->q + i);
    }
    for (size_t b = 0; b < pad / 32; b += STEP_BLOCKS) {
        __m512i off =
            _mm512_madd_epi16(load64(c->sum + 2 * b), _mm512_set1_epi16((short)f->offset));
        __m512 d = _mm512_load_ps(c->d + b);
        if (f->lanes) {
            __m512i to = load64(f->lanes->block);
            off = _mm512_permutexvar_epi32(to, off);
            d = _mm512_permutexvar_ps(to, d);
        }
        _mm512_store_si512(c->offset + b, off);
        _mm512_store_ps(c->d + b, d);
    }
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
    __m512 da = _mm512_load_ps(d_act);
    c = _mm512_fmadd_ps(_mm512_mul_ps(s->d, da), _mm512_cvtepi32_ps(s->i1), c);
    if (has_min) {
        c = _mm512_fnmadd_ps(_mm512_mul_ps(s->m, da), _mm512_cvtepi32_ps(s->i2), c);
    }
    return c;
}

/* n columns of one row, onto the lanes c. What lies behind the last block of a row counts as
 * zeros: scale 0 adds 0 to a lane, which is never -0. */
DOT_INLINE __m512 dot_part(__m512 c, const struct format16 *f, const void *tables,
                           const uint8_t *w, const struct chunk *x, size_t n)
{
    uint8_t pad[STEP_BLOCKS * 36];
    for (size_t b = 0; b < n / 32; b += STEP_BLOCKS, w += f->bytes) {
        const struct act16 a = {x->q + 32 * b, x->sum + 2 * b, x->offset + b, x->d + b};
        const uint8_t *from = w;
        ahead(w, f->bytes);
        if (n / 32 - b < STEP_BLOCKS) {
            size_t left = f->bytes * (n / 32 - b) / STEP_BLOCKS;
            memcpy(pad, w, left);
            memset(pad + left, 0, sizeof pad - left);
            from = pad;
        }
        struct sums16 s = f->sums(tables, from, &a);
        c = step_add(c, &s, a.d, f->has_min);
    }
    return c;
}

DOT_INLINE void dot_rows(const struct format16 *f, const void *tables, const void *w,
                         size_t row_bytes, uint32_t n_row, const struct act_codes *x,
                         uint32_t n_tok, size_t n, float *out, size_t out_ld)
{
    struct chunk chunk;
    __m512 c[KERN_ROWS];
    for (uint32_t t = 0; t < n_tok; t++) {
        for (uint32_t r = 0; r < n_row; r++) {
            c[r] = _mm512_setzero_ps();
        }
        for (size_t k = 0; k < n; k += CHUNK_COLS) {
            size_t len = n - k < CHUNK_COLS ? n - k : CHUNK_COLS;
            const uint8_t *from = (const uint8_t *)w + k / STEP_COLS * f->bytes;
            chunk_make(&chunk, f, &x[t], k, len);
            for (uint32_t r = 0; r < n_row; r++) {
                c[r] = dot_part(c[r], f, tables, from + r * row_bytes, &chunk, len);
            }
        }
        for (uint32_t r = 0; r < n_row; r++) {
            if (f->lanes) {
                c[r] = _mm512_permutexvar_ps(load64(f->lanes->lane), c[r]);
            }
            out[t * out_ld + r] = halving_sum(c[r]);
        }
    }
}

/* rows_<name>: an entry of cpu_kern.rows_a8; f: a struct format16. */
#define DOT_ROWS(name, f)                                                                    \
    static void rows_##name(const void *w, size_t row_bytes, uint32_t n_row,                 \
                            const struct act_codes *x, uint32_t n_tok, size_t n, float *out, \
                            size_t out_ld)                                                   \
    {                                                                                        \
        dot_rows(&(const struct format16)f, NULL, w, row_bytes, n_row, x, n_tok, n, out,     \
                 out_ld);                                                                    \
    }
#define FORMAT(...) \
    {               \
        __VA_ARGS__ \
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

/* Two folds of eight blocks to one sum a block: lane 0 + 1 and 2 + 3 of each. */
DOT_INLINE __m512i fold_join(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}
/* Where fold_join leaves blocks that lie in pairs 2i, 2i + 1; and their natural order. */
static const struct lanes16 lanes_pairs = {
    .block = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15},
    .lane = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15}};
DOT_INLINE __m512i fold_natural(__m512i a, __m512i b)
{
    return _mm512_permutexvar_epi32(load64(lanes_pairs.lane), fold_join(a, b));
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
    /* joined outside the vector ports */
    __m128i four = _mm_cvtsi64_si128((long long)(load_le32(a) | (uint64_t)load_le32(b) << 32));
    __m512 f = _mm512_castps128_ps512(_mm_cvtph_ps(four));
    s->d = _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2), f);
    s->m = _mm512_permutexvar_ps(
        _mm512_setr_epi32(1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3), f);
}

#endif
