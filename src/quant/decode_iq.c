/* decode_iq.c - the definition of the codebook formats: IQ1, IQ2, IQ3 (vectors of 8 or 4
 * elements taken from a grid, with signs apart) and IQ4 (16 values). See decode.c for the
 * notation; k is the sub-vector of 8 elements inside a group of 32. The definitions have scales
 * such as (d * (0.5 + s)) * 0.25. Here the power of two goes into d and the rest is the odd
 * integer 2 s + 1: (d * 0.125) * (2 s + 1). Both are exact in float32 (11 bits times at most
 * 5), so the decoded bits are the same, and the integer form of quant_codes32 needs no
 * rounding. */
#include <string.h>

#include "base/num.h"
#include "quant/quant_int.h"
#include "quant/tables.h"

static void set_scales(struct unpacked32 *u, float d, int s0, int s1)
{
    u->d = d;
    u->m = 0.0f;
    u->s[0] = (int16_t)s0;
    u->s[1] = (int16_t)s1;
    u->mc[0] = u->mc[1] = 0;
}

/* Eight magnitudes (1..127, element 0 in the lowest byte) negated where `signs` has a bit, all
 * in one word: byte i of `spread` keeps bit i of signs; ones and 255s are derived from it.
 * Negating is complement plus one, which cannot carry because no magnitude is 0. */
static void store_signed8(uint64_t magnitudes, unsigned signs, int8_t *v)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t spread = signs * ones & 0x8040201008040201u;
    uint64_t minus = (spread + 0x7F * ones) >> 7 & ones;
    store_le64(v, (magnitudes ^ minus * 0xFF) + minus);
}

/* The 7-bit sign fields and the scale of a group in IQ2_XXS and IQ3_XXS: fields at bits 0, 7,
 * 14, 21 and a 4-bit scale on top. Bit 7 of the sign byte is the parity of the field. */
static unsigned signs7(uint32_t word, unsigned k)
{
    return quant_signs7[word >> 7 * k & 127u];
}

/* IQ2_XXS, 66 bytes: 0 d = h; 2 eight groups of 8 bytes: four u8 grid indices, then the u32 of
 * signs7 with the scale s.  x = ((d * (0.5 + s)) * 0.25) * grid * sign */
void iq2_xxs_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *p = b + 2 + 8 * g;
    uint32_t word = load_le32(p + 4);
    int s = (int)(2 * (word >> 28) + 1);
    set_scales(u, f16_to_f32(load_le16(b)) * 0.125f, s, s);
    for (unsigned k = 0; k < 4; k++) {
        store_signed8(load_le64(quant_grid_iq2_xxs[p[k]]), signs7(word, k), u->v + 8 * k);
    }
}

/* IQ2_XS, 74 bytes: 0 d = h; 2 u16 per sub-vector: 9 bits grid index, 7 bits sign field;
 * 66 scales[8]: byte g has the scale of sub-vectors 0, 1 (low) and 2, 3 (high nibble).
 * x as IQ2_XXS. */
void iq2_xs_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *p = b + 2 + 8 * g;
    unsigned s = b[66 + g];
    set_scales(u, f16_to_f32(load_le16(b)) * 0.125f, (int)(2 * (s & 15) + 1),
               (int)(2 * (s >> 4) + 1));
    for (unsigned k = 0; k < 4; k++) {
        unsigned w = load_le16(p + 2 * k);
        store_signed8(load_le64(quant_grid_iq2_xs[w & 511]), quant_signs7[w >> 9],
                      u->v + 8 * k);
    }
}

/* IQ2_S, 82 bytes: 0 d = h; 2 index low bytes[32]; 34 sign bytes[32]; 66 qh[8]: bits 2 k of
 * byte g are bits 8, 9 of the index; 74 scales[8] as IQ2_XS.  x as IQ2_XXS. */
void iq2_s_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *low = b + 2 + 4 * g, *signs = b + 34 + 4 * g;
    unsigned high = b[66 + g], s = b[74 + g];
    set_scales(u, f16_to_f32(load_le16(b)) * 0.125f, (int)(2 * (s & 15) + 1),
               (int)(2 * (s >> 4) + 1));
    for (unsigned k = 0; k < 4; k++) {
        unsigned index = low[k] | (high >> 2 * k & 3) << 8;
        store_signed8(load_le64(quant_grid_iq2_s[index]), signs[k], u->v + 8 * k);
    }
}

/* Two grid entries of four elements as one word of eight. */
static uint64_t join4(const uint8_t *a, const uint8_t *b)
{
    return load_le32(a) | (uint64_t)load_le32(b) << 32;
}

/* IQ3_XXS, 98 bytes: 0 d = h; 2 grid indices[64], two per sub-vector; 66 u32 per group as in
 * IQ2_XXS.  x = ((d * (0.5 + s)) * 0.5) * grid * sign */
