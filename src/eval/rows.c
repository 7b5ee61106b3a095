/* rows.c - see rows.h. Both engines compute the same ids, each in chunks of the smaller of the two
 * sizes; how much of a prefix each one still holds may differ. */
#include "eval/rows.h"

struct runner {
    const struct eval_set *s;
    const struct eval_drive *d;
    fathom_session *session[2];
    fathom_engine *engine[2];
    int n_engine;
    uint32_t chunk, n_vocab;
    uint64_t index, done;
};

static int step(struct runner *r, int i, uint32_t n, enum fathom_want want, fathom_err *err)
{
    fathom_work w = {.session = r->session[i], .n_tok = n, .want = want};
    return fathom_step(r->engine[i], &w, 1, err);
}

/* Makes q the session's target and computes what stands before the first row that is wanted. */
static int begin(struct runner *r, int i, const struct eval_seq *q, fathom_err *err)
{
    fathom_session *x = r->session[i];
    const uint32_t *ids = r->s->ids.p + q->at, *old = fathom_session_ids(x);
    uint32_t have = fathom_session_len(x) + fathom_session_pending(x), same = 0;
    while (same < have && same < q->n && ids[same] == old[same]) {
        same++;
    }
    int rc = 0;
    if (same > q->from - 1) { /* rows of tokens that are kept cannot be had again */
        rc = fathom_session_rewind(x, q->from - 1, NULL, err);
    }
    rc = rc ? rc : fathom_session_set(x, ids, q->n, NULL, err);
    while (rc == 0 && fathom_session_len(x) < q->from - 1) {
        uint32_t left = q->from - 1 - fathom_session_len(x);
        rc = step(r, i, MIN(left, r->chunk), FATHOM_WANT_NONE, err);
    }
    if (rc == 0 && q->from > 1) { /* the next prompt may begin like this one */
        rc = fathom_session_checkpoint(x, err);
    }
    return rc;
}

/* One chunk of rows: those of the ids pos..pos+n-1, which predict the ids behind them. */
static int chunk_rows(struct runner *r, size_t seq, uint32_t pos, uint32_t n, fathom_err *err)
{
    const struct eval_seq *q = &r->s->seq[seq];
    int rc = 0;
    for (int i = 0; rc == 0 && i < r->n_engine; i++) {
        rc = step(r, i, n, FATHOM_WANT_ALL, err);
    }
    for (uint32_t k = 0; rc == 0 && k < n; k++) {
        struct eval_row row = {
            .index = r->index++,
            .seq = seq,
            .pos = pos + k + 1,
            .id = r->s->ids.p[q->at + pos + k + 1],
            .n_vocab = r->n_vocab,
            .logits = fathom_session_logits(r->session[0], k),
            .other_logits = r->n_engine > 1 ? fathom_session_logits(r->session[1], k) : NULL,
        };
        if (!row.logits || (r->n_engine > 1 && !row.other_logits)) {
            return err_set(err, FATHOM_ENOMEM, "no logits for position %u", pos + k);
        }
        rc = r->d->row(r->d->user, &row, err);
    }
    return rc;
}

static int report(struct runner *r, uint64_t done, fathom_err *err)
{
    r->done = done;
    if (r->d->progress &&
        !r->d->progress(r->d->progress_user, r->d->stage, done, r->s->n_computed)) {
        return err_set(err, FATHOM_ECANCEL, "interrupted after %llu of %llu tokens",
                       (unsigned long long)done, (unsigned long long)r->s->n_computed);
    }
    return 0;
}

static int sequence(struct runner *r, size_t seq, fathom_err *err)
{
    const struct eval_seq *q = &r->s->seq[seq];
    uint64_t before = r->done;
    int rc = 0;
    for (int i = 0; rc == 0 && i < r->n_engine; i++) {
        rc = begin(r, i, q, err);
    }
    for (uint32_t pos = q->from - 1, n; rc == 0 && pos < q->n - 1; pos += n) {
        n = MIN(r->chunk, q->n - 1 - pos); /* the last id predicts nothing that is known */
        rc = chunk_rows(r, seq, pos, n, err);
        rc = rc ? rc : report(r, before + pos + n, err);
    }
    return rc ? rc : report(r, before + q->n, err);
}

int eval_rows(const struct eval_set *s, const struct eval_drive *d, fathom_err *err)
{
    struct runner r = {.s = s, .d = d, .engine = {d->engine, d->other}};
    r.n_engine = d->other ? 2 : 1;
    int rc = 0;
    for (int i = 0; rc == 0 && i < r.n_engine; i++) {
        fathom_info info;
        fathom_engine_info(r.engine[i], &info);
        if (i > 0 && info.n_vocab != r.n_vocab) {
            rc = err_set(err, FATHOM_EINVAL,
                         "the models have vocabularies of %u and %u tokens: their "
                         "distributions cannot be compared",
                         r.n_vocab, info.n_vocab);
        }
        r.n_vocab = info.n_vocab;
        r.chunk = i > 0 ? MIN(r.chunk, info.chunk) : info.chunk;
        rc = rc ? rc : fathom_session_new(&r.session[i], r.engine[i], err);
    }
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        rc = sequence(&r, i, err);
    }
    fathom_session_free(r.session[0]);
    fathom_session_free(r.session[1]);
    return rc;
}
