/* args.c - argument structs of the tasks (args.h), one per op, from the op and what is folded into
 * it. Read next: step.c. */
#include <string.h>

#include "backend/metal/plan_int.h"
#include "base/mem.h"

static struct metal_opnd opnd_args(const struct opnd *o)
{
    return (struct metal_opnd){.offset = o->offset,
                               .row_bytes = (mu32)o->row_bytes,
                               .cols = o->cols,
                               .space = o->space};
}
static struct metal_rows rows_args(const struct opnd_rows *r)
{
    return (struct metal_rows){opnd_args(&r->codes), opnd_args(&r->scales)};
}
static struct metal_geom geom_args(const struct row_geom *g)
{
    return (struct metal_geom){g->kind, g->n, g->rope, g->code_bytes, g->scale_bytes};
}
static struct metal_mat mat_args(const struct builder *b, const struct opmat *m)
{
    if (m->w == WEIGHT_NONE) {
        return (struct metal_mat){.type = METAL_ABSENT};
    }
    const struct op_weight *w = &b->plan->p->weights[m->w];
    struct metal_place at = b->place ? b->place[m->w] : (struct metal_place){0, 0};
    return (struct metal_mat){.offset = at.offset,
                              .mat_bytes = w->row_bytes * w->rows,
                              .view = at.view,
                              .type = w->type,
                              .act = m->act == FORM_A8,
                              .row_bytes = (mu32)w->row_bytes,
                              .rows = w->rows,
                              .cols = w->cols};
}
static struct metal_vec vec_args(const struct builder *b, const struct opvec *v)
{
    if (v->w == WEIGHT_NONE) {
        return (struct metal_vec){.view = METAL_ABSENT};
    }
    struct metal_place at = b->place ? b->place[v->w] : (struct metal_place){0, 0};
    return (struct metal_vec){.offset = at.offset, .view = at.view};
}

static struct metal_hc_mix mix_args(const struct builder *b, int op)
{
    if (op < 0) {
        return (struct metal_hc_mix){0};
    }
    const struct op_hc_mix *o = &b->plan->p->ops[op].hc_mix;
    return (struct metal_hc_mix){
        opnd_args(&o->x), opnd_args(&o->mixp), mat_args(b, &o->fn), o->hc, o->d, o->m, o->nc,
        o->rows_out};
}
static struct metal_head_finish head_args(const struct builder *b, int op)
{
    if (op < 0) {
        return (struct metal_head_finish){0};
    }
    const struct op_head_finish *o = &b->plan->p->ops[op].head_finish;
    return (struct metal_head_finish){opnd_args(&o->q), o->heads, o->n,   o->rope,
                                      o->norm,          o->index, o->fp4, o->eps};
}
static struct metal_route route_args(const struct builder *b, int op)
{
    if (op < 0) {
        return (struct metal_route){0};
    }
    const struct op_route *o = &b->plan->p->ops[op].route;
    return (struct metal_route){opnd_args(&o->z),
                                opnd_args(&o->idx),
                                opnd_args(&o->wt),
                                opnd_args(&o->off),
                                opnd_args(&o->pair),
                                opnd_args(&o->picked),
                                vec_args(b, &o->bias),
                                vec_args(b, &o->table),
                                o->n_expert,
                                o->k,
                                o->scale};
}

/* Scratch of an op; ops of one level get disjoint parts. */
static uint64_t take_scratch(struct builder *b, uint64_t bytes)
{
    uint64_t at = b->scratch;
    b->scratch = at + (bytes + 255) / 256 * 256;
    if (b->scratch > b->plan->scratch_bytes) {
        b->plan->scratch_bytes = b->scratch;
    }
    return at;
}

/* Number of the pair (ratio, rope class) among those whose angles a step prepares. */
static uint32_t group_kind(struct builder *b, uint32_t ratio, uint32_t rope)
{
    struct metal_plan *m = b->plan;
    for (uint32_t i = 0; i < m->n_group; i++) {
        if (m->group[i].ratio == ratio && m->group[i].rope == rope) {
            return i;
        }
    }
    if (m->n_group == METAL_GROUP_KINDS) {
        b->failed = true;
        return 0;
    }
    m->group[m->n_group].ratio = ratio;
    m->group[m->n_group].rope = rope;
    return m->n_group++;
}

