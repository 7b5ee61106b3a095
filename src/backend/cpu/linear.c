/* linear.c - LINEAR, LINEAR_HC, FFN_UP (op.h): dense products and what follows them.
 *
 * Rows are cut into blocks of 32, which is also the A8 block, so the worker that has the sums
 * of a block can finish it: write floats, write the 8-bit form, apply SwiGLU, or update the
 * residual streams. Where a block crosses the border of a row group (narrow groups of wo_a), it
 * is multiplied in segments, one per group. Read next: moe.c. */
#include <string.h>

#include "backend/cpu/prod.h"

static uint32_t blocks_of(uint32_t rows)
{
    return (rows + KERN_ROWS - 1) / KERN_ROWS;
}

/* ---- LINEAR ---- */

static uint32_t linear_groups(const struct op_linear *o)
{
    return o->groups > 1 ? o->groups : 1;
}

/* Block b of the op: its part and rows. */
struct linear_block {
    uint32_t part, r0, n_row;
};

static struct linear_block linear_block(const struct op_linear *o, uint32_t b)
{
    uint32_t part = 0;
    while (b >= blocks_of(o->part[part].w.rows)) {
        b -= blocks_of(o->part[part++].w.rows);
    }
    uint32_t r0 = b * KERN_ROWS;
    return (struct linear_block){
        .part = part, .r0 = r0, .n_row = MIN(o->part[part].w.rows - r0, (uint32_t)KERN_ROWS)};
}

/* The products of a block to out[0]. The rows of a group read columns of their own; segments go
 * through out[1], because kernels may write whole blocks. */
static void linear_products(struct prod_x *px, const struct op_linear *o,
                            const struct linear_block *lb, struct prod_tmp *tmp)
{
    const struct opmat *m = &o->part[lb->part].w;
    uint32_t group_rows = m->rows / linear_groups(o), r = 0;
    while (r < lb->n_row) {
        uint32_t at = lb->r0 + r, g = at / group_rows;
        uint32_t n = MIN(lb->n_row - r, (g + 1) * group_rows - at);
        bool whole = n == lb->n_row;
        prod_block(px, m, 0, at, n, g * m->cols, tmp->out[whole ? 0 : 1]);
        for (uint32_t t = 0; !whole && t < px->n; t++) {
            copy_floats(tmp->out[0][t] + r, tmp->out[1][t], n);
        }
        r += n;
    }
}

static void linear_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    const struct op_linear *o = &op->linear;
    uint32_t rows = o->rows_out ? e->p->lim.out_max : e->p->lim.t_max, cols = 0, acts = 0;
    for (uint32_t p = 0; p < o->n_part; p++) {
        cols = MAX(cols, o->part[p].w.cols);
        acts |= prod_act(&o->part[p].w);
    }
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, c, rows, cols, acts);
}

static void linear_item(struct worker *w, const struct op_linear *o, struct prod_tmp *tmp,
                        const struct prod_item *it, struct prod_x *px)
{
    static const struct opnd none;
    prod_x_set(px, w, tmp, &o->x, &o->x_act, NULL, it->t0, it->n_tok);
    for (uint32_t b = it->b0; b < it->b1; b++) {
        struct linear_block lb = linear_block(o, b);
        linear_products(px, o, &lb, tmp);
        out_block(w, &o->part[lb.part].y, lb.part == 0 ? &o->y_act : &none, NULL, it->t0,
                  it->n_tok, lb.r0, tmp->out[0], lb.n_row);
    }
}

static void linear_run(struct worker *w, const struct op *op)
{
    const struct op_linear *o = &op->linear;
    uint32_t rows = step_rows(w->s, o->rows_out), cols = 0, acts = 0, n_block = 0;
    for (uint32_t p = 0; p < o->n_part; p++) {
        cols = MAX(cols, o->part[p].w.cols);
        acts |= prod_act(&o->part[p].w);
        n_block += blocks_of(o->part[p].w.rows);
    }
    struct carve c = {.base = w->mem};
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, &c, o->rows_out ? w->e->p->lim.out_max : w->e->p->lim.t_max, cols,
                  acts);
    struct prod_x px = {0};
    struct prod_grid g = prod_grid_make(w, rows, n_block, cols);
    struct share sh = share_make(w, 0, g.n_item);
    for (uint32_t i; share_next(&sh, &i);) {
        struct prod_item it = prod_grid_item(&g, i);
        linear_item(w, o, &tmp, &it, &px);
    }
}

