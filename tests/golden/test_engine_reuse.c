/* What is reused never changes what is computed: sessions that continue from their own tokens,
 * from each other, from pages in RAM that nobody holds, from files, after evictions, restarts and
 * damaged files, give the bits of a plain computation. And what is reused is what should be.
 *
 * links: engine
 *
 * FATHOM_TEST_LONG=1: 20,000 scripts, not 200. FATHOM_TEST_SEED=N: only script N;
 * FATHOM_TEST_SCRIPTS=N: N scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden/random_model.h"
#include "golden/state_bytes.h"
#include "kv/geom.h"
#include "kv/store.h"
#include "kv/tree.h"

enum { N_MAX = 512, V = 97 };

static struct random_model model; /* small geometry: A = 8, W = 6, S = 16 */
static struct random_model wide;  /* A = 128, as the real one */

#define OK(call)                                 \
    do {                                         \
        fathom_err err_ = {0};                   \
        fathom_err *err = &err_;                 \
        if ((call) != 0) {                       \
            fail_msg("%s: %s", #call, err_.msg); \
        }                                        \
    } while (0)

/* ---- a directory for files ---- */

static char dir[64];

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *x; d && (x = readdir(d));) {
        char name[512];
        struct stat st;
        snprintf(name, sizeof name, "%s/%s", path, x->d_name);
        if (strcmp(x->d_name, ".") == 0 || strcmp(x->d_name, "..") == 0) {
            continue;
        }
        if (lstat(name, &st) == 0 && S_ISDIR(st.st_mode)) {
            remove_tree(name);
        } else {
            unlink(name);
        }
    }
    if (d) {
        closedir(d);
        rmdir(path);
    }
}

static void fresh_dir(void)
{
    if (dir[0]) {
        remove_tree(dir);
    }
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof dir, "%s/fathom-reuse-XXXXXX", base);
    assert_non_null(mkdtemp(dir));
}

/* Files of the store; damage one of them (the i-th, byte at random) if g is given. */
static uint32_t store_files(struct rng *g)
{
    uint32_t n = 0;
    char names[512][384];
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        char sub[160];
        snprintf(sub, sizeof sub, "%s/%.64s", dir, x->d_name);
        DIR *in = strlen(x->d_name) == 16 ? opendir(sub) : NULL;
        for (struct dirent *y; in && (y = readdir(in));) {
            if (y->d_name[0] != '.' && n < 512) {
                snprintf(names[n++], sizeof names[0], "%s/%.200s", sub, y->d_name);
            }
        }
        if (in) {
            closedir(in);
        }
    }
    if (d) {
        closedir(d);
    }
    if (g && n > 0) {
        const char *name = names[rng_below(g, n)];
        int fd = open(name, O_RDWR);
        struct stat st;
        assert_true(fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0);
        off_t at = (off_t)rng_below(g, (uint32_t)st.st_size);
        unsigned char c;
        assert_int_equal(pread(fd, &c, 1, at), 1);
        c ^= (unsigned char)(1u << rng_below(g, 8));
        assert_int_equal(pwrite(fd, &c, 1, at), 1);
        close(fd);
    }
    return n;
}

/* ---- engines ---- */

static const char *debug = "poison-kv"; /* developer switches of what open_engine opens */

/* n_pages: of the pool, 0: as many as 3 sequences need. */
static fathom_engine *open_engine(const struct random_model *m, uint32_t page, uint32_t n_pages,
                                  bool share, bool disk)
{
    fathom_err why = {0};
    fathom_engine *e;
    fathom_engine_options o = {.model_data = m->file,
                               .model_bytes = m->file_bytes,
                               .backend = "cpu",
                               .n_threads = 1,
                               .max_ctx = N_MAX,
                               .max_seq = 3,
                               .chunk = 64,
                               .page_tokens = page,
                               .debug = debug,
                               .kv_no_share = !share,
                               .kv_dir = disk ? dir : NULL,
                               .kv_save_ms = -1};
    if (n_pages) {
        fathom_engine_options probe = o;
        probe.kv_no_share = true;
        probe.kv_dir = NULL;
        OK(fathom_engine_open(&e, &probe, err));
        o.kv_bytes = 3 * engine_layout(e)->slot_bytes + n_pages * engine_layout(e)->page_bytes;
        o.max_ctx = MIN(n_pages * page, (uint32_t)N_MAX);
        fathom_engine_close(e);
    }
    if (fathom_engine_open(&e, &o, &why) != 0) {
        fail_msg("%s", why.msg);
    }
    if (disk) {
        fathom_kv_info k;
        fathom_engine_kv(e, &k);
        if (k.disk_state != FATHOM_DISK_WRITER) {
            fail_msg("store: %s", k.disk_reason);
        }
    }
    return e;
}

