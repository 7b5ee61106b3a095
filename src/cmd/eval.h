/* eval.h - `fathom eval`: what its two files share. eval.c runs the parts that were asked for;
 * eval_report.c prints them. */
#ifndef CMD_EVAL_H
#define CMD_EVAL_H

#include "cmd/cmd.h"
#include "cmd/model.h"
#include "eval/official.h"
#include "eval/score.h"
#include "eval/tasks.h"

/* The same weights through other arithmetic: what a difference must exceed to mean something. */
struct eval_floor {
    char name[64]; /* "activations f32", "backend ref" */
    struct eval_summary sum;
};

struct eval_result {
    fathom_info info; /* of the model; strings copied into the arrays below */
    char label[256], backend[64], arith[128];
    /* scored set */
    bool has_set;
    struct eval_set set;
    uint64_t set_bytes;
    uint32_t window, overlap; /* text only */
    struct eval_score score;
    struct eval_summary sum;
    char reference[512]; /* what it was compared with; "" nothing */
    uint32_t kept;       /* ids a row of the reference file; 0: full rows, or an open model */
    struct eval_floor floor[2];
    uint32_t n_floor;
    char saved[512]; /* the reference file that was written */
    uint64_t saved_bytes;
    /* the other parts; n = 0 if not asked for */
    struct eval_tasks tasks;
    struct official official;
};

/* Prints text or JSON; returns an exit code. tok may be NULL. */
int eval_report(const struct cli *o, const struct eval_result *r, const struct tokenizer *tok);
/* One line per scored token as CSV: seq,pos,id,nll,hit,ref_nll,ref_hit,kl,agree. */
int eval_write_rows(const char *path, const struct eval_result *r, fathom_err *err);

#endif
