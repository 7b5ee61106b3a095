/* dot_iq2_avx512vnni.h - IQ2_XXS for dot_avx512vnni.h (layout: quant/decode_iq.c).
 *
 * The grid's 256 vectors of 8 levels are held as 2-bit codes: one plane with the codes of
 * elements 0 to 3 of every entry in a byte, one with 4 to 7, four registers each. Byte permutes
 * of 64 entries, masked by the two upper bits, look up the 64 indices of two blocks of 256. Both
 * planes interleaved give qwords with the codes of a group of 32: bits 2j, 2j + 1 of byte
 * 2k + h are those of element 4h + j of sub-vector k. The sign bytes, spread to the same
 * bytes, have that element's sign in bit j. So shift j of both, joined in three bits, makes a
 * vector of elements 4i + j, one permute turns that into 128 +- level, four of them add up in
 * one accumulator, and only neighbouring dwords remain to be joined. Nothing leaves its 128
 * bits on the way (lanes_iq2 is where the blocks end up). */
#ifndef CPU_DOT_IQ2_AVX512VNNI_H
#define CPU_DOT_IQ2_AVX512VNNI_H

#include <pthread.h>

#include "backend/cpu/x86/dot_avx512vnni.h"
#include "quant/tables.h"

struct iq2_tables {
    __m512i low[4], high[4]; /* codes of elements 0..3 and 4..7 of the entries */
    __m512i signs[2], level;
};

static struct iq2_tables iq2_tables;

/* Levels 8, 25, 43 are 0, 1, 2 in their upper nibbles. */
static void iq2_tables_make(void)
{
    struct iq2_tables *t = &iq2_tables;
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

/* Made once, by the first caller. */
static const struct iq2_tables *iq2_tables_get(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, iq2_tables_make);
    return &iq2_tables;
}

/* Groups 2l and 2l + 1 of both blocks of 256 meet in 128-bit lane l. */
static const struct lanes16 lanes_iq2 = {
    .block = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15},
    .lane = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}};

/* Of 256 activations: vector j gets elements 4i + j; byte i of qword g is of group g. */
static void order_iq2_xxs(const int8_t *q, int8_t *out)
{
    const __m512i bytes = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    /* dwords of 16 elements each: the j-th of all to vector j */
    const __m512i lo =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i hi = _mm512_add_epi32(lo, _mm512_set1_epi32(2));
    __m512i v[4];
    for (size_t i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_epi8(load64(q + 64 * i), bytes);
    }
    __m512i a01 = _mm512_permutex2var_epi32(v[0], lo, v[1]);
    __m512i b01 = _mm512_permutex2var_epi32(v[2], lo, v[3]);
    __m512i a23 = _mm512_permutex2var_epi32(v[0], hi, v[1]);
    __m512i b23 = _mm512_permutex2var_epi32(v[2], hi, v[3]);
    _mm512_store_si512(out, _mm512_shuffle_i64x2(a01, b01, 0x44));
    _mm512_store_si512(out + 64, _mm512_shuffle_i64x2(a01, b01, 0xEE));
    _mm512_store_si512(out + 128, _mm512_shuffle_i64x2(a23, b23, 0x44));
    _mm512_store_si512(out + 192, _mm512_shuffle_i64x2(a23, b23, 0xEE));
}

/* Sums of one block of 256, two dwords a group. codes: qwords as above; signs: words whose low
 * byte is the sign byte of a sub-vector and whose high byte is that shifted by four. */
