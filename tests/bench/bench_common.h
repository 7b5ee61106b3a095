/* bench_common.h - what the benchmarks of single kernels share. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* n times size bytes, zero, aligned to 64; never freed. Ends the program if there is no memory. */
static inline void *need(size_t n, size_t size)
{
    void *p = mem_alloc_aligned(64, n * size);
    if (!p) {
        exit(1);
    }
    memset(p, 0, n * size);
    return p;
}

/* The less of the best time so far (0: none yet) and another. */
static inline double best(double a, double b)
{
    return a == 0 || b < a ? b : a;
}

#endif
