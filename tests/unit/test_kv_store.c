/* test_kv_store.c - the disk store on a file system in memory: what is saved comes back, in this
 * process and the next; why it does not; order of eviction, budget, peers, salts, refusals, and
 * what it does when the disk says no. Every restored byte is compared with what it must be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "kv/store_int.h"
#include "kv_tiny.h"

static struct memfs fs;
static struct tiny w;

static int setup(void **state)
{
    (void)state;
    memfs_init(&fs, 1, &w.wall);
    tiny_init(&w, &fs);
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    if (w.s) {
        tiny_close(&w);
    }
    assert_int_equal(memfs_open_handles(&fs), 0);
    memfs_fini(&fs);
    return 0;
}

static struct kv_store_stats stats(void)
{
    struct kv_store_stats st;
    kv_store_get_stats(w.s, &st);
    return st;
}
static void assert_restored(const uint32_t *ids, uint32_t n, uint32_t segments,
                            uint32_t frontier)
{
    struct tiny_got got = tiny_restore(&w, NULL, ids, n);
    assert_false(got.wrong);
    assert_int_equal(got.n_segments, segments);
    assert_int_equal(got.frontier_pos, frontier);
}
static uint64_t segment_bytes(void)
{
    return kv_geom_segment_file_bytes(&w.g);
}
static void reopen(void)
{
    tiny_close(&w);
    assert_true(tiny_open(&w));
}

static void round_trip(void **state)
{
    (void)state;
    struct rng r = {7};
    uint32_t ids[64];
    assert_true(tiny_open(&w));
    for (uint32_t n = 1; n <= 40; n++) {
        tiny_ids(&r, ids, 0, n);
        assert_int_equal(tiny_save(&w, NULL, ids, n, true, false), KV_WHY_NONE);
        assert_restored(ids, n, n / TINY_S, n);
    }
    struct kv_store_stats st = stats();
    assert_int_equal(st.n_frontiers, 40);
    reopen();
    assert_int_equal(stats().n_frontiers, 40);
    assert_restored(ids, 40, 5, 40);
    assert_restored(ids, 39, 4, 0); /* the frontier lies beyond */
    tiny_ids(&r, ids, 40, 64);
    assert_restored(ids, 64, 5, 40); /* goes on elsewhere */
    assert_int_equal(tiny_save(&w, NULL, ids, 64, false, false), KV_WHY_NONE);
    assert_restored(ids, 64, 8, 40);            /* a frontier below the last segments */
    assert_int_equal(stats().written_files, 3); /* only what was new */
}

/* Any prompt that shares k full segments uses them, and the deepest frontier it passes. */
static void branches(void **state)
{
    (void)state;
    struct rng r = {8};
    uint32_t a[64], b[64];
    assert_true(tiny_open(&w));
    tiny_ids(&r, a, 0, 64);
    assert_int_equal(tiny_save(&w, NULL, a, 21, true, false), KV_WHY_NONE);
    assert_int_equal(tiny_save(&w, NULL, a, 45, true, false), KV_WHY_NONE);
    memcpy(b, a, sizeof b);
    b[30] = (b[30] + 1) % TINY_VOCAB;
    struct tiny_got got = tiny_restore(&w, NULL, b, 64);
    assert_false(got.wrong);
    assert_int_equal(got.n_segments, 3);
    assert_int_equal(got.frontier_pos, 21);
    assert_int_equal(got.why, KV_WHY_DIVERGED);
    struct kv_chain c;
    struct kv_hit hit;
    uint32_t pos, id;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    kv_store_find(w.s, &c, b, 64, &hit);
    assert_true(kv_store_divergence(w.s, &c, &hit, b, 64, &pos, &id));
    assert_int_equal(pos, 30);
    assert_int_equal(id, a[30]);
    assert_false(kv_store_divergence(w.s, &c, &hit, b, 30, &pos, &id)); /* none that far */
    kv_hit_release(w.s, &hit);
    kv_chain_fini(&c);
    /* Both branches, then a third that stops inside a segment. */
    assert_int_equal(tiny_save(&w, NULL, b, 64, true, false), KV_WHY_NONE);
    assert_restored(a, 64, 5, 45);
    assert_restored(b, 64, 8, 64);
    assert_restored(a, 20, 2, 0);
    assert_int_equal(tiny_restore(&w, NULL, a, 64).why, KV_WHY_NO_FILE);
    assert_int_equal(tiny_restore(&w, NULL, a, 40).why, KV_WHY_NONE);
}

