/* bench_products.c - the weight products of a prompt against what the same threads could multiply
 * at the same moments.
 *
 * A shared machine's clock drifts by a third within seconds, so a peak measured at another time
 * says little: register-only loops run between the ops of a traced step, and a share is work
 * done, over what the loops would have done in its time by the mean of the rates before and
 * after. Matrices of floats are held against the F32 loop, because 8-bit dot instructions
 * cannot multiply them. Read next: bench_report.c. */
#include "cmd/bench.h"

#include "base/clock.h"
#include "base/mem.h"

/* Between two passes of the loops; they take about a tenth of it. */
#define METER_SECONDS 0.1

static void credit(struct bench_meter *m, const struct bench_meter_op *o, const double gops[2])
{
    struct bench_products *p = &m->op[o->kind];
    double need[2] = {o->flop[BENCH_BLOCK] / gops[0], o->flop[BENCH_FLOAT] / gops[1]};
    for (int i = 0; i < 2; i++) {
        double s = o->seconds * need[i] / (need[0] + need[1]);
        p->flop[i] += o->flop[i];
        p->seconds[i] += s;
        p->loop_flop[i] += s * gops[i] * 1e9;
    }
    p->int8_ops += o->seconds * gops[0] * 1e9;
}

/* Runs the loops and settles the ops since they ran last. */
static void settle(struct bench_meter *m)
{
    double t0 = clock_now(), now[2], mean[2];
    bench_loop_pass(m->reader, &now[0], &now[1]);
    for (int i = 0; i < 2; i++) {
        mean[i] = (m->gops[i] + now[i]) / 2;
        m->gops[i] = now[i];
    }
    for (uint32_t i = 0; i < m->n; i++) {
        credit(m, &m->last[i], mean);
    }
    m->n = 0;
    m->seconds = 0;
    m->loop_seconds += clock_now() - t0;
}

void bench_meter_begin(struct bench_meter *m, struct bench_reader *r, const struct program *p)
{
    *m = (struct bench_meter){.reader = r, .program = p};
    settle(m);
}

void bench_meter_op(struct bench_meter *m, const struct op *op, uint32_t n_tok, double seconds)
{
    struct bench_meter_op o = {.kind = op->kind, .seconds = seconds};
    bench_op_flop(m->program, op, o.flop);
    o.flop[0] *= n_tok;
    o.flop[1] *= n_tok;
    m->seconds += seconds;
    if (op->layer >= 0 && o.flop[0] + o.flop[1] > 0) { /* the head has other rows */
        m->last[m->n++] = o;
    }
    if (m->seconds >= METER_SECONDS || m->n == ARRAY_LEN(m->last)) {
        settle(m);
    }
}

void bench_meter_end(struct bench_meter *m)
{
    settle(m);
}

void bench_products_add(struct bench_products *a, const struct bench_products *b)
{
    for (int i = 0; i < 2; i++) {
        a->flop[i] += b->flop[i];
        a->seconds[i] += b->seconds[i];
        a->loop_flop[i] += b->loop_flop[i];
    }
    a->int8_ops += b->int8_ops;
}
