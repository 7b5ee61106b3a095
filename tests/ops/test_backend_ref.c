/* test_backend_ref.c - the reference backend op by op, each against another formulation of the
 * same mathematics: full sorts, one plain softmax, the streaming state of docs/model.md 7, matrix
 * formulas. Programs of one op are recorded by hand. The whole model is checked in
 * tests/golden; here are the cases that a well-behaved model never meets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"
#include "op/rows.h"
#include "quant/act.h"
#include "quant/encode.h"
#include "quant/formats.h"

enum { SEED = 20, T_MAX = 40, N_SLOTS = 3, MAX_CTX = 512, PAGE_TOKENS = 64, MAX_W = 8 };

/* ---- a program of a few ops, its memory, and one sequence ---- */
struct bench {
    struct program *p;
    struct op_weight w[MAX_W];
    float *wf[MAX_W]; /* decoded values */
    uint32_t n_w;
    struct device *dev;
    struct exec *ex;
    struct exec_bind bind;
    struct rng r;
};

static void bench_open(struct bench *b)
{
    memset(b, 0, sizeof *b);
    b->r.s = SEED;
    struct program_limits lim = {T_MAX, T_MAX, 3, N_SLOTS, MAX_CTX};
    b->p = program_new(&lim, NULL);
    assert_non_null(b->p);
    b->p->weights = b->w;
    b->p->page_tokens = PAGE_TOKENS;
    for (int c = 0; c < ROPE_CLASSES; c++) {
        b->p->rope[c].n = 2;
        b->p->rope[c].freq[0] = 1;
        b->p->rope[c].freq[1] = 0.01f;
    }
}

static void fill(struct bench *b, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = rng_sym(&b->r) * scale;
    }
}

/* A weight of an encodable type with random values (or the given ones). */
static uint16_t add_weight(struct bench *b, uint32_t type, uint32_t n_mat, uint32_t rows,
                           uint32_t cols, const float *values)
{
    size_t n = (size_t)n_mat * rows * cols, row_bytes = qformat_row_bytes(type, cols);
    float *x = mem_alloc(n, sizeof *x);
    unsigned char *data = mem_alloc((size_t)n_mat * rows, row_bytes);
    fill(b, x, n, 1);
    for (size_t i = 0; i < (size_t)n_mat * rows; i++) {
        quant_encode(type, values ? values + i * cols : x + i * cols, cols,
                     data + i * row_bytes);
        quant_decode(type, data + i * row_bytes, 0, cols, x + i * cols);
    }
    b->w[b->n_w] = (struct op_weight){.name = "w",
                                      .type = type,
                                      .cols = cols,
                                      .rows = rows,
                                      .n_mat = n_mat,
                                      .row_bytes = row_bytes,
                                      .bytes = n_mat * rows * row_bytes,
                                      .data = data};
    b->wf[b->n_w] = x;
    return (uint16_t)b->n_w++;
}

static struct opmat mat(const struct bench *b, uint16_t w, enum op_form act)
{
    return (struct opmat){w, (uint8_t)act, b->w[w].rows, b->w[w].cols};
}

static struct opnd tensor(struct bench *b, enum op_form form, enum row_count rows,
                          uint32_t cols, uint32_t k)
{
    return program_tensor(b->p, "t", 0, SPACE_IO, form, rows, cols, k);
}

