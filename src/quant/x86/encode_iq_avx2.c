/* encode_iq_avx2.c - encode_iq.c once more, for processors with AVX2: eight lanes instead of
 * four (quant/encode_lanes.h). The bytes it writes are the same; a test compares them. */
#define iq_encode_block iq_encode_block_avx2
#include "quant/encode_iq.c"
