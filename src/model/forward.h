/* forward.h - records what a step of DeepSeek V4 computes: the model, written once (model.md
 * 4-10). attn.c and ffn.c record the half-layers, head.c embedding and output head, forward.c
 * the order. */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H

#include "model/layout.h"
#include "model/weights.h"

struct forward_options {
    bool act_f32;    /* profile: F32 vectors everywhere (oracle runs) instead of A8/32 for block
                        formats */
    uint32_t l0, l1; /* layers [l0, l1); 0, 0 = all */
    bool no_embed,
        no_head; /* record a slice (X comes from / stays in the arena's tensor "x") */
};

/* A finished, checked program; NULL with err set on failure. weights (w->w) and what layout
 * describes must stay valid while the program is used. */
struct program *forward_record(const struct shape *s, const struct weights *w,
                               const struct layout *l, const struct program_limits *lim,
                               const struct forward_options *opt, fathom_err *err);

#endif
