/* pool.c - see pool.h. Free pages and slots are stacks of numbers, so that what was touched
 * last is used again first and memory that was never needed stays untouched.
 *
 * Invariants: a page number is on the free stack exactly when its count is 0; n_reserved never
 * exceeds the free pages; the ledger equals what the counts say; frontiers and staging plus
 * pages in use and reserved never exceed the page budget. They are asserted, in release builds
 * too. Read next: state.c, which decides when pages are taken, shared and dropped. */
#include "kv/pool.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

static int pool_alloc(struct kv_pool *p, fathom_err *err)
{
    const struct layout *l = p->layout;
    uint64_t page_bytes, state_bytes;
    if (__builtin_mul_overflow((uint64_t)p->n_pages, l->page_bytes, &page_bytes) ||
        __builtin_mul_overflow((uint64_t)p->n_slots, l->slot_bytes, &state_bytes)) {
        return err_set(err, FATHOM_ENOMEM, "KV pool: %u pages, %u slots: size overflow",
                       p->n_pages, p->n_slots);
    }
    p->ref = mem_calloc(p->n_pages, sizeof *p->ref);
    p->free_page = mem_calloc(p->n_pages, sizeof *p->free_page);
    p->free_slot = mem_calloc(p->n_slots, sizeof *p->free_slot);
    p->slot_used = mem_calloc(p->n_slots, sizeof *p->slot_used);
    if (!p->ref || !p->free_page || !p->free_slot || !p->slot_used) {
        return err_nomem(err, "KV pool index", p->n_pages * 2 * sizeof *p->ref);
    }
    int rc = p->be->buf_alloc(p->dev, &p->page, page_bytes, BUF_PAGE, err);
    if (rc == 0) {
        rc = p->be->buf_alloc(p->dev, &p->state, state_bytes, BUF_STATE, err);
    }
    return rc;
}

int pool_open(struct kv_pool *p, const struct backend *be, struct device *dev,
              const struct layout *l, uint32_t n_slots, uint32_t n_pages, fathom_err *err)
{
    *p = (struct kv_pool){.be = be, .dev = dev, .layout = l};
    p->n_pages = n_pages;
    p->n_slots = n_slots;
    int rc = pool_alloc(p, err);
    if (rc != 0) {
        p->n_free_slot = p->n_slots = 0;
        p->n_pages = 0;
        pool_close(p);
        return rc;
    }
    for (uint32_t i = 0; i < n_pages; i++) {
        p->free_page[i] = n_pages - 1 - i;
    }
    for (uint32_t i = 0; i < n_slots; i++) {
        p->free_slot[i] = n_slots - 1 - i;
    }
    p->n_free_page = n_pages;
    p->n_free_slot = n_slots;
    return 0;
}

void pool_close(struct kv_pool *p)
{
    assert(p->n_free_page == p->n_pages && p->n_free_slot == p->n_slots);
    assert(p->n_reserved == 0);
    assert(p->used_bytes[KV_FRONTIERS] == 0 && p->used_bytes[KV_STAGING] == 0);
    if (p->be) {
        if (p->page) {
            p->be->buf_free(p->dev, p->page);
        }
        if (p->state) {
            p->be->buf_free(p->dev, p->state);
        }
    }
    mem_free(p->ref);
    mem_free(p->free_page);
    mem_free(p->free_slot);
    mem_free(p->slot_used);
    *p = (struct kv_pool){0};
}

/* ---- pages ---- */

uint32_t pool_available(const struct kv_pool *p)
{
    return p->n_free_page - p->n_reserved;
}

uint64_t pool_room_bytes(const struct kv_pool *p)
{
    uint64_t room = pool_available(p) * p->layout->page_bytes;
    uint64_t other = p->used_bytes[KV_FRONTIERS] + p->used_bytes[KV_STAGING];
    return room > other ? room - other : 0;
}

bool pool_reserve(struct kv_pool *p, uint32_t n)
{
    uint64_t need = n * p->layout->page_bytes;
    uint32_t have = pool_available(p);
    if (n == 0) {
        return true;
    }
    if ((n > have || pool_room_bytes(p) < need) && p->relieve) {
        p->relieve(p->relieve_user, n > have ? n - have : 0, need, true);
    }
    if (n > pool_available(p) || pool_room_bytes(p) < need) {
        return false;
    }
    p->n_reserved += n;
    assert(p->n_reserved <= p->n_free_page);
    return true;
}

void pool_unreserve(struct kv_pool *p, uint32_t n)
{
    assert(n <= p->n_reserved);
    p->n_reserved -= n;
}

/* Fills a range with bytes that read as NaN in every row form, in bounded pieces. */
static void poison(struct kv_pool *p, struct buffer *b, uint64_t at, uint64_t n)
{
    unsigned char junk[4096];
    memset(junk, 0xFF, sizeof junk);
    while (n > 0) {
        uint64_t part = MIN(n, (uint64_t)sizeof junk);
        p->be->buf_write(p->dev, b, at, junk, part);
        at += part;
        n -= part;
    }
}

