/* tiers.c - which instruction-set tiers this x86-64 processor and its operating system offer. A
 * tier counts only together with those below it, as in the ladder of kern_c.c. */
#include <cpuid.h>

#include "backend/cpu/kern.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Tiles have 8 KB of registers, which Linux saves for processes that have asked for it: once,
 * for all threads (Documentation/arch/x86/xstate.rst). */
static bool may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) == 0;
}
#else
static bool may_use_tiles(void)
{
    return false;
}
#endif

/* AVX-VNNI and AMX, which compilers learn to ask for by name only now. */
static bool have_avxvnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
}
static bool have_amx(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3u) == 3u &&
           may_use_tiles(); /* AMX-TILE and AMX-INT8 */
}

uint32_t kern_tiers_x86(void)
{
    uint32_t tiers = 0;
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
                tiers |= have_amx() ? (uint32_t)CPU_TIER_AMX : 0;
            }
        }
    }
    return tiers;
}
