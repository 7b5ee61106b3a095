/* attn.c - records the attention half of a layer (model.md 5-8): HCpre and norm, the joint
 * input product, window row, compressors, queries, index selection, attention, grouped output,
 * HCpost. The order of program_op calls is the order of the table in ARCHITECTURE.md; levels
 * follow from the operands. */
#include <math.h>
#include <stddef.h>

#include "model/record_int.h"

/* Everything that flows between the ops of one attention half. */
struct attn {
    const struct weights_layer *w;
    const struct layout_layer *y;
    int il;
    uint32_t rope;
    struct rec_pre pre;
    struct opnd qa, kv, cu, iu, iw, qr, qr_act, q, qi, sel, n_sel, o, o_act, low, low_act;
    struct opnd_rows wrow, ring, rows, index_rows;
};

static struct opnd_rows state_rows(const struct rec *r, const struct attn *a)
{
    const struct row_geom *g = &r->l->row;
    uint64_t n = r->l->ring_slots;
    struct opnd_rows v = {.codes = program_plane(r->p, "ring", a->il, SPACE_STATE, FORM_BYTES,
                                                 g->code_bytes, a->y->ring_codes, g->code_bytes,
                                                 n * g->code_bytes)};
    if (g->scale_bytes) {
        v.scales =
            program_plane(r->p, "ring.scales", a->il, SPACE_STATE, FORM_BYTES, g->scale_bytes,
                          a->y->ring_scales, g->scale_bytes, n * g->scale_bytes);
    }
    return v;
}

static struct opnd_rows page_rows(const struct rec *r, const struct attn *a, bool index)
{
    const struct row_geom *g = index ? &r->l->index_row : &r->l->row;
    uint64_t n = a->y->rows_per_page;
    struct opnd_rows v = {.codes = program_plane(r->p, index ? "index_rows" : "rows", a->il,
                                                 SPACE_PAGE, FORM_BYTES, g->code_bytes,
                                                 index ? a->y->index_codes : a->y->codes,
                                                 g->code_bytes, n * g->code_bytes)};
    if (g->scale_bytes) {
        v.scales =
            program_plane(r->p, index ? "index_rows.sc" : "rows.sc", a->il, SPACE_PAGE,
                          FORM_BYTES, g->scale_bytes, index ? a->y->index_scales : a->y->scales,
                          g->scale_bytes, n * g->scale_bytes);
    }
    return v;
}

static void add_part(struct op *op, const struct rec *r, uint16_t h, struct opnd y)
{
    struct op_linear *l = &op->linear;
    l->part[l->n_part].w = rec_mat(r, h);
    l->part[l->n_part++].y = y;
}

/* Level 3: every product of the normed input, as one op. */
static void input_products(struct rec *r, struct attn *a)
{
    const struct shape *s = r->s;
    uint32_t kn = a->y->k * s->head_dim, ki = a->y->k * s->index_dim;
    a->qa = rec_tensor(r, "qa", a->il, FORM_F32, ROWS_TOK, s->q_lora);
    a->kv = rec_tensor(r, "kv", a->il, FORM_F32, ROWS_TOK, s->head_dim);
    if (a->y->ratio) {
        a->cu = rec_tensor(r, "cu", a->il, FORM_F32, ROWS_TOK, 2 * kn);
    }
    if (a->y->index) {
        a->iu = rec_tensor(r, "iu", a->il, FORM_F32, ROWS_TOK, 2 * ki);
        a->iw = rec_tensor(r, "iw", a->il, FORM_F32, ROWS_TOK, s->index_heads);
    }
    struct op *op = program_op(r->p, OP_LINEAR, a->il, "in");
    op->linear.x = a->pre.xn;
    op->linear.x_act = a->pre.xn_act;
    op->linear.groups = 1;
    add_part(op, r, a->w->wq_a, a->qa);
    add_part(op, r, a->w->wkv, a->kv);
    if (a->y->ratio) {
        add_part(op, r, a->w->comp_kv, opnd_cols(a->cu, 0, kn));
        add_part(op, r, a->w->comp_gate, opnd_cols(a->cu, kn, kn));
    }
    if (a->y->index) {
        add_part(op, r, a->w->index_comp_kv, opnd_cols(a->iu, 0, ki));
        add_part(op, r, a->w->index_comp_gate, opnd_cols(a->iu, ki, ki));
        add_part(op, r, a->w->index_proj, a->iw);
    }
}

