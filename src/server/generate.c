/* generate.c - a request for an answer, from its body to the last byte: parse, render, tokenise,
 * queue, then follow the job's events. All on the connection's thread; the engine thread only
 * sees the job.
 *
 * A stream's headers go out when the job is queued. While nothing happens, keepalives are sent
 * and the peer is watched; a peer that leaves gives the job up, which cancels it if nobody else
 * reads it. What was generated is noted for replay before the last event is sent, because the
 * next request may arrive right after it. Read next: sse.h (writers), sched.c. */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/server_int.h"

static const double first_silence = 2; /* seconds before the first keepalive */
static const double tick = 0.25;

/* ---- ends ---- */

void exchange_end(struct exchange *x)
{
    if (x->job) {
        job_leave(x->job);
        sched_poke(x->s->sched);
        x->job = NULL;
    }
    job_reader_fini(&x->reader);
    if (x->writing) {
        writer_fini(&x->writer);
    }
    if (x->reading) {
        request_fini(&x->request);
    }
    x->reading = x->writing = false;
}

static void log_end(struct exchange *x, bool complete)
{
    const struct job_usage *u = &x->writer.msg.usage;
    char known[96] = "";
    if (u->end) { /* no text: the log may be kept */
        snprintf(known, sizeof known, " (disk %u; known up to %u: %s)", u->cached_disk,
                 u->matched, u->end);
    }
    log_info("%s %d %s: %u prompt tokens, %u cached%s, %u out (%u reasoning); queue %.2f s, "
             "prompt %.2f s, answer %.2f s%s",
             x->id, complete ? x->status : 499, endpoint_name(x->endpoint), u->prompt,
             u->cached, known, u->output, u->reasoning, u->queued_s, u->prefill_s, u->decode_s,
             complete ? "" : "; the client left");
}

/* Remembers a whole answer for the time when the client sends it back. */
static void note_replay(struct exchange *x)
{
    const struct out_message *m = &x->writer.msg;
    struct arena a = {0};
    struct chat_conversation c;
    struct chat_render_opts o = {.release = x->s->policy.release};
    if (x->request.raw || m->failed ||
        (m->finish != FINISH_STOP && m->finish != FINISH_CALLS)) {
        return;
    }
    chat_init(&c, &a);
    struct chat_message *msg = chat_add(&c, CHAT_ASSISTANT, buf_slice(&m->content));
    bool ok = msg && chat_set_reasoning(&c, msg, buf_slice(&m->reasoning));
    for (size_t i = 0; ok && i < m->n_call; i++) {
        const struct out_call *call = &m->call[i];
        ok = !call->ended || chat_add_call(&c, msg, slice_of(call->id), buf_slice(&call->name),
                                           buf_slice(&call->args));
    }
    if (ok) {
        replay_note(x->s->replay, x->s->model->tok, x->salt, msg, &o, &x->job->output,
                    x->writer.thinks);
    }
    arena_fini(&a);
}

/* ---- following a job ---- */

/* Reads events for up to `seconds` and hands them to the writer (stream) or only collects them.
 * Neighbours of one kind are handed over as one. True when the job has ended. */
static bool follow(struct exchange *x, double seconds, struct buf *out)
{
    struct writer *w = &x->writer;
    job_read(&x->reader, seconds);
    const struct job_event *ev = x->reader.event;
    size_t n = x->reader.n;
    for (size_t i = 0; i < n;) {
        struct job_event e = ev[i++];
        bool text = e.kind == JOB_EV_REASONING || e.kind == JOB_EV_CONTENT ||
                    e.kind == JOB_EV_ARGUMENTS;
        while (text && i < n && ev[i].kind == e.kind && ev[i].call == e.call) {
            e.text_n += ev[i].text_n;
            e.logprob_n += ev[i++].logprob_n;
        }
        struct slice s = job_text(&x->reader, &e);
        const struct job_logprob *l = e.logprob_n ? x->reader.logprob + e.logprob_at : NULL;
        writer_note(w, &e, s, l);
        if (out && e.kind != JOB_EV_END) {
            w->ops->event(w, &e, s, l, out);
        }
    }
    w->msg.failed = w->msg.failed || x->reader.failed;
    if (w->msg.ended) {
        w->msg.usage = job_usage(x->job);
        note_replay(x);
        trace_ids(x->s->trace, x->id, "output", x->job->output.p, x->job->output.n);
    }
    return w->msg.ended || w->msg.failed;
}

static bool went_well(const struct exchange *x)
{
    const struct out_message *m = &x->writer.msg;
    return m->ended && !m->failed && m->finish != FINISH_FAULT && m->finish != FINISH_SHUTDOWN;
}

static enum http_more fill(void *user, struct buf *out)
{
    struct exchange *x = user;
    struct writer *w = &x->writer;
    double now = clock_now();
    if (!w->begun && !x->any_sent) {
        w->ops->begin(w, out);
        x->any_sent = true;
        x->last_sent = now;
    }
    bool done = follow(x, out->n ? 0 : tick, out);
    if (done && went_well(x)) {
        w->ops->end(w, out);
    } else if (done) {
        struct api_error e = {0};
        writer_fault(w, &e);
        w->ops->error(w, &e, out);
        log_error("%s: %s", x->id, e.msg);
    }
    now = clock_now();
    double wait = w->begun && x->last_sent > x->started + first_silence
                      ? x->s->cfg.keepalive_seconds
                      : MIN(first_silence, x->s->cfg.keepalive_seconds);
    if (!done && out->n == 0 && now - x->last_sent >= wait) {
        w->ops->keepalive(w, out);
    }
    if (out->n > 0) {
        x->last_sent = now;
        trace_text(x->s->trace, x->id, "sent", buf_slice(out));
    }
    return done ? HTTP_END : HTTP_MORE;
}

