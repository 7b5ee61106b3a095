/* runtime.h - what the stand-in classes and tests need of runtime.c. */
#ifndef STANDIN_RUNTIME_H
#define STANDIN_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

void *standin_object_new(void *cls); /* zeroed, count 1 */
long standin_live_objects(void);     /* objects and heap blocks that were not freed */

void *nil_method(void);
void *_Block_copy(const void *block);
void _Block_release(const void *block);
extern void *_NSConcreteStackBlock[32], *_NSConcreteMallocBlock[32],
    *_NSConcreteGlobalBlock[32];

#endif
