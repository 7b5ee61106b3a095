/* tasks.h - prompts with accepted answers (models/mini/README.md, "Fields of the evaluation
 * files"), answered greedily: an answer counts when it is exactly one of the accepted texts,
 * control tokens written out, the end token included. Several sessions share a step; prompts
 * that begin alike are neighbours and share what was computed. Thread rule: engine thread. */
#ifndef EVAL_TASKS_H
#define EVAL_TASKS_H

#include "eval/manifest.h"

enum { EVAL_TASK_SESSIONS = 4 }; /* fathom_engine_options.max_seq at least */

struct eval_task {
    const char *id, *group;     /* of the manifest's "id" and "task"; "" if absent */
    uint32_t *ids, n;           /* prompt */
    struct slice *expected;     /* [n_expected] */
    size_t n_expected, longest; /* bytes of the longest */
    struct buf text;            /* the answer as far as it was needed to judge it */
    bool exact;
};
struct eval_tasks {
    struct eval_task *v; /* in the order of the manifest */
    size_t n, cap;
    size_t n_skipped; /* lines without accepted answers */
    size_t n_exact;   /* after eval_tasks_run */
    uint32_t longest; /* tokens of the longest prompt */
    uint32_t room;    /* context that the longest prompt and answer can need */
    struct arena mem;
};
/* Every `every`-th line that has "expected". Errors as manifest_each; no task is FATHOM_EFORMAT. */
int eval_tasks_load(struct eval_tasks *t, const struct manifest_ctx *m, struct slice text,
                    uint32_t every, fathom_err *err);
int eval_tasks_run(struct eval_tasks *t, fathom_engine *e, fathom_progress_fn progress,
                   void *progress_user, fathom_err *err);
void eval_tasks_fini(struct eval_tasks *t);

#endif
