/* completions.c - legacy Completions, the request: raw text or ids, no template. What comes back
 * is chat_out.c. */
#include "server/request.h"

static void read_ids(struct api_request *r, const struct fields *f, const struct json *list,
                     uint32_t n_vocab)
{
    for (size_t i = 0; i < list->n; i++) {
        int64_t id;
        if (!json_int(&list->items[i], &id) || id < 0 || id >= (int64_t)n_vocab) {
            field_fail(f, "prompt", "[%zu] is not a token id below %u", i, n_vocab);
            return;
        }
        ids_add(&r->raw_ids, (uint32_t)id);
    }
    if (r->raw_ids.failed) {
        no_memory(f);
    }
}

static void read_prompt(struct api_request *r, const struct fields *f, uint32_t n_vocab)
{
    const struct json *v = field(f, "prompt");
    if (json_is(v, JSON_ARRAY) && v->n == 1 &&
        (v->items[0].type == JSON_STRING || v->items[0].type == JSON_ARRAY)) {
        v = &v->items[0];
    }
    if (json_is(v, JSON_STRING)) {
        r->raw_text = (struct slice){v->s, v->n};
    } else if (json_is(v, JSON_ARRAY) && v->n > 0 && v->items[0].type == JSON_NUMBER) {
        read_ids(r, f, v, n_vocab);
    } else if (json_is(v, JSON_ARRAY) && v->n > 1) {
        field_fail(f, "prompt", "one prompt a request, please");
    } else {
        field_fail(f, "prompt", "must be a string or an array of token ids");
    }
}

int completions_read(struct api_request *r, const struct fields *f,
                     const struct request_policy *p)
{
    int64_t n = 1, best = 1, logprobs = 0;
    r->raw = true;
    read_prompt(r, f, p->model->info.n_vocab);
    static const char *const refused[] = {"suffix", "grammar"};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (field(f, refused[i])) {
            field_fail(f, refused[i], "is not supported");
        }
    }
    field_int(f, "n", 1, 1, &n);
    field_int(f, "best_of", 1, 1, &best);
    field_bool(f, "echo", &r->echo);
    if (json_is(field(f, "logprobs"), JSON_FALSE)) {
        logprobs = 0;
    } else if (field_int(f, "logprobs", 0, MAX_LOGPROBS, &logprobs)) {
        r->logprobs = true;
        r->top_logprobs = (uint32_t)logprobs;
        r->sampling.n_logprobs = MAX(r->top_logprobs, 1u);
    }
    if (r->echo && r->logprobs) {
        field_fail(f, "logprobs", "cannot be combined with echo");
    }
    struct fields options = field_object(f, "stream_options");
    field_bool(&options, "include_usage", &r->include_usage);
    read_max_tokens(r, f, "max_tokens");
    read_sampling(r, f, 2);
    read_stop(r, f, "stop");
    return f->e->fault == API_OK ? 0 : -1;
}
