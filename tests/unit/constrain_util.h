/* constrain_util.h - what the tests of constrained output share: schemas as texts to machines,
 * texts to verdicts. */
#ifndef TESTS_UNIT_CONSTRAIN_UTIL_H
#define TESTS_UNIT_CONSTRAIN_UTIL_H

#include "constrain/constrain.h"
#include "text_common.h"

struct bench_vocab {
    struct tokenizer *tok;
    struct token_trie *trie;
};

static inline struct bench_vocab vocab_open(const char *path)
{
    struct bench_vocab v = {.tok = load_json(path)};
    fathom_err err = {0};
    if (trie_new(&v.trie, v.tok, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return v;
}

static inline void vocab_close(struct bench_vocab *v)
{
    trie_free(v->trie);
    tokenizer_free(v->tok);
}

static inline struct json read_text(struct arena *a, const char *text)
{
    struct json v;
    fathom_err err = {0};
    if (json_read(&v, a, text, strlen(text), &err) != 0) {
        fail_msg("%s: %s", text, err.msg);
    }
    return v;
}

/* A machine for content of a schema; NULL and *err if it is refused. */
static inline struct machine *compile_schema(const struct bench_vocab *v, const char *schema,
                                             bool strict, fathom_err *err)
{
    struct arena a = {0};
    struct json s = read_text(&a, schema);
    struct machine *m = NULL;
    struct constrain_spec spec = {.schema = &s, .strict = strict};
    constrain_compile(&m, &spec, v->trie, err);
    arena_fini(&a);
    return m;
}

/* Is the text a whole answer? Read by the tokens that it is usually written with. */
static inline bool answer_ok(const struct bench_vocab *v, struct machine *m, const char *text)
{
    struct ids ids = {0};
    struct position p;
    bool ok = true;
    tokenizer_encode(v->tok, text, strlen(text), true, &ids);
    machine_start(m, &p);
    for (size_t i = 0; i < ids.n && ok; i++) {
        ok = machine_token(m, &p, ids.p[i]);
    }
    ok = ok && machine_may_end(m, &p);
    machine_stop(m, &p);
    ids_free(&ids);
    return ok;
}

#endif