static uint32_t append(struct builder *b, const void *p, size_t n)
{
    struct metal_plan *m = b->plan;
    uint32_t at = (m->args_bytes + 15) / 16 * 16;
    if (at + n > m->args_cap) {
        uint32_t cap = m->args_cap ? 2 * m->args_cap : 65536;
        unsigned char *args = mem_realloc(m->args, cap, 1);
        if (!args) {
            b->failed = true;
            return 0;
        }
        m->args = args;
        m->args_cap = cap;
    }
    memcpy(m->args + at, p, n);
    m->args_bytes = at + (uint32_t)n;
    return at;
}

static struct metal_linear linear_args(const struct builder *b, const struct op_linear *o,
                                       int norm)
{
    struct metal_linear a = {.x = opnd_args(&o->x),
                             .x_act = opnd_args(&o->x_act),
                             .y_act = opnd_args(&o->y_act),
                             .n_part = o->n_part,
                             .groups = o->groups,
                             .rows_out = o->rows_out};
    for (uint32_t i = 0; i < o->n_part; i++) {
        a.part[i].w = mat_args(b, &o->part[i].w);
        a.part[i].y = opnd_args(&o->part[i].y);
        a.part[i].first = a.n_block;
        a.n_block += (o->part[i].w.rows + METAL_ROWS - 1) / METAL_ROWS;
    }
    if (norm >= 0) {
        const struct op_rms_norm *r = &b->plan->p->ops[norm].rms_norm;
        a.norm = (struct metal_norm_in){opnd_args(&r->x), vec_args(b, &r->w), r->n, r->eps};
    }
    return a;
}

static struct metal_compress compress_args(struct builder *b, const struct op_compress *o)
{
    return (struct metal_compress){.x = opnd_args(&o->x),
                                   .ring = opnd_args(&o->ring),
                                   .bound = opnd_args(&o->bound),
                                   .rows = rows_args(&o->rows),
                                   .ape = vec_args(b, &o->ape),
                                   .norm = vec_args(b, &o->norm),
                                   .geom = geom_args(&o->geom),
                                   .ratio = o->ratio,
                                   .k = o->k,
                                   .slots = o->slots,
                                   .align = o->align,
                                   .rows_per_page = o->rows_per_page,
                                   .rope = o->rope,
                                   .group_kind = group_kind(b, o->ratio, o->rope),
                                   .eps = o->eps};
}

static struct metal_index index_args(struct builder *b, const struct op_index_select *o,
                                     int head)
{
    uint32_t rows = b->plan->p->lim.max_ctx / o->ratio + 1;
    return (struct metal_index){
        .qi = opnd_args(&o->qi),
        .iw = opnd_args(&o->iw),
        .sel = opnd_args(&o->sel),
        .n_sel = opnd_args(&o->n_sel),
        .rows = rows_args(&o->rows),
        .geom = geom_args(&o->geom),
        .scratch = take_scratch(b, (uint64_t)METAL_INDEX_BATCH * rows * sizeof(float)),
        .heads = o->heads,
        .n = o->n,
        .k_sel = o->k_sel,
        .ratio = o->ratio,
        .rows_per_page = o->rows_per_page,
        .max_rows = rows,
        .scale = o->scale,
        .finish = head_args(b, head)};
}

/* Most entries of a token's list. */
static uint32_t attn_entries(const struct program *p, const struct op_attn *o)
{
    uint32_t rows = o->ratio ? p->lim.max_ctx / o->ratio + 1 : 0;
    return o->window + (opnd_is(&o->sel) ? MIN(rows, o->sel.cols) : rows);
}

