/* kern_cut.h - how the tokens of a product of panels are cut into tiles. Included by kern_tile.h
 * and x86/tile_amx.h. */
#ifndef CPU_KERN_CUT_H
#define CPU_KERN_CUT_H

#include <stdint.h>

/* One copy of the code for every kind of panel and width of tile: these are constants. */
#define TILE_INLINE static inline __attribute__((always_inline))

/* Widths as equal as possible, the wider tiles first. */
struct tile_cut {
    uint32_t n, width, wider; /* tiles; tokens of each; the first `wider` have one more */
};
static inline struct tile_cut tile_cut(uint32_t n_tok, uint32_t most)
{
    uint32_t n = (n_tok + most - 1) / most;
    return (struct tile_cut){.n = n, .width = n_tok / n, .wider = n_tok % n};
}
static inline uint32_t tile_first(const struct tile_cut *c, uint32_t i)
{
    return i * c->width + (i < c->wider ? i : c->wider);
}
static inline uint32_t tile_width(const struct tile_cut *c, uint32_t i)
{
    return c->width + (i < c->wider);
}

#endif
