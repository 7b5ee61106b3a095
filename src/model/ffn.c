/* ffn.c - records the mixture-of-experts half of a layer (model.md 10): HCpre and norm, router
 * and shared expert side by side, the choice of experts, their two products, HCpost. */
#include "model/record_int.h"

static struct opnd record_router(struct rec *r, int il, const struct rec_pre *pre)
{
    struct opnd z = rec_tensor(r, "z", il, FORM_F32, ROWS_TOK, r->s->n_expert);
    struct op *op = program_op(r->p, OP_LINEAR, il, "router");
    op->linear.x = pre->xn;
    op->linear.x_act = pre->xn_act;
    op->linear.groups = 1;
    op->linear.n_part = 1;
    op->linear.part[0].w = rec_mat(r, r->w->layer[il].router);
    op->linear.part[0].y = z;
    return z;
}

/* What ROUTE decides, for the two expert ops. */
struct route {
    struct opnd idx, wt, off, pair;
};

static struct route record_route(struct rec *r, int il, struct opnd z)
{
    const struct shape *s = r->s;
    struct route v = {
        .idx = rec_tensor(r, "idx", il, FORM_I32, ROWS_TOK, s->n_used),
        .wt = rec_tensor(r, "wt", il, FORM_F32, ROWS_TOK, s->n_used),
        .off = rec_tensor(r, "off", il, FORM_I32, ROWS_ONE, s->n_expert + 1),
        .pair = rec_tensor(r, "pair", il, FORM_I32, ROWS_ONE, r->p->lim.t_max * s->n_used)};
    struct op *op = program_op(r->p, OP_ROUTE, il, "router");
    op->route = (struct op_route){.z = z,
                                  .bias = {r->w->layer[il].router_bias},
                                  .table = {r->w->layer[il].tid2eid},
                                  .picked = shape_is_hash(s, (uint32_t)il) ? r->picked
                                                                           : (struct opnd){0},
                                  .idx = v.idx,
                                  .wt = v.wt,
                                  .off = v.off,
                                  .pair = v.pair,
                                  .n_expert = s->n_expert,
                                  .k = s->n_used,
                                  .scale = s->route_scale};
    return v;
}

void record_ffn(struct rec *r, int il)
{
    const struct shape *s = r->s;
    const struct weights_layer *w = &r->w->layer[il];
    uint16_t in[] = {w->router, w->gate_shexp, w->up_shexp, w->gate_exps, w->up_exps};
    struct rec_pre pre = rec_hc_pre(r, il, "ffn", w->hc_ffn_fn, w->hc_ffn_base, w->hc_ffn_scale,
                                    w->ffn_norm, rec_any_a8(r, in, 5));
    struct opnd z = record_router(r, il, &pre);

    struct opnd hs = rec_tensor(r, "hs", il, FORM_F32, ROWS_TOK, s->n_ff);
    struct opnd hs_act =
        rec_act(r, "hs.a8", il, rec_any_a8(r, &w->down_shexp, 1), ROWS_TOK, s->n_ff);
    struct op *op = program_op(r->p, OP_FFN_UP, il, "shared");
    op->ffn_up = (struct op_ffn_up){.x = pre.xn,
                                    .x_act = pre.xn_act,
                                    .w1 = rec_mat(r, w->gate_shexp),
                                    .w3 = rec_mat(r, w->up_shexp),
                                    .h = hs,
                                    .h_act = hs_act,
                                    .f = s->n_ff,
                                    .lim = s->swiglu_lim[il]};
    struct route v = record_route(r, il, z);

    struct opnd hr = rec_tensor(r, "hr", il, FORM_F32, ROWS_PAIR, s->n_ff);
    struct opnd hr_act =
        rec_act(r, "hr.a8", il, rec_any_a8(r, &w->down_exps, 1), ROWS_PAIR, s->n_ff);
    op = program_op(r->p, OP_MOE_UP, il, "expert");
    op->moe_up = (struct op_moe_up){.x = pre.xn,
                                    .x_act = pre.xn_act,
                                    .w1 = rec_mat(r, w->gate_exps),
                                    .w3 = rec_mat(r, w->up_exps),
                                    .idx = v.idx,
                                    .wt = v.wt,
                                    .off = v.off,
                                    .pair = v.pair,
                                    .h = hr,
                                    .h_act = hr_act,
                                    .n_expert = s->n_expert,
                                    .k = s->n_used,
                                    .f = s->n_ff,
                                    .lim = s->swiglu_lim[il]};
    op = program_op(r->p, OP_MOE_DOWN, il, "expert");
    op->moe_down = (struct op_moe_down){.h = hr,
                                        .h_act = hr_act,
                                        .hs = hs,
                                        .hs_act = hs_act,
                                        .w2 = rec_mat(r, w->down_exps),
                                        .shared = rec_mat(r, w->down_shexp),
                                        .idx = v.idx,
                                        .off = v.off,
                                        .pair = v.pair,
                                        .hc_x = r->x,
                                        .post = pre.post,
                                        .comb = pre.comb,
                                        .n_expert = s->n_expert,
                                        .k = s->n_used,
                                        .hc = s->hc,
                                        .d = s->d};
}
