/* step.c - fathom_step: the pending tokens of several sessions become one step block, run on
 * the smallest size class that holds them. And where its results are: logits rows and pick
 * records.
 *
 * All or nothing: everything is checked before the first sequence changes; when the backend
 * fails, every sequence finds back to where it was (state_abort). A re-run (kv/state.h) is
 * ordinary pending work except that its rows have no logits: they need not be exact. When a
 * step fills a page, the page is published (share.c) and offered to the disk (disk.c), which
 * neither waits nor copies. Invariant: nothing is allocated here, but for a node of the prefix
 * tree at the end of a page. Read next: kv/state.c, op/step.h. */
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_int.h"

/* ---- results ---- */

const float *engine_logits_row(fathom_engine *e, uint32_t i)
{
    const struct opnd *o = &e->last->io_logits;
    uint64_t at = o->offset + i * o->row_bytes;
    if (e->io_map) {
        return (const float *)(const void *)(e->io_map + at);
    }
    float *row = e->host_logits + (size_t)i * e->shape.n_vocab;
    if (!e->row_read[i]) {
        e->be->buf_read(e->dev, e->io, at, row, e->shape.n_vocab * sizeof *row);
        e->row_read[i] = true;
    }
    return row;
}

void engine_pick(fathom_engine *e, uint32_t i, struct pick *out)
{
    const struct opnd *o = &e->last->io_picks;
    uint64_t at = o->offset + i * o->row_bytes;
    if (e->io_map) {
        memcpy(out, e->io_map + at, sizeof *out);
    } else {
        e->be->buf_read(e->dev, e->io, at, out, sizeof *out);
    }
}

const float *fathom_session_logits(const fathom_session *s, uint32_t i)
{
    if (s->logit_serial != s->e->serial || i >= s->n_out) {
        return NULL;
    }
    return engine_logits_row(s->e, s->out0 + i);
}

/* ---- a step ---- */

static const float *last_row(void *user)
{
    fathom_session *s = user;
    return fathom_session_logits(s, s->n_out - 1);
}

int fathom_session_sample(fathom_session *s, const fathom_sampling *p, const uint32_t *mask,
                          fathom_choice *out, fathom_err *err)
{
    if (s->logit_serial != s->e->serial || s->n_out == 0) {
        return err_set(err, FATHOM_EINVAL,
                       "there are no logits to sample from: the last step did not want any of "
                       "this session");
    }
    struct pick pick;
    engine_pick(s->e, s->out0 + s->n_out - 1, &pick);
    struct sample_in in = {.pick = &pick,
                           .row = last_row,
                           .user = s,
                           .mask = mask,
                           .ids = s->ids,
                           .n_ids = s->logit_end};
    return sample_token(&s->e->sample, &in, p, out, err);
}

static int check_work(fathom_engine *e, const fathom_work *work, uint32_t n_work,
                      uint32_t *n_tok, fathom_err *err)
{
    if (n_work == 0 || n_work > e->max_seq) {
        return err_set(err, FATHOM_EINVAL, "a step of %u sessions; it takes 1 to %u", n_work,
                       e->max_seq);
    }
    uint64_t sum = 0;
    e->calls++;
    for (uint32_t i = 0; i < n_work; i++) {
        fathom_session *s = work[i].session;
        if (!s || s->e != e || s->seen_call == e->calls) {
            return err_set(err, FATHOM_EINVAL,
                           "step: entry %u is not a session of this engine, or is listed twice",
                           i);
        }
        s->seen_call = e->calls;
        uint32_t pending = session_pending(s);
        if (work[i].n_tok == 0 || work[i].n_tok > pending) {
            return err_set(err, FATHOM_EINVAL, "step: %u tokens of a session with %u pending",
                           work[i].n_tok, pending);
        }
        sum += work[i].n_tok;
    }
    if (sum > e->chunk) {
        return err_set(err, FATHOM_EINVAL, "a step of %llu tokens; at most %u (chunk)",
                       (unsigned long long)sum, e->chunk);
    }
    for (uint32_t i = 0; i < n_work; i++) {
        if (atomic_exchange(&work[i].session->cancel, false)) {
            return err_set(err, FATHOM_ECANCEL, "cancelled");
        }
    }
    *n_tok = (uint32_t)sum;
    return 0;
}

