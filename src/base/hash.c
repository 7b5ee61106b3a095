/* hash.c - see hash.h. The only file that knows libcrypto, CommonCrypto and xxHash. */
#include "base/hash.h"

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

#include "base/mem.h"

#if defined(__APPLE__)
#include <CommonCrypto/CommonDigest.h>

union digest {
    CC_SHA1_CTX sha1;
    CC_SHA256_CTX sha256;
};

bool hash_open(struct hash *h, enum hash_kind kind)
{
    union digest *d = mem_alloc(1, sizeof *d);
    *h = (struct hash){d, kind};
    if (d) {
        kind == HASH_SHA1 ? CC_SHA1_Init(&d->sha1) : CC_SHA256_Init(&d->sha256);
    }
    return d != NULL;
}

void hash_add(struct hash *h, const void *p, size_t n)
{
    union digest *d = h->ctx;
    while (n > 0) {
        CC_LONG k = (CC_LONG)MIN(n, (size_t)1 << 30);
        h->kind == HASH_SHA1 ? CC_SHA1_Update(&d->sha1, p, k)
                             : CC_SHA256_Update(&d->sha256, p, k);
        p = (const char *)p + k;
        n -= k;
    }
}

bool hash_copy(struct hash *to, const struct hash *from)
{
    if (!hash_open(to, from->kind)) {
        return false;
    }
    *(union digest *)to->ctx = *(const union digest *)from->ctx;
    return true;
}

bool hash_digest(const struct hash *h, unsigned char *out)
{
    union digest d = *(const union digest *)h->ctx;
    h->kind == HASH_SHA1 ? CC_SHA1_Final(out, &d.sha1) : CC_SHA256_Final(out, &d.sha256);
    return true;
}

void hash_close(struct hash *h)
{
    mem_free(h->ctx);
    *h = (struct hash){0};
}
#else
#include <openssl/evp.h>

bool hash_open(struct hash *h, enum hash_kind kind)
{
    *h = (struct hash){EVP_MD_CTX_new(), kind};
    const EVP_MD *md = kind == HASH_SHA1 ? EVP_sha1() : EVP_sha256();
    if (h->ctx && EVP_DigestInit_ex(h->ctx, md, NULL) != 1) {
        hash_close(h);
    }
    return h->ctx != NULL;
}

void hash_add(struct hash *h, const void *p, size_t n)
{
    EVP_DigestUpdate(h->ctx, p, n); /* cannot fail for these two */
}

bool hash_copy(struct hash *to, const struct hash *from)
{
    *to = (struct hash){EVP_MD_CTX_new(), from->kind};
    if (to->ctx && EVP_MD_CTX_copy_ex(to->ctx, from->ctx) != 1) {
        hash_close(to);
    }
    return to->ctx != NULL;
}

bool hash_digest(const struct hash *h, unsigned char *out)
{
    struct hash copy;
    if (!hash_copy(&copy, h)) {
        return false;
    }
    unsigned n;
    bool ok = EVP_DigestFinal_ex(copy.ctx, out, &n) == 1;
    hash_close(&copy);
    return ok;
}

void hash_close(struct hash *h)
{
    EVP_MD_CTX_free(h->ctx);
    *h = (struct hash){0};
}
#endif

void xxh128(const void *p, size_t n, unsigned char out[XXH128_BYTES])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(p, n));
    memcpy(out, c.digest, sizeof c.digest);
}

void hex_encode(const unsigned char *p, size_t n, char *out)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[p[i] >> 4];
        out[2 * i + 1] = digit[p[i] & 15];
    }
    out[2 * n] = 0;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool hex_decode(const char *s, size_t n, unsigned char *out)
{
    for (size_t i = 0; i < n; i++) {
        int hi = nibble(s[2 * i]), lo = hi < 0 ? -1 : nibble(s[2 * i + 1]);
        if (lo < 0) {
            return false;
        }
        out[i] = (unsigned char)(hi << 4 | lo);
    }
    return true;
}
