/* server_int.h - what the files of the server that answer requests share: the server's parts,
 * one request in work, and the handlers by endpoint. */
#ifndef SERVER_SERVER_INT_H
#define SERVER_SERVER_INT_H

#include "server/auth.h"
#include "server/http.h"
#include "server/sched.h"
#include "server/server.h"
#include "server/sse.h"
#include "server/trace.h"

struct server {
    struct server_config cfg;
    struct http_server *http;
    struct sched *sched;
    struct auth auth;
    struct metrics metrics;
    struct replay *replay;
    struct constraint_cache *constraints; /* set before ready becomes true */
    struct trace *trace;                  /* NULL: off */
    char model_name[128];
    int64_t created;
    atomic_int progress; /* of loading, per mille */
    atomic_bool ready, stopping;
    /* set before ready becomes true */
    struct model *model; /* borrowed */
    struct request_policy policy;
};

/* One request. Lives in the request's memory; exchange_end gives back what it owns. */
struct exchange {
    struct server *s;
    struct http_request *http;
    enum endpoint endpoint;
    const char *tail; /* of the path, behind the endpoint's own part */
    bool anthropic;   /* shape of errors */
    char id[48];
    int key; /* number of the API key; 0 if none is needed */
    double started;
    int status;
    /* an answer */
    bool reading, writing; /* request, writer: to be freed */
    struct api_request request;
    struct writer writer;
    struct job *job;
    struct job_reader reader;
    struct sip_digest salt;
    double last_sent;
    bool any_sent;
};

/* route.c */
bool route_accept(void *server, struct http_request *r);
void route_handle(void *server, struct http_request *r);
void exchange_end(struct exchange *x);

/* reply.c: whole answers. body is taken over. */
void reply_send(struct exchange *x, int status, const char *type, struct buf *body);
void reply_error(struct exchange *x, const struct api_error *e);
void reply_json(struct exchange *x, int status, struct buf *body);

/* generate.c: the four protocols, and counting */
void handle_generate(struct exchange *x, enum protocol proto);
void handle_count_tokens(struct exchange *x);

/* page.c: what people see at / */
void handle_page(struct exchange *x);

/* models.c: the small endpoints */
void handle_health(struct exchange *x);
void handle_models(struct exchange *x);
void handle_props(struct exchange *x);
void handle_metrics(struct exchange *x);
void handle_tokenize(struct exchange *x);
void handle_detokenize(struct exchange *x);

#endif
