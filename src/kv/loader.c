/* loader.c - reading segments and a frontier back: a few threads, file after file, each file
 * checked completely. A reader takes the next file, reads sections into its own aligned memory,
 * checks them, and only then copies rows to the page: so a load can be abandoned at any moment,
 * even while a reader hangs in a system call. Files of a chain are independent; one that fails
 * ends the prefix there.
 *
 * Files are opened one after the other, not all before: a chain of a million tokens has 512, and
 * one that is removed meanwhile is a miss from there on, as any other. Read next: format.c. */
#include "kv/store_int.h"

#include <assert.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"

struct task { /* one file */
    struct kv_name name;
    uint64_t first;
    uint32_t count, page;
    bool done;
    enum kv_why why;
};

struct kv_load {
    struct kv_store *s;
    uint32_t first, n_segments; /* tasks: segments from `first` on, then perhaps the frontier */
    uint32_t ids_from;          /* segment at which `ids` begins */
    uint32_t n_tasks, next;
    unsigned char salt_sha[KV_ID_BYTES];
    unsigned char *state; /* of the caller */
    uint32_t *ids;        /* owned */
    double began;

    pthread_mutex_t mu;
    pthread_cond_t change;
    uint32_t refs;      /* caller and readers */
    uint32_t n_running; /* readers */
    uint32_t n_copying; /* readers that write to the caller's memory */
    uint32_t failed;    /* first task that failed, n_tasks: none */
    bool abandoned;
    uint64_t bytes;
    double ended;
    struct task task[];
};

/* ---- life ---- */

static void load_unref(struct kv_load *l)
{
    pthread_mutex_lock(&l->mu);
    bool last = --l->refs == 0;
    pthread_mutex_unlock(&l->mu);
    if (last) {
        pthread_cond_destroy(&l->change);
        pthread_mutex_destroy(&l->mu);
        store_unref(l->s);
        mem_free(l->ids);
        mem_free(l);
    }
}

/* Is task i still wanted? */
static bool wanted(struct kv_load *l, uint32_t i)
{
    pthread_mutex_lock(&l->mu);
    bool yes = !l->abandoned && i < l->failed;
    pthread_mutex_unlock(&l->mu);
    return yes;
}

/* May the caller's memory be written now? If so, copy_end follows. */
static bool copy_begin(struct kv_load *l)
{
    pthread_mutex_lock(&l->mu);
    bool ok = !l->abandoned;
    l->n_copying += ok;
    pthread_mutex_unlock(&l->mu);
    return ok;
}
static void copy_end(struct kv_load *l)
{
    pthread_mutex_lock(&l->mu);
    l->n_copying--;
    pthread_cond_broadcast(&l->change);
    pthread_mutex_unlock(&l->mu);
}

/* ---- one file ---- */

struct reader {
    struct kv_load *l;
    uint32_t i; /* task */
    struct kv_header *plan, *head;
    unsigned char *batch; /* KV_ALIGN-aligned */
    size_t batch_bytes;
    uint64_t state_at;
    const unsigned char *rows; /* of the section being copied */
    const char *what;          /* the check that failed */
};

static void put_rows(void *user, uint64_t page_at, uint64_t section_at, uint64_t n)
{
    struct reader *r = user;
    const struct kv_page_io *io = &r->l->s->io;
    io->write(io->user, r->l->task[r->i].page, page_at, r->rows + section_at, n);
}

static bool ids_equal(const struct reader *r, const unsigned char *p)
{
    const struct task *t = &r->l->task[r->i];
    const uint32_t *ids =
        r->l->ids + (t->first - (uint64_t)r->l->ids_from * r->l->s->geom.page_tokens);
    for (uint32_t i = 0; i < t->count; i++) {
        if (load_le32(p + (size_t)i * 4) != ids[i]) {
            return false;
        }
    }
    return true;
}

