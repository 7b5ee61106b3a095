/* test_backend_ref.c - the reference backend op by op, each against another formulation of the
 * same mathematics: products, hyper-connections, experts, picks, and what compile refuses. The
 * ops that read and write KV state are in test_backend_ref_rows.c; the whole model is checked
 * in tests/golden. Here are also the cases that a well-behaved model never meets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ops/ref_bench.h"

/* ---- products ---- */

/* F32, F16 and A8 parts of one LINEAR; and the A8 form of its output. */
static void test_linear_forms(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b);
    const uint32_t types[4] = {QT_F32, QT_F16, QT_Q8_0, QT_Q8_0};
    struct opnd x = tensor(&b, FORM_F32, ROWS_TOK, 96, 1);
    struct opnd x_act = tensor(&b, FORM_A8, ROWS_TOK, 96, 1);
    struct op_linear l = {.x = x, .x_act = x_act, .n_part = 4, .groups = 1};
    for (int p = 0; p < OP_LINEAR_PARTS; p++) {
        l.part[p].w.w = WEIGHT_NONE;
        if (p < 4) {
            uint16_t w = add_weight(&b, types[p], 1, 32, 96, NULL);
            l.part[p].w = mat(&b, w, p == 3 ? FORM_A8 : FORM_F32);
            l.part[p].y = tensor(&b, FORM_F32, ROWS_TOK, 32, 1);
        }
    }
    l.y_act = tensor(&b, FORM_A8, ROWS_TOK, 32, 1);
    program_op(b.p, OP_LINEAR, 0, "test")->linear = l;
    bench_ready(&b);
    l = b.p->ops[0].linear;
    set_rows(&b, &l.x, 3, 2);
    for (uint32_t t = 0; t < 3; t++) {
        act8_encode(io_row(&b, &l.x, t), 0, 96, 96, io_row(&b, &l.x_act, t));
    }
    run(&b, 0, 3, 0, 0, false);
    for (uint32_t t = 0; t < 3; t++) {
        const float *xf = io_row(&b, &l.x, t);
        int8_t *q = act8_q(io_row(&b, &l.x_act, t));
        float *d = act8_d(io_row(&b, &l.x_act, t), 96);
        for (int p = 0; p < 4; p++) {
            const float *y = io_row(&b, &l.part[p].y, t);
            for (uint32_t i = 0; i < 32; i++) {
                double want = 0;
                for (uint32_t k = 0; k < 96; k++) {
                    double v = p == 3 ? (double)d[k / 32] * q[k] : (double)xf[k];
                    want += (double)b.wf[p][i * 96 + k] * v;
                }
                near((double)y[i], want, 1e-6);
            }
        }
        unsigned char a8[64];
        act8_encode(io_row(&b, &l.part[0].y, t), 0, 32, 32, a8);
        assert_memory_equal(a8, io_row(&b, &l.y_act, t), act8_row_bytes(32));
    }
    bench_close(&b);
}

/* groups: row i of the weight reads only its own third of the input. */
static void test_linear_groups(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b);
    struct op_linear l = {.x = tensor(&b, FORM_F32, ROWS_OUT, 30, 1), .n_part = 1, .groups = 3};
    l.rows_out = true;
    for (int p = 0; p < OP_LINEAR_PARTS; p++) {
        l.part[p].w.w = WEIGHT_NONE;
    }
    l.part[0].w = mat(&b, add_weight(&b, QT_BF16, 1, 6, 10, NULL), FORM_F32);
    l.part[0].y = tensor(&b, FORM_F32, ROWS_OUT, 6, 1);
    program_op(b.p, OP_LINEAR, 0, "test")->linear = l;
    bench_ready(&b);
    l = b.p->ops[0].linear;
    set_rows(&b, &l.x, 2, 1);
    run(&b, 0, 5, 0, 0, false); /* five tokens, one output row: only row 0 is written */
    const float *x = io_row(&b, &l.x, 0), *y = io_row(&b, &l.part[0].y, 0);
    for (uint32_t i = 0; i < 6; i++) {
        double want = 0;
        for (uint32_t k = 0; k < 10; k++) {
            want += (double)b.wf[0][i * 10 + k] * (double)x[i / 2 * 10 + k];
        }
        near((double)y[i], want, 1e-6);
        assert_true(((float *)io_row(&b, &l.part[0].y, 1))[i] == 0);
    }
    bench_close(&b);
}

/* ---- hyper-connections ---- */

/* HC_MIX, HC_NORM and LINEAR_HC against the formulas of model.md 5 on whole vectors. D = 40
 * leaves a short last chunk. */
