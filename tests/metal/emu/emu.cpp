/* emu.cpp - see emu.h. One threadgroup at a time per worker thread: its GPU threads are fibers
 * that run until they reach a barrier or a simdgroup operation, or end.
 *
 * The scheduler gives every simdgroup its turn: its lanes run in the chosen order until each
 * waits or is done; if all live lanes wait at the same simdgroup operation they go on. When
 * every thread of the group waits at the same barrier, all go on. Anything else can never go on
 * and is an error of the kernel, named by its source line.
 *
 * Values that lanes exchange are kept for two generations: nobody reaches generation g + 2
 * before all have left g. With the thread sanitizer, fibers are announced to it, a switch alone
 * orders nothing, and barriers do: two sync objects in turn, since with one a late thread would
 * also acquire what a fast one released at its next barrier. */
#include "emu.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

/* ---- sanitizers: their fiber interface, if the process has one ---- */

extern "C" {
void *__tsan_get_current_fiber(void) __attribute__((weak));
void *__tsan_create_fiber(unsigned flags) __attribute__((weak));
void __tsan_destroy_fiber(void *fiber) __attribute__((weak));
void __tsan_switch_to_fiber(void *fiber, unsigned flags) __attribute__((weak));
void __tsan_acquire(void *at) __attribute__((weak));
void __tsan_release(void *at) __attribute__((weak));
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size)
    __attribute__((weak));
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size)
    __attribute__((weak));
/* Read by the address sanitizer at its start: a second stack for each of a dispatch's thousands of
 * fibers would take most of the time. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=0";
}
}

/* ---- fibers ---- */

extern "C" void emu_switch(void **save_sp, void *to_sp);
#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");
enum { SAVED_WORDS = 6 };
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x2, sp
    str x2, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emu_switch,.-emu_switch
)");
#else
#error "emu.cpp needs a fiber switch for this processor"
#endif

