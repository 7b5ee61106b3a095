/* corpus.c - see corpus.h. Everything is tokenized before anything is computed, so that a bad
 * line is found at once and progress knows its end; four bytes a token are little. */
#include "factory/corpus.h"

#include "base/file.h"
#include "base/mem.h"
#include "chat/jsonl.h"

enum { MAX_CORPUS_BYTES = 1 << 30, DEFAULT_WINDOW = 2048 };

struct reading {
    struct corpus *c;
    const struct tokenizer *t;
    const struct corpus_options *opt;
    const char *label;
};

/* ---- sequences ---- */

/* Ends the sequence that began at `from`; an empty one is forgotten. */
static void end_sequence(struct reading *r, size_t from)
{
    struct corpus *c = r->c;
    size_t n = c->ids.n - from;
    if (n == 0 || c->ids.failed) {
        return;
    }
    if (r->opt->limit && n > r->opt->limit) {
        c->ids.n = from + r->opt->limit;
        c->n_cut++;
    }
    ids_add(&c->start, (uint32_t)from);
    c->n += !c->start.failed;
}

static int finish(struct reading *r, fathom_err *err)
{
    struct corpus *c = r->c;
    if (c->ids.failed || c->start.failed) {
        return err_nomem(err, r->label, c->ids.n * sizeof *c->ids.p);
    }
    if (c->ids.n > UINT32_MAX) {
        return err_set(err, FATHOM_ELIMIT, "%s: more than 2^32 tokens", r->label);
    }
    return c->n ? 0 : err_set(err, FATHOM_EFORMAT, "%s: no text in it", r->label);
}

static void add_bos(struct reading *r)
{
    int32_t bos = tokenizer_control(r->t, CT_BOS);
    if (bos >= 0) {
        ids_add(&r->c->ids, (uint32_t)bos);
    }
}

/* ---- plain text ---- */

static void add_pieces(struct reading *r, const struct ids *all)
{
    uint32_t window = r->opt->window ? r->opt->window : DEFAULT_WINDOW;
    if (r->opt->limit) {
        window = MIN(window, r->opt->limit);
    }
    size_t step = r->opt->trusted || window == 1 ? window : window - 1;
    for (size_t at = 0; at < all->n; at += step) {
        size_t from = r->c->ids.n;
        if (!r->opt->trusted && window > 1) {
            add_bos(r);
        }
        ids_add_all(&r->c->ids, all->p + at, MIN(step, all->n - at));
        end_sequence(r, from);
    }
}

static int read_plain(struct reading *r, struct slice text, fathom_err *err)
{
    struct ids all = {0};
    tokenizer_encode(r->t, text.p, text.n, r->opt->trusted, &all);
    int rc = all.failed ? err_nomem(err, r->label, text.n) : 0;
    if (rc == 0) {
        add_pieces(r, &all);
    }
    ids_free(&all);
    return rc;
}

/* ---- JSON lines ---- */

static int add_conversation(struct reading *r, const struct json *entry, struct arena *a,
                            fathom_err *err)
{
    struct chat_render_opts o = {.release = r->opt->release};
    struct chat_conversation c;
    struct chat_prompt prompt = {0};
    chat_init(&c, a);
    int rc;
    if (json_get(entry, "options")) {
        rc = chat_entry_load(&c, &o, entry, err);
    } else {
        rc = chat_load_messages(&c, json_get(entry, "messages"), err);
        rc = rc ? rc : chat_attach_tools(&c, json_get(entry, "tools"), err);
    }
    rc = rc ? rc : chat_render(&prompt, &c, &o, err);
    rc = rc ? rc : chat_prompt_ids(&prompt, r->t, &r->c->ids, err);
    chat_prompt_fini(&prompt);
    return rc;
}

static int add_entry(struct reading *r, const struct json *entry, struct arena *a,
                     fathom_err *err)
{
    struct slice text = json_str(json_get(entry, "text"));
    struct slice prompt = json_str(json_get(entry, "prompt"));
    bool chat = json_get(entry, "messages") != NULL;
    size_t from = r->c->ids.n;
    if ((text.p != NULL) + (prompt.p != NULL) + chat != 1) {
        return err_set(err, FATHOM_EFORMAT,
                       "an entry is an object with one of \"messages\", \"prompt\", \"text\"");
    }
    int rc = 0;
    if (chat) {
        rc = add_conversation(r, entry, a, err);
    } else if (prompt.p) {
        tokenizer_encode(r->t, prompt.p, prompt.n, true, &r->c->ids);
    } else if (text.n) {
        add_bos(r);
        tokenizer_encode(r->t, text.p, text.n, false, &r->c->ids);
    }
    if (rc == 0) {
        end_sequence(r, from);
    }
    return rc;
}

static int read_line(struct reading *r, struct slice line, size_t number, fathom_err *err)
{
    struct arena a = {0};
    struct json v;
    fathom_err why = {0};
    int rc = json_read(&v, &a, line.p, line.n, &why);
    rc = rc ? rc : add_entry(r, &v, &a, &why);
    arena_fini(&a);
    if (rc == FATHOM_EINVAL) {
        rc = FATHOM_EFORMAT; /* an option inside the file is the file's fault */
    }
    return rc ? err_set(err, rc, "%s: line %zu: %s", r->label, number, why.msg) : 0;
}

static int read_lines(struct reading *r, struct slice text, fathom_err *err)
{
    size_t number = 0;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < text.n;) {
        const char *end = memchr(text.p + at, '\n', text.n - at);
        size_t n = end ? (size_t)(end - text.p) - at : text.n - at;
        struct slice line = {text.p + at, n};
        number++;
        at += n + 1;
        if (strspn(line.p, " \t\r") < n) { /* the buffer ends in a NUL */
            rc = read_line(r, line, number, err);
        }
    }
    return rc;
}

/* ---- entry points ---- */

int corpus_parse(struct corpus *c, const struct tokenizer *t, struct slice text, bool jsonl,
                 const char *label, const struct corpus_options *opt, fathom_err *err)
{
    *c = (struct corpus){0};
    struct reading r = {c, t, opt, label};
    int rc = jsonl ? read_lines(&r, text, err) : read_plain(&r, text, err);
    return rc ? rc : finish(&r, err);
}

int corpus_load(struct corpus *c, const struct tokenizer *t, const char *path,
                const struct corpus_options *opt, fathom_err *err)
{
    static const char suffix[] = ".jsonl";
    struct buf text = {0};
    size_t n = strlen(path);
    bool jsonl = n >= sizeof suffix && strcmp(path + n - (sizeof suffix - 1), suffix) == 0;
    *c = (struct corpus){0};
    int rc = file_read_all(&text, path, MAX_CORPUS_BYTES, err);
    rc = rc ? rc : corpus_parse(c, t, buf_slice(&text), jsonl, path, opt, err);
    buf_free(&text);
    return rc;
}

void corpus_free(struct corpus *c)
{
    ids_free(&c->ids);
    ids_free(&c->start);
    *c = (struct corpus){0};
}

const uint32_t *corpus_ids(const struct corpus *c, size_t i, uint32_t *n)
{
    size_t from = c->start.p[i], end = i + 1 < c->n ? c->start.p[i + 1] : c->ids.n;
    *n = (uint32_t)(end - from);
    return c->ids.p + from;
}
