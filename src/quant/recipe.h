/* recipe.h - named file recipes: which type each role of tensor gets. Used by the converter
 * (what to write) and by plan and explain (sizes without a file), so that both always agree.
 * Per role a list, best first: a tensor takes the first type that its row length (and, when
 * converting, its values) allow. */
#ifndef QUANT_RECIPE_H
#define QUANT_RECIPE_H

#include "base/err.h"

/* What a tensor is for. */
enum tensor_role {
    ROLE_EMBED,     /* token embedding */
    ROLE_HEAD,      /* output head */
    ROLE_DENSE,     /* attention projections, shared expert */
    ROLE_GATE_EXPS, /* routed experts */
    ROLE_UP_EXPS,
    ROLE_DOWN_EXPS,
    ROLE_ROUTER,
    ROLE_HC_FN,      /* hyper-connection mixers */
    ROLE_COMPRESSOR, /* wkv, wgate of the main compressor */
    ROLE_INDEXER,    /* all matrices of the indexer */
    ROLE_VECTOR,     /* norms, sinks, biases, ape: always F32 */
    ROLE_TABLE,      /* hash table: always I32 */
    ROLE_COUNT
};
const char *recipe_role_text(enum tensor_role role); /* "attention and shared expert" */

enum { RECIPE_CHOICES = 3 };
struct recipe {
    const char *name;   /* "q2" */
    const char *about;  /* one line for --help */
    uint32_t file_type; /* general.file_type of the file */
    int8_t type[ROLE_COUNT]
               [RECIPE_CHOICES + 1]; /* enum qtype in order of preference; -1 ends */
    uint32_t n_tail;                 /* routed experts of the last n_tail layers ... */
    int8_t tail[RECIPE_CHOICES + 1]; /* ... take these types instead */
};

/* NULL with FATHOM_EINVAL and the list of names if there is none of that name. */
const struct recipe *recipe_find(const char *name, fathom_err *err);
const struct recipe *recipe_at(size_t i); /* NULL past the end */
/* The list for a tensor of this role in `layer` (of n_layer; -1: outside the layers). */
const int8_t *recipe_choices(const struct recipe *r, enum tensor_role role, int layer,
                             uint32_t n_layer);
/* Can every first choice be written by this build's encoders (encode.h)? */
bool recipe_writable(const struct recipe *r);
/* The type a tensor with rows of `cols` elements gets (role and layer as in recipe_choices);
 * *fallback (may be NULL) tells that it is not the first choice. Never fails: every list ends
 * in a type with block length 1. */
uint32_t recipe_type(const struct recipe *r, enum tensor_role role, int layer, uint32_t n_layer,
                     uint64_t cols, bool *fallback);

#endif
