/* session.c - one sequence of tokens: the caller names the whole prefix, the session continues
 * from the longest known part of it (reuse.c) and queues the rest.
 *
 * ids[0..n_ids) is the target; kv.n of them are computed. After a rewind that could not keep
 * the rings, kv.n lies below the common prefix: those tokens are pending again and come first
 * (kv/state.h); reuse tells their number. Memory for the whole target is reserved when it is
 * set, so steps cannot run out of it. Frontier copies are shared between forks and dropped,
 * oldest first, when the pool needs the room (share.c). Read next: reuse.c, step.c. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_int.h"

/* ---- life ---- */

static void session_dealloc(fathom_session *s)
{
    kv_chain_fini(&s->chain);
    mem_free(s->ids);
    mem_free(s);
}

static int session_alloc(fathom_session **out, fathom_engine *e, const struct kv_id *salt,
                         fathom_err *err)
{
    fathom_session *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return err_nomem(err, "session", sizeof *s);
    }
    s->e = e;
    atomic_init(&s->cancel, false);
    s->ids = mem_alloc(e->max_ctx, sizeof *s->ids);
    int rc = s->ids ? kv_chain_init(&s->chain, &e->identity, salt, e->layout.page_tokens, err)
                    : err_nomem(err, "session", e->max_ctx * sizeof *s->ids);
    rc = rc ? rc : kv_chain_reserve(&s->chain, e->max_ctx, err);
    if (rc != 0) {
        session_dealloc(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void session_link(fathom_session *s)
{
    s->next = s->e->sessions;
    if (s->next) {
        s->next->prev = s;
    }
    s->e->sessions = s;
}

int fathom_session_new(fathom_session **out, fathom_engine *e, fathom_err *err)
{
    return fathom_session_open(out, e, NULL, err);
}

int fathom_session_open(fathom_session **out, fathom_engine *e,
                        const fathom_session_options *opt, fathom_err *err)
{
    *out = NULL;
    static const fathom_session_options none;
    const fathom_session_options *o = opt ? opt : &none;
    struct slice owner = {o->owner, o->owner_bytes}, own = {o->salt, o->salt_bytes};
    struct kv_id salt;
    if (!kv_salt_make(owner, own, &salt)) {
        return err_nomem(err, "salt", sizeof salt);
    }
    fathom_session *s = NULL;
    int rc = session_alloc(&s, e, &salt, err);
    if (rc != 0) {
        return rc;
    }
    s->no_store = o->no_store || o->no_reuse;
    s->no_reuse = o->no_reuse;
    rc = state_init(&s->kv, &e->pool, e->max_ctx, err);
    if (rc != 0) {
        session_dealloc(s);
        return rc;
    }
    session_link(s);
    *out = s;
    return 0;
}

void fathom_session_free(fathom_session *s)
{
    if (!s) {
        return;
    }
    fathom_session_save(s);
    session_retire(s, true);
    for (uint32_t i = 0; i < s->n_front; i++) {
        frontier_drop(s->front[i]);
    }
    state_fini(&s->kv);
    *(s->prev ? &s->prev->next : &s->e->sessions) = s->next;
    if (s->next) {
        s->next->prev = s->prev;
    }
    session_dealloc(s);
}

int fathom_session_fork(fathom_session **out, fathom_session *s, uint32_t n, fathom_err *err)
{
    *out = NULL;
    if (n > state_rows(&s->kv)) {
        return err_set(err, FATHOM_EINVAL, "fork at %u of %u computed tokens", n,
                       state_rows(&s->kv));
    }
    fathom_session *c = NULL;
    int rc = session_alloc(&c, s->e, &s->chain.salt, err);
    if (rc != 0) {
        return rc;
    }
    rc = state_fork(&c->kv, &s->kv, n, s->front, s->n_front, s->e->max_ctx, err);
    if (rc != 0) {
        session_dealloc(c);
        return rc;
    }
    memcpy(c->ids, s->ids, n * sizeof *c->ids);
    c->n_ids = n;
    c->no_store = s->no_store;
    c->no_reuse = s->no_reuse;
    c->node = s->node;
    c->n_pub = s->n_pub;
    c->n_put = s->n_put;
    session_unpublish(c, n);
    for (uint32_t i = 0; i < s->n_front; i++) {
        if (s->front[i]->pos <= n) {
            c->front[c->n_front++] = frontier_ref(s->front[i]);
        }
    }
    session_link(c);
    *out = c;
    return 0;
}

/* ---- what is there ---- */

uint32_t fathom_session_len(const fathom_session *s)
{
    return s->kv.n;
}
const uint32_t *fathom_session_ids(const fathom_session *s)
{
    return s->ids;
}
uint32_t fathom_session_pending(const fathom_session *s)
{
    return session_pending(s);
}
void fathom_session_cancel(fathom_session *s)
{
    atomic_store(&s->cancel, true);
}
const struct kv_state *session_state(const fathom_session *s)
{
    return &s->kv;
}

/* ---- frontiers ---- */

int fathom_session_checkpoint(fathom_session *s, fathom_err *err)
{
    (void)err; /* a copy that cannot be made costs time later, nothing else */
    uint32_t a = s->e->layout.align, m = s->kv.n / a * a;
    for (uint32_t i = 0; i < s->n_front; i++) {
        if (s->front[i]->pos == m) {
            return 0;
        }
    }
    struct frontier *f = state_checkpoint(&s->kv);
    if (!f) {
        log_debug("no frontier copy at %u", m);
        return 0;
    }
    f->serial = ++s->e->frontier_serial;
    session_take_fronts(s, &f, 1, m);
    frontier_drop(f);
    return 0;
}

void fathom_session_save(fathom_session *s)
{
    uint32_t rows = state_rows(&s->kv);
    if (!session_shares(s)) {
        return;
    }
    session_publish(s);
    /* A resume behind the last frontier costs a re-run: not more than a page. */
    if (s->kv.n == rows &&
        (s->n_front == 0 || s->front[s->n_front - 1]->pos + s->e->layout.page_tokens < rows)) {
        fathom_session_checkpoint(s, NULL);
    }
    disk_put_pages(s);
    disk_put_fronts(s);
}

/* ---- target ---- */

static int check_ids(const fathom_session *s, const uint32_t *ids, uint32_t n, fathom_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] >= s->e->shape.n_vocab) {
            return err_set(err, FATHOM_EINVAL, "token id %u at place %u; the vocabulary has %u",
                           ids[i], i, s->e->shape.n_vocab);
        }
    }
    return 0;
}

