/* exec.m - a compiled program and its encoding.
 *
 * A step writes the step buffer and encodes the list of dispatches: one concurrent encoder, a barrier
 * where the plan says so. Few tokens: one command buffer. Many: one a layer, and more where index
 * scores over a long context take long, so that none runs long enough for the system's watchdog. Every command buffer's status is checked; a
 * failed one makes the device unusable (what ran is unknown), and that is said from then on. With
 * tracing, ops run one by one, without folds. Read next: kernels/level.metal. */
#include <string.h>

#include "backend/metal/metal_int.h"
#include "base/clock.h"
#include "base/mem.h"

@implementation FList
- (void)dealloc
{
    for (uint32_t i = 0; pipeline && i < plan.n; i++) {
        pipeline[i] = nil;
    }
    mem_free((void *)pipeline);
    metal_plan_free(&plan);
}
@end
@implementation FExec
- (void)dealloc
{
    if (ready) {
        host_step_fini(&checked);
    }
}
@end

/* ---- compiling ---- */

static int fill_list(FExec *e, FList *l, fathom_err *err)
{
    l->pipeline = (NSObject * __strong *)mem_calloc(l->plan.n + 1, sizeof *l->pipeline);
    l->args = metal_buffer(e->dev, l->plan.args_bytes, "kernel arguments", err);
    if (!l->pipeline || !l->args) {
        return l->args ? err_nomem(err, "metal program", l->plan.n * sizeof *l->pipeline)
                       : FATHOM_ENOMEM;
    }
    memcpy(l->args.contents, l->plan.args, l->plan.args_bytes);
    for (uint32_t i = 0; i < l->plan.n; i++) {
        l->pipeline[i] = metal_pipeline(e->dev, &l->plan.d[i], err);
        if (!l->pipeline[i]) {
            return FATHOM_EUNSUPPORTED;
        }
    }
    metal_step_plan(&l->layout, &l->plan, e->checked.max_pages);
    return 0;
}

static FList *make_list(FExec *e, bool few, bool folds, fathom_err *err)
{
    FList *l = [FList new];
    struct metal_plan_options o = {.few = few, .folds = folds, .place = e->dev->place};
    if (metal_plan_make(&l->plan, e->p, &o, err)) {
        return nil;
    }
    if (fill_list(e, l, err)) {
        metal_drop(e->dev, l->args);
        return nil;
    }
    return l;
}

/* Buffers of a program that is freed, or that could not be compiled. */
static void drop_buffers(FExec *e)
{
    FDevice *d = e->dev;
    metal_drop(d, e->scratch);
    metal_drop(d, e->step);
    metal_drop(d, e->few ? e->few->args : nil);
    metal_drop(d, e->few_plain && e->few_plain != e->few ? e->few_plain->args : nil);
    metal_drop(d, e->many ? e->many->args : nil);
}

static int make_lists(FExec *e, fathom_err *err)
{
    bool folds = !e->dev->no_folds;
    e->few = make_list(e, true, folds, err);
    e->few_plain = e->few && folds ? make_list(e, true, false, err) : e->few;
    if (!e->few || !e->few_plain) {
        return err && err->code ? err->code : FATHOM_ENOMEM;
    }
    uint64_t scratch = MAX(e->few->plan.scratch_bytes, e->few_plain->plan.scratch_bytes);
    uint64_t step = MAX(e->few->layout.bytes, e->few_plain->layout.bytes);
    if (e->p->lim.t_max > METAL_FEW) {
        e->many = make_list(e, false, false, err);
        if (!e->many) {
            return err && err->code ? err->code : FATHOM_ENOMEM;
        }
        scratch = MAX(scratch, e->many->plan.scratch_bytes);
        step = MAX(step, e->many->layout.bytes);
    }
    e->scratch = metal_buffer(e->dev, scratch, "kernel scratch", err);
    e->step = e->scratch ? metal_buffer(e->dev, step, "the step", err) : nil;
    return e->step ? 0 : FATHOM_ENOMEM;
}

/* host_bind wants host buffers: the same memory, as the host sees it. */
static int bind_host(FExec *e, const struct exec_bind *bind, fathom_err *err)
{
    struct buffer *const given[4] = {bind->arena, bind->state, bind->page, bind->io};
    struct buffer view[4];
    struct exec_bind host = {0};
    struct buffer **const to[4] = {&host.arena, &host.state, &host.page, &host.io};
    for (int i = 0; i < 4; i++) {
        if (given[i]) {
            e->bind[i] = buffer_of(given[i]);
            view[i] = (struct buffer){.base = e->bind[i]->mtl.contents,
                                      .bytes = e->bind[i]->mtl.length};
            *to[i] = &view[i];
        }
    }
    int rc = host_bind_make(&e->host, e->p, &host, err);
    rc = rc ? rc : host_step_init(&e->checked, e->p, err);
    e->ready = rc == 0;
    return rc;
}

