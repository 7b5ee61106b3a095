/* kern_dotprod.c - the tier of arm64 processors with 8-bit dot products (armv8.2 with dotprod:
 * Cortex-A76, Neoverse N1, Apple A13 and later): kernels of kern_c.h, integer sums by SDOT
 * (vec_neon.h). */
#include "backend/cpu/arm/vec_neon.h"
#include "backend/cpu/kern.h"
static void common_init(struct cpu_kern *k);
#define KERN_NAME "dotprod"
#define KERN_INIT common_init
#include "backend/cpu/kern_c.h"

#include "backend/cpu/arm/index_dot.h"

void kern_init_dotprod(struct cpu_kern *k)
{
    common_init(k);
    index_dot_init(k);
}
