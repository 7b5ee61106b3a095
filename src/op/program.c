/* program.c - the builder (see program.h). Two passes at program_finish:
 *  1. levels: ops in list order; an op's level is one more than the latest conflicting access
 * of any tensor it touches. The list is then sorted by level (stable; the model records it in
 *     an order that already is).
 *  2. arena: every ARENA tensor has a live range [first level, last level]; tensors are placed,
 * the largest first, at the lowest offset where no tensor with an overlapping range lies.
 * Operands keep tensor ids until pass 2 has offsets; views (opnd_cols) add their own. */
#include "op/program.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/act.h"

enum { ROW_ALIGN = 64, MAX_TENSORS = 0xFFFF };

static struct op scratch_op; /* handed out after an allocation failure; content is never used */

struct program *program_new(const struct program_limits *lim, fathom_err *err)
{
    struct program *p = mem_calloc(1, sizeof *p);
    if (!p) {
        err_nomem(err, "program", sizeof *p);
        return NULL;
    }
    p->lim = *lim;
    return p;
}

void program_free(struct program *p)
{
    if (p) {
        mem_free(p->ops);
        mem_free(p->tensors);
        mem_free(p);
    }
}

/* Failed allocations are remembered as cap 0 with a non-zero count; program_finish reports
 * them. */
static bool failed(const struct program *p)
{
    return p->cap_ops == UINT32_MAX;
}

static void fail(struct program *p)
{
    p->cap_ops = UINT32_MAX;
}

static struct tensor *new_tensor(struct program *p)
{
    if (failed(p) || p->n_tensors >= MAX_TENSORS) {
        fail(p);
        return NULL;
    }
    if (p->n_tensors == p->cap_tensors) {
        uint32_t cap = p->cap_tensors ? p->cap_tensors * 2 : 256;
        struct tensor *t = mem_realloc(p->tensors, cap, sizeof *t);
        if (!t) {
            fail(p);
            return NULL;
        }
        p->tensors = t;
        p->cap_tensors = cap;
    }
    struct tensor *t = &p->tensors[p->n_tensors++];
    memset(t, 0, sizeof *t);
    return t;
}

static uint64_t form_bytes(enum op_form form, uint32_t cols)
{
    switch (form) {
    case FORM_F32:
    case FORM_I32: return (uint64_t)cols * 4;
    case FORM_A8: assert(cols % 32 == 0); return act8_row_bytes(cols);
    case FORM_BYTES: return cols;
    }
    return 0;
}

static uint64_t row_total(const struct program *p, enum row_count rows, uint32_t k)
{
    switch (rows) {
    case ROWS_TOK: return p->lim.t_max;
    case ROWS_OUT: return p->lim.out_max;
    case ROWS_PAIR: return (uint64_t)p->lim.t_max * k;
    case ROWS_ONE: return 1;
    case ROWS_SLOT: return p->lim.n_slots;
    }
    return 0;
}

static struct opnd operand_of(const struct program *p, const struct tensor *t)
{
    return (struct opnd){.space = t->space,
                         .form = t->form,
                         .id = (uint16_t)(t - p->tensors),
                         .cols = t->cols,
                         .offset = t->offset,
                         .row_bytes = t->row_bytes};
}

struct opnd program_tensor(struct program *p, const char *name, int layer, enum op_space space,
                           enum op_form form, enum row_count rows, uint32_t cols, uint32_t k)
{
    struct tensor *t = new_tensor(p);
    if (!t) {
        return (struct opnd){0};
    }
    *t = (struct tensor){.name = name,
                         .layer = (int16_t)layer,
                         .space = (uint8_t)space,
                         .form = (uint8_t)form,
                         .rows = (uint8_t)rows,
                         .cols = cols};
    t->row_bytes = align_up(form_bytes(form, cols), ROW_ALIGN);
    t->bytes = t->row_bytes * row_total(p, rows, k);
    return operand_of(p, t);
}

struct opnd program_plane(struct program *p, const char *name, int layer, enum op_space space,
                          enum op_form form, uint32_t cols, uint64_t offset, uint64_t row_bytes,
                          uint64_t bytes)
{
    struct tensor *t = new_tensor(p);
    if (!t) {
        return (struct opnd){0};
    }
    *t = (struct tensor){.name = name,
                         .layer = (int16_t)layer,
                         .space = (uint8_t)space,
                         .form = (uint8_t)form,
                         .rows = ROWS_ONE,
                         .cols = cols,
                         .row_bytes = row_bytes,
                         .bytes = bytes,
                         .offset = offset};
    return operand_of(p, t);
}

struct opnd opnd_cols(struct opnd o, uint32_t col0, uint32_t cols)
{
    assert(o.form == FORM_F32 || o.form == FORM_I32);
    assert(o.space == SPACE_NONE || (uint64_t)col0 + cols <= o.cols);
    o.offset += (uint64_t)col0 * 4; /* relative until the arena is planned */
    o.cols = cols;
    return o;
}

struct op *program_op(struct program *p, enum op_kind kind, int layer, const char *role)
{
    struct op *op = &scratch_op;
    if (!failed(p) && p->n_ops == p->cap_ops) {
        uint32_t cap = p->cap_ops ? p->cap_ops * 2 : 256;
        struct op *ops = mem_realloc(p->ops, cap, sizeof *ops);
        if (ops) {
            p->ops = ops;
            p->cap_ops = cap;
        } else {
            fail(p);
        }
    }
    if (!failed(p)) {
        op = &p->ops[p->n_ops++];
    }
    memset(op, 0, sizeof *op);
    op->kind = (uint8_t)kind;
    op->layer = (int16_t)layer;
    op->role = role;
    size_t n;
    const struct op_field *f = op_fields(kind, &n);
    for (size_t i = 0; i < n; i++) { /* absent weights by default */
        if (f[i].type != FIELD_OPND) {
            uint16_t none = WEIGHT_NONE;
            memcpy((char *)op + f[i].offset, &none, sizeof none);
        }
    }
    return op;
}

