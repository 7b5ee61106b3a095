/* chat_out.c - Chat Completions and Completions on the wire: the stream of chunks, and the body.
 * A stream is: role chunk, deltas, one chunk with finish_reason, usage if asked for, [DONE]. */
#include "server/sse.h"

/* {"id":...,"system_fingerprint":...,"choices":[ or with ,"usage":null before choices. */
static void make_prefix(struct writer *w, const char *object)
{
    struct buf *b = &w->prefix;
    buf_adds(b, "{");
    add_str(b, "id", slice_of(w->id));
    buf_addf(b, ",\"object\":\"%s\",\"created\":%lld,", object, (long long)w->created);
    add_str(b, "model", w->req->model);
    buf_addf(b, ",\"system_fingerprint\":\"%s\"", w->fingerprint);
}

static void chunk_begin(struct writer *w, struct buf *out)
{
    sse_begin(out, NULL);
    buf_add_slice(out, buf_slice(&w->prefix));
    buf_adds(out, w->req->include_usage ? ",\"usage\":null,\"choices\":[{\"index\":0,"
                                        : ",\"choices\":[{\"index\":0,");
}

static void add_usage(struct writer *w, struct buf *out)
{
    const struct job_usage *u = &w->msg.usage;
    uint32_t cached = MIN(u->cached, u->prompt);
    buf_addf(out,
             "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,"
             "\"prompt_tokens_details\":{\"cached_tokens\":%u},"
             "\"completion_tokens_details\":{\"reasoning_tokens\":%u},"
             "\"prompt_cache_hit_tokens\":%u,\"prompt_cache_miss_tokens\":%u}",
             u->prompt, u->output, u->prompt + u->output, cached, u->reasoning, cached,
             u->prompt - cached);
}

static void finish_stream(struct writer *w, struct buf *out)
{
    if (w->req->include_usage) {
        sse_begin(out, NULL);
        buf_add_slice(out, buf_slice(&w->prefix));
        buf_adds(out, ",\"choices\":[],\"usage\":");
        add_usage(w, out);
        buf_adds(out, "}");
        sse_end(out);
    }
    sse_begin(out, NULL);
    buf_adds(out, "[DONE]");
    sse_end(out);
}

static void keepalive(struct writer *w, struct buf *out)
{
    (void)w;
    buf_adds(out, ": keepalive\n\n");
}

/* No [DONE]: the client must notice. */
static void error(struct writer *w, const struct api_error *e, struct buf *out)
{
    (void)w;
    sse_begin(out, NULL);
    api_error_print(out, e, false, NULL);
    sse_end(out);
}

/* ---- chat ---- */

static void chat_begin(struct writer *w, struct buf *out)
{
    make_prefix(w, "chat.completion.chunk");
    chunk_begin(w, out);
    buf_adds(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                  "\"finish_reason\":null}]}");
    sse_end(out);
    w->begun = true;
}

static void delta_text(struct writer *w, const char *key, struct slice text,
                       const struct job_logprob *l, size_t n, struct buf *out)
{
    chunk_begin(w, out);
    buf_adds(out, "\"delta\":{");
    add_str(out, key, text);
    buf_adds(out, "},\"logprobs\":");
    if (n > 0) {
        buf_adds(out, "{\"content\":");
        add_logprobs(out, w, l, n);
        buf_adds(out, ",\"refusal\":null}");
    } else {
        buf_adds(out, "null");
    }
    buf_adds(out, ",\"finish_reason\":null}]}");
    sse_end(out);
}

static void delta_call(struct writer *w, struct slice arguments, bool first, struct buf *out)
{
    size_t i = w->msg.n_call - 1;
    const struct out_call *c = &w->msg.call[i];
    chunk_begin(w, out);
    buf_addf(out, "\"delta\":{\"tool_calls\":[{\"index\":%zu,", i);
    if (first) {
        add_str(out, "id", slice_of(c->id));
        buf_adds(out, ",\"type\":\"function\",\"function\":{");
        add_str(out, "name", buf_slice(&c->name));
        buf_addc(out, ',');
    } else {
        buf_adds(out, "\"function\":{");
    }
    add_str(out, "arguments", arguments);
    buf_adds(out, "}}]},\"logprobs\":null,\"finish_reason\":null}]}");
    sse_end(out);
}

