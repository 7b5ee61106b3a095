/* run.c - `fathom run`: one prompt, one answer. stdout gets the answer and nothing else (a
 * newline behind it only on a terminal), so that it can be piped. Tool calls, when --tools
 * offered some, are printed as one JSON object a line. */
#include "cmd/cmd.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/answer.h"
#include "cmd/model.h"
#include "engine/engine.h"

enum { TOOLS_MAX = 4 << 20 };

/* The conversation of one question, rendered. */
static int make_prompt(struct ids *ids, bool *in_reasoning, const struct answer_setup *s,
                       const struct buf *text, fathom_err *err)
{
    const struct cli *o = s->o;
    struct arena a = {0};
    struct buf tools = {0};
    struct json defs;
    struct chat_conversation c;
    struct chat_prompt p = {0};
    struct chat_render_opts r;
    fathom_info info;
    fathom_engine_info(s->engine, &info);
    chat_init(&c, &a);
    int rc = answer_render_opts(&r, o, &info, err);
    if (rc == 0 && o->tools) {
        rc = file_read_all(&tools, o->tools, TOOLS_MAX, err);
        rc = rc ? rc : json_read(&defs, &a, tools.p ? tools.p : "", tools.n, err);
        if (rc == 0 && !json_is(&defs, JSON_ARRAY)) {
            rc = err_set(err, FATHOM_EFORMAT, "not a JSON array of tool definitions");
        }
        if (rc) {
            err_prefix(err, "--tools %s", o->tools);
        }
    }
    bool ok = rc == 0 && (!o->system || chat_add(&c, CHAT_SYSTEM, slice_of(o->system))) &&
              chat_add(&c, CHAT_USER, buf_slice(text));
    if (rc == 0 && !ok) {
        rc = err_nomem(err, "prompt", text->n);
    }
    if (rc == 0 && o->tools) {
        rc = chat_attach_tools(&c, &defs, err);
    }
    rc = rc ? rc : chat_render(&p, &c, &r, err);
    rc = rc ? rc : chat_prompt_ids(&p, s->tok, ids, err);
    *in_reasoning = p.in_reasoning;
    chat_prompt_fini(&p);
    buf_free(&tools);
    arena_fini(&a);
    return rc;
}

static void add_call(struct buf *b, const struct chat_result_call *call)
{
    buf_adds(b, "{\"name\":");
    json_write_str(b, buf_slice(&call->name));
    buf_adds(b, ",\"arguments\":");
    json_write_str(b, buf_slice(&call->arguments));
    buf_addc(b, '}');
}

static int print_json(const struct answer *a)
{
    struct buf b = {0};
    buf_adds(&b, "{\"content\":");
    json_write_str(&b, buf_slice(&a->msg.content));
    buf_adds(&b, ",\"reasoning_content\":");
    json_write_str(&b, buf_slice(&a->msg.reasoning));
    buf_adds(&b, ",\"tool_calls\":[");
    for (size_t i = 0; i < a->msg.n_call; i++) {
        buf_adds(&b, i ? "," : "");
        add_call(&b, &a->msg.call[i]);
    }
    buf_addf(&b,
             "],\"finish_reason\":\"%s\",\"prompt_tokens\":%u,\"completion_tokens\":%u,"
             "\"prefill_seconds\":%.6f,\"decode_seconds\":%.6f,",
             answer_finish(a), a->gen.n_prompt, a->gen.n_generated, a->gen.prefill_seconds,
             a->gen.decode_seconds);
    const fathom_reuse *r = &a->gen.reuse;
    buf_addf(&b,
             "\"reuse\":{\"memory\":%u,\"disk\":%u,\"again\":%u,\"computed\":%u,\"known\":%u,"
             "\"end\":\"%s\"}}\n",
             r->ram, r->disk, r->rerun, r->rerun + r->computed, r->matched,
             fathom_reuse_end_name(r->end));
    return cmd_print(&b);
}

static int print_rest(const struct answer *a)
{
    struct buf b = {0};
    for (size_t i = 0; i < a->msg.n_call; i++) {
        add_call(&b, &a->msg.call[i]);
        buf_addc(&b, '\n');
    }
    if (b.n == 0 && a->msg.content.n > 0 && isatty(STDOUT_FILENO)) {
        buf_addc(&b, '\n');
    }
    int code = cmd_print(&b);
    fflush(stdout);
    if (strcmp(answer_finish(a), "length") == 0) {
        cmd_note("the answer was cut off after %u tokens (-n, --ctx)", a->gen.n_generated);
    } else if (a->msg.end == CHAT_END_MALFORMED && !a->stopped) {
        cmd_note("the answer breaks the chat format: %s", a->msg.why ? a->msg.why : "");
    }
    return code;
}

static int run_chat(const struct answer_setup *s, const struct buf *text, fathom_err *err)
{
    struct ids ids = {0};
    struct answer a = {0};
    bool in_reasoning = false;
    if (!s->tok) {
        return err_set(err, FATHOM_EFORMAT,
                       "the file has no tokenizer: only logits and inspect can use it");
    }
    int rc = make_prompt(&ids, &in_reasoning, s, text, err);
    rc = rc ? rc : answer_run(&a, s, &ids, in_reasoning, err);
    if (rc == 0 && (s->o->json ? print_json(&a) : print_rest(&a)) != EXIT_DONE) {
        rc = err_nomem(err, "answer", 0);
    }
    ids_free(&ids);
    answer_fini(&a);
    return rc;
}

static void raw_text(void *user, const char *text, size_t n)
{
    progress_end(user);
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static int run_raw(const struct answer_setup *s, const struct buf *text, fathom_err *err)
{
    uint32_t *ids = NULL;
    size_t n = 0;
    fathom_result result;
    int rc = fathom_tokenize(s->engine, text->p ? text->p : "", text->n, true, &ids, &n, err);
    if (rc == 0 && n == 0) {
        rc = err_set(err, FATHOM_EINVAL, "the prompt is empty");
    }
    if (rc == 0) {
        fathom_generate_options g = {.max_tokens = s->o->n_predict,
                                     .stop = s->o->stop.v,
                                     .n_stop = s->o->stop.n,
                                     .progress = progress_report,
                                     .progress_user = s->progress,
                                     .on_text = raw_text,
                                     .user = s->progress};
        answer_sampling(&g.sampling, s->o);
        rc = fathom_generate(s->session, ids, (uint32_t)n, &g, &result, err);
        progress_end(s->progress);
    }
    fathom_free(ids);
    return rc;
}

int cmd_run(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct progress progress = {0};
    struct buf text = {0};
    struct answer_setup s = {.o = o, .progress = &progress, .quiet = o->json};
    if (o->raw && (o->json || o->tools || o->system || o->think)) {
        return cmd_usage(o, "--raw excludes --json, --tools, --system and --think");
    }
    int rc = cmd_text(&text, o, &err);
    rc = rc ? rc : model_find(&m, o, &err);
    if (rc == 0 && model_engine(&s.engine, o, &m, &progress, &err)) {
        buf_free(&text);
        return model_fail(&m, &err);
    }
    rc = rc ? rc : fathom_session_new(&s.session, s.engine, &err);
    if (rc == 0) {
        s.tok = engine_tokenizer(s.engine);
        rc = o->raw ? run_raw(&s, &text, &err) : run_chat(&s, &text, &err);
    }
    int code = rc ? cmd_fail(NULL, &err) : EXIT_DONE;
    fathom_session_free(s.session);
    fathom_engine_close(s.engine);
    buf_free(&text);
    return code;
}
