/* mem.h - allocation: checked sizes, an arena for trees that die together, and the guard that
 * proves that nothing allocates inside the token loop.
 * Thread rule: an arena belongs to one thread at a time; mem_alloc and friends are thread-safe.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* malloc/realloc of n elements of `size` bytes; NULL on overflow or when memory is out. n or
 * size 0 gives a valid pointer. Release with mem_free. mem_calloc zeroes. */
void *mem_alloc(size_t n, size_t size);
void *mem_calloc(size_t n, size_t size);
void *mem_realloc(void *p, size_t n, size_t size);
void mem_free(void *p);
char *mem_strdup(const char *s);

/* Aligned to `align` (a power of two, >= sizeof(void *)), not zeroed; release with mem_free. */
void *mem_alloc_aligned(size_t align, size_t bytes);

/* For large blocks that are read through: begins at a huge page (2 MiB) and asks the system for
 * such pages, which saves most of the page walks of a stream; where there are none it is an
 * ordinary block. Not zeroed; release with mem_free. */
void *mem_alloc_huge(size_t bytes);
/* The same wish for memory that is mapped already: whole huge pages within [p, p + bytes). A wish:
 * nothing is reported if the system has none. */
void mem_want_huge(void *p, size_t bytes);

/* Between guard_begin and guard_end every mem_* allocation of this thread is counted as a bug;
 * guard_end returns how many there were. Used around submit/wait by tests and debug builds. */
void mem_guard_begin(void);
unsigned mem_guard_end(void);

/* Bump allocator: blocks are released together. Zero-initialise ({0}) or arena_init with a
 * first block size; under AddressSanitizer allocations are separated by red zones. */
struct arena {
    struct arena_block *head; /* newest block; owned */
    size_t used_bytes;        /* sum over all allocations, for limits */
};
void *arena_alloc(struct arena *a, size_t bytes); /* 16-aligned, zeroed; NULL when out */
char *arena_strndup(struct arena *a, const char *s, size_t n); /* adds a NUL */
void arena_fini(struct arena *a);

/* Overflow-checked arithmetic on sizes: true when the result fits. */
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline uint64_t align_up(uint64_t x, uint64_t align) /* align: a power of two */
{
    return (x + align - 1) & ~(align - 1);
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