DOT_INLINE __m512i iq2_block(const struct iq2_tables *t, __m512i codes, __m512i signs,
                             const int8_t *q)
{
    const __m512i minus = _mm512_set1_epi8(4); /* a ? b : c */
    __m512i c0 = _mm512_ternarylogic_epi64(minus, _mm512_slli_epi64(signs, 2), codes, 0xCA);
    __m512i c1 = _mm512_ternarylogic_epi64(minus, _mm512_slli_epi64(signs, 1),
                                           _mm512_srli_epi64(codes, 2), 0xCA);
    __m512i c2 = _mm512_ternarylogic_epi64(minus, signs, _mm512_srli_epi64(codes, 4), 0xCA);
    __m512i c3 = _mm512_ternarylogic_epi64(minus, _mm512_srli_epi64(signs, 1),
                                           _mm512_srli_epi64(codes, 6), 0xCA);
    __m512i acc = dot4(_mm512_permutexvar_epi8(c0, t->level), q);
    acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c1, t->level), load64(q + 64));
    acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c2, t->level), load64(q + 128));
    return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c3, t->level), load64(q + 192));
}

/* 64 entries of 256. */
DOT_INLINE __m512i iq2_plane(const __m512i plane[4], __m512i index, __mmask64 bit6,
                             __mmask64 bit7)
{
    __m512i lo = _mm512_permutexvar_epi8(index, plane[0]);
    __m512i hi = _mm512_permutexvar_epi8(index, plane[2]);
    lo = _mm512_mask_permutexvar_epi8(lo, bit6, index, plane[1]);
    hi = _mm512_mask_permutexvar_epi8(hi, bit6, index, plane[3]);
    return _mm512_mask_blend_epi8(bit7, lo, hi);
}

DOT_INLINE struct sums16 sums_iq2_xxs(const void *tables, const uint8_t *w,
                                      const struct act16 *act)
{
    const struct iq2_tables *t = tables;
    /* fields of seven bits; the table reads no more */
    const __m512i fields = _mm512_set1_epi64(0x352E2720150E0700);
    struct sums16 s;
    __m512i a = load64(w + 2), b = load64(w + 68);
    __m512i index = shuffle_dwords(a, b, 0x88), word = shuffle_dwords(a, b, 0xDD);
    __mmask64 bit7 = _mm512_movepi8_mask(index);
    __mmask64 bit6 = _mm512_movepi8_mask(_mm512_add_epi8(index, index));
    __m512i low = iq2_plane(t->low, index, bit6, bit7);
    __m512i high = iq2_plane(t->high, index, bit6, bit7);
    __m512i signs = _mm512_permutex2var_epi8(
        t->signs[0], _mm512_multishift_epi64_epi8(fields, word), t->signs[1]);
    __m512i upper = _mm512_srli_epi64(signs, 4);
    __m512i pa = iq2_block(t, _mm512_unpacklo_epi8(low, high),
                           _mm512_unpacklo_epi8(signs, upper), act->q);
    __m512i pb = iq2_block(t, _mm512_unpackhi_epi8(low, high),
                           _mm512_unpackhi_epi8(signs, upper), act->q + 256);
    __m512i all = _mm512_add_epi32(shuffle_dwords(pa, pb, 0x88), shuffle_dwords(pa, pb, 0xDD));
    /* 2 s + 1, s being the top four bits of a word */
    __m512i scale = _mm512_or_si512(_mm512_srli_epi32(word, 27), _mm512_set1_epi32(1));
    s.i1 = _mm512_mullo_epi32(_mm512_sub_epi32(all, load64(act->offset)), scale);
    __m512 d = _mm512_castps128_ps512(_mm_cvtph_ps(
        _mm_cvtsi32_si128((int)(load_le16(w) | (uint32_t)load_le16(w + 66) << 16))));
    d = _mm512_permutexvar_ps(_mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 1, 1)), d);
    s.d = _mm512_mul_ps(d, _mm512_set1_ps(0.125f));
    return s;
}

static void rows_iq2_xxs(const void *w, size_t row_bytes, uint32_t n_row,
                         const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                         size_t out_ld)
{
    static const struct format16 f = {.bytes = 132,
                                      .offset = 128,
                                      .sums = sums_iq2_xxs,
                                      .order = order_iq2_xxs,
                                      .lanes = &lanes_iq2};
    dot_rows(&f, iq2_tables_get(), w, row_bytes, n_row, x, n_tok, n, out, out_ld);
}

#endif