static void within_budget(const fathom_engine *e)
{
    fathom_kv_info k;
    engine_check(e);
    fathom_engine_kv(e, &k);
    assert_true(k.page_bytes + k.slot_bytes + k.frontier_bytes + k.staging_bytes <=
                k.budget_bytes);
}

/* ---- the oracle: one sequence, computed from zero by an engine that reuses nothing ---- */

struct oracle {
    fathom_engine *e;
    fathom_session *s;
    struct memo {
        uint64_t hash;
        float row[V];
    } memo[2048];
};

static uint64_t hash_ids(const uint32_t *ids, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++) {
        h = splitmix64(h ^ ids[i]);
    }
    return h;
}

static const float *truth(struct oracle *o, const uint32_t *ids, uint32_t n)
{
    uint64_t h = hash_ids(ids, n);
    struct memo *m = &o->memo[h % ARRAY_LEN(o->memo)];
    if (m->hash != h) {
        uint32_t len = fathom_session_len(o->s);
        bool goes_on = len < n && memcmp(fathom_session_ids(o->s), ids, len * sizeof *ids) == 0;
        if (!goes_on) {
            OK(fathom_session_rewind(o->s, 0, NULL, err));
        }
        fathom_reuse r;
        OK(fathom_session_sync(o->s, ids, n, NULL, NULL, &r, err));
        assert_int_equal(r.rerun, 0);
        assert_int_equal(r.kept, goes_on ? len : 0);
        m->hash = h;
        memcpy(m->row, fathom_session_logits(o->s, 0), sizeof m->row);
    }
    return m->row;
}

static void oracle_open(struct oracle *o, const struct random_model *m)
{
    o->e = open_engine(m, 0, 0, false, false);
    OK(fathom_session_new(&o->s, o->e, err));
    memset(o->memo, 0, sizeof o->memo);
}

static void oracle_close(struct oracle *o)
{
    fathom_session_free(o->s);
    fathom_engine_close(o->e);
}

/* ---- scripts ---- */

enum { ACTORS = 3, TRUNKS = 3 };

struct actor {
    fathom_session *s;
    uint32_t ids[N_MAX], n; /* its target; all computed unless cut is set */
    bool salted;
};

struct script {
    fathom_engine *e;
    struct oracle *o;
    struct rng g;
    struct actor a[ACTORS];
    uint32_t trunk[TRUNKS][N_MAX]; /* prompts that scripts come back to */
    uint32_t n_pages, longest;
    uint64_t seed;
};

static struct {
    uint64_t sets, ram, disk, rerun, computed, ends[FATHOM_REUSE_END_COUNT], restarts, refused,
        evicted, damaged;
} total;

static void start(struct script *x, struct actor *a, bool salted)
{
    fathom_session_options opt = {.salt = salted ? "other" : NULL,
                                  .salt_bytes = salted ? 5 : 0};
    OK(fathom_session_open(&a->s, x->e, &opt, err));
    a->n = 0;
    a->salted = salted;
}

