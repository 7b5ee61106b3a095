/* admin.h - looking after a store directory without the model (`fathom kv`): what is there, is
 * it good, remove it. Works on a store opened without a geometry. Files are listed as a tree:
 * every file behind the segments it needs.
 * Owner thread; waits for the disk. Removing needs the lock (state KV_STORE_WRITER). */
#ifndef KV_ADMIN_H
#define KV_ADMIN_H

#include "kv/format.h"
#include "kv/store.h"

struct kv_file {
    char folder[KV_DIR_DIGITS + 1];
    struct kv_name name;
    char text[KV_NAME_MAX]; /* file name */
    uint64_t bytes;
    int64_t mtime;               /* last use, unix seconds; INT64_MIN: an orphan */
    uint32_t depth;              /* segments before it that are there */
    uint32_t parent;             /* index in the list; UINT32_MAX: none */
    bool has_children, detached; /* detached: its keys form a ring, or repeat another's */
};
struct kv_files {
    struct kv_file *v; /* owned; parents before their children */
    uint32_t n;
};
/* FATHOM_ENOMEM. */
int kv_admin_list(struct kv_store *s, struct kv_files *out, fathom_err *err);
void kv_files_free(struct kv_files *f);

/* Header of a file; *why (static text) says what is wrong with it. h is filled as far as it
 * could be read. */
enum kv_check kv_admin_header(struct kv_store *s, const struct kv_file *f, struct kv_header *h,
                              const char **why);
/* The same, and every byte of it; ids (may be NULL): room for 16384, receives h->count ids. */
enum kv_check kv_admin_verify(struct kv_store *s, const struct kv_file *f, struct kv_header *h,
                              uint32_t *ids, const char **why);
/* Does the file's name follow from the ids, given the running hash after the ids before it (of
 * its parent; NULL: it begins at 0, without salt)? On success *run is the hash after its own
 * (close it). Only for files whose header is good. */
bool kv_admin_chain(const struct kv_header *h, const uint32_t *ids, const struct hash *before,
                    struct hash *run);

/* Removes one file; 0, or FATHOM_EIO (also: not the holder of the lock). Absence is
 * no error. */
int kv_admin_remove(struct kv_store *s, const struct kv_file *f, fathom_err *err);
/* Removes the files that an engine would evict until at most max_bytes are used; dry_run: only
 * tells. fn (may be NULL) is called with each. */
int kv_admin_gc(struct kv_store *s, uint64_t max_bytes, bool dry_run,
                void (*fn)(void *user, const struct kv_file *f), void *user, fathom_err *err);

#endif
