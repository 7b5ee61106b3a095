/* kern_panel.h - weight rows of block formats to panels (struct pack_w): sixteen rows at a time,
 * one row a lane. Included once per tier, behind a vocabulary and kern_order.h.
 *
 * A panel holds codes of 8 bits and what they are multiplied with, so that a product is made of
 * 8-bit dot products and a few float operations per block of 32, all of them exact up to the
 * fma that op.h defines (panel_kind, kern_tile.h). Decoding works on the dwords of a block as they
 * lie in the file: transposed first, so that a lane holds four bytes of its row, then shifts,
 * masks and table lookups give four codes of the row at a time. Layouts: quant/decode.c.
 * Read next: kern_tile.h. */
#ifndef CPU_KERN_PANEL_H
#define CPU_KERN_PANEL_H

#include <string.h>

#include "base/num.h"
#include "quant/tables.h"

/* How I1 of op.h follows from the sums S of codes and activations of a block:
 *   PLAIN   I1 = S: the format's code times its sub-scale fits 8 bits
 *   SCALED  I1 = s * S
 *   HALVES  I1 = s0 * S0 + s1 * S1, of the two sixteens
 * In float32 all of it is exact: |S| <= 32 * 128 * 127 < 2^20, and I1, whose terms add up to at
 * most 32 * 4096 * 127 < 2^24 (struct codes32), is an integer below 2^24, and so is each of its
 * two parts. Where S or s is 0 or negative, a zero may get the other sign than (float)I1 has;
 * it is added by fma to a sum that is never -0, so no bit changes. */
enum panel_form { PANEL_PLAIN, PANEL_SCALED, PANEL_HALVES };
struct panel_kind {
    enum panel_form form;
    bool has_min; /* then no code is negative, and none gets a bias */
};

static inline struct panel_kind panel_kind(uint32_t type)
{
    switch (type) {
    case QT_Q2_K: /* 15 * 3 = 45 at most */
    case QT_Q4_1:
    case QT_Q5_1: return (struct panel_kind){PANEL_PLAIN, true};
    case QT_Q4_K:
    case QT_Q5_K: return (struct panel_kind){PANEL_SCALED, true};
    case QT_IQ4_XS:
    case QT_IQ2_XXS:
    case QT_IQ3_XXS:
    case QT_IQ3_S:
    case QT_IQ1_S: return (struct panel_kind){PANEL_SCALED, false};
    case QT_Q6_K:
    case QT_IQ2_XS:
    case QT_IQ2_S:
    case QT_IQ1_M: return (struct panel_kind){PANEL_HALVES, false};
    default: return (struct panel_kind){PANEL_PLAIN, false}; /* Q3_K: see negated() */
    }
}

/* Q3_K's products of scale and code reach from -124 to 128: codes and d change their signs. */
static inline bool negated(uint32_t type)
{
    return type == QT_Q3_K;
}

/* Where the blocks of a panel go. */
struct panel_at {
    struct pack_w *panel;
    size_t base[16];
};

static inline struct panel_at panel_at(struct pack_w *panel, size_t n)
{
    struct panel_at p = {.panel = panel};
    lane_bases(n / 32, p.base);
    return p;
}
static inline struct pack_w *panel_block(const struct panel_at *p, size_t b)
{
    return &p->panel[p->base[b % 16] + b / 16];
}

/* ---- any format, any number of rows ---- */

static void panel_any(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row, size_t n,
                      struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    struct panel_kind kind = panel_kind(type);
    int sign = negated(type) ? -1 : 1;
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_w *to = panel_block(&at, b);
        for (uint32_t r = 0; r < KERN_PANEL; r++) { /* rows behind the last repeat it */
            uint32_t from = r < n_row ? r : n_row - 1;
            struct unpacked32 u;
            quant_unpack32(type, (const char *)w + from * row_bytes, b, &u);
            for (int i = 0; i < 32; i++) {
                int s = kind.form == PANEL_PLAIN ? sign * u.s[i / 16] : 1;
                to->q[i / 4][r][i % 4] = (uint8_t)(s * u.v[i] + (kind.has_min ? 0 : W_BIAS));
            }
            to->d[r] = (float)sign * u.d;
            to->m[r] = -u.m;
            for (int h = 0; h < 2; h++) {
                to->s[h][r] = (float)u.s[h];
                to->mc[r][h] = u.mc[h];
            }
        }
    }
}

/* ---- words for the formats below ---- */

