/* test_engine_golden.c - the golden tiny model of docs/model.md 17 through loader, recorder and
 * backends: published logits and streams, and the promise that a token's bits depend on the ids
 * before it only - not on chunks, neighbours, size class, rewinds or re-runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "golden/golden_model.h"

enum { N = 300 };

struct golden_row {
    uint32_t p, token, argmax;
    double logits[4], sum_abs;
};
static const struct golden_row SIM_OFF[] = {
    {0, 8, 51, {-0.69256, 0.67148, 1.52837, -0.11361}, 69.23343},
    {3, 37, 23, {-0.07985, 0.93486, 0.80901, 1.46027}, 77.07558},
    {4, 63, 47, {-0.54312, 0.62470, 0.31671, 2.11438}, 87.81727},
    {7, 72, 26, {0.79204, -0.00087, 1.30184, 1.24817}, 77.10530},
    {20, 100, 26, {1.70545, 1.52745, 0.16585, -0.27108}, 72.61454},
    {127, 43, 51, {-0.67391, -0.32070, 2.03367, -0.90550}, 83.08905},
    {128, 97, 51, {-1.78125, -1.22833, -0.49061, 0.38788}, 76.40392},
    {255, 42, 90, {-0.70985, 0.35659, 0.96373, -1.97957}, 78.91853},
    {299, 17, 62, {-0.27026, 0.39565, 1.52456, -0.36254}, 86.24151},
};
static const struct golden_row NATIVE[] = {
    {0, 8, 51, {-0.68439, 0.69340, 1.55619, -0.11599}, 69.78902},
    {3, 37, 23, {-0.10853, 0.99879, 0.82190, 1.41005}, 77.40156},
    {4, 63, 47, {-0.54118, 0.66208, 0.31069, 2.07978}, 88.21067},
    {7, 72, 26, {0.80498, 0.02554, 1.25317, 1.24494}, 77.20104},
    {15, 89, 2, {0.36927, 1.20141, 2.77203, 0.65534}, 85.15696},
    {20, 100, 26, {1.65797, 1.52981, 0.19828, -0.26203}, 72.88744},
};
/* X[0][0..2] and X[3][0..2] at p = 20 after each layer. */
static const double STREAMS[GOLDEN_L][6] = {
    {-0.64798, 0.68238, 1.09081, -0.68663, 0.74877, 0.94575},
    {-0.76096, 0.96292, 1.17200, -0.77892, 1.08610, 1.16202},
    {-1.02680, 0.56469, 1.50408, -1.07842, 0.50349, 1.56656},
    {-1.31396, 0.07560, 1.63682, -1.36199, 0.10850, 1.60906},
    {-1.23790, 0.19090, 1.38237, -1.21993, 0.20485, 1.39207},
    {0.99676, 1.42008, 1.84570, 0.20198, 0.93074, 1.66937},
};

static struct golden f32_model, q8_model;
static float truth[N][GOLDEN_V], got[N + 16][GOLDEN_V]; /* logits by position */

