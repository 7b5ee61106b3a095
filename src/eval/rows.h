/* rows.h - drives one or two engines over a set and hands out the rows of logits that predict its
 * scored ids. Prompts run in chunks without logits, scored ranges in chunks with all of them;
 * prefixes that neighbouring sequences share are computed once. Memory: what the engines hold.
 * Thread rule: engine thread. */
#ifndef EVAL_ROWS_H
#define EVAL_ROWS_H

#include "eval/set.h"

/* The prediction of one scored id. Rows are borrowed until the callback returns. */
struct eval_row {
    uint64_t index; /* among all scored ids of the set, from 0 */
    size_t seq;     /* sequence of the set */
    uint32_t pos;   /* place of the id in its sequence */
    uint32_t id;
    uint32_t n_vocab;
    const float *logits;       /* [n_vocab] */
    const float *other_logits; /* of the second engine, or NULL */
};
typedef int (*eval_row_fn)(void *user, const struct eval_row *row, fathom_err *err);

struct eval_drive {
    fathom_engine *engine, *other; /* other may be NULL; both have the same vocabulary */
    eval_row_fn row;
    void *user;
    const char *stage;           /* of progress, static text */
    fathom_progress_fn progress; /* counts computed ids; false ends with FATHOM_ECANCEL */
    void *progress_user;
};
/* Errors: FATHOM_EINVAL (vocabularies differ), FATHOM_ECANCEL, those of sessions, steps, row. */
int eval_rows(const struct eval_set *s, const struct eval_drive *d, fathom_err *err);

#endif
