/* responses_out.c - OpenAI Responses on the wire: every item with its whole life (added, parts,
 * deltas, done), numbered events, and the full response object at the end. The body of a request
 * without stream is that object.
 *
 * A call that was cut off gets no done event and is not in the final response: clients act on
 * finished call items. Arguments of free-form (custom) tools are unpacked from the JSON object
 * in which the model writes them, as they come. */
#include "server/sse.h"

#include <stdio.h>

enum item { ITEM_NONE, ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL, ITEM_CUSTOM };

static const char *status_of(const struct writer *w)
{
    if (!w->msg.ended) {
        return "in_progress";
    }
    switch (w->msg.finish) {
    case FINISH_LENGTH:
    case FINISH_CONTEXT: return "incomplete";
    case FINISH_FAULT:
    case FINISH_SHUTDOWN: return "failed";
    default: return "completed";
    }
}

static void add_field(struct buf *out, const struct writer *w, const char *key,
                      const char *absent)
{
    const struct json *v = json_get(&w->req->body, key);
    buf_addf(out, ",\"%s\":", key);
    if (v && v->type != JSON_NULL) {
        json_write_compact(out, v);
    } else {
        buf_adds(out, absent);
    }
}

static void add_usage(struct buf *out, const struct writer *w)
{
    const struct job_usage *u = &w->msg.usage;
    buf_addf(out,
             "{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u},"
             "\"output_tokens\":%u,\"output_tokens_details\":{\"reasoning_tokens\":%u},"
             "\"total_tokens\":%u}",
             u->prompt, MIN(u->cached, u->prompt), u->output, u->reasoning,
             u->prompt + u->output);
}

/* The response object, with the items that are finished. */
static void add_response(struct buf *out, const struct writer *w, const struct api_error *e)
{
    const char *status = e ? "failed" : status_of(w);
    bool incomplete = strcmp(status, "incomplete") == 0;
    buf_adds(out, "{");
    add_str(out, "id", slice_of(w->id));
    buf_addf(out, ",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"error\":",
             (long long)w->created, status);
    if (e) {
        buf_adds(out, "{\"code\":\"server_error\",");
        add_str(out, "message", slice_of(e->msg));
        buf_adds(out, "}");
    } else {
        buf_adds(out, "null");
    }
    buf_adds(out, incomplete ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                             : ",\"incomplete_details\":null");
    add_field(out, w, "instructions", "null");
    add_field(out, w, "max_output_tokens", "null");
    buf_addc(out, ',');
    add_str(out, "model", w->req->model);
    buf_adds(out, ",\"output\":[");
    buf_add_slice(out, buf_slice(&w->items));
    buf_addc(out, ']');
    add_field(out, w, "parallel_tool_calls", "true");
    buf_adds(out, ",\"previous_response_id\":null");
    add_field(out, w, "reasoning", "{\"effort\":null,\"summary\":null}");
    buf_adds(out, ",\"store\":false");
    add_field(out, w, "temperature", "1.0");
    add_field(out, w, "text", "{\"format\":{\"type\":\"text\"}}");
    add_field(out, w, "tool_choice", "\"auto\"");
    add_field(out, w, "tools", "[]");
    add_field(out, w, "top_p", "1.0");
    buf_adds(out, ",\"truncation\":\"disabled\",\"usage\":");
    if (w->msg.ended && !e) {
        add_usage(out, w);
    } else {
        buf_adds(out, "null");
    }
    add_field(out, w, "metadata", "{}");
    buf_adds(out, "}");
}

/* {"type":TYPE,"sequence_number":N, and the caller goes on with the rest. */
static void event_begin(struct writer *w, const char *type, struct buf *out)
{
    sse_begin(out, type);
    buf_addf(out, "{\"type\":\"%s\",\"sequence_number\":%u", type, w->sequence++);
}

static void event_end(struct buf *out)
{
    buf_addc(out, '}');
    sse_end(out);
}

static void response_event(struct writer *w, const char *type, const struct api_error *e,
                           struct buf *out)
{
    event_begin(w, type, out);
    buf_adds(out, ",\"response\":");
    add_response(out, w, e);
    event_end(out);
}

