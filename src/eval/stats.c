/* stats.c - see stats.h. */
#include "eval/stats.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"

uint32_t eval_argmax(const float *v, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        best = v[i] > v[best] ? i : best;
    }
    return best;
}

double eval_logsumexp(const float *v, uint32_t n)
{
    double max = (double)v[eval_argmax(v, n)], sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(v[i])) {
            return (double)NAN;
        }
        sum += exp((double)v[i] - max);
    }
    return max + log(sum);
}

double eval_kl(const float *ref, double ref_lse, const float *v, double lse, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double lp = (double)ref[i] - ref_lse;
        sum += exp(lp) * (lp - ((double)v[i] - lse));
    }
    return sum > 0 ? sum : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void eval_sort(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
}

double eval_quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= n) {
        return sorted[n - 1];
    }
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

/* Means of `resamples` draws of n_block blocks, sorted. */
static void resample(double *means, uint32_t resamples, const double *sum, const size_t *end,
                     size_t n_block, uint64_t seed)
{
    struct rng r = {seed};
    for (uint32_t k = 0; k < resamples; k++) {
        double s = 0;
        size_t n = 0;
        for (size_t i = 0; i < n_block; i++) {
            size_t b = (size_t)(rng_unit(&r) * (double)n_block);
            s += sum[b];
            n += end[b] - (b ? end[b - 1] : 0);
        }
        means[k] = n ? s / (double)n : 0;
    }
    eval_sort(means, resamples);
}

int eval_mean_ci(struct eval_mean *out, const double *v, size_t n, const size_t *end,
                 size_t n_block, uint32_t resamples, uint64_t seed, fathom_err *err)
{
    *out = (struct eval_mean){0};
    if (n == 0 || n_block == 0 || resamples == 0) {
        return 0;
    }
    double *sum = mem_calloc(n_block, sizeof *sum),
           *means = mem_alloc(resamples, sizeof *means);
    if (!sum || !means) {
        mem_free(sum);
        mem_free(means);
        return err_nomem(err, "statistics", (n_block + resamples) * sizeof *sum);
    }
    double total = 0;
    for (size_t b = 0, i = 0; b < n_block; b++) {
        for (; i < end[b]; i++) {
            sum[b] += v[i];
        }
        total += sum[b];
    }
    resample(means, resamples, sum, end, n_block, seed);
    *out = (struct eval_mean){total / (double)n, eval_quantile(means, resamples, 0.025),
                              eval_quantile(means, resamples, 0.975)};
    mem_free(sum);
    mem_free(means);
    return 0;
}
