/* quant_int.h - inside src/quant only: what every block format's unpacker delivers.
 * One function per format turns 32 consecutive elements into small integers and scales
 * (struct unpacked32); floats (quant_decode) and integer codes (quant_codes32) are both derived
 * from that, in codes.c. */
#ifndef QUANT_QUANT_INT_H
#define QUANT_QUANT_INT_H

#include <stdint.h>

#include "quant/formats.h"

/* block: the first byte of a block; g: which 32 elements of it (0 for blocks of 32). Sets every
 * field of u. Any block bytes are safe: all indices are exactly as wide as their tables. */
typedef void unpack_fn(const uint8_t *block, unsigned g, struct unpacked32 *u);

unpack_fn q4_0_unpack, q4_1_unpack, q5_0_unpack, q5_1_unpack, q8_0_unpack;
unpack_fn q2_k_unpack, q3_k_unpack, q4_k_unpack, q5_k_unpack, q6_k_unpack;
unpack_fn iq2_xxs_unpack, iq2_xs_unpack, iq2_s_unpack, iq3_xxs_unpack, iq3_s_unpack;
unpack_fn iq1_s_unpack, iq1_m_unpack, iq4_nl_unpack, iq4_xs_unpack, mxfp4_unpack;

#endif
