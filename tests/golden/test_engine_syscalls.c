/* test_engine_syscalls.c - the token loop asks the system for nothing: after warming up, a child
 * process forbids itself, by a seccomp filter over all its threads, every system call but the
 * futex by which workers park and what it needs to end, and goes on decoding on the cpu backend.
 * The C library's allocator is replaced by one that counts, so that allocations of any kind are
 * seen, not only those through base/mem.h. Skipped, with a message, where such a filter cannot be
 * set (other systems, qemu-user, sanitizers). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__linux__) && defined(__GLIBC__) && !defined(SANITIZED)

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "golden/random_model.h"

enum { WARM = 40, STEPS = 150 };
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_SYSCALL = 2,
    EXIT_ALLOCATED = 3,
    EXIT_NO_FILTER = 77
};
/* What a child does wrong in the loop: both must be found, and told apart. */
enum fault {
    FAULT_NONE,
    FAULT_MALLOC, /* 24 bytes that were free before: the allocator asks the system for nothing */
    FAULT_SYSCALL, /* one harmless call, from a thread that was there before the filter */
};

/* ---- counting allocations ---- */

static atomic_uint n_alloc;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t n)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    return __libc_realloc(p, n);
}
int posix_memalign(void **p, size_t align, size_t n)
{
    atomic_fetch_add_explicit(&n_alloc, 1, memory_order_relaxed);
    *p = __libc_memalign(align, n);
    return *p ? 0 : ENOMEM;
}

/* ---- the filter ---- */

static void on_syscall(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    char text[64] = "system call number ";
    int n = info->si_syscall, at = 40;
    char digits[48];
    for (; n > 0; n /= 10) {
        digits[--at] = (char)('0' + n % 10);
    }
    memcpy(text + 19, digits + at, (size_t)(40 - at));
    text[19 + 40 - at] = '\n';
    ssize_t put = write(2, text, (size_t)(19 + 40 - at + 1));
    (void)put;
    _exit(EXIT_SYSCALL);
}

/* Allows futex, write and the end; everything else raises SIGSYS. For all threads. */
static bool forbid_syscalls(void)
{
#define ALLOW(nr)                                    \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    static struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_futex),
        ALLOW(SYS_write),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_rt_sigreturn),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog prog = {sizeof filter / sizeof *filter, filter};
    struct sigaction sa = {.sa_sigaction = on_syscall, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &sa, NULL);
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) == 0;
}

/* ---- the loop ---- */

struct loop {
    fathom_engine *e;
    fathom_session *s[2];
};

/* A token for each of two sessions: step, choice, append. */
static int decode(struct loop *l)
{
    fathom_sampling p = {.temperature = 0.8f, .top_p = 0.9f, .repeat_penalty = 1.1f};
    fathom_work w[2] = {{l->s[0], 1, FATHOM_WANT_LAST}, {l->s[1], 1, FATHOM_WANT_LAST}};
    int rc = fathom_step(l->e, w, 2, NULL);
    for (int i = 0; i < 2 && rc == 0; i++) {
        fathom_choice c;
        rc = fathom_session_sample(l->s[i], &p, NULL, &c, NULL);
        rc = rc ? rc : fathom_session_append(l->s[i], &c.id, 1, NULL);
    }
    return rc;
}

static atomic_bool up, go;
static pthread_t other;

static void *call_when_told(void *arg)
{
    atomic_store(&up, true);
    while (!atomic_load(&go)) {
    }
    syscall(SYS_getppid); /* ends the process */
    return arg;
}

static void allocate_little(void)
{
    void *volatile room = malloc(24); /* volatile: it stays */
    free(room);
}

static void plant(enum fault f)
{
    if (f == FAULT_MALLOC) {
        allocate_little();
    } else if (f == FAULT_SYSCALL) {
        atomic_store(&go, true);
        pthread_join(other, NULL);
    }
}

static int child(uint32_t threads, enum fault fault)
{
    static struct random_model model;
    static uint32_t ids[200];
    struct loop l = {0};
    struct random_config c = {.seed = 21,
                              .shape = {.n_layer = 5, .ratio = {0, 4, 128, 4, 8}, .n_hash = 1},
                              .dense = QT_Q8_0};
    random_model_make(&model, &c);
    for (uint32_t i = 0; i < 200; i++) {
        ids[i] = i * 37 % model.shape.n_vocab;
    }
    fathom_engine_options o = {.model_data = model.file,
                               .model_bytes = model.file_bytes,
                               .backend = "cpu",
                               .n_threads = threads,
                               .max_ctx = 1024,
                               .max_seq = 2,
                               .chunk = 32,
                               .page_tokens = 128};
    fathom_err err = {0};
    int rc = fathom_engine_open(&l.e, &o, &err);
    if (rc != 0) {
        fprintf(stderr, "%s\n", err.msg);
    }
    for (int i = 0; i < 2 && rc == 0; i++) {
        rc = fathom_session_new(&l.s[i], l.e, NULL);
        rc = rc ? rc
                : fathom_session_sync(l.s[i], ids, 50 + 100 * (uint32_t)i, NULL, NULL, NULL,
                                      NULL);
        rc = rc ? rc : fathom_session_append(l.s[i], ids, 1, NULL);
    }
    for (int i = 0; i < WARM && rc == 0; i++) {
        rc = decode(&l);
    }
    if (rc != 0) {
        return EXIT_FAILED;
    }
    allocate_little();
    if (fault == FAULT_SYSCALL && pthread_create(&other, NULL, call_when_told, NULL) != 0) {
        return EXIT_OK; /* not what is expected */
    }
    while (fault == FAULT_SYSCALL && !atomic_load(&up)) { /* starting blocks signals */
    }
    if (!forbid_syscalls()) {
        return EXIT_NO_FILTER;
    }
    unsigned before = atomic_load(&n_alloc);
    for (int i = 0; i < STEPS && rc == 0; i++) { /* page ends and group ends included */
        if (i == STEPS / 2) {
            plant(fault);
        }
        rc = decode(&l);
    }
    unsigned n = atomic_load(&n_alloc) - before;
    if (n > 0) {
        static const char text[] = "the token loop allocated memory\n";
        ssize_t put = write(2, text, sizeof text - 1);
        (void)put;
    }
    return rc != 0 ? EXIT_FAILED : n > 0 ? EXIT_ALLOCATED : EXIT_OK;
}

static int run_child(uint32_t threads, enum fault fault)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(child(threads, fault));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

static void test_no_syscalls(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 3};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        int rc = run_child(threads[i], FAULT_NONE);
        if (rc == EXIT_NO_FILTER) {
            print_message("SKIPPED: this system lets no process restrict its system calls\n");
            skip();
        }
        assert_int_equal(rc, EXIT_OK);
    }
    assert_int_equal(run_child(2, FAULT_MALLOC), EXIT_ALLOCATED);
    assert_int_equal(run_child(2, FAULT_SYSCALL), EXIT_SYSCALL);
}

#else

static void test_no_syscalls(void **state)
{
    (void)state;
    print_message("SKIPPED: needs Linux, glibc and a build without sanitizers\n");
    skip();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_syscalls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