int metal_compile(struct device *dev, struct exec **out, const struct program *p,
                  const struct exec_bind *bind, fathom_err *err)
{
    @autoreleasepool {
        FExec *e = [FExec new];
        e->dev = device_of(dev);
        e->p = p;
        int rc = bind_host(e, bind, err);
        rc = rc ? rc : make_lists(e, err);
        if (rc == 0) {
            metal_archive_save(e->dev);
            *out = (struct exec *)(__bridge_retained void *)e;
        } else {
            drop_buffers(e);
        }
        return rc;
    }
}

void metal_exec_free(struct device *dev, struct exec *e)
{
    if (e) {
        @autoreleasepool {
            (void)dev;
            FExec *x = (__bridge_transfer FExec *)(void *)e;
            drop_buffers(x);
        }
    }
}

/* ---- encoding ---- */

static void bind_buffers(FExec *e, FList *l, id<MTLComputeCommandEncoder> enc)
{
    const struct metal_step_layout *o = &l->layout;
    [enc setBuffer:l->args offset:0 atIndex:METAL_BUF_ARGS];
    [enc setBuffer:e->step offset:0 atIndex:METAL_BUF_STEP];
    [enc setBuffer:e->step offset:o->seq atIndex:METAL_BUF_SEQ];
    [enc setBuffer:e->step offset:o->tok atIndex:METAL_BUF_TOK];
    [enc setBuffer:e->step offset:o->tok_seq atIndex:METAL_BUF_TOK_SEQ];
    [enc setBuffer:e->step offset:o->pages atIndex:METAL_BUF_PAGES];
    [enc setBuffer:e->step offset:o->out atIndex:METAL_BUF_OUT];
    [enc setBuffer:e->step offset:o->angles atIndex:METAL_BUF_ANGLES];
    for (NSUInteger i = 0; i < 4; i++) { /* an unused space is bound to something, too */
        id<MTLBuffer> b = e->bind[i] ? e->bind[i]->mtl : e->step;
        [enc setBuffer:b offset:0 atIndex:METAL_BUF_ARENA + i];
    }
    [enc setBuffer:e->scratch offset:0 atIndex:METAL_BUF_SCRATCH];
    for (NSUInteger i = 0; i < METAL_VIEWS; i++) {
        id<MTLBuffer> v = i < e->dev->n_views ? e->dev->view[i] : e->step;
        [enc setBuffer:v offset:0 atIndex:METAL_BUF_VIEW0 + i];
    }
}

/* Encodes dispatch i for tokens [tok0, tok0 + n) of INDEX_SELECT; only: this op, or all (-1). false:
 * nothing to do. */
static bool encode_one(FList *l, id<MTLComputeCommandEncoder> enc, uint32_t i,
                       const struct step *s, uint32_t tok0, uint32_t n, int only)
{
    const struct metal_dispatch *d = &l->plan.d[i];
    struct metal_level level = {.tok0 = tok0, .n_tok = n};
    uint32_t tg_bytes = 0;
    for (uint32_t k = 0; k < METAL_SLOTS; k++) {
        uint32_t groups = 0;
        if (k < d->n && (only < 0 || d->task[k].op == (uint32_t)only)) {
            groups = metal_groups(&l->plan, &d->task[k], s, n);
            level.args[k] = d->task[k].at;
            tg_bytes = MAX(tg_bytes, metal_tg_bytes(&l->plan, &d->task[k], s));
        }
        level.first[k + 1] = level.first[k] + groups;
    }
    if (level.first[METAL_SLOTS] == 0) {
        return false;
    }
    [enc setComputePipelineState:((FPipeline *)l->pipeline[i])->state];
    [enc setBytes:&level length:sizeof level atIndex:METAL_BUF_LEVEL];
    [enc setThreadgroupMemoryLength:tg_bytes atIndex:0];
    [enc dispatchThreadgroups:MTLSizeMake(level.first[METAL_SLOTS], 1, 1)
        threadsPerThreadgroup:MTLSizeMake(METAL_THREADS, 1, 1)];
    return true;
}

/* Where encoding goes on: dispatch i, of INDEX_SELECT's two from token t on. */
struct cursor {
    uint32_t i, t;
};

static bool is_score(const struct metal_dispatch *d)
{
    return d->n == 1 && d->task[0].kind == METAL_INDEX_SCORE;
}

/* Multiplications of n tokens' index scores, at most. */
static uint64_t score_work(const FList *l, uint32_t i, uint32_t n)
{
    const struct metal_index *a = (const void *)(l->plan.args + l->plan.d[i].task[0].at);
    return (uint64_t)n * a->max_rows * a->heads * a->n;
}

/* Dispatches from *at up to `end` for one command buffer; ends early, between two batches of
 * INDEX_SELECT, when their scores would keep the GPU busy for long: *at says where to go on. */
