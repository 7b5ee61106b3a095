/* constrain.h - constrained output: what an answer must look like becomes a mask of tokens for
 * every step. Text to tokens: trie.h. What may be said: grammar.h, built by schema.h and tools.h.
 * Finding masks: machine.h. This file joins them: constrain_compile makes a machine of a request,
 * a matcher follows one answer. */
#ifndef CONSTRAIN_CONSTRAIN_H
#define CONSTRAIN_CONSTRAIN_H

#include "constrain/machine.h"
#include "json/json.h"

enum constrain_calls {
    CONSTRAIN_CALLS_NONE, /* the answer is JSON */
    CONSTRAIN_CALLS_MAY,  /* with a schema: JSON or calls; without: text, and calls are held to
                             the tools' names once they begin (a lazy grammar) */
    CONSTRAIN_CALLS_MUST, /* the answer is calls */
};

struct constrain_spec {
    const struct json *schema; /* of JSON content; NULL: none */
    bool object;               /* the content is any JSON object (schema NULL) */
    bool strict;               /* refuse keywords of the schema that are not supported */
    enum constrain_calls calls;
    const struct json *tools; /* array of {"function": ...}; NULL: none */
    struct slice only;        /* name of the one tool; p NULL: any */
    bool one_call;
};

/* Units of work of one compilation (dfa.h): 0.2 s at most on the slowest machine measured. */
#define CONSTRAIN_FUEL 12000000u

/* *out: a machine with one reference. Errors, which name keyword and place: FATHOM_EFORMAT (no
 * schema, or nothing satisfies it), FATHOM_EUNSUPPORTED, FATHOM_ELIMIT, FATHOM_ENOMEM. */
int constrain_compile(struct machine **out, const struct constrain_spec *spec,
                      const struct token_trie *trie, fathom_err *err);

/* Follows one answer. One thread at a time. */
struct matcher;
/* Takes a reference of m. lazy: spec was CALLS_MAY without JSON. in_reasoning: nothing is held to
 * the grammar until the end-of-thinking token. NULL: out of memory. */
struct matcher *matcher_new(struct machine *m, bool lazy, bool in_reasoning);
/* Tokens that may come next, bit id % 32 of word id / 32; NULL: all. Valid until the next call. */
const uint32_t *matcher_mask(struct matcher *t);
void matcher_accept(struct matcher *t, uint32_t id);
void matcher_free(struct matcher *t);

#endif
