/* device.m - a Metal device on Linux: objects as Apple's documentation has them, kernels on the
 * emulator (emu/emu.h). It checks the host side more strictly than a driver and, where the rules
 * leave a choice, takes the one that hurts: work runs when it is waited for, not when it is
 * committed, and dispatches between two barriers of a concurrent encoder may run in any order.
 *
 * A fault (a misuse that a driver would not forgive) is recorded for standin_fault(), printed, and
 * the command buffer ends with status Error. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "compile.h"
#include "guard.h"
#include "metal_int.h"

enum { PAGE = 16384 };

struct standin_options standin_now;
struct standin_counts standin_n;
static char fault[600];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void standin_set(const struct standin_options *o)
{
    standin_now = *o;
    emu_set_options(&o->emu);
}

void standin_counts(struct standin_counts *out)
{
    *out = standin_n;
}

void standin_reset_counts(void)
{
    struct standin_counts keep = standin_n;
    memset(&standin_n, 0, sizeof standin_n);
    standin_n.buffers_alive = keep.buffers_alive;
    standin_n.buffer_bytes_alive = keep.buffer_bytes_alive;
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

void standin_wrong(const char *format, ...)
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

bool standin_fails(uint32_t *n)
{
    return *n > 0 && --*n == 0;
}

void standin_set_error(NSError **error, const char *text)
{
    if (error) {
        *error = [NSError standinWithCode:1 text:text];
    }
}

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
    return standin_now.working_set_bytes ? standin_now.working_set_bytes : 64ull << 30;
}
- (NSUInteger)maxBufferLength
{
    return standin_now.max_buffer_bytes ? standin_now.max_buffer_bytes : 1ul << 30;
}
- (NSUInteger)maxThreadgroupMemoryLength
{
    return EMU_TG_BYTES;
}
- (NSUInteger)currentAllocatedSize
{
    return standin_n.buffer_bytes_alive;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family
{
    return family == MTLGPUFamilyApple7 || family == MTLGPUFamilyMetal3;
}
- (id<MTLCommandQueue>)newCommandQueue
{
    standin_residency = false;
    return [SQueue new];
}
- (SBuffer *)buffer:(void *)p length:(NSUInteger)n
{
    if (n == 0 || n > self.maxBufferLength) {
        standin_wrong("a buffer of %lu bytes, at most %lu are allowed", n,
                      self.maxBufferLength);
        return nil;
    }
    if (standin_fails(&standin_now.fail_buffer)) {
        return nil;
    }
    SBuffer *b = [SBuffer new];
    b->bytes = p;
    b->n = n;
    standin_n.buffers_alive++;
    standin_n.buffer_bytes_alive += n;
    return b;
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)n options:(MTLResourceOptions)o
{
    (void)o;
    SBuffer *b = [self buffer:NULL length:n];
    if (b) {
        b->owned = true;
        /* Without kernels the buffers of a whole model are made: those are left as they come. */
        b->bytes = guard_alloc(n, standin_now.dry ? 0 : n);
        if (!b->bytes) {
            return nil;
        }
        guard_watch();
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
        standin_wrong(
            "newBufferWithBytesNoCopy: pointer %p and length %lu must be multiples of %d", p, n,
            PAGE);
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
    if (standin_fails(&standin_now.fail_library)) {
        standin_set_error(error, "injected: the compiler is not available");
        return nil;
    }
    if (o.languageVersion == 0) {
        standin_wrong("newLibraryWithSource: languageVersion is not set");
    }
    struct emu_library *lib =
        standin_compile(source.UTF8String, o.mathMode == MTLMathModeFast, &why);
    if (!lib) {
        standin_set_error(error, why);
        return nil;
    }
    SLibrary *l = [SLibrary new];
    l->lib = lib;
    standin_n.libraries++;
    return l;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithDescriptor:
                                   (MTLComputePipelineDescriptor *)d
                                                             options:(MTLPipelineOption)o
                                                          reflection:(void *)reflection
                                                               error:(NSError **)error
{
    (void)reflection;
    for (NSUInteger i = 0; d.computeFunction && i < d.binaryArchives.count; i++) {
        if ([(SArchive *)[d.binaryArchives objectAtIndex:i]
                has:(SFunction *)d.computeFunction]) {
            SPipeline *found = [SPipeline new];
            found->function = (SFunction *)d.computeFunction;
            return found;
        }
    }
    if (o & MTLPipelineOptionFailOnBinaryArchiveMiss) {
        standin_set_error(error, "not in the archive");
        return nil;
    }
    if (!d.computeFunction || standin_fails(&standin_now.fail_pipeline)) {
        standin_set_error(error, d.computeFunction ? "injected: no pipeline" : "no function");
        return nil;
    }
    SPipeline *p = [SPipeline new];
    p->function = (SFunction *)d.computeFunction;
    standin_n.pipelines++;
    return p;
}
- (id<MTLBinaryArchive>)newBinaryArchiveWithDescriptor:(MTLBinaryArchiveDescriptor *)d
                                                 error:(NSError **)error
{
    SArchive *a = [SArchive new];
    if (d.url && ![a load:d.url]) {
        standin_set_error(error, "the archive cannot be read");
        return nil;
    }
    return a;
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
    return standin_now.no_device ? nil : [SDevice new];
}
