/* convert.h - an official safetensors checkpoint to one GGUF file with a named recipe, and its
 * drafting blocks (mtp.*), if it has any, to another one beside it (draft.h). The plan
 * (tensors, types, sizes) is made from headers before anything is written; data is streamed in
 * slices, so memory stays below 1 GiB for any number of threads: three slices of slice_bytes
 * per thread, besides plan and tokenizer. The file is written as OUT.part, checked by reading
 * it back, and renamed: OUT is complete or untouched. What is finished is listed in
 * OUT.journal: a conversion that was interrupted, even by kill -9, goes on when the same one is
 * run again, and gives the same bytes. */
#ifndef FACTORY_CONVERT_H
#define FACTORY_CONVERT_H

#include <stdatomic.h>

#include "base/err.h"

/* Gives matrices whose GGUF name matches pattern ('*' = any characters) this type ("F16",
 * "Q8_0"); the first matching rule wins over the recipe. A rule that matches no matrix, or
 * names a type that does not fit one, is an error. Vectors and hash tables have fixed types. */
struct convert_rule {
    const char *pattern, *type;
};

struct convert_options {
    const char *dir;    /* config.json, model.safetensors or index + shards, tokenizer.json */
    const char *out;    /* target file */
    const char *recipe; /* quant/recipe.h */
    const struct convert_rule *rules;
    size_t n_rules;
    const char *dense;   /* type of attention and shared expert ("Q6_K"); NULL: the recipe's */
    const char *imatrix; /* importance matrix of either form (imatrix.h); NULL: none */
    double shrink;       /* pull of an expert to its layer's mean, in inputs; as it is given */
    bool no_draft;       /* leave the drafting blocks (mtp.*) out */
    bool imatrix_strict; /* a tensor whose type uses importance and has none is an error */
    int threads;         /* 0: all cores; the file does not depend on it */
    bool dry_run;        /* plan and report every tensor, write nothing */
    uint64_t space_limit_bytes; /* refuse a larger file; 0: the free space of the disk */
    uint64_t slice_bytes;       /* floats decoded at a time: bounds the memory; 0: 4 MiB,
                                   less with more than 64 threads */
    /* All optional. report gets one line without newline: everything a user should know (types
     * that differ from the recipe's first choice, what is left out, totals). progress counts
     * bytes of the output: first those found finished, then those still to write; false
     * cancels. Both are called on the caller's thread. */
    void (*report)(void *user, const char *line);
    fathom_progress_fn progress;
    void *user;
    const atomic_bool *cancel; /* set from anywhere: FATHOM_ECANCEL within a slice */
};

/* Errors: FATHOM_ENOENT / FATHOM_EFORMAT (source not there / not usable; the message names file
 * and tensor), FATHOM_EUNSUPPORTED (another architecture, a recipe of later builds),
 * FATHOM_EINVAL (recipe or rule, or OUT.journal is of another conversion), FATHOM_EIO (also:
 * not enough space), FATHOM_ENOMEM, FATHOM_ECANCEL. Thread rule: any thread; calls with
 * different OUT may run at the same time. */
int convert_run(const struct convert_options *opt, fathom_err *err);

#endif