static void chat_event(struct writer *w, const struct job_event *ev, struct slice text,
                       const struct job_logprob *logprob, struct buf *out)
{
    switch (ev->kind) {
    case JOB_EV_REASONING: delta_text(w, "reasoning_content", text, NULL, 0, out); break;
    case JOB_EV_CONTENT: delta_text(w, "content", text, logprob, ev->logprob_n, out); break;
    case JOB_EV_CALL: delta_call(w, (struct slice){"", 0}, true, out); break;
    case JOB_EV_ARGUMENTS: delta_call(w, text, false, out); break;
    default: break;
    }
}

static void chat_end(struct writer *w, struct buf *out)
{
    chunk_begin(w, out);
    buf_addf(out, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}]}",
             chat_finish_word(w));
    sse_end(out);
    finish_stream(w, out);
}

static void add_calls(struct writer *w, struct buf *out)
{
    bool any = false;
    for (size_t i = 0; i < w->msg.n_call; i++) {
        const struct out_call *c = &w->msg.call[i];
        if (!c->ended) {
            continue; /* cut off: never returned */
        }
        buf_adds(out, any ? ",{" : ",\"tool_calls\":[{");
        any = true;
        add_str(out, "id", slice_of(c->id));
        buf_adds(out, ",\"type\":\"function\",\"function\":{");
        add_str(out, "name", buf_slice(&c->name));
        buf_addc(out, ',');
        add_str(out, "arguments", buf_slice(&c->args));
        buf_adds(out, "}}");
    }
    buf_adds(out, any ? "]" : "");
}

static void chat_body(struct writer *w, struct buf *out)
{
    const struct out_message *m = &w->msg;
    bool calls = false;
    for (size_t i = 0; i < m->n_call; i++) {
        calls = calls || m->call[i].ended;
    }
    make_prefix(w, "chat.completion");
    buf_add_slice(out, buf_slice(&w->prefix));
    buf_adds(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",");
    if (m->content.n == 0 && calls) {
        buf_adds(out, "\"content\":null");
    } else {
        add_str(out, "content", buf_slice(&m->content));
    }
    buf_adds(out, ",\"refusal\":null");
    if (m->reasoning.n > 0) {
        buf_addc(out, ',');
        add_str(out, "reasoning_content", buf_slice(&m->reasoning));
    }
    add_calls(w, out);
    buf_adds(out, "},\"logprobs\":");
    if (w->req->logprobs) {
        buf_adds(out, "{\"content\":");
        add_logprobs(out, w, m->logprob, m->n_logprob);
        buf_adds(out, ",\"refusal\":null}");
    } else {
        buf_adds(out, "null");
    }
    buf_addf(out, ",\"finish_reason\":\"%s\"}],\"usage\":", chat_finish_word(w));
    add_usage(w, out);
    buf_adds(out, "}");
}

const struct writer_ops chat_writer = {.begin = chat_begin,
                                       .event = chat_event,
                                       .keepalive = keepalive,
                                       .end = chat_end,
                                       .error = error,
                                       .body = chat_body};

/* ---- legacy completions ---- */

