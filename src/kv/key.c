/* key.c - see key.h. A chain keeps one running hash per boundary: forgetting and going on from
 * any boundary then costs nothing, and a frontier's key at most S ids. */
#include "kv/key.h"

#include "base/mem.h"
#include "base/num.h"

enum { PREFIX_BYTES = 16 + 2 * KV_ID_BYTES, IDS_AT_ONCE = 1024 };

static bool id_is_zero(const struct kv_id *id)
{
    static const struct kv_id zero;
    return memcmp(id, &zero, sizeof zero) == 0;
}

/* SHA-256 of n bytes; false: out of memory. */
static bool sha256(const void *p, size_t n, unsigned char out[SHA256_BYTES])
{
    struct hash h;
    if (!hash_open(&h, HASH_SHA256)) {
        return false;
    }
    hash_add(&h, p, n);
    bool ok = hash_digest(&h, out);
    hash_close(&h);
    return ok;
}

void kv_chain_add_ids(struct hash *h, const uint32_t *ids, uint32_t n)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    hash_add(h, ids, (size_t)n * 4);
#else
    unsigned char b[IDS_AT_ONCE * 4];
    while (n > 0) {
        uint32_t k = MIN(n, (uint32_t)IDS_AT_ONCE);
        for (uint32_t i = 0; i < k; i++) {
            store_le32(b + 4 * i, ids[i]);
        }
        hash_add(h, b, (size_t)k * 4);
        ids += k;
        n -= k;
    }
#endif
}

static bool grow(struct kv_chain *c, uint32_t n)
{
    if (n <= c->cap) {
        return true;
    }
    uint32_t cap = MAX(n, c->cap * 2);
    struct kv_key *key = mem_realloc(c->key, cap, sizeof *key);
    if (key) {
        c->key = key;
    }
    struct hash *run = mem_realloc(c->run, cap, sizeof *run);
    if (run) {
        c->run = run;
    }
    if (key && run) {
        c->cap = cap;
    }
    return key && run;
}

int kv_chain_init(struct kv_chain *c, const struct kv_id *identity, const struct kv_id *salt,
                  uint32_t page_tokens, fathom_err *err)
{
    *c = (struct kv_chain){.identity = *identity, .page_tokens = page_tokens};
    if (salt) {
        c->salt = *salt;
    }
    bool ok = id_is_zero(&c->salt) || sha256(c->salt.b, sizeof c->salt.b, c->salt_sha);
    unsigned char p[PREFIX_BYTES];
    memcpy(p, "fathom-kv-key-1", 16); /* its NUL belongs to it */
    memcpy(p + 16, c->identity.b, KV_ID_BYTES);
    memcpy(p + 16 + KV_ID_BYTES, c->salt.b, KV_ID_BYTES);
    ok = ok && grow(c, 1) && hash_open(&c->run[0], HASH_SHA1);
    if (ok) {
        hash_add(&c->run[0], p, sizeof p);
        ok = hash_digest(&c->run[0], c->key[0].b);
        if (!ok) {
            hash_close(&c->run[0]);
        }
    }
    if (!ok) {
        mem_free(c->key);
        mem_free(c->run);
        *c = (struct kv_chain){0};
        return err_nomem(err, "key chain", sizeof *c);
    }
    return 0;
}

void kv_chain_fini(struct kv_chain *c)
{
    for (uint32_t i = 0; c->run && i <= c->n; i++) {
        hash_close(&c->run[i]);
    }
    mem_free(c->key);
    mem_free(c->run);
    *c = (struct kv_chain){0};
}

int kv_chain_reserve(struct kv_chain *c, uint32_t n, fathom_err *err)
{
    uint32_t keys = n / c->page_tokens + 2;
    return grow(c, keys) ? 0 : err_nomem(err, "chain of keys", keys * sizeof *c->key);
}

int kv_chain_extend(struct kv_chain *c, const uint32_t *ids, uint32_t n, fathom_err *err)
{
    uint32_t s = c->page_tokens, end = n / s;
    if (end <= c->n) {
        return 0;
    }
    if (!grow(c, end + 1)) {
        return err_nomem(err, "key chain", (end + 1) * (sizeof *c->key + sizeof *c->run));
    }
    while (c->n < end) {
        struct hash *h = &c->run[c->n + 1];
        bool ok = hash_copy(h, &c->run[c->n]);
        if (ok) {
            kv_chain_add_ids(h, ids + (size_t)c->n * s, s);
            ok = hash_digest(h, c->key[c->n + 1].b);
        }
        if (!ok) {
            hash_close(h);
            return err_nomem(err, "key chain", sizeof *h);
        }
        c->n++;
    }
    return 0;
}

void kv_chain_cut(struct kv_chain *c, uint32_t n)
{
    while (c->n > n / c->page_tokens) {
        hash_close(&c->run[c->n--]);
    }
}

int kv_chain_key(struct kv_chain *c, const uint32_t *ids, uint32_t n, struct kv_key *out,
                 fathom_err *err)
{
    uint32_t s = c->page_tokens, k = n / s;
    int rc = kv_chain_extend(c, ids, n, err);
    if (rc != 0) {
        return rc;
    }
    if (n % s == 0) {
        *out = c->key[k];
        return 0;
    }
    struct hash h;
    bool ok = hash_copy(&h, &c->run[k]);
    if (ok) {
        kv_chain_add_ids(&h, ids + (size_t)k * s, n % s);
        ok = hash_digest(&h, out->b);
        hash_close(&h);
    }
    return ok ? 0 : err_nomem(err, "key", sizeof h);
}

/* ---- identity and salt ---- */

bool kv_identity_open(struct kv_identity *d)
{
    d->failed = !hash_open(&d->h, HASH_SHA256);
    return !d->failed;
}

void kv_identity_add(struct kv_identity *d, const char *tag, const void *p, size_t n)
{
    if (d->failed) {
        return;
    }
    unsigned char len[8];
    size_t tag_n = strlen(tag);
    store_le32(len, (uint32_t)tag_n);
    hash_add(&d->h, len, 4);
    hash_add(&d->h, tag, tag_n);
    store_le64(len, n);
    hash_add(&d->h, len, 8);
    hash_add(&d->h, p, n);
}

void kv_identity_add_u64(struct kv_identity *d, const char *tag, uint64_t v)
{
    unsigned char b[8];
    store_le64(b, v);
    kv_identity_add(d, tag, b, sizeof b);
}

void kv_identity_add_f64(struct kv_identity *d, const char *tag, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    kv_identity_add_u64(d, tag, u);
}

bool kv_identity_close(struct kv_identity *d, struct kv_id *out)
{
    memset(out, 0, sizeof *out);
    if (!d->failed) {
        d->failed = !hash_digest(&d->h, out->b);
        hash_close(&d->h);
    }
    return !d->failed;
}

bool kv_salt_make(struct slice key_digest, struct slice cache_salt, struct kv_id *out)
{
    memset(out, 0, sizeof *out);
    if (key_digest.n == 0 && cache_salt.n == 0) {
        return true;
    }
    struct hash h;
    if (!hash_open(&h, HASH_SHA256)) {
        return false;
    }
    unsigned char len[8];
    hash_add(&h, "fathom-kv-salt", 14);
    store_le64(len, key_digest.n);
    hash_add(&h, len, sizeof len);
    hash_add(&h, key_digest.p, key_digest.n);
    store_le64(len, cache_salt.n);
    hash_add(&h, len, sizeof len);
    hash_add(&h, cache_salt.p, cache_salt.n);
    bool ok = hash_digest(&h, out->b);
    hash_close(&h);
    return ok;
}
