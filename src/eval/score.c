/* score.c - see score.h. */
#include "eval/score.h"

#include <math.h>

struct scoring {
    struct eval_score *out;
    const struct eval_score_options *o;
};

static int by_engine(struct eval_token *t, const struct eval_row *row, double lse,
                     uint32_t best, fathom_err *err)
{
    double ref_lse = eval_logsumexp(row->other_logits, row->n_vocab);
    uint32_t ref_best = eval_argmax(row->other_logits, row->n_vocab);
    if (isnan(ref_lse)) {
        return err_set(err, FATHOM_EFORMAT,
                       "the reference model gives logits that are not finite");
    }
    t->ref_nll = ref_lse - (double)row->other_logits[row->id];
    t->ref_hit = ref_best == row->id;
    t->agree = ref_best == best;
    t->kl = eval_kl(row->other_logits, ref_lse, row->logits, lse, row->n_vocab);
    return 0;
}

static int by_file(struct scoring *x, struct eval_token *t, const struct eval_row *row,
                   double lse, uint32_t best, fathom_err *err)
{
    struct ref_compare c;
    int rc = ref_compare_row(x->o->reference, row->index, row->logits, lse, &c, err);
    t->ref_nll = -c.logprob;
    t->ref_hit = c.best == row->id;
    t->agree = c.best == best;
    t->kl = c.kl;
    x->out->rest_mass += c.rest;
    return rc;
}

static int on_row(void *user, const struct eval_row *row, fathom_err *err)
{
    struct scoring *x = user;
    struct eval_token *t = &x->out->tok[row->index];
    double lse = eval_logsumexp(row->logits, row->n_vocab);
    uint32_t best = eval_argmax(row->logits, row->n_vocab);
    if (isnan(lse)) {
        return err_set(err, FATHOM_EFORMAT,
                       "sequence %zu, position %u: the model gives logits that are not finite",
                       row->seq, row->pos);
    }
    *t = (struct eval_token){.nll = lse - (double)row->logits[row->id], .hit = best == row->id};
    int rc = x->o->save ? ref_write(x->o->save, row->logits, lse, row->id, err) : 0;
    if (rc == 0 && row->other_logits) {
        rc = by_engine(t, row, lse, best, err);
    } else if (rc == 0 && x->o->reference) {
        rc = by_file(x, t, row, lse, best, err);
    }
    return rc;
}

static int check_reference(const struct ref_file *f, const struct eval_set *s,
                           const fathom_info *info, fathom_err *err)
{
    if (f->head.n_vocab != info->n_vocab) {
        return err_set(err, FATHOM_EINVAL, "%s: its vocabulary has %u tokens, the model's %u",
                       f->label, f->head.n_vocab, info->n_vocab);
    }
    if (f->head.n_rows != s->n_scored || f->head.set_hash != eval_set_hash(s)) {
        return err_set(err, FATHOM_EINVAL,
                       "%s: it was made from other tokens (the same text or manifest, "
                       "--window, --overlap, --all and --limit are needed)",
                       f->label);
    }
    return 0;
}

int eval_score(struct eval_score *out, const struct eval_set *s,
               const struct eval_score_options *o, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(o->engine, &info);
    *out = (struct eval_score){.n = s->n_scored, .has_ref = o->against || o->reference};
    int rc = o->reference ? check_reference(o->reference, s, &info, err) : 0;
    if (rc) {
        return rc;
    }
    out->tok = mem_calloc(out->n, sizeof *out->tok);
    if (!out->tok) {
        return err_nomem(err, "scores", out->n * sizeof *out->tok);
    }
    struct scoring x = {out, o};
    struct eval_drive d = {.engine = o->engine,
                           .other = o->against,
                           .row = on_row,
                           .user = &x,
                           .stage = o->stage ? o->stage : "score",
                           .progress = o->progress,
                           .progress_user = o->progress_user};
    rc = eval_rows(s, &d, err);
    out->rest_mass /= (double)MAX(out->n, (size_t)1);
    if (rc) {
        eval_score_fini(out);
    }
    return rc;
}

void eval_score_fini(struct eval_score *x)
{
    mem_free(x->tok);
    *x = (struct eval_score){0};
}

/* ---- summary ---- */

enum quantity { Q_NLL, Q_HIT, Q_REF_NLL, Q_DIFF, Q_KL, Q_AGREE, Q_COUNT };

