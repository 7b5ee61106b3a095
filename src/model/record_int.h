/* record_int.h - private to src/model: what the recorders of the half-layers share. */
#ifndef MODEL_RECORD_INT_H
#define MODEL_RECORD_INT_H

#include "model/forward.h"

/* One recording: the model's description and the operands that live across half-layers. */
struct rec {
    struct program *p;
    const struct shape *s;
    const struct weights *w;
    const struct layout *l;
    bool act_f32;
    struct opnd x;      /* streams [T][hc*D] */
    struct opnd picked; /* IO, last choice per state slot */
};

/* Form in which weight h reads its input under the profile: A8 for block formats (op.h). */
enum op_form rec_form(const struct rec *r, uint16_t h);
/* Does any of these weights read A8? */
bool rec_any_a8(const struct rec *r, const uint16_t *h, size_t n);
struct opmat rec_mat(const struct rec *r, uint16_t h);
struct opnd rec_tensor(const struct rec *r, const char *name, int il, enum op_form form,
                       enum row_count rows, uint32_t cols);
/* The A8 companion of a tensor, or an absent operand. */
struct opnd rec_act(const struct rec *r, const char *name, int il, bool wanted,
                    enum row_count rows, uint32_t cols);

/* HCpre and norm of one half-layer (levels 1-2 and 11-12). */
struct rec_pre {
    struct opnd xn, xn_act, post, comb;
};
struct rec_pre rec_hc_pre(const struct rec *r, int il, const char *role, uint16_t fn,
                          uint16_t base, uint16_t scale, uint16_t norm, bool want_a8);

void record_attn(struct rec *r, int il); /* attn.c */
void record_ffn(struct rec *r, int il);  /* ffn.c */
void record_embed(struct rec *r);        /* head.c */
void record_head(struct rec *r);         /* head.c */

#endif
