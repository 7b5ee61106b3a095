/* test_backend_ref_rows.c - the reference ops that read and write KV state: COMPRESS against
 * the streaming state of docs/model.md 7, INDEX_SELECT against a full sort, ATTN against one
 * plain softmax, and exactly what rings, boundary copies and pages hold afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ops/ref_bench.h"

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

/* Rows up to keep are not written; positions before start are left out; the ring and the
 * boundary copies hold what the definition says. */
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

/* INDEX_SELECT against a full sort. Rows repeat every 11, so there are many exact ties; one row
 * is NaN in effect (infinite times zero). */
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

int main(void)
{
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compress),
        cmocka_unit_test(test_compress_state),
        cmocka_unit_test(test_index_select),
        cmocka_unit_test(test_attn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
