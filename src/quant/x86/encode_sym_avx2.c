/* encode_sym_avx2.c - encode_sym.c once more, for processors with AVX2: eight lanes instead of
 * four (quant/encode_lanes.h). The bytes it writes are the same; a test compares them. */
#define sym_encode_block sym_encode_block_avx2
#include "quant/encode_sym.c"