/* A checked section goes where it belongs; false: abandoned. */
static bool use_section(struct reader *r, const struct kv_section *sec, const unsigned char *p)
{
    const struct kv_geom *g = &r->l->s->geom;
    const struct task *t = &r->l->task[r->i];
    if (sec->type == KV_SEC_IDS) {
        return true;
    }
    if (!copy_begin(r->l)) {
        return false;
    }
    uint64_t state = 0;
    if (sec->type == KV_SEC_STATE) {
        state = kv_geom_state_bytes_layer(g, sec->layer, t->first + t->count);
        memcpy(r->l->state + r->state_at, p, (size_t)state);
        r->state_at += state;
    }
    r->rows = p + state;
    kv_rows_walk(g, sec->layer, t->count, 0, put_rows, r);
    copy_end(r->l);
    return true;
}

/* The header at r->batch; 0, or what is wrong with it. */
static bool good_header(struct reader *r, uint64_t file_bytes, enum file_fault *fault)
{
    enum kv_check c = kv_header_parse(r->head, r->batch, file_bytes, &r->what);
    if (c == KV_CHECK_OK) {
        c = kv_header_is(r->head, r->plan, &r->what);
    }
    *fault = c == KV_CHECK_FOREIGN ? FAULT_FOREIGN : FAULT_DAMAGED;
    return c == KV_CHECK_OK;
}

/* Sections [i, return) fit into one batch, which starts at file offset `at`. */
static uint32_t batch_end(const struct reader *r, uint32_t i, uint64_t at, uint64_t *bytes)
{
    const struct kv_header *h = r->plan;
    *bytes = 0;
    for (; i < h->n_sections; i++) {
        uint64_t end = h->section[i].offset + align_up(h->section[i].length, KV_ALIGN) - at;
        if (end > r->batch_bytes) {
            break;
        }
        *bytes = end;
    }
    return i;
}

enum read_result { READ_OK, READ_FAULT, READ_UNWANTED };

/* Reads and checks the open file. */
static enum read_result read_file(struct reader *r, int fd, enum file_fault *fault, int *error)
{
    struct kv_load *l = r->l;
    const struct kv_fs *fs = l->s->fs;
    const struct kv_header *h = r->plan;
    uint64_t file_bytes = 0, at = 0, bytes = 0;
    *error = fs->file_bytes(fs->user, fd, &file_bytes);
    if (*error == 0 && file_bytes != h->file_bytes) { /* what is it, then? */
        *error = kv_fs_read_full(fs, fd, r->batch, KV_HEADER_BYTES, 0);
        r->what = "file length";
        *fault = *error == 0 && !good_header(r, file_bytes, fault) ? *fault : FAULT_DAMAGED;
        *error = 0;
        return READ_FAULT;
    }
    for (uint32_t i = 0; *error == 0 && i < h->n_sections; at += bytes) {
        if (!wanted(l, r->i)) {
            return READ_UNWANTED;
        }
        uint32_t end = batch_end(r, i, at, &bytes);
        *error = kv_fs_read_full(fs, fd, r->batch, (size_t)bytes, at);
        if (*error == 0 && at == 0 && !good_header(r, file_bytes, fault)) {
            return READ_FAULT;
        }
        for (; *error == 0 && i < end; i++) {
            const struct kv_section *sec = &r->head->section[i];
            const unsigned char *p = r->batch + (sec->offset - at);
            r->what = sec->type == KV_SEC_IDS ? "token ids" : "checksum of a section";
            if (!kv_section_good(r->head, sec, p) || (i == 0 && !ids_equal(r, p))) {
                *fault = FAULT_DAMAGED;
                return READ_FAULT;
            }
            if (!use_section(r, sec, p)) {
                return READ_UNWANTED;
            }
        }
    }
    if (*error != 0) {
        r->what = "cannot read";
        *fault = fault_of(*error);
        return READ_FAULT;
    }
    pthread_mutex_lock(&l->mu);
    l->bytes += file_bytes;
    pthread_mutex_unlock(&l->mu);
    return READ_OK;
}

