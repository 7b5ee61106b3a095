/* writer.c - everything the disk store does in the background: writing queued files, evicting,
 * renewing file times, retrying the lock; and the owner's side of the queue.
 *
 * A file: room in the budget (evict first) -> temporary, 0600 -> its full size reserved -> data
 * sections, header last -> fdatasync -> renamed unless the name exists -> index. Nothing depends
 * on the order in which a disk makes that durable: what is torn fails its checksums (kv-store.md
 * 3.5). A failed fdatasync is not tried again on the same file. Read next: scan.c. */
#include "kv/store_int.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"

/* ---- evicting ---- */

bool writer_evict(struct kv_store *s, const char *for_what)
{
    store_lock(s);
    struct kv_entry *e = index_victim(&s->index, s->budget / 4);
    if (!e) {
        store_unlock(s);
        return false;
    }
    struct kv_name name = e->name;
    struct kv_folder *f = e->folder;
    uint64_t bytes = e->bytes;
    e->evicting = true;
    index_pin(e);
    store_unlock(s);

    char text[KV_NAME_MAX];
    kv_name_make(&name, text);
    int dir = scan_folder_handle(s, f);
    int rc = dir < 0 ? dir : s->fs->remove(s->fs->user, dir, text);
    if (dir >= 0 && f != s->own_folder) {
        s->fs->dir_close(s->fs->user, dir);
    }
    bool removed = rc == 0 || rc == -ENOENT;
    store_lock(s);
    if (removed) {
        if (!e->gone) {
            index_remove(&s->index, e);
        }
        s->stats.evicted_files++;
        s->stats.evicted_bytes += bytes;
        if (f == s->own_folder) {
            store_remember_locked(s, &name.to, KV_WHY_EVICTED);
        }
    } else {
        e->evicting = false;
        e->stuck = true;
    }
    index_unpin(e);
    bool empty = removed && f->n_entries == 0 && f != s->own_folder;
    store_unlock(s);
    if (empty) {
        s->fs->dir_remove(s->fs->user, s->root, f->name);
    }
    if (removed) {
        log_info("KV store: evicted %s/%s for %s", f->name, text, for_what);
    } else {
        log_warn("KV store: cannot remove %s/%s/%s: %s", s->dir, f->name, text, strerror(-rc));
    }
    return true;
}

/* Is there room for `bytes` more? Evicts for it. */
static bool reserve(struct kv_store *s, uint64_t bytes)
{
    for (;;) {
        store_lock(s);
        bool fits = s->index.bytes + s->reserved + bytes <= s->budget;
        if (fits) {
            s->reserved += bytes;
        }
        store_unlock(s);
        if (fits || !writer_evict(s, "a new file")) {
            return fits;
        }
    }
}

static void unreserve(struct kv_store *s, uint64_t bytes)
{
    store_lock(s);
    s->reserved -= bytes;
    store_unlock(s);
}

/* ---- one file ---- */

/* While this is true the writer may look at what the owner gave it. */
static bool look_begin(struct kv_store *s)
{
    store_lock(s);
    bool ok = !s->abandon;
    s->copying = ok;
    store_unlock(s);
    return ok;
}
static void look_end(struct kv_store *s)
{
    store_lock(s);
    s->copying = false;
    pthread_cond_broadcast(&s->idle);
    store_unlock(s);
}

struct fill {
    struct kv_store *s;
    const struct kv_item *it;
    unsigned char *p;
    uint64_t tail; /* bytes of it->tail used so far */
};
static void fill_rows(void *user, uint64_t page_at, uint64_t section_at, uint64_t n)
{
    struct fill *f = user;
    f->s->io.read(f->s->io.user, f->it->page, page_at, f->p + section_at, n);
}

