/* pick.c - the end of a step: PICK of op/op.h. Reduces a row of logits to the record a sampler
 * needs (largest, the 64 largest, log of the sum of exponentials) over the allowed tokens, and
 * leaves the winner where the next step's TOK_PICKED finds it.
 * Read next: backend/host/host.c (load_tokens), which reads it. */
#include <string.h>

#include "backend/ref/ref_int.h"

static bool allowed(const uint32_t *mask, uint32_t id)
{
    return !mask || (mask[id / 32] >> (id % 32) & 1u) != 0;
}

/* Log of the sum of exp(v), from the maximum; -inf entries are the ones left out. */
static double log_sum_exp(const double *v, uint32_t n, double max)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += exp(v[i] - max);
    }
    return max + log(sum);
}

static void pick_row(const struct exec *e, const float *logits, const uint32_t *mask,
                     uint32_t vocab, struct pick *out)
{
    double *v = e->tmp.score;
    uint32_t *id = e->tmp.order, n = 0; /* the candidates, compacted in token order */
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < vocab; i++) {
        if (!allowed(mask, i)) {
            continue;
        }
        if (isnan(logits[i])) {
            out->n_nan++;
            continue;
        }
        id[n] = i;
        v[n++] = (double)logits[i];
    }
    uint32_t top[PICK_TOP];
    out->n_top = ref_top_k(v, n, PICK_TOP, top);
    for (uint32_t i = 0; i < out->n_top; i++) {
        out->top[i].id = id[top[i]];
        out->top[i].logit = logits[id[top[i]]];
    }
    out->id = out->top[0].id;
    double max = out->n_top ? v[top[0]] : -INFINITY;
    out->lse = (float)(isinf(max) ? max : log_sum_exp(v, n, max));
}

void ref_pick(const struct exec *e, const struct op *op)
{
    const struct op_pick *o = &op->pick;
    const struct step *s = &e->step.s;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        const struct step_seq *q = &s->seq[i];
        for (uint32_t row = q->out0; row < q->out0 + q->n_out; row++) {
            struct pick *rec = host_row(&e->h, &o->picks, row);
            const uint32_t *mask = s->use_mask ? host_row(&e->h, &o->mask, row) : NULL;
            pick_row(e, host_row(&e->h, &o->logits, row), mask, o->vocab, rec);
            *host_picked(&e->h, &o->picked, q->state) = rec->id;
        }
    }
}
