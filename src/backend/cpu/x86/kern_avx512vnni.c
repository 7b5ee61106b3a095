/* kern_avx512vnni.c - the tier of processors that have VNNI, VBMI and GFNI beside x86-64-v4: the
 * kernels of the avx512 tier, and products of the block formats with 8-bit dot instructions and
 * byte permutes: row by row and packed. Read next: dot_avx512vnni.h.
 */
#include "backend/cpu/kern.h"
#include "backend/cpu/kern_order.h"
#include "backend/cpu/x86/vec_avx512.h"

#include "backend/cpu/kern_panel.h"
#include "backend/cpu/kern_tile.h"
#include "backend/cpu/x86/dot_4_avx512vnni.h"
#include "backend/cpu/x86/dot_8_avx512vnni.h"
#include "backend/cpu/x86/dot_iq2_avx512vnni.h"
#include "backend/cpu/x86/dot_k_avx512vnni.h"
#include "backend/cpu/x86/panel_iq2_avx512vnni.h"

void kern_init_avx512vnni(struct cpu_kern *k)
{
    k->name = "avx512vnni";
    k->pack_panel = pack_panel_vbmi;
    k->pack_tokens_a8 = pack_tokens_vbmi;
    k->turned[QT_IQ2_XXS] = true;
    k->tiles_a8 = tiles_a8;
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
