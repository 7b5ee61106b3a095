/* admin.c - see admin.h. */
#include "kv/admin.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "kv/store_int.h"

/* ---- listing ---- */

struct listing {
    struct kv_files *out;
    struct kv_entry **entry; /* [n]: of each listed file */
};

static void list_entry(struct listing *l, struct kv_entry *e, uint32_t parent)
{
    struct kv_file *f = &l->out->v[l->out->n];
    *f = (struct kv_file){.name = e->name,
                          .bytes = e->bytes,
                          .mtime = e->mtime,
                          .depth = e->depth,
                          .parent = parent,
                          .has_children = index_has_children(e),
                          .detached = !e->from && e->name.kind != KV_REPLAY};
    memcpy(f->folder, e->folder->name, sizeof f->folder);
    kv_name_make(&e->name, f->text);
    e->mark = l->out->n;
    l->entry[l->out->n++] = e;
}

/* What hangs at a node goes into the list; the list itself is the queue of a walk without
 * recursion, so parents come first. */
static void list_node(struct listing *l, const struct kv_node *d, uint32_t parent)
{
    for (struct kv_entry *e = d->segments; e; e = e->next) {
        list_entry(l, e, parent);
    }
    for (struct kv_entry *e = d->fronts; e; e = e->next) {
        list_entry(l, e, parent);
    }
}

int kv_admin_list(struct kv_store *s, struct kv_files *out, fathom_err *err)
{
    store_lock(s);
    struct kv_index *x = &s->index;
    uint32_t n = x->n_segments + x->n_fronts + x->n_other;
    *out = (struct kv_files){.v = mem_alloc(n, sizeof *out->v)};
    struct listing l = {out, mem_alloc(n, sizeof(struct kv_entry *))};
    if (!out->v || !l.entry) {
        store_unlock(s);
        mem_free(l.entry);
        kv_files_free(out);
        return err_nomem(err, "list of stored files", n * sizeof *out->v);
    }
    for (uint32_t i = 0; i < x->n_buckets; i++) {
        for (const struct kv_node *d = x->bucket[i]; d; d = d->hash_next) {
            if (!d->in) {
                list_node(&l, d, UINT32_MAX);
            }
        }
    }
    for (uint32_t i = 0; i < out->n; i++) {
        if (l.entry[i]->to) {
            list_node(&l, l.entry[i]->to, i);
        }
    }
    struct kv_link *ring[2] = {&x->proven, &x->probation};
    for (int i = 0; i < 2; i++) {
        for (struct kv_link *k = ring[i]->next; k != ring[i]; k = k->next) {
            if (!INDEX_ENTRY(k, lru)->from) {
                list_entry(&l, INDEX_ENTRY(k, lru), UINT32_MAX);
            }
        }
    }
    store_unlock(s);
    mem_free(l.entry);
    return 0;
}

void kv_files_free(struct kv_files *f)
{
    mem_free(f->v);
    *f = (struct kv_files){0};
}

/* ---- looking ---- */

static int folder_handle(struct kv_store *s, const char *folder)
{
    return s->fs->dir_open_at(s->fs->user, s->root, folder, false);
}

/* Opens a file and reads its header into b (KV_ALIGN-aligned); the handle, or -1. */
static int open_file(struct kv_store *s, const struct kv_file *f, struct kv_header *h,
                     unsigned char *b, enum kv_check *c, const char **why)
{
    *h = (struct kv_header){0};
    *c = KV_CHECK_BAD;
    *why = "cannot be read";
    int dir = folder_handle(s, f->folder);
    if (dir < 0) {
        return -1;
    }
    int fd = s->fs->open_read(s->fs->user, dir, f->text, false);
    s->fs->dir_close(s->fs->user, dir);
    uint64_t bytes = 0;
    if (fd >= 0 && s->fs->file_bytes(s->fs->user, fd, &bytes) == 0) {
        int rc = kv_fs_read_full(s->fs, fd, b, KV_HEADER_BYTES, 0);
        if (rc == 0) {
            *c = kv_header_parse(h, b, bytes, why);
        } else if (fault_of(rc) == FAULT_DAMAGED) {
            *why = "file length";
        }
    }
    if (*c != KV_CHECK_OK) {
        if (fd >= 0) {
            s->fs->close(s->fs->user, fd);
        }
        return -1;
    }
    char folder[KV_DIR_DIGITS + 1];
    kv_dir_name(&h->identity, folder);
    bool named = h->kind == f->name.kind && kv_key_eq(&h->from, &f->name.from) &&
                 kv_key_eq(&h->to, &f->name.to) &&
                 (h->kind == KV_SEGMENT || h->count == f->name.tail) &&
                 memcmp(folder, f->folder, sizeof folder) == 0;
    *c = named ? KV_CHECK_OK : KV_CHECK_BAD;
    *why = named ? NULL : "keys or identity do not belong to its name";
    return fd;
}

