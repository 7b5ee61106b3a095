/* synthetic.h - models of the true width with random weights, so that speed can be measured
 * without the real file: a known shape cut to some layers, any recipe's types, no tokenizer.
 * The result is a complete valid GGUF, in memory or as a file that other programs load, too.
 *
 * Values are scaled so that activations keep the size they have in a real model: every product
 * is near 1 for inputs near 1, so logits are finite and experts are chosen about evenly.
 * Deterministic by options and seed; the same bytes in memory and in the file, for any number
 * of threads. */
#ifndef FACTORY_SYNTHETIC_H
#define FACTORY_SYNTHETIC_H

#include "base/err.h"
#include "model/shape.h"

/* Metadata key (string) that names the shape a synthetic file was cut from. */
#define SYNTHETIC_KEY "fathom.synthetic.shape"

struct synthetic_options {
    const char *shape;      /* "flash" or "pro" */
    const char *recipe;     /* quant/recipe.h */
    uint32_t n_layer;       /* 0: all */
    const uint16_t *ratios; /* [n_layer] kinds of the layers; NULL: as synthetic_shape says */
    uint32_t n_expert;      /* routed experts kept in each layer; 0: all */
    uint32_t n_vocab;       /* 0: all */
    uint64_t seed;
    uint32_t n_threads;   /* 0: all cores */
    uint64_t limit_bytes; /* memory: synthetic_make refuses a larger model before it allocates;
                             0: no limit */
    fathom_progress_fn progress; /* NULL: none; counts bytes */
    void *user;
};

/* The shape that synthetic_make and _save give. Default kinds of a cut: the first layer's, then
 * those from layer 2 on (Flash 0, 4, 128, 4, ...), so that few layers have all kinds; hash
 * layers in proportion, at least one. FATHOM_EINVAL for unknown names and impossible sizes. */
int synthetic_shape(struct shape *s, const struct synthetic_options *opt, fathom_err *err);
/* Bytes of the model's file. */
int synthetic_bytes(uint64_t *bytes, const struct synthetic_options *opt, fathom_err *err);

/* A model in memory, as fathom_engine_options.model_data wants it. */
struct synthetic {
    void *data; /* owned, 4096-aligned */
    size_t n_bytes;
};
/* Errors: FATHOM_EINVAL (options), FATHOM_ENOMEM (with the sizes and what to change),
 * FATHOM_ECANCEL. */
int synthetic_make(struct synthetic *out, const struct synthetic_options *opt, fathom_err *err);
void synthetic_free(struct synthetic *m);
/* The same into a file, complete or not at all; needs some 64 MiB of memory. FATHOM_ENOMEM also
 * when the disk has no room; FATHOM_EIO. */
int synthetic_save(const char *path, const struct synthetic_options *opt, fathom_err *err);

#endif
