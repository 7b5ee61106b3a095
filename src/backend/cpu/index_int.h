/* index_int.h - the indexer on integers, what all tiers share: which FP4 rows and queries have
 * an integer form, and scores of the queries that only half have one.
 *
 * An FP4 value is an integer of magnitude at most 12 times a power of two (half its block's
 * scale). If the scales of a row lie within a factor of 2^INDEX_SHIFT, the row is integers of at
 * most 96 times one unit, and so is a query; then the dot of op.h, group sums added in order,
 * is an exact integer below 2^24 times both units, so that any order of summing gives its bits.
 * Units are powers of two and factor out of the F32 sum over heads, too, as long as nothing
 * nears the ends of the exponent range: the bounds below keep every value and every last bit
 * between 2^-123 and 2^109.
 *
 * Rows outside these bounds are reported as wide and scored in F32 by index.c, a query as a
 * whole likewise. Only heads whose groups are too far apart stay here: index_wide_head adds
 * their group sums one by one, as op.h does. */
#ifndef CPU_INDEX_INT_H
#define CPU_INDEX_INT_H

#include <assert.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "base/num.h"

enum {
    INDEX_SHIFT = 3,      /* scales of a row, of a head: at most this many steps apart */
    INDEX_FAR = 20,       /* groups of a wide head */
    INDEX_SCALE_MIN = 88, /* E8M0 codes of a row's smallest scale: unit 2^-40 .. 2^20 */
    INDEX_SCALE_MAX = 148,
    INDEX_UNIT_MIN = -60, /* exponents of a head's unit */
    INDEX_UNIT_MAX = 20,
    INDEX_WEIGHT_MIN = -60, /* of a head weight times its unit */
    INDEX_WEIGHT_MAX = 40,
};

/* Doubled values of the E2M1 codes plus 12. */
#define INDEX_CODES 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0

/* Units of 16 rows and how far each group's scale lies above: shift[group][row]. Returns a bit
 * for every row that has no integer form (its shifts are 0). */
static inline uint32_t index_units(const uint8_t *const *scales, size_t groups,
                                   uint8_t shift[][KERN_PANEL], float unit[KERN_PANEL])
{
    uint8_t lo[KERN_PANEL], hi[KERN_PANEL], narrow[KERN_PANEL];
    assert(groups > 0 && groups <= INDEX_MAX_N / 32);
    memset(lo, 255, sizeof lo);
    memset(hi, 0, sizeof hi);
    for (size_t g = 0; g < groups; g++) {
        for (int r = 0; r < KERN_PANEL; r++) {
            shift[g][r] = scales[r][g];
        }
        for (int r = 0; r < KERN_PANEL; r++) {
            lo[r] = shift[g][r] < lo[r] ? shift[g][r] : lo[r];
            hi[r] = shift[g][r] > hi[r] ? shift[g][r] : hi[r];
        }
    }
    uint8_t all = 0xFF;
    for (int r = 0; r < KERN_PANEL; r++) {
        uint8_t fits = (lo[r] >= INDEX_SCALE_MIN) & (lo[r] <= INDEX_SCALE_MAX) &
                       (hi[r] - lo[r] <= INDEX_SHIFT);
        narrow[r] = (uint8_t)-fits;
        all &= narrow[r];
    }
    for (int r = 0; r < KERN_PANEL; r++) {
        unit[r] = f32_from_bits(((uint32_t)lo[r] - 1) << 23); /* doubled: half the scale */
    }
    uint32_t wide = 0;
    for (int r = 0; r < KERN_PANEL && !all; r++) {
        wide |= (narrow[r] ? 0u : 1u) << r;
    }
    for (size_t g = 0; g < groups; g++) {
        for (int r = 0; r < KERN_PANEL; r++) {
            shift[g][r] = (uint8_t)(shift[g][r] - lo[r]) & narrow[r];
        }
    }
    return wide;
}

/* The four query elements of head h and step s. */
static inline int8_t *index_at(const struct index_query *q, uint32_t h, size_t s, size_t n)
{
    return q->q + ((h / INDEX_HEADS * (n / 4) + s) * INDEX_HEADS + h % INDEX_HEADS) * 4;
}

/* Dots of head h, one whose groups are far apart, with 16 rows, in their units: group sums times
 * the group's factor, added in order. offset: what the tier adds to its codes. Rare, and kept
 * out of the loops that call it. */
static __attribute__((noinline, unused)) void index_wide_head(const struct index_rows *rows,
                                                              int32_t offset,
                                                              const struct index_query *q,
                                                              uint32_t h, size_t n,
                                                              float out[KERN_PANEL])
{
    memset(out, 0, KERN_PANEL * sizeof *out);
    for (size_t g = 0; g < n / 32; g++) {
        int32_t sum[KERN_PANEL] = {0};
        for (size_t s = 8 * g; s < 8 * g + 8; s++) {
            const int8_t *qs = index_at(q, h, s, n);
            for (int r = 0; r < KERN_PANEL; r++) {
                for (int i = 0; i < 4; i++) {
                    sum[r] += (int8_t)(rows->w[s][r][i] - offset) * qs[i];
                }
            }
        }
        float factor = q->factor[h * (n / 32) + g];
        for (int r = 0; r < KERN_PANEL; r++) {
            out[r] += (float)(sum[r] * rows->mul[g][r][0]) * factor;
        }
    }
}

#endif