static struct metal_attn attn_args(struct builder *b, const struct op_attn *o, int head)
{
    const struct program *p = b->plan->p;
    struct metal_attn a = {.q = opnd_args(&o->q),
                           .o = opnd_args(&o->o),
                           .o_act = opnd_args(&o->o_act),
                           .sel = opnd_args(&o->sel),
                           .n_sel = opnd_args(&o->n_sel),
                           .wrow = rows_args(&o->wrow),
                           .ring = rows_args(&o->ring),
                           .rows = rows_args(&o->rows),
                           .sink = vec_args(b, &o->sink),
                           .geom = geom_args(&o->geom),
                           .heads = o->heads,
                           .n = o->n,
                           .window = o->window,
                           .slots = o->slots,
                           .ratio = o->ratio,
                           .rows_per_page = o->rows_per_page,
                           .rope = o->rope,
                           .max_splits = (attn_entries(p, o) + METAL_SPLIT - 1) / METAL_SPLIT,
                           .whole = !b->few,
                           .scale = o->scale,
                           .finish = head_args(b, head)};
    if (b->few) {
        uint64_t n = (uint64_t)MIN(p->lim.t_max, (uint32_t)METAL_FEW) * o->heads * a.max_splits;
        a.scratch = take_scratch(b, n * (o->n + 2) * sizeof(float));
    }
    return a;
}

static struct metal_moe_up moe_up_args(const struct builder *b, const struct op_moe_up *o,
                                       int route)
{
    return (struct metal_moe_up){opnd_args(&o->x),
                                 opnd_args(&o->x_act),
                                 opnd_args(&o->idx),
                                 opnd_args(&o->wt),
                                 opnd_args(&o->off),
                                 opnd_args(&o->pair),
                                 opnd_args(&o->h),
                                 opnd_args(&o->h_act),
                                 mat_args(b, &o->w1),
                                 mat_args(b, &o->w3),
                                 o->n_expert,
                                 o->k,
                                 o->f,
                                 o->lim,
                                 route_args(b, route)};
}

static struct metal_moe_down moe_down_args(struct builder *b, const struct op_moe_down *o,
                                           int mix)
{
    uint64_t bytes = b->few ? 0 : (uint64_t)b->plan->p->lim.t_max * o->k * o->d * sizeof(float);
    return (struct metal_moe_down){.h = opnd_args(&o->h),
                                   .h_act = opnd_args(&o->h_act),
                                   .hs = opnd_args(&o->hs),
                                   .hs_act = opnd_args(&o->hs_act),
                                   .idx = opnd_args(&o->idx),
                                   .off = opnd_args(&o->off),
                                   .pair = opnd_args(&o->pair),
                                   .hc_x = opnd_args(&o->hc_x),
                                   .post = opnd_args(&o->post),
                                   .comb = opnd_args(&o->comb),
                                   .w2 = mat_args(b, &o->w2),
                                   .shared = mat_args(b, &o->shared),
                                   .scratch = take_scratch(b, bytes),
                                   .n_expert = o->n_expert,
                                   .k = o->k,
                                   .hc = o->hc,
                                   .d = o->d,
                                   .mix = mix_args(b, mix)};
}

static struct metal_hc_norm norm_args(const struct builder *b, const struct op *op)
{
    if (op->kind == OP_HC_NORM) {
        const struct op_hc_norm *o = &op->hc_norm;
        return (struct metal_hc_norm){opnd_args(&o->x),
                                      opnd_args(&o->mixp),
                                      opnd_args(&o->xn),
                                      opnd_args(&o->xn_act),
                                      opnd_args(&o->post),
                                      opnd_args(&o->comb),
                                      vec_args(b, &o->scale),
                                      vec_args(b, &o->base),
                                      vec_args(b, &o->norm),
                                      o->hc,
                                      o->d,
                                      o->nc,
                                      o->iters,
                                      0,
                                      o->eps,
                                      o->hc_eps};
    }
    const struct op_hc_head *o = &op->hc_head;
    struct metal_opnd none = {0};
    return (struct metal_hc_norm){opnd_args(&o->x),
                                  opnd_args(&o->mixp),
                                  opnd_args(&o->hn),
                                  opnd_args(&o->hn_act),
                                  none,
                                  none,
                                  vec_args(b, &o->scale),
                                  vec_args(b, &o->base),
                                  vec_args(b, &o->norm),
                                  o->hc,
                                  o->d,
                                  o->nc,
                                  0,
                                  1,
                                  o->eps,
                                  o->hc_eps};
}

