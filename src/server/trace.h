/* trace.h - everything a server does, written to one file for a bug report: requests, prompts,
 * tokens and responses, one JSON object a line. Keys are left out. Thread-safe; a NULL trace
 * does nothing. Errors while writing are logged once. */
#ifndef SERVER_TRACE_H
#define SERVER_TRACE_H

#include "base/err.h"
#include "base/str.h"

struct trace;
/* Creates the file (0600; an old one is replaced). */
int trace_open(struct trace **out, const char *path, fathom_err *err);
void trace_close(struct trace *t);
/* {"time":...,"id":ID,"kind":KIND, and then `text` as a string under "data". */
void trace_text(struct trace *t, const char *id, const char *kind, struct slice text);
/* Token ids under "ids". */
void trace_ids(struct trace *t, const char *id, const char *kind, const uint32_t *ids,
               size_t n);

#endif
