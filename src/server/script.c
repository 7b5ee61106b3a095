/* script.c - scripted completions in place of a model (model.h), so that the whole server can
 * be tested with answers that are known byte by byte: requests, scheduling, streams and errors
 * are the real ones, only the choice of tokens is read from a file.
 *
 * It lives here and not in src/engine because it implements the server's interface and reads
 * JSON. A sequence keeps its ids like a session, so reuse of prefixes is real; "computing" a
 * token is moving a mark. Time passes only where the script says so. */
#include <stdio.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"
#include "server/model.h"
#include "text/text.h"

enum { FILE_MAX = 64 << 20, LINES_MAX = 100000 };

struct script_line {
    struct ids ids;
    struct slice match;    /* in the arena; n 0: none */
    double delay, prefill; /* seconds */
    uint32_t fault_after;
    bool eos, used;
};

struct script {
    const struct tokenizer *tok; /* borrowed */
    struct script_options o;
    struct arena arena;
    struct script_line *line; /* owned: n of them */
    size_t n, cap, next;
};

struct script_seq {
    struct ids ids;
    uint32_t n;                     /* computed */
    uint32_t n_prompt;              /* length at the last set */
    const struct script_line *line; /* borrowed from the script */
    uint32_t at;                    /* tokens of the line that were chosen */
    bool logits;
};

/* ---- reading ---- */

static int line_ids(struct script *s, struct script_line *l, const struct json *v,
                    fathom_err *err)
{
    const struct json *text = json_get(v, "completion"), *pieces = json_get(v, "pieces");
    const struct json *ids = json_get(v, "ids");
    if (json_is(text, JSON_STRING)) {
        tokenizer_encode(s->tok, text->s, text->n, true, &l->ids);
    } else if (json_is(pieces, JSON_ARRAY)) {
        for (size_t i = 0; i < pieces->n; i++) {
            struct slice p = json_str(&pieces->items[i]);
            tokenizer_encode(s->tok, p.p ? p.p : "", p.n, true, &l->ids);
        }
    } else if (json_is(ids, JSON_ARRAY)) {
        for (size_t i = 0; i < ids->n; i++) {
            int64_t id;
            if (!json_int(&ids->items[i], &id) || id < 0 ||
                id >= (int64_t)tokenizer_n_vocab(s->tok)) {
                return err_set(err, FATHOM_EFORMAT, "\"ids\"[%zu] is no token id", i);
            }
            ids_add(&l->ids, (uint32_t)id);
        }
    } else {
        return err_set(err, FATHOM_EFORMAT, "no \"completion\", \"pieces\" or \"ids\"");
    }
    if (l->eos || l->ids.n == 0) {
        ids_add(&l->ids, (uint32_t)tokenizer_control(s->tok, CT_EOS));
    }
    return l->ids.failed ? err_nomem(err, "a script", l->ids.n) : 0;
}

static int read_line(struct script *s, const char *text, size_t n, fathom_err *err)
{
    struct json v;
    int64_t fault;
    int rc = json_read(&v, &s->arena, text, n, err);
    if (rc) {
        return rc;
    }
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct script_line *p =
            cap <= 2 * LINES_MAX ? mem_realloc(s->line, cap, sizeof *p) : NULL;
        if (!p) {
            return err_nomem(err, "a script", cap);
        }
        s->line = p;
        s->cap = cap;
    }
    struct script_line *l = &s->line[s->n++];
    *l = (struct script_line){.eos = !json_is(json_get(&v, "eos"), JSON_FALSE),
                              .match = json_str(json_get(&v, "match")),
                              .fault_after = UINT32_MAX};
    if (json_double(json_get(&v, "delay_ms"), &l->delay)) {
        l->delay /= 1000;
    }
    if (json_double(json_get(&v, "prefill_ms"), &l->prefill)) {
        l->prefill /= 1000;
    }
    if (json_int(json_get(&v, "fault_after"), &fault) && fault >= 0 && fault < UINT32_MAX) {
        l->fault_after = (uint32_t)fault;
    }
    return line_ids(s, l, &v, err);
}

