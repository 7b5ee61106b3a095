/* names.h - which tensors a model has, under both names: official checkpoint and GGUF
 * (model.md 2, gguf.md 2.3, quantization.md 7), with their sizes and roles. */
#ifndef FACTORY_NAMES_H
#define FACTORY_NAMES_H

#include "factory/config.h"

/* What a tensor is for; recipes choose types by role. */
enum tensor_role {
    ROLE_EMBED,
    ROLE_HEAD,
    ROLE_DENSE,      /* attention projections, shared expert */
    ROLE_GATE_EXPS,
    ROLE_UP_EXPS,
    ROLE_DOWN_EXPS,
    ROLE_ROUTER,
    ROLE_HC_FN,
    ROLE_COMPRESSOR, /* wkv, wgate of the main compressor */
    ROLE_INDEXER,    /* all matrices of the indexer */
    ROLE_APE,
    ROLE_VECTOR,     /* norms, sinks, biases, hc base and scale: always F32 */
    ROLE_TABLE,      /* tid2eid: always I32 */
    ROLE_COUNT
};
const char *role_name(enum tensor_role role); /* "attention and shared expert" */

enum { NAME_BYTES = 96 };

struct tensor_def {
    char official[NAME_BYTES]; /* of expert tensors: with * in place of the expert's number */
    char gguf[NAME_BYTES];
    enum tensor_role role;
    uint32_t rank;    /* of the GGUF tensor: 1, 2, or 3 for routed experts */
    uint64_t cols;    /* ne[0]: length of a row (of a vector) */
    uint64_t rows;    /* ne[1]; 1 for vectors */
    uint32_t n_mats;  /* ne[2]: source matrices stacked in this tensor; 1 except for experts */
};

/* Number of tensors of this shape; at most 64 per layer. */
size_t names_count(const struct model_config *c);
/* Fills defs[names_count(c)] in the order in which a converted file stores them. */
void names_fill(const struct model_config *c, struct tensor_def *defs);
/* Official name of source matrix `mat`; out has NAME_BYTES. scale: the name of its scale. */
void names_source(const struct tensor_def *d, uint32_t mat, bool scale, char *out);

#endif