void iq3_xxs_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *p = b + 2 + 8 * g;
    uint32_t word = load_le32(b + 66 + 4 * g);
    int s = (int)(2 * (word >> 28) + 1);
    set_scales(u, f16_to_f32(load_le16(b)) * 0.25f, s, s);
    for (unsigned k = 0; k < 4; k++) {
        uint64_t magnitudes =
            join4(quant_grid_iq3_xxs[p[2 * k]], quant_grid_iq3_xxs[p[2 * k + 1]]);
        store_signed8(magnitudes, signs7(word, k), u->v + 8 * k);
    }
}

/* IQ3_S, 110 bytes: 0 d = h; 2 index low bytes[64]; 66 qh[8]: bits 2 k and 2 k + 1 of byte g
 * are bit 8 of the two indices; 74 sign bytes[32]; 106 scales, nibble g. x = (d * (1 + 2 s)) *
 * grid * sign */
void iq3_s_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *low = b + 2 + 8 * g, *signs = b + 74 + 4 * g;
    unsigned high = b[66 + g];
    int s = 2 * (b[106 + g / 2] >> 4 * (g % 2) & 15) + 1;
    set_scales(u, f16_to_f32(load_le16(b)), s, s);
    for (unsigned k = 0; k < 4; k++) {
        unsigned i0 = low[2 * k] | (high >> 2 * k & 1) << 8;
        unsigned i1 = low[2 * k + 1] | (high >> (2 * k + 1) & 1) << 8;
        store_signed8(join4(quant_grid_iq3_s[i0], quant_grid_iq3_s[i1]), signs[k],
                      u->v + 8 * k);
    }
}

/* grid + delta with delta = +-1/8, in eighths. */
static void store_iq1(unsigned index, unsigned negative, int8_t *v)
{
    const int8_t *grid = quant_grid_iq1[index];
    int delta = negative ? -1 : 1;
    for (int i = 0; i < 8; i++) {
        v[i] = (int8_t)(8 * grid[i] + delta);
    }
}

/* IQ1_S, 50 bytes: 0 d = h; 2 index low bytes[32]; 34 u16 per group: bits 3 k are bits 8..10 of
 * the index, 12..14 the scale s, 15 the sign of delta.
 * x = (d * (2 s + 1)) * (grid + delta), delta = +-0.125 */
void iq1_s_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *low = b + 2 + 4 * g;
    unsigned w = load_le16(b + 34 + 2 * g);
    int s = (int)(2 * (w >> 12 & 7) + 1);
    set_scales(u, f16_to_f32(load_le16(b)) * 0.125f, s, s);
    for (unsigned k = 0; k < 4; k++) {
        store_iq1(low[k] | (w >> 3 * k & 7) << 8, w >> 15, u->v + 8 * k);
    }
}

/* IQ1_M, 56 bytes: 0 index low bytes[32]; 32 qh[16], a nibble per sub-vector: bits 8..10 of the
 * index, then the sign of delta; 48 four u16 whose top nibbles form the f16 d (word 0 lowest)
 * and whose other bits hold 3-bit scales: word g / 2, shift 6 (g & 1) + 3 (k / 2).  x as IQ1_S.
 */
void iq1_m_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *low = b + 4 * g, *qh = b + 32 + 2 * g, *sc = b + 48;
    unsigned d = load_le16(sc) >> 12 | (load_le16(sc + 2) >> 12) << 4 |
                 (load_le16(sc + 4) >> 12) << 8 | (load_le16(sc + 6) >> 12) << 12;
    unsigned w = (unsigned)load_le16(sc + 2 * (g / 2)) >> 6 * (g & 1);
    set_scales(u, f16_to_f32((uint16_t)d) * 0.125f, (int)(2 * (w & 7) + 1),
               (int)(2 * (w >> 3 & 7) + 1));
    for (unsigned k = 0; k < 4; k++) {
        unsigned nibble = qh[k / 2] >> 4 * (k % 2) & 15u;
        store_iq1(low[k] | (nibble & 7) << 8, nibble >> 3, u->v + 8 * k);
    }
}

/* v[j] = K[lo4(q[j])], v[j + 16] = K[hi4(q[j])]. */
static void load_iq4(const uint8_t *q, int8_t *v)
{
    for (int j = 0; j < 16; j++) {
        v[j] = quant_values_iq4_nl[q[j] & 15];
        v[j + 16] = quant_values_iq4_nl[q[j] >> 4];
    }
}

/* IQ4_NL, 18 bytes: 0 d = h; 2 q[16] nibbles.  x = d * K[v] */
void iq4_nl_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scales(u, f16_to_f32(load_le16(b)), 1, 1);
    load_iq4(b + 2, u->v);
}

/* IQ4_XS, 136 bytes: 0 d = h; 2 u16 scales_h; 4 scales_l[4]; 8 q[128], 16 bytes per group.
 * s = nibble g of scales_l | bits 2 g of scales_h << 4.  x = (d * (s - 32)) * K[v] */
void iq4_xs_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    int low = b[4 + g / 2] >> 4 * (g % 2) & 15, high = load_le16(b + 2) >> 2 * g & 3;
    int s = (low | high << 4) - 32;
    set_scales(u, f16_to_f32(load_le16(b)), s, s);
    load_iq4(b + 8 + 16 * g, u->v);
}