int script_open_mem(struct script **out, const char *text, size_t n,
                    const struct tokenizer *tok, const struct script_options *o,
                    fathom_err *err)
{
    struct script *s = mem_calloc(1, sizeof *s);
    int rc = s ? 0 : err_nomem(err, "a script", sizeof *s);
    size_t number = 0;
    *out = NULL;
    if (rc) {
        return rc;
    }
    s->tok = tok;
    s->o = *o;
    s->o.max_ctx = o->max_ctx ? o->max_ctx : 65536;
    s->o.max_seq = o->max_seq ? o->max_seq : 4;
    s->o.chunk = o->chunk ? o->chunk : 256;
    for (size_t at = 0; at < n && !rc;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        number++;
        if (len > 0) {
            rc = read_line(s, text + at, len, err);
            if (rc) {
                err_prefix(err, "line %zu", number);
            }
        }
        at += len + 1;
    }
    if (!rc && s->n == 0) {
        rc = err_set(err, FATHOM_EFORMAT, "no completion in it");
    }
    if (rc) {
        script_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

int script_open(struct script **out, const char *path, const struct tokenizer *tok,
                const struct script_options *o, fathom_err *err)
{
    struct buf b = {0};
    *out = NULL;
    int rc = file_read_all(&b, path, FILE_MAX, err);
    if (!rc) {
        rc = script_open_mem(out, buf_cstr(&b), b.n, tok, o, err);
        if (rc) {
            err_prefix(err, "script %s", path);
        }
    }
    buf_free(&b);
    return rc;
}

void script_close(struct script *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n; i++) {
        ids_free(&s->line[i].ids);
    }
    mem_free(s->line);
    arena_fini(&s->arena);
    mem_free(s);
}

/* ---- sequences ---- */

static int seq_new(void *impl, void **seq, struct sip_digest salt, fathom_err *err)
{
    (void)impl;
    (void)salt;
    *seq = mem_calloc(1, sizeof(struct script_seq));
    return *seq ? 0 : err_nomem(err, "a sequence", sizeof(struct script_seq));
}

static void seq_free(void *impl, void *seq)
{
    struct script_seq *q = seq;
    (void)impl;
    ids_free(&q->ids);
    mem_free(q);
}

static int seq_fork(void *impl, void **out, void *seq, uint32_t n, fathom_err *err)
{
    struct script_seq *from = seq;
    int rc = seq_new(impl, out, (struct sip_digest){0}, err);
    if (!rc) {
        struct script_seq *q = *out;
        ids_add_all(&q->ids, from->ids.p, MIN(n, from->n));
        q->n = (uint32_t)q->ids.n;
        rc = q->ids.failed ? err_nomem(err, "a sequence", n) : 0;
    }
    if (rc && *out) {
        seq_free(impl, *out);
        *out = NULL;
    }
    return rc;
}

/* The line for a prompt: one whose "match" it contains, else the next in turn. */
static const struct script_line *choose(struct script *s, const struct ids *prompt)
{
    struct buf text = {0};
    for (size_t i = 0; i < prompt->n; i++) {
        buf_add_slice(&text, tokenizer_bytes(s->tok, prompt->p[i]));
    }
    const struct script_line *found = NULL;
    for (size_t i = 0; i < s->n && !found; i++) {
        struct slice m = s->line[i].match;
        found = m.n && text.n && memmem(text.p, text.n, m.p, m.n) ? &s->line[i] : NULL;
    }
    for (size_t i = 0; i < s->n && !found; i++) {
        const struct script_line *l = &s->line[s->next++ % s->n];
        found = l->match.n ? NULL : l;
    }
    buf_free(&text);
    return found ? found : &s->line[0];
}

static int set(void *impl, void *seq, const uint32_t *ids, uint32_t n, fathom_reuse *reuse,
               fathom_err *err)
{
    struct script *s = impl;
    struct script_seq *q = seq;
    uint32_t same = 0;
    if (n == 0 || n > s->o.max_ctx) {
        return err_set(err, FATHOM_ELIMIT, "%u tokens; the context holds %u", n, s->o.max_ctx);
    }
    while (same < n && same < q->n && q->ids.p[same] == ids[same]) {
        same++;
    }
    uint32_t keep = MIN(same, n - 1);
    *reuse = (fathom_reuse){.matched = same, .kept = keep, .computed = n - keep};
    q->ids.n = q->n = keep;
    ids_add_all(&q->ids, ids + keep, n - keep);
    if (q->ids.failed) {
        return err_nomem(err, "a sequence", n);
    }
    q->n_prompt = n;
    q->at = 0;
    q->logits = false;
    q->line = choose(s, &q->ids);
    return 0;
}

static int append(void *impl, void *seq, uint32_t id, fathom_err *err)
{
    struct script *s = impl;
    struct script_seq *q = seq;
    if (q->ids.n >= s->o.max_ctx) {
        return err_set(err, FATHOM_ELIMIT, "the context holds %u tokens", s->o.max_ctx);
    }
    ids_add(&q->ids, id);
    return q->ids.failed ? err_nomem(err, "a sequence", q->ids.n) : 0;
}

static uint32_t pending(void *impl, void *seq)
{
    const struct script_seq *q = seq;
    (void)impl;
    return (uint32_t)q->ids.n - q->n;
}

static void checkpoint(void *impl, void *seq)
{
    (void)impl;
    (void)seq;
}

static void idle(void *impl, void *seq)
{
    (void)impl;
    (void)seq;
}

static const uint32_t *seq_ids(void *impl, void *seq, uint32_t *n)
{
    const struct script_seq *q = seq;
    (void)impl;
    *n = q->n;
    return q->ids.p;
}

static void pass(double seconds)
{
    if (seconds > 0) {
        struct timespec t = {(time_t)seconds,
                             (long)((seconds - (double)(time_t)seconds) * 1e9)};
        nanosleep(&t, NULL);
    }
}

static int step(void *impl, const struct model_work *work, uint32_t n, fathom_err *err)
{
    double time = 0;
    (void)impl;
    for (uint32_t i = 0; i < n; i++) {
        struct script_seq *q = work[i].seq;
        bool prompt = q->n < q->n_prompt;
        if (!prompt && q->at >= q->line->fault_after) {
            return err_set(err, FATHOM_EIO, "the script says that this step fails");
        }
        double own = prompt ? q->line->prefill * work[i].n_tok / q->n_prompt : q->line->delay;
        time = MAX(time, own);
    }
    pass(time);
    for (uint32_t i = 0; i < n; i++) {
        struct script_seq *q = work[i].seq;
        q->n += work[i].n_tok;
        q->logits = work[i].want;
    }
    return 0;
}

static bool allowed(const uint32_t *mask, uint32_t id)
{
    return !mask || (mask[id / 32] >> id % 32 & 1u);
}

/* The next token of the line that the mask allows. */
static int sample(void *impl, void *seq, const fathom_sampling *p, const uint32_t *mask,
                  fathom_choice *out, fathom_err *err)
{
    struct script *s = impl;
    struct script_seq *q = seq;
    const struct ids *line = &q->line->ids;
    if (!q->logits) {
        return err_set(err, FATHOM_EINVAL, "no logits");
    }
    uint32_t id = line->p[MIN(q->at, (uint32_t)line->n - 1)];
    for (size_t tries = 0; !allowed(mask, id); tries++) {
        if (tries > line->n) {
            return err_set(err, FATHOM_EINVAL, "the mask allows no token of the script");
        }
        q->at++;
        id = line->p[MIN(q->at, (uint32_t)line->n - 1)];
    }
    q->at++;
    uint32_t n_vocab = tokenizer_n_vocab(s->tok);
    *out = (fathom_choice){.id = id, .logprob = -0.25f, .n_top = MIN(p->n_logprobs, 20u)};
    for (uint32_t i = 0; i < out->n_top; i++) { /* made-up alternatives, in falling order */
        out->top[i] = (fathom_logprob){(id + i) % n_vocab, -0.25f - 2.0f * (float)i};
    }
    return 0;
}

static void memory(void *impl, struct model_memory *out)
{
    (void)impl;
    *out = (struct model_memory){0};
}

static const struct model_ops script_ops = {
    .seq_new = seq_new,
    .seq_free = seq_free,
    .seq_fork = seq_fork,
    .set = set,
    .append = append,
    .pending = pending,
    .checkpoint = checkpoint,
    .idle = idle,
    .ids = seq_ids,
    .step = step,
    .sample = sample,
    .memory = memory,
};

void script_model_init(struct model *m, struct script *s)
{
    *m = (struct model){.ops = &script_ops,
                        .impl = s,
                        .tok = s->tok,
                        .eos = tokenizer_control(s->tok, CT_EOS),
                        .info = {.name = "script",
                                 .file = "script",
                                 .backend = "script",
                                 .arith_class = "script",
                                 .n_vocab = tokenizer_n_vocab(s->tok),
                                 .max_ctx = s->o.max_ctx,
                                 .max_seq = s->o.max_seq,
                                 .chunk = s->o.chunk}};
    snprintf(m->info.release, sizeof m->info.release, "%s",
             s->o.release ? s->o.release : "preview");
}
