/* bench_backend_attn.c - the ops between the weight products, on the CPU backend: indexer,
 * attention, compressor, norms, rows, hyper-connection coefficients, routing. One program holds
 * one op of each kind with the sizes of V4 Flash (a layer of ratio 4, and attention of a layer
 * of ratio 128) over random rows; steps of 1 and of 64 tokens run at several depths, and every
 * op's typical time stands next to its share of the F32 fma peak or its bytes per second.
 *
 *     bench_backend_attn [threads [tier mask]]
 *
 * Not a test: prints, checks nothing. Read next: backend/cpu/index.c, backend/cpu/attn.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/kern.h"
#include "backend/cpu/peak.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "base/team.h"
#include "op/rows.h"
#include "quant/formats.h"

enum {
    HEADS = 64,
    DIM = 512,
    ROPE = 64,
    IHEADS = 64,
    IDIM = 128,
    TOP = 512,
    WINDOW = 128,
    SLOTS = 136,
    D = 4096,
    HC = 4,
    Q_LORA = 1024,
    EXPERTS = 256,
    EXPERTS_USED = 6,
    PAGE_TOKENS = 256,
    DEPTH_MAX = 1 << 20,
    TOKENS = 64,
    N_PAGES = DEPTH_MAX / PAGE_TOKENS + 1,
    MAX_OPS = 16,
    MAX_STEPS = 200
};
static const uint32_t depths[] = {2048, 32768, 131072, DEPTH_MAX};

static struct program *prog;
static struct op_weight weights[16];
static uint32_t n_weights;
static struct rng rng = {11};
static uint64_t state_at, page_at;

static void die(const char *what, const fathom_err *err)
{
    fprintf(stderr, "%s: %s\n", what, err->msg);
    exit(1);
}

static struct opvec vec(uint32_t n, float scale)
{
    float *x = mem_alloc(n, sizeof *x);
    for (uint32_t i = 0; x && i < n; i++) {
        x[i] = scale * rng_sym(&rng);
    }
    weights[n_weights] = (struct op_weight){.name = "w",
                                            .type = QT_F32,
                                            .cols = n,
                                            .rows = 1,
                                            .n_mat = 1,
                                            .row_bytes = n * sizeof *x,
                                            .bytes = n * sizeof *x,
                                            .data = x};
    return (struct opvec){(uint16_t)n_weights++};
}

static struct opnd input(const char *name, uint32_t cols)
{
    return program_tensor(prog, name, 0, SPACE_IO, FORM_F32, ROWS_TOK, cols, 1);
}

static struct opnd arena(const char *name, enum op_form form, uint32_t cols)
{
    return program_tensor(prog, name, 0, SPACE_ARENA, form, ROWS_TOK, cols, 1);
}

static struct opnd plane(enum op_space space, enum op_form form, uint32_t cols, uint32_t rows)
{
    uint64_t row_bytes = form == FORM_BYTES ? cols : cols * 4ull;
    uint64_t *at = space == SPACE_STATE ? &state_at : &page_at;
    struct opnd o =
        program_plane(prog, "plane", 0, space, form, cols, *at, row_bytes, row_bytes * rows);
    *at += (row_bytes * rows + 63) / 64 * 64;
    return o;
}

static struct opnd_rows rows_of(enum op_space space, const struct row_geom *g, uint32_t rows)
{
    struct opnd_rows r;
    r.codes = plane(space, FORM_BYTES, g->code_bytes, rows);
    r.scales = plane(space, FORM_BYTES, g->scale_bytes, rows);
    return r;
}

/* ---- recording ---- */

struct layer {
    struct row_geom row, index_row;
    struct opnd_rows wrow, ring, rows, far_rows, index_rows;
    struct opnd q, qi, sel, n_sel;
};

static void record_compress(const struct opnd_rows *rows, const struct row_geom *g)
{
    struct op_compress o = {
        .rows = *rows, .geom = *g, .ratio = 4, .k = 2, .slots = 16, .align = PAGE_TOKENS};
    o.rows_per_page = PAGE_TOKENS / 4;
    o.rope = ROPE_YARN;
    o.eps = 1e-6f;
    o.x = input("cu", 4 * g->n);
    o.ape = vec(8 * g->n, 0.5f);
    o.norm = vec(g->n, 1);
    o.ring = plane(SPACE_STATE, FORM_F32, 4 * g->n, 16);
    o.bound = plane(SPACE_STATE, FORM_F32, 2 * g->n, 8);
    program_op(prog, OP_COMPRESS, 0, g->kind == ROW_FP4 ? "index" : "main")->compress = o;
}