/* Sets the actor to ids[0..n), computes and compares. */
static void compare(struct script *x, struct actor *a)
{
    fathom_reuse r;
    fathom_err why = {0};
    uint32_t before = fathom_session_len(a->s) + fathom_session_pending(a->s);
    uint32_t old[N_MAX], len = fathom_session_len(a->s);
    memcpy(old, fathom_session_ids(a->s), before * sizeof *old);
    int rc = fathom_session_set(a->s, a->ids, a->n, &r, &why);
    within_budget(x->e);
    if (rc == FATHOM_ELIMIT) { /* other sessions hold too much: nothing has changed */
        total.refused++;
        assert_int_equal(fathom_session_len(a->s), len);
        assert_int_equal(fathom_session_len(a->s) + fathom_session_pending(a->s), before);
        assert_memory_equal(old, fathom_session_ids(a->s), before * sizeof *old);
        memcpy(a->ids, old, before * sizeof *old);
        a->n = before;
        return;
    }
    if (rc != 0) {
        fail_msg("seed %llu: %s", (unsigned long long)x->seed, why.msg);
    }
    assert_int_equal(r.kept + r.rerun + r.computed, a->n);
    assert_int_equal(r.ram + r.disk, r.kept + r.rerun);
    assert_true(r.matched >= r.kept + r.rerun && r.matched <= a->n);
    assert_int_equal(r.kept, fathom_session_len(a->s));
    assert_int_equal(r.end == FATHOM_REUSE_ALL, r.matched == a->n);
    total.sets++;
    total.ram += r.ram;
    total.disk += r.disk;
    total.rerun += r.rerun;
    total.computed += r.computed;
    total.ends[r.end]++;
    bool cancelled = rng_below(&x->g, 12) == 0;
    for (uint32_t left; (left = fathom_session_pending(a->s)) > 0;) {
        uint32_t k = 1 + rng_below(&x->g, 64);
        fathom_work w = {a->s, MIN(k, left), FATHOM_WANT_LAST};
        OK(fathom_step(x->e, &w, 1, err));
        if (cancelled && left > w.n_tok) {
            within_budget(x->e);
            return; /* what was computed stays */
        }
    }
    const float *got = fathom_session_logits(a->s, 0);
    assert_non_null(got);
    if (memcmp(got, truth(x->o, a->ids, a->n), V * sizeof *got) != 0) {
        fail_msg("seed %llu: logits at %u differ (matched %u, kept %u, rerun %u, ram %u, disk "
                 "%u, frontier %u)",
                 (unsigned long long)x->seed, a->n, r.matched, r.kept, r.rerun, r.ram, r.disk,
                 r.frontier);
    }
    within_budget(x->e);
}

static void random_tail(struct script *x, struct actor *a, uint32_t from, uint32_t n)
{
    a->n = MIN(from + n, x->longest);
    for (uint32_t i = MIN(from, a->n); i < a->n; i++) {
        a->ids[i] = rng_below(&x->g, V);
    }
}

static void restart(struct script *x, bool damage)
{
    for (int i = 0; i < ACTORS; i++) {
        fathom_session_free(x->a[i].s);
        x->a[i].s = NULL;
        within_budget(x->e);
    }
    fathom_kv_info k;
    fathom_engine_kv(x->e, &k);
    total.evicted += k.evicted_pages;
    fathom_engine_close(x->e);
    if (damage) {
        total.damaged += store_files(&x->g) > 0;
    }
    x->e = open_engine(&model, 16, x->n_pages, true, true);
    total.restarts++;
}

static void one_op(struct script *x, struct actor *a)
{
    struct rng *g = &x->g;
    uint32_t len, n;
    switch (rng_below(g, 18)) {
    case 0:
    case 1:
    case 2: /* a turn more */
        random_tail(x, a, a->n, 1 + rng_below(g, rng_below(g, 2) ? 12 : 80));
        compare(x, a);
        break;
    case 3:
    case 4:
    case 16:
    case 17: { /* the beginning of a known prompt, then something new */
        const uint32_t *t = x->trunk[rng_below(g, TRUNKS)];
        n = 1 + rng_below(g, x->longest);
        memcpy(a->ids, t, n * sizeof *t);
        random_tail(x, a, n, rng_below(g, 20));
        compare(x, a);
        break;
    }
    case 5: { /* as another session has it, up to some place */
        const struct actor *b = &x->a[rng_below(g, ACTORS)];
        if (b->s && b->n > 0) {
            n = 1 + rng_below(g, b->n);
            memmove(a->ids, b->ids, n * sizeof *a->ids);
            random_tail(x, a, n, rng_below(g, 3) ? 1 + rng_below(g, 9) : 0);
            compare(x, a);
        }
        break;
    }
    case 6: /* the last turn again, differently */
        if (a->n > 1) {
            random_tail(x, a, rng_below(g, a->n), 1 + rng_below(g, 30));
            compare(x, a);
        }
        break;
    case 7: /* rewind and go on by appending, as speculation does */
        len = fathom_session_len(a->s);
        if (len > 0 && len == a->n) {
            uint32_t most = rng_below(g, 2) ? 9 : len;
            n = len - rng_below(g, MIN(len, most));
            OK(fathom_session_rewind(a->s, n, NULL, err));
            a->n = n;
            within_budget(x->e);
            if (rng_below(g, 2)) {
                random_tail(x, a, n, 1 + rng_below(g, 5));
                compare(x, a);
            }
        }
        break;
    case 8:
    case 9: OK(fathom_session_checkpoint(a->s, err)); break;
    case 10: { /* fork */
        struct actor *b = &x->a[rng_below(g, ACTORS)];
        len = fathom_session_len(a->s);
        if (b != a && len > 0) {
            fathom_session_free(b->s);
            b->s = NULL;
            n = 1 + rng_below(g, len);
            int rc = fathom_session_fork(&b->s, a->s, n, NULL);
            assert_true(rc == 0 || rc == FATHOM_ELIMIT);
            if (rc != 0) {
                start(x, b, a->salted);
            } else {
                b->n = n;
                b->salted = a->salted;
                memcpy(b->ids, a->ids, n * sizeof *a->ids);
            }
            within_budget(x->e);
        }
        break;
    }
    case 11: /* finish */
        fathom_session_free(a->s);
        within_budget(x->e);
        start(x, a, rng_below(g, 6) == 0);
        break;
    case 12: fathom_session_save(a->s); break;
    case 13: /* all idle pages are evicted, perhaps after they reached the disk */
        if (rng_below(g, 2)) {
            fathom_engine_kv_flush(x->e, 10);
        }
        fathom_engine_kv_drop(x->e);
        break;
    case 14:
        if (rng_below(g, 3) == 0) {
            restart(x, rng_below(g, 3) == 0);
        }
        break;
    default: { /* explain never fails */
        char text[4096];
        assert_true(fathom_session_explain(a->s, text, sizeof text) > 0);
        break;
    }
    }
}

