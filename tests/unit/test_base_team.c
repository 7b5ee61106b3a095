/* test_base_team.c - the worker team: every worker runs every region once, the barrier
 * separates phases and publishes writes, workers that fell asleep wake up, start and stop leave
 * nothing. */
#include "base/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_WORKERS = 9, PHASES = 200 };

struct phases {
    struct team *team;
    uint32_t n;
    uint32_t cell[2][MAX_WORKERS]; /* plain memory: the barrier has to publish it */
    atomic_uint wrong;
    atomic_uint runs[MAX_WORKERS];
};

/* Phase p writes p + rank into its cell; after the barrier everybody checks all cells. Two sets
 * in turn, so that one barrier a phase is enough. */
static void run_phases(void *ctx, uint32_t rank)
{
    struct phases *s = ctx;
    for (uint32_t p = 0; p < PHASES; p++) {
        s->cell[p % 2][rank] = p + rank;
        team_barrier(s->team);
        for (uint32_t r = 0; r < s->n; r++) {
            if (s->cell[p % 2][r] != p + r) {
                atomic_fetch_add(&s->wrong, 1);
            }
        }
    }
    atomic_fetch_add(&s->runs[rank], 1);
}

static void test_phases(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 3, 7, MAX_WORKERS};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct phases s = {.n = sizes[i]};
        assert_int_equal(team_create(&s.team, sizes[i], false, NULL), 0);
        assert_int_equal(team_size(s.team), sizes[i]);
        for (int region = 0; region < 20; region++) {
            team_run(s.team, run_phases, &s);
        }
        assert_int_equal(atomic_load(&s.wrong), 0);
        for (uint32_t r = 0; r < sizes[i]; r++) {
            assert_int_equal(atomic_load(&s.runs[r]), 20);
        }
        team_free(s.team);
    }
}

static void add_rank(void *ctx, uint32_t rank)
{
    atomic_fetch_add((atomic_uint *)ctx, rank + 1);
}

/* Pauses long enough that the workers sleep, both before a region and before the stop. */
static void test_sleep_and_wake(void **state)
{
    (void)state;
    struct team *t;
    atomic_uint sum = 0;
    assert_int_equal(team_create(&t, 3, false, NULL), 0);
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        team_run(t, add_rank, &sum);
    }
    assert_int_equal(atomic_load(&sum), 5 * (1 + 2 + 3));
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    team_free(t);
}

/* One slow worker: the others sleep inside the region's last barrier. */
static void slow_last(void *ctx, uint32_t rank)
{
    if (rank == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void test_slow_worker(void **state)
{
    (void)state;
    struct team *t;
    atomic_uint sum = 0;
    assert_int_equal(team_create(&t, 4, true, NULL), 0); /* pinned: must work where it can't */
    for (int i = 0; i < 3; i++) {
        team_run(t, slow_last, &sum);
        assert_int_equal(atomic_load(&sum), 4 * (i + 1));
    }
    team_free(t);
}

static void test_start_stop(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        struct team *t;
        assert_int_equal(team_create(&t, (uint32_t)i % 5 + 1, false, NULL), 0);
        team_free(t);
    }
    team_free(NULL);
}

static void test_limits(void **state)
{
    (void)state;
    struct team *t = NULL;
    fathom_err err = {0};
    assert_int_equal(team_create(&t, TEAM_MAX + 1, false, &err), FATHOM_EINVAL);
    assert_non_null(strstr(err.msg, "threads"));
    assert_null(t);
    assert_true(team_cores() >= 1);
    assert_true(team_cores() <= (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
    assert_int_equal(team_create(&t, 0, false, NULL), 0);
    assert_int_equal(team_size(t), team_cores());
    team_free(t);
}

/* Every processor once, and first one of every core. */
static void test_pin_order(void **state)
{
    (void)state;
    enum { MAX_CPUS = 1024 };
    int cpu[MAX_CPUS];
    uint32_t n = team_pin_order(cpu, MAX_CPUS);
#ifdef __linux__
    assert_true(n >= team_cores());
    assert_int_equal(team_pin_order(cpu, 1), 1);
    assert_int_equal(team_pin_order(cpu, MAX_CPUS), n);
#endif
    for (uint32_t i = 0; i < n; i++) {
        assert_true(cpu[i] >= 0);
        for (uint32_t k = 0; k < i; k++) {
            assert_int_not_equal(cpu[k], cpu[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pin_order),      cmocka_unit_test(test_phases),
        cmocka_unit_test(test_sleep_and_wake), cmocka_unit_test(test_slow_worker),
        cmocka_unit_test(test_start_stop),     cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