static inline i16 bytes_set1(int x)
{
    return i16_set1((int32_t)((uint32_t)(x & 255) * 0x01010101u));
}
/* Signed codes of four elements of sixteen rows. */
static inline void put_codes(struct pack_w *to, int group, i16 codes)
{
    i16_store(to->q[group], i16_xor(codes, bytes_set1(W_BIAS)));
}
/* Codes that have the bias, or want none (panel_kind: has_min). */
static inline void put_biased(struct pack_w *to, int group, i16 codes)
{
    i16_store(to->q[group], codes);
}
/* Bits of each byte, none above its own. */
static inline i16 bits(i16 x, int shift, int mask)
{
#ifdef I16_BITS
    return i16_bits(x, shift, mask);
#else
    return i16_and(i16_srl(x, shift), bytes_set1(mask));
#endif
}
/* Bits of byte 0 after shifting, as a number. */
static inline i16 field(i16 x, int shift, int mask)
{
    return i16_and(i16_srl(x, shift), i16_set1(mask));
}
/* A pair of numbers a, b below 2^16. */
static inline i16 pair(i16 a, i16 b)
{
    return i16_or(a, i16_sll(b, 16));
}

/* Bytes lo and hi of each dword as a pair. */
static inline i16 two(i16 x, int lo, int hi)
{
#ifdef I16_TWO
    return i16_two(x, lo, hi);
#else
    return pair(field(x, 8 * lo, 255), field(x, 8 * hi, 255));
#endif
}

/* d of a block: its first two bytes, or the last two of 256 elements. Whole words are moved, also
 * because a vector that is loaded from what was stored in smaller pieces has to wait for all
 * stores before it. */
static inline v16 scale_first(const char *w, size_t row_bytes)
{
    i16 head[4];
    i16_rows(w, row_bytes, head);
    return v16_half(head[0]);
}
static inline v16 scale_last(const char *end, size_t row_bytes)
{
    i16 tail[4];
    i16_rows(end - 16, row_bytes, tail);
    return v16_half(i16_srl(tail[3], 16));
}

/* ---- blocks of 32 ---- */

static void panel_q8_0(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_w *to = panel_block(&at, b);
        v16_store(to->d, scale_first(w + 34 * b, row_bytes));
        UNROLL for (int h = 0; h < 2; h++)
        {
            i16 q[4];
            i16_rows(w + 34 * b + 2 + 16 * h, row_bytes, q);
            UNROLL for (int j = 0; j < 4; j++)
            {
                put_codes(to, 4 * h + j, q[j]);
            }
        }
    }
}

/* 16 bytes of nibbles through a table of 16 values. */
static inline void put_nibbles(struct pack_w *to, const char *p, size_t row_bytes,
                               const int8_t *values)
{
    i16 q[4];
    i16_rows(p, row_bytes, q);
    UNROLL for (int j = 0; j < 4; j++)
    {
        put_biased(to, j, i16_lookup(values, bits(q[j], 0, 15)));
        put_biased(to, 4 + j, i16_lookup(values, bits(q[j], 4, 15)));
    }
}
static inline void biased_values(const int8_t *values, int8_t to[16])
{
    for (int i = 0; i < 16; i++) {
        to[i] = (int8_t)((values ? values[i] : i - 8) ^ W_BIAS);
    }
}

/* Q4_0 (values NULL) and IQ4_NL. */
static void panel_nibbles(const char *w, size_t row_bytes, size_t n, const int8_t *values,
                          struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    int8_t table[16];
    biased_values(values, table);
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_w *to = panel_block(&at, b);
        v16_store(to->d, scale_first(w + 18 * b, row_bytes));
        put_nibbles(to, w + 18 * b + 2, row_bytes, table);
    }
}

/* 2^(e - 128) of the first byte of a block, also where it is subnormal: as the product of
 * 2^(floor(e / 2) - 63) and 2^(ceil(e / 2) - 65). */
static inline v16 scale_e8m0(const char *w, size_t row_bytes)
{
    i16 head[4];
    float power[2][KERN_PANEL];
    i16_rows(w, row_bytes, head);
    i16 e = field(head[0], 0, 255), half = i16_srl(e, 1);
    i16_store(power[0], i16_sll(i16_sub8(half, i16_set1(256 - 64)), 23));
    i16_store(power[1], i16_sll(i16_sub8(i16_sub8(e, half), i16_set1(256 - 62)), 23));
    return v16_mul(v16_load(power[0]), v16_load(power[1]));
}

static void panel_mxfp4(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    int8_t table[16];
    biased_values(quant_values_mxfp4, table);
    for (size_t b = 0; b < n / 32; b++) {
        struct pack_w *to = panel_block(&at, b);
        v16_store(to->d, scale_e8m0(w + 17 * b, row_bytes));
        put_nibbles(to, w + 17 * b + 1, row_bytes, table);
    }
}