static void run_script(struct oracle *o, uint64_t seed, int n_ops)
{
    static struct script x;
    x = (struct script){.o = o, .g = {splitmix64(seed)}, .seed = seed};
    fresh_dir();
    /* Mostly without threads, so that a seed always does the same. */
    debug = seed % 4 ? "poison-kv,kv-single" : "poison-kv";
    /* From hardly enough for one long sequence to plenty. */
    x.longest = 60 + rng_below(&x.g, 200);
    x.n_pages = (x.longest + 15) / 16 + 1 + rng_below(&x.g, 30);
    x.e = open_engine(&model, 16, x.n_pages, true, true);
    for (int t = 0; t < TRUNKS; t++) {
        uint32_t same = t ? rng_below(&x.g, x.longest) : 0;
        for (uint32_t i = 0; i < x.longest; i++) {
            x.trunk[t][i] = i < same ? x.trunk[0][i] : rng_below(&x.g, V);
        }
    }
    for (int op = 0; op < n_ops; op++) {
        struct actor *a = &x.a[rng_below(&x.g, ACTORS)];
        if (!a->s) {
            start(&x, a, rng_below(&x.g, 6) == 0);
        }
        one_op(&x, a);
        engine_check(x.e);
    }
    restart(&x, false);
    fathom_engine_close(x.e);
    debug = "poison-kv";
}

