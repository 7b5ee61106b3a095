/* rows.h - stored KV rows: the definition of the native lossless forms (kv-store.md 2.1,
 * model.md 3) and of the simulations they come from. Pure functions; every backend's rows hold
 * these bytes. ROW_FP8: n - rope values as E4M3 codes in blocks of 64 with one E8M0 scale each,
 * then rope bf16 values (little-endian). Decoding gives exactly what FP8sim and bf16 rounding
 * gave. ROW_FP4: n values as E2M1 nibbles (low nibble = even element), one E8M0 scale per 32.
 *   ROW_F32: n floats. */
#ifndef OP_ROWS_H
#define OP_ROWS_H

#include "op/op.h"

/* Geometry of a row of n values. FP8: (n - rope) % 64 == 0; FP4: n % 32 == 0. */
struct row_geom row_geom_make(enum row_kind kind, uint32_t n, uint32_t rope);

/* x [n], after norm and RoPE (FP4: after Hadamard), to the stored bytes. scales may be NULL for
 * F32. NaN or infinite values: codes NaN (FP8) / largest magnitude (FP4). */
void row_encode(const struct row_geom *g, const float *x, void *codes, void *scales);
/* Stored bytes to floats, exact. */
void row_decode(const struct row_geom *g, const void *codes, const void *scales, float *x);

/* FP4sim per 32 in place, as rounding alone (HEAD_FINISH index). n % 32 == 0. */
void fp4_sim(float *x, uint32_t n);
/* FP8sim per 64 in place (tests). n % 64 == 0. */
void fp8_sim(float *x, uint32_t n);
/* Orthonormal Walsh-Hadamard transform, natural order; n a power of two. Butterflies in
 * ascending stride, then one product with the F32 value of n^-1/2. */
void hadamard(float *x, uint32_t n);

/* cos and sin of the rope angles of one position: cs[2i] = cos, cs[2i+1] = sin, i < table n. */
struct rope_table;
void rope_angles(const struct rope_table *t, uint32_t pos, float *cs);
/* Rotates the interleaved pairs x[0..2n) by the angles (inverse: by their negatives); each
 * product rounded: a*c - b*s computed as two products and one subtraction. */
void rope_apply(float *x, uint32_t n_pairs, const float *cs, bool inverse);

#endif
