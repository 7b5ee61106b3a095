/* pool.h - the engine's KV memory: pages of compressed rows and state slots, inside two
 * backend buffers that are sized once and touched lazily. Pages are shared between sequences
 * by reference count; who wants to write into a shared page takes a new one first
 * (kv/state.c).
 *
 * Admission. Whoever will need pages reserves them before any work starts (pool_reserve);
 * taking a page spends one reservation and therefore cannot fail. One ledger counts every
 * byte: pages and slots in use, frontier copies and staging (host memory), which may occupy what
 * pages do not; when room is short, the `relieve` hook evicts pages that only the prefix
 * index holds, and drops frontiers.
 *
 * Owned by the engine. Thread rule: engine thread. */
#ifndef KV_POOL_H
#define KV_POOL_H

#include "backend/backend.h"
#include "model/layout.h"

enum kv_kind { KV_PAGES, KV_SLOTS, KV_FRONTIERS, KV_STAGING, KV_KIND_COUNT };

struct kv_pool {
    const struct backend *be; /* borrowed, like the next two */
    struct device *dev;
    const struct layout *layout;
    struct buffer *page, *state; /* owned: n_pages pages; n_slots state slots */
    uint32_t n_pages, n_slots;
    uint32_t *ref;       /* [n_pages] sequences that hold the page; 0 = free */
    uint32_t *free_page; /* stack of free pages, lowest on top at first */
    uint32_t n_free_page;
    uint32_t n_reserved; /* promised and not yet taken, <= n_free_page */
    uint32_t *free_slot;
    uint32_t n_free_slot;
    bool *slot_used;                            /* [n_slots] */
    _Atomic uint64_t used_bytes[KV_KIND_COUNT]; /* read from any thread (fathom_engine_info) */
    /* Asked to give up what is only kept in case: until `pages` more pages are free and
     * pool_room_bytes is at least `bytes`, or nothing is left. must: for a reservation, which
     * else is refused, so that waiting a moment is in order. NULL: nothing to drop. */
    void (*relieve)(void *user, uint32_t pages, uint64_t bytes, bool must);
    void *relieve_user;
    bool poison; /* tests: fill what is handed out with 0xff bytes */
};

/* Allocates the buffers (nothing is touched). n_pages may be 0 only if the layout has no
 * pages. */
int pool_open(struct kv_pool *p, const struct backend *be, struct device *dev,
              const struct layout *l, uint32_t n_slots, uint32_t n_pages, fathom_err *err);
/* Everything must have been given back. A pool that was never opened ({0}) is fine. */
void pool_close(struct kv_pool *p);

/* Promises n pages; false (nothing promised) if fewer are free, after relieve, and not promised.
 */
bool pool_reserve(struct kv_pool *p, uint32_t n);
void pool_unreserve(struct kv_pool *p, uint32_t n);
/* Pages that could be reserved now. */
uint32_t pool_available(const struct kv_pool *p);

/* Spends one reservation; the page has one reference. */
uint32_t pool_page_take(struct kv_pool *p);
void pool_page_ref(struct kv_pool *p, uint32_t page);
/* Drops one reference; the last one frees the page. */
void pool_page_drop(struct kv_pool *p, uint32_t page);
static inline bool pool_page_shared(const struct kv_pool *p, uint32_t page)
{
    return p->ref[page] > 1;
}
/* Copies the whole page. */
void pool_page_copy(struct kv_pool *p, uint32_t to, uint32_t from);

/* false when all slots are in use. */
bool pool_slot_take(struct kv_pool *p, uint32_t *slot);
void pool_slot_drop(struct kv_pool *p, uint32_t slot);
void pool_slot_copy(struct kv_pool *p, uint32_t to, uint32_t from);
/* Tests: overwrites a slot in use when `poison` is on; else nothing. */
void pool_slot_poison(struct kv_pool *p, uint32_t slot);
/* Byte address of a place in a state slot, in the buffer `state`. */
static inline uint64_t pool_slot_at(const struct kv_pool *p, uint32_t slot, uint64_t offset)
{
    return (uint64_t)slot * p->layout->slot_bytes + offset;
}

/* Page bytes that neither pages in use, reservations, frontiers nor staging occupy. */
uint64_t pool_room_bytes(const struct kv_pool *p);
/* Frontier copies and the staging memory of a load: may they take `bytes` of what pages and
 * reservations leave? Relieves first. */
bool pool_charge(struct kv_pool *p, enum kv_kind kind, uint64_t bytes);
void pool_discharge(struct kv_pool *p, enum kv_kind kind, uint64_t bytes);

/* The ledger: bytes in use by kind; KV_KIND_COUNT for the sum. budget: all pages and slots. */
uint64_t pool_used_bytes(const struct kv_pool *p, enum kv_kind kind);
uint64_t pool_budget_bytes(const struct kv_pool *p);
/* Walks all lists and asserts that they agree (tests, debug builds): O(pages + slots). */
void pool_check(const struct kv_pool *p);

#endif
