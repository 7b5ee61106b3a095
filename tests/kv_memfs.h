/* kv_memfs.h - a file system in memory behind the file layer of the disk store (kv/fs.h), for
 * tests: counts every call and can, at any of them, die (the process was killed), fail once or
 * for ever, transfer less than asked, or be interrupted. Data that was not synced is kept apart,
 * so that a power cut can lose any part of it, and names too, because the store never syncs a
 * directory. Deterministic; one thread. */
#ifndef TESTS_KV_MEMFS_H
#define TESTS_KV_MEMFS_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kv/fs.h"

enum { MEMFS_NODES = 4096, MEMFS_HANDLES = 64, MEMFS_NAME = 100, MEMFS_ROOT = 0 };

struct memfs_node {
    bool used;    /* the slot is taken */
    bool linked;  /* it has a name now */
    bool durable; /* it had one that is on disk: durable_name */
    int parent;   /* node of its folder; -1: the root itself */
    char name[MEMFS_NAME], durable_name[MEMFS_NAME];
    enum kv_file_type type;
    unsigned char *data, *durable_data; /* durable_data: as of the last sync; NULL: as data */
    size_t n, durable_n;
    int64_t mtime;
    uint32_t n_open;
    uint64_t stamp; /* folders: counts changes of names */
};
struct memfs_handle {
    bool used, is_lock;
    int node;
};
/* The tears of a write that is under way when the process dies. */
enum memfs_tear { TEAR_NONE, TEAR_ONE, TEAR_HALF, TEAR_ALMOST, TEAR_COUNT };

struct memfs {
    struct memfs_node node[MEMFS_NODES];
    struct memfs_handle handle[MEMFS_HANDLES];
    int n_nodes; /* slots ever used */
    uint64_t calls;
    uint64_t die_at; /* 0: never */
    enum memfs_tear tear;
    bool dead;
    uint64_t fail_at, fail_until; /* calls [fail_at, fail_until) fail */
    int fail_with;                /* -errno */
    bool short_io;                /* transfers and interruptions at random */
    bool list_only_reads;         /* read-only file system: -EROFS for changes */
    struct rng rng;
    uint64_t total_bytes, used_bytes; /* total 0: no limit */
    int64_t *wall;                    /* of the test's clock */
    bool lock_taken;
    uint64_t writes_after_death; /* must stay 0 */
};

static inline void memfs_init(struct memfs *m, uint64_t seed, int64_t *wall)
{
    /* nodes are all zero: at first, and after memfs_fini */
    memset(m->handle, 0, sizeof *m - offsetof(struct memfs, handle));
    m->node[MEMFS_ROOT] = (struct memfs_node){
        .used = true, .linked = true, .durable = true, .parent = -1, .type = KV_TYPE_DIR};
    m->n_nodes = 1;
    m->rng.s = seed;
    m->wall = wall;
}

static inline void memfs_free_node(struct memfs *m, int i)
{
    m->used_bytes -= m->node[i].n;
    free(m->node[i].data);
    free(m->node[i].durable_data);
    m->node[i] = (struct memfs_node){0};
}

static inline void memfs_fini(struct memfs *m)
{
    for (int i = 0; i < m->n_nodes; i++) {
        if (m->node[i].used) {
            memfs_free_node(m, i);
        }
    }
}

/* Every call begins here: 0 to go on, else what it returns. `die` tells that the process dies in
 * the middle of this call. */
static inline int memfs_enter(struct memfs *m, bool *die)
{
    *die = false;
    if (m->dead) {
        return -EIO;
    }
    m->calls++;
    if (m->die_at && m->calls == m->die_at) {
        m->dead = *die = true;
        return 0;
    }
    if (m->fail_at && m->calls >= m->fail_at && m->calls < m->fail_until) {
        return m->fail_with;
    }
    return 0;
}
/* Calls that only read do not care about the tear. */
#define MEMFS_ENTER(m)                    \
    bool die;                             \
    int entered = memfs_enter((m), &die); \
    if (entered != 0) {                   \
        return entered;                   \
    }

