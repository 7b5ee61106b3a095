/* quant.metal - weight formats: 32 elements of a row as small integers and scales (the integer
 * form of quant/formats.h, as floats: all exact), or single elements of the float types. The type
 * is uniform over a threadgroup; USES drops the formats that a level does not have. */

constant uint FC_TYPES_LO [[function_constant(5)]];
constant uint FC_TYPES_HI [[function_constant(6)]];

constant uint QT_F32 = 0, QT_F16 = 1, QT_Q8_0 = 8, QT_Q2_K = 10, QT_Q4_K = 12, QT_Q5_K = 13,
              QT_Q6_K = 14, QT_IQ2_XXS = 16, QT_BF16 = 30, QT_MXFP4 = 39;

inline bool uses(uint type)
{
    return type < 32 ? FC_TYPES_LO >> type & 1u : FC_TYPES_HI >> (type - 32) & 1u;
}

struct codes32 {
    float d, m, mc0, mc1; /* x = d * w - m * mc; m = 0 without minima */
};

inline void codes_q8_0(device const uchar *p, thread float *w, thread codes32 &s)
{
    s.d = f16_value(*(device const ushort *)p);
    for (uint i = 0; i < 32; i++) {
        w[i] = float(((device const char *)p)[2 + i]);
    }
}
inline void codes_mxfp4(device const uchar *p, thread float *w, thread codes32 &s)
{
    s.d = e8m0_value(p[0]) * 0.5f;
    for (uint i = 0; i < 16; i++) {
        uint b = p[1 + i];
        w[i] = 2.0f * e2m1_value(b & 15u);
        w[i + 16] = 2.0f * e2m1_value(b >> 4);
    }
}
inline void codes_q2_k(device const uchar *p, uint g, thread float *w, thread codes32 &s)
{
    uint shift = g % 4 * 2;
    device const uchar *q = p + 16 + g / 4 * 32;
    float s0 = float(p[2 * g] & 15u), s1 = float(p[2 * g + 1] & 15u);
    s.d = f16_value(*(device const ushort *)(p + 80));
    s.m = f16_value(*(device const ushort *)(p + 82));
    s.mc0 = float(p[2 * g] >> 4);
    s.mc1 = float(p[2 * g + 1] >> 4);
    for (uint i = 0; i < 16; i++) {
        w[i] = s0 * float(q[i] >> shift & 3u);
        w[i + 16] = s1 * float(q[i + 16] >> shift & 3u);
    }
}
/* The 6-bit scale and minimum of group g. */
inline uint2 scale_min6(device const uchar *b, uint g)
{
    if (g < 4) {
        return uint2(b[g] & 63u, b[g + 4] & 63u);
    }
    return uint2((b[g + 4] & 15u) | b[g - 4] >> 6 << 4, b[g + 4] >> 4 | b[g] >> 6 << 4);
}
inline void codes_q45_k(device const uchar *p, uint g, bool five, thread float *w,
                        thread codes32 &s)
{
    uint2 sm = scale_min6(p + 4, g);
    device const uchar *high = p + 16, *q = p + (five ? 48 : 16) + g / 2 * 32;
    uint shift = g % 2 * 4;
    s.d = f16_value(*(device const ushort *)p);
    s.m = f16_value(*(device const ushort *)(p + 2));
    s.mc0 = s.mc1 = float(sm.y);
    for (uint i = 0; i < 32; i++) {
        uint v = q[i] >> shift & 15u;
        v += five && (high[i] >> g & 1u) ? 16u : 0u;
        w[i] = float(sm.x) * float(v);
    }
}
inline void codes_q6_k(device const uchar *p, uint g, thread float *w, thread codes32 &s)
{
    uint n = g / 4, j = g % 4;
    device const uchar *low = p + 64 * n + 32 * (j & 1u), *high = p + 128 + 32 * n;
    device const char *sc = (device const char *)(p + 192 + 2 * g);
    s.d = f16_value(*(device const ushort *)(p + 208));
    for (uint i = 0; i < 32; i++) {
        uint v = (low[i] >> (j < 2 ? 0u : 4u) & 15u) | (high[i] >> (2 * j) & 3u) << 4;
        w[i] = float(sc[i / 16]) * (float(v) - 32.0f);
    }
}
inline void codes_iq2_xxs(device const uchar *p, uint g, thread float *w, thread codes32 &s)
{
    device const ushort *a = (device const ushort *)(p + 2 + 8 * g);
    uint signs = a[2] | (uint)a[3] << 16;
    float scale = float(2u * (signs >> 28) + 1u);
    s.d = f16_value(*(device const ushort *)p) * 0.125f;
    for (uint k = 0; k < 4; k++) {
        uint index = a[k / 2] >> (k % 2 * 8) & 255u, field = signs >> (7 * k) & 127u;
        uint sign = field | (popcount(field) & 1u) << 7;
        for (uint i = 0; i < 8; i++) {
            float v = scale * float(iq2_xxs_grid[8 * index + i]);
            w[8 * k + i] = sign >> i & 1u ? -v : v;
        }
    }
}

