/* plan.c - see plan.h: ops to tasks, folds, dispatches. args.c fills the argument structs. Read
 * next: step.c (what changes from step to step), exec.m. */
#include "backend/metal/plan_int.h"

#include <string.h>

#include "base/mem.h"

/* ---- support ---- */

static bool weight_ok(const struct program *p, const struct opmat *m)
{
    if (m->w == WEIGHT_NONE) {
        return true;
    }
    switch (p->weights[m->w].type) {
    case QT_F32:
    case QT_F16:
    case QT_BF16: return m->act == FORM_F32;
    case QT_Q8_0:
    case QT_Q2_K:
    case QT_Q4_K:
    case QT_Q5_K:
    case QT_Q6_K:
    case QT_IQ2_XXS:
    case QT_MXFP4: return true;
    default: return false;
    }
}

/* Every matrix of the op; products read the form that the kernels have. */
static const char *check_weights(const struct program *p, const struct op *op)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    for (size_t i = 0; i < n; i++) {
        const void *field = (const char *)op + f[i].offset;
        if (f[i].type == FIELD_MAT) {
            const struct opmat *m = field;
            bool product = op->kind != OP_EMBED && op->kind != OP_HC_MIX;
            if (!weight_ok(p, m)) {
                return "a weight type without kernels";
            }
            if (m->w != WEIGHT_NONE && product && m->act == FORM_F32 &&
                qformat(p->weights[m->w].type)->cls != QC_FLOAT) {
                return "block formats are multiplied with A8 activations only";
            }
        } else if (f[i].type == FIELD_VEC) {
            uint16_t w = ((const struct opvec *)field)->w;
            if (w != WEIGHT_NONE && p->weights[w].type != QT_F32 &&
                !(op->kind == OP_ROUTE && p->weights[w].type == QT_I32)) {
                return "vectors must be F32";
            }
        }
    }
    return NULL;
}

static const char *check_sizes(const struct op *op)
{
    switch (op->kind) {
    case OP_HC_MIX: return op->hc_mix.hc > METAL_HC_MAX ? "more than 5 residual streams" : NULL;
    case OP_HC_NORM:
        return op->hc_norm.hc > METAL_HC_MAX ? "more than 5 residual streams" : NULL;
    case OP_HC_HEAD:
        return op->hc_head.hc > METAL_HC_MAX ? "more than 5 residual streams" : NULL;
    case OP_LINEAR_HC:
        return op->linear_hc.hc > METAL_HC_MAX ? "more than 5 residual streams" : NULL;
    case OP_KV_ROW:
        return op->kv_row.geom.n > METAL_HEAD_MAX ? "rows longer than 512 values" : NULL;
    case OP_COMPRESS:
        return op->compress.geom.n > METAL_HEAD_MAX ? "rows longer than 512 values" : NULL;
    case OP_HEAD_FINISH:
        return op->head_finish.n > METAL_HEAD_MAX ? "heads longer than 512 values" : NULL;
    case OP_ATTN:
        if (op->attn.n > METAL_HEAD_MAX || (opnd_is(&op->attn.o_act) && op->attn.n % 32 != 0)) {
            return "heads longer than 512 values, or no multiple of 32";
        }
        return NULL;
    case OP_INDEX_SELECT:
        if (op->index_select.n > METAL_INDEX_N || op->index_select.n % 32 != 0) {
            return "index vectors must have 32, 64, 96 or 128 values";
        }
        return NULL;
    case OP_ROUTE:
        if (op->route.k > METAL_K_MAX || op->route.n_expert > METAL_EXPERTS) {
            return "more than 16 experts a token, or more than 4096 experts";
        }
        return NULL;
    case OP_MOE_DOWN:
        return op->moe_down.hc > METAL_HC_MAX ? "more than 5 residual streams" : NULL;
    default: return NULL;
    }
}

const char *metal_supports(const struct program *p, const struct op *op)
{
    if (op->kind >= OP_KIND_COUNT) {
        return "unknown op";
    }
    const char *why = check_weights(p, op);
    return why ? why : check_sizes(op);
}

/* ---- folds ---- */

static bool same_opnd(const struct opnd *a, const struct opnd *b)
{
    return opnd_is(a) && opnd_is(b) && a->space == b->space && a->offset == b->offset;
}