namespace
{

enum state : uint8_t { RUNNABLE, AT_SIMD, AT_BARRIER, DONE };

/* Not a power of two: equal spacing would map all stacks to the same cache sets. */
constexpr size_t STACK_BYTES = 64 * 1024, STACK_STEP = STACK_BYTES + 320, PAGE = 4096;

struct fiber {
    void *sp;
    void *tsan;
    void *asan; /* its fake stack while it does not run */
    emu_lane lane;
    state st;
    int site;
};

struct exchange_room {
    unsigned char value[2][EMU_SIMD][EMU_VALUE];
    uint32_t active;
    unsigned generation; /* released so far */
    char sync[2];        /* of its barriers, for the thread sanitizer */
};

struct tg_block { /* a threadgroup variable inside a kernel */
    int id;
    void *at;
    size_t bytes;
};

struct worker {
    const emu_dispatch *d;
    std::vector<fiber> fibers;
    std::vector<exchange_room> simd;
    unsigned char *stacks = nullptr, *region = nullptr; /* region: threadgroup memory */
    void *main_sp = nullptr, *main_tsan = nullptr, *main_asan = nullptr;
    const void *main_bottom = nullptr;
    size_t main_size = 0;
    fiber *cur = nullptr;
    /* Turn of the running simdgroup: its lanes in order, and whose turn it is. */
    uint32_t order[EMU_SIMD], first = 0, n_lanes = 0, turn = 0;
    uint32_t n = 0; /* threads of the running group */
    void *tg[EMU_LENGTHS];
    std::vector<tg_block> local;
    size_t tg_used = 0;
    unsigned barriers = 0;
    char sync[2], end_sync; /* what the thread sanitizer is told about */
    uint64_t rng = 1;
    bool failed = false;
};

emu_options g_options;
std::mutex g_fail_lock;
char g_message[512];
std::atomic<bool> g_failed;
thread_local worker *t_worker;

bool with_tsan()
{
    return __tsan_create_fiber != nullptr;
}
bool with_asan()
{
    return __sanitizer_start_switch_fiber != nullptr;
}

void report(int site, const char *format, ...)
{
    std::lock_guard<std::mutex> hold(g_fail_lock);
    if (g_failed.exchange(true)) {
        return; /* the first one is the one to read */
    }
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (site) {
        snprintf(g_message, sizeof g_message, "line %d column %d: %s", site / 256, site % 256,
                 text);
    } else {
        snprintf(g_message, sizeof g_message, "%s", text);
    }
}

/* ---- switching ---- */

void to_main(worker *w, bool ends)
{
    fiber *f = w->cur;
    if (with_asan()) {
        __sanitizer_start_switch_fiber(ends ? nullptr : &f->asan, w->main_bottom, w->main_size);
    }
    if (with_tsan()) {
        __tsan_release(
            &w->end_sync); /* only the scheduler acquires it, when the group has ended */
        __tsan_switch_to_fiber(w->main_tsan, 1);
    }
    emu_switch(&f->sp, w->main_sp);
    if (with_asan()) {
        __sanitizer_finish_switch_fiber(f->asan, nullptr, nullptr);
    }
}

/* The running fiber waits: the next lane that can run goes on, without a detour if nobody watches. */
void wait_turn(worker *w)
{
    fiber *f = w->cur;
    while (!with_tsan() && !with_asan() && !w->failed && ++w->turn < w->n_lanes) {
        fiber *next = &w->fibers[w->first + w->order[w->turn]];
        if (next->st == RUNNABLE) {
            w->cur = next;
            emu_switch(&f->sp, next->sp);
            return;
        }
    }
    to_main(w, false);
}

extern "C" void emu_fiber_main(void)
{
    worker *w = t_worker;
    if (with_asan()) {
        __sanitizer_finish_switch_fiber(nullptr, &w->main_bottom, &w->main_size);
    }
    const emu_kernel *k = w->d->kernel;
    k->invoke(k->fn, &w->cur->lane, k->args);
    w = t_worker;
    w->cur->st = DONE;
    to_main(w, true);
    abort(); /* a fiber that is done is never resumed */
}

unsigned char *stack_of(worker *w, size_t i)
{
    return w->stacks + i * STACK_STEP;
}

void fiber_start(worker *w, size_t i)
{
    fiber *f = &w->fibers[i];
    unsigned char *bottom = stack_of(w, i);
    uintptr_t top = (uintptr_t)(bottom + STACK_BYTES) & ~(uintptr_t)15;
    void **sp = (void **)top;
#if defined(__x86_64__)
    *--sp = nullptr; /* so that the stack is aligned as after a call */
    *--sp = (void *)emu_fiber_main;
    for (int r = 0; r < SAVED_WORDS; r++) {
        *--sp = nullptr;
    }
#else
    sp -= 20;
    memset(sp, 0, 160);
    sp[11] = (void *)emu_fiber_main; /* x30 */
#endif
    f->sp = sp;
    f->st = RUNNABLE;
    f->site = 0;
    f->asan = nullptr;
    f->tsan = with_tsan() ? __tsan_create_fiber(0) : nullptr;
}

void resume(worker *w, size_t i)
{
    fiber *f = &w->fibers[i];
    w->cur = f;
    if (with_asan()) {
        __sanitizer_start_switch_fiber(&w->main_asan, stack_of(w, i), STACK_BYTES);
    }
    if (with_tsan()) {
        __tsan_switch_to_fiber(f->tsan, 1);
    }
    emu_switch(&w->main_sp, f->sp);
    if (with_asan()) {
        __sanitizer_finish_switch_fiber(w->main_asan, nullptr, nullptr);
    }
    w->cur = nullptr;
}

/* Leaves the running fiber for good: the dispatch has failed. */
void give_up(worker *w)
{
    w->failed = true;
    to_main(w, false);
    abort();
}

/* ---- what kernels call ---- */

/* Not memcpy: sanitizers watch that one, and this exchange is not memory traffic of the kernel. */
void copy_quietly(unsigned char *to, const void *from, size_t n)
{
    const unsigned char *p = (const unsigned char *)from;
    for (size_t i = 0; i < n; i++) {
        to[i] = p[i];
        asm volatile("" ::: "memory"); /* keeps the compiler from making it a call of memcpy */
    }
}

const unsigned char (*api_exchange(const void *value, size_t n, int site, uint32_t *active,
                                   uint32_t *self))[EMU_VALUE]
{
    worker *w = t_worker;
    fiber *f = w->cur;
    uint32_t index = f->lane.builtin[EMU_THREAD_INDEX_IN_THREADGROUP][0];
    exchange_room *room = &w->simd[index / EMU_SIMD];
    unsigned side = room->generation & 1;
    if (n > EMU_VALUE) {
        report(site, "a value of %zu bytes is exchanged, at most %d are possible", n,
               EMU_VALUE);
        give_up(w);
    }
    copy_quietly(room->value[side][index % EMU_SIMD], value, n);
    f->st = AT_SIMD;
    f->site = site;
    wait_turn(w);
    *self = index % EMU_SIMD;
    *active = room->active;
    return room->value[side];
}

void api_barrier(bool whole_group, int site)
{
    worker *w = t_worker;
    fiber *f = w->cur;
    f->st = whole_group ? AT_BARRIER : AT_SIMD;
    f->site = site;
    uint32_t index = f->lane.builtin[EMU_THREAD_INDEX_IN_THREADGROUP][0];
    exchange_room *room = &w->simd[index / EMU_SIMD];
    char *sync = whole_group ? &w->sync[w->barriers & 1] : &room->sync[room->generation & 1];
    if (with_tsan()) {
        __tsan_release(sync);
    }
    wait_turn(w);
    if (with_tsan()) {
        __tsan_acquire(sync);
    }
}

/* With the address sanitizer an allocation of its own; else a piece of the worker's region, from its
 * end down, so that the first one ends at a page nobody may touch. */
void *tg_alloc(worker *w, size_t bytes, size_t at)
{
    return with_asan() ? (unsigned char *)malloc(bytes) : w->region + EMU_TG_BYTES - at - bytes;
}

void *api_tg_local(int id, size_t bytes)
{
    worker *w = t_worker;
    for (const tg_block &b : w->local) {
        if (b.id == id) {
            return b.at;
        }
    }
    size_t padded = (bytes + 15) & ~(size_t)15;
    w->tg_used += padded;
    if (w->tg_used > EMU_TG_BYTES) {
        report(w->cur->site, "threadgroup memory: %zu bytes, %d are allowed", w->tg_used,
               EMU_TG_BYTES);
        give_up(w);
    }
    void *at = tg_alloc(w, padded, w->tg_used - padded);
    for (size_t i = 0; i < padded; i++) {
        ((volatile unsigned char *)at)[i] = 0xFF; /* NaN */
    }
    w->local.push_back({id, at, padded});
    return at;
}

void api_fail(const char *message, int site)
{
    report(site, "%s", message);
    give_up(t_worker);
}

const emu_api g_api = {api_exchange, api_barrier, api_tg_local, api_fail};

/* ---- one threadgroup ---- */

uint32_t random_below(worker *w, uint32_t n)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return (uint32_t)(w->rng >> 11) % n;
}

