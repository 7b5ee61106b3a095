/* index.c - see index.h. */
#include "kv/index.h"

#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"

/* ---- rings ---- */

static void ring_init(struct kv_link *l)
{
    l->next = l->prev = l;
}
static void ring_remove(struct kv_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    ring_init(l);
}
static void ring_append(struct kv_link *ring, struct kv_link *l) /* newest end */
{
    l->prev = ring->prev;
    l->next = ring;
    ring->prev->next = l;
    ring->prev = l;
}
static void ring_prepend(struct kv_link *ring, struct kv_link *l)
{
    ring_append(ring->next, l);
}

static struct kv_link *list_of(struct kv_index *x, const struct kv_entry *e)
{
    return e->proven ? &x->proven : &x->probation;
}

/* ---- nodes ---- */

static uint32_t slot_of(const struct kv_index *x, const struct kv_folder *f,
                        const struct kv_key *key)
{
    uint64_t h = load_le64(key->b) ^ load_le64(f->name) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 16) & (x->n_buckets - 1);
}

static bool rehash(struct kv_index *x, uint32_t n)
{
    struct kv_node **old = x->bucket, **bucket = mem_calloc(n, sizeof *bucket);
    uint32_t n_old = x->n_buckets;
    if (!bucket) {
        return false;
    }
    x->bucket = bucket;
    x->n_buckets = n;
    for (uint32_t i = 0; i < n_old; i++) {
        for (struct kv_node *d = old[i], *next; d; d = next) {
            next = d->hash_next;
            uint32_t to = slot_of(x, d->folder, &d->key);
            d->hash_next = bucket[to];
            bucket[to] = d;
        }
    }
    mem_free(old);
    return true;
}

bool index_init(struct kv_index *x)
{
    *x = (struct kv_index){0};
    ring_init(&x->proven);
    ring_init(&x->probation);
    ring_init(&x->dirty);
    return rehash(x, 64);
}

struct kv_node *index_node(const struct kv_index *x, const struct kv_folder *f,
                           const struct kv_key *key)
{
    struct kv_node *d = x->bucket[slot_of(x, f, key)];
    while (d && (d->folder != f || !kv_key_eq(&d->key, key))) {
        d = d->hash_next;
    }
    return d;
}

static struct kv_node *node_get(struct kv_index *x, struct kv_folder *f,
                                const struct kv_key *key)
{
    struct kv_node *d = index_node(x, f, key);
    if (d) {
        return d;
    }
    if (x->n_nodes >= x->n_buckets) {
        rehash(x, x->n_buckets * 2); /* without memory the lists just get longer */
    }
    d = mem_calloc(1, sizeof *d);
    if (d) {
        uint32_t to = slot_of(x, f, key);
        *d = (struct kv_node){.hash_next = x->bucket[to], .folder = f, .key = *key};
        x->bucket[to] = d;
        x->n_nodes++;
    }
    return d;
}

/* Frees a node that nothing refers to. */
static void node_put(struct kv_index *x, struct kv_node *d)
{
    if (!d || d->in || d->segments || d->fronts) {
        return;
    }
    struct kv_node **p = &x->bucket[slot_of(x, d->folder, &d->key)];
    while (*p != d) {
        p = &(*p)->hash_next;
    }
    *p = d->hash_next;
    x->n_nodes--;
    mem_free(d);
}

/* ---- folders and entries ---- */

struct kv_folder *index_folder(struct kv_index *x, const char *name, bool create)
{
    struct kv_folder *f = x->folders;
    while (f && strcmp(f->name, name) != 0) {
        f = f->next;
    }
    if (!f && create && (f = mem_calloc(1, sizeof *f)) != NULL) {
        memcpy(f->name, name, KV_DIR_DIGITS + 1);
        f->next = x->folders;
        x->folders = f;
    }
    return f;
}

static struct kv_entry **siblings(struct kv_node *d, enum kv_kind_file kind)
{
    return kind == KV_SEGMENT ? &d->segments : &d->fronts;
}

