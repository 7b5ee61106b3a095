/* sse.c - see sse.h: collecting an answer, ids, and the pieces of JSON that several protocols
 * have in common. */
#include "server/sse.h"

#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "base/rng.h"

void random_id(char out[48], const char *prefix)
{
    struct sip_key k = sip_key_random();
    snprintf(out, 48, "%s%016llx%016llx", prefix, (unsigned long long)k.k[0],
             (unsigned long long)k.k[1]);
}

void writer_init(struct writer *w, const struct api_request *req, const struct tokenizer *tok,
                 uint32_t n_prompt, bool thinks)
{
    static const struct {
        const struct writer_ops *ops;
        const char *prefix;
    } kinds[] = {
        [PROTO_CHAT] = {&chat_writer, "chatcmpl-"},
        [PROTO_COMPLETIONS] = {&completions_writer, "cmpl-"},
        [PROTO_RESPONSES] = {&responses_writer, "resp_"},
        [PROTO_MESSAGES] = {&messages_writer, "msg_"},
    };
    *w = (struct writer){.ops = kinds[req->proto].ops,
                         .req = req,
                         .tok = tok,
                         .n_prompt = n_prompt,
                         .thinks = thinks,
                         .created = (int64_t)time(NULL),
                         .fingerprint = "fathom-" FATHOM_VERSION};
    random_id(w->id, kinds[req->proto].prefix);
}

void writer_fini(struct writer *w)
{
    struct out_message *m = &w->msg;
    for (size_t i = 0; i < m->n_call; i++) {
        buf_free(&m->call[i].name);
        buf_free(&m->call[i].args);
    }
    mem_free(m->call);
    mem_free(m->logprob);
    buf_free(&m->reasoning);
    buf_free(&m->content);
    buf_free(&m->why);
    buf_free(&w->prefix);
    buf_free(&w->items);
    buf_free(&w->pending);
}

/* ---- collecting ---- */

static void note_call(struct writer *w, struct slice name)
{
    struct out_message *m = &w->msg;
    if (m->n_call == m->cap_call) {
        size_t cap = m->cap_call ? m->cap_call * 2 : 4;
        struct out_call *p = mem_realloc(m->call, cap, sizeof *p);
        if (!p) {
            m->failed = true;
            return;
        }
        m->call = p;
        m->cap_call = cap;
    }
    struct out_call *c = &m->call[m->n_call++];
    *c = (struct out_call){.tool = request_tool(w->req, name)};
    random_id(c->id, w->req->proto == PROTO_MESSAGES ? "toolu_" : "call_");
    buf_add_slice(&c->name, name);
}

static void note_logprobs(struct out_message *m, const struct job_logprob *l, size_t n)
{
    if (n == 0) {
        return;
    }
    if (m->n_logprob + n > m->cap_logprob) {
        size_t cap = MAX(m->n_logprob + n, m->cap_logprob * 2);
        struct job_logprob *p = mem_realloc(m->logprob, cap, sizeof *p);
        if (!p) {
            m->failed = true;
            return;
        }
        m->logprob = p;
        m->cap_logprob = cap;
    }
    memcpy(m->logprob + m->n_logprob, l, n * sizeof *l);
    m->n_logprob += n;
}

void writer_note(struct writer *w, const struct job_event *ev, struct slice text,
                 const struct job_logprob *logprob)
{
    struct out_message *m = &w->msg;
    struct out_call *c = m->n_call ? &m->call[m->n_call - 1] : NULL;
    switch (ev->kind) {
    case JOB_EV_START:
        m->started = true;
        m->cached = ev->n;
        break;
    case JOB_EV_REASONING: buf_add_slice(&m->reasoning, text); break;
    case JOB_EV_CONTENT:
        buf_add_slice(&m->content, text);
        note_logprobs(m, logprob, ev->logprob_n);
        break;
    case JOB_EV_CALL: note_call(w, text); break;
    case JOB_EV_ARGUMENTS:
        if (c) {
            buf_add_slice(&c->args, text);
        }
        break;
    case JOB_EV_CALL_END:
        if (c) {
            c->ended = true;
        }
        break;
    case JOB_EV_END:
        m->ended = true;
        m->finish = ev->finish;
        m->stop_index = ev->n;
        buf_add_slice(&m->why, text);
        break;
    }
    m->failed = m->failed || m->reasoning.failed || m->content.failed ||
                (c && (c->args.failed || c->name.failed));
}

/* ---- pieces ---- */

void sse_begin(struct buf *out, const char *event)
{
    if (event) {
        buf_adds(out, "event: ");
        buf_adds(out, event);
        buf_addc(out, '\n');
    }
    buf_adds(out, "data: ");
}

void sse_end(struct buf *out)
{
    buf_adds(out, "\n\n");
}

void add_str(struct buf *out, const char *key, struct slice value)
{
    buf_addc(out, '"');
    buf_adds(out, key);
    buf_adds(out, "\":");
    json_write_str(out, value);
}

static void add_token(struct buf *out, const struct writer *w, uint32_t id, float logprob)
{
    struct slice bytes = tokenizer_bytes(w->tok, id);
    add_str(out, "token", bytes);
    buf_adds(out, ",\"logprob\":");
    json_write_double(out, (double)logprob < -9999.0 ? -9999.0 : (double)logprob);
    buf_adds(out, ",\"bytes\":[");
    for (size_t i = 0; i < bytes.n; i++) {
        buf_addf(out, i ? ",%u" : "%u", (unsigned char)bytes.p[i]);
    }
    buf_addc(out, ']');
}

void add_logprob(struct buf *out, const struct writer *w, const struct job_logprob *l)
{
    uint32_t n = MIN(l->n_top, w->req->top_logprobs);
    buf_addc(out, '{');
    add_token(out, w, l->id, l->logprob);
    buf_adds(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < n; i++) {
        buf_adds(out, i ? ",{" : "{");
        add_token(out, w, l->top[i].id, l->top[i].logprob);
        buf_addc(out, '}');
    }
    buf_adds(out, "]}");
}

void add_logprobs(struct buf *out, const struct writer *w, const struct job_logprob *l,
                  size_t n)
{
    buf_addc(out, '[');
    for (size_t i = 0; i < n; i++) {
        buf_adds(out, i ? "," : "");
        add_logprob(out, w, &l[i]);
    }
    buf_addc(out, ']');
}

const char *chat_finish_word(const struct writer *w)
{
    switch (w->msg.finish) {
    case FINISH_LENGTH:
    case FINISH_CONTEXT: return "length";
    case FINISH_CALLS: return "tool_calls";
    default: return "stop";
    }
}

void writer_fault(const struct writer *w, struct api_error *e)
{
    const struct out_message *m = &w->msg;
    if (m->finish == FINISH_SHUTDOWN && m->ended) {
        api_fail(e, API_UNAVAILABLE, NULL, "the server is shutting down");
    } else if (m->failed || !m->ended) {
        api_fail(e, API_ENGINE, NULL, "out of memory");
    } else {
        api_fail(e, API_ENGINE, NULL, "%s", m->why.n ? buf_cstr(&m->why) : "engine fault");
    }
}
