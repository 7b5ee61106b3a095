/* render.c - `fathom render` and `fathom parse`: the two directions of the chat format on JSON,
 * for tests and debugging. Both are thin: the work and the meaning of the entries are in
 * chat/jsonl.h. render shows the release's own form, without what the API adds. */
#include "cmd/cmd.h"

#include "base/mem.h"
#include "chat/jsonl.h"
#include "cmd/model.h"
#include "json/json.h"

struct state {
    const struct cli *o;
    const struct tokenizer *t;
    enum chat_release release;
};

typedef int (*entry_fn)(struct buf *out, const struct state *s, struct slice entry,
                        fathom_err *err);

static int render_entry(struct buf *out, const struct state *s, struct slice entry,
                        fathom_err *err)
{
    return chat_render_line(out, s->t, s->release, entry, err);
}

static int parse_entry(struct buf *out, const struct state *s, struct slice entry,
                       fathom_err *err)
{
    return chat_parse_line(out, !s->o->lenient, entry, err);
}

struct lines {
    const struct state *s;
    entry_fn fn;
};

static int one_line(void *user, const char *line, size_t n)
{
    const struct lines *l = user;
    struct buf b = {0};
    fathom_err err = {0};
    if (l->fn(&b, l->s, (struct slice){line, n}, &err)) {
        buf_free(&b);
        return cmd_fail(NULL, &err);
    }
    buf_addc(&b, '\n');
    return cmd_print(&b);
}

/* One entry from -f or stdin. Its result is an object; "error" in it means that the input was
 * not usable. key: without --json only this member is printed, as text. */
static int once(const struct state *s, entry_fn fn, const char *key)
{
    struct buf in = {0}, out = {0};
    struct arena a = {0};
    struct json doc;
    fathom_err err = {0};
    int rc = cmd_text(&in, s->o, &err);
    rc = rc ? rc : fn(&out, s, buf_slice(&in), &err);
    rc = rc ? rc : json_read(&doc, &a, out.p, out.n, &err);
    struct slice bad = rc ? (struct slice){0} : json_str(json_get(&doc, "error"));
    if (bad.p) {
        rc = err_set(&err, FATHOM_EFORMAT, "%.*s", (int)MIN(bad.n, 500u), bad.p);
    }
    if (rc == 0 && key && !s->o->json) {
        buf_clear(&out);
        buf_add_slice(&out, json_str(json_get(&doc, key)));
    }
    buf_addc(&out, '\n');
    int code;
    if (rc) {
        buf_free(&out);
        code = cmd_fail(s->o->file ? s->o->file : "standard input", &err);
    } else {
        code = cmd_print(&out);
    }
    arena_fini(&a);
    buf_free(&in);
    return code;
}

int cmd_render(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct tokenizer *t = NULL;
    const char *release = NULL;
    if (model_find(&m, o, &err)) {
        return cmd_fail(NULL, &err);
    }
    if (model_tokenizer(&t, &release, &m, &err)) {
        return model_fail(&m, &err);
    }
    struct state s = {.o = o, .t = t};
    release = o->release ? o->release : release ? release : "preview";
    (void)chat_release_parse(release, &s.release); /* both sources give known names only */
    struct lines l = {&s, render_entry};
    int code = o->jsonl ? cmd_lines(one_line, &l) : once(&s, render_entry, "prompt");
    tokenizer_free(t);
    return code;
}

int cmd_parse(struct cli *o)
{
    struct state s = {.o = o};
    struct lines l = {&s, parse_entry};
    return o->jsonl ? cmd_lines(one_line, &l) : once(&s, parse_entry, NULL);
}