/* The bytes of one section, padding included. state_at: of this layer in it->state. */
static bool fill_section(struct fill *f, const struct kv_section *sec, uint64_t state_at)
{
    const struct kv_geom *g = &f->s->geom;
    uint64_t padded = align_up(sec->length, KV_ALIGN);
    memset(f->p + sec->length, 0, (size_t)(padded - sec->length));
    if (sec->type == KV_SEC_IDS) {
        for (uint32_t i = 0; i < f->it->count; i++) {
            store_le32(f->p + (size_t)i * 4, f->it->ids[i]);
        }
        return true;
    }
    if (!look_begin(f->s)) {
        return false;
    }
    if (sec->type == KV_SEC_ROWS) {
        kv_rows_walk(g, sec->layer, f->it->count, 0, fill_rows, f);
    } else {
        uint64_t rows = kv_geom_row_bytes(g, sec->layer, f->it->count);
        uint64_t state = sec->length - rows;
        memcpy(f->p, (const unsigned char *)f->it->state + state_at, (size_t)state);
        if (rows > 0) {
            memcpy(f->p + state, f->it->tail + f->tail, (size_t)rows);
        }
        f->tail += rows;
    }
    look_end(f->s);
    return true;
}

static uint64_t largest_section(const struct kv_header *h)
{
    uint64_t most = KV_HEADER_BYTES;
    for (uint32_t i = 0; i < h->n_sections; i++) {
        most = MAX(most, align_up(h->section[i].length, KV_ALIGN));
    }
    return most;
}

/* Sections, then the header: a file without its header is nothing. */
static int write_body(struct kv_store *s, int fd, const struct kv_item *it, struct kv_header *h)
{
    unsigned char *p = mem_alloc_aligned(KV_ALIGN, (size_t)largest_section(h));
    struct fill f = {s, it, p, 0};
    int rc = p ? 0 : -ENOMEM;
    uint64_t state_at = 0, pos = it->first + it->count;
    for (uint32_t i = 0; rc == 0 && i < h->n_sections; i++) {
        struct kv_section *sec = &h->section[i];
        size_t padded = (size_t)align_up(sec->length, KV_ALIGN);
        if (!fill_section(&f, sec, state_at)) {
            rc = -ECANCELED;
            break;
        }
        if (sec->type == KV_SEC_STATE) {
            state_at += kv_geom_state_bytes_layer(&s->geom, sec->layer, pos);
        }
        xxh128(p, padded, sec->sum);
        rc = kv_fs_write_full(s->fs, fd, p, padded, sec->offset);
    }
    if (rc == 0) {
        kv_header_write(h, p);
        rc = kv_fs_write_full(s->fs, fd, p, KV_HEADER_BYTES, 0);
    }
    mem_free(p);
    return rc;
}

static void temp_name(uint64_t counter, char out[KV_NAME_MAX])
{
    snprintf(out, KV_NAME_MAX, ".t.%ld.%llu", (long)getpid(), (unsigned long long)counter);
}

/* Temporaries that could not be removed count until they are. false: too many. */
static bool remove_left_temps(struct kv_store *s)
{
    for (uint64_t i = 0; i < s->n_left_temps;) {
        char text[KV_NAME_MAX];
        temp_name(s->left_temp[i], text);
        int rc = s->fs->remove(s->fs->user, s->own, text);
        if (rc == 0 || rc == -ENOENT) {
            unreserve(s, s->left_temp_bytes[i]);
            s->n_left_temps--;
            s->left_temp[i] = s->left_temp[s->n_left_temps];
            s->left_temp_bytes[i] = s->left_temp_bytes[s->n_left_temps];
        } else {
            i++;
        }
    }
    return s->n_left_temps < KV_LEFT_TEMPS;
}

/* Makes the file; 0, -EEXIST (the name was taken meanwhile) or -errno. Its bytes are reserved;
 * they stay so only if a temporary stays behind. */
