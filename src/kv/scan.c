/* scan.c - listing the directory, taking the lock, and coming back after the directory vanished.
 * Background work (store_int.h), or kv_store_open before there is any other thread.
 *
 * A listing reads names first, then looks at what is new (or at everything, by whoever takes the
 * lock: then file times order the index), and applies both in short pieces under the mutex. */
#include "kv/store_int.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"

enum { MAX_ORPHAN_CHECKS = 4096 };

/* ---- names of a directory ---- */

struct names {
    struct buf text; /* NUL-terminated, one after the other */
    uint32_t n;
};
static void add_name(void *user, const char *name)
{
    struct names *l = user;
    buf_add(&l->text, name, strlen(name) + 1);
    l->n++;
}
static int list_names(const struct kv_store *s, int dir, struct names *l)
{
    *l = (struct names){0};
    int rc = s->fs->list(s->fs->user, dir, add_name, l);
    return rc != 0 ? rc : l->text.failed ? -ENOMEM : 0;
}

/* ---- one folder ---- */

/* Counts as used when it cannot be removed; -errno: not even its size is known. */
static int remove_leftover(struct kv_store *s, int dir, const struct kv_folder *f,
                           const char *text)
{
    struct kv_stat st = {0};
    int rc = s->fs->remove(s->fs->user, dir, text);
    if (rc == 0 || rc == -ENOENT) {
        return 0;
    }
    log_warn("KV store %s/%s/%s: a leftover that cannot be removed: %s", s->dir, f->name, text,
             strerror(-rc));
    rc = s->fs->stat(s->fs->user, dir, text, &st);
    store_lock(s);
    s->reserved += st.bytes;
    store_unlock(s);
    return rc == -ENOENT ? 0 : rc;
}

/* One listed name. restat: look at known files again, too. -errno: it may be ours, but nothing
 * could be learnt about it. */
static int scan_file(struct kv_store *s, int dir, struct kv_folder *f, const char *text,
                     uint32_t mark, bool restat)
{
    struct kv_name name;
    if (!kv_name_parse(text, &name)) {
        store_lock(s);
        s->stats.n_foreign++;
        store_unlock(s);
        return 0;
    }
    if (name.kind == KV_TEMP) {
        /* Nobody else writes while the lock is ours, so it is a leftover. */
        return s->lock >= 0 ? remove_leftover(s, dir, f, text) : 0;
    }
    store_lock(s);
    struct kv_entry *e = index_find(&s->index, f, &name);
    if (e) {
        e->mark = mark;
    }
    store_unlock(s);
    struct kv_stat st;
    int rc = e && !restat ? 0 : s->fs->stat(s->fs->user, dir, text, &st);
    if (rc != 0 || (e && !restat)) {
        return rc == -ENOENT ? 0 : rc;
    }
    if (st.type != KV_TYPE_FILE) { /* somebody's link or folder under a name of ours */
        store_lock(s);
        s->stats.n_foreign++;
        store_unlock(s);
        return 0;
    }
    store_lock(s);
    e = index_find(&s->index, f, &name); /* a reader may have dropped it meanwhile */
    if (!e) {
        e = index_add(&s->index, f, &name, st.bytes, st.mtime, true);
    } else {
        s->index.bytes += st.bytes - e->bytes; /* modulo 2^64 */
        s->index.probation_bytes += e->proven ? 0 : st.bytes - e->bytes;
        e->bytes = st.bytes;
        e->mtime_disk = st.mtime;
        e->mtime = MAX(e->mtime, st.mtime);
    }
    if (e) {
        e->mark = mark;
        e->foreign = e->foreign || name.kind == KV_REPLAY;
    }
    store_unlock(s);
    return e ? 0 : -ENOMEM;
}

/* Entries of a folder that a complete listing did not show (mark 0: all of them). */
static void drop_unseen(struct kv_store *s, const struct kv_folder *f, uint32_t mark)
{
    store_lock(s);
    struct kv_link *ring[2] = {&s->index.proven, &s->index.probation};
    for (int i = 0; i < 2; i++) {
        for (struct kv_link *l = ring[i]->next, *next; l != ring[i]; l = next) {
            next = l->next;
            struct kv_entry *e = INDEX_ENTRY(l, lru);
            if (e->folder == f && (mark == 0 || e->mark != mark) && !e->evicting) {
                index_remove(&s->index, e);
            }
        }
    }
    store_unlock(s);
}

