/* test_kv_real.c - the disk store on real file systems, with its threads: a folder in /dev/shm
 * (where there is one) and one below the temporary directory. Permissions, things in the place of
 * files, two processes, a killed holder of the lock, processes that die at any system call, a
 * disk that hangs, and a hundred thousand files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "kv/store_int.h"
#include "kv_tiny.h"

static struct tiny w;
static char dir[256];

/* ---- folders ---- */

static const char *const parents[] = {"/dev/shm", NULL}; /* NULL: TMPDIR, or /tmp */

static bool make_dir(int which)
{
    const char *p = parents[which], *tmp = getenv("TMPDIR");
    p = p ? p : tmp && tmp[0] ? tmp : "/tmp";
    snprintf(dir, sizeof dir, "%s/fathom-kv-XXXXXX", p);
    return access(p, W_OK) == 0 && mkdtemp(dir) != NULL;
}

static void remove_dir(void)
{
    char cmd[300];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0) {
        print_error("%s stays behind\n", dir);
    }
}

static void init(bool threads)
{
    tiny_init(&w, NULL);
    w.cfg.dir = dir;
    w.cfg.clock = NULL;
    w.cfg.single_threaded = !threads;
}

/* Runs f in a fresh folder of each file system there is. */
static void everywhere(void (*f)(void))
{
    int n = 0;
    for (int i = 0; i < 2; i++) {
        if (make_dir(i)) {
            f();
            remove_dir();
            n++;
        }
    }
    assert_true(n > 0);
}

static struct kv_store_stats stats(void)
{
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    return st;
}

static void own_path(char *out, size_t n, const char *name)
{
    char folder[KV_DIR_DIGITS + 1];
    kv_dir_name(&w.cfg.identity, folder);
    snprintf(out, n, "%s/%s/%s", dir, folder, name);
}

static void segment_name(const uint32_t *ids, uint32_t k, char text[KV_NAME_MAX])
{
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    assert_int_equal(kv_chain_extend(&c, ids, (k + 1) * TINY_S, NULL), 0);
    struct kv_name name = {.kind = KV_SEGMENT, .from = c.key[k], .to = c.key[k + 1]};
    kv_name_make(&name, text);
    kv_chain_fini(&c);
}

/* ---- with threads ---- */

static void threads_here(void)
{
    struct rng r = {1};
    static uint32_t conv[8][120];
    init(true);
    w.cfg.budget_bytes = kv_geom_segment_file_bytes(&w.g) * 90;
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_WRITER);
    for (int round = 0; round < 60; round++) {
        uint32_t i = rng_below(&r, 8), n = 1 + rng_below(&r, 119);
        if (round < 8) {
            i = (uint32_t)round;
            tiny_ids(&r, conv[i], 0, 120);
        }
        enum kv_why why = tiny_save(&w, NULL, conv[i], n, true, round % 3 == 0);
        assert_int_equal(why, KV_WHY_NONE);
        assert_false(tiny_restore(&w, NULL, conv[rng_below(&r, 8)], 120).wrong);
        assert_true(kv_store_flush(w.s, 20));
        kv_store_poll(w.s);
        struct tiny_got got = tiny_restore(&w, NULL, conv[i], n);
        assert_true(!got.wrong && got.n_segments == n / TINY_S && got.frontier_pos == n);
        assert_true(stats().used_bytes <= w.cfg.budget_bytes);
    }
    assert_int_equal(tiny_save(&w, NULL, conv[0], 120, true, true), KV_WHY_NONE);
    tiny_close(&w); /* writes what is queued */
    assert_true(tiny_open(&w));
    struct tiny_got got = tiny_restore(&w, NULL, conv[0], 120);
    assert_true(!got.wrong && got.n_segments == 15 && got.frontier_pos == 120);
    tiny_close(&w);
}
static void threads(void **state)
{
    (void)state;
    everywhere(threads_here);
}