/* The script that runs: named whenever it does not end, whatever ends it. */
static uint64_t running;
static void name_script(void)
{
    if (running) {
        fprintf(stderr, "script %llu failed: FATHOM_TEST_SEED=%llu replays it\n",
                (unsigned long long)running, (unsigned long long)running);
    }
}
static void on_abort(int sig)
{
    name_script();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void test_scripts(void **state)
{
    (void)state;
    static struct oracle o;
    const char *one = getenv("FATHOM_TEST_SEED");
    uint64_t first = one ? strtoull(one, NULL, 0) : 1, last = one ? first : 200;
    if (!one && getenv("FATHOM_TEST_LONG")) {
        last = 20000;
    }
    if (!one && getenv("FATHOM_TEST_SCRIPTS")) {
        last = strtoull(getenv("FATHOM_TEST_SCRIPTS"), NULL, 0);
    }
    oracle_open(&o, &model);
    for (uint64_t seed = first; seed <= last; seed++) {
        running = seed;
        run_script(&o, seed, 30);
    }
    running = 0;
    oracle_close(&o);
    print_message("%llu sets (%llu refused), %llu restarts, %llu files damaged, %llu pages "
                  "evicted; tokens: ram %llu, disk %llu, re-run %llu, computed %llu\n",
                  (unsigned long long)total.sets, (unsigned long long)total.refused,
                  (unsigned long long)total.restarts, (unsigned long long)total.damaged,
                  (unsigned long long)total.evicted, (unsigned long long)total.ram,
                  (unsigned long long)total.disk, (unsigned long long)total.rerun,
                  (unsigned long long)total.computed);
    for (int i = 0; i < FATHOM_REUSE_END_COUNT; i++) {
        print_message("  %s: %llu\n", fathom_reuse_end_name(i),
                      (unsigned long long)total.ends[i]);
    }
    if (last - first >= 199) {
        assert_true(total.ram > 10000 && total.disk > 1000 && total.rerun > 1000);
        assert_true(total.evicted > 100 && total.refused > 0 && total.damaged > 5);
        assert_true(total.ends[FATHOM_REUSE_DIVERGED] > 100 &&
                    total.ends[FATHOM_REUSE_ALL] > 10);
        assert_true(total.ends[FATHOM_REUSE_BAD_FILE] > 0 && total.ends[FATHOM_REUSE_SALT] > 0);
    }
}

/* ---- every length: cold, from RAM, from files with and without frontier ---- */

static uint32_t seq[N_MAX];

/* Removes files whose names end so. */
static uint32_t remove_files(const char *end)
{
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        char sub[160], name[400];
        snprintf(sub, sizeof sub, "%s/%.64s", dir, x->d_name);
        DIR *in = strlen(x->d_name) == 16 ? opendir(sub) : NULL;
        for (struct dirent *y; in && (y = readdir(in));) {
            if (random_ends(y->d_name, end)) {
                snprintf(name, sizeof name, "%s/%.200s", sub, y->d_name);
                n += unlink(name) == 0;
            }
        }
        if (in) {
            closedir(in);
        }
    }
    closedir(d);
    return n;
}

/* n + 2 tokens must give these logits, with at least `disk` tokens from files. */
static void continues(fathom_engine *e, uint32_t n, const float *want, uint32_t disk,
                      bool no_frontier)
{
    fathom_session *s;
    fathom_reuse r;
    OK(fathom_session_new(&s, e, err));
    OK(fathom_session_sync(s, seq, n + 2, NULL, NULL, &r, err));
    if (memcmp(fathom_session_logits(s, 0), want, V * sizeof *want) != 0) {
        fail_msg("n %u: logits differ (kept %u, rerun %u, ram %u, disk %u, frontier %u)", n,
                 r.kept, r.rerun, r.ram, r.disk, r.frontier);
    }
    assert_true(r.disk >= disk);
    assert_true(!no_frontier || r.frontier == 0);
    fathom_session_free(s);
    within_budget(e);
}

static void one_length(uint32_t n, const float *want)
{
    fathom_session *s;
    fresh_dir();
    fathom_engine *e = open_engine(&wide, 128, 0, true, true);
    OK(fathom_session_new(&s, e, err));
    OK(fathom_session_sync(s, seq, n, NULL, NULL, NULL, err)); /* cold */
    fathom_session_free(s);
    continues(e, n, want, 0, false); /* RAM */
    fathom_engine_close(e);
    uint32_t stored = n / 128 * 128;
    for (int files = 0; files < 2; files++) { /* disk: with the frontier, then by a re-run */
        if (files) {
            assert_int_equal(remove_files(".f") > 0, n + 2 >= 128);
        }
        e = open_engine(&wide, 128, 0, true, true);
        fathom_kv_info k;
        /* Without frontier one segment alone saves nothing: all of it would be computed again. */
        continues(e, n, want, files && stored < 256 ? 0 : stored, files > 0);
        continues(e, n, want, 0, false);
        fathom_engine_kv(e, &k);
        assert_int_equal(k.disk_load_failures, 0);
        fathom_engine_close(e);
    }
}

static void test_lengths(void **state)
{
    (void)state;
    enum { LAST = 300 };
    static float want[LAST + 2][V];
    struct rng g = {77};
    fathom_session *s;
    bool all = getenv("FATHOM_TEST_LONG") != NULL;
    for (uint32_t i = 0; i < LAST + 2; i++) {
        seq[i] = rng_below(&g, V);
    }
    fathom_engine *e = open_engine(&wide, 128, 0, false, false);
    OK(fathom_session_new(&s, e, err));
    for (uint32_t i = 0; i < LAST + 2; i++) {
        OK(fathom_session_append(s, &seq[i], 1, err));
        fathom_work w = {s, 1, FATHOM_WANT_LAST};
        OK(fathom_step(e, &w, 1, err));
        memcpy(want[i], fathom_session_logits(s, 0), sizeof want[i]);
    }
    fathom_session_free(s);
    fathom_engine_close(e);
    uint32_t count = 0;
    for (uint32_t n = 1; n <= LAST; n++) {
        bool near = n < 10 || (n + 8) % 128 < 16 || n == LAST;
        if (all || near || n % 9 == 0) {
            one_length(n, want[n + 1]);
            count++;
        }
    }
    print_message("%u lengths\n", count);
}

