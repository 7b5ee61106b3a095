/* metal.m - a Metal device on Linux: objects as Apple's documentation has them, kernels on the
 * emulator (emu/emu.h). It checks the host side more strictly than a driver and, where the rules
 * leave a choice, takes the one that hurts: work runs when it is waited for, not when it is
 * committed, and dispatches between two barriers of a concurrent encoder may run in any order.
 *
 * A fault (a misuse that a driver would not forgive) is recorded for standin_fault(), printed, and
 * the command buffer ends with status Error. */
#import <Metal/Metal.h>

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "compile.h"
#include "foundation_int.h"
#include "runtime.h"
#include "standin.h"

enum { PAGE = 16384, SET_BYTES_MAX = 4096, MAX_CONSTANTS = 64 };

static struct standin_options options;
static struct standin_counts counts;
static char fault[600];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void standin_set(const struct standin_options *o)
{
    options = *o;
    emu_set_options(&o->emu);
}

void standin_counts(struct standin_counts *out)
{
    *out = counts;
}

void standin_reset_counts(void)
{
    struct standin_counts keep = counts;
    memset(&counts, 0, sizeof counts);
    counts.buffers_alive = keep.buffers_alive;
    counts.buffer_bytes_alive = keep.buffer_bytes_alive;
}

const char *standin_fault(void)
{
    static char text[sizeof fault];
    pthread_mutex_lock(&lock);
    memcpy(text, fault, sizeof text);
    fault[0] = 0;
    pthread_mutex_unlock(&lock);
    return text[0] ? text : NULL;
}

static void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void wrong(const char *format, ...)
{
    char text[sizeof fault];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    fprintf(stderr, "metal: %s\n", text);
    pthread_mutex_lock(&lock);
    if (!fault[0]) {
        memcpy(fault, text, sizeof text);
    }
    pthread_mutex_unlock(&lock);
}

static bool fails(uint32_t *n) /* counts an injected fault down */
{
    return *n > 0 && --*n == 0;
}

static void set_error(NSError **error, const char *text)
{
    if (error) {
        *error = [NSError standinWithCode:1 text:text];
    }
}

/* ---- buffers ---- */

@interface SBuffer : NSObject <MTLBuffer> {
  @public
    unsigned char *bytes;
    NSUInteger n;
    bool owned, resident;
    void (^deallocator)(void *, NSUInteger);
}
@end
@implementation SBuffer
- (NSUInteger)length
{
    return n;
}
- (void *)contents
{
    return bytes;
}
- (void)dealloc
{
    counts.buffers_alive--;
    counts.buffer_bytes_alive -= n;
    if (owned) {
        free(bytes);
    } else if (deallocator) {
        deallocator(bytes, n);
    }
}
@end

/* ---- libraries and pipelines ---- */

@interface SLibrary : NSObject <MTLLibrary> {
  @public
    struct emu_library *lib;
}
@end
@interface SFunction : NSObject <MTLFunction> {
  @public
    SLibrary *library;
    const struct emu_kernel *kernel;
    unsigned char value[MAX_CONSTANTS][8];
    size_t value_bytes[MAX_CONSTANTS];
}
@end
@interface SPipeline : NSObject <MTLComputePipelineState> {
  @public
    SFunction *function;
}
@end

@interface MTLFunctionConstantValues () {
  @public
    unsigned char value[MAX_CONSTANTS][8];
    size_t value_bytes[MAX_CONSTANTS];
}
@end
@implementation MTLFunctionConstantValues
- (void)setConstantValue:(const void *)v type:(MTLDataType)type atIndex:(NSUInteger)index
{
    size_t n = type == MTLDataTypeBool ? 1
               : type == MTLDataTypeFloat || type == MTLDataTypeInt || type == MTLDataTypeUInt
                   ? 4
                   : 0;
    if (n == 0 || index >= MAX_CONSTANTS) {
        wrong("function constant %lu of type %lu", index, type);
        return;
    }
    memcpy(value[index], v, n);
    value_bytes[index] = n;
}
@end