static int make_file(struct kv_store *s, const struct kv_item *it)
{
    int rc = scan_own_folder(s, true);
    struct kv_header *h = rc == 0 ? mem_alloc(1, sizeof *h) : NULL;
    if (!h) {
        return rc != 0 ? rc : -ENOMEM;
    }
    store_plan(s, &it->name, it->first, it->count, it->salt_sha, h);
    h->created = (uint64_t)store_wall(s);
    h->cost_ms = it->cost_ms;
    char temp[KV_NAME_MAX], text[KV_NAME_MAX];
    kv_name_make(&it->name, text);
    int fd = -EEXIST;
    uint64_t counter = 0;
    for (int i = 0; i < 100 && fd == -EEXIST; i++) {
        counter = ++s->temp_counter;
        temp_name(counter, temp);
        fd = s->fs->create(s->fs->user, s->own, temp);
    }
    if (fd < 0) {
        mem_free(h);
        return fd == -EEXIST ? -EIO : fd;
    }
    rc = s->fs->allocate(s->fs->user, fd, h->file_bytes);
    if (rc == 0) {
        rc = write_body(s, fd, it, h);
    }
    if (rc == 0) {
        rc = s->fs->sync(s->fs->user, fd);
    }
    if (rc == 0) {
        s->fs->forget(s->fs->user, fd);
    }
    int closed = s->fs->close(s->fs->user, fd);
    rc = rc != 0 ? rc : closed == -EINTR ? 0 : closed;
    if (rc == 0) {
        rc = s->fs->rename_new(s->fs->user, s->own, temp, text);
    }
    if (rc != 0) {
        int gone = s->fs->remove(s->fs->user, s->own, temp);
        if (gone != 0 && gone != -ENOENT) {
            s->left_temp[s->n_left_temps] = counter;
            s->left_temp_bytes[s->n_left_temps++] = it->bytes;
            store_lock(s);
            s->reserved += it->bytes; /* on top of the reservation that ends now */
            store_unlock(s);
        }
    }
    mem_free(h);
    return rc;
}

/* The file is there: the newest entry. */
static enum kv_why enter(struct kv_store *s, const struct kv_item *it, bool ours)
{
    int64_t wall = store_wall(s);
    char text[KV_NAME_MAX];
    kv_name_make(&it->name, text);
    uint64_t bytes = it->bytes;
    if (!ours) { /* the name was taken: by a file it is as good as ours, if it is one */
        struct kv_stat st;
        if (s->fs->stat(s->fs->user, s->own, text, &st) != 0 || st.type != KV_TYPE_FILE) {
            return KV_WHY_IO_ERROR;
        }
        bytes = st.bytes;
    }
    store_lock(s);
    struct kv_entry *e = index_find(&s->index, s->own_folder, &it->name);
    if (!e) {
        e = index_add(&s->index, s->own_folder, &it->name, bytes, wall, it->used_before);
    }
    if (e) {
        index_touch(&s->index, e, it->used_before || e->proven, wall, KV_PERSIST);
        s->stats.written_files += ours;
        s->stats.written_bytes += ours ? bytes : 0;
    }
    store_unlock(s);
    if (!e) {
        s->fs->remove(s->fs->user, s->own, text);
    }
    return e ? KV_WHY_NONE : KV_WHY_NO_MEMORY;
}

/* ---- what happens to an item ---- */

enum verdict { ITEM_DONE, ITEM_DROP, ITEM_LATER, ITEM_STOP };

static void pause_writing(struct kv_store *s, double until)
{
    store_lock(s);
    s->paused_until = until;
    pthread_cond_broadcast(&s->idle);
    store_unlock(s);
}

static void pause_longer(struct kv_store *s, int rc)
{
    s->pause = s->pause ? MIN(s->pause * 2, (uint32_t)KV_PAUSE_MAX) : KV_PAUSE_MIN;
    log_warn("KV store %s: writing pauses for %u s: %s", s->dir, s->pause, strerror(-rc));
    pause_writing(s, store_mono(s) + s->pause);
}

