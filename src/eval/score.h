/* score.h - scores a set: negative log-likelihood and accuracy of one model, and its difference
 * from a reference (a second open model, or rows in a file), token by token. Thread rule: engine
 * thread. */
#ifndef EVAL_SCORE_H
#define EVAL_SCORE_H

#include "eval/reference.h"
#include "eval/rows.h"
#include "eval/stats.h"

/* What one scored token gave. nll: -ln of the probability of the id that followed, in nats. */
struct eval_token {
    double nll, ref_nll, kl; /* kl: KL(reference || model) */
    bool hit, ref_hit;       /* the likeliest id is the one that followed */
    bool agree;              /* both have the same likeliest id */
};

struct eval_score {
    struct eval_token *tok; /* [n], owned, in the order of the set */
    size_t n;
    bool has_ref;
    double rest_mass; /* mean mass that a short reference file does not resolve; else 0 */
};

struct eval_score_options {
    fathom_engine *engine;
    fathom_engine *against;     /* NULL, or a reference model ... */
    struct ref_file *reference; /* ... or its rows; not both */
    struct ref_writer *save;    /* NULL, or where the model's own rows go (not committed) */
    const char *stage;          /* default "score" */
    fathom_progress_fn progress;
    void *progress_user;
};
/* Errors: FATHOM_EFORMAT (logits that are not finite, a bad reference row), FATHOM_EINVAL (the
 * reference belongs to another vocabulary or set), those of eval_rows. */
int eval_score(struct eval_score *out, const struct eval_set *s,
               const struct eval_score_options *o, fathom_err *err);
void eval_score_fini(struct eval_score *x);

/* ---- summary ---- */

struct eval_summary {
    uint64_t n_tokens, n_blocks;
    struct eval_mean nll, accuracy;
    /* per sequence, meaningful for continuations: the first scored token is the likeliest one;
     * how many scored tokens are before the first that is not (greedy decoding gives these) */
    struct eval_mean first_hit, prefix;
    double length; /* mean scored tokens of a sequence */
    bool has_ref;
    struct eval_mean ref_nll, nll_diff, kl, agree; /* nll_diff: model - reference, paired */
    double ref_accuracy;
    double kl_median, kl_p90, kl_p99, kl_max;
    double rest_mass;
    uint32_t resamples;
    uint64_t seed;
};
int eval_summarise(struct eval_summary *out, const struct eval_score *x,
                   const struct eval_set *s, uint32_t resamples, uint64_t seed,
                   fathom_err *err);

/* Mean of (a.kl - b.kl) over the same set and reference: negative if a is closer. */
int eval_kl_difference(struct eval_mean *out, const struct eval_score *a,
                       const struct eval_score *b, const struct eval_set *s, uint32_t resamples,
                       uint64_t seed, fathom_err *err);

#endif
