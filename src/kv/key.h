/* key.h - names of prefixes (kv-store.md 3.1, 3.2). A prefix is identified by its token ids:
 *   key(n) = SHA-1("fathom-kv-key-1" NUL, identity, salt, le32 ids[0] .. le32 ids[n-1]).
 * The identity covers everything that can change a row, the salt who may share it.
 *
 * A chain is the running hash of one token sequence: the keys at the multiples of S, and the
 * hash's state there, so that a growing conversation hashes only what is new. It does not hold
 * the ids; the caller says from where on they changed (kv_chain_cut).
 *
 * Thread rule: a chain belongs to one thread at a time. */
#ifndef KV_KEY_H
#define KV_KEY_H

#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"

enum { KV_ID_BYTES = SHA256_BYTES };

struct kv_key {
    unsigned char b[SHA1_BYTES];
};
struct kv_id { /* identity, or salt (zeros: none) */
    unsigned char b[KV_ID_BYTES];
};
static inline bool kv_key_eq(const struct kv_key *a, const struct kv_key *b)
{
    return memcmp(a->b, b->b, sizeof a->b) == 0;
}

struct kv_chain {
    struct kv_id identity, salt;
    unsigned char salt_sha[KV_ID_BYTES]; /* SHA-256 of the salt; zeros if there is none */
    uint32_t page_tokens;                /* S */
    uint32_t n, cap;                     /* boundaries hashed: keys 0 .. n exist */
    struct kv_key *key;                  /* [cap]: key(i * S); owned */
    struct hash *run;                    /* [cap]: running hash after i * S ids; owned */
};
/* salt NULL: none. FATHOM_ENOMEM leaves a closed chain. */
int kv_chain_init(struct kv_chain *c, const struct kv_id *identity, const struct kv_id *salt,
                  uint32_t page_tokens, fathom_err *err);
void kv_chain_fini(struct kv_chain *c); /* {0} is fine */
/* Memory for the keys of n tokens, so that extending so far allocates nothing. */
int kv_chain_reserve(struct kv_chain *c, uint32_t n, fathom_err *err);
/* Hashes the full segments of ids[0..n) that are not hashed yet. */
int kv_chain_extend(struct kv_chain *c, const uint32_t *ids, uint32_t n, fathom_err *err);
/* ids[n..) are about to change: forgets every boundary beyond n. */
void kv_chain_cut(struct kv_chain *c, uint32_t n);
/* key(n) for any n; extends the chain first. */
int kv_chain_key(struct kv_chain *c, const uint32_t *ids, uint32_t n, struct kv_key *out,
                 fathom_err *err);

/* Continues a running hash with ids, as little-endian words whatever the machine. */
void kv_chain_add_ids(struct hash *h, const uint32_t *ids, uint32_t n);

/* ---- identity: SHA-256 over tagged, length-prefixed fields in a fixed order ---- */

struct kv_identity {
    struct hash h;
    bool failed;
};
bool kv_identity_open(struct kv_identity *d);
/* One field: le32 length of tag, tag, le64 length, bytes. */
void kv_identity_add(struct kv_identity *d, const char *tag, const void *p, size_t n);
void kv_identity_add_u64(struct kv_identity *d, const char *tag, uint64_t v);
void kv_identity_add_f64(struct kv_identity *d, const char *tag, double v);
/* Ends it; false if memory was out at some point (out is zeroed). */
bool kv_identity_close(struct kv_identity *d, struct kv_id *out);

/* salt = SHA-256("fathom-kv-salt" || le64 length || key_digest || le64 length || cache_salt); a
 * request can narrow sharing, never widen it. Both empty: zeros. false: out of memory. */
bool kv_salt_make(struct slice key_digest, struct slice cache_salt, struct kv_id *out);

#endif
