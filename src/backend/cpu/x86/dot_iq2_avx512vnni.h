/* dot_iq2_avx512vnni.h - IQ2_XXS for dot_avx512vnni.h (layout: quant/decode_iq.c).
 *
 * The grid's 256 vectors of 8 levels are held in eight registers as 2-bit codes: one plane with
 * the codes of elements 0 to 3 of every entry, one with 4 to 7, four registers each. Two byte
 * permutes of 128 entries and a blend look 64 indices up, which is two blocks of 256. A qword
 * then has the codes of one group of 32, and vpmultishiftqb spreads those of sub-vector k to
 * bytes: so vector k holds sub-vector k of eight groups, four of them add up in one
 * accumulator, and only neighbouring dwords remain to be joined. The activations are brought
 * into that order once per call. Sign bits get into bit 2 of the code bytes, and one permute
 * turns the three bits into 128 +- level. */
#ifndef CPU_DOT_IQ2_AVX512VNNI_H
#define CPU_DOT_IQ2_AVX512VNNI_H

#include "backend/cpu/x86/dot_avx512vnni.h"
#include "quant/tables.h"

enum { IQ2_COLS = 4096 }; /* columns whose activations are ordered at a time */

struct iq2_tables {
    __m512i low[4], high[4]; /* codes of elements 0..3 and 4..7 of the entries */
    __m512i signs[2], level;
};

/* Levels 8, 25, 43 are 0, 1, 2 in their upper nibbles. */
static void iq2_tables_make(struct iq2_tables *t)
{
    uint8_t plane[2][256];
    for (size_t i = 0; i < 256; i += 8) {
        __m512i v = load64(quant_grid_iq2_xxs[i]);
        v = _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(3));
        v = _mm512_maddubs_epi16(v, _mm512_set1_epi16(0x0401));
        v = _mm512_madd_epi16(v, _mm512_set1_epi32(0x00100001));
        _mm_storel_epi64((__m128i *)(plane[0] + i), _mm512_cvtepi64_epi8(v));
        _mm_storel_epi64((__m128i *)(plane[1] + i),
                         _mm512_cvtepi64_epi8(_mm512_srli_epi64(v, 32)));
    }
    for (int i = 0; i < 4; i++) {
        t->low[i] = load64(plane[0] + 64 * i);
        t->high[i] = load64(plane[1] + 64 * i);
    }
    t->signs[0] = load64(quant_signs7);
    t->signs[1] = load64(quant_signs7 + 64);
    /* bits 0, 1: code; bit 2: minus; repeated, since the permute reads six bits */
    t->level = _mm512_set1_epi64((
        long long)((uint64_t)(128 - 43) << 48 | (uint64_t)(128 - 25) << 40 |
                   (uint64_t)(128 - 8) << 32 | (128 + 43) << 16 | (128 + 25) << 8 | (128 + 8)));
}

/* Per 256 activations: vector k gets elements 8k .. 8k + 7 of the eight groups. */
static void iq2_order(const int8_t *q, size_t n, int8_t *out)
{
    const __m512i lo = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
    const __m512i hi = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
    for (size_t i = 0; i < n; i += 256) {
        __m512i v[4];
        for (size_t j = 0; j < 4; j++) {
            v[j] = load64(q + i + 64 * j);
        }
        __m512i a01 = _mm512_permutex2var_epi64(v[0], lo, v[1]);
        __m512i b01 = _mm512_permutex2var_epi64(v[2], lo, v[3]);
        __m512i a23 = _mm512_permutex2var_epi64(v[0], hi, v[1]);
        __m512i b23 = _mm512_permutex2var_epi64(v[2], hi, v[3]);
        _mm512_store_si512(out + i, _mm512_shuffle_i64x2(a01, b01, 0x44));
        _mm512_store_si512(out + i + 64, _mm512_shuffle_i64x2(a01, b01, 0xEE));
        _mm512_store_si512(out + i + 128, _mm512_shuffle_i64x2(a23, b23, 0x44));
        _mm512_store_si512(out + i + 192, _mm512_shuffle_i64x2(a23, b23, 0xEE));
    }
}

/* Bytes bit, bit + step, ... of a vpmultishiftqb control, the same in every qword. */
DOT_INLINE __m512i bit_steps(int bit, int step)
{
    uint64_t c = 0;
    for (int i = 0; i < 8; i++) {
        c |= (uint64_t)((bit + step * i) & 63) << 8 * i;
    }
    return _mm512_set1_epi64((long long)c);
}

/* Sums of one block of 256, two dwords a group; codes: qword g has those of group g; signs:
 * byte first + k of qword g those of its sub-vector k. */
DOT_INLINE __m512i iq2_block(const struct iq2_tables *t, __m512i codes, __m512i signs,
                             int first, const int8_t *q)
{
    __m512i acc = _mm512_setzero_si512();
    UNROLL for (int k = 0; k < 4; k++)
    {
        __m512i c = _mm512_multishift_epi64_epi8(bit_steps(16 * k, 2), codes);
        __m512i s = _mm512_multishift_epi64_epi8(bit_steps(8 * (first + k) - 2, 1), signs);
        c = _mm512_ternarylogic_epi64(_mm512_set1_epi8(4), s, c, 0xCA); /* a ? b : c */
        c = _mm512_permutexvar_epi8(c, t->level);
        acc = _mm512_dpbusd_epi32(acc, c, load64(q + 64 * k));
    }
    return acc;
}

