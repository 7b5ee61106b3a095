/* reply.c - the end of every answer that is not a stream: headers that all have, the two shapes of
 * errors, and what is counted and traced of them. */
#include <stdio.h>

#include "base/log.h"
#include "server/server_int.h"

void reply_send(struct exchange *x, int status, const char *type, struct buf *body)
{
    x->status = status;
    http_set_header(x->http, x->anthropic ? "request-id" : "x-request-id", x->id);
    http_set_header(x->http, "Cache-Control", "no-cache");
    metrics_request(&x->s->metrics, x->endpoint, status);
    http_reply(x->http, status, type, body);
}

void reply_json(struct exchange *x, int status, struct buf *body)
{
    reply_send(x, status, "application/json", body);
}

void reply_error(struct exchange *x, const struct api_error *e)
{
    struct buf b = {0};
    char seconds[16];
    int status = api_status(e);
    api_error_print(&b, e, x->anthropic, x->id);
    if (e->fault == API_BUSY || e->fault == API_UNAVAILABLE) {
        uint32_t wait = 1 + sched_queued(x->s->sched) / 8;
        snprintf(seconds, sizeof seconds, "%u", MIN(wait, 10u));
        http_set_header(x->http, "Retry-After", seconds);
    }
    if (e->fault == API_NO_KEY) {
        http_set_header(x->http, "WWW-Authenticate", "Bearer");
    }
    log_info("%s %d %s: %s", x->id, status, endpoint_name(x->endpoint), e->msg);
    trace_text(x->s->trace, x->id, "error", buf_slice(&b));
    reply_send(x, status, "application/json", &b);
}
