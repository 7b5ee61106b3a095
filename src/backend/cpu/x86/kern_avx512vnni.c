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

#include "backend/cpu/dot_table.h"

void kern_init_avx512vnni(struct cpu_kern *k)
{
    k->name = "avx512vnni";
    k->few = 2;
    k->pack_tokens_a8 = pack_tokens_vbmi;
    k->turned[QT_IQ2_XXS] = true;
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        k->panels.pack[type] = pack_panel_vbmi;
        k->panels.tiles[type] = tiles_a8(type);
    }
    k->panels.lanes[QT_Q2_K] = lanes_q2_k;
    k->panels.lanes[QT_IQ2_XXS] = lanes_iq2_xxs;
    dot_table(k);
}