static double value(const struct eval_token *t, enum quantity q)
{
    switch (q) {
    case Q_NLL: return t->nll;
    case Q_HIT: return t->hit;
    case Q_REF_NLL: return t->ref_nll;
    case Q_DIFF: return t->nll - t->ref_nll;
    case Q_KL: return t->kl;
    default: return t->agree;
    }
}

struct work {
    double *v;   /* [max(tokens, sequences)] */
    size_t *end; /* token blocks */
    size_t n_block;
};

static int work_init(struct work *w, const struct eval_set *s, size_t n, fathom_err *err)
{
    *w = (struct work){.v = mem_alloc(MAX(n, s->n), sizeof *w->v)};
    if (!w->v) {
        return err_nomem(err, "statistics", n * sizeof *w->v);
    }
    int rc = eval_set_blocks(&w->end, &w->n_block, s, err);
    if (rc) {
        mem_free(w->v);
    }
    return rc;
}

static void work_fini(struct work *w)
{
    mem_free(w->v);
    mem_free(w->end);
}

/* Per sequence: is its first token a hit; how many are before the first miss. */
static int summarise_sequences(struct eval_summary *out, struct work *w,
                               const struct eval_score *x, const struct eval_set *s,
                               fathom_err *err)
{
    size_t *end = mem_alloc(s->n, sizeof *end);
    if (!end) {
        return err_nomem(err, "statistics", s->n * sizeof *end);
    }
    int rc = 0;
    for (int what = 0; rc == 0 && what < 2; what++) {
        const struct eval_token *t = x->tok;
        for (size_t i = 0; i < s->n; i++) {
            uint32_t n = s->seq[i].n - s->seq[i].from, k = 0;
            while (k < n && t[k].hit) {
                k++;
            }
            w->v[i] = what ? k : k > 0;
            end[i] = i + 1;
            t += n;
        }
        rc = eval_mean_ci(what ? &out->prefix : &out->first_hit, w->v, s->n, end, s->n,
                          out->resamples, out->seed, err);
    }
    mem_free(end);
    out->length = (double)x->n / (double)MAX(s->n, (size_t)1);
    return rc;
}

int eval_summarise(struct eval_summary *out, const struct eval_score *x,
                   const struct eval_set *s, uint32_t resamples, uint64_t seed, fathom_err *err)
{
    struct eval_mean *const into[Q_COUNT] = {&out->nll,      &out->accuracy, &out->ref_nll,
                                             &out->nll_diff, &out->kl,       &out->agree};
    struct work w;
    *out = (struct eval_summary){.n_tokens = x->n,
                                 .has_ref = x->has_ref,
                                 .rest_mass = x->rest_mass,
                                 .resamples = resamples,
                                 .seed = seed};
    int rc = work_init(&w, s, x->n, err);
    if (rc) {
        return rc;
    }
    out->n_blocks = w.n_block;
    for (int q = 0; rc == 0 && q < (x->has_ref ? Q_COUNT : Q_REF_NLL); q++) {
        for (size_t i = 0; i < x->n; i++) {
            w.v[i] = value(&x->tok[i], (enum quantity)q);
        }
        rc = eval_mean_ci(into[q], w.v, x->n, w.end, w.n_block, resamples, seed, err);
    }
    if (rc == 0 && x->has_ref && x->n > 0) {
        for (size_t i = 0; i < x->n; i++) {
            w.v[i] = x->tok[i].kl;
            out->ref_accuracy += (double)x->tok[i].ref_hit / (double)x->n;
        }
        eval_sort(w.v, x->n);
        out->kl_median = eval_quantile(w.v, x->n, 0.5);
        out->kl_p90 = eval_quantile(w.v, x->n, 0.9);
        out->kl_p99 = eval_quantile(w.v, x->n, 0.99);
        out->kl_max = w.v[x->n - 1];
    }
    rc = rc ? rc : summarise_sequences(out, &w, x, s, err);
    work_fini(&w);
    return rc;
}

int eval_kl_difference(struct eval_mean *out, const struct eval_score *a,
                       const struct eval_score *b, const struct eval_set *s, uint32_t resamples,
                       uint64_t seed, fathom_err *err)
{
    struct work w;
    int rc = work_init(&w, s, a->n, err);
    if (rc) {
        return rc;
    }
    for (size_t i = 0; i < a->n; i++) {
        w.v[i] = a->tok[i].kl - b->tok[i].kl;
    }
    rc = eval_mean_ci(out, w.v, a->n, w.end, w.n_block, resamples, seed, err);
    work_fini(&w);
    return rc;
}
