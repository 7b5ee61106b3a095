/* step.c - see step.h and plan.h (metal_groups, metal_count). */
#include "backend/metal/step.h"

#include <string.h>

#include "base/mem.h"
#include "op/rows.h"

static uint64_t section(uint64_t *at, uint64_t bytes)
{
    uint64_t from = *at;
    *at = (from + bytes + 255) / 256 * 256;
    return from;
}

void metal_step_plan(struct metal_step_layout *l, const struct metal_plan *plan,
                     uint32_t max_pages)
{
    const struct program *p = plan->p;
    uint64_t at = 0;
    uint32_t floats = 0;
    section(&at, sizeof(struct metal_step));
    l->seq = section(&at, (uint64_t)p->lim.seq_max * sizeof(struct metal_seq));
    l->tok = section(&at, (uint64_t)p->lim.t_max * 4);
    l->tok_seq = section(&at, (uint64_t)p->lim.t_max * 4);
    l->pages = section(&at, MAX((uint64_t)max_pages * 4, (uint64_t)4));
    l->out = section(&at, MAX((uint64_t)p->lim.out_max * 4, (uint64_t)4));
    for (uint32_t r = 0; r < ROPE_CLASSES; r++) {
        l->angle_first[r] = floats;
        floats += p->lim.t_max * 2 * p->rope[r].n;
    }
    for (uint32_t g = 0; g < plan->n_group; g++) {
        l->group_first[g] = floats;
        floats += (p->lim.t_max / plan->group[g].ratio + p->lim.seq_max) * 2 *
                  p->rope[plan->group[g].rope].n;
    }
    l->angles = section(&at, MAX((uint64_t)floats * 4, (uint64_t)4));
    l->bytes = at;
}

static uint32_t groups_of(const struct step_seq *q, uint32_t ratio)
{
    uint32_t a = step_group_first(q, ratio), b = step_group_end(q, ratio);
    return b > a ? b - a : 0;
}

static void write_angles(const struct metal_step_layout *l, const struct metal_plan *plan,
                         const struct step *s, float *to)
{
    const struct program *p = plan->p;
    for (uint32_t r = 0; r < ROPE_CLASSES; r++) {
        for (uint32_t t = 0; t < s->n_tok && p->rope[r].n; t++) {
            const struct step_seq *q = &s->seq[s->tok_seq[t]];
            rope_angles(&p->rope[r], step_pos(q, t),
                        to + l->angle_first[r] + (size_t)t * 2 * p->rope[r].n);
        }
    }
    for (uint32_t g = 0; g < plan->n_group; g++) {
        const struct rope_table *table = &p->rope[plan->group[g].rope];
        float *at = to + l->group_first[g];
        for (uint32_t i = 0; i < s->n_seq; i++) {
            uint32_t first = step_group_first(&s->seq[i], plan->group[g].ratio);
            for (uint32_t k = 0; k < groups_of(&s->seq[i], plan->group[g].ratio);
                 k++, at += 2 * table->n) {
                rope_angles(table, (first + k) * plan->group[g].ratio, at);
            }
        }
    }
}

void metal_step_write(const struct metal_step_layout *l, const struct metal_plan *plan,
                      const struct step *s, void *to)
{
    const struct program *p = plan->p;
    unsigned char *base = to;
    struct metal_step h = {.n_tok = s->n_tok,
                           .n_seq = s->n_seq,
                           .n_out = s->n_out,
                           .use_mask = s->use_mask,
                           .slot_bytes = p->slot_bytes,
                           .page_bytes = p->page_bytes};
    for (int r = 0; r < ROPE_CLASSES; r++) {
        h.angle_row[r] = 2 * p->rope[r].n;
        h.angle_first[r] = l->angle_first[r];
    }
    memcpy(h.group_first, l->group_first, sizeof h.group_first);
    memcpy(base, &h, sizeof h);
    struct metal_seq *seq = (struct metal_seq *)(void *)(base + l->seq);
    for (uint32_t i = 0; i < s->n_seq; i++) {
        const struct step_seq *q = &s->seq[i];
        seq[i] = (struct metal_seq){q->state, q->n0,    q->n_tok,  q->tok0, q->start,
                                    q->keep,  q->page0, q->n_page, q->out0, q->n_out};
    }
    memcpy(base + l->tok, s->tok, s->n_tok * sizeof *s->tok);
    memcpy(base + l->tok_seq, s->tok_seq, s->n_tok * sizeof *s->tok_seq);
    if (s->n_page) {
        memcpy(base + l->pages, s->pages, s->n_page * sizeof *s->pages);
    }
    if (s->n_out) {
        memcpy(base + l->out, s->out, s->n_out * sizeof *s->out);
    }
    write_angles(l, plan, s, (float *)(void *)(base + l->angles));
}

