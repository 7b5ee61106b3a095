/* dot_iq2_avx512vnni.h - IQ2_XXS for dot_avx512vnni.h (layout: quant/decode_iq.c).
 *
 * The grid's 256 vectors of 8 levels are held as 2-bit codes: one plane with the codes of
 * elements 0 to 3 of every entry in a byte, one with 4 to 7, four registers each. Byte permutes
 * of 64 entries, masked by the two upper bits, look up the 64 indices of two blocks of 256: byte
 * 4i + k is then sub-vector k of group i, bits 2j, 2j + 1 the code of its element j or 4 + j.
 * The 7-bit sign field of a sub-vector becomes eight signs, the last one the parity of the
 * others, and lands where it is wanted by one product with a bit matrix. Two signs put over two
 * codes make an index from which two permutes, with tables for either pair of bits, give
 * 128 +- level of two elements. A dword never holds anything but its own group, so all eight
 * products add up in one accumulator and nothing is left to be joined. */
#ifndef CPU_DOT_IQ2_AVX512VNNI_H
#define CPU_DOT_IQ2_AVX512VNNI_H

#include <pthread.h>

#include "backend/cpu/x86/dot_avx512vnni.h"
#include "quant/tables.h"

struct iq2_tables {
    __m512i low[4], high[4]; /* codes of elements 0..3 and 4..7 of the entries */
    __m512i first, second;   /* 128 +- level: code in bits 0, 1 and sign in 4; 2, 3 and 5 */
    __m512i panel[4];        /* the same for panel_iq2_avx512vnni.h: see there */
};

static struct iq2_tables iq2_tables;

/* 128 +- level of a code at bit `code` and a sign at bit `sign` of six. */
static __m512i iq2_levels(unsigned code, unsigned sign)
{
    static const uint8_t level[4] = {8, 25, 43, 8};
    uint8_t v[64];
    for (unsigned i = 0; i < 64; i++) {
        uint8_t m = level[i >> code & 3];
        v[i] = (uint8_t)(i >> sign & 1 ? 128 - m : 128 + m);
    }
    return load64(v);
}

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
    t->first = iq2_levels(0, 4);
    t->second = iq2_levels(2, 5);
    t->panel[0] = iq2_levels(0, 4);
    t->panel[1] = iq2_levels(2, 5);
    t->panel[2] = iq2_levels(2, 0);
    t->panel[3] = iq2_levels(4, 1);
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

/* Vector e gets element e of all sub-vectors: byte 4i + k that of sub-vector k of the group in
 * lane i. */
static void order_iq2_xxs(const int8_t *q, int8_t *out)
{
    /* of two groups: a qword for each element */
    const __m512i take = _mm512_set_epi64(
        0x3F372F271F170F07, 0x3E362E261E160E06, 0x3D352D251D150D05, 0x3C342C241C140C04,
        0x3B332B231B130B03, 0x3A322A221A120A02, 0x3931292119110901, 0x3830282018100800);
    __m512i v[8], odd[4], even[4];
    for (int i = 0; i < 8; i++) { /* the blocks of 256 alternate */
        v[i] = _mm512_permutexvar_epi8(take, load64(q + 256 * (i % 2) + 64 * (i / 2)));
    }
    for (int i = 0; i < 4; i++) { /* lane l: element 2l, or 2l + 1 */
        even[i] = _mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]);
        odd[i] = _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]);
    }
    for (int h = 0; h < 2; h++) {
        const __m512i *t = h ? odd : even;
        __m512i a01 = _mm512_shuffle_i64x2(t[0], t[1], 0x44);
        __m512i a23 = _mm512_shuffle_i64x2(t[0], t[1], 0xEE);
        __m512i b01 = _mm512_shuffle_i64x2(t[2], t[3], 0x44);
        __m512i b23 = _mm512_shuffle_i64x2(t[2], t[3], 0xEE);
        int8_t *to = out + (size_t)64 * (size_t)h;
        _mm512_store_si512(to, _mm512_shuffle_i64x2(a01, b01, 0x88));
        _mm512_store_si512(to + 128, _mm512_shuffle_i64x2(a01, b01, 0xDD));
        _mm512_store_si512(to + 256, _mm512_shuffle_i64x2(a23, b23, 0x88));
        _mm512_store_si512(to + 384, _mm512_shuffle_i64x2(a23, b23, 0xDD));
    }
}

/* acc + the products of four elements of all sub-vectors. codes: as looked up; signs: in the
 * upper nibbles. */
DOT_INLINE __m512i iq2_half(const struct iq2_tables *t, __m512i acc, __m512i codes,
                            __m512i signs, const int8_t *q)
{
    const __m512i over = _mm512_set1_epi8(0x30); /* a ? b : c */
    __m512i c01 = _mm512_ternarylogic_epi64(over, signs, codes, 0xCA);
    __m512i c23 = _mm512_ternarylogic_epi64(over, _mm512_srli_epi16(signs, 2),
                                            _mm512_srli_epi16(codes, 4), 0xCA);
    acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c01, t->first), load64(q));
    acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c01, t->second), load64(q + 64));
    acc = _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c23, t->first), load64(q + 128));
    return _mm512_dpbusd_epi32(acc, _mm512_permutexvar_epi8(c23, t->second), load64(q + 192));
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
    /* fields of seven bits; the matrices read no more */
    const __m512i fields = _mm512_set1_epi64(0x352E2720150E0700);
    /* row 7 - i makes bit i: bits 4 to 7 are signs 0 to 3; signs 4 to 6 and the parity */
    const __m512i first = _mm512_set1_epi64(0x01020408), last = _mm512_set1_epi64(0x1020407F);
    struct sums16 s;
    __m512i a = load64(w + 2), b = load64(w + 68);
    __m512i index = shuffle_dwords(a, b, 0x88), word = shuffle_dwords(a, b, 0xDD);
    __mmask64 bit7 = _mm512_movepi8_mask(index);
    __mmask64 bit6 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(0x40));
    __m512i low = iq2_plane(t->low, index, bit6, bit7);
    __m512i high = iq2_plane(t->high, index, bit6, bit7);
    __m512i seven = _mm512_multishift_epi64_epi8(fields, word);
    /* two chains of four: one of eight would wait longer than the window reaches */
    __m512i lo = iq2_half(t, load64(act->offset), low,
                          _mm512_gf2p8affine_epi64_epi8(seven, first, 0), act->q);
    __m512i hi = iq2_half(t, _mm512_setzero_si512(), high,
                          _mm512_gf2p8affine_epi64_epi8(seven, last, 0), act->q + 256);
    /* 2 s + 1, s being the top four bits of a word */
    __m512i scale = _mm512_or_si512(_mm512_srli_epi32(word, 27), _mm512_set1_epi32(1));
    s.i1 = _mm512_mullo_epi32(_mm512_add_epi32(lo, hi), scale);
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
                                      .offset = -128,
                                      .sums = sums_iq2_xxs,
                                      .order = order_iq2_xxs,
                                      .lanes = &lanes_iq2};
    dot_rows(&f, iq2_tables_get(), w, row_bytes, n_row, x, n_tok, n, out, out_ld);
}

#endif
