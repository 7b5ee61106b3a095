/* rows.c - stored KV rows and the roundings they come from.
 *
 * The model was trained with its KV rows rounded to FP8 (window and compressed rows) and FP4
 * (index rows and queries) with one power-of-two scale per block, so a row can be stored as
 * exactly those codes: decoding gives back the very floats that the rounding produced. The
 * rounding is defined here once, as "encode a block, then decode it"; the simulations are that
 * round trip without the bytes. A scale is the smallest power of two that brings the block's
 * largest finite magnitude inside the code's range (ue8m0_ceil); dividing by it is exact. Also
 * here: the Hadamard transform of the index vectors and the RoPE angles, whose single precision
 * product of position and frequency is part of the model (model.md 3). Read next:
 * backend/ref/attn.c, which makes and reads these rows. */
#include "op/rows.h"

#include <math.h>
#include <string.h>

#include "base/num.h"
#include "op/program.h"

enum { FP8_BLOCK = 64, FP4_BLOCK = 32 };

struct row_geom row_geom_make(enum row_kind kind, uint32_t n, uint32_t rope)
{
    struct row_geom g = {.kind = (uint8_t)kind, .n = n, .rope = rope};
    switch (kind) {
    case ROW_F32: g.code_bytes = n * 4; break;
    case ROW_FP8:
        g.code_bytes = n - rope + 2 * rope;
        g.scale_bytes = ((n - rope) / FP8_BLOCK + 7) / 8 * 8;
        break;
    case ROW_FP4:
        g.code_bytes = n / 2;
        g.scale_bytes = n / FP4_BLOCK;
        break;
    }
    return g;
}

/* Largest finite |x|, at least `floor`: a NaN or infinity must not spoil its neighbours. */
static float max_finite(const float *x, uint32_t n, float floor)
{
    float m = floor;
    for (uint32_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (a > m && a < INFINITY) {
            m = a;
        }
    }
    return m;
}

static uint8_t fp8_scale(const float *x)
{
    return ue8m0_ceil(max_finite(x, FP8_BLOCK, 1e-4f) * (1.0f / 448.0f));
}

static uint8_t fp8_code(float x, float scale)
{
    return isfinite(x) ? f32_to_e4m3(x / scale) : 0x7F;
}

static uint8_t fp4_scale(const float *x)
{
    return ue8m0_ceil(max_finite(x, FP4_BLOCK, 6 * 0x1p-126f) * (1.0f / 6.0f));
}

static uint8_t fp4_code(float x, float scale)
{
    return f32_to_e2m1(x / scale); /* beyond 6, infinite and NaN: the code of 6 */
}

void fp8_sim(float *x, uint32_t n)
{
    for (uint32_t b = 0; b < n; b += FP8_BLOCK) {
        float scale = e8m0_to_f32(fp8_scale(x + b));
        for (uint32_t i = b; i < b + FP8_BLOCK; i++) {
            x[i] = e4m3_to_f32(fp8_code(x[i], scale)) * scale;
        }
    }
}

void fp4_sim(float *x, uint32_t n)
{
    for (uint32_t b = 0; b < n; b += FP4_BLOCK) {
        float scale = e8m0_to_f32(fp4_scale(x + b));
        for (uint32_t i = b; i < b + FP4_BLOCK; i++) {
            x[i] = e2m1_to_f32(fp4_code(x[i], scale)) * scale;
        }
    }
}

static void encode_fp8(const struct row_geom *g, const float *x, uint8_t *codes,
                       uint8_t *scales)
{
    uint32_t n = g->n - g->rope;
    memset(scales, 0, g->scale_bytes);
    for (uint32_t b = 0; b < n; b += FP8_BLOCK) {
        uint8_t s = fp8_scale(x + b);
        float scale = e8m0_to_f32(s);
        scales[b / FP8_BLOCK] = s;
        for (uint32_t i = b; i < b + FP8_BLOCK; i++) {
            codes[i] = fp8_code(x[i], scale);
        }
    }
    for (uint32_t i = 0; i < g->rope; i++) {
        store_le16(codes + n + 2 * i, f32_to_bf16(x[n + i]));
    }
}

static void decode_fp8(const struct row_geom *g, const uint8_t *codes, const uint8_t *scales,
                       float *x)
{
    uint32_t n = g->n - g->rope;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = e4m3_to_f32(codes[i]) * e8m0_to_f32(scales[i / FP8_BLOCK]);
    }
    for (uint32_t i = 0; i < g->rope; i++) {
        x[n + i] = bf16_to_f32(load_le16(codes + n + 2 * i));
    }
}

static void encode_fp4(const struct row_geom *g, const float *x, uint8_t *codes,
                       uint8_t *scales)
{
    for (uint32_t b = 0; b < g->n; b += FP4_BLOCK) {
        uint8_t s = fp4_scale(x + b);
        float scale = e8m0_to_f32(s);
        scales[b / FP4_BLOCK] = s;
        for (uint32_t i = b; i < b + FP4_BLOCK; i += 2) {
            codes[i / 2] = (uint8_t)(fp4_code(x[i], scale) | fp4_code(x[i + 1], scale) << 4);
        }
    }
}

static void decode_fp4(const struct row_geom *g, const uint8_t *codes, const uint8_t *scales,
                       float *x)
{
    for (uint32_t i = 0; i < g->n; i++) {
        uint8_t code = codes[i / 2] >> (i % 2 * 4) & 15;
        x[i] = e2m1_to_f32(code) * e8m0_to_f32(scales[i / FP4_BLOCK]);
    }
}

void row_encode(const struct row_geom *g, const float *x, void *codes, void *scales)
{
    switch ((enum row_kind)g->kind) {
    case ROW_F32: memcpy(codes, x, g->code_bytes); break;
    case ROW_FP8: encode_fp8(g, x, codes, scales); break;
    case ROW_FP4: encode_fp4(g, x, codes, scales); break;
    }
}

void row_decode(const struct row_geom *g, const void *codes, const void *scales, float *x)
{
    switch ((enum row_kind)g->kind) {
    case ROW_F32: memcpy(x, codes, g->code_bytes); break;
    case ROW_FP8: decode_fp8(g, codes, scales, x); break;
    case ROW_FP4: decode_fp4(g, codes, scales, x); break;
    }
}

void hadamard(float *x, uint32_t n)
{
    for (uint32_t stride = 1; stride < n; stride *= 2) {
        for (uint32_t i = 0; i < n; i++) {
            if ((i & stride) == 0) {
                float a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
        }
    }
    float norm = (float)(1.0 / sqrt(n));
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= norm;
    }
}

void rope_angles(const struct rope_table *t, uint32_t pos, float *cs)
{
    for (uint32_t i = 0; i < t->n; i++) {
        float phi = (float)pos * t->freq[i]; /* the model's own rounding, even when large */
        cs[2 * i] = (float)cos((double)phi);
        cs[2 * i + 1] = (float)sin((double)phi);
    }
}

void rope_apply(float *x, uint32_t n_pairs, const float *cs, bool inverse)
{
    for (uint32_t i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        float c = cs[2 * i], s = inverse ? -cs[2 * i + 1] : cs[2 * i + 1];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = a * s + b * c;
    }
}
