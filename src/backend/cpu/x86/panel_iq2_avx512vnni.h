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

/* Elements i and i + 1 of a half, which starts at `group`: the bits of `mask` from `sign` and the
 * others from `code` are the index of both, which a table each takes its own three bits from. */
DOT_INLINE void put_levels(const struct iq2_tables *t, struct pack_w *to, int group, int i,
                           int mask, __m512i sign, __m512i code)
{
    __m512i c = _mm512_ternarylogic_epi64(_mm512_set1_epi8((char)mask), sign, code, 0xCA);
    put_biased(to, group + i, _mm512_permutexvar_epi8(c, t->panel[i]));
    put_biased(to, group + i + 1, _mm512_permutexvar_epi8(c, t->panel[i + 1]));
}

/* index, word: of one group of 32 in sixteen rows, a row a lane. Sub-vector k has its index in
 * byte k; the codes of its fours, two bits each, are looked up for all sixteen rows and all k
 * at once. Element 4h + i of all k makes a vector (turned). Elements 0 and 1 of a half have
 * their codes in bits 0 to 3 and take their signs from bits 4 and 5 of a byte k; elements 2 and 3
 * have codes in bits 2 to 5, after shifting, and signs in bits 0 and 1: so one matrix serves
 * a half, and one index two permutes, which see no more than six bits. */
DOT_INLINE void put_iq2(const struct iq2_tables *t, __m512i index, __m512i word, v16 d,
                        struct pack_w *to)
{
    __mmask64 bit7 = _mm512_movepi8_mask(index);
    __mmask64 bit6 = _mm512_movepi8_mask(_mm512_add_epi8(index, index));
    __m512i fields = _mm512_multishift_epi64_epi8(dword_steps(7), word);
    UNROLL for (int h = 0; h < 2; h++)
    {
        /* row 7 - i makes bit i: signs 4h + 2 and + 3 in bits 0 and 1, 4h and 4h + 1 in 4, 5;
         * sign 7 is the parity of the others */
        __m512i signs = _mm512_gf2p8affine_epi64_epi8(
            fields, _mm512_set1_epi64(h ? 0x407F000010200000 : 0x0408000001020000), 0);
        __m512i code = iq2_plane(h ? t->high : t->low, index, bit6, bit7);
        put_levels(t, to, 4 * h, 0, 0x30, signs, code);
        put_levels(t, to, 4 * h, 2, 0x03, signs, i16_srl(code, 2));
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
