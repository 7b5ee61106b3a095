/* schema_int.h - inside of the schema compiler, from above: the loop (schema.c), the nodes
 * (schema_emit.c), automata of texts (schema_text.c), what parts say together (schema_view.c),
 * lists of parts (schema_list.c). */
#ifndef CONSTRAIN_SCHEMA_INT_H
#define CONSTRAIN_SCHEMA_INT_H

#include "constrain/regex.h"
#include "constrain/schema.h"

/* A schema that a value must satisfy, or one facet of it. */
enum { PART_BASE, PART_ANY_OF, PART_ONE_OF };
struct part {
    const struct json *v;
    uint64_t what; /* no padding: parts are compared as bytes */
};

struct list {
    const struct part *part; /* arena */
    uint32_t n, depth;
    bool never;       /* nothing satisfies it */
    uint32_t rule[3]; /* by form; NO_NODE: not asked for */
};

struct schema_work {
    uint32_t list;
    enum schema_form form;
};

struct text_dfa { /* automata by what they are made of */
    struct slice key;
    uint32_t dfa;
};

struct schema {
    struct grammar *g;
    const struct json *root;
    bool strict;
    struct fuel *fuel;
    struct arena arena;
    struct list *list; /* owned arrays */
    uint32_t n_list, cap_list;
    struct schema_work *work;
    uint32_t n_work, cap_work, done;
    struct text_dfa *text;
    uint32_t n_text, cap_text;
    uint32_t depth; /* of the list in work */
    fathom_err err; /* the first error */
};

/* A list being made. */
struct parts {
    struct part part[SCHEMA_MAX_PARTS];
    uint32_t n;
    bool never;
};

enum {
    T_NULL = 1,
    T_BOOL = 2,
    T_FRACTION = 4, /* numbers that are no integers */
    T_INTEGER = 8,
    T_STRING = 16,
    T_ARRAY = 32,
    T_OBJECT = 64,
    T_ALL = 127,
    VIEW_PATTERNS = 8,
};

/* What the parts of a list say together, branches apart. */
struct view {
    unsigned types;
    bool has_enum;
    const struct json **value; /* arena: n_value of them */
    size_t n_value;
    struct number_bounds number;
    struct slice pattern[VIEW_PATTERNS]; /* expressions, also those of formats */
    const struct json *pattern_at[VIEW_PATTERNS];
    const char *pattern_key[VIEW_PATTERNS];
    uint32_t n_pattern;
    uint32_t min_length, max_length, min_items, max_items;
};

/* Notes an error: `key` (NULL: the schema itself) of the schema `at`. */
void schema_fail(struct schema *s, int code, const struct json *at, const char *key,
                 const char *why);
bool schema_ok(const struct schema *s);
void parts_add(struct schema *s, struct parts *p, const struct json *v);
uint32_t list_of(struct schema *s, const struct parts *p);
uint32_t list_rule(struct schema *s, uint32_t list, enum schema_form form);
bool list_read(struct schema *s, uint32_t list, struct view *v);
bool list_members(struct schema *s, uint32_t list, struct schema_members *out);
/* Node of a rule. */
uint32_t emit_list(struct schema *s, uint32_t list, enum schema_form form);
/* Automaton of the strings or numbers that v allows: its number in the grammar, or NO_DFA for any
 * string (lengths apart: if *counted the automaton has them already). */
uint32_t string_dfa(struct schema *s, const struct view *v, bool *counted);
uint32_t number_dfa(struct schema *s, const struct view *v, bool integer);

#endif