uint32_t metal_args(struct builder *b, uint32_t i)
{
    const struct op *op = &b->plan->p->ops[i];
    const struct fold *f = &b->fold[i];
#define APPEND(type, ...)                 \
    do {                                  \
        struct type a_ = __VA_ARGS__;     \
        return append(b, &a_, sizeof a_); \
    } while (0)
    switch ((enum op_kind)op->kind) {
    case OP_EMBED:
        APPEND(metal_embed, {mat_args(b, &op->embed.table), opnd_args(&op->embed.picked),
                             opnd_args(&op->embed.x), op->embed.hc, op->embed.d});
    case OP_HC_MIX: APPEND(metal_hc_mix, mix_args(b, (int)i));
    case OP_HC_NORM:
    case OP_HC_HEAD: APPEND(metal_hc_norm, norm_args(b, op));
    case OP_LINEAR: APPEND(metal_linear, linear_args(b, &op->linear, f->norm));
    case OP_RMS_NORM:
        APPEND(metal_rms_norm, {opnd_args(&op->rms_norm.x), opnd_args(&op->rms_norm.y),
                                opnd_args(&op->rms_norm.y_act), vec_args(b, &op->rms_norm.w),
                                op->rms_norm.n, op->rms_norm.eps});
    case OP_KV_ROW:
        APPEND(metal_kv_row, {opnd_args(&op->kv_row.x), rows_args(&op->kv_row.wrow),
                              vec_args(b, &op->kv_row.w), geom_args(&op->kv_row.geom),
                              op->kv_row.rope, op->kv_row.eps});
    case OP_COMPRESS: APPEND(metal_compress, compress_args(b, &op->compress));
    case OP_HEAD_FINISH: APPEND(metal_head_finish, head_args(b, (int)i));
    case OP_INDEX_SELECT: APPEND(metal_index, index_args(b, &op->index_select, f->head));
    case OP_ATTN: APPEND(metal_attn, attn_args(b, &op->attn, f->head));
    case OP_RING_STORE:
        APPEND(metal_ring_store, {rows_args(&op->ring_store.wrow),
                                  rows_args(&op->ring_store.ring), op->ring_store.slots});
    case OP_LINEAR_HC: {
        const struct op_linear_hc *o = &op->linear_hc;
        APPEND(metal_linear_hc, {opnd_args(&o->x), opnd_args(&o->x_act), opnd_args(&o->hc_x),
                                 opnd_args(&o->post), opnd_args(&o->comb), mat_args(b, &o->w),
                                 o->hc, o->d, mix_args(b, f->mix)});
    }
    case OP_FFN_UP: {
        const struct op_ffn_up *o = &op->ffn_up;
        APPEND(metal_ffn_up,
               {opnd_args(&o->x), opnd_args(&o->x_act), opnd_args(&o->h), opnd_args(&o->h_act),
                mat_args(b, &o->w1), mat_args(b, &o->w3), o->f, o->lim});
    }
    case OP_ROUTE: APPEND(metal_route, route_args(b, (int)i));
    case OP_MOE_UP: APPEND(metal_moe_up, moe_up_args(b, &op->moe_up, f->route));
    case OP_MOE_DOWN: APPEND(metal_moe_down, moe_down_args(b, &op->moe_down, f->mix));
    case OP_PICK:
        APPEND(metal_pick,
               {opnd_args(&op->pick.logits), opnd_args(&op->pick.mask),
                opnd_args(&op->pick.picks), opnd_args(&op->pick.picked), op->pick.vocab});
    case OP_KIND_COUNT: break;
    }
    return 0;
}