/* ,"item_id":...,"output_index":N,"<part>_index":0 */
static void add_place(const struct writer *w, const char *part, struct buf *out)
{
    buf_addc(out, ',');
    add_str(out, "item_id", slice_of(w->item));
    buf_addf(out, ",\"output_index\":%u", w->index);
    if (part) {
        buf_addf(out, ",\"%s_index\":0", part);
    }
}

/* ---- items ---- */

static struct slice open_text(const struct writer *w)
{
    const struct buf *b = w->open == ITEM_REASONING ? &w->msg.reasoning : &w->msg.content;
    return (struct slice){buf_cstr(b) + w->part_at, b->n - w->part_at};
}

static void add_part(const struct writer *w, struct slice text, bool logprobs, struct buf *out)
{
    if (w->open == ITEM_REASONING) {
        buf_adds(out, "{\"type\":\"summary_text\",");
        add_str(out, "text", text);
        buf_adds(out, "}");
        return;
    }
    buf_adds(out, "{\"type\":\"output_text\",");
    add_str(out, "text", text);
    buf_adds(out, ",\"annotations\":[],\"logprobs\":");
    add_logprobs(out, w, w->msg.logprob, logprobs ? w->msg.n_logprob : 0);
    buf_addc(out, '}');
}

/* The item as it stands: just added (done false), or finished. */
static void add_item(const struct writer *w, bool done, struct buf *out)
{
    const struct out_call *c = w->msg.n_call ? &w->msg.call[w->msg.n_call - 1] : NULL;
    bool cut = strcmp(status_of(w), "incomplete") == 0;
    const char *status = !done ? "in_progress" : cut ? "incomplete" : "completed";
    buf_adds(out, "{");
    add_str(out, "id", slice_of(w->item));
    if (w->open == ITEM_REASONING) {
        buf_adds(out, ",\"type\":\"reasoning\",\"summary\":[");
        if (done) {
            add_part(w, open_text(w), false, out);
        }
        buf_addf(out, "],\"content\":null,\"encrypted_content\":%s,\"status\":\"%s\"}",
                 w->req->seal_reasoning ? "\"" SSE_OPAQUE "\"" : "null", status);
    } else if (w->open == ITEM_MESSAGE) {
        buf_addf(out,
                 ",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"%s\","
                 "\"content\":[",
                 status);
        if (done) {
            add_part(w, open_text(w), true, out);
        }
        buf_adds(out, "]}");
    } else {
        bool custom = w->open == ITEM_CUSTOM;
        buf_addf(out, ",\"type\":\"%s\",", custom ? "custom_tool_call" : "function_call");
        add_str(out, "call_id", slice_of(c->id));
        buf_addc(out, ',');
        add_str(out, "name", c->tool ? c->tool->name : buf_slice(&c->name));
        if (c->tool && c->tool->space.n) {
            buf_addc(out, ',');
            add_str(out, "namespace", c->tool->space);
        }
        buf_addc(out, ',');
        struct slice args = custom ? buf_slice(&w->pending) : buf_slice(&c->args);
        add_str(out, custom ? "input" : "arguments", done ? args : (struct slice){"", 0});
        buf_addf(out, ",\"status\":\"%s\"}", status);
    }
}

static void item_begin(struct writer *w, enum item kind, struct buf *out)
{
    static const char *const prefix[] = {"", "rs_", "msg_", "fc_", "ctc_"};
    w->open = kind;
    random_id(w->item, prefix[kind]);
    w->part_at = kind == ITEM_REASONING ? 0 : w->part_at;
    event_begin(w, "response.output_item.added", out);
    buf_addf(out, ",\"output_index\":%u,\"item\":", w->index);
    add_item(w, false, out);
    event_end(out);
    if (kind == ITEM_REASONING || kind == ITEM_MESSAGE) {
        bool r = kind == ITEM_REASONING;
        event_begin(w,
                    r ? "response.reasoning_summary_part.added" : "response.content_part.added",
                    out);
        add_place(w, r ? "summary" : "content", out);
        buf_adds(out, ",\"part\":");
        add_part(w, (struct slice){"", 0}, false, out);
        event_end(out);
    }
}

