/* session.c - one sequence of tokens: the caller names the whole prefix, the session keeps
 * what agrees and queues the rest.
 *
 * ids[0..n_ids) is the target; kv.n of them are computed. After a rewind that could not keep
 * the rings, kv.n lies below the common prefix: those tokens are pending again and come
 * first (kv/state.h); reuse tells their number. Memory for the whole target is reserved when
 * it is set, so steps cannot run out of it. Frontier copies are shared between forks and
 * dropped, oldest first, when the pool needs the room. Read next: step.c, generate.c. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_int.h"

/* ---- life ---- */

static int session_alloc(fathom_session **out, fathom_engine *e, fathom_err *err)
{
    fathom_session *s = mem_calloc(1, sizeof *s);
    if (!s) {
        return err_nomem(err, "session", sizeof *s);
    }
    s->e = e;
    atomic_init(&s->cancel, false);
    s->ids = mem_alloc(e->max_ctx, sizeof *s->ids);
    if (!s->ids) {
        mem_free(s);
        return err_nomem(err, "session", e->max_ctx * sizeof *s->ids);
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
    *out = NULL;
    fathom_session *s = NULL;
    int rc = session_alloc(&s, e, err);
    if (rc != 0) {
        return rc;
    }
    rc = state_init(&s->kv, &e->pool, e->max_ctx, err);
    if (rc != 0) {
        mem_free(s->ids);
        mem_free(s);
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
    for (uint32_t i = 0; i < s->n_front; i++) {
        frontier_drop(s->front[i]);
    }
    state_fini(&s->kv);
    *(s->prev ? &s->prev->next : &s->e->sessions) = s->next;
    if (s->next) {
        s->next->prev = s->prev;
    }
    mem_free(s->ids);
    mem_free(s);
}

int fathom_session_fork(fathom_session **out, fathom_session *s, uint32_t n, fathom_err *err)
{
    *out = NULL;
    if (n > state_rows(&s->kv)) {
        return err_set(err, FATHOM_EINVAL, "fork at %u of %u computed tokens", n,
                       state_rows(&s->kv));
    }
    fathom_session *c = NULL;
    int rc = session_alloc(&c, s->e, err);
    if (rc != 0) {
        return rc;
    }
    rc = state_fork(&c->kv, &s->kv, n, s->front, s->n_front, s->e->max_ctx, err);
    if (rc != 0) {
        mem_free(c->ids);
        mem_free(c);
        return rc;
    }
    memcpy(c->ids, s->ids, n * sizeof *c->ids);
    c->n_ids = n;
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

static void drop_front(fathom_session *s, uint32_t i)
{
    frontier_drop(s->front[i]);
    s->n_front--;
    memmove(&s->front[i], &s->front[i + 1], (s->n_front - i) * sizeof s->front[0]);
}

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
    if (s->n_front == SESSION_FRONTIERS) {
        drop_front(s, 0);
    }
    s->front[s->n_front++] = f;
    return 0;
}

void engine_relieve(void *user, uint64_t bytes)
{
    fathom_engine *e = user;
    uint64_t have = pool_used_bytes(&e->pool, KV_FRONTIERS);
    uint64_t goal = have > bytes ? have - bytes : 0;
    while (pool_used_bytes(&e->pool, KV_FRONTIERS) > goal) {
        const struct frontier *oldest = NULL;
        for (fathom_session *s = e->sessions; s; s = s->next) {
            for (uint32_t i = 0; i < s->n_front; i++) {
                if (!oldest || s->front[i]->serial < oldest->serial) {
                    oldest = s->front[i];
                }
            }
        }
        if (!oldest) {
            return;
        }
        uint64_t serial = oldest->serial;
        for (fathom_session *s = e->sessions; s; s = s->next) {
            for (uint32_t i = 0; i < s->n_front; i++) {
                if (s->front[i]->serial == serial) {
                    drop_front(s, i);
                    break;
                }
            }
        }
    }
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

/* Rewinds and drops what belongs to the forgotten tokens. */
static void cut(fathom_session *s, uint32_t n, fathom_reuse *reuse)
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
            drop_front(s, i);
        }
    }
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
    uint32_t rows = state_rows(&s->kv), same = 0;
    while (same < n && same < rows && ids[same] == s->ids[same]) {
        same++;
    }
    uint32_t keep = MIN(same, n - 1); /* the last token is computed for its logits */
    if (!state_fits(&s->kv, keep, n)) {
        /* Nothing has changed; state_reserve words the refusal. */
        return err_set(
            err, FATHOM_ELIMIT,
            "KV memory: no room for %u tokens; %.3f GB of %.3f GB are in use. End other "
            "sequences, or open the engine with a larger kv_bytes",
            n, (double)pool_used_bytes(&s->e->pool, KV_KIND_COUNT) / 1e9,
            (double)pool_budget_bytes(&s->e->pool) / 1e9);
    }
    fathom_reuse r;
    cut(s, keep, &r);
    rc = state_reserve(&s->kv, n, err);
    if (rc != 0) {
        return rc;
    }
    memmove(s->ids + keep, ids + keep, (n - keep) * sizeof *ids);
    s->n_ids = n;
    r.matched = same;
    r.computed = n - keep;
    if (reuse) {
        *reuse = r;
    }
    return 0;
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
    cut(s, n, reuse);
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
