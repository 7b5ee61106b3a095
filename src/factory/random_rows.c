/* random_rows.c - see random_rows.h.
 *
 * Float types: the sum of four random bytes (near-Gaussian, 1021 levels) indexes a table of
 * encoded values. Block formats: all bytes random, then the scale fields of each block
 * overwritten by one of 16 prepared scales, so that every code and sub-scale occurs. What a
 * random block with scale 1 spreads to is not derived but measured with the format's own
 * decoder; formats with a minimum get the minimum that centres their mean code, so that rows
 * have mean 0.
 * Read next: synthetic.c. */
#include "factory/random_rows.h"

#include <assert.h>
#include <math.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/formats.h"

enum { CALIBRATE_BLOCKS = 256, MAX_BLOCK_BYTES = 256, E8M0_ONE = 127 };

/* Where a block keeps its F16 scale and minimum, and the minimum per scale that centres it. */
struct block_scale {
    uint32_t type;
    int scale_at, min_at;
    float min_ratio;
};
static const struct block_scale SCALES[] = {
    {QT_Q4_0, 0, -1, 0},     {QT_Q5_0, 0, -1, 0},   {QT_Q8_0, 0, -1, 0},
    {QT_Q2_K, 80, 82, 1.5f}, {QT_Q3_K, 108, -1, 0}, {QT_Q4_K, 0, 2, 7.5f},
    {QT_Q5_K, 0, 2, 15.5f},  {QT_Q6_K, 208, -1, 0}, {QT_IQ2_XXS, 0, -1, 0},
    {QT_IQ2_XS, 0, -1, 0},   {QT_IQ2_S, 0, -1, 0},  {QT_IQ3_XXS, 0, -1, 0},
    {QT_IQ3_S, 0, -1, 0},    {QT_IQ4_NL, 0, -1, 0}, {QT_IQ4_XS, 0, -1, 0},
    {QT_MXFP4, 0, -1, 0},
};

static const struct block_scale *scale_of(uint32_t type)
{
    for (size_t i = 0; i < ARRAY_LEN(SCALES); i++) {
        if (SCALES[i].type == type) {
            return &SCALES[i];
        }
    }
    return NULL;
}

static void random_bytes(struct rng *r, unsigned char *out, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t v = rng_u64(r);
        memcpy(out + i, &v, 8);
    }
    uint64_t v = rng_u64(r);
    memcpy(out + i, &v, n - i);
}

static void set_scale(const struct random_rows *g, unsigned char *block, uint32_t which)
{
    if (g->type == QT_MXFP4) {
        block[g->scale_at] = (unsigned char)g->scale[which];
        return;
    }
    store_le16(block + g->scale_at, g->scale[which]);
    if (g->min_at >= 0) {
        store_le16(block + g->min_at, g->min[which]);
    }
}

static void fill_block_row(const struct random_rows *g, struct rng *r, unsigned char *out)
{
    random_bytes(r, out, g->row_bytes);
    uint64_t bits = 0;
    uint32_t left = 0;
    for (size_t at = 0; at < g->row_bytes; at += g->block_bytes, left--) {
        if (left == 0) {
            bits = rng_u64(r);
            left = 16;
        }
        set_scale(g, out + at, (uint32_t)(bits & (RANDOM_SCALES - 1)));
        bits >>= 4;
    }
}

/* Root mean square of random blocks with all scales 1 (minimum min_ratio). */
static double unit_spread(struct random_rows *g, const struct block_scale *s)
{
    uint32_t elems = qformat(g->type)->block_elems;
    unsigned char block[MAX_BLOCK_BYTES];
    float x[256];
    struct rng r = {splitmix64(g->type)};
    double sum = 0;
    assert(elems <= ARRAY_LEN(x) && g->block_bytes <= sizeof block);
    g->scale[0] = g->type == QT_MXFP4 ? E8M0_ONE : f32_to_f16(1.0f);
    g->min[0] = f32_to_f16(s->min_ratio);
    for (int i = 0; i < CALIBRATE_BLOCKS; i++) {
        random_bytes(&r, block, g->block_bytes);
        set_scale(g, block, 0);
        quant_decode(g->type, block, 0, elems, x);
        for (uint32_t k = 0; k < elems; k++) {
            sum += (double)x[k] * (double)x[k];
        }
    }
    return sqrt(sum / ((double)CALIBRATE_BLOCKS * elems));
}

