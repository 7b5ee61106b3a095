/* ref.c - the reference backend: what every other one is measured against.
 *
 * It executes the recorded list literally: one plain function an op, in list order, one thread,
 * double arithmetic, no folding, no repacking. Weights stay where they are and are decoded a
 * row at a time. Scratch is sized from the program when it is compiled, so a step allocates
 * nothing. It is slow, and meant to be read: the whole of the model's arithmetic is in this
 * folder. Read next: ref_int.h (shared pieces), then linear.c, hc.c, attn.c, compress.c,
 * index.c, moe.c, pick.c; the definitions they follow stand in op/op.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/ref/ref_int.h"
#include "base/clock.h"
#include "base/mem.h"

struct device {
    const struct op_weight *weights;
    uint32_t n_weights;
    struct backend_trace trace;
};

static ref_op *const OPS[OP_KIND_COUNT] = {
    [OP_EMBED] = ref_embed,
    [OP_HC_MIX] = ref_hc_mix,
    [OP_HC_NORM] = ref_hc_norm,
    [OP_HC_HEAD] = ref_hc_head,
    [OP_LINEAR] = ref_linear,
    [OP_RMS_NORM] = ref_rms_norm_op,
    [OP_KV_ROW] = ref_kv_row,
    [OP_COMPRESS] = ref_compress,
    [OP_HEAD_FINISH] = ref_head_finish,
    [OP_INDEX_SELECT] = ref_index_select,
    [OP_ATTN] = ref_attn,
    [OP_RING_STORE] = ref_ring_store,
    [OP_LINEAR_HC] = ref_linear_hc,
    [OP_FFN_UP] = ref_ffn_up,
    [OP_ROUTE] = ref_route,
    [OP_MOE_UP] = ref_moe_up,
    [OP_MOE_DOWN] = ref_moe_down,
    [OP_PICK] = ref_pick,
};

/* ---- device ---- */

static int ref_probe(struct backend_info *out, fathom_err *err)
{
    (void)err;
    *out = (struct backend_info){.available = true, .n_units = 1};
    snprintf(out->device_name, sizeof out->device_name, "reference (plain C, double)");
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page_bytes > 0) {
        out->memory_bytes = (uint64_t)pages * (uint64_t)page_bytes;
    }
    return 0;
}

static int ref_open(struct device **out, const struct backend_config *cfg, fathom_err *err)
{
    (void)cfg; /* one thread, whatever was asked for */
    *out = mem_calloc(1, sizeof **out);
    return *out ? 0 : err_nomem(err, "device", sizeof **out);
}

static void ref_close(struct device *dev)
{
    mem_free(dev);
}

static void ref_caps(const struct device *dev, struct backend_caps *out)
{
    (void)dev;
    *out = (struct backend_caps){
        .host_visible = true, .picked = true, .t_max = 64, .row_align = 64};
    snprintf(out->arith_class, sizeof out->arith_class, "ref/1");
}

static int ref_weights_load(struct device *dev, const struct op_weight *weights, uint32_t n,
                            fathom_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!weights[i].data) {
            return err_set(err, FATHOM_EINVAL, "weight %s has no data",
                           weights[i].name ? weights[i].name : "?");
        }
    }
    dev->weights = weights;
    dev->n_weights = n;
    return 0;
}

static void ref_weights_free(struct device *dev)
{
    dev->weights = NULL;
    dev->n_weights = 0;
}

/* ---- compile ---- */

static const char *check_weight(const struct program *p, const struct op *op,
                                const struct op_field *f)
{
    const char *at = (const char *)op + f->offset;
    if (f->type == FIELD_MAT) {
        const struct opmat *m = (const struct opmat *)at;
        enum qclass cls = m->w < p->n_weights ? qformat(p->weights[m->w].type)->cls : QC_NONE;
        if (m->w != WEIGHT_NONE && cls != QC_FLOAT && cls != QC_BLOCK) {
            return "a matrix of this type cannot be decoded";
        }
    }
    if (f->type == FIELD_VEC) {
        uint16_t w = ((const struct opvec *)at)->w;
        uint32_t type = w < p->n_weights ? p->weights[w].type : QT_COUNT;
        if (w != WEIGHT_NONE && type != QT_F32 && !(op->kind == OP_ROUTE && type == QT_I32)) {
            return "vectors must be F32";
        }
    }
    return NULL;
}

