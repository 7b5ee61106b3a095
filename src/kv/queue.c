/* queue.c - what is to be written: the owner's calls (put, poll, give up) and the lists that
 * owner and writer share. Nothing here touches a file. Read next: writer.c. */
#include "kv/store_int.h"

#include "base/log.h"
#include "base/mem.h"

/* ---- the queue ---- */

void queue_push(struct kv_queue *q, struct kv_item *it)
{
    it->next = NULL;
    *q->end = it;
    q->end = &it->next;
}

struct kv_item *queue_pop(struct kv_queue *q)
{
    struct kv_item *it = q->head;
    if (it) {
        q->head = it->next;
        q->end = q->head ? q->end : &q->head;
        it->next = NULL;
    }
    return it;
}

void item_done_locked(struct kv_store *s, struct kv_item *it, enum kv_why why)
{
    s->n_queued--;
    s->queued_bytes -= it->bytes;
    if (why != KV_WHY_NONE) {
        s->stats.refused[why]++;
    }
    store_remember_locked(s, &it->name.to, why);
    queue_push(&s->done, it);
    pthread_cond_broadcast(&s->idle);
}

void drop_queue_locked(struct kv_store *s, enum kv_why why)
{
    struct kv_item *it;
    while ((it = queue_pop(&s->queue)) != NULL) {
        item_done_locked(s, it, why);
    }
}

static bool same_name(const struct kv_name *a, const struct kv_name *b)
{
    return a->kind == b->kind && a->tail == b->tail && kv_key_eq(&a->from, &b->from) &&
           kv_key_eq(&a->to, &b->to);
}

/* What is written or waits, item after item; NULL: the first. */
static const struct kv_item *next_locked(const struct kv_store *s, const struct kv_item *it)
{
    if (!it) {
        return s->active ? s->active : s->queue.head;
    }
    return it == s->active ? s->queue.head : it->next;
}

/* Is this file on its way? */
static bool queued_locked(const struct kv_store *s, const struct kv_name *name)
{
    const struct kv_item *it = next_locked(s, NULL);
    while (it && !same_name(&it->name, name)) {
        it = next_locked(s, it);
    }
    return it != NULL;
}

/* Is a segment that ends here? */
static bool queued_up_to_locked(const struct kv_store *s, const struct kv_key *to)
{
    const struct kv_item *it = next_locked(s, NULL);
    while (it && (it->name.kind != KV_SEGMENT || !kv_key_eq(&it->name.to, to))) {
        it = next_locked(s, it);
    }
    return it != NULL;
}

struct kv_entry *stored_locked(const struct kv_store *s, const struct kv_key *key)
{
    struct kv_node *d = index_node(&s->index, s->own_folder, key);
    return d && d->in && entry_usable(d->in) ? d->in : NULL;
}

/* ---- the owner's side ---- */

/* May this be queued? *already: it is there, or on its way. */
static enum kv_why admit_locked(const struct kv_store *s, const struct kv_item *it,
                                bool *already)
{
    if (s->state != KV_STORE_WRITER) {
        return KV_WHY_OFF;
    }
    const struct kv_entry *e = index_find(&s->index, s->own_folder, &it->name);
    *already = (e && entry_usable(e)) || queued_locked(s, &it->name);
    if (*already) {
        return KV_WHY_NONE;
    }
    if (e) {
        return e->bad ? KV_WHY_BAD_FILE : e->foreign ? KV_WHY_FOREIGN : KV_WHY_EVICTED;
    }
    if (store_recall_locked(s, &it->name.to) == KV_WHY_IO_ERROR) {
        return KV_WHY_IO_ERROR;
    }
    if (it->saves_ms < s->min_cost_ms && !it->used_before) {
        return KV_WHY_CHEAP;
    }
    if (it->bytes > s->budget) {
        return KV_WHY_BUDGET;
    }
    if (s->queued_bytes + it->bytes > s->queue_max) {
        return KV_WHY_QUEUE;
    }
    return it->first == 0 || stored_locked(s, &it->name.from) ||
                   queued_up_to_locked(s, &it->name.from)
               ? KV_WHY_NONE
               : KV_WHY_NO_PARENT;
}

struct tail_copy {
    struct kv_store *s;
    uint32_t page;
    unsigned char *p;
};
static void copy_tail(void *user, uint64_t page_at, uint64_t section_at, uint64_t n)
{
    struct tail_copy *t = user;
    t->s->io.read(t->s->io.user, t->page, page_at, t->p + section_at, n);
}

/* The rows of the partial page: it goes on changing, so they are copied now. */
static bool take_tail(struct kv_store *s, struct kv_item *it)
{
    uint64_t bytes = 0;
    for (uint32_t il = 0; il < s->geom.n_layer; il++) {
        bytes += kv_geom_row_bytes(&s->geom, il, it->count);
    }
    it->tail = mem_alloc((size_t)bytes, 1);
    struct tail_copy t = {s, it->page, it->tail};
    uint64_t at = 0;
    for (uint32_t il = 0; it->tail && il < s->geom.n_layer; il++) {
        at = kv_rows_walk(&s->geom, il, it->count, at, copy_tail, &t);
    }
    return it->tail != NULL;
}

/* Queues the item, or frees it. The rows of a frontier are copied only if it looks wanted: most
 * that are offered are stored already, and the caller is the thread that computes. */
