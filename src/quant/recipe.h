/* recipe.h - named file recipes: which type each role of tensor gets. Used by the converter
 * (what to write) and by plan and explain (sizes without a file), so that both always agree. A
 * row whose length is no multiple of a type's block takes the next type of its role's list. */
#ifndef QUANT_RECIPE_H
#define QUANT_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

enum tensor_role {
    ROLE_EMBED,       /* token embedding */
    ROLE_HEAD,        /* output head */
    ROLE_DENSE,       /* attention projections, shared expert */
    ROLE_SMALL,       /* router, hyper-connection mixers, compressors, indexer */
    ROLE_EXPERT_UP,   /* routed gate and up */
    ROLE_EXPERT_DOWN, /* routed down */
    ROLE_VECTOR,      /* norms, sinks, biases, ape: always F32 */
    ROLE_TABLE,       /* hash table: always I32 */
    ROLE_COUNT
};

enum { RECIPE_CHOICES = 3 };
struct recipe {
    const char *name;                        /* "q2" */
    const char *about;                       /* one line for --help */
    int8_t type[ROLE_COUNT][RECIPE_CHOICES]; /* enum qtype in order of preference; -1 ends */
};

const struct recipe *recipe_by_name(const char *name); /* NULL if unknown */
const struct recipe *recipe_at(unsigned i);            /* NULL past the end */
/* The type a tensor with rows of `cols` elements gets; *fallback (may be NULL) tells that it is
 * not the first choice. Never fails: every list ends in a type with block length 1. */
uint32_t recipe_type(const struct recipe *r, enum tensor_role role, uint64_t cols,
                     bool *fallback);

#endif