static int setup(void **state)
{
    (void)state;
    golden_open(&f32_model, QT_F32);
    golden_open(&q8_model, QT_Q8_0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    golden_close(&f32_model);
    golden_close(&q8_model);
    return 0;
}

static const struct op_weight *weight(const char *name)
{
    for (uint32_t i = 0; i < f32_model.w.n; i++) {
        if (strcmp(f32_model.w.w[i].name, name) == 0) {
            return &f32_model.w.w[i];
        }
    }
    fail_msg("no weight %s", name);
    return NULL;
}

static void near(double a, double b, double tolerance, const char *what)
{
    if (!(fabs(a - b) <= tolerance)) {
        fail_msg("%s: %.7g, expected %.7g within %g", what, a, b, tolerance);
    }
}

static void test_builder(void **state)
{
    (void)state;
    assert_true(golden_fnv1a("embed.weight") == 0x9AC37BCAC2DC8A00u);
    assert_true(splitmix64(0) == 0xE220A8397B1DCDAFu);
    const uint32_t ids[8] = {8, 17, 65, 37, 63, 21, 91, 72};
    for (uint32_t p = 0; p < 8; p++) {
        assert_int_equal(golden_token(p), ids[p]);
    }
    const float *embed = weight("token_embd.weight")->data;
    const float *wq_a = weight("blk.1.attn_q_a.weight")->data;
    const int32_t *table = weight("blk.0.ffn_gate_tid2eid.weight")->data;
    const double e[3] = {0.0350399, -0.9550754, -0.8646539};
    const double q[3] = {0.2127873, 0.0324370, 0.1921513};
    const int32_t t[3] = {2, 3, 6};
    for (int i = 0; i < 3; i++) {
        near((double)embed[i], e[i], 6e-8, "embed");
        near((double)wq_a[i], q[i], 6e-8, "wq_a");
        assert_int_equal(table[i], t[i]);
    }
}

static void check_rows(const struct golden_row *rows, size_t n, float (*logits)[GOLDEN_V],
                       double tolerance)
{
    for (size_t i = 0; i < n; i++) {
        const struct golden_row *g = &rows[i];
        const float *l = logits[g->p];
        char what[32];
        snprintf(what, sizeof what, "p %u", g->p);
        assert_int_equal(golden_token(g->p), g->token);
        double sum = 0;
        for (int k = 0; k < GOLDEN_V; k++) {
            sum += fabs((double)l[k]);
        }
        for (int k = 0; k < 4; k++) {
            near((double)l[k], g->logits[k], tolerance, what);
        }
        assert_int_equal(golden_argmax(l), g->argmax);
        near(sum, g->sum_abs, 20 * tolerance, what); /* 101 logits */
    }
}

/* Bit equality of logits at positions [from, to). */
static void same_bits(float (*a)[GOLDEN_V], float (*b)[GOLDEN_V], uint32_t from, uint32_t to)
{
    for (uint32_t p = from; p < to; p++) {
        for (int k = 0; k < GOLDEN_V; k++) {
            if (memcmp(&a[p][k], &b[p][k], sizeof a[p][k]) != 0) {
                fail_msg("position %u, logit %d: %.9g and %.9g", p, k, (double)a[p][k],
                         (double)b[p][k]);
            }
        }
    }
}

static struct golden_run open_run(const struct backend *be, const struct golden *m, bool sim,
                                  uint32_t t_max)
{
    struct golden_run r;
    golden_run_open(&r, be, m, &(struct golden_run_options){.sim = sim, .t_max = t_max});
    return r;
}

/* ---- per backend; *state is the backend ---- */

static void test_published_logits(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, false, 64);
    golden_feed(&r, 0, 0, N, 64, got[0]);
    check_rows(SIM_OFF, ARRAY_LEN(SIM_OFF), got, 1e-4);
    golden_run_close(&r);
    r = open_run(*state, &f32_model, true, 64);
    golden_feed(&r, 0, 0, 21, 64, got[0]);
    check_rows(NATIVE, ARRAY_LEN(NATIVE), got, 1e-3);
    golden_run_close(&r);
}

struct dump {
    struct golden_run *r;
    float x[GOLDEN_L][GOLDEN_HC][GOLDEN_D];
};

/* MOE_DOWN is the last op of a layer: keeps the streams of position 20. */
static void dump_streams(void *user, const struct op *op, const struct step *s, double seconds)
{
    struct dump *d = user;
    assert_true(seconds >= 0);
    const struct opnd *x = &op->moe_down.hc_x;
    assert_int_equal(s->seq[0].n0, 20);
    d->r->be->buf_read(d->r->dev, d->r->bind.arena, x->offset, d->x[op->layer],
                       sizeof d->x[op->layer]);
}