static void salts_and_identities(void **state)
{
    (void)state;
    struct rng r = {9};
    uint32_t ids[32];
    struct kv_id salt = {{5}};
    assert_true(tiny_open(&w));
    tiny_ids(&r, ids, 0, 32);
    assert_int_equal(tiny_save(&w, NULL, ids, 20, true, false), KV_WHY_NONE);
    assert_int_equal(tiny_restore(&w, &salt, ids, 20).n_segments, 0);
    assert_int_equal(tiny_save(&w, &salt, ids, 20, true, false), KV_WHY_NONE);
    struct tiny_got got = tiny_restore(&w, &salt, ids, 20);
    assert_true(!got.wrong && got.n_segments == 2 && got.frontier_pos == 20);
    assert_restored(ids, 20, 2, 20);
    assert_int_equal(stats().n_segments, 4);
    tiny_close(&w);
    w.cfg.identity.b[0] ^= 1;
    assert_true(tiny_open(&w));
    got = tiny_restore(&w, NULL, ids, 20);
    assert_int_equal(got.n_segments, 0);
    assert_int_equal(got.why, KV_WHY_IDENTITY);
    assert_int_equal(stats().n_segments, 4); /* counted all the same */
    assert_int_equal(tiny_save(&w, NULL, ids, 20, true, false), KV_WHY_NONE);
    assert_restored(ids, 20, 2, 20);
}

/* A file put where another belongs is not used, whatever it contains. */
static void swapped_files(void **state)
{
    (void)state;
    struct rng r = {10};
    uint32_t a[16], b[16];
    assert_true(tiny_open(&w));
    tiny_ids(&r, a, 0, 16);
    tiny_ids(&r, b, 0, 16);
    assert_int_equal(tiny_save(&w, NULL, a, 16, false, false), KV_WHY_NONE);
    assert_int_equal(tiny_save(&w, NULL, b, 16, false, false), KV_WHY_NONE);
    int at[4], n = 0;
    for (int i = 0; i < fs.n_nodes; i++) {
        if (fs.node[i].used && strstr(fs.node[i].name, ".s") && n < 4) {
            at[n++] = i;
        }
    }
    assert_int_equal(n, 4);
    char name[MEMFS_NAME];
    memcpy(name, fs.node[at[0]].name, MEMFS_NAME);
    memcpy(fs.node[at[0]].name, fs.node[at[2]].name, MEMFS_NAME);
    memcpy(fs.node[at[2]].name, name, MEMFS_NAME);
    struct tiny_got ga = tiny_restore(&w, NULL, a, 16), gb = tiny_restore(&w, NULL, b, 16);
    assert_true(!ga.wrong && ga.n_segments == 0 && ga.load_why == KV_WHY_BAD_FILE);
    assert_true(!gb.wrong && gb.n_segments == 0);
    assert_int_equal(stats().n_bad, 2);
    assert_int_equal(tiny_restore(&w, NULL, a, 16).found, 0); /* not tried again */
    assert_int_equal(tiny_restore(&w, NULL, a, 16).why, KV_WHY_BAD_FILE);
    /* Computed again, they are written again. */
    assert_int_equal(tiny_save(&w, NULL, a, 16, false, false), KV_WHY_NONE);
    assert_restored(a, 16, 2, 0);
}

