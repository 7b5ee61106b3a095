/* jsonl.c - see jsonl.h. A line is read into an arena, worked on and answered; what is wrong
 * with an entry becomes {"error": ...} on its line, so that one bad entry does not stop a
 * batch. */
#include "chat/jsonl.h"

#include "chat/events.h"

/* ---- answers ---- */

static int finish_line(struct buf *out, fathom_err *err)
{
    return out->failed ? err_nomem(err, "a line of output", out->n) : 0;
}

static int error_line(struct buf *out, size_t start, const char *msg, fathom_err *err)
{
    out->n = out->failed ? out->n : start; /* takes back what was written before the error */
    buf_adds(out, "{\"error\":");
    json_write_line_str(out, slice_of(msg));
    buf_addc(out, '}');
    return finish_line(out, err);
}

static void add_field(struct buf *out, const char *before, struct slice text)
{
    buf_adds(out, before);
    json_write_line_str(out, text);
}

static void add_ids(struct buf *out, const char *before, const struct ids *ids)
{
    buf_adds(out, before);
    for (size_t i = 0; i < ids->n; i++) {
        buf_addf(out, i ? ",%u" : "%u", (unsigned)ids->p[i]);
    }
    buf_addc(out, ']');
}

/* ---- render ---- */

static int load_effort(struct chat_render_opts *o, const struct json *v, fathom_err *err)
{
    static const struct {
        const char *word;
        enum chat_effort effort;
    } efforts[] = {
        {"low", CHAT_EFFORT_LOW}, {"high", CHAT_EFFORT_HIGH}, {"max", CHAT_EFFORT_MAX}};
    struct slice word = json_str(v);
    o->effort = CHAT_EFFORT_NONE;
    if (!v || v->type == JSON_NULL) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(efforts); i++) {
        if (word.p && slice_is(word, efforts[i].word)) {
            o->effort = efforts[i].effort;
            return 0;
        }
    }
    return err_set(err, FATHOM_EINVAL, "unknown reasoning_effort \"%.*s\"",
                   (int)MIN(word.n, (size_t)64), word.p ? word.p : "");
}

static int load_mode(const struct json *v, bool *thinking, fathom_err *err)
{
    struct slice mode = json_str(v);
    *thinking = mode.p && slice_is(mode, "thinking");
    if (!*thinking && !(mode.p && slice_is(mode, "chat"))) {
        return err_set(err, FATHOM_EINVAL,
                       "thinking_mode is neither \"chat\" nor \"thinking\"");
    }
    return 0;
}

static int load_flag(const struct json *options, const char *key, bool *out, fathom_err *err)
{
    const struct json *v = json_get(options, key);
    *out = true;
    if (v && !json_bool(v, out)) {
        return err_set(err, FATHOM_EINVAL, "%s is neither true nor false", key);
    }
    return 0;
}

int chat_options_load(struct chat_render_opts *o, const struct json *options, fathom_err *err)
{
    bool drop, bos;
    int rc = load_mode(json_get(options, "thinking_mode"), &o->thinking, err);
    rc = rc ? rc : load_effort(o, json_get(options, "reasoning_effort"), err);
    rc = rc ? rc : load_flag(options, "drop_thinking", &drop, err);
    rc = rc ? rc : load_flag(options, "add_default_bos_token", &bos, err);
    if (!rc) {
        o->keep_thinking = !drop;
        o->no_bos = !bos;
    }
    return rc;
}

int chat_entry_load(struct chat_conversation *c, struct chat_render_opts *o,
                    const struct json *entry, fathom_err *err)
{
    const struct json *options = json_get(entry, "options");
    const struct json *context = json_get(options, "context");
    int rc = chat_options_load(o, options, err);
    if (!rc && context && context->type != JSON_NULL) {
        rc = chat_load_messages(c, context, err);
    }
    o->n_context = c->n;
    rc = rc ? rc : chat_load_messages(c, json_get(entry, "messages"), err);
    return rc ? rc : chat_attach_tools(c, json_get(entry, "tools"), err);
}

