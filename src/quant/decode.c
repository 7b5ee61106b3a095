/* decode.c - the definition of the plain block formats: the 32-element ones, MXFP4, and the
 * K-quants (blocks of 256 with sub-scales). The codebook formats stand in decode_iq.c.
 * Above each function: the byte layout of a block and the value of an element. Notation: h(o)
 * is the f16 at byte o; lo4 and hi4 the nibbles of a byte; g the group of 32 inside the block,
 * l the element inside the group; products are taken left to right in float32. Each function
 * fills the integer form of quant_int.h without any branch on element values, so that the loops
 * vectorise. Read codes.c next: it turns this form into floats or codes. */
#include <string.h>

#include "base/num.h"
#include "quant/quant_int.h"
#include "quant/tables.h"

static float load_f16(const uint8_t *p)
{
    return f16_to_f32(load_le16(p));
}

/* Scales of a format without sub-scales and without minimum. */
static void set_scale(struct unpacked32 *u, float d)
{
    u->d = d;
    u->m = 0.0f;
    u->s[0] = u->s[1] = 1;
    u->mc[0] = u->mc[1] = 0;
}

/* v[j] = lo4(q[j]), v[j + 16] = hi4(q[j]): the nibble placement of all 32-element formats. */
static void load_nibbles(const uint8_t *q, int8_t *v)
{
    for (int j = 0; j < 16; j++) {
        v[j] = (int8_t)(q[j] & 15);
        v[j + 16] = (int8_t)(q[j] >> 4);
    }
}

/* Adds bit j of `high` as 16 to v[j]. */
static void add_fifth_bit(uint32_t high, int8_t *v)
{
    for (int j = 0; j < 32; j++) {
        v[j] = (int8_t)(v[j] | (int)(high >> j & 1u) << 4);
    }
}

static void subtract(int8_t *v, int bias)
{
    for (int j = 0; j < 32; j++) {
        v[j] = (int8_t)(v[j] - bias);
    }
}

/* Q8_0, 34 bytes: 0 d = h; 2 int8 q[32].  x = q * d */
void q8_0_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scale(u, load_f16(b));
    memcpy(u->v, b + 2, 32);
}

/* Q4_0, 18 bytes: 0 d = h; 2 q[16] nibbles.  x = (v - 8) * d */
void q4_0_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scale(u, load_f16(b));
    load_nibbles(b + 2, u->v);
    subtract(u->v, 8);
}

/* Q4_1, 20 bytes: 0 d = h; 2 m = h; 4 q[16] nibbles.  x = v * d + m, here as v * d - (-m) * 1
 */
void q4_1_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scale(u, load_f16(b));
    u->m = -load_f16(b + 2);
    u->mc[0] = u->mc[1] = 1;
    load_nibbles(b + 4, u->v);
}

/* Q5_0, 22 bytes: 0 d = h; 2 u32 high bits (bit l for element l); 6 q[16] nibbles.
 * x = (v - 16) * d */
void q5_0_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scale(u, load_f16(b));
    load_nibbles(b + 6, u->v);
    add_fifth_bit(load_le32(b + 2), u->v);
    subtract(u->v, 16);
}

/* Q5_1, 24 bytes: 0 d = h; 2 m = h; 4 u32 high bits; 8 q[16] nibbles.  x = v * d + m */
void q5_1_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    set_scale(u, load_f16(b));
    u->m = -load_f16(b + 2);
    u->mc[0] = u->mc[1] = 1;
    load_nibbles(b + 8, u->v);
    add_fifth_bit(load_le32(b + 4), u->v);
}

/* MXFP4, 17 bytes: 0 u8 e; 1 q[16] nibbles, E2M1 codes.  x = K2[v] * 2^(e - 128), K2 being
 * twice the E2M1 value (code 8 is 0). e = 0 and 1 give subnormal scales; e = 255 is NaN in the
 * standard but decodes as 2^127, as everywhere else; quant_row_finite reports it. */
void mxfp4_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    (void)g;
    uint32_t e = b[0];
    set_scale(u, f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23));
    for (int j = 0; j < 16; j++) {
        u->v[j] = quant_values_mxfp4[b[1 + j] & 15];
        u->v[j + 16] = quant_values_mxfp4[b[1 + j] >> 4];
    }
}

/* Q2_K, 84 bytes: 0 scales[16], one byte per 16 elements: lo4 scale, hi4 minimum; 16 q[64];
 * 80 d = h; 82 dmin = h.
 * With n = g / 4 and j = g mod 4: v = (q[32 n + l] >> 2 j) & 3.
 * x = (d * lo4(sc)) * v - dmin * hi4(sc) */
