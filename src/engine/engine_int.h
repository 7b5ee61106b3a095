/* engine_int.h - the structs behind the public handles; private to src/engine.
 * Who calls whom, top down: engine.c (opening), session.c, reuse.c (finding earlier tokens),
 * step.c, share.c (leaving tokens to the tree), disk.c (the store), front.c. */
#ifndef ENGINE_ENGINE_INT_H
#define ENGINE_ENGINE_INT_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/sample.h"
#include "kv/store.h"
#include "kv/tree.h"

enum {
    ENGINE_CLASSES = 4, /* {1, 8, 64, chunk} */
    ENGINE_CHUNK = 256, /* defaults of fathom_engine_options */
    ENGINE_MAX_SEQ = 4,
    SESSION_FRONTIERS = 8, /* frontier copies a session keeps */
    REUSE_OTHER_IDS = 16,  /* ids kept of a continuation that a prompt did not take */
    DISK_MIN_TOKENS = 256, /* shorter prompts are never written */
};

struct engine_class {
    struct program *prog; /* owned */
    struct exec *exec;    /* owned */
};

/* Arrays of the step block being built, sized at open so that a step allocates nothing. */
struct step_room {
    struct step_seq *seq;          /* [max_seq] */
    uint32_t *tok, *tok_seq, *out; /* [chunk] */
    uint32_t *pages;               /* [max_seq * pages of max_ctx] */
};

struct fathom_engine {
    const struct backend *be;
    struct device *dev;
    struct backend_caps caps;
    struct backend_info hw;
    struct gguf *gguf;
    struct tokenizer *tok; /* NULL: none in the file */
    struct shape shape;
    struct weights weights;
    struct layout layout;
    struct kv_pool pool;
    struct buffer *arena, *io;
    unsigned char *io_map; /* NULL: not visible to the host */
    struct engine_class cls[ENGINE_CLASSES];
    uint32_t n_cls;
    uint32_t chunk, max_ctx, max_seq;
    uint64_t scratch_bytes;
    struct step_room room;
    /* The last step: its logits stay valid until the next one begins. */
    uint64_t serial, calls;     /* calls: of fathom_step, to find sessions listed twice */
    const struct program *last; /* its program */
    float *host_logits;         /* [chunk][n_vocab] if io_map is NULL; rows read on demand */
    bool *row_read;             /* [chunk] */
    struct sample_room sample;
    fathom_session *sessions; /* list of all */
    uint64_t frontier_serial;
    char name[256];
    const char *weight_format; /* static */
    double load_seconds;
    /* What outlives sessions. Both may be off: tree.pool NULL, store NULL. */
    struct kv_tree tree;
    struct kv_store *store;
    struct kv_id identity; /* zeros without a store */
    char store_off[256];   /* why there is no store although kv_dir was given */
    double flush_seconds;
    uint32_t disk_min_tokens; /* shorter prefixes are not written */
    double tok_seconds;       /* measured cost of one prompt token, 0: not yet */
    uint32_t tok_batch;       /* tokens of the step it comes from */
    fathom_kv_info kv;        /* counters of n_sets .. ends; the rest is asked for */
    struct reuse_room {
        uint32_t *ignore;        /* [pool pages], zero between calls */
        uint32_t *pages;         /* [pages of max_ctx] */
        struct tree_node **path; /* [pages of max_ctx] */
        struct frontier **front; /* [cap_front] */
        uint32_t cap_front;
    } reuse;
};

struct fathom_session {
    fathom_engine *e; /* borrowed */
    fathom_session *prev, *next;
    struct kv_state kv;
    uint32_t *ids; /* [max_ctx]: target; [0, kv.n) are computed */
    uint32_t n_ids;
    struct frontier *front[SESSION_FRONTIERS]; /* oldest first */
    uint32_t n_front;
    atomic_bool cancel;
    uint64_t seen_call;    /* step call that lists this session (duplicates) */
    uint64_t logit_serial; /* step whose rows [out0, out0 + n_out) are this session's */
    uint32_t out0, n_out;
    uint32_t logit_end; /* tokens before the one that the last row predicts */
    /* Sharing. Pages [0, n_pub) of kv are the tree's pages of the path to `node`; the session's
     * own references keep that path from being evicted. */
    struct kv_chain chain;  /* keys of ids */
    struct tree_node *node; /* NULL while n_pub is 0 */
    uint32_t n_pub;
    uint32_t n_put; /* segments that the store has, or was given */
    bool no_store, no_reuse;
    fathom_reuse last;                        /* of the last set, for explain */
    uint32_t n_other, other[REUSE_OTHER_IDS]; /* known ids from position last.matched on */
};

