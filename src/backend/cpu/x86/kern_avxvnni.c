/* kern_avxvnni.c - the tier of processors with AVX-VNNI and without AVX-512 (clients since
 * Alder Lake, Zen 5 with AVX-512 off): the tier avx2 with the packed products of kern_tile.h by
 * 8-bit dot instructions of 256 bits. */
#include "backend/cpu/kern.h"
#include "backend/cpu/kern_order.h"
#include "backend/cpu/x86/vec_avx2.h"

#include "backend/cpu/kern_panel.h"
#include "backend/cpu/kern_tile.h"

void kern_init_avxvnni(struct cpu_kern *k)
{
    k->name = "avxvnni";
    k->few = 3;
    k->pack_tokens_a8 = pack_tokens_a8;
    for (uint32_t type = 0; type < QT_COUNT; type++) {
        k->panels.pack[type] = pack_panel;
        k->panels.tiles[type] = tiles_a8(type);
    }
}