static void encode_range(FList *l, id<MTLComputeCommandEncoder> enc, struct cursor *at,
                         uint32_t end, const struct step *s, int only)
{
    uint64_t work = 0;
    for (; at->i < end; at->i++) {
        if (at->t == 0 && l->plan.d[at->i].barrier) {
            [enc memoryBarrierWithScope:MTLBarrierScopeBuffers];
        }
        if (!is_score(&l->plan.d[at->i])) {
            encode_one(l, enc, at->i, s, 0, s->n_tok, only);
            continue;
        }
        while (at->t < s->n_tok) { /* scores, then the choice */
            uint32_t n = MIN(s->n_tok - at->t, (uint32_t)METAL_INDEX_BATCH);
            if (at->t > 0) {
                [enc memoryBarrierWithScope:MTLBarrierScopeBuffers];
            }
            if (encode_one(l, enc, at->i, s, at->t, n, only)) {
                [enc memoryBarrierWithScope:MTLBarrierScopeBuffers];
            }
            encode_one(l, enc, at->i + 1, s, at->t, n, only);
            at->t += n;
            work += score_work(l, at->i, n);
            if (work >= METAL_WORK && at->t < s->n_tok) {
                return;
            }
        }
        at->t = 0;
        at->i++;
    }
}

static id<MTLCommandBuffer> commit_range(FExec *e, FList *l, struct cursor *at, uint32_t end,
                                         const struct step *s, int only)
{
    id<MTLCommandBuffer> cb = [e->dev->queue commandBuffer];
    id<MTLComputeCommandEncoder> enc =
        [cb computeCommandEncoderWithDispatchType:e->dev->serial ? MTLDispatchTypeSerial
                                                                 : MTLDispatchTypeConcurrent];
    bind_buffers(e, l, enc);
    encode_range(l, enc, at, end, s, only);
    [enc endEncoding];
    [cb commit];
    return cb;
}

static int check(FDevice *d, id<MTLCommandBuffer> cb, fathom_err *err)
{
    if (cb.status == MTLCommandBufferStatusCompleted) {
        return 0;
    }
    err_set(
        &d->failed, FATHOM_EIO,
        "metal: the GPU gave up a step (%.300s); the model must be opened again. Out of memory: use a smaller "
        "--ctx; interrupted for being slow: use a smaller --chunk",
        cb.error ? cb.error.localizedDescription.UTF8String : "no reason given");
    return err_set(err, d->failed.code, "%s", d->failed.msg);
}

/* Op by op; the callback after each. */
static int run_traced(FExec *e, FList *l, const struct step *s, fathom_err *err)
{
    FDevice *d = e->dev;
    for (uint32_t op = 0; op < e->p->n_ops; op++) {
        double t0 = clock_now();
        for (struct cursor at = {0}; at.i < l->plan.n;) {
            id<MTLCommandBuffer> cb = commit_range(e, l, &at, l->plan.n, s, (int)op);
            [cb waitUntilCompleted];
            int rc = check(d, cb, err);
            if (rc) {
                return rc;
            }
        }
        if (d->trace.kinds >> e->p->ops[op].kind & 1) {
            d->trace.fn(d->trace.user, &e->p->ops[op], s, clock_now() - t0);
        }
    }
    return 0;
}

int metal_submit(struct device *dev, struct exec *exec, const struct step *given,
                 fathom_err *err)
{
    @autoreleasepool {
        FDevice *d = device_of(dev);
        FExec *e = exec_of(exec);
        if (d->failed.code) {
            return err_set(err, d->failed.code, "%s", d->failed.msg);
        }
        int rc = host_step_load(&e->checked, &e->host, given, err);
        if (rc) {
            return rc;
        }
        const struct step *s = &e->checked.s;
        bool traced = d->trace.kinds && d->trace.fn, many = s->n_tok > METAL_FEW;
        FList *l = many ? e->many : traced ? e->few_plain : e->few;
        metal_step_write(&l->layout, &l->plan, s, e->step.contents);
        if (traced) {
            return run_traced(e, l, s, err);
        }
        for (struct cursor at = {0}; at.i < l->plan.n;) {
            uint32_t end = many ? at.i + 1 : l->plan.n;
            while (end < l->plan.n && !l->plan.d[end].layer) {
                end++;
            }
            if (d->n_pending == METAL_PENDING && (rc = metal_wait(dev, err)) != 0) {
                return rc;
            }
            d->pending[d->n_pending++] = commit_range(e, l, &at, end, s, -1);
        }
        return 0;
    }
}

int metal_wait(struct device *dev, fathom_err *err)
{
    @autoreleasepool {
        FDevice *d = device_of(dev);
        int rc = 0;
        for (uint32_t i = 0; i < d->n_pending; i++) {
            [d->pending[i] waitUntilCompleted];
            rc = rc ? rc : check(d, d->pending[i], err);
            d->pending[i] = nil;
        }
        d->n_pending = 0;
        return rc;
    }
}
