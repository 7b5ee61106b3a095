/* fuzz_server_stream.c - any bytes as the answer of a model: cut into tokens, run through the
 * decoder and every protocol's writer, streamed and whole. Every event must be valid JSON in one
 * line of valid UTF-8, the body must be valid JSON, and the texts of the log must add up to what
 * the body holds. The first bytes choose modes and limits. */
#include <assert.h>
#include <stdlib.h>

#include "server/decoder.h"
#include "server/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tokenizer *mini(void)
{
    static struct tokenizer *t; /* kept for all inputs */
    fathom_err err = {0};
    if (!t && tokenizer_from_json(&t, "models/mini/tokenizer.json", &err) != 0) {
        abort();
    }
    return t;
}

/* Each data line is one JSON value: together they are an array, read at once for speed. */
static void check_stream(const struct buf *b)
{
    const char *p = buf_cstr(b), *end = p + b->n;
    struct buf all = {0};
    struct arena a = {0};
    struct json v;
    size_t n = 0;
    assert(b->n == 0 || utf8_valid(b->p, b->n));
    buf_addc(&all, '[');
    while (p < end) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        assert(line);
        if (strncmp(p, "data: ", 6) == 0 && strncmp(p + 6, "[DONE]", 6) != 0) {
            buf_adds(&all, n++ ? "," : "");
            buf_add(&all, p + 6, (size_t)(line - p) - 6);
        }
        p = line + 1;
    }
    buf_addc(&all, ']');
    assert(json_read(&v, &a, buf_cstr(&all), all.n, NULL) == 0 && v.n == n);
    arena_fini(&a);
    buf_free(&all);
}

static void write_all(struct job *j, enum protocol proto, unsigned flags)
{
    static const char tools[] = "{\"tools\":[{\"type\":\"custom\",\"name\":\"f\"}]}";
    struct api_request req = {.proto = proto,
                              .model = SLICE("m\"\n"),
                              .include_usage = flags & 1,
                              .logprobs = flags & 2,
                              .top_logprobs = 2,
                              .omit_thinking = flags & 4};
    struct api_tool tool = {.shown = SLICE("f"), .name = SLICE("f"), .custom = true};
    assert(json_read(&req.body, &req.arena, tools, sizeof tools - 1, NULL) == 0);
    req.tool = &tool;
    req.n_tool = flags & 8 ? 1 : 0;
    for (int whole = 0; whole < 2; whole++) {
        struct writer w;
        struct job_reader r = {.job = j};
        struct buf out = {0};
        writer_init(&w, &req, mini(), 10, j->spec.in_reasoning);
        job_read(&r, 0);
        if (!whole) {
            w.ops->begin(&w, &out);
        }
        for (size_t i = 0; i < r.n; i++) {
            size_t at = r.event[i].logprob_at;
            const struct job_logprob *l = r.event[i].logprob_n ? r.logprob + at : NULL;
            writer_note(&w, &r.event[i], job_text(&r, &r.event[i]), l);
            if (!whole && r.event[i].kind != JOB_EV_END) {
                w.ops->event(&w, &r.event[i], job_text(&r, &r.event[i]), l, &out);
                if (i < 16) { /* each holds the whole response in one protocol */
                    w.ops->keepalive(&w, &out);
                }
            }
        }
        assert(w.msg.ended && !w.msg.failed);
        w.msg.usage = job_usage(j);
        if (whole) {
            struct arena a = {0};
            struct json v;
            w.ops->body(&w, &out);
            assert(json_read(&v, &a, buf_cstr(&out), out.n, NULL) == 0);
            arena_fini(&a);
        } else {
            w.ops->end(&w, &out);
            check_stream(&out);
        }
        buf_free(&out);
        job_reader_fini(&r);
        writer_fini(&w);
    }
    arena_fini(&req.arena);
}

static char *stop_string(const uint8_t *p, size_t n)
{
    char *s = calloc(n + 1, 1);
    for (size_t i = 0; s && i < n; i++) {
        s[i] = (char)(p[i] % 94 + 33);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tokenizer *t = mini();
    struct ids ids = {0};
    struct decoder d;
    if (size < 6) {
        return 0;
    }
    struct job_spec spec = {.chat = data[0] & 1,
                            .in_reasoning = (data[0] & 3) == 3,
                            .one_call = data[0] & 4,
                            .max_tokens = 1u + data[1],
                            .reasoning_tokens = data[0] & 8 ? data[2] : 0};
    spec.sampling.n_logprobs = data[0] & 16 ? 2 : 0;
    if (data[0] & 32) {
        spec.stop[spec.n_stop++] = stop_string(data + 3, 1 + data[3] % 2);
    }
    tokenizer_encode(t, (const char *)data + 5, size - 5, true, &ids);
    struct job *j = job_new(&spec);
    struct decoder_tools tools = {.tok = t, .n_vocab = tokenizer_n_vocab(t)};
    assert(j && decoder_start(&d, &tools, j, NULL) == 0);
    job_put(j, (struct job_event){.kind = JOB_EV_START, .n = 3}, (struct slice){0}, NULL, 0);
    bool done = false;
    for (size_t i = 0; i < ids.n && !done; i++) {
        fathom_choice c = {.id = ids.p[i], .logprob = -1, .n_top = 2};
        uint32_t forced;
        c.id = decoder_forced(&d, &forced) ? forced : c.id;
        done = decoder_take(&d, &c);
    }
    struct job_usage u = {
        .prompt = 10, .cached = 3, .output = d.n_output, .reasoning = d.n_reasoning};
    job_end(j, decoder_close(&d, false), d.stop_index, (struct slice){0}, &u, &d.output);
    for (int proto = PROTO_CHAT; proto <= PROTO_MESSAGES; proto++) {
        if ((proto == PROTO_COMPLETIONS) != j->spec.chat) {
            write_all(j, (enum protocol)proto, data[4]);
        }
    }
    decoder_fini(&d);
    job_leave(j);
    ids_free(&ids);
    return 0;
}
