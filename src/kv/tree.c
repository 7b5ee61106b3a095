/* tree.c - see tree.h. Nodes are few (one per 2048 tokens), so lists and whole walks are enough
 * where a decision is rare (eviction, dropping frontiers); only the way down a prompt, which
 * every request takes, goes through a table.
 *
 * Walks are iterative: children before parents by first_leaf / next_up. Invariants (tree_check):
 * every node but a root has a page with at least the tree's reference, a child starts where its
 * parent ends, only full nodes have children, a parent's stamp is not older than a child's, and
 * n_nodes counts them. Read next: engine/share.c (who puts pages here), engine/reuse.c (who
 * takes them). */
#include "kv/tree.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"

enum { TREE_GONE = 4096 }; /* a power of two */

static uint64_t key_hash(const struct kv_key *k)
{
    return load_le64(k->b);
}

/* ---- life ---- */

int tree_open(struct kv_tree *t, struct kv_pool *p, fathom_err *err)
{
    *t = (struct kv_tree){0};
    if (p->layout->page_bytes == 0) {
        return 0;
    }
    size_t n = 16;
    while (n < (size_t)p->n_pages * 2) {
        n *= 2;
    }
    t->table = mem_calloc(n, sizeof *t->table);
    t->gone = mem_calloc(TREE_GONE, sizeof *t->gone);
    t->node_bytes =
        (sizeof(struct tree_node) + p->layout->page_tokens * sizeof(uint32_t) + 63) / 64 * 64;
    t->room = mem_calloc((size_t)p->n_pages + 1, t->node_bytes);
    if (!t->table || !t->gone || !t->room) {
        mem_free(t->table);
        mem_free(t->gone);
        mem_free(t->room);
        *t = (struct kv_tree){0};
        return err_nomem(err, "prefix index", n * sizeof(void *));
    }
    t->pool = p;
    t->table_mask = (uint32_t)(n - 1);
    return 0;
}

static struct tree_node **bucket_of(const struct kv_tree *t, const struct kv_key *k)
{
    return &t->table[key_hash(k) & t->table_mask];
}

static bool has_key(const struct kv_tree *t, const struct tree_node *n)
{
    return n->n_ids == 0 || n->n_ids == t->pool->layout->page_tokens;
}

static struct tree_node *find_key(const struct kv_tree *t, const struct kv_key *k)
{
    struct tree_node *n = *bucket_of(t, k);
    while (n && memcmp(&n->key, k, sizeof *k) != 0) {
        n = n->bucket;
    }
    return n;
}

static uint32_t node_end(const struct tree_node *n)
{
    return n->start + n->n_ids;
}

static void link_node(struct kv_tree *t, struct tree_node *n)
{
    struct tree_node **list = n->parent ? &n->parent->child : &t->roots;
    n->prev = NULL;
    n->next = *list;
    if (n->next) {
        n->next->prev = n;
    }
    *list = n;
    if (has_key(t, n)) {
        struct tree_node **b = bucket_of(t, &n->key);
        n->bucket = *b;
        *b = n;
    }
    t->n_nodes += n->parent != NULL;
}

/* Memory of a node for n_ids tokens, zeroed (its ids may be old). */
static struct tree_node *node_alloc(struct kv_tree *t, uint32_t n_ids)
{
    struct tree_node *n = t->spare;
    if (n_ids > 0 && n) {
        t->spare = n->next;
    } else if (n_ids > 0 && t->n_room < t->pool->n_pages) {
        n = (struct tree_node *)(void *)(t->room + t->n_room++ * t->node_bytes);
    } else { /* a root; or tails that share their page with another node */
        return mem_calloc(1, n_ids ? t->node_bytes : sizeof *n);
    }
    memset(n, 0, sizeof *n);
    return n;
}

static void node_free(struct kv_tree *t, struct tree_node *n)
{
    const unsigned char *p = (const unsigned char *)n;
    if (p >= t->room && p < t->room + ((size_t)t->pool->n_pages + 1) * t->node_bytes) {
        n->next = t->spare;
        t->spare = n;
    } else {
        mem_free(n);
    }
}

/* Takes a childless node out and frees it; gives back its page and frontiers. */
static void remove_node(struct kv_tree *t, struct tree_node *n)
{
    assert(!n->child);
    *(n->prev ? &n->prev->next : n->parent ? &n->parent->child : &t->roots) = n->next;
    if (n->next) {
        n->next->prev = n->prev;
    }
    if (has_key(t, n)) {
        struct tree_node **b = bucket_of(t, &n->key);
        while (*b != n) {
            b = &(*b)->bucket;
        }
        *b = n->bucket;
    }
    for (uint32_t i = 0; i < n->n_front; i++) {
        frontier_drop(n->front[i]);
    }
    if (n->parent) {
        pool_page_drop(t->pool, n->page);
        t->n_nodes--;
    }
    node_free(t, n);
}

