/* bench_bytes.c - how many bytes a decode step has to read, and how much arithmetic a prompt
 * token's products are, counted over the recorded program and its weights, so that it holds for
 * any file and any mix of types. Writes and activations are not counted: they stay in the
 * caches. */
#include "cmd/bench.h"

#include "base/mem.h"
#include "quant/formats.h"

/* Matrices of a weight that one token uses. */
static uint64_t n_used(const struct op *op, const struct op_weight *w)
{
    return w->n_mat == 1 ? 1 : op->kind == OP_MOE_UP ? op->moe_up.k : op->moe_down.k;
}

static uint64_t mat_bytes(const struct program *p, const struct op *op, const struct opmat *m)
{
    if (m->w == WEIGHT_NONE) {
        return 0;
    }
    const struct op_weight *w = &p->weights[m->w];
    return op->kind == OP_EMBED ? w->row_bytes : n_used(op, w) * w->rows * w->row_bytes;
}

static uint64_t vec_bytes(const struct program *p, const struct op *op, const struct opvec *v)
{
    if (v->w == WEIGHT_NONE) {
        return 0;
    }
    const struct op_weight *w = &p->weights[v->w];
    bool table = op->kind == OP_ROUTE && v == &op->route.table;
    return table ? w->row_bytes : w->bytes;
}

/* Cache rows that an op attends to at a position. */
static uint64_t row_bytes(const struct op *op, uint32_t pos)
{
    if (op->kind == OP_INDEX_SELECT) {
        const struct op_index_select *o = &op->index_select;
        uint64_t n = ((uint64_t)pos + 1) / o->ratio;
        return n > o->k_sel ? n * (o->geom.code_bytes + o->geom.scale_bytes) : 0;
    }
    if (op->kind == OP_ATTN) {
        const struct op_attn *o = &op->attn;
        uint64_t n = MIN(pos + 1, o->window);
        if (o->ratio) {
            uint64_t seen = ((uint64_t)pos + 1) / o->ratio;
            n += o->sel.space == SPACE_NONE ? seen : MIN(seen, (uint64_t)o->sel.cols);
        }
        return n * (o->geom.code_bytes + o->geom.scale_bytes);
    }
    return 0;
}

static uint64_t op_bytes(const struct program *p, const struct op *op, uint32_t pos)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    uint64_t sum = row_bytes(op, pos);
    for (size_t k = 0; k < n; k++) {
        const void *at = (const char *)op + f[k].offset;
        sum += f[k].type == FIELD_MAT   ? mat_bytes(p, op, at)
               : f[k].type == FIELD_VEC ? vec_bytes(p, op, at)
                                        : 0;
    }
    return sum;
}

uint64_t bench_layer_bytes(const struct program *p, int layer, uint32_t pos)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        sum += p->ops[i].layer == layer ? op_bytes(p, &p->ops[i], pos) : 0;
    }
    return sum;
}

void bench_op_bytes(const struct program *p, uint32_t pos, uint64_t bytes[OP_KIND_COUNT])
{
    memset(bytes, 0, OP_KIND_COUNT * sizeof *bytes);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        bytes[p->ops[i].kind] += op_bytes(p, &p->ops[i], pos);
    }
}

void bench_op_flop(const struct program *p, const struct op *op, double flop[2])
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    flop[0] = flop[1] = 0;
    for (size_t k = 0; k < n; k++) {
        const struct opmat *m = (const void *)((const char *)op + f[k].offset);
        if (f[k].type == FIELD_MAT && m->w != WEIGHT_NONE) {
            const struct op_weight *w = &p->weights[m->w];
            bool block = qformat(w->type)->cls == QC_BLOCK;
            flop[block ? BENCH_BLOCK : BENCH_FLOAT] +=
                2.0 * (double)n_used(op, w) * w->rows * w->cols;
        }
    }
}
