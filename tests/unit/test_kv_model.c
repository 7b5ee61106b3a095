/* test_kv_model.c - random operations on the disk store against a trivial oracle: a dictionary
 * from (identity, salt, ids) to rows, which is a function here, and the set of prefixes that were
 * saved. The store may know less once something was evicted, damaged or failed; it may never
 * return a wrong byte, exceed its budget, lose a page, or break its own order. Until then it must
 * know everything.
 *
 * Operations come from a seed, 500 an episode. A failing episode is shrunk to the operations that
 * matter and printed; FATHOM_TEST_KV_SEED runs one episode again. 10^6 operations by default,
 * times FATHOM_TEST_KV. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>

#include "base/log.h"
#include "base/mem.h"
#include "kv/store_int.h"
#include "kv_tiny.h"

enum { OPS = 500, EPISODES = 2000, CONVS = 8, LEN = 72, MAX_SAVED = 2048 };

enum op_kind {
    OP_EXTEND,
    OP_FORK,
    OP_REWIND,
    OP_SAVE,   /* finish a request */
    OP_CANCEL, /* queue, then give some up */
    OP_LOOKUP, /* restore what there is, and check it */
    OP_EVICT,
    OP_RESTART, /* another process */
    OP_KILL,    /* the process dies a few calls into the next save; power: the machine, too */
    OP_CORRUPT, /* one byte somewhere */
    OP_TRUNCATE,
    OP_VANISH, /* somebody removes a file */
    OP_FILL,   /* the disk is full, or not any more */
    OP_FAIL,   /* some calls fail */
    OP_CLOCK,
    OP_IDENTITY, /* another model */
    OP_COUNT
};
static const char *const op_name[OP_COUNT] = {
    "extend", "fork",    "rewind",   "save",   "cancel", "lookup", "evict", "restart",
    "kill",   "corrupt", "truncate", "vanish", "fill",   "fail",   "clock", "identity"};
/* How often each comes, in 1/100. */
static const unsigned char op_weight[OP_COUNT] = {14, 6, 4, 20, 4, 40, 2, 2,
                                                  1,  1, 1, 1,  1, 1,  1, 1};

struct op {
    enum op_kind kind;
    uint32_t a, b, c;
};

static struct memfs fs;
static struct tiny w;
static bool plant; /* a wrong byte in what is restored: does the test notice? */

struct world {
    uint32_t ids[CONVS][LEN], n[CONVS];
    bool exact;  /* nothing was evicted, damaged or failed since the files were all there */
    bool faults; /* calls may be failing: a save need not succeed */
    uint64_t saved[MAX_SAVED]; /* hashes of (identity, salt, ids of full segments) saved */
    uint32_t n_saved;
    uint64_t n_lookups, n_restored;
    uint64_t n_exact; /* lookups that had to find everything, and there was something */
};
static struct world world;

static const struct kv_id *salt_of(uint32_t a)
{
    static const struct kv_id salt = {{9, 9, 9}};
    return a % 8 == 0 ? &salt : NULL;
}

/* ---- the oracle ---- */

static uint64_t prefix_hash(const struct kv_id *salt, const uint32_t *ids, uint32_t n)
{
    uint64_t h[TINY_MAX + 1];
    tiny_prefix(&w, salt, ids, n, h);
    return h[n];
}
static bool is_saved(uint64_t h)
{
    for (uint32_t i = 0; i < world.n_saved; i++) {
        if (world.saved[i] == h) {
            return true;
        }
    }
    return false;
}
static void note_saved(const struct kv_id *salt, const uint32_t *ids, uint32_t n)
{
    for (uint32_t k = 1; k <= n / TINY_S; k++) {
        uint64_t h = prefix_hash(salt, ids, k * TINY_S);
        if (world.n_saved < MAX_SAVED && !is_saved(h)) {
            world.saved[world.n_saved++] = h;
        }
    }
    world.exact = world.exact && world.n_saved < MAX_SAVED;
}
static uint32_t oracle_segments(const struct kv_id *salt, const uint32_t *ids, uint32_t n)
{
    uint32_t k = 0;
    while ((k + 1) * TINY_S <= n && is_saved(prefix_hash(salt, ids, (k + 1) * TINY_S))) {
        k++;
    }
    return k;
}

