/* The determinism contract (docs/kv-store.md 2.7), on random small models of many shapes and
 * weight types, on every backend of this build: the logits and the stored rows of a token
 * are the same bits whether the tokens come one at a time, in chunks of any size, beside
 * other sequences, on any number of threads, or after rewinding, forking and re-running.
 * Every KV byte that was not written is poison (--debug poison-kv), so reading one shows.
 *
 * FATHOM_TEST_LONG=1: more models, longer sequences and scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden/ok.h"
#include "golden/random_model.h"
#include "golden/state_bytes.h"
#include "op/step.h"

enum { N_MAX = 900, V_MAX = 128 };

static bool is_long;

/* ---- models ---- */

struct variant {
    const char *name;
    struct random_config c;
    bool sim_off, act_f32;
    uint32_t n; /* tokens */
};

static const struct variant VARIANTS[] = {
    {"mixed ratios, F32",
     {.seed = 1,
      .shape = {.n_layer = 6,
                .ratio = {0, 4, 128, 4, 8, 0},
                .n_hash = 3,
                .swiglu_lim = {0.6f, 0.6f, 0.6f, 0.6f, 0.6f, 0.6f}}},
     .n = 300},
    {"compressed from the first layer, Q8_0",
     {.seed = 2,
      .shape = {.n_layer = 4,
                .ratio = {128, 128, 4, 128},
                .window = 24,
                .n_hash = 3,
                .index_topk = 7,
                .n_head = 8,
                .hc = 4},
      .dense = QT_Q8_0,
      .gate_up = QT_Q8_0,
      .down = QT_Q8_0},
     .n = 300},
    {"2-bit experts",
     {.seed = 3,
      .shape = {.n_layer = 3,
                .ratio = {0, 4, 32},
                .d = 256,
                .n_ff = 256,
                .n_expert = 5,
                .n_used = 3,
                .swiglu_lim = {10, 10, 10}},
      .dense = QT_Q8_0,
      .gate_up = QT_IQ2_XXS,
      .down = QT_Q2_K},
     .n = 200},
    {"window longer than the chunk, eps 1e-20",
     {.seed = 4,
      .shape = {.n_layer = 3,
                .ratio = {0, 4, 128},
                .window = 128,
                .eps = 1e-20f,
                .hc = 2,
                .index_topk = 16},
      .dense = QT_BF16,
      .gate_up = QT_F16,
      .down = QT_F16},
     .n = 420},
    {"no simulations, F32 activations",
     {.seed = 5,
      .shape = {.n_layer = 4,
                .ratio = {16, 4, 8, 4},
                .window = 10,
                .n_hash = 1,
                .index_topk = 3,
                .head_dim = 64,
                .rope_dim = 16,
                .swiglu_lim = {0.6f, 0.6f, 0.6f, 0.6f}},
      .dense = QT_Q8_0,
      .gate_up = QT_Q8_0,
      .down = QT_Q8_0},
     .sim_off = true,
     .act_f32 = true,
     .n = 200},
    {"window only",
     {.seed = 6, .shape = {.n_layer = 2, .ratio = {0, 0}, .window = 20}, .dense = QT_Q8_0},
     .n = 120},
};

