/* commands.m - command buffers and encoders: what is bound is checked when it is encoded; work runs when
 * it is waited for. */
#include <time.h>

#include "guard.h"
#include "metal_int.h"

enum { SET_BYTES_MAX = 4096 };

/* ---- commands ---- */

/* One recorded dispatch; the arrays hold what was bound when it was encoded. */
struct dispatch {
    void *pipeline;            /* retained SPipeline */
    void *buffer[EMU_BUFFERS]; /* retained SBuffer, or NULL */
    NSUInteger offset[EMU_BUFFERS];
    unsigned char *bytes[EMU_BUFFERS]; /* setBytes: a copy of its own */
    size_t bytes_n[EMU_BUFFERS];
    uint32_t tg_bytes[EMU_LENGTHS];
    MTLSize grid, group;
    bool whole;
    uint32_t epoch; /* dispatches of one epoch may run in any order */
};

@interface SCommandBuffer : NSObject <MTLCommandBuffer> {
  @public
    struct dispatch *d;
    size_t n, cap;
    uint32_t epoch;
    MTLCommandBufferStatus st;
    NSError *err;
    bool encoding, ran;
    double start, end;
    void (^handler)(id<MTLCommandBuffer>);
    SCommandBuffer *before; /* committed earlier on this queue and not run yet */
}
- (void)run;
@end

@interface SEncoder : NSObject <MTLComputeCommandEncoder> {
  @public
    SCommandBuffer *cb;
    bool concurrent, ended;
    SPipeline *pipeline;
    SBuffer *buffer[EMU_BUFFERS];
    NSUInteger offset[EMU_BUFFERS];
    unsigned char *bytes[EMU_BUFFERS];
    size_t bytes_n[EMU_BUFFERS];
    uint32_t tg_bytes[EMU_LENGTHS];
}
@end

