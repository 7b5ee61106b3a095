/* bench_steps.h - the steps of `fathom bench` on a model, and what it keeps while it measures;
 * private to bench_model.c and bench_steps.c. */
#ifndef CMD_BENCH_STEPS_H
#define CMD_BENCH_STEPS_H

#include "cmd/bench.h"

enum { BENCH_SEED = 20 };

struct frontier_job {
    uint32_t ctx;    /* decode up to here */
    uint32_t prompt; /* tokens to compute behind random rows; all if not filled */
    bool filled;
};

/* Seconds of traced steps. */
struct bench_trace {
    double layer[SHAPE_MAX_LAYERS], head, op[OP_KIND_COUNT];
};

/* A context being measured. */
struct bench_place {
    const struct frontier_job *job;
    fathom_session *s;         /* owned */
    struct bench_row *row;     /* what comes of it */
    struct bench_split *round; /* [gen] to fill, or NULL */
    struct bench_trace trace;  /* sum over the traced decode steps */
    double seconds, best;      /* of the timed ones: sum, least */
};

struct bench {
    const struct cli *o;
    fathom_engine *e;
    const struct shape *shape;
    struct progress progress;
    struct bench_result res;
    struct frontier_job job[BENCH_ROWS];
    uint32_t n_job, gen;
    struct bench_place place[BENCH_ROWS]; /* one after the other: the first, again and again */
    struct bench_reader reader;
    uint32_t streams;          /* of its passes */
    struct bench_trace *trace; /* of the traced step being run */
    struct bench_meter *meter; /* of a prompt's, or NULL */
};

/* Decoded tokens before a frontier: all of them, with those that are not timed. */
uint32_t bench_tail(const struct bench *b);
bool bench_progress(struct bench *b, const char *stage, uint64_t done, uint64_t total,
                    fathom_err *err);
/* Computes the prompt up to `end`; the last chunk traced. */
int bench_prefill(struct bench *b, struct bench_place *p, uint32_t end, fathom_err *err);
/* Decodes the last bench_tail() tokens of p[0..n), in turn if n > 1, and fills in their rows'
 * decode figures. */
int bench_decode(struct bench *b, struct bench_place *p, uint32_t n, fathom_err *err);

#endif
