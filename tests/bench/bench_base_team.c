/* bench_base_team.c - what the worker team costs: nanoseconds per barrier while all workers are
 * busy, per region (two barriers), and per item of work taken from a shared counter. CSV on
 * standard output. A token of V4 Flash has 671 levels, so 671 barriers. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/team.h"

enum { BARRIERS = 20000, REGIONS = 2000, ITEMS = 200000, ROUNDS = 5 };

struct job {
    struct team *team;
    atomic_uint next;
};

static void barriers(void *ctx, uint32_t rank)
{
    struct job *j = ctx;
    (void)rank;
    for (int i = 0; i < BARRIERS; i++) {
        team_barrier(j->team);
    }
}

static void nothing(void *ctx, uint32_t rank)
{
    (void)ctx;
    (void)rank;
}

static void items(void *ctx, uint32_t rank)
{
    struct job *j = ctx;
    (void)rank;
    while (atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed) < ITEMS) {
    }
}

static double best(struct job *j, void (*fn)(void *, uint32_t), int regions, int n)
{
    double least = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        atomic_store(&j->next, 0);
        double t0 = clock_now();
        for (int i = 0; i < regions; i++) {
            team_run(j->team, fn, j);
        }
        double s = (clock_now() - t0) / n;
        least = s < least ? s : least;
    }
    return least * 1e9;
}

int main(int argc, char **argv)
{
    uint32_t most = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : team_cores();
    printf("workers,ns per barrier,ns per region,ns per shared item\n");
    for (uint32_t n = 1;; n = n * 2 < most ? n * 2 : most) {
        struct job j = {0};
        fathom_err err = {0};
        if (team_create(&j.team, n, true, &err) != 0) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        printf("%u,%.1f,%.1f,%.1f\n", n, best(&j, barriers, 1, BARRIERS),
               best(&j, nothing, REGIONS, REGIONS), best(&j, items, 1, ITEMS));
        team_free(j.team);
        if (n >= most) {
            return 0;
        }
    }
}