/* A random shape, in the long run. */
static struct variant random_variant(uint64_t seed)
{
    static const uint16_t big[] = {8, 16, 32, 128};
    static const uint32_t types[] = {QT_F32, QT_F16, QT_BF16, QT_Q8_0};
    struct rng g = {splitmix64(seed)};
    struct variant v = {.name = "random", .n = 250};
    struct shape *s = &v.c.shape;
    v.c.seed = seed;
    s->n_layer = 2 + rng_below(&g, 5);
    uint16_t a = big[rng_below(&g, 4)];
    for (uint32_t i = 0; i < s->n_layer; i++) {
        uint16_t some[] = {0, 4, a, 4, (uint16_t)(a / 2)};
        s->ratio[i] = some[rng_below(&g, 5)];
        s->swiglu_lim[i] = rng_below(&g, 2) ? 0.6f : 0.0f;
    }
    s->ratio[rng_below(&g, s->n_layer)] = a;
    s->d = 32 * (1 + rng_below(&g, 8));
    s->o_groups = 1u << rng_below(&g, 2);
    s->n_head = s->o_groups * (1u << rng_below(&g, 3));
    s->rope_dim = 16u << rng_below(&g, 2);
    s->head_dim = s->rope_dim + 64 * (1 + rng_below(&g, 2));
    s->window = 4 + rng_below(&g, 60);
    s->index_dim = 32u << rng_below(&g, 2);
    s->index_topk = 1 + rng_below(&g, 12);
    s->n_hash = rng_below(&g, 4);
    s->n_expert = 2 + rng_below(&g, 8);
    s->n_used = 1 + rng_below(&g, s->n_expert < 4 ? s->n_expert : 4);
    s->hc = 2 + rng_below(&g, 3);
    v.c.dense = types[rng_below(&g, 4)];
    v.c.gate_up = types[rng_below(&g, 4)];
    v.c.down = types[rng_below(&g, 4)];
    v.sim_off = rng_below(&g, 4) == 0;
    v.act_f32 = rng_below(&g, 4) == 0;
    return v;
}

static fathom_engine *open_engine(const struct random_model *m, const struct variant *v,
                                  const char *backend, uint32_t threads, uint32_t chunk)
{
    fathom_err err = {0};
    fathom_engine *e;
    fathom_engine_options o = {.model_data = m->file,
                               .model_bytes = m->file_bytes,
                               .backend = backend,
                               .n_threads = threads,
                               .max_ctx = 1024,
                               .max_seq = 4,
                               .chunk = chunk,
                               .page_tokens = 32,
                               .sim_off = v->sim_off,
                               .act_f32 = v->act_f32,
                               .debug = "poison-kv",
                               .kv_no_share = true};
    if (fathom_engine_open(&e, &o, &err) != 0) {
        fail_msg("%s: %s", v->name, err.msg);
    }
    return e;
}

/* ---- what a sequence left behind ---- */

static float truth[N_MAX][V_MAX];
static uint32_t ids[N_MAX];

static void same_state(fathom_engine *e, fathom_session *s, const unsigned char *want, size_t n,
                       const char *what)
{
    size_t m;
    unsigned char *got = state_bytes(e, s, &m);
    if (m != n || memcmp(got, want, n) != 0) {
        fail_msg("%s: stored rows or rings differ", what);
    }
    mem_free(got);
}

/* The whole state slot: equal if both sequences only ever went forward. */
static unsigned char *slot_bytes(fathom_engine *e, fathom_session *s)
{
    const struct kv_pool *p = engine_pool(e);
    unsigned char *out = mem_alloc(1, (size_t)p->layout->slot_bytes);
    p->be->buf_read(p->dev, p->state, pool_slot_at(p, session_state(s)->slot, 0), out,
                    p->layout->slot_bytes);
    return out;
}

static void check_rows(fathom_engine *e, fathom_session *s, uint32_t pos, uint32_t n,
                       const char *what)
{
    size_t bytes = engine_shape(e)->n_vocab * sizeof(float);
    for (uint32_t i = 0; i < n; i++) {
        const float *row = fathom_session_logits(s, i);
        assert_non_null(row);
        if (memcmp(row, truth[pos + i], bytes) != 0) {
            fail_msg("%s: logits at %u differ", what, pos + i);
        }
    }
    assert_null(fathom_session_logits(s, n));
}

