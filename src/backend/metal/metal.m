/* metal.m - the Metal backend as backend.h wants it: device, memory check, weights, buffers.
 *
 * Weights are seen where they lie: page-aligned views over the mapped file without a copy, cut where
 * the device's largest buffer ends so that every tensor is whole in one view. Tensors that lie apart
 * (the owner's converted copies, all small) are copied into one buffer. Everything together must fit
 * the working set that the system grants to the GPU; if it does not, opening is refused with the
 * setting that raises it, because going over it freezes the machine. Read next: pipelines.m, exec.m. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/metal/metal_int.h"
#include "base/mem.h"

enum {
    GPU_PAGE = 16384,
    SMALL_EXTENT = 1 << 20, /* tensors in runs shorter than this are copied */
    GAP = 64 << 10,         /* tensors this close lie in one mapping */
};
/* What the system itself needs of the working set. */
static const uint64_t WORKING_SET_MARGIN = 2ull << 30;

@implementation FPipeline
@end
@implementation FDevice
- (void)dealloc
{
    mem_free(place);
}
@end
@implementation FBuffer
@end

static bool has_switch(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p;) {
        const char *end = strchr(p, ',');
        size_t len = end ? (size_t)(end - p) : strlen(p);
        if (len == n && strncmp(p, name, n) == 0) {
            return true;
        }
        p = end ? end + 1 : NULL;
    }
    return false;
}

static int metal_probe(struct backend_info *out, fathom_err *err)
{
    (void)err;
    *out = (struct backend_info){0};
    @autoreleasepool {
        id<MTLDevice> d = MTLCreateSystemDefaultDevice();
        if (!d) {
            return 0;
        }
        out->available = d.hasUnifiedMemory && [d supportsFamily:MTLGPUFamilyApple7];
        out->memory_bytes = d.recommendedMaxWorkingSetSize;
        snprintf(out->device_name, sizeof out->device_name, "%s", d.name.UTF8String);
        snprintf(out->features, sizeof out->features, "%s%s%s, largest buffer %.1f GB",
                 d.hasUnifiedMemory ? "unified memory" : "discrete memory",
                 [d supportsFamily:MTLGPUFamilyApple8] ? ", Apple8" : "",
                 [d supportsFamily:MTLGPUFamilyApple9] ? ", Apple9" : "",
                 (double)d.maxBufferLength / 1e9);
    }
    return 0;
}

static void add_resident(FDevice *d, id<MTLBuffer> b)
{
    if (d->residency && b) {
        [d->residency addAllocation:b];
        [d->residency commit];
        [d->residency requestResidency];
    }
}

void metal_drop(FDevice *d, id<MTLBuffer> b)
{
    if (b) {
        d->bytes -= b.length;
        [d->residency removeAllocation:b]; /* the set keeps what is in it alive */
        [d->residency commit];
    }
}

static int open_device(FDevice *d, const struct backend_config *cfg, fathom_err *err)
{
    d->mtl = MTLCreateSystemDefaultDevice();
    if (!d->mtl) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "metal: this machine has no Metal device; use --backend cpu");
    }
    if (!d->mtl.hasUnifiedMemory || ![d->mtl supportsFamily:MTLGPUFamilyApple7]) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "metal: %s is not an Apple GPU with unified memory; use --backend cpu",
                       d->mtl.name.UTF8String);
    }
    d->serial = has_switch(cfg->debug, "serial-encoder");
    d->no_residency = has_switch(cfg->debug, "no-residency");
    d->no_folds = has_switch(cfg->debug, "no-folds");
    d->strict_math = has_switch(cfg->debug, "strict-math");
    d->queue = [d->mtl newCommandQueue];
    if (!d->queue) {
        return err_set(err, FATHOM_ENOMEM, "metal: no command queue");
    }
    if (!d->no_residency) {
        if (@available(macOS 15.0, *)) {
            MTLResidencySetDescriptor *rd = [MTLResidencySetDescriptor new];
            d->residency = [d->mtl newResidencySetWithDescriptor:rd error:NULL];
            if (d->residency) {
                [d->queue addResidencySet:d->residency];
            }
        }
    }
    return metal_library(d, err);
}

