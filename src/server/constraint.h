/* constraint.h - constrained output in the server: what a request asks for becomes a constraint
 * on the connection's thread (compiled, or found among those compiled before); the engine thread
 * asks it for masks. The work is done by src/constrain. */
#ifndef SERVER_CONSTRAINT_H
#define SERVER_CONSTRAINT_H

#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"
#include "constrain/constrain.h"
#include "json/json.h"

struct tokenizer;

enum constraint_kind { /* of the content */
                       CONSTRAINT_NONE,
                       CONSTRAINT_JSON_OBJECT, /* any JSON object */
                       CONSTRAINT_JSON_SCHEMA, /* schema */
};

struct constraint_spec {
    enum constraint_kind kind;
    const struct json *schema; /* borrowed */
    bool strict;               /* keywords of the schema that are not supported are refused */
    enum constrain_calls calls;
    const struct json *tools; /* array of {"function": ...}, borrowed; NULL: none */
    struct slice name;        /* the one tool that may be called; p NULL: all */
    bool one_call;
    bool in_reasoning; /* masks begin after the end of the reasoning */
};

/* One answer's. */
struct constraint {
    struct matcher *matcher;            /* owned; engine thread */
    unsigned char digest[SHA256_BYTES]; /* equal constraints have equal digests */
};
/* Allowed tokens of the next step (bit id % 32 of word id / 32); NULL: all. Engine thread, like
 * constraint_accept. */
const uint32_t *constraint_mask(struct constraint *c);
void constraint_accept(struct constraint *c, uint32_t id);
void constraint_free(struct constraint *c);

/* Compiled constraints, least recently used out first, in memory only and bounded in bytes; and the
 * token trie, built when it is first needed. Thread-safe. */
struct constraint_cache;
struct constraint_cache *constraint_cache_new(const struct tokenizer *tok, size_t max_bytes);
void constraint_cache_free(struct constraint_cache *c); /* after the last constraint */
/* Memory that what is kept takes now; *n: how many. Both grow with use, bounded by max_bytes (but
 * for the newest alone) and 256. */
size_t constraint_cache_bytes(struct constraint_cache *c, size_t *n);

/* *out NULL if nothing is constrained. Errors: FATHOM_EUNSUPPORTED, FATHOM_EFORMAT (a schema that
 * cannot be compiled), FATHOM_ELIMIT, FATHOM_ENOMEM. */
int constraint_make(struct constraint **out, struct constraint_cache *cache,
                    const struct constraint_spec *spec, fathom_err *err);

#endif
