/* err.h - how errors are made. The codes and struct fathom_err are public (fathom/fathom.h).
 * Convention: a function returns 0 or a negative code and takes `fathom_err *err` last (may be
 * NULL). The deepest frame that knows the place calls err_set; callers only pass the code on,
 * or put a prefix before the message with err_prefix ("cannot load model.gguf: ..."). */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "fathom/fathom.h"

/* Fills err (unless it is NULL or already set) and returns code, so that
 * `return err_set(err, FATHOM_EFORMAT, "...")` reads well. */
int err_set(fathom_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before a message that is set; returns err->code (0 for NULL err). */
int err_prefix(fathom_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Out of memory while allocating `bytes` for `what`; returns FATHOM_ENOMEM. */
int err_nomem(fathom_err *err, const char *what, size_t bytes);

/* A failed system call on `path`: message "path: what: strerror(errno)"; FATHOM_ENOENT if errno
 * says so, else FATHOM_EIO. */
int err_sys(fathom_err *err, const char *path, const char *what);

#endif
