/* pick.c - PICK (op.h): what a sampler needs from a row of logits, without reading the row.
 *
 * One logits row is one item. Disallowed tokens and NaN become -inf in a copy of the row, so
 * that the maximum and the sum of exponentials are plain vector loops; the 64 largest are kept
 * in a heap whose root is the weakest, so that almost every logit costs one comparison. The
 * row's winner goes where the next step's TOK_PICKED finds it. Read next: backend/host/host.c
 * (load_tokens). */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"

struct cand {
    uint32_t id;
    float logit;
};

/* Does a come before b: larger logit, ties to the lower id? */
static bool before(struct cand a, struct cand b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores "no child is weaker than its parent" below i. */
static void sift_down(struct cand *heap, uint32_t n, uint32_t i)
{
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= n) {
            return;
        }
        c += c + 1 < n && before(heap[c], heap[c + 1]);
        if (!before(heap[i], heap[c])) {
            return;
        }
        struct cand x = heap[i];
        heap[i] = heap[c];
        heap[c] = x;
        i = c;
    }
}

/* The best PICK_TOP allowed candidates, best first; counts NaN. v: copy with -inf where a token
 * takes no part. */
static uint32_t top_list(const float *logits, const uint32_t *mask, uint32_t vocab, float *v,
                         struct cand *heap, uint32_t *n_nan)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        float x = logits[i];
        v[i] = -INFINITY;
        if (mask && !(mask[i / 32] >> (i % 32) & 1u)) {
            continue;
        }
        if (x != x) {
            ++*n_nan;
            continue;
        }
        v[i] = x;
        struct cand c = {i, x};
        if (n < PICK_TOP) {
            heap[n++] = c;
            if (n == PICK_TOP) { /* full: from now on a heap */
                for (uint32_t j = n / 2; j-- > 0;) {
                    sift_down(heap, n, j);
                }
            }
        } else if (before(c, heap[0])) {
            heap[0] = c;
            sift_down(heap, n, 0);
        }
    }
    for (uint32_t i = 1; i < n; i++) { /* 64 at most: by insertion */
        struct cand x = heap[i];
        uint32_t j = i;
        for (; j > 0 && before(x, heap[j - 1]); j--) {
            heap[j] = heap[j - 1];
        }
        heap[j] = x;
    }
    return n;
}

static void pick_row(const struct worker *w, const float *logits, const uint32_t *mask,
                     uint32_t vocab, float *v, struct pick *out)
{
    struct cand heap[PICK_TOP];
    memset(out, 0, sizeof *out);
    out->n_top = top_list(logits, mask, vocab, v, heap, &out->n_nan);
    for (uint32_t i = 0; i < out->n_top; i++) {
        out->top[i].id = heap[i].id;
        out->top[i].logit = heap[i].logit;
    }
    out->id = out->top[0].id;
    out->lse = out->n_top ? out->top[0].logit : -INFINITY;
    if (isfinite(out->lse)) {
        float sum = w->k->exp_sum(v, vocab, out->lse);
        out->lse = (float)((double)out->lse + log((double)sum));
    }
}

static void pick_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    carve_take(c, op->pick.vocab, sizeof(float));
}

static void pick_run(struct worker *w, const struct op *op)
{
    const struct op_pick *o = &op->pick;
    const struct host_bind *h = &w->e->h;
    struct share sh = share_make(w, 0, w->s->n_out);
    for (uint32_t row; share_next(&sh, &row);) {
        const struct step_seq *q = step_seq_of(w->s, w->s->out[row]);
        const uint32_t *mask = w->s->use_mask ? host_row(h, &o->mask, row) : NULL;
        struct pick *rec = host_row(h, &o->picks, row);
        pick_row(w, host_row(h, &o->logits, row), mask, o->vocab, (float *)w->mem, rec);
        if (row + 1 == q->out0 + q->n_out) {
            *host_picked(h, &o->picked, q->state) = rec->id;
        }
    }
}

const struct cpu_op cpu_pick = {.run = pick_run, .private_scratch = pick_scratch};
