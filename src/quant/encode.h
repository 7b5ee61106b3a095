/* encode.h - float rows to stored types: F32, F16, BF16, Q8_0, and the lossless MXFP4 repack.
 * Pure, thread-safe, deterministic. The 2-bit quantisers will stand beside this. */
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

/* The lossless way from the safetensors form to an MXFP4 row: n / 2 bytes of E2M1 codes,
 * element 2 i in the low and 2 i + 1 in the high nibble of byte i, and n / 32 E8M0 scale bytes.
 * n is a multiple of 32. Returns how many scales are 255 (NaN). */
size_t quant_mxfp4_repack(const uint8_t *codes, const uint8_t *scales, size_t n, void *row);

#endif
