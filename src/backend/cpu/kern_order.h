/* kern_order.h - the order of lanes that all products of packed rows share (op.h, lanes16).
 * Included once per tier, by kern_c.h or by the file of a tier that stands on another one. */
#ifndef CPU_KERN_ORDER_H
#define CPU_KERN_ORDER_H

#include <stddef.h>
#include <stdint.h>

#ifndef UNROLL
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#endif

/* Order in which lanes are visited: the halving tree joins neighbours of this list. */
static const uint8_t lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

/* Lanes that wait for the tree before the one visited as number i: one for each bit of i. */
static inline int lanes_waiting(int i)
{
    int n = 0;
    for (; i; i &= i - 1) {
        n++;
    }
    return n;
}

/* Blocks, of n_block of a row, of the lane visited as number i. */
static inline size_t lane_blocks(int i, size_t n_block)
{
    return n_block / 16 + (lane_order[i] < n_block % 16);
}

/* Where the terms of lane l begin in a packed form of n terms: base[l]. */
static inline void lane_bases(size_t n, size_t base[16])
{
    size_t at = 0;
    for (int i = 0; i < 16; i++) {
        int l = lane_order[i];
        base[l] = at;
        at += n / 16 + ((size_t)l < n % 16);
    }
}

/* The same for F32 panels and tiles, with room for a term behind every lane: most lanes would
 * lie a power of two apart, and packing writes to all of them in turn. */
static inline void term_bases(size_t n, size_t base[16])
{
    lane_bases(n, base);
    for (size_t i = 0; i < 16; i++) {
        base[lane_order[i]] += i;
    }
}

#endif