/* Every step keeps the budget; what goes first is old, deep and never used again. */
static void eviction(void **state)
{
    (void)state;
    struct rng r = {11};
    static uint32_t conv[12][64];
    w.cfg.budget_bytes = 20 * segment_bytes();
    assert_true(tiny_open(&w));
    for (int i = 0; i < 12; i++) {
        tiny_ids(&r, conv[i], 0, 64);
        if (i > 0) {
            memcpy(conv[i], conv[0], 16 * sizeof(uint32_t)); /* two shared segments */
        }
        w.wall += 10;
        assert_int_equal(tiny_save(&w, NULL, conv[i], 48, false, false), KV_WHY_NONE);
        assert_true(stats().used_bytes <= w.cfg.budget_bytes);
        index_check(&w.s->index);
        if (i == 0) { /* it is used by a later request: out of probation */
            assert_restored(conv[0], 48, 6, 0);
        }
    }
    struct tiny_got first = tiny_restore(&w, NULL, conv[0], 48);
    assert_int_equal(first.n_segments, 6); /* proven: the one-shots went before it */
    assert_int_equal(tiny_restore(&w, NULL, conv[1], 48).n_segments, 2);
    assert_int_equal(tiny_restore(&w, NULL, conv[1], 48).why, KV_WHY_EVICTED);
    struct tiny_got last = tiny_restore(&w, NULL, conv[11], 48);
    assert_int_equal(last.n_segments, 6);
    assert_false(first.wrong || last.wrong);
    /* A file larger than the budget is refused at once, with nothing evicted for it. */
    tiny_close(&w);
    w.cfg.budget_bytes = segment_bytes() - 1;
    assert_true(tiny_open(&w));
    kv_store_work(w.s);
    assert_int_equal(stats().n_segments, 0); /* a smaller budget takes effect */
    assert_int_equal(tiny_save(&w, NULL, conv[0], 48, false, false), KV_WHY_BUDGET);
}

/* The order of use survives a restart: file times, a parent as new as its newest child. */
static void order_survives(void **state)
{
    (void)state;
    struct rng r = {12};
    static uint32_t conv[4][40];
    assert_true(tiny_open(&w));
    for (int i = 0; i < 4; i++) {
        tiny_ids(&r, conv[i], 0, 40);
        w.wall += 1000;
        assert_int_equal(tiny_save(&w, NULL, conv[i], 40, false, false), KV_WHY_NONE);
    }
    w.wall += 1000;
    assert_restored(conv[0], 40, 5, 0); /* the oldest is used, and its time persisted */
    tiny_close(&w);
    w.cfg.budget_bytes = 10 * segment_bytes();
    assert_true(tiny_open(&w));
    index_check(&w.s->index);
    kv_store_work(w.s);
    assert_restored(conv[0], 40, 5, 0);
    assert_restored(conv[3], 40, 5, 0);
    assert_restored(conv[1], 40, 0, 0);
    assert_restored(conv[2], 40, 0, 0);
}

/* Times in the future, long ago or frozen change the order at most. */
static void clock_jumps(void **state)
{
    (void)state;
    struct rng r = {13};
    static uint32_t conv[30][40];
    w.cfg.budget_bytes = 30 * segment_bytes();
    assert_true(tiny_open(&w));
    static const int64_t jump[] = {315360000, -315360000, 0, -1, 1, 630720000};
    for (int i = 0; i < 30; i++) {
        tiny_ids(&r, conv[i], 0, 40);
        w.wall += jump[i % 6];
        assert_int_equal(tiny_save(&w, NULL, conv[i], 40, true, false), KV_WHY_NONE);
        index_check(&w.s->index);
        assert_true(stats().used_bytes <= w.cfg.budget_bytes);
        assert_restored(conv[i], 40, 5, 40);
        if (i % 7 == 0) {
            reopen();
            index_check(&w.s->index);
        }
    }
}

