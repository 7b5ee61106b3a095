/* constraint.h - the seam for constrained output: a token mask per step (JSON schemas, tool
 * grammars; src/constrain). A request parser says what is wanted, constraint_make compiles it on
 * the connection's thread, the engine thread asks for masks.
 *
 * Until src/constrain exists constraint_make refuses every request, loudly: an answer that may
 * break a promised schema would be worse than none. */
#ifndef SERVER_CONSTRAINT_H
#define SERVER_CONSTRAINT_H

#include "base/err.h"
#include "base/str.h"
#include "json/json.h"

struct tokenizer;

enum constraint_kind {
    CONSTRAINT_NONE,
    CONSTRAINT_JSON_OBJECT, /* any JSON object as content */
    CONSTRAINT_JSON_SCHEMA, /* schema */
    CONSTRAINT_CALL_ANY,    /* the answer must call a tool */
    CONSTRAINT_CALL_NAMED,  /* the answer must call the tool `name` */
};

struct constraint_spec {
    enum constraint_kind kind;
    const struct json *schema; /* borrowed */
    bool strict;
    const struct json *tools; /* array of {"function": ...}, borrowed; NULL: none */
    struct slice name;
    bool in_reasoning; /* masks begin after the end of the reasoning */
};

struct constraint {
    /* Allowed tokens of the next step (bit id % 32 of word id / 32); NULL: all. Engine thread,
     * like accept. */
    const uint32_t *(*mask)(struct constraint *c);
    void (*accept)(struct constraint *c, uint32_t id);
    void (*free)(struct constraint *c);
};

/* *out NULL for CONSTRAINT_NONE. Errors: FATHOM_EUNSUPPORTED, FATHOM_EFORMAT (a schema that
 * cannot be compiled), FATHOM_ELIMIT, FATHOM_ENOMEM. */
int constraint_make(struct constraint **out, const struct constraint_spec *spec,
                    const struct tokenizer *tok, fathom_err *err);

#endif
