/* piece_cache.c - remembers the ids of short pieces, because most pieces of a text repeat.
 * Main idea: a direct-mapped table of one-line entries (old contents are simply overwritten, so
 * it is bounded and needs no eviction order), in several lanes. An encode call takes a free
 * lane for its whole duration, so lookups are plain memory reads; when every lane is taken, the
 * call computes all its pieces, with the same result. Lanes are allocated on first use.
 * Invariant: an entry's ids are what bpe.c computes for its key; nothing else may be stored.
 * Thread rule: a lane belongs to the thread that took it, until it gives it back. */
#include "text/vocab.h"

#include <pthread.h>

#include "base/mem.h"

enum { LANE_COUNT = 4, LANE_BITS = 14 }; /* 16384 entries of 64 bytes: 1 MiB a lane */

struct cache_lane {
    pthread_mutex_t lock;
    struct cache_entry *entries; /* [1 << LANE_BITS]; NULL until first taken */
};
struct piece_cache {
    struct cache_lane lanes[LANE_COUNT];
};

struct piece_cache *piece_cache_new(void)
{
    struct piece_cache *c = mem_calloc(1, sizeof *c);
    if (!c) {
        return NULL;
    }
    for (int i = 0; i < LANE_COUNT; i++) {
        if (pthread_mutex_init(&c->lanes[i].lock, NULL) != 0) {
            while (i-- > 0) {
                pthread_mutex_destroy(&c->lanes[i].lock);
            }
            mem_free(c);
            return NULL;
        }
    }
    return c;
}

void piece_cache_free(struct piece_cache *c)
{
    if (!c) {
        return;
    }
    for (int i = 0; i < LANE_COUNT; i++) {
        pthread_mutex_destroy(&c->lanes[i].lock);
        mem_free(c->lanes[i].entries);
    }
    mem_free(c);
}

struct cache_lane *piece_cache_take(struct piece_cache *c)
{
    for (int i = 0; i < LANE_COUNT; i++) {
        struct cache_lane *lane = &c->lanes[i];
        if (pthread_mutex_trylock(&lane->lock) != 0) {
            continue;
        }
        size_t bytes = sizeof *lane->entries << LANE_BITS;
        if (!lane->entries && (lane->entries = mem_alloc_aligned(64, bytes))) {
            memset(lane->entries, 0, bytes);
        }
        if (lane->entries) {
            return lane;
        }
        pthread_mutex_unlock(&lane->lock);
        return NULL;
    }
    return NULL;
}

void piece_cache_give(struct cache_lane *lane)
{
    if (lane) {
        pthread_mutex_unlock(&lane->lock);
    }
}

struct cache_entry *piece_cache_slot(struct cache_lane *lane, struct slice piece,
                                     uint64_t key[4])
{
    memset(key, 0, 32);
    memcpy(key, piece.p, piece.n);
    ((char *)key)[CACHE_PIECE_MAX] = (char)piece.n;
    uint64_t h = key[0] * 0x9E3779B97F4A7C15u ^ key[3];
    if (piece.n > 8) {
        h = (h ^ h >> 32 ^ key[1]) * 0xBF58476D1CE4E5B9u;
        h = (h ^ h >> 32 ^ key[2]) * 0x94D049BB133111EBu;
    }
    h ^= h >> 32;
    return &lane->entries[h * 0x9E3779B97F4A7C15u >> (64 - LANE_BITS)];
}