static const char *linear_supports(const struct program *p, const struct op *op)
{
    const struct op_linear *o = &op->linear;
    uint32_t groups = linear_groups(o);
    if (o->n_part == 0 || o->n_part > OP_LINEAR_PARTS || (groups > 1 && o->n_part != 1)) {
        return "number of parts";
    }
    for (uint32_t i = 0; i < o->n_part; i++) {
        const char *why = prod_supports(p, &o->part[i].w);
        if (why) {
            return why;
        }
    }
    uint32_t rows = o->part[0].w.rows;
    if (rows == 0 || rows % groups != 0) {
        return "rows must divide into the groups";
    }
    if (opnd_present(&o->y_act) && rows % KERN_ROWS != 0) {
        return "rows must be a multiple of 32 for 8-bit output";
    }
    return NULL;
}

const struct cpu_op cpu_linear = {
    .run = linear_run, .private_scratch = linear_scratch, .supports = linear_supports};

/* ---- LINEAR_HC ---- */

static void linear_hc_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, c, e->p->lim.t_max, op->linear_hc.w.cols, prod_act(&op->linear_hc.w));
}

static void linear_hc_run(struct worker *w, const struct op *op)
{
    const struct op_linear_hc *o = &op->linear_hc;
    struct carve c = {.base = w->mem};
    const struct streams s = {&o->hc_x, &o->post, &o->comb, o->hc, o->d};
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, &c, w->e->p->lim.t_max, o->w.cols, prod_act(&o->w));
    struct prod_x px = {0};
    struct prod_grid g = prod_grid_make(w, w->s->n_tok, blocks_of(o->d), o->w.cols);
    struct share sh = share_make(w, 0, g.n_item);
    for (uint32_t i; share_next(&sh, &i);) {
        struct prod_item it = prod_grid_item(&g, i);
        prod_x_set(&px, w, &tmp, &o->x, &o->x_act, NULL, it.t0, it.n_tok);
        for (uint32_t b = it.b0; b < it.b1; b++) {
            uint32_t r0 = b * KERN_ROWS, n = MIN(o->d - r0, (uint32_t)KERN_ROWS);
            prod_block(&px, &o->w, 0, r0, n, 0, tmp.out[0]);
            stream_update(w, &s, it.t0, it.n_tok, r0, n, tmp.out[0][0], KERN_ROWS);
        }
    }
}

static const char *linear_hc_supports(const struct program *p, const struct op *op)
{
    return op->linear_hc.hc > CPU_HC_MAX ? "more than 16 residual streams"
                                         : prod_supports(p, &op->linear_hc.w);
}

const struct cpu_op cpu_linear_hc = {
    .run = linear_hc_run, .private_scratch = linear_hc_scratch, .supports = linear_hc_supports};

/* ---- FFN_UP ---- */

static void ffn_up_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    const struct op_ffn_up *o = &op->ffn_up;
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, c, e->p->lim.t_max, MAX(o->w1.cols, o->w3.cols),
                  prod_act(&o->w1) | prod_act(&o->w3));
}

static void ffn_up_run(struct worker *w, const struct op *op)
{
    const struct op_ffn_up *o = &op->ffn_up;
    struct carve c = {.base = w->mem};
    struct prod_tmp tmp;
    prod_tmp_take(&tmp, &c, w->e->p->lim.t_max, MAX(o->w1.cols, o->w3.cols),
                  prod_act(&o->w1) | prod_act(&o->w3));
    struct prod_x px = {0};
    struct prod_grid g = prod_grid_make(w, w->s->n_tok, blocks_of(o->f), o->w1.cols);
    struct share sh = share_make(w, 0, g.n_item);
    for (uint32_t i; share_next(&sh, &i);) {
        struct prod_item it = prod_grid_item(&g, i);
        prod_x_set(&px, w, &tmp, &o->x, &o->x_act, NULL, it.t0, it.n_tok);
        for (uint32_t b = it.b0; b < it.b1; b++) {
            uint32_t r0 = b * KERN_ROWS, n = MIN(o->f - r0, (uint32_t)KERN_ROWS);
            prod_block(&px, &o->w1, 0, r0, n, 0, tmp.out[0]);
            prod_block(&px, &o->w3, 0, r0, n, 0, tmp.out[1]);
            for (uint32_t t = 0; t < it.n_tok; t++) {
                w->k->swiglu(tmp.out[0][t], tmp.out[1][t], n, o->lim, NULL);
            }
            out_block(w, &o->h, &o->h_act, NULL, it.t0, it.n_tok, r0, tmp.out[0], n);
        }
    }
}

static const char *ffn_up_supports(const struct program *p, const struct op *op)
{
    const char *why = prod_supports(p, &op->ffn_up.w1);
    return why ? why : prod_supports(p, &op->ffn_up.w3);
}

const struct cpu_op cpu_ffn_up = {
    .run = ffn_up_run, .private_scratch = ffn_up_scratch, .supports = ffn_up_supports};