static inline int memfs_find(const struct memfs *m, int dir, const char *name)
{
    for (int i = 0; i < m->n_nodes; i++) {
        const struct memfs_node *d = &m->node[i];
        if (d->used && d->linked && d->parent == dir && strcmp(d->name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static inline int memfs_new_node(struct memfs *m, int dir, const char *name,
                                 enum kv_file_type type)
{
    int i = 0;
    while (i < m->n_nodes && m->node[i].used) {
        i++;
    }
    if (i == MEMFS_NODES) {
        return -ENOSPC;
    }
    m->n_nodes = i == m->n_nodes ? i + 1 : m->n_nodes;
    m->node[i] = (struct memfs_node){
        .used = true, .linked = true, .parent = dir, .type = type, .mtime = *m->wall};
    snprintf(m->node[i].name, MEMFS_NAME, "%s", name);
    m->node[dir].stamp++;
    return i;
}

static inline int memfs_new_handle(struct memfs *m, int node)
{
    for (int i = 0; i < MEMFS_HANDLES; i++) {
        if (!m->handle[i].used) {
            m->handle[i] = (struct memfs_handle){.used = true, .node = node};
            m->node[node].n_open++;
            return i;
        }
    }
    return -EMFILE;
}

static inline uint32_t memfs_open_handles(const struct memfs *m)
{
    uint32_t n = 0;
    for (int i = 0; i < MEMFS_HANDLES; i++) {
        n += m->handle[i].used;
    }
    return n;
}

/* An unlinked, closed node that no disk remembers is gone. */
static inline void memfs_collect(struct memfs *m, int i)
{
    struct memfs_node *d = &m->node[i];
    if (d->used && !d->linked && !d->durable && d->n_open == 0) {
        memfs_free_node(m, i);
    }
}

static inline int memfs_dir_open(void *user, const char *path, bool create)
{
    struct memfs *m = user;
    (void)path;
    (void)create;
    MEMFS_ENTER(m)
    return m->node[MEMFS_ROOT].linked ? memfs_new_handle(m, MEMFS_ROOT) : -ENOENT;
}

static inline int memfs_dir_open_at(void *user, int dir, const char *name, bool create)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int at = m->handle[dir].node, i = memfs_find(m, at, name);
    if (i < 0 && create && !(die && m->tear == TEAR_NONE)) {
        if (m->list_only_reads) {
            return -EROFS;
        }
        i = memfs_new_node(m, at, name, KV_TYPE_DIR);
    }
    if (die) {
        return -EIO;
    }
    if (i < 0) {
        return -ENOENT;
    }
    return m->node[i].type == KV_TYPE_DIR ? memfs_new_handle(m, i) : -ENOTDIR;
}

static inline int memfs_close(void *user, int h)
{
    struct memfs *m = user;
    int node = m->handle[h].node;
    if (m->handle[h].is_lock) {
        m->lock_taken = false;
    }
    m->handle[h].used = m->handle[h].is_lock = false; /* also when it fails or is dead */
    m->node[node].n_open--;
    memfs_collect(m, node);
    MEMFS_ENTER(m)
    return 0;
}

static inline int memfs_list(void *user, int dir, void (*fn)(void *, const char *),
                             void *fn_user)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    for (int i = 0; i < m->n_nodes && !die; i++) {
        if (m->node[i].used && m->node[i].linked && m->node[i].parent == m->handle[dir].node) {
            fn(fn_user, m->node[i].name);
        }
    }
    return die ? -EIO : 0;
}

static inline int memfs_dir_stamp(void *user, int dir, uint64_t *out)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    *out = m->node[m->handle[dir].node].stamp;
    return 0;
}

static inline int memfs_unlink(struct memfs *m, int dir, const char *name, bool folder)
{
    MEMFS_ENTER(m)
    int i = memfs_find(m, m->handle[dir].node, name);
    if (i < 0) {
        return -ENOENT;
    }
    if (m->list_only_reads) {
        return -EROFS;
    }
    if (folder != (m->node[i].type == KV_TYPE_DIR)) {
        return folder ? -ENOTDIR : -EISDIR;
    }
    for (int k = 0; folder && k < m->n_nodes; k++) {
        if (m->node[k].used && m->node[k].linked && m->node[k].parent == i) {
            return -ENOTEMPTY;
        }
    }
    if (die && m->tear == TEAR_NONE) {
        return -EIO;
    }
    m->node[i].linked = false;
    m->node[m->node[i].parent].stamp++;
    memfs_collect(m, i);
    return die ? -EIO : 0;
}
static inline int memfs_dir_remove(void *user, int dir, const char *name)
{
    return memfs_unlink(user, dir, name, true);
}
static inline int memfs_remove(void *user, int dir, const char *name)
{
    return memfs_unlink(user, dir, name, false);
}

static inline int memfs_stat(void *user, int dir, const char *name, struct kv_stat *out)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int i = memfs_find(m, m->handle[dir].node, name);
    if (i < 0) {
        return -ENOENT;
    }
    *out = (struct kv_stat){m->node[i].type, m->node[i].n, m->node[i].mtime};
    return 0;
}

static inline int memfs_open_read(void *user, int dir, const char *name, bool direct)
{
    struct memfs *m = user;
    (void)direct;
    MEMFS_ENTER(m)
    int i = memfs_find(m, m->handle[dir].node, name);
    if (i < 0) {
        return -ENOENT;
    }
    return m->node[i].type == KV_TYPE_FILE ? memfs_new_handle(m, i) : -ELOOP;
}