static int metal_open(struct device **out, const struct backend_config *cfg, fathom_err *err)
{
    @autoreleasepool {
        FDevice *d = [FDevice new];
        int rc = open_device(d, cfg, err);
        if (rc == 0) {
            *out = (struct device *)(__bridge_retained void *)d;
        }
        return rc;
    }
}

static void metal_close(struct device *dev)
{
    @autoreleasepool {
        FDevice *d = (__bridge_transfer FDevice *)(void *)dev;
        metal_archive_save(d);
        if (d->residency) {
            [d->residency endResidency];
        }
        d->pipelines = nil;
    }
}

static void metal_caps(const struct device *dev, struct backend_caps *out)
{
    (void)dev;
    *out = (struct backend_caps){
        .host_visible = true, .picked = true, .t_max = 4096, .row_align = 64, .live_slack = 1};
    snprintf(out->arith_class, sizeof out->arith_class, "metal/1");
}

/* ---- memory ---- */

id<MTLBuffer> metal_buffer(FDevice *d, uint64_t bytes, const char *what, fathom_err *err)
{
    bytes = bytes ? bytes : 16;
    if (bytes > d->mtl.maxBufferLength) {
        err_set(
            err, FATHOM_ENOMEM,
            "metal: %s needs a buffer of %.2f GB and the device allows %.2f GB; use a smaller --ctx, fewer "
            "sequences or a smaller --chunk",
            what, (double)bytes / 1e9, (double)d->mtl.maxBufferLength / 1e9);
        return nil;
    }
    uint64_t limit = d->mtl.recommendedMaxWorkingSetSize;
    if (d->bytes + bytes + WORKING_SET_MARGIN > limit) {
        err_set(
            err, FATHOM_ENOMEM,
            "metal: %s would bring the GPU's memory to %.2f GB, and the system grants it %.2f GB (2 GB are "
            "left free); use a smaller --ctx, or raise the limit with: sudo sysctl iogpu.wired_limit_mb=%llu",
            what, (double)(d->bytes + bytes) / 1e9, (double)limit / 1e9,
            (unsigned long long)((d->bytes + bytes + 2 * WORKING_SET_MARGIN) >> 20));
        return nil;
    }
    id<MTLBuffer> b = [d->mtl newBufferWithLength:bytes options:MTLResourceStorageModeShared];
    if (!b) {
        err_set(err, FATHOM_ENOMEM, "metal: no memory for %s (%.2f GB)", what,
                (double)bytes / 1e9);
        return nil;
    }
    d->bytes += bytes;
    add_resident(d, b);
    return b;
}

static int metal_buf_alloc(struct device *dev, struct buffer **out, uint64_t bytes,
                           enum buf_use use, fathom_err *err)
{
    static const char *const names[] = {"scratch", "sequence states", "KV pages",
                                        "input and output"};
    @autoreleasepool {
        FBuffer *b = [FBuffer new];
        b->mtl = metal_buffer(device_of(dev), bytes, names[use], err);
        if (!b->mtl) {
            return FATHOM_ENOMEM;
        }
        *out = (struct buffer *)(__bridge_retained void *)b;
        return 0;
    }
}

static void metal_buf_free(struct device *dev, struct buffer *b)
{
    if (b) {
        @autoreleasepool {
            FBuffer *f = (__bridge_transfer FBuffer *)(void *)b;
            metal_drop(device_of(dev), f->mtl);
        }
    }
}

static unsigned char *bytes_of(const struct buffer *b)
{
    return buffer_of(b)->mtl.contents;
}
static void metal_buf_write(struct device *dev, struct buffer *b, uint64_t at, const void *p,
                            uint64_t n)
{
    (void)dev;
    memcpy(bytes_of(b) + at, p, n);
}
static void metal_buf_read(struct device *dev, const struct buffer *b, uint64_t at, void *p,
                           uint64_t n)
{
    (void)dev;
    memcpy(p, bytes_of(b) + at, n);
}
static void metal_buf_copy(struct device *dev, struct buffer *dst, uint64_t to,
                           const struct buffer *src, uint64_t from, uint64_t n)
{
    (void)dev;
    memmove(bytes_of(dst) + to, bytes_of(src) + from, n);
}
static void *metal_buf_map(struct device *dev, struct buffer *b)
{
    (void)dev;
    return bytes_of(b);
}

/* ---- weights ---- */