void q2_k_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *q = b + 16 + 32 * (g / 4);
    unsigned shift = 2 * (g % 4);
    u->d = load_f16(b + 80);
    u->m = load_f16(b + 82);
    for (unsigned h = 0; h < 2; h++) {
        u->s[h] = (int16_t)(b[2 * g + h] & 15);
        u->mc[h] = (int16_t)(b[2 * g + h] >> 4);
    }
    for (int l = 0; l < 32; l++) {
        u->v[l] = (int8_t)(q[l] >> shift & 3);
    }
}

/* The 6-bit scale of 16-element group i in Q3_K's 12 scale bytes: low nibble from byte i (i <
 * 8) or the high half of byte i - 8; the upper two bits from byte 8 + i mod 4. */
static int16_t q3_k_scale(const uint8_t *b, unsigned i)
{
    unsigned low = i < 8 ? b[i] & 15u : b[i - 8] >> 4;
    unsigned high = b[8 + i % 4] >> 2 * (i / 4) & 3u;
    return (int16_t)((int)(low | high << 4) - 32);
}

/* Q3_K, 110 bytes: 0 hmask[32]; 32 q[64]; 96 scales[12]; 108 d = h.
 * v = ((q[32 n + l] >> 2 j) & 3) - (bit g of hmask[l] set ? 0 : 4); x = (d * (s - 32)) * v */
void q3_k_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *q = b + 32 + 32 * (g / 4);
    unsigned shift = 2 * (g % 4);
    set_scale(u, load_f16(b + 108));
    u->s[0] = q3_k_scale(b + 96, 2 * g);
    u->s[1] = q3_k_scale(b + 96, 2 * g + 1);
    for (int l = 0; l < 32; l++) {
        int low = q[l] >> shift & 3, high = b[l] >> g & 1;
        u->v[l] = (int8_t)(low + 4 * high - 4);
    }
}

/* Scale and minimum of group g from the 12 bytes shared by Q4_K and Q5_K: 6 bits each. The
 * first four groups have theirs in the low bits of bytes 0..3 and 4..7; the last four take
 * nibbles of bytes 8..11 and the top two bits of the first eight bytes. */
static void set_scale_min6(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    unsigned s, m;
    if (g < 4) {
        s = b[g] & 63u;
        m = b[g + 4] & 63u;
    } else {
        s = (b[g + 4] & 15u) | (unsigned)(b[g - 4] >> 6) << 4;
        m = b[g + 4] >> 4 | (unsigned)(b[g] >> 6) << 4;
    }
    u->s[0] = u->s[1] = (int16_t)s;
    u->mc[0] = u->mc[1] = (int16_t)m;
}

/* Q4_K, 144 bytes: 0 d = h; 2 dmin = h; 4 scales[12]; 16 q[128].
 * Bytes q[32 (g / 2) ...]: low nibbles for even g, high ones for odd g.
 * x = (d * sc) * v - dmin * m */
void q4_k_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *q = b + 16 + 32 * (g / 2);
    unsigned shift = 4 * (g % 2);
    u->d = load_f16(b);
    u->m = load_f16(b + 2);
    set_scale_min6(b + 4, g, u);
    for (int l = 0; l < 32; l++) {
        u->v[l] = (int8_t)(q[l] >> shift & 15);
    }
}

/* Q5_K, 176 bytes: 0 d = h; 2 dmin = h; 4 scales[12]; 16 qh[32]; 48 q[128] as Q4_K.
 * Bit g of qh[l] adds 16 to v. */
void q5_k_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    const uint8_t *q = b + 48 + 32 * (g / 2), *qh = b + 16;
    unsigned shift = 4 * (g % 2);
    u->d = load_f16(b);
    u->m = load_f16(b + 2);
    set_scale_min6(b + 4, g, u);
    for (int l = 0; l < 32; l++) {
        u->v[l] = (int8_t)((q[l] >> shift & 15) | (qh[l] >> g & 1) << 4);
    }
}

/* Q6_K, 210 bytes: 0 ql[128]; 128 qh[64]; 192 int8 scales[16], one per 16 elements; 208 d = h.
 * With n = g / 4 and j = g mod 4: v = (nibble of ql[64 n + 32 (j & 1) + l], low for j < 2, high
 * else) | ((qh[32 n + l] >> 2 j) & 3) << 4, minus 32.  x = (d * s) * v */
void q6_k_unpack(const uint8_t *b, unsigned g, struct unpacked32 *u)
{
    unsigned n = g / 4, j = g % 4;
    const uint8_t *ql = b + 64 * n + 32 * (j & 1), *qh = b + 128 + 32 * n;
    unsigned low_shift = 4 * (j / 2), high_shift = 2 * j;
    set_scale(u, load_f16(b + 208));
    u->s[0] = (int8_t)b[192 + 2 * g];
    u->s[1] = (int8_t)b[192 + 2 * g + 1];
    for (int l = 0; l < 32; l++) {
        int v = (ql[l] >> low_shift & 15) | (qh[l] >> high_shift & 3) << 4;
        u->v[l] = (int8_t)(v - 32);
    }
}