static const struct opnd *residual_of(const struct op *op)
{
    return op->kind == OP_LINEAR_HC  ? &op->linear_hc.hc_x
           : op->kind == OP_MOE_DOWN ? &op->moe_down.hc_x
                                     : NULL;
}

/* Number of ops after i that read operand o before something writes it. */
static uint32_t n_readers(const struct program *p, uint32_t i, const struct opnd *o)
{
    uint32_t n_read = 0;
    for (uint32_t j = i + 1; opnd_is(o) && j < p->n_ops; j++) {
        size_t n;
        const struct op_field *f = op_fields(p->ops[j].kind, &n);
        bool writes = false;
        for (size_t k = 0; k < n; k++) {
            const struct opnd *x = op_field_opnd(&p->ops[j], &f[k]);
            if (f[k].type == FIELD_OPND && same_opnd(x, o) && x->id == o->id) {
                n_read += (f[k].access & ACCESS_R) != 0;
                writes = writes || (f[k].access & ACCESS_W);
            }
        }
        if (writes) {
            break;
        }
    }
    return n_read;
}

static int next_of_kind(const struct program *p, uint32_t i, enum op_kind kind)
{
    for (uint32_t j = i + 1; j < p->n_ops && p->ops[j].level <= p->ops[i].level + 2; j++) {
        if (p->ops[j].kind == kind) {
            return (int)j;
        }
    }
    return -1;
}

static void fold_mix(struct fold *f, const struct program *p, uint32_t i)
{
    const struct opnd *x = residual_of(&p->ops[i]);
    int j = x ? next_of_kind(p, i, OP_HC_MIX) : -1;
    if (j >= 0) {
        const struct op_hc_mix *m = &p->ops[j].hc_mix;
        uint32_t hc =
            p->ops[i].kind == OP_LINEAR_HC ? p->ops[i].linear_hc.hc : p->ops[i].moe_down.hc;
        if (!m->rows_out && m->hc == hc && same_opnd(&m->x, x)) {
            f[i].mix = j;
            f[j].gone = true;
        }
    }
}

/* A norm with one reader (both its forms), a LINEAR of the next level. */
static void fold_norm(struct fold *f, const struct program *p, uint32_t i)
{
    const struct op_rms_norm *r = &p->ops[i].rms_norm;
    int j = next_of_kind(p, i, OP_LINEAR);
    if (j < 0 || r->n > METAL_NORM_MAX || r->n % 32 != 0 ||
        p->ops[j].level != p->ops[i].level + 1) {
        return;
    }
    const struct op_linear *l = &p->ops[j].linear;
    bool f32 = !opnd_is(&r->y) || same_opnd(&r->y, &l->x);
    bool a8 = !opnd_is(&r->y_act) || same_opnd(&r->y_act, &l->x_act);
    if (f32 && a8 && !l->rows_out && l->groups <= 1 && n_readers(p, i, &r->y) <= 1 &&
        n_readers(p, i, &r->y_act) <= 1) {
        f[j].norm = (int)i;
        f[i].gone = f[i].leaves = true;
    }
}

static void fold_head(struct fold *f, const struct program *p, uint32_t i)
{
    const struct op_head_finish *h = &p->ops[i].head_finish;
    int j = next_of_kind(p, i, h->index ? OP_INDEX_SELECT : OP_ATTN);
    j = j < 0 && !h->index ? next_of_kind(p, i + 1, OP_ATTN) : j;
    if (j < 0 || n_readers(p, i, &h->q) > 1) {
        return;
    }
    const struct opnd *q =
        p->ops[j].kind == OP_ATTN ? &p->ops[j].attn.q : &p->ops[j].index_select.qi;
    if (same_opnd(q, &h->q)) {
        f[j].head = (int)i;
        f[i].gone = true;
    }
}

static void fold_route(struct fold *f, const struct program *p, uint32_t i)
{
    int j = next_of_kind(p, i, OP_MOE_UP);
    if (j >= 0 && same_opnd(&p->ops[j].moe_up.idx, &p->ops[i].route.idx)) {
        f[j].route = (int)i;
        f[i].gone = true;
    }
}