static void close_stream(void *user, bool complete)
{
    struct exchange *x = user;
    atomic_fetch_sub(&x->s->metrics.connections_streaming, 1);
    metrics_request(&x->s->metrics, x->endpoint, complete ? 200 : 499);
    log_end(x, complete);
    exchange_end(x);
}

static void reply_stream(struct exchange *x)
{
    struct http_stream s = {.fill = fill, .close = close_stream, .user = x};
    x->status = 200;
    atomic_fetch_add(&x->s->metrics.connections_streaming, 1);
    http_set_header(x->http, x->anthropic ? "request-id" : "x-request-id", x->id);
    http_set_header(x->http, "Cache-Control", "no-cache");
    http_set_header(x->http, "X-Accel-Buffering", "no");
    x->last_sent = clock_now();
    http_stream(x->http, 200, "text/event-stream", &s);
}

static void reply_body(struct exchange *x)
{
    struct buf b = {0};
    while (!follow(x, tick, NULL)) {
        if (http_peer_gone(x->http)) {
            metrics_request(&x->s->metrics, x->endpoint, 499);
            log_end(x, false);
            exchange_end(x);
            http_reply(x->http, 500, NULL, NULL); /* nobody reads it */
            return;
        }
    }
    if (went_well(x)) {
        x->writer.ops->body(&x->writer, &b);
    }
    if (!went_well(x) || b.failed) {
        struct api_error e = {0};
        buf_free(&b);
        writer_fault(&x->writer, &e);
        reply_error(x, &e);
    } else {
        trace_text(x->s->trace, x->id, "sent", buf_slice(&b));
        reply_json(x, 200, &b);
        log_end(x, true);
    }
    exchange_end(x);
}

/* ---- from the body to the job ---- */

static int read_prompt(struct exchange *x, enum protocol proto, struct ids *ids,
                       bool *in_reasoning, struct api_error *e)
{
    struct server *s = x->s;
    struct buf text = {0};
    x->reading = true;
    int rc = request_read(&x->request, proto, http_body(x->http), &s->policy, e);
    if (rc == 0) {
        x->salt = auth_salt(&s->auth, x->key, x->request.cache_salt);
        rc = request_prompt(&x->request, &s->policy, s->replay, x->salt, ids, in_reasoning,
                            s->trace ? &text : NULL, e);
    }
    if (rc == 0 && s->trace) {
        trace_text(s->trace, x->id, "prompt", buf_slice(&text));
        trace_ids(s->trace, x->id, "prompt_ids", ids->p, ids->n);
    }
    buf_free(&text);
    return rc;
}

static int submit(struct exchange *x, struct ids *ids, bool in_reasoning, struct api_error *e)
{
    struct server *s = x->s;
    struct job_spec spec = {0};
    enum submit how;
    uint32_t n_prompt = (uint32_t)MIN(ids->n, (size_t)UINT32_MAX);
    double start = clock_now();
    if (request_job(&spec, &x->request, &s->policy, ids, in_reasoning, e) != 0) {
        return -1;
    }
    if (spec.constraint) {
        metrics_observe(&s->metrics.grammar, clock_now() - start);
    }
    memcpy(spec.id, x->id, sizeof spec.id);
    spec.key = (uint32_t)x->key;
    spec.salt = x->salt;
    x->job = sched_submit(s->sched, &spec, &how);
    if (!x->job) {
        switch (how) {
        case SUBMIT_FULL:
            return api_fail(e, API_BUSY, NULL, "%u requests are waiting already: try again",
                            s->cfg.max_queue);
        case SUBMIT_STOPPING:
            return api_fail(e, API_UNAVAILABLE, NULL, "the server is shutting down");
        default: return api_fail(e, API_ENGINE, NULL, "out of memory");
        }
    }
    x->reader.job = x->job;
    writer_init(&x->writer, &x->request, s->model->tok, n_prompt, in_reasoning);
    x->writing = true;
    return 0;
}

void handle_generate(struct exchange *x, enum protocol proto)
{
    struct ids ids = {0};
    struct api_error e = {0};
    bool in_reasoning = false;
    int rc = read_prompt(x, proto, &ids, &in_reasoning, &e);
    rc = rc ? rc : submit(x, &ids, in_reasoning, &e);
    ids_free(&ids);
    if (rc) {
        exchange_end(x);
        reply_error(x, &e);
    } else if (x->request.stream) {
        reply_stream(x);
    } else {
        reply_body(x);
    }
}

void handle_count_tokens(struct exchange *x)
{
    struct ids ids = {0};
    struct api_error e = {0};
    struct buf b = {0};
    bool in_reasoning;
    if (read_prompt(x, PROTO_MESSAGES, &ids, &in_reasoning, &e) != 0) {
        reply_error(x, &e);
    } else {
        buf_addf(&b, "{\"input_tokens\":%zu}", ids.n);
        reply_json(x, 200, &b);
    }
    ids_free(&ids);
    exchange_end(x);
}