/* ---- the writer rests ---- */

/* A writer that may take next to nothing of a core rests for seconds after each file; not while
 * somebody waits for it, nor while a quarter of the queue is full. */
static void rests_here(void)
{
    struct rng r = {8};
    uint32_t ids[120];
    uint64_t one = 0;
    init(true);
    one = kv_geom_segment_file_bytes(&w.g);
    tiny_ids(&r, ids, 0, 120);
    w.cfg.writer_share = 1e-9;
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 120, true, true), KV_WHY_NONE);
    assert_true(kv_store_flush(w.s, 2 * KV_REST_MAX)); /* 16 files, 30 s if it rested */
    tiny_close(&w);
    w.cfg.queue_bytes = 15 * one;
    tiny_ids(&r, ids, 0, 120);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 120, false, true), KV_WHY_NONE);
    double end = clock_now() + 2 * KV_REST_MAX;
    while (stats().queued_bytes > w.cfg.queue_bytes / 4 && clock_now() < end) {
        usleep(1000);
    }
    assert_true(stats().queued_bytes <= w.cfg.queue_bytes / 4);
    assert_true(stats().n_queued > 0); /* now it rests, */
    tiny_close(&w);                    /* and closing writes what is left */
    assert_true(tiny_open(&w));
    struct tiny_got got = tiny_restore(&w, NULL, ids, 120);
    assert_true(!got.wrong && got.n_segments == 15);
    tiny_close(&w);
}
static void rests(void **state)
{
    (void)state;
    everywhere(rests_here);
}

/* ---- permissions and strange things ---- */

static void modes_here(void)
{
    struct rng r = {2};
    uint32_t ids[32];
    char path[512], sub[300];
    init(false);
    snprintf(sub, sizeof sub, "%s/a/b/kv", dir);
    w.cfg.dir = sub;
    umask(0);
    tiny_ids(&r, ids, 0, 32);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 20, true, false), KV_WHY_NONE);
    char cmd[700];
    snprintf(cmd, sizeof cmd,
             "test -z \"$(find '%s' -mindepth 1 '(' -type d ! -perm 0700 ')' -o '(' -type f ! "
             "-perm 0600 ')')\" && test \"$(find '%s' -type f | wc -l)\" = 5",
             dir, dir);
    assert_int_equal(system(cmd), 0); /* LOCK, CACHEDIR.TAG, two segments, a frontier */
    tiny_close(&w);
    umask(022);
    /* A directory that others may write to is refused, and so is somebody else's. */
    assert_int_equal(chmod(sub, 0770), 0);
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_OFF);
    assert_int_equal(tiny_restore(&w, NULL, ids, 20).why, KV_WHY_OFF);
    assert_int_equal(tiny_save(&w, NULL, ids, 20, true, false), KV_WHY_OFF);
    tiny_close(&w);
    assert_int_equal(chmod(sub, 0755), 0);
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_WRITER);
    tiny_close(&w);
    if (geteuid() == 0) {
        assert_int_equal(chown(sub, 12345, 12345), 0);
        assert_true(tiny_open(&w));
        assert_int_equal(stats().state, KV_STORE_OFF);
        tiny_close(&w);
        assert_int_equal(chown(sub, 0, 0), 0);
    }
    w.cfg.dir = dir;
    snprintf(path, sizeof path, "%s/file", dir);
    assert_true(close(open(path, O_CREAT | O_WRONLY, 0600)) == 0);
    w.cfg.dir = path; /* not a directory at all */
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_OFF);
    tiny_close(&w);
}
static void modes(void **state)
{
    (void)state;
    everywhere(modes_here);
}

/* A link, a pipe, a folder or a link to a good file where a segment belongs: a miss that neither
 * blocks nor touches it. */