/* ---- a load that fails changes nothing ---- */

/* Damages every stored file in one way; the store must then be worth nothing. */
static void damage_all(int how)
{
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        char sub[160], name[400];
        snprintf(sub, sizeof sub, "%s/%.64s", dir, x->d_name);
        DIR *in = strlen(x->d_name) == 16 ? opendir(sub) : NULL;
        for (struct dirent *y; in && (y = readdir(in));) {
            if (y->d_name[0] == '.') {
                continue;
            }
            snprintf(name, sizeof name, "%s/%.200s", sub, y->d_name);
            struct stat st;
            int fd = open(name, O_RDWR);
            assert_true(fd >= 0 && fstat(fd, &st) == 0);
            /* magic, version, identity, keys, header sum, section sum, ids, payload, padding of
             * the last section; shorter, longer, empty */
            const off_t at[] = {0, 8, 40, 100, 245, 290, 4096, 8192 + 5, st.st_size - 1};
            unsigned char c;
            if (how < (int)ARRAY_LEN(at)) {
                assert_int_equal(pread(fd, &c, 1, at[how]), 1);
                c ^= 0x10;
                assert_int_equal(pwrite(fd, &c, 1, at[how]), 1);
            } else {
                off_t sizes[] = {st.st_size - 4096, st.st_size + 4096, 0};
                assert_int_equal(ftruncate(fd, sizes[how - (int)ARRAY_LEN(at)]), 0);
            }
            close(fd);
        }
        if (in) {
            closedir(in);
        }
    }
    closedir(d);
}
enum { DAMAGES = 12 };

/* What a session and its engine hold, after the same calls with and without a store. */
struct held {
    unsigned char *bytes;
    size_t n;
    fathom_reuse r;
    fathom_kv_info k;
    struct kv_state st;
};
static void run_held(struct held *h, bool disk)
{
    fathom_session *s, *t;
    fathom_engine *e = open_engine(&wide, 128, 0, true, disk);
    OK(fathom_session_new(&s, e, err));
    OK(fathom_session_new(&t, e, err));
    OK(fathom_session_sync(t, seq, 40, NULL, NULL, NULL, err)); /* RAM knows a little */
    OK(fathom_session_set(s, seq, 300, &h->r, err));
    within_budget(e);
    h->st = *session_state(s);
    fathom_engine_kv(e, &h->k);
    while (fathom_session_pending(s) > 0) {
        fathom_work w = {s, MIN(fathom_session_pending(s), 64u), FATHOM_WANT_LAST};
        OK(fathom_step(e, &w, 1, err));
    }
    h->bytes = state_bytes(e, s, &h->n);
    fathom_session_free(s);
    fathom_session_free(t);
    fathom_engine_close(e);
}

static void test_failed_loads(void **state)
{
    (void)state;
    struct held plain, tried;
    fathom_session *s;
    run_held(&plain, false);
    for (int how = 0; how < DAMAGES; how++) {
        fresh_dir();
        fathom_engine *e = open_engine(&wide, 128, 0, true, true);
        OK(fathom_session_new(&s, e, err));
        OK(fathom_session_sync(s, seq, 290, NULL, NULL, NULL, err));
        fathom_session_free(s);
        fathom_engine_close(e);
        assert_int_equal(store_files(NULL), 3); /* two segments, a frontier */
        damage_all(how);
        run_held(&tried, true);
        if (tried.r.disk != 0 ||
            (tried.r.end != FATHOM_REUSE_BAD_FILE && tried.r.end != FATHOM_REUSE_IDENTITY)) {
            fail_msg("damage %d: %u tokens from disk, end: %s", how, tried.r.disk,
                     fathom_reuse_end_name(tried.r.end));
        }
        assert_true(tried.k.disk_load_failures > 0);
        assert_int_equal(tried.r.kept, plain.r.kept);
        assert_int_equal(tried.r.rerun, plain.r.rerun);
        assert_int_equal(tried.r.ram, plain.r.ram);
        assert_int_equal(tried.k.page_bytes, plain.k.page_bytes);
        assert_int_equal(tried.k.frontier_bytes, plain.k.frontier_bytes);
        assert_int_equal(tried.k.staging_bytes, 0);
        assert_int_equal(tried.st.n, plain.st.n);
        assert_int_equal(tried.st.keep, plain.st.keep);
        assert_int_equal(tried.st.start, plain.st.start);
        assert_int_equal(tried.st.reserved, plain.st.reserved);
        assert_int_equal(tried.st.n_pages, plain.st.n_pages);
        assert_int_equal(tried.n, plain.n);
        assert_memory_equal(tried.bytes, plain.bytes, plain.n);
        mem_free(tried.bytes);
    }
    mem_free(plain.bytes);
}