/* Would the file leave too little room for everybody else? */
static bool disk_full(struct kv_store *s, uint64_t bytes)
{
    uint64_t free_bytes, total;
    if (s->fs->space(s->fs->user, s->root, &free_bytes, &total) != 0) {
        return false;
    }
    uint64_t keep = MAX((uint64_t)1 << 30, total / 50);
    return free_bytes < keep || free_bytes - keep < bytes;
}

/* Writes once, with its reservation. */
static int try_once(struct kv_store *s, const struct kv_item *it, enum kv_why *why)
{
    if (s->n_left_temps > 0 && !remove_left_temps(s)) {
        return -EIO;
    }
    if (!reserve(s, it->bytes)) {
        *why = KV_WHY_BUDGET;
        return 0;
    }
    int rc = disk_full(s, it->bytes) ? -ENOSPC : make_file(s, it);
    unreserve(s, it->bytes);
    if (rc == 0 || rc == -EEXIST) {
        *why = enter(s, it, rc == 0);
        rc = 0;
    }
    return rc;
}

static enum verdict judge(struct kv_store *s, const struct kv_item *it, enum kv_why *why)
{
    int rc = try_once(s, it, why);
    if ((rc == -ENOSPC || rc == -EDQUOT) && writer_evict(s, "room on the disk")) {
        rc = try_once(s, it, why);
    }
    switch (rc) {
    case 0: s->pause = 0; return *why == KV_WHY_NONE ? ITEM_DONE : ITEM_DROP;
    case -ENOSPC:
    case -EDQUOT:
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM: pause_longer(s, rc); return ITEM_LATER;
    case -ENOENT: /* the folder, or the whole directory, was removed under us */
        if (!scan_recreate(s)) {
            pause_writing(s, MAX(s->next_recreate, store_mono(s) + 1));
        }
        return ITEM_LATER;
    case -EROFS:
    case -EACCES:
    case -EPERM:
        store_lock(s);
        store_set_state_locked(s, KV_STORE_READ_ONLY, "cannot write as user %ld: %s",
                               (long)geteuid(), strerror(-rc));
        store_unlock(s);
        *why = KV_WHY_OFF;
        return ITEM_STOP;
    default:
        store_lock(s);
        s->stats.write_errors++;
        store_unlock(s);
        log_warn("KV store %s: a file was not written: %s", s->dir, strerror(-rc));
        *why = KV_WHY_IO_ERROR;
        return ITEM_DROP;
    }
}

static void write_next(struct kv_store *s)
{
    store_lock(s);
    s->paused_until = 0;
    struct kv_item *it = queue_pop(&s->queue);
    s->active = it;
    struct kv_entry *parent = it->first > 0 ? stored_locked(s, &it->name.from) : NULL;
    bool orphan = it->first > 0 && !parent;
    if (parent) {
        index_pin(parent); /* room for the child is not made by removing the parent */
    }
    store_unlock(s);
    enum kv_why why = KV_WHY_NONE;
    enum verdict v = ITEM_DROP;
    if (orphan) {
        why = KV_WHY_NO_PARENT;
    } else {
        v = judge(s, it, &why);
    }
    store_lock(s);
    if (parent) {
        index_unpin(parent);
    }
    s->active = NULL;
    if (v == ITEM_LATER) {
        it->next = s->queue.head;
        s->queue.head = it;
        if (!it->next) {
            s->queue.end = &it->next;
        }
    } else {
        item_done_locked(s, it, why);
    }
    if (v == ITEM_STOP) {
        drop_queue_locked(s, KV_WHY_OFF);
    } else if (s->state != KV_STORE_WRITER) { /* the directory vanished, another has the lock */
        drop_queue_locked(s, KV_WHY_OFF);
    }
    store_unlock(s);
}

/* ---- background work ---- */

enum due { DUE_NOTHING, DUE_LOCK, DUE_SCAN, DUE_EVICT, DUE_WRITE, DUE_TIME };