static struct tree_node *new_node(struct kv_tree *t, struct tree_node *parent,
                                  const struct kv_key *key, const uint32_t *ids, uint32_t n_ids)
{
    struct tree_node *n = node_alloc(t, n_ids);
    if (n) {
        n->parent = parent;
        n->start = parent ? node_end(parent) : 0;
        n->n_ids = n_ids;
        n->stamp = t->clock;
        if (key) {
            n->key = *key;
        }
        if (n_ids) {
            memcpy(n->ids, ids, n_ids * sizeof *ids);
        }
    }
    return n;
}

/* ---- walks ---- */

static struct tree_node *first_leaf(struct tree_node *n)
{
    while (n && n->child) {
        n = n->child;
    }
    return n;
}

/* The node after n when children come before parents and roots follow each other; NULL: end. */
static struct tree_node *next_up(struct tree_node *n)
{
    return n->next ? first_leaf(n->next) : n->parent;
}

static bool pinned(const struct kv_tree *t, const struct tree_node *n)
{
    return n->parent && t->pool->ref[n->page] > 1;
}

static void remember_gone(struct kv_tree *t, const struct tree_node *n)
{
    if (has_key(t, n)) {
        uint64_t h = key_hash(&n->key);
        t->gone[h >> 32 & (TREE_GONE - 1)] = h;
    }
}

void tree_clear(struct kv_tree *t)
{
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL, *next; n; n = next) {
        next = next_up(n);
        if (!n->child && !pinned(t, n)) {
            remember_gone(t, n);
            remove_node(t, n);
        }
    }
}

void tree_close(struct kv_tree *t)
{
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL, *next; n; n = next) {
        next = next_up(n);
        remove_node(t, n);
    }
    mem_free(t->room);
    mem_free(t->table);
    mem_free(t->gone);
    *t = (struct kv_tree){0};
}

/* ---- finding ---- */

/* The child that agrees longest with ids[0..n). */
static void find_part(const struct tree_node *full, const uint32_t *ids, uint32_t n,
                      struct tree_match *out)
{
    uint32_t best = 0;
    for (struct tree_node *c = full->child; c; c = c->next) {
        uint32_t most = MIN(c->n_ids, n), same = ids_common(c->ids, ids, most);
        bool differs = same < most;
        if (same > best || (same == best && !out->differs && differs)) {
            best = same;
            out->part = same ? c : NULL;
            out->differs = differs;
            out->other_ids = c->ids + same;
            out->n_other = c->n_ids - same;
            out->other = differs ? c->ids[same] : 0;
        }
    }
    out->n += best;
}

void tree_find(const struct kv_tree *t, const struct kv_key *keys, const uint32_t *ids,
               uint32_t n, struct tree_match *out)
{
    *out = (struct tree_match){0};
    struct tree_node *at = t->pool ? find_key(t, &keys[0]) : NULL;
    if (!at || at->parent) {
        return;
    }
    uint32_t s = t->pool->layout->page_tokens;
    for (uint32_t k = 1; (uint64_t)k * s <= n; k++) {
        struct tree_node *c = find_key(t, &keys[k]);
        if (!c || c->parent != at || memcmp(c->ids, ids + c->start, s * sizeof *ids) != 0) {
            break;
        }
        at = c;
    }
    out->full = at;
    out->n = node_end(at);
    find_part(at, ids + out->n, n - out->n, out);
}

bool tree_known_elsewhere(const struct kv_tree *t, const struct kv_key *key0,
                          const uint32_t *ids, uint32_t n, uint32_t matched)
{
    for (struct tree_node *r = t->pool ? t->roots : NULL; r; r = r->next) {
        struct tree_match m = {.n = 0};
        for (struct tree_node *at = kv_key_eq(&r->key, key0) ? NULL : r; at;) {
            m.part = NULL;
            find_part(at, ids + m.n, n - m.n, &m);
            if (m.n > matched) {
                return true;
            }
            at = m.part && m.n == node_end(m.part) ? m.part : NULL;
        }
    }
    return false;
}

uint32_t tree_match_pages(const struct kv_tree *t, const struct tree_match *m, uint32_t *pages)
{
    uint32_t n = 0;
    if (m->full) {
        uint32_t s = t->pool->layout->page_tokens;
        n = node_end(m->full) / s;
        for (const struct tree_node *x = m->full; x->parent; x = x->parent) {
            pages[x->start / s] = x->page;
        }
        if (m->part) {
            pages[n++] = m->part->page;
        }
    }
    return n;
}

