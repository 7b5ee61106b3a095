/* tokens.c - `fathom tokens`: text to ids and back, once or line by line. Decoding goes token
 * by token through the streaming detokeniser, so what is shown is what a client would receive.
 */
#include "cmd/cmd.h"

#include <stdio.h>

#include "cmd/idlist.h"
#include "cmd/model.h"

struct state {
    const struct cli *o;
    struct tokenizer *t;
};

static void write_deltas(struct buf *b, const struct tokenizer *t, const struct ids *v)
{
    struct detok d = {0};
    struct buf text = {0};
    buf_adds(b, "{\"deltas\":[");
    for (size_t i = 0; i < v->n; i++) {
        struct slice bytes = tokenizer_bytes(t, v->p[i]);
        buf_clear(&text);
        detok_feed(&d, bytes.p, bytes.n, &text);
        buf_adds(b, i ? "," : "");
        json_write_line_str(b, buf_slice(&text));
        b->failed |= text.failed;
    }
    buf_clear(&text);
    detok_flush(&d, &text);
    buf_adds(b, "],\"flush\":");
    json_write_line_str(b, buf_slice(&text));
    buf_adds(b, "}\n");
    buf_free(&text);
}

static int one_line(void *user, const char *line, size_t n)
{
    const struct state *s = user;
    struct arena a = {0};
    struct json doc;
    struct ids v = {0};
    struct buf b = {0};
    fathom_err err = {0};
    int rc = json_read(&doc, &a, line, n, &err);
    if (rc == 0 && s->o->decode) {
        rc = idlist_json(&v, &doc, "ids", &err);
        if (rc == 0) {
            write_deltas(&b, s->t, &v);
        }
    } else if (rc == 0) {
        const struct json *text = json_get(&doc, "text");
        if (json_is(text, JSON_STRING)) {
            tokenizer_encode(s->t, text->s, text->n, !s->o->plain, &v);
            buf_adds(&b, "{\"ids\":");
            idlist_write(&b, &v);
            buf_adds(&b, "}\n");
            b.failed |= v.failed;
        } else {
            rc = err_set(&err, FATHOM_EFORMAT, "no string \"text\"");
        }
    }
    ids_free(&v);
    arena_fini(&a);
    if (rc) {
        buf_free(&b);
        return cmd_fail("standard input", &err);
    }
    return cmd_print(&b);
}

static int decode_once(const struct state *s, fathom_err *err)
{
    struct ids v = {0};
    struct buf in = {0}, out = {0};
    bool from_arg = s->o->ids && strcmp(s->o->ids, "-") != 0;
    int rc = from_arg ? 0 : cmd_text(&in, s->o, err);
    struct slice text = from_arg ? slice_of(s->o->ids) : buf_slice(&in);
    rc = rc ? rc : idlist_read(&v, text.p, text.n, err);
    if (rc == 0 && s->o->json) {
        write_deltas(&out, s->t, &v);
    } else if (rc == 0) {
        struct detok d = {0};
        for (size_t i = 0; i < v.n; i++) {
            struct slice bytes = tokenizer_bytes(s->t, v.p[i]);
            detok_feed(&d, bytes.p, bytes.n, &out);
        }
        detok_flush(&d, &out);
        buf_addc(&out, '\n');
    }
    ids_free(&v);
    buf_free(&in);
    if (rc) {
        buf_free(&out);
        return cmd_fail(NULL, err);
    }
    return cmd_print(&out);
}

static int encode_once(const struct state *s, fathom_err *err)
{
    struct buf in = {0}, out = {0};
    struct ids v = {0};
    if (cmd_text(&in, s->o, err)) {
        buf_free(&in);
        return cmd_fail(NULL, err);
    }
    tokenizer_encode(s->t, in.p ? in.p : "", in.n, !s->o->plain, &v);
    if (s->o->json) {
        buf_adds(&out, "{\"ids\":");
        idlist_write(&out, &v);
        buf_adds(&out, "}\n");
    } else {
        for (size_t i = 0; i < v.n; i++) {
            buf_addf(&out, "%s%u", i ? "," : "", v.p[i]);
        }
        buf_addc(&out, '\n');
    }
    out.failed |= v.failed;
    ids_free(&v);
    buf_free(&in);
    return cmd_print(&out);
}

int cmd_tokens(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct state s = {.o = o};
    if (o->ids && !o->decode) {
        return cmd_usage(o, "--ids goes with --decode");
    }
    if (model_find(&m, o, &err)) {
        return cmd_fail(NULL, &err);
    }
    if (model_tokenizer(&s.t, NULL, &m, &err)) {
        return model_fail(&m, &err);
    }
    int code = o->jsonl    ? cmd_lines(one_line, &s)
               : o->decode ? decode_once(&s, &err)
                           : encode_once(&s, &err);
    tokenizer_free(s.t);
    return code;
}
