/* exec.c - a compiled program and its walk by the team.
 *
 * Compiling plans scratch, so that a step allocates nothing: private scratch is the largest any
 * op wants, shared scratch of ops that run in one level is disjoint. A step is one parallel
 * region: angles of the positions first, then level by level; ops of one level run without a
 * barrier between them, which --debug no-folds switches off. With tracing on, every op gets a
 * barrier of its own and worker 0 reports it.
 * Read next: prod.h for the products, then linear.c. */
#include "backend/cpu/exec.h"

#include <assert.h>
#include <string.h>

#include "backend/cpu/ahead.h"
#include "base/clock.h"
#include "quant/formats.h"

/* Rows of tokens lie far apart, which no hardware prefetches: tokens whose lines are asked for
 * ahead of the one that is written. */
enum { OUT_AHEAD = 8, STREAM_AHEAD = 4 };

static const struct cpu_op *const cpu_ops[OP_KIND_COUNT] = {
    [OP_EMBED] = &cpu_embed,
    [OP_HC_MIX] = &cpu_hc_mix,
    [OP_HC_NORM] = &cpu_hc_norm,
    [OP_HC_HEAD] = &cpu_hc_head,
    [OP_LINEAR] = &cpu_linear,
    [OP_RMS_NORM] = &cpu_rms_norm,
    [OP_KV_ROW] = &cpu_kv_row,
    [OP_COMPRESS] = &cpu_compress,
    [OP_HEAD_FINISH] = &cpu_head_finish,
    [OP_INDEX_SELECT] = &cpu_index_select,
    [OP_ATTN] = &cpu_attn,
    [OP_RING_STORE] = &cpu_ring_store,
    [OP_LINEAR_HC] = &cpu_linear_hc,
    [OP_FFN_UP] = &cpu_ffn_up,
    [OP_ROUTE] = &cpu_route,
    [OP_MOE_UP] = &cpu_moe_up,
    [OP_MOE_DOWN] = &cpu_moe_down,
    [OP_PICK] = &cpu_pick,
};

/* Vectors are read as floats (the expert table: as integers) without looking at their type. */
static const char *check_vectors(const struct program *p, const struct op *op)
{
    size_t n;
    const struct op_field *f = op_fields(op->kind, &n);
    for (size_t i = 0; i < n; i++) {
        uint16_t w = ((const struct opvec *)((const char *)op + f[i].offset))->w;
        if (f[i].type != FIELD_VEC || w == WEIGHT_NONE) {
            continue;
        }
        uint32_t type = p->weights[w].type;
        if (type != QT_F32 && !(op->kind == OP_ROUTE && type == QT_I32)) {
            return "vectors must be F32";
        }
    }
    return NULL;
}

const char *cpu_exec_supports(const struct program *p, const struct op *op)
{
    if (op->kind >= OP_KIND_COUNT) {
        return "unknown op";
    }
    const char *why = check_vectors(p, op);
    if (why) {
        return why;
    }
    const struct cpu_op *o = cpu_ops[op->kind];
    return o->supports ? o->supports(p, op) : NULL;
}

void *carve_take(struct carve *c, uint64_t n, uint64_t size)
{
    uint64_t at = align_up(c->used, 64);
    c->used = at + n * size;
    return c->base ? c->base + at : NULL;
}

void out_put(const struct worker *w, const struct opnd *f32, const struct opnd *a8,
             uint64_t row, uint32_t k0, const float *x, uint32_t n)
{
    if (opnd_present(f32)) {
        copy_floats((float *)host_row(&w->e->h, f32, row) + k0, x, n);
    }
    if (opnd_present(a8)) {
        void *to = host_row(&w->e->h, a8, row);
        w->k->act8(x, n / 32, act8_q(to) + k0, act8_d(to, a8->cols) + k0 / 32,
                   act8_sum(to, a8->cols) + k0 / 16);
    }
}

/* Lines that out_put will write. */
static void ask_out(const struct worker *w, const struct opnd *f32, const struct opnd *a8,
                    uint64_t row, uint32_t k0, uint32_t n)
{
    if (opnd_present(f32)) {
        const char *to = (const char *)((float *)host_row(&w->e->h, f32, row) + k0);
        for (uint32_t i = 0; i < n * sizeof(float); i += AHEAD_LINE) {
            __builtin_prefetch(to + i, 1);
        }
    }
    if (opnd_present(a8)) {
        void *to = host_row(&w->e->h, a8, row);
        __builtin_prefetch(act8_q(to) + k0, 1);
        __builtin_prefetch(act8_d(to, a8->cols) + k0 / 32, 1);
        __builtin_prefetch(act8_sum(to, a8->cols) + k0 / 16, 1);
    }
}

