/* request.c - what the protocols share on the way from a body to a job: fields that mean the
 * same everywhere, messages, the mapping of reasoning efforts, the prompt. The rules are those of
 * the API table: unknown fields are ignored, known ones are checked. Read next: request_tools.c
 * (tools), openai_chat.c, messages.c, responses.c (what differs), sched.c (where the job goes). */
#include "server/request.h"

#include <stdio.h>

#include "base/log.h"
#include "base/rng.h"

void request_fini(struct api_request *r)
{
    ids_free(&r->raw_ids);
    arena_fini(&r->arena);
}

void no_memory(const struct fields *f)
{
    api_fail(f->e, API_ENGINE, NULL, "out of memory");
}

/* ---- sampling ---- */

static void read_penalties(struct api_request *r, const struct fields *f)
{
    double x;
    if (field_num(f, "frequency_penalty", -2, 2, &x)) {
        r->sampling.frequency_penalty = (float)x;
    }
    if (field_num(f, "presence_penalty", -2, 2, &x)) {
        r->sampling.presence_penalty = (float)x;
    }
    if (field_num(f, "repetition_penalty", 0.1, 10, &x)) {
        r->sampling.repeat_penalty = (float)x;
    }
    const struct json *bias = field(f, "logit_bias");
    if (bias && (bias->type != JSON_OBJECT || bias->n > 0)) {
        field_fail(f, "logit_bias", "is not supported");
    }
}

void read_sampling(struct api_request *r, const struct fields *f, double max_temperature)
{
    double x;
    int64_t i;
    if (field_num(f, "temperature", 0, max_temperature, &x)) {
        r->sampling.temperature = (float)x;
    }
    if (field_num(f, "top_p", 0, 1, &x)) {
        r->sampling.top_p = (float)x;
        if (x <= 0) {
            field_fail(f, "top_p", "must be greater than 0");
        }
    }
    if (field_int(f, "top_k", -1, INT32_MAX, &i)) { /* -1: off, as clients write it */
        r->sampling.top_k = i > 0 ? (uint32_t)i : 0;
    }
    if (field_num(f, "min_p", 0, 1, &x)) {
        r->sampling.min_p = (float)x;
    }
    if (field_int(f, "seed", INT64_MIN, INT64_MAX, &i)) {
        r->sampling.seed = (uint64_t)i;
        r->seed_given = true;
    }
    read_penalties(r, f);
}

static void add_stop(struct api_request *r, const struct fields *f, const char *name,
                     const struct json *v)
{
    struct slice s = json_str(v);
    if (!s.p || s.n > 256 || memchr(s.p, 0, s.n)) {
        field_fail(f, name, "must be strings of at most 256 bytes without NUL");
    } else if (r->n_stop == JOB_MAX_STOP) {
        field_fail(f, name, "at most %d strings", JOB_MAX_STOP);
    } else if (s.n > 0) {
        r->stop[r->n_stop++] = s;
    }
}

void read_stop(struct api_request *r, const struct fields *f, const char *name)
{
    const struct json *v = field(f, name);
    if (v && v->type == JSON_ARRAY) {
        for (size_t i = 0; i < v->n && f->e->fault == API_OK; i++) {
            add_stop(r, f, name, &v->items[i]);
        }
    } else if (v) {
        add_stop(r, f, name, v);
    }
}

void read_max_tokens(struct api_request *r, const struct fields *f, const char *name)
{
    int64_t n;
    if (r->max_tokens == 0 && field_int(f, name, 1, INT64_MAX, &n)) {
        r->max_tokens = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n; /* far above any context */
    }
}

/* ---- messages ---- */

struct chat_message *add_message(struct api_request *r, const struct fields *f,
                                 enum chat_role role, struct slice text)
{
    struct chat_message *m = NULL;
    if (r->conv.n >= MAX_MESSAGES) {
        field_fail(f, "", "more than %d messages", MAX_MESSAGES);
        return NULL;
    }
    m = chat_add(&r->conv, role, text);
    if (!m) {
        no_memory(f);
    }
    return m;
}

