/* server.h - the HTTP server as a whole: what `fathom serve` starts.
 *
 * server_open listens at once, so that clients see "loading" instead of a refused connection;
 * server_run makes the calling thread the engine thread until server_stop. Threads: open, run
 * and close by one thread, in this order; progress and stop by any. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "server/model.h"

struct server;

/* Strings and lists are borrowed and outlive the server. 0 / NULL: the default. */
struct server_config {
    const char *address; /* default 127.0.0.1 */
    uint16_t port;       /* 0: any free one */
    const char *unix_path;
    const char *const *keys; /* API keys; none: every client may use the server */
    size_t n_keys;
    bool insecure_no_auth; /* a public address without a key is allowed */
    const char *const *allowed_hosts;
    size_t n_allowed_hosts;
    const char *const *cors_origins; /* "*" allows any */
    size_t n_cors_origins;
    bool metrics;                          /* also for other machines */
    uint32_t max_queue;                    /* default 32 */
    uint32_t max_connections;              /* default 256 */
    size_t max_body_bytes;                 /* default 64 MiB */
    double keepalive_seconds;              /* default 5 */
    uint32_t header_seconds, idle_seconds; /* default 10, 30 */
    double stall_seconds;                  /* default 0.25; see sched.h */
    /* defaults and limits of answers */
    const char *model_name; /* id in /v1/models; default: the model's name */
    bool strict_model;
    const char *think;      /* default "on" */
    uint32_t max_tokens;    /* default: what the context leaves */
    uint32_t max_reasoning; /* default: no cap */
    double temperature;     /* as given: 0 is greedy */
    bool image_placeholder;
    bool special_tokens;    /* raw prompts (Completions) may hold control tokens */
    const char *release;    /* chat format; default: what the model says */
    const char *trace_path; /* a file that everything is written to, prompts included */
};

/* Checks the configuration and listens. Errors: FATHOM_EINVAL, FATHOM_EIO. */
int server_open(struct server **out, const struct server_config *cfg, fathom_err *err);
uint16_t server_port(const struct server *s);
void server_progress(struct server *s, double share); /* of loading, 0..1 */
/* Serves until server_stop; m stays open until server_close. */
int server_run(struct server *s, struct model *m, fathom_err *err);
/* Refuses new requests, gives running answers grace_seconds. Again: less time. */
void server_stop(struct server *s, double grace_seconds);
void server_close(struct server *s); /* NULL is fine */

#endif