static void make_scales(struct random_rows *g, const struct block_scale *s, float dev)
{
    double one = (double)dev / unit_spread(g, s);
    for (int i = 0; i < RANDOM_SCALES; i++) {
        double d = one * (0.75 + 0.5 * (i + 0.5) / RANDOM_SCALES); /* mean square near one^2 */
        if (g->type == QT_MXFP4) { /* powers of two: the lower and the upper neighbour */
            double e = floor(log2(one)) + (i & 1) + E8M0_ONE;
            g->scale[i] = (uint16_t)fmin(fmax(e, 0), 254);
        } else {
            g->scale[i] = f32_to_f16((float)d);
            g->min[i] = f32_to_f16((float)(d * (double)s->min_ratio));
        }
    }
}

/* ---- float types ---- */

static void make_levels(struct random_rows *g, float mean, float dev)
{
    const double spread = sqrt(4 * (256.0 * 256.0 - 1) / 12); /* of the sum of four bytes */
    for (int i = 0; i < RANDOM_LEVELS; i++) {
        float v = (float)((double)mean + (double)dev * (i - (RANDOM_LEVELS - 1) / 2) / spread);
        g->level[i] = g->type == QT_F32   ? f32_bits(v)
                      : g->type == QT_F16 ? f32_to_f16(v)
                                          : f32_to_bf16(v);
    }
}

/* Two sums of four bytes each. */
static inline uint64_t two_sums(uint64_t v)
{
    const uint64_t bytes = 0x00FF00FF00FF00FFu, words = 0x0000FFFF0000FFFFu;
    uint64_t t = (v & bytes) + (v >> 8 & bytes);
    return (t & words) + (t >> 16 & words);
}

static void fill_f32_row(const struct random_rows *g, struct rng *r, unsigned char *out)
{
    uint64_t i = 0;
    for (; i + 2 <= g->cols; i += 2) {
        uint64_t s = two_sums(rng_u64(r));
        uint32_t v[2] = {g->level[(uint32_t)s], g->level[s >> 32]};
        memcpy(out + 4 * i, v, 8);
    }
    if (i < g->cols) {
        memcpy(out + 4 * i, &g->level[(uint32_t)two_sums(rng_u64(r))], 4);
    }
}

static void fill_half_row(const struct random_rows *g, struct rng *r, unsigned char *out)
{
    uint64_t i = 0;
    for (; i + 2 <= g->cols; i += 2) {
        uint64_t s = two_sums(rng_u64(r));
        store_le32(out + 2 * i, g->level[(uint32_t)s] | g->level[s >> 32] << 16);
    }
    if (i < g->cols) {
        store_le16(out + 2 * i, (uint16_t)g->level[(uint32_t)two_sums(rng_u64(r))]);
    }
}

/* ---- interface ---- */

int random_rows_init(struct random_rows *g, uint32_t type, uint64_t cols, float mean, float dev,
                     uint64_t seed, fathom_err *err)
{
    const struct qformat *f = qformat(type);
    const struct block_scale *s = scale_of(type);
    *g = (struct random_rows){.type = type,
                              .cols = cols,
                              .seed = seed,
                              .row_bytes = qformat_row_bytes(type, cols),
                              .block_bytes = f->block_bytes,
                              .scale_at = -1,
                              .min_at = -1};
    if (f->cls != QC_FLOAT && !s) {
        return err_set(err, FATHOM_EUNSUPPORTED, "no random rows of type %s",
                       f->name ? f->name : "?");
    }
    if (g->row_bytes == 0) {
        return err_set(err, FATHOM_EINVAL, "rows of %llu values do not fit blocks of %s",
                       (unsigned long long)cols, f->name);
    }
    if (s) {
        g->scale_at = s->scale_at;
        g->min_at = s->min_at;
        make_scales(g, s, dev);
    } else {
        make_levels(g, mean, dev);
    }
    return 0;
}

void random_rows_fill(const struct random_rows *g, uint64_t first, uint64_t n, void *out)
{
    unsigned char *p = out;
    for (uint64_t i = 0; i < n; i++, p += g->row_bytes) {
        struct rng r = {splitmix64(g->seed ^ splitmix64(first + i))};
        if (g->scale_at >= 0) {
            fill_block_row(g, &r, p);
        } else if (g->type == QT_F32) {
            fill_f32_row(g, &r, p);
        } else {
            fill_half_row(g, &r, p);
        }
    }
}
