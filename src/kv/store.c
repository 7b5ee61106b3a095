/* store.c - the disk store: opening, finding, pinning, counting. See store.h for what it
 * promises, store_int.h for who does what. Read next: writer.c, loader.c. */
#include "kv/store_int.h"

#include <assert.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    MAX_READERS = 16,
    DEFAULT_READERS = 4,
    CLOSE_SECONDS = 10, /* a busy disk may need seconds for one write, a dead one all of time */
};
static const uint64_t default_queue = (uint64_t)1 << 30;

/* ---- opening and closing ---- */

static double real_mono(void *user)
{
    (void)user;
    return clock_now();
}
static int64_t real_wall(void *user)
{
    (void)user;
    return (int64_t)time(NULL);
}

static int check_config(const struct kv_store_config *cfg, fathom_err *err)
{
    if (!cfg->dir || !cfg->dir[0]) {
        return err_set(err, FATHOM_EINVAL, "KV store: no directory");
    }
    if (cfg->n_readers > MAX_READERS) {
        return err_set(err, FATHOM_EINVAL, "KV store: %u readers (at most %d)", cfg->n_readers,
                       MAX_READERS);
    }
    return cfg->geom ? kv_geom_check(cfg->geom, err) : 0;
}

static struct kv_store *new_store(const struct kv_store_config *cfg)
{
    static const struct kv_clock real_clock = {NULL, real_mono, real_wall};
    struct kv_store *s = mem_calloc(1, sizeof *s);
    if (!s || !(s->dir = mem_strdup(cfg->dir)) || !index_init(&s->index)) {
        if (s) {
            mem_free(s->dir);
        }
        mem_free(s);
        return NULL;
    }
    s->fs = cfg->fs ? cfg->fs : &kv_fs_real;
    s->clock = cfg->clock ? *cfg->clock : real_clock;
    s->has_geom = cfg->geom != NULL;
    if (cfg->geom) {
        s->geom = *cfg->geom;
    }
    s->read_only = cfg->read_only;
    s->must_exist = cfg->must_exist;
    s->single_threaded = cfg->single_threaded;
    s->direct = cfg->direct_io;
    s->io = cfg->io;
    s->identity = cfg->identity;
    kv_dir_name(&s->identity, s->own_name);
    s->budget = cfg->budget_bytes ? cfg->budget_bytes : KV_DEFAULT_BUDGET;
    s->queue_max = cfg->queue_bytes ? cfg->queue_bytes : default_queue;
    s->writer_share = cfg->writer_share;
    s->min_cost_ms = cfg->min_cost_ms;
    s->n_readers = cfg->n_readers ? cfg->n_readers : DEFAULT_READERS;
    s->root = s->own = s->lock = -1;
    s->refs = 1;
    s->queue.end = &s->queue.head;
    s->done.end = &s->done.head;
    pthread_mutex_init(&s->mu, NULL);
    clock_cond_init(&s->work);
    clock_cond_init(&s->idle);
    return s;
}

int kv_store_open(struct kv_store **out, const struct kv_store_config *cfg, fathom_err *err)
{
    *out = NULL;
    int rc = check_config(cfg, err);
    if (rc != 0) {
        return rc;
    }
    struct kv_store *s = new_store(cfg);
    if (!s) {
        return err_nomem(err, "KV store", sizeof *s);
    }
    if (s->has_geom) {
        struct kv_chain c;
        rc = kv_chain_init(&c, &s->identity, NULL, s->geom.page_tokens, err);
        if (rc != 0) {
            store_unref(s);
            return rc;
        }
        s->root_key = c.key[0];
        kv_chain_fini(&c);
        s->own_folder = index_folder(&s->index, s->own_name, true);
        if (!s->own_folder) {
            store_unref(s);
            return err_nomem(err, "KV store", sizeof *s->own_folder);
        }
    }
    scan_open(s);
    if (!s->single_threaded && s->has_geom && s->state != KV_STORE_OFF) {
        s->refs++;
        s->has_thread = true;
        int e = pthread_create(&s->thread, NULL, writer_main, s);
        if (e != 0) {
            s->has_thread = false;
            s->refs--;
            store_lock(s);
            store_set_state_locked(s, KV_STORE_READ_ONLY, "cannot start a thread: %s",
                                   strerror(e));
            store_unlock(s);
        }
    }
    *out = s;
    return 0;
}

/* Can the queue still get shorter? */
static bool can_write_locked(const struct kv_store *s)
{
    return s->n_queued > 0 && s->state == KV_STORE_WRITER && s->has_thread;
}

bool kv_store_flush(struct kv_store *s, double max_seconds)
{
    if (s->single_threaded) {
        kv_store_work(s);
    }
    double end = clock_now() + max_seconds;
    store_lock(s);
    s->n_waiting++;
    pthread_cond_signal(&s->work);
    while (can_write_locked(s) && s->paused_until == 0) {
        double left = end - clock_now();
        if (left <= 0) {
            break;
        }
        store_wait_locked(s, &s->idle, MIN(left, 1.0));
    }
    bool empty = s->n_queued == 0;
    s->n_waiting--;
    store_unlock(s);
    return empty;
}