@implementation SFunction
@end
@implementation SLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
                        constantValues:(MTLFunctionConstantValues *)values
                                 error:(NSError **)error
{
    const struct emu_kernel *k = name ? emu_find(lib, name.UTF8String) : NULL;
    if (!k) {
        set_error(error, "the library has no such kernel");
        return nil;
    }
    SFunction *f = [SFunction new];
    f->library = self;
    f->kernel = k;
    memcpy(f->value, values->value, sizeof f->value);
    memcpy(f->value_bytes, values->value_bytes, sizeof f->value_bytes);
    return f;
}
@end
@implementation SPipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup
{
    return options.max_threads ? options.max_threads : EMU_THREADS;
}
- (NSUInteger)threadExecutionWidth
{
    return EMU_SIMD;
}
- (NSUInteger)staticThreadgroupMemoryLength
{
    return 0; /* known only when it runs: the emulator checks the sum */
}
@end

@implementation MTLCompileOptions {
    MTLLanguageVersion _languageVersion;
    MTLMathMode _mathMode;
    BOOL _fastMathEnabled;
}
- (MTLLanguageVersion)languageVersion
{
    return _languageVersion;
}
- (void)setLanguageVersion:(MTLLanguageVersion)v
{
    _languageVersion = v;
}
- (MTLMathMode)mathMode
{
    return _mathMode;
}
- (void)setMathMode:(MTLMathMode)v
{
    _mathMode = v;
}
- (BOOL)fastMathEnabled
{
    return _fastMathEnabled;
}
- (void)setFastMathEnabled:(BOOL)v
{
    _fastMathEnabled = v;
}
@end

@implementation MTLComputePipelineDescriptor {
    id<MTLFunction> _function;
    NSString *_label;
    NSArray *_archives;
}
- (id<MTLFunction>)computeFunction
{
    return _function;
}
- (void)setComputeFunction:(id<MTLFunction>)f
{
    _function = f;
}
- (NSString *)label
{
    return _label;
}
- (void)setLabel:(NSString *)s
{
    _label = s;
}
- (NSArray *)binaryArchives
{
    return _archives;
}
- (void)setBinaryArchives:(NSArray *)a
{
    _archives = a;
}
@end

@implementation MTLBinaryArchiveDescriptor {
    NSURL *_url;
}
- (NSURL *)url
{
    return _url;
}
- (void)setUrl:(NSURL *)u
{
    _url = u;
}
@end

@interface SArchive : NSObject <MTLBinaryArchive> {
    NSUInteger n;
}
@end
@implementation SArchive
- (BOOL)addComputePipelineFunctionsWithDescriptor:(MTLComputePipelineDescriptor *)d
                                            error:(NSError **)error
{
    if (!d.computeFunction) {
        set_error(error, "no function");
        return NO;
    }
    n++;
    return YES;
}
- (BOOL)serializeToURL:(NSURL *)url error:(NSError **)error
{
    FILE *f = fopen(url.path.UTF8String, "wb");
    if (!f) {
        set_error(error, "the archive cannot be written");
        return NO;
    }
    fprintf(f, "stand-in archive of %lu pipelines\n", n);
    fclose(f);
    return YES;
}
@end

/* ---- residency ---- */