static inline int memfs_create(void *user, int dir, const char *name)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int at = m->handle[dir].node;
    if (!m->node[at].linked) {
        return -ENOENT;
    }
    if (memfs_find(m, at, name) >= 0) {
        return -EEXIST;
    }
    if (m->list_only_reads) {
        return -EROFS;
    }
    if (die && m->tear == TEAR_NONE) {
        return -EIO;
    }
    int i = memfs_new_node(m, at, name, KV_TYPE_FILE);
    return die ? -EIO : i < 0 ? i : memfs_new_handle(m, i);
}

static inline int memfs_file_bytes(void *user, int h, uint64_t *out)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    *out = m->node[m->handle[h].node].n;
    return 0;
}

static inline int64_t memfs_pread(void *user, int h, void *p, size_t n, uint64_t at)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    const struct memfs_node *d = &m->node[m->handle[h].node];
    if (m->short_io && rng_below(&m->rng, 8) == 0) {
        return -EINTR;
    }
    size_t k = at >= d->n ? 0 : d->n - (size_t)at < n ? d->n - (size_t)at : n;
    if (m->short_io && k > 1) {
        k = 1 + rng_below(&m->rng, (uint32_t)k);
    }
    if (k > 0) {
        memcpy(p, d->data + at, k);
    }
    return (int64_t)k;
}

/* Sets the size, zero-filled; what was synced is kept apart first. */
static inline int memfs_resize(struct memfs *m, struct memfs_node *d, size_t n)
{
    if (m->total_bytes && n > d->n && m->used_bytes + (n - d->n) > m->total_bytes) {
        return -ENOSPC;
    }
    unsigned char *p = realloc(d->data, n ? n : 1);
    if (!p) {
        return -ENOMEM;
    }
    if (n > d->n) {
        memset(p + d->n, 0, n - d->n);
    }
    m->used_bytes += n - d->n;
    d->data = p;
    d->n = n;
    return 0;
}

static inline int64_t memfs_pwrite(void *user, int h, const void *p, size_t n, uint64_t at)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    struct memfs_node *d = &m->node[m->handle[h].node];
    if (m->short_io && !die && rng_below(&m->rng, 8) == 0) {
        return -EINTR;
    }
    if (m->short_io && !die && n > 1) {
        n = 1 + rng_below(&m->rng, (uint32_t)n);
    }
    if (die) {
        size_t torn[TEAR_COUNT] = {0, 1, n / 2, n - 1};
        n = torn[m->tear];
    }
    int rc = at + n > d->n ? memfs_resize(m, d, (size_t)at + n) : 0;
    if (rc != 0) {
        return rc;
    }
    if (n > 0) {
        memcpy(d->data + at, p, n);
    }
    return die ? -EIO : (int64_t)n;
}

static inline int memfs_allocate(void *user, int h, uint64_t bytes)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    struct memfs_node *d = &m->node[m->handle[h].node];
    if (die && m->tear == TEAR_NONE) {
        return -EIO;
    }
    int rc = bytes > d->n ? memfs_resize(m, d, (size_t)bytes) : 0;
    return die ? -EIO : rc;
}

static inline int memfs_sync(void *user, int h)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    struct memfs_node *d = &m->node[m->handle[h].node];
    if (die && m->tear == TEAR_NONE) {
        return -EIO;
    }
    unsigned char *copy = realloc(d->durable_data, d->n ? d->n : 1);
    if (!copy) {
        return -ENOMEM;
    }
    if (d->n > 0) {
        memcpy(copy, d->data, d->n);
    }
    d->durable_data = copy;
    d->durable_n = d->n;
    return die ? -EIO : 0;
}

static inline void memfs_forget(void *user, int h)
{
    (void)user;
    (void)h;
}

static inline int memfs_rename_new(void *user, int dir, const char *from, const char *to)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int at = m->handle[dir].node, i = memfs_find(m, at, from);
    if (i < 0) {
        return -ENOENT;
    }
    if (memfs_find(m, at, to) >= 0) {
        return -EEXIST;
    }
    if (die && m->tear == TEAR_NONE) {
        return -EIO;
    }
    snprintf(m->node[i].name, MEMFS_NAME, "%s", to);
    m->node[at].stamp++;
    return die ? -EIO : 0;
}

static inline int memfs_set_mtime(void *user, int dir, const char *name, int64_t mtime)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int i = memfs_find(m, m->handle[dir].node, name);
    if (i < 0) {
        return -ENOENT;
    }
    m->node[i].mtime = mtime;
    return 0;
}

