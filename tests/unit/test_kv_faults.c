/* test_kv_faults.c - the disk store when things break: the process dies at every call (with the
 * write under way torn in four ways), the power fails there, every call fails with every error
 * once and for ever. After each run a new process opens what is left: everything it restores is
 * right, what was safely there before still is, the budget holds, nothing leaks, and it works.
 *
 * Counts are printed; FATHOM_TEST_KV multiplies the scenarios (./test.sh --long). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "kv/store_int.h"
#include "kv_tiny.h"

enum { SCENARIOS = 58, IO_SCENARIOS = 36, CONV = 6, LEN = 44 };

static struct memfs fs;
static struct tiny w;

/* A scenario is its number: what was there before, and what is done when things break. */
struct scenario {
    struct rng rng;
    uint32_t conv[CONV][LEN];
    uint32_t before[CONV], n_before; /* lengths saved safely by an earlier process */
    uint32_t n_steps;
    uint64_t budget;
};

static void make_scenario(struct scenario *sc, uint32_t number)
{
    memset(sc, 0, sizeof *sc);
    sc->rng.s = number * 7919 + 1;
    for (int i = 0; i < CONV; i++) {
        tiny_ids(&sc->rng, sc->conv[i], 0, LEN);
        if (i > 0 && rng_below(&sc->rng, 2)) { /* shares a beginning with another */
            memcpy(sc->conv[i], sc->conv[rng_below(&sc->rng, (uint32_t)i)],
                   sizeof(uint32_t) * rng_below(&sc->rng, 30));
        }
    }
    sc->n_before = rng_below(&sc->rng, 4);
    for (uint32_t i = 0; i < sc->n_before; i++) {
        sc->before[i] = 1 + rng_below(&sc->rng, LEN);
    }
    sc->n_steps = 2 + rng_below(&sc->rng, 3);
    sc->budget = kv_geom_segment_file_bytes(&w.g) *
                 (number % 3 == 0 ? 6 + rng_below(&sc->rng, 6) : 1000);
}

static void start(const struct scenario *sc, uint64_t seed)
{
    memfs_init(&fs, seed, &w.wall);
    tiny_init(&w, &fs);
    w.cfg.budget_bytes = (uint64_t)1 << 30;
    assert_true(tiny_open(&w));
    for (uint32_t i = 0; i < sc->n_before; i++) {
        tiny_save(&w, NULL, sc->conv[i], sc->before[i], true, false);
    }
    tiny_close(&w);
    memfs_restart(&fs, false);
    fs.calls = 0;
    w.cfg.budget_bytes = sc->budget;
}

static uint64_t disk_bytes(void)
{
    uint64_t sum = 0;
    struct kv_name name;
    for (int i = 0; i < fs.n_nodes; i++) {
        if (fs.node[i].used && fs.node[i].linked && kv_name_parse(fs.node[i].name, &name)) {
            sum += fs.node[i].n;
        }
    }
    return sum;
}

/* What the broken process tries. Nothing it restores may be wrong, whatever fails. */
static void act(struct scenario *sc)
{
    struct rng r = {sc->rng.s};
    if (!tiny_open(&w)) {
        return;
    }
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    uint64_t limit = MAX(sc->budget, st.used_bytes); /* a lower budget takes a moment */
    for (uint32_t i = 0; i < sc->n_steps; i++) {
        const uint32_t *ids = sc->conv[rng_below(&r, CONV)];
        uint32_t n = 1 + rng_below(&r, LEN);
        w.wall += 700;
        if (rng_below(&r, 3) == 0) {
            assert_false(tiny_restore(&w, NULL, ids, n).wrong);
        } else {
            tiny_save(&w, NULL, ids, n, rng_below(&r, 2), false);
        }
        index_check(&w.s->index);
        kv_store_get_stats(w.s, &st);
        assert_true(st.used_bytes <= limit);
        /* Leftovers are counted, too; but nobody can count what the system says is not there. */
        if (!fs.dead && st.state == KV_STORE_WRITER && fs.fail_with != -ENOENT) {
            assert_true(disk_bytes() <= st.used_bytes);
        }
    }
    tiny_close(&w);
}

/* A new process: all it restores is right; with `complete`, what an earlier one saved and nobody
 * evicted is all there. Then it saves and restores a conversation of its own. */