static void record_index(struct layer *l)
{
    struct op_head_finish f = {.q = l->qi,
                               .heads = IHEADS,
                               .n = IDIM,
                               .rope_n = ROPE,
                               .rope = ROPE_YARN,
                               .index = true,
                               .fp4 = true,
                               .eps = 1e-6f};
    program_op(prog, OP_HEAD_FINISH, 0, "index")->head_finish = f;
    l->sel = arena("sel", FORM_I32, TOP);
    l->n_sel = arena("n_sel", FORM_I32, 1);
    struct op_index_select o = {.qi = l->qi,
                                .iw = input("iw", IHEADS),
                                .rows = l->index_rows,
                                .sel = l->sel,
                                .n_sel = l->n_sel,
                                .geom = l->index_row,
                                .heads = IHEADS,
                                .n = IDIM,
                                .k_sel = TOP,
                                .ratio = 4,
                                .rows_per_page = PAGE_TOKENS / 4,
                                .scale = 0.011f};
    program_op(prog, OP_INDEX_SELECT, 0, "index")->index_select = o;
}

static void record_attn(const struct layer *l, uint32_t ratio)
{
    struct op_attn o = {.q = l->q,
                        .wrow = l->wrow,
                        .ring = l->ring,
                        .rows = ratio == 4 ? l->rows : l->far_rows,
                        .geom = l->row,
                        .heads = HEADS,
                        .n = DIM,
                        .window = WINDOW,
                        .slots = SLOTS,
                        .ratio = ratio,
                        .rows_per_page = PAGE_TOKENS / ratio,
                        .rope = ROPE_YARN,
                        .scale = 0.044f};
    if (ratio == 4) {
        o.sel = l->sel;
        o.n_sel = l->n_sel;
    }
    o.sink = vec(HEADS, 1);
    o.o = arena("o", FORM_F32, HEADS * DIM);
    o.o_act = arena("o_act", FORM_A8, HEADS * DIM);
    program_op(prog, OP_ATTN, 0, ratio == 4 ? "ratio 4" : "ratio 128")->attn = o;
}

static void record_small(const struct layer *l)
{
    program_op(prog, OP_RMS_NORM, 0, "")->rms_norm =
        (struct op_rms_norm){.x = input("x", Q_LORA),
                             .y = arena("y", FORM_F32, Q_LORA),
                             .y_act = arena("y_act", FORM_A8, Q_LORA),
                             .w = vec(Q_LORA, 1),
                             .n = Q_LORA,
                             .eps = 1e-6f};
    program_op(prog, OP_KV_ROW, 0, "")->kv_row = (struct op_kv_row){.x = input("kv", DIM),
                                                                    .w = vec(DIM, 1),
                                                                    .wrow = l->wrow,
                                                                    .geom = l->row,
                                                                    .rope = ROPE_YARN,
                                                                    .eps = 1e-6f};
    struct op_hc_norm h = {.hc = HC, .d = D, .nc = D / 32, .iters = 20};
    h.x = input("hx", HC * D);
    h.mixp = input("mixp", h.nc * ((2 + HC) * HC + 1));
    h.scale = vec(3, 1);
    h.base = vec((2 + HC) * HC, 1);
    h.norm = vec(D, 1);
    h.xn = arena("xn", FORM_F32, D);
    h.xn_act = arena("xn_act", FORM_A8, D);
    h.post = arena("post", FORM_F32, HC);
    h.comb = arena("comb", FORM_F32, HC * HC);
    h.eps = h.hc_eps = 1e-6f;
    program_op(prog, OP_HC_NORM, 0, "")->hc_norm = h;
    struct op_route r = {.z = input("z", EXPERTS), .table = {WEIGHT_NONE}};
    r.bias = vec(EXPERTS, 0.1f);
    r.idx = arena("idx", FORM_I32, EXPERTS_USED);
    r.wt = arena("wt", FORM_F32, EXPERTS_USED);
    r.off = program_tensor(prog, "off", 0, SPACE_ARENA, FORM_I32, ROWS_ONE, EXPERTS + 1, 1);
    r.pair = program_tensor(prog, "pair", 0, SPACE_ARENA, FORM_I32, ROWS_ONE,
                            TOKENS * EXPERTS_USED, 1);
    r.n_expert = EXPERTS;
    r.k = EXPERTS_USED;
    r.scale = 1.5f;
    program_op(prog, OP_ROUTE, 0, "")->route = r;
    struct op_head_finish f = {.q = l->q,
                               .heads = HEADS,
                               .n = DIM,
                               .rope_n = ROPE,
                               .rope = ROPE_YARN,
                               .norm = true,
                               .eps = 1e-6f};
    program_op(prog, OP_HEAD_FINISH, 0, "q")->head_finish = f;
}

