/* dot_rows.h - products of weight rows in file layout with an A8 row, eight blocks of 32 (256
 * elements) a step: what the tiers avx2 and those of arm64 share.
 *
 * A format's function delivers the exact integer sums I1 and I2 of op.h of a step, one block a
 * lane, and their scales; steps feed lanes 0..7 and 8..15 in turn. Included once per object,
 * behind the words of its vocabulary: struct sums8, lanes8 (eight floats), lanes8_zero,
 * step_add, halving_sum. Read next: x86/dot_avx2.h, arm/dot_neon.h. */
#ifndef CPU_DOT_ROWS_H
#define CPU_DOT_ROWS_H

#include <stdint.h>
#include <string.h>

#include "backend/cpu/ahead.h"
#include "backend/cpu/kern.h"
#include "base/num.h"

/* w: 8 blocks of 32; q and sum: their activations. */
typedef struct sums8 sums8_fn(const uint8_t *w, const int8_t *q, const int16_t *sum);

/* What lies behind the last block of a row, as zeros: scale 0 adds 0 to a lane, which is never
 * -0. */
struct pad8 {
    uint8_t w[8 * 36];
    int8_t q[256];
    int16_t sum[16];
    float d[8];
};

static void pad_tail(struct pad8 *p, const uint8_t *w, size_t w_bytes,
                     const struct act_codes *x, size_t b0, size_t left)
{
    memset(p, 0, sizeof *p);
    memcpy(p->w, w, w_bytes);
    memcpy(p->q, x->q + 32 * b0, 32 * left);
    memcpy(p->sum, x->sum + 2 * b0, 2 * left * sizeof *p->sum);
    memcpy(p->d, x->d + b0, left * sizeof *p->d);
}

/* One row and token; bytes8: of 8 blocks. */
DOT_INLINE float dot_row(const uint8_t *w, const struct act_codes *x, size_t n, size_t bytes8,
                         bool has_min, sums8_fn *fn)
{
    lanes8 c[2] = {lanes8_zero(), lanes8_zero()};
    struct pad8 pad;
    for (size_t b = 0; b < n / 32; b += 8, w += bytes8) {
        struct act_codes a = {x->q + 32 * b, x->d + b, x->sum + 2 * b};
        const uint8_t *from = w;
        ahead(w, bytes8);
        if (n / 32 - b < 8) {
            pad_tail(&pad, w, bytes8 * (n / 32 - b) / 8, x, b, n / 32 - b);
            a = (struct act_codes){pad.q, pad.d, pad.sum};
            from = pad.w;
        }
        struct sums8 s = fn(from, a.q, a.sum);
        lanes8 done = step_add(c[0], &s, a.d, has_min);
        c[0] = c[1]; /* the other half's turn */
        c[1] = done;
    }
    /* after an even number of steps c[0] has lanes 0..7, after an odd one c[1]: a sum commutes
     * */
    return halving_sum(c[0], c[1]);
}

/* rows_<name>: an entry of cpu_kern.rows_a8. */
#define DOT_ROWS(name, bytes8, has_min)                                                      \
    static void rows_##name(const void *w, size_t row_bytes, uint32_t n_row,                 \
                            const struct act_codes *x, uint32_t n_tok, size_t n, float *out, \
                            size_t out_ld)                                                   \
    {                                                                                        \
        for (uint32_t r = 0; r < n_row; r++) {                                               \
            const uint8_t *row = (const uint8_t *)w + r * row_bytes;                         \
            for (uint32_t t = 0; t < n_tok; t++) {                                           \
                out[t * out_ld + r] = dot_row(row, &x[t], n, bytes8, has_min, sums_##name);  \
            }                                                                                \
        }                                                                                    \
    }

/* ---- packed scales, a byte each ---- */

/* Q3_K: the sixteen scales, plus 32. */
DOT_INLINE void unpack_q3_k(const uint8_t *b, uint64_t scale[2])
{
    const uint64_t nibbles = 0x0F0F0F0F0F0F0F0Fu, pairs = 0x0303030303030303u;
    uint64_t low = load_le64(b), top = load_le32(b + 8);
    uint64_t top01 = (top | top << 30) & pairs, top23 = (top >> 4 | top << 26) & pairs;
    scale[0] = (low & nibbles) | top01 << 4;
    scale[1] = (low >> 4 & nibbles) | top23 << 4;
}

/* Q4_K and Q5_K: the 6-bit scales and minima of eight groups from their 12 bytes. */
DOT_INLINE void unpack_min6(const uint8_t *b, uint64_t *scale, uint64_t *min)
{
    const uint32_t six = 0x3F3F3F3Fu, four = 0x0F0F0F0Fu, two = 0x30303030u;
    uint32_t x = load_le32(b), y = load_le32(b + 4), z = load_le32(b + 8);
    *scale = (x & six) | (uint64_t)((z & four) | (x >> 2 & two)) << 32;
    *min = (y & six) | (uint64_t)((z >> 4 & four) | (y >> 2 & two)) << 32;
}

#endif
