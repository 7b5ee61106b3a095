/* progress.h - progress of something slow, on stderr: a bar on a terminal, plain lines
 * otherwise, and only once the stage has taken a second, so that quick things stay silent. Also
 * the Ctrl-C flag, because every progress callback is a place where work can be stopped. */
#ifndef CMD_PROGRESS_H
#define CMD_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    double start, last; /* clock_now() of the stage's begin and of the last output */
    const char *stage;  /* static text; compared by content */
    bool shown;         /* a bar stands on the current line */
};

/* A fathom_progress_fn; user is a zeroed struct progress. False when the user asked to stop. */
bool progress_report(void *user, const char *stage, uint64_t done, uint64_t total);
/* Removes the bar; call before anything else is printed. */
void progress_end(struct progress *p);

/* From now on Ctrl-C sets a flag instead of ending the program; a second one within the same
 * request ends it. _clear before each request, _off restores the system's behaviour. */
void interrupt_on(void);
void interrupt_off(void);
void interrupt_clear(void);
bool interrupted(void);

/* May escape sequences be written to this stream (a terminal that is not "dumb")? Colour also
 * needs NO_COLOR to be unset. */
bool term_is_tty(int fd);
bool term_has_color(int fd);

#endif