struct sorted {
    const struct op_weight *w;
    uint32_t index;
};
static int by_address(const void *a, const void *b)
{
    const unsigned char *x = ((const struct sorted *)a)->w->data,
                        *y = ((const struct sorted *)b)->w->data;
    return x < y ? -1 : x > y;
}

/* A view over [first, end), rounded out to whole pages: both ends lie in mapped pages. */
static int add_view(FDevice *d, const unsigned char *first, const unsigned char *end,
                    fathom_err *err)
{
    uintptr_t a = (uintptr_t)first / GPU_PAGE * GPU_PAGE;
    uintptr_t b = ((uintptr_t)end + GPU_PAGE - 1) / GPU_PAGE * GPU_PAGE;
    if (d->n_views == METAL_VIEWS) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "metal: the model needs more than %d views of %.1f GB over its file",
                       METAL_VIEWS, (double)d->mtl.maxBufferLength / 1e9);
    }
    id<MTLBuffer> v = [d->mtl newBufferWithBytesNoCopy:(void *)a
                                                length:b - a
                                               options:MTLResourceStorageModeShared
                                           deallocator:nil];
    if (!v) {
        return err_set(err, FATHOM_ENOMEM,
                       "metal: the device refuses a view of %.2f GB over the weights",
                       (double)(b - a) / 1e9);
    }
    d->extent[d->n_views] =
        (struct metal_extent){(const unsigned char *)a, (const unsigned char *)b};
    d->view[d->n_views++] = v;
    d->bytes += b - a;
    add_resident(d, v);
    return 0;
}

/* Sorted weights [i, end) in one mapping: views that hold whole tensors. */
static int view_run(FDevice *d, const struct sorted *s, uint32_t i, uint32_t end,
                    fathom_err *err)
{
    uint64_t most = d->mtl.maxBufferLength - 2 * GPU_PAGE;
    while (i < end) {
        const unsigned char *first = s[i].w->data, *last = first;
        uint32_t from = i;
        for (; i < end; i++) {
            const unsigned char *p = s[i].w->data;
            if ((uint64_t)(p + s[i].w->bytes - first) > most) {
                break;
            }
            last = MAX(last, p + s[i].w->bytes);
        }
        if (i == from) {
            return err_set(err, FATHOM_EUNSUPPORTED,
                           "metal: tensor %s has %.2f GB, the device's largest buffer %.2f GB",
                           s[i].w->name, (double)s[i].w->bytes / 1e9,
                           (double)d->mtl.maxBufferLength / 1e9);
        }
        int rc = add_view(d, first, last, err);
        if (rc) {
            return rc;
        }
        for (uint32_t k = from; k < i; k++) {
            uint64_t at = (uint64_t)((const unsigned char *)s[k].w->data -
                                     d->extent[d->n_views - 1].first);
            d->place[s[k].index] = (struct metal_place){d->n_views - 1, at};
        }
    }
    return 0;
}

/* Runs of neighbours: [i, end) of the sorted list. */
static uint32_t run_end(const struct sorted *s, uint32_t n, uint32_t i)
{
    const unsigned char *last = (const unsigned char *)s[i].w->data + s[i].w->bytes;
    for (i++; i < n && (const unsigned char *)s[i].w->data <= last + GAP; i++) {
        last = MAX(last, (const unsigned char *)s[i].w->data + s[i].w->bytes);
    }
    return i;
}
static uint64_t run_bytes(const struct sorted *s, uint32_t i, uint32_t end)
{
    uint64_t n = 0;
    for (; i < end; i++) {
        n += (s[i].w->bytes + 255) / 256 * 256;
    }
    return n;
}

/* Copies the tensors of short runs into view number d->n_views. */
static int copy_runs(FDevice *d, const struct sorted *s, uint32_t n, uint64_t bytes,
                     fathom_err *err)
{
    id<MTLBuffer> b = metal_buffer(d, bytes, "small weights", err);
    if (!b) {
        return FATHOM_ENOMEM;
    }
    uint64_t at = 0;
    for (uint32_t i = 0, end; i < n; i = end) {
        end = run_end(s, n, i);
        if (run_bytes(s, i, end) >= SMALL_EXTENT) {
            continue;
        }
        for (uint32_t k = i; k < end; k++) {
            memcpy((unsigned char *)b.contents + at, s[k].w->data, s[k].w->bytes);
            d->place[s[k].index] = (struct metal_place){d->n_views, at};
            at += (s[k].w->bytes + 255) / 256 * 256;
        }
    }
    d->extent[d->n_views] = (struct metal_extent){NULL, NULL};
    d->view[d->n_views++] = b;
    return 0;
}

