/* fathom.h - the public interface of libfathom (filled in below; see ARCHITECTURE.md). */
#ifndef FATHOM_FATHOM_H
#define FATHOM_FATHOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FATHOM_API __attribute__((visibility("default")))
#else
#define FATHOM_API
#endif

/* Every function that can fail returns 0 or one of these negative codes, and fills a fathom_err
 * if one was given. The command line maps them to exit codes: EFORMAT and ENOENT 3, EINVAL 2,
 * everything else 1. */
enum fathom_status {
    FATHOM_OK = 0,
    FATHOM_EINVAL = -1,       /* an argument is wrong */
    FATHOM_ENOMEM = -2,       /* memory: not available, or more than the budget allows */
    FATHOM_EIO = -3,          /* the system refused a read, write or map */
    FATHOM_EFORMAT = -4,      /* an input file or text is not usable */
    FATHOM_ENOENT = -5,       /* an input file is not there */
    FATHOM_ELIMIT = -6,       /* a limit was reached: context length, sequence count, size cap */
    FATHOM_ECANCEL = -7,      /* cancelled by the caller */
    FATHOM_EUNSUPPORTED = -8, /* understood, but this build, backend or file cannot do it */
};

/* What went wrong, for a person: place, reason, remedy. Filled once, by the deepest frame that
 * knows; code is 0 while nothing is wrong. Owned by the caller, usually on its stack. */
typedef struct fathom_err {
    int code;
    char msg[1024];
} fathom_err;

#ifdef __cplusplus
}
#endif
#endif