static void text_done(struct writer *w, struct buf *out)
{
    bool r = w->open == ITEM_REASONING;
    const char *part = r ? "summary" : "content";
    event_begin(w, r ? "response.reasoning_summary_text.done" : "response.output_text.done",
                out);
    add_place(w, part, out);
    buf_addc(out, ',');
    add_str(out, "text", open_text(w));
    if (!r) {
        buf_adds(out, ",\"logprobs\":");
        add_logprobs(out, w, w->msg.logprob, w->msg.n_logprob);
    }
    event_end(out);
    event_begin(w, r ? "response.reasoning_summary_part.done" : "response.content_part.done",
                out);
    add_place(w, part, out);
    buf_adds(out, ",\"part\":");
    add_part(w, open_text(w), true, out);
    event_end(out);
}

static void call_done(struct writer *w, struct buf *out)
{
    const struct out_call *c = &w->msg.call[w->msg.n_call - 1];
    bool custom = w->open == ITEM_CUSTOM;
    event_begin(w,
                custom ? "response.custom_tool_call_input.done"
                       : "response.function_call_arguments.done",
                out);
    add_place(w, NULL, out);
    buf_addc(out, ',');
    if (custom) {
        add_str(out, "input", buf_slice(&w->pending));
    } else {
        add_str(out, "name", c->tool ? c->tool->name : buf_slice(&c->name));
        buf_addc(out, ',');
        add_str(out, "arguments", buf_slice(&c->args));
    }
    event_end(out);
}

static void item_end(struct writer *w, struct buf *out)
{
    bool call = w->open == ITEM_CALL || w->open == ITEM_CUSTOM;
    if (w->open == ITEM_NONE) {
        return;
    }
    if (call && !w->msg.call[w->msg.n_call - 1].ended) {
        w->open = ITEM_NONE; /* cut off */
        return;
    }
    if (call) {
        call_done(w, out);
    } else {
        text_done(w, out);
    }
    event_begin(w, "response.output_item.done", out);
    buf_addf(out, ",\"output_index\":%u,\"item\":", w->index);
    add_item(w, true, out);
    event_end(out);
    if (w->items.n) {
        buf_addc(&w->items, ',');
    }
    add_item(w, true, &w->items);
    if (w->open == ITEM_MESSAGE) {
        w->part_at = w->msg.content.n;
    }
    w->index++;
    w->open = ITEM_NONE;
}

/* ---- free-form tools: {"input": "..."} to its text, as it comes ---- */

enum { UN_BEFORE, UN_KEY, UN_COLON, UN_TEXT, UN_ESCAPE, UN_HEX, UN_AFTER };

static void unescaped(struct writer *w, char c, struct buf *out)
{
    static const char from[] = "nrtbf", to[] = "\n\r\t\b\f";
    const char *p = memchr(from, c, sizeof from - 1);
    buf_addc(out, p ? to[p - from] : c);
    w->unescape = UN_TEXT;
}

/* State in w->unescape (with the digits of \uXXXX so far above bit 8). */
static void unpack(struct writer *w, struct slice text, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        int state = w->unescape & 0xff;
        if (state == UN_BEFORE || state == UN_KEY) {
            w->unescape = c == '"' ? state + 1 : state; /* opening, then closing quote */
        } else if (state == UN_COLON) {
            w->unescape = c == '"' ? UN_TEXT : state;
        } else if (state == UN_TEXT && c == '\\') {
            w->unescape = UN_ESCAPE;
        } else if (state == UN_TEXT && c == '"') {
            w->unescape = UN_AFTER;
        } else if (state == UN_TEXT) {
            buf_addc(out, c);
        } else if (state == UN_ESCAPE && c == 'u') {
            w->unescape = UN_HEX | 1 << 8; /* a leading 1 counts the digits */
        } else if (state == UN_ESCAPE) {
            unescaped(w, c, out);
        } else if (state == UN_HEX) {
            int digit = c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
            int value = (w->unescape >> 8) << 4 | (digit & 15);
            w->unescape = UN_HEX | value << 8;
            if (value >> 16) { /* only control characters are written this way */
                char utf8[4];
                buf_add(out, utf8, (size_t)utf8_encode((uint32_t)value & 0xffff, utf8));
                w->unescape = UN_TEXT;
            }
        }
    }
}

/* ---- the stream ---- */

static void begin(struct writer *w, struct buf *out)
{
    response_event(w, "response.created", NULL, out);
    response_event(w, "response.in_progress", NULL, out);
    w->begun = true;
}

