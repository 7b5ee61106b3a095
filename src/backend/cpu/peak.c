/* peak.c - see peak.h: the choice of a tier, and loops in plain C that the compiler turns into
 * the baseline's vectors. Empty asm statements keep it from moving work out of the loops.
 * Read next: x86/peak_avx512.c. */
#include "backend/cpu/peak.h"

#include <math.h>

#include "backend/cpu/kern.h"

enum { LANES = 32 };

static uint64_t read_c(const void *p, size_t n, uint32_t streams)
{
    size_t one = n / streams;
    uint64_t sum[8] = {0};
    for (size_t at = 0; at < one; at += PEAK_PIECE) {
        for (size_t s = 0; s < streams; s++) {
            const uint64_t *v = (const uint64_t *)((const char *)p + s * one + at);
            for (size_t i = 0; i < PEAK_PIECE / 8; i++) {
                sum[i % 8] += v[i];
            }
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* 16-bit pairs multiplied and added into 32 bits: what the baseline offers for 8-bit codes. */
static uint64_t int8_c(uint64_t n)
{
    int16_t a[2 * LANES], b[2 * LANES];
    uint32_t acc[LANES] = {0}; /* unsigned: the sums wrap around */
    for (int i = 0; i < 2 * LANES; i++) {
        a[i] = (int16_t)(i - 32);
        b[i] = (int16_t)(i % 7 - 3);
    }
    for (uint64_t r = 0; r < n; r++) {
        __asm__ volatile("" ::"r"(a), "r"(b) : "memory");
        for (int i = 0; i < LANES; i++) {
            acc[i] += (uint32_t)(a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]);
        }
    }
    uint64_t sum = 0;
    for (int i = 0; i < LANES; i++) {
        sum += acc[i];
    }
    return sum;
}

static float f32_c(uint64_t n)
{
    float acc[LANES], a = 0.999f, b = 0.001f;
    __asm__ volatile("" : "+m"(a), "+m"(b));
    for (int i = 0; i < LANES; i++) {
        acc[i] = (float)i;
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < LANES; i++) {
#ifdef __FP_FAST_FMAF
            acc[i] = fmaf(acc[i], a, b);
#else
            acc[i] = acc[i] * a + b;
#endif
        }
    }
    float sum = 0;
    for (int i = 0; i < LANES; i++) {
        sum += acc[i];
    }
    return sum;
}

void peak_init_c(struct cpu_peak *p)
{
    *p = (struct cpu_peak){.name = "c",
                           .int8_name = "C, 16-bit pairs",
                           .f32_name = "C",
                           .read = read_c,
                           .int8 = int8_c,
                           .f32 = f32_c,
                           .int8_ops = 4.0 * LANES,
                           .f32_ops = 2.0 * LANES};
}

void peak_select(struct cpu_peak *p, uint32_t mask)
{
    uint32_t tiers = kern_available() & (mask ? mask : UINT32_MAX);
    peak_init_c(p);
#if defined(__x86_64__)
    if (tiers & CPU_TIER_AVX2) {
        peak_init_avx2(p);
    }
    if (tiers & CPU_TIER_AVX512) {
        peak_init_avx512(p);
    }
#else
    (void)tiers;
#endif
}