static const char *ref_supports(const struct device *dev, const struct program *p,
                                const struct op *op)
{
    (void)dev;
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    if (!f) {
        return "unknown op";
    }
    for (size_t i = 0; i < n; i++) {
        const char *why = check_weight(p, op, &f[i]);
        if (why) {
            return why;
        }
    }
    uint32_t hc = op->kind == OP_HC_NORM     ? op->hc_norm.hc
                  : op->kind == OP_HC_HEAD   ? op->hc_head.hc
                  : op->kind == OP_LINEAR_HC ? op->linear_hc.hc
                  : op->kind == OP_MOE_DOWN  ? op->moe_down.hc
                                             : 0;
    return hc > REF_HC_MAX ? "more than 16 residual streams" : NULL;
}

/* Elements of each scratch array that some op needs. */
struct need {
    size_t cols, row, spill, part, score, order, kv, acc, den;
};

static void need_common(struct need *n, const struct program *p, const struct op *op)
{
    size_t n_fields, rows = MAX(p->lim.t_max, p->lim.out_max);
    const struct op_field *f = op_fields(op->kind, &n_fields);
    if (op->kind == OP_MOE_UP) {
        rows *= op->moe_up.k;
    }
    for (size_t i = 0; i < n_fields; i++) {
        if (f[i].type == FIELD_MAT) {
            const struct opmat *m = (const struct opmat *)((const char *)op + f[i].offset);
            n->cols = MAX(n->cols, m->w == WEIGHT_NONE ? 0 : m->cols);
        } else if (f[i].type == FIELD_OPND && (f[i].access & ACCESS_W)) {
            const struct opnd *o = op_field_opnd(op, &f[i]);
            n->spill = MAX(n->spill, o->form == FORM_A8 ? rows * o->cols : 0);
        }
    }
}

static void need_of(struct need *n, const struct program *p, const struct op *op)
{
    need_common(n, p, op);
    size_t row = 0, score = 0, order = 0, kv = 0, acc = 0;
    switch (op->kind) {
    case OP_HC_NORM: row = op->hc_norm.d; break;
    case OP_HC_HEAD: row = op->hc_head.d; break;
    case OP_RMS_NORM: row = op->rms_norm.n; break;
    case OP_KV_ROW: row = op->kv_row.geom.n; break;
    case OP_HEAD_FINISH: row = op->head_finish.n; break;
    case OP_COMPRESS:
        row = op->compress.geom.n;
        acc = 2 * row;
        break;
    case OP_INDEX_SELECT:
        score = p->lim.max_ctx / op->index_select.ratio + 1;
        kv = op->index_select.n;
        break;
    case OP_ATTN:
        row = op->attn.n;
        kv = (size_t)REF_SPLIT * op->attn.n;
        acc = (size_t)op->attn.heads * op->attn.n;
        n->den = MAX(n->den, (size_t)2 * op->attn.heads);
        break;
    case OP_ROUTE: score = order = op->route.n_expert; break;
    case OP_MOE_DOWN: n->part = MAX(n->part, (size_t)p->lim.t_max * op->moe_down.k); break;
    case OP_PICK: score = order = op->pick.vocab; break;
    default: break;
    }
    n->row = MAX(n->row, row);
    n->score = MAX(n->score, score);
    n->order = MAX(n->order, order);
    n->kv = MAX(n->kv, kv);
    n->acc = MAX(n->acc, acc);
}

static void scratch_free(struct ref_scratch *t)
{
    mem_free(t->w[0]);
    mem_free(t->w[1]);
    mem_free(t->row);
    mem_free(t->rounded);
    mem_free(t->spill);
    mem_free(t->part);
    mem_free(t->score);
    mem_free(t->order);
    mem_free(t->kv);
    mem_free(t->acc);
    mem_free(t->den);
    *t = (struct ref_scratch){0};
}