static void text_delta(struct writer *w, enum item kind, struct slice text,
                       const struct job_logprob *l, size_t n, struct buf *out)
{
    bool r = kind == ITEM_REASONING;
    event_begin(w, r ? "response.reasoning_summary_text.delta" : "response.output_text.delta",
                out);
    add_place(w, r ? "summary" : "content", out);
    buf_addc(out, ',');
    add_str(out, "delta", text);
    if (!r) {
        buf_adds(out, ",\"logprobs\":");
        add_logprobs(out, w, l, n);
    }
    event_end(out);
}

static void in_text(struct writer *w, enum item kind, struct slice text, struct buf *out)
{
    if (w->open == (int)kind) {
        return;
    }
    item_end(w, out);
    /* the message has this text already: the part begins before it */
    w->part_at = (kind == ITEM_REASONING ? w->msg.reasoning.n : w->msg.content.n) - text.n;
    item_begin(w, kind, out);
}

static void arguments(struct writer *w, struct slice text, struct buf *out)
{
    struct buf plain = {0};
    bool custom = w->open == ITEM_CUSTOM;
    if (custom) {
        unpack(w, text, &plain);
        buf_add_slice(&w->pending, buf_slice(&plain));
        text = buf_slice(&plain);
    }
    if (text.n > 0) {
        event_begin(w,
                    custom ? "response.custom_tool_call_input.delta"
                           : "response.function_call_arguments.delta",
                    out);
        add_place(w, NULL, out);
        buf_addc(out, ',');
        add_str(out, "delta", text);
        event_end(out);
    }
    buf_free(&plain);
}

static void event(struct writer *w, const struct job_event *ev, struct slice text,
                  const struct job_logprob *logprob, struct buf *out)
{
    const struct api_tool *tool;
    switch (ev->kind) {
    case JOB_EV_REASONING:
        in_text(w, ITEM_REASONING, text, out);
        text_delta(w, ITEM_REASONING, text, NULL, 0, out);
        break;
    case JOB_EV_CONTENT:
        in_text(w, ITEM_MESSAGE, text, out);
        text_delta(w, ITEM_MESSAGE, text, logprob, ev->logprob_n, out);
        break;
    case JOB_EV_CALL:
        item_end(w, out);
        tool = w->msg.n_call ? w->msg.call[w->msg.n_call - 1].tool : NULL;
        w->unescape = UN_BEFORE;
        buf_clear(&w->pending);
        item_begin(w, tool && tool->custom ? ITEM_CUSTOM : ITEM_CALL, out);
        break;
    case JOB_EV_ARGUMENTS:
        if (w->open == ITEM_CALL || w->open == ITEM_CUSTOM) {
            arguments(w, text, out);
        }
        break;
    case JOB_EV_CALL_END: item_end(w, out); break;
    default: break;
    }
}

static void keepalive(struct writer *w, struct buf *out)
{
    response_event(w, "response.in_progress", NULL, out);
}

static void end(struct writer *w, struct buf *out)
{
    item_end(w, out);
    bool incomplete = strcmp(status_of(w), "incomplete") == 0;
    response_event(w, incomplete ? "response.incomplete" : "response.completed", NULL, out);
}

static void error(struct writer *w, const struct api_error *e, struct buf *out)
{
    response_event(w, "response.failed", e, out);
}

/* The same items, made by running the events of the collected answer into nowhere. */
static void body(struct writer *w, struct buf *out)
{
    struct buf nowhere = {0};
    struct out_message *m = &w->msg;
    size_t n_call = m->n_call;
    if (m->reasoning.n) {
        in_text(w, ITEM_REASONING, buf_slice(&m->reasoning), &nowhere);
        item_end(w, &nowhere);
    }
    if (m->content.n) {
        in_text(w, ITEM_MESSAGE, buf_slice(&m->content), &nowhere);
        item_end(w, &nowhere);
    }
    for (size_t i = 0; i < n_call; i++) {
        m->n_call = i + 1;
        event(w, &(struct job_event){.kind = JOB_EV_CALL}, (struct slice){"", 0}, NULL,
              &nowhere);
        arguments(w, buf_slice(&m->call[i].args), &nowhere);
        item_end(w, &nowhere);
    }
    m->n_call = n_call;
    add_response(out, w, NULL);
    buf_free(&nowhere);
}

const struct writer_ops responses_writer = {.begin = begin,
                                            .event = event,
                                            .keepalive = keepalive,
                                            .end = end,
                                            .error = error,
                                            .body = body};