void make_order(worker *w, uint32_t *order, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        order[i] = g_options.order == EMU_REVERSE ? n - 1 - i : i;
    }
    for (uint32_t i = n; g_options.order == EMU_RANDOM && i > 1; i--) {
        uint32_t j = random_below(w, i), x = order[i - 1];
        order[i - 1] = order[j];
        order[j] = x;
    }
}

/* Runs the lanes of one simdgroup as far as they go; true if anything moved. */
bool run_simd(worker *w, uint32_t simd)
{
    uint32_t first = simd * EMU_SIMD, n = w->n - first < EMU_SIMD ? w->n - first : EMU_SIMD;
    bool moved = false;
    for (;;) {
        make_order(w, w->order, n);
        w->first = first;
        w->n_lanes = n;
        for (w->turn = 0; w->turn < n && !w->failed; w->turn++) { /* lanes move it on, too */
            uint32_t i = first + w->order[w->turn];
            if (w->fibers[i].st == RUNNABLE) {
                resume(w, i);
                moved = true;
            }
        }
        if (w->failed || g_failed) {
            return false;
        }
        uint32_t live = 0, waiting = 0, mask = 0;
        int site = 0, other = 0;
        for (uint32_t i = 0; i < n; i++) {
            const fiber *f = &w->fibers[first + i];
            live += f->st != DONE;
            if (f->st == AT_SIMD) {
                waiting++;
                mask |= 1u << i;
                other = site && f->site != site ? f->site : other;
                site = site ? site : f->site;
            }
        }
        if (waiting == 0 || waiting < live) {
            return moved; /* those at a barrier may be released by others */
        }
        if (other) {
            report(site,
                   "lanes of a simdgroup meet at different simdgroup operations (the other "
                   "at line %d column %d)",
                   other / 256, other % 256);
            w->failed = true;
            return false;
        }
        w->simd[simd].active = mask;
        w->simd[simd].generation++;
        for (uint32_t i = 0; i < n; i++) {
            if (w->fibers[first + i].st == AT_SIMD) {
                w->fibers[first + i].st = RUNNABLE;
            }
        }
        moved = true;
    }
}