/* ---- operations ---- */

static bool calm(void)
{
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    return !world.faults && st.evicted_files == 0 && st.state == KV_STORE_WRITER && !st.paused;
}

static bool budget_kept(void)
{
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    return st.used_bytes <= w.cfg.budget_bytes || st.state != KV_STORE_WRITER || world.faults;
}

static struct memfs_node *some_file(uint32_t a)
{
    struct memfs_node *found = NULL;
    uint32_t n = 0;
    for (int i = 0; i < fs.n_nodes; i++) {
        struct memfs_node *d = &fs.node[i];
        if (d->used && d->linked && d->type == KV_TYPE_FILE && d->n > 0 && d->name[0] != 'L' &&
            d->name[0] != 'C' && ++n > 0) {
            found = !found || a % n == 0 ? d : found;
        }
    }
    return found;
}

static bool lookup(uint32_t i, uint32_t b)
{
    uint32_t n = b % 3 ? world.n[i] : b % (world.n[i] + 1);
    const struct kv_id *salt = salt_of(b);
    bool was_calm = calm();
    uint32_t want = oracle_segments(salt, world.ids[i], n);
    struct tiny_got got = tiny_restore(&w, salt, world.ids[i], n);
    world.n_lookups++;
    world.n_restored += got.n_segments;
    if (got.wrong || got.n_segments > want || got.frontier_pos > n) {
        return false; /* a wrong byte, or more than was ever saved */
    }
    world.exact = world.exact && was_calm;
    world.n_exact += world.exact && want > 0;
    return !world.exact || got.n_segments == want;
}

static void save(uint32_t i, uint32_t b, bool queue_only)
{
    const struct kv_id *salt = salt_of(b);
    note_saved(salt, world.ids[i], world.n[i]); /* an upper bound, if something fails */
    enum kv_why why = tiny_save(&w, salt, world.ids[i], world.n[i], b % 4 == 0, queue_only);
    world.exact = world.exact && why == KV_WHY_NONE && !queue_only && calm();
}

static bool restart(void)
{
    tiny_close(&w);
    memfs_restart(&fs, false);
    world.faults = false;
    if (!tiny_open(&w)) {
        return false;
    }
    kv_store_work(w.s);
    return true;
}

static bool kill_in_save(const struct op *o, uint32_t i)
{
    fs.die_at = fs.calls + 1 + o->b % 40;
    fs.tear = (enum memfs_tear)(o->c % TEAR_COUNT);
    save(i, o->c, false);
    world.exact = false;
    tiny_close(&w);
    memfs_restart(&fs, o->b % 2);
    world.faults = false;
    if (!tiny_open(&w)) {
        return false;
    }
    kv_store_work(w.s); /* what was evicted may be back after a power cut */
    return true;
}

static void damage(const struct op *o)
{
    struct memfs_node *d = some_file(o->a);
    world.exact = false;
    if (!d) {
        return;
    }
    if (o->kind == OP_CORRUPT) {
        size_t at = o->b % 4 ? o->c % d->n : o->c % 400 % d->n;
        d->data[at] ^= (unsigned char)(1 + o->b % 255);
    } else if (o->kind == OP_TRUNCATE) {
        memfs_resize(&fs, d, o->b % 2 ? o->c % d->n : d->n + o->c % 5000);
    } else {
        d->linked = false;
    }
}

