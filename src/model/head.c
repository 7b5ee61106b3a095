/* head.c - records what surrounds the layers (model.md 4, 5): embedding at the start; HChead,
 * final norm, output matrix and the choice of the best tokens at the end, for the wanted rows
 * only. */
#include "model/record_int.h"
#include "op/step.h"

void record_embed(struct rec *r)
{
    struct op *op = program_op(r->p, OP_EMBED, -1, "embed");
    op->embed = (struct op_embed){.table = rec_mat(r, r->w->embed),
                                  .picked = r->picked,
                                  .x = r->x,
                                  .hc = r->s->hc,
                                  .d = r->s->d};
    op->embed.table.act = FORM_F32; /* a row is decoded, never multiplied */
}

void record_head(struct rec *r)
{
    const struct shape *s = r->s;
    const struct weights *w = r->w;
    struct program *p = r->p;
    uint32_t nc = (s->d + 31) / 32;
    struct opnd mixp = rec_tensor(r, "mixp", -1, FORM_F32, ROWS_OUT, nc * (s->hc + 1));
    struct op *op = program_op(p, OP_HC_MIX, -1, "head");
    op->hc_mix = (struct op_hc_mix){.x = r->x,
                                    .fn = rec_mat(r, w->hc_head_fn),
                                    .mixp = mixp,
                                    .hc = s->hc,
                                    .d = s->d,
                                    .m = s->hc,
                                    .nc = nc,
                                    .rows_out = true};
    op->hc_mix.fn.act = FORM_F32;
    struct opnd hn = rec_tensor(r, "hn", -1, FORM_F32, ROWS_OUT, s->d);
    struct opnd hn_act = rec_act(r, "hn.a8", -1, rec_any_a8(r, &w->head, 1), ROWS_OUT, s->d);
    op = program_op(p, OP_HC_HEAD, -1, "head");
    op->hc_head = (struct op_hc_head){.x = r->x,
                                      .mixp = mixp,
                                      .scale = {w->hc_head_scale},
                                      .base = {w->hc_head_base},
                                      .norm = {w->norm},
                                      .hn = hn,
                                      .hn_act = hn_act,
                                      .hc = s->hc,
                                      .d = s->d,
                                      .nc = nc,
                                      .eps = s->eps,
                                      .hc_eps = s->hc_eps};
    p->io_logits = program_tensor(p, "logits", -1, SPACE_IO, FORM_F32, ROWS_OUT, s->n_vocab, 1);
    p->io_mask = program_tensor(p, "mask", -1, SPACE_IO, FORM_BYTES, ROWS_OUT,
                                (s->n_vocab + 31) / 32 * 4, 1);
    p->io_picks =
        program_tensor(p, "picks", -1, SPACE_IO, FORM_BYTES, ROWS_OUT, sizeof(struct pick), 1);
    op = program_op(p, OP_LINEAR, -1, "head");
    op->linear = (struct op_linear){
        .x = hn, .x_act = hn_act, .n_part = 1, .groups = 1, .rows_out = true};
    for (int i = 0; i < OP_LINEAR_PARTS; i++) {
        op->linear.part[i].w.w = WEIGHT_NONE;
    }
    op->linear.part[0].w = rec_mat(r, w->head);
    op->linear.part[0].y = p->io_logits;
    op = program_op(p, OP_PICK, -1, "head");
    op->pick = (struct op_pick){.logits = p->io_logits,
                                .mask = p->io_mask,
                                .picks = p->io_picks,
                                .picked = r->picked,
                                .vocab = s->n_vocab};
}