static void test_hc(void **state)
{
    (void)state;
    enum { HC = 3, D = 40, M = (2 + HC) * HC, NC = 2, COLS = 8 };
    struct bench b;
    bench_open(&b);
    uint16_t fn = add_weight(&b, QT_F32, 1, M, HC * D, NULL);
    uint16_t scale = add_weight(&b, QT_F32, 1, 1, 3, NULL);
    uint16_t base = add_weight(&b, QT_F32, 1, 1, M, NULL);
    uint16_t norm = add_weight(&b, QT_F32, 1, 1, D, NULL);
    uint16_t wo = add_weight(&b, QT_F32, 1, D, COLS, NULL);
    struct opnd x = tensor(&b, FORM_F32, ROWS_TOK, HC * D, 1);
    struct opnd mixp = tensor(&b, FORM_F32, ROWS_TOK, NC * (M + 1), 1);
    struct opnd xn = tensor(&b, FORM_F32, ROWS_TOK, D, 1);
    struct opnd post = tensor(&b, FORM_F32, ROWS_TOK, HC, 1);
    struct opnd comb = tensor(&b, FORM_F32, ROWS_TOK, HC * HC, 1);
    struct opnd in = tensor(&b, FORM_F32, ROWS_TOK, COLS, 1);
    program_op(b.p, OP_HC_MIX, 0, "test")->hc_mix = (struct op_hc_mix){
        .x = x, .fn = mat(&b, fn, FORM_F32), .mixp = mixp, .hc = HC, .d = D, .m = M, .nc = NC};
    program_op(b.p, OP_HC_NORM, 0, "test")->hc_norm = (struct op_hc_norm){.x = x,
                                                                          .mixp = mixp,
                                                                          .scale = {scale},
                                                                          .base = {base},
                                                                          .norm = {norm},
                                                                          .xn = xn,
                                                                          .post = post,
                                                                          .comb = comb,
                                                                          .hc = HC,
                                                                          .d = D,
                                                                          .nc = NC,
                                                                          .iters = 4,
                                                                          .eps = 1e-3f,
                                                                          .hc_eps = 1e-2f};
    program_op(b.p, OP_LINEAR_HC, 0, "test")->linear_hc =
        (struct op_linear_hc){.x = in,
                              .w = mat(&b, wo, FORM_F32),
                              .hc_x = x,
                              .post = post,
                              .comb = comb,
                              .hc = HC,
                              .d = D};
    bench_ready(&b);
    x = b.p->ops[2].linear_hc.hc_x;
    in = b.p->ops[2].linear_hc.x;
    xn = b.p->ops[1].hc_norm.xn;
    set_rows(&b, &x, 1, 1);
    set_rows(&b, &in, 1, 1);
    float X[HC][D];
    memcpy(X, io_row(&b, &x, 0), sizeof X);
    run(&b, 0, 1, 0, 0, false);

    double m[M] = {0}, sq = 0, z[HC][HC], c[HC][HC], h[D], y[D], hh = 0;
    const double eps = (double)1e-3f, e_hc = (double)1e-2f;
    for (int i = 0; i < HC * D; i++) {
        double v = (double)(&X[0][0])[i];
        sq += v * v;
        for (int k = 0; k < M; k++) {
            m[k] += (double)b.wf[fn][k * HC * D + i] * v;
        }
    }
    for (int k = 0; k < M; k++) {
        m[k] = m[k] / sqrt(sq / (HC * D) + eps);
    }
    const float *sc = b.wf[scale], *ba = b.wf[base];
    for (int j = 0; j < HC; j++) {
        double den = 0;
        for (int k = 0; k < HC; k++) {
            int i = 2 * HC + j * HC + k;
            den += z[j][k] = exp(m[i] * (double)sc[2] + (double)ba[i]);
        }
        for (int k = 0; k < HC; k++) {
            c[j][k] = z[j][k] / den + e_hc;
        }
    }
    for (int it = 0; it < 7; it++) { /* column, then 3 times row and column */
        double sum[HC] = {0};
        for (int j = 0; j < HC; j++) {
            for (int k = 0; k < HC; k++) {
                sum[it % 2 ? j : k] += c[j][k];
            }
        }
        for (int j = 0; j < HC; j++) {
            for (int k = 0; k < HC; k++) {
                c[j][k] /= sum[it % 2 ? j : k] + e_hc;
            }
        }
    }
    for (int d = 0; d < D; d++) {
        h[d] = y[d] = 0;
        for (int j = 0; j < HC; j++) {
            h[d] += (1 / (1 + exp(-(m[j] * (double)sc[0] + (double)ba[j]))) + e_hc) *
                    (double)X[j][d];
        }
        hh += h[d] * h[d];
        for (int k = 0; k < COLS; k++) {
            y[d] += (double)b.wf[wo][d * COLS + k] * (double)((float *)io_row(&b, &in, 0))[k];
        }
    }
    const float *got = io_row(&b, &xn, 0), *xnew = io_row(&b, &x, 0);
    for (int d = 0; d < D; d++) {
        near((double)got[d], h[d] / sqrt(hh / D + eps) * (double)b.wf[norm][d], 1e-6);
        for (int k = 0; k < HC; k++) {
            double p = 2 / (1 + exp(-(m[HC + k] * (double)sc[1] + (double)ba[HC + k])));
            double want = p * y[d];
            for (int j = 0; j < HC; j++) {
                want += c[j][k] * (double)X[j][d];
            }
            near((double)xnew[k * D + d], want, 2e-6);
        }
    }
    bench_close(&b);
}

