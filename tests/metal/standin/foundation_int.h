/* foundation_int.h - what the stand-in's own files add to Foundation. */
#import <Foundation/Foundation.h>

@interface NSError ()
+ (NSError *)standinWithCode:(NSInteger)code text:(const char *)text;
@end
