/* siphash.h - SipHash-2-4 with 128 bits out: a keyed hash whose results nobody can predict
 * without the key. Used where outside bytes are hashed: API keys (compared by digest), tables
 * that strangers fill. Pure functions, any thread. Source: Aumasson and Bernstein, "SipHash: a
 * fast short-input PRF", 2012, and its 128-bit variant. */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sip_key {
    uint64_t k[2];
};
struct sip_digest {
    uint64_t h[2];
};

/* A key from the system's random source. */
struct sip_key sip_key_random(void);
struct sip_digest sip_hash(struct sip_key key, const void *p, size_t n);
/* Takes the same time whatever the digests are. */
bool sip_equal(struct sip_digest a, struct sip_digest b);

#endif
