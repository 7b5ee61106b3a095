/* plan.h - a recorded program as a list of dispatches: which tasks run side by side, with which
 * arguments, and in which threadgroups. Pure C without a device, so that `fathom explain` counts
 * dispatches anywhere and tests need no GPU.
 *
 * Two lists for one program: for few tokens (decode, verification: one dispatch a level, the folds
 * below) and for many (prefill: grouped experts, product tiles). Both give the same bits.
 *
 * Folds of the list for few tokens (`no-folds` switches them off):
 *   HC_MIX      into the epilogue of the LINEAR_HC or MOE_DOWN that wrote its input;
 *   RMS_NORM    into the LINEAR that reads it; what ran beside it runs beside that LINEAR;
 *   HEAD_FINISH into ATTN and INDEX_SELECT;
 *   ROUTE       into MOE_UP.
 * A folded op is done one level away from its own, so the program must have been planned with
 * limits.live_slack >= 1.
 *
 * Ownership: a plan owns its arrays and borrows the program. Immutable after make; any thread. */
#ifndef METAL_PLAN_H
#define METAL_PLAN_H

#include "backend/metal/args.h"
#include "base/err.h"
#include "op/program.h"
#include "op/step.h"

/* One task: args at `at` in the plan's argument block. */
struct metal_plan_task {
    uint8_t kind; /* enum metal_task */
    uint32_t op;  /* index of its op in the program */
    uint32_t at;
};
struct metal_dispatch {
    struct metal_plan_task task[METAL_SLOTS];
    uint32_t n;
    bool barrier;   /* what came before must have finished */
    bool layer;     /* the first one of a layer: a command buffer may end before it */
    uint64_t types; /* bit per weight type of its products */
};
struct metal_plan {
    const struct program *p;
    bool few; /* the list for at most METAL_FEW tokens */
    struct metal_dispatch *d;
    uint32_t n, cap;
    unsigned char *args;
    uint32_t args_bytes, args_cap;
    uint64_t scratch_bytes;
    /* Angles of completed groups: the distinct (ratio, rope class) pairs. */
    struct {
        uint32_t ratio, rope;
    } group[METAL_GROUP_KINDS];
    uint32_t n_group;
};

/* Where a weight lies: view number and offset in it. Index: weight handle. NULL: all zero. */
struct metal_place {
    uint32_t view;
    uint64_t offset;
};

/* NULL: the op can run here; else a static reason. */
const char *metal_supports(const struct program *p, const struct op *op);

struct metal_plan_options {
    bool few;   /* the list for at most METAL_FEW tokens */
    bool folds; /* few only */
    const struct metal_place *place;
};
/* FATHOM_EUNSUPPORTED (an op), FATHOM_ENOMEM. */
int metal_plan_make(struct metal_plan *out, const struct program *p,
                    const struct metal_plan_options *o, fathom_err *err);
void metal_plan_free(struct metal_plan *plan);

/* Threadgroups of a task in this step, which must fit the plan's list; 0: it has nothing to do.
 * n_batch: tokens of an INDEX_SELECT batch. */
uint32_t metal_groups(const struct metal_plan *plan, const struct metal_plan_task *t,
                      const struct step *s, uint32_t n_batch);

/* Threadgroup memory that a task needs in this step, bytes (a multiple of 16, at least 16). */
uint32_t metal_tg_bytes(const struct metal_plan *plan, const struct metal_plan_task *t,
                        const struct step *s);

/* Dispatches of a step of n_tok tokens of one sequence at position pos. */
uint32_t metal_count(const struct metal_plan *plan, uint32_t pos, uint32_t n_tok);

#endif
