/* plan.h - what a conversion will write: every output tensor with its type and its sources,
 * decided from headers, scales and (for F16 targets) a range scan, before the first byte is
 * written. */
#ifndef FACTORY_PLAN_H
#define FACTORY_PLAN_H

#include "base/mem.h"
#include "factory/convert.h"
#include "factory/config.h"
#include "factory/draft.h"
#include "factory/imatrix.h"
#include "factory/names.h"
#include "factory/source.h"

struct plan_tensor {
    struct tensor_def def;
    uint32_t type;          /* enum qtype */
    struct source *mats;    /* [def.n_mats], in the plan's arena */
    struct imatrix_use use; /* importance of the columns; use.e NULL: none */
    char note[192];         /* why an earlier type of the recipe was passed over, or "" */
};

struct plan {
    struct shape shape;
    const struct recipe *recipe;
    struct st_set *set;      /* owned (by the model's plan, not the draft's) */
    struct imatrix *imatrix; /* owned; NULL: none */
    double shrink;
    struct plan_tensor *t; /* owned through the arena, in file order */
    size_t n;
    bool is_draft; /* of the drafting blocks' file */
    enum draft_kind draft_kind;
    uint32_t n_stages;  /* drafting blocks */
    struct plan *draft; /* owned: their file, which borrows set; NULL: none is written */
    size_t n_mtp;       /* tensors of drafting blocks that no file takes */
    size_t n_unused;    /* tensors that no table row asks for */
    const char *unused; /* the first of them; borrowed from set */
    struct arena arena;
};

/* Reads config.json and the headers, binds and checks every tensor, chooses types. */
int plan_make(struct plan *p, const struct convert_options *opt, fathom_err *err);
void plan_free(struct plan *p); /* also safe after a failed plan_make */
/* Largest magnitude that a type holds; above it a value would become infinite. */
double type_max_value(uint32_t type);
/* Matches a GGUF tensor name against a pattern in which '*' stands for any characters. */
bool name_matches(const char *pattern, const char *name);
/* Dimensions in GGUF order. */
void plan_dims(const struct plan_tensor *t, uint64_t ne[3]);

#endif