struct chat_message *open_assistant(struct api_request *r, const struct fields *f)
{
    struct chat_message *last = r->conv.n ? r->conv.msg[r->conv.n - 1] : NULL;
    return last && last->role == CHAT_ASSISTANT
               ? last
               : add_message(r, f, CHAT_ASSISTANT, (struct slice){0});
}

struct chat_message *next_assistant(struct api_request *r, const struct fields *f)
{
    struct chat_message *last = r->conv.n ? r->conv.msg[r->conv.n - 1] : NULL;
    return last && last->role == CHAT_ASSISTANT && last->n_call == 0
               ? last
               : add_message(r, f, CHAT_ASSISTANT, (struct slice){0});
}

/* What b holds, copied into the arena. */
static struct slice to_arena(struct api_request *r, const struct fields *f, struct buf *b)
{
    char *copy = b->failed ? NULL : arena_strndup(&r->arena, buf_cstr(b), b->n);
    struct slice s = {copy ? copy : "", copy ? b->n : 0};
    if (!copy) {
        no_memory(f);
    }
    buf_free(b);
    return s;
}

struct slice json_text(struct api_request *r, const struct fields *f, const struct json *v)
{
    struct buf b = {0};
    if (v) {
        json_write_compact(&b, v);
    } else {
        buf_adds(&b, "{}");
    }
    return to_arena(r, f, &b);
}

static void join(struct api_request *r, const struct fields *f, struct slice *to,
                 struct slice text)
{
    if (text.n == 0) {
        return;
    }
    if (to->n == 0) {
        *to = text; /* from the request's tree, which lives as long */
        return;
    }
    char *p = arena_alloc(&r->arena, to->n + text.n + 3);
    if (!p) {
        no_memory(f);
        return;
    }
    memcpy(p, to->p, to->n);
    memcpy(p + to->n, "\n\n", 2);
    memcpy(p + to->n + 2, text.p, text.n);
    *to = (struct slice){p, to->n + text.n + 2};
}

void add_content(struct api_request *r, const struct fields *f, struct chat_message *m,
                 struct slice text)
{
    join(r, f, &m->content, text);
}

void add_reasoning(struct api_request *r, const struct fields *f, struct chat_message *m,
                   struct slice text)
{
    join(r, f, &m->reasoning, text);
}

static bool is_text_part(struct slice type)
{
    return slice_is(type, "text") || slice_is(type, "input_text") ||
           slice_is(type, "output_text") || slice_is(type, "summary_text") ||
           slice_is(type, "reasoning_text");
}

/* One part of a content list, behind what out has. */
static void read_part(struct buf *out, const struct fields *part, bool first,
                      const struct request_policy *p)
{
    struct slice type = {0}, text = {0};
    if (!field_str(part, "type", &type)) {
        field_fail(part, "type", "is missing");
        return;
    }
    if (!first) {
        buf_adds(out, "\n\n");
    }
    if (is_text_part(type)) {
        field_str(part, "text", &text);
        buf_add_slice(out, text);
    } else if (slice_is(type, "refusal")) {
        field_str(part, "refusal", &text);
        buf_add_slice(out, text);
    } else if (p->image_placeholder) {
        buf_addf(out, "[Unsupported %.*s]", (int)MIN(type.n, (size_t)64), type.p);
    } else {
        field_fail(part, "type",
                   "\"%.*s\" is not supported: this model reads text only (the server can be "
                   "started with --image-placeholder to leave such parts out)",
                   (int)MIN(type.n, (size_t)64), type.p);
    }
}

