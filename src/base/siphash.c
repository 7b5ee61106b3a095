/* siphash.c - see siphash.h. Two rounds a word, four at the end; the second half of the result
 * comes from four more rounds. Words are little-endian whatever the machine. */
#include "base/siphash.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"

struct sip {
    uint64_t v0, v1, v2, v3;
};

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void rounds(struct sip *s, int n)
{
    for (int i = 0; i < n; i++) {
        s->v0 += s->v1;
        s->v1 = rotl(s->v1, 13) ^ s->v0;
        s->v0 = rotl(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = rotl(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = rotl(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = rotl(s->v1, 17) ^ s->v2;
        s->v2 = rotl(s->v2, 32);
    }
}

static uint64_t word(const unsigned char *p, size_t n)
{
    uint64_t w = 0;
    for (size_t i = 0; i < n; i++) {
        w |= (uint64_t)p[i] << 8 * i;
    }
    return w;
}

static void absorb(struct sip *s, uint64_t m)
{
    s->v3 ^= m;
    rounds(s, 2);
    s->v0 ^= m;
}

struct sip_digest sip_hash(struct sip_key key, const void *p, size_t n)
{
    const unsigned char *b = p;
    struct sip s = {key.k[0] ^ 0x736f6d6570736575u, key.k[1] ^ 0x646f72616e646f6du ^ 0xee,
                    key.k[0] ^ 0x6c7967656e657261u, key.k[1] ^ 0x7465646279746573u};
    size_t i = 0;
    for (; n - i >= 8; i += 8) {
        absorb(&s, word(b + i, 8));
    }
    absorb(&s, word(b + i, n - i) | (uint64_t)n << 56);
    struct sip_digest d;
    s.v2 ^= 0xee;
    rounds(&s, 4);
    d.h[0] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    rounds(&s, 4);
    d.h[1] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return d;
}

struct sip_key sip_key_random(void)
{
    struct sip_key key;
    if (getentropy(&key, sizeof key) != 0) { /* no random source: still different every time */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        key.k[0] = splitmix64((uint64_t)t.tv_nsec ^ (uint64_t)getpid() << 32);
        key.k[1] = splitmix64((uint64_t)t.tv_sec ^ (uint64_t)(uintptr_t)&key);
    }
    return key;
}

bool sip_equal(struct sip_digest a, struct sip_digest b)
{
    volatile uint64_t diff = (a.h[0] ^ b.h[0]) | (a.h[1] ^ b.h[1]);
    return diff == 0;
}
