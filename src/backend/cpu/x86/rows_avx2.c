/* rows_avx2.c - decode products of block formats straight from the file's bytes
 * for AVX2: entries of the tables of the tiers from avx2 on. Read
 * next: dot_avx2.h. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#include "backend/cpu/x86/dot_iq2_avx2.h"
#include "backend/cpu/x86/dot_k_avx2.h"

void kern_rows_avx2(struct cpu_kern *k)
{
    k->rows_a8[QT_Q8_0] = rows_q8_0;
    k->rows_a8[QT_Q2_K] = rows_q2_k;
    k->rows_a8[QT_Q3_K] = rows_q3_k;
    k->rows_a8[QT_Q4_K] = rows_q4_k;
    k->rows_a8[QT_Q5_K] = rows_q5_k;
    k->rows_a8[QT_Q6_K] = rows_q6_k;
    k->rows_a8[QT_Q4_0] = rows_q4_0;
    k->rows_a8[QT_MXFP4] = rows_mxfp4;
    k->rows_a8[QT_IQ4_NL] = rows_iq4_nl;
    k->rows_a8[QT_IQ4_XS] = rows_iq4_xs;
    k->rows_a8[QT_IQ2_XXS] = rows_iq2_xxs;
}
