/* encode.h - float rows to stored types: F32, F16, BF16, Q8_0, and the lossless MXFP4 repack.
 * Pure, thread-safe, deterministic. The 2-bit quantisers will stand beside this. */
#ifndef QUANT_ENCODE_H
#define QUANT_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Can quant_encode write this type? */
bool quant_can_encode(uint32_t type_id);
/* Encodes a row of n floats (n a multiple of the type's block). Values beyond F16's range become
 * infinite; the return value counts elements (or block scales) that overflowed or underflowed to
 * zero, so that a writer can report them. */
size_t quant_encode(uint32_t type_id, const float *x, size_t n, void *row);

#endif
