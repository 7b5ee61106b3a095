/* tiers.c - which instruction-set tiers this arm64 processor and its operating system offer.
 * Linux tells through the auxiliary vector, macOS through sysctl; elsewhere the baseline is
 * used. A tier counts only together with those below it, as in the ladder of kern_c.c. */
#include "backend/cpu/kern.h"

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static bool have_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
static bool have_i8mm(void)
{
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static bool have_feature(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
static bool have_dotprod(void)
{
    return have_feature("hw.optional.arm.FEAT_DotProd");
}
static bool have_i8mm(void)
{
    return have_feature("hw.optional.arm.FEAT_I8MM");
}
#else
static bool have_dotprod(void)
{
    return false;
}
static bool have_i8mm(void)
{
    return false;
}
#endif

uint32_t kern_tiers_arm(void)
{
    uint32_t tiers = CPU_TIER_NEON;
    if (have_dotprod()) {
        tiers |= CPU_TIER_DOTPROD;
        tiers |= have_i8mm() ? (uint32_t)CPU_TIER_I8MM : 0;
    }
    return tiers;
}