enum kv_check kv_admin_header(struct kv_store *s, const struct kv_file *f, struct kv_header *h,
                              const char **why)
{
    _Alignas(KV_ALIGN) unsigned char b[KV_HEADER_BYTES];
    enum kv_check c;
    int fd = open_file(s, f, h, b, &c, why);
    if (fd >= 0) {
        s->fs->close(s->fs->user, fd);
    }
    return c;
}

enum kv_check kv_admin_verify(struct kv_store *s, const struct kv_file *f, struct kv_header *h,
                              uint32_t *ids, const char **why)
{
    _Alignas(KV_ALIGN) unsigned char b[KV_HEADER_BYTES];
    enum kv_check c;
    int fd = open_file(s, f, h, b, &c, why);
    unsigned char *p = fd >= 0 ? mem_alloc_aligned(KV_ALIGN, KV_MAX_FILE) : NULL;
    for (uint32_t i = 0; c == KV_CHECK_OK && i < h->n_sections; i++) {
        const struct kv_section *sec = &h->section[i];
        size_t padded = (size_t)align_up(sec->length, KV_ALIGN);
        if (!p || kv_fs_read_full(s->fs, fd, p, padded, sec->offset) != 0) {
            c = KV_CHECK_BAD;
            *why = p ? "cannot be read" : "out of memory";
        } else if (!kv_section_good(h, sec, p)) {
            c = KV_CHECK_BAD;
            *why = i == 0 ? "token ids" : "checksum of a section";
        }
        for (uint32_t k = 0; c == KV_CHECK_OK && i == 0 && ids && k < h->count; k++) {
            ids[k] = load_le32(p + (size_t)k * 4);
        }
    }
    mem_free(p);
    if (fd >= 0) {
        s->fs->close(s->fs->user, fd);
    }
    return c;
}

bool kv_admin_chain(const struct kv_header *h, const uint32_t *ids, const struct hash *before,
                    struct hash *run)
{
    struct kv_key key;
    struct kv_chain root = {0};
    *run = (struct hash){0};
    bool ok = true;
    if (!before) {
        ok = kv_chain_init(&root, &h->identity, NULL, h->page_tokens, NULL) == 0;
        before = ok ? &root.run[0] : NULL;
    }
    ok =
        ok && hash_digest(before, key.b) && kv_key_eq(&key, &h->from) && hash_copy(run, before);
    if (ok) {
        kv_chain_add_ids(run, ids, h->count);
        ok = hash_digest(run, key.b) && kv_key_eq(&key, &h->to);
    }
    if (!ok) {
        hash_close(run);
    }
    kv_chain_fini(&root);
    return ok;
}

/* ---- removing ---- */

static int not_ours(const struct kv_store *s, fathom_err *err)
{
    return err_set(err, FATHOM_EIO, "%s: %s: nothing is removed", s->dir,
                   s->reason[0] ? s->reason : "not locked");
}

int kv_admin_remove(struct kv_store *s, const struct kv_file *f, fathom_err *err)
{
    if (s->state != KV_STORE_WRITER) {
        return not_ours(s, err);
    }
    int dir = folder_handle(s, f->folder);
    int rc = dir < 0 ? dir : s->fs->remove(s->fs->user, dir, f->text);
    if (dir >= 0) {
        s->fs->dir_close(s->fs->user, dir);
    }
    if (rc != 0 && fault_of(rc) != FAULT_VANISHED) {
        return err_set(err, FATHOM_EIO, "%s/%s/%s: cannot be removed: %s", s->dir, f->folder,
                       f->text, strerror(-rc));
    }
    store_lock(s);
    struct kv_folder *folder = index_folder(&s->index, f->folder, false);
    struct kv_entry *e = folder ? index_find(&s->index, folder, &f->name) : NULL;
    if (e) {
        index_remove(&s->index, e);
    }
    bool empty = folder && folder->n_entries == 0;
    store_unlock(s);
    if (empty) {
        s->fs->dir_remove(s->fs->user, s->root, f->folder);
    }
    return 0;
}

int kv_admin_gc(struct kv_store *s, uint64_t max_bytes, bool dry_run,
                void (*fn)(void *user, const struct kv_file *f), void *user, fathom_err *err)
{
    int rc = 0;
    if (!dry_run && s->state != KV_STORE_WRITER) {
        return not_ours(s, err);
    }
    for (;;) {
        store_lock(s);
        struct kv_entry *e =
            s->index.bytes > max_bytes ? index_victim(&s->index, max_bytes / 4) : NULL;
        struct kv_file f = {0};
        if (e) {
            f = (struct kv_file){.name = e->name, .bytes = e->bytes, .mtime = e->mtime};
            memcpy(f.folder, e->folder->name, sizeof f.folder);
            kv_name_make(&e->name, f.text);
            if (dry_run) {
                index_remove(&s->index, e); /* here only */
            } else {
                e->stuck = true; /* if it cannot be removed, the next one is tried */
            }
        }
        store_unlock(s);
        if (!e) {
            return rc;
        }
        int one = dry_run ? 0 : kv_admin_remove(s, &f, err);
        rc = rc != 0 ? rc : one;
        if (one == 0 && fn) {
            fn(user, &f);
        }
    }
}