@implementation MTLResidencySetDescriptor {
    NSString *_label;
    NSUInteger _initialCapacity;
}
- (NSString *)label
{
    return _label;
}
- (void)setLabel:(NSString *)s
{
    _label = s;
}
- (NSUInteger)initialCapacity
{
    return _initialCapacity;
}
- (void)setInitialCapacity:(NSUInteger)n
{
    _initialCapacity = n;
}
@end
@interface SResidencySet : NSObject <MTLResidencySet> {
    void **held; /* retained, as the real one does */
    NSUInteger n, cap;
    bool changed;
}
@end
static bool residency_in_use; /* some queue has a set: then every bound buffer must be in it */
@implementation SResidencySet
- (void)dealloc
{
    [self removeAllAllocations];
    free(held);
}
- (void)addAllocation:(id<MTLAllocation>)a
{
    if (!a) {
        wrong("nil was added to a residency set");
    }
    if (n == cap) {
        cap = cap ? 2 * cap : 64;
        held = realloc(held, cap * sizeof *held);
    }
    ((SBuffer *)a)->resident = true;
    held[n++] = (__bridge_retained void *)a;
    changed = true;
}
- (void)removeAllocation:(id<MTLAllocation>)a
{
    for (NSUInteger i = 0; i < n; i++) {
        if (held[i] == (__bridge void *)a) {
            SBuffer *b = (__bridge_transfer SBuffer *)held[i];
            b->resident = false;
            held[i] = held[--n];
            changed = true;
            return;
        }
    }
    wrong("removeAllocation: it is not in the set");
}
- (void)removeAllAllocations
{
    while (n > 0) {
        SBuffer *b = (__bridge_transfer SBuffer *)held[--n];
        b->resident = false;
    }
    changed = true;
}
- (void)commit
{
    changed = false;
}
- (void)requestResidency
{
    if (changed) {
        wrong("residency is requested for a set with changes that were not committed");
    }
    counts.residency_requests++;
}
- (void)endResidency
{
}
@end

/* ---- commands ---- */

/* One recorded dispatch; the arrays hold what was bound when it was encoded. */
struct dispatch {
    void *pipeline;            /* retained SPipeline */
    void *buffer[EMU_BUFFERS]; /* retained SBuffer, or NULL */
    NSUInteger offset[EMU_BUFFERS];
    unsigned char *bytes[EMU_BUFFERS]; /* setBytes: a copy of its own */
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
        wrong("an encoder was dropped without endEncoding");
    }
    for (int i = 0; i < EMU_BUFFERS; i++) {
        free(bytes[i]);
    }
}
- (bool)usable:(const char *)what
{
    if (ended) {
        wrong("%s after endEncoding", what);
    }
    return !ended;
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state
{
    if (!state) {
        wrong("setComputePipelineState: nil");
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
        wrong("setBuffer: index %lu, the largest is %d", i, EMU_BUFFERS - 1);
        return;
    }
    [self clear:i];
    buffer[i] = (SBuffer *)b;
    offset[i] = at;
    if (b && residency_in_use && !buffer[i]->resident) {
        wrong(
            "setBuffer: the buffer of %lu bytes at index %lu is not in the queue's residency set",
            buffer[i]->n, i);
    }
    if (b && at >= buffer[i]->n) {
        wrong("setBuffer: offset %lu in a buffer of %lu bytes", at, buffer[i]->n);
        buffer[i] = nil;
    }
}
- (void)setBufferOffset:(NSUInteger)at atIndex:(NSUInteger)i
{
    if (i >= EMU_BUFFERS || !buffer[i]) {
        wrong("setBufferOffset: nothing is bound to index %lu", i);
    } else if (at >= buffer[i]->n) {
        wrong("setBufferOffset: offset %lu in a buffer of %lu bytes", at, buffer[i]->n);
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
        wrong("setBytes: %lu bytes at index %lu", length, i);
        return;
    }
    [self clear:i];
    bytes[i] = malloc(length);
    memcpy(bytes[i], p, length);
    bytes_n[i] = length;
    counts.set_bytes += length;
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)i
{
    if (i >= EMU_LENGTHS || length % 16) {
        wrong("setThreadgroupMemoryLength: %lu at index %lu (multiples of 16)", length, i);
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
        wrong("a dispatch without a pipeline");
        return;
    }
    if (threads == 0 || threads > pipeline.maxTotalThreadsPerThreadgroup) {
        wrong("%s: %lu threads in a threadgroup, the pipeline allows %lu",
              pipeline->function->kernel->name, threads,
              pipeline.maxTotalThreadsPerThreadgroup);
        return;
    }
    if (grid.width * grid.height * grid.depth == 0) {
        wrong("%s: an empty grid", pipeline->function->kernel->name);
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
            memcpy(d->bytes[i], bytes[i], bytes_n[i]);
        }
    }
    memcpy(d->tg_bytes, tg_bytes, sizeof tg_bytes);
    d->grid = grid;
    d->group = group;
    d->whole = whole;
    cb->epoch += !concurrent;
    d->epoch = cb->epoch;
    counts.dispatches++;
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads
{
    counts.threadgroups += groups.width * groups.height * groups.depth;
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
        counts.barriers++;
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
    if (options.dry) {
        return NULL;
    }
    SPipeline *p = (__bridge SPipeline *)d->pipeline;
    struct emu_value constant[MAX_CONSTANTS];
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
        e.buffer[i] = b ? b->bytes + d->offset[i] : d->bytes[i];
    }
    memcpy(e.tg_bytes, d->tg_bytes, sizeof e.tg_bytes);
    uint32_t *grid = d->whole ? e.groups : e.threads;
    grid[0] = (uint32_t)d->grid.width;
    grid[1] = (uint32_t)d->grid.height;
    grid[2] = (uint32_t)d->grid.depth;
    e.group_size[0] = (uint32_t)d->group.width;
    e.group_size[1] = (uint32_t)d->group.height;
    e.group_size[2] = (uint32_t)d->group.depth;
    return emu_run(&e);
}

