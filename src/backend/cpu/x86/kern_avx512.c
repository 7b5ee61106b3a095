/* kern_avx512.c - the x86-64-v4 tier: the kernels of kern_c.h, compiled with AVX-512 and the
 * vocabulary of vec_avx512.h. */
#include "backend/cpu/x86/vec_avx512.h"
#define KERN_NAME "avx512"
#define KERN_TIER_FEW 3
#define KERN_INIT kern_init_avx512
#include "backend/cpu/kern_c.h"