static int scan_folder(struct kv_store *s, int dir, struct kv_folder *f, bool restat)
{
    struct names l;
    int rc = list_names(s, dir, &l);
    if (rc == 0) {
        uint32_t mark = (uint32_t)++s->temp_counter | 1u << 31;
        const char *p = l.text.p;
        for (uint32_t i = 0; i < l.n; i++, p += strlen(p) + 1) {
            int one = scan_file(s, dir, f, p, mark, restat);
            rc = rc != 0 ? rc : one;
        }
        drop_unseen(s, f, mark);
    }
    buf_free(&l.text);
    return rc;
}

int scan_own_folder(struct kv_store *s, bool create)
{
    if (s->own >= 0) {
        return 0;
    }
    int fd = s->fs->dir_open_at(s->fs->user, s->root, s->own_name, create);
    if (fd < 0) {
        return fd;
    }
    store_lock(s);
    s->own = fd;
    store_unlock(s);
    return 0;
}

int scan_folder_handle(struct kv_store *s, const struct kv_folder *f)
{
    return f == s->own_folder && s->own >= 0
               ? s->own
               : s->fs->dir_open_at(s->fs->user, s->root, f->name, false);
}

/* ---- everything ---- */

/* Is a folder that cannot be opened somebody else's matter (a link, a file, another owner)? */
static bool not_ours(int rc)
{
    return rc == -EPERM || rc == -ENOTDIR || rc == -ELOOP || rc == -ENOENT;
}

/* Lists all folders. -errno: something of ours could not be looked at, so what is used is not
 * known. */
static int scan_all(struct kv_store *s, bool restat)
{
    struct names l;
    int rc = list_names(s, s->root, &l);
    store_lock(s);
    s->stats.n_foreign = 0;
    for (struct kv_folder *f = s->index.folders; f; f = f->next) {
        f->listed = false;
    }
    store_unlock(s);
    const char *p = l.text.p;
    for (uint32_t i = 0; rc == 0 && i < l.n; i++, p += strlen(p) + 1) {
        if (!kv_dir_name_valid(p)) {
            bool known = strcmp(p, "LOCK") == 0 || strcmp(p, "CACHEDIR.TAG") == 0;
            store_lock(s);
            s->stats.n_foreign += !known;
            store_unlock(s);
            continue;
        }
        store_lock(s);
        struct kv_folder *f = index_folder(&s->index, p, true);
        if (f) {
            f->listed = true;
        }
        store_unlock(s);
        bool own = f && f == s->own_folder;
        int dir = !f ? -ENOMEM : own ? scan_own_folder(s, false) : scan_folder_handle(s, f);
        dir = own && dir == 0 ? s->own : dir;
        if (dir >= 0) {
            rc = scan_folder(s, dir, f, restat);
            if (!own) {
                s->fs->dir_close(s->fs->user, dir);
            }
        } else {
            log_warn("KV store %s/%s: not used: %s", s->dir, p, strerror(-dir));
            rc = not_ours(dir) ? 0 : dir;
        }
    }
    buf_free(&l.text);
    for (struct kv_folder *f = s->index.folders; rc == 0 && f; f = f->next) {
        if (!f->listed) {
            drop_unseen(s, f, 0);
        }
    }
    return rc;
}

/* ---- order ---- */

/* Beginnings in the own folder whose files do not start at position 0: they lost their parents.
 * The others' folders cannot tell (their key(0) is not known). */
struct orphans {
    struct kv_key *key;
    uint32_t n, n_read;
};

