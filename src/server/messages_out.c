/* messages_out.c - Anthropic Messages on the wire. A stream is: message_start; for each block
 * start, deltas, stop; message_delta; message_stop.
 *
 * Clients count only real events against their time limits, so while a prompt is computed empty
 * deltas of an open block are sent: of the thinking block when the answer thinks (it is opened
 * with the first keepalive or event), else of a text block that is opened for this when the
 * wait gets long. */
#include "server/sse.h"

enum block { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_CALL };

/* Opaque to clients, who send it back; never looked at. */
static const char signature[] = SSE_OPAQUE;

static void add_usage(const struct writer *w, struct buf *out, uint32_t prompt, uint32_t cached,
                      uint32_t output)
{
    (void)w;
    cached = MIN(cached, prompt);
    buf_addf(out,
             "{\"input_tokens\":%u,\"cache_creation_input_tokens\":0,"
             "\"cache_read_input_tokens\":%u,\"output_tokens\":%u}",
             prompt - cached, cached, output);
}

static void start_message(struct writer *w, struct buf *out)
{
    if (w->begun) {
        return;
    }
    w->begun = true;
    sse_begin(out, "message_start");
    buf_adds(out, "{\"type\":\"message_start\",\"message\":{");
    add_str(out, "id", slice_of(w->id));
    buf_adds(out, ",\"type\":\"message\",\"role\":\"assistant\",");
    add_str(out, "model", w->req->model);
    buf_adds(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    add_usage(w, out, w->n_prompt, w->msg.cached, 1);
    buf_adds(out, "}}");
    sse_end(out);
}

static void block_begin(struct writer *w, enum block kind, struct buf *out)
{
    w->open = kind;
    sse_begin(out, "content_block_start");
    buf_addf(out, "{\"type\":\"content_block_start\",\"index\":%u,\"content_block\":{",
             w->index);
    if (kind == BLOCK_THINKING) {
        buf_adds(out, "\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}");
    } else if (kind == BLOCK_TEXT) {
        buf_adds(out, "\"type\":\"text\",\"text\":\"\"}}");
    } else {
        const struct out_call *c = &w->msg.call[w->msg.n_call - 1];
        buf_adds(out, "\"type\":\"tool_use\",");
        add_str(out, "id", slice_of(c->id));
        buf_addc(out, ',');
        add_str(out, "name", buf_slice(&c->name));
        buf_adds(out, ",\"input\":{}}}");
    }
    sse_end(out);
}

static void block_delta(struct writer *w, struct slice text, struct buf *out)
{
    static const struct {
        const char *type, *key;
    } kinds[] = {[BLOCK_THINKING] = {"thinking_delta", "thinking"},
                 [BLOCK_TEXT] = {"text_delta", "text"},
                 [BLOCK_CALL] = {"input_json_delta", "partial_json"}};
    sse_begin(out, "content_block_delta");
    buf_addf(out, "{\"type\":\"content_block_delta\",\"index\":%u,\"delta\":{\"type\":\"%s\",",
             w->index, kinds[w->open].type);
    add_str(out, kinds[w->open].key, text);
    buf_adds(out, "}}");
    sse_end(out);
}

static void block_end(struct writer *w, struct buf *out)
{
    if (w->open == BLOCK_NONE) {
        return;
    }
    if (w->open == BLOCK_THINKING) {
        sse_begin(out, "content_block_delta");
        buf_addf(out,
                 "{\"type\":\"content_block_delta\",\"index\":%u,\"delta\":{\"type\":"
                 "\"signature_delta\",\"signature\":\"%s\"}}",
                 w->index, signature);
        sse_end(out);
    }
    sse_begin(out, "content_block_stop");
    buf_addf(out, "{\"type\":\"content_block_stop\",\"index\":%u}", w->index++);
    sse_end(out);
    w->open = BLOCK_NONE;
}

static void in_block(struct writer *w, enum block kind, struct buf *out)
{
    start_message(w, out);
    if (w->open != (int)kind) {
        block_end(w, out);
        block_begin(w, kind, out);
    }
}

/* ---- the stream ---- */

static void begin(struct writer *w, struct buf *out)
{
    (void)w; /* the start event or the first keepalive begins: then the cache is known */
    (void)out;
}

static void event(struct writer *w, const struct job_event *ev, struct slice text,
                  const struct job_logprob *logprob, struct buf *out)
{
    (void)logprob;
    switch (ev->kind) {
    case JOB_EV_START:
        start_message(w, out);
        if (w->thinks) {
            in_block(w, BLOCK_THINKING, out);
        }
        break;
    case JOB_EV_REASONING:
        in_block(w, BLOCK_THINKING, out);
        block_delta(w, w->req->omit_thinking ? (struct slice){"", 0} : text, out);
        break;
    case JOB_EV_CONTENT:
        in_block(w, BLOCK_TEXT, out);
        block_delta(w, text, out);
        break;
    case JOB_EV_CALL:
        start_message(w, out);
        block_end(w, out);
        block_begin(w, BLOCK_CALL, out);
        break;
    case JOB_EV_ARGUMENTS:
        if (w->open == BLOCK_CALL) {
            block_delta(w, text, out);
        }
        break;
    case JOB_EV_CALL_END: block_end(w, out); break;
    case JOB_EV_END: break;
    }
}

static void keepalive(struct writer *w, struct buf *out)
{
    start_message(w, out);
    if (w->open == BLOCK_NONE && w->msg.n_call > 0) {
        sse_begin(out, "ping"); /* between calls there is nothing that can be added to */
        buf_adds(out, "{\"type\":\"ping\"}");
        sse_end(out);
        return;
    }
    if (w->open == BLOCK_NONE) {
        in_block(w, w->thinks && w->index == 0 ? BLOCK_THINKING : BLOCK_TEXT, out);
    }
    block_delta(w, (struct slice){"", 0}, out);
}

static const char *stop_reason(const struct writer *w)
{
    switch (w->msg.finish) {
    case FINISH_LENGTH: return "max_tokens";
    case FINISH_CONTEXT:
        return w->req->max_tokens ? "max_tokens" : "model_context_window_exceeded";
    case FINISH_CALLS: return "tool_use";
    case FINISH_STRING: return "stop_sequence";
    default: return "end_turn";
    }
}

static void add_stop_sequence(const struct writer *w, struct buf *out)
{
    buf_adds(out, "\"stop_sequence\":");
    if (w->msg.finish == FINISH_STRING && w->msg.stop_index < w->req->n_stop) {
        json_write_str(out, w->req->stop[w->msg.stop_index]);
    } else {
        buf_adds(out, "null");
    }
}

static void end(struct writer *w, struct buf *out)
{
    const struct job_usage *u = &w->msg.usage;
    start_message(w, out);
    block_end(w, out);
    sse_begin(out, "message_delta");
    buf_addf(out, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"%s\",",
             stop_reason(w));
    add_stop_sequence(w, out);
    buf_adds(out, "},\"usage\":");
    add_usage(w, out, u->prompt, u->cached, u->output);
    buf_adds(out, "}");
    sse_end(out);
    sse_begin(out, "message_stop");
    buf_adds(out, "{\"type\":\"message_stop\"}");
    sse_end(out);
}

static void error(struct writer *w, const struct api_error *e, struct buf *out)
{
    (void)w;
    sse_begin(out, "error");
    api_error_print(out, e, true, NULL);
    sse_end(out);
}

/* ---- the body ---- */

static void body(struct writer *w, struct buf *out)
{
    const struct out_message *m = &w->msg;
    const char *comma = "";
    buf_adds(out, "{");
    add_str(out, "id", slice_of(w->id));
    buf_adds(out, ",\"type\":\"message\",\"role\":\"assistant\",");
    add_str(out, "model", w->req->model);
    buf_adds(out, ",\"content\":[");
    if (w->thinks) {
        buf_adds(out, "{\"type\":\"thinking\",");
        add_str(out, "thinking",
                w->req->omit_thinking ? (struct slice){"", 0} : buf_slice(&m->reasoning));
        buf_addf(out, ",\"signature\":\"%s\"}", signature);
        comma = ",";
    }
    if (m->content.n > 0) {
        buf_addf(out, "%s{\"type\":\"text\",", comma);
        add_str(out, "text", buf_slice(&m->content));
        buf_addc(out, '}');
        comma = ",";
    }
    for (size_t i = 0; i < m->n_call; i++) {
        const struct out_call *c = &m->call[i];
        struct arena a = {0};
        struct json args;
        if (!c->ended) {
            continue;
        }
        buf_addf(out, "%s{\"type\":\"tool_use\",", comma);
        add_str(out, "id", slice_of(c->id));
        buf_addc(out, ',');
        add_str(out, "name", buf_slice(&c->name));
        buf_adds(out, ",\"input\":");
        if (json_read(&args, &a, buf_cstr(&c->args), c->args.n, NULL) == 0) {
            buf_add_slice(out, buf_slice(&c->args));
        } else { /* the model wrote something else: kept as a text */
            buf_adds(out, "{");
            add_str(out, "arguments", buf_slice(&c->args));
            buf_adds(out, "}");
        }
        buf_adds(out, "}");
        arena_fini(&a);
        comma = ",";
    }
    buf_addf(out, "],\"stop_reason\":\"%s\",", stop_reason(w));
    add_stop_sequence(w, out);
    buf_adds(out, ",\"usage\":");
    add_usage(w, out, m->usage.prompt, m->usage.cached, m->usage.output);
    buf_adds(out, "}");
}

const struct writer_ops messages_writer = {.begin = begin,
                                           .event = event,
                                           .keepalive = keepalive,
                                           .end = end,
                                           .error = error,
                                           .body = body};
