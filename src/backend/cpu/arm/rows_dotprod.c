/* rows_dotprod.c - the kernels of rows_neon.c with SDOT, for the tiers dotprod and i8mm. (One
 * token has nothing to pair, so matrix instructions would do half their work in vain.) */
#include "backend/cpu/arm/dot_32_neon.h"
#include "backend/cpu/arm/dot_k_neon.h"

#include "backend/cpu/dot_table.h"

void kern_rows_dotprod(struct cpu_kern *k)
{
    dot_table(k);
}
