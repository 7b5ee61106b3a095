/* encode.h - float rows to stored types. Direct ones: F32, F16, BF16, Q8_0, MXFP4 and its
 * lossless repack. Searching ones, which minimise a weighted error: Q2_K ... Q6_K, IQ2_XXS,
 * IQ2_XS, IQ3_XXS, IQ4_XS. Pure, thread-safe, deterministic: a row's bytes depend on nothing
 * but the row and its importance. */
#ifndef QUANT_ENCODE_H
#define QUANT_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Can quant_encode write this type? */
bool quant_can_encode(uint32_t type_id);
/* Encodes a row of n floats (n a multiple of the type's block). Values beyond F16's range
 * become infinite; the return value counts elements (block scales for Q8_0 and MXFP4) that
 * overflowed, underflowed to zero, or were not finite to begin with, so that a writer can
 * report them. F32 counts nothing. A Q8_0 block with a NaN or infinite element gets a NaN
 * scale, an MXFP4 block e = 255; both with zero codes. Asserts quant_can_encode(type_id). */
size_t quant_encode(uint32_t type_id, const float *x, size_t n, void *row);

/* Types of quant_encode_weighted: those of quant_can_encode and the searching ones. */
bool quant_can_encode_weighted(uint32_t type_id);
/* IQ2_XXS and IQ2_XS: so coarse that a row without importance should not be written as if all
 * columns counted alike. A caller without calibration data uses the energy of the weights,
 * importance[c] = sum over the matrix's rows of x[r][c]^2. */
bool quant_needs_importance(uint32_t type_id);
/* Encodes a row of n floats so that sum importance[i] * (x[i] - decoded[i])^2 is small (with a
 * slight preference for large elements, see encode_fit.c, and in the IQ2 and IQ3 types for a
 * decoded row that is as loud as the original, see encode_iq.c). importance: n values, finite
 * and not
 * negative, or NULL for all ones (in every type: see quant_needs_importance). Where a whole
 * block has none it counts as ones. The direct types ignore it.
 * Returns how many elements or blocks were lost, as quant_encode does: blocks that are written
 * as zeros because no f16 scale is small enough, blocks saturated at the largest scale, blocks
 * with a NaN or infinite element (NaN scale, zero codes). Returns -EINVAL, with nothing
 * written, if the type cannot be encoded, n is no multiple of its block, or an importance is
 * negative or not finite. All-zero blocks decode to zeros. */
int quant_encode_weighted(uint32_t type_id, const float *x, size_t n, const float *importance,
                          void *row);

/* The lossless way from the safetensors form to an MXFP4 row: n / 2 bytes of E2M1 codes,
 * element 2 i in the low and 2 i + 1 in the high nibble of byte i, and n / 32 E8M0 scale bytes.
 * n is a multiple of 32. Returns how many scales are 255 (NaN). */
size_t quant_mxfp4_repack(const uint8_t *codes, const uint8_t *scales, size_t n, void *row);

#endif