static void compress(struct rec *r, struct attn *a, bool index)
{
    const struct layout_layer *y = a->y;
    const struct row_geom *g = index ? &r->l->index_row : &r->l->row;
    uint64_t row = (uint64_t)2 * y->k * g->n * sizeof(float);
    uint64_t bound_row = (uint64_t)2 * g->n * sizeof(float);
    struct op *op = program_op(r->p, OP_COMPRESS, a->il, index ? "index" : "main");
    struct op_compress *c = &op->compress;
    *c = (struct op_compress){
        .x = index ? a->iu : a->cu,
        .ape = {index ? a->w->index_comp_ape : a->w->comp_ape},
        .norm = {index ? a->w->index_comp_norm : a->w->comp_norm},
        .ring = program_plane(r->p, index ? "index_ring" : "comp_ring", a->il, SPACE_STATE,
                              FORM_F32, 2 * y->k * g->n, index ? y->index_comp : y->comp, row,
                              y->comp_slots * row),
        .rows = index ? a->index_rows : a->rows,
        .geom = *g,
        .ratio = y->ratio,
        .k = y->k,
        .slots = y->comp_slots,
        .align = r->l->align,
        .rows_per_page = y->rows_per_page,
        .rope = a->rope,
        .eps = r->s->eps};
    if (y->k == 2) {
        c->bound = program_plane(r->p, index ? "index_bound" : "bound", a->il, SPACE_STATE,
                                 FORM_F32, 2 * g->n, index ? y->index_bound : y->bound,
                                 bound_row, (uint64_t)2 * y->ratio * bound_row);
    }
}

/* Level 4: low-rank query norm, window row, compressors. */
static void norms_and_rows(struct rec *r, struct attn *a)
{
    const struct shape *s = r->s;
    const struct row_geom *g = &r->l->row;
    uint16_t readers[] = {a->w->wq_b, a->w->index_q};
    a->qr = rec_tensor(r, "qr", a->il, FORM_F32, ROWS_TOK, s->q_lora);
    a->qr_act = rec_act(r, "qr.a8", a->il, rec_any_a8(r, readers, 2), ROWS_TOK, s->q_lora);
    struct op *op = program_op(r->p, OP_RMS_NORM, a->il, "q");
    op->rms_norm = (struct op_rms_norm){.x = a->qa,
                                        .y = a->qr,
                                        .y_act = a->qr_act,
                                        .w = {a->w->q_norm},
                                        .n = s->q_lora,
                                        .eps = s->eps};
    a->wrow.codes = rec_tensor(r, "wrow", a->il, FORM_BYTES, ROWS_TOK, g->code_bytes);
    if (g->scale_bytes) {
        a->wrow.scales =
            rec_tensor(r, "wrow.scales", a->il, FORM_BYTES, ROWS_TOK, g->scale_bytes);
    }
    op = program_op(r->p, OP_KV_ROW, a->il, "kv");
    op->kv_row = (struct op_kv_row){.x = a->kv,
                                    .w = {a->w->kv_norm},
                                    .wrow = a->wrow,
                                    .geom = *g,
                                    .rope = a->rope,
                                    .eps = s->eps};
    if (a->y->ratio) {
        compress(r, a, false);
    }
    if (a->y->index) {
        compress(r, a, true);
    }
}

/* Levels 5-7: queries and the choice of rows. */
static void queries(struct rec *r, struct attn *a)
{
    const struct shape *s = r->s;
    a->q = rec_tensor(r, "q", a->il, FORM_F32, ROWS_TOK, s->n_head * s->head_dim);
    struct op *op = program_op(r->p, OP_LINEAR, a->il, "q");
    op->linear.x = a->qr;
    op->linear.x_act = a->qr_act;
    op->linear.groups = 1;
    add_part(op, r, a->w->wq_b, a->q);
    if (a->y->index) {
        a->qi = rec_tensor(r, "qi", a->il, FORM_F32, ROWS_TOK, s->index_heads * s->index_dim);
        add_part(op, r, a->w->index_q, a->qi);
    }
    op = program_op(r->p, OP_HEAD_FINISH, a->il, "q");
    op->head_finish = (struct op_head_finish){.q = a->q,
                                              .heads = s->n_head,
                                              .n = s->head_dim,
                                              .rope_n = s->rope_dim,
                                              .rope = a->rope,
                                              .norm = true,
                                              .eps = s->eps};
    if (!a->y->index) {
        return;
    }
    op = program_op(r->p, OP_HEAD_FINISH, a->il, "index");
    op->head_finish =
        (struct op_head_finish){.q = a->qi,
                                .heads = s->index_heads,
                                .n = s->index_dim,
                                .rope_n = s->rope_dim,
                                .rope = a->rope,
                                .index = r->l->sim, /* transform and rounding go together */
                                .fp4 = r->l->sim,
                                .eps = s->eps};
    a->sel = rec_tensor(r, "sel", a->il, FORM_I32, ROWS_TOK, s->index_topk);
    a->n_sel = rec_tensor(r, "n_sel", a->il, FORM_I32, ROWS_TOK, 1);
    op = program_op(r->p, OP_INDEX_SELECT, a->il, "index");
    double scale = 1.0 / sqrt((double)s->index_dim) / sqrt((double)s->index_heads);
    op->index_select = (struct op_index_select){.qi = a->qi,
                                                .iw = a->iw,
                                                .rows = a->index_rows,
                                                .sel = a->sel,
                                                .n_sel = a->n_sel,
                                                .geom = r->l->index_row,
                                                .heads = s->index_heads,
                                                .n = s->index_dim,
                                                .k_sel = s->index_topk,
                                                .ratio = a->y->ratio,
                                                .rows_per_page = a->y->rows_per_page,
                                                .scale = (float)scale};
}