struct kv_entry *index_find(const struct kv_index *x, const struct kv_folder *f,
                            const struct kv_name *name)
{
    if (name->kind == KV_SEGMENT) {
        struct kv_node *to = index_node(x, f, &name->to);
        struct kv_entry *e = to ? to->in : NULL;
        return e && kv_key_eq(&e->name.from, &name->from) ? e : NULL;
    }
    struct kv_node *from = name->kind == KV_FRONTIER ? index_node(x, f, &name->from) : NULL;
    struct kv_entry *e = from ? from->fronts : NULL;
    while (e && (e->name.tail != name->tail || !kv_key_eq(&e->name.to, &name->to))) {
        e = e->next;
    }
    return e;
}

static void count(struct kv_index *x, const struct kv_entry *e, int by)
{
    uint32_t *n = e->name.kind == KV_SEGMENT    ? &x->n_segments
                  : e->name.kind == KV_FRONTIER ? &x->n_fronts
                                                : &x->n_other;
    *n += (uint32_t)by;
    e->folder->n_entries += (uint32_t)by;
    x->bytes += by > 0 ? e->bytes : (uint64_t)0 - e->bytes;
    if (!e->proven) {
        x->probation_bytes += by > 0 ? e->bytes : (uint64_t)0 - e->bytes;
    }
}

/* Puts e into the tree; false: out of memory, or its end is taken. */
static bool link_in(struct kv_index *x, struct kv_entry *e)
{
    if (e->name.kind != KV_SEGMENT && e->name.kind != KV_FRONTIER) {
        return false;
    }
    struct kv_node *from = node_get(x, e->folder, &e->name.from);
    struct kv_node *to = NULL;
    if (from && e->name.kind == KV_SEGMENT) {
        to = node_get(x, e->folder, &e->name.to);
        if (!to || to->in || to == from) {
            node_put(x, to);
            if (to != from) {
                node_put(x, from);
            }
            return false;
        }
        to->in = e;
    }
    if (!from) {
        return false;
    }
    struct kv_entry **list = siblings(from, e->name.kind);
    e->next = *list;
    if (e->next) {
        e->next->prev = e;
    }
    *list = e;
    e->from = from;
    e->to = to;
    struct kv_entry *parent = from->in;
    e->depth = parent ? parent->depth + 1 : 0;
    return true;
}

struct kv_entry *index_add(struct kv_index *x, struct kv_folder *f, const struct kv_name *name,
                           uint64_t bytes, int64_t mtime, bool proven)
{
    struct kv_entry *e = mem_calloc(1, sizeof *e);
    if (!e) {
        return NULL;
    }
    *e = (struct kv_entry){.folder = f,
                           .name = *name,
                           .bytes = bytes,
                           .time = ++x->clock,
                           .mtime = mtime,
                           .mtime_disk = mtime,
                           .proven = proven};
    ring_init(&e->lru);
    ring_init(&e->dirty);
    link_in(x, e);
    for (int i = 0; e->to && i < 2; i++) { /* it comes back under proven files */
        for (const struct kv_entry *c = i ? e->to->fronts : e->to->segments; c; c = c->next) {
            e->proven = e->proven || c->proven;
        }
    }
    ring_append(list_of(x, e), &e->lru);
    count(x, e, 1);
    return e;
}

/* Takes e out of the tree; its node keeps what begins there. */
static void link_out(struct kv_index *x, struct kv_entry *e)
{
    struct kv_node *from = e->from, *to = e->to;
    if (!from) {
        return;
    }
    if (e->prev) {
        e->prev->next = e->next;
    } else {
        *siblings(from, e->name.kind) = e->next;
    }
    if (e->next) {
        e->next->prev = e->prev;
    }
    e->next = e->prev = NULL;
    e->from = e->to = NULL;
    if (to) {
        to->in = NULL;
        node_put(x, to);
    }
    node_put(x, from);
}

/* Next entry in a walk over everything below `top`, parents first, without recursion: down to
 * the children (segments, then frontiers), else to the next sibling, else up. */
