/* progress.c - see progress.h. Redraws at most ten times a second; a plain line at most every
 * ten seconds. The bar is ASCII and cleared with an erase sequence, so it leaves no trace. */
#include "cmd/progress.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { BAR_WIDTH = 30 };

static volatile sig_atomic_t stop_asked;

bool term_is_tty(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

bool term_has_color(int fd)
{
    const char *no = getenv("NO_COLOR");
    return term_is_tty(fd) && !(no && *no);
}

static void draw_bar(const char *stage, double share, double left_seconds)
{
    char bar[BAR_WIDTH + 1];
    int full = (int)(share * BAR_WIDTH);
    for (int i = 0; i < BAR_WIDTH; i++) {
        bar[i] = i < full ? '#' : '.';
    }
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r\x1b[K%s [%s] %3.0f%%", stage, bar, share * 100);
    if (left_seconds >= 1) {
        fprintf(stderr, "  %.0f s left", left_seconds);
    }
    fflush(stderr);
}

bool progress_report(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct progress *p = user;
    double now = clock_now();
    if (!p->stage || strcmp(p->stage, stage) != 0) {
        progress_end(p);
        *p = (struct progress){.start = now, .stage = stage};
    }
    bool tty = term_is_tty(STDERR_FILENO);
    bool due = now - p->start >= 1 && now - p->last >= (tty ? 0.1 : 10);
    if (due && total > 0) {
        double share = done >= total ? 1 : (double)done / (double)total;
        double left = share > 0 ? (now - p->start) * (1 - share) / share : 0;
        if (tty) {
            draw_bar(stage, share, left);
            p->shown = true;
        } else {
            fprintf(stderr, "fathom: %s %.0f%%", stage, share * 100);
            if (left >= 1) {
                fprintf(stderr, ", %.0f s left", left);
            }
            fputc('\n', stderr);
        }
        p->last = now;
    }
    return !stop_asked;
}

void progress_end(struct progress *p)
{
    if (p->shown) {
        fputs("\r\x1b[K", stderr);
        fflush(stderr);
        p->shown = false;
    }
    p->stage = NULL; /* the next report begins a new measure */
}

static void on_interrupt(int sig)
{
    if (stop_asked) { /* asked twice: the work does not listen */
        signal(sig, SIG_DFL);
        raise(sig);
    }
    stop_asked = 1;
}

void interrupt_on(void)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_interrupt;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    stop_asked = 0;
}

void interrupt_off(void)
{
    signal(SIGINT, SIG_DFL);
}

void interrupt_clear(void)
{
    stop_asked = 0;
}

bool interrupted(void)
{
    return stop_asked != 0;
}
