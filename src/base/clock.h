/* clock.h - monotonic time in seconds; for progress and statistics only, never for results. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H
double clock_now(void);
#endif
