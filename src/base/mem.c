/* mem.c - see mem.h. One place calls malloc, so that the no-alloc guard and failure tests see
 * every allocation of the library. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) __asan_poison_memory_region((p), (n))
#define UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#define RED_ZONE 16
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#define RED_ZONE 0
#endif

static _Thread_local bool guard_on;
static _Thread_local unsigned guard_count;

void mem_guard_begin(void)
{
    guard_on = true;
    guard_count = 0;
}

unsigned mem_guard_end(void)
{
    guard_on = false;
    return guard_count;
}

static void note(void)
{
    if (guard_on) {
        guard_count++;
    }
}

void *mem_realloc(void *p, size_t n, size_t size)
{
    size_t bytes;
    note();
    if (!size_mul(n, size, &bytes)) {
        return NULL;
    }
    return realloc(p, bytes ? bytes : 1);
}

void *mem_alloc(size_t n, size_t size)
{
    return mem_realloc(NULL, n, size);
}

void *mem_calloc(size_t n, size_t size)
{
    note();
    return calloc(n ? n : 1, size ? size : 1);
}

void mem_free(void *p)
{
    free(p);
}

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = mem_alloc(n, 1);
    return p ? memcpy(p, s, n) : NULL;
}

void *mem_alloc_aligned(size_t align, size_t bytes)
{
    void *p = NULL;
    note();
    return posix_memalign(&p, align, bytes ? bytes : 1) == 0 ? p : NULL;
}

enum { HUGE_PAGE = 2 << 20 };

void *mem_alloc_huge(size_t bytes)
{
    void *p = mem_alloc_aligned(bytes >= HUGE_PAGE ? HUGE_PAGE : 4096, bytes);
    if (p) {
        mem_want_huge(p, bytes);
    }
    return p;
}

void mem_want_huge(void *p, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    uintptr_t first = align_up((uintptr_t)p, HUGE_PAGE);
    uintptr_t end = ((uintptr_t)p + bytes) / HUGE_PAGE * HUGE_PAGE;
    if (first < end) {
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE); /* a wish */
    }
#else
    (void)p;
    (void)bytes;
#endif
}

struct arena_block {
    struct arena_block *next;
    size_t cap, used;
    max_align_t data[];
};

enum { ARENA_FIRST = 4096, ARENA_MAX = 1 << 20 };

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t need;
    if (!size_add(bytes, RED_ZONE + 15, &need)) {
        return NULL;
    }
    need &= ~(size_t)15;
    struct arena_block *b = a->head;
    if (!b || b->cap - b->used < need) {
        size_t cap = b ? MIN(b->cap * 2, (size_t)ARENA_MAX) : ARENA_FIRST;
        cap = MAX(cap, need);
        size_t total;
        if (!size_add(cap, sizeof *b, &total) || !(b = mem_calloc(1, total))) {
            return NULL;
        }
        b->next = a->head;
        b->cap = cap;
        POISON(b->data, cap);
        a->head = b;
    }
    char *p = (char *)b->data + b->used;
    b->used += need;
    a->used_bytes += bytes;
    UNPOISON(p, bytes);
    return p; /* zero: blocks are calloc'ed and never reused */
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *p = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    return p ? memcpy(p, s, n) : NULL;
}

void arena_fini(struct arena *a)
{
    while (a->head) {
        struct arena_block *b = a->head;
        a->head = b->next;
        UNPOISON(b->data, b->cap);
        mem_free(b);
    }
    a->used_bytes = 0;
}