/* With min_cost_ms 500: what the whole prefix saves decides, or a hit. */
static void cheap_or_not(const uint32_t *ids)
{
    struct kv_chain c;
    static const struct {
        uint32_t cost, saves;
        bool used;
        enum kv_why why;
    } t[] = {{499, 499, false, KV_WHY_CHEAP},
             {900, 499, false, KV_WHY_CHEAP},
             {1, 500, false, KV_WHY_NONE},
             {1, 1, true, KV_WHY_NONE}};
    for (uint32_t i = 0; i < ARRAY_LEN(t); i++) {
        uint32_t own[TINY_S];
        memcpy(own, ids, sizeof own);
        own[0] = i; /* another segment 0 */
        assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
        uint32_t page = tiny_take_page(&w);
        uint64_t h[TINY_MAX + 1];
        tiny_prefix(&w, NULL, own, TINY_S, h);
        tiny_rows(&w, h, 0, TINY_S, w.page[page], false);
        bool kept = t[i].why == KV_WHY_NONE;
        w.page_busy[page] = kept;
        w.n_busy += kept;
        assert_int_equal(
            kv_store_put_segment(w.s, &c, own, 0, page, t[i].cost, t[i].saves, t[i].used),
            t[i].why);
        kv_store_work(w.s);
        kv_store_poll(w.s);
        assert_int_equal(kv_store_has_segment(w.s, &c, own, 0), kept);
        kv_chain_fini(&c);
    }
}

static void refusals(void **state)
{
    (void)state;
    struct rng r = {14};
    uint32_t ids[64];
    tiny_ids(&r, ids, 0, 64);
    w.cfg.min_cost_ms = 500;
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 64, false, false), KV_WHY_CHEAP);
    assert_int_equal(tiny_restore(&w, NULL, ids, 64).why, KV_WHY_CHEAP);
    cheap_or_not(ids);
    tiny_close(&w);
    w.cfg.min_cost_ms = 0;
    w.cfg.queue_bytes = 3 * segment_bytes();
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 64, false, true), KV_WHY_QUEUE);
    assert_int_equal(stats().n_queued, 3);
    assert_int_equal(w.n_busy, 3);
    /* A hole in the chain would be useless: the rest waits for its parents. */
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    w.cfg.queue_bytes = 0;
    assert_int_equal(kv_store_put_segment(w.s, &c, ids, 4, 0, 100, 100, false), KV_WHY_QUEUE);
    assert_int_equal(kv_store_give_up(w.s, 2), 2); /* RAM is short: the deepest go */
    assert_int_equal(w.n_busy, 1);
    assert_int_equal(kv_store_put_segment(w.s, &c, ids, 4, 0, 100, 100, false),
                     KV_WHY_NO_PARENT);
    assert_int_equal(kv_store_put_frontier(w.s, &c, ids, 36, w.state, &w, 0, 100),
                     KV_WHY_NO_PARENT);
    kv_chain_fini(&c);
    kv_store_work(w.s);
    kv_store_poll(w.s);
    assert_restored(ids, 64, 1, 0);
    assert_int_equal(tiny_save(&w, NULL, ids, 24, false, false), KV_WHY_NONE);
    assert_restored(ids, 64, 3, 0);
    assert_true(stats().refused[KV_WHY_QUEUE] >= 2);
}