/* Ends the writer. It may hang in a system call: then it is left alone, touches no page any
 * more, and frees the store when it comes back (false). */
static bool stop_thread(struct kv_store *s)
{
    if (!s->has_thread) {
        return true;
    }
    store_lock(s);
    s->quit = s->abandon = true;
    pthread_cond_broadcast(&s->work);
    double end = clock_now() + (double)CLOSE_SECONDS;
    while (s->copying || (!s->thread_ended && clock_now() < end)) {
        store_wait_locked(s, &s->idle, 0.1);
    }
    bool ended = s->thread_ended;
    store_unlock(s);
    if (ended) {
        pthread_join(s->thread, NULL);
    } else {
        pthread_detach(s->thread);
        log_warn("KV store %s: the disk does not answer, a write is left behind", s->dir);
    }
    return ended;
}

/* Nothing is written any more: the next one may, even while a reader that was given up still
 * waits for the disk and keeps the store in memory. */
static void give_lock_back(struct kv_store *s)
{
    store_lock(s);
    int lock = s->lock;
    s->lock = -1;
    s->state = KV_STORE_READ_ONLY; /* readers remove no bad files any more */
    store_unlock(s);
    if (lock >= 0) {
        s->fs->close(s->fs->user, lock);
    }
}

/* What the writer did not get to goes back to the owner. */
static void drain(struct kv_store *s)
{
    store_lock(s);
    if (s->active) { /* the writer hangs in it: its references go back, the item stays there */
        struct kv_item copy = *s->active;
        s->active->released = true; /* it may come back before the queue is polled */
        store_unlock(s);
        s->io.release(s->io.user, copy.page, copy.ref);
        store_lock(s);
    }
    while (s->queue.head) {
        struct kv_item *it = s->queue.head;
        s->queue.head = it->next;
        it->next = NULL;
        *s->done.end = it;
        s->done.end = &it->next;
    }
    s->queue.end = &s->queue.head;
    store_unlock(s);
    kv_store_poll(s);
}

void kv_store_close(struct kv_store *s, double flush_seconds)
{
    if (!s) {
        return;
    }
    kv_store_flush(s, flush_seconds);
    bool ended = stop_thread(s);
    store_lock(s);
    uint32_t left = s->n_queued;
    store_unlock(s);
    if (left > 0) { /* a cache's loss, but not a silent one */
        log_at(flush_seconds > 0 ? LOG_WARN : LOG_INFO,
               "KV store %s: %u files were not written within %g s of the end", s->dir, left,
               flush_seconds);
    }
    drain(s);
    if (ended) {
        give_lock_back(s);
    }
    store_unref(s);
}

/* ---- finding ---- */

/* The deepest usable frontier at node `key(k S)` that these ids reach: at most max_tail behind
 * it. */
static struct kv_entry *find_frontier_locked(struct kv_store *s, struct kv_chain *c, uint32_t k,
                                             const uint32_t *ids, uint32_t max_tail)
{
    uint32_t size = s->geom.page_tokens;
    struct kv_node *d = index_node(&s->index, s->own_folder, &c->key[k]);
    if (!d || !d->fronts) {
        return NULL;
    }
    max_tail = MIN(max_tail, size - 1);
    struct kv_key *key = mem_alloc((size_t)max_tail + 1, sizeof *key);
    unsigned char *want = mem_calloc((size_t)max_tail + 1, 1);
    struct hash h = {0};
    bool ok = key && want && hash_copy(&h, &c->run[k]);
    for (struct kv_entry *e = d->fronts; ok && e; e = e->next) {
        if (e->name.tail <= max_tail && entry_usable(e)) {
            want[e->name.tail] = 1;
        }
    }
    uint32_t at = 0;
    for (uint32_t t = 0; ok && t <= max_tail; t++) {
        if (want[t]) {
            kv_chain_add_ids(&h, ids + (size_t)k * size + at, t - at);
            at = t;
            ok = hash_digest(&h, key[t].b);
        }
    }
    struct kv_entry *best = NULL;
    for (struct kv_entry *e = d->fronts; ok && e; e = e->next) {
        uint32_t t = e->name.tail;
        if (t <= max_tail && entry_usable(e) && k + t > 0 && kv_key_eq(&e->name.to, &key[t]) &&
            (!best || t > best->name.tail)) {
            best = e;
        }
    }
    hash_close(&h);
    mem_free(key);
    mem_free(want);
    return best;
}

static bool other_usable(const struct kv_entry *list, const struct kv_entry *but)
{
    for (; list; list = list->next) {
        if (list != but && entry_usable(list)) {
            return true;
        }
    }
    return false;
}

