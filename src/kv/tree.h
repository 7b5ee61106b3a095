/* tree.h - the prefix index in RAM: which pages hold the rows of which token prefix (kv-store.md
 * 2.6). A node is one page of S tokens behind its parent's; the root of a salt stands for the
 * empty prefix. Full pages are found by the chain key of their end (kv-store.md 3.1) and then
 * compared id by id; the last, partial step compares ids with the children one by one. A page
 * that an ended conversation filled only in part is kept too (a "tail": a leaf without a key).
 *
 * The tree holds one pool reference to every page in it. A page that somebody else holds as well
 * (a session, the writer of the disk store) is pinned: dropping the node would free nothing. So
 * a node can be evicted when nobody else holds its page or the page of anything below it; leaves
 * go first, least recently used first. Using a node makes its ancestors as recent as itself.
 *
 * Frontiers (frontier.h) hang on the node whose tokens their position ends in: node start < pos
 * <= node end. At most TREE_BRANCH_FRONTS lie on one path.
 *
 * Owned by the engine; borrows the pool. Thread rule: engine thread. */
#ifndef KV_TREE_H
#define KV_TREE_H

#include "kv/frontier.h"
#include "kv/key.h"

enum { TREE_NODE_FRONTS = 8, TREE_BRANCH_FRONTS = 8 };

/* How many of the first n ids are equal. */
static inline uint32_t ids_common(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && a[i] == b[i]) {
        i++;
    }
    return i;
}

struct tree_node {
    struct tree_node *parent;      /* NULL: a root */
    struct tree_node *child;       /* first of a list */
    struct tree_node *prev, *next; /* among siblings; roots: among roots */
    struct tree_node *bucket;      /* next in the key table */
    struct kv_key key;             /* of the end; roots: of the empty prefix; tails: none */
    uint32_t start;                /* position of the first token, a multiple of S */
    uint32_t n_ids;                /* S: full; less: a tail; 0: a root */
    uint32_t page;
    uint32_t n_front;
    struct frontier *front[TREE_NODE_FRONTS]; /* references, positions ascending */
    uint64_t stamp;                           /* logical time of the last use */
    uint32_t n_hit;                           /* lookups that used it */
    bool saved;      /* the disk store has, or was given, its segment */
    uint32_t behind; /* tree_spare_front: frontiers on the shortest way down from here */
    uint32_t ids[];  /* [S] */
};

struct kv_tree {
    struct kv_pool *pool; /* NULL: no tree (closed, or the layout has no pages) */
    struct tree_node **table;
    uint32_t table_mask;
    struct tree_node *roots;
    unsigned char
        *room; /* nodes of pages: as many as pages, so that a full page during decoding
                            allocates nothing */
    size_t node_bytes;
    uint32_t n_room;         /* handed out at least once */
    struct tree_node *spare; /* given back; linked by next */
    uint32_t n_nodes;        /* without roots */
    uint64_t clock;
    uint64_t *gone; /* [TREE_GONE] key prefixes of evicted pages: a lossy memory for reasons */
    uint64_t n_evicted;
};

/* An empty tree over the pool. A layout without pages gives a tree that stays empty. */
int tree_open(struct kv_tree *t, struct kv_pool *p, fathom_err *err);
/* Drops everything. {0} is fine. */
void tree_close(struct kv_tree *t);
/* Drops what nobody else holds, tails and frontiers included; the rest stays. */
void tree_clear(struct kv_tree *t);

/* What the tree knows of a prompt: ids[0..n) are its longest known prefix. */
struct tree_match {
    uint32_t n;
    struct tree_node
        *full; /* deepest node whose whole page agrees; may be a root; NULL: none */
    struct tree_node
        *part;    /* child of `full` that agrees for another n - end(full) > 0 tokens */
    bool differs; /* something cached continues otherwise: `other` stands at n */
    uint32_t other;
    const uint32_t *other_ids; /* the cached continuation from n on, n_other ids, until the */
    uint32_t n_other;          /* tree changes */
};
/* keys[k] is the chain key of ids[0..k*S), k = 0 .. n / S. Changes nothing. */
void tree_find(const struct kv_tree *t, const struct kv_key *keys, const uint32_t *ids,
               uint32_t n, struct tree_match *out);
/* The page numbers that hold the match: ceil(n / S) of them. References are not counted. */
uint32_t tree_match_pages(const struct kv_tree *t, const struct tree_match *m, uint32_t *pages);
/* Frontiers on the path with positions <= m->n, ascending; borrowed. At most cap, the last
 * ones. */
uint32_t tree_match_fronts(const struct tree_match *m, struct frontier **out, uint32_t cap);
/* Is a longer prefix of ids[0..n) than `matched` tokens known under a root other than key0? Rare
 * and slow: compares ids. */
bool tree_known_elsewhere(const struct kv_tree *t, const struct kv_key *key0,
                          const uint32_t *ids, uint32_t n, uint32_t matched);
/* The node and all above it are used now. NULL is fine. */
void tree_touch(struct kv_tree *t, struct tree_node *n, bool hit);

/* The root of a salt, made if it is not there; NULL: out of memory. */
struct tree_node *tree_root(struct kv_tree *t, const struct kv_key *key0);
/* A page behind `parent`: S ids with the key of their end, or fewer without (key NULL). The tree
 * takes its own reference. What is there already is used instead, and returned: a page with the
 * same ids, or (for a tail) one that begins with them. Tails that the new page begins with give
 * way. NULL: out of memory, or another prefix has this key (then nothing behind it can be
 * kept). */
struct tree_node *tree_add(struct kv_tree *t, struct tree_node *parent,
                           const struct kv_key *key, const uint32_t *ids, uint32_t n_ids,
                           uint32_t page);
/* Keeps a frontier (its own reference) on the node that its position ends in. May drop another
 * frontier of the path instead of passing TREE_BRANCH_FRONTS. */
void tree_add_front(struct kv_tree *t, struct tree_node *n, struct frontier *f);

/* Pages that eviction could free if the references counted in `ignore` were dropped as well
 * ([pool pages], or NULL). O(nodes). */
uint32_t tree_evictable(const struct kv_tree *t, const uint32_t *ignore);
/* Evicts least recently used leaves until `pages` became free or none is left; their number. */
uint32_t tree_evict(struct kv_tree *t, uint32_t pages);
/* The frontier to give up first: the least recently used one that is not among the two newest of
 * its branch, or of all if `any`. NULL: none. */
struct frontier *tree_spare_front(struct kv_tree *t, bool any);
/* Drops the tree's references to this frontier. */
void tree_drop_front(struct kv_tree *t, const struct frontier *f);
/* Was a page that ended with this key evicted lately? (May forget, and in rare cases is wrong: it
 * only words a reason.) */
bool tree_was_evicted(const struct kv_tree *t, const struct kv_key *key);

/* Asserts all invariants; O(nodes). */
void tree_check(const struct kv_tree *t);

#endif
