/* encode_k.h - blocks of the K-quants with minima from floats: Q2_K, Q4_K, Q5_K. */
#ifndef QUANT_ENCODE_K_H
#define QUANT_ENCODE_K_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/encode_fit.h"

/* Writes one block over zeros. True if its scales did not fit an f16 (too small: the block
 * stays all zeros; too large: saturated). */
bool k_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out);
/* The same bytes, faster; only where quant_encode_tier() (encode_fit.h) says ENCODE_AVX2. */
bool k_encode_block_avx2(uint32_t type, const struct fit_block *b, uint8_t *out);

#endif
