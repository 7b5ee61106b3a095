/* official.c - see official.h. */
#include "eval/official.h"

#include "eval/rows.h"
#include "eval/stats.h"

enum { MAX_TOKEN_BYTES = 1024 };

struct load {
    struct official *o;
    const struct manifest_ctx *m;
};

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static int hex_bytes(char out[MAX_TOKEN_BYTES], size_t *n, struct slice hex, fathom_err *err)
{
    *n = hex.n / 2;
    bool ok = hex.n > 0 && hex.n % 2 == 0 && *n <= MAX_TOKEN_BYTES;
    for (size_t i = 0; ok && i < *n; i++) {
        int hi = hex_digit(hex.p[2 * i]), lo = hex_digit(hex.p[2 * i + 1]);
        ok = hi >= 0 && lo >= 0;
        out[i] = ok ? (char)(hi * 16 + lo) : 0;
    }
    return ok ? 0 : err_set(err, FATHOM_EFORMAT, "a step's \"token\" is not the hex of bytes");
}

/* The lowest id with these bytes, UINT32_MAX if there is none. */
static uint32_t find_token(const struct tokenizer *t, struct slice bytes)
{
    for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++) {
        if (slice_eq(tokenizer_bytes(t, id), bytes)) {
            return id;
        }
    }
    return UINT32_MAX;
}

static struct official_case *push(struct official *o)
{
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 16;
        struct official_case *more = mem_realloc(o->v, cap, sizeof *more);
        if (!more) {
            return NULL;
        }
        o->v = more;
        o->cap = cap;
    }
    o->v[o->n] = (struct official_case){.other = UINT32_MAX};
    return &o->v[o->n++];
}

static int case_prompt(struct load *l, struct official_case *c, const struct json *entry,
                       fathom_err *err)
{
    struct manifest_ctx m = *l->m;
    struct slice release = json_str(json_get(entry, "release"));
    char name[16] = {0};
    if (release.p) {
        memcpy(name, release.p, MIN(release.n, sizeof name - 1));
        if (release.n >= sizeof name || !chat_release_parse(name, &m.release)) {
            return err_set(err, FATHOM_EFORMAT, "unknown release \"%.*s\"",
                           (int)MIN(release.n, (size_t)64), release.p);
        }
    }
    size_t at = l->o->set.ids.n;
    int64_t n_api = 0;
    int rc = manifest_prompt(&l->o->set.ids, &m, entry, err);
    const struct json *count = json_get(entry, "prompt_tokens");
    if (rc == 0 && count && (!json_int(count, &n_api) || n_api < 0 || n_api > UINT32_MAX)) {
        rc = err_set(err, FATHOM_EFORMAT, "\"prompt_tokens\" is no count");
    }
    c->n_prompt = (uint32_t)(l->o->set.ids.n - at);
    c->api_prompt = (uint32_t)n_api;
    return rc;
}

static int add_case(void *user, const struct json *entry, fathom_err *err)
{
    struct load *l = user;
    struct official *o = l->o;
    const struct json *steps = json_get(entry, "steps");
    struct slice id = json_str(json_get(entry, "id"));
    size_t at = o->set.ids.n;
    if (!json_is(steps, JSON_ARRAY) || steps->n == 0 || steps->n > UINT32_MAX) {
        return err_set(err, FATHOM_EFORMAT, "\"steps\" is no list of steps");
    }
    struct official_case *c = push(o);
    char *name = arena_strndup(&o->mem, id.p ? id.p : "", id.n);
    if (!c || !name) {
        return err_nomem(err, "official answers", o->n * sizeof *c);
    }
    c->id = name;
    c->n_steps = (uint32_t)steps->n;
    int rc = case_prompt(l, c, entry, err);
    bool usable = true;
    for (size_t i = 0; rc == 0 && i < steps->n; i++) {
        char bytes[MAX_TOKEN_BYTES];
        size_t n;
        rc = hex_bytes(bytes, &n, json_str(json_get(&steps->items[i], "token")), err);
        uint32_t tok =
            rc || !usable ? UINT32_MAX : find_token(l->m->tok, (struct slice){bytes, n});
        usable = usable && tok != UINT32_MAX;
        if (rc == 0 && usable) {
            ids_add(&o->set.ids, tok);
            c->n_usable++;
        }
    }
    return rc ? rc : eval_set_add(&o->set, at, c->n_prompt, err);
}

int official_load(struct official *o, const struct manifest_ctx *m, struct slice text,
                  fathom_err *err)
{
    struct load l = {o, m};
    int rc = m->tok ? 0
                    : err_set(err, FATHOM_EUNSUPPORTED,
                              "the model file has no tokenizer: official answers are text");
    rc = rc ? rc : manifest_each(text, add_case, &l, err);
    if (rc == 0 && o->n == 0) {
        rc = err_set(err, FATHOM_EFORMAT, "no official answer in the file");
    }
    return rc;
}

void official_fini(struct official *o)
{
    mem_free(o->v);
    eval_set_fini(&o->set);
    arena_fini(&o->mem);
    *o = (struct official){0};
}

/* ---- comparing ---- */

struct comparing {
    struct official *o;
    struct official_case **of; /* sequence of the set -> case */
};

static int on_row(void *user, const struct eval_row *row, fathom_err *err)
{
    struct comparing *x = user;
    struct official_case *c = x->of[row->seq];
    uint32_t best = eval_argmax(row->logits, row->n_vocab), step = row->pos - c->n_prompt;
    (void)err;
    if (best == row->id) {
        c->n_same++;
        c->prefix += c->prefix == step;
    } else if (c->other == UINT32_MAX) {
        c->other = best;
        c->wanted = row->id;
    }
    return 0;
}

int official_run(struct official *o, fathom_engine *e, fathom_progress_fn progress,
                 void *progress_user, fathom_err *err)
{
    struct comparing x = {o, mem_alloc(o->n, sizeof(void *))};
    size_t n = 0;
    if (!x.of) {
        return err_nomem(err, "official answers", o->n * sizeof(void *));
    }
    for (size_t i = 0; i < o->n; i++) {
        if (o->v[i].n_usable) {
            x.of[n++] = &o->v[i];
        }
    }
    struct eval_drive d = {.engine = e,
                           .row = on_row,
                           .user = &x,
                           .stage = "official",
                           .progress = progress,
                           .progress_user = progress_user};
    int rc = eval_rows(&o->set, &d, err);
    mem_free(x.of);
    return rc;
}
