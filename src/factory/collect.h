/* collect.h - runs sequences through an engine and sums up, for every weight matrix, the
 * squares of the inputs that each of its columns meets: the importance matrix of a model
 * (imatrix.h). Inputs are read from the backend's arena by its trace, so every backend serves.
 *
 * Collected: each routed expert for itself (gate and up: the normalised input of the half-layer;
 * down: the SwiGLU output times the routing weight), with the number of tokens that chose it;
 * every other matrix with the tokens that went through it. Block-diagonal products (attn_output_a)
 * meet one input per block and count each. Sums are kept in double and added in the order of the
 * tokens, so they do not depend on chunk or threads. */
#ifndef FACTORY_COLLECT_H
#define FACTORY_COLLECT_H

#include "fathom/fathom.h"

struct corpus;
struct collector; /* opaque */

/* Begins; e outlives the collector and is used by nobody else meanwhile. FATHOM_ENOMEM. */
int collect_new(struct collector **out, fathom_engine *e, fathom_err *err);
void collect_free(struct collector *c); /* NULL is fine */

/* Sums up one sequence, from an empty context; every token is counted once. done (may be NULL)
 * is called after each chunk with the number of tokens computed of this sequence; false:
 * FATHOM_ECANCEL. After an error the sums are not to be used. */
int collect_sequence(struct collector *c, const uint32_t *ids, uint32_t n,
                     bool (*done)(void *user, uint32_t n), void *user, fathom_err *err);

/* What was collected so far as a file (imatrix_write). dataset: the name of the corpus. */
int collect_save(const struct collector *c, const char *path, const char *dataset,
                 fathom_err *err);

struct collect_options {
    const char *out, *dataset;
    size_t skip;         /* sequences passed over */
    size_t max_prompts;  /* sequences used; 0: all */
    uint64_t max_tokens; /* no sequence is begun after so many; 0: no limit */
    double
        save_seconds; /* out is written between sequences after so long; 0: only at the end */
    fathom_progress_fn progress; /* counts tokens; false: FATHOM_ECANCEL */
    void *user;
};
struct collect_result {
    size_t n_prompts, n_saved; /* collected; those in the file */
    uint64_t n_tokens;
};
/* Collects a corpus into a file. After FATHOM_ECANCEL the file holds the last state that was
 * saved, if any (result->n_saved). */
int collect_corpus(fathom_engine *e, const struct corpus *corpus,
                   const struct collect_options *opt, struct collect_result *result,
                   fathom_err *err);

#endif
