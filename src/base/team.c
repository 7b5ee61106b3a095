/* team.c - worker team (team.h).
 *
 * Everything rests on one barrier: a counter of arrivals and a generation number. The last to
 * arrive resets the counter and raises the generation; the others watch it, first spinning,
 * then asleep on a condition variable. A region is barrier, fn, barrier; idle workers simply
 * wait in the first of the two. The sleeper announces itself and reads the generation again
 * before it sleeps, the raiser changes the generation and then looks for sleepers; both are
 * sequentially consistent, so one of them sees the other and no wake-up is lost. When the team
 * has more workers than processors spinning only steals time from those who work, so such a
 * team sleeps almost at once. Read next: backend/cpu/exec.c, which walks an op list inside one
 * region. */
#include "base/team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "base/mem.h"
#include "base/quota.h"

enum { SPIN_TURNS = 4000, SPIN_TURNS_CROWDED = 20, CACHE_LINE = 64, NODES_MAX = 64 };

struct worker {
    struct team *team;
    uint32_t rank;
    pthread_t thread;
};

struct team {
    _Alignas(CACHE_LINE) atomic_uint arrived;
    _Alignas(CACHE_LINE) atomic_uint generation;
    _Alignas(CACHE_LINE) atomic_uint sleepers;
    uint32_t size, spin_turns;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* the region, written by worker 0 before the first barrier; fn NULL = stop */
    void (*fn)(void *ctx, uint32_t rank);
    void *ctx;
    uint32_t n_started; /* workers whose thread exists, worker 0 not counted */
    struct worker *workers;
    bool pinned;
    pthread_t owner;
#ifdef __linux__
    cpu_set_t former; /* of the owner */
#endif
};

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_change(struct team *t, unsigned seen)
{
    for (uint32_t i = 0; i < t->spin_turns; i++) {
        if (atomic_load_explicit(&t->generation, memory_order_acquire) != seen) {
            return;
        }
        spin_pause();
    }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->generation) == seen) {
        pthread_cond_wait(&t->wake, &t->lock);
    }
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
}

void team_barrier(struct team *t)
{
    if (t->size == 1) {
        return;
    }
    unsigned seen = atomic_load_explicit(&t->generation, memory_order_acquire);
    if (atomic_fetch_add(&t->arrived, 1) + 1 < t->size) {
        wait_change(t, seen);
        return;
    }
    atomic_store(&t->arrived, 0);
    /* An exchange, not a store: also emulators that order a store and a later load less strictly
     * than the arm64 manual (QEMU 7.2) then do not move the look for sleepers before it. */
    (void)atomic_exchange(&t->generation, seen + 1);
    if (atomic_load(&t->sleepers) > 0) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct team *t = w->team;
    for (;;) {
        team_barrier(t);
        if (!t->fn) {
            return NULL;
        }
        t->fn(t->ctx, w->rank);
        team_barrier(t);
    }
}

void team_run(struct team *t, void (*fn)(void *ctx, uint32_t rank), void *ctx)
{
    if (t->size > 1) {
        t->fn = fn;
        t->ctx = ctx;
        team_barrier(t);
    }
    fn(ctx, 0);
    team_barrier(t);
}

static uint32_t cpus_allowed(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
        return (uint32_t)CPU_COUNT(&set);
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

uint32_t team_cpus(void)
{
    uint32_t n = cpus_allowed(), quota = quota_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota > 0 && quota < n ? quota : n;
}

#ifdef __linux__
/* Is processor c the first of its core's hardware threads? Yes if the system does not say. */
static bool cpu_leads_core(int c)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             c);
    FILE *f = fopen(path, "r");
    int first = c;
    if (f) {
        if (fscanf(f, "%d", &first) != 1) {
            first = c;
        }
        fclose(f);
    }
    return first == c;
}
#endif

#ifdef __linux__
/* Marks the processors of a list such as "0-31,64-95" as belonging to a node. */
static void mark_node(const char *list, int node, int16_t of[CPU_SETSIZE])
{
    for (const char *p = list; *p >= '0' && *p <= '9';) {
        char *end;
        long first = strtol(p, &end, 10), last = first;
        if (*end == '-') {
            last = strtol(end + 1, &end, 10);
        }
        for (long c = first; c >= 0 && c <= last && c < CPU_SETSIZE; c++) {
            of[c] = (int16_t)node;
        }
        p = *end == ',' ? end + 1 : end;
    }
}

/* The memory node of each processor; 0 where the system does not say. */
static void read_nodes(int16_t of[CPU_SETSIZE])
{
    memset(of, 0, CPU_SETSIZE * sizeof *of);
    for (int node = 0; node < NODES_MAX; node++) {
        char path[64], list[1024];
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
        FILE *f = fopen(path, "r");
        if (f) {
            if (fgets(list, sizeof list, f)) {
                mark_node(list, node, of);
            }
            fclose(f);
        }
    }
}

