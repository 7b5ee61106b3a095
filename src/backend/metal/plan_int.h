/* plan_int.h - shared by plan.c and args.c. */
#ifndef METAL_PLAN_INT_H
#define METAL_PLAN_INT_H

#include "backend/metal/plan.h"
#include "quant/formats.h"

/* What happens to an op when folds are found: indices of ops, -1 for none. */
struct fold {
    int mix, norm, head, route; /* done inside this op */
    bool gone;                  /* done inside another */
    bool leaves;                /* gone, and what shares its level moves to the next one */
};

struct builder {
    struct metal_plan *plan;
    const struct metal_place *place;
    struct fold *fold;
    bool few, failed;
    uint64_t scratch; /* used by the ops of the level so far */
    struct metal_dispatch spare;
};

static inline bool opnd_is(const struct opnd *o)
{
    return o->space != SPACE_NONE;
}

/* args.c: appends the argument struct of op i; its offset. */
uint32_t metal_args(struct builder *b, uint32_t i);

#endif
