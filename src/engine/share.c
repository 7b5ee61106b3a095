/* share.c - what sessions leave for each other in RAM. As soon as a page of a session is full
 * it becomes a node of the prefix tree, shared with the session; when a session gives tokens up
 * (it ends, or is set to others) its partial page and its frontiers go there, too. Nothing is
 * copied: a page that two hold is copied by the first who writes into it (kv/state.h).
 *
 * The other direction is relieve: when the pool is short of memory, frontiers that are old,
 * then pages that only the tree holds, least recently used leaves first, then the rest of the
 * frontiers are given up; last, pages that wait to be written to disk. None of it can make an
 * answer wrong: what is gone is computed again. Read next: reuse.c (who takes from the tree),
 * kv/tree.h. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine_int.h"

int share_open(fathom_engine *e, fathom_err *err)
{
    struct reuse_room *r = &e->reuse;
    size_t pages = layout_pages(&e->layout, e->max_ctx);
    r->cap_front = e->max_seq * SESSION_FRONTIERS + TREE_BRANCH_FRONTS + TREE_NODE_FRONTS + 1;
    r->ignore = mem_calloc(e->pool.n_pages, sizeof *r->ignore);
    r->pages = mem_calloc(pages + 1, sizeof *r->pages);
    r->path = mem_calloc(pages + 1, sizeof *r->path);
    r->front = mem_calloc(r->cap_front, sizeof *r->front);
    if (!r->ignore || !r->pages || !r->path || !r->front) {
        return err_nomem(err, "prefix index", e->pool.n_pages * sizeof *r->ignore);
    }
    return 0;
}

void share_close(fathom_engine *e)
{
    tree_close(&e->tree);
    mem_free(e->reuse.ignore);
    mem_free(e->reuse.pages);
    mem_free(e->reuse.path);
    mem_free(e->reuse.front);
}

/* ---- leaving ---- */

bool session_publish(fathom_session *s)
{
    fathom_engine *e = s->e;
    uint32_t size = e->layout.page_tokens, full = state_rows(&s->kv) / size, had = s->n_pub;
    if (!session_shares(s) || full <= s->n_pub ||
        kv_chain_extend(&s->chain, s->ids, full * size, NULL) != 0) {
        return false; /* what is not in the tree now can come later */
    }
    struct tree_node *at = s->n_pub ? s->node : tree_root(&e->tree, &s->chain.key[0]);
    while (at && s->n_pub < full) {
        uint32_t k = s->n_pub, page = s->kv.pages[k];
        at =
            tree_add(&e->tree, at, &s->chain.key[k + 1], s->ids + (size_t)k * size, size, page);
        if (at) {
            if (at->page != page) { /* computed twice, equal: one is enough */
                pool_page_ref(&e->pool, at->page);
                pool_page_drop(&e->pool, page);
                s->kv.pages[k] = at->page;
            }
            s->node = at;
            s->n_pub++;
        }
    }
    return s->n_pub > had;
}

void session_unpublish(fathom_session *s, uint32_t n)
{
    uint32_t full = n / s->e->layout.page_tokens;
    while (s->n_pub > full) {
        s->node = s->node->parent;
        s->n_pub--;
    }
    s->n_put = MIN(s->n_put, full);
    if (s->n_pub == 0) {
        s->node = NULL;
    }
}

void session_retire(fathom_session *s, bool tail)
{
    fathom_engine *e = s->e;
    uint32_t size = e->layout.page_tokens, rows = state_rows(&s->kv);
    if (!session_shares(s) || rows == 0 || s->n_pub != rows / size) {
        return; /* the last: memory was out when pages should have been published */
    }
    uint32_t first = s->n_pub * size;
    struct tree_node *at = s->node;
    if (tail && rows > first) {
        struct tree_node *up = at ? at : tree_root(&e->tree, &s->chain.key[0]);
        struct tree_node *end = up ? tree_add(&e->tree, up, NULL, s->ids + first, rows - first,
                                              s->kv.pages[s->n_pub])
                                   : NULL;
        at = end ? end : at;
    }
    tree_touch(&e->tree, at, false);
    for (uint32_t i = 0; i < s->n_front; i++) {
        tree_add_front(&e->tree, at, s->front[i]);
    }
}

/* ---- making room ---- */

/* The oldest frontier that a live session can spare. */
static struct frontier *spare_of_sessions(const fathom_engine *e, bool any)
{
    struct frontier *best = NULL;
    for (const fathom_session *s = e->sessions; s; s = s->next) {
        uint32_t n = any ? s->n_front : s->n_front - MIN(s->n_front, 2u);
        for (uint32_t i = 0; i < n; i++) {
            if (!best || s->front[i]->serial < best->serial) {
                best = s->front[i];
            }
        }
    }
    return best;
}

/* Drops one frontier everywhere; false: there is none to drop. */
static bool drop_one_front(fathom_engine *e, bool any)
{
    struct frontier *a = spare_of_sessions(e, any), *b = tree_spare_front(&e->tree, any);
    struct frontier *f = !a || (b && b->serial < a->serial) ? b : a;
    if (!f) {
        return false;
    }
    frontier_ref(f); /* it must not go while it is looked for */
    for (fathom_session *s = e->sessions; s; s = s->next) {
        for (uint32_t i = s->n_front; i-- > 0;) {
            if (s->front[i] == f) {
                session_drop_front(s, i);
            }
        }
    }
    tree_drop_front(&e->tree, f);
    frontier_drop(f);
    return true;
}

void engine_relieve(void *user, uint32_t pages, uint64_t bytes, bool must)
{
    fathom_engine *e = user;
    struct kv_pool *p = &e->pool;
    uint32_t want = pool_available(p) + pages;
    if (e->store) {
        kv_store_poll(e->store);
    }
    for (;;) {
        bool more_pages = pool_available(p) < want, more_bytes = pool_room_bytes(p) < bytes;
        /* Would the free pages do, if no frontier lay in their room? */
        bool by_fronts = pool_available(p) * p->layout->page_bytes >= bytes;
        if (!more_pages && !more_bytes) {
            return;
        }
        if (more_bytes && by_fronts && drop_one_front(e, false)) {
            continue;
        }
        if (tree_evict(&e->tree, 1)) {
            continue;
        }
        if (more_bytes && drop_one_front(e, true)) {
            continue;
        }
        if (must && disk_give_up(e, more_pages ? want - pool_available(p) : 1)) {
            continue;
        }
        return;
    }
}

uint32_t share_available(const fathom_engine *e, const uint32_t *ignore)
{
    return pool_available(&e->pool) + tree_evictable(&e->tree, ignore);
}

void fathom_engine_kv_drop(fathom_engine *e)
{
    tree_clear(&e->tree);
}
