/* Foundation.h - stand-in for the part of Apple's framework that src/backend/metal uses: names,
 * types and selectors as in Apple's documentation. Only tests on Linux include it. */
#ifndef STANDIN_FOUNDATION_H
#define STANDIN_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned long NSUInteger;
typedef long NSInteger;
typedef bool BOOL;
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#define nil ((id)0)
#define NS_ENUM(type, name) \
    enum name : type name;  \
    enum name : type
#define NS_OPTIONS(type, name) \
    enum name : type name;     \
    enum name : type

@protocol NSObject
@end
__attribute__((objc_root_class))
@interface NSObject<NSObject> {
    void *isa;
}
+ (instancetype)alloc;
+ (instancetype)new;
- (instancetype)init;
@end

@interface NSString : NSObject
+ (instancetype)stringWithUTF8String:(const char *)text;
@property(readonly) const char *UTF8String;
@property(readonly) NSUInteger length;
- (BOOL)isEqualToString:(NSString *)other;
@end
@interface NSConstantString : NSString {
    const char *bytes;
    unsigned n;
}
@end

@interface NSURL : NSObject
+ (NSURL *)fileURLWithPath:(NSString *)path;
@property(readonly) NSString *path;
@end

@interface NSError : NSObject
@property(readonly) NSInteger code;
@property(readonly) NSString *localizedDescription;
@end

@interface NSArray<T> : NSObject
+ (instancetype)arrayWithObject:(T)object;
@property(readonly) NSUInteger count;
- (T)objectAtIndex:(NSUInteger)i;
@end

#endif