/* ---- experts ---- */

enum { XE = 6, XK = 3, XD = 32, XF = 64, XHC = 2, XNT = 7 }; /* sizes of test_experts */

struct experts {
    struct op_route r;
    struct op_moe_up u;
    struct op_moe_down d;
    uint16_t w1, w3, w2, ws;
};

/* Records ROUTE, MOE_UP, MOE_DOWN; h exists in A8 form only. */
static void record_experts(struct bench *b, struct experts *x)
{
    const float bias[XE] = {0, 0, 0.5f, 0, 0, -0.5f};
    uint16_t wb = add_weight(b, QT_F32, 1, 1, XE, bias);
    x->w1 = add_weight(b, QT_Q8_0, XE, XF, XD, NULL);
    x->w3 = add_weight(b, QT_F16, XE, XF, XD, NULL);
    x->w2 = add_weight(b, QT_Q8_0, XE, XD, XF, NULL);
    x->ws = add_weight(b, QT_F32, 1, XD, XF, NULL);
    x->r = (struct op_route){.z = tensor(b, FORM_F32, ROWS_TOK, XE, 1),
                             .bias = {wb},
                             .table = {WEIGHT_NONE},
                             .idx = tensor(b, FORM_I32, ROWS_TOK, XK, 1),
                             .wt = tensor(b, FORM_F32, ROWS_TOK, XK, 1),
                             .off = tensor(b, FORM_I32, ROWS_ONE, XE + 1, 1),
                             .pair = tensor(b, FORM_I32, ROWS_ONE, T_MAX * XK, 1),
                             .n_expert = XE,
                             .k = XK,
                             .scale = 1.5f};
    program_op(b->p, OP_ROUTE, 0, "test")->route = x->r;
    x->u = (struct op_moe_up){.x = tensor(b, FORM_F32, ROWS_TOK, XD, 1),
                              .w1 = mat(b, x->w1, FORM_F32),
                              .w3 = mat(b, x->w3, FORM_F32),
                              .idx = x->r.idx,
                              .wt = x->r.wt,
                              .off = x->r.off,
                              .pair = x->r.pair,
                              .h_act = tensor(b, FORM_A8, ROWS_PAIR, XF, XK),
                              .n_expert = XE,
                              .k = XK,
                              .f = XF,
                              .lim = 0.75f};
    program_op(b->p, OP_MOE_UP, 0, "test")->moe_up = x->u;
    x->d = (struct op_moe_down){.h_act = x->u.h_act,
                                .hs = tensor(b, FORM_F32, ROWS_TOK, XF, 1),
                                .w2 = mat(b, x->w2, FORM_A8),
                                .shared = mat(b, x->ws, FORM_F32),
                                .idx = x->r.idx,
                                .off = x->r.off,
                                .pair = x->r.pair,
                                .hc_x = tensor(b, FORM_F32, ROWS_TOK, XHC * XD, 1),
                                .post = tensor(b, FORM_F32, ROWS_TOK, XHC, 1),
                                .comb = tensor(b, FORM_F32, ROWS_TOK, XHC * XHC, 1),
                                .n_expert = XE,
                                .k = XK,
                                .hc = XHC,
                                .d = XD};
    program_op(b->p, OP_MOE_DOWN, 0, "test")->moe_down = x->d;
    bench_ready(b);
    x->r = b->p->ops[0].route;
    x->u = b->p->ops[1].moe_up;
    x->d = b->p->ops[2].moe_down;
}