static int too_long(const fathom_session *s, uint64_t n, fathom_err *err)
{
    return err_set(
        err, FATHOM_ELIMIT,
        "%llu tokens; the context holds %u. Shorten the input, or open the engine with "
        "a larger max_ctx",
        (unsigned long long)n, s->e->max_ctx);
}

void session_cut(fathom_session *s, uint32_t n, fathom_reuse *reuse)
{
    struct kv_plan p = state_rewind(&s->kv, n, s->front, s->n_front);
    if (reuse) {
        *reuse = (fathom_reuse){.matched = n,
                                .kept = p.from,
                                .rerun = n - p.from,
                                .frontier = p.frontier ? p.from : 0};
    }
    for (uint32_t i = s->n_front; i-- > 0;) {
        if (s->front[i]->pos > n) {
            session_drop_front(s, i);
        }
    }
    session_unpublish(s, n);
    kv_chain_cut(&s->chain, n);
    s->n_ids = n;
    s->n_out = 0;
}

int fathom_session_set(fathom_session *s, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
                       fathom_err *err)
{
    if (n == 0) {
        return err_set(err, FATHOM_EINVAL, "an empty sequence; give at least one token");
    }
    if (n > s->e->max_ctx) {
        return too_long(s, n, err);
    }
    int rc = check_ids(s, ids, n, err);
    if (rc != 0) {
        return rc;
    }
    return session_reuse(s, ids, n, reuse, err);
}

int fathom_session_append(fathom_session *s, const uint32_t *ids, uint32_t n, fathom_err *err)
{
    uint64_t total = (uint64_t)s->n_ids + n;
    if (total > s->e->max_ctx) {
        return too_long(s, total, err);
    }
    int rc = check_ids(s, ids, n, err);
    rc = rc ? rc : state_reserve(&s->kv, (uint32_t)total, err);
    if (rc != 0) {
        return rc;
    }
    memmove(s->ids + s->n_ids, ids, n * sizeof *ids);
    s->n_ids = (uint32_t)total;
    return 0;
}

int fathom_session_rewind(fathom_session *s, uint32_t n, fathom_reuse *reuse, fathom_err *err)
{
    if (n > state_rows(&s->kv)) {
        return err_set(err, FATHOM_EINVAL, "rewind to %u; %u tokens are computed", n,
                       state_rows(&s->kv));
    }
    session_cut(s, n, reuse);
    return state_reserve(&s->kv, n, err); /* gives the rest back */
}

int fathom_session_sync(fathom_session *s, const uint32_t *ids, uint32_t n,
                        fathom_progress_fn progress, void *user, fathom_reuse *reuse,
                        fathom_err *err)
{
    int rc = fathom_session_set(s, ids, n, reuse, err);
    uint32_t first = rc ? 0 : fathom_session_pending(s), left = first;
    while (rc == 0 && left > 0) {
        fathom_work w = {.session = s, .n_tok = MIN(left, s->e->chunk)};
        w.want = w.n_tok == left ? FATHOM_WANT_LAST : FATHOM_WANT_NONE;
        rc = fathom_step(s->e, &w, 1, err);
        left = fathom_session_pending(s);
        if (rc == 0 && progress && !progress(user, "prefill", first - left, first)) {
            rc = err_set(err, FATHOM_ECANCEL, "cancelled");
        }
    }
    return rc;
}
