/* kern_dotprod.c - the tier of arm64 processors with 8-bit dot products (armv8.2 with dotprod:
 * Cortex-A76, Neoverse N1, Apple A13 and later): kernels of kern_c.h, integer sums by SDOT row
 * by row (vec_neon.h) and in tiles (tile_dot.h). */
#include "backend/cpu/arm/vec_neon.h"
#include "backend/cpu/kern.h"
static void common_init(struct cpu_kern *k);
#define KERN_NAME "dotprod"
#define KERN_INIT common_init
#include "backend/cpu/kern_c.h"

#define DOT_GROUP 4
#define ADD(t, x, lane)                                  \
    do {                                                 \
        s[t][0] = vdotq_laneq_s32(s[t][0], w0, x, lane); \
        s[t][1] = vdotq_laneq_s32(s[t][1], w1, x, lane); \
    } while (0)

/* Eight rows at a time: 16 sums stay in registers. */
static inline void plane_sums(const int8_t *plane, const int8_t *q,
                              int32_t sum[KERN_TOKENS][KERN_PANEL])
{
    for (int r = 0; r < KERN_PANEL; r += 8) {
        int32x4_t s[KERN_TOKENS][2];
        for (int t = 0; t < KERN_TOKENS; t++) {
            s[t][0] = s[t][1] = vdupq_n_s32(0);
        }
        for (int i = 0; i < 32; i += DOT_GROUP) {
            const int8_t *w = plane + i * KERN_PANEL + r * DOT_GROUP;
            int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);
            int8x16_t x0 = vld1q_s8(q + i * KERN_TOKENS),
                      x1 = vld1q_s8(q + i * KERN_TOKENS + 16);
            ADD(0, x0, 0);
            ADD(1, x0, 1);
            ADD(2, x0, 2);
            ADD(3, x0, 3);
            ADD(4, x1, 0);
            ADD(5, x1, 1);
            ADD(6, x1, 2);
            ADD(7, x1, 3);
        }
        for (int t = 0; t < KERN_TOKENS; t++) {
            vst1q_s32(sum[t] + r, s[t][0]);
            vst1q_s32(sum[t] + r + 4, s[t][1]);
        }
    }
}

#include "backend/cpu/arm/index_dot.h"
#include "backend/cpu/arm/tile_dot.h"

void kern_init_dotprod(struct cpu_kern *k)
{
    common_init(k);
    tile_dot_init(k);
    index_dot_init(k);
}
