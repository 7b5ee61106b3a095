/* encode_sym.h - blocks of the formats without minima from floats: Q3_K, Q6_K, IQ4_XS. */
#ifndef QUANT_ENCODE_SYM_H
#define QUANT_ENCODE_SYM_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/encode_fit.h"

/* Writes one block over zeros. True if its scale did not fit an f16 (too small: the block stays
 * all zeros; too large: saturated). Thread-safe. */
bool sym_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out);
/* The same bytes, faster; only where quant_encode_tier() (encode_fit.h) says ENCODE_AVX2. */
bool sym_encode_block_avx2(uint32_t type, const struct fit_block *b, uint8_t *out);

#endif
