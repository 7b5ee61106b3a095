/* rows_avx2.c - decode products of block formats straight from the file's bytes
 * for AVX2: entries of the tables of the tiers from avx2 on. Read
 * next: dot_avx2.h. */
#include "backend/cpu/x86/dot_iq2_avx2.h"
#include "backend/cpu/x86/dot_k_avx2.h"

#include "backend/cpu/dot_table.h"

void kern_rows_avx2(struct cpu_kern *k)
{
    dot_table(k);
}
