/* The state of a sequence against a toy model in which every value is a hash of what it was
 * made from: x of layer l at position p hashes the window rows, the compressed rows and its
 * own input, so that a single missing, stale or inexact ring slot anywhere changes the
 * result. The toy writes the real buffers by the rules of op/op.h (COMPRESS, RING_STORE) and
 * op/step.h; pool, state and frontier are the real ones, with memory poisoned. Random
 * scripts of steps, verification with rejected rows, rewinds, checkpoints, forks and failed
 * steps must reproduce the straight computation exactly, also at the end of a context of a
 * million tokens.
 *
 * FATHOM_TEST_LONG=1 runs 20 times as many scripts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "kv/state.h"
#include "unit/kv_toy.h"

enum { CTX_SMALL = 4096, SLOTS = 3, V = 97 };

/* ---- the toy model ---- */

struct toy {
    struct layout l;
    struct kv_pool pool;
    unsigned char *page, *slot;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    return splitmix64(h ^ (v + 0x9E3779B97F4A7C15u + (h << 6)));
}

static void put(unsigned char *p, uint64_t v)
{
    memcpy(p, &v, 8);
}
static uint64_t get(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* What a step computes at (layer, own position): kept per step. */
enum { STEP_MAX = 700 };
static uint64_t own_x[STEP_MAX];

struct toy_step {
    struct toy *t;
    struct step_seq q;
    uint32_t *pages;
    const uint32_t *ids; /* whole sequence */
};

static unsigned char *ring_at(const struct toy_step *s, uint64_t plane, uint32_t slot,
                              uint64_t row)
{
    return s->t->slot + pool_slot_at(&s->t->pool, s->q.state, plane) + slot * row;
}

static unsigned char *row_at(const struct toy_step *s, const struct layout_layer *y,
                             uint64_t plane, uint32_t i, uint64_t row)
{
    uint32_t page = s->pages[step_row_page(i, y->rows_per_page)];
    return s->t->page + page * s->t->l.page_bytes + plane +
           step_row_slot(i, y->rows_per_page) * row;
}

/* The four parts (first, second half of a; of g) of a compressor input, as hashes. */
static uint64_t part(uint64_t x, uint32_t il, int which, int part_no)
{
    return mix(mix(x, 1000 + il), (uint64_t)(which * 4 + part_no));
}

/* One part of the input of position p: from this step or from the ring. */
static uint64_t input(const struct toy_step *s, const struct layout_layer *y, uint32_t il,
                      int which, uint32_t p, int part_no)
{
    if (step_own(&s->q, p)) {
        return part(own_x[p - s->q.n0], il, which, part_no);
    }
    uint32_t n = which ? s->t->l.index_row.n : s->t->l.row.n;
    uint64_t row = 2ull * y->k * n * 4;
    unsigned char *r =
        ring_at(s, which ? y->index_comp : y->comp, step_ring(p, y->comp_slots), row);
    return get(r + (uint64_t)part_no * n * 4);
}

static void compress(const struct toy_step *s, const struct layout_layer *y, uint32_t il,
                     int which)
{
    const struct layout *l = &s->t->l;
    uint32_t n = which ? l->index_row.n : l->row.n, r = y->ratio;
    uint64_t codes = which ? y->index_codes : y->codes;
    uint64_t code_bytes = which ? l->index_row.code_bytes : l->row.code_bytes;
    /* parts: k = 2: a0 a1 g0 g1; k = 1: a g */
    for (uint32_t g = step_group_first(&s->q, r); g < step_group_end(&s->q, r); g++) {
        uint64_t h = 77;
        for (uint32_t j = 0; j < r; j++) {
            uint32_t p = g * r + j;
            if (y->k == 2) {
                if (g > 0 && p - r >= s->q.start) {
                    h = mix(mix(h, input(s, y, il, which, p - r, 0)),
                            input(s, y, il, which, p - r, 2));
                }
                if (p >= s->q.start) {
                    h = mix(mix(h, input(s, y, il, which, p, 1)), input(s, y, il, which, p, 3));
                }
            } else if (p >= s->q.start) {
                h = mix(mix(h, input(s, y, il, which, p, 0)), input(s, y, il, which, p, 1));
            }
        }
        put(row_at(s, y, codes, g, code_bytes), h);
    }
    uint64_t row = 2ull * y->k * n * 4;
    /* Boundary copies first: they read ring slots that the step overwrites. */
    uint32_t end = s->q.n0 + s->q.n_tok, m = end / l->align * l->align;
    for (int c = 0; c < 2 && y->k == 2 && m > s->q.n0; c++, m -= l->align) {
        unsigned char *b = ring_at(s, which ? y->index_bound : y->bound, 0, 0) +
                           (uint64_t)(m / l->align % 2) * r * 2 * n * 4;
        for (uint32_t j = 0; j < r; j++) {
            uint32_t p = m - r + j;
            if (p >= s->q.start) {
                put(b + (uint64_t)j * 2 * n * 4, input(s, y, il, which, p, 0));
                put(b + (uint64_t)(j * 2 + 1) * n * 4, input(s, y, il, which, p, 2));
            }
        }
    }
    for (uint32_t p = step_ring_first(&s->q, y->comp_slots); p < end; p++) {
        unsigned char *at =
            ring_at(s, which ? y->index_comp : y->comp, step_ring(p, y->comp_slots), row);
        for (int k = 0; k < 2 * (int)y->k; k++) {
            put(at + (uint64_t)k * n * 4, part(own_x[p - s->q.n0], il, which, k));
        }
    }
}

/* Layer il at all own positions: x becomes the next layer's. */
static void layer(const struct toy_step *s, uint32_t il)
{
    const struct layout *l = &s->t->l;
    const struct layout_layer *y = &l->layer[il];
    if (y->ratio) {
        compress(s, y, il, 0);
        if (y->index) {
            compress(s, y, il, 1);
        }
    }
    static uint64_t out[STEP_MAX];
    for (uint32_t i = 0; i < s->q.n_tok; i++) {
        uint32_t pos = s->q.n0 + i;
        uint64_t h = mix(own_x[i], il);
        for (uint32_t p = step_win_first(&s->q, pos, l->window); p <= pos; p++) {
            uint64_t w;
            if (step_own(&s->q, p)) {
                w = mix(own_x[p - s->q.n0], 5000 + il);
            } else {
                unsigned char *r =
                    ring_at(s, y->ring_codes, step_ring(p, l->ring_slots), l->row.code_bytes);
                w = get(r);
            }
            h = mix(h, w);
        }
        uint32_t seen = y->ratio ? step_rows_seen(pos, y->ratio) : 0;
        for (uint32_t k = 0; k < 4 && seen > 0; k++) { /* the newest and three others */
            uint32_t row = k ? (uint32_t)(mix(pos, k * 64 + il) % seen) : seen - 1;
            h = mix(h, get(row_at(s, y, y->codes, row, l->row.code_bytes)));
            if (y->index) {
                h = mix(h, get(row_at(s, y, y->index_codes, row, l->index_row.code_bytes)));
            }
        }
        out[i] = h;
    }
    for (uint32_t p = step_ring_first(&s->q, l->ring_slots); p < s->q.n0 + s->q.n_tok; p++) {
        put(ring_at(s, y->ring_codes, step_ring(p, l->ring_slots), l->row.code_bytes),
            mix(own_x[p - s->q.n0], 5000 + il));
    }
    memcpy(own_x, out, s->q.n_tok * sizeof out[0]);
}

/* Runs the next n_tok tokens; own_x then holds the results ("logits"). */
static void toy_step(struct toy *t, struct kv_state *st, const uint32_t *ids, uint32_t n_tok,
                     bool fail)
{
    static uint32_t pages[1 << 16];
    struct toy_step s = {.t = t, .pages = pages, .ids = ids};
    state_begin(st, n_tok);
    state_step(st, n_tok, &s.q, pages);
    for (uint32_t i = 0; i < n_tok; i++) {
        own_x[i] = mix(42, ids[st->n + i]);
    }
    uint32_t layers = fail ? t->l.n_layer / 2 + 1 : t->l.n_layer;
    for (uint32_t il = 0; il < layers && il < t->l.n_layer; il++) {
        layer(&s, il);
    }
}

static void toy_open(struct toy *t, uint32_t n_layer, const uint16_t *ratio, uint32_t window,
                     uint32_t page_tokens, uint32_t ctx)
{
    t->l = toy_layout(n_layer, ratio, window, page_tokens);
    assert_int_equal(pool_open(&t->pool, &backend_ref, dev, &t->l, SLOTS,
                               SLOTS * (ctx / t->l.page_tokens + 1), NULL),
                     0);
    t->pool.poison = true;
    t->page = backend_ref.buf_map(dev, t->pool.page);
    t->slot = backend_ref.buf_map(dev, t->pool.state);
}

/* ---- scripts ---- */

enum { FRONTS = 4 };
struct actor {
    struct kv_state st;
    uint32_t *ids;
    struct frontier *front[FRONTS];
    uint32_t n_front;
    bool on;
};

struct oracle { /* the straight computation of one id sequence, one token at a time */
    struct kv_state st;
    uint32_t *ids;
    uint64_t *x; /* [ctx] results */
};

/* Brings the oracle to ids[0..n): recomputes from zero where ids differ. */
static void oracle_run(struct toy *t, struct oracle *o, const uint32_t *ids, uint32_t n)
{
    if (o->st.n > n || memcmp(o->ids, ids, o->st.n * sizeof *ids) != 0) {
        state_fini(&o->st);
        assert_int_equal(state_init(&o->st, &t->pool, CTX_SMALL, NULL), 0);
    }
    assert_int_equal(state_reserve(&o->st, n, NULL), 0);
    memcpy(o->ids, ids, n * sizeof *ids);
    while (o->st.n < n) {
        toy_step(t, &o->st, o->ids, 1, false);
        o->x[o->st.n] = own_x[0];
        state_commit(&o->st, 1);
    }
}

static uint64_t n_free, n_ring, n_frontier, n_rerun;

static void actor_rewind(struct toy *t, struct actor *a, uint32_t n)
{
    (void)t;
    struct kv_plan p = state_rewind(&a->st, n, a->front, a->n_front);
    *(p.how == KV_RESUME_FREE       ? &n_free
      : p.how == KV_RESUME_RING     ? &n_ring
      : p.how == KV_RESUME_FRONTIER ? &n_frontier
                                    : &n_rerun) += 1;
    while (a->n_front > 0 && a->front[a->n_front - 1]->pos > n) {
        frontier_drop(a->front[--a->n_front]);
    }
}

/* Steps of random sizes to `to` tokens; every result at or beyond keep must be the oracle's. */
static void actor_run(struct toy *t, struct actor *a, struct oracle *o, struct rng *g,
                      uint32_t to)
{
    oracle_run(t, o, a->ids, to);
    assert_int_equal(state_reserve(&a->st, to, NULL), 0);
    while (a->st.n < to) {
        uint32_t most = to - a->st.n, size[] = {1, 7, 60, STEP_MAX};
        uint32_t n = 1 + rng_below(g, size[rng_below(g, 4)]);
        n = n < most ? n : most;
        if (rng_below(g, 40) == 0) { /* a backend error in the middle of a step */
            uint32_t rows = state_rows(&a->st);
            toy_step(t, &a->st, a->ids, n, true);
            state_abort(&a->st, a->front, a->n_front);
            assert_int_equal(state_rows(&a->st), rows);
            continue;
        }
        uint32_t n0 = a->st.n;
        toy_step(t, &a->st, a->ids, n, false);
        for (uint32_t i = 0; i < n; i++) {
            if (n0 + i >= a->st.keep && own_x[i] != o->x[n0 + i]) {
                fail_msg("position %u (step of %u at %u, keep %u, start %u) differs", n0 + i, n,
                         n0, a->st.keep, a->st.start);
            }
        }
        state_commit(&a->st, n);
    }
    pool_check(&t->pool);
}

static void actor_free(struct actor *a)
{
    while (a->n_front > 0) {
        frontier_drop(a->front[--a->n_front]);
    }
    state_fini(&a->st);
    a->on = false;
}

static void new_ids(struct rng *g, uint32_t *ids, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        ids[i] = rng_below(g, V);
    }
}