static bool run_op(const struct op *o)
{
    uint32_t i = o->a % CONVS, j = o->b % CONVS, n;
    struct rng r = {o->c};
    switch (o->kind) {
    case OP_EXTEND:
        n = MIN(world.n[i] + 1 + o->b % 20, (uint32_t)LEN);
        tiny_ids(&r, world.ids[i], world.n[i], n);
        world.n[i] = n;
        return true;
    case OP_FORK:
        world.n[j] = o->c % (world.n[i] + 1);
        if (i != j) {
            memcpy(world.ids[j], world.ids[i], world.n[j] * sizeof(uint32_t));
        }
        return true;
    case OP_REWIND: world.n[i] = o->b % (world.n[i] + 1); return true;
    case OP_SAVE: save(i, o->b, false); return true;
    case OP_CANCEL:
        save(i, o->b, true);
        kv_store_give_up(w.s, o->c % 5);
        kv_store_work(w.s);
        kv_store_poll(w.s);
        return true;
    case OP_LOOKUP: return lookup(i, o->b);
    case OP_EVICT:
        world.exact = false;
        writer_evict(w.s, "a test");
        return true;
    case OP_RESTART: return restart();
    case OP_KILL: return kill_in_save(o, i);
    case OP_CORRUPT:
    case OP_TRUNCATE:
    case OP_VANISH: damage(o); return true;
    case OP_FILL:
        world.exact = false;
        fs.total_bytes = o->b % 2 ? fs.used_bytes + o->c % 60000 : 0;
        w.mono += o->b % 100;
        return true;
    case OP_FAIL:
        world.exact = false;
        world.faults = true;
        fs.fail_with = o->b % 3 == 0 ? -EIO : o->b % 3 == 1 ? -EMFILE : -ENOSPC;
        fs.fail_at = fs.calls + 1 + o->c % 30;
        fs.fail_until = fs.fail_at + 1 + o->b % 10;
        return true;
    case OP_CLOCK:
        w.wall += (int64_t)(o->b % 2000000000) - 1000000000;
        w.mono += o->c % 1000;
        return true;
    case OP_IDENTITY:
        w.cfg.identity.b[31] = (unsigned char)(o->b % 2);
        world.exact = false;
        return restart();
    default: return false;
    }
}

/* ---- episodes ---- */

static void planted_write(void *user, uint32_t page, uint64_t at, const void *src, uint64_t n)
{
    tiny_write(user, page, at, src, n);
    if (plant) {
        w.page[page][at] ^= 1;
    }
}

static sigjmp_buf aborted;
static void on_abort(int sig)
{
    (void)sig;
    siglongjmp(aborted, 1);
}

/* Every fourth episode is without faults and evictions: there the store must know everything. */
static bool is_calm_seed(uint64_t seed)
{
    return seed % 4 == 0;
}

static void make_ops(uint64_t seed, struct op op[OPS])
{
    struct rng r = {seed};
    for (int i = 0; i < OPS; i++) {
        int pick = (int)rng_below(&r, 100), kind = 0;
        while (pick >= op_weight[kind]) {
            pick -= op_weight[kind++];
        }
        if (is_calm_seed(seed) && kind >= OP_CANCEL && kind != OP_RESTART && kind != OP_CLOCK) {
            kind = OP_LOOKUP;
        }
        op[i] = (struct op){(enum op_kind)kind, (uint32_t)rng_u64(&r), (uint32_t)rng_u64(&r),
                            (uint32_t)rng_u64(&r)};
    }
}