/* All threads stand still: a barrier they share, the end, or an error. */
bool release_barrier(worker *w)
{
    uint32_t done = 0;
    int site = 0, other = 0, simd_site = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const fiber *f = &w->fibers[i];
        done += f->st == DONE;
        if (f->st == AT_BARRIER) {
            other = site && f->site != site ? f->site : other;
            site = site ? site : f->site;
        } else if (f->st == AT_SIMD) {
            simd_site = f->site;
        }
    }
    if (done == w->n) {
        return false;
    }
    if (simd_site) {
        report(simd_site, "a simdgroup operation is not reached by all live lanes");
    } else if (done > 0) {
        report(site, "a barrier is not reached by all threads: %u have ended", done);
    } else if (other) {
        report(site, "threads wait at different barriers (the other at line %d column %d)",
               other / 256, other % 256);
    } else {
        w->barriers++;
        for (uint32_t i = 0; i < w->n; i++) {
            w->fibers[i].st = RUNNABLE;
        }
        return true;
    }
    w->failed = true;
    return false;
}

void set3(uint32_t *to, uint32_t x, uint32_t y, uint32_t z)
{
    to[0] = x;
    to[1] = y;
    to[2] = z;
}

void prepare_lanes(worker *w, const uint32_t at[3], const uint32_t size[3])
{
    const emu_dispatch *d = w->d;
    for (uint32_t i = 0; i < w->n; i++) {
        emu_lane *l = &w->fibers[i].lane;
        uint32_t x = i % size[0], y = i / size[0] % size[1], z = i / size[0] / size[1];
        const uint32_t *g = d->group_size;
        set3(l->builtin[EMU_THREAD_POSITION_IN_GRID], at[0] * g[0] + x, at[1] * g[1] + y,
             at[2] * g[2] + z);
        set3(l->builtin[EMU_THREADGROUP_POSITION_IN_GRID], at[0], at[1], at[2]);
        set3(l->builtin[EMU_THREAD_POSITION_IN_THREADGROUP], x, y, z);
        set3(l->builtin[EMU_THREAD_INDEX_IN_THREADGROUP], i, i, i);
        set3(l->builtin[EMU_SIMDGROUP_INDEX_IN_THREADGROUP], i / EMU_SIMD, 0, 0);
        set3(l->builtin[EMU_THREAD_INDEX_IN_SIMDGROUP], i % EMU_SIMD, 0, 0);
        set3(l->builtin[EMU_THREADS_PER_THREADGROUP], size[0], size[1], size[2]);
        set3(l->builtin[EMU_THREADGROUPS_PER_GRID], d->groups[0], d->groups[1], d->groups[2]);
        set3(l->builtin[EMU_THREADS_PER_GRID], d->threads[0], d->threads[1], d->threads[2]);
        set3(l->builtin[EMU_SIMDGROUPS_PER_THREADGROUP], (w->n + EMU_SIMD - 1) / EMU_SIMD, 0,
             0);
        set3(l->builtin[EMU_THREADS_PER_SIMDGROUP], EMU_SIMD, 0, 0);
        l->buffer = d->buffer;
        l->tg_memory = w->tg;
    }
}

void tg_memory_make(worker *w)
{
    w->tg_used = 0;
    for (int i = 0; i < EMU_LENGTHS; i++) {
        uint32_t n = w->d->tg_bytes[i];
        w->tg[i] = nullptr;
        if (n) {
            w->tg[i] = tg_alloc(w, n, w->tg_used);
            for (uint32_t b = 0; b < n; b++) {
                ((volatile unsigned char *)w->tg[i])[b] = 0xFF;
            }
            w->tg_used += n;
        }
    }
}

void tg_memory_drop(worker *w)
{
    for (void *p : w->tg) {
        free(with_asan() ? p : nullptr);
    }
    for (const tg_block &b : w->local) {
        free(with_asan() ? b.at : nullptr);
    }
    w->local.clear();
}