static void aftermath(const struct scenario *sc, bool complete)
{
    assert_true(tiny_open(&w));
    kv_store_work(w.s);
    index_check(&w.s->index);
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    assert_int_equal(st.state, KV_STORE_WRITER);
    assert_true(st.used_bytes <= sc->budget);
    assert_true(disk_bytes() == st.used_bytes);
    for (uint32_t i = 0; i < CONV; i++) {
        struct tiny_got got = tiny_restore(&w, NULL, sc->conv[i], LEN);
        assert_false(got.wrong);
        if (complete && i < sc->n_before && sc->budget > (uint64_t)1 << 20) {
            assert_true(got.n_segments >= sc->before[i] / TINY_S);
            assert_true(got.frontier_pos >= sc->before[i]);
            assert_int_equal(got.load_why, KV_WHY_NONE);
        }
    }
    uint32_t ids[20];
    for (uint32_t i = 0; i < 20; i++) {
        ids[i] = 999 - i;
    }
    w.mono += 1000;
    assert_int_equal(tiny_save(&w, NULL, ids, 20, true, false), KV_WHY_NONE);
    struct tiny_got got = tiny_restore(&w, NULL, ids, 20);
    assert_true(!got.wrong && got.n_segments == 2 && got.frontier_pos == 20);
    kv_store_get_stats(w.s, &st);
    assert_true(st.used_bytes <= sc->budget);
    tiny_close(&w);
    assert_int_equal(memfs_open_handles(&fs), 0);
}

static uint32_t times(uint32_t n)
{
    const char *more = getenv("FATHOM_TEST_KV");
    uint32_t by = more ? (uint32_t)strtoul(more, NULL, 10) : 1;
    n = n * (by ? by : 1) / TINY_FEWER;
    return n ? n : 1;
}

/* Calls that the acting process makes in a run without faults. */
static uint64_t count_calls(struct scenario *sc)
{
    start(sc, 1);
    act(sc);
    uint64_t n = fs.calls;
    memfs_restart(&fs, false);
    aftermath(sc, true);
    memfs_fini(&fs);
    return n;
}

/* Dies at every call of every scenario, four tears each; power: the machine, too. */
static void deaths(bool power)
{
    unsigned long runs = 0, calls = 0;
    uint32_t n_scenarios = times(SCENARIOS);
    for (uint32_t i = 0; i < n_scenarios; i++) {
        static struct scenario sc;
        make_scenario(&sc, i + (power ? 500 : 0));
        uint64_t n = count_calls(&sc);
        calls += n;
        for (uint64_t at = 1; at <= n; at++) {
            for (int tear = 0; tear < TEAR_COUNT; tear++) {
                start(&sc, at * 4 + (uint64_t)tear);
                fs.die_at = at;
                fs.tear = (enum memfs_tear)tear;
                act(&sc);
                memfs_restart(&fs, power);
                aftermath(&sc, true);
                memfs_fini(&fs);
                runs++;
            }
        }
    }
    print_message("%s: %lu runs, %lu calls in %u scenarios, 4 tears\n",
                  power ? "power loss" : "killed", runs, calls, n_scenarios);
}

static void killed(void **state)
{
    (void)state;
    deaths(false);
}
static void power_loss(void **state)
{
    (void)state;
    deaths(true);
}

static void io_errors(void **state)
{
    (void)state;
    static const int error[] = {EIO, ENOSPC, EDQUOT, EROFS, EMFILE, EACCES, ENOENT};
    unsigned long runs = 0;
    for (uint32_t i = 0; i < times(IO_SCENARIOS); i++) {
        static struct scenario sc;
        make_scenario(&sc, 1000 + i);
        uint64_t n = count_calls(&sc);
        for (uint64_t at = 1; at <= n; at++) {
            for (size_t e = 0; e < ARRAY_LEN(error); e++) {
                for (int forever = 0; forever < 2; forever++) {
                    start(&sc, at);
                    fs.fail_with = -error[e];
                    fs.fail_until = forever ? UINT64_MAX : at + 1;
                    fs.fail_at = at;
                    act(&sc);
                    memfs_restart(&fs, false);
                    aftermath(&sc, false);
                    memfs_fini(&fs);
                    runs++;
                }
            }
        }
    }
    print_message("I/O errors: %lu runs, %zu errors, once and for ever\n", runs,
                  ARRAY_LEN(error));
}

/* Interruptions and short transfers at random, together with errors at random. */
static void random_mixes(void **state)
{
    (void)state;
    static const int error[] = {EIO, ENOSPC, EROFS, EMFILE, EINTR, ENOMEM, EAGAIN};
    struct rng r = {99};
    unsigned long runs = 0;
    for (uint32_t i = 0; i < times(1000); i++) {
        static struct scenario sc;
        make_scenario(&sc, 2000 + i);
        start(&sc, i);
        fs.short_io = true;
        for (int round = 0; round < 3; round++) {
            fs.fail_with = -error[rng_below(&r, ARRAY_LEN(error))];
            fs.fail_at = fs.calls + 1 + rng_below(&r, 150);
            fs.fail_until = fs.fail_at + rng_below(&r, 20);
            act(&sc);
            w.mono += 100;
        }
        memfs_restart(&fs, false);
        fs.short_io = true;
        aftermath(&sc, false);
        memfs_fini(&fs);
        runs++;
    }
    print_message("random mixes: %lu runs\n", runs);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    tiny_geom(&w.g);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed),
        cmocka_unit_test(power_loss),
        cmocka_unit_test(io_errors),
        cmocka_unit_test(random_mixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
