/* rows_avx2.c - decode products of block formats in file layout for AVX2. */
#include "backend/cpu/kern.h"

void kern_rows_avx2(struct cpu_kern *k)
{
    (void)k;
}
