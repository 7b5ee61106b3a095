/* engine_int.h - the structs behind the public handles; private to src/engine.
 * open in engine.c, sessions in session.c, steps in step.c, sampling in sample.c. */
#ifndef ENGINE_ENGINE_INT_H
#define ENGINE_ENGINE_INT_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/sample.h"

enum {
    ENGINE_CLASSES = 4, /* {1, 8, 64, chunk} */
    ENGINE_CHUNK = 256, /* defaults of fathom_engine_options */
    ENGINE_MAX_SEQ = 4,
    SESSION_FRONTIERS = 8, /* frontier copies a session keeps */
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
    double load_seconds;
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
/* session.c: the pool's relieve hook (pool.h); user is the engine. */
void engine_relieve(void *user, uint64_t bytes);

#endif