unsigned char *map_pages(size_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        abort();
    }
    return (unsigned char *)p;
}

void stacks_make(worker *w)
{
    w->stacks = map_pages(EMU_THREADS * STACK_STEP);
    if (!with_asan()) {
        w->region = map_pages(EMU_TG_BYTES + PAGE);
        if (mprotect(w->region + EMU_TG_BYTES, PAGE, PROT_NONE)) {
            abort();
        }
    }
}

void stacks_drop(worker *w)
{
    munmap(w->stacks, EMU_THREADS * STACK_STEP);
    if (w->region) {
        munmap(w->region, EMU_TG_BYTES + PAGE);
    }
}

void run_group(worker *w, uint32_t index)
{
    const emu_dispatch *d = w->d;
    uint32_t at[3] = {index % d->groups[0], index / d->groups[0] % d->groups[1],
                      index / d->groups[0] / d->groups[1]};
    uint32_t size[3];
    for (int i = 0; i < 3; i++) { /* the last threadgroup of a ragged grid is smaller */
        uint32_t left = d->threads[i] - at[i] * d->group_size[i];
        size[i] = left < d->group_size[i] ? left : d->group_size[i];
    }
    w->n = size[0] * size[1] * size[2];
    w->barriers = 0;
    if (with_tsan()) { /* memory of the last group must not look shared with this one */
        stacks_drop(w);
        stacks_make(w);
    }
    tg_memory_make(w);
    prepare_lanes(w, at, size);
    for (exchange_room &r : w->simd) {
        r.generation = 0;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        fiber_start(w, i);
    }
    uint32_t n_simd = (w->n + EMU_SIMD - 1) / EMU_SIMD, order[EMU_THREADS / EMU_SIMD];
    do {
        bool moved = true;
        while (moved && !w->failed && !g_failed) {
            moved = false;
            make_order(w, order, n_simd);
            for (uint32_t i = 0; i < n_simd && !w->failed && !g_failed; i++) {
                moved |= run_simd(w, order[i]);
            }
        }
    } while (!w->failed && !g_failed && release_barrier(w));
    for (uint32_t i = 0; i < w->n; i++) {
        if (with_tsan()) {
            __tsan_destroy_fiber(w->fibers[i].tsan);
        }
    }
    tg_memory_drop(w);
}

void work(const emu_dispatch *d, std::atomic<uint32_t> *next, uint32_t n_groups, uint64_t seed)
{
    worker w;
    w.d = d;
    w.rng = seed * 0x9E3779B97F4A7C15u + 1;
    w.fibers.resize(EMU_THREADS);
    w.simd.resize(EMU_THREADS / EMU_SIMD);
    w.main_tsan = with_tsan() ? __tsan_get_current_fiber() : nullptr;
    stacks_make(&w);
    t_worker = &w;
    for (uint32_t i;
         !g_failed && (i = next->fetch_add(1, std::memory_order_relaxed)) < n_groups;) {
        run_group(&w, i);
    }
    if (with_tsan()) { /* not after each group: nothing orders the groups of a dispatch */
        __tsan_acquire(&w.end_sync);
    }
    t_worker = nullptr;
    stacks_drop(&w);
}

/* ---- a dispatch ---- */