static void record(void)
{
    fathom_err err = {0};
    struct program_limits lim = {TOKENS, 1, 1, 1, DEPTH_MAX + TOKENS, 0};
    prog = program_new(&lim, &err);
    if (!prog) {
        die("program", &err);
    }
    for (int c = 0; c < ROPE_CLASSES; c++) {
        prog->rope[c].n = ROPE / 2;
        for (uint32_t i = 0; i < ROPE / 2; i++) {
            prog->rope[c].freq[i] = (float)pow(10000.0, -(double)i / (ROPE / 2));
        }
    }
    struct layer l = {.row = row_geom_make(ROW_FP8, DIM, ROPE),
                      .index_row = row_geom_make(ROW_FP4, IDIM, ROPE)};
    l.wrow.codes = arena("wrow", FORM_BYTES, l.row.code_bytes);
    l.wrow.scales = arena("wrow", FORM_BYTES, l.row.scale_bytes);
    l.ring = rows_of(SPACE_STATE, &l.row, SLOTS);
    l.rows = rows_of(SPACE_PAGE, &l.row, PAGE_TOKENS / 4);
    l.index_rows = rows_of(SPACE_PAGE, &l.index_row, PAGE_TOKENS / 4);
    l.far_rows = rows_of(SPACE_PAGE, &l.row, PAGE_TOKENS / 128);
    l.q = input("q", HEADS * DIM);
    l.qi = input("qi", IHEADS * IDIM);
    record_small(&l);
    record_compress(&l.rows, &l.row);
    record_compress(&l.index_rows, &l.index_row);
    record_index(&l);
    record_attn(&l, 4);
    record_attn(&l, 128);
    prog->slot_bytes = state_at;
    prog->page_bytes = page_at;
    prog->page_tokens = PAGE_TOKENS;
    prog->weights = weights;
    prog->n_weights = n_weights;
    if (program_finish(prog, &err) != 0) {
        die("program", &err);
    }
}

/* ---- memory ---- */

/* Bytes that are numbers in every form: E4M3 codes of middling size (as bf16 values, too), all
 * E2M1 nibbles; scales 1/2 and 1. */
static void fill_plane(unsigned char *base, const struct opnd_rows *r, uint32_t n, bool fp4)
{
    for (uint64_t i = 0; i < (uint64_t)n * r->codes.cols; i++) {
        uint64_t x = rng_u64(&rng);
        base[r->codes.offset + i] = (unsigned char)(fp4 ? x : (x & 0x9F) | 0x20);
    }
    for (uint64_t i = 0; i < (uint64_t)n * r->scales.cols; i++) {
        base[r->scales.offset + i] = (unsigned char)(126 + rng_below(&rng, 2));
    }
}

static void fill_memory(unsigned char *state, unsigned char *page, unsigned char *io)
{
    for (uint64_t i = 0; i < state_at / 4; i++) {
        float x = rng_sym(&rng);
        memcpy(state + 4 * i, &x, 4);
    }
    for (uint64_t i = 0; i < prog->io_bytes / 4; i++) {
        float x = rng_sym(&rng);
        memcpy(io + 4 * i, &x, 4);
    }
    for (uint32_t o = 0; o < prog->n_ops; o++) {
        const struct op *op = &prog->ops[o];
        for (uint32_t p = 0; p < N_PAGES; p++) {
            unsigned char *at = page + (uint64_t)p * prog->page_bytes;
            if (op->kind == OP_INDEX_SELECT) {
                fill_plane(at, &op->index_select.rows, PAGE_TOKENS / 4, true);
            } else if (op->kind == OP_ATTN) {
                fill_plane(at, &op->attn.rows, op->attn.rows_per_page, false);
            }
        }
        if (op->kind == OP_ATTN) {
            fill_plane(state, &op->attn.ring, SLOTS, false);
        }
    }
}

/* ---- measuring ---- */

static double times[MAX_OPS][MAX_STEPS];
static int n_times[MAX_OPS];

