/* random_rows.h - random weight rows of any stored type, at memory speed and with a known
 * spread, for models that only have to be measured. Row r depends on seed and r alone, so any
 * slice of a tensor can be made by any thread. Thread rule: a struct random_rows is read-only
 * after init. */
#ifndef FACTORY_RANDOM_ROWS_H
#define FACTORY_RANDOM_ROWS_H

#include "base/err.h"

enum {
    RANDOM_LEVELS = 4 * 255 + 1, /* values of the sum of four random bytes */
    RANDOM_SCALES = 16
};

struct random_rows {
    uint32_t type; /* enum qtype */
    uint64_t cols, seed;
    size_t row_bytes, block_bytes;
    int scale_at, min_at;                              /* in a block; -1: absent */
    uint16_t scale[RANDOM_SCALES], min[RANDOM_SCALES]; /* F16; MXFP4: E8M0 byte in scale */
    uint32_t level[RANDOM_LEVELS];                     /* float types: bits of the value */
};

/* Rows of `cols` values around mean with standard deviation dev. Float types: near-Gaussian.
 * Block formats: uniform random codes, mean near 0 whatever is asked (codes from -8 to 7 are
 * half a step off), and scales that give that deviation. FATHOM_EUNSUPPORTED for types without
 * a known scale, FATHOM_EINVAL if cols does not fit the block. */
int random_rows_init(struct random_rows *g, uint32_t type, uint64_t cols, float mean, float dev,
                     uint64_t seed, fathom_err *err);
/* Writes rows [first, first + n) one after the other. */
void random_rows_fill(const struct random_rows *g, uint64_t first, uint64_t n, void *out);

#endif
