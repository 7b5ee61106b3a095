/* err.c - see err.h. The first error wins: a later err_set on the same struct is ignored, so
 * that clean-up code cannot hide the cause. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(fathom_err *err, int code, const char *fmt, ...)
{
    if (err && err->code == 0) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
        err->code = code;
    }
    return code;
}

int err_prefix(fathom_err *err, const char *fmt, ...)
{
    if (!err || err->code == 0) {
        return err ? err->code : 0;
    }
    char old[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->msg) {
        snprintf(err->msg + n, sizeof err->msg - (size_t)n, ": %s", old);
    }
    return err->code;
}

int err_nomem(fathom_err *err, const char *what, size_t bytes)
{
    return err_set(err, FATHOM_ENOMEM, "out of memory: %s needs %zu bytes", what, bytes);
}

int err_sys(fathom_err *err, const char *path, const char *what)
{
    int e = errno;
    return err_set(err, e == ENOENT || e == ENOTDIR ? FATHOM_ENOENT : FATHOM_EIO, "%s: %s: %s",
                   path, what, strerror(e));
}
