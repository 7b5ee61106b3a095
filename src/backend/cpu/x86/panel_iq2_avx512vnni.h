/* panel_iq2_avx512vnni.h - IQ2_XXS to panels (kern_panel.h) with the grid held in registers, as
 * in dot_iq2_avx512vnni.h. Included by kern_avx512vnni.c only. */
#ifndef CPU_PANEL_IQ2_AVX512VNNI_H
#define CPU_PANEL_IQ2_AVX512VNNI_H

#include "backend/cpu/x86/dot_iq2_avx512vnni.h"

/* A control of vpmultishiftqb: byte i of each dword takes eight bits from bit `from` + i * step
 * of the same dword on. */
DOT_INLINE __m512i dword_steps(int from, int step)
{
    uint64_t c = 0;
    for (int i = 0; i < 4; i++) {
        c |= (uint64_t)((from + step * i) & 63) << 8 * i;
        c |= (uint64_t)((32 + from + step * i) & 63) << (32 + 8 * i);
    }
    return _mm512_set1_epi64((long long)c);
}

/* index, word: of one group of 32 in sixteen rows, a row a lane. Sub-vector k has its index in
 * byte k; the 2-bit codes of its two fours are looked up for all sixteen rows and all k at
 * once, then spread to bytes, joined with the signs and turned into 128 +- level (W_BIAS). */
DOT_INLINE void put_iq2(const struct iq2_tables *t, __m512i index, __m512i word,
                        struct pack_w *to)
{
    __mmask64 upper = _mm512_movepi8_mask(index);
    __m512i half[2] = {
        _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t->low[0], index, t->low[1]),
                               _mm512_permutex2var_epi8(t->low[2], index, t->low[3])),
        _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(t->high[0], index, t->high[1]),
                               _mm512_permutex2var_epi8(t->high[2], index, t->high[3]))};
    __m512i fields = _mm512_multishift_epi64_epi8(dword_steps(0, 7), word);
    __m512i signs = _mm512_permutex2var_epi8(t->signs[0], fields, t->signs[1]);
    UNROLL for (int g = 0; g < 8; g++)
    {
        int k = g / 2, h = g % 2; /* elements 8k + 4h .. + 3 */
        __m512i c = _mm512_multishift_epi64_epi8(dword_steps(8 * k, 2), half[h]);
        __m512i s = _mm512_multishift_epi64_epi8(dword_steps(8 * k + 4 * h - 2, 1), signs);
        c = _mm512_ternarylogic_epi64(_mm512_set1_epi8(4), s, c, 0xCA); /* a ? b : c */
        put_biased(to, g, _mm512_permutexvar_epi8(c, t->level));
    }
}

static void panel_iq2_xxs(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    const struct iq2_tables *t = iq2_tables_get();
    for (size_t i = 0; i < n / 256; i++, w += 66) {
        v16 d = v16_mul(scale_at(w, row_bytes), v16_set1(0.125f));
        for (size_t two = 0; two < 4; two++) {
            i16 q[4];
            i16_rows(w + 2 + 16 * two, row_bytes, q);
            for (size_t odd = 0; odd < 2; odd++) {
                struct pack_w *to = panel_block(&at, 8 * i + 2 * two + odd);
                __m512i word = q[2 * odd + 1];
                put_iq2(t, q[2 * odd], word, to);
                v16_store(to->d, d);
                /* 2 s + 1, s being the top four bits */
                i16 s = i16_or(i16_srl(word, 27), i16_set1(1));
                v16_store(to->s[0], i16_to_f32(s));
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
    }
}

#endif