/* Verification: k rows are computed, some rejected: forgetting up to V is free. */
static void verify(struct toy *t, struct actor *a, struct oracle *o, struct rng *g)
{
    uint32_t n = a->st.n, k = 1 + rng_below(g, STEP_VERIFY_MAX), ok = rng_below(g, k + 1);
    if (n < a->st.keep || n + k > CTX_SMALL) {
        return;
    }
    oracle_run(t, o, a->ids, n);
    new_ids(g, a->ids, n, n + k);
    assert_int_equal(state_reserve(&a->st, n + k, NULL), 0);
    toy_step(t, &a->st, a->ids, k, false);
    state_commit(&a->st, k);
    struct kv_plan p = state_rewind(&a->st, n + ok, a->front, a->n_front);
    assert_int_equal(p.how, KV_RESUME_FREE);
    assert_int_equal(p.from, n + ok);
}

static void script(struct toy *t, struct rng *g, int n_ops)
{
    struct actor a[2] = {{.on = true}, {.on = false}};
    struct oracle o = {0};
    for (int i = 0; i < 2; i++) {
        a[i].ids = mem_calloc(CTX_SMALL, sizeof *a[i].ids);
    }
    o.ids = mem_calloc(CTX_SMALL, sizeof *o.ids);
    o.x = mem_calloc(CTX_SMALL, sizeof *o.x);
    assert_int_equal(state_init(&a[0].st, &t->pool, CTX_SMALL, NULL), 0);
    assert_int_equal(state_init(&o.st, &t->pool, CTX_SMALL, NULL), 0);
    for (int op = 0; op < n_ops; op++) {
        struct actor *me = &a[a[1].on && rng_below(g, 2)], *you = &a[me == &a[0]];
        uint32_t rows = state_rows(&me->st), to;
        switch (rng_below(g, 8)) {
        case 0:
        case 1:
        case 2:
            to = rows + 1 + rng_below(g, rng_below(g, 3) ? 40 : 600);
            to = to < CTX_SMALL ? to : CTX_SMALL;
            new_ids(g, me->ids, rows, to);
            actor_run(t, me, &o, g, to);
            break;
        case 3: verify(t, me, &o, g); break;
        case 4: /* a small or a deep rewind, perhaps twice, perhaps before the re-run is done */
            to = rng_below(g, 3) ? rng_below(g, rows + 1)
                                 : rows - rng_below(g, rows < 20 ? rows + 1 : 20);
            actor_rewind(t, me, to);
            break;
        case 5: { /* part of what is pending */
            uint32_t n = me->st.n;
            if (n < rows) {
                actor_run(t, me, &o, g, n + 1 + rng_below(g, rows - n));
            }
            break;
        }
        case 6:
            if (me->n_front < FRONTS) {
                struct frontier *f = state_checkpoint(&me->st);
                if (f && me->n_front && me->front[me->n_front - 1]->pos >= f->pos) {
                    frontier_drop(f);
                } else if (f) {
                    me->front[me->n_front++] = f;
                }
            }
            break;
        default:
            if (you->on && you != &a[0]) {
                actor_free(you);
            } else if (!you->on) {
                uint32_t n = rng_below(g, rows + 1);
                assert_int_equal(
                    state_fork(&you->st, &me->st, n, me->front, me->n_front, CTX_SMALL, NULL),
                    0);
                memcpy(you->ids, me->ids, n * sizeof *me->ids);
                you->on = true;
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        if (a[i].on) {
            uint32_t rows = state_rows(&a[i].st), to = rows < CTX_SMALL ? rows + 1 : rows;
            new_ids(g, a[i].ids, rows, to);
            actor_run(t, &a[i], &o, g, to);
            actor_free(&a[i]);
        }
        mem_free(a[i].ids);
    }
    state_fini(&o.st);
    mem_free(o.ids);
    mem_free(o.x);
    assert_int_equal(pool_used_bytes(&t->pool, KV_KIND_COUNT), 0);
}

static const struct geometry {
    uint32_t n_layer, window, page_tokens;
    uint16_t ratio[8];
} GEOMETRIES[] = {
    {6, 16, 128, {0, 4, 128, 4, 8, 0}}, /* the golden tiny model */
    {4, 16, 32, {0, 0, 4, 32}},
    {5, 8, 64, {32, 4, 8, 4, 4}}, /* compressed from the first layer on */
    {3, 40, 48, {16, 16, 0}},     /* no boundary copies; window longer than A */
    {3, 128, 128, {0, 4, 128}},
    {3, 12, 16, {4, 4, 4}},               /* A = 4: groups are boundaries */
    {3, 20, 64, {0, 0, 0}},               /* no pages at all */
    {7, 6, 64, {4, 64, 4, 64, 4, 64, 4}}, /* a window far shorter than the largest group */
};

static void test_scripts(void **state)
{
    (void)state;
    bool is_long = getenv("FATHOM_TEST_LONG") != NULL;
    int scripts = is_long ? 400 : 20;
    for (size_t gi = 0; gi < ARRAY_LEN(GEOMETRIES); gi++) {
        const struct geometry *y = &GEOMETRIES[gi];
        struct toy *t = mem_calloc(1, sizeof *t);
        toy_open(t, y->n_layer, y->ratio, y->window, y->page_tokens, CTX_SMALL);
        for (int i = 0; i < scripts; i++) {
            uint64_t seed = 1000 * gi + (uint64_t)i;
            struct rng g = {splitmix64(seed)};
            script(t, &g, 60);
        }
        pool_close(&t->pool);
        mem_free(t);
    }
    print_message("rewinds: %llu free, %llu from the ring, %llu from a frontier, %llu re-run\n",
                  (unsigned long long)n_free, (unsigned long long)n_ring,
                  (unsigned long long)n_frontier, (unsigned long long)n_rerun);
    assert_true(n_free > 20 && n_ring > 20 && n_frontier > 20 && n_rerun > 20);
}

/* Which way back is taken, and how far. */
static void test_ways_back(void **state)
{
    (void)state;
    struct toy *t = mem_calloc(1, sizeof *t);
    static const uint16_t ratio[] = {0, 4, 128, 4, 8, 0};
    toy_open(t, 6, ratio, 16, 128, CTX_SMALL);
    uint32_t *ids = mem_calloc(CTX_SMALL, sizeof *ids);
    struct kv_state st;
    assert_int_equal(state_init(&st, &t->pool, CTX_SMALL, NULL), 0);
    assert_int_equal(state_reserve(&st, 2000, NULL), 0);
    struct frontier *f = NULL;
    while (st.n < 2000) {
        toy_step(t, &st, ids, 100, false);
        state_commit(&st, 100);
        if (st.n == 1300) {
            f = state_checkpoint(&st);
        }
    }
    assert_non_null(f);
    assert_int_equal(f->pos, 1280);
    struct kv_plan p = state_plan(&st, 1992, &f, 1);
    assert_true(p.how == KV_RESUME_FREE && p.from == 1992);
    p = state_plan(&st, 1991, &f, 1);
    assert_true(p.how == KV_RESUME_RING && p.from == 1920);
    p = state_plan(&st, 1920, &f, 1);
    assert_true(p.how == KV_RESUME_RING && p.from == 1920);
    p = state_plan(&st, 1919, &f, 1); /* the ring of 152 slots no longer holds 1792 - 15 */
    assert_true(p.how == KV_RESUME_RERUN);
    p = state_plan(&st, 1300, &f, 1);
    assert_true(p.how == KV_RESUME_FRONTIER && p.from == 1280 && p.frontier == f);
    p = state_plan(&st, 1280, &f, 1);
    assert_true(p.how == KV_RESUME_FRONTIER && p.from == 1280);
    p = state_plan(&st, 1279, &f, 1);
    assert_true(p.how == KV_RESUME_RERUN && p.from <= 1279 - 90 && p.keep == 1279);
    frontier_drop(f);
    state_fini(&st);
    pool_close(&t->pool);
    mem_free(ids);
    /* Flash: 43 x 127 tokens, aligned down. */
    assert_int_equal(layout_make(&t->l, shape_preset("flash"), true, 0, NULL), 0);
    assert_int_equal(layout_rerun_start(&t->l, 100000), (100000 - 5461) / 128 * 128);
    assert_int_equal(layout_rerun_start(&t->l, 5461), 0);
    assert_int_equal(layout_rerun_start(&t->l, 5461 + 128), 128);
    mem_free(t);
}

/* The end of a context of a million tokens: pages, rings and rewinds keep working. */
static void test_million(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    struct toy *t = mem_calloc(1, sizeof *t);
    static const uint16_t ratio[] = {0, 4, 128};
    toy_open(t, 3, ratio, 8, 2048, N);
    uint32_t *ids = mem_alloc(N, sizeof *ids);
    struct kv_state a, b;
    struct rng g = {7};
    new_ids(&g, ids, 0, N);
    assert_int_equal(state_init(&a, &t->pool, N, NULL), 0);
    assert_int_equal(state_init(&b, &t->pool, N, NULL), 0);
    assert_int_equal(state_reserve(&a, N, NULL), 0);
    assert_int_equal(state_reserve(&b, N, NULL), 0);
    assert_int_equal(state_reserve(&b, N + 1, NULL), FATHOM_ELIMIT);
    enum { KEEP = 1000 };
    static uint64_t want[KEEP];
    while (a.n < N) {
        uint32_t n = N - a.n < STEP_MAX ? N - a.n : STEP_MAX, n0 = a.n;
        toy_step(t, &a, ids, n, false);
        for (uint32_t i = 0; i < n; i++) {
            if (n0 + i >= N - KEEP) {
                want[n0 + i - (N - KEEP)] = own_x[i];
            }
        }
        state_commit(&a, n);
    }
    assert_int_equal(a.n_pages, 512);
    while (b.n < N - KEEP) {
        uint32_t most = N - KEEP - b.n, n = most < 511 ? most : 511;
        toy_step(t, &b, ids, n, false);
        state_commit(&b, n);
    }
    for (int round = 0; round < 3; round++) {
        while (b.n < N) {
            uint32_t n = 1 + rng_below(&g, 30), n0 = b.n;
            n = n < N - b.n ? n : N - b.n;
            toy_step(t, &b, ids, n, false);
            for (uint32_t i = 0; i < n; i++) {
                if (n0 + i >= b.keep && n0 + i >= N - KEEP) {
                    assert_true(own_x[i] == want[n0 + i - (N - KEEP)]);
                }
            }
            state_commit(&b, n);
        }
        state_rewind(&b, N - 1 - rng_below(&g, KEEP - 300), NULL, 0);
        assert_int_equal(state_reserve(&b, N, NULL), 0);
    }
    state_fini(&a);
    state_fini(&b);
    pool_close(&t->pool);
    mem_free(ids);
    mem_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways_back),
        cmocka_unit_test(test_scripts),
        cmocka_unit_test(test_million),
    };
    return cmocka_run_group_tests(tests, toy_setup, toy_teardown);
}
