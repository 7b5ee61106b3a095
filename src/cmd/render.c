/* render.c - `fathom render`: an OpenAI-like conversation to the prompt, exactly as the release
 * renders it (no API rules), with two id lists: `ids` as the release tokenises the whole text,
 * and `safe_ids`, ours, where control ids come from the template only. */
#include "cmd/cmd.h"

#include <stdio.h>

#include "base/mem.h"
#include "chat/render.h"
#include "cmd/idlist.h"
#include "cmd/model.h"

struct state {
    const struct cli *o;
    struct tokenizer *t;
    enum chat_release release;
};

/* options.reasoning_effort: the release's own words, nothing mapped. */
static int read_effort(enum chat_effort *out, const struct json *v, fathom_err *err)
{
    static const char *const names[] = {"none", "low", "high", "max"};
    *out = CHAT_EFFORT_NONE;
    if (!v || v->type == JSON_NULL) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (slice_is(json_str(v), names[i])) {
            *out = (enum chat_effort)i;
            return 0;
        }
    }
    return err_set(err, FATHOM_EINVAL, "unknown reasoning_effort");
}

static int read_options(struct chat_render_opts *r, const struct json *opt, fathom_err *err)
{
    struct slice mode = json_str(json_get(opt, "thinking_mode"));
    bool flag;
    if (mode.p && !slice_is(mode, "chat") && !slice_is(mode, "thinking")) {
        return err_set(err, FATHOM_EINVAL, "thinking_mode is neither chat nor thinking");
    }
    r->thinking = mode.p && slice_is(mode, "thinking");
    r->keep_thinking = json_bool(json_get(opt, "drop_thinking"), &flag) && !flag;
    r->no_bos = json_bool(json_get(opt, "add_default_bos_token"), &flag) && !flag;
    return read_effort(&r->effort, json_get(opt, "reasoning_effort"), err);
}

/* Prompt and ids of one entry into p, ids, safe. */
static int render(const struct state *s, const struct json *entry, struct arena *a,
                  struct chat_prompt *p, struct ids *ids, struct ids *safe, fathom_err *err)
{
    const struct json *opt = json_get(entry, "options");
    const struct json *context = json_get(opt, "context");
    struct chat_conversation c;
    struct chat_render_opts r = {.release = s->release};
    chat_init(&c, a);
    int rc = read_options(&r, opt, err);
    if (rc == 0 && json_is(context, JSON_ARRAY)) {
        rc = chat_load_messages(&c, context, err);
        r.n_context = c.n;
    }
    if (rc == 0 && !json_is(json_get(entry, "messages"), JSON_ARRAY)) {
        rc = err_set(err, FATHOM_EFORMAT, "no array \"messages\"");
    }
    rc = rc ? rc : chat_load_messages(&c, json_get(entry, "messages"), err);
    rc = rc ? rc : chat_render(p, &c, &r, err);
    rc = rc ? rc : chat_prompt_release_ids(p, s->t, ids, err);
    return rc ? rc : chat_prompt_ids(p, s->t, safe, err);
}

/* One entry to one JSON object (json), or to the bare prompt. */
static int one_entry(const struct state *s, const char *text, size_t n, bool json,
                     struct buf *b, fathom_err *err)
{
    struct arena a = {0};
    struct json entry;
    struct chat_prompt p = {0};
    struct ids ids = {0}, safe = {0};
    int rc = json_read(&entry, &a, text, n, err);
    rc = rc ? rc : render(s, &entry, &a, &p, &ids, &safe, err);
    if (rc == 0 && json) {
        buf_adds(b, "{\"prompt\":");
        json_write_str(b, buf_slice(&p.text));
        buf_adds(b, ",\"ids\":");
        idlist_write(b, &ids);
        buf_adds(b, ",\"safe_ids\":");
        idlist_write(b, &safe);
        buf_adds(b, "}\n");
    } else if (rc == 0) {
        buf_add_slice(b, buf_slice(&p.text));
        buf_addc(b, '\n');
    }
    chat_prompt_fini(&p);
    ids_free(&ids);
    ids_free(&safe);
    arena_fini(&a);
    return rc;
}

static int one_line(void *user, const char *line, size_t n)
{
    const struct state *s = user;
    struct buf b = {0};
    fathom_err err = {0};
    if (one_entry(s, line, n, true, &b, &err)) {
        buf_clear(&b);
        buf_adds(&b, "{\"error\":");
        json_write_str(&b, slice_of(err.msg));
        buf_adds(&b, "}\n");
    }
    return cmd_print(&b);
}

int cmd_render(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct state s = {.o = o};
    const char *release = NULL;
    int rc = model_find(&m, o, &err);
    if (rc || model_tokenizer(&s.t, &release, &m, &err)) {
        return cmd_fail(rc ? NULL : "cannot load the tokenizer", &err);
    }
    release = o->release ? o->release : release ? release : "preview";
    (void)chat_release_parse(release, &s.release); /* both sources give known names only */
    int code;
    if (o->jsonl) {
        code = cmd_lines(one_line, &s);
    } else {
        struct buf in = {0}, out = {0};
        rc = cmd_text(&in, o, &err);
        rc = rc ? rc : one_entry(&s, in.p ? in.p : "", in.n, o->json, &out, &err);
        code = rc ? cmd_fail("cannot render", &err) : cmd_print(&out);
        if (rc) {
            buf_free(&out);
        }
        buf_free(&in);
    }
    tokenizer_free(s.t);
    return code;
}
