/* check.c - the validator of finished programs. Everything a backend may assume is checked here
 * once: handles inside the weight table, operands inside their space, levels that respect every
 * hazard, no two live arena tensors on the same bytes. Shape agreement between ops and weights
 * is what check_mat compares: an opmat states the rows and columns its op will read. */
#include "op/program.h"

#include "base/mem.h"
#include "quant/formats.h"

static int bad(const struct op *op, const struct op_field *f, const char *why, fathom_err *err)
{
    return err_set(err, FATHOM_EINVAL, "program: op %s (layer %d, %s), operand %s: %s",
                   op_name(op->kind), op->layer, op->role ? op->role : "-", f->name, why);
}

static int check_opnd(const struct program *p, const struct op *op, const struct op_field *f,
                      const struct opnd *o, fathom_err *err)
{
    if (o->space == SPACE_NONE) {
        return 0;
    }
    if (o->id >= p->n_tensors) {
        return bad(op, f, "no such tensor", err);
    }
    const struct tensor *t = &p->tensors[o->id];
    if (t->space != o->space || t->form != o->form || t->row_bytes != o->row_bytes) {
        return bad(op, f, "differs from its tensor", err);
    }
    uint64_t limit = o->space == SPACE_ARENA   ? p->arena_bytes
                     : o->space == SPACE_IO    ? p->io_bytes
                     : o->space == SPACE_STATE ? p->slot_bytes
                                               : p->page_bytes;
    if (o->offset < t->offset || o->offset + 1 > t->offset + MAX(t->bytes, (uint64_t)1) ||
        t->offset + t->bytes > limit) {
        return bad(op, f, "lies outside its space", err);
    }
    if (op->level < t->first || op->level > t->last) {
        return bad(op, f, "used outside its live range", err);
    }
    return 0;
}

static int check_mat(const struct program *p, const struct op *op, const struct op_field *f,
                     const struct opmat *m, fathom_err *err)
{
    if (m->w == WEIGHT_NONE) {
        return 0;
    }
    if (m->w >= p->n_weights) {
        return bad(op, f, "no such weight", err);
    }
    const struct op_weight *w = &p->weights[m->w];
    enum qclass cls = qformat(w->type)->cls;
    if (w->rows != m->rows || w->cols != m->cols) {
        return bad(op, f, "weight has another shape", err);
    }
    if (cls != QC_FLOAT && cls != QC_BLOCK) {
        return bad(op, f, "weight type cannot be multiplied", err);
    }
    if (m->act == FORM_A8 && (cls != QC_BLOCK || m->cols % 32 != 0)) {
        return bad(op, f, "A8 input needs a block format and columns in 32s", err);
    }
    return 0;
}

static int check_op(const struct program *p, const struct op *op, fathom_err *err)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    if (!f) {
        return err_set(err, FATHOM_EINVAL, "program: unknown op kind %u", op->kind);
    }
    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)op + f[i].offset;
        int rc = 0;
        switch (f[i].type) {
        case FIELD_OPND: rc = check_opnd(p, op, &f[i], (const struct opnd *)at, err); break;
        case FIELD_MAT: rc = check_mat(p, op, &f[i], (const struct opmat *)at, err); break;
        case FIELD_VEC: {
            uint16_t w = ((const struct opvec *)at)->w;
            if (w != WEIGHT_NONE && w >= p->n_weights) {
                rc = bad(op, &f[i], "no such weight", err);
            }
            break;
        }
        default: break;
        }
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* Two accesses of one tensor, at least one a write, must be in different levels, in list order.
 */
static int check_hazards(const struct program *p, fathom_err *err)
{
    struct {
        uint16_t read, write;
    } *seen = mem_calloc(p->n_tensors, sizeof *seen);
    if (!seen) {
        return err_nomem(err, "program check", p->n_tensors * sizeof *seen);
    }
    int rc = 0;
    for (uint32_t i = 0; i < p->n_ops && rc == 0; i++) {
        const struct op *op = &p->ops[i];
        size_t n;
        const struct op_field *f = op_fields(op->kind, &n);
        for (int pass = 0; pass < 2;
             pass++) { /* compare with earlier ops, then note this one */
            for (size_t j = 0; j < n && rc == 0; j++) {
                const struct opnd *o = op_field_opnd(op, &f[j]);
                if (f[j].type != FIELD_OPND || o->space == SPACE_NONE) {
                    continue;
                }
                if (pass == 0) {
                    if (op->level <= seen[o->id].write ||
                        ((f[j].access & ACCESS_W) && op->level <= seen[o->id].read)) {
                        rc = bad(op, &f[j], "level breaks a hazard", err);
                    }
                    continue;
                }
                if (f[j].access & ACCESS_R) {
                    seen[o->id].read = MAX(seen[o->id].read, op->level);
                }
                if (f[j].access & ACCESS_W) {
                    seen[o->id].write = MAX(seen[o->id].write, op->level);
                }
            }
        }
    }
    mem_free(seen);
    return rc;
}

static int check_overlap(const struct program *p, fathom_err *err)
{
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        const struct tensor *a = &p->tensors[i];
        if (a->space != SPACE_ARENA || a->first == 0) {
            continue;
        }
        for (uint32_t j = i + 1; j < p->n_tensors; j++) {
            const struct tensor *b = &p->tensors[j];
            if (b->space == SPACE_ARENA && b->first != 0 && a->first <= b->last &&
                b->first <= a->last && a->offset < b->offset + b->bytes &&
                b->offset < a->offset + a->bytes) {
                return err_set(err, FATHOM_EINVAL, "program: arena tensors %s and %s overlap",
                               a->name, b->name);
            }
        }
    }
    return 0;
}

int program_check(const struct program *p, fathom_err *err)
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        int rc = check_op(p, &p->ops[i], err);
        if (rc) {
            return rc;
        }
    }
    int rc = check_hazards(p, err);
    return rc ? rc : check_overlap(p, err);
}