/* The old form of log probabilities: parallel arrays. at: offset of the text in the answer. */
static void add_old_logprobs(struct writer *w, const struct job_logprob *l, size_t n, size_t at,
                             struct buf *out)
{
    static const char *const keys[] = {"tokens", "token_logprobs", "text_offset",
                                       "top_logprobs"};
    for (int k = 0; k < 4; k++) {
        size_t offset = at;
        buf_addf(out, "%s\"%s\":[", k ? "," : "{", keys[k]);
        for (size_t i = 0; i < n; i++) {
            struct slice bytes = tokenizer_bytes(w->tok, l[i].id);
            buf_adds(out, i ? "," : "");
            if (k == 0) {
                json_write_str(out, bytes);
            } else if (k == 1) {
                json_write_double(out, (double)l[i].logprob);
            } else if (k == 2) {
                buf_addf(out, "%zu", offset);
            } else {
                buf_addc(out, '{');
                for (uint32_t t = 0; t < MIN(l[i].n_top, w->req->top_logprobs); t++) {
                    buf_adds(out, t ? "," : "");
                    json_write_str(out, tokenizer_bytes(w->tok, l[i].top[t].id));
                    buf_addc(out, ':');
                    json_write_double(out, (double)l[i].top[t].logprob);
                }
                buf_addc(out, '}');
            }
            offset += bytes.n;
        }
        buf_addc(out, ']');
    }
    buf_addc(out, '}');
}

static void add_choice(struct writer *w, struct slice echo, struct slice text,
                       const struct job_logprob *l, size_t n, const char *finish,
                       struct buf *out)
{
    struct buf all = {0};
    buf_add_slice(&all, echo);
    buf_add_slice(&all, text);
    add_str(out, "text", buf_slice(&all));
    buf_adds(out, ",\"logprobs\":");
    if (w->req->logprobs) {
        add_old_logprobs(w, l, n, w->part_at, out);
    } else {
        buf_adds(out, "null");
    }
    w->part_at += text.n;
    if (finish) {
        buf_addf(out, ",\"finish_reason\":\"%s\"", finish);
    } else {
        buf_adds(out, ",\"finish_reason\":null");
    }
    buf_free(&all);
}

static void raw_chunk(struct writer *w, struct slice text, const struct job_logprob *l,
                      size_t n, const char *finish, struct buf *out)
{
    chunk_begin(w, out);
    add_choice(w, (struct slice){"", 0}, text, l, n, finish, out);
    buf_adds(out, "}]}");
    sse_end(out);
}

static struct slice echoed(const struct writer *w, struct buf *room)
{
    if (!w->req->echo) {
        return (struct slice){"", 0};
    }
    if (w->req->raw_text.p) {
        return w->req->raw_text;
    }
    for (size_t i = 0; i < w->req->raw_ids.n; i++) {
        buf_add_slice(room, tokenizer_bytes(w->tok, w->req->raw_ids.p[i]));
    }
    return buf_slice(room);
}

static void raw_begin(struct writer *w, struct buf *out)
{
    struct buf room = {0};
    make_prefix(w, "text_completion");
    w->begun = true;
    struct slice echo = echoed(w, &room);
    if (echo.n > 0) {
        raw_chunk(w, echo, NULL, 0, NULL, out);
        w->part_at = 0;
    }
    buf_free(&room);
}

static void raw_event(struct writer *w, const struct job_event *ev, struct slice text,
                      const struct job_logprob *logprob, struct buf *out)
{
    if (ev->kind == JOB_EV_CONTENT) {
        raw_chunk(w, text, logprob, ev->logprob_n, NULL, out);
    }
}

static void raw_end(struct writer *w, struct buf *out)
{
    raw_chunk(w, (struct slice){"", 0}, NULL, 0, chat_finish_word(w), out);
    finish_stream(w, out);
}

static void raw_body(struct writer *w, struct buf *out)
{
    struct buf room = {0};
    make_prefix(w, "text_completion");
    buf_add_slice(out, buf_slice(&w->prefix));
    buf_adds(out, ",\"choices\":[{\"index\":0,");
    add_choice(w, echoed(w, &room), buf_slice(&w->msg.content), w->msg.logprob,
               w->msg.n_logprob, chat_finish_word(w), out);
    buf_adds(out, "}],\"usage\":");
    add_usage(w, out);
    buf_adds(out, "}");
    buf_free(&room);
}

const struct writer_ops completions_writer = {.begin = raw_begin,
                                              .event = raw_event,
                                              .keepalive = keepalive,
                                              .end = raw_end,
                                              .error = error,
                                              .body = raw_body};
