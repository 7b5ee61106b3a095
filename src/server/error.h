/* error.h - what a client is told when a request fails: one description, printed in the shape of
 * the protocol that was spoken. */
#ifndef SERVER_ERROR_H
#define SERVER_ERROR_H

#include "base/err.h"
#include "base/str.h"

enum api_fault {
    API_OK,
    API_BAD,         /* 400: JSON or a field */
    API_TOO_LONG,    /* 400: prompt against context */
    API_NO_THREAD,   /* 400: a conversation that the server would have to store */
    API_NO_KEY,      /* 401 */
    API_FORBIDDEN,   /* 403: Host or Origin */
    API_NOT_FOUND,   /* 404: path */
    API_NO_MODEL,    /* 404: model name */
    API_METHOD,      /* 405 */
    API_TOO_LARGE,   /* 413 */
    API_MEDIA,       /* 415 */
    API_HEADERS,     /* 431 */
    API_BUSY,        /* 429: queue full */
    API_UNAVAILABLE, /* 503: loading, shutting down */
    API_ENGINE,      /* 500 */
    API_FAULTS
};

struct api_error {
    enum api_fault fault;
    char param[160]; /* JSON path of the field; "" if none */
    char msg[1024];
    uint32_t prompt, limit; /* API_TOO_LONG */
};

/* Notes the first error (a later one is ignored) and returns -1. param may be NULL. */
int api_fail(struct api_error *e, enum api_fault fault, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for an error of the library: ENOMEM and EIO become API_ENGINE, others API_BAD. */
int api_fail_err(struct api_error *e, const char *param, const fathom_err *err);
int api_too_long(struct api_error *e, uint64_t prompt, uint32_t limit);

int api_status(const struct api_error *e);
/* {"error":{...}} or {"type":"error","error":{...},"request_id":...}. */
void api_error_print(struct buf *out, const struct api_error *e, bool anthropic,
                     const char *request_id);

#endif