struct slice read_text(struct api_request *r, const struct fields *f, const char *name,
                       const struct request_policy *p)
{
    const struct json *v = field(f, name);
    struct buf b = {0};
    struct slice text = {"", 0};
    if (!v) {
        return text;
    }
    if (v->type == JSON_STRING) {
        return (struct slice){v->s, v->n};
    }
    if (v->type != JSON_ARRAY) {
        field_fail(f, name, "must be a string or a list of parts");
        return text;
    }
    for (size_t i = 0; i < v->n && f->e->fault == API_OK; i++) {
        if (v->items[i].type == JSON_STRING) { /* a list of plain strings */
            buf_adds(&b, i ? "\n\n" : "");
            buf_add(&b, v->items[i].s, v->items[i].n);
            continue;
        }
        struct fields part = field_element(f, name, v, i);
        if (part.obj) {
            read_part(&b, &part, i == 0, p);
        }
    }
    return to_arena(r, f, &b);
}

/* ---- response format ---- */

void read_format(struct api_request *r, const struct fields *f)
{
    struct slice type = {0};
    if (!f->obj || !field_str(f, "type", &type)) {
        if (f->obj) {
            field_fail(f, "type", "is missing");
        }
        return;
    }
    if (slice_is(type, "text")) {
        return;
    }
    if (slice_is(type, "json_object")) {
        r->format = CONSTRAINT_JSON_OBJECT;
        struct json *any = json_new_object(&r->arena);
        if (!any ||
            !json_set(&r->arena, any, "type", json_make_str(&r->arena, SLICE("object")))) {
            no_memory(f);
        }
        r->schema = any;
        return;
    }
    if (!slice_is(type, "json_schema")) {
        field_fail(f, "type", "must be text, json_object or json_schema");
        return;
    }
    struct fields inner = field_object(f, "json_schema");
    const struct fields *at = inner.obj ? &inner : f;
    struct fields schema = field_object(at, "schema");
    field_bool(at, "strict", &r->strict);
    r->strict = r->strict || r->proto == PROTO_MESSAGES; /* the vendor knows no other kind */
    r->format = CONSTRAINT_JSON_SCHEMA;
    r->schema = schema.obj;
    if (!schema.obj) {
        field_fail(at, "schema", "is missing");
    }
}

/* ---- reading ---- */

static int check_model(struct api_request *r, const struct request_policy *p,
                       const struct fields *f)
{
    field_str(f, "model", &r->model);
    if (p->strict_model && !slice_eq(r->model, p->model_name)) {
        return api_fail(f->e, API_NO_MODEL, "model",
                        "The model \"%.*s\" does not exist; this server has \"%.*s\"",
                        (int)MIN(r->model.n, (size_t)100), r->model.p ? r->model.p : "",
                        (int)p->model_name.n, p->model_name.p);
    }
    if (!r->model.p) {
        r->model = p->model_name;
    }
    return 0;
}

int request_read(struct api_request *r, enum protocol proto, struct slice body,
                 const struct request_policy *p, struct api_error *e)
{
    static int (*const readers[])(struct api_request *, const struct fields *,
                                  const struct request_policy *) = {
        [PROTO_CHAT] = chat_read,
        [PROTO_COMPLETIONS] = completions_read,
        [PROTO_RESPONSES] = responses_read,
        [PROTO_MESSAGES] = messages_read,
    };
    fathom_err err = {0};
    *r = (struct api_request){.proto = proto, .thinking = -1};
    chat_init(&r->conv, &r->arena);
    r->sampling = (fathom_sampling){.temperature = (float)p->temperature, .top_p = 1};
    if (json_read(&r->body, &r->arena, body.p, body.n, &err) != 0) {
        err_prefix(&err, "the body is not valid JSON");
        return api_fail_err(e, NULL, &err);
    }
    if (r->body.type != JSON_OBJECT) {
        return api_fail(e, API_BAD, NULL, "the body must be a JSON object");
    }
    struct fields f = {.obj = &r->body, .e = e};
    check_model(r, p, &f);
    field_bool(&f, "stream", &r->stream);
    field_str(&f, "cache_salt", &r->cache_salt);
    if (e->fault == API_OK) {
        readers[proto](r, &f, p);
    }
    return e->fault == API_OK ? 0 : -1;
}

/* ---- the prompt ---- */