uint32_t tree_match_fronts(const struct tree_match *m, struct frontier **out, uint32_t cap)
{
    uint32_t n = 0;
    const struct tree_node *x = m->part ? m->part : m->full;
    for (; x && n < cap; x = x->parent) {
        for (uint32_t i = x->n_front; i-- > 0 && n < cap;) {
            if (x->front[i]->pos <= m->n) {
                out[n++] = x->front[i];
            }
        }
    }
    for (uint32_t i = 0; i < n / 2; i++) {
        struct frontier *f = out[i];
        out[i] = out[n - 1 - i];
        out[n - 1 - i] = f;
    }
    return n;
}

void tree_touch(struct kv_tree *t, struct tree_node *n, bool hit)
{
    t->clock++;
    for (; n; n = n->parent) {
        n->stamp = t->clock;
        n->n_hit += hit;
    }
}

/* ---- adding ---- */

struct tree_node *tree_root(struct kv_tree *t, const struct kv_key *key0)
{
    if (!t->pool) {
        return NULL;
    }
    struct tree_node *n = find_key(t, key0);
    if (n) {
        return n->parent ? NULL : n;
    }
    n = new_node(t, NULL, key0, NULL, 0);
    if (n) {
        link_node(t, n);
    }
    return n;
}

static void insert_front(struct kv_tree *t, struct tree_node *n, struct frontier *f);

/* Tails of `parent` that the ids of `n` begin with: their frontiers move over. */
static void absorb_tails(struct kv_tree *t, struct tree_node *parent, struct tree_node *n)
{
    for (struct tree_node *c = parent->child, *next; c; c = next) {
        next = c->next;
        if (c != n && !has_key(t, c) && c->n_ids <= n->n_ids &&
            ids_common(c->ids, n->ids, c->n_ids) == c->n_ids) {
            for (uint32_t i = 0; i < c->n_front; i++) {
                insert_front(t, n, c->front[i]);
            }
            n->n_hit += c->n_hit;
            remove_node(t, c);
        }
    }
}

struct tree_node *tree_add(struct kv_tree *t, struct tree_node *parent,
                           const struct kv_key *key, const uint32_t *ids, uint32_t n_ids,
                           uint32_t page)
{
    uint32_t s = t->pool->layout->page_tokens;
    assert(n_ids > 0 && n_ids <= s && (key != NULL) == (n_ids == s) &&
           (!parent->parent || parent->n_ids == s));
    struct tree_node *n = key ? find_key(t, key) : NULL;
    if (n) {
        bool same = n->parent == parent && memcmp(n->ids, ids, s * sizeof *ids) == 0;
        return same ? n : NULL;
    }
    for (n = key ? NULL : parent->child; n; n = n->next) {
        if (n->n_ids >= n_ids && ids_common(n->ids, ids, n_ids) == n_ids) {
            return n;
        }
    }
    n = new_node(t, parent, key, ids, n_ids);
    if (!n) {
        return NULL;
    }
    n->page = page;
    pool_page_ref(t->pool, page);
    link_node(t, n);
    absorb_tails(t, parent, n);
    tree_touch(t, n, false);
    return n;
}

/* ---- frontiers ---- */

static void remove_front(struct tree_node *n, uint32_t i)
{
    struct frontier *f = n->front[i];
    n->n_front--;
    memmove(&n->front[i], &n->front[i + 1], (n->n_front - i) * sizeof n->front[0]);
    frontier_drop(f);
}

/* Keeps the order; a frontier of the same position is there already or is replaced. */
static void insert_front(struct kv_tree *t, struct tree_node *n, struct frontier *f)
{
    (void)t;
    uint32_t i = 0;
    while (i < n->n_front && n->front[i]->pos < f->pos) {
        i++;
    }
    if (i < n->n_front && n->front[i]->pos == f->pos) {
        n->front[i]->serial = MAX(n->front[i]->serial, f->serial);
        return;
    }
    frontier_ref(f);
    if (n->n_front == TREE_NODE_FRONTS) { /* the lowest makes room: never the newest */
        if (i == 0) {
            frontier_drop(f);
            return;
        }
        remove_front(n, 0);
        i--;
    }
    memmove(&n->front[i + 1], &n->front[i], (n->n_front - i) * sizeof n->front[0]);
    n->front[i] = f;
    n->n_front++;
}

/* The path down to n holds too many: the one whose loss costs least goes. */
static void thin_path(struct kv_tree *t, struct tree_node *n)
{
    (void)t;
    struct tree_match all = {.n = UINT32_MAX, .full = n};
    struct frontier *f[TREE_BRANCH_FRONTS + TREE_NODE_FRONTS + 1];
    uint32_t pos[ARRAY_LEN(f)], k = tree_match_fronts(&all, f, ARRAY_LEN(f));
    for (uint32_t i = 0; i < k; i++) {
        pos[i] = f[i]->pos;
    }
    while (k > TREE_BRANCH_FRONTS) {
        uint32_t out = frontier_spare(pos, k);
        for (struct tree_node *x = n; x; x = x->parent) {
            for (uint32_t i = 0; i < x->n_front; i++) {
                if (x->front[i]->pos == pos[out]) {
                    remove_front(x, i);
                    break;
                }
            }
        }
        k--;
        memmove(&pos[out], &pos[out + 1], (k - out) * sizeof pos[0]);
    }
}