@implementation SCommandBuffer
- (void)dealloc
{
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
        wrong("an encoder is asked for while another is open, or after commit");
        return nil;
    }
    SEncoder *e = [SEncoder new];
    e->cb = self;
    e->concurrent = type == MTLDispatchTypeConcurrent;
    encoding = true;
    epoch++;
    counts.encoders++;
    return e;
}
- (void)addCompletedHandler:(void (^)(id<MTLCommandBuffer>))block
{
    if (st != MTLCommandBufferStatusNotEnqueued) {
        wrong("addCompletedHandler after commit");
    }
    handler = block;
}
- (void)commit
{
    if (st != MTLCommandBufferStatusNotEnqueued) {
        wrong("commit of a command buffer that was committed");
        return;
    }
    if (encoding) {
        wrong("commit while an encoder is open");
    }
    st = MTLCommandBufferStatusCommitted;
}
- (void)shuffle:(size_t)first end:(size_t)last
{
    for (size_t i = last; options.shuffle && i > first + 1; i--) {
        options.shuffle_seed =
            options.shuffle_seed * 6364136223846793005u + 1442695040888963407u;
        size_t j = first + (options.shuffle_seed >> 33) % (i - first);
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
    const char *why = fails(&options.fail_command_buffer) ? "injected: out of memory" : NULL;
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
                wrong("%s: %s", p->function->kernel->name, why);
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
        wrong("waitUntilCompleted before commit");
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

@interface SQueue : NSObject <MTLCommandQueue> {
    SCommandBuffer *last;
}
@end
@implementation SQueue
- (id<MTLCommandBuffer>)commandBuffer
{
    SCommandBuffer *cb = [SCommandBuffer new];
    cb->before =
        last; /* run in the order in which they were made; the host commits in that order */
    last = cb;
    counts.command_buffers++;
    return cb;
}
- (void)addResidencySet:(id<MTLResidencySet>)set
{
    if (!set) {
        wrong("addResidencySet: nil");
    }
    residency_in_use = set != nil;
}
@end

/* ---- the device ---- */

@interface SDevice : NSObject <MTLDevice>
@end
@implementation SDevice
- (NSString *)name
{
    return @"stand-in";
}
- (BOOL)hasUnifiedMemory
{
    return YES;
}
- (uint64_t)recommendedMaxWorkingSetSize
{
    return options.working_set_bytes ? options.working_set_bytes : 64ull << 30;
}
- (NSUInteger)maxBufferLength
{
    return options.max_buffer_bytes ? options.max_buffer_bytes : 1ul << 30;
}
- (NSUInteger)maxThreadgroupMemoryLength
{
    return EMU_TG_BYTES;
}
- (NSUInteger)currentAllocatedSize
{
    return counts.buffer_bytes_alive;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family
{
    return family == MTLGPUFamilyApple7 || family == MTLGPUFamilyMetal3;
}
- (id<MTLCommandQueue>)newCommandQueue
{
    residency_in_use = false;
    return [SQueue new];
}
- (SBuffer *)buffer:(void *)p length:(NSUInteger)n
{
    if (n == 0 || n > self.maxBufferLength) {
        wrong("a buffer of %lu bytes, at most %lu are allowed", n, self.maxBufferLength);
        return nil;
    }
    if (fails(&options.fail_buffer)) {
        return nil;
    }
    SBuffer *b = [SBuffer new];
    b->bytes = p;
    b->n = n;
    counts.buffers_alive++;
    counts.buffer_bytes_alive += n;
    return b;
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)n options:(MTLResourceOptions)o
{
    (void)o;
    SBuffer *b = [self buffer:NULL length:n];
    if (b) {
        b->owned = true;
        if (posix_memalign((void **)&b->bytes, 4096, n)) {
            return nil;
        }
        memset(b->bytes, 0xFF,
               n < 1 << 20 ? n : 1 << 20); /* NaN; the rest is left as it comes */
    }
    return b;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)p
                                   length:(NSUInteger)n
                                  options:(MTLResourceOptions)o
                              deallocator:(void (^)(void *, NSUInteger))f
{
    (void)o;
    if (!p || (uintptr_t)p % PAGE || n % PAGE) {
        wrong("newBufferWithBytesNoCopy: pointer %p and length %lu must be multiples of %d", p,
              n, PAGE);
        return nil;
    }
    SBuffer *b = [self buffer:p length:n];
    if (b) {
        b->deallocator = f;
    }
    return b;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source
                               options:(MTLCompileOptions *)o
                                 error:(NSError **)error
{
    const char *why = NULL;
    if (fails(&options.fail_library)) {
        set_error(error, "injected: the compiler is not available");
        return nil;
    }
    if (o.languageVersion == 0) {
        wrong("newLibraryWithSource: languageVersion is not set");
    }
    struct emu_library *lib =
        standin_compile(source.UTF8String, o.mathMode == MTLMathModeFast, &why);
    if (!lib) {
        set_error(error, why);
        return nil;
    }
    SLibrary *l = [SLibrary new];
    l->lib = lib;
    counts.libraries++;
    return l;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithDescriptor:
                                   (MTLComputePipelineDescriptor *)d
                                                             options:(MTLPipelineOption)o
                                                          reflection:(void *)reflection
                                                               error:(NSError **)error
{
    (void)o;
    (void)reflection;
    if (!d.computeFunction || fails(&options.fail_pipeline)) {
        set_error(error, d.computeFunction ? "injected: no pipeline" : "no function");
        return nil;
    }
    SPipeline *p = [SPipeline new];
    p->function = (SFunction *)d.computeFunction;
    counts.pipelines++;
    return p;
}
- (id<MTLBinaryArchive>)newBinaryArchiveWithDescriptor:(MTLBinaryArchiveDescriptor *)d
                                                 error:(NSError **)error
{
    if (d.url && access(d.url.path.UTF8String, R_OK)) {
        set_error(error, "the archive cannot be read");
        return nil;
    }
    return [SArchive new];
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)d
                                               error:(NSError **)error
{
    (void)d;
    (void)error;
    return [SResidencySet new];
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void)
{
    return options.no_device ? nil : [SDevice new];
}
