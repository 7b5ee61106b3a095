/* kern_tiers.h - for tests of single kernels: the kernel table of each tier that this machine
 * has. Include after cmocka.h. */
#ifndef TESTS_KERN_TIERS_H
#define TESTS_KERN_TIERS_H

#include "backend/cpu/kern.h"

enum { TIERS = 8 };

/* Lowest first; returns how many. */
static inline uint32_t tiers(struct cpu_kern k[TIERS])
{
    uint32_t n = 0, have = kern_available();
    for (uint32_t bit = 1; bit && bit <= have; bit <<= 1) {
        if (have & bit) {
            assert_true(n < TIERS);
            assert_int_equal(kern_select(&k[n++], bit | (bit - 1)), bit);
        }
    }
    return n;
}

#endif
