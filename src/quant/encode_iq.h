/* encode_iq.h - blocks of the grid formats from floats: IQ2_XXS, IQ2_XS, IQ3_XXS. */
#ifndef QUANT_ENCODE_IQ_H
#define QUANT_ENCODE_IQ_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/encode_fit.h"

/* Writes one block over zeros. True if its scale did not fit an f16 (too small: the block stays
 * all zeros; too large: saturated). Thread-safe; the first call builds the tables. */
bool iq_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out);
/* The same bytes, faster; only where quant_encode_tier() (encode_fit.h) says ENCODE_AVX2. */
bool iq_encode_block_avx2(uint32_t type, const struct fit_block *b, uint8_t *out);

#endif
