/* tables.h - codebooks of the quantised block formats.
 * Written by tools/gen_tables.py from tests/data/quant-tables; the README there names the origin
 * and licence of the numbers. Do not edit: change the generator and run it again.
 * Grids are arrays of bytes in element order, so that a kernel may load an entry as one
 * little-endian 32- or 64-bit word; every table is 64-byte aligned. */
// clang-format off
#ifndef QUANT_TABLES_H
#define QUANT_TABLES_H

#include <stdalign.h>
#include <stdint.h>

/* IQ2_XXS: magnitudes 8, 25, 43. */
extern const alignas(64) uint8_t quant_grid_iq2_xxs[256][8];

/* IQ2_XS: the same levels. */
extern const alignas(64) uint8_t quant_grid_iq2_xs[512][8];

/* IQ2_S: the same levels. */
extern const alignas(64) uint8_t quant_grid_iq2_s[1024][8];

/* IQ3_XXS: magnitudes 4, 12, ... 52, 62. */
extern const alignas(64) uint8_t quant_grid_iq3_xxs[256][4];

/* IQ3_S: magnitudes 1, 3, ... 15. */
extern const alignas(64) uint8_t quant_grid_iq3_s[512][4];

/* IQ1_S and IQ1_M: -1, 0, 1. */
extern const alignas(64) int8_t quant_grid_iq1[2048][8];

/* 7-bit sign field to sign byte: bit 7 is the parity of the field. */
extern const alignas(64) uint8_t quant_signs7[128];

/* IQ4_NL and IQ4_XS code to value. */
extern const alignas(64) int8_t quant_values_iq4_nl[16];

/* E2M1 code to twice its value. */
extern const alignas(64) int8_t quant_values_mxfp4[16];

#endif