static void strange_here(void)
{
    struct rng r = {3};
    uint32_t ids[24];
    char path[512], aside[600], text[KV_NAME_MAX];
    struct stat st;
    init(false);
    tiny_ids(&r, ids, 0, 24);
    segment_name(ids, 1, text);
    for (int kind = 0; kind < 5; kind++) {
        assert_true(tiny_open(&w));
        assert_int_equal(tiny_save(&w, NULL, ids, 24, false, false), KV_WHY_NONE);
        own_path(path, sizeof path, text);
        snprintf(aside, sizeof aside, "%s/aside", dir);
        assert_int_equal(rename(path, aside), 0);
        int rc = kind == 0   ? symlink(aside, path)
                 : kind == 1 ? mkfifo(path, 0600)
                 : kind == 2 ? mkdir(path, 0700)
                 : kind == 3 ? symlink("/dev/zero", path)
                             : link(aside, path);
        assert_int_equal(rc, 0);
        struct tiny_got got = tiny_restore(&w, NULL, ids, 24);
        assert_false(got.wrong);
        assert_int_equal(got.n_segments, kind == 4 ? 3 : 1);
        assert_int_equal(lstat(path, &st), 0);
        tiny_close(&w);
        assert_true(tiny_open(&w)); /* and when it is there at the start */
        assert_int_equal(tiny_restore(&w, NULL, ids, 24).n_segments, kind == 4 ? 3 : 1);
        w.s->budget = 1;
        kv_store_work(w.s);
        assert_int_equal(lstat(path, &st), kind == 4 ? -1 : 0);
        assert_int_equal(lstat(aside, &st), 0);
        tiny_close(&w);
        assert_int_equal(kind == 2 ? rmdir(path) : kind == 4 ? 0 : unlink(path), 0);
    }
}
static void strange(void **state)
{
    (void)state;
    everywhere(strange_here);
}

/* ---- two processes ---- */

static uint32_t two_ids[80];

/* The child writes and then waits to be killed. */
static void child_holds(int ready)
{
    assert_true(tiny_open(&w));
    tiny_save(&w, NULL, two_ids, 40, true, false);
    if (write(ready, "x", 1) == 1) {
        pause();
    }
    _exit(1);
}

static void two_processes_here(void)
{
    struct rng r = {4};
    int p[2], status;
    char c;
    init(false);
    tiny_ids(&r, two_ids, 0, 80);
    assert_int_equal(pipe(p), 0);
    pid_t child = fork();
    if (child == 0) {
        child_holds(p[1]);
    }
    assert_true(child > 0 && read(p[0], &c, 1) == 1);
    w.mono = 0;
    w.cfg.clock = &w.clock;
    w.wall = (int64_t)time(NULL);
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_READ_ONLY);
    struct tiny_got got = tiny_restore(&w, NULL, two_ids, 80);
    assert_true(!got.wrong && got.n_segments == 5 && got.frontier_pos == 40);
    assert_int_equal(tiny_save(&w, NULL, two_ids, 80, true, false), KV_WHY_OFF);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    kv_store_work(w.s);
    assert_int_equal(stats().state, KV_STORE_READ_ONLY); /* tried every 30 s */
    w.mono += 31;
    kv_store_work(w.s);
    assert_int_equal(stats().state, KV_STORE_WRITER);
    assert_int_equal(tiny_save(&w, NULL, two_ids, 80, true, false), KV_WHY_NONE);
    got = tiny_restore(&w, NULL, two_ids, 80);
    assert_true(!got.wrong && got.n_segments == 10 && got.frontier_pos == 80);
    tiny_close(&w);
    close(p[0]);
    close(p[1]);
}
static void two_processes(void **state)
{
    (void)state;
    everywhere(two_processes_here);
}

/* ---- four processes ---- */

enum { CONVS = 5, CONV_TOKENS = 64 };
static uint32_t conv[CONVS][CONV_TOKENS];

/* Saves and restores at random: as a peer until it gets the lock, then as the one who writes, twice
 * (it gives the lock back in between); then it ends without closing. The exit code says what went
 * wrong. */
