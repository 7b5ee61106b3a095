/* Random scripts of what sessions can go through (turns, forks, rewinds, cancelled prompts, ends,
 * evictions, restarts, damaged files), in a pool that is often full, against a plain computation
 * by an engine that reuses nothing: every answer is compared bit for bit, every invariant of
 * pool, prefix tree and sessions is checked after every call, and memory never passes its budget.
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

#include <signal.h>

#include <cmocka.h>

#include "golden/reuse_common.h"

static struct random_model model; /* small geometry: A = 8, W = 6, S = 16 */

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

/* Flips a bit of one file, chosen at random (each_file: the last one that is drawn). */
struct damage {
    struct rng *g;
    uint32_t seen;
    char path[400];
};
static void choose(void *user, const char *path, int fd)
{
    struct damage *d = user;
    (void)fd;
    if (rng_below(d->g, ++d->seen) == 0) {
        snprintf(d->path, sizeof d->path, "%s", path);
    }
}
static void damage_one(struct rng *g)
{
    struct damage d = {.g = g};
    if (each_file(choose, &d) > 0) {
        int fd = open(d.path, O_RDWR);
        assert_true(fd >= 0);
        off_t at = (off_t)rng_below(g, (uint32_t)file_size(fd));
        flip(fd, at, (unsigned char)(1u << rng_below(g, 8)));
        close(fd);
        total.damaged++;
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
        damage_one(&x->g);
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

int main(void)
{
    struct random_config c = {
        .seed = 31,
        .shape = {.n_layer = 4, .ratio = {0, 4, 8, 4}, .n_hash = 1, .window = 6, .d = 32}};
    random_model_make(&model, &c);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripts),
    };
    signal(SIGABRT, on_abort); /* an assertion in the library */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    name_script();
    remove_tree(dir);
    random_model_free(&model);
    return failed;
}
