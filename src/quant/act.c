/* act.c - floats to A8 activation blocks (act.h; style of the contract in op/op.h).
 * Every A8 dot product of every backend starts from these bytes, so each step is pinned down:
 * the maximum is taken on the bit patterns (exact, order-free, and NaN or infinity show as the
 * largest patterns), one division gives the scale, one the factor, one product per element is
 * rounded half to even. The loops have no branches on elements and vectorise; the rounding adds
 * and removes 1.5 * 2^23, whose unit in the last place is 1. */
#include "quant/act.h"

#include <assert.h>

#include "base/num.h"

/* Smallest maximum that is not treated as zero: 2^-119. Below it 127 / max nears overflow and
 * max / 127 becomes subnormal, which some processors flush. */
#define MAX_BITS_MIN 0x04000000
#define BITS_INFINITY 0x7F800000

static void encode_block(const float *restrict x, int8_t *restrict q, float *restrict d,
                         int16_t *restrict sum)
{
    int32_t bits[32], max_bits = 0;
    memcpy(bits, x, sizeof bits);
    for (int i = 0; i < 32; i++) {
        int32_t a = bits[i] & 0x7FFFFFFF;
        max_bits = a > max_bits ? a : max_bits;
    }
    if (max_bits < MAX_BITS_MIN || max_bits >= BITS_INFINITY) {
        memset(q, 0, 32);
        sum[0] = sum[1] = 0;
        *d = max_bits < MAX_BITS_MIN ? 0.0f : f32_from_bits(0x7FC00000u);
        return;
    }
    float max = f32_from_bits((uint32_t)max_bits), factor = 127.0f / max;
    *d = max / 127.0f;
    int32_t codes[32];
    for (int i = 0; i < 32; i++) {
        float shifted = x[i] * factor + 0x1.8p23f;
        memcpy(&codes[i], &shifted, 4);
        codes[i] -= 0x4B400000;
    }
    int32_t s0 = 0, s1 = 0;
    for (int i = 0; i < 16; i++) {
        s0 += codes[i];
        s1 += codes[i + 16];
    }
    for (int i = 0; i < 32; i++) {
        q[i] = (int8_t)codes[i];
    }
    sum[0] = (int16_t)s0;
    sum[1] = (int16_t)s1;
}

void act8_encode(const float *x, size_t k0, size_t len, size_t n, void *row)
{
    assert(k0 % 32 == 0 && len % 32 == 0 && n % 32 == 0 && k0 + len <= n);
    int8_t *q = act8_q(row);
    float *d = act8_d(row, n);
    int16_t *sum = act8_sum(row, n);
    for (size_t k = k0; k < k0 + len; k += 32) {
        encode_block(x + (k - k0), q + k, d + k / 32, sum + k / 16);
    }
}