static int one_of_four(uint64_t seed)
{
    struct rng r = {seed};
    double end = clock_now() + 60;
    for (int wrote = 0; wrote < 2;) {
        if (clock_now() > end || !tiny_open(&w)) {
            return 2;
        }
        bool writer = false;
        for (int k = 0; k < 3; k++) {
            w.mono += 31; /* a peer tries the lock again */
            kv_store_work(w.s);
            kv_store_refresh(w.s);
            writer = stats().state == KV_STORE_WRITER;
            const uint32_t *a = conv[rng_below(&r, CONVS)], *b = conv[rng_below(&r, CONVS)];
            enum kv_why why =
                tiny_save(&w, NULL, a, 1 + rng_below(&r, CONV_TOKENS), true, false);
            if (why != (writer ? KV_WHY_NONE : KV_WHY_OFF)) {
                return 3;
            }
            struct tiny_got got = tiny_restore(&w, NULL, b, CONV_TOKENS);
            if (got.wrong || got.load_why == KV_WHY_BAD_FILE) {
                return 4; /* what is visible is complete */
            }
            if (writer && stats().used_bytes > w.cfg.budget_bytes) {
                return 5;
            }
        }
        wrote += writer;
        if (wrote < 2) {
            tiny_close(&w);
            usleep(1000);
        }
    }
    return 0; /* the lock ends with the process */
}

static void four_processes_here(void)
{
    struct rng r = {9};
    init(false);
    w.cfg.clock = &w.clock;
    w.wall = (int64_t)time(NULL);
    w.cfg.budget_bytes = kv_geom_segment_file_bytes(&w.g) * 24;
    for (int i = 0; i < CONVS; i++) {
        tiny_ids(&r, conv[i], 0, CONV_TOKENS);
    }
    for (uint64_t round = 0; round < 3; round++) {
        pid_t child[4];
        for (uint64_t i = 0; i < 4; i++) {
            child[i] = fork();
            if (child[i] == 0) {
                _exit(one_of_four(round * 4 + i));
            }
            assert_true(child[i] > 0);
        }
        for (int i = 0; i < 4; i++) {
            int status = 0;
            assert_int_equal(waitpid(child[i], &status, 0), child[i]);
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), 0);
        }
    }
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_WRITER);
    assert_true(stats().used_bytes <= w.cfg.budget_bytes);
    assert_int_equal(stats().n_foreign, 0);
    for (int i = 0; i < CONVS; i++) {
        struct tiny_got got = tiny_restore(&w, NULL, conv[i], CONV_TOKENS);
        assert_true(!got.wrong && got.load_why == KV_WHY_NONE);
    }
    tiny_close(&w);
}
static void four_processes(void **state)
{
    (void)state;
    everywhere(four_processes_here);
}

/* ---- processes that die ---- */

static int die_in; /* system calls */

static void maybe_die(void)
{
    if (--die_in == 0) {
        _exit(9); /* nothing is flushed, closed or unlocked by us */
    }
}
static int dying_create(void *u, int d, const char *name)
{
    maybe_die();
    return kv_fs_real.create(u, d, name);
}
static int64_t dying_pwrite(void *u, int f, const void *p, size_t n, uint64_t at)
{
    if (die_in == 1) {
        kv_fs_real.pwrite(u, f, p, n / 2, at);
    }
    maybe_die();
    return kv_fs_real.pwrite(u, f, p, n, at);
}
static int dying_sync(void *u, int f)
{
    maybe_die();
    return kv_fs_real.sync(u, f);
}
static int dying_rename(void *u, int d, const char *from, const char *to)
{
    maybe_die();
    int rc = kv_fs_real.rename_new(u, d, from, to);
    maybe_die();
    return rc;
}
static int dying_remove(void *u, int d, const char *name)
{
    maybe_die();
    return kv_fs_real.remove(u, d, name);
}
static int dying_lock(void *u, int d, const char *name)
{
    maybe_die();
    return kv_fs_real.lock(u, d, name);
}