static size_t largest_batch(const struct kv_header *h)
{
    uint64_t most = KV_READ_BATCH;
    for (uint32_t i = 0; i < h->n_sections; i++) {
        uint64_t padded = align_up(h->section[i].length, KV_ALIGN);
        most = MAX(most, i == 0 ? KV_HEADER_BYTES + padded : padded);
    }
    return (size_t)MIN(most, h->file_bytes);
}

static bool reader_grow(struct reader *r)
{
    size_t need = largest_batch(r->plan);
    if (need > r->batch_bytes) {
        mem_free(r->batch);
        r->batch = mem_alloc_aligned(KV_ALIGN, need);
        r->batch_bytes = r->batch ? need : 0;
    }
    return r->batch != NULL;
}

static enum read_result run_task(struct reader *r, enum kv_why *why)
{
    struct kv_load *l = r->l;
    struct kv_store *s = l->s;
    const struct task *t = &l->task[r->i];
    if (!r->plan || !r->head) {
        *why = KV_WHY_NO_MEMORY;
        return READ_FAULT;
    }
    store_plan(s, &t->name, t->first, t->count, l->salt_sha, r->plan);
    if (!reader_grow(r)) {
        *why = KV_WHY_NO_MEMORY;
        return READ_FAULT;
    }
    char text[KV_NAME_MAX];
    kv_name_make(&t->name, text);
    store_lock(s);
    int own = s->own;
    store_unlock(s);
    enum file_fault fault = FAULT_IO;
    enum read_result res = READ_FAULT;
    int error = 0;
    r->state_at = 0;
    int fd = s->fs->open_read(s->fs->user, own, text, s->direct);
    if (fd < 0) {
        error = fd;
        fault = fault_of(fd);
        r->what = "cannot open";
    } else {
        res = read_file(r, fd, &fault, &error);
        s->fs->close(s->fs->user, fd);
    }
    if (res == READ_FAULT) {
        *why = store_fault(s, &t->name, fault, error, r->what);
    }
    return res;
}

/* ---- readers ---- */

static bool next_task(struct kv_load *l, uint32_t *i)
{
    pthread_mutex_lock(&l->mu);
    bool more = !l->abandoned && l->next < l->n_tasks && l->next < l->failed;
    *i = l->next;
    l->next += more;
    pthread_mutex_unlock(&l->mu);
    return more;
}

static void *reader_main(void *load)
{
    struct reader r = {.l = load};
    struct kv_load *l = load;
    r.plan = mem_alloc(1, sizeof *r.plan);
    r.head = mem_alloc(1, sizeof *r.head);
    while (next_task(l, &r.i)) {
        enum kv_why why = KV_WHY_NONE;
        enum read_result res = run_task(&r, &why);
        pthread_mutex_lock(&l->mu);
        l->task[r.i].done = res == READ_OK;
        l->task[r.i].why = why;
        if (res == READ_FAULT) {
            l->failed = MIN(l->failed, r.i);
        }
        pthread_mutex_unlock(&l->mu);
    }
    mem_free(r.plan);
    mem_free(r.head);
    mem_free(r.batch);
    pthread_mutex_lock(&l->mu);
    if (--l->n_running == 0) {
        l->ended = clock_now();
    }
    pthread_cond_broadcast(&l->change);
    pthread_mutex_unlock(&l->mu);
    load_unref(l);
    return NULL;
}

static void start_readers(struct kv_load *l)
{
    uint32_t n = MIN(l->s->n_readers, MAX(l->n_tasks, 1u));
    l->n_running = n;
    l->refs += n;
    uint32_t started = 0;
    for (; started < n && !l->s->single_threaded; started++) {
        pthread_t t;
        if (pthread_create(&t, NULL, reader_main, l) != 0) {
            break;
        }
        pthread_detach(t);
    }
    if (started == n) {
        return;
    }
    pthread_mutex_lock(&l->mu);
    uint32_t rest = n - started - (started == 0); /* without threads: this one */
    l->n_running -= rest;
    l->refs -= rest;
    pthread_mutex_unlock(&l->mu);
    if (started == 0) {
        reader_main(l);
    }
}

/* ---- the caller's side ---- */