/* Pairs are grouped by expert, then by token, and name the slot they came from. */
static void check_groups(struct bench *b, const struct op_route *r)
{
    const uint32_t *off = io_row(b, &r->off, 0), *pair = io_row(b, &r->pair, 0);
    assert_int_equal(off[0], 0);
    assert_int_equal(off[XE], XNT * XK);
    for (uint32_t e = 0; e < XE; e++) {
        for (uint32_t i = off[e]; i < off[e + 1]; i++) {
            const uint32_t *idx = io_row(b, &r->idx, pair[i] / XK);
            assert_int_equal(idx[pair[i] % XK], e);
            assert_true(i == off[e] || pair[i - 1] < pair[i]);
        }
    }
}

/* The hidden vector of one (token, slot), checked against its A8 form; y += w2 of it. */
static void check_pair(struct bench *b, const struct experts *x, uint32_t t, int s, double *y)
{
    uint32_t e = ((const uint32_t *)io_row(b, &x->r.idx, t))[s];
    const float *in = io_row(b, &x->u.x, t), *wt = io_row(b, &x->r.wt, t);
    float h[XF];
    for (uint32_t f = 0; f < XF; f++) {
        double g = 0, up = 0;
        for (uint32_t i = 0; i < XD; i++) {
            size_t at = ((size_t)e * XF + f) * XD + i;
            g += (double)b->wf[x->w1][at] * (double)in[i];
            up += (double)b->wf[x->w3][at] * (double)in[i];
        }
        g = fmin(g, 0.75);
        up = fmax(fmin(up, 0.75), -0.75);
        h[f] = (float)(g / (1 + exp(-g)) * up * (double)wt[s]);
    }
    unsigned char *a8 = io_row(b, &x->u.h_act, t * XK + (uint32_t)s), want[XF * 10 / 8];
    act8_encode(h, 0, XF, XF, want);
    for (uint32_t f = 0; f < XF; f++) { /* a code may flip where double and float part */
        assert_true(abs(act8_q(a8)[f] - act8_q(want)[f]) <= 1);
        double v = (double)act8_d(a8, XF)[f / 32] * act8_q(a8)[f];
        for (uint32_t i = 0; i < XD; i++) {
            y[i] += (double)b->wf[x->w2][((size_t)e * XD + i) * XF + f] * v;
        }
    }
}

static void check_token(struct bench *b, const struct experts *x, uint32_t t)
{
    const uint32_t *idx = io_row(b, &x->r.idx, t);
    const float *wt = io_row(b, &x->r.wt, t), *z = io_row(b, &x->r.z, t);
    const float *hs = io_row(b, &x->d.hs, t);
    double sum = 0, y[XD];
    for (int s = 0; s < XK; s++) {
        sum += sqrt(log1p(exp((double)z[idx[s]])));
        assert_true(s == 0 || idx[s - 1] < idx[s]);
    }
    for (int i = 0; i < XD; i++) {
        y[i] = 0;
        for (int f = 0; f < XF; f++) {
            y[i] += (double)b->wf[x->ws][i * XF + f] * (double)hs[f];
        }
    }
    for (int s = 0; s < XK; s++) {
        near((double)wt[s], sqrt(log1p(exp((double)z[idx[s]]))) / sum * 1.5, 1e-6);
        check_pair(b, x, t, s, y);
    }
    const float *xnew = io_row(b, &x->d.hc_x, t), *post = io_row(b, &x->d.post, t);
    for (int k = 0; k < XHC; k++) {
        for (int i = 0; i < XD; i++) {
            near((double)xnew[k * XD + i], (double)post[k] * y[i], 2e-6);
        }
    }
}

/* ROUTE with ties, a NaN logit and a bias; MOE_UP and MOE_DOWN per token without grouping. */
static void test_experts(void **state)
{
    (void)state;
    struct bench b;
    struct experts x;
    bench_open(&b);
    record_experts(&b, &x);
    set_rows(&b, &x.r.z, XNT, 4);
    set_rows(&b, &x.u.x, XNT, 1);
    set_rows(&b, &x.d.hs, XNT, 1);
    set_rows(&b, &x.d.post, XNT, 1); /* streams and comb stay zero: X[k] = post[k] * y */
    float *z0 = io_row(&b, &x.r.z, 0), *z1 = io_row(&b, &x.r.z, 1);
    for (int e = 0; e < XE; e++) {
        z0[e] = 1;                 /* ties: 2 by its bias, then 0 and 1 */
        z1[e] = e == 2 ? NAN : 30; /* 2 is out; 0, 1, 3 */
    }
    run(&b, 0, XNT, 0, 0, false);
    const uint32_t tied[2][XK] = {{0, 1, 2}, {0, 1, 3}};
    assert_memory_equal(io_row(&b, &x.r.idx, 0), tied[0], sizeof tied[0]);
    assert_memory_equal(io_row(&b, &x.r.idx, 1), tied[1], sizeof tied[1]);
    check_groups(&b, &x.r);
    for (uint32_t t = 0; t < XNT; t++) {
        check_token(&b, &x, t);
    }
    bench_close(&b);
}