static unsigned long n_deaths, n_survived;

static void deaths_here(void)
{
    static struct kv_fs dying;
    dying = kv_fs_real;
    dying.create = dying_create;
    dying.pwrite = dying_pwrite;
    dying.sync = dying_sync;
    dying.rename_new = dying_rename;
    dying.remove = dying_remove;
    dying.lock = dying_lock;
    struct rng r = {5};
    uint32_t ids[6][60], safe = 0;
    init(false);
    w.cfg.budget_bytes = kv_geom_segment_file_bytes(&w.g) * 24;
    for (int i = 0; i < 6; i++) {
        tiny_ids(&r, ids[i], 0, 60);
    }
    for (int run = 0; run < 150; run++) {
        uint32_t i = rng_below(&r, 6), n = 8 + rng_below(&r, 50);
        die_in = 1 + (int)rng_below(&r, 90);
        pid_t child = fork();
        if (child == 0) {
            w.cfg.fs = &dying;
            if (tiny_open(&w)) {
                tiny_save(&w, NULL, ids[i], n, true, false);
                tiny_close(&w);
            }
            _exit(0);
        }
        int status = 0;
        assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
        n_deaths += WEXITSTATUS(status) == 9;
        n_survived += WEXITSTATUS(status) == 0;
        assert_true(WEXITSTATUS(status) == 9 || WEXITSTATUS(status) == 0);
        assert_true(tiny_open(&w));
        assert_int_equal(stats().state, KV_STORE_WRITER);
        assert_true(stats().used_bytes <= w.cfg.budget_bytes);
        assert_int_equal(stats().n_foreign, 0);
        struct tiny_got got = tiny_restore(&w, NULL, ids[i], n);
        assert_int_equal(got.load_why, KV_WHY_NONE); /* what is visible is complete */
        assert_false(got.wrong);
        if (WEXITSTATUS(status) == 0) {
            assert_true(got.n_segments == n / TINY_S && got.frontier_pos == n);
            safe++;
        }
        tiny_close(&w);
    }
    assert_true(safe > 0);
}
static void deaths(void **state)
{
    (void)state;
    n_deaths = n_survived = 0;
    everywhere(deaths_here);
    print_message("%lu processes died, %lu did not\n", n_deaths, n_survived);
    assert_true(n_deaths > 50);
}

/* ---- a disk that hangs ---- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_change = PTHREAD_COND_INITIALIZER;
static bool gate_closed;
static int n_waiting;

static void pass_gate(void)
{
    pthread_mutex_lock(&gate);
    n_waiting++;
    pthread_cond_broadcast(&gate_change);
    while (gate_closed) {
        pthread_cond_wait(&gate_change, &gate);
    }
    n_waiting--;
    pthread_cond_broadcast(&gate_change);
    pthread_mutex_unlock(&gate);
}
static void set_gate(bool closed)
{
    pthread_mutex_lock(&gate);
    gate_closed = closed;
    pthread_cond_broadcast(&gate_change);
    pthread_mutex_unlock(&gate);
}
static void wait_for_waiter(void)
{
    pthread_mutex_lock(&gate);
    while (n_waiting == 0) {
        pthread_cond_wait(&gate_change, &gate);
    }
    pthread_mutex_unlock(&gate);
}
static int64_t slow_pread(void *u, int f, void *p, size_t n, uint64_t at)
{
    pass_gate();
    return kv_fs_real.pread(u, f, p, n, at);
}
static int64_t slow_pwrite(void *u, int f, const void *p, size_t n, uint64_t at)
{
    pass_gate();
    return kv_fs_real.pwrite(u, f, p, n, at);
}

static const struct kv_fs *slow_fs(void)
{
    static struct kv_fs slow; /* set once: a writer that was left behind still uses it */
    if (!slow.pread) {
        slow = kv_fs_real;
        slow.pread = slow_pread;
        slow.pwrite = slow_pwrite;
    }
    return &slow;
}