static void find_folds(struct fold *f, const struct program *p)
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        switch (p->ops[i].kind) {
        case OP_LINEAR_HC:
        case OP_MOE_DOWN: fold_mix(f, p, i); break;
        case OP_RMS_NORM: fold_norm(f, p, i); break;
        case OP_HEAD_FINISH: fold_head(f, p, i); break;
        case OP_ROUTE: fold_route(f, p, i); break;
        default: break;
        }
    }
}

/* ---- dispatches ---- */

/* Kinds of an op's tasks: the first runs in the level's first dispatch, the second behind it. */
struct kinds {
    uint8_t first, second;
};
static struct kinds kinds_of(const struct op *op, bool few)
{
    switch ((enum op_kind)op->kind) {
    case OP_EMBED: return (struct kinds){METAL_EMBED, 0};
    case OP_HC_MIX: return (struct kinds){METAL_HC_MIX, 0};
    case OP_HC_NORM: return (struct kinds){METAL_HC_NORM, 0};
    case OP_HC_HEAD: return (struct kinds){METAL_HC_HEAD, 0};
    case OP_LINEAR: return (struct kinds){METAL_LINEAR, 0};
    case OP_RMS_NORM: return (struct kinds){METAL_RMS_NORM, 0};
    case OP_KV_ROW: return (struct kinds){METAL_KV_ROW, 0};
    case OP_COMPRESS:
        return few ? (struct kinds){METAL_COMPRESS, 0}
                   : (struct kinds){METAL_COMPRESS_ROWS, METAL_COMPRESS_RING};
    case OP_HEAD_FINISH: return (struct kinds){METAL_HEAD_FINISH, 0};
    case OP_INDEX_SELECT: return (struct kinds){METAL_INDEX_SCORE, METAL_INDEX_TOP};
    case OP_ATTN: return (struct kinds){METAL_ATTN, few ? METAL_ATTN_MERGE : 0};
    case OP_RING_STORE: return (struct kinds){METAL_RING_STORE, 0};
    case OP_LINEAR_HC: return (struct kinds){METAL_LINEAR_HC, 0};
    case OP_FFN_UP: return (struct kinds){METAL_FFN_UP, 0};
    case OP_ROUTE:
        return few ? (struct kinds){METAL_ROUTE, 0}
                   : (struct kinds){METAL_ROUTE_TOKEN, METAL_ROUTE_GROUP};
    case OP_MOE_UP: return (struct kinds){few ? METAL_MOE_UP : METAL_MOE_UP_EXPERT, 0};
    case OP_MOE_DOWN:
        return few ? (struct kinds){METAL_MOE_DOWN, 0}
                   : (struct kinds){METAL_MOE_DOWN_EXPERT, METAL_MOE_DOWN_SUM};
    case OP_PICK: return (struct kinds){METAL_PICK, 0};
    case OP_KIND_COUNT: break;
    }
    return (struct kinds){0, 0};
}

static struct metal_dispatch *dispatch_new(struct builder *b, bool barrier)
{
    struct metal_plan *m = b->plan;
    if (m->n == m->cap) {
        uint32_t cap = m->cap ? 2 * m->cap : 256;
        struct metal_dispatch *d = mem_realloc(m->d, cap, sizeof *d);
        if (!d) {
            b->failed = true;
            return &b->spare;
        }
        m->d = d;
        m->cap = cap;
    }
    m->d[m->n] = (struct metal_dispatch){.barrier = barrier};
    return &m->d[m->n++];
}

static uint64_t types_of(const struct program *p, const struct op *op)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    uint64_t types = 0;
    for (size_t i = 0; i < n; i++) {
        const struct opmat *m = (const void *)((const char *)op + f[i].offset);
        if (f[i].type == FIELD_MAT && m->w != WEIGHT_NONE) {
            types |= 1ull << p->weights[m->w].type;
        }
    }
    return types;
}

/* INDEX_SELECT runs alone: many tokens go through its two dispatches in batches. */
static bool is_index(uint8_t kind)
{
    return kind == METAL_INDEX_SCORE || kind == METAL_INDEX_TOP;
}

