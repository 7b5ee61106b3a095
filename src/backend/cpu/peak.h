/* peak.h - what this machine can do at most, measured by loops that do nothing else: reading
 * memory, 8-bit integer dot products, float fused multiply-adds. The yardstick of `fathom
 * bench`; no step uses it. One table per instruction-set tier, as with kern.h. Pure functions,
 * any thread. */
#ifndef CPU_PEAK_H
#define CPU_PEAK_H

#include <stddef.h>
#include <stdint.h>

enum { PEAK_PIECE = 256 };

struct cpu_peak {
    const char *name, *int8_name, *f32_name; /* the instructions used */
    /* Sums n bytes (64-byte aligned) as words; the sum keeps the loads alive. streams: parts of
     * equal length read in turn, PEAK_PIECE bytes each; 1 reads straight ahead. n is a multiple
     * of both. */
    uint64_t (*read)(const void *p, size_t n, uint32_t streams);
    /* n rounds of register-only work; returns a value to be kept. */
    uint64_t (*int8)(uint64_t n);
    float (*f32)(uint64_t n);
    double int8_ops, f32_ops; /* operations of a round: a multiply and an add count two */
};

/* The best table of the tiers in `mask` (kern.h; 0 = all) that this machine has. */
void peak_select(struct cpu_peak *p, uint32_t mask);

/* Each overwrites what its tier does better. */
void peak_init_c(struct cpu_peak *p);
void peak_init_avx2(struct cpu_peak *p);
void peak_init_avx512(struct cpu_peak *p);

#endif