static void test_published_streams(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, false, 20);
    golden_feed(&r, 0, 0, 20, 20, NULL);
    struct dump d = {.r = &r};
    r.be->trace(r.dev, &(struct backend_trace){
                           .kinds = 1u << OP_MOE_DOWN, .fn = dump_streams, .user = &d});
    golden_feed(&r, 0, 20, 21, 1, NULL);
    for (int il = 0; il < GOLDEN_L; il++) {
        for (int k = 0; k < 6; k++) {
            near((double)d.x[il][k < 3 ? 0 : 3][k % 3], STREAMS[il][k], 1e-4, "stream");
        }
    }
    golden_run_close(&r);
}

/* Every chunking and size class gives the bits of one token at a time. */
static void test_chunks(void **state)
{
    const uint32_t chunks[] = {1, 7, 64};
    for (int sim = 0; sim < 2; sim++) {
        struct golden_run r = open_run(*state, &f32_model, sim, 1);
        golden_feed(&r, 0, 0, N, 1, truth[0]);
        golden_run_close(&r);
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            r = open_run(*state, &f32_model, sim, 64);
            golden_feed(&r, 1, 0, N, chunks[i], got[0]);
            same_bits(truth, got, 0, N);
            golden_run_close(&r);
        }
        r = open_run(*state, &f32_model, sim, N); /* longer than every ring */
        golden_feed(&r, 1, 0, N, N, got[0]);
        same_bits(truth, got, 0, N);
        golden_run_close(&r);
    }
}

/* Neighbours in the batch: the golden sequence beside another one that starts earlier and takes
 * uneven shares of each step. */
static void test_batch(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, true, 64);
    golden_feed(&r, 0, 0, N, 64, truth[0]);
    uint32_t other[64];
    for (uint32_t i = 0; i < 64; i++) {
        other[i] = (i * 37 + 5) % GOLDEN_V;
    }
    uint32_t p = 0, n_other = 0;
    for (uint32_t i = 0; p < N; i++) {
        uint32_t n = 1 + i * 5 % 13, mine = n < N - p ? n : N - p, theirs = 1 + i * 3 % 7;
        struct golden_part part[2] = {
            {.state = 3, .pages_of = 3, .n0 = n_other, .n_tok = theirs, .tok = other},
            {.state = 2, .pages_of = 2, .n0 = p, .n_tok = mine}};
        static float both[64][GOLDEN_V];
        golden_step(&r, part, 2, both[0]);
        memcpy(got[p], both[theirs], mine * sizeof both[0]);
        p += mine;
        n_other += theirs;
    }
    same_bits(truth, got, 0, N);
    golden_run_close(&r);
}

/* Up to STEP_VERIFY_MAX tokens can be forgotten by starting again at an earlier position. */
static void test_rejected_rows(void **state)
{
    static const uint32_t wrong[STEP_VERIFY_MAX] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct golden_run r = open_run(*state, &f32_model, true, 64);
    golden_feed(&r, 0, 0, N, 64, truth[0]);
    for (uint32_t p = 0; p < N; p += 3) {
        golden_step(
            &r,
            &(struct golden_part){
                .state = 1, .pages_of = 1, .n0 = p, .n_tok = STEP_VERIFY_MAX, .tok = wrong},
            1, NULL);
        golden_feed(&r, 1, p, p + 3, 2, got[0]);
    }
    same_bits(truth, got, 0, N);
    golden_run_close(&r);
}

/* kv-store.md 2.4: an empty state over stored pages is rebuilt exactly by running L * (W - 1) =
 * 90 tokens again, reading rows instead of writing them; 89 are not enough. */
