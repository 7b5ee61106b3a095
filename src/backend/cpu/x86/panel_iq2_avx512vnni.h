/* panel_iq2_avx512vnni.h - IQ2_XXS to panels (kern_panel.h) with the grid held in registers, as
 * in dot_iq2_avx512vnni.h. Included by kern_avx512vnni.c only. */
#ifndef CPU_PANEL_IQ2_AVX512VNNI_H
#define CPU_PANEL_IQ2_AVX512VNNI_H

#include "backend/cpu/kern_lane.h"
#include "backend/cpu/x86/dot_iq2_avx512vnni.h"

/* A control of vpmultishiftqb: byte i of each dword takes eight bits from bit `step` * i of the
 * same dword on. */
DOT_INLINE __m512i dword_steps(int step)
{
    uint64_t c = 0;
    for (int i = 0; i < 4; i++) {
        c |= (uint64_t)(step * i) << 8 * i | (uint64_t)(32 + step * i) << (32 + 8 * i);
    }
    return _mm512_set1_epi64((long long)c);
}

/* Bit `at` of each byte from `sign`, the rest from `code`, through a table. */
DOT_INLINE void put_levels(struct pack_w *to, int group, __m512i level, int at, __m512i sign,
                           __m512i code)
{
    __m512i c = _mm512_ternarylogic_epi64(_mm512_set1_epi8((char)(1 << at)), sign, code, 0xCA);
    put_biased(to, group, _mm512_permutexvar_epi8(c, level));
}

/* index, word: of one group of 32 in sixteen rows, a row a lane. Sub-vector k has its index in
 * byte k; the codes of its fours, two bits each, are looked up for all sixteen rows and all k
 * at once. Element 4h + i of all k makes a vector (turned): byte k takes its code from bit 2i
 * (4, shifted, for i = 3) and its sign from bit i (4 for i = 0) of a byte k, which is what the
 * tables panel[i] expect, so that hardly anything needs to be moved. */
DOT_INLINE void put_iq2(const struct iq2_tables *t, __m512i index, __m512i word, v16 d,
                        struct pack_w *to)
{
    __mmask64 bit7 = _mm512_movepi8_mask(index);
    __mmask64 bit6 = _mm512_movepi8_mask(_mm512_add_epi8(index, index));
    __m512i fields = _mm512_multishift_epi64_epi8(dword_steps(7), word);
    /* signs 0 to 7 in their bits, and the nibbles the other way round */
    __m512i signs =
        _mm512_gf2p8affine_epi64_epi8(fields, _mm512_set1_epi64(0x010204081020407F), 0);
    __m512i swapped =
        _mm512_gf2p8affine_epi64_epi8(fields, _mm512_set1_epi64(0x1020407F01020408), 0);
    UNROLL for (int h = 0; h < 2; h++)
    {
        __m512i code = iq2_plane(h ? t->high : t->low, index, bit6, bit7);
        __m512i four = h ? swapped : signs;  /* signs in bits 0 to 3 */
        __m512i first = h ? signs : swapped; /* and in bit 4 */
        put_levels(to, 4 * h, t->panel[0], 4, first, code);
        put_levels(to, 4 * h + 1, t->panel[1], 1, four, code);
        put_levels(to, 4 * h + 2, t->panel[2], 2, four, code);
        put_levels(to, 4 * h + 3, t->panel[3], 3, four, i16_srl(code, 2));
    }
    v16_store(to->d, d);
    /* 2 s + 1, s being the top four bits */
    v16_store(to->s[0], i16_to_f32(i16_or(i16_srl(word, 27), i16_set1(1))));
}

static void panel_iq2_xxs(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    const struct iq2_tables *t = iq2_tables_get();
    for (size_t i = 0; i < n / 256; i++, w += 66) {
        v16 d = v16_mul(scale_first(w, row_bytes), v16_set1(0.125f));
        for (size_t two = 0; two < 4; two++) {
            i16 q[4];
            i16_rows(w + 2 + 16 * two, row_bytes, q);
            for (size_t odd = 0; odd < 2; odd++) {
                put_iq2(t, q[2 * odd], q[2 * odd + 1], d,
                        panel_block(&at, 8 * i + 2 * two + odd));
            }
        }
    }
}

/* The file's words as they are, and d. */
static void words_iq2_xxs(const char *w, size_t row_bytes, size_t n, struct lane_words *to)
{
    iq2_tables_get();
    for (size_t i = 0; i < n / 256; i++, w += 66, to++) {
        UNROLL for (int k = 0; k < 4; k++)
        {
            i16_rows(w + 2 + 16 * k, row_bytes, to->word + 4 * k);
        }
        v16_store(&to->word[16], v16_mul(scale_first(w, row_bytes), v16_set1(0.125f)));
    }
}

TILE_INLINE void decode_iq2_xxs(const struct lane_words *from, int g, size_t n_block,
                                struct pack_w *to)
{
    const struct iq2_tables *t = &iq2_tables; /* there since words_iq2_xxs */
    for (size_t b = 0; b < n_block; b++, from += 2, to++) {
        put_iq2(t, from->word[2 * g], from->word[2 * g + 1], v16_load(&from->word[16]), to);
    }
}
LANES(iq2_xxs, PANEL_SCALED, false)

static void turn_codes(struct pack_w *w)
{
    uint8_t from[8][KERN_PANEL][4];
    memcpy(from, w->q, sizeof from);
    for (size_t g = 0; g < 8; g++) {
        for (size_t r = 0; r < KERN_PANEL; r++) {
            for (size_t k = 0; k < 4; k++) { /* element 8k + g */
                w->q[g][r][k] = from[2 * k + g / 4][r][g % 4];
            }
        }
    }
}

static void pack_panel_vbmi(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                            size_t n, struct pack_w *panel)
{
    if (type == QT_IQ2_XXS && n_row == KERN_PANEL) {
        panel_iq2_xxs(w, row_bytes, n, panel);
    } else {
        pack_panel(type, w, row_bytes, n_row, n, panel);
        for (size_t b = 0; type == QT_IQ2_XXS && b < n / 32; b++) {
            turn_codes(&panel[b]);
        }
    }
}

/* Elements in the order of turned panels. */
static inline void x_turn(const int8_t *q, unsigned char *to)
{
    const __m256i order =
        _mm256_setr_epi8(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27, 4, 12, 20,
                         28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31);
    __m256i x = _mm256_loadu_si256((const void *)q);
    _mm256_storeu_si256((void *)to, _mm256_permutexvar_epi8(order, x));
}

static void pack_tokens_vbmi(const struct act_codes *t, uint32_t n_tok, size_t n,
                             const struct pack_x *x)
{
    if (x->turned) {
        pack_tokens_by(t, n_tok, n, x, x_turn);
    } else {
        pack_tokens_by(t, n_tok, n, x, x_pack);
    }
}

#endif
