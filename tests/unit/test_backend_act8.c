/* test_backend_act8.c - the A8 encoder of each tier of this machine byte for byte against
 * act8_encode (quant/act.h), the definition: ties, subnormals, zeros, NaN and infinity. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/kern.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/act.h"
#include "unit/kern_tiers.h"

/* Contents of an A8 block, by kind: every size of number, the threshold and what is below it,
 * ties, zeros with a rare value, any finite bits, infinity in most blocks, NaN in most. */
enum { ACT_KINDS = 7 };
static float act8_value(struct rng *r, uint32_t kind)
{
    float v = f32_from_bits((uint32_t)rng_u64(r));
    switch (kind) {
    case 0: return ldexpf(rng_sym(r), (int)rng_below(r, 276) - 149);
    case 1: return rng_below(r, 40) ? ldexpf(rng_sym(r), -119) : -0x1p-119f;
    case 2: return rng_below(r, 9) ? (float)rng_below(r, 509) / 2.0f - 127.0f : 127.0f;
    case 3: return rng_below(r, 40) ? 0.0f : rng_sym(r);
    case 4: return isfinite(v) ? v : -0.0f;
    case 5: return rng_below(r, 40) ? rng_sym(r) : -INFINITY;
    default: return v;
    }
}

/* A8 blocks against act8_encode, several at a time, in the middle of a row. */
static void test_act8(void **state)
{
    (void)state;
    struct cpu_kern k[TIERS];
    enum { N = 320, B = N / 32, BYTES = N * 10 / 8 };
    uint32_t n_tier = tiers(k);
    float x[N];
    _Alignas(64) unsigned char want[BYTES], got[BYTES];
    struct rng r = {96};
    for (uint32_t round = 0; round < 3000; round++) {
        for (int i = 0; i < N; i++) {
            x[i] = act8_value(&r, round % ACT_KINDS);
        }
        uint32_t b0 = rng_below(&r, B), n = rng_below(&r, B - b0 + 1);
        for (uint32_t t = 0; t < n_tier; t++) {
            memset(want, 0xCC, sizeof want);
            memset(got, 0xCC, sizeof got);
            act8_encode(x, 32 * b0, 32 * n, N, want);
            k[t].act8(x, n, act8_q(got) + 32 * b0, act8_d(got, N) + b0,
                      act8_sum(got, N) + 2 * b0);
            for (uint32_t b = b0; b < b0 + n; b++) { /* NaN has many bits */
                float a = act8_d(want, N)[b], c = act8_d(got, N)[b];
                assert_true(isnan(a) ? isnan(c) : f32_bits(a) == f32_bits(c));
                act8_d(want, N)[b] = act8_d(got, N)[b] = 0.0f;
            }
            if (memcmp(want, got, sizeof want) != 0) {
                fail_msg("%s: A8 blocks %u to %u of round %u differ", k[t].name, b0, b0 + n,
                         round);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_act8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