static void test_rerun(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, true, 64);
    golden_feed(&r, 0, 0, N, 64, truth[0]);
    uint32_t last = N - 1, exact = GOLDEN_L * (GOLDEN_W - 1);
    for (uint32_t n = exact; n >= exact - 1; n--) {
        uint32_t start = last - n;
        for (uint32_t p = start; p <= last; p += 50) {
            struct golden_part part = {.state = n - (exact - 1) + 1,
                                       .pages_of = 0,
                                       .n0 = p,
                                       .n_tok = last + 1 - p < 50 ? last + 1 - p : 50,
                                       .start = start,
                                       .keep = last};
            golden_step(&r, &part, 1, got[p]);
        }
        if (n == exact) {
            same_bits(truth, got, last, N);
        } else {
            assert_memory_not_equal(truth[last], got[last], sizeof truth[0]);
        }
    }
    golden_run_close(&r);
}

/* PICK's records, and a greedy continuation by TOK_PICKED against one by reading logits. */
static void test_picks(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, true, 8);
    golden_feed(&r, 0, 0, 8, 8, got[0]);
    golden_feed(&r, 1, 0, 8, 8, NULL);
    for (uint32_t i = 0; i < 8; i++) {
        struct pick pick;
        r.be->buf_read(r.dev, r.bind.io, r.p->io_picks.offset + i * r.p->io_picks.row_bytes,
                       &pick, sizeof pick);
        assert_int_equal(pick.id, golden_argmax(got[i]));
        assert_int_equal(pick.n_top, PICK_TOP);
        assert_int_equal(pick.n_nan, 0);
        double sum = 0;
        for (int k = 0; k < GOLDEN_V; k++) {
            sum += exp((double)got[i][k]);
        }
        near((double)pick.lse, log(sum), 1e-5, "lse");
        for (int k = 0; k < PICK_TOP; k++) {
            assert_true(pick.top[k].logit == got[i][pick.top[k].id]);
            assert_true(k == 0 || pick.top[k].logit < pick.top[k - 1].logit ||
                        pick.top[k].id > pick.top[k - 1].id);
        }
    }
    for (uint32_t p = 8; p < 40; p++) {
        uint32_t read = golden_argmax(got[p - 1]), picked = TOK_PICKED;
        struct golden_part part[2] = {
            {.state = 0, .pages_of = 0, .n0 = p, .n_tok = 1, .tok = &read},
            {.state = 1, .pages_of = 1, .n0 = p, .n_tok = 1, .tok = &picked}};
        float both[2][GOLDEN_V];
        golden_step(&r, part, 2, both[0]);
        assert_memory_equal(both[0], both[1], sizeof both[0]);
        memcpy(got[p], both[0], sizeof both[0]);
    }
    golden_run_close(&r);
}

/* Root mean square of got - truth over positions [from, to). */
static double rms_difference(uint32_t from, uint32_t to)
{
    double sum = 0;
    for (uint32_t p = from; p < to; p++) {
        for (int k = 0; k < GOLDEN_V; k++) {
            double d = (double)got[p][k] - (double)truth[p][k];
            sum += d * d;
        }
    }
    return sqrt(sum / ((to - from) * GOLDEN_V));
}

/* Q8_0 matrices with 8-bit activations against the same file with F32 activations. Logits
 * have a standard deviation of about 1; rounding alone moves them by about 0.02 (every
 * position before the first choice of another expert or row, which moves a position by 0.1
 * to 0.3). And the A8 results are as independent of chunks as any. */
static void test_a8_profile(void **state)
{
    struct golden_run r;
    struct golden_run_options o = {.sim = false, .act_f32 = true, .t_max = 64};
    golden_run_open(&r, *state, &q8_model, &o);
    golden_feed(&r, 0, 0, N, 64, truth[0]);
    golden_run_close(&r);
    o.act_f32 = false;
    golden_run_open(&r, *state, &q8_model, &o);
    golden_feed(&r, 0, 0, N, 64, got[0]);
    double all = rms_difference(0, N), early = rms_difference(0, 13);
    if (!(early > 1e-3 && early < 0.03 && all < 0.15)) {
        fail_msg("A8 against F32: rms difference %g, of the first 13 %g", all, early);
    }
    memcpy(truth, got, sizeof truth);
    golden_feed(&r, 1, 0, N, 5, got[0]);
    same_bits(truth, got, 0, N);
    golden_run_close(&r);
}

