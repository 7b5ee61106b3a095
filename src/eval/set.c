/* set.c - see set.h. */
#include "eval/set.h"

#include "base/rng.h"

void eval_set_fini(struct eval_set *s)
{
    ids_free(&s->ids);
    mem_free(s->seq);
    *s = (struct eval_set){0};
}

static int push(struct eval_set *s, struct eval_seq q, fathom_err *err)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        struct eval_seq *more = mem_realloc(s->seq, cap, sizeof *more);
        if (!more) {
            return err_nomem(err, "sequences", cap * sizeof *more);
        }
        s->seq = more;
        s->cap = cap;
    }
    s->seq[s->n++] = q;
    s->n_scored += q.n - q.from;
    s->n_computed += q.n;
    s->longest = MAX(s->longest, q.n);
    return 0;
}

int eval_set_add(struct eval_set *s, size_t at, uint32_t from, fathom_err *err)
{
    if (s->ids.failed) {
        return err_nomem(err, "token ids", s->ids.n * sizeof *s->ids.p);
    }
    size_t n = s->ids.n - at;
    if (n > UINT32_MAX) {
        return err_set(err, FATHOM_ELIMIT, "a sequence of %zu tokens", n);
    }
    from = MAX(from, 1u);
    if (from >= n) {
        s->ids.n = at;
        return 0;
    }
    return push(s, (struct eval_seq){at, (uint32_t)n, from}, err);
}

/* ---- text ---- */

static int cut_windows(struct eval_set *s, uint32_t bos, const struct ids *t, uint32_t window,
                       uint32_t overlap, fathom_err *err)
{
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < t->n;) {
        size_t context = MIN((size_t)overlap, done), at = s->ids.n;
        size_t n = MIN(t->n - done, window - 1 - context);
        ids_add(&s->ids, bos);
        ids_add_all(&s->ids, t->p + done - context, context + n);
        rc = eval_set_add(s, at, (uint32_t)context + 1, err);
        s->n_context += context;
        done += n;
    }
    return rc;
}

int eval_set_text(struct eval_set *s, const struct tokenizer *t, struct slice text,
                  bool trusted, uint32_t window, uint32_t overlap, fathom_err *err)
{
    if (window < 2 || overlap > window - 2) {
        return err_set(err, FATHOM_EINVAL,
                       "windows of %u tokens with %u of them repeated: nothing new fits in",
                       window, overlap);
    }
    struct ids all = {0};
    uint32_t bos = (uint32_t)tokenizer_control(t, CT_BOS);
    tokenizer_encode(t, text.p, text.n, trusted, &all);
    int rc = all.failed ? err_nomem(err, "the text", text.n) : 0;
    if (rc == 0 && all.n > 0 && all.p[0] == bos) { /* every window begins with one */
        memmove(all.p, all.p + 1, --all.n * sizeof *all.p);
    }
    if (rc == 0 && all.n == 0) {
        rc = err_set(err, FATHOM_EFORMAT, "the text is empty");
    }
    rc = rc ? rc : cut_windows(s, bos, &all, window, overlap, err);
    ids_free(&all);
    return rc;
}

/* ---- manifest ---- */

struct cases {
    struct eval_set *s;
    const struct manifest_ctx *m;
    bool all;
};

static int add_case(void *user, const struct json *entry, fathom_err *err)
{
    struct cases *c = user;
    size_t at = c->s->ids.n, n_next = 0;
    int rc = manifest_prompt(&c->s->ids, c->m, entry, err);
    size_t n_prompt = c->s->ids.n - at;
    rc = rc ? rc : manifest_continuation(&c->s->ids, &n_next, c->m, entry, err);
    if (rc == 0 && (n_next == 0 || n_prompt == 0) && !c->all) {
        rc = err_set(err, FATHOM_EFORMAT,
                     "no continuation: there is none of \"continuation_ids\", \"sample\" and "
                     "\"continuation\" with at least one token");
    }
    if (rc == 0 && n_prompt > UINT32_MAX) {
        rc = err_set(err, FATHOM_ELIMIT, "a prompt of %zu tokens", n_prompt);
    }
    return rc ? rc : eval_set_add(c->s, at, c->all ? 1 : (uint32_t)n_prompt, err);
}

int eval_set_cases(struct eval_set *s, const struct manifest_ctx *m, struct slice text,
                   bool all, fathom_err *err)
{
    struct cases c = {s, m, all};
    int rc = manifest_each(text, add_case, &c, err);
    if (rc == 0 && s->n == 0) {
        rc = err_set(err, FATHOM_EFORMAT, "no case in the manifest");
    }
    return rc;
}

/* ---- views, identity, blocks ---- */

int eval_set_view(struct eval_set *view, const struct eval_set *s, uint64_t limit,
                  fathom_err *err)
{
    *view = (struct eval_set){.ids = s->ids};
    uint64_t step = s->n_scored / MAX(limit, 1u) + (s->n_scored % MAX(limit, 1u) != 0);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s->n; i += (size_t)MAX(step, 1u)) {
        struct eval_seq q = s->seq[i];
        if (view->n_scored >= limit) {
            break;
        }
        if (q.n - q.from > limit - view->n_scored) {
            q.n = q.from + (uint32_t)(limit - view->n_scored);
        }
        rc = push(view, q, err);
    }
    if (rc) {
        eval_set_view_fini(view);
    }
    return rc;
}

void eval_set_view_fini(struct eval_set *view)
{
    mem_free(view->seq);
    *view = (struct eval_set){0};
}

uint64_t eval_set_hash(const struct eval_set *s)
{
    uint64_t h = splitmix64(s->n);
    for (size_t i = 0; i < s->n; i++) {
        const struct eval_seq *q = &s->seq[i];
        h = splitmix64(h ^ ((uint64_t)q->n << 32 | q->from));
        for (uint32_t k = 0; k < q->n; k++) {
            h = splitmix64(h ^ s->ids.p[q->at + k]);
        }
    }
    return h;
}

uint64_t eval_set_bytes(const struct eval_set *s, const struct tokenizer *t)
{
    uint64_t n = 0;
    for (size_t i = 0; t && i < s->n; i++) {
        const struct eval_seq *q = &s->seq[i];
        for (uint32_t k = q->from; k < q->n; k++) {
            n += tokenizer_bytes(t, s->ids.p[q->at + k]).n;
        }
    }
    return n;
}

int eval_set_blocks(size_t **end, size_t *n, const struct eval_set *s, fathom_err *err)
{
    size_t cap = (size_t)(s->n_scored / EVAL_BLOCK) + s->n, at = 0;
    *n = 0;
    *end = mem_alloc(cap, sizeof **end);
    if (!*end) {
        return err_nomem(err, "statistics", cap * sizeof **end);
    }
    for (size_t i = 0; i < s->n; i++) {
        uint32_t left = s->seq[i].n - s->seq[i].from;
        while (left > 0) {
            uint32_t k = MIN(left, (uint32_t)EVAL_BLOCK);
            at += k;
            left -= k;
            (*end)[(*n)++] = at;
        }
    }
    return 0;
}
