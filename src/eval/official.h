/* official.h - greedy answers of the vendor's API (tests/data/official-logprobs/README.md): does
 * the model choose the same tokens? A line is one case: "prompt" (one user message), "thinking",
 * "release", "prompt_tokens" (as the API counted them) and "steps": [{"token": hex bytes}].
 * Each step is predicted behind the official tokens before it, so one difference does not spoil
 * the rest. A token that the vocabulary lacks ends its case: what follows cannot be compared.
 * Thread rule: engine thread. */
#ifndef EVAL_OFFICIAL_H
#define EVAL_OFFICIAL_H

#include "eval/set.h"

struct official_case {
    const char *id;
    uint32_t n_prompt, api_prompt; /* tokens here, tokens by the API (0: not said) */
    uint32_t n_steps, n_usable;    /* of the file; whose tokens the vocabulary has */
    uint32_t n_same, prefix;       /* same best token; before the first other one */
    uint32_t other;  /* the model's token at the first difference, UINT32_MAX: none */
    uint32_t wanted; /* the official one there */
};
struct official {
    struct official_case *v;
    size_t n, cap;
    struct eval_set set; /* of the cases with n_usable > 0, in order */
    struct arena mem;
};
/* m->release serves cases that name none. Errors as manifest_each; without a case
 * FATHOM_EFORMAT. */
int official_load(struct official *o, const struct manifest_ctx *m, struct slice text,
                  fathom_err *err);
int official_run(struct official *o, fathom_engine *e, fathom_progress_fn progress,
                 void *progress_user, fathom_err *err);
void official_fini(struct official *o);

#endif
