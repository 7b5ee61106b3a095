/* draft.h - the drafting blocks of a checkpoint (mtp.*), which go to a file of their own beside
 * the model's (docs/gguf.md 2.5): the MTP block of the first release, or the stages of DSpark. */
#ifndef FACTORY_DRAFT_H
#define FACTORY_DRAFT_H

#include "base/mem.h"
#include "factory/names.h"
#include "factory/safetensors.h"

struct gguf_writer;

enum draft_kind { DRAFT_NONE, DRAFT_MTP, DRAFT_DSPARK };
enum { DRAFT_MAX_STAGES = 16 };

/* What the checkpoint has; *n_stages counts blocks mtp.0 .. mtp.n-1. */
enum draft_kind draft_find(const struct st_set *set, uint32_t *n_stages);
const char *draft_kind_text(enum draft_kind kind); /* "mtp", "dspark" */

/* The tensors of the file: defs in the arena. Sizes that the model's shape does not fix (rank of
 * the Markov head, number of target layers) are taken from the checkpoint. FATHOM_EFORMAT if a
 * tensor that the kind needs is missing. */
int draft_names(struct tensor_def **defs, size_t *n, const struct shape *s,
                const struct st_set *set, enum draft_kind kind, uint32_t n_stages,
                struct arena *a, fathom_err *err);
/* Keys fathom.draft.*: kind, stages, and for DSpark what config.json in dir says. */
int draft_meta(struct gguf_writer *w, enum draft_kind kind, uint32_t n_stages, const char *dir,
               fathom_err *err);
/* "x.gguf" -> "x.mtp.gguf"; a name without .gguf gets it appended. Release with mem_free; NULL
 * without memory. */
char *draft_path(const char *out);

#endif