static struct kv_entry *first_of(const struct kv_node *d)
{
    return d->segments ? d->segments : d->fronts;
}
static struct kv_entry *walk_next(const struct kv_node *top, struct kv_entry *e)
{
    if (e->to && first_of(e->to)) {
        return first_of(e->to);
    }
    for (;;) {
        if (e->next) {
            return e->next;
        }
        if (e->name.kind == KV_SEGMENT && e->from->fronts) {
            return e->from->fronts;
        }
        if (e->from == top) {
            return NULL;
        }
        e = e->from->in;
    }
}

/* Everything below a node becomes the oldest, the deepest of it first. */
static void make_oldest(struct kv_index *x, struct kv_node *top)
{
    for (struct kv_entry *e = first_of(top); e; e = walk_next(top, e)) {
        e->time = 0;
        ring_remove(&e->lru);
        ring_prepend(list_of(x, e), &e->lru);
    }
}

void index_remove(struct kv_index *x, struct kv_entry *e)
{
    struct kv_node *to = e->to;
    bool orphans = to && first_of(to);
    link_out(x, e);
    if (orphans) {
        make_oldest(x, to);
    }
    ring_remove(&e->lru);
    ring_remove(&e->dirty);
    count(x, e, -1);
    if (e->pins > 0) {
        e->gone = true;
    } else {
        mem_free(e);
    }
}

void index_pin(struct kv_entry *e)
{
    e->pins++;
}

void index_unpin(struct kv_entry *e)
{
    assert(e->pins > 0);
    if (--e->pins == 0 && e->gone) {
        mem_free(e);
    }
}

void index_fini(struct kv_index *x)
{
    struct kv_link *ring[2] = {&x->proven, &x->probation};
    for (int i = 0; i < 2 && x->bucket; i++) {
        while (ring[i]->next != ring[i]) {
            index_remove(x, INDEX_ENTRY(ring[i]->next, lru));
        }
    }
    while (x->folders) {
        struct kv_folder *f = x->folders;
        x->folders = f->next;
        mem_free(f);
    }
    mem_free(x->bucket);
    *x = (struct kv_index){0};
}

/* ---- use ---- */

struct kv_entry *index_parent(const struct kv_entry *e)
{
    return e->from ? e->from->in : NULL;
}

bool index_has_children(const struct kv_entry *e)
{
    return e->to && first_of(e->to);
}

void index_touch(struct kv_index *x, struct kv_entry *e, bool proven, int64_t wall,
                 int64_t persist_after)
{
    uint64_t now = ++x->clock;
    /* time == now: a cycle of hostile names */
    for (; e && e->time != now; e = index_parent(e)) {
        e->time = now;
        e->mtime = wall;
        ring_remove(&e->lru);
        if (proven && !e->proven) {
            x->probation_bytes -= e->bytes;
            e->proven = true;
        }
        ring_append(list_of(x, e), &e->lru);
        bool stale = wall < e->mtime_disk || wall - e->mtime_disk >= persist_after;
        if (stale && e->dirty.next == &e->dirty) {
            ring_append(&x->dirty, &e->dirty);
        }
    }
}

/* Oldest entry of a ring that may be removed. */
static struct kv_entry *oldest(const struct kv_link *ring)
{
    for (const struct kv_link *l = ring->next; l != ring; l = l->next) {
        struct kv_entry *e = INDEX_ENTRY(l, lru);
        if (e->pins == 0 && !e->stuck && !e->evicting && !index_has_children(e)) {
            return e;
        }
    }
    return NULL;
}

struct kv_entry *index_victim(const struct kv_index *x, uint64_t probation_max)
{
    struct kv_entry *a = oldest(&x->probation), *b = oldest(&x->proven);
    if (!a || !b) {
        return a ? a : b;
    }
    if (x->probation_bytes > probation_max) {
        return a;
    }
    return a->time < b->time || (a->time == b->time && a->depth >= b->depth) ? a : b;
}

/* ---- ordering ---- */

static int older(const void *a, const void *b)
{
    const struct kv_entry *x = *(struct kv_entry *const *)a, *y = *(struct kv_entry *const *)b;
    if (x->mtime != y->mtime) {
        return x->mtime < y->mtime ? -1 : 1;
    }
    if (x->depth != y->depth) {
        return x->depth > y->depth ? -1 : 1;
    }
    return memcmp(x->name.to.b, y->name.to.b, SHA1_BYTES);
}

