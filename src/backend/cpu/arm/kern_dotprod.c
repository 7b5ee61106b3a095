/* kern_dotprod.c - the tier of arm64 processors with 8-bit dot products (armv8.2 with dotprod:
 * Cortex-A76, Neoverse N1, Apple A13 and later): kernels of kern_c.h, integer sums by SDOT
 * (vec_neon.h). */
#include "backend/cpu/arm/vec_neon.h"
#define KERN_NAME "dotprod"
#define KERN_INIT kern_init_dotprod
#include "backend/cpu/kern_c.h"