/* ---- reasons, sharing, what is not shared ---- */

static fathom_session *new_session(fathom_engine *e, const char *salt, bool no_store)
{
    fathom_session *s;
    fathom_session_options o = {
        .salt = salt, .salt_bytes = salt ? strlen(salt) : 0, .no_store = no_store};
    OK(fathom_session_open(&s, e, &o, err));
    return s;
}

static fathom_reuse set(fathom_session *s, uint32_t n)
{
    fathom_reuse r;
    OK(fathom_session_sync(s, seq, n, NULL, NULL, &r, err));
    return r;
}

static void test_reasons(void **state)
{
    (void)state;
    char text[2048];
    fresh_dir();
    fathom_engine *e = open_engine(&wide, 128, 6, true, false);
    fathom_session *a = new_session(e, NULL, false), *b;
    fathom_reuse r = set(a, 300);
    assert_int_equal(r.end, FATHOM_REUSE_NEW);
    r = set(a, 300);
    assert_int_equal(r.end, FATHOM_REUSE_ALL);
    assert_true(r.kept == 299 && r.ram == 299);
    /* Another session: pages from the tree, the rest and the rings from the live one. */
    b = new_session(e, NULL, false);
    r = set(b, 300);
    assert_true(r.kept == 299 && r.rerun == 0 && r.end == FATHOM_REUSE_ALL);
    uint32_t was = seq[200];
    seq[200] = (was + 1) % V;
    r = set(b, 300);
    assert_true(r.end == FATHOM_REUSE_DIVERGED && r.matched == 200);
    assert_true(r.want == seq[200] && r.have == was);
    assert_true(fathom_session_explain(b, text, sizeof text) < sizeof text);
    assert_non_null(strstr(text, "at token 200"));
    assert_non_null(strstr(text, "diverged"));
    assert_true(fathom_session_explain(b, text, 10) > 10 && strlen(text) == 9);
    seq[200] = was;
    fathom_session_free(b);
    /* An owner that does not share. */
    b = new_session(e, "x", false);
    r = set(b, 100);
    assert_true(r.matched == 0 && r.end == FATHOM_REUSE_SALT);
    fathom_session_free(b);
    fathom_session_free(a);
    /* What nobody holds is evicted when something else needs the room. */
    static uint32_t junk[2][N_MAX];
    for (uint32_t i = 0; i < 2 * N_MAX; i++) {
        junk[i / N_MAX][i % N_MAX] = (seq[0] + 1 + i * i % 13) % V;
    }
    a = new_session(e, NULL, false);
    OK(fathom_session_sync(a, junk[0], N_MAX, NULL, NULL, &r, err));
    OK(fathom_session_sync(a, junk[1] + 1, N_MAX - 1, NULL, NULL, &r, err));
    r = set(a, 300);
    if (r.end != FATHOM_REUSE_EVICTED || r.matched >= 128) {
        fail_msg("matched %u, end: %s", r.matched, fathom_reuse_end_name(r.end));
    }
    fathom_session_free(a);
    fathom_engine_close(e);
    /* no_reuse neither takes nor leaves anything. */
    e = open_engine(&wide, 128, 0, true, true);
    fathom_session_options o = {.no_reuse = true};
    OK(fathom_session_open(&a, e, &o, err));
    r = set(a, 200);
    fathom_session_free(a);
    a = new_session(e, NULL, true); /* in RAM, not on disk */
    r = set(a, 200);
    assert_true(r.matched == 0 && r.end == FATHOM_REUSE_NO_FILE);
    fathom_session_free(a);
    a = new_session(e, NULL, true);
    r = set(a, 200);
    assert_true(r.matched == 200);
    fathom_session_free(a);
    fathom_engine_close(e);
    assert_int_equal(store_files(NULL), 0);
    /* Stored under a salt, it is found under this salt only; another model finds nothing. */
    e = open_engine(&wide, 128, 0, true, true);
    a = new_session(e, "x", false);
    set(a, 200);
    fathom_session_free(a);
    fathom_engine_close(e);
    assert_true(store_files(NULL) > 0);
    e = open_engine(&wide, 128, 0, true, true);
    a = new_session(e, NULL, false);
    r = set(a, 200);
    assert_true(r.matched == 0 && r.end == FATHOM_REUSE_NO_FILE);
    b = new_session(e, "x", false);
    r = set(b, 200);
    assert_true(r.disk == 128 && r.kept == 128 && r.load_ms > 0);
    fathom_session_free(a);
    fathom_session_free(b);
    fathom_engine_close(e);
    struct random_config c = {.seed = 33,
                              .shape = {.n_layer = 3, .ratio = {0, 4, 128}, .n_hash = 1}};
    struct random_model other;
    random_model_make(&other, &c);
    e = open_engine(&other, 128, 0, true, true);
    a = new_session(e, "x", false);
    r = set(a, 200);
    assert_true(r.matched == 0 && r.end == FATHOM_REUSE_IDENTITY);
    fathom_session_free(a);
    fathom_engine_close(e);
    random_model_free(&other);
}

