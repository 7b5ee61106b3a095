/* resources.m - buffers, and the sets of those that are resident. */
#include "guard.h"
#include "metal_int.h"

/* ---- buffers ---- */

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
    standin_n.buffers_alive--;
    standin_n.buffer_bytes_alive -= n;
    if (owned) {
        if (!guard_free(bytes)) {
            standin_wrong("a buffer of %lu bytes was written behind its end", n);
        }
    } else if (deallocator) {
        deallocator(bytes, n);
    }
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
bool standin_residency;

@implementation SResidencySet
- (void)dealloc
{
    [self removeAllAllocations];
    free(held);
}
- (void)addAllocation:(id<MTLAllocation>)a
{
    if (!a) {
        standin_wrong("nil was added to a residency set");
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
    standin_wrong("removeAllocation: it is not in the set");
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
        standin_wrong("residency is requested for a set with changes that were not committed");
    }
    standin_n.residency_requests++;
}
- (void)endResidency
{
}
@end
