/* share.c - who does which item of an op (cpu_int.h).
 *
 * With few tokens every worker has a range of items of its own. A step waits for its slowest
 * worker in every level, and on a real machine some worker is always slower than the others:
 * something else runs on its core, on the core's other thread, or it reads from farther away.
 * So a range is not a worker's property but a counter that its owner and, once they are done,
 * his neighbours advance. Only the nearest few are looked at: a team of 64 that looked at all
 * would read 64 lines of other caches in each of 671 levels.
 *
 * The counters of a level are used again in the next one, without anybody resetting them: a
 * counter carries a tag of step, op and phase, and counts as untouched when the tag is another.
 * A worker that is late in a level can still see only tags of that level, because the barrier
 * between levels lets nobody ahead. Read next: exec.c. */
#include <assert.h>

#include "backend/cpu/cpu_int.h"

enum { HELPED = 4 }; /* workers whose ranges one looks at, itself included */
/* A counter: tag << ITEM_BITS | next item. A tag comes again after 2^40 op phases. */
enum { ITEM_BITS = 24 };

struct share share_make(const struct worker *w, uint32_t phase, uint32_t n)
{
    assert(phase < CPU_PHASES);
    assert(w->s->n_tok > CPU_FEW || n < 1u << ITEM_BITS);
    const struct exec *e = w->e;
    uint32_t at = w->op * CPU_PHASES + phase;
    struct share s = {.w = w, .n = n};
    if (w->s->n_tok > CPU_FEW) {
        s.next = &e->next[at];
    } else {
        s.slot = e->slot + (size_t)(e->plan[w->op].slot + phase) * w->n;
        s.tag = (e->tag + at) & ((1ull << (64 - ITEM_BITS)) - 1);
    }
    return s;
}

/* The next item of worker r's range, if one is left. */
static bool take_from(const struct share *s, uint32_t r, uint32_t *item)
{
    uint32_t first = (uint32_t)((uint64_t)s->n * r / s->w->n);
    uint32_t end = (uint32_t)((uint64_t)s->n * (r + 1) / s->w->n);
    if (first == end) {
        return false;
    }
    atomic_ullong *v = &s->slot[r].v;
    unsigned long long seen = atomic_load_explicit(v, memory_order_relaxed);
    for (;;) {
        const unsigned long long low = (1u << ITEM_BITS) - 1;
        uint32_t i = seen >> ITEM_BITS == s->tag ? (uint32_t)(seen & low) : first;
        if (i >= end) {
            return false;
        }
        unsigned long long then = (unsigned long long)s->tag << ITEM_BITS | (i + 1);
        if (atomic_compare_exchange_weak_explicit(v, &seen, then, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            *item = i;
            return true;
        }
    }
}

bool share_next(struct share *s, uint32_t *item)
{
    if (s->next) {
        *item = atomic_fetch_add_explicit(s->next, 1, memory_order_relaxed);
        return *item < s->n;
    }
    const uint32_t n = s->w->n, most = MIN(n, (uint32_t)HELPED);
    for (; s->n_tried < most; s->n_tried++) {
        if (take_from(s, (s->w->rank + s->n_tried) % n, item)) {
            return true;
        }
    }
    return false;
}