/* Elements [32 b, 32 b + 32) of a row. */
inline void codes_of(uint type, device const uchar *row, uint b, thread float *w,
                     thread codes32 &s)
{
    s.d = s.m = s.mc0 = s.mc1 = 0.0f;
    if (uses(QT_Q8_0) && type == QT_Q8_0) {
        codes_q8_0(row + (ulong)b * 34, w, s);
    } else if (uses(QT_MXFP4) && type == QT_MXFP4) {
        codes_mxfp4(row + (ulong)b * 17, w, s);
    } else if (uses(QT_Q2_K) && type == QT_Q2_K) {
        codes_q2_k(row + (ulong)(b / 8) * 84, b % 8, w, s);
    } else if (uses(QT_IQ2_XXS) && type == QT_IQ2_XXS) {
        codes_iq2_xxs(row + (ulong)(b / 8) * 66, b % 8, w, s);
    } else if (uses(QT_Q4_K) && type == QT_Q4_K) {
        codes_q45_k(row + (ulong)(b / 8) * 144, b % 8, false, w, s);
    } else if (uses(QT_Q5_K) && type == QT_Q5_K) {
        codes_q45_k(row + (ulong)(b / 8) * 176, b % 8, true, w, s);
    } else if (uses(QT_Q6_K) && type == QT_Q6_K) {
        codes_q6_k(row + (ulong)(b / 8) * 210, b % 8, w, s);
    }
}
inline bool has_minima(uint type)
{
    return type == QT_Q2_K || type == QT_Q4_K || type == QT_Q5_K;
}

/* Element i of a row of a float type. */
inline float float_of(uint type, device const uchar *row, uint i)
{
    if (type == QT_F32) {
        return ((device const float *)row)[i];
    }
    ushort h = ((device const ushort *)row)[i];
    return type == QT_F16 ? f16_value(h) : bf16_value(h);
}
/* Element i of a row of any type (EMBED, HC_MIX): x = (d * s) * v - m * mc in one rounding each. */
inline float value_of(uint type, device const uchar *row, uint i)
{
    if (type == QT_F32 || type == QT_F16 || type == QT_BF16) {
        return float_of(type, row, i);
    }
    float w[32];
    codes32 s;
    codes_of(type, row, i / 32, w, s);
    float x = s.d * w[i % 32];
    return has_minima(type) ? x - s.m * (i % 32 < 16 ? s.mc0 : s.mc1) : x;
}

inline device const uchar *mat_row(thread const ctx &c, constant metal_mat &w, uint mat,
                                   uint row)
{
    return c.view[w.view] + w.offset + (ulong)mat * w.mat_bytes + (ulong)row * w.row_bytes;
}