/* Runs the operations that are not skipped; the index of the one that failed, OPS: none. */
static int run_episode(uint64_t seed, const struct op op[OPS], const bool skip[OPS])
{
    static volatile int at;
    struct rng r = {seed ^ 0x55};
    uint64_t lookups = world.n_lookups, restored = world.n_restored, exact = world.n_exact;
    world = (struct world){
        .exact = true, .n_lookups = lookups, .n_restored = restored, .n_exact = exact};
    memfs_init(&fs, seed, &w.wall);
    tiny_init(&w, &fs);
    w.cfg.io.write = planted_write;
    w.cfg.budget_bytes = kv_geom_segment_file_bytes(&w.g) *
                         (!is_calm_seed(seed) ? 10 + rng_below(&r, 60) : 2000);
    bool ok = tiny_open(&w);
    signal(SIGABRT, on_abort);
    if (sigsetjmp(aborted, 1) != 0) { /* an assertion; what it held is lost */
        memset(&fs, 0, sizeof fs);
        return at;
    }
    for (at = 0; ok && at < OPS; at++) {
        if (!skip[at]) {
            ok = run_op(&op[at]) && budget_kept();
            if (at % 16 == 0) {
                index_check(&w.s->index);
            }
        }
        if (!ok) {
            break;
        }
    }
    tiny_close(&w);
    ok = ok && memfs_open_handles(&fs) == 0;
    signal(SIGABRT, SIG_DFL);
    memfs_fini(&fs);
    return ok ? OPS : at < OPS ? at : OPS - 1;
}

/* Leaves out what is not needed to fail: halves first, single operations at the end. */
static uint32_t shrink(uint64_t seed, const struct op op[OPS], bool skip[OPS], int failed)
{
    for (int i = failed + 1; i < OPS; i++) {
        skip[i] = true;
    }
    for (int size = OPS / 2; size >= 1; size /= 2) {
        for (int from = 0; from < OPS; from += size) {
            bool was[OPS], any = false;
            memcpy(was, skip, sizeof was);
            for (int i = from; i < from + size && i < OPS; i++) {
                any = any || !skip[i];
                skip[i] = true;
            }
            if (any && run_episode(seed, op, skip) == OPS) {
                memcpy(skip, was, sizeof was);
            }
        }
    }
    uint32_t left = 0;
    for (int i = 0; i < OPS; i++) {
        left += !skip[i];
    }
    return left;
}

static void report(uint64_t seed, const struct op op[OPS], const bool skip[OPS])
{
    print_error("seed %llu fails; what is left of it:\n", (unsigned long long)seed);
    for (int i = 0; i < OPS; i++) {
        if (!skip[i]) {
            print_error("  %3d %-8s %u %u %u\n", i, op_name[op[i].kind], op[i].a, op[i].b,
                        op[i].c);
        }
    }
}

static void operations(void **state)
{
    (void)state;
    static struct op op[OPS];
    static bool skip[OPS];
    const char *more = getenv("FATHOM_TEST_KV"), *one = getenv("FATHOM_TEST_KV_SEED");
    uint64_t times = more ? strtoull(more, NULL, 10) : 1;
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t n = one ? 1 : EPISODES * (times ? times : 1) / TINY_FEWER;
    for (uint64_t seed = first; seed < first + n; seed++) {
        make_ops(seed, op);
        int failed = run_episode(seed, op, skip);
        if (failed < OPS) {
            shrink(seed, op, skip, failed);
            report(seed, op, skip);
            fail();
        }
    }
    print_message(
        "%llu operations in %llu episodes (seeds from %llu): %llu lookups, %llu segments "
        "restored and compared, %llu lookups that had to find all\n",
        (unsigned long long)(n * OPS), (unsigned long long)n, (unsigned long long)first,
        (unsigned long long)world.n_lookups, (unsigned long long)world.n_restored,
        (unsigned long long)world.n_exact);
    assert_true(one || (world.n_restored > n * 100 && world.n_exact > n * 10));
}

/* A planted wrong byte is found, and the episode shrinks to a save and a lookup. */
static void finds_and_shrinks(void **state)
{
    (void)state;
    static struct op op[OPS];
    static bool skip[OPS];
    plant = true;
    make_ops(4, op);
    int failed = run_episode(4, op, skip);
    assert_true(failed < OPS);
    uint32_t left = shrink(4, op, skip, failed);
    plant = false;
    print_message("a planted fault shrinks to %u operations\n", left);
    assert_true(left >= 2 && left <= 6);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_and_shrinks),
        cmocka_unit_test(operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
