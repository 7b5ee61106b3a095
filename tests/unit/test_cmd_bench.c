/* What `fathom bench` makes of contexts measured in turn: the order of a round favours none, and
 * a cost that was planted in every step comes out again although the machine drifts, doubles its
 * speed and stalls meanwhile. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench.h"

/* Every context once a round, backwards every second one, equally often at each place; and the
 * sum of times since the beginning, which is what a linear drift adds, is the same for all. */
static void test_order(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= BENCH_ROWS; n++) {
        uint32_t at[BENCH_ROWS][BENCH_ROWS] = {{0}}, when[BENCH_ROWS] = {0};
        for (uint32_t r = 0; r < 2 * n; r++) {
            uint32_t seen = 0;
            for (uint32_t i = 0; i < n; i++) {
                uint32_t k = bench_turn_place(r, i, n);
                assert_true(k < n && !(seen >> k & 1));
                seen |= 1u << k;
                at[k][i]++;
                when[k] += r * n + i;
                assert_int_equal(k, bench_turn_place(r ^ 1, n - 1 - i, n));
            }
        }
        for (uint32_t k = 0; k < n; k++) {
            assert_int_equal(when[k], when[0]);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(at[k][i], 2);
            }
        }
    }
}

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("%.9g, expected %.9g", got, want);
    }
}

static void spread_near(const struct bench_spread *s, double want, double tolerance)
{
    near(s->median, want, tolerance);
    assert_true(s->q1 <= s->median && s->median <= s->q3);
    assert_true(s->q3 - s->q1 < 4 * tolerance + 1e-12);
}

enum { CONTEXTS = 3, KINDS = 2, ROUNDS = 60 };
static const double HEAD = 20, KIND[KINDS] = {9, 24};
static const double COST[CONTEXTS][KINDS] = {{1, 1}, {1, 1.05}, {1.01, 1.25}};

/* Seconds of a planted round: speed at that moment, and a stall now and then. */
static void plant(struct bench_split *s, uint32_t context, double speed)
{
    *s = (struct bench_split){.step = HEAD * speed, .head = HEAD * speed};
    for (uint32_t k = 0; k < KINDS; k++) {
        s->kind[k] = KIND[k] * COST[context][k] * speed;
        s->step += s->kind[k];
    }
}

static void fill(struct bench_result *r)
{
    struct rng g = {3};
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        struct bench_row *row = &r->row[i];
        *row = (struct bench_row){.ctx = 1024u << i, .n_kind = KINDS, .full_gen_tps = i != 1};
        row->kind[0] = (struct bench_kind){.ratio = 0, .n_layer = 1, .n_full = 3};
        row->kind[1] = (struct bench_kind){.ratio = 4, .n_layer = 2, .n_full = 40};
    }
    r->n_row = CONTEXTS;
    for (uint32_t t = 0; t < ROUNDS; t++) {
        for (uint32_t i = 0; i < CONTEXTS; i++) {
            uint32_t k = bench_turn_place(t, i, CONTEXTS);
            double speed = (t < 25 ? 1 : 2) * (1 + 0.001 * (t * CONTEXTS + i));
            plant(&r->round[k * ROUNDS + t], k, rng_below(&g, 12) ? speed : speed * 5);
        }
    }
}

static void test_planted(void **state)
{
    (void)state;
    struct bench_result *r = mem_calloc(1, sizeof *r);
    fathom_err err = {0};
    assert_non_null(r);
    r->round = mem_calloc(CONTEXTS * ROUNDS, sizeof *r->round);
    assert_non_null(r->round);
    fill(r);
    assert_int_equal(bench_turn_rows(r, ROUNDS, &err), 0);
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        const struct bench_turn *t = &r->row[i].turn;
        const double tolerance = i ? 0.003 : 0;
        double a = KIND[0] * COST[i][0], b = KIND[1] * COST[i][1];
        assert_int_equal(t->n_round, ROUNDS);
        assert_int_equal(t->base_ctx, 1024);
        assert_ptr_equal(t->round, r->round + i * ROUNDS);
        spread_near(&t->head, 1, tolerance);
        spread_near(&t->kind[0], COST[i][0], tolerance);
        spread_near(&t->kind[1], COST[i][1], tolerance);
        spread_near(&t->step, (HEAD + a + b) / (HEAD + KIND[0] + KIND[1]), tolerance);
        if (i == 1) { /* said to lack a kind */
            assert_true(t->full.median == 0);
        } else {
            spread_near(&t->full, (HEAD + 3 * a + 20 * b) / (HEAD + 3 * KIND[0] + 20 * KIND[1]),
                        tolerance);
        }
    }
    mem_free(r->round);
    mem_free(r);
}

/* The interval of the median: the tabled ranks, and how often it holds the true one. */
static void test_interval(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, rank; /* both ends, counted from 1; 0: none */
    } table[] = {{5, 0}, {6, 1}, {9, 2}, {12, 3}, {24, 7}, {100, 40}};
    struct bench_result *r = mem_calloc(1, sizeof *r);
    struct bench_split round[200] = {{0}};
    assert_non_null(r);
    struct bench_spread *s = &r->row[1].turn.step;
    r->n_row = 2;
    r->round = round;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        uint32_t n = table[i].n, rank = table[i].rank;
        for (uint32_t k = 0; k < n; k++) {
            round[k].step = 1;
            round[n + k].step = (k * 7 % n) + 1; /* 1 .. n: 7 divides none */
        }
        assert_int_equal(bench_turn_rows(r, n, NULL), 0);
        near(s->lo, rank, 0);
        near(s->hi, rank ? n + 1 - rank : 0, 0);
    }
    struct rng g = {5};
    uint32_t held = 0;
    for (uint32_t t = 0; t < 2000; t++) {
        for (uint32_t k = 0; k < 24; k++) {
            double u = rng_unit(&g);
            round[k].step = 1;
            round[24 + k].step = u * u * u; /* far from normal; median 1/8 */
        }
        assert_int_equal(bench_turn_rows(r, 24, NULL), 0);
        held += s->lo <= 0.125 && 0.125 <= s->hi;
    }
    assert_in_range(held, 1900, 1990); /* 97.7 % by the binomial distribution */
    mem_free(r);
}

/* Quartiles of few rounds, by hand: linear between neighbours. */
static void test_few(void **state)
{
    (void)state;
    struct bench_result *r = mem_calloc(1, sizeof *r);
    assert_non_null(r);
    struct bench_split round[4] = {{.step = 2}, {.step = 4}, {.step = 3}, {.step = 1}};
    r->n_row = 2;
    r->round = round;
    assert_int_equal(bench_turn_rows(r, 2, NULL), 0); /* 3/2, 1/4 */
    near(r->row[1].turn.step.q1, 0.5625, 1e-12);
    near(r->row[1].turn.step.median, 0.875, 1e-12);
    near(r->row[1].turn.step.q3, 1.1875, 1e-12);
    assert_int_equal(bench_turn_rows(r, 1, NULL), 0); /* 4/2 */
    assert_true(r->row[1].turn.step.q1 == 2 && r->row[1].turn.step.q3 == 2);
    mem_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order), cmocka_unit_test(test_planted),
        cmocka_unit_test(test_few), cmocka_unit_test(test_interval)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