/* Why the path ends after k segments and frontier f, before n. */
static enum kv_why why_locked(const struct kv_store *s, const struct kv_chain *c, uint32_t k,
                              const struct kv_entry *f, uint32_t frontier_pos, uint32_t n)
{
    uint32_t size = s->geom.page_tokens;
    if (frontier_pos == n || k * size == n) {
        return KV_WHY_NONE;
    }
    if (k < n / size) {
        const struct kv_node *to = index_node(&s->index, s->own_folder, &c->key[k + 1]);
        if (to && to->in && !entry_usable(to->in)) {
            return to->in->bad       ? KV_WHY_BAD_FILE
                   : to->in->foreign ? KV_WHY_FOREIGN
                                     : KV_WHY_EVICTED;
        }
        enum kv_why why = store_recall_locked(s, &c->key[k + 1]);
        if (why != KV_WHY_NONE) {
            return why;
        }
    }
    const struct kv_node *d = index_node(&s->index, s->own_folder, &c->key[k]);
    if (d && (other_usable(d->segments, NULL) || other_usable(d->fronts, f))) {
        return KV_WHY_DIVERGED;
    }
    return s->own_folder->n_entries == 0 && s->index.n_segments + s->index.n_fronts > 0
               ? KV_WHY_IDENTITY
               : KV_WHY_NO_FILE;
}

void kv_store_find(struct kv_store *s, struct kv_chain *chain, const uint32_t *ids, uint32_t n,
                   struct kv_hit *hit)
{
    *hit = (struct kv_hit){.why = KV_WHY_OFF};
    if (!s->has_geom) {
        return;
    }
    uint32_t size = s->geom.page_tokens, k = 0;
    assert(chain->page_tokens == size);
    assert(memcmp(&chain->identity, &s->identity, sizeof s->identity) == 0);
    if (kv_chain_extend(chain, ids, n, NULL) != 0) {
        hit->why = KV_WHY_NO_MEMORY;
        return;
    }
    store_lock(s);
    if (s->state == KV_STORE_OFF) {
        store_unlock(s);
        return;
    }
    struct kv_entry *seg = NULL, *front = NULL;
    for (; k < n / size; k++) {
        struct kv_node *to = index_node(&s->index, s->own_folder, &chain->key[k + 1]);
        struct kv_entry *e = to ? to->in : NULL;
        if (!e || !kv_key_eq(&e->name.from, &chain->key[k]) || !entry_usable(e)) {
            break;
        }
        seg = e;
    }
    uint32_t level = k;
    for (;; level--) {
        front = find_frontier_locked(s, chain, level, ids, n - level * size);
        if (front || level == 0) {
            break;
        }
    }
    hit->n_segments = k;
    hit->segment = seg;
    hit->frontier = front;
    hit->frontier_pos = front ? level * size + front->name.tail : 0;
    hit->why = why_locked(s, chain, k, level == k ? front : NULL, hit->frontier_pos, n);
    if (seg) {
        index_pin(seg);
    }
    if (front) {
        index_pin(front);
    }
    if (hit->why != KV_WHY_NONE && s->state == KV_STORE_READ_ONLY) {
        s->rescan = true;
        pthread_cond_signal(&s->work);
    }
    store_unlock(s);
}

void kv_store_touch(struct kv_store *s, const struct kv_hit *hit, bool proven)
{
    store_lock(s);
    struct kv_entry *e[2] = {hit->frontier, hit->segment};
    int64_t wall = store_wall(s);
    for (int i = 0; i < 2; i++) {
        if (e[i] && !e[i]->gone) {
            index_touch(&s->index, e[i], proven, wall, KV_PERSIST);
        }
    }
    if (s->index.dirty.next != &s->index.dirty) {
        pthread_cond_signal(&s->work);
    }
    store_unlock(s);
}

void kv_hit_release(struct kv_store *s, struct kv_hit *hit)
{
    if (hit->segment || hit->frontier) {
        store_lock(s);
        if (hit->segment) {
            index_unpin(hit->segment);
        }
        if (hit->frontier) {
            index_unpin(hit->frontier);
        }
        store_unlock(s);
    }
    *hit = (struct kv_hit){0};
}

/* ---- statistics ---- */

void kv_store_get_stats(struct kv_store *s, struct kv_store_stats *out)
{
    store_lock(s);
    *out = s->stats;
    out->state = s->state;
    memcpy(out->reason, s->reason, sizeof out->reason);
    out->paused = s->paused_until > 0;
    out->budget_bytes = s->budget;
    out->used_bytes = s->index.bytes + s->reserved;
    out->probation_bytes = s->index.probation_bytes;
    out->n_segments = s->index.n_segments;
    out->n_frontiers = s->index.n_fronts;
    out->n_other = s->index.n_other;
    out->n_queued = s->n_queued;
    out->queued_bytes = s->queued_bytes;
    store_unlock(s);
}
