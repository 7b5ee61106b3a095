/* auth.c - see auth.h. Keys are kept and compared as keyed digests of one length, all of them
 * every time, so that times tell nothing about a key. A Host header is compared as text: names
 * are never looked up, which is what stops DNS rebinding. */
#include "server/auth.h"

#include <strings.h>

#include "base/hash.h"
#include "base/mem.h"

enum { KEY_LEAST = 8 };

/* The first 128 bits of SHA-256. */
static struct sip_digest digest(struct slice s)
{
    unsigned char out[SHA256_BYTES];
    struct hash h = {0};
    struct sip_digest d;
    bool ok = hash_open(&h, HASH_SHA256);
    if (ok) {
        hash_add(&h, s.p, s.n);
        ok = hash_digest(&h, out);
        hash_close(&h);
    }
    if (!ok) { /* out of memory */
        struct sip_key k = sip_key_random();
        return (struct sip_digest){{k.k[0], k.k[1]}};
    }
    memcpy(&d, out, sizeof d);
    return d;
}

struct sip_digest auth_salt(const struct auth *a, int key, struct slice own)
{
    struct sip_digest salt = a->n_key > 1 && key >= 0 ? a->owner[key] : (struct sip_digest){0};
    if (own.n > 0) {
        struct sip_digest d = digest(own);
        salt.h[0] ^= d.h[0];
        salt.h[1] ^= d.h[1];
    }
    return salt;
}

int auth_init(struct auth *a, const char *const *keys, size_t n, fathom_err *err)
{
    *a = (struct auth){.secret = sip_key_random()};
    if (n == 0) {
        return 0;
    }
    a->key = mem_alloc(n, sizeof *a->key);
    a->owner = mem_alloc(n, sizeof *a->owner);
    if (!a->key || !a->owner) {
        return err_nomem(err, "API keys", n * sizeof *a->key);
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(keys[i]);
        if (len < KEY_LEAST) {
            return err_set(err, FATHOM_EINVAL,
                           "API key %zu has %zu characters; use at least %d, from a random "
                           "source",
                           i + 1, len, KEY_LEAST);
        }
        a->owner[i] = digest(slice_of(keys[i]));
        a->key[a->n_key++] = sip_hash(a->secret, keys[i], len);
    }
    return 0;
}

void auth_fini(struct auth *a)
{
    mem_free(a->key);
    mem_free(a->owner);
    *a = (struct auth){0};
}

int auth_check(const struct auth *a, const char *authorization, const char *key)
{
    int found = -1;
    const char *text = key ? key : "";
    if (a->n_key == 0) {
        return 0;
    }
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) {
        text = authorization + 7;
        text += strspn(text, " ");
    }
    struct sip_digest d = sip_hash(a->secret, text, strlen(text));
    for (size_t i = 0; i < a->n_key; i++) {
        found = sip_equal(d, a->key[i]) ? (int)i : found;
    }
    return found;
}

/* The name in a Host header or an authority, without port and brackets. */
static struct slice host_name(const char *host)
{
    struct slice s = slice_of(host);
    if (s.n && s.p[0] == '[') {
        const char *end = memchr(s.p, ']', s.n);
        return end ? (struct slice){s.p + 1, (size_t)(end - s.p) - 1} : (struct slice){0};
    }
    const char *colon = memchr(s.p, ':', s.n);
    return colon ? (struct slice){s.p, (size_t)(colon - s.p)} : s;
}

static bool same_name(struct slice a, const char *b)
{
    return a.n == strlen(b) && strncasecmp(a.p, b, a.n) == 0;
}

bool host_allowed(const char *host, const char *bound, const char *const *more, size_t n_more)
{
    static const char *const own[] = {"localhost", "127.0.0.1", "::1"};
    struct slice name = host_name(host);
    if (name.n == 0) {
        return false;
    }
    if (name.p[name.n - 1] == '.') {
        name.n--; /* a fully qualified name */
    }
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        if (same_name(name, own[i])) {
            return true;
        }
    }
    for (size_t i = 0; i < n_more; i++) {
        if (same_name(name, more[i]) || strcmp(more[i], "*") == 0) {
            return true;
        }
    }
    return bound[0] && same_name(name, bound);
}

bool origin_is_own(const char *origin, const char *host)
{
    const char *p = strstr(origin, "://");
    return p && strcasecmp(p + 3, host) == 0;
}

bool address_is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}
