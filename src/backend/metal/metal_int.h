/* metal_int.h - the objects behind the Metal backend; private to backend/metal. All GPU objects
 * belong to the engine thread. Shared storage everywhere: host and GPU see the same bytes. */
#import <Metal/Metal.h>

#include "backend/backend.h"
#include "backend/host/host.h"
#include "backend/metal/plan.h"
#include "backend/metal/step.h"

enum { METAL_PENDING = 128 }; /* command buffers in flight */
/* Multiplications of index scores in one command buffer: a quarter of a second at 1e12 a second. */
#define METAL_WORK (1ull << 38)

/* A weight buffer: a view over the owner's memory, or copies of small tensors. */
struct metal_extent {
    const unsigned char *first, *end; /* page-aligned view, or NULL: the copies */
};

/* One pipeline: kinds of the slots and weight types. */
@interface FPipeline : NSObject {
  @public
    uint8_t kind[METAL_SLOTS];
    uint64_t types;
    id<MTLComputePipelineState> state;
    FPipeline *next;
}
@end

@interface FDevice : NSObject {
  @public
    id<MTLDevice> mtl;
    id<MTLCommandQueue> queue;
    id<MTLLibrary> library;
    id<MTLResidencySet> residency; /* nil before macOS 15, or switched off */
    id<MTLBinaryArchive> archive;
    NSURL *archive_url;
    bool archive_dirty;
    FPipeline *pipelines;
    id<MTLBuffer> view[METAL_VIEWS];
    struct metal_extent extent[METAL_VIEWS];
    uint32_t n_views;
    struct metal_place *place; /* [n_weights] */
    uint64_t bytes;            /* of all buffers made here */
    bool serial, no_residency, no_folds, strict_math;
    struct backend_trace trace;
    id<MTLCommandBuffer> pending[METAL_PENDING]; /* of the running step, in order */
    uint32_t n_pending;
    fathom_err failed; /* why the device can no longer be used; code 0: it can */
}
@end

@interface FBuffer : NSObject {
  @public
    id<MTLBuffer> mtl;
}
@end

/* What submit walks for one kind of step. */
@interface FList : NSObject {
  @public
    struct metal_plan plan;
    struct metal_step_layout layout;
    id<MTLBuffer> args;
    NSObject *__strong *pipeline; /* [plan.n] FPipeline */
}
@end

@interface FExec : NSObject {
  @public
    FDevice *dev; /* borrowed by contract; retained here, which costs nothing */
    const struct program *p;
    FList *few, *few_plain, *many; /* few_plain: without folds, for tracing */
    FBuffer *bind[4];              /* arena, state, page, io */
    id<MTLBuffer> step, scratch;
    struct host_bind host;
    struct host_step checked;
    bool ready;
}
@end

static inline FDevice *device_of(const struct device *d)
{
    return (__bridge FDevice *)(const void *)d;
}
static inline FBuffer *buffer_of(const struct buffer *b)
{
    return (__bridge FBuffer *)(const void *)b;
}
static inline FExec *exec_of(const struct exec *e)
{
    return (__bridge FExec *)(const void *)e;
}

/* A shared buffer; nil with err: more than the device allows, or no memory. */
id<MTLBuffer> metal_buffer(FDevice *dev, uint64_t bytes, const char *what, fathom_err *err);
/* Takes a buffer that is about to be released out of the accounts and of the residency set. */
void metal_drop(FDevice *dev, id<MTLBuffer> b);

/* pipelines.m: compiles the kernels (once per device); the pipeline of a dispatch, made when first
 * asked for and kept in the archive on disk. nil with err. */
int metal_library(FDevice *dev, fathom_err *err);
FPipeline *metal_pipeline(FDevice *dev, const struct metal_dispatch *d, fathom_err *err);
void metal_archive_save(FDevice *dev);

/* exec.m */
int metal_compile(struct device *dev, struct exec **out, const struct program *p,
                  const struct exec_bind *bind, fathom_err *err);
void metal_exec_free(struct device *dev, struct exec *e);
int metal_submit(struct device *dev, struct exec *e, const struct step *s, fathom_err *err);
int metal_wait(struct device *dev, fathom_err *err);
