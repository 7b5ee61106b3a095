/* What is reused never changes what is computed: sessions that continue from their own tokens,
 * from each other, from pages in RAM that nobody holds, from files, with and without frontiers,
 * give the bits of a plain computation; a load that fails changes nothing; and what was reused,
 * and why no more, is told.
 *
 * FATHOM_TEST_LONG=1: every length of the wide model, not only those near boundaries. Random
 * scripts: test_engine_scripts.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine_int.h"
#include "golden/reuse_common.h"
#include "golden/state_bytes.h"
#include "kv/geom.h"

static struct random_model wide;  /* A = 128, as the real one */
static struct random_model small; /* A = 8, W = 6: many boundaries in few tokens */

/* ---- every length: cold, from RAM, from files with and without frontier ---- */

static uint32_t seq[N_MAX];

static void ignore(void *user, const char *path, int fd)
{
    (void)user, (void)path, (void)fd;
}
static uint32_t store_files(void)
{
    return each_file(ignore, NULL);
}

static void remove_frontier(void *user, const char *path, int fd)
{
    (void)fd;
    if (random_ends(path, ".f")) {
        assert_int_equal(unlink(path), 0);
        ++*(uint32_t *)user;
    }
}

static void same_logits(fathom_session *s, uint32_t n, const float *want, const char *how,
                        const fathom_reuse *r)
{
    if (memcmp(fathom_session_logits(s, 0), want, V * sizeof *want) != 0) {
        fail_msg("n %u, %s: logits differ (kept %u, rerun %u, ram %u, disk %u, frontier %u)", n,
                 how, r->kept, r->rerun, r->ram, r->disk, r->frontier);
    }
}

/* n + 2 tokens must give these logits, with at least `disk` tokens from files. */
static void continues(fathom_engine *e, uint32_t n, const float *want, uint32_t disk,
                      const char *how, bool no_frontier)
{
    fathom_session *s;
    fathom_reuse r;
    OK(fathom_session_new(&s, e, err));
    OK(fathom_session_sync(s, seq, n + 2, NULL, NULL, &r, err));
    same_logits(s, n, want, how, &r);
    assert_true(r.disk >= disk);
    assert_true(!no_frontier || r.frontier == 0);
    fathom_session_free(s);
    within_budget(e);
}

/* want[i]: logits after i + 1 tokens, computed one by one. */
static void one_length(const struct random_model *m, uint32_t page, uint32_t n,
                       const float (*want)[V])
{
    fathom_session *s;
    fathom_reuse r;
    fresh_dir();
    fathom_engine *e = open_engine(m, page, 0, true, true);
    uint32_t align = engine_layout(e)->align;
    OK(fathom_session_new(&s, e, err));
    OK(fathom_session_sync(s, seq, n, NULL, NULL, &r, err));
    assert_int_equal(r.computed, n);
    same_logits(s, n, want[n - 1], "cold", &r);
    fathom_session_free(s);
    continues(e, n, want[n + 1], 0, "RAM", false);
    fathom_engine_close(e);
    uint32_t stored = n / page * page;
    for (int files = 0; files < 2; files++) { /* disk: with the frontier, then by a re-run */
        if (files) {
            uint32_t removed = 0;
            each_file(remove_frontier, &removed);
            assert_int_equal(removed > 0, n + 2 >= align);
        }
        e = open_engine(m, page, 0, true, true);
        fathom_kv_info k;
        /* Without frontier few tokens save nothing: all of them would be computed again. */
        bool worth = !files || layout_rerun_start(engine_layout(e), stored) > 0;
        continues(e, n, want[n + 1], worth ? stored : 0, files ? "re-run" : "disk", files > 0);
        continues(e, n, want[n + 1], 0, "RAM after disk", false);
        fathom_engine_kv(e, &k);
        assert_int_equal(k.disk_load_failures, 0);
        fathom_engine_close(e);
    }
}

/* Logits after each of the first n tokens, computed one by one by an engine that reuses
 * nothing. */
static void one_by_one(const struct random_model *m, uint32_t page, uint32_t n,
                       float (*want)[V])
{
    fathom_session *s;
    fathom_engine *e = open_engine(m, page, 0, false, false);
    OK(fathom_session_new(&s, e, err));
    for (uint32_t i = 0; i < n; i++) {
        OK(fathom_session_append(s, &seq[i], 1, err));
        fathom_work w = {s, 1, FATHOM_WANT_LAST};
        OK(fathom_step(e, &w, 1, err));
        memcpy(want[i], fathom_session_logits(s, 0), sizeof want[i]);
    }
    fathom_session_free(s);
    fathom_engine_close(e);
}