static inline int memfs_lock(void *user, int dir, const char *name)
{
    struct memfs *m = user;
    MEMFS_ENTER(m)
    int at = m->handle[dir].node, i = memfs_find(m, at, name);
    if (m->lock_taken) {
        return -EAGAIN;
    }
    if (i < 0) {
        if (m->list_only_reads) {
            return -EROFS;
        }
        i = memfs_new_node(m, at, name, KV_TYPE_FILE);
    }
    if (die || i < 0) {
        return die ? -EIO : i;
    }
    int h = memfs_new_handle(m, i);
    if (h >= 0) {
        m->handle[h].is_lock = true;
        m->lock_taken = true;
    }
    return h;
}

static inline int memfs_space(void *user, int dir, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct memfs *m = user;
    (void)dir;
    MEMFS_ENTER(m)
    *free_bytes = *total_bytes = (uint64_t)1
                                 << 44; /* the quota of this file system is another */
    return 0;
}

static inline struct kv_fs memfs_table(struct memfs *m)
{
    return (struct kv_fs){.user = m,
                          .dir_open = memfs_dir_open,
                          .dir_open_at = memfs_dir_open_at,
                          .dir_close = memfs_close,
                          .list = memfs_list,
                          .dir_stamp = memfs_dir_stamp,
                          .dir_remove = memfs_dir_remove,
                          .stat = memfs_stat,
                          .open_read = memfs_open_read,
                          .create = memfs_create,
                          .file_bytes = memfs_file_bytes,
                          .pread = memfs_pread,
                          .pwrite = memfs_pwrite,
                          .allocate = memfs_allocate,
                          .sync = memfs_sync,
                          .forget = memfs_forget,
                          .close = memfs_close,
                          .rename_new = memfs_rename_new,
                          .remove = memfs_remove,
                          .set_mtime = memfs_set_mtime,
                          .lock = memfs_lock,
                          .space = memfs_space};
}

/* ---- what happens between two processes ---- */

/* The disk now holds everything. */
static inline void memfs_settle(struct memfs *m)
{
    for (int i = 0; i < m->n_nodes; i++) {
        struct memfs_node *d = &m->node[i];
        if (!d->used) {
            continue;
        }
        d->durable = d->linked;
        memcpy(d->durable_name, d->name, MEMFS_NAME);
        free(d->durable_data);
        d->durable_data = NULL;
        if (!d->linked) {
            memfs_free_node(m, i);
        }
    }
}

/* A node's content after a power cut: what was synced, plus any part of what was not, in 512-byte
 * sectors; never-synced files may keep any prefix, with zeros or data. */
static inline void memfs_lose_data(struct memfs *m, struct memfs_node *d)
{
    if (d->type != KV_TYPE_FILE || (d->durable && !d->durable_data)) {
        return; /* untouched since it settled */
    }
    size_t n = d->n;
    if (!d->durable_data || d->durable_n != d->n) {
        uint32_t how = rng_below(&m->rng, 4);
        size_t cut[4] = {0, d->n ? 1 : 0, d->n / 2, d->n ? d->n - 1 : 0};
        n = rng_below(&m->rng, 2) ? d->n : cut[how];
    }
    for (size_t at = 0; at < n; at += 512) {
        size_t k = n - at < 512 ? n - at : 512;
        if (d->durable_data && at + k <= d->durable_n &&
            memcmp(d->durable_data + at, d->data + at, k) == 0) {
            continue;
        }
        if (rng_below(&m->rng, 2)) {
            continue; /* this sector got there */
        }
        if (d->durable_data && at + k <= d->durable_n) {
            memcpy(d->data + at, d->durable_data + at, k);
        } else {
            memset(d->data + at, 0, k);
        }
    }
    m->used_bytes -= d->n - n;
    d->n = n;
}

/* The process is gone, and with `power` the machine was off: names and data that were not synced
 * are there, half there or not. Then a new process finds the file system working. */
static inline void memfs_restart(struct memfs *m, bool power)
{
    for (int i = 0; i < MEMFS_HANDLES; i++) {
        if (m->handle[i].used) {
            m->node[m->handle[i].node].n_open = 0;
            m->handle[i].used = m->handle[i].is_lock = false;
        }
    }
    m->lock_taken = m->dead = false;
    m->die_at = m->fail_at = 0;
    for (int i = 1; power && i < m->n_nodes; i++) {
        struct memfs_node *d = &m->node[i];
        if (!d->used || d->type == KV_TYPE_DIR) {
            continue;
        }
        bool changed = d->linked != d->durable || strcmp(d->name, d->durable_name) != 0;
        memfs_lose_data(m, d);
        if (changed && rng_below(&m->rng, 2)) { /* the change of its name did not arrive */
            bool taken = d->durable && memfs_find(m, d->parent, d->durable_name) >= 0;
            d->linked = d->durable && !taken;
            memcpy(d->name, d->durable_name, MEMFS_NAME);
        }
    }
    memfs_settle(m);
}

#endif
