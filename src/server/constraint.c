/* constraint.c - see constraint.h: the cache of compiled constraints. A constraint is known by the
 * SHA-256 of everything that it is made of, so that nobody can make two of them look the same.
 * Compiling is done outside the lock: it may take a while, and other requests need not wait. */
#include "server/constraint.h"

#include <pthread.h>

#include "base/mem.h"

enum { ENTRIES_MAX = 256 };

struct entry {
    unsigned char digest[SHA256_BYTES];
    struct machine *machine; /* one reference */
    uint64_t used;           /* turn of the last use */
};

struct constraint_cache {
    const struct tokenizer *tok; /* borrowed */
    size_t max_bytes;
    pthread_mutex_t lock;
    struct token_trie *trie; /* owned; NULL until needed */
    struct entry entry[ENTRIES_MAX];
    size_t n;
    uint64_t turn;
};

struct constraint_cache *constraint_cache_new(const struct tokenizer *tok, size_t max_bytes)
{
    struct constraint_cache *c = mem_calloc(1, sizeof *c);
    if (c) {
        c->tok = tok;
        c->max_bytes = max_bytes;
        pthread_mutex_init(&c->lock, NULL);
    }
    return c;
}

void constraint_cache_free(struct constraint_cache *c)
{
    if (c) {
        for (size_t i = 0; i < c->n; i++) {
            machine_unref(c->entry[i].machine);
        }
        trie_free(c->trie);
        pthread_mutex_destroy(&c->lock);
        mem_free(c);
    }
}

/* ---- what is known: under the lock ---- */

static struct machine *find(struct constraint_cache *c, const unsigned char *digest)
{
    for (size_t i = 0; i < c->n; i++) {
        if (memcmp(c->entry[i].digest, digest, SHA256_BYTES) == 0) {
            c->entry[i].used = ++c->turn;
            machine_ref(c->entry[i].machine);
            return c->entry[i].machine;
        }
    }
    return NULL;
}

static size_t oldest(const struct constraint_cache *c)
{
    size_t best = 0;
    for (size_t i = 1; i < c->n; i++) {
        best = c->entry[i].used < c->entry[best].used ? i : best;
    }
    return best;
}

static size_t sum_bytes(const struct constraint_cache *c)
{
    size_t bytes = 0;
    for (size_t i = 0; i < c->n; i++) {
        bytes += machine_bytes(c->entry[i].machine);
    }
    return bytes;
}

/* Makes room until the memory that is in use now, machines grow with use, is below the bound. The
 * newest stays. */
static void shrink(struct constraint_cache *c)
{
    size_t bytes = sum_bytes(c);
    while (c->n > 1 && (bytes > c->max_bytes || c->n == ENTRIES_MAX)) {
        size_t i = oldest(c), own = machine_bytes(c->entry[i].machine);
        machine_unref(c->entry[i].machine); /* answers that use it keep it */
        c->entry[i] = c->entry[--c->n];
        bytes -= MIN(bytes, own);
    }
}

static void add(struct constraint_cache *c, const unsigned char *digest, struct machine *m)
{
    shrink(c);
    struct entry *e = &c->entry[c->n++];
    memcpy(e->digest, digest, SHA256_BYTES);
    e->machine = m;
    e->used = ++c->turn;
    machine_ref(m);
    shrink(c);
}

size_t constraint_cache_bytes(struct constraint_cache *c, size_t *n)
{
    pthread_mutex_lock(&c->lock);
    size_t bytes = sum_bytes(c);
    *n = c->n;
    pthread_mutex_unlock(&c->lock);
    return bytes;
}

/* ---- making ---- */

static void hash_part(struct hash *h, const void *p, size_t n)
{
    uint64_t length = n;
    hash_add(h, &length, sizeof length);
    hash_add(h, p, n);
}

static bool digest_of(const struct constraint_spec *s, unsigned char *out)
{
    unsigned char head[] = {(unsigned char)s->kind, s->strict, (unsigned char)s->calls,
                            s->one_call, s->name.p != NULL};
    struct buf schema = {0}, tools = {0};
    struct hash h = {0};
    bool ok = hash_open(&h, HASH_SHA256);
    if (s->schema && s->kind == CONSTRAINT_JSON_SCHEMA) {
        json_write_compact(&schema, s->schema);
    }
    if (s->tools && s->calls != CONSTRAIN_CALLS_NONE) {
        json_write_compact(&tools, s->tools);
    }
    ok = ok && !schema.failed && !tools.failed;
    if (ok) {
        hash_part(&h, head, sizeof head);
        hash_part(&h, schema.n ? schema.p : "", schema.n);
        hash_part(&h, tools.n ? tools.p : "", tools.n);
        hash_part(&h, s->name.p ? s->name.p : "", s->name.n);
        ok = hash_digest(&h, out);
    }
    hash_close(&h);
    buf_free(&schema);
    buf_free(&tools);
    return ok;
}

static int compile(struct machine **out, const struct token_trie *trie,
                   const struct constraint_spec *s, fathom_err *err)
{
    struct constrain_spec spec = {
        .schema = s->kind == CONSTRAINT_JSON_SCHEMA ? s->schema : NULL,
        .object = s->kind == CONSTRAINT_JSON_OBJECT,
        .strict = s->strict,
        .calls = s->calls,
        .tools = s->tools,
        .only = s->name,
        .one_call = s->one_call,
    };
    return constrain_compile(out, &spec, trie, err);
}

/* The machine, found or compiled, with a reference. */
static int machine_for(struct machine **out, struct constraint_cache *c,
                       const struct constraint_spec *s, const unsigned char *digest,
                       fathom_err *err)
{
    pthread_mutex_lock(&c->lock);
    int rc = c->trie ? 0 : trie_new(&c->trie, c->tok, err);
    *out = rc ? NULL : find(c, digest);
    pthread_mutex_unlock(&c->lock);
    if (rc || *out) {
        return rc;
    }
    rc = compile(out, c->trie, s, err);
    if (!rc) {
        pthread_mutex_lock(&c->lock);
        struct machine *other = find(c, digest); /* compiled by another thread meanwhile */
        if (other) {
            machine_unref(*out);
            *out = other;
        } else {
            add(c, digest, *out);
        }
        pthread_mutex_unlock(&c->lock);
    }
    return rc;
}

int constraint_make(struct constraint **out, struct constraint_cache *cache,
                    const struct constraint_spec *s, fathom_err *err)
{
    struct machine *m = NULL;
    bool calls = s->tools && s->calls != CONSTRAIN_CALLS_NONE;
    *out = NULL;
    if (s->kind == CONSTRAINT_NONE && !calls) {
        return 0;
    }
    struct constraint *c = mem_calloc(1, sizeof *c);
    if (!c || !digest_of(s, c->digest)) {
        mem_free(c);
        return err_nomem(err, "a constraint", sizeof *c);
    }
    int rc = machine_for(&m, cache, s, c->digest, err);
    if (!rc) {
        bool lazy = s->kind == CONSTRAINT_NONE && s->calls == CONSTRAIN_CALLS_MAY;
        c->matcher = matcher_new(m, lazy, s->in_reasoning);
        rc = c->matcher ? 0 : err_nomem(err, "a constraint", sizeof *c);
    }
    machine_unref(m);
    if (rc) {
        mem_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

const uint32_t *constraint_mask(struct constraint *c)
{
    return matcher_mask(c->matcher);
}

void constraint_accept(struct constraint *c, uint32_t id)
{
    matcher_accept(c->matcher, id);
}

void constraint_free(struct constraint *c)
{
    if (c) {
        matcher_free(c->matcher);
        mem_free(c);
    }
}