/* Feeds ids[len..n) in steps of sizes drawn from g (0: always `size`), all logits compared. */
static void feed(fathom_engine *e, fathom_session *s, uint32_t n, struct rng *g, uint32_t size,
                 const char *what)
{
    uint32_t len = fathom_session_len(s);
    OK(fathom_session_append(s, ids + len, n - len, err));
    while ((len = fathom_session_len(s)) < n) {
        uint32_t k = g ? 1 + rng_below(g, rng_below(g, 3) ? 9 : size) : size;
        fathom_work w = {s, k < n - len ? k : n - len, FATHOM_WANT_ALL};
        OK(fathom_step(e, &w, 1, err));
        check_rows(e, s, len, w.n_tok, what);
    }
}

/* Two sequences in every step: s follows ids, the other something else. */
static void feed_beside(fathom_engine *e, fathom_session *s, uint32_t n, struct rng *g)
{
    fathom_session *t;
    OK(fathom_session_new(&t, e, err));
    uint32_t v = engine_shape(e)->n_vocab, len;
    OK(fathom_session_append(s, ids, n, err));
    while ((len = fathom_session_len(s)) < n) {
        uint32_t other[20], m = 1 + rng_below(g, 20), k = 1 + rng_below(g, 20);
        for (uint32_t i = 0; i < m; i++) {
            other[i] = rng_below(g, v);
        }
        if (fathom_session_len(t) + m > 900) {
            OK(fathom_session_rewind(t, 0, NULL, err));
        }
        OK(fathom_session_append(t, other, m, err));
        bool first = rng_below(g, 2);
        fathom_work w[2] = {{t, m, FATHOM_WANT_LAST},
                            {s, k < n - len ? k : n - len, FATHOM_WANT_ALL}};
        fathom_work swapped[2] = {w[1], w[0]};
        OK(fathom_step(e, first ? swapped : w, 2, err));
        check_rows(e, s, len, w[1].n_tok, "beside another sequence");
        assert_non_null(fathom_session_logits(t, 0));
        assert_null(fathom_session_logits(t, 1));
    }
    fathom_session_free(t);
}

/* ---- scripts of rewinds ---- */

struct oracle {
    fathom_session *s;
    uint32_t seq[N_MAX], n;
};

/* Last logits of seq[0..n), computed straight. */
static const float *oracle_logits(fathom_engine *e, struct oracle *o, const uint32_t *seq,
                                  uint32_t n)
{
    if (o->s && (o->n >= n || memcmp(o->seq, seq, o->n * sizeof *seq) != 0)) {
        fathom_session_free(o->s);
        o->s = NULL;
    }
    if (!o->s) {
        OK(fathom_session_new(&o->s, e, err));
        o->n = 0;
    }
    memcpy(o->seq, seq, n * sizeof *seq);
    o->n = n;
    fathom_reuse r;
    OK(fathom_session_sync(o->s, seq, n, NULL, NULL, &r, err));
    assert_int_equal(r.rerun, 0);
    static float copy[V_MAX];
    memcpy(copy, fathom_session_logits(o->s, 0), engine_shape(e)->n_vocab * sizeof *copy);
    return copy;
}

static uint32_t n_reruns, n_kept;

/* Brings s to seq[0..n) by sync and compares with the oracle. */
static void compare(fathom_engine *e, fathom_session *s, struct oracle *o, const uint32_t *seq,
                    uint32_t n, struct rng *g)
{
    static float want[V_MAX];
    size_t bytes = engine_shape(e)->n_vocab * sizeof *want;
    memcpy(want, oracle_logits(e, o, seq, n), bytes);
    fathom_reuse r;
    OK(fathom_session_set(s, seq, n, &r, err));
    assert_true(r.kept <= r.matched && r.kept + r.rerun + r.computed == n);
    assert_int_equal(r.kept, fathom_session_len(s));
    n_reruns += r.rerun > 0;
    n_kept += r.kept > 0;
    uint32_t left;
    while ((left = fathom_session_pending(s)) > 0) {
        uint32_t k = 1 + rng_below(g, 60);
        fathom_work w = {s, k < left ? k : left, FATHOM_WANT_LAST};
        OK(fathom_step(e, &w, 1, err));
    }
    const float *got = fathom_session_logits(s, 0);
    assert_non_null(got);
    if (memcmp(got, want, bytes) != 0) {
        fail_msg("after a rewind: logits at %u differ (kept %u, rerun %u, frontier %u)", n,
                 r.kept, r.rerun, r.frontier);
    }
    /* Two states with the same tokens hold the same bytes. */
    size_t m;
    unsigned char *bytes_want = state_bytes(e, o->s, &m);
    same_state(e, s, bytes_want, m, "after a rewind");
    mem_free(bytes_want);
}