/* The second store on a directory reads; it writes when the first has gone. */
static void peers(void **state)
{
    (void)state;
    struct rng r = {15};
    uint32_t ids[64];
    tiny_ids(&r, ids, 0, 64);
    static struct tiny v;
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 24, true, false), KV_WHY_NONE);
    tiny_init(&v, &fs);
    fs.wall = &w.wall;
    assert_true(tiny_open(&v));
    struct kv_store_stats st;
    kv_store_get_stats(v.s, &st);
    assert_int_equal(st.state, KV_STORE_READ_ONLY);
    assert_true(strstr(st.reason, "another process") != NULL);
    struct tiny_got got = tiny_restore(&v, NULL, ids, 64);
    assert_true(!got.wrong && got.n_segments == 3 && got.frontier_pos == 24);
    assert_int_equal(tiny_save(&v, NULL, ids, 40, true, false), KV_WHY_OFF);
    /* What the writer adds and evicts becomes visible. */
    assert_int_equal(tiny_save(&w, NULL, ids, 40, true, false), KV_WHY_NONE);
    kv_store_refresh(v.s);
    got = tiny_restore(&v, NULL, ids, 64);
    assert_true(!got.wrong && got.n_segments == 5 && got.frontier_pos == 40);
    while (writer_evict(w.s, "a test")) {
    }
    got = tiny_restore(&v, NULL, ids, 64); /* the peer does not know yet: a miss, no more */
    assert_true(!got.wrong && got.n_segments == 0);
    kv_store_refresh(v.s);
    assert_int_equal(tiny_restore(&v, NULL, ids, 64).found, 0);
    /* A peer never removes: it remembers what is bad, and does not try it again. */
    assert_int_equal(tiny_save(&w, NULL, ids, 40, true, false), KV_WHY_NONE);
    kv_store_refresh(v.s);
    int at = -1;
    for (int i = 0; i < fs.n_nodes; i++) {
        at = fs.node[i].used && strstr(fs.node[i].name, ".s") ? i : at;
    }
    fs.node[at].data[9000] ^= 1;
    got = tiny_restore(&v, NULL, ids, 40);
    assert_true(!got.wrong && got.n_segments < got.found && got.load_why == KV_WHY_BAD_FILE);
    assert_true(fs.node[at].used && fs.node[at].linked);
    struct tiny_got next = tiny_restore(&v, NULL, ids, 40);
    assert_true(next.found == got.n_segments && next.why == KV_WHY_BAD_FILE);
    fs.node[at].data[9000] ^= 1;
    tiny_close(&w);
    v.mono += 31;
    kv_store_work(v.s);
    kv_store_get_stats(v.s, &st);
    assert_int_equal(st.state, KV_STORE_WRITER);
    index_check(&v.s->index);
    tiny_close(&v); /* another process has no such memory */
    assert_true(tiny_open(&v));
    got = tiny_restore(&v, NULL, ids, 64);
    assert_true(!got.wrong && got.n_segments == 5 && got.frontier_pos == 40);
    assert_int_equal(tiny_save(&v, NULL, ids, 64, true, false), KV_WHY_NONE);
    index_check(&v.s->index);
    tiny_close(&v);
    fs.wall = &w.wall;
}

static void full_disk(void **state)
{
    (void)state;
    struct rng r = {16};
    uint32_t ids[80];
    tiny_ids(&r, ids, 0, 80);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, false, false), KV_WHY_NONE);
    fs.total_bytes = fs.used_bytes + 100;
    /* One file is evicted for the new one, which then still does not fit: nothing is left to
     * evict but its own parents, which are kept. Writing pauses and goes on later. */
    assert_int_equal(tiny_save(&w, NULL, ids, 24, false, false), KV_WHY_NONE);
    assert_true(stats().paused);
    assert_int_equal(stats().n_queued, 1);
    assert_restored(ids, 24, 2, 0);
    fs.total_bytes = 0;
    kv_store_work(w.s);
    assert_int_equal(stats().n_queued, 1); /* not yet */
    w.mono += 31;
    kv_store_work(w.s);
    kv_store_poll(w.s);
    assert_int_equal(stats().n_queued, 0);
    assert_false(stats().paused);
    assert_restored(ids, 24, 3, 0);
    /* With something else to evict it fits at once. */
    fs.total_bytes = fs.used_bytes + 100;
    uint32_t other[16];
    tiny_ids(&r, other, 0, 16);
    assert_int_equal(tiny_save(&w, NULL, other, 8, false, false), KV_WHY_NONE);
    assert_int_equal(stats().n_queued, 0);
    assert_int_equal(stats().evicted_files, 1);
    assert_restored(other, 8, 1, 0);
    assert_restored(ids, 24, 2, 0);
}