static int scratch_alloc(struct ref_scratch *t, const struct need *n, fathom_err *err)
{
    t->w[0] = mem_calloc(n->cols, sizeof(float));
    t->w[1] = mem_calloc(n->cols, sizeof(float));
    t->row = mem_calloc(n->row, sizeof(double));
    t->rounded = mem_calloc(n->row, sizeof(float));
    t->spill = mem_calloc(n->spill, sizeof(float));
    t->part = mem_calloc(n->part, sizeof(double));
    t->score = mem_calloc(n->score, sizeof(double));
    t->order = mem_calloc(n->order, sizeof(uint32_t));
    t->kv = mem_calloc(n->kv, sizeof(float));
    t->acc = mem_calloc(n->acc, sizeof(double));
    t->den = mem_calloc(n->den, sizeof(double));
    if (!t->w[0] || !t->w[1] || !t->row || !t->rounded || !t->spill || !t->part || !t->score ||
        !t->order || !t->kv || !t->acc || !t->den) {
        scratch_free(t);
        return err_nomem(err, "scratch", n->spill * sizeof(float));
    }
    return 0;
}

static void ref_exec_free(struct device *dev, struct exec *e)
{
    (void)dev;
    if (e) {
        host_step_fini(&e->step);
        scratch_free(&e->tmp);
        mem_free(e);
    }
}

static int ref_compile(struct device *dev, struct exec **out, const struct program *p,
                       const struct exec_bind *bind, fathom_err *err)
{
    if (p->weights != dev->weights || p->n_weights > dev->n_weights) {
        return err_set(err, FATHOM_EINVAL, "the program's weights are not loaded");
    }
    struct need need = {0};
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const char *why = ref_supports(dev, p, &p->ops[i]);
        if (why) {
            return err_set(err, FATHOM_EUNSUPPORTED, "op %s of layer %d: %s",
                           op_name(p->ops[i].kind), p->ops[i].layer, why);
        }
        need_of(&need, p, &p->ops[i]);
    }
    struct exec *e = mem_calloc(1, sizeof *e);
    if (!e) {
        return err_nomem(err, "compiled program", sizeof *e);
    }
    e->p = p;
    int rc = host_bind_make(&e->h, p, bind, err);
    rc = rc ? rc : host_step_init(&e->step, p, err);
    rc = rc ? rc : scratch_alloc(&e->tmp, &need, err);
    if (rc) {
        ref_exec_free(dev, e);
        return rc;
    }
    *out = e;
    return 0;
}

/* ---- run ---- */

static int ref_submit(struct device *dev, struct exec *e, const struct step *s, fathom_err *err)
{
    int rc = host_step_load(&e->step, &e->h, s, err);
    if (rc) {
        return rc;
    }
    for (uint32_t i = 0; i < e->p->n_ops; i++) {
        const struct op *op = &e->p->ops[i];
        bool traced = (dev->trace.kinds >> op->kind & 1u) != 0;
        double t0 = traced ? clock_now() : 0;
        OPS[op->kind](e, op);
        if (traced) {
            dev->trace.fn(dev->trace.user, op, &e->step.s, clock_now() - t0);
        }
    }
    return 0;
}

static int ref_wait(struct device *dev, fathom_err *err)
{
    (void)dev;
    (void)err;
    return 0; /* submit has finished the step */
}

static void ref_trace(struct device *dev, const struct backend_trace *t)
{
    dev->trace = t && t->fn ? *t : (struct backend_trace){0};
}

const struct backend backend_ref = {
    .name = "ref",
    .probe = ref_probe,
    .open = ref_open,
    .close = ref_close,
    .caps = ref_caps,
    .weights_load = ref_weights_load,
    .weights_free = ref_weights_free,
    .buf_alloc = host_buf_alloc,
    .buf_free = host_buf_free,
    .buf_write = host_buf_write,
    .buf_read = host_buf_read,
    .buf_copy = host_buf_copy,
    .buf_map = host_buf_map,
    .supports = ref_supports,
    .compile = ref_compile,
    .exec_free = ref_exec_free,
    .submit = ref_submit,
    .wait = ref_wait,
    .trace = ref_trace,
};