/* What the call got wrong, before anything runs. */
bool check(emu_dispatch *d)
{
    uint64_t threads = 1, tg = 0;
    for (int i = 0; i < 3; i++) {
        threads *= d->group_size[i];
        if (d->whole_groups) {
            d->threads[i] = d->groups[i] * d->group_size[i];
        } else if (d->group_size[i]) {
            d->groups[i] = (d->threads[i] + d->group_size[i] - 1) / d->group_size[i];
        }
    }
    if (threads == 0 || threads > EMU_THREADS) {
        report(0, "%s: %llu threads in a threadgroup, 1 to %d are allowed", d->kernel->name,
               (unsigned long long)threads, EMU_THREADS);
        return false;
    }
    for (uint32_t n : d->tg_bytes) {
        tg += n;
        if (n % 16) {
            report(0, "%s: threadgroup memory of %u bytes, not a multiple of 16",
                   d->kernel->name, n);
            return false;
        }
    }
    if (tg > EMU_TG_BYTES) {
        report(0, "%s: threadgroup memory of %llu bytes, %d are allowed", d->kernel->name,
               (unsigned long long)tg, EMU_TG_BYTES);
        return false;
    }
    for (int i = 0; i < d->kernel->n_args; i++) {
        const emu_arg *a = &d->kernel->args[i];
        if (a->kind == EMU_ARG_BUFFER && !d->buffer[a->index]) {
            report(0, "%s: nothing is bound to buffer %d", d->kernel->name, a->index);
            return false;
        }
        if (a->kind == EMU_ARG_BUFFER && d->bound[a->index] < d->kernel->needs[i]) {
            report(0, "%s: %zu bytes are bound to buffer %d, its argument has %zu",
                   d->kernel->name, d->bound[a->index], a->index, d->kernel->needs[i]);
            return false;
        }
        if (a->kind == EMU_ARG_THREADGROUP && !d->tg_bytes[a->index]) {
            report(0, "%s: no length was set for threadgroup memory %d", d->kernel->name,
                   a->index);
            return false;
        }
    }
    return true;
}

/* Constants that the library has and the pipeline did not give keep no old value: error. */
bool set_constants(const emu_dispatch *d)
{
    for (const emu_constant *c = d->lib->constants; c; c = c->next) {
        const emu_value *v = nullptr;
        for (size_t i = 0; i < d->n_constants; i++) {
            v = d->constant[i].index == c->index ? &d->constant[i] : v;
        }
        if (!v) {
            memset(c->at, 0xA5, c->bytes); /* not given: anything but a usable value */
            if (c->bytes == 1) {
                memset(c->at, 0, 1);
            }
        } else if (v->bytes != c->bytes) {
            report(0, "function constant %s has %zu bytes, %zu were given", c->name, c->bytes,
                   v->bytes);
            return false;
        } else {
            memcpy(c->at, v->at, c->bytes);
        }
    }
    return true;
}

} // namespace

struct emu_library *emu_load(const char *path, const char **why)
{
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    emu_library *(*get)(void) =
        so ? (emu_library * (*)(void)) dlsym(so, "emu_library_get") : nullptr;
    if (!get) {
        *why = dlerror();
        return nullptr;
    }
    emu_library *lib = get();
    lib->api = &g_api;
    lib->butterfly = (int *)dlsym(so, "emu_butterfly");
    return lib;
}

const struct emu_kernel *emu_find(const struct emu_library *lib, const char *name)
{
    for (const emu_kernel *k = lib->kernels; k; k = k->next) {
        if (strcmp(k->name, name) == 0) {
            return k;
        }
    }
    return nullptr;
}

void emu_set_options(const struct emu_options *o)
{
    g_options = *o;
}

void emu_fault(const char *message)
{
    worker *w = t_worker;
    if (w && w->cur) {
        report(w->cur->site, "%s (the line is that of its last barrier or simdgroup operation)",
               message);
        give_up(w);
    }
}

bool emu_is_tg_end(const void *at)
{
    const worker *w = t_worker;
    const unsigned char *p = (const unsigned char *)at;
    return w && w->region && p >= w->region + EMU_TG_BYTES &&
           p < w->region + EMU_TG_BYTES + PAGE;
}

const char *emu_run(const struct emu_dispatch *given)
{
    emu_dispatch d = *given;
    g_failed = false;
    g_message[0] = 0;
    if (!check(&d) || !set_constants(&d)) {
        return g_message;
    }
    *d.lib->butterfly = g_options.butterfly;
    uint64_t n = (uint64_t)d.groups[0] * d.groups[1] * d.groups[2];
    if (n > UINT32_MAX) {
        report(0, "%s: %llu threadgroups", d.kernel->name, (unsigned long long)n);
        return g_message;
    }
    std::atomic<uint32_t> next{0};
    unsigned workers = g_options.workers ? g_options.workers : 2;
    workers = n < workers ? (unsigned)n : workers;
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < workers; i++) {
        threads.emplace_back(work, &d, &next, (uint32_t)n, g_options.seed * 31 + i);
    }
    if (workers) {
        work(&d, &next, (uint32_t)n, g_options.seed * 31);
    }
    for (std::thread &t : threads) {
        t.join();
    }
    return g_failed ? g_message : nullptr;
}
