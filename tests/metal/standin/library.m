/* library.m - kernels, their function constants, pipelines and the archive of pipelines. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "metal_int.h"

/* ---- libraries and pipelines ---- */

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
        standin_wrong("function constant %lu of type %lu", index, type);
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
        standin_set_error(error, "the library has no such kernel");
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
    return standin_now.max_threads ? standin_now.max_threads : EMU_THREADS;
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

/* What a pipeline is, as an archive sees it: its kernel and the constants. */
static uint64_t key_of(const SFunction *f)
{
    uint64_t h = 14695981039346656037u;
    const char *name = f->kernel->name;
    for (size_t i = 0; i < strlen(name); i++) {
        h = (h ^ (unsigned char)name[i]) * 1099511628211u;
    }
    for (int c = 0; c < MAX_CONSTANTS; c++) {
        for (size_t i = 0; i < f->value_bytes[c]; i++) {
            h = (h ^ f->value[c][i] ^ (uint64_t)c << 8) * 1099511628211u;
        }
    }
    return h;
}

@implementation SArchive
- (void)dealloc
{
    free(key);
}
- (void)keep:(uint64_t)k
{
    if (n == cap) {
        cap = cap ? 2 * cap : 64;
        key = realloc(key, cap * sizeof *key);
    }
    key[n++] = k;
}
- (bool)has:(SFunction *)f
{
    for (NSUInteger i = 0; i < n; i++) {
        if (key[i] == key_of(f)) {
            return true;
        }
    }
    return false;
}
- (bool)load:(NSURL *)url
{
    FILE *f = fopen(url.path.UTF8String, "rb");
    uint64_t k;
    size_t got;
    if (!f) {
        return false;
    }
    while ((got = fread(&k, 1, sizeof k, f)) == sizeof k) {
        [self keep:k];
    }
    fclose(f);
    return got == 0;
}
- (BOOL)addComputePipelineFunctionsWithDescriptor:(MTLComputePipelineDescriptor *)d
                                            error:(NSError **)error
{
    if (!d.computeFunction) {
        standin_set_error(error, "no function");
        return NO;
    }
    [self keep:key_of((SFunction *)d.computeFunction)];
    return YES;
}
- (BOOL)serializeToURL:(NSURL *)url error:(NSError **)error
{
    FILE *f = fopen(url.path.UTF8String, "wb");
    if (!f) {
        standin_set_error(error, "the archive cannot be written");
        return NO;
    }
    fwrite(key, sizeof *key, n, f);
    fclose(f);
    standin_n.archives_written++;
    return YES;
}
@end
