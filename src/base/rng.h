/* rng.h - splitmix64 and a small counter-based generator: deterministic on every platform.
 * Used for sampling (seeded) and for tests; not for secrets. */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

static inline uint64_t splitmix64(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

struct rng {
    uint64_t s;
};
static inline uint64_t rng_u64(struct rng *r)
{
    uint64_t v = splitmix64(r->s);
    r->s += 0x9E3779B97F4A7C15u;
    return v;
}
static inline uint32_t rng_below(struct rng *r, uint32_t n) /* 0..n-1, n >= 1 */
{
    return (uint32_t)((rng_u64(r) >> 32) * (uint64_t)n >> 32);
}
static inline double rng_unit(struct rng *r) /* [0, 1), 53 bits */
{
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}
static inline float rng_sym(struct rng *r) /* [-1, 1) */
{
    return (float)(rng_unit(r) * 2.0 - 1.0);
}

#endif