/* Tokens queued and not computed. */
static inline uint32_t session_pending(const fathom_session *s)
{
    return s->n_ids - s->kv.n;
}

/* step.c: row i of the last step's logits; reads it if the host does not see the memory. */
const float *engine_logits_row(fathom_engine *e, uint32_t i);
/* step.c: the pick record of row i, copied. */
void engine_pick(fathom_engine *e, uint32_t i, struct pick *out);

/* ---- front.c ---- */
/* Gives up the session's reference to front[i]. */
void session_drop_front(fathom_session *s, uint32_t i);
/* Of front[0..n), prefixes of the session's tokens, and its own: those at positions <= keep
 * become the session's, ascending, thinned to SESSION_FRONTIERS. */
void session_take_fronts(fathom_session *s, struct frontier *const *front, uint32_t n,
                         uint32_t keep);

/* ---- session.c ---- */
/* Rewinds to n tokens (with the session's own frontiers) and drops what belongs to forgotten
 * ones. */
void session_cut(fathom_session *s, uint32_t n, fathom_reuse *reuse);

/* ---- reuse.c ---- */
/* fathom_session_set after its arguments were checked. */
int session_reuse(fathom_session *s, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
                  fathom_err *err);
/* ---- share.c ---- */
int share_open(fathom_engine *e, fathom_err *err);
void share_close(fathom_engine *e);
static inline bool session_shares(const fathom_session *s)
{
    return s->e->tree.pool && !s->no_reuse;
}
/* Puts the pages that are full into the tree; true if there was one. */
bool session_publish(fathom_session *s);
/* Before tokens are given up, when pages are published: the frontiers go to the tree; with
 * `tail` the last, partial page as well (it is then shared). Does not look at the chain, which
 * may be the next prompt's already. */
void session_retire(fathom_session *s, bool tail);
/* n_pub and node after the sequence was cut to n rows. */
void session_unpublish(fathom_session *s, uint32_t n);
/* The pool's relieve hook (pool.h); user is the engine. */
void engine_relieve(void *user, uint32_t pages, uint64_t bytes, bool must);
/* An upper bound on pages that could be had, when the references counted in ignore are dropped:
 * free and unpromised ones and what eviction frees. */
uint32_t share_available(const fathom_engine *e, const uint32_t *ignore);

/* ---- disk.c ---- */
int disk_open(fathom_engine *e, const fathom_engine_options *o, fathom_err *err);
void disk_close(fathom_engine *e);
/* Offers full pages from n_put on, parents first. */
void disk_put_pages(fathom_session *s);
/* Offers the two newest frontiers and the lowest. */
void disk_put_fronts(fathom_session *s);
/* Continues the known prefix of the session's target from files, if that saves computing, and
 * updates r; r->end says why the files end (FATHOM_REUSE_ALL: they were not asked). All or
 * nothing; afterwards the reservation must be renewed. */
void disk_extend(fathom_session *s, fathom_reuse *r);
/* RAM is short: takes work back from the writer, or waits a moment for it. true: something was
 * released. */
bool disk_give_up(fathom_engine *e, uint32_t pages);
/* Bytes of pages and frontiers that the writer may hold. */
uint64_t disk_held_bytes(const fathom_engine *e);

/* ---- identity.c ---- */
/* The identity of everything that can change a row (docs/kv-store.md 3.2). */
int engine_identity(const fathom_engine *e, bool act_f32, const struct kv_geom *g,
                    struct kv_id *out, fathom_err *err);

#endif