/* 40 tokens saved by a store on a disk that can be made to hang, and found again. */
static void find_on_slow_disk(uint64_t seed, uint32_t ids[64], struct kv_chain *c,
                              struct kv_hit *hit)
{
    struct rng r = {seed};
    init(true);
    w.cfg.fs = slow_fs();
    tiny_ids(&r, ids, 0, 64);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 40, true, false), KV_WHY_NONE);
    assert_int_equal(kv_chain_init(c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    kv_store_find(w.s, c, ids, 40, hit);
}

/* A reader that was given up keeps the store in memory, but not the lock. */
static void reader_left_behind_here(void)
{
    uint32_t ids[64], pages[8] = {0, 1, 2, 3, 4};
    struct kv_chain c;
    struct kv_hit hit;
    find_on_slow_disk(7, ids, &c, &hit);
    struct kv_load_request req = {.hit = &hit, .ids = ids, .end = 5, .pages = pages};
    set_gate(true);
    struct kv_load *l = kv_load_start(w.s, &c, &req);
    wait_for_waiter();
    struct kv_load_result res;
    kv_load_finish(l, 0.02, &res);
    assert_int_equal(res.why, KV_WHY_SLOW);
    kv_hit_release(w.s, &hit);
    kv_chain_fini(&c);
    tiny_close(&w);
    w.cfg.fs = NULL;
    assert_true(tiny_open(&w));
    assert_int_equal(stats().state, KV_STORE_WRITER);
    struct tiny_got got = tiny_restore(&w, NULL, ids, 64);
    assert_true(!got.wrong && got.n_segments == 5);
    tiny_close(&w);
    set_gate(false);
    pthread_mutex_lock(&gate);
    while (n_waiting > 0) {
        pthread_cond_wait(&gate_change, &gate);
    }
    pthread_mutex_unlock(&gate);
}
static void reader_left_behind(void **state)
{
    (void)state;
    everywhere(reader_left_behind_here);
}

static void hanging_here(void)
{
    uint32_t ids[64], pages[8];
    struct kv_chain c;
    struct kv_hit hit;
    find_on_slow_disk(6, ids, &c, &hit);
    assert_int_equal(hit.n_segments, 5);
    for (uint32_t i = 0; i < 8; i++) {
        pages[i] = i;
    }
    memset(w.page, 0x77, sizeof w.page);
    struct kv_load_request req = {.hit = &hit, .ids = ids, .end = 5, .pages = pages};
    set_gate(true);
    struct kv_load *l = kv_load_start(w.s, &c, &req);
    wait_for_waiter();
    struct kv_load_result res;
    assert_false(kv_load_done(l));
    kv_load_finish(l, 0.02, &res);
    assert_true(res.end == 0 && res.why == KV_WHY_SLOW);
    kv_hit_release(w.s, &hit);
    /* The readers come back and write nothing; another load uses other pages. */
    memset(w.page, 0x55, sizeof w.page);
    set_gate(false);
    for (uint32_t i = 0; i < 8; i++) {
        pages[i] = 10 + i;
    }
    kv_store_find(w.s, &c, ids, 40, &hit);
    l = kv_load_start(w.s, &c, &req);
    kv_load_finish(l, -1, &res);
    assert_true(res.end == 5 && res.why == KV_WHY_NONE);
    kv_hit_release(w.s, &hit);
    kv_chain_fini(&c);
    usleep(50000);
    for (size_t i = 0; i < 8; i++) {
        for (size_t k = 0; k < sizeof w.page[i]; k++) {
            assert_int_equal(w.page[i][k], 0x55);
        }
    }
    /* The writer hangs: nobody waits for it, and everything given to it comes back. */
    set_gate(true);
    assert_int_equal(tiny_save(&w, NULL, ids, 64, false, true), KV_WHY_NONE);
    wait_for_waiter();
    assert_true(w.n_busy > 0);
    double t0 = clock_now();
    kv_store_close(w.s, 0.1);
    assert_true(clock_now() - t0 < 30);
    assert_int_equal(w.n_busy, 0);
    set_gate(false);
    pthread_mutex_lock(&gate);
    while (n_waiting > 0) {
        pthread_cond_wait(&gate_change, &gate);
    }
    pthread_mutex_unlock(&gate);
    /* The writer frees the store when it comes back; only then is the lock free. */
    init(true);
    for (int i = 0; i < 1000; i++) {
        assert_true(tiny_open(&w));
        bool writer = stats().state == KV_STORE_WRITER;
        struct tiny_got got = tiny_restore(&w, NULL, ids, 64);
        assert_true(!got.wrong && got.n_segments >= 5);
        tiny_close(&w);
        if (writer) {
            return;
        }
        usleep(10000);
    }
    fail();
}
static void hanging(void **state)
{
    (void)state;
    everywhere(hanging_here);
}

/* ---- many files ---- */

enum { MANY = 100000 / TINY_FEWER, IDENTITIES = 1000 / TINY_FEWER };

static void many(void **state)
{
    (void)state;
    static uint32_t ids[MANY * TINY_S];
    struct rng r = {7};
    char path[600], text[KV_NAME_MAX];
    if (!make_dir(0) && !make_dir(1)) {
        fail();
    }
    init(false);
    tiny_ids(&r, ids, 0, MANY * TINY_S);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 8, false, false), KV_WHY_NONE);
    tiny_close(&w);
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    assert_int_equal(kv_chain_extend(&c, ids, MANY * TINY_S, NULL), 0);
    for (uint32_t k = 1; k < MANY; k++) {
        struct kv_name name = {.kind = KV_SEGMENT, .from = c.key[k], .to = c.key[k + 1]};
        kv_name_make(&name, text);
        own_path(path, sizeof path, text);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        assert_true(fd >= 0 && ftruncate(fd, 4096) == 0 && close(fd) == 0);
    }
    for (int i = 0; i < IDENTITIES; i++) {
        snprintf(path, sizeof path, "%s/%016x", dir, i + 16);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    double t0 = clock_now();
    assert_true(tiny_open(&w));
    double t1 = clock_now();
    assert_int_equal(stats().n_segments, MANY);
    struct kv_hit hit;
    kv_store_find(w.s, &c, ids, MANY * TINY_S, &hit);
    double t2 = clock_now();
    assert_int_equal(hit.n_segments, MANY);
    kv_store_touch(w.s, &hit, true);
    kv_hit_release(w.s, &hit);
    double t3 = clock_now();
    index_check(&w.s->index);
    for (int i = 0; i < 100; i++) { /* the deepest go first */
        assert_true(writer_evict(w.s, "a test"));
    }
    kv_store_find(w.s, &c, ids, MANY * TINY_S, &hit);
    assert_int_equal(hit.n_segments, MANY - 100);
    kv_hit_release(w.s, &hit);
    kv_chain_fini(&c);
    print_message("%d files, %d identities: opened in %.3f s, chain of all found in %.4f s, "
                  "touched in %.4f s\n",
                  MANY, IDENTITIES, t1 - t0, t2 - t1, t3 - t2);
    assert_true(t1 - t0 < 20 && t2 - t1 < 2);
    tiny_close(&w);
    remove_dir();
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads), cmocka_unit_test(modes),
        cmocka_unit_test(strange), cmocka_unit_test(two_processes),
        cmocka_unit_test(rests),   cmocka_unit_test(four_processes),
        cmocka_unit_test(deaths),  cmocka_unit_test(reader_left_behind),
        cmocka_unit_test(hanging), cmocka_unit_test(many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
