/* kern_neon.c - the tier that every arm64 processor has: the kernels of kern_c.h with the
 * vocabulary of vec_neon.h. */
#include "backend/cpu/arm/vec_neon.h"
#define KERN_NAME "neon"
#define KERN_INIT kern_init_neon
#include "backend/cpu/kern_c.h"
