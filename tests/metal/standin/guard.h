/* guard.h - memory of the stand-in device that ends at a page nobody may touch: one byte too far
 * is found where it happens, in every build, and named. Under a sanitizer it is plain heap memory:
 * its own red zones do the same. Thread-safe. */
#ifndef STANDIN_GUARD_H
#define STANDIN_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* `bytes` bytes that begin at a multiple of 16, the first `poison` of them 0xFF (NaN); NULL: no
 * memory. */
void *guard_alloc(size_t bytes, size_t poison);
/* false: bytes behind the end (those up to the next multiple of 16) were written. */
bool guard_free(void *p);

/* From now on a lane that touches a guard page, or anything else it must not, ends its dispatch
 * with a message (emu_fault); a host thread that does is named on stderr, and goes to the handler
 * that was installed before. Called with each buffer and before each dispatch, since test programs
 * install handlers of their own. */
void guard_watch(void);

#endif
