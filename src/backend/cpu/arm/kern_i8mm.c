/* kern_i8mm.c - the tier of arm64 processors with 8-bit matrix products (i8mm: Neoverse V1 and
 * N2, Apple M2 and later): as kern_dotprod.c, but the tiles use SMMLA, which multiplies two
 * rows with two tokens over eight elements. */
#include "backend/cpu/arm/vec_neon.h"
#include "backend/cpu/kern.h"
static void common_init(struct cpu_kern *k);
#define KERN_NAME "i8mm"
#define KERN_INIT common_init
#include "backend/cpu/kern_c.h"

#define DOT_GROUP 8

/* Eight rows at a time: sums of 4 pairs of rows and 4 pairs of tokens stay in registers. */
static inline void plane_sums(const int8_t *plane, const int8_t *q,
                              int32_t sum[KERN_TOKENS][KERN_PANEL])
{
    for (int r = 0; r < KERN_PANEL; r += 8) {
        int32x4_t s[4][4]; /* [rows][tokens], each: row 0 token 0, row 0 token 1, row 1 ... */
        for (int p = 0; p < 16; p++) {
            s[p / 4][p % 4] = vdupq_n_s32(0);
        }
        for (int i = 0; i < 32; i += DOT_GROUP) {
            const int8_t *w = plane + i * KERN_PANEL + r * DOT_GROUP;
            int8x16_t x[4];
            UNROLL for (int t = 0; t < 4; t++)
            {
                x[t] = vld1q_s8(q + i * KERN_TOKENS + 16 * t);
            }
            UNROLL for (int p = 0; p < 4; p++)
            {
                int8x16_t rows = vld1q_s8(w + 16 * p);
                UNROLL for (int t = 0; t < 4; t++)
                {
                    s[p][t] = vmmlaq_s32(s[p][t], rows, x[t]);
                }
            }
        }
        for (int t = 0; t < 4; t++) {
            for (int p = 0; p < 4; p += 2) {
                vst1q_s32(sum[2 * t] + r + 2 * p, vuzp1q_s32(s[p][t], s[p + 1][t]));
                vst1q_s32(sum[2 * t + 1] + r + 2 * p, vuzp2q_s32(s[p][t], s[p + 1][t]));
            }
        }
    }
}

#include "backend/cpu/arm/index_dot.h"
#include "backend/cpu/arm/tile_dot.h"

void kern_init_i8mm(struct cpu_kern *k)
{
    common_init(k);
    tile_dot_init(k);
    index_dot_init(k);
}
