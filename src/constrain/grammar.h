/* grammar.h - what an answer may look like: a graph of nodes, in which rules call each other.
 * Compilers (schema.h, tools.h) build it from the end to the beginning: every builder takes the
 * node that follows and returns the node that begins. machine.h runs it over bytes.
 *
 * Objects, arrays, and the calls and parameters of the chat format are groups: members with
 * separators between them and an end. A group in progress has a frame on the stack that says
 * which members were seen (objects of up to 64: any order) or how many there were.
 *
 * When all is built grammar_finish computes for each node how deep the stack must grow at least
 * until its rule ends. Infinite means that no text fits, and such ways are never taken; a way
 * that could not be finished within GRAMMAR_DEPTH is not begun. So from every state an answer can
 * be finished, byte by byte, and no mask is ever empty.
 *
 * Ownership: a grammar owns all its parts. Thread rule: one thread builds; after grammar_finish
 * it is immutable and counted by references (any thread). */
#ifndef CONSTRAIN_GRAMMAR_H
#define CONSTRAIN_GRAMMAR_H

#include <stdatomic.h>

#include "base/mem.h"
#include "constrain/dfa.h"

enum {
    GRAMMAR_DEPTH = 200, /* frames: about two a level of nesting */
    GRAMMAR_MAX_RULES = 4096,
    GRAMMAR_MAX_NODES = 1 << 19,
    GRAMMAR_MAX_BYTES = 64 << 20,
    GRAMMAR_ANY_ORDER = 64, /* members of a group that may come in any order */
    BLANK_MAX = 64,         /* blanks after a newline */
};
#define GRAMMAR_INFINITE UINT32_MAX
#define NO_DFA UINT32_MAX
#define NO_NODE UINT32_MAX

enum node_kind {
    /* these read something */
    NODE_TEXT,   /* the bytes text[at, at + n) */
    NODE_DFA,    /* a text of automaton d */
    NODE_STRING, /* the rest of a JSON string with its closing quote; what it means has min..max
                    code points, or is a text of automaton d */
    NODE_RAW,    /* any text of min..max code points */
    NODE_BLANK,  /* nothing, a blank, or (n = 1) a newline and up to BLANK_MAX blanks */
    NODE_MARK,   /* the call marker */
    NODE_END,    /* the end of the answer */
    /* these do not */
    NODE_CALL,   /* rule d, then next */
    NODE_ALT,    /* one of list[at, at + n) */
    NODE_RETURN, /* end of a rule */
    NODE_ENTER,  /* group d, then next */
    NODE_FIRST,  /* in group d, at its beginning */
    NODE_NEXT,   /* behind a member */
    NODE_MEMBER, /* before a member */
    NODE_LEAVE,  /* end of a group */
};

struct node {
    uint8_t kind;
    uint32_t next, at, n, d;
    uint32_t min, max; /* max UINT32_MAX: no bound */
    uint32_t need;     /* frames until the rule ends (grammar_finish) */
};

struct member {
    uint32_t node; /* its key or beginning */
    bool required;
    uint32_t need;
};

/* A list (array, calls) has items: item k is member k, and those behind the last one are `extra`;
 * min..max counts them. Otherwise a set of named members, each at most once, and any number of
 * `extra`. */
struct group {
    bool list;
    uint32_t min, max;
    struct member *member; /* [n], in the arena */
    uint32_t n;
    uint32_t extra;            /* node, or NO_NODE */
    uint32_t separator;        /* node that leads to NODE_MEMBER */
    uint32_t end_first, end;   /* node that ends it: when it is empty, behind a member */
    uint32_t first, next_node; /* its NODE_FIRST and NODE_NEXT */
    uint64_t required;         /* bits, n <= GRAMMAR_ANY_ORDER */
    uint32_t need, extra_need;
};

struct grammar {
    struct arena arena;
    struct node *node; /* owned arrays */
    uint32_t n_node, cap_node;
    uint32_t *list; /* of NODE_ALT */
    uint32_t n_list, cap_list;
    uint32_t *rule; /* first node of each; NO_NODE while being built */
    uint32_t n_rule, cap_rule;
    struct group *group;
    uint32_t n_group, cap_group;
    struct dfa *dfa;
    uint32_t n_dfa, cap_dfa;
    struct buf text;
    uint32_t ret;  /* the NODE_RETURN */
    uint32_t root; /* rule */
    size_t dfa_bytes;
    atomic_uint refs;
    fathom_err err; /* the first error of building */
};

struct grammar *grammar_new(void); /* NULL: out of memory; one reference */
void grammar_ref(struct grammar *g);
void grammar_unref(struct grammar *g);
size_t grammar_bytes(const struct grammar *g);

/* ---- building; after an error (g->err) they return 0 and do nothing ---- */
uint32_t grammar_rule(struct grammar *g); /* a new rule's number */
uint32_t grammar_text(struct grammar *g, struct slice s, uint32_t next);
uint32_t grammar_node(struct grammar *g, struct node n);
uint32_t grammar_call(struct grammar *g, uint32_t rule, uint32_t next);
uint32_t grammar_blank(struct grammar *g, bool lines, uint32_t next);
uint32_t grammar_mark(struct grammar *g, uint32_t next);
uint32_t grammar_end(struct grammar *g);
uint32_t grammar_alt(struct grammar *g, const uint32_t *node, uint32_t n);
uint32_t grammar_dfa(struct grammar *g, struct dfa *d); /* takes it over; its number */
/* A new group whose first, next_node and a NODE_MEMBER (*member) exist; fill in the rest. */
uint32_t grammar_group(struct grammar *g, uint32_t *member);
uint32_t grammar_enter(struct grammar *g, uint32_t group, uint32_t next);

/* Computes what is needed to run it; FATHOM_EFORMAT if no answer fits `root`. Returns g->err if
 * building failed. */
int grammar_finish(struct grammar *g, uint32_t root, struct fuel *fuel, fathom_err *err);

#endif
