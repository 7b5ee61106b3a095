/* roles.h - every tensor of the model, once: GGUF name, draft aliases, official checkpoint
 * name, dimensions as symbols of the shape, when a layer has it, and its recipe role. weights.c
 * binds files by this table, the converter writes them by it (model.md 2, gguf.md 2.3). */
#ifndef MODEL_ROLES_H
#define MODEL_ROLES_H

#include "model/shape.h"
#include "quant/recipe.h"

enum tensor_kind {
    TENSOR_MATRIX, /* any float or decodable block format */
    TENSOR_VECTOR, /* used as F32 */
    TENSOR_TABLE,  /* hash table: I32, values are expert numbers */
};

struct tensor_role_def {
    const char *gguf;     /* name, without "blk.N." for layers */
    const char *alias;    /* draft names, '|' between them, or NULL */
    const char *official; /* checkpoint name, without "layers.N."; '*' = number of an expert */
    size_t handle;        /* offset of the uint16_t in struct weights or weights_layer */
    uint8_t kind;         /* enum tensor_kind */
    uint8_t when;         /* internal: which layers have it */
    uint8_t role;         /* enum tensor_role */
    uint8_t dim[3];       /* internal: GGUF order: cols, rows, matrices */
};

/* The tensors outside the layers, and those of a layer; static tables. */
const struct tensor_role_def *roles_global(size_t *n);
const struct tensor_role_def *roles_layer(size_t *n);
bool role_in_layer(const struct shape *s, uint32_t il, const struct tensor_role_def *r);
/* GGUF name; il -1 for global tensors. */
void role_name(const struct tensor_role_def *r, int il, char *out, size_t cap);
uint32_t role_rank(const struct tensor_role_def *r);
/* Dimensions in GGUF order (absent ones 1). il is ignored for global tensors. */
void role_dims(const struct shape *s, uint32_t il, const struct tensor_role_def *r,
               uint64_t ne[3]);

#endif