static int place_weights(FDevice *d, struct sorted *s, uint32_t n, fathom_err *err)
{
    uint64_t small = 0;
    int rc = 0;
    qsort(s, n, sizeof *s, by_address);
    for (uint32_t i = 0, end; i < n && rc == 0; i = end) {
        end = run_end(s, n, i);
        uint64_t bytes = run_bytes(s, i, end);
        if (bytes < SMALL_EXTENT) {
            small += bytes;
        } else {
            rc = view_run(d, s, i, end, err);
        }
    }
    if (rc == 0 && (small > 0 || d->n_views == 0)) {
        rc = d->n_views < METAL_VIEWS
                 ? copy_runs(d, s, n, small, err)
                 : err_set(err, FATHOM_EUNSUPPORTED,
                           "metal: the model needs more than %d views", METAL_VIEWS);
    }
    return rc;
}

static void metal_weights_free(struct device *dev)
{
    @autoreleasepool {
        FDevice *d = device_of(dev);
        for (uint32_t i = 0; i < d->n_views; i++) {
            metal_drop(d, d->view[i]);
            d->view[i] = nil;
        }
        d->n_views = 0;
        mem_free(d->place);
        d->place = NULL;
    }
}

/* Before a view is made: what was made resident beyond the limit would freeze the machine. */
static int check_working_set(const FDevice *d, const struct op_weight *weights, uint32_t n,
                             fathom_err *err)
{
    uint64_t limit = d->mtl.recommendedMaxWorkingSetSize, bytes = d->bytes;
    for (uint32_t i = 0; i < n; i++) {
        bytes += weights[i].bytes;
    }
    if (bytes + WORKING_SET_MARGIN <= limit) {
        return 0;
    }
    return err_set(
        err, FATHOM_ENOMEM,
        "metal: the weights have %.2f GB and the system grants the GPU %.2f GB (2 GB are left "
        "free); use a smaller file, or raise the limit with: sudo sysctl iogpu.wired_limit_mb=%llu",
        (double)bytes / 1e9, (double)limit / 1e9,
        (unsigned long long)((bytes + 3 * WORKING_SET_MARGIN) >> 20));
}

static int metal_weights_load(struct device *dev, const struct op_weight *weights, uint32_t n,
                              fathom_err *err)
{
    @autoreleasepool {
        FDevice *d = device_of(dev);
        struct sorted *s = mem_calloc((size_t)n + 1, sizeof *s);
        d->place = mem_calloc((size_t)n + 1, sizeof *d->place);
        int rc = s && d->place ? 0 : err_nomem(err, "weight places", n * sizeof *s);
        for (uint32_t i = 0; i < n && rc == 0; i++) {
            s[i] = (struct sorted){&weights[i], i};
        }
        rc = rc ? rc : check_working_set(d, weights, n, err);
        rc = rc ? rc : place_weights(d, s, n, err);
        mem_free(s);
        if (rc) {
            metal_weights_free(dev);
        }
        return rc;
    }
}

static const char *backend_supports(const struct device *dev, const struct program *p,
                                    const struct op *op)
{
    (void)dev;
    return metal_supports(p, op);
}

static void metal_trace(struct device *dev, const struct backend_trace *t)
{
    device_of(dev)->trace = t ? *t : (struct backend_trace){0};
}

const struct backend backend_metal = {
    .name = "metal",
    .probe = metal_probe,
    .open = metal_open,
    .close = metal_close,
    .caps = metal_caps,
    .weights_load = metal_weights_load,
    .weights_free = metal_weights_free,
    .buf_alloc = metal_buf_alloc,
    .buf_free = metal_buf_free,
    .buf_write = metal_buf_write,
    .buf_read = metal_buf_read,
    .buf_copy = metal_buf_copy,
    .buf_map = metal_buf_map,
    .supports = backend_supports,
    .compile = metal_compile,
    .exec_free = metal_exec_free,
    .submit = metal_submit,
    .wait = metal_wait,
    .trace = metal_trace,
};
