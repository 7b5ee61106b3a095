/* trace.c - see trace.h. Lines are flushed as they are written, so that a crash loses none. */
#include "server/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "json/json.h"

struct trace {
    pthread_mutex_t lock;
    int fd;
    bool broken;
};

int trace_open(struct trace **out, const char *path, fathom_err *err)
{
    struct trace *t = mem_calloc(1, sizeof *t);
    *out = NULL;
    if (!t) {
        return err_nomem(err, "a trace", sizeof *t);
    }
    t->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (t->fd < 0) {
        mem_free(t);
        return err_sys(err, path, "cannot write");
    }
    pthread_mutex_init(&t->lock, NULL);
    *out = t;
    return 0;
}

void trace_close(struct trace *t)
{
    if (t) {
        close(t->fd);
        pthread_mutex_destroy(&t->lock);
        mem_free(t);
    }
}

static void begin(struct buf *b, const char *id, const char *kind)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    buf_addf(b, "{\"time\":%lld.%06ld,\"id\":\"%s\",\"kind\":\"%s\",", (long long)now.tv_sec,
             now.tv_nsec / 1000, id, kind);
}

static void end(struct trace *t, struct buf *b)
{
    buf_adds(b, "}\n");
    pthread_mutex_lock(&t->lock);
    for (size_t at = 0; at < b->n && !t->broken && !b->failed;) {
        ssize_t n = write(t->fd, b->p + at, b->n - at);
        if (n < 0 && errno != EINTR) {
            log_error("the trace ends here: %s", strerror(errno));
            t->broken = true;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    pthread_mutex_unlock(&t->lock);
    buf_free(b);
}

void trace_text(struct trace *t, const char *id, const char *kind, struct slice text)
{
    struct buf b = {0};
    if (t) {
        begin(&b, id, kind);
        buf_adds(&b, "\"data\":");
        json_write_line_str(&b, text);
        end(t, &b);
    }
}

void trace_ids(struct trace *t, const char *id, const char *kind, const uint32_t *ids, size_t n)
{
    struct buf b = {0};
    if (t) {
        begin(&b, id, kind);
        buf_adds(&b, "\"ids\":[");
        for (size_t i = 0; i < n; i++) {
            buf_addf(&b, i ? ",%u" : "%u", ids[i]);
        }
        buf_addc(&b, ']');
        end(t, &b);
    }
}