static void test_lengths(void **state)
{
    (void)state;
    enum { LAST = 300, LAST_SMALL = 130, PAGE = 128, PAGE_SMALL = 16 };
    static float want[LAST + 2][V];
    struct rng g = {77};
    bool all = getenv("FATHOM_TEST_LONG") != NULL;
    for (uint32_t i = 0; i < LAST + 2; i++) {
        seq[i] = rng_below(&g, V);
    }
    uint32_t count = 0;
    one_by_one(&wide, PAGE, LAST + 2, want);
    for (uint32_t n = 1; n <= LAST; n++) {
        bool near = n < 10 || (n + 8) % 128 < 16 || n == LAST;
        if (all || near || n % 9 == 0) {
            one_length(&wide, PAGE, n, want);
            count++;
        }
    }
    one_by_one(&small, PAGE_SMALL, LAST_SMALL + 2, want);
    for (uint32_t n = 1; n <= LAST_SMALL; n++, count++) {
        one_length(&small, PAGE_SMALL, n, want);
    }
    print_message("%u prompts: cold = RAM = disk = re-run\n", count);
    assert_true(count >= 200);
}

/* ---- a load that fails changes nothing ---- */

/* Damages a file in one of DAMAGES ways; the store must then be worth nothing. */
static void damage(void *user, const char *path, int fd)
{
    int how = *(int *)user;
    off_t size = file_size(fd);
    (void)path;
    /* magic, version, identity, keys, header sum, section sum, ids, payload, padding of the
     * last section; shorter, longer, empty */
    const off_t at[] = {0, 8, 40, 100, 245, 290, 4096, 8192 + 5, size - 1};
    const off_t sizes[] = {size - 4096, size + 4096, 0};
    if (how < (int)ARRAY_LEN(at)) {
        flip(fd, at[how], 0x10);
    } else {
        assert_int_equal(ftruncate(fd, sizes[how - (int)ARRAY_LEN(at)]), 0);
    }
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
        assert_int_equal(each_file(damage, &how), 3); /* two segments, a frontier */
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
    assert_int_equal(store_files(), 0);
    /* Stored under a salt, it is found under this salt only; another model finds nothing. */
    e = open_engine(&wide, 128, 0, true, true);
    a = new_session(e, "x", false);
    set(a, 200);
    fathom_session_free(a);
    fathom_engine_close(e);
    assert_true(store_files() > 0);
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

/* ---- what is worth saving ---- */

static void count_segment(void *user, const char *path, int fd)
{
    (void)fd;
    *(uint32_t *)user += random_ends(path, ".s");
}
static uint32_t segments(fathom_engine *e)
{
    uint32_t n = 0;
    assert_true(fathom_engine_kv_flush(e, 60));
    each_file(count_segment, &n);
    return n;
}

/* An engine with the usual policy that believes that a prompt token takes `each` seconds,
 * whatever it takes here. */
static fathom_engine *paced(double each)
{
    fresh_dir();
    save_ms = 500;
    fathom_engine *e = open_engine(&wide, 128, 0, true, true);
    save_ms = -1;
    e->tok_batch = UINT32_MAX; /* never measured again */
    e->tok_seconds = each;
    return e;
}

static void test_policy(void **state)
{
    (void)state;
    /* 0.3 s of computing: not written, until a later request uses it, */
    fathom_engine *e = paced(0.001);
    fathom_session *s = new_session(e, NULL, false);
    set(s, 300);
    fathom_session_save(s);
    assert_int_equal(segments(e), 0);
    fathom_session_free(s);
    assert_int_equal(segments(e), 0);
    s = new_session(e, NULL, false); /* be it in another session */
    assert_int_equal(set(s, 301).ram, 300);
    assert_int_equal(segments(e), 2);
    fathom_session_free(s);
    fathom_engine_close(e);
    e = paced(0.001);
    s = new_session(e, NULL, false);
    set(s, 300);
    assert_int_equal(segments(e), 0);
    set(s, 310); /* or in the same */
    assert_int_equal(segments(e), 2);
    fathom_session_free(s);
    fathom_engine_close(e);
    /* A long prompt on a fast machine: no page takes 0.5 s, three of them do. */
    e = paced(0.00135);
    s = new_session(e, NULL, false);
    set(s, 300);
    assert_int_equal(segments(e), 0);
    OK(fathom_session_sync(s, seq, 400, NULL, NULL, NULL, err));
    assert_int_equal(segments(e), 3);
    fathom_session_free(s);
    fathom_engine_close(e);
    e = paced(0.00135);
    s = new_session(e, NULL, false);
    set(s, 400);
    assert_int_equal(segments(e), 3);
    fathom_session_free(s);
    fathom_engine_close(e);
    /* Below 256 tokens nothing is written, however slow. */
    e = paced(0.1);
    s = new_session(e, NULL, false);
    set(s, 250);
    fathom_session_free(s);
    assert_true(fathom_engine_kv_flush(e, 60));
    assert_int_equal(store_files(), 0);
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
    struct random_config w = {.seed = 32,
                              .shape = {.n_layer = 3, .ratio = {0, 4, 128}, .n_hash = 1}};
    struct random_config c = {
        .seed = 31,
        .shape = {.n_layer = 4, .ratio = {0, 4, 8, 4}, .n_hash = 1, .window = 6, .d = 32}};
    random_model_make(&wide, &w);
    random_model_make(&small, &c);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_policy),  cmocka_unit_test(test_cost),
        cmocka_unit_test(test_reasons), cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_failed_loads),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_tree(dir);
    random_model_free(&wide);
    random_model_free(&small);
    return failed;
}