/* The one mapping of what clients say about reasoning. */
static void map_thinking(const struct api_request *r, const struct request_policy *p,
                         struct chat_render_opts *o, struct api_error *e)
{
    char word[16] = "";
    uint32_t ctx = p->model->info.max_ctx;
    if (r->effort.n > 0) {
        snprintf(word, sizeof word, "%.*s", (int)MIN(r->effort.n, sizeof word - 1),
                 r->effort.p);
    }
    if (!chat_think_set(o, word[0] ? word : p->think, ctx)) {
        api_fail(e, API_BAD, "reasoning_effort",
                 "reasoning effort must be none, minimal, low, medium, high, xhigh or max, not "
                 "\"%s\"",
                 word);
        return;
    }
    bool off = r->thinking == 0 || (r->thinking < 0 && slice_is(r->model, "deepseek-chat"));
    bool on = r->thinking == 1 || (r->thinking < 0 && slice_is(r->model, "deepseek-reasoner"));
    if (off) {
        chat_think_set(o, "off", ctx);
    } else if (on && !o->thinking) {
        chat_think_set(o, "on", ctx);
    }
}

static int raw_prompt(struct api_request *r, const struct request_policy *p, struct ids *ids,
                      struct buf *text, struct api_error *e)
{
    if (r->raw_text.p) {
        tokenizer_encode(p->model->tok, r->raw_text.p, r->raw_text.n, p->special_tokens, ids);
    } else {
        ids_add_all(ids, r->raw_ids.p, r->raw_ids.n);
    }
    for (size_t i = 0; text && i < ids->n; i++) {
        buf_add_slice(text, tokenizer_bytes(p->model->tok, ids->p[i]));
    }
    if (ids->n == 0) {
        return api_fail(e, API_BAD, "prompt", "prompt: is empty");
    }
    return 0;
}

static int chat_ids(struct api_request *r, const struct request_policy *p,
                    struct replay *replay, struct sip_digest salt, struct chat_prompt *prompt,
                    struct ids *ids, struct api_error *e)
{
    fathom_err err = {0};
    struct chat_render_opts o = {.release = p->release, .api_rules = true};
    map_thinking(r, p, &o, e);
    if (e->fault != API_OK) {
        return -1;
    }
    int rc = chat_attach_tools(&r->conv, r->tools, &err);
    if (!rc && r->schema) {
        bool first = r->conv.n > 0 && (r->conv.msg[0]->role == CHAT_SYSTEM ||
                                       r->conv.msg[0]->role == CHAT_DEVELOPER);
        if (!first) { /* as for tools: an empty system message to carry it */
            struct chat_message *m = chat_add(&r->conv, CHAT_SYSTEM, (struct slice){0});
            rc = m ? 0 : err_nomem(&err, "a message", sizeof *m);
            if (m) {
                memmove(r->conv.msg + 1, r->conv.msg, (r->conv.n - 1) * sizeof *r->conv.msg);
                r->conv.msg[0] = m;
            }
        }
        if (!rc) {
            r->conv.msg[0]->response_format = r->schema;
        }
    }
    if (!rc) {
        replay_calls(replay, salt, &r->conv);
        rc = chat_render(prompt, &r->conv, &o, &err);
    }
    rc = rc ? rc : replay_prompt_ids(replay, salt, prompt, p->model->tok, ids, &err);
    return rc ? api_fail_err(e, "messages", &err) : 0;
}

int request_prompt(struct api_request *r, const struct request_policy *p, struct replay *replay,
                   struct sip_digest salt, struct ids *ids, bool *in_reasoning,
                   struct buf *text, struct api_error *e)
{
    struct chat_prompt prompt = {0};
    *in_reasoning = false;
    int rc =
        r->raw ? raw_prompt(r, p, ids, text, e) : chat_ids(r, p, replay, salt, &prompt, ids, e);
    if (rc == 0 && !r->raw) {
        *in_reasoning = prompt.in_reasoning;
        if (text) {
            buf_add_slice(text, buf_slice(&prompt.text));
        }
    }
    chat_prompt_fini(&prompt);
    if (rc == 0 && ids->failed) {
        rc = api_fail(e, API_ENGINE, NULL, "out of memory");
    }
    return rc;
}

