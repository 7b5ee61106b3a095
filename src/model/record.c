/* record.c - what the recorders of the half-layers share: operands, activation forms, and
 * the hyper-connection pair of ops that opens every half-layer. Read next: attn.c, ffn.c,
 * head.c. */
#include "model/record_int.h"
#include "quant/formats.h"

enum op_form rec_form(const struct rec *r, uint16_t h)
{
    return !r->act_f32 && qformat(r->w->w[h].type)->cls == QC_BLOCK ? FORM_A8 : FORM_F32;
}

bool rec_any_a8(const struct rec *r, const uint16_t *h, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (h[i] != WEIGHT_NONE && rec_form(r, h[i]) == FORM_A8) {
            return true;
        }
    }
    return false;
}

struct opmat rec_mat(const struct rec *r, uint16_t h)
{
    const struct op_weight *w = &r->w->w[h];
    return (struct opmat){
        .w = h, .act = (uint8_t)rec_form(r, h), .rows = w->rows, .cols = w->cols};
}

struct opnd rec_tensor(const struct rec *r, const char *name, int il, enum op_form form,
                       enum row_count rows, uint32_t cols)
{
    return program_tensor(r->p, name, il, SPACE_ARENA, form, rows, cols, r->s->n_used);
}

struct opnd rec_act(const struct rec *r, const char *name, int il, bool wanted,
                    enum row_count rows, uint32_t cols)
{
    return wanted ? rec_tensor(r, name, il, FORM_A8, rows, cols) : (struct opnd){0};
}

struct rec_pre rec_hc_pre(const struct rec *r, int il, const char *role, uint16_t fn,
                          uint16_t base, uint16_t scale, uint16_t norm, bool want_a8)
{
    const struct shape *s = r->s;
    uint32_t m = (2 + s->hc) * s->hc, nc = (s->d + 31) / 32;
    struct opnd mixp = rec_tensor(r, "mixp", il, FORM_F32, ROWS_TOK, nc * (m + 1));
    struct op *op = program_op(r->p, OP_HC_MIX, il, role);
    op->hc_mix = (struct op_hc_mix){.x = r->x,
                                    .fn = rec_mat(r, fn),
                                    .mixp = mixp,
                                    .hc = s->hc,
                                    .d = s->d,
                                    .m = m,
                                    .nc = nc};
    op->hc_mix.fn.act = FORM_F32; /* streams stay F32 (model.md 16, pitfall 4) */
    struct rec_pre v = {.xn = rec_tensor(r, "xn", il, FORM_F32, ROWS_TOK, s->d),
                        .xn_act = rec_act(r, "xn.a8", il, want_a8, ROWS_TOK, s->d),
                        .post = rec_tensor(r, "post", il, FORM_F32, ROWS_TOK, s->hc),
                        .comb = rec_tensor(r, "comb", il, FORM_F32, ROWS_TOK, s->hc * s->hc)};
    op = program_op(r->p, OP_HC_NORM, il, role);
    op->hc_norm = (struct op_hc_norm){.x = r->x,
                                      .mixp = mixp,
                                      .scale = {scale},
                                      .base = {base},
                                      .norm = {norm},
                                      .xn = v.xn,
                                      .xn_act = v.xn_act,
                                      .post = v.post,
                                      .comb = v.comb,
                                      .hc = s->hc,
                                      .d = s->d,
                                      .nc = nc,
                                      .iters = s->sinkhorn_iters,
                                      .eps = s->eps,
                                      .hc_eps = s->hc_eps};
    return v;
}