/* The directory cannot be used: everything works without. */
static void test_no_directory(void **state)
{
    (void)state;
    fresh_dir();
    char path[128];
    snprintf(path, sizeof path, "%s/file", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    fathom_engine_options o = {.model_data = wide.file,
                               .model_bytes = wide.file_bytes,
                               .n_threads = 1,
                               .max_ctx = N_MAX,
                               .kv_dir = path};
    fathom_engine *e;
    fathom_kv_info k;
    OK(fathom_engine_open(&e, &o, err));
    fathom_engine_kv(e, &k);
    assert_int_equal(k.disk_state, FATHOM_DISK_OFF);
    assert_true(k.disk_reason[0] != 0);
    fathom_session *s = new_session(e, NULL, false);
    set(s, 300);
    fathom_session_free(s);
    fathom_engine_close(e);
    o.sim_off = true; /* F32 rows are never stored */
    o.kv_dir = dir;
    OK(fathom_engine_open(&e, &o, err));
    fathom_engine_kv(e, &k);
    assert_int_equal(k.disk_state, FATHOM_DISK_OFF);
    assert_true(k.disk_reason[0] != 0);
    fathom_engine_close(e);
}

/* What a snapshot of V4 Flash costs (kv-store.md 3.3), computed by the code that writes it. */
static void test_cost(void **state)
{
    (void)state;
    const struct shape *s = shape_preset("flash");
    static struct layout l;
    static struct kv_geom g;
    OK(layout_make(&l, s, true, 0, err));
    OK(kv_geom_from_layout(&g, &l, s->n_vocab, err));
    uint64_t seg = kv_geom_segment_file_bytes(&g), n = 32768;
    uint64_t all = n / l.page_tokens * seg + kv_geom_frontier_file_bytes(&g, n);
    double turn = 0;
    for (uint32_t pos = 128; pos <= 2048; pos += 128) { /* where a turn may end in a page */
        turn += (double)(seg + kv_geom_frontier_file_bytes(&g, n + pos)) / 16;
    }
    print_message(
        "segment %llu bytes; 32K tokens %.1f bytes a token; a turn of 2K tokens %.2f MB on "
        "average\n",
        (unsigned long long)seg, (double)all / (double)n, turn / 1e6);
    assert_true((double)all / (double)n <= 3700);
    assert_true(turn <= 16e6);
}

int main(void)
{
    struct random_config c = {
        .seed = 31,
        .shape = {.n_layer = 4, .ratio = {0, 4, 8, 4}, .n_hash = 1, .window = 6, .d = 32}};
    random_model_make(&model, &c);
    struct random_config w = {.seed = 32,
                              .shape = {.n_layer = 3, .ratio = {0, 4, 128}, .n_hash = 1}};
    random_model_make(&wide, &w);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost),         cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_no_directory), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_failed_loads), cmocka_unit_test(test_scripts),
    };
    signal(SIGABRT, on_abort); /* an assertion in the library */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    name_script();
    remove_tree(dir);
    random_model_free(&model);
    random_model_free(&wide);
    return failed;
}
