/* kern_avx2.c - the x86-64-v3 tier: the kernels of kern_c.h, compiled with AVX2, FMA and F16C
 * and the vocabulary of vec_avx2.h. */
#include "backend/cpu/x86/vec_avx2.h"
#define KERN_NAME "avx2"
#define KERN_INIT kern_init_avx2
#include "backend/cpu/kern_c.h"
