/* set.h - what is scored: sequences of token ids, and in each of them the ids that the model has
 * to predict from those before. Made of a text, cut into windows, or of a manifest of prompts
 * with continuations (manifest.h). Thread rule: one thread; read-only while it is scored. */
#ifndef EVAL_SET_H
#define EVAL_SET_H

#include "base/mem.h"
#include "eval/manifest.h"

struct eval_seq {
    size_t at;     /* its first id in eval_set.ids */
    uint32_t n;    /* ids */
    uint32_t from; /* ids from..n-1 are scored; 1 <= from < n */
};

struct eval_set {
    struct ids ids;
    struct eval_seq *seq; /* n of them, owned */
    size_t n, cap;
    uint64_t n_scored;   /* sum of n - from */
    uint64_t n_computed; /* sum of n */
    uint32_t longest;    /* ids of the longest sequence */
    uint64_t n_context;  /* of the computed ids: repeated from the window before */
};
void eval_set_fini(struct eval_set *s);

/* Adds the last ids of s->ids, from `at` on, as a sequence whose ids from `from` on (counted in
 * it) are scored. A sequence with nothing to score is left out. FATHOM_ENOMEM. */
int eval_set_add(struct eval_set *s, size_t at, uint32_t from, fathom_err *err);

/* A text: every token is scored once. Windows of at most `window` ids (>= 2, BOS included); each
 * begins with BOS and, from the second on, with the last `overlap` tokens of the one before
 * (overlap <= window - 2), which are context only. trusted: control strings in the text become
 * control ids. Errors: FATHOM_EINVAL (window and overlap do not fit), FATHOM_EFORMAT (no text),
 * FATHOM_ENOMEM. */
int eval_set_text(struct eval_set *s, const struct tokenizer *t, struct slice text,
                  bool trusted, uint32_t window, uint32_t overlap, fathom_err *err);

/* A manifest: the continuations are scored, with all also the prompts (from their second id
 * on). Errors as manifest_each; a manifest without any case is FATHOM_EFORMAT. */
int eval_set_cases(struct eval_set *s, const struct manifest_ctx *m, struct slice text,
                   bool all, fathom_err *err);

/* A view of about `limit` scored tokens at most: every k-th sequence, so that all kinds are in it;
 * a single one that is longer is cut. Borrows the ids of `s` (free the view first);
 * ends with eval_set_view_fini. */
int eval_set_view(struct eval_set *view, const struct eval_set *s, uint64_t limit,
                  fathom_err *err);
void eval_set_view_fini(struct eval_set *view);

/* A number that tells two sets apart (ids, cuts, scored ranges); not against forgery. */
uint64_t eval_set_hash(const struct eval_set *s);
/* Text bytes of all scored ids. */
uint64_t eval_set_bytes(const struct eval_set *s, const struct tokenizer *t);

/* Blocks of scored tokens for eval_mean_ci: at most EVAL_BLOCK neighbours of one sequence. *end is
 * owned by the caller (mem_free). */
enum { EVAL_BLOCK = 64 };
int eval_set_blocks(size_t **end, size_t *n, const struct eval_set *s, fathom_err *err);

#endif
