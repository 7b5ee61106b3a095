/* clock.h - monotonic time in seconds; for progress, statistics and waiting only, never for
 * results. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <pthread.h>

double clock_now(void);

/* A condition for clock_wait: its timeouts do not change when somebody sets the clock. */
void clock_cond_init(pthread_cond_t *c);
/* Waits, with the mutex held, for at most `seconds` (>= 0); may end early. */
void clock_wait(pthread_cond_t *c, pthread_mutex_t *held, double seconds);
#endif
