/* sched.h - the scheduler: which sequences form the next step. One thread, the engine thread,
 * runs sched_run and makes all calls of the model; it never touches a socket. Every other
 * function may be called from any thread. */
#ifndef SERVER_SCHED_H
#define SERVER_SCHED_H

#include "server/jobs.h"
#include "server/metrics.h"
#include "server/model.h"

struct sched;

struct sched_config {
    uint32_t max_queue; /* jobs waiting; more are refused */
    /* Longest time that prompt tokens may add to one step while answers are being written. */
    double stall_seconds;
    struct metrics *metrics; /* borrowed */
    struct trace *trace;     /* borrowed; why prompts had to be computed; NULL: not said */
};

struct sched *sched_new(const struct sched_config *cfg); /* NULL: out of memory */
void sched_free(struct sched *s);

enum submit { SUBMIT_OK, SUBMIT_JOINED, SUBMIT_FULL, SUBMIT_STOPPING, SUBMIT_NOMEM };
/* Queues a job for spec (taken over in any case) and returns it with the caller as a reader, or
 * joins a job in flight that asks for the same; NULL if refused. */
struct job *sched_submit(struct sched *s, struct job_spec *spec, enum submit *how);
/* After job_leave: look at cancelled jobs now. */
void sched_poke(struct sched *s);
/* Jobs waiting, for Retry-After. */
uint32_t sched_queued(struct sched *s);

/* Serves until sched_stop. The model must stay open meanwhile. */
int sched_run(struct sched *s, struct model *m, fathom_err *err);
/* Queued jobs end at once, running ones may go on for grace seconds. Again: shortens it. */
void sched_stop(struct sched *s, double grace_seconds);

#endif
