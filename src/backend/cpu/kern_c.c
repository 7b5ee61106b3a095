/* kern_c.c - the portable tier: kern_c.h with the plain C vocabulary, and the choice of a tier.
 * It is the fallback for processors without AVX2 and the yardstick of the other tiers. The
 * ladder follows: start with C, then overwrite the table by each tier that the processor has
 * and the mask allows. */
#include "backend/cpu/vec_c.h"
#define KERN_NAME "c"
#define KERN_INIT kern_init_c
#include "backend/cpu/kern_c.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* AVX-VNNI, which compilers learn to ask for by name only now: leaf 7.1, eax bit 4. */
static bool have_avxvnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
}
#endif

uint32_t kern_available(void)
{
    uint32_t tiers = CPU_TIER_C;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        tiers |= CPU_TIER_AVX2;
        tiers |= have_avxvnni() ? (uint32_t)CPU_TIER_AVXVNNI : 0;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            tiers |= CPU_TIER_AVX512;
            if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
                __builtin_cpu_supports("gfni")) {
                tiers |= CPU_TIER_AVX512VNNI;
            }
        }
    }
#elif defined(__aarch64__)
    tiers |= kern_tiers_arm();
#endif
    return tiers;
}

enum cpu_tier kern_select(struct cpu_kern *k, uint32_t mask)
{
    uint32_t tiers = kern_available() & (mask ? mask : UINT32_MAX);
    enum cpu_tier tier = CPU_TIER_C;
    kern_init_c(k);
#if defined(__x86_64__)
    if (tiers & CPU_TIER_AVX2) {
        kern_init_avx2(k);
        kern_rows_avx2(k);
        kern_index_avx2(k);
        tier = CPU_TIER_AVX2;
        if (tiers & CPU_TIER_AVXVNNI) {
            kern_init_avxvnni(k);
            tier = CPU_TIER_AVXVNNI;
        }
    }
    if (tiers & CPU_TIER_AVX512) {
        kern_init_avx512(k);
        kern_rows_avx2(k);
        kern_index_avx2(k);
        tier = CPU_TIER_AVX512;
    }
    if ((tiers & CPU_TIER_AVX512VNNI) && (tiers & CPU_TIER_AVX512)) {
        kern_init_avx512vnni(k);
        kern_index_avx512vnni(k);
        tier = CPU_TIER_AVX512VNNI;
    }
#elif defined(__aarch64__)
    if (tiers & CPU_TIER_NEON) {
        kern_init_neon(k);
        kern_rows_neon(k);
        tier = CPU_TIER_NEON;
    }
    if (tiers & CPU_TIER_DOTPROD) {
        kern_init_dotprod(k);
        kern_rows_dotprod(k);
        tier = CPU_TIER_DOTPROD;
    }
    if (tiers & CPU_TIER_I8MM) {
        kern_init_i8mm(k);
        kern_rows_dotprod(k);
        tier = CPU_TIER_I8MM;
    }
#else
    (void)tiers;
#endif
    return tier;
}