/* Which rows of this share get logits: token rows [first, first + n). Tokens of a re-run
 * have none. */
static uint32_t wanted(const fathom_session *s, const fathom_work *w, uint32_t *first)
{
    uint32_t n0 = s->kv.n, end = n0 + w->n_tok;
    uint32_t from = w->want == FATHOM_WANT_LAST ? end - 1 : n0;
    from = MAX(from, s->kv.keep);
    *first = from - n0;
    return w->want == FATHOM_WANT_NONE || from >= end ? 0 : end - from;
}

static void add_work(fathom_engine *e, struct step *st, const fathom_work *w)
{
    fathom_session *s = w->session;
    struct step_room *r = &e->room;
    struct step_seq *q = &r->seq[st->n_seq];
    uint32_t first, n_out = wanted(s, w, &first);
    state_begin(&s->kv, w->n_tok);
    state_step(&s->kv, w->n_tok, q, r->pages + st->n_page);
    q->tok0 = st->n_tok;
    q->page0 = st->n_page;
    q->out0 = st->n_out;
    q->n_out = n_out;
    for (uint32_t i = 0; i < w->n_tok; i++) {
        r->tok[st->n_tok + i] = s->ids[s->kv.n + i];
        r->tok_seq[st->n_tok + i] = st->n_seq;
    }
    for (uint32_t i = 0; i < n_out; i++) {
        r->out[st->n_out + i] = st->n_tok + first + i;
    }
    st->n_seq++;
    st->n_tok += w->n_tok;
    st->n_page += q->n_page;
    st->n_out += n_out;
}

/* What a prompt token costs, from the largest steps seen: for what is worth storing. */
static void measure(fathom_engine *e, uint32_t n_tok, double seconds)
{
    double each = seconds / n_tok;
    if (n_tok > e->tok_batch) {
        e->tok_batch = n_tok;
        e->tok_seconds = each;
    } else if (n_tok >= e->tok_batch / 2) {
        e->tok_seconds += 0.25 * (each - e->tok_seconds);
    }
}

int fathom_step(fathom_engine *e, const fathom_work *work, uint32_t n_work, fathom_err *err)
{
    uint32_t n_tok = 0;
    int rc = check_work(e, work, n_work, &n_tok, err);
    if (rc != 0) {
        return rc;
    }
    e->serial++; /* earlier logits end here */
    struct step_room *r = &e->room;
    struct step st = {
        .seq = r->seq, .tok = r->tok, .tok_seq = r->tok_seq, .pages = r->pages, .out = r->out};
    for (uint32_t i = 0; i < n_work; i++) {
        add_work(e, &st, &work[i]);
    }
    struct engine_class *c = &e->cls[engine_class_of(e, n_tok)];
    double start = clock_now();
    rc = e->be->submit(e->dev, c->exec, &st, err);
    rc = rc ? rc : e->be->wait(e->dev, err);
    measure(e, n_tok, clock_now() - start);
    for (uint32_t i = 0; i < n_work; i++) {
        fathom_session *s = work[i].session;
        if (rc != 0) {
            state_abort(&s->kv, s->front, s->n_front);
            continue;
        }
        state_commit(&s->kv, work[i].n_tok);
        s->out0 = r->seq[i].out0;
        s->n_out = r->seq[i].n_out;
        s->logit_serial = e->serial;
        s->logit_end = s->kv.n;
    }
    e->last = c->prog;
    memset(e->row_read, 0, n_tok * sizeof *e->row_read);
    for (uint32_t i = 0; i < n_work && rc == 0; i++) {
        if (session_publish(work[i].session)) {
            disk_put_pages(work[i].session);
        }
    }
    if (e->store) {
        kv_store_work(e->store); /* nothing, unless the store has no thread (tests) */
        kv_store_poll(e->store);
    }
    return rc;
}