uint32_t team_pin_order(int *cpu, uint32_t max)
{
    cpu_set_t set;
    int16_t node[CPU_SETSIZE];
    uint32_t n = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 0;
    }
    read_nodes(node);
    for (int sibling = 0; sibling < 2; sibling++) {
        for (int at = 0; at < NODES_MAX; at++) {
            for (int c = 0; c < CPU_SETSIZE && n < max; c++) {
                if (CPU_ISSET(c, &set) && node[c] == at && cpu_leads_core(c) == !sibling) {
                    cpu[n++] = c;
                }
            }
        }
    }
    return n;
}

static void pin_thread(pthread_t thread, int c)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(c, &one);
    pthread_setaffinity_np(thread, sizeof one, &one); /* best effort */
}
#else
uint32_t team_pin_order(int *cpu, uint32_t max)
{
    (void)cpu;
    (void)max;
    return 0;
}
#endif

static void pin_team(struct team *t)
{
#ifdef __linux__
    int cpu[CPU_SETSIZE];
    uint32_t n = team_pin_order(cpu, CPU_SETSIZE);
    if (n > 0 && pthread_getaffinity_np(t->owner, sizeof t->former, &t->former) == 0) {
        t->pinned = true;
        pin_thread(t->owner, cpu[0]);
        for (uint32_t r = 1; r < t->size; r++) {
            pin_thread(t->workers[r].thread, cpu[r % n]);
        }
    }
#else
    (void)t;
#endif
}

uint32_t team_cores(void)
{
    uint32_t n = 0;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int c = 0; c < CPU_SETSIZE; c++) {
            n += CPU_ISSET(c, &set) && cpu_leads_core(c);
        }
    }
#elif defined(__APPLE__)
    int32_t v = 0;
    size_t v_bytes = sizeof v;
    /* performance cores: an efficiency core would hold up every barrier */
    if (sysctlbyname("hw.perflevel0.physicalcpu", &v, &v_bytes, NULL, 0) == 0 && v > 0) {
        n = (uint32_t)v;
    }
#endif
    uint32_t cpus = team_cpus();
    n = n == 0 || n > cpus ? cpus : n;
    return n < TEAM_MAX ? n : TEAM_MAX;
}

int team_create(struct team **out, uint32_t n, bool pin, fathom_err *err)
{
    if (n == 0) {
        n = team_cores();
    }
    if (n > TEAM_MAX) {
        return err_set(err, FATHOM_EINVAL, "%u threads asked for, at most %d are supported", n,
                       TEAM_MAX);
    }
    struct team *t = mem_alloc_aligned(CACHE_LINE, sizeof *t);
    struct worker *workers = mem_calloc(n, sizeof *workers);
    if (!t || !workers) {
        mem_free(t);
        mem_free(workers);
        return err_nomem(err, "worker team", n * sizeof *workers);
    }
    memset(t, 0, sizeof *t);
    t->size = n;
    t->workers = workers;
    t->owner = pthread_self();
    t->spin_turns = n <= team_cpus() ? SPIN_TURNS : SPIN_TURNS_CROWDED;
    atomic_init(&t->arrived, 0);
    atomic_init(&t->generation, 0);
    atomic_init(&t->sleepers, 0);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    for (uint32_t r = 1; r < n; r++) {
        workers[r] = (struct worker){.team = t, .rank = r};
        if (pthread_create(&workers[r].thread, NULL, worker_main, &workers[r]) != 0) {
            /* those already started wait in their first barrier for the full team: count the
             * missing ones as arrived, so that the stop below completes it */
            atomic_fetch_add(&t->arrived, n - r);
            team_free(t);
            return err_set(err, FATHOM_ENOMEM, "cannot start worker thread %u of %u", r, n);
        }
        t->n_started++;
    }
    if (pin) {
        pin_team(t);
    }
    *out = t;
    return 0;
}

void team_free(struct team *t)
{
    if (!t) {
        return;
    }
    if (t->n_started > 0) {
        t->fn = NULL;
        team_barrier(t);
    }
    for (uint32_t r = 1; r <= t->n_started; r++) {
        pthread_join(t->workers[r].thread, NULL);
    }
#ifdef __linux__
    if (t->pinned && pthread_equal(t->owner, pthread_self())) {
        pthread_setaffinity_np(t->owner, sizeof t->former, &t->former);
    }
#endif
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->workers);
    mem_free(t);
}

uint32_t team_size(const struct team *t)
{
    return t->size;
}