/* ---- blocks of 256 ---- */

static inline void put_d_m(struct pack_w *to, v16 d, v16 neg_m)
{
    v16_store(to->d, d);
    v16_store(to->m, neg_m);
}
/* Byte i of 16 bytes of every row, `mask` behind `shift`. */
static inline i16 byte_of(const i16 x[4], int i, int shift, int mask)
{
    return field(x[i / 4], 8 * (i % 4) + shift, mask);
}

/* Group g of a block of 256. sc: its scales and minima; q: the eight words that have its codes. */
static inline void put_q2_k(const i16 sc[4], const i16 q[8], int g, struct pack_w *to)
{
    int at = 2 * (g % 2);
    i16 s = bits(sc[g / 2], 0, 15), m = bits(sc[g / 2], 4, 15);
    i16 s0 = two(s, at, at),
        s1 = two(s, at + 1, at + 1); /* times two codes at once: no carry */
    UNROLL for (int k = 0; k < 8; k++)
    {
        put_biased(to, k, i16_mul16(bits(q[k], 2 * (g % 4), 3), k < 4 ? s0 : s1));
    }
    i16_store(to->mc, two(m, at, at + 1));
}

static void panel_q2_k(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    for (size_t i = 0; i < n / 256; i++, w += 84) {
        i16 sc[4], tail[4];
        i16_rows(w, row_bytes, sc);
        i16_rows(w + 68, row_bytes, tail); /* the last dword has d and dmin */
        v16 d = v16_half(tail[3]);
        v16 m = v16_mul(v16_half(i16_srl(tail[3], 16)), v16_set1(-1));
        UNROLL for (int half = 0; half < 2; half++)
        {
            i16 q[8];
            i16_rows(w + 16 + 32 * half, row_bytes, q);
            i16_rows(w + 32 + 32 * half, row_bytes, q + 4);
            UNROLL for (int j = 0; j < 4; j++)
            {
                int g = 4 * half + j;
                struct pack_w *to = panel_block(&at, 8 * i + (size_t)g);
                put_q2_k(sc, q, g, to);
                put_d_m(to, d, m);
            }
        }
    }
}

/* Scales and minima of the eight groups of Q4_K and Q5_K: 6 bits each, as whole lanes. head:
 * the first 16 bytes of the block. */
static inline void min6(const i16 head[4], int g, i16 *s, i16 *m)
{
    if (g < 4) {
        *s = field(head[1], 8 * g, 63);
        *m = field(head[2], 8 * g, 63);
    } else {
        int at = 8 * (g - 4);
        *s = i16_or(field(head[3], at, 15), i16_sll(field(head[1], at + 6, 3), 4));
        *m = i16_or(field(head[3], at + 4, 15), i16_sll(field(head[2], at + 6, 3), 4));
    }
}

/* Q4_K and Q5_K (`five`): blocks of 144 and 176 bytes. */
static inline void panel_k45(const char *w, size_t row_bytes, size_t n, bool five,
                             struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    for (size_t i = 0; i < n / 256; i++, w += five ? 176 : 144) {
        i16 head[4], high[8];
        i16_rows(w, row_bytes, head);
        if (five) {
            i16_rows(w + 16, row_bytes, high);
            i16_rows(w + 32, row_bytes, high + 4);
        }
        v16 d = v16_half(head[0]);
        v16 m = v16_mul(v16_half(i16_srl(head[0], 16)), v16_set1(-1));
        UNROLL for (int two = 0; two < 4; two++)
        {
            i16 q[8];
            i16_rows(w + (five ? 48 : 16) + 32 * two, row_bytes, q);
            i16_rows(w + (five ? 64 : 32) + 32 * two, row_bytes, q + 4);
            UNROLL for (int odd = 0; odd < 2; odd++)
            {
                int g = 2 * two + odd;
                struct pack_w *to = panel_block(&at, 8 * i + (size_t)g);
                i16 s, mc;
                min6(head, g, &s, &mc);
                UNROLL for (int k = 0; k < 8; k++)
                {
                    i16 v = bits(q[k], 4 * odd, 15);
                    if (five) {
                        v = i16_or(v, i16_sll(bits(high[k], g, 1), 4));
                    }
                    put_biased(to, k, v);
                }
                put_d_m(to, d, m);
                v16_store(to->s[0], i16_to_f32(s));
                i16_store(to->mc, pair(mc, mc));
            }
        }
    }
}