static void script(fathom_engine *e, uint64_t seed, int n_ops, uint32_t longest)
{
    struct rng g = {splitmix64(seed)};
    struct oracle *o = mem_calloc(1, sizeof *o);
    fathom_session *s[2] = {0};
    static uint32_t seq[2][N_MAX];
    uint32_t n[2] = {0}, v = engine_shape(e)->n_vocab;
    OK(fathom_session_new(&s[0], e, err));
    for (int op = 0; op < n_ops; op++) {
        int i = s[1] && rng_below(&g, 2);
        switch (rng_below(&g, 6)) {
        case 0:
        case 1: { /* more tokens, or others from some place on */
            uint32_t from = rng_below(&g, 3) ? n[i] : rng_below(&g, n[i] + 1);
            uint32_t to = from + 1 + rng_below(&g, rng_below(&g, 2) ? 20 : 150);
            to = to < longest ? to : longest;
            from = from < to ? from : to - 1;
            for (uint32_t k = from; k < to; k++) {
                seq[i][k] = rng_below(&g, v);
            }
            n[i] = to;
            compare(e, s[i], o, seq[i], to, &g);
            break;
        }
        case 2: { /* back, then a different token */
            if (n[i] < 2) {
                break;
            }
            uint32_t to = rng_below(&g, 2) ? rng_below(&g, n[i])
                                           : n[i] - 1 - rng_below(&g, MIN(n[i], 12u));
            fathom_reuse r;
            OK(fathom_session_rewind(s[i], to, &r, err));
            assert_true(r.kept + r.rerun == to);
            n[i] = to;
            if (rng_below(&g, 2)) {
                seq[i][n[i]++] = rng_below(&g, v);
                compare(e, s[i], o, seq[i], n[i], &g);
            }
            break;
        }
        case 3: OK(fathom_session_checkpoint(s[i], err)); break;
        case 4: /* up to 8 tokens forgotten cost nothing */
            if (n[i] > 20 && fathom_session_len(s[i]) == n[i]) {
                compare(e, s[i], o, seq[i], n[i], &g);
                fathom_reuse r;
                OK(fathom_session_rewind(s[i], n[i] - 8, &r, err));
                n[i] -= 8;
            }
            break;
        default:
            if (s[1]) {
                fathom_session_free(s[1]);
                s[1] = NULL;
            } else {
                uint32_t cut = rng_below(&g, n[0] + 1);
                OK(fathom_session_fork(&s[1], s[0], cut, err));
                memcpy(seq[1], seq[0], cut * sizeof seq[0][0]);
                n[1] = cut;
            }
        }
    }
    fathom_session_free(s[0]);
    fathom_session_free(s[1]);
    fathom_session_free(o->s);
    mem_free(o);
    struct fathom_info info;
    fathom_engine_info(e, &info);
    assert_int_equal(info.kv_used_bytes, 0);
}

/* ---- one model on one backend ---- */