static void on_op(void *user, const struct op *op, const struct step *s, double seconds)
{
    (void)user;
    (void)s;
    size_t i = (size_t)(op - prog->ops);
    if (n_times[i] < MAX_STEPS) {
        times[i][n_times[i]++] = seconds;
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The time below which a quarter of an op's runs are: the machine's other work left out, but
 * not the luck of a worker that came late. */
static double typical(uint32_t i)
{
    qsort(times[i], (size_t)n_times[i], sizeof times[i][0], compare);
    return times[i][n_times[i] / 4];
}

/* Multiplies and adds of one token at position pos; 0: not the measure of this op. */
static double flops(const struct op *op, uint32_t pos)
{
    if (op->kind == OP_INDEX_SELECT) {
        return pos / 4 > TOP ? 2.0 * IHEADS * IDIM * (pos / 4) : 0;
    }
    if (op->kind == OP_ATTN) {
        uint32_t far = op->attn.ratio == 4 ? MIN(pos / 4, (uint32_t)TOP) : pos / 128;
        return 4.0 * HEADS * DIM * (WINDOW + far);
    }
    return 0;
}

static void peak_round(void *ctx, uint32_t rank)
{
    (void)rank;
    volatile float keep = ((const struct cpu_peak *)ctx)->f32(1 << 20);
    (void)keep;
}

/* GFLOP/s of fma loops on all threads, at this moment. */
static double peak_now(struct team *team, struct cpu_peak *peak)
{
    double t0 = clock_now();
    team_run(team, peak_round, peak);
    return team_size(team) * 0x1p20 * peak->f32_ops / (clock_now() - t0) / 1e9;
}

static void print_ops(uint32_t depth, uint32_t n_tok, double peak)
{
    printf("depth %u, %u token%s, peak %.0f GFLOP/s: us per token", depth, n_tok,
           n_tok > 1 ? "s" : "", peak);
    for (uint32_t i = 0; i < prog->n_ops; i++) {
        const struct op *op = &prog->ops[i];
        double seconds = typical(i);
        double f = flops(op, depth + n_tok / 2) * n_tok / seconds / 1e9;
        printf("%s%s%s%s %.1f", i ? ", " : "\n  ", op_name(op->kind), op->role[0] ? " " : "",
               op->role, seconds / n_tok * 1e6);
        if (f > 0) {
            printf(" (%.0f GFLOP/s, %.0f%%)", f, 100 * f / peak);
        }
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    fathom_err err = {0};
    const struct backend *be = &backend_cpu;
    struct backend_config cfg = {.n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 0,
                                 .cpu_mask = argc > 2 ? (uint32_t)atoi(argv[2]) : 0};
    struct device *dev;
    struct exec *exec;
    struct exec_bind b;
    record();
    if (be->open(&dev, &cfg, &err) || be->weights_load(dev, weights, n_weights, &err) ||
        be->buf_alloc(dev, &b.arena, prog->arena_bytes, BUF_ARENA, &err) ||
        be->buf_alloc(dev, &b.state, prog->slot_bytes, BUF_STATE, &err) ||
        be->buf_alloc(dev, &b.page, prog->page_bytes * N_PAGES, BUF_PAGE, &err) ||
        be->buf_alloc(dev, &b.io, prog->io_bytes, BUF_IO, &err) ||
        be->compile(dev, &exec, prog, &b, &err)) {
        die("backend", &err);
    }
    fill_memory(be->buf_map(dev, b.state), be->buf_map(dev, b.page), be->buf_map(dev, b.io));
    uint32_t threads = cfg.n_threads ? cfg.n_threads : team_cores();
    struct cpu_kern kern;
    struct cpu_peak peak;
    kern_select(&kern, cfg.cpu_mask);
    peak_select(&peak, cfg.cpu_mask);
    struct team *team;
    if (team_create(&team, threads, false, &err)) {
        die("team", &err);
    }
    printf("%s, %u threads\n", kern.name, threads);
    be->trace(dev, &(struct backend_trace){.kinds = UINT64_MAX, .fn = on_op});
    static uint32_t zeros[TOKENS], pages[N_PAGES];
    for (uint32_t i = 0; i < N_PAGES; i++) {
        pages[i] = i;
    }
    for (uint32_t n_tok = 1; n_tok <= TOKENS; n_tok += TOKENS - 1) {
        for (size_t i = 0; i < ARRAY_LEN(depths); i++) {
            if (n_tok > 1 && depths[i] > 131072) {
                continue; /* half a minute on slow tiers */
            }
            struct step_seq q = {.n0 = depths[i] - 1, .n_tok = n_tok, .n_page = N_PAGES};
            struct step s = {.n_tok = n_tok,
                             .n_seq = 1,
                             .n_page = N_PAGES,
                             .seq = &q,
                             .tok = zeros,
                             .tok_seq = zeros,
                             .pages = pages};
            memset(n_times, 0, sizeof n_times);
            double gflops = peak_now(team, &peak), t0 = clock_now();
            for (int r = 0; r < 3 || (clock_now() - t0 < 0.5 && r < MAX_STEPS); r++) {
                if (be->submit(dev, exec, &s, &err) || be->wait(dev, &err)) {
                    die("step", &err);
                }
            }
            print_ops(depths[i], n_tok, (gflops + peak_now(team, &peak)) / 2);
        }
    }
    return 0;
}