/* The number of threads changes nothing, for block formats either. */
static void test_threads(void **state)
{
    const uint32_t threads[] = {1, 2, 3, 7};
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        struct golden_run r;
        struct golden_run_options o = {.sim = true, .t_max = 64, .n_threads = threads[i]};
        golden_run_open(&r, *state, &q8_model, &o);
        golden_feed(&r, 0, 0, 96, 48, got[0]);
        if (i == 0) {
            memcpy(truth, got, sizeof truth);
        }
        same_bits(truth, got, 0, 96);
        golden_run_close(&r);
    }
}

/* Every logit of every position beside the reference backend's. Simulations off: no rounding
 * can flip, and the golden choices of experts and rows have wide margins. */
static void test_against_ref(void **state)
{
    struct golden_run r = open_run(&backend_ref, &f32_model, false, 64);
    golden_feed(&r, 0, 0, N, 64, truth[0]);
    golden_run_close(&r);
    r = open_run(*state, &f32_model, false, 64);
    golden_feed(&r, 0, 0, N, 64, got[0]);
    golden_run_close(&r);
    for (uint32_t p = 0; p < N; p++) {
        for (int k = 0; k < GOLDEN_V; k++) {
            near((double)got[p][k], (double)truth[p][k], 2e-5, "logit beside ref");
        }
    }
}

/* A wrong step is an error and leaves the backend usable. */
static void test_wrong_steps(void **state)
{
    struct golden_run r = open_run(*state, &f32_model, true, 4);
    struct step_seq seq = {.n_tok = 1, .n_page = r.n_page};
    uint32_t tok = 1, tok_seq = 0, out = 0, pages[8] = {0, 1, 2, 3};
    const struct step good = {1, 1, 0, r.n_page, &seq, &tok, &tok_seq, pages, &out, 0};
    fathom_err err = {0};
    assert_int_equal(r.be->submit(r.dev, r.ex, &good, &err), 0);
    assert_int_equal(r.be->wait(r.dev, &err), 0);
    struct step s = good;
    struct step_seq q = seq;
    s.seq = &q;
    tok = GOLDEN_V;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    tok = 1;
    s.n_tok = 5;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    s.n_tok = 1;
    pages[0] = r.n_page * GOLDEN_SLOTS;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    pages[0] = 0;
    q.state = GOLDEN_SLOTS;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    q.state = 0;
    q.n0 = GOLDEN_CTX;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    q.n0 = 0;
    q.n_tok = 2;
    assert_true(r.be->submit(r.dev, r.ex, &s, NULL) < 0);
    assert_int_equal(r.be->submit(r.dev, r.ex, &good, &err), 0);
    assert_int_equal(r.be->wait(r.dev, &err), 0);
    golden_run_close(&r);
}

#define TEST(f)                                 \
    {                                           \
#f, f, NULL, NULL, (void *)(uintptr_t)b \
    }

int main(void)
{
    int failed = cmocka_run_group_tests_name(
        "builder", ((const struct CMUnitTest[]){cmocka_unit_test(test_builder)}), setup, NULL);
    for (size_t i = 0; backend_at(i); i++) {
        const struct backend *b = backend_at(i);
        const struct CMUnitTest tests[] = {
            TEST(test_published_logits),
            TEST(test_published_streams),
            TEST(test_chunks),
            TEST(test_batch),
            TEST(test_rejected_rows),
            TEST(test_rerun),
            TEST(test_picks),
            TEST(test_a8_profile),
            TEST(test_threads),
            TEST(test_against_ref),
            TEST(test_wrong_steps),
        };
        failed += cmocka_run_group_tests_name(b->name, tests, NULL, NULL);
    }
    teardown(NULL);
    return failed;
}
