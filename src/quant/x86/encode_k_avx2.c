/* encode_k_avx2.c - encode_k.c once more, for processors with AVX2: eight lanes instead of
 * four (quant/encode_lanes.h). The bytes it writes are the same; a test compares them. */
#define k_encode_block k_encode_block_avx2
#include "quant/encode_k.c"