static int render_entry(struct buf *out, const struct tokenizer *t, enum chat_release release,
                        const struct json *entry, struct arena *a, fathom_err *err)
{
    struct chat_render_opts o = {.release = release};
    struct chat_conversation c;
    struct chat_prompt prompt = {0};
    struct ids ids = {0}, safe = {0};
    chat_init(&c, a);
    int rc = chat_entry_load(&c, &o, entry, err);
    rc = rc ? rc : chat_render(&prompt, &c, &o, err);
    rc = rc ? rc : chat_prompt_release_ids(&prompt, t, &ids, err);
    rc = rc ? rc : chat_prompt_ids(&prompt, t, &safe, err);
    if (!rc) {
        add_field(out, "{\"prompt\":", buf_slice(&prompt.text));
        add_ids(out, ",\"ids\":[", &ids);
        add_ids(out, ",\"safe_ids\":[", &safe);
        buf_addc(out, '}');
    }
    ids_free(&ids);
    ids_free(&safe);
    chat_prompt_fini(&prompt);
    return rc;
}

int chat_render_line(struct buf *out, const struct tokenizer *t, enum chat_release release,
                     struct slice entry, fathom_err *err)
{
    struct arena a = {0};
    struct json v;
    fathom_err why = {0};
    size_t start = out->n;
    int rc = json_read(&v, &a, entry.p, entry.n, &why);
    rc = rc ? rc : render_entry(out, t, release, &v, &a, &why);
    arena_fini(&a);
    if (rc == FATHOM_ENOMEM) {
        return err_set(err, rc, "%s", why.msg);
    }
    return rc ? error_line(out, start, why.msg, err) : finish_line(out, err);
}

/* ---- parse ---- */

static int parse_entry(struct buf *out, bool strict, const struct json *entry, fathom_err *err)
{
    const struct json *text = json_get(entry, "completion");
    struct chat_result r = {0};
    struct chat_events_opts o = {.strict = strict, .sink = chat_result_sink, .user = &r};
    struct chat_events e;
    int rc = load_mode(json_get(entry, "thinking_mode"), &o.thinking, err);
    if (!rc && !json_is(text, JSON_STRING)) {
        rc = err_set(err, FATHOM_EFORMAT, "completion is not a string");
    }
    if (rc) {
        return rc;
    }
    chat_events_start(&e, &o, NULL);
    chat_events_text(&e, text->s, text->n);
    rc = chat_events_finish(&e, err);
    if (!rc && r.failed) {
        rc = err_nomem(err, "a completion", text->n);
    } else if (!rc && r.end != CHAT_END_STOP) {
        rc = err_set(err, FATHOM_EFORMAT, "%s", r.why);
    }
    if (!rc) {
        add_field(out, "{\"reasoning_content\":", buf_slice(&r.reasoning));
        add_field(out, ",\"content\":", buf_slice(&r.content));
        buf_adds(out, ",\"tool_calls\":[");
        for (size_t i = 0; i < r.n_call; i++) {
            add_field(out, i ? ",{\"name\":" : "{\"name\":", buf_slice(&r.call[i].name));
            add_field(out, ",\"arguments\":", buf_slice(&r.call[i].arguments));
            buf_addc(out, '}');
        }
        buf_adds(out, "]}");
    }
    chat_result_fini(&r);
    return rc;
}

int chat_parse_line(struct buf *out, bool strict, struct slice entry, fathom_err *err)
{
    struct arena a = {0};
    struct json v;
    fathom_err why = {0};
    size_t start = out->n;
    int rc = json_read(&v, &a, entry.p, entry.n, &why);
    rc = rc ? rc : parse_entry(out, strict, &v, &why);
    arena_fini(&a);
    if (rc == FATHOM_ENOMEM) {
        return err_set(err, rc, "%s", why.msg);
    }
    return rc ? error_line(out, start, why.msg, err) : finish_line(out, err);
}