static void fill_tasks(struct kv_load *l, const struct kv_load_request *req,
                       const struct kv_chain *c)
{
    uint32_t size = l->s->geom.page_tokens;
    for (uint32_t k = req->first; k < req->end; k++) {
        l->task[k - req->first] =
            (struct task){.name = {.kind = KV_SEGMENT, .from = c->key[k], .to = c->key[k + 1]},
                          .first = (uint64_t)k * size,
                          .count = size,
                          .page = req->pages[k - req->first]};
    }
    if (req->frontier) {
        const struct kv_entry *f = req->hit->frontier;
        l->task[l->n_segments] = (struct task){.name = f->name,
                                               .first = req->hit->frontier_pos - f->name.tail,
                                               .count = f->name.tail,
                                               .page = req->tail_page};
    }
}

struct kv_load *kv_load_start(struct kv_store *s, struct kv_chain *chain,
                              const struct kv_load_request *req)
{
    uint32_t size = s->geom.page_tokens, pos = req->frontier ? req->hit->frontier_pos : 0;
    assert(s->has_geom && req->first <= req->end && req->end <= req->hit->n_segments);
    assert(!req->frontier || req->hit->frontier);
    uint32_t n = req->end - req->first, n_tasks = n + req->frontier;
    /* ids from here on are needed; a frontier may lie below the first segment */
    uint32_t from = req->frontier ? MIN(req->first, pos / size) : req->first;
    uint32_t end = MAX(req->end * size, pos);
    struct kv_load *l = mem_calloc(1, sizeof *l + n_tasks * sizeof(struct task));
    uint32_t *ids = mem_alloc(end - from * size, sizeof *ids);
    if (!l || !ids || kv_chain_extend(chain, req->ids, end, NULL) != 0) {
        mem_free(ids);
        mem_free(l);
        return NULL;
    }
    memcpy(ids, req->ids + (size_t)from * size, (end - from * size) * sizeof *ids);
    *l = (struct kv_load){.s = s,
                          .first = req->first,
                          .ids_from = from,
                          .n_segments = n,
                          .n_tasks = n_tasks,
                          .state = req->state,
                          .ids = ids,
                          .began = clock_now(),
                          .refs = 1,
                          .failed = n_tasks};
    memcpy(l->salt_sha, chain->salt_sha, KV_ID_BYTES);
    fill_tasks(l, req, chain);
    pthread_mutex_init(&l->mu, NULL);
    clock_cond_init(&l->change);
    store_lock(s);
    s->refs++;
    s->stats.loads++;
    store_unlock(s);
    start_readers(l);
    return l;
}

bool kv_load_done(struct kv_load *l)
{
    pthread_mutex_lock(&l->mu);
    bool done = l->n_running == 0;
    pthread_mutex_unlock(&l->mu);
    return done;
}

void kv_load_finish(struct kv_load *l, double max_seconds, struct kv_load_result *out)
{
    double until = clock_now() + max_seconds;
    pthread_mutex_lock(&l->mu);
    while (l->n_running > 0) {
        double left = max_seconds < 0 ? 1 : until - clock_now();
        if (left <= 0) {
            break;
        }
        clock_wait(&l->change, &l->mu, MIN(left, 1));
    }
    bool slow = l->n_running > 0;
    l->abandoned = slow;
    while (l->n_copying > 0) {
        pthread_cond_wait(&l->change, &l->mu);
    }
    uint32_t n = 0;
    while (n < l->n_segments && l->task[n].done) {
        n++;
    }
    bool frontier = l->n_tasks > l->n_segments && l->task[l->n_segments].done;
    uint32_t stop = n < l->n_segments ? n : l->n_segments;
    enum kv_why why = KV_WHY_NONE;
    if (stop < l->n_tasks && !(stop == l->n_segments && frontier)) {
        why = slow && !l->task[stop].done && l->task[stop].why == KV_WHY_NONE
                  ? KV_WHY_SLOW
                  : l->task[stop].why;
    }
    *out = (struct kv_load_result){.end = l->first + n,
                                   .frontier = frontier,
                                   .why = why,
                                   .at = l->first + stop,
                                   .bytes = l->bytes,
                                   .seconds = (slow ? clock_now() : l->ended) - l->began};
    pthread_mutex_unlock(&l->mu);
    store_lock(l->s);
    l->s->stats.loaded_segments += n;
    l->s->stats.loaded_bytes += out->bytes;
    store_unlock(l->s);
    load_unref(l);
}

