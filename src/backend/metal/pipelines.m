/* pipelines.m - the kernels' source to a library, and pipelines from it.
 *
 * The source is inside the program (cmake/metal.cmake joins the files of kernels/); it is compiled
 * when a device is opened, by the system's own compiler. A pipeline is the one kernel with the kinds
 * of its slots and its weight types set as constants; a program needs a few dozen. They are kept in
 * an archive under the user's cache folder, so that a later start finds them. An archive that cannot
 * be read or written costs time, nothing else. Read next: exec.m. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/metal/metal_int.h"
#include "base/cache.h"
#include "base/log.h"

extern const unsigned char fathom_metal_source[], fathom_metal_source_end[];

/* nil: no cache folder. */
static NSURL *archive_place(void)
{
    struct buf path = {0};
    cache_path(&path, "metal-" FATHOM_VERSION ".bin");
    NSURL *url = nil;
    if (path.n && !path.failed) {
        url = [NSURL fileURLWithPath:[NSString stringWithUTF8String:buf_cstr(&path)]];
    }
    buf_free(&path);
    return url;
}

static void archive_open(FDevice *d)
{
    MTLBinaryArchiveDescriptor *desc = [MTLBinaryArchiveDescriptor new];
    d->archive_url = archive_place();
    desc.url = d->archive_url;
    d->archive = [d->mtl newBinaryArchiveWithDescriptor:desc error:NULL];
    if (!d->archive) { /* not there, or of another system: start a new one */
        desc.url = nil;
        d->archive = [d->mtl newBinaryArchiveWithDescriptor:desc error:NULL];
    }
}

void metal_archive_save(FDevice *d)
{
    NSError *error = nil;
    if (d->archive && d->archive_dirty && d->archive_url &&
        ![d->archive serializeToURL:d->archive_url error:&error]) {
        log_debug("metal: compiled kernels are not kept: %s",
                  error.localizedDescription.UTF8String);
    }
    d->archive_dirty = false;
}

int metal_library(FDevice *d, fathom_err *err)
{
    size_t n = (size_t)(fathom_metal_source_end - fathom_metal_source);
    char *text = malloc(n + 1);
    if (!text) {
        return err_nomem(err, "metal source", n);
    }
    memcpy(text, fathom_metal_source, n);
    text[n] = 0;
    MTLCompileOptions *o = [MTLCompileOptions new];
    o.languageVersion = MTLLanguageVersion3_1; /* else the linking SDK decides */
    if (@available(macOS 15.0, *)) {
        o.mathMode = MTLMathModeSafe;
    } else {
        o.fastMathEnabled = NO;
    }
    NSError *error = nil;
    d->library = [d->mtl newLibraryWithSource:[NSString stringWithUTF8String:text]
                                      options:o
                                        error:&error];
    free(text);
    if (!d->library) {
        return err_set(
            err, FATHOM_EUNSUPPORTED,
            "metal: the kernels do not compile on this system (please report this with the "
            "system's version; --backend cpu works): %.700s",
            error.localizedDescription.UTF8String);
    }
    archive_open(d);
    return 0;
}

static FPipeline *find(FDevice *d, const struct metal_dispatch *x)
{
    for (FPipeline *p = d->pipelines; p; p = p->next) {
        bool same = p->types == x->types;
        for (uint32_t i = 0; i < METAL_SLOTS; i++) {
            same = same && p->kind[i] == (i < x->n ? x->task[i].kind : METAL_NONE);
        }
        if (same) {
            return p;
        }
    }
    return nil;
}

static id<MTLComputePipelineState> make(FDevice *d, const FPipeline *p, NSError **error)
{
    MTLFunctionConstantValues *v = [MTLFunctionConstantValues new];
    for (uint32_t i = 0; i < METAL_SLOTS; i++) {
        mu32 kind = p->kind[i];
        [v setConstantValue:&kind type:MTLDataTypeUInt atIndex:METAL_FC_KIND0 + i];
    }
    mu32 lo = (mu32)p->types, hi = (mu32)(p->types >> 32);
    [v setConstantValue:&lo type:MTLDataTypeUInt atIndex:METAL_FC_TYPES_LO];
    [v setConstantValue:&hi type:MTLDataTypeUInt atIndex:METAL_FC_TYPES_HI];
    MTLComputePipelineDescriptor *desc = [MTLComputePipelineDescriptor new];
    desc.computeFunction = [d->library newFunctionWithName:@"fathom_level"
                                            constantValues:v
                                                     error:error];
    if (!desc.computeFunction) {
        return nil;
    }
    id<MTLComputePipelineState> s = nil;
    if (d->archive) {
        desc.binaryArchives = [NSArray arrayWithObject:d->archive];
        s = [d->mtl
            newComputePipelineStateWithDescriptor:desc
                                          options:MTLPipelineOptionFailOnBinaryArchiveMiss
                                       reflection:NULL
                                            error:NULL];
    }
    if (s) { /* it was in the archive */
        return s;
    }
    s = [d->mtl newComputePipelineStateWithDescriptor:desc
                                              options:MTLPipelineOptionNone
                                           reflection:NULL
                                                error:error];
    if (s && d->archive &&
        [d->archive addComputePipelineFunctionsWithDescriptor:desc error:NULL]) {
        d->archive_dirty = true;
    }
    return s;
}

FPipeline *metal_pipeline(FDevice *d, const struct metal_dispatch *x, fathom_err *err)
{
    FPipeline *p = find(d, x);
    if (p) {
        return p;
    }
    NSError *error = nil;
    p = [FPipeline new];
    for (uint32_t i = 0; i < x->n; i++) {
        p->kind[i] = x->task[i].kind;
    }
    p->types = x->types;
    p->state = make(d, p, &error);
    if (!p->state) {
        err_set(err, FATHOM_EUNSUPPORTED, "metal: a kernel cannot be prepared: %.700s",
                error.localizedDescription.UTF8String);
        return nil;
    }
    if (p->state.maxTotalThreadsPerThreadgroup < METAL_THREADS ||
        p->state.threadExecutionWidth != 32) {
        err_set(
            err, FATHOM_EUNSUPPORTED,
            "metal: a kernel allows %lu threads a threadgroup in simdgroups of %lu on this GPU; %d and 32 are "
            "needed",
            (unsigned long)p->state.maxTotalThreadsPerThreadgroup,
            (unsigned long)p->state.threadExecutionWidth, METAL_THREADS);
        return nil;
    }
    p->next = d->pipelines;
    d->pipelines = p;
    return p;
}