/* Latest level that read, and that wrote, each tensor. */
struct access {
    uint16_t read, write;
};

static uint16_t op_level(const struct op *op, const struct access *acc)
{
    uint16_t level = 0;
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    for (size_t i = 0; i < n; i++) {
        const struct opnd *o = op_field_opnd(op, &f[i]);
        if (f[i].type != FIELD_OPND || o->space == SPACE_NONE) {
            continue;
        }
        level = MAX(level, acc[o->id].write);
        if (f[i].access & ACCESS_W) {
            level = MAX(level, acc[o->id].read);
        }
    }
    return (uint16_t)(level + 1);
}

static void note_access(struct program *p, const struct op *op, struct access *acc)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    for (size_t i = 0; i < n; i++) {
        const struct opnd *o = op_field_opnd(op, &f[i]);
        if (f[i].type != FIELD_OPND || o->space == SPACE_NONE) {
            continue;
        }
        struct tensor *t = &p->tensors[o->id];
        if (f[i].access & ACCESS_R) {
            acc[o->id].read = MAX(acc[o->id].read, op->level);
        }
        if (f[i].access & ACCESS_W) {
            acc[o->id].write = MAX(acc[o->id].write, op->level);
        }
        if (t->first == 0) {
            t->first = op->level;
        }
        t->first = MIN(t->first, op->level);
        t->last = MAX(t->last, op->level);
    }
}

static int cmp_level(const void *a, const void *b)
{
    const struct op *x = a, *y = b;
    return x->level < y->level ? -1 : x->level > y->level ? 1 : 0;
}

static int assign_levels(struct program *p, fathom_err *err)
{
    struct access *acc = mem_calloc(p->n_tensors, sizeof *acc);
    if (!acc) {
        return err_nomem(err, "program levels", p->n_tensors * sizeof *acc);
    }
    bool sorted = true;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        struct op *op = &p->ops[i];
        op->level = op_level(op, acc);
        note_access(p, op, acc);
        p->n_levels = MAX(p->n_levels, op->level);
        sorted = sorted && (i == 0 || p->ops[i - 1].level <= op->level);
    }
    mem_free(acc);
    if (!sorted) { /* ops of one level are independent, so any order among them is right */
        qsort(p->ops, p->n_ops, sizeof *p->ops, cmp_level);
    }
    return 0;
}

struct placed {
    uint32_t id;
    uint64_t bytes;
};

static int cmp_bytes(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes > y->bytes ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

/* Lowest offset at which t fits among the n tensors already placed: try 0 and the end of every
 * conflicting one. */
static uint64_t lowest_fit(const struct program *p, const struct placed *pl, uint32_t n,
                           const struct tensor *t)
{
    uint64_t at = 0;
    for (;;) {
        uint64_t next = at;
        for (uint32_t i = 0; i < n; i++) {
            const struct tensor *o = &p->tensors[pl[i].id];
            uint32_t slack = p->lim.live_slack;
            bool alive = o->first <= t->last + slack && t->first <= o->last + slack;
            if (alive && o->offset < at + t->bytes && at < o->offset + o->bytes) {
                next = MAX(next, o->offset + o->bytes);
            }
        }
        if (next == at) {
            return at;
        }
        at = next;
    }
}

static int plan_arena(struct program *p, fathom_err *err)
{
    struct placed *pl = mem_calloc(p->n_tensors, sizeof *pl);
    if (!pl) {
        return err_nomem(err, "arena plan", p->n_tensors * sizeof *pl);
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        struct tensor *t = &p->tensors[i];
        if (t->space == SPACE_ARENA) {
            pl[n++] = (struct placed){i, t->bytes};
        } else if (t->space == SPACE_IO) { /* IO is never reused: the host looks at it later */
            t->offset = p->io_bytes;
            p->io_bytes += t->bytes;
        }
    }
    qsort(pl, n, sizeof *pl, cmp_bytes);
    for (uint32_t i = 0; i < n; i++) {
        struct tensor *t = &p->tensors[pl[i].id];
        t->offset = lowest_fit(p, pl, i, t);
        p->arena_bytes = MAX(p->arena_bytes, t->offset + t->bytes);
    }
    mem_free(pl);
    return 0;
}

static void resolve(const struct program *p, struct opnd *o)
{
    if (o->space == SPACE_ARENA || o->space == SPACE_IO) {
        o->offset += p->tensors[o->id].offset;
    }
}

static void resolve_offsets(struct program *p)
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        size_t n;
        const struct op_field *f = op_fields(p->ops[i].kind, &n);
        for (size_t j = 0; j < n; j++) {
            if (f[j].type == FIELD_OPND) {
                resolve(p, (struct opnd *)((char *)&p->ops[i] + f[j].offset));
            }
        }
    }
    resolve(p, &p->io_logits);
    resolve(p, &p->io_mask);
    resolve(p, &p->io_picks);
    resolve(p, &p->io_picked);
}

int program_finish(struct program *p, fathom_err *err)
{
    if (failed(p)) {
        return err_set(err, FATHOM_ENOMEM, "out of memory while recording the program");
    }
    int rc = assign_levels(p, err);
    rc = rc ? rc : plan_arena(p, err);
    if (rc) {
        return rc;
    }
    resolve_offsets(p);
    return program_check(p, err);
}
