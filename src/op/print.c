/* print.c - the listing of a program, as EXPLAIN is for a query: one line an op with level,
 * layer, role, weights and result, then counts by kind and by layer group. `fathom explain`
 * prints it and a golden test pins it, so a change of the recorded program is always seen. */
#include "op/program.h"

#include <string.h>

#include "base/mem.h"
#include "quant/formats.h"

static void print_mat(struct buf *out, const struct program *p, const struct opmat *m)
{
    const struct op_weight *w = &p->weights[m->w];
    buf_addf(out, " %s:%s[", w->name, qformat(w->type)->name);
    if (w->n_mat > 1) {
        buf_addf(out, "%ux", w->n_mat);
    }
    buf_addf(out, "%ux%u]%s", m->rows, m->cols, m->act == FORM_A8 ? "/a8" : "");
}

static void print_opnd(struct buf *out, const struct program *p, const struct op_field *f,
                       const struct opnd *o)
{
    static const char *const space[] = {"-", "arena", "state", "page", "io"};
    static const char *const form[] = {"f32", "a8", "i32", "bytes"};
    static const char *const acc[] = {"", "r", "w", "rw"};
    buf_addf(out, "        %-2s %-12s %-12s %s[%u] %s+%llu stride %llu\n", acc[f->access],
             f->name, p->tensors[o->id].name, form[o->form], o->cols, space[o->space],
             (unsigned long long)o->offset, (unsigned long long)o->row_bytes);
}

static void print_op(struct buf *out, const struct program *p, const struct op *op,
                     bool operands)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    buf_addf(out, "%5u  ", op->level);
    if (op->layer >= 0) {
        buf_addf(out, "L%-3d ", op->layer);
    } else {
        buf_adds(out, "-    ");
    }
    buf_addf(out, "%-13s %-6s", op_name(op->kind), op->role ? op->role : "");
    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)op + f[i].offset;
        if (f[i].type == FIELD_MAT && ((const struct opmat *)at)->w != WEIGHT_NONE) {
            print_mat(out, p, (const struct opmat *)at);
        }
    }
    const char *arrow = " ->";
    const char *last = "";
    for (size_t i = 0; i < n; i++) {
        const struct opnd *o = op_field_opnd(op, &f[i]);
        if (f[i].type == FIELD_OPND && o->space != SPACE_NONE && (f[i].access & ACCESS_W) &&
            strcmp(p->tensors[o->id].name, last) != 0) {
            last = p->tensors[o->id].name;
            buf_addf(out, "%s %s", arrow, last);
            arrow = ",";
        }
    }
    buf_addc(out, '\n');
    for (size_t i = 0; i < n && operands; i++) {
        const struct opnd *o = op_field_opnd(op, &f[i]);
        if (f[i].type == FIELD_OPND && o->space != SPACE_NONE) {
            print_opnd(out, p, &f[i], o);
        }
    }
}

/* Is this the first layer with its list of op kinds? (layer -2: one of each kind) */
static bool first_of_kind(const struct program *p, int layer)
{
    uint64_t sig[2] = {0, 0};
    for (int pass = 0; pass < 2; pass++) {
        int l = -1;
        for (uint32_t i = 0; i < p->n_ops; i++) {
            const struct op *op = &p->ops[i];
            if (op->layer < 0 || (pass == 0 ? op->layer != layer : op->layer >= layer)) {
                continue;
            }
            if (op->layer != l) {
                if (pass == 1 && l >= 0 && sig[1] == sig[0]) {
                    return false;
                }
                l = op->layer;
                sig[pass] = 0;
            }
            sig[pass] = sig[pass] * 31 + op->kind + 1;
        }
        if (pass == 1 && l >= 0 && sig[1] == sig[0]) {
            return false;
        }
    }
    return true;
}

static bool wanted(const struct program *p, const struct program_print_options *opt, int layer)
{
    if (opt->layer >= 0) {
        return layer == opt->layer;
    }
    return opt->layer == -1 || layer < 0 || first_of_kind(p, layer);
}

void program_print(struct buf *out, const struct program *p,
                   const struct program_print_options *opt)
{
    uint32_t count[OP_KIND_COUNT] = {0};
    int last_layer = -3;
    bool show = true;
    buf_adds(out, "level  layer op           role   weights -> results\n");
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        count[op->kind]++;
        if (op->layer != last_layer) {
            last_layer = op->layer;
            show = wanted(p, opt, op->layer);
        }
        if (show) {
            print_op(out, p, op, opt->operands);
        }
    }
    buf_addf(out, "\n%u ops, %u levels\n", p->n_ops, p->n_levels);
    for (int k = 0; k < OP_KIND_COUNT; k++) {
        if (count[k]) {
            buf_addf(out, "  %-13s %u\n", op_name((enum op_kind)k), count[k]);
        }
    }
    buf_addf(
        out,
        "class: up to %u tokens, %u logits rows, %u sequences\n"
        "arena %llu bytes, io %llu bytes, state slot %llu bytes, page %llu bytes (%u tokens)\n",
        p->lim.t_max, p->lim.out_max, p->lim.seq_max, (unsigned long long)p->arena_bytes,
        (unsigned long long)p->io_bytes, (unsigned long long)p->slot_bytes,
        (unsigned long long)p->page_bytes, p->page_tokens);
}
