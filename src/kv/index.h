/* index.h - what the disk store knows about its files: a tree by keys and an order of use, all
 * in memory (kv-store.md 3.3, 3.8). File names carry the keys at both ends, so names are the
 * index and the tree.
 *
 * A node is a key; a segment leads from a node to a node, a frontier hangs at one. Recency is two
 * lists, oldest first: probation (no later request has used the file yet) and proven. A path is
 * always touched as a whole, deepest file first; so a file stands behind everything that needs
 * it, the oldest file without children can always go, and probation is closed under
 * descendants.
 *
 * No I/O, no locking: the store calls it under its mutex. Nothing recurses: chains are as long
 * as a conversation, and names on disk may be hostile (cycles are cut off by index_order). */
#ifndef KV_INDEX_H
#define KV_INDEX_H

#include "kv/format.h"

struct kv_folder { /* one identity's folder */
    struct kv_folder *next;
    char name[KV_DIR_DIGITS + 1];
    uint32_t n_entries;
    bool listed; /* seen by the last scan */
};

struct kv_link { /* in a ring with a sentinel */
    struct kv_link *next, *prev;
};

struct kv_entry {
    struct kv_folder *folder;
    struct kv_name name;
    struct kv_node *from, *to;    /* NULL: not in the tree; to: segments only */
    struct kv_entry *next, *prev; /* siblings: the same kind at the same node */
    struct kv_link lru;           /* in index.proven or index.probation */
    struct kv_link dirty;         /* in index.dirty: its file time is to be renewed */
    uint64_t bytes, time;         /* time: logical, of the last touch */
    int64_t mtime, mtime_disk;    /* last use in unix seconds; the same as the file has it */
    uint32_t depth, pins, mark;
    bool proven;
    bool bad;      /* failed a check, or could not be read: never used again */
    bool foreign;  /* another version, kind or layout; counted and evicted like others */
    bool evicting; /* being removed: not to be found any more */
    bool stuck;    /* could not be removed */
    bool gone;     /* removed from the index while pinned; freed by the last unpin */
};

struct kv_node {
    struct kv_node *hash_next;
    struct kv_folder *folder;
    struct kv_key key;
    struct kv_entry *in;                /* the segment that ends here */
    struct kv_entry *segments, *fronts; /* those that begin, hang here */
};

struct kv_index {
    struct kv_folder *folders;
    struct kv_node **bucket; /* hash of (folder, key) */
    uint32_t n_buckets, n_nodes;
    struct kv_link proven, probation, dirty;
    uint64_t clock;                         /* of entry.time */
    uint64_t bytes, probation_bytes;        /* of all entries; of those in probation */
    uint32_t n_segments, n_fronts, n_other; /* entries by kind */
};

bool index_init(struct kv_index *x); /* false: out of memory */
void index_fini(struct kv_index *x);

struct kv_folder *index_folder(struct kv_index *x, const char *name, bool create);
/* The entry of a name, found through its keys; NULL if it is not in the tree. */
struct kv_entry *index_find(const struct kv_index *x, const struct kv_folder *f,
                            const struct kv_name *name);
struct kv_node *index_node(const struct kv_index *x, const struct kv_folder *f,
                           const struct kv_key *key);
/* A new entry, as the newest one; proven also if a file that needs it is (then touch it with
 * e->proven). A segment whose end is taken by another, and a replay record,
 * stay out of the tree. NULL: out of memory. */
struct kv_entry *index_add(struct kv_index *x, struct kv_folder *f, const struct kv_name *name,
                           uint64_t bytes, int64_t mtime, bool proven);
/* Out of everything. What begins at a removed segment's end stays, as orphans: oldest. */
void index_remove(struct kv_index *x, struct kv_entry *e);
void index_pin(struct kv_entry *e);
void index_unpin(struct kv_entry *e);

/* The segment before e; NULL: none, or not there. */
struct kv_entry *index_parent(const struct kv_entry *e);
bool index_has_children(const struct kv_entry *e);
/* e and the segments before it become the newest; proven: they leave probation. wall: file time
 * to persist (older than persist_after seconds on disk: queued in index.dirty). */
void index_touch(struct kv_index *x, struct kv_entry *e, bool proven, int64_t wall,
                 int64_t persist_after);
/* After a listing: orders all entries by file time (future ones count as now; a segment as new
 * as the newest that needs it; what hangs below a node marked as an orphan is oldest) and cuts
 * off names that form a cycle. All are proven then. false: out of memory, the order is arbitrary.
 */
bool index_order(struct kv_index *x, int64_t now,
                 bool (*orphan)(void *user, const struct kv_node *root), void *user);
/* Next file to remove, NULL: none can be. Oldest first, the deepest first among equals;
 * probation first while it holds more than probation_max bytes. */
struct kv_entry *index_victim(const struct kv_index *x, uint64_t probation_max);

#define INDEX_ENTRY(link, field) \
    ((struct kv_entry *)(void *)((char *)(link)-offsetof(struct kv_entry, field)))

/* Walks all lists and asserts that they agree and that the order rules hold (tests). */
void index_check(const struct kv_index *x);

#endif