void out_block(const struct worker *w, const struct opnd *f32, const struct opnd *a8,
               const uint32_t *row, uint32_t row0, uint32_t n_tok, uint32_t k0,
               float (*x)[KERN_ROWS], uint32_t n)
{
    for (uint32_t t = 0; t < n_tok; t++) {
        if (t + OUT_AHEAD < n_tok) {
            uint32_t at = t + OUT_AHEAD;
            ask_out(w, f32, a8, row ? row[at] : row0 + at, k0, n);
        }
        out_put(w, f32, a8, row ? row[t] : row0 + t, k0, x[t], n);
    }
}

void stream_update(const struct worker *w, const struct streams *s, uint32_t t0, uint32_t n_tok,
                   uint32_t d0, uint32_t n, const float *y, size_t y_ld)
{
    const struct host_bind *h = &w->e->h;
    for (uint32_t t = t0; t < t0 + n_tok; t++, y += y_ld) {
        if (t + STREAM_AHEAD < t0 + n_tok) {
            const float *x = (const float *)host_row(h, s->x, t + STREAM_AHEAD) + d0;
            for (uint32_t j = 0; j < s->hc; j++, x += s->d) {
                for (uint32_t i = 0; i < n; i += AHEAD_LINE / sizeof *x) {
                    __builtin_prefetch(x + i, 1);
                }
            }
        }
        w->k->hc_post((float *)host_row(h, s->x, t) + d0, s->d, host_row(h, s->post, t),
                      host_row(h, s->comb, t), s->hc, y, n);
    }
}

/* ---- compiling ---- */

static uint64_t plan_scratch(struct exec *e)
{
    uint64_t shared_max = 0, shared_level = 0;
    uint32_t slot = 0;
    for (uint32_t i = 0; i < e->p->n_ops; i++) {
        const struct op *op = &e->p->ops[i];
        const struct cpu_op *o = cpu_ops[op->kind];
        if (i == 0 || op->level != e->p->ops[i - 1].level) {
            shared_level = 0;
            slot = 0;
        }
        e->plan[i].slot = slot;
        slot += CPU_PHASES;
        e->n_slot = MAX(e->n_slot, slot);
        struct carve own = {0}, all = {.used = shared_level};
        if (o->private_scratch) {
            o->private_scratch(e, op, &own);
        }
        e->plan[i].shared = align_up(shared_level, 64);
        if (o->shared_scratch) {
            all.used = e->plan[i].shared;
            o->shared_scratch(e, op, &all);
        }
        shared_level = all.used;
        shared_max = MAX(shared_max, shared_level);
        e->private_bytes = MAX(e->private_bytes, own.used);
    }
    e->private_bytes = align_up(e->private_bytes, 4096);
    return shared_max;
}

/* Which rope tables the program's ops use. */
static void mark_ropes(const struct program *p, bool used[ROPE_CLASSES])
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        switch (op->kind) {
        case OP_KV_ROW: used[op->kv_row.rope] = true; break;
        case OP_COMPRESS: used[op->compress.rope] = true; break;
        case OP_HEAD_FINISH: used[op->head_finish.rope] = true; break;
        case OP_ATTN: used[op->attn.rope] = true; break;
        default: break;
        }
    }
}

static int alloc_scratch(struct exec *e, fathom_err *err)
{
    const struct program *p = e->p;
    uint64_t shared = plan_scratch(e), workers = e->dev->n_workers, all;
    if (__builtin_mul_overflow(e->private_bytes, workers, &all)) {
        return err_nomem(err, "worker scratch", SIZE_MAX);
    }
    bool used[ROPE_CLASSES] = {false};
    mark_ropes(p, used);
    for (int r = 0; r < ROPE_CLASSES; r++) {
        size_t bytes = (size_t)p->lim.t_max * 2 * p->rope[r].n * sizeof(float);
        if (used[r] && !(e->angles[r] = mem_alloc_aligned(64, MAX(bytes, (size_t)64)))) {
            return err_nomem(err, "rope angles", bytes);
        }
    }
    size_t slot_bytes = (size_t)e->n_slot * e->dev->n_workers * sizeof *e->slot;
    e->slot = mem_alloc_aligned(64, MAX(slot_bytes, (size_t)64));
    e->shared = mem_alloc_aligned(64, (size_t)MAX(shared, (uint64_t)64));
    e->private_ = mem_alloc_huge((size_t)MAX(all, (uint64_t)4096));
    if (!e->shared || !e->private_ || !e->slot) {
        return err_nomem(err, "scratch of the op list", (size_t)(shared + all + slot_bytes));
    }
    memset(e->slot, 0, slot_bytes);
    return 0;
}

