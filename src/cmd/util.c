/* util.c - the small things every command needs: how a failure is said, text and lines in,
 * numbers out. See cmd.h. */
#include "cmd/cmd.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

enum { TEXT_MAX = 64 << 20 };

int cmd_fail(const char *place, const fathom_err *err)
{
    const char *msg = err->msg[0] ? err->msg : fathom_status_text(err->code);
    fprintf(stderr, "fathom: %s%s%s\n", place ? place : "", place ? ": " : "", msg);
    switch (err->code) {
    case FATHOM_EINVAL: return EXIT_USAGE;
    case FATHOM_EFORMAT:
    case FATHOM_ENOENT: return EXIT_INPUT;
    default: return EXIT_RUNTIME;
    }
}

void cmd_note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("fathom: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

int cmd_print(const struct buf *b)
{
    bool failed = b->failed;
    if (!failed) {
        fwrite(b->p ? b->p : "", 1, b->n, stdout);
    } else {
        cmd_note("out of memory");
    }
    struct buf drop = *b;
    buf_free(&drop);
    return failed ? EXIT_RUNTIME : EXIT_DONE;
}

int cmd_text(struct buf *out, const struct cli *o, fathom_err *err)
{
    if (o->prompt && o->file) {
        return err_set(err, FATHOM_EINVAL, "give either -p or -f, not both");
    }
    if (o->prompt) {
        buf_adds(out, o->prompt);
        return out->failed ? err_nomem(err, "prompt", strlen(o->prompt)) : 0;
    }
    return file_read_all(out, o->file ? o->file : "-", TEXT_MAX, err);
}

int cmd_lines(int (*fn)(void *user, const char *line, size_t n), void *user)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = EXIT_DONE;
    ssize_t n;
    while (rc == EXIT_DONE && (n = getline(&line, &cap, stdin)) >= 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) {
            n--;
        }
        if (n == 0) {
            continue;
        }
        rc = fn(user, line, (size_t)n);
        if (fflush(stdout) != 0) {
            break; /* main reports it */
        }
    }
    if (rc == EXIT_DONE && ferror(stdin)) {
        cmd_note("cannot read standard input: %s", strerror(errno));
        rc = EXIT_RUNTIME;
    }
    free(line);
    return rc;
}

void cmd_add_float(struct buf *b, float v)
{
    if (isfinite(v)) {
        buf_addf(b, "%.9g", (double)v);
    } else {
        buf_adds(b, "null");
    }
}

const char *cmd_bytes(uint64_t n)
{
    static char bufs[4][32];
    static unsigned turn;
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    char *s = bufs[turn++ % 4];
    double v = (double)n;
    size_t u = 0;
    while (v >= 999.5 && u < 5) {
        v /= 1000;
        u++;
    }
    snprintf(s, sizeof bufs[0], u == 0 ? "%.0f %s" : "%.3g %s", v, units[u]);
    return s;
}