/* ---- grids ---- */

static uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Does any token see more rows than it may select? Then scores are needed. */
static bool must_score(const struct op_index_select *o, const struct step *s)
{
    for (uint32_t i = 0; i < s->n_seq; i++) {
        uint32_t last = s->seq[i].n0 + s->seq[i].n_tok - 1;
        if (step_rows_seen(last, o->ratio) > o->k_sel) {
            return true;
        }
    }
    return false;
}

static uint32_t compress_groups(const struct op_compress *o, const struct step *s)
{
    uint32_t n = s->n_seq; /* boundary copies */
    for (uint32_t i = 0; i < s->n_seq; i++) {
        n += groups_of(&s->seq[i], o->ratio);
    }
    return n;
}

static uint32_t product_groups(uint32_t rows, uint32_t n_tok)
{
    return div_up(rows, METAL_ROWS) * div_up(n_tok, METAL_TILE);
}

static uint32_t linear_groups(const struct op_linear *o, const struct step *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < o->n_part; i++) {
        n += div_up(o->part[i].w.rows, METAL_ROWS);
    }
    return n * div_up(o->rows_out ? s->n_out : s->n_tok, METAL_TILE);
}

uint32_t metal_groups(const struct metal_plan *plan, const struct metal_plan_task *t,
                      const struct step *s, uint32_t n_batch)
{
    const struct op *op = &plan->p->ops[t->op];
    uint32_t n = s->n_tok;
    switch ((enum metal_task)t->kind) {
    case METAL_EMBED:
    case METAL_HC_NORM:
    case METAL_RMS_NORM:
    case METAL_KV_ROW:
    case METAL_COMPRESS_RING:
    case METAL_RING_STORE:
    case METAL_ROUTE_TOKEN: return n;
    case METAL_HC_MIX:
        return (op->hc_mix.rows_out ? s->n_out : n) * div_up(op->hc_mix.nc, METAL_THREADS / 32);
    case METAL_HC_HEAD:
    case METAL_PICK: return s->n_out;
    case METAL_LINEAR: return linear_groups(&op->linear, s);
    case METAL_COMPRESS: return s->n_seq;
    case METAL_COMPRESS_ROWS: return compress_groups(&op->compress, s);
    case METAL_HEAD_FINISH: return n * div_up(op->head_finish.heads, 8);
    case METAL_INDEX_SCORE: {
        const struct metal_index *a = (const void *)(plan->args + t->at);
        return must_score(&op->index_select, s) ? n_batch * div_up(a->max_rows, 32) : 0;
    }
    case METAL_INDEX_TOP: return n_batch;
    case METAL_ATTN: {
        const struct metal_attn *a = (const void *)(plan->args + t->at);
        return n * div_up(op->attn.heads, METAL_HEADS) * (a->whole ? 1 : a->max_splits);
    }
    case METAL_ATTN_MERGE: return n * div_up(op->attn.heads, METAL_HEADS);
    case METAL_LINEAR_HC: return product_groups(op->linear_hc.w.rows, n);
    case METAL_FFN_UP: return product_groups(op->ffn_up.f, n);
    case METAL_ROUTE:
    case METAL_ROUTE_GROUP: return 1;
    case METAL_MOE_UP: return n * op->moe_up.k * div_up(op->moe_up.f, METAL_ROWS);
    case METAL_MOE_UP_EXPERT: return op->moe_up.n_expert * div_up(op->moe_up.f, METAL_ROWS);
    case METAL_MOE_DOWN: return div_up(op->moe_down.d, METAL_ROWS);
    case METAL_MOE_DOWN_EXPERT:
        return op->moe_down.n_expert * div_up(op->moe_down.d, METAL_ROWS);
    case METAL_MOE_DOWN_SUM: return product_groups(op->moe_down.d, n);
    case METAL_NONE:
    case METAL_TASKS: break;
    }
    return 0;
}

/* ---- threadgroup memory ---- */

