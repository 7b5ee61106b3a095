/* rows_neon.c - decode products of block formats straight from the file's bytes, for every arm64
 * processor: 8-bit products widened to 16 bits. Read next: dot_neon.h. */
#include "backend/cpu/arm/dot_32_neon.h"
#include "backend/cpu/arm/dot_k_neon.h"

#include "backend/cpu/dot_table.h"

void kern_rows_neon(struct cpu_kern *k)
{
    dot_table(k);
}