static enum due due_locked(const struct kv_store *s, double now)
{
    bool peer = s->lock < 0 && s->root >= 0;
    if (peer && !s->read_only && now >= s->next_lock) {
        return DUE_LOCK;
    }
    if (peer && s->rescan && s->has_geom && (s->rescan_force || now >= s->next_scan)) {
        return DUE_SCAN;
    }
    if (s->state != KV_STORE_WRITER) {
        return DUE_NOTHING;
    }
    if (s->index.bytes + s->reserved > s->budget && index_victim(&s->index, s->budget / 4)) {
        return DUE_EVICT;
    }
    if (s->queue.head && now >= s->paused_until) {
        return DUE_WRITE;
    }
    return s->index.dirty.next != &s->index.dirty ? DUE_TIME : DUE_NOTHING;
}

/* One file's last use, made known to the next process. */
static void persist_time(struct kv_store *s)
{
    store_lock(s);
    struct kv_link *l = s->index.dirty.next;
    struct kv_entry *e = INDEX_ENTRY(l, dirty);
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->next = l->prev = l;
    struct kv_name name = e->name;
    bool own = e->folder == s->own_folder;
    int64_t mtime = e->mtime;
    e->mtime_disk = mtime;
    store_unlock(s);
    char text[KV_NAME_MAX];
    kv_name_make(&name, text);
    if (own) {
        s->fs->set_mtime(s->fs->user, s->own, text, mtime);
    }
}

bool writer_step(struct kv_store *s)
{
    double now = store_mono(s);
    store_lock(s);
    enum due due = due_locked(s, now);
    store_unlock(s);
    switch (due) {
    case DUE_NOTHING: return false;
    case DUE_LOCK: scan_take_lock(s); break;
    case DUE_SCAN: scan_peer(s); break;
    case DUE_EVICT: writer_evict(s, "a smaller budget"); break;
    case DUE_WRITE: write_next(s); break;
    case DUE_TIME: persist_time(s); break;
    }
    store_lock(s);
    pthread_cond_broadcast(&s->idle);
    store_unlock(s);
    return true;
}

void kv_store_work(struct kv_store *s)
{
    while (s->single_threaded && writer_step(s)) {
    }
}

void kv_store_refresh(struct kv_store *s)
{
    store_lock(s);
    if (s->lock < 0 && s->root >= 0 && s->has_geom) {
        uint64_t mine = ++s->scan_asked;
        s->rescan = s->rescan_force = true;
        pthread_cond_signal(&s->work);
        while (s->has_thread && s->scan_answered < mine && s->lock < 0) {
            pthread_cond_wait(&s->idle, &s->mu);
        }
    }
    store_unlock(s);
    kv_store_work(s);
}

/* CPU time of this thread in seconds. */
static double cpu_seconds(void)
{
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* After work that took so much CPU time: rests, so that its share of a core stays small. */
static void rest(struct kv_store *s, double cpu)
{
    double end = clock_now() + MIN(cpu / s->writer_share, (double)KV_REST_MAX), left;
    store_lock(s);
    while (!s->quit && s->n_waiting == 0 && s->queued_bytes <= s->queue_max / 4 &&
           (left = end - clock_now()) > 0) {
        store_wait_locked(s, &s->work, left);
    }
    store_unlock(s);
}

void *writer_main(void *store)
{
    struct kv_store *s = store;
    for (;;) {
        store_lock(s);
        while (!s->quit && due_locked(s, store_mono(s)) == DUE_NOTHING) {
            if (s->state == KV_STORE_WRITER && s->paused_until == 0) {
                pthread_cond_wait(&s->work, &s->mu);
            } else { /* something may become due by itself */
                store_wait_locked(s, &s->work, 1);
            }
        }
        bool quit = s->quit;
        store_unlock(s);
        if (quit) {
            break;
        }
        double before = cpu_seconds();
        writer_step(s);
        if (s->writer_share > 0) {
            rest(s, cpu_seconds() - before);
        }
    }
    store_lock(s);
    s->thread_ended = true;
    pthread_cond_broadcast(&s->idle);
    store_unlock(s);
    store_unref(s);
    return NULL;
}