uint32_t pool_page_take(struct kv_pool *p)
{
    assert(p->n_reserved > 0 && p->n_free_page > 0);
    uint32_t page = p->free_page[--p->n_free_page];
    p->n_reserved--;
    assert(page < p->n_pages && p->ref[page] == 0);
    p->ref[page] = 1;
    p->used_bytes[KV_PAGES] += p->layout->page_bytes;
    if (p->poison) {
        poison(p, p->page, page * p->layout->page_bytes, p->layout->page_bytes);
    }
    return page;
}

void pool_page_ref(struct kv_pool *p, uint32_t page)
{
    assert(page < p->n_pages && p->ref[page] > 0 && p->ref[page] < UINT32_MAX);
    p->ref[page]++;
}

void pool_page_drop(struct kv_pool *p, uint32_t page)
{
    assert(page < p->n_pages && p->ref[page] > 0);
    if (--p->ref[page] == 0) {
        assert(p->n_free_page < p->n_pages);
        p->free_page[p->n_free_page++] = page;
        p->used_bytes[KV_PAGES] -= p->layout->page_bytes;
    }
}

void pool_page_copy(struct kv_pool *p, uint32_t to, uint32_t from)
{
    assert(to != from && p->ref[to] == 1 && p->ref[from] > 0);
    uint64_t bytes = p->layout->page_bytes;
    p->be->buf_copy(p->dev, p->page, to * bytes, p->page, from * bytes, bytes);
}

/* ---- state slots ---- */

bool pool_slot_take(struct kv_pool *p, uint32_t *slot)
{
    if (p->n_free_slot == 0) {
        return false;
    }
    *slot = p->free_slot[--p->n_free_slot];
    assert(*slot < p->n_slots && !p->slot_used[*slot]);
    p->slot_used[*slot] = true;
    p->used_bytes[KV_SLOTS] += p->layout->slot_bytes;
    pool_slot_poison(p, *slot);
    return true;
}

void pool_slot_poison(struct kv_pool *p, uint32_t slot)
{
    if (p->poison) {
        poison(p, p->state, pool_slot_at(p, slot, 0), p->layout->slot_bytes);
    }
}

void pool_slot_drop(struct kv_pool *p, uint32_t slot)
{
    assert(slot < p->n_slots && p->slot_used[slot]);
    p->slot_used[slot] = false;
    p->free_slot[p->n_free_slot++] = slot;
    p->used_bytes[KV_SLOTS] -= p->layout->slot_bytes;
}

void pool_slot_copy(struct kv_pool *p, uint32_t to, uint32_t from)
{
    assert(to != from && p->slot_used[to] && p->slot_used[from]);
    p->be->buf_copy(p->dev, p->state, pool_slot_at(p, to, 0), p->state,
                    pool_slot_at(p, from, 0), p->layout->slot_bytes);
}

/* ---- ledger ---- */

bool pool_charge(struct kv_pool *p, enum kv_kind kind, uint64_t bytes)
{
    if (pool_room_bytes(p) < bytes && p->relieve) {
        p->relieve(p->relieve_user, 0, bytes, false);
    }
    if (pool_room_bytes(p) < bytes) {
        return false;
    }
    p->used_bytes[kind] += bytes;
    return true;
}

void pool_discharge(struct kv_pool *p, enum kv_kind kind, uint64_t bytes)
{
    assert(bytes <= p->used_bytes[kind]);
    p->used_bytes[kind] -= bytes;
}

uint64_t pool_used_bytes(const struct kv_pool *p, enum kv_kind kind)
{
    if (kind != KV_KIND_COUNT) {
        return p->used_bytes[kind];
    }
    uint64_t sum = 0;
    for (int i = 0; i < KV_KIND_COUNT; i++) {
        sum += p->used_bytes[i];
    }
    return sum;
}

uint64_t pool_budget_bytes(const struct kv_pool *p)
{
    return p->n_pages * p->layout->page_bytes + p->n_slots * p->layout->slot_bytes;
}

void pool_check(const struct kv_pool *p)
{
    uint64_t in_use = 0, slots = 0;
    for (uint32_t i = 0; i < p->n_pages; i++) {
        in_use += p->ref[i] > 0;
    }
    for (uint32_t i = 0; i < p->n_slots; i++) {
        slots += p->slot_used[i];
    }
    assert(in_use + p->n_free_page == p->n_pages);
    assert(slots + p->n_free_slot == p->n_slots);
    for (uint32_t i = 0; i < p->n_free_page; i++) {
        assert(p->ref[p->free_page[i]] == 0);
    }
    for (uint32_t i = 0; i < p->n_free_slot; i++) {
        assert(!p->slot_used[p->free_slot[i]]);
    }
    assert(p->n_reserved <= p->n_free_page);
    assert(p->used_bytes[KV_PAGES] == in_use * p->layout->page_bytes);
    assert(p->used_bytes[KV_SLOTS] == slots * p->layout->slot_bytes);
    assert(pool_used_bytes(p, KV_KIND_COUNT) + p->n_reserved * p->layout->page_bytes <=
           pool_budget_bytes(p));
}
