/* foundation.m - the stand-in classes of Foundation/Foundation.h. */
#import <Foundation/Foundation.h>

#include <stdlib.h>
#include <string.h>

#include "foundation_int.h"
#include "runtime.h"

@implementation NSObject
+ (instancetype)alloc
{
    return (__bridge_transfer id)standin_object_new((__bridge void *)self);
}
+ (instancetype)new
{
    return [[self alloc] init];
}
- (instancetype)init
{
    return self;
}
- (void)dealloc
{
}
@end

@interface HeapString : NSString {
    char *text;
}
@end
@implementation HeapString
- (instancetype)initWithText:(const char *)s
{
    text = strdup(s);
    return self;
}
- (void)dealloc
{
    free(text);
}
- (const char *)UTF8String
{
    return text;
}
@end

@implementation NSString
+ (instancetype)stringWithUTF8String:(const char *)text
{
    return (NSString *)[[HeapString alloc] initWithText:text];
}
- (const char *)UTF8String
{
    return "";
}
- (NSUInteger)length
{
    return strlen(self.UTF8String);
}
- (BOOL)isEqualToString:(NSString *)other
{
    return strcmp(self.UTF8String, other.UTF8String) == 0;
}
@end

@implementation NSConstantString
- (const char *)UTF8String
{
    return bytes;
}
@end

@implementation NSURL {
    NSString *_path;
}
+ (NSURL *)fileURLWithPath:(NSString *)path
{
    NSURL *u = [[NSURL alloc] init];
    u->_path = path;
    return u;
}
- (NSString *)path
{
    return _path;
}
@end

@implementation NSError {
    NSInteger _code;
    NSString *_text;
}
- (NSInteger)code
{
    return _code;
}
- (NSString *)localizedDescription
{
    return _text;
}
+ (NSError *)standinWithCode:(NSInteger)code text:(const char *)text
{
    NSError *e = [[NSError alloc] init];
    e->_code = code;
    e->_text = [NSString stringWithUTF8String:text];
    return e;
}
@end

@implementation NSArray {
    id _object;
}
+ (instancetype)arrayWithObject:(id)object
{
    NSArray *a = [[NSArray alloc] init];
    a->_object = object;
    return a;
}
- (NSUInteger)count
{
    return 1;
}
- (id)objectAtIndex:(NSUInteger)i
{
    (void)i;
    return _object;
}
@end