/* A step; q in the order of iq2_order. */
DOT_INLINE struct sums16 sums_iq2_xxs(const struct iq2_tables *t, const uint8_t *w,
                                      const int8_t *q, const int16_t *sum)
{
    /* index bytes 0..3 of the qwords: 128-bit lane l gets groups 2l, 2l + 1 of a, then of b */
    const __m512i pick =
        _mm512_set_epi32(0x7B7A7978, 0x73727170, 0x3B3A3938, 0x33323130, 0x6B6A6968, 0x63626160,
                         0x2B2A2928, 0x23222120, 0x5B5A5958, 0x53525150, 0x1B1A1918, 0x13121110,
                         0x4B4A4948, 0x43424140, 0x0B0A0908, 0x03020100);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    struct sums16 s;
    __m512i a = load64(w + 2), b = load64(w + 68);
    __m512i index = _mm512_permutex2var_epi8(a, pick, b);
    __mmask64 upper = _mm512_movepi8_mask(index);
    __m512i low =
        _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t->low[0], index, t->low[1]),
                               _mm512_permutex2var_epi8(t->low[2], index, t->low[3]));
    __m512i high =
        _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t->high[0], index, t->high[1]),
                               _mm512_permutex2var_epi8(t->high[2], index, t->high[3]));
    /* sign fields of a in bytes 0..3, of b in 4..7 of each qword; the table reads seven bits */
    __m512i fields =
        _mm512_mask_blend_epi32(0xAAAA, _mm512_multishift_epi64_epi8(bit_steps(32, 7), a),
                                _mm512_multishift_epi64_epi8(bit_steps(4, 7), b));
    __m512i signs = _mm512_permutex2var_epi8(t->signs[0], fields, t->signs[1]);
    __m512i pa = iq2_block(t, _mm512_unpacklo_epi8(low, high), signs, 0, q);
    __m512i pb = iq2_block(t, _mm512_unpackhi_epi8(low, high), signs, 4, q + 256);
    __m512i all = _mm512_add_epi32(_mm512_permutex2var_epi32(pa, even, pb),
                                   _mm512_permutex2var_epi32(pa, odd, pb));
    /* 2 s + 1, s being the top four bits of a qword */
    __m512i scale =
        _mm512_permutex2var_epi32(_mm512_srli_epi64(a, 59), even, _mm512_srli_epi64(b, 59));
    scale = _mm512_or_si512(scale, _mm512_set1_epi32(1));
    s.i1 = _mm512_mullo_epi32(_mm512_sub_epi32(all, offset_sums(sum, 128)), scale);
    s.d = _mm512_mul_ps(scale_of_two(w, w + 66), _mm512_set1_ps(0.125f));
    return s;
}

/* Columns [32 b0, 32 b0 + n) of one row, onto c. */
DOT_INLINE __m512 dot_iq2(const struct iq2_tables *t, __m512 c, const uint8_t *w,
                          const int8_t *q, const struct act_codes *x, size_t b0, size_t n)
{
    struct pad16 pad;
    w += b0 / 8 * 66;
    for (size_t b = 0; b < n / 32; b += 16, w += 132, q += 512) {
        const uint8_t *from = w;
        /* Rows lie behind one another: what follows a few rows on. The hardware's own
         * prefetching stops at pages, and this kernel has the time to ask for more; a prefetch
         * never faults. */
        _mm_prefetch((const char *)w + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)w + 4096 + 64, _MM_HINT_T0);
        _mm_prefetch((const char *)w + 4096 + 128, _MM_HINT_T0);
        struct act_codes a = {q, x->d + b0 + b, x->sum + 2 * (b0 + b)};
        if (n / 32 - b < 16) {
            pad_tail(&pad, w, 66, x, b0 + b, 8);
            memcpy(pad.q, q, 256); /* the ordered ones */
            a = (struct act_codes){pad.q, pad.d, pad.sum};
            from = pad.w;
        }
        struct sums16 s = sums_iq2_xxs(t, from, a.q, a.sum);
        c = step_add(c, &s, a.d, false);
    }
    return c;
}

static void rows_iq2_xxs(const void *w, size_t row_bytes, uint32_t n_row,
                         const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                         size_t out_ld)
{
    _Alignas(64) int8_t q[IQ2_COLS];
    __m512 c[KERN_ROWS];
    struct iq2_tables t;
    iq2_tables_make(&t);
    for (uint32_t tok = 0; tok < n_tok; tok++) {
        for (uint32_t r = 0; r < n_row; r++) {
            c[r] = _mm512_setzero_ps();
        }
        for (size_t k = 0; k < n; k += IQ2_COLS) {
            size_t len = n - k < IQ2_COLS ? n - k : IQ2_COLS;
            iq2_order(x[tok].q + k, len, q);
            for (uint32_t r = 0; r < n_row; r++) {
                c[r] = dot_iq2(&t, c[r], (const uint8_t *)w + r * row_bytes, q, &x[tok], k / 32,
                               len);
            }
        }
        for (uint32_t r = 0; r < n_row; r++) {
            out[tok * out_ld + r] = halving_sum(c[r]);
        }
    }
}

#endif
