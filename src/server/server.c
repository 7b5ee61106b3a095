/* server.c - the server's life: checks of the configuration, the parts in order, and the end.
 * Read next: route.c (a request), sched.c (the engine thread). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "server/server_int.h"

enum { REPLAY_BYTES = 64 << 20, CONSTRAINT_BYTES = 128 << 20 };

static void set_defaults(struct server_config *c)
{
    c->address = c->address ? c->address : "127.0.0.1";
    c->max_queue = c->max_queue ? c->max_queue : 32;
    c->max_connections = c->max_connections ? c->max_connections : 256;
    c->max_body_bytes = c->max_body_bytes ? c->max_body_bytes : (size_t)64 << 20;
    c->keepalive_seconds = c->keepalive_seconds > 0 ? c->keepalive_seconds : 5;
    c->header_seconds = c->header_seconds ? c->header_seconds : 10;
    c->idle_seconds = c->idle_seconds ? c->idle_seconds : 30;
    c->stall_seconds = c->stall_seconds > 0 ? c->stall_seconds : 0.25;
    c->think = c->think ? c->think : "on";
}

static int check(const struct server_config *c, fathom_err *err)
{
    struct chat_render_opts o = {0};
    if (!c->unix_path && !address_is_loopback(c->address) && c->n_keys == 0 &&
        !c->insecure_no_auth) {
        return err_set(err, FATHOM_EINVAL,
                       "%s can be reached from other machines, and no API key is set: give "
                       "--api-key or --api-key-file, or --insecure-no-auth if that is meant",
                       c->address);
    }
    if (!chat_think_set(&o, c->think, 0)) {
        return err_set(err, FATHOM_EINVAL, "--think takes off, on, low, high or max");
    }
    if (c->release && !chat_release_parse(c->release, &o.release)) {
        return err_set(err, FATHOM_EINVAL, "--release takes preview or 0731");
    }
    return 0;
}

static int open_parts(struct server *s, fathom_err *err)
{
    const struct server_config *c = &s->cfg;
    int rc = check(c, err);
    rc = rc ? rc : auth_init(&s->auth, c->keys, c->n_keys, err);
    if (!rc && c->trace_path) {
        rc = trace_open(&s->trace, c->trace_path, err);
    }
    if (rc) {
        return rc;
    }
    s->sched = sched_new(&(struct sched_config){.max_queue = c->max_queue,
                                                .stall_seconds = c->stall_seconds,
                                                .metrics = &s->metrics,
                                                .trace = s->trace});
    s->replay = replay_new(REPLAY_BYTES);
    if (!s->sched || !s->replay) {
        return err_nomem(err, "the server", sizeof *s);
    }
    struct http_config h = {.address = c->address,
                            .port = c->port,
                            .unix_path = c->unix_path,
                            .max_connections = c->max_connections,
                            .max_body_bytes = c->max_body_bytes,
                            .header_seconds = c->header_seconds,
                            .idle_seconds = c->idle_seconds,
                            .accept = route_accept,
                            .handle = route_handle,
                            .user = s};
    return http_open(&s->http, &h, err);
}

int server_open(struct server **out, const struct server_config *cfg, fathom_err *err)
{
    struct server *s = mem_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        return err_nomem(err, "the server", sizeof *s);
    }
    s->cfg = *cfg;
    s->created = (int64_t)time(NULL);
    set_defaults(&s->cfg);
    int rc = open_parts(s, err);
    if (rc) {
        server_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

uint16_t server_port(const struct server *s)
{
    return http_port(s->http);
}

void server_progress(struct server *s, double share)
{
    atomic_store(&s->progress, (int)(share * 1000));
}

int server_run(struct server *s, struct model *m, fathom_err *err)
{
    const struct server_config *c = &s->cfg;
    s->model = m;
    s->constraints = constraint_cache_new(m->tok, CONSTRAINT_BYTES);
    if (!s->constraints) {
        return err_nomem(err, "the server", CONSTRAINT_BYTES);
    }
    snprintf(s->model_name, sizeof s->model_name, "%s",
             c->model_name ? c->model_name : m->info.name);
    s->policy = (struct request_policy){.model = m,
                                        .think = c->think,
                                        .max_tokens = c->max_tokens,
                                        .max_reasoning = c->max_reasoning,
                                        .image_placeholder = c->image_placeholder,
                                        .special_tokens = c->special_tokens,
                                        .strict_model = c->strict_model,
                                        .model_name = slice_of(s->model_name),
                                        .temperature = c->temperature,
                                        .constraints = s->constraints};
    if (!chat_release_parse(c->release ? c->release : m->info.release, &s->policy.release)) {
        return err_set(err, FATHOM_EFORMAT, "unknown chat release \"%s\"", m->info.release);
    }
    atomic_store(&s->ready, true);
    int rc = sched_run(s->sched, m, err);
    atomic_store(&s->stopping, true);
    return rc;
}

void server_stop(struct server *s, double grace_seconds)
{
    atomic_store(&s->stopping, true);
    sched_stop(s->sched, grace_seconds);
}

void server_close(struct server *s)
{
    if (!s) {
        return;
    }
    if (s->sched) {
        sched_stop(s->sched, 0);
    }
    if (s->http) {
        http_quiesce(s->http);
        http_close(s->http);
    }
    sched_free(s->sched);
    replay_free(s->replay);
    constraint_cache_free(s->constraints);
    trace_close(s->trace);
    auth_fini(&s->auth);
    mem_free(s);
}