/* Depths of what can be reached from a beginning, in walk order behind list[n]. */
static uint32_t reach(struct kv_node *root, bool orphan, struct kv_entry **list, uint32_t n)
{
    for (struct kv_entry *e = first_of(root); e; e = walk_next(root, e)) {
        const struct kv_entry *parent = index_parent(e);
        e->depth = parent ? parent->depth + 1 : 0;
        e->mark = 1;
        if (orphan) {
            e->mtime = INT64_MIN;
        }
        list[n++] = e;
    }
    return n;
}

bool index_order(struct kv_index *x, int64_t now,
                 bool (*orphan)(void *user, const struct kv_node *root), void *user)
{
    uint32_t n_all = x->n_segments + x->n_fronts + x->n_other, n = 0;
    struct kv_entry **list = mem_alloc(n_all, sizeof(*list));
    if (!list) {
        return false;
    }
    struct kv_link *ring[2] = {&x->proven, &x->probation};
    for (int i = 0; i < 2; i++) {
        for (struct kv_link *l = ring[i]->next; l != ring[i]; l = l->next) {
            struct kv_entry *e = INDEX_ENTRY(l, lru);
            e->mark = 0;
            e->mtime = MIN(e->mtime, now);
        }
    }
    for (uint32_t i = 0; i < x->n_buckets; i++) {
        for (struct kv_node *d = x->bucket[i]; d; d = d->hash_next) {
            if (!d->in && first_of(d)) {
                n = reach(d, orphan && orphan(user, d), list, n);
            }
        }
    }
    for (uint32_t i = n; i-- > 0;) { /* children before parents */
        struct kv_entry *parent = index_parent(list[i]);
        if (parent) {
            parent->mtime = MAX(parent->mtime, list[i]->mtime);
        }
    }
    for (int i = 0; i < 2; i++) { /* out of the tree already, or on a cycle */
        for (struct kv_link *l = ring[i]->next; l != ring[i]; l = l->next) {
            struct kv_entry *e = INDEX_ENTRY(l, lru);
            if (e->mark == 0) {
                list[n++] = e;
                e->bad = e->bad || e->from != NULL;
                e->depth = 0;
            }
        }
    }
    assert(n == n_all);
    for (uint32_t i = 0; i < n; i++) {
        if (list[i]->mark == 0) {
            link_out(x, list[i]);
        }
        ring_remove(&list[i]->lru);
    }
    qsort(list, n, sizeof(*list), older);
    for (uint32_t i = 0; i < n; i++) {
        list[i]->proven = true;
        list[i]->time = ++x->clock;
        ring_append(&x->proven, &list[i]->lru);
    }
    x->probation_bytes = 0;
    mem_free(list);
    return true;
}

/* ---- checking ---- */

void index_check(const struct kv_index *x)
{
    const struct kv_link *ring[2] = {&x->proven, &x->probation};
    uint64_t bytes = 0, probation = 0;
    uint32_t n = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t last = 0;
        for (const struct kv_link *l = ring[i]->next; l != ring[i]; l = l->next) {
            const struct kv_entry *e = INDEX_ENTRY(l, lru);
            const struct kv_entry *parent = index_parent(e);
            assert(l->next->prev == l && e->proven == (i == 0) && !e->gone);
            assert(e->time >= last);
            last = e->time;
            if (parent) {
                assert(parent->time >= e->time);
                assert(parent->proven || !e->proven);
                assert(parent->to == e->from);
            }
            if (e->from && e->name.kind == KV_SEGMENT) {
                assert(e->to && e->to->in == e);
            }
            assert(index_find(x, e->folder, &e->name) == e || !e->from);
            bytes += e->bytes;
            probation += e->proven ? 0 : e->bytes;
            n++;
        }
    }
    assert(bytes == x->bytes && probation == x->probation_bytes);
    assert(n == x->n_segments + x->n_fronts + x->n_other);
    (void)n;
}