static void read_only_disk(void **state)
{
    (void)state;
    struct rng r = {17};
    uint32_t ids[80];
    tiny_ids(&r, ids, 0, 80);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, true, false), KV_WHY_NONE);
    fs.list_only_reads = true;
    assert_int_equal(tiny_save(&w, NULL, ids, 40, true, false), KV_WHY_NONE); /* queued */
    assert_int_equal(w.n_busy, 0);                                            /* given back */
    assert_int_equal(stats().state, KV_STORE_READ_ONLY);
    assert_true(strstr(stats().reason, "Read-only") != NULL);
    assert_restored(ids, 40, 2, 16);
    assert_int_equal(tiny_save(&w, NULL, ids, 40, true, false), KV_WHY_OFF);
    reopen();
    assert_restored(ids, 40, 2, 16);
}

static void vanished(void **state)
{
    (void)state;
    struct rng r = {18};
    uint32_t ids[80];
    tiny_ids(&r, ids, 0, 80);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, true, false), KV_WHY_NONE);
    for (int i = 1; i < fs.n_nodes; i++) { /* rm -r of everything */
        fs.node[i].linked = false;
    }
    assert_restored(ids, 16, 0, 0);
    assert_int_equal(stats().state, KV_STORE_WRITER);
    w.mono += 61;
    assert_int_equal(tiny_save(&w, NULL, ids, 24, true, false), KV_WHY_NONE);
    w.mono += 61;
    kv_store_work(w.s);
    kv_store_poll(w.s);
    assert_int_equal(tiny_save(&w, NULL, ids, 24, true, false), KV_WHY_NONE);
    assert_restored(ids, 24, 3, 24);
    index_check(&w.s->index);
}

/* Names that are not ours, and things that are no files, are left alone. */
static void strangers(void **state)
{
    (void)state;
    struct rng r = {19};
    uint32_t ids[16];
    tiny_ids(&r, ids, 0, 16);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, false, false), KV_WHY_NONE);
    int folder = memfs_find(&fs, MEMFS_ROOT, w.s->own_name);
    assert_true(folder > 0);
    memfs_new_node(&fs, MEMFS_ROOT, "notes.txt", KV_TYPE_FILE);
    memfs_new_node(&fs, folder, "notes.txt", KV_TYPE_FILE);
    memfs_new_node(&fs, folder, ".t.1.2", KV_TYPE_FILE); /* a leftover of ours */
    int first = -1;
    for (int i = 0; i < fs.n_nodes; i++) {
        if (fs.node[i].used && strstr(fs.node[i].name, ".s")) {
            first = i;
            break;
        }
    }
    tiny_close(&w);
    fs.node[first].type = KV_TYPE_OTHER; /* a FIFO, a device, a link in its place */
    w.cfg.budget_bytes = 1;
    assert_true(tiny_open(&w));
    kv_store_work(w.s);
    assert_int_equal(stats().n_foreign, 3);
    assert_int_equal(memfs_find(&fs, folder, ".t.1.2"), -1);
    assert_true(memfs_find(&fs, folder, "notes.txt") >= 0);
    assert_true(memfs_find(&fs, MEMFS_ROOT, "notes.txt") >= 0);
    assert_true(fs.node[first].linked);
    assert_int_equal(tiny_restore(&w, NULL, ids, 16).n_segments, 0);
    assert_int_equal(stats().n_segments, 0); /* the other one was evicted, this one kept */
    tiny_close(&w);
    /* Something in the way of a name: the file is not made, and nothing breaks. */
    w.cfg.budget_bytes = 1 << 30;
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, false, false), KV_WHY_NONE);
    assert_int_equal(w.n_busy, 0);
    assert_true(fs.node[first].linked && fs.node[first].type == KV_TYPE_OTHER);
}

