/* ahead.h - asking memory for the rows that a product reads next.
 *
 * The rows of a matrix lie behind one another, so what stands AHEAD bytes behind the block being
 * multiplied is what the loop wants a microsecond later. The hardware's own prefetching stops at
 * every page and sees a row only when it is being read; decoding leaves it too few reads in
 * flight to hide the memory's latency. Two distances: far, into the second-level cache, which
 * has room for more outstanding lines than the first; then near, from there into the first. A
 * prefetch never faults, so nothing is said about where the matrix ends. Figures:
 * docs/performance.md. */
#ifndef CPU_AHEAD_H
#define CPU_AHEAD_H

#include <stddef.h>

enum { AHEAD_FAR = 8192, AHEAD_NEAR = 1024, AHEAD_LINE = 64 };

/* For a loop that reads n bytes at w now and goes on behind them. */
static inline __attribute__((always_inline)) void ahead(const void *w, size_t n)
{
    const char *p = w;
    for (size_t i = 0; i < n; i += AHEAD_LINE) {
        __builtin_prefetch(p + AHEAD_FAR + i, 0, 2);
        __builtin_prefetch(p + AHEAD_NEAR + i, 0, 3);
    }
}

#endif
