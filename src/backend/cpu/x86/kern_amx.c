/* kern_amx.c - the tier of processors that have the 8-bit tiles of AMX (servers since Sapphire
 * Rapids): the tier avx512vnni, and products of many tokens by tiles where the format has one scale
 * a block and no minimum. Fewer tokens do not pay for the larger working set, and formats with
 * minima or two scales need so many float operations a sum that tiles gain nothing. Panels of
 * IQ2_XXS are turned by its own kernels and stay with them. Read next: tile_amx.h. */
#define KERN_AMX /* x_pack.h: compilers do not agree on a name for it */
#include "backend/cpu/kern.h"
#include "backend/cpu/kern_order.h"
#include "backend/cpu/x86/vec_avx512.h"

#include "backend/cpu/kern_panel.h"
#include "backend/cpu/x86/tile_amx.h"

void kern_init_amx(struct cpu_kern *k)
{
    k->name = "amx";
    k->wide = k->panels;
    k->wide_from = AMX_LEAST;
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        struct panel_kind kind = panel_kind(type);
        if (kind.form != PANEL_HALVES && !kind.has_min && !k->turned[type]) {
            k->wide.pack[type] = pack_panel;
            k->wide.tiles[type] =
                kind.form == PANEL_SCALED ? amx_tiles_scaled : amx_tiles_plain;
        }
    }
}