/* Another version is not ours to read or to delete as damaged, but it counts and can go. */
static void other_versions(void **state)
{
    (void)state;
    struct rng r = {20};
    uint32_t ids[16];
    tiny_ids(&r, ids, 0, 16);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 16, false, false), KV_WHY_NONE);
    int n = 0;
    for (int i = 0; i < fs.n_nodes; i++) {
        if (fs.node[i].used && strstr(fs.node[i].name, ".s")) {
            fs.node[i].data[8] = 2;
            n++;
        }
    }
    struct tiny_got got = tiny_restore(&w, NULL, ids, 16);
    assert_true(got.n_segments == 0 && got.load_why == KV_WHY_FOREIGN);
    assert_int_equal(tiny_restore(&w, NULL, ids, 16).why, KV_WHY_FOREIGN);
    assert_int_equal(stats().n_segments, n);
    assert_int_equal(tiny_save(&w, NULL, ids, 16, false, false), KV_WHY_FOREIGN);
    assert_true(writer_evict(w.s, "a test"));
    assert_true(writer_evict(w.s, "a test"));
    assert_int_equal(stats().used_bytes, 0);
}

/* Names whose keys form rings, doubles and orphans: all can be evicted, none hangs anything. */
static void hostile_names(void **state)
{
    (void)state;
    assert_true(tiny_open(&w));
    uint32_t ids[16] = {1, 2, 3};
    assert_int_equal(tiny_save(&w, NULL, ids, 16, true, false), KV_WHY_NONE);
    int folder = memfs_find(&fs, MEMFS_ROOT, w.s->own_name);
    tiny_close(&w);
    static const struct {
        int from, to;
    } edge[] = {{1, 2}, {2, 3}, {3, 1}, {3, 4},  {4, 5},
                {9, 9}, {6, 7}, {8, 7}, {7, 10}, {7, 11}};
    for (size_t i = 0; i < sizeof edge / sizeof edge[0]; i++) {
        struct kv_name n = {.kind = i % 3 == 2 && i > 6 ? KV_FRONTIER : KV_SEGMENT};
        memset(&n.from, edge[i].from, sizeof n.from);
        memset(&n.to, edge[i].to, sizeof n.to);
        char text[KV_NAME_MAX];
        kv_name_make(&n, text);
        int at = memfs_new_node(&fs, folder, text, KV_TYPE_FILE);
        assert_int_equal(memfs_resize(&fs, &fs.node[at], 5000), 0);
    }
    assert_true(tiny_open(&w));
    index_check(&w.s->index);
    assert_int_equal(stats().n_segments + stats().n_frontiers, 3 + 10);
    assert_restored(ids, 16, 2, 16);
    uint32_t n = 0;
    while (writer_evict(w.s, "a test")) {
        index_check(&w.s->index);
        n++;
    }
    assert_int_equal(n, 13);
    assert_int_equal(stats().used_bytes, 0);
}

/* A name that ends at the prompt's key but begins elsewhere is no part of its chain. */
static void false_beginning(void **state)
{
    (void)state;
    struct rng r = {24};
    uint32_t ids[16];
    struct kv_chain c;
    tiny_ids(&r, ids, 0, 16);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 8, false, false), KV_WHY_NONE);
    int folder = memfs_find(&fs, MEMFS_ROOT, w.s->own_name);
    tiny_close(&w);
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    assert_int_equal(kv_chain_extend(&c, ids, 16, NULL), 0);
    struct kv_name n = {.kind = KV_SEGMENT, .to = c.key[2]};
    char text[KV_NAME_MAX];
    kv_name_make(&n, text);
    kv_chain_fini(&c);
    memfs_new_node(&fs, folder, text, KV_TYPE_FILE);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_restore(&w, NULL, ids, 16).found, 1);
}

