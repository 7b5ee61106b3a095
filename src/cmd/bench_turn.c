/* bench_turn.c - contexts measured in turn: whose step is next, and how their times compare.
 *
 * The times of one round stand next to each other, so their quotient is free of most of what the
 * machine did meanwhile; the median over the rounds is free of the rounds in which it did
 * something between the two. The quotient of the layers of a kind, of the head and of all the
 * layers of a whole model is formed in every round as well, from the timed step of that round
 * split by its traced one, and not from medians. */
#include "cmd/bench.h"

#include <math.h>

#include "base/mem.h"
#include "eval/stats.h"

uint32_t bench_turn_place(uint32_t r, uint32_t i, uint32_t n)
{
    return (r / 2 + (r % 2 ? n - 1 - i : i)) % n;
}

double bench_full_seconds(const struct bench_row *row, const struct bench_split *s,
                          uint32_t *n_layer)
{
    double sum = s->head;
    uint32_t n = 0;
    for (uint32_t k = 0; k < row->n_kind; k++) {
        sum += s->kind[k] / row->kind[k].n_layer * row->kind[k].n_full;
        n += row->kind[k].n_full;
    }
    if (n_layer) {
        *n_layer = n;
    }
    return sum;
}

/* What is compared of a round. */
struct part {
    enum { PART_STEP, PART_HEAD, PART_KIND, PART_FULL } what;
    uint32_t kind;
};

static double part_seconds(const struct bench_row *row, uint32_t round, struct part p)
{
    const struct bench_split *s = &row->turn.round[round];
    switch (p.what) {
    case PART_STEP: return s->step;
    case PART_HEAD: return s->head;
    case PART_KIND: return s->kind[p.kind];
    default: return bench_full_seconds(row, s, NULL);
    }
}

/* Of n >= 1 sorted values. The interval of the median lies between two values equally far from
 * the ends, as far in as the 95 % points of a binomial distribution allow (by its normal
 * approximation, to the safe side), so it supposes nothing about how the values scatter. */
static struct bench_spread spread(const double *v, uint32_t n)
{
    struct bench_spread s = {.q1 = eval_quantile(v, n, 0.25),
                             .median = eval_quantile(v, n, 0.5),
                             .q3 = eval_quantile(v, n, 0.75)};
    double rank = (n + 1.0) / 2 - 0.98 * sqrt(n); /* counted from 1 */
    if (rank >= 1) {
        s.lo = v[(uint32_t)rank - 1];
        s.hi = v[n - (uint32_t)rank];
    }
    return s;
}

/* room: [n_round]. */
static struct bench_spread compare(const struct bench_row *row, const struct bench_row *base,
                                   struct part p, double *room)
{
    uint32_t n = row->turn.n_round;
    for (uint32_t i = 0; i < n; i++) {
        room[i] = part_seconds(row, i, p) / part_seconds(base, i, p);
    }
    eval_sort(room, n);
    return spread(room, n);
}

int bench_turn_rows(struct bench_result *r, uint32_t n_round, fathom_err *err)
{
    double *room = mem_alloc(n_round, sizeof *room);
    if (!room) {
        return err_nomem(err, "rounds", n_round * sizeof *room);
    }
    const struct bench_row *base = &r->row[0];
    for (uint32_t i = 0; i < r->n_row; i++) {
        struct bench_row *row = &r->row[i];
        struct bench_turn *t = &row->turn;
        t->n_round = n_round;
        t->base_ctx = base->ctx;
        t->round = r->round + (size_t)i * n_round;
        t->step = compare(row, base, (struct part){PART_STEP, 0}, room);
        t->head = compare(row, base, (struct part){PART_HEAD, 0}, room);
        for (uint32_t k = 0; k < row->n_kind; k++) {
            t->kind[k] = compare(row, base, (struct part){PART_KIND, k}, room);
        }
        if (row->full_gen_tps > 0) {
            t->full = compare(row, base, (struct part){PART_FULL, 0}, room);
        }
    }
    mem_free(room);
    return 0;
}
