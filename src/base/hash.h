/* hash.h - the hashes of the program, all from system libraries: SHA-1 and SHA-256 (libcrypto;
 * CommonCrypto on macOS) name and identify, XXH3-128 (xxHash) detects damage. None of them is
 * used as a secret or against an attacker (kv-store.md 3.1).
 * Thread rule: a running hash belongs to one thread at a time; the rest is pure. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hash_kind { HASH_SHA1, HASH_SHA256 };
enum { SHA1_BYTES = 20, SHA256_BYTES = 32, XXH128_BYTES = 16 };

/* A running SHA-1 or SHA-256. {0} is a valid, closed one. */
struct hash {
    void *ctx; /* owned */
    enum hash_kind kind;
};
/* false: out of memory, h stays closed. */
bool hash_open(struct hash *h, enum hash_kind kind);
void hash_add(struct hash *h, const void *p, size_t n);
/* A second running hash that continues from the same bytes; to must be closed. */
bool hash_copy(struct hash *to, const struct hash *from);
/* The digest of what was added so far (SHA1_BYTES or SHA256_BYTES), without ending the hash;
 * false: out of memory. */
bool hash_digest(const struct hash *h, unsigned char *out);
void hash_close(struct hash *h); /* closed ones are fine */

/* XXH3-128, seed 0, in the canonical (big-endian) byte order. */
void xxh128(const void *p, size_t n, unsigned char out[XXH128_BYTES]);

/* Lower-case hexadecimal of n bytes and its NUL: out has 2n + 1 bytes. */
void hex_encode(const unsigned char *p, size_t n, char *out);
/* Exactly n bytes from 2n lower-case digits; false if a character is no such digit. */
bool hex_decode(const char *s, size_t n, unsigned char *out);

#endif
