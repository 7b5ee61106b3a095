/* sample.h - from a row of logits to a token: pure functions over a row, a pick record and
 * the tokens so far. Definition (all arithmetic in double):
 *   1 mask and NaN: what is not allowed or not a number takes no part;
 *   2 penalties on tokens among the last penalty_window: repeat (x > 0 ? x / r : x * r), then
 *     - frequency * occurrences - presence;
 *   3 order: larger value first, ties to the lower id; temperature 0 takes the first;
 *   4 weights exp((x - max) / temperature); top-k keeps the first k; top-p the shortest
 *   prefix that holds
 *     p of the weight left by top-k; min-p those with at least min_p of the first's weight;
 *   5 draw: the first whose running sum (in order) exceeds u * sum, u from seed and position.
 * The pick record's 64 candidates are used when they are enough to know the result exactly;
 * the result is the same either way. */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H

#include "base/err.h"
#include "op/op.h"

struct cand {
    double x; /* value after penalties, then weight */
    uint32_t id;
};

/* Work space for a vocabulary; one per engine, so that sampling allocates nothing. */
struct sample_room {
    uint32_t n_vocab;
    struct cand *heap, *sorted; /* [n_vocab] */
    uint32_t *seen;             /* [n_vocab], all zero between calls */
};
int sample_room_init(struct sample_room *r, uint32_t n_vocab, fathom_err *err);
void sample_room_fini(struct sample_room *r);

struct sample_in {
    const struct pick *pick;         /* made without a mask */
    const float *(*row)(void *user); /* the whole row, asked for only if needed */
    void *user;
    const uint32_t *mask; /* NULL: all allowed */
    const uint32_t *ids;  /* tokens so far */
    uint32_t n_ids;       /* = position of the token to be chosen */
    bool full;            /* tests: never use the candidates */
};
/* FATHOM_EINVAL: parameters out of range, no token allowed, or no logit is a number. */
int sample_token(struct sample_room *r, const struct sample_in *in, const fathom_sampling *p,
                 fathom_choice *out, fathom_err *err);

#endif