static bool starts_late(struct kv_store *s, const struct kv_name *name)
{
    _Alignas(KV_ALIGN) unsigned char b[KV_HEADER_BYTES];
    char text[KV_NAME_MAX];
    kv_name_make(name, text);
    int fd = s->fs->open_read(s->fs->user, s->own, text, false);
    if (fd < 0) {
        return false;
    }
    uint64_t bytes = 0;
    struct kv_header *h = mem_alloc(1, sizeof *h);
    bool late = h && s->fs->file_bytes(s->fs->user, fd, &bytes) == 0 &&
                kv_fs_read_full(s->fs, fd, b, sizeof b, 0) == 0 &&
                kv_header_parse(h, b, bytes, NULL) == KV_CHECK_OK && h->first > 0;
    mem_free(h);
    s->fs->close(s->fs->user, fd);
    return late;
}

static void find_orphans(struct kv_store *s, struct orphans *o)
{
    *o = (struct orphans){0};
    struct kv_name *first = mem_alloc(MAX_ORPHAN_CHECKS, sizeof *first);
    o->key = mem_alloc(MAX_ORPHAN_CHECKS, sizeof *o->key);
    if (!first || !o->key || !s->own_folder || s->own < 0) {
        mem_free(first);
        return;
    }
    uint32_t n = 0;
    store_lock(s);
    for (uint32_t i = 0; i < s->index.n_buckets && n < MAX_ORPHAN_CHECKS; i++) {
        const struct kv_node *d = s->index.bucket[i];
        for (; d && n < MAX_ORPHAN_CHECKS; d = d->hash_next) {
            const struct kv_entry *e = d->segments ? d->segments : d->fronts;
            if (d->folder == s->own_folder && !d->in && e &&
                !kv_key_eq(&d->key, &s->root_key)) {
                first[n++] = e->name;
            }
        }
    }
    store_unlock(s);
    for (uint32_t i = 0; i < n; i++) {
        if (starts_late(s, &first[i])) {
            o->key[o->n++] = first[i].from;
        }
    }
    mem_free(first);
}

static bool is_orphan(void *user, const struct kv_node *root)
{
    const struct orphans *o = user;
    for (uint32_t i = 0; i < o->n; i++) {
        if (kv_key_eq(&o->key[i], &root->key)) {
            return true;
        }
    }
    return false;
}

static void order(struct kv_store *s, bool evicts)
{
    struct orphans o = {0};
    if (evicts) {
        find_orphans(s, &o);
    }
    int64_t now = store_wall(s);
    store_lock(s);
    if (!index_order(&s->index, now, is_orphan, &o)) {
        log_warn("KV store %s: out of memory while ordering the files by age", s->dir);
    }
    store_unlock(s);
    mem_free(o.key);
}

/* ---- the lock ---- */

/* Backup programs leave a directory with this file alone (a common convention). */
static void write_tag(struct kv_store *s)
{
    static const char tag[] =
        "Signature: 8a477f597d28d172789f06886806bc55\n"
        "# Stored state of fathom (a cache). Its files hold token ids of prompts.\n";
    int fd = s->fs->create(s->fs->user, s->root, "CACHEDIR.TAG");
    if (fd >= 0) {
        kv_fs_write_full(s->fs, fd, tag, sizeof tag - 1, 0);
        s->fs->close(s->fs->user, fd);
    }
}

/* Other threads look at the handle of the lock: kv_store_refresh, kv_store_close. */
static void set_lock(struct kv_store *s, int fd)
{
    store_lock(s);
    s->lock = fd;
    store_unlock(s);
}

bool scan_take_lock(struct kv_store *s)
{
    s->next_lock = store_mono(s) + (double)KV_LOCK_RETRY;
    int fd = s->fs->lock(s->fs->user, s->root, "LOCK");
    if (fd < 0) {
        store_lock(s);
        if (fd == -EAGAIN) {
            store_set_state_locked(s, KV_STORE_READ_ONLY, "another process writes there");
        } else {
            store_set_state_locked(s, KV_STORE_READ_ONLY, "cannot lock it: %s", strerror(-fd));
        }
        store_unlock(s);
        return false;
    }
    set_lock(s, fd);
    store_lock(s); /* nothing is being written; leftovers are found again */
    s->reserved = s->n_left_temps = 0;
    store_unlock(s);
    write_tag(s);
    int rc = scan_all(s, true);
    if (rc == 0) {
        order(s, true);
    }
    store_lock(s);
    if (rc == 0) {
        store_set_state_locked(s, KV_STORE_WRITER, "%s", "");
    } else {
        store_set_state_locked(s, KV_STORE_READ_ONLY, "cannot list it: %s", strerror(-rc));
    }
    store_unlock(s);
    if (rc != 0) {
        set_lock(s, -1);
        s->fs->close(s->fs->user, fd);
    }
    return rc == 0;
}