/* Adds a task to the dispatches from `first` on; a new one when they are full. */
static void add_task(struct builder *b, uint32_t first, uint8_t kind, uint32_t op, uint32_t at)
{
    struct metal_plan *m = b->plan;
    struct metal_dispatch *d = m->n > first ? &m->d[m->n - 1] : dispatch_new(b, true);
    if (d->n == METAL_SLOTS || (d->n > 0 && (is_index(kind) || is_index(d->task[0].kind)))) {
        d = dispatch_new(b, false); /* the same level: no barrier between */
    }
    d->task[d->n++] = (struct metal_plan_task){kind, op, at};
    d->types |= types_of(m->p, &m->p->ops[op]);
    if (b->fold[op].mix >= 0) {
        d->types |= types_of(m->p, &m->p->ops[b->fold[op].mix]);
    }
}

/* The ops [i, end) of one level, and those left over from the level before. */
static void add_level(struct builder *b, uint32_t i, uint32_t end, const uint32_t *left,
                      uint32_t n_left)
{
    const struct program *p = b->plan->p;
    uint32_t first = b->plan->n, at[64], n = 0;
    uint8_t second[64];
    uint32_t ops[64];
    for (uint32_t k = 0; k < n_left + (end - i); k++) {
        uint32_t op = k < n_left ? left[k] : i + (k - n_left);
        if (b->fold[op].gone || n == 64) {
            b->failed = b->failed || n == 64;
            continue;
        }
        struct kinds kinds = kinds_of(&p->ops[op], b->few);
        ops[n] = op;
        second[n] = kinds.second;
        at[n] = metal_args(b, op);
        add_task(b, first, kinds.first, op, at[n++]);
    }
    uint32_t behind = b->plan->n;
    for (uint32_t k = 0; k < n; k++) {
        if (second[k]) {
            add_task(b, behind, second[k], ops[k], at[k]);
        }
    }
}

static void build(struct builder *b)
{
    const struct program *p = b->plan->p;
    uint32_t left[64], n_left = 0;
    int16_t layer = -2;
    for (uint32_t i = 0, end; i < p->n_ops; i = end) {
        bool leaves = false;
        uint32_t alive = 0, before = b->plan->n;
        for (end = i; end < p->n_ops && p->ops[end].level == p->ops[i].level; end++) {
            leaves = leaves || b->fold[end].leaves;
            alive += !b->fold[end].gone;
        }
        b->scratch = 0;
        if (leaves &&
            n_left + alive <= 64) { /* the others move to the next level, beside the product */
            for (uint32_t k = i; k < end; k++) {
                if (!b->fold[k].gone) {
                    left[n_left++] = k;
                }
            }
            continue;
        }
        add_level(b, i, end, left, n_left);
        n_left = 0;
        if (b->plan->n > before && p->ops[i].layer != layer) {
            b->plan->d[before].layer = true;
            layer = p->ops[i].layer;
        }
    }
    if (n_left) {
        add_level(b, 0, 0, left, n_left);
    }
}

int metal_plan_make(struct metal_plan *out, const struct program *p,
                    const struct metal_plan_options *o, fathom_err *err)
{
    *out = (struct metal_plan){.p = p, .few = o->few};
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const char *why = metal_supports(p, &p->ops[i]);
        if (why) {
            return err_set(err, FATHOM_EUNSUPPORTED, "metal: op %s (layer %d): %s",
                           op_name(p->ops[i].kind), p->ops[i].layer, why);
        }
    }
    struct builder b = {.plan = out, .few = o->few, .place = o->place};
    b.fold = mem_calloc(p->n_ops + 1, sizeof *b.fold);
    if (!b.fold) {
        return err_nomem(err, "metal plan", p->n_ops * sizeof *b.fold);
    }
    for (uint32_t i = 0; i < p->n_ops; i++) {
        b.fold[i] = (struct fold){.mix = -1, .norm = -1, .head = -1, .route = -1};
    }
    if (o->few && o->folds && p->lim.live_slack > 0) {
        find_folds(b.fold, p);
    }
    build(&b);
    mem_free(b.fold);
    if (b.failed) {
        metal_plan_free(out);
        return err_nomem(err, "metal plan", p->n_ops * sizeof(struct metal_dispatch));
    }
    return 0;
}

void metal_plan_free(struct metal_plan *plan)
{
    mem_free(plan->d);
    mem_free(plan->args);
    *plan = (struct metal_plan){0};
}