static void run_variant(const struct variant *v, const char *backend)
{
    struct random_model m;
    random_model_make(&m, &v->c);
    struct rng g = {splitmix64(v->c.seed + 99)};
    uint32_t n = is_long ? v->n * 2 : v->n, n_vocab = m.shape.n_vocab;
    assert_true(n <= N_MAX && n_vocab <= V_MAX);
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = rng_below(&g, n_vocab);
    }
    /* The truth: one token at a time, one thread. */
    fathom_engine *e = open_engine(&m, v, backend, 1, 64);
    fathom_session *s;
    OK(fathom_session_new(&s, e, err));
    for (uint32_t i = 0; i < n; i++) {
        OK(fathom_session_append(s, &ids[i], 1, err));
        fathom_work w = {s, 1, FATHOM_WANT_LAST};
        OK(fathom_step(e, &w, 1, err));
        memcpy(truth[i], fathom_session_logits(s, 0), n_vocab * sizeof(float));
    }
    for (uint32_t i = 0; i < n_vocab; i++) {
        assert_true(truth[n - 1][i] == truth[n - 1][i]);
    }
    size_t n_bytes, slot = (size_t)engine_layout(e)->slot_bytes;
    unsigned char *bytes = state_bytes(e, s, &n_bytes), *whole = slot_bytes(e, s);
    fathom_session_free(s);
    fathom_engine_close(e);

    bool is_ref = strcmp(backend, "ref") == 0;
    static const uint32_t threads[] = {2, 1, 3, 7};
    for (size_t t = 0; t < (is_ref ? 1 : ARRAY_LEN(threads)); t++) {
        e = open_engine(&m, v, backend, threads[t], t % 2 ? 64 : 257);
        struct fathom_info info;
        fathom_engine_info(e, &info);
        OK(fathom_session_new(&s, e, err));
        feed(e, s, n, NULL, info.chunk, "largest chunks");
        same_state(e, s, bytes, n_bytes, "largest chunks");
        unsigned char *got = slot_bytes(e, s);
        if (n >= engine_layout(e)->ring_slots && n >= 2 * engine_layout(e)->align) {
            assert_memory_equal(got, whole, slot);
        }
        mem_free(got);
        OK(fathom_session_rewind(s, 0, NULL, err));
        feed(e, s, n, &g, 64, "random chunks");
        same_state(e, s, bytes, n_bytes, "random chunks");
        OK(fathom_session_rewind(s, 0, NULL, err));
        feed_beside(e, s, n, &g);
        same_state(e, s, bytes, n_bytes, "beside another sequence");
        fathom_session_free(s);
        if (t == 0) {
            int ops = is_long ? 150 : is_ref ? 15 : 25;
            script(e, v->c.seed * 7 + 1, ops, is_long ? 600 : 320);
        }
        fathom_engine_close(e);
    }
    mem_free(bytes);
    mem_free(whole);
    random_model_free(&m);
}

static void test_backend(void **state)
{
    const char *backend = *state;
    for (size_t i = 0; i < ARRAY_LEN(VARIANTS); i++) {
        print_message("%s: %s\n", backend, VARIANTS[i].name);
        run_variant(&VARIANTS[i], backend);
    }
    for (uint64_t seed = 100; is_long && seed < 140; seed++) {
        struct variant v = random_variant(seed);
        print_message("%s: random shape, seed %u\n", backend, (unsigned)seed);
        run_variant(&v, backend);
    }
    print_message("%u syncs kept something, %u had to run tokens again\n", n_kept, n_reruns);
    assert_true(n_reruns > 10 && n_kept > 10);
}

int main(void)
{
    is_long = getenv("FATHOM_TEST_LONG") != NULL;
    struct CMUnitTest tests[8];
    size_t n = 0;
    for (size_t i = 0; backend_at(i) && n < ARRAY_LEN(tests); i++) {
        struct backend_info info;
        if (backend_at(i)->probe(&info, NULL) == 0 && info.available) {
            tests[n++] = (struct CMUnitTest){backend_at(i)->name, test_backend, NULL, NULL,
                                             (void *)(uintptr_t)backend_at(i)->name};
        }
    }
    return _cmocka_run_group_tests("equal bits", tests, n, NULL, NULL);
}