/* ---- where a stored continuation differs ---- */

/* The most recently used file that goes on from the hit's last boundary, if there is one. */
static struct kv_entry *continuation_locked(struct kv_store *s, const struct kv_hit *hit,
                                            const struct kv_key *at)
{
    struct kv_node *d = index_node(&s->index, s->own_folder, at);
    struct kv_entry *list[2] = {d ? d->segments : NULL, d ? d->fronts : NULL}, *best = NULL;
    for (int i = 0; i < 2; i++) {
        for (struct kv_entry *e = list[i]; e; e = e->next) {
            bool empty = e->name.kind == KV_FRONTIER && e->name.tail == 0;
            if (e != hit->frontier && entry_usable(e) && !empty &&
                (!best || e->time > best->time)) {
                best = e;
            }
        }
    }
    return best;
}

/* Header and ids of a stored file; p: KV_HEADER_BYTES and the padded ids. */
static bool read_ids(struct kv_store *s, const struct kv_name *name, struct kv_header *h,
                     unsigned char *p, uint32_t max_ids)
{
    char text[KV_NAME_MAX];
    kv_name_make(name, text);
    store_lock(s);
    int own = s->own;
    store_unlock(s);
    int fd = s->fs->open_read(s->fs->user, own, text, false);
    if (fd < 0) {
        return false;
    }
    uint64_t bytes = 0;
    bool ok = s->fs->file_bytes(s->fs->user, fd, &bytes) == 0 &&
              kv_fs_read_full(s->fs, fd, p, KV_HEADER_BYTES, 0) == 0 &&
              kv_header_parse(h, p, bytes, NULL) == KV_CHECK_OK && h->count <= max_ids &&
              kv_key_eq(&h->from, &name->from) && kv_key_eq(&h->to, &name->to) &&
              kv_fs_read_full(s->fs, fd, p + KV_HEADER_BYTES,
                              (size_t)align_up(h->section[0].length, KV_ALIGN),
                              KV_HEADER_BYTES) == 0 &&
              kv_section_good(h, &h->section[0], p + KV_HEADER_BYTES);
    s->fs->close(s->fs->user, fd);
    return ok;
}

bool kv_store_divergence(struct kv_store *s, struct kv_chain *chain, const struct kv_hit *hit,
                         const uint32_t *ids, uint32_t n, uint32_t *pos, uint32_t *stored_id)
{
    uint32_t size = s->geom.page_tokens, from = hit->n_segments * size;
    if (hit->why != KV_WHY_DIVERGED || kv_chain_extend(chain, ids, from, NULL) != 0) {
        return false;
    }
    store_lock(s);
    const struct kv_entry *e = continuation_locked(s, hit, &chain->key[hit->n_segments]);
    struct kv_name name = e ? e->name : (struct kv_name){0};
    store_unlock(s);
    struct kv_header *h = mem_alloc(1, sizeof *h);
    unsigned char *p = mem_alloc(KV_HEADER_BYTES + align_up((uint64_t)size * 4, KV_ALIGN), 1);
    bool found = false;
    if (e && h && p && read_ids(s, &name, h, p, size) && h->first == from) {
        uint32_t i = 0;
        while (i < h->count && from + i < n &&
               load_le32(p + KV_HEADER_BYTES + (size_t)i * 4) == ids[from + i]) {
            i++;
        }
        found = from + i < n;
        *pos = from + i;
        *stored_id = i < h->count ? load_le32(p + KV_HEADER_BYTES + (size_t)i * 4) : UINT32_MAX;
    }
    mem_free(p);
    mem_free(h);
    return found;
}