static enum kv_why put(struct kv_store *s, struct kv_item *it)
{
    bool already = false;
    store_lock(s);
    enum kv_why why = admit_locked(s, it, &already);
    if (why == KV_WHY_NONE && !already && it->name.kind == KV_FRONTIER && it->count > 0) {
        store_unlock(s);
        bool copied = take_tail(s, it);
        store_lock(s);
        why = copied ? admit_locked(s, it, &already) : KV_WHY_NO_MEMORY;
    }
    if (why == KV_WHY_NONE && !already) {
        queue_push(&s->queue, it);
        s->n_queued++;
        s->queued_bytes += it->bytes;
        pthread_cond_signal(&s->work);
    } else if (why != KV_WHY_NONE) {
        s->stats.refused[why]++;
        if (why != KV_WHY_OFF) {
            store_remember_locked(s, &it->name.to, why);
        }
    }
    store_unlock(s);
    if (why != KV_WHY_NONE) {
        log_debug("KV store: tokens from %llu not saved: %s", (unsigned long long)it->first,
                  kv_why_name(why));
    }
    if (already) {
        s->io.release(s->io.user, it->page, it->ref);
    }
    if (already || why != KV_WHY_NONE) {
        item_free(it);
    }
    return why;
}

static struct kv_item *item_new(const struct kv_chain *c, const struct kv_name *name,
                                uint64_t first, const uint32_t *ids, uint32_t count)
{
    struct kv_item *it = mem_calloc(1, sizeof *it);
    uint32_t *copy = mem_alloc(count, sizeof *copy);
    if (!it || !copy) {
        mem_free(copy);
        mem_free(it);
        return NULL;
    }
    if (count > 0) {
        memcpy(copy, ids + first, count * sizeof *copy);
    }
    it->ids = copy;
    it->name = *name;
    it->first = first;
    it->count = count;
    memcpy(it->salt_sha, c->salt_sha, KV_ID_BYTES);
    return it;
}

enum kv_why kv_store_put_segment(struct kv_store *s, struct kv_chain *chain,
                                 const uint32_t *ids, uint32_t k, uint32_t page,
                                 uint32_t cost_ms, uint32_t saves_ms, bool used_before)
{
    uint32_t size = s->geom.page_tokens;
    if (!s->has_geom) {
        return KV_WHY_OFF;
    }
    if (kv_chain_extend(chain, ids, (k + 1) * size, NULL) != 0) {
        return KV_WHY_NO_MEMORY;
    }
    struct kv_name name = {.kind = KV_SEGMENT, .from = chain->key[k], .to = chain->key[k + 1]};
    struct kv_item *it = item_new(chain, &name, (uint64_t)k * size, ids, size);
    if (!it) {
        return KV_WHY_NO_MEMORY;
    }
    it->page = page;
    it->cost_ms = cost_ms;
    it->saves_ms = saves_ms;
    it->used_before = used_before;
    it->bytes = kv_geom_segment_file_bytes(&s->geom);
    return put(s, it);
}

enum kv_why kv_store_put_frontier(struct kv_store *s, struct kv_chain *chain,
                                  const uint32_t *ids, uint32_t pos, const void *state,
                                  void *ref, uint32_t page, uint32_t cost_ms)
{
    if (!s->has_geom) {
        return KV_WHY_OFF;
    }
    uint32_t size = s->geom.page_tokens, k = pos / size, t = pos % size;
    struct kv_name name = {.kind = KV_FRONTIER, .tail = t};
    if (kv_chain_key(chain, ids, pos, &name.to, NULL) != 0) {
        return KV_WHY_NO_MEMORY;
    }
    name.from = chain->key[k];
    struct kv_item *it = item_new(chain, &name, (uint64_t)k * size, ids, t);
    if (!it) {
        return KV_WHY_NO_MEMORY;
    }
    it->page = page;
    it->state = state;
    it->ref = ref;
    it->cost_ms = it->saves_ms = cost_ms;
    it->bytes = kv_geom_frontier_file_bytes(&s->geom, pos);
    return put(s, it);
}

bool kv_store_has_segment(struct kv_store *s, struct kv_chain *chain, const uint32_t *ids,
                          uint32_t k)
{
    if (!s->has_geom || kv_chain_extend(chain, ids, (k + 1) * s->geom.page_tokens, NULL) != 0) {
        return false;
    }
    struct kv_name name = {.kind = KV_SEGMENT, .from = chain->key[k], .to = chain->key[k + 1]};
    store_lock(s);
    const struct kv_entry *e = index_find(&s->index, s->own_folder, &name);
    bool has = (e && entry_usable(e)) || queued_locked(s, &name);
    store_unlock(s);
    return has;
}

uint32_t kv_store_poll(struct kv_store *s)
{
    store_lock(s);
    struct kv_item *it = s->done.head;
    s->done = (struct kv_queue){0};
    s->done.end = &s->done.head;
    store_unlock(s);
    uint32_t n = 0;
    while (it) {
        struct kv_item *next = it->next;
        if (!it->released) {
            s->io.release(s->io.user, it->page, it->ref);
        }
        item_free(it);
        it = next;
        n++;
    }
    return n;
}

uint32_t kv_store_give_up(struct kv_store *s, uint32_t n_pages)
{
    uint32_t n = 0;
    store_lock(s);
    for (; n < n_pages; n++) {
        struct kv_item **deepest = NULL;
        for (struct kv_item **p = &s->queue.head; *p; p = &(*p)->next) {
            if ((*p)->name.kind == KV_SEGMENT &&
                (!deepest || (*p)->first >= (*deepest)->first)) {
                deepest = p;
            }
        }
        if (!deepest) {
            break;
        }
        struct kv_item *it = *deepest;
        *deepest = it->next;
        if (!it->next) {
            s->queue.end = deepest;
        }
        item_done_locked(s, it, KV_WHY_QUEUE);
    }
    store_unlock(s);
    kv_store_poll(s);
    return n;
}
