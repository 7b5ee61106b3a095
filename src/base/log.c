/* log.c - see log.h. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static enum log_level max_level = LOG_WARN;
static void (*sink_fn)(void *, enum log_level, const char *);
static void *sink_user;

void log_set_level(enum log_level level)
{
    pthread_mutex_lock(&lock);
    max_level = level;
    pthread_mutex_unlock(&lock);
}

void log_set_sink(void (*fn)(void *user, enum log_level level, const char *line), void *user)
{
    pthread_mutex_lock(&lock);
    sink_fn = fn;
    sink_user = user;
    pthread_mutex_unlock(&lock);
}

/* Texts from outside must not begin lines of their own nor steer a terminal: control characters,
 * those beyond ASCII included, become '?'. */
static void make_plain(char *line)
{
    for (unsigned char *p = (unsigned char *)line; *p; p++) {
        bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;
        if (c1) {
            *p++ = '?';
        }
        if (c1 || *p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
}

void log_at(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    make_plain(line);
    pthread_mutex_lock(&lock);
    if (level <= max_level) {
        if (sink_fn) {
            sink_fn(sink_user, level, line);
        } else {
            fprintf(stderr, "fathom: %s: %s\n", names[level], line);
        }
    }
    pthread_mutex_unlock(&lock);
}