/* ---- the job ---- */

/* What the calls of the answer are held to. */
static void hold_calls(struct constraint_spec *c, const struct api_request *r)
{
    if (r->choice == CHOICE_NONE || r->n_tool == 0) {
        return; /* the marker of a call is masked anyway, or there is nothing to call */
    }
    c->calls = r->choice == CHOICE_AUTO ? CONSTRAIN_CALLS_MAY : CONSTRAIN_CALLS_MUST;
    c->tools = r->allowed ? r->allowed : r->tools;
    c->one_call = r->one_call;
    if (r->choice == CHOICE_NAMED) {
        c->name = r->choice_name;
    }
    if (c->calls == CONSTRAIN_CALLS_MUST) {
        c->kind = CONSTRAINT_NONE; /* a call, whatever the form of other answers */
        c->schema = NULL;
    }
}

static int make_constraint(struct job_spec *out, const struct api_request *r,
                           const struct request_policy *p, bool in_reasoning,
                           struct api_error *e)
{
    fathom_err err = {0};
    struct constraint_spec c = {.kind = r->format,
                                .schema = r->schema,
                                .strict = r->strict,
                                .in_reasoning = in_reasoning};
    const char *param = r->proto == PROTO_RESPONSES  ? "text.format"
                        : r->proto == PROTO_MESSAGES ? "output_config.format"
                                                     : "response_format";
    hold_calls(&c, r);
    if (c.kind == CONSTRAINT_NONE) {
        param = "tools";
    }
    if (constraint_make(&out->constraint, p->constraints, &c, &err) != 0) {
        err_prefix(&err, "%s", param);
        return api_fail_err(e, param, &err);
    }
    return 0;
}

static int copy_stops(struct job_spec *out, const struct api_request *r, struct api_error *e)
{
    for (size_t i = 0; i < r->n_stop; i++) {
        char *s = mem_alloc(r->stop[i].n + 1, 1);
        if (!s) {
            return api_fail(e, API_ENGINE, NULL, "out of memory");
        }
        memcpy(s, r->stop[i].p, r->stop[i].n);
        s[r->stop[i].n] = 0;
        out->stop[out->n_stop++] = s;
    }
    return 0;
}

int request_job(struct job_spec *out, struct api_request *r, const struct request_policy *p,
                struct ids *ids, bool in_reasoning, struct api_error *e)
{
    uint32_t ctx = p->model->info.max_ctx;
    *out = (struct job_spec){.chat = !r->raw, .in_reasoning = in_reasoning};
    if (ids->n >= ctx) {
        return api_too_long(e, ids->n, ctx);
    }
    uint32_t room = ctx - (uint32_t)ids->n;
    uint32_t most = r->max_tokens ? r->max_tokens : p->max_tokens ? p->max_tokens : room;
    out->context_bound = most >= room;
    out->max_tokens = MIN(most, room);
    out->one_call = r->one_call && r->n_tool > 0;
    out->no_calls = r->choice == CHOICE_NONE;
    out->sampling = r->sampling;
    out->seeded = r->seed_given || r->sampling.temperature <= 0;
    if (!r->seed_given) {
        struct sip_key random = sip_key_random();
        out->sampling.seed = out->seeded ? 0 : splitmix64(random.k[0]);
    }
    out->reasoning_tokens = r->budget;
    if (p->max_reasoning && (!r->budget || r->budget > p->max_reasoning)) {
        out->reasoning_tokens = p->max_reasoning;
    }
    int rc = copy_stops(out, r, e);
    rc = rc ? rc : make_constraint(out, r, p, in_reasoning, e);
    if (rc) {
        job_spec_fini(out);
        return rc;
    }
    out->prompt = *ids;
    *ids = (struct ids){0};
    return 0;
}
