/* kern_c.c - the portable tier: kern_c.h with the plain C vocabulary, and the choice of a tier.
 * It is the fallback for processors without AVX2 and the yardstick of the other tiers. The
 * ladder follows: start with C, then overwrite the table by each tier that the processor has
 * and the mask allows. */
#include "backend/cpu/vec_c.h"
#define KERN_NAME "c"
#define KERN_INIT kern_init_c
#include "backend/cpu/kern_c.h"

uint32_t kern_available(void)
{
    uint32_t tiers = CPU_TIER_C;
#if defined(__x86_64__)
    tiers |= kern_tiers_x86();
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
        if (tiers & CPU_TIER_AMX) {
            kern_init_amx(k);
            tier = CPU_TIER_AMX;
        }
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
