/* team.h - a fixed team of workers for one parallel region at a time. The caller is worker 0,
 * so a team of one has no threads at all. Between and inside regions workers spin for a bounded
 * time, then sleep: a barrier costs about a microsecond while work is dense, and an idle team
 * costs nothing.
 *
 * Threads: create, run and free from one thread (the engine thread). team_barrier only from
 * inside a running region, by every worker the same number of times. */
#ifndef BASE_TEAM_H
#define BASE_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct team;

/* n workers (0 = team_cores()), at most TEAM_MAX. pin: worker r stays on the r-th processor of
 * team_pin_order (Linux only, ignored elsewhere), so that neighbours in rank, which get
 * neighbouring rows, share a memory node; the calling thread is worker 0 and gets
 * its former processors back in team_free. */
enum { TEAM_MAX = 512 };
int team_create(struct team **out, uint32_t n, bool pin, fathom_err *err);
void team_free(struct team *t); /* NULL is fine */
uint32_t team_size(const struct team *t);

/* Runs fn on every worker and returns when all have returned from it. What fn wrote is visible
 * to the caller, and what the caller wrote before to every worker. */
void team_run(struct team *t, void (*fn)(void *ctx, uint32_t rank), void *ctx);

/* Inside fn: returns when all workers of the team have called it. Writes before it are visible
 * after it to all. */
void team_barrier(struct team *t);

/* The processors this process may use, one hardware thread of every core first, each part in the
 * order of memory nodes. Returns how many, at most max; 0 if the system does not say. */
uint32_t team_pin_order(int *cpu, uint32_t max);

/* Physical cores this process may use, at least 1; not more than team_cpus. */
uint32_t team_cores(void);

/* Processors this process may use at a time, at least 1: those of its affinity mask, or fewer if
 * its CPU quota (base/quota.h) is worth less. */
uint32_t team_cpus(void);

#endif
