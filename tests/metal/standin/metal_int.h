/* metal_int.h - what the files of the stand-in device share: its objects, what was asked of it, and
 * how it says that something is wrong. device.m: the device; resources.m: buffers and residency;
 * library.m: kernels and pipelines; commands.m: what is encoded, and how it runs. */
#ifndef STANDIN_METAL_INT_H
#define STANDIN_METAL_INT_H

#import <Metal/Metal.h>

#include <stdlib.h>
#include <string.h>

#include "foundation_int.h"
#include "standin.h"

enum { MAX_CONSTANTS = 64 };

@class SCommandBuffer;

extern struct standin_options standin_now;
extern struct standin_counts standin_n;
extern bool standin_residency; /* some queue has a set: then every bound buffer must be in it */

/* Records a fault for standin_fault() and prints it. */
void standin_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Counts an injected fault down; true: now. */
bool standin_fails(uint32_t *n);
void standin_set_error(NSError **error, const char *text);

@interface SBuffer : NSObject <MTLBuffer> {
  @public
    unsigned char *bytes;
    NSUInteger n;
    bool owned, resident;
    void (^deallocator)(void *, NSUInteger);
}
@end

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

@interface SArchive : NSObject <MTLBinaryArchive> {
  @public
    uint64_t *key; /* of each pipeline; the file is these */
    NSUInteger n, cap;
}
- (bool)has:(SFunction *)f;
- (bool)load:(NSURL *)url; /* false: not an archive */
@end

@interface SResidencySet : NSObject <MTLResidencySet> {
    void **held; /* retained, as the real one does */
    NSUInteger n, cap;
    bool changed;
}
@end

@interface SQueue : NSObject <MTLCommandQueue> {
    SCommandBuffer *last;
}
@end

#endif