/* Floats of a product and its epilogue for n tokens in a threadgroup. */
static uint32_t product_floats(const struct metal_plan *plan, uint32_t n)
{
    return plan->few ? METAL_AT_OUT + METAL_ROWS * n : METAL_AT_END;
}

static uint32_t linear_floats(const struct metal_plan *plan, const struct metal_plan_task *t,
                              const struct step *s)
{
    const struct metal_linear *a = (const void *)(plan->args + t->at);
    uint32_t n = a->rows_out ? s->n_out : s->n_tok;
    /* linear.metal, stage_norm: codes, scales, sums and a factor of each token */
    return a->norm.n ? METAL_AT_FEW + n * (a->norm.n / 4 + a->norm.n / 16 + 1)
                     : product_floats(plan, n);
}

static uint32_t task_floats(const struct metal_plan *plan, const struct metal_plan_task *t,
                            const struct step *s)
{
    const struct op *op = &plan->p->ops[t->op];
    switch ((enum metal_task)t->kind) {
    case METAL_HC_NORM: return METAL_AT_HC_VECTOR + MIN(op->hc_norm.d, (uint32_t)METAL_PIECE);
    case METAL_HC_HEAD: return METAL_AT_HC_VECTOR + MIN(op->hc_head.d, (uint32_t)METAL_PIECE);
    case METAL_RMS_NORM: return METAL_AT_VECTOR + MIN(op->rms_norm.n, (uint32_t)METAL_PIECE);
    case METAL_KV_ROW: return METAL_AT_VECTOR + op->kv_row.geom.n;
    case METAL_COMPRESS:
    case METAL_COMPRESS_ROWS: return METAL_AT_VECTOR + op->compress.geom.n;
    case METAL_HEAD_FINISH: return METAL_HEADS * op->head_finish.n;
    case METAL_INDEX_SCORE: return METAL_INDEX_SUMS + 48 * op->index_select.n;
    case METAL_INDEX_TOP:
    case METAL_PICK: return METAL_SELECT_FLOATS;
    case METAL_ATTN:
        return METAL_HEADS * (op->attn.n + METAL_SPLIT) + METAL_ATTN_ROWS * op->attn.n;
    case METAL_ATTN_MERGE: return METAL_HEADS * op->attn.n;
    case METAL_LINEAR: return linear_floats(plan, t, s);
    case METAL_LINEAR_HC:
    case METAL_FFN_UP:
    case METAL_MOE_UP_EXPERT:
    case METAL_MOE_DOWN:
    case METAL_MOE_DOWN_EXPERT:
    case METAL_MOE_DOWN_SUM: return product_floats(plan, s->n_tok);
    case METAL_ROUTE:
    case METAL_ROUTE_TOKEN:
    case METAL_ROUTE_GROUP: return METAL_AT_SCORE + op->route.n_expert;
    case METAL_MOE_UP: {
        const struct metal_moe_up *a = (const void *)(plan->args + t->at);
        return a->route.k ? METAL_AT_SCORE + a->route.n_expert : product_floats(plan, 1);
    }
    case METAL_EMBED:
    case METAL_HC_MIX:
    case METAL_COMPRESS_RING:
    case METAL_RING_STORE:
    case METAL_NONE:
    case METAL_TASKS: break;
    }
    return 0;
}

uint32_t metal_tg_bytes(const struct metal_plan *plan, const struct metal_plan_task *t,
                        const struct step *s)
{
    uint32_t floats = task_floats(plan, t, s);
    return floats ? (4 * floats + 15) / 16 * 16 : 16;
}

uint32_t metal_count(const struct metal_plan *plan, uint32_t pos, uint32_t n_tok)
{
    struct step_seq q = {.n0 = pos, .n_tok = n_tok, .n_out = 1};
    struct step s = {.n_tok = n_tok, .n_seq = 1, .n_out = 1, .seq = &q};
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        const struct metal_dispatch *d = &plan->d[i];
        bool batched =
            d->task[0].kind == METAL_INDEX_SCORE || d->task[0].kind == METAL_INDEX_TOP;
        uint32_t any = 0;
        for (uint32_t k = 0; k < d->n; k++) {
            any += metal_groups(plan, &d->task[k], &s,
                                MIN(n_tok, (uint32_t)METAL_INDEX_BATCH)) > 0;
        }
        count += any ? (batched ? div_up(n_tok, METAL_INDEX_BATCH) : 1) : 0;
    }
    return count;
}
