/* act.h - A8: the 8-bit form of an activation row (op/op.h "Activation forms").
 * Per block of 32 values: d = max|x| / 127 (F32), q = round-half-even(x * (127 / max)), all
 * zero if max < 2^-119 (so that neither 127 / max overflows nor d is subnormal), and the sums
 * of each 16 codes. NaN or infinite input makes d NaN and q 0, so that the result shows it.
 * A row of n values (n a multiple of 32) is stored as planes:
 *
 *   int8 q[n] | float d[n/32] | int16 sum[n/16]          = n * 10 / 8 bytes
 *
 * 64-byte aligned rows keep every plane aligned for n a multiple of 64. */
#ifndef QUANT_ACT_H
#define QUANT_ACT_H

#include <stddef.h>
#include <stdint.h>

static inline size_t act8_row_bytes(size_t n)
{
    return n + n / 32 * 4 + n / 16 * 2;
}
/* Views of a row's planes. */
static inline int8_t *act8_q(void *row)
{
    return (int8_t *)row;
}
static inline float *act8_d(void *row, size_t n)
{
    return (float *)((char *)row + n);
}
static inline int16_t *act8_sum(void *row, size_t n)
{
    return (int16_t *)((char *)row + n + n / 8);
}

/* Encodes x[0 .. len) as columns [k0, k0 + len) of the row of n values; k0 and len multiples of
 * 32, so that workers can fill disjoint parts. */
void act8_encode(const float *x, size_t k0, size_t len, size_t n, void *row);

#endif
