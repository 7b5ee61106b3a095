/* fuzz_server_request.c - any bytes as the body of a request: the first byte chooses the protocol
 * and the policy. What is accepted must render to ids of the vocabulary and become a job within
 * the context; what is refused must say so in one well-formed error of either shape. */
#include <assert.h>
#include <stdlib.h>

#include "server/request.h"
#include "server/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct model model;
static struct replay *replay;
static struct constraint_cache *constraints;

static void open_once(void)
{
    static struct tokenizer *t; /* kept for all inputs */
    static struct script *s;
    fathom_err err = {0};
    struct script_options o = {.max_ctx = 4096};
    static const char text[] = "{\"completion\":\"x\"}";
    if (!t) {
        if (tokenizer_from_json(&t, "models/mini/tokenizer.json", &err) != 0 ||
            script_open_mem(&s, text, sizeof text - 1, t, &o, &err) != 0) {
            abort();
        }
        script_model_init(&model, s);
        replay = replay_new(1 << 16);
        constraints = constraint_cache_new(t, (size_t)16 << 20);
    }
}

static void check_error(const struct api_error *e)
{
    for (int anthropic = 0; anthropic < 2; anthropic++) {
        struct buf b = {0};
        struct arena a = {0};
        struct json v;
        api_error_print(&b, e, anthropic, "req_1");
        assert(json_read(&v, &a, buf_cstr(&b), b.n, NULL) == 0);
        assert(json_is(json_get(&v, "error"), JSON_OBJECT));
        assert(api_status(e) >= 400 && api_status(e) < 600);
        buf_free(&b);
        arena_fini(&a);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct api_request r;
    struct api_error e = {0};
    struct ids ids = {0};
    struct job_spec spec = {0};
    bool in_reasoning;
    open_once();
    if (size == 0) {
        return 0;
    }
    struct request_policy p = {.model = &model,
                               .think = data[0] & 8 ? "off" : "on",
                               .release = data[0] & 16 ? CHAT_0731 : CHAT_PREVIEW,
                               .image_placeholder = data[0] & 4,
                               .special_tokens = data[0] & 32,
                               .model_name = SLICE("m"),
                               .temperature = 1,
                               .constraints = constraints};
    struct slice body = {(const char *)data + 1, size - 1};
    int rc = request_read(&r, (enum protocol)(data[0] & 3), body, &p, &e);
    rc = rc ? rc
            : request_prompt(&r, &p, replay, (struct sip_digest){0}, &ids, &in_reasoning, NULL,
                             &e);
    for (size_t i = 0; i < ids.n; i++) {
        assert(ids.p[i] < model.info.n_vocab);
    }
    rc = rc ? rc : request_job(&spec, &r, &p, &ids, in_reasoning, &e);
    assert((rc != 0) == (e.fault != API_OK));
    if (rc) {
        check_error(&e);
    } else {
        assert(spec.prompt.n > 0 && spec.max_tokens > 0 &&
               spec.prompt.n + spec.max_tokens <= model.info.max_ctx);
        job_spec_fini(&spec);
    }
    ids_free(&ids);
    request_fini(&r);
    return 0;
}