/* Level 8. */
static void attend(struct rec *r, struct attn *a)
{
    const struct shape *s = r->s;
    uint32_t cols = s->n_head * s->head_dim;
    a->o = rec_tensor(r, "o", a->il, FORM_F32, ROWS_TOK, cols);
    a->o_act = rec_act(r, "o.a8", a->il, rec_any_a8(r, &a->w->wo_a, 1), ROWS_TOK, cols);
    struct op *op = program_op(r->p, OP_ATTN, a->il, "attn");
    op->attn = (struct op_attn){.q = a->q,
                                .wrow = a->wrow,
                                .ring = a->ring,
                                .rows = a->rows,
                                .sel = a->sel,
                                .n_sel = a->n_sel,
                                .sink = {a->w->sinks},
                                .o = a->o,
                                .o_act = a->o_act,
                                .geom = r->l->row,
                                .heads = s->n_head,
                                .n = s->head_dim,
                                .window = s->window,
                                .slots = r->l->ring_slots,
                                .ratio = a->y->ratio,
                                .rows_per_page = a->y->rows_per_page,
                                .rope = a->rope,
                                .scale = (float)(1.0 / sqrt((double)s->head_dim))};
}

/* Levels 9-10: grouped low-rank output, ring update, output with HCpost. */
static void output(struct rec *r, struct attn *a)
{
    const struct shape *s = r->s;
    uint32_t cols = s->o_groups * s->o_lora;
    a->low = rec_tensor(r, "low", a->il, FORM_F32, ROWS_TOK, cols);
    a->low_act = rec_act(r, "low.a8", a->il, rec_any_a8(r, &a->w->wo_b, 1), ROWS_TOK, cols);
    struct op *op = program_op(r->p, OP_LINEAR, a->il, "out_a");
    op->linear.x = a->o;
    op->linear.x_act = a->o_act;
    op->linear.groups = s->o_groups;
    op->linear.y_act = a->low_act;
    add_part(op, r, a->w->wo_a, a->low);
    op = program_op(r->p, OP_RING_STORE, a->il, "kv");
    op->ring_store =
        (struct op_ring_store){.wrow = a->wrow, .ring = a->ring, .slots = r->l->ring_slots};
    op = program_op(r->p, OP_LINEAR_HC, a->il, "out_b");
    op->linear_hc = (struct op_linear_hc){.x = a->low,
                                          .x_act = a->low_act,
                                          .w = rec_mat(r, a->w->wo_b),
                                          .hc_x = r->x,
                                          .post = a->pre.post,
                                          .comb = a->pre.comb,
                                          .hc = s->hc,
                                          .d = s->d};
}

void record_attn(struct rec *r, int il)
{
    struct attn a = {.w = &r->w->layer[il], .y = &r->l->layer[il], .il = il};
    const struct weights_layer *w = a.w;
    uint16_t readers[] = {w->wq_a,      w->wkv,           w->comp_kv,
                          w->comp_gate, w->index_comp_kv, w->index_comp_gate,
                          w->index_proj};
    a.rope = a.y->ratio ? ROPE_YARN : ROPE_PLAIN;
    a.pre = rec_hc_pre(r, il, "attn", w->hc_attn_fn, w->hc_attn_base, w->hc_attn_scale,
                       w->attn_norm, rec_any_a8(r, readers, 7));
    a.ring = state_rows(r, &a);
    if (a.y->ratio) {
        a.rows = page_rows(r, &a, false);
    }
    if (a.y->index) {
        a.index_rows = page_rows(r, &a, true);
    }
    input_products(r, &a);
    norms_and_rows(r, &a);
    queries(r, &a);
    attend(r, &a);
    output(r, &a);
}
