/* kern_i8mm.c - the tier of arm64 processors with 8-bit matrix products (i8mm: Neoverse V1 and
 * N2, Apple M2 and later): as kern_dotprod.c, but the tiles of packed products use SMMLA, which
 * multiplies two rows with two tokens over eight elements. */
#include "backend/cpu/arm/vec_neon.h"

struct tile_at;
static void sums_i8mm(const struct tile_at *at, int g0, int g1, i16 sum[1][TILE_TOKENS]);
#define TILE_SUMS(kind, at, g0, g1, n_tok, sum) sums_i8mm(at, g0, g1, sum)
#include "backend/cpu/kern.h"
static void common_init(struct cpu_kern *k);
#define KERN_NAME "i8mm"
#define KERN_INIT common_init
#include "backend/cpu/kern_c.h"

#include "backend/cpu/arm/index_dot.h"

_Static_assert(TILE_TOKENS == 4 && TILE_HALVES == 4 && V16_PANELS == 1, "two pairs of tokens");

/* As tile_sums of kern_tile.h for four tokens; g1 - g0 is even. */
static void sums_i8mm(const struct tile_at *at, int g0, int g1, i16 sum[1][TILE_TOKENS])
{
    int32x4_t s[8][2]; /* [two rows][two tokens]: row 0 token 0, row 0 token 1, row 1 ... */
    UNROLL for (int i = 0; i < 16; i++)
    {
        s[i / 2][i % 2] = vdupq_n_s32(0);
    }
    for (int g = g0; g < g1; g += 2) { /* eight elements */
        const int8_t *w = (const int8_t *)at->w[0]->q[g], *v = w + 64;
        const int8_t *q = (const int8_t *)at->q + 4 * g;
        int8x16_t x[2] = {vcombine_s8(vld1_s8(q), vld1_s8(q + X_BYTES)),
                          vcombine_s8(vld1_s8(q + 2 * X_BYTES), vld1_s8(q + 3 * X_BYTES))};
        UNROLL for (int i = 0; i < 4; i++)
        {
            int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(w + 16 * i));
            int32x4_t b = vreinterpretq_s32_s8(vld1q_s8(v + 16 * i));
            int8x16_t lo = vreinterpretq_s8_s32(vzip1q_s32(a, b));
            int8x16_t hi = vreinterpretq_s8_s32(vzip2q_s32(a, b));
            UNROLL for (int t = 0; t < 2; t++)
            {
                s[2 * i][t] = vmmlaq_s32(s[2 * i][t], lo, x[t]);
                s[2 * i + 1][t] = vmmlaq_s32(s[2 * i + 1][t], hi, x[t]);
            }
        }
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        UNROLL for (int t = 0; t < 2; t++)
        {
            sum[0][2 * t].val[i] = vuzp1q_s32(s[2 * i][t], s[2 * i + 1][t]);
            sum[0][2 * t + 1].val[i] = vuzp2q_s32(s[2 * i][t], s[2 * i + 1][t]);
        }
    }
}

void kern_init_i8mm(struct cpu_kern *k)
{
    common_init(k);
    index_dot_init(k);
}