@implementation SEncoder
- (void)dealloc
{
    if (!ended) {
        standin_wrong("an encoder was dropped without endEncoding");
    }
    for (int i = 0; i < EMU_BUFFERS; i++) {
        free(bytes[i]);
    }
}
- (bool)usable:(const char *)what
{
    if (ended) {
        standin_wrong("%s after endEncoding", what);
    }
    return !ended;
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state
{
    if (![self usable:"setComputePipelineState"]) {
        return;
    }
    if (!state) {
        standin_wrong("setComputePipelineState: nil");
    }
    pipeline = (SPipeline *)state;
}
- (void)clear:(NSUInteger)i
{
    free(bytes[i]);
    bytes[i] = NULL;
    buffer[i] = nil;
}
- (void)setBuffer:(id<MTLBuffer>)b offset:(NSUInteger)at atIndex:(NSUInteger)i
{
    if (![self usable:"setBuffer"]) {
        return;
    }
    if (i >= EMU_BUFFERS) {
        standin_wrong("setBuffer: index %lu, the largest is %d", i, EMU_BUFFERS - 1);
        return;
    }
    [self clear:i];
    buffer[i] = (SBuffer *)b;
    offset[i] = at;
    if (b && standin_residency && !buffer[i]->resident) {
        standin_wrong(
            "setBuffer: the buffer of %lu bytes at index %lu is not in the queue's residency set",
            buffer[i]->n, i);
    }
    if (b && at >= buffer[i]->n) {
        standin_wrong("setBuffer: offset %lu in a buffer of %lu bytes", at, buffer[i]->n);
        buffer[i] = nil;
    }
}
- (void)setBufferOffset:(NSUInteger)at atIndex:(NSUInteger)i
{
    if (![self usable:"setBufferOffset"]) {
        return;
    }
    if (i >= EMU_BUFFERS || !buffer[i]) {
        standin_wrong("setBufferOffset: nothing is bound to index %lu", i);
    } else if (at >= buffer[i]->n) {
        standin_wrong("setBufferOffset: offset %lu in a buffer of %lu bytes", at, buffer[i]->n);
    } else {
        offset[i] = at;
    }
}
- (void)setBytes:(const void *)p length:(NSUInteger)length atIndex:(NSUInteger)i
{
    if (![self usable:"setBytes"]) {
        return;
    }
    if (i >= EMU_BUFFERS || length == 0 || length > SET_BYTES_MAX) {
        standin_wrong("setBytes: %lu bytes at index %lu", length, i);
        return;
    }
    [self clear:i];
    bytes[i] = malloc(length);
    memcpy(bytes[i], p, length);
    bytes_n[i] = length;
    standin_n.set_bytes += length;
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)i
{
    if (![self usable:"setThreadgroupMemoryLength"]) {
        return;
    }
    if (i >= EMU_LENGTHS || length % 16) {
        standin_wrong("setThreadgroupMemoryLength: %lu at index %lu (multiples of 16)", length,
                      i);
        return;
    }
    tg_bytes[i] = (uint32_t)length;
}
- (void)record:(MTLSize)grid group:(MTLSize)group whole:(bool)whole
{
    if (![self usable:"a dispatch"]) {
        return;
    }
    NSUInteger threads = group.width * group.height * group.depth;
    if (!pipeline) {
        standin_wrong("a dispatch without a pipeline");
        return;
    }
    if (threads == 0 || threads > pipeline.maxTotalThreadsPerThreadgroup) {
        standin_wrong("%s: %lu threads in a threadgroup, the pipeline allows %lu",
                      pipeline->function->kernel->name, threads,
                      pipeline.maxTotalThreadsPerThreadgroup);
        return;
    }
    if (grid.width * grid.height * grid.depth == 0) {
        standin_wrong("%s: an empty grid", pipeline->function->kernel->name);
        return;
    }
    if (cb->n == cb->cap) {
        cb->cap = cb->cap ? 2 * cb->cap : 64;
        cb->d = realloc(cb->d, cb->cap * sizeof *cb->d);
    }
    struct dispatch *d = &cb->d[cb->n++];
    memset(d, 0, sizeof *d);
    d->pipeline = (__bridge_retained void *)pipeline;
    for (int i = 0; i < EMU_BUFFERS; i++) {
        d->buffer[i] = (__bridge_retained void *)buffer[i];
        d->offset[i] = offset[i];
        if (bytes[i]) {
            d->bytes[i] = malloc(bytes_n[i]);
            d->bytes_n[i] = bytes_n[i];
            memcpy(d->bytes[i], bytes[i], bytes_n[i]);
        }
    }
    memcpy(d->tg_bytes, tg_bytes, sizeof tg_bytes);
    for (int i = 0; i < EMU_LENGTHS; i++) {
        standin_n.tg_bytes += tg_bytes[i];
    }
    d->grid = grid;
    d->group = group;
    d->whole = whole;
    cb->epoch += !concurrent;
    d->epoch = cb->epoch;
    standin_n.dispatches++;
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads
{
    standin_n.threadgroups += groups.width * groups.height * groups.depth;
    [self record:groups group:threads whole:true];
}
- (void)dispatchThreads:(MTLSize)grid threadsPerThreadgroup:(MTLSize)threads
{
    [self record:grid group:threads whole:false];
}
- (void)memoryBarrierWithScope:(MTLBarrierScope)scope
{
    if ([self usable:"memoryBarrierWithScope"]) {
        cb->epoch += scope == MTLBarrierScopeBuffers;
        standin_n.barriers++;
    }
}
- (void)endEncoding
{
    if ([self usable:"endEncoding"]) {
        ended = true;
        cb->encoding = false;
        cb->epoch++;
    }
}
@end

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs one dispatch; a message if the kernel did something wrong. */
static const char *run_dispatch(const struct dispatch *d)
{
    if (standin_now.dry) {
        return NULL;
    }
    SPipeline *p = (__bridge SPipeline *)d->pipeline;
    struct emu_value constant[MAX_CONSTANTS];
    unsigned char *given[EMU_BUFFERS] = {NULL};
    struct emu_dispatch e = {.lib = p->function->library->lib,
                             .kernel = p->function->kernel,
                             .constant = constant,
                             .whole_groups = d->whole};
    for (int i = 0; i < MAX_CONSTANTS; i++) {
        if (p->function->value_bytes[i]) {
            constant[e.n_constants++] =
                (struct emu_value){i, p->function->value[i], p->function->value_bytes[i]};
        }
    }
    for (int i = 0; i < EMU_BUFFERS; i++) {
        SBuffer *b = (__bridge SBuffer *)d->buffer[i];
        if (d->bytes[i]) { /* exactly as long as what was given */
            given[i] = guard_alloc(d->bytes_n[i], 0);
            memcpy(given[i], d->bytes[i], d->bytes_n[i]);
        }
        e.buffer[i] = b ? b->bytes + d->offset[i] : given[i];
        e.bound[i] = b ? b->n - d->offset[i] : d->bytes_n[i];
    }
    memcpy(e.tg_bytes, d->tg_bytes, sizeof e.tg_bytes);
    uint32_t *grid = d->whole ? e.groups : e.threads;
    grid[0] = (uint32_t)d->grid.width;
    grid[1] = (uint32_t)d->grid.height;
    grid[2] = (uint32_t)d->grid.depth;
    e.group_size[0] = (uint32_t)d->group.width;
    e.group_size[1] = (uint32_t)d->group.height;
    e.group_size[2] = (uint32_t)d->group.depth;
    guard_watch();
    const char *why = emu_run(&e);
    for (int i = 0; i < EMU_BUFFERS; i++) {
        guard_free(given[i]);
    }
    return why;
}

@implementation SCommandBuffer
- (void)dealloc
{
    if (st == MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("a command buffer was dropped before commit: its work never runs");
    } else if (!ran) {
        standin_wrong("a command buffer was dropped, and nobody waited for it");
    }
    for (size_t i = 0; i < n; i++) {
        (void)(__bridge_transfer id)d[i].pipeline;
        for (int b = 0; b < EMU_BUFFERS; b++) {
            (void)(__bridge_transfer id)d[i].buffer[b];
            free(d[i].bytes[b]);
        }
    }
    free(d);
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)type
{
    if (encoding || st != MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("an encoder is asked for while another is open, or after commit");
        return nil;
    }
    SEncoder *e = [SEncoder new];
    e->cb = self;
    e->concurrent = type == MTLDispatchTypeConcurrent;
    encoding = true;
    epoch++;
    standin_n.encoders++;
    return e;
}
- (void)addCompletedHandler:(void (^)(id<MTLCommandBuffer>))block
{
    if (st != MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("addCompletedHandler after commit");
    }
    handler = block;
}
- (void)commit
{
    if (st != MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("commit of a command buffer that was committed");
        return;
    }
    if (encoding) {
        standin_wrong("commit while an encoder is open");
    }
    if (before && before->st == MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("commit in another order than the command buffers were made");
    }
    st = MTLCommandBufferStatusCommitted;
}
- (void)shuffle:(size_t)first end:(size_t)last
{
    for (size_t i = last; standin_now.shuffle && i > first + 1; i--) {
        standin_now.shuffle_seed =
            standin_now.shuffle_seed * 6364136223846793005u + 1442695040888963407u;
        size_t j = first + (standin_now.shuffle_seed >> 33) % (i - first);
        struct dispatch x = d[i - 1];
        d[i - 1] = d[j];
        d[j] = x;
    }
}
- (void)run
{
    if (ran) {
        return;
    }
    [before run];
    before = nil;
    ran = true;
    start = now();
    const char *why =
        standin_fails(&standin_now.fail_command_buffer) ? "injected: out of memory" : NULL;
    for (size_t i = 0; i < n && !why;) {
        size_t last = i;
        while (last < n && d[last].epoch == d[i].epoch) {
            last++;
        }
        [self shuffle:i end:last];
        for (; i < last && !why; i++) {
            why = run_dispatch(&d[i]);
            if (why) {
                SPipeline *p = (__bridge SPipeline *)d[i].pipeline;
                standin_wrong("%s: %s", p->function->kernel->name, why);
            }
        }
    }
    end = now();
    st = why ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    err = why ? [NSError standinWithCode:1 text:why] : nil;
    if (handler) {
        handler(self);
        handler = nil;
    }
}
- (void)waitUntilCompleted
{
    if (st == MTLCommandBufferStatusNotEnqueued) {
        standin_wrong("waitUntilCompleted before commit");
        return;
    }
    [self run];
}
- (MTLCommandBufferStatus)status
{
    return st;
}
- (NSError *)error
{
    return err;
}
- (double)GPUStartTime
{
    return start;
}
- (double)GPUEndTime
{
    return end;
}
@end

@implementation SQueue
- (id<MTLCommandBuffer>)commandBuffer
{
    SCommandBuffer *cb = [SCommandBuffer new];
    cb->before =
        last; /* run in the order in which they were made; the host commits in that order */
    last = cb;
    standin_n.command_buffers++;
    return cb;
}
- (void)addResidencySet:(id<MTLResidencySet>)set
{
    if (!set) {
        standin_wrong("addResidencySet: nil");
    }
    standin_residency = set != nil;
}
@end