void tree_add_front(struct kv_tree *t, struct tree_node *n, struct frontier *f)
{
    while (n && f->pos <= n->start) {
        n = n->parent;
    }
    if (n && n->parent && f->pos <= node_end(n)) {
        insert_front(t, n, f);
        thin_path(t, n);
    }
}

struct frontier *tree_spare_front(struct kv_tree *t, bool any)
{
    struct frontier *best = NULL;
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL; n; n = next_up(n)) {
        uint32_t behind = n->child ? UINT32_MAX : 0;
        for (const struct tree_node *c = n->child; c; c = c->next) {
            behind = MIN(behind, c->behind + c->n_front);
        }
        n->behind = behind;
        for (uint32_t i = 0; i < n->n_front; i++) {
            bool spare = any || behind + (n->n_front - 1 - i) >= 2;
            if (spare && (!best || n->front[i]->serial < best->serial)) {
                best = n->front[i];
            }
        }
    }
    return best;
}

void tree_drop_front(struct kv_tree *t, const struct frontier *f)
{
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL; n; n = next_up(n)) {
        for (uint32_t i = n->n_front; i-- > 0;) {
            if (n->front[i] == f) {
                remove_front(n, i);
            }
        }
    }
}

/* ---- eviction ---- */

uint32_t tree_evictable(const struct kv_tree *t, const uint32_t *ignore)
{
    uint32_t count = 0;
    /* behind: 1 if the node must stay. Only read after it was written in the same walk. */
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL; n; n = next_up(n)) {
        uint32_t others = n->parent ? t->pool->ref[n->page] - 1 : 0;
        others -= n->parent && ignore ? MIN(ignore[n->page], others) : 0;
        n->behind = others > 0;
        for (const struct tree_node *c = n->child; c; c = c->next) {
            n->behind |= c->behind;
        }
        count += n->parent && !n->behind;
    }
    return count;
}

bool tree_was_evicted(const struct kv_tree *t, const struct kv_key *key)
{
    uint64_t h = key_hash(key);
    return t->pool && h != 0 && t->gone[h >> 32 & (TREE_GONE - 1)] == h;
}

uint32_t tree_evict(struct kv_tree *t, uint32_t pages)
{
    uint32_t freed = 0;
    while (freed < pages) {
        struct tree_node *old = NULL;
        for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL; n; n = next_up(n)) {
            if (n->parent && !n->child && !pinned(t, n) &&
                (!old || n->stamp < old->stamp ||
                 (n->stamp == old->stamp && n->start > old->start))) {
                old = n;
            }
        }
        if (!old) {
            break;
        }
        struct tree_node *up = old->parent;
        remember_gone(t, old);
        remove_node(t, old);
        t->n_evicted++;
        freed++;
        if (!up->parent && !up->child) {
            remove_node(t, up);
        }
    }
    return freed;
}

/* ---- invariants ---- */

static void check_node(const struct kv_tree *t, const struct tree_node *n)
{
    uint32_t s = t->pool->layout->page_tokens;
    if (n->parent) {
        assert(n->n_ids > 0 && n->n_ids <= s && n->start % s == 0);
        assert(n->start == node_end(n->parent) && n->stamp <= n->parent->stamp);
        assert(t->pool->ref[n->page] >= 1);
        assert(!n->child || n->n_ids == s);
    } else {
        assert(n->n_ids == 0 && n->start == 0 && n->n_front == 0);
    }
    if (has_key(t, n)) {
        assert(find_key(t, &n->key) == n);
    }
    for (uint32_t i = 0; i < n->n_front; i++) {
        assert(n->front[i]->pos > n->start && n->front[i]->pos <= node_end(n));
        assert(i == 0 || n->front[i]->pos > n->front[i - 1]->pos);
    }
    uint32_t on_path = 0;
    for (const struct tree_node *x = n->child ? NULL : n; x; x = x->parent) {
        on_path += x->n_front;
    }
    assert(on_path <= TREE_BRANCH_FRONTS);
    for (const struct tree_node *c = n->child; c; c = c->next) {
        assert(c->parent == n && (!c->next || c->next->prev == c));
    }
}

void tree_check(const struct kv_tree *t)
{
    uint32_t count = 0;
    for (struct tree_node *n = t->pool ? first_leaf(t->roots) : NULL; n; n = next_up(n)) {
        check_node(t, n);
        count += n->parent != NULL;
    }
    assert(count == t->n_nodes);
}