/* ---- pick ---- */

static void test_pick(void **state)
{
    (void)state;
    enum { V = 70, WORDS = 3 };
    struct bench b;
    bench_open(&b);
    struct op_pick o = {.logits = tensor(&b, FORM_F32, ROWS_OUT, V, 1),
                        .mask = tensor(&b, FORM_BYTES, ROWS_OUT, WORDS * 4, 1),
                        .picks = tensor(&b, FORM_BYTES, ROWS_OUT, sizeof(struct pick), 1),
                        .picked = tensor(&b, FORM_I32, ROWS_ONE, N_SLOTS, 1),
                        .vocab = V};
    program_op(b.p, OP_PICK, 0, "test")->pick = o;
    bench_ready(&b);
    o = b.p->ops[0].pick;
    float *l = io_row(&b, &o.logits, 0);
    uint32_t *mask = io_row(&b, &o.mask, 0), *picked = io_row(&b, &o.picked, 0);
    struct pick *pick = io_row(&b, &o.picks, 0);
    for (int i = 0; i < V; i++) {
        l[i] = (float)(i % 10);
    }
    l[5] = NAN;
    l[69] = INFINITY;
    run(&b, 0, 1, 0, 0, false);
    assert_true(pick->id == 69 && pick->n_top == PICK_TOP && pick->n_nan == 1);
    assert_true(isinf(pick->lse) && picked[1] == 69 && picked[0] == 0);
    assert_true(pick->top[1].id == 9 && pick->top[2].id == 19); /* ties to the lower id */

    mask[0] = 1u << 5 | 1u << 8 | 1u << 18; /* NaN, 8 and 8 */
    run(&b, 0, 1, 0, 0, true);
    assert_true(pick->id == 8 && pick->n_top == 2 && pick->n_nan == 1 && picked[1] == 8);
    near((double)pick->lse, 8 + log(2), 1e-6);

    mask[0] = 0; /* nothing allowed */
    run(&b, 0, 1, 0, 0, true);
    assert_true(pick->id == 0 && pick->n_top == 0 && pick->n_nan == 0);
    assert_true(isinf(pick->lse) && pick->lse < 0);

    mask[2] = 1u << 3; /* token 67 alone, -inf */
    l[67] = -INFINITY;
    run(&b, 0, 1, 0, 0, true);
    assert_true(pick->id == 67 && pick->n_top == 1 && isinf(pick->lse) && pick->lse < 0);
    bench_close(&b);
}

/* ---- what compile refuses ---- */

static void test_refusals(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b);
    struct op_rms_norm n = {.x = tensor(&b, FORM_F32, ROWS_TOK, 8, 1),
                            .y = tensor(&b, FORM_F32, ROWS_TOK, 8, 1),
                            .w = {add_weight(&b, QT_F16, 1, 1, 8, NULL)},
                            .n = 8};
    program_op(b.p, OP_RMS_NORM, 0, "test")->rms_norm = n;
    b.p->n_weights = b.n_w;
    assert_int_equal(program_finish(b.p, NULL), 0);
    assert_int_equal(backend_ref.open(&b.dev, &(struct backend_config){0}, NULL), 0);
    assert_non_null(backend_ref.supports(b.dev, b.p, &b.p->ops[0])); /* a vector in F16 */
    struct exec *ex = NULL;
    assert_true(backend_ref.compile(b.dev, &ex, b.p, &b.bind, NULL) < 0); /* not loaded */
    assert_int_equal(backend_ref.weights_load(b.dev, b.w, b.n_w, NULL), 0);
    assert_int_equal(backend_ref.compile(b.dev, &ex, b.p, &b.bind, NULL), FATHOM_EUNSUPPORTED);
    b.w[0].type = QT_F32;
    assert_int_equal(backend_ref.compile(b.dev, &ex, b.p, &b.bind, NULL),
                     FATHOM_EINVAL); /* no buffers */
    const void *data = b.w[0].data;
    b.w[0].data = NULL;
    assert_true(backend_ref.weights_load(b.dev, b.w, b.n_w, NULL) < 0);
    b.w[0].data = data;
    assert_null(ex);
    bench_close(&b);
}

int main(void)
{
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_forms), cmocka_unit_test(test_linear_groups),
        cmocka_unit_test(test_hc),           cmocka_unit_test(test_experts),
        cmocka_unit_test(test_pick),         cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
