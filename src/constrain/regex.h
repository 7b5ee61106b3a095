/* regex.h - regular expressions of JSON schemas (ECMA-262 syntax without back-references,
 * look-around, word boundaries and Unicode property classes) to automata over UTF-8 bytes, in
 * two steps: the parser writes a small nondeterministic program (regex.c), whose sets of states
 * become the states of a DFA (subset.c). Like in a schema, an expression matches anywhere in a
 * text unless ^ and $ say otherwise. \d \w are the ASCII sets, \s is that of ECMA. */
#ifndef CONSTRAIN_REGEX_H
#define CONSTRAIN_REGEX_H

#include "constrain/dfa.h"

enum {
    REGEX_MAX_REPEAT = 2000,
    REGEX_MAX_DEPTH = 64,   /* of groups */
    REGEX_MAX_OPS = 100000, /* of the program */
    REGEX_MAX_RANGES = 512, /* of a class */
};

/* Errors: FATHOM_EFORMAT (syntax), FATHOM_EUNSUPPORTED, FATHOM_ELIMIT, FATHOM_ENOMEM; the
 * message names the place in the expression. */
int regex_compile(struct dfa *out, struct slice expr, struct fuel *fuel, fathom_err *err);

/* The expression for a value of "format"; p NULL: not one of ours. */
struct slice format_expr(struct slice name);

/* ---- between regex.c and subset.c ---- */

enum regex_kind {
    RX_BYTE,  /* lo..hi, then x */
    RX_SPLIT, /* x and y; y RX_NONE: only x */
    RX_BEGIN, /* only at the beginning of the text, then x */
    RX_END,   /* only at the end, then x */
    RX_REST,  /* matched: anything may follow */
};
#define RX_NONE UINT32_MAX
struct regex_op {
    uint8_t kind, lo, hi;
    uint32_t x, y;
};
int subset_dfa(struct dfa *out, const struct regex_op *op, uint32_t n, uint32_t start,
               struct fuel *fuel, fathom_err *err);

#endif
