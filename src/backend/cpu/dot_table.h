/* dot_table.h - the formats that have direct decode kernels, the same ones in every tier that
 * has any. Included by the file of a tier, behind its rows_<name>. */
#ifndef CPU_DOT_TABLE_H
#define CPU_DOT_TABLE_H

#include "backend/cpu/kern.h"

static void dot_table(struct cpu_kern *k)
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

#endif