int cpu_exec_compile(struct device *dev, struct exec **out, const struct program *p,
                     const struct exec_bind *bind, fathom_err *err)
{
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const char *why = cpu_exec_supports(p, &p->ops[i]);
        if (why) {
            return err_set(err, FATHOM_EUNSUPPORTED, "cpu: op %s (layer %d): %s",
                           op_name(p->ops[i].kind), p->ops[i].layer, why);
        }
    }
    struct exec *e = mem_calloc(1, sizeof *e);
    if (!e) {
        return err_nomem(err, "compiled program", sizeof *e);
    }
    e->dev = dev;
    e->p = p;
    e->plan = mem_calloc(p->n_ops, sizeof *e->plan);
    e->next = mem_calloc((size_t)p->n_ops * CPU_PHASES, sizeof *e->next);
    int rc = e->plan && e->next ? host_bind_make(&e->h, p, bind, err)
                                : err_nomem(err, "compiled program", p->n_ops);
    if (rc == 0) {
        rc = host_step_init(&e->step, p, err);
    }
    if (rc == 0) {
        rc = alloc_scratch(e, err);
    }
    if (rc != 0) {
        cpu_exec_free(dev, e);
        return rc;
    }
    *out = e;
    return 0;
}

void cpu_exec_free(struct device *dev, struct exec *e)
{
    (void)dev;
    if (!e) {
        return;
    }
    host_step_fini(&e->step);
    for (int r = 0; r < ROPE_CLASSES; r++) {
        mem_free(e->angles[r]);
    }
    mem_free(e->shared);
    mem_free(e->private_);
    mem_free(e->slot);
    mem_free(e->next);
    mem_free(e->plan);
    mem_free(e);
}

/* ---- running ---- */

/* cos and sin of every token's position, in contiguous shares. */
static void make_angles(const struct worker *w)
{
    uint32_t first = (uint32_t)((uint64_t)w->s->n_tok * w->rank / w->n);
    uint32_t end = (uint32_t)((uint64_t)w->s->n_tok * (w->rank + 1) / w->n);
    for (uint32_t r = 0; r < ROPE_CLASSES; r++) {
        const struct rope_table *table = &w->e->p->rope[r];
        for (uint32_t t = first; w->e->angles[r] && t < end; t++) {
            rope_angles(table, step_pos(step_seq_of(w->s, t), t),
                        w->e->angles[r] + (size_t)t * 2 * table->n);
        }
    }
}

static void run_op(struct worker *w, uint32_t i)
{
    const struct op *op = &w->e->p->ops[i];
    w->op = i;
    cpu_ops[op->kind]->run(w, op);
}

static void walk(void *ctx, uint32_t rank)
{
    struct exec *e = ctx;
    struct device *dev = e->dev;
    struct worker w = {.e = e,
                       .k = &dev->kern,
                       .s = &e->step.s,
                       .rank = rank,
                       .n = dev->n_workers,
                       .mem = e->private_ + rank * e->private_bytes};
    const struct program *p = e->p;
    make_angles(&w);
    worker_barrier(&w);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        run_op(&w, i);
        if (i + 1 < p->n_ops && (!dev->folds || p->ops[i + 1].level != p->ops[i].level)) {
            worker_barrier(&w);
        }
    }
}

/* Op by op; the time is worker 0's, from barrier to barrier. */
static void walk_traced(void *ctx, uint32_t rank)
{
    struct exec *e = ctx;
    struct device *dev = e->dev;
    struct worker w = {.e = e,
                       .k = &dev->kern,
                       .s = &e->step.s,
                       .rank = rank,
                       .n = dev->n_workers,
                       .mem = e->private_ + rank * e->private_bytes};
    make_angles(&w);
    worker_barrier(&w);
    for (uint32_t i = 0; i < e->p->n_ops; i++) {
        const struct op *op = &e->p->ops[i];
        double t0 = rank == 0 ? clock_now() : 0;
        run_op(&w, i);
        worker_barrier(&w);
        if (rank == 0 && (dev->trace.kinds >> op->kind & 1)) {
            dev->trace.fn(dev->trace.user, op, w.s, clock_now() - t0);
        }
        worker_barrier(&w); /* the callback may read what the next op overwrites */
    }
}

int cpu_exec_submit(struct device *dev, struct exec *e, const struct step *s, fathom_err *err)
{
    int rc = host_step_load(&e->step, &e->h, s, err);
    if (rc != 0) {
        return rc;
    }
    e->tag += e->p->n_ops * CPU_PHASES + 1; /* never 0, which slots begin with */
    for (uint32_t i = 0; s->n_tok > CPU_FEW && i < e->p->n_ops * CPU_PHASES; i++) {
        atomic_store_explicit(&e->next[i], 0, memory_order_relaxed);
    }
    bool traced = dev->trace.kinds != 0 && dev->trace.fn;
    team_run(dev->team, traced ? walk_traced : walk, e);
    return 0;
}
