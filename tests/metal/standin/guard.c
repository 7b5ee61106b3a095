/* guard.c - see guard.h. A block is a mapping of its own: a page with its size, the bytes pushed
 * against the end, and a page without access. */
#include "guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "emu.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PLAIN_HEAP 1
#endif
#endif

enum { PAGE = 4096, ALIGN = 16 };

#ifdef PLAIN_HEAP

void *guard_alloc(size_t bytes, size_t poison)
{
    void *p;
    if (posix_memalign(&p, PAGE, bytes)) {
        return NULL;
    }
    memset(p, 0xFF, poison < bytes ? poison : bytes);
    return p;
}

bool guard_free(void *p)
{
    free(p);
    return true;
}

void guard_watch(void)
{
}

#else

struct block { /* at the start of its mapping */
    struct block *next, *before;
    unsigned char *at, *guard;
    size_t bytes, mapped;
};
static struct block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction earlier;

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

void *guard_alloc(size_t bytes, size_t poison)
{
    size_t padded = up(bytes, ALIGN), room = PAGE + up(padded, PAGE);
    unsigned char *map = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return NULL;
    }
    if (mprotect(map + room, PAGE, PROT_NONE)) {
        munmap(map, room + PAGE);
        return NULL;
    }
    struct block *b = (struct block *)(void *)map;
    *b = (struct block){
        .at = map + room - padded, .guard = map + room, .bytes = bytes, .mapped = room + PAGE};
    memset(b->at, 0xFF, poison < bytes ? poison : bytes);
    memset(b->at + bytes, 0xFF, padded - bytes);
    pthread_mutex_lock(&lock);
    b->next = blocks;
    if (blocks) {
        blocks->before = b;
    }
    blocks = b;
    pthread_mutex_unlock(&lock);
    return b->at;
}

/* The block that begins at p: its record lies in the first page of the mapping. */
static struct block *block_at(const void *p)
{
    struct block *b = blocks;
    while (b && b->at != p) {
        b = b->next;
    }
    return b;
}

bool guard_free(void *p)
{
    if (!p) {
        return true;
    }
    pthread_mutex_lock(&lock);
    struct block *b = block_at(p);
    if (!b) {
        abort(); /* not from guard_alloc */
    }
    if (b->next) {
        b->next->before = b->before;
    }
    *(b->before ? &b->before->next : &blocks) = b->next;
    pthread_mutex_unlock(&lock);
    bool clean = true;
    for (unsigned char *q = b->at + b->bytes; q < b->guard; q++) {
        clean = clean && *q == 0xFF;
    }
    munmap(b, b->mapped);
    return clean;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    const unsigned char *at = info->si_addr;
    pthread_mutex_lock(&lock);
    struct block *b = blocks;
    while (b && !(at >= b->guard && at < b->guard + PAGE)) {
        b = b->next;
    }
    char text[160];
    if (b) {
        snprintf(text, sizeof text,
                 "byte %zu of a buffer, or a binding, of %zu bytes is touched: behind its end",
                 (size_t)(at - b->at), b->bytes);
    } else if (emu_is_tg_end(at)) {
        snprintf(text, sizeof text, "threadgroup memory is touched behind its end");
    } else {
        snprintf(text, sizeof text, "address %p is touched, which is in no buffer",
                 info->si_addr);
    }
    pthread_mutex_unlock(&lock);
    emu_fault(text); /* does not return if this thread runs a lane */
    fprintf(stderr, "metal: host: %s\n", text);
    sigaction(SIGSEGV, &earlier, NULL); /* the access happens again, and goes to that one */
}

void guard_watch(void)
{
    struct sigaction now;
    sigaction(SIGSEGV, NULL, &now);
    if (now.sa_sigaction != on_fault) {
        /* Not blocked while it runs: it may leave for good, to the scheduler's stack. */
        struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
        earlier = now;
        sigaction(SIGSEGV, &ours, NULL);
    }
}

#endif