/* Remembers when the own folder looked like it does now. The stamp has the grain of the file
 * system's clock: taken within two seconds of the change, it may hide a later one. */
static void take_stamp(struct kv_store *s)
{
    uint64_t stamp = 0;
    if (s->own >= 0 && s->fs->dir_stamp(s->fs->user, s->own, &stamp) == 0) {
        int64_t age = store_wall(s) - (int64_t)(stamp / 1000000000u);
        s->restamp = age < 2;
        s->stamp = stamp;
    }
}

void scan_peer(struct kv_store *s)
{
    store_lock(s);
    bool force = s->rescan_force;
    uint64_t asked = s->scan_asked;
    s->rescan = s->rescan_force = false;
    store_unlock(s);
    s->next_scan = store_mono(s) + 1;
    uint64_t stamp = 0;
    if (scan_own_folder(s, false) == 0) {
        bool same = s->fs->dir_stamp(s->fs->user, s->own, &stamp) == 0 && stamp == s->stamp;
        if (force || !same || s->restamp) {
            take_stamp(s);
            scan_folder(s, s->own, s->own_folder, false);
        }
    }
    store_lock(s);
    s->scan_answered = asked;
    store_unlock(s);
}

void scan_open(struct kv_store *s)
{
    s->state = KV_STORE_READ_ONLY;
    s->root = s->fs->dir_open(s->fs->user, s->dir, !s->read_only && !s->must_exist);
    store_lock(s);
    if (s->root == -EPERM) {
        store_set_state_locked(s, KV_STORE_OFF,
                               "it belongs to somebody else or others may write to it (needs: "
                               "own directory, chmod go-w)");
    } else if (s->root < 0) {
        s->stats.missing = s->root == -ENOENT;
        store_set_state_locked(s, KV_STORE_OFF, "cannot open it: %s", strerror(-s->root));
    }
    store_unlock(s);
    if (s->root < 0 || (!s->read_only && scan_take_lock(s))) {
        return;
    }
    take_stamp(s);
    int rc = scan_all(s, false);
    order(s, false);
    store_lock(s);
    if (rc != 0) {
        store_set_state_locked(s, KV_STORE_OFF, "cannot list it: %s", strerror(-rc));
    } else if (s->read_only) {
        memcpy(s->reason, "opened for reading", 19);
    }
    store_unlock(s);
}

/* ---- after the directory vanished ---- */

bool scan_recreate(struct kv_store *s)
{
    double now = store_mono(s);
    if (now < s->next_recreate || s->n_old_dirs + 2 > KV_OLD_DIRS) {
        return false;
    }
    s->next_recreate = now + (double)KV_RECREATE;
    int root = s->fs->dir_open(s->fs->user, s->dir, true);
    if (root < 0) {
        return false;
    }
    /* Readers may still use the old handles: they are closed at the very end. */
    store_lock(s);
    s->old_dir[s->n_old_dirs++] = s->root;
    if (s->own >= 0) {
        s->old_dir[s->n_old_dirs++] = s->own;
    }
    s->root = root;
    s->own = -1;
    store_unlock(s);
    int lock = s->lock;
    if (lock >= 0) {
        set_lock(s, -1);
        s->fs->close(s->fs->user, lock);
    }
    log_warn("KV store %s: the directory had vanished, it was made again", s->dir);
    if (!scan_take_lock(s) || scan_own_folder(s, true) != 0) {
        return false;
    }
    scan_folder(s, s->own, s->own_folder, true); /* forgets what is gone */
    return true;
}
