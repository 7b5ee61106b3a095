/* step.h - what a step changes: the step buffer's contents and the sizes of the grids. */
#ifndef METAL_STEP_H
#define METAL_STEP_H

#include "backend/metal/plan.h"

/* Sections of the step buffer, each 256-byte aligned; made once per exec. */
struct metal_step_layout {
    uint64_t seq, tok, tok_seq, pages, out, angles, bytes;
    uint32_t angle_first[ROPE_CLASSES], group_first[METAL_GROUP_KINDS]; /* floats */
};
/* max_pages: entries of the page list. */
void metal_step_plan(struct metal_step_layout *l, const struct metal_plan *plan,
                     uint32_t max_pages);
/* Writes header, arrays and angles of a checked step. */
void metal_step_write(const struct metal_step_layout *l, const struct metal_plan *plan,
                      const struct step *s, void *to);

#endif
