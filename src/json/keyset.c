/* keyset.c - see keyset.h.
 *
 * Keys are hashed eight bytes at a time through a 64-bit bijection, keyed by a random seed, so
 * that a sender cannot prepare colliding keys; the answers do not depend on the seed. The table
 * is rebuilt at half load, so a probe is short. Entries keep their hash: growing never reads
 * keys. */
#include "json/keyset.h"

#include <sys/random.h>

#include "base/mem.h"
#include "base/rng.h"

struct keyset_entry {
    struct slice key;
    uint64_t hash;
};

enum { FIRST_SLOTS = 64 };

static uint64_t hash_key(uint64_t seed, struct slice key)
{
    uint64_t h = seed ^ key.n;
    for (size_t i = 0; i < key.n; i += 8) {
        uint64_t w = 0;
        memcpy(&w, key.p + i, MIN(key.n - i, sizeof w));
        h = splitmix64(h ^ w);
    }
    return h;
}

/* The slot that holds `key`, or the free slot where it belongs. */
static uint32_t *find_slot(const struct keyset *s, struct slice key, uint64_t hash)
{
    for (size_t i = hash & (s->n_slot - 1);; i = (i + 1) & (s->n_slot - 1)) {
        if (s->slot[i] == 0) {
            return &s->slot[i];
        }
        const struct keyset_entry *e = &s->entry[s->slot[i] - 1];
        if (e->hash == hash && slice_eq(e->key, key)) {
            return &s->slot[i];
        }
    }
}

static bool grow(struct keyset *s)
{
    size_t n_slot = s->n_slot ? s->n_slot * 2 : FIRST_SLOTS;
    uint32_t *slot = mem_calloc(n_slot, sizeof *slot);
    struct keyset_entry *entry = mem_realloc(s->entry, n_slot / 2, sizeof *entry);
    if (entry) {
        s->entry = entry;
        s->cap = n_slot / 2;
    }
    if (!entry || !slot) {
        mem_free(slot);
        return false;
    }
    if (!s->n_slot && getentropy(&s->seed, sizeof s->seed) != 0) {
        s->seed = (uint64_t)(uintptr_t)slot; /* an address is still hard to guess */
    }
    mem_free(s->slot);
    s->slot = slot;
    s->n_slot = n_slot;
    for (size_t i = 0; i < s->n; i++) {
        *find_slot(s, s->entry[i].key, s->entry[i].hash) = (uint32_t)(i + 1);
    }
    return true;
}

size_t keyset_add(struct keyset *s, struct slice key)
{
    if (s->n * 2 >= s->n_slot && (s->n >= UINT32_MAX / 2 || !grow(s))) {
        return KEYSET_NONE;
    }
    uint64_t hash = hash_key(s->seed, key);
    uint32_t *slot = find_slot(s, key, hash);
    if (*slot) {
        return *slot - 1;
    }
    s->entry[s->n] = (struct keyset_entry){key, hash};
    *slot = (uint32_t)++s->n;
    return s->n - 1;
}

size_t keyset_find(const struct keyset *s, struct slice key)
{
    uint32_t found = s->n ? *find_slot(s, key, hash_key(s->seed, key)) : 0;
    return found ? found - 1 : KEYSET_NONE;
}

void keyset_clear(struct keyset *s)
{
    if (s->n * 8 < s->n_slot && s->n_slot > FIRST_SLOTS) {
        keyset_free(s); /* clearing must not cost more than filling did */
    } else if (s->n) {
        memset(s->slot, 0, s->n_slot * sizeof *s->slot);
    }
    s->n = 0;
}

void keyset_free(struct keyset *s)
{
    mem_free(s->entry);
    mem_free(s->slot);
    *s = (struct keyset){0};
}