/* Files that lost their beginning are the first to go. */
static void orphans_go_first(void **state)
{
    (void)state;
    struct rng r = {21};
    uint32_t a[40], b[16];
    tiny_ids(&r, a, 0, 40);
    tiny_ids(&r, b, 0, 16);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, b, 16, false, false), KV_WHY_NONE);
    w.wall += 100;
    assert_int_equal(tiny_save(&w, NULL, a, 40, false, false), KV_WHY_NONE);
    struct kv_chain c;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    assert_int_equal(kv_chain_extend(&c, a, 40, NULL), 0);
    struct kv_name name = {.kind = KV_SEGMENT, .from = c.key[1], .to = c.key[2]};
    char text[KV_NAME_MAX];
    kv_name_make(&name, text);
    kv_chain_fini(&c);
    int at = memfs_find(&fs, memfs_find(&fs, MEMFS_ROOT, w.s->own_name), text);
    fs.node[at].data[5000] ^= 1;
    assert_restored(a, 40, 1, 0); /* noticed: the rest of the chain hangs in the air */
    index_check(&w.s->index);
    assert_int_equal(stats().n_segments, 2 + 4);
    for (int i = 0; i < 2; i++) {
        if (i == 1) { /* the same after a restart, where only headers tell */
            w.wall += 100;
            assert_int_equal(tiny_save(&w, NULL, a, 40, false, false), KV_WHY_NONE);
            at = memfs_find(&fs, memfs_find(&fs, MEMFS_ROOT, w.s->own_name), text);
            fs.node[at].linked = false;
            reopen();
        }
        for (int k = 0; k < 3; k++) { /* b is older, and stays */
            assert_true(writer_evict(w.s, "a test"));
            index_check(&w.s->index);
        }
        assert_restored(b, 16, 2, 0);
        assert_restored(a, 8, 1, 0);
    }
}

/* A pinned prefix is not evicted between finding and loading it. */
static void pinned(void **state)
{
    (void)state;
    struct rng r = {22};
    uint32_t ids[32];
    tiny_ids(&r, ids, 0, 32);
    assert_true(tiny_open(&w));
    assert_int_equal(tiny_save(&w, NULL, ids, 27, true, false), KV_WHY_NONE);
    struct kv_chain c;
    struct kv_hit hit;
    assert_int_equal(kv_chain_init(&c, &w.cfg.identity, NULL, TINY_S, NULL), 0);
    kv_store_find(w.s, &c, ids, 27, &hit);
    assert_false(writer_evict(w.s, "a test"));
    assert_int_equal(stats().n_segments, 3);
    kv_hit_release(w.s, &hit);
    kv_chain_fini(&c);
    for (int i = 0; i < 4; i++) {
        assert_true(writer_evict(w.s, "a test"));
    }
    assert_false(writer_evict(w.s, "a test"));
}

static void short_transfers(void **state)
{
    (void)state;
    struct rng r = {23};
    uint32_t ids[64];
    fs.short_io = true;
    assert_true(tiny_open(&w));
    for (int i = 0; i < 30; i++) {
        tiny_ids(&r, ids, 0, 64);
        assert_int_equal(tiny_save(&w, NULL, ids, 61, true, false), KV_WHY_NONE);
        assert_restored(ids, 64, 7, 61);
    }
    assert_int_equal(stats().write_errors, 0);
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(round_trip), T(branches),        T(salts_and_identities), T(swapped_files),
        T(eviction),   T(order_survives),  T(clock_jumps),          T(refusals),
        T(peers),      T(full_disk),       T(read_only_disk),       T(vanished),
        T(strangers),  T(other_versions),  T(hostile_names),        T(orphans_go_first),
        T(pinned),     T(short_transfers), T(false_beginning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
