/* names.h - the tensors of a converted file as one list: the model's table of tensors
 * (model/roles.h) written out for every layer, with both names. */
#ifndef FACTORY_NAMES_H
#define FACTORY_NAMES_H

#include "model/roles.h"

enum { NAME_BYTES = 96 };

struct tensor_def {
    char official[NAME_BYTES]; /* of expert tensors: with * in place of the expert's number */
    char gguf[NAME_BYTES];
    enum tensor_role role;
    int layer;       /* -1: outside the layers */
    uint32_t rank;   /* of the GGUF tensor: 1, 2, or 3 for routed experts */
    uint64_t cols;   /* ne[0]: length of a row (of a vector) */
    uint64_t rows;   /* ne[1]; 1 for vectors */
    uint32_t n_mats; /* ne[2]: source matrices stacked in this tensor; 1 except for experts */
};

/* Number of tensors of this shape. */
size_t names_count(const struct shape *s);
/* Fills defs[names_count(s)] in the order in which a converted file stores them. */
void names_fill(const struct shape *s, struct tensor_def *defs);
/* Official name of source matrix `mat`; out has NAME_BYTES. scale: the name of its scale. */
void names_source(const struct tensor_def *d, uint32_t mat, bool scale, char *out);

#endif
