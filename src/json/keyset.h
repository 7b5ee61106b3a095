/* keyset.h - numbers the distinct keys of an object in order of arrival, in expected linear
 * time also for hostile keys: open addressing with a hash seeded from the system for each set.
 * Used for duplicate keys of large objects and for duplicate parameters of a tool call. Keys
 * are borrowed and must outlive the set. A set belongs to one thread. */
#ifndef JSON_KEYSET_H
#define JSON_KEYSET_H

#include "base/str.h"

struct keyset {
    struct keyset_entry *entry; /* owned, in order of arrival */
    uint32_t *slot;             /* owned, n_slot entries: 0 = free, else entry number + 1 */
    size_t n, cap, n_slot;
    uint64_t seed;
};

#define KEYSET_NONE SIZE_MAX

/* Number of `key`, adding it if it is new: then the answer is the value that s->n had before.
 * KEYSET_NONE when memory is out. Start from a zeroed struct. */
size_t keyset_add(struct keyset *s, struct slice key);
/* Number of `key`, or KEYSET_NONE if it was never added. */
size_t keyset_find(const struct keyset *s, struct slice key);
void keyset_clear(struct keyset *s); /* forgets the keys; cost at most that of adding them */
void keyset_free(struct keyset *s);

#endif
