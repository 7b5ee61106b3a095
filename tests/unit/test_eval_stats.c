/* The statistics of `fathom eval`: divergences of distributions whose divergence is known,
 * rows with
 * ties and NaN, and the bootstrap: determinism, blocks, and that its intervals cover the true
 * mean as often as they say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/stats.h"

static void close_to(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("%.17g, expected %.17g", got, want);
    }
}

static double kl(const float *ref, const float *v, uint32_t n)
{
    return eval_kl(ref, eval_logsumexp(ref, n), v, eval_logsumexp(v, n), n);
}

static void test_rows(void **state)
{
    (void)state;
    const float tie[] = {1, 3, 3, 2};
    assert_int_equal(eval_argmax(tie, 4), 1);
    close_to(eval_logsumexp((const float[]){0, 0, 0, 0}, 4), log(4.0), 1e-15);
    /* far beyond what exp can hold */
    close_to(eval_logsumexp((const float[]){5000, 5000}, 2), 5000 + log(2.0), 1e-12);
    close_to(eval_logsumexp((const float[]){-5000, -9000}, 2), -5000, 0);
    assert_true(isnan(eval_logsumexp((const float[]){1, NAN, 2}, 3)));
    assert_true(isnan(eval_logsumexp((const float[]){1, INFINITY}, 2)));
    assert_true(isnan(eval_logsumexp((const float[]){1, -INFINITY}, 2)));
}

static void test_kl(void **state)
{
    (void)state;
    /* (1/2, 1/2) from (3/4, 1/4): 3/4 ln(3/2) + 1/4 ln(1/2) */
    const float half[] = {7, 7}, skew[] = {logf(3), 0};
    close_to(kl(skew, half, 2), 0.75 * log(1.5) + 0.25 * log(0.5), 1e-7);
    close_to(kl(half, skew, 2), 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25), 1e-7);
    /* a shift of all logits changes nothing; the same distribution has none */
    const float moved[] = {logf(3) + 10, 10};
    close_to(kl(skew, moved, 2), 0, 1e-6);
    assert_true(kl(half, half, 2) == 0);
    /* softened by a temperature: KL = E[l] (1 - 1/T) - ln Z + ln Z_T, from the definition in
     * doubles */
    enum { N = 1000 };
    static float a[N], b[N];
    struct rng r = {5};
    double za = 0, zb = 0, want = 0;
    for (int i = 0; i < N; i++) {
        a[i] = 6 * rng_sym(&r);
        b[i] = a[i] / 2;
        za += exp((double)a[i]);
        zb += exp((double)b[i]);
    }
    for (int i = 0; i < N; i++) {
        double p = exp((double)a[i]) / za;
        want += p * log(p / (exp((double)b[i]) / zb));
    }
    close_to(kl(a, b, N), want, 1e-12);
    assert_true(want > 0.1);
}

static void test_quantiles(void **state)
{
    (void)state;
    double v[] = {3, 1, 2, 5, 4};
    eval_sort(v, 5);
    close_to(eval_quantile(v, 5, 0), 1, 0);
    close_to(eval_quantile(v, 5, 0.5), 3, 0);
    close_to(eval_quantile(v, 5, 0.9), 4.6, 1e-12);
    close_to(eval_quantile(v, 5, 1), 5, 0);
    close_to(eval_quantile(v, 1, 0.5), 1, 0);
}

/* ---- bootstrap ---- */

enum { N_BLOCK = 200 };

/* Blocks of 1 to 9 values that share an offset: neighbours are not independent. */
static size_t sample(double *v, size_t *end, uint64_t seed)
{
    struct rng r = {seed};
    size_t n = 0;
    for (int b = 0; b < N_BLOCK; b++) {
        double offset = (double)rng_sym(&r);
        for (uint32_t k = 1 + rng_below(&r, 9); k > 0; k--) {
            v[n++] = 1 + offset + 0.3 * (double)rng_sym(&r);
        }
        end[b] = n;
    }
    return n;
}

static void test_bootstrap(void **state)
{
    (void)state;
    static double v[N_BLOCK * 9];
    static size_t end[N_BLOCK];
    struct eval_mean a, b, c;
    size_t n = sample(v, end, 1);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += v[i];
    }
    assert_int_equal(eval_mean_ci(&a, v, n, end, N_BLOCK, 500, 7, NULL), 0);
    assert_int_equal(eval_mean_ci(&b, v, n, end, N_BLOCK, 500, 7, NULL), 0);
    assert_memory_equal(&a, &b, sizeof a); /* the same bits */
    close_to(a.mean, sum / (double)n, 1e-12);
    assert_true(a.lo < a.mean && a.mean < a.hi);
    assert_int_equal(eval_mean_ci(&c, v, n, end, N_BLOCK, 500, 8, NULL), 0);
    assert_true(c.mean == a.mean && c.lo != a.lo); /* other draws */
    /* paired: the same draws for another quantity, so a constant difference has no width */
    static double moved[N_BLOCK * 9];
    for (size_t i = 0; i < n; i++) {
        moved[i] = v[i] + 2;
    }
    assert_int_equal(eval_mean_ci(&c, moved, n, end, N_BLOCK, 500, 7, NULL), 0);
    close_to(c.lo - a.lo, 2, 1e-9);
    close_to(c.hi - a.hi, 2, 1e-9);
    /* one block: nothing is known about the spread; nothing: zeros */
    size_t one = n;
    assert_int_equal(eval_mean_ci(&c, v, n, &one, 1, 100, 7, NULL), 0);
    assert_true(c.lo == c.hi);
    assert_int_equal(eval_mean_ci(&c, v, 0, end, 0, 100, 7, NULL), 0);
    assert_true(c.mean == 0 && c.lo == 0 && c.hi == 0);
}

/* The true mean, 1, must lie in about 95 % of the intervals: 400 samples, binomial standard
 * deviation 1.1 %. Drawing single values instead of blocks covers far less often. */
static void test_coverage(void **state)
{
    (void)state;
    static double v[N_BLOCK * 9];
    static size_t end[N_BLOCK], single[N_BLOCK * 9];
    int inside = 0, naive = 0;
    for (size_t i = 0; i < N_BLOCK * 9; i++) {
        single[i] = i + 1;
    }
    for (uint64_t k = 0; k < 400; k++) {
        struct eval_mean m;
        size_t n = sample(v, end, 1000 * k + 3);
        assert_int_equal(eval_mean_ci(&m, v, n, end, N_BLOCK, 200, k, NULL), 0);
        inside += m.lo <= 1 && 1 <= m.hi;
        assert_int_equal(eval_mean_ci(&m, v, n, single, n, 50, k, NULL), 0);
        naive += m.lo <= 1 && 1 <= m.hi;
    }
    assert_in_range(inside, 400 * 90 / 100, 400 * 98 / 100);
    assert_true(naive < 400 * 80 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_kl),
        cmocka_unit_test(test_quantiles), cmocka_unit_test(test_bootstrap),
        cmocka_unit_test(test_coverage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