static void bench_ready(struct bench *b)
{
    fathom_err err = {0};
    b->p->n_weights = b->n_w;
    if (program_finish(b->p, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    const struct backend *be = &backend_ref;
    assert_int_equal(be->open(&b->dev, &(struct backend_config){0}, &err), 0);
    assert_int_equal(be->weights_load(b->dev, b->w, b->n_w, &err), 0);
    be->buf_alloc(b->dev, &b->bind.arena, b->p->arena_bytes, BUF_ARENA, &err);
    be->buf_alloc(b->dev, &b->bind.state, b->p->slot_bytes * N_SLOTS, BUF_STATE, &err);
    be->buf_alloc(b->dev, &b->bind.page, b->p->page_bytes * 16, BUF_PAGE, &err);
    be->buf_alloc(b->dev, &b->bind.io, b->p->io_bytes, BUF_IO, &err);
    if (be->compile(b->dev, &b->ex, b->p, &b->bind, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static void bench_close(struct bench *b)
{
    const struct backend *be = &backend_ref;
    be->exec_free(b->dev, b->ex);
    be->buf_free(b->dev, b->bind.arena);
    be->buf_free(b->dev, b->bind.state);
    be->buf_free(b->dev, b->bind.page);
    be->buf_free(b->dev, b->bind.io);
    be->close(b->dev);
    program_free(b->p);
    for (uint32_t i = 0; i < b->n_w; i++) {
        mem_free(b->wf[i]);
        mem_free((void *)(uintptr_t)b->w[i].data);
    }
}

/* Row of an IO tensor. Operands are resolved by program_finish: take them from the op. */
static void *io_row(struct bench *b, const struct opnd *o, uint32_t row)
{
    return (char *)backend_ref.buf_map(b->dev, b->bind.io) + o->offset + row * o->row_bytes;
}

static void set_rows(struct bench *b, const struct opnd *o, uint32_t n, float scale)
{
    for (uint32_t t = 0; t < n; t++) {
        fill(b, io_row(b, o, t), o->cols, scale);
    }
}

/* Positions [n0, n0 + n) of a sequence in state slot 1, pages 3, 4 ...; logits for the last row. */
static void run(struct bench *b, uint32_t n0, uint32_t n, uint32_t start, uint32_t keep,
                bool use_mask)
{
    uint32_t tok[T_MAX] = {0}, tok_seq[T_MAX] = {0}, pages[MAX_CTX / PAGE_TOKENS], out = n - 1;
    for (uint32_t i = 0; i < MAX_CTX / PAGE_TOKENS; i++) {
        pages[i] = 3 + i;
    }
    for (uint32_t t = 0; t < n; t++) {
        tok[t] = n0 + t;
    }
    uint32_t n_page = MAX_CTX / PAGE_TOKENS;
    struct step_seq q = {1, n0, n, 0, start, keep, 0, n_page, 0, 1};
    struct step s = {n, 1, 1, n_page, &q, tok, tok_seq, pages, &out, use_mask};
    fathom_err err = {0};
    if (backend_ref.submit(b->dev, b->ex, &s, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(backend_ref.wait(b->dev, &err), 0);
}

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("%.9g, expected %.9g within %g", got, want, tolerance);
    }
}

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

/* HC_MIX, HC_NORM and LINEAR_HC against the formulas of model.md 5 on whole vectors. D = 40 leaves
 * a short last chunk. */
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

/* ---- compressor ---- */

enum { CN = 8, CSLOTS = 2 * 4 + 8, CALIGN = 8, CTOK = 100 };

struct compressor {
    struct bench b;
    struct op_compress o;
};

static void compressor_open(struct compressor *c, uint32_t k, uint32_t ratio)
{
    struct bench *b = &c->b;
    bench_open(b);
    uint64_t row = 2 * k * CN * 4, slots = k * ratio + 8;
    b->p->slot_bytes = slots * row + 2 * ratio * 2 * CN * 4;
    b->p->page_bytes = PAGE_TOKENS / ratio * CN * 4;
    struct op_compress o = {.x = tensor(b, FORM_F32, ROWS_TOK, 2 * k * CN, 1),
                            .ape = {add_weight(b, QT_F32, 1, ratio, k * CN, NULL)},
                            .norm = {add_weight(b, QT_F32, 1, 1, CN, NULL)},
                            .ring = program_plane(b->p, "ring", 0, SPACE_STATE, FORM_F32,
                                                  2 * k * CN, 0, row, slots * row),
                            .geom = row_geom_make(ROW_F32, CN, 4),
                            .ratio = ratio,
                            .k = k,
                            .slots = (uint32_t)slots,
                            .align = CALIGN,
                            .rows_per_page = PAGE_TOKENS / ratio,
                            .eps = 1e-3f};
    if (k == 2) {
        o.bound = program_plane(b->p, "bound", 0, SPACE_STATE, FORM_F32, 2 * CN, slots * row,
                                2 * CN * 4, 2 * ratio * 2 * CN * 4);
    }
    o.rows.codes = program_plane(b->p, "rows", 0, SPACE_PAGE, FORM_BYTES, CN * 4, 0, CN * 4,
                                 PAGE_TOKENS / ratio * CN * 4);
    program_op(b->p, OP_COMPRESS, 0, "test")->compress = o;
    bench_ready(b);
    c->o = b->p->ops[0].compress;
}

/* Inputs of position p, the same in every run. */
static void compressor_input(uint32_t p, uint32_t n, float *x)
{
    struct rng r = {p * 7919u + 1};
    for (uint32_t i = 0; i < n; i++) {
        x[i] = rng_sym(&r) * 3;
    }
}

static void compressor_feed(struct compressor *c, uint32_t n0, uint32_t n, uint32_t start,
                            uint32_t keep)
{
    for (uint32_t t = 0; t < n; t++) {
        compressor_input(n0 + t, c->o.x.cols, io_row(&c->b, &c->o.x, t));
    }
    run(&c->b, n0, n, start, keep, false);
}

static float *compressor_row(struct compressor *c, uint32_t i)
{
    char *pages = backend_ref.buf_map(c->b.dev, c->b.bind.page);
    uint32_t per = c->o.rows_per_page;
    return (float *)(void *)(pages + (3 + i / per) * c->b.p->page_bytes + i % per * CN * 4);
}

/* model.md 7 word for word: KV and SC slots with -inf, shifted when a group is complete. */
static void streaming(const struct compressor *c, float (*rows)[CN])
{
    uint32_t r = c->o.ratio, k = c->o.k, w = k * CN;
    static double kv[2 * 16][2 * CN], sc[2 * 16][2 * CN];
    for (uint32_t s = 0; s < k * r; s++) {
        for (uint32_t i = 0; i < w; i++) {
            kv[s][i] = 0;
            sc[s][i] = -INFINITY;
        }
    }
    for (uint32_t p = 0; p < CTOK; p++) {
        float x[4 * CN];
        compressor_input(p, 2 * w, x);
        uint32_t j = p % r, slot = k == 2 ? r + j : j;
        for (uint32_t i = 0; i < w; i++) {
            kv[slot][i] = (double)x[i];
            sc[slot][i] = (double)(x[w + i] + c->b.wf[0][j * w + i]);
        }
        if ((p + 1) % r != 0) {
            continue;
        }
        double row[CN], sq = 0;
        for (uint32_t i = 0; i < CN; i++) {
            double num = 0, den = 0;
            for (uint32_t s = 0; s < k * r; s++) {
                uint32_t at = k == 2 && s >= r ? CN + i : i;
                double e = exp(sc[s][at]); /* exp(-inf) = 0 */
                num += e * kv[s][at];
                den += e;
            }
            row[i] = num / den;
            sq += row[i] * row[i];
        }
        for (uint32_t i = 0; i < CN; i++) {
            row[i] *= (double)c->b.wf[1][i] / sqrt(sq / CN + (double)1e-3f);
        }
        for (uint32_t i = 0; i < 2; i++) {
            double phi = (double)((float)(p + 1 - r) * (i ? 0.01f : 1.0f));
            double x0 = row[4 + 2 * i], x1 = row[5 + 2 * i];
            row[4 + 2 * i] = x0 * cos(phi) - x1 * sin(phi);
            row[5 + 2 * i] = x0 * sin(phi) + x1 * cos(phi);
        }
        for (uint32_t i = 0; i < CN; i++) {
            rows[p / r][i] = (float)row[i];
        }
        for (uint32_t s = 0; s < r && k == 2; s++) {
            memcpy(kv[s], kv[r + s], sizeof kv[s]);
            memcpy(sc[s], sc[r + s], sizeof sc[s]);
        }
    }
}

static void test_compress(void **state)
{
    (void)state;
    const uint32_t kinds[2][2] = {{2, 4}, {1, 16}}, chunks[] = {1, 3, 8, 40};
    for (int kind = 0; kind < 2; kind++) {
        static float want[CTOK][CN], first[CTOK][CN];
        for (size_t v = 0; v < ARRAY_LEN(chunks); v++) {
            struct compressor c;
            compressor_open(&c, kinds[kind][0], kinds[kind][1]);
            streaming(&c, want);
            for (uint32_t p = 0; p < CTOK; p += chunks[v]) {
                compressor_feed(&c, p, MIN(chunks[v], CTOK - p), 0, 0);
            }
            for (uint32_t i = 0; i < CTOK / c.o.ratio; i++) {
                const float *row = compressor_row(&c, i);
                for (int j = 0; j < CN; j++) {
                    near((double)row[j], (double)want[i][j], 2e-6);
                }
                if (v == 0) {
                    memcpy(first[i], row, sizeof first[i]);
                }
                assert_memory_equal(first[i], row,
                                    sizeof first[i]); /* every chunking: same bits */
            }
            bench_close(&c.b);
        }
    }
}

/* Rows up to keep are not written; positions before start are left out; the ring and the boundary
 * copies hold what the definition says. */
static void test_compress_state(void **state)
{
    (void)state;
    struct compressor c;
    compressor_open(&c, 2, 4);
    compressor_feed(&c, 0, 21, 0, 12); /* rows 0..2 exist, 3 and 4 are written */
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(compressor_row(&c, i)[0] != 0, i >= 3);
    }
    const float *slot =
        (const float *)(const void *)((char *)backend_ref.buf_map(c.b.dev, c.b.bind.state) +
                                      c.b.p->slot_bytes);
    const float *bound = slot + CSLOTS * 4 * CN;
    for (uint32_t p = 5; p < 21; p++) { /* the last 16 positions */
        float x[4 * CN];
        compressor_input(p, 4 * CN, x);
        for (uint32_t i = 0; i < 4 * CN; i++) {
            float g = i < 2 * CN ? 0 : c.b.wf[0][p % 4 * 2 * CN + i - 2 * CN];
            assert_true(slot[p % CSLOTS * 4 * CN + i] == x[i] + g);
        }
    }
    for (uint32_t m = 8; m <= 16; m += 8) { /* the last two multiples of 8 */
        for (uint32_t j = 0; j < 4; j++) {
            float x[4 * CN];
            compressor_input(m - 4 + j, 4 * CN, x);
            const float *copy = bound + (m / 8 % 2 * 4 + j) * 2 * CN;
            for (uint32_t i = 0; i < CN; i++) {
                assert_true(copy[i] == x[i]);
                assert_true(copy[CN + i] == x[2 * CN + i] + c.b.wf[0][j * 2 * CN + i]);
            }
        }
    }
    bench_close(&c.b);

    /* Started at 8: group 2 has no previous group, whatever the ring holds (here NaN). The same
     * inputs at positions 0..3 give the same row, but for the rotation of the last 4 channels. */
    float without[4];
    compressor_open(&c, 2, 4);
    memset(backend_ref.buf_map(c.b.dev, c.b.bind.state), 0xFF, c.b.p->slot_bytes * N_SLOTS);
    compressor_feed(&c, 8, 4, 8, 0);
    memcpy(without, compressor_row(&c, 2), sizeof without);
    run(&c.b, 0, 4, 0, 0, false);
    assert_memory_equal(without, compressor_row(&c, 0), sizeof without);
    assert_true(isfinite(without[0]) && without[0] != 0);
    bench_close(&c.b);
}

/* ---- selection ---- */

static int by_score(const void *a, const void *b)
{
    const struct {
        double score;
        uint32_t i;
    } *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : x->i < y->i ? -1 : 1;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* INDEX_SELECT against a full sort. Rows repeat every 11, so there are many exact ties; one row is
 * NaN in effect (infinite times zero). */
static void test_index_select(void **state)
{
    (void)state;
    enum { HEADS = 3, IN = 32, K = 9, ROWS = 90, PER = PAGE_TOKENS / 4 };
    struct bench b;
    bench_open(&b);
    b.p->page_bytes = PER * IN * 4;
    struct op_index_select o = {.qi = tensor(&b, FORM_F32, ROWS_TOK, HEADS * IN, 1),
                                .iw = tensor(&b, FORM_F32, ROWS_TOK, HEADS, 1),
                                .sel = tensor(&b, FORM_I32, ROWS_TOK, K, 1),
                                .n_sel = tensor(&b, FORM_I32, ROWS_TOK, 1, 1),
                                .geom = row_geom_make(ROW_F32, IN, 4),
                                .heads = HEADS,
                                .n = IN,
                                .k_sel = K,
                                .ratio = 4,
                                .rows_per_page = PER,
                                .scale = 0.25f};
    o.rows.codes =
        program_plane(b.p, "rows", 0, SPACE_PAGE, FORM_BYTES, IN * 4, 0, IN * 4, PER * IN * 4);
    program_op(b.p, OP_INDEX_SELECT, 0, "test")->index_select = o;
    bench_ready(&b);
    o = b.p->ops[0].index_select;
    static float rows[ROWS][IN];
    for (uint32_t i = 0; i < ROWS; i++) {
        if (i < 11) {
            fill(&b, rows[i], IN, 1);
        } else {
            memcpy(rows[i], rows[i % 11], sizeof rows[i]);
        }
        if (i == 40) {
            rows[i][0] = NAN;
        }
        backend_ref.buf_write(b.dev, b.bind.page,
                              (3 + i / PER) * b.p->page_bytes + i % PER * IN * 4, rows[i],
                              sizeof rows[i]);
    }
    const uint32_t n0[] = {0, 20, 34, 36, 39, 330};
    for (size_t v = 0; v < ARRAY_LEN(n0); v++) {
        uint32_t n_tok = 8;
        set_rows(&b, &o.qi, n_tok, 1);
        set_rows(&b, &o.iw, n_tok, 1);
        run(&b, n0[v], n_tok, 0, 0, false);
        for (uint32_t t = 0; t < n_tok; t++) {
            uint32_t n_vis = (n0[v] + t + 1) / 4, want[ROWS];
            struct {
                double score;
                uint32_t i;
            } s[ROWS];
            const float *qi = io_row(&b, &o.qi, t), *iw = io_row(&b, &o.iw, t);
            for (uint32_t i = 0; i < n_vis; i++) {
                s[i].score = 0;
                s[i].i = i;
                for (int h = 0; h < HEADS; h++) {
                    double dot = 0;
                    for (int c = 0; c < IN; c++) {
                        dot += (double)qi[h * IN + c] * (double)rows[i % 11][c];
                    }
                    s[i].score += fmax(dot, 0) * (double)iw[h];
                }
                s[i].score = i == 40 ? -INFINITY : s[i].score;
            }
            qsort(s, n_vis, sizeof s[0], by_score);
            uint32_t n = MIN(n_vis, (uint32_t)K);
            for (uint32_t i = 0; i < n; i++) {
                want[i] = s[i].i;
            }
            qsort(want, n, sizeof want[0], by_number);
            assert_int_equal(*(uint32_t *)io_row(&b, &o.n_sel, t), n);
            assert_memory_equal(io_row(&b, &o.sel, t), want, n * sizeof want[0]);
        }
    }
    bench_close(&b);
}

/* ---- attention ---- */

/* ATTN with more than two splits of compressed rows against one plain softmax; then RING_STORE. */
static void test_attn(void **state)
{
    (void)state;
    enum { H = 2, AN = 68, W = 20, SLOTS = 32, RATIO = 1, N0 = 290, NT = 5, PER = PAGE_TOKENS };
    struct bench b;
    bench_open(&b);
    const float sinks[H] = {0.5f, 900}; /* one that takes all the weight */
    struct row_geom g = row_geom_make(ROW_FP8, AN, 4);
    uint64_t cb = g.code_bytes, sb = g.scale_bytes;
    b.p->slot_bytes = SLOTS * (cb + sb);
    b.p->page_bytes = PER * (cb + sb);
    struct op_attn o = {.q = tensor(&b, FORM_F32, ROWS_TOK, H * AN, 1),
                        .sink = {add_weight(&b, QT_F32, 1, 1, H, sinks)},
                        .o = tensor(&b, FORM_F32, ROWS_TOK, H * AN, 1),
                        .geom = g,
                        .heads = H,
                        .n = AN,
                        .window = W,
                        .slots = SLOTS,
                        .ratio = RATIO,
                        .rows_per_page = PER,
                        .scale = 0.3f};
    o.wrow.codes = tensor(&b, FORM_BYTES, ROWS_TOK, g.code_bytes, 1);
    o.wrow.scales = tensor(&b, FORM_BYTES, ROWS_TOK, g.scale_bytes, 1);
    o.ring.codes =
        program_plane(b.p, "rc", 0, SPACE_STATE, FORM_BYTES, g.code_bytes, 0, cb, SLOTS * cb);
    o.ring.scales = program_plane(b.p, "rs", 0, SPACE_STATE, FORM_BYTES, g.scale_bytes,
                                  SLOTS * cb, sb, SLOTS * sb);
    o.rows.codes =
        program_plane(b.p, "pc", 0, SPACE_PAGE, FORM_BYTES, g.code_bytes, 0, cb, PER * cb);
    o.rows.scales = program_plane(b.p, "ps", 0, SPACE_PAGE, FORM_BYTES, g.scale_bytes, PER * cb,
                                  sb, PER * sb);
    program_op(b.p, OP_ATTN, 0, "test")->attn = o;
    program_op(b.p, OP_RING_STORE, 0, "test")->ring_store =
        (struct op_ring_store){.wrow = o.wrow, .ring = o.ring, .slots = SLOTS};
    bench_ready(&b);
    o = b.p->ops[0].attn;
    set_rows(&b, &o.q, NT, 1);
    static float win[N0 + NT][AN], comp[N0 + NT][AN];
    unsigned char *st = backend_ref.buf_map(b.dev, b.bind.state),
                  *pg = backend_ref.buf_map(b.dev, b.bind.page);
    st += b.p->slot_bytes;
    for (uint32_t p = 0; p < N0 + NT; p++) {
        fill(&b, win[p], AN, 2);
        fill(&b, comp[p], AN, 2);
        void *codes = p >= N0 ? io_row(&b, &o.wrow.codes, p - N0) : st + p % SLOTS * cb;
        void *scales =
            p >= N0 ? io_row(&b, &o.wrow.scales, p - N0) : st + SLOTS * cb + p % SLOTS * sb;
        row_encode(&g, win[p], codes, scales);
        row_decode(&g, codes, scales, win[p]);
        unsigned char *page = pg + (3 + p / PER) * b.p->page_bytes;
        row_encode(&g, comp[p], page + p % PER * cb, page + PER * cb + p % PER * sb);
        row_decode(&g, page + p % PER * cb, page + PER * cb + p % PER * sb, comp[p]);
    }
    uint32_t start = N0 - 6; /* shortens the window of every token here */
    run(&b, N0, NT, start, 0, false);
    for (uint32_t t = 0; t < NT; t++) {
        uint32_t pos = N0 + t;
        for (uint32_t h = 0; h < H; h++) {
            const float *q = (float *)io_row(&b, &o.q, t) + h * AN;
            double shift = h == 1 ? 900 : 0; /* keeps exp in range beside the large sink */
            double den = exp((double)b.wf[0][h] - shift), acc[AN] = {0};
            for (uint32_t i = 0; i < pos + 1 - start + pos + 1; i++) {
                const float *row =
                    i < pos + 1 - start ? win[start + i] : comp[i - (pos + 1 - start)];
                double s = 0;
                for (int c = 0; c < AN; c++) {
                    s += (double)q[c] * (double)row[c];
                }
                double e = exp(s * (double)0.3f - shift);
                den += e;
                for (int c = 0; c < AN; c++) {
                    acc[c] += e * (double)row[c];
                }
            }
            for (uint32_t i = 0; i < 2; i++) { /* back by pos */
                double phi = (double)((float)pos * (i ? 0.01f : 1.0f));
                double x0 = acc[64 + 2 * i], x1 = acc[65 + 2 * i];
                acc[64 + 2 * i] = x0 * cos(phi) + x1 * sin(phi);
                acc[65 + 2 * i] = x1 * cos(phi) - x0 * sin(phi);
            }
            const float *out = (float *)io_row(&b, &o.o, t) + h * AN;
            for (int c = 0; c < AN; c++) {
                near((double)out[c], acc[c] / den, 1e-6);
            }
        }
        assert_memory_equal(st + pos % SLOTS * cb, io_row(&b, &o.wrow.codes, t), cb);
        assert_memory_equal(st + SLOTS * cb + pos % SLOTS * sb, io_row(&b, &o.wrow.scales, t),
                            sb);
    }
    bench_close(&b);
}

/* ---- experts ---- */

/* ROUTE with ties, a NaN logit and a bias; MOE_UP and MOE_DOWN per token without grouping. h exists
 * in A8 form only. */
static void test_experts(void **state)
{
    (void)state;
    enum { E = 6, K = 3, D = 32, F = 64, HC = 2, NT = 7 };
    struct bench b;
    bench_open(&b);
    const float bias[E] = {0, 0, 0.5f, 0, 0, -0.5f};
    uint16_t wb = add_weight(&b, QT_F32, 1, 1, E, bias);
    uint16_t w1 = add_weight(&b, QT_Q8_0, E, F, D, NULL),
             w3 = add_weight(&b, QT_F16, E, F, D, NULL);
    uint16_t w2 = add_weight(&b, QT_Q8_0, E, D, F, NULL),
             ws = add_weight(&b, QT_F32, 1, D, F, NULL);
    struct op_route r = {.z = tensor(&b, FORM_F32, ROWS_TOK, E, 1),
                         .bias = {wb},
                         .table = {WEIGHT_NONE},
                         .idx = tensor(&b, FORM_I32, ROWS_TOK, K, 1),
                         .wt = tensor(&b, FORM_F32, ROWS_TOK, K, 1),
                         .off = tensor(&b, FORM_I32, ROWS_ONE, E + 1, 1),
                         .pair = tensor(&b, FORM_I32, ROWS_ONE, T_MAX * K, 1),
                         .n_expert = E,
                         .k = K,
                         .scale = 1.5f};
    program_op(b.p, OP_ROUTE, 0, "test")->route = r;
    struct op_moe_up u = {.x = tensor(&b, FORM_F32, ROWS_TOK, D, 1),
                          .w1 = mat(&b, w1, FORM_F32),
                          .w3 = mat(&b, w3, FORM_F32),
                          .idx = r.idx,
                          .wt = r.wt,
                          .off = r.off,
                          .pair = r.pair,
                          .h_act = tensor(&b, FORM_A8, ROWS_PAIR, F, K),
                          .n_expert = E,
                          .k = K,
                          .f = F,
                          .lim = 0.75f};
    program_op(b.p, OP_MOE_UP, 0, "test")->moe_up = u;
    struct op_moe_down d = {.h_act = u.h_act,
                            .hs = tensor(&b, FORM_F32, ROWS_TOK, F, 1),
                            .w2 = mat(&b, w2, FORM_A8),
                            .shared = mat(&b, ws, FORM_F32),
                            .idx = r.idx,
                            .off = r.off,
                            .pair = r.pair,
                            .hc_x = tensor(&b, FORM_F32, ROWS_TOK, HC * D, 1),
                            .post = tensor(&b, FORM_F32, ROWS_TOK, HC, 1),
                            .comb = tensor(&b, FORM_F32, ROWS_TOK, HC * HC, 1),
                            .n_expert = E,
                            .k = K,
                            .hc = HC,
                            .d = D};
    program_op(b.p, OP_MOE_DOWN, 0, "test")->moe_down = d;
    bench_ready(&b);
    r = b.p->ops[0].route;
    u = b.p->ops[1].moe_up;
    d = b.p->ops[2].moe_down;
    set_rows(&b, &r.z, NT, 4);
    set_rows(&b, &u.x, NT, 1);
    set_rows(&b, &d.hs, NT, 1);
    set_rows(&b, &d.post, NT, 1); /* streams and comb stay zero: X[k] = post[k] * y */
    float *z0 = io_row(&b, &r.z, 0), *z1 = io_row(&b, &r.z, 1);
    for (int e = 0; e < E; e++) {
        z0[e] = 1;                 /* ties: 2 by its bias, then 0 and 1 */
        z1[e] = e == 2 ? NAN : 30; /* 2 is out; 0, 1, 3 */
    }
    run(&b, 0, NT, 0, 0, false);

    const uint32_t tied[2][K] = {{0, 1, 2}, {0, 1, 3}};
    assert_memory_equal(io_row(&b, &r.idx, 0), tied[0], sizeof tied[0]);
    assert_memory_equal(io_row(&b, &r.idx, 1), tied[1], sizeof tied[1]);
    const uint32_t *off = io_row(&b, &r.off, 0), *pair = io_row(&b, &r.pair, 0);
    assert_int_equal(off[0], 0);
    assert_int_equal(off[E], NT * K);
    for (uint32_t e = 0; e < E; e++) {
        for (uint32_t i = off[e]; i < off[e + 1]; i++) {
            const uint32_t *idx = io_row(&b, &r.idx, pair[i] / K);
            assert_int_equal(idx[pair[i] % K], e);
            assert_true(i == off[e] || pair[i - 1] < pair[i]);
        }
    }
    for (uint32_t t = 0; t < NT; t++) {
        const uint32_t *idx = io_row(&b, &r.idx, t);
        const float *wt = io_row(&b, &r.wt, t), *z = io_row(&b, &r.z, t);
        const float *x = io_row(&b, &u.x, t), *hs = io_row(&b, &d.hs, t);
        double sum = 0, y[D];
        for (int s = 0; s < K; s++) {
            sum += sqrt(log1p(exp((double)z[idx[s]])));
            assert_true(s == 0 || idx[s - 1] < idx[s]);
        }
        for (int i = 0; i < D; i++) {
            y[i] = 0;
            for (int f = 0; f < F; f++) {
                y[i] += (double)b.wf[ws][i * F + f] * (double)hs[f];
            }
        }
        for (int s = 0; s < K; s++) {
            double w = sqrt(log1p(exp((double)z[idx[s]]))) / sum * 1.5;
            near((double)wt[s], w, 1e-6);
            float h[F];
            for (int f = 0; f < F; f++) {
                double g = 0, up = 0;
                for (int i = 0; i < D; i++) {
                    size_t at = ((size_t)idx[s] * F + f) * D + i;
                    g += (double)b.wf[w1][at] * (double)x[i];
                    up += (double)b.wf[w3][at] * (double)x[i];
                }
                g = fmin(g, 0.75);
                up = fmax(fmin(up, 0.75), -0.75);
                h[f] = (float)(g / (1 + exp(-g)) * up * (double)wt[s]);
            }
            unsigned char *a8 = io_row(&b, &u.h_act, t * K + s), want[F * 10 / 8];
            act8_encode(h, 0, F, F, want);
            for (int f = 0; f < F;
                 f++) { /* a code may flip where double and float rounding part */
                assert_true(abs(act8_q(a8)[f] - act8_q(want)[f]) <= 1);
                double v = (double)act8_d(a8, F)[f / 32] * act8_q(a8)[f];
                for (int i = 0; i < D; i++) {
                    y[i] += (double)b.wf[w2][((size_t)idx[s] * D + i) * F + f] * v;
                }
            }
        }
        const float *xnew = io_row(&b, &d.hc_x, t), *post = io_row(&b, &d.post, t);
        for (int k = 0; k < HC; k++) {
            for (int i = 0; i < D; i++) {
                near((double)xnew[k * D + i], (double)post[k] * y[i], 2e-6);
            }
        }
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
        cmocka_unit_test(test_linear_forms),
        cmocka_unit_test(test_linear_groups),
        cmocka_unit_test(test_hc),
        cmocka_unit_test(test_compress),
        cmocka_unit_test(test_compress_state),
        cmocka_unit_test(test_index_select),
        cmocka_unit_test(test_attn),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_pick),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
