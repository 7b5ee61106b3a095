/* schema.h - JSON schemas to grammar rules. A rule stands for a list of schemas that a value must
 * satisfy all at once: $ref and allOf add to the list, anyOf and oneOf branch it, and what is left
 * is merged keyword by keyword. Rules are made once for each list and compiled from a work list,
 * so recursion in a schema is recursion among rules and never in this code.
 *
 * Choices that the standard leaves to us, each of which only narrows what is accepted:
 * - an object that lists properties and is silent on others gets none but those; one that lists
 *   none takes any;
 * - keywords of one type only (properties, items, pattern, minimum ...) without "type" say the
 *   type;
 * - oneOf is anyOf; values of enum and const are written in one way.
 * Properties come in any order (beyond 64, in the order of the schema).
 *
 * Unsupported keywords (schema_kind of schema.c): refused with their place if strict, else
 * ignored. Thread rule: belongs to one thread; borrows the grammar and the JSON. */
#ifndef CONSTRAIN_SCHEMA_H
#define CONSTRAIN_SCHEMA_H

#include "constrain/grammar.h"
#include "json/json.h"

enum {
    SCHEMA_MAX_DEPTH = 32,        /* of schemas in each other */
    SCHEMA_MAX_REPEAT = 2000,     /* minItems, maxLength ... */
    SCHEMA_MAX_PARTS = 64,        /* schemas that one value must satisfy */
    SCHEMA_MAX_BYTES = 256 << 10, /* of the text */
};

/* How a value is written. */
enum schema_form {
    SCHEMA_JSON,   /* as JSON */
    SCHEMA_RAW,    /* strings only, as their text alone */
    SCHEMA_OTHERS, /* as JSON, all but strings */
};

struct schema; /* a schema in work */

/* FATHOM_ELIMIT if the text of a schema is longer than SCHEMA_MAX_BYTES. */
int schema_check_size(const struct json *v, fathom_err *err);
/* root: what $ref refers to. */
int schema_open(struct schema **out, struct grammar *g, const struct json *root, bool strict,
                struct fuel *fuel, fathom_err *err);
void schema_close(struct schema *s);

/* The rule for v (a part of root; NULL: any value). Its nodes follow with schema_run. */
uint32_t schema_rule(struct schema *s, const struct json *v, enum schema_form form);

/* What an object schema says of its members. */
struct schema_member {
    struct slice name;
    bool required;
    uint32_t list; /* for schema_member_rule */
};
struct schema_members {
    struct schema_member *member; /* owned by the grammar's arena */
    uint32_t n;
    bool open;       /* others may follow */
    uint32_t others; /* list */
    uint32_t key;    /* automaton of their names, or NO_DFA */
};
/* v as above. False: no object satisfies it, or an error. */
bool schema_read_members(struct schema *s, const struct json *v, struct schema_members *out);
uint32_t schema_any(struct schema *s); /* the list that allows any value */
uint32_t schema_member_rule(struct schema *s, uint32_t list, enum schema_form form);

/* Compiles all rules that were asked for. Errors: FATHOM_EFORMAT (what is no schema),
 * FATHOM_EUNSUPPORTED, FATHOM_ELIMIT, FATHOM_ENOMEM, with keyword and JSON pointer. */
int schema_run(struct schema *s, fathom_err *err);

#endif
