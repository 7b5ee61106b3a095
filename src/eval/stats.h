/* stats.h - the numbers of an evaluation: what two rows of logits say about each other, and how
 * far a mean over many tokens can be trusted. Pure functions; everything is summed in double, in
 * ascending order, so the same logits give the same bits everywhere. Thread-safe. */
#ifndef EVAL_STATS_H
#define EVAL_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* ---- one row of n >= 1 logits ---- */

/* Index of the largest logit, ties to the lower index. */
uint32_t eval_argmax(const float *v, uint32_t n);
/* ln of the sum of exp(v[i]); NaN if any value is NaN or infinite. */
double eval_logsumexp(const float *v, uint32_t n);
/* KL divergence of row v from row ref, in nats: the sum of p_ref * (ln p_ref - ln p_v). lse and
 * ref_lse are the rows' logsumexp. Never below 0 (rounding is cut off). */
double eval_kl(const float *ref, double ref_lse, const float *v, double lse, uint32_t n);

/* ---- means ---- */

enum { EVAL_RESAMPLES = 2000 };

/* A mean and its 95 % interval. */
struct eval_mean {
    double mean, lo, hi;
};

/* Mean of v[0..n) and its interval by a bootstrap over blocks: block b is v[end[b-1]..end[b]).
 * Neighbouring tokens are not independent, so whole blocks are drawn (with replacement, n_block
 * of them, `resamples` times) and the mean of each draw is taken; lo and hi are the 2.5 % and
 * 97.5 % points. The draws depend on seed and n_block only: two calls with the same blocks use
 * the same draws. n = 0 gives zeros. FATHOM_ENOMEM. */
int eval_mean_ci(struct eval_mean *out, const double *v, size_t n, const size_t *end,
                 size_t n_block, uint32_t resamples, uint64_t seed, fathom_err *err);

/* Sorts v[0..n) ascending. */
void eval_sort(double *v, size_t n);
/* The q-quantile (0..1) of n >= 1 sorted values, linear between neighbours. */
double eval_quantile(const double *sorted, size_t n, double q);

#endif