static void panel_q6_k(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    struct panel_at at = panel_at(panel, n);
    for (size_t i = 0; i < n / 256; i++, w += 210) {
        v16 d = scale_last(w + 210, row_bytes);
        i16 sc[4];
        i16_rows(w + 192, row_bytes, sc);
        UNROLL for (int half = 0; half < 2; half++)
        {
            i16 low[16], high[8];
            UNROLL for (int k = 0; k < 4; k++)
            {
                i16_rows(w + 64 * half + 16 * k, row_bytes, low + 4 * k);
            }
            i16_rows(w + 128 + 32 * half, row_bytes, high);
            i16_rows(w + 144 + 32 * half, row_bytes, high + 4);
            UNROLL for (int j = 0; j < 4; j++)
            {
                int g = 4 * half + j;
                struct pack_w *to = panel_block(&at, 8 * i + (size_t)g);
                UNROLL for (int k = 0; k < 8; k++)
                {
                    i16 v = bits(low[8 * (j & 1) + k], 4 * (j / 2), 15);
                    v = i16_or(v, i16_sll(bits(high[k], 2 * j, 3), 4));
                    put_codes(to, k, i16_sub8(v, bytes_set1(32)));
                }
                v16_store(to->d, d);
                UNROLL for (int h = 0; h < 2; h++)
                {
                    /* signed: 0..255 to -128..127 by flipping the top bit and taking 128 */
                    i16 s = i16_xor(byte_of(sc, 2 * g + h, 0, 255), i16_set1(128));
                    v16_store(to->s[h], v16_add(i16_to_f32(s), v16_set1(-128)));
                }
            }
        }
    }
}

/* Eight magnitudes, none of them 0, negated where `signs` has a bit: complement and add one. */
static inline uint64_t signed8(uint64_t magnitudes, uint64_t signs)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t bit = (signs * ones) & 0x8040201008040201u; /* byte i has bit i */
    uint64_t minus = (bit + 0x7F * ones) >> 7 & ones;
    return (magnitudes ^ minus * 0xFF) + minus;
}

/* One lookup of eight elements at a time, row by row. */
static void panel_iq2_grid(const char *w, size_t row_bytes, size_t n, struct pack_w *panel)
{
    const uint64_t bias = W_BIAS * 0x0101010101010101u;
    struct panel_at at = panel_at(panel, n);
    for (size_t i = 0; i < n / 256; i++, w += 66) {
        v16 d = v16_mul(scale_first(w, row_bytes), v16_set1(0.125f));
        for (size_t g = 0; g < 8; g++) {
            struct pack_w *to = panel_block(&at, 8 * i + g);
            const char *p = w + 2 + 8 * g;
            for (size_t r = 0; r < KERN_PANEL; r++, p += row_bytes) {
                uint32_t index = load_le32(p), word = load_le32(p + 4);
                for (unsigned k = 0; k < 4; k++) {
                    uint64_t v = load_le64(quant_grid_iq2_xxs[index >> 8 * k & 255]);
                    v = signed8(v, quant_signs7[word >> 7 * k & 127]) ^ bias;
                    store_le32(to->q[2 * k][r], (uint32_t)v);
                    store_le32(to->q[2 * k + 1][r], (uint32_t)(v >> 32));
                }
                to->s[0][r] = (float)(2 * (word >> 28) + 1);
            }
            v16_store(to->d, d);
        }
    }
}

/* n_row <= 16 rows of n elements; rows behind the last are copies of it. */
static void pack_panel(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row, size_t n,
                       struct pack_w *panel)
{
    switch (n_row == KERN_PANEL ? type : (uint32_t)QT_COUNT) {
    case QT_Q8_0: panel_q8_0(w, row_bytes, n, panel); break;
    case QT_Q4_0: panel_nibbles(w, row_bytes, n, NULL, panel); break;
    case QT_IQ4_NL: panel_nibbles(w, row_bytes, n, quant_values_iq4_nl, panel); break;
    case QT_MXFP4: panel_mxfp4(w, row_bytes, n, panel); break;
    case QT_Q2_K: panel_q2_k(w, row_bytes, n, panel); break;
    case QT_Q4_K: panel_k45(w, row_bytes, n, false, panel); break;
    case QT_Q5_K: panel_k45(w, row_bytes, n, true, panel); break;
    case QT_Q6_K: panel_q6_k(w, row_bytes, n, panel); break;
    case QT_IQ2_XXS: panel_iq2_grid(w, row_bytes, n, panel); break;
    default: panel_any(type, w, row_bytes, n_row, n, panel); break;
    }
}

#endif
