/* models.c - the small endpoints: health, models, props, metrics, tokenize. None of them waits
 * for the engine. */
#include <stdio.h>
#include <time.h>

#include "server/server_int.h"

void handle_health(struct exchange *x)
{
    struct server *s = x->s;
    struct buf b = {0};
    bool ready = atomic_load(&s->ready);
    if (atomic_load(&s->stopping)) {
        buf_adds(&b, "{\"status\":\"shutting down\"}");
        ready = false;
    } else if (ready) {
        buf_adds(&b, "{\"status\":\"ok\"}");
    } else {
        buf_addf(&b, "{\"status\":\"loading model\",\"progress\":%.3f}",
                 atomic_load(&s->progress) / 1000.0);
    }
    if (!ready) {
        http_set_header(x->http, "Retry-After", "1");
    }
    reply_json(x, ready ? 200 : 503, &b);
}

/* One form for both SDKs. */
static void add_model(struct buf *b, const struct server *s)
{
    char day[32];
    struct tm tm;
    time_t t = (time_t)s->created;
    gmtime_r(&t, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%SZ", &tm);
    const struct model_info *i = &s->model->info;
    buf_adds(b, "{");
    add_str(b, "id", slice_of(s->model_name));
    buf_addf(b,
             ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"fathom\","
             "\"type\":\"model\",",
             (long long)s->created);
    add_str(b, "display_name", slice_of(i->name));
    buf_addf(b,
             ",\"created_at\":\"%s\",\"context_length\":%u,\"max_completion_tokens\":%u,"
             "\"supported_parameters\":[\"tools\",\"tool_choice\",\"reasoning_effort\","
             "\"thinking\",\"temperature\",\"top_p\",\"top_k\",\"min_p\",\"seed\",\"stop\","
             "\"frequency_penalty\",\"presence_penalty\",\"logprobs\",\"top_logprobs\","
             "\"max_tokens\",\"response_format\",\"structured_outputs\","
             "\"parallel_tool_calls\"]}",
             day, i->max_ctx, i->max_ctx - 1);
}

void handle_models(struct exchange *x)
{
    struct server *s = x->s;
    struct buf b = {0};
    struct api_error e = {0};
    if (strcmp(x->tail, "models") == 0) {
        buf_adds(&b, "{\"object\":\"list\",\"data\":[");
        add_model(&b, s);
        buf_adds(&b, "],");
        add_str(&b, "first_id", slice_of(s->model_name));
        buf_addc(&b, ',');
        add_str(&b, "last_id", slice_of(s->model_name));
        buf_adds(&b, ",\"has_more\":false}");
        reply_json(x, 200, &b);
        return;
    }
    if (strcmp(x->tail, s->model_name) == 0 || !s->cfg.strict_model) {
        add_model(&b, s); /* any name is answered, unless names are strict */
        reply_json(x, 200, &b);
        return;
    }
    api_fail(&e, API_NO_MODEL, "model", "The model \"%.100s\" does not exist", x->tail);
    reply_error(x, &e);
}

void handle_props(struct exchange *x)
{
    struct server *s = x->s;
    const struct model_info *i = &s->model->info;
    struct replay_stats rs = replay_stats(s->replay);
    struct buf b = {0};
    buf_adds(&b, "{");
    add_str(&b, "model", slice_of(s->model_name));
    buf_addc(&b, ',');
    add_str(&b, "name", slice_of(i->name));
    if (s->auth.n_key > 0) { /* file names are for those who have a key */
        buf_addc(&b, ',');
        add_str(&b, "file", slice_of(i->file));
    }
    buf_addf(
        &b,
        ",\"quantization\":\"%s\",\"backend\":\"%s\",\"arithmetic\":\"%s\",\"weight_bytes\":%llu,"
        "\"scratch_bytes\":%llu,\"context_length\":%u,\"slots\":%u,\"chunk\":%u,",
        i->weights, i->backend, i->arith_class, (unsigned long long)i->weight_bytes,
        (unsigned long long)i->scratch_bytes, i->max_ctx, i->max_seq, i->chunk);
    buf_addf(&b,
             "\"kv_used_bytes\":%llu,\"kv_budget_bytes\":%llu,\"requests_running\":%u,"
             "\"requests_queued\":%u,\"max_queue\":%u,",
             (unsigned long long)atomic_load(&s->metrics.kv_used),
             (unsigned long long)atomic_load(&s->metrics.kv_budget),
             atomic_load(&s->metrics.running), atomic_load(&s->metrics.queued),
             s->cfg.max_queue);
    buf_addf(&b,
             "\"build\":\"fathom %s\",\"chat_template\":\"deepseek-v4-%s\",\"think\":\"%s\","
             "\"max_effort\":%s,\"replay_records\":%llu,\"replay_hits\":%llu,"
             "\"features\":[\"chat\",\"completions\",\"responses\",\"messages\",\"tools\","
             "\"constrained_output\",\"reasoning\",\"logprobs\"]}",
             fathom_version(), s->policy.release == CHAT_0731 ? "0731" : "preview",
             s->policy.think, i->max_ctx >= CHAT_MAX_EFFORT_CTX ? "\"max\"" : "\"high\"",
             (unsigned long long)rs.n_records, (unsigned long long)rs.n_hits);
    reply_json(x, 200, &b);
}

void handle_metrics(struct exchange *x)
{
    struct buf b = {0};
    struct api_error e = {0};
    if (!x->s->cfg.metrics && !http_peer_is_local(x->http)) {
        api_fail(&e, API_NOT_FOUND, NULL,
                 "metrics are for this machine only (--metrics opens them)");
        reply_error(x, &e);
        return;
    }
    bool ready = atomic_load(&x->s->ready); /* before that these parts are being made */
    if (ready) {
        size_t n;
        atomic_store(&x->s->metrics.grammar_bytes,
                     constraint_cache_bytes(x->s->constraints, &n));
    }
    metrics_print(&b, &x->s->metrics, ready ? x->s->model->info.max_seq : 0);
    x->status = 200;
    metrics_request(&x->s->metrics, x->endpoint, 200);
    http_reply(x->http, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

/* The body as an object with fields; false: an error was replied. */
static bool read_object(struct exchange *x, struct arena *a, struct json *v, struct fields *f,
                        struct api_error *e)
{
    struct slice body = http_body(x->http);
    fathom_err err = {0};
    if (json_read(v, a, body.p, body.n, &err) != 0) {
        api_fail_err(e, NULL, &err);
    } else if (v->type != JSON_OBJECT) {
        api_fail(e, API_BAD, NULL, "the body must be a JSON object");
    }
    *f = (struct fields){.obj = v, .e = e};
    return e->fault == API_OK;
}

void handle_tokenize(struct exchange *x)
{
    struct arena a = {0};
    struct json v;
    struct fields f;
    struct api_error e = {0};
    struct slice text = {0};
    struct ids ids = {0};
    bool special = false;
    struct buf b = {0};
    if (read_object(x, &a, &v, &f, &e)) {
        if (!field_str(&f, "content", &text) && !field_str(&f, "text", &text)) {
            field_fail(&f, "content", "is missing");
        }
        field_bool(&f, "special", &special);
    }
    if (e.fault == API_OK) {
        tokenizer_encode(x->s->model->tok, text.p, text.n, special && x->s->cfg.special_tokens,
                         &ids);
        buf_adds(&b, "{\"tokens\":[");
        for (size_t i = 0; i < ids.n; i++) {
            buf_addf(&b, i ? ",%u" : "%u", ids.p[i]);
        }
        buf_adds(&b, "]}");
        reply_json(x, 200, &b);
    } else {
        reply_error(x, &e);
    }
    ids_free(&ids);
    arena_fini(&a);
}

void handle_detokenize(struct exchange *x)
{
    struct arena a = {0};
    struct json v;
    struct fields f;
    struct api_error e = {0};
    struct buf raw = {0}, text = {0}, b = {0};
    if (read_object(x, &a, &v, &f, &e)) {
        const struct json *list = field_array(&f, "tokens");
        for (size_t i = 0; list && i < list->n; i++) {
            int64_t id;
            if (!json_int(&list->items[i], &id) || id < 0 ||
                id >= (int64_t)tokenizer_n_vocab(x->s->model->tok)) {
                field_fail(&f, "tokens", "[%zu] is no token id", i);
                break;
            }
            buf_add_slice(&raw, tokenizer_bytes(x->s->model->tok, (uint32_t)id));
        }
    }
    if (e.fault == API_OK) {
        buf_add_utf8_lossy(&text, buf_cstr(&raw), raw.n);
        buf_adds(&b, "{");
        add_str(&b, "content", buf_slice(&text));
        buf_adds(&b, "}");
        reply_json(x, 200, &b);
    } else {
        reply_error(x, &e);
    }
    buf_free(&raw);
    buf_free(&text);
    arena_fini(&a);
}
