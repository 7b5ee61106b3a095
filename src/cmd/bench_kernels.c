/* bench_kernels.c - `fathom bench --kernels`: the CPU backend's products against the machine.
 *
 * A cell is one weight format on one instruction-set tier with one number of threads. What runs
 * is a recorded program of one LINEAR op, compiled by the backend, so what is measured is what
 * a model's step runs. Decode: 1 token, rows of 4096 columns streamed from memory, in GB/s of
 * weight bytes, each pass next to a pass of plain reads over the same bytes, because the
 * machine's own speed drifts. Prefill: 64 and 512 tokens on rows of 4096 columns (4096 rows;
 * fewer on slow tiers), in GFLOP/s.
 * Read next: bench_machine.c. */
#include "cmd/bench.h"

#include <stdio.h>

#include "backend/backend.h"
#include "backend/cpu/kern.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "factory/random_rows.h"
#include "json/json.h"
#include "quant/act.h"
#include "quant/formats.h"

enum {
    COLS = 4096,
    PREFILL_ROWS = 4096,
    MAX_TOKENS = 512,
    MAX_THREAD_COUNTS = 10,
    N_TIERS = 8,
    CACHED_BYTES = 640 << 10 /* per worker: 32 rows of F32 and more */
};
static const double PASS_SECONDS = 0.4; /* of repeating one measurement */
static const uint32_t PREFILL[2] = {64, MAX_TOKENS};

/* ---- one LINEAR op, compiled ---- */

struct product {
    const struct backend *be;
    struct device *dev;
    struct program *prog;
    struct exec *exec;
    struct buffer *arena;
    struct step_seq seq;
    struct step step;
    uint32_t zeros[MAX_TOKENS]; /* token ids, and the sequence of each token */
};

static void product_close(struct product *x)
{
    if (x->exec) {
        x->be->exec_free(x->dev, x->exec);
    }
    if (x->arena) {
        x->be->buf_free(x->dev, x->arena);
    }
    if (x->dev) {
        x->be->weights_free(x->dev);
        x->be->close(x->dev);
    }
    program_free(x->prog);
}

/* Random inputs in both forms. */
static int fill_input(struct product *x, const struct opnd *f32, const struct opnd *a8,
                      fathom_err *err)
{
    float *row = mem_alloc(COLS, sizeof *row);
    void *act = mem_alloc_aligned(64, act8_row_bytes(COLS));
    struct rng r = {7};
    int rc = row && act ? 0 : err_nomem(err, "input rows", COLS * sizeof *row);
    for (uint32_t t = 0; t < x->step.n_tok && rc == 0; t++) {
        for (uint32_t i = 0; i < COLS; i++) {
            row[i] = rng_sym(&r);
        }
        act8_encode(row, 0, COLS, COLS, act);
        x->be->buf_write(x->dev, x->arena, f32->offset + t * f32->row_bytes, row,
                         COLS * sizeof *row);
        x->be->buf_write(x->dev, x->arena, a8->offset + t * a8->row_bytes, act,
                         act8_row_bytes(COLS));
    }
    mem_free(row);
    mem_free(act);
    return rc;
}

static int product_open(struct product *x, const struct op_weight *w, uint32_t n_tok,
                        uint32_t mask, uint32_t threads, fathom_err *err)
{
    *x = (struct product){.be = &backend_cpu};
    struct backend_config cfg = {.n_threads = threads, .cpu_mask = mask};
    struct program_limits lim = {
        .t_max = n_tok, .out_max = 1, .seq_max = 1, .n_slots = 1, .max_ctx = n_tok};
    int rc = x->be->open(&x->dev, &cfg, err);
    x->prog = rc ? NULL : program_new(&lim, err);
    if (!x->prog) {
        return FATHOM_ENOMEM;
    }
    struct program *p = x->prog;
    bool block = qformat(w->type)->cls == QC_BLOCK;
    struct opnd f32 = program_tensor(p, "x", 0, SPACE_ARENA, FORM_F32, ROWS_TOK, COLS, 1);
    struct opnd a8 = program_tensor(p, "x_act", 0, SPACE_ARENA, FORM_A8, ROWS_TOK, COLS, 1);
    struct opnd y = program_tensor(p, "y", 0, SPACE_ARENA, FORM_F32, ROWS_TOK, w->rows, 1);
    struct op_linear *o = &program_op(p, OP_LINEAR, 0, "bench")->linear;
    o->x = f32;
    o->x_act = a8;
    o->n_part = o->groups = 1;
    o->part[0].w = (struct opmat){
        .w = 0, .act = block ? FORM_A8 : FORM_F32, .rows = w->rows, .cols = w->cols};
    o->part[0].y = y;
    p->weights = w;
    p->n_weights = 1;
    rc = program_finish(p, err);
    rc = rc ? rc : x->be->weights_load(x->dev, w, 1, err);
    rc = rc ? rc : x->be->buf_alloc(x->dev, &x->arena, p->arena_bytes, BUF_ARENA, err);
    struct exec_bind bind = {.arena = x->arena};
    rc = rc ? rc : x->be->compile(x->dev, &x->exec, p, &bind, err);
    if (rc != 0) {
        return rc;
    }
    x->seq = (struct step_seq){.n_tok = n_tok};
    x->step = (struct step){
        .n_tok = n_tok, .n_seq = 1, .seq = &x->seq, .tok = x->zeros, .tok_seq = x->zeros};
    o = &p->ops[0].linear; /* the operands have their places now */
    return fill_input(x, &o->x, &o->x_act, err);
}

/* Seconds of one step. */
static int product_pass(struct product *x, double *seconds, fathom_err *err)
{
    double t0 = clock_now();
    int rc = x->be->submit(x->dev, x->exec, &x->step, err);
    rc = rc ? rc : x->be->wait(x->dev, err);
    *seconds = clock_now() - t0;
    return rc;
}

/* ---- a cell ---- */

struct cell {
    const char *tier;
    uint32_t threads, type;
    double gbs, plain_gbs, read_gbs, gflops[2]; /* plain: of the plain read loop; read: best */
    double cached_gbs;                          /* what the arithmetic allows */
};

static int measure_decode(struct cell *c, const struct op_weight *w, uint32_t mask,
                          fathom_err *err)
{
    struct product x;
    struct bench_reader r;
    double s, spent = 0;
    int rc = product_open(&x, w, 1, mask, c->threads, err);
    rc = rc ? rc : bench_reader_open(&r, w->data, (size_t)w->bytes, c->threads, err);
    if (rc == 0) {
        for (int i = 0; rc == 0 && (i < 3 || spent < PASS_SECONDS) && spent < 2; i++) {
            double plain = bench_read_pass(&r, BENCH_PLAIN);
            double streams = bench_read_pass(&r, BENCH_STREAMS);
            c->plain_gbs = MAX(c->plain_gbs, plain);
            c->read_gbs = MAX(c->read_gbs, MAX(plain, streams));
            rc = product_pass(&x, &s, err);
            c->gbs = MAX(c->gbs, (double)w->bytes / s / 1e9);
            spent += s;
        }
        bench_reader_close(&r);
    }
    product_close(&x);
    return rc;
}

/* The same over rows that stay in the second-level caches: what the kernel could do if memory
 * were no limit. */
static int measure_cached(struct cell *c, const struct op_weight *w, uint32_t mask,
                          fathom_err *err)
{
    struct op_weight part = *w;
    struct product x;
    double s, spent = 0;
    part.rows = (uint32_t)(CACHED_BYTES / w->row_bytes / 32 * 32 * c->threads);
    part.bytes = part.rows * w->row_bytes;
    int rc = product_open(&x, &part, 1, mask, c->threads, err);
    while (rc == 0 && spent < PASS_SECONDS / 8) {
        rc = product_pass(&x, &s, err);
        c->cached_gbs = MAX(c->cached_gbs, (double)part.bytes / s / 1e9);
        spent += s;
    }
    product_close(&x);
    return rc;
}

/* Best GFLOP/s of the first n_row rows, repeated for `seconds`. */
static int prefill_rate(double *gflops, uint32_t n_tok, uint32_t n_row, double seconds,
                        const struct op_weight *w, uint32_t mask, uint32_t threads,
                        fathom_err *err)
{
    struct op_weight part = *w;
    struct product x;
    double s, spent = 0;
    part.rows = MIN(w->rows, n_row);
    part.bytes = part.rows * w->row_bytes;
    int rc = product_open(&x, &part, n_tok, mask, threads, err);
    for (int i = 0; rc == 0 && (i == 0 || spent < seconds); i++) {
        rc = product_pass(&x, &s, err);
        *gflops = MAX(*gflops, 2.0 * n_tok * part.rows * COLS / s / 1e9);
        spent += s;
    }
    product_close(&x);
    return rc;
}

/* A short try tells how many rows a pass of a quarter of the time has, so that slow tiers end,
 * too. */
static int measure_prefill(struct cell *c, int which, const struct op_weight *w, uint32_t mask,
                           fathom_err *err)
{
    double guess = 0, flop_row = 2.0 * PREFILL[which] * COLS;
    int rc = prefill_rate(&guess, PREFILL[which], 64, 0, w, mask, c->threads, err);
    if (rc != 0) {
        return rc;
    }
    double rows = guess * 1e9 / flop_row * PASS_SECONDS / 4;
    uint32_t n_row = rows < PREFILL_ROWS ? MAX((uint32_t)rows / 64 * 64, 64u) : PREFILL_ROWS;
    return prefill_rate(&c->gflops[which], PREFILL[which], n_row, PASS_SECONDS, w, mask,
                        c->threads, err);
}

/* ---- the table ---- */

struct kernels {
    const struct cli *o;
    uint32_t type[QT_COUNT], n_type;
    uint32_t threads[MAX_THREAD_COUNTS], n_threads;
    uint32_t mask[N_TIERS], n_tier;
    const char *tier[N_TIERS];
    double int8_gops[MAX_THREAD_COUNTS], f32_gflops[MAX_THREAD_COUNTS],
        plain_gbs[MAX_THREAD_COUNTS], read_gbs[MAX_THREAD_COUNTS];
    struct cpu_peak peak;
    unsigned char *weights; /* owned */
    size_t bytes;
    struct buf json;
    uint32_t n_cell;
};

/* Q8_0 first: it carries most bytes of a token. */
static const uint32_t DEFAULT_TYPES[] = {QT_Q8_0, QT_Q2_K, QT_IQ2_XXS, QT_Q4_K, QT_MXFP4,
                                         QT_Q6_K, QT_Q5_K, QT_F16,     QT_BF16, QT_F32};

static int read_formats(struct kernels *k, fathom_err *err)
{
    const char *p = k->o->formats;
    if (!p) {
        memcpy(k->type, DEFAULT_TYPES, sizeof DEFAULT_TYPES);
        k->n_type = ARRAY_LEN(DEFAULT_TYPES);
        return 0;
    }
    while (*p) {
        char name[32];
        size_t n = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)MIN(n, sizeof name - 1), p);
        int type = qformat_by_name(name);
        enum qclass cls = type < 0 ? QC_NONE : qformat((uint32_t)type)->cls;
        if ((cls != QC_FLOAT && cls != QC_BLOCK) || k->n_type == ARRAY_LEN(k->type)) {
            return err_set(err, FATHOM_EINVAL, "--formats: no weight format \"%s\"", name);
        }
        k->type[k->n_type++] = (uint32_t)type;
        p += n + (p[n] == ',');
    }
    return k->n_type ? 0 : err_set(err, FATHOM_EINVAL, "--formats: no weight format");
}

/* 1, 2, 4, ... and all. */
static void choose_threads(struct kernels *k)
{
    uint32_t all = k->o->threads ? k->o->threads : team_cores();
    for (uint32_t t = 1; t < all && k->n_threads + 1 < MAX_THREAD_COUNTS; t *= 2) {
        k->threads[k->n_threads++] = t;
    }
    k->threads[k->n_threads++] = all;
}

/* Each tier with those below it. */
static void choose_tiers(struct kernels *k)
{
    uint32_t have = kern_available() & (k->o->cpu_mask ? k->o->cpu_mask : UINT32_MAX);
    have |= k->o->cpu_mask ? 0 : CPU_TIER_C;
    for (uint32_t bit = 1; bit && k->n_tier < N_TIERS; bit <<= 1) {
        if (have & bit) {
            struct cpu_kern kern;
            k->mask[k->n_tier] = bit | (bit - 1);
            kern_select(&kern, bit | (bit - 1));
            k->tier[k->n_tier++] = kern.name;
        }
    }
}

static int measure_machine(struct kernels *k, fathom_err *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < k->n_threads && rc == 0; i++) {
        struct bench_reader r;
        rc = bench_reader_open(&r, k->weights, k->bytes, k->threads[i], err);
        if (rc == 0) {
            k->peak = r.peak;
            bench_peaks(&r, &k->int8_gops[i], &k->f32_gflops[i]);
            for (int n = 0; n < 8; n++) {
                k->plain_gbs[i] = MAX(k->plain_gbs[i], bench_read_pass(&r, BENCH_PLAIN));
                k->read_gbs[i] = MAX(k->read_gbs[i], bench_read_pass(&r, BENCH_STREAMS));
            }
            bench_reader_close(&r);
        }
    }
    return rc;
}

static double percent(double x, double of)
{
    return of > 0 ? 100 * x / of : 0;
}

static void print_machine(struct kernels *k)
{
    if (k->o->csv) {
        puts(
            "tier,threads,format,gbs,plain_read_gbs,read_gbs,cached_gbs,gflops_t64,gflops_t512");
        return;
    }
    if (k->o->json) {
        buf_adds(&k->json, "{\"cpu\":");
        json_write_str(&k->json, slice_of(bench_cpu_name()));
        buf_adds(&k->json, ",\"int8\":");
        json_write_str(&k->json, slice_of(k->peak.int8_name));
        buf_adds(&k->json, ",\"machine\":[");
    } else {
        printf("%s\npeaks: reads, int8 by %s, F32 by %s\n\n", bench_cpu_name(),
               k->peak.int8_name, k->peak.f32_name);
        puts("threads  plain read GB/s  4 streams  int8 GOP/s  F32 GFLOP/s");
    }
    for (uint32_t i = 0; i < k->n_threads; i++) {
        if (k->o->json) {
            buf_addf(&k->json,
                     "%s{\"threads\":%u,\"plain_read_gbs\":%.2f,\"read_gbs\":%.2f,"
                     "\"int8_gops\":%.0f,\"f32_gflops\":%.0f}",
                     i ? "," : "", k->threads[i], k->plain_gbs[i], k->read_gbs[i],
                     k->int8_gops[i], k->f32_gflops[i]);
        } else {
            printf("%7u %16.1f %10.1f %11.0f %12.0f\n", k->threads[i], k->plain_gbs[i],
                   k->read_gbs[i], k->int8_gops[i], k->f32_gflops[i]);
        }
    }
    if (k->o->json) {
        buf_adds(&k->json, "],\"kernels\":[");
    } else {
        printf("\n%-8s %-10s %7s  %7s %6s %6s %7s%s\n", "format", "tier", "threads", "GB/s",
               "plain", "best", "cached",
               k->o->decode_only ? "" : "  GFLOP/s, 64 tok.  512 tokens (of peak)");
    }
    fflush(stdout);
}

static void print_cell(struct kernels *k, const struct cell *c, uint32_t threads_at)
{
    const char *format = qformat(c->type)->name;
    bool block = qformat(c->type)->cls == QC_BLOCK;
    double peak = block ? k->int8_gops[threads_at] : k->f32_gflops[threads_at];
    if (k->o->csv) {
        printf("%s,%u,%s,%.3f,%.3f,%.3f,%.3f,%.2f,%.2f\n", c->tier, c->threads, format, c->gbs,
               c->plain_gbs, c->read_gbs, c->cached_gbs, c->gflops[0], c->gflops[1]);
    } else if (k->o->json) {
        buf_addf(&k->json,
                 "%s{\"format\":\"%s\",\"tier\":\"%s\",\"threads\":%u,\"gbs\":%.3f,"
                 "\"plain_read_gbs\":%.3f,\"read_gbs\":%.3f,\"cached_gbs\":%.3f,"
                 "\"share\":%.4f,\"gflops_t64\":%.2f,\"gflops_t512\":%.2f,"
                 "\"peak\":\"%s\",\"peak_share_t512\":%.4f}",
                 k->n_cell ? "," : "", format, c->tier, c->threads, c->gbs, c->plain_gbs,
                 c->read_gbs, c->cached_gbs, c->gbs / c->plain_gbs, c->gflops[0], c->gflops[1],
                 block ? "int8" : "f32", c->gflops[1] / peak);
    } else {
        printf("%-8s %-10s %7u  %7.2f %5.0f%% %5.0f%% %7.1f", format, c->tier, c->threads,
               c->gbs, percent(c->gbs, c->plain_gbs), percent(c->gbs, c->read_gbs),
               c->cached_gbs);
        for (int i = 0; i < 2 && !k->o->decode_only; i++) {
            printf("  %8.1f (%3.0f%%)", c->gflops[i], percent(c->gflops[i], peak));
        }
        putchar('\n');
    }
    fflush(stdout);
    k->n_cell++;
}

static int measure_cell(struct kernels *k, const struct op_weight *w, uint32_t tier,
                        uint32_t threads_at, fathom_err *err)
{
    struct cell c = {.tier = k->tier[tier], .threads = k->threads[threads_at], .type = w->type};
    int rc = measure_decode(&c, w, k->mask[tier], err);
    rc = rc ? rc : measure_cached(&c, w, k->mask[tier], err);
    for (int i = 0; i < 2 && rc == 0 && !k->o->decode_only; i++) {
        rc = measure_prefill(&c, i, w, k->mask[tier], err);
    }
    if (rc == 0) {
        print_cell(k, &c, threads_at);
    }
    return rc;
}

static int measure_format(struct kernels *k, uint32_t type, struct progress *progress,
                          fathom_err *err)
{
    struct random_rows gen;
    int rc = random_rows_init(&gen, type, COLS, 0, 1.0f / 64, 1, err);
    if (rc != 0) {
        return rc;
    }
    struct op_weight w = {.name = "w",
                          .type = type,
                          .cols = COLS,
                          .rows = (uint32_t)(k->bytes / gen.row_bytes),
                          .n_mat = 1,
                          .row_bytes = gen.row_bytes,
                          .data = k->weights};
    w.bytes = w.rows * w.row_bytes;
    random_rows_fill(&gen, 0, w.rows, k->weights);
    for (uint32_t t = 0; t < k->n_tier && rc == 0; t++) {
        for (uint32_t i = 0; i < k->n_threads && rc == 0; i++) {
            rc = measure_cell(k, &w, t, i, err);
            uint32_t total = k->n_type * k->n_tier * k->n_threads;
            if (rc == 0 && !progress_report(progress, "kernels", k->n_cell, total)) {
                rc = err_set(err, FATHOM_ECANCEL, "interrupted");
            }
        }
    }
    return rc;
}

int bench_kernels(const struct cli *o)
{
    struct kernels *k = mem_calloc(1, sizeof *k);
    struct progress progress = {0};
    fathom_err err = {0};
    if (!k) {
        err_nomem(&err, "kernel benchmark", sizeof *k);
        return cmd_fail(NULL, &err);
    }
    k->o = o;
    k->bytes = bench_stream_bytes();
    int rc = read_formats(k, &err);
    if (rc == 0) {
        k->weights = mem_alloc_huge(k->bytes);
        rc = k->weights ? 0 : err_nomem(&err, "weights", k->bytes);
    }
    if (rc == 0) {
        memset(k->weights, 1, k->bytes);
        choose_threads(k);
        choose_tiers(k);
        interrupt_on();
        rc = measure_machine(k, &err);
    }
    if (rc == 0) {
        print_machine(k);
    }
    for (uint32_t i = 0; i < k->n_type && rc == 0; i++) {
        rc = measure_format(k, k->type[i], &progress, &err);
    }
    progress_end(&progress);
    interrupt_off();
    int code = rc ? cmd_fail(NULL, &err) : EXIT_DONE;
    if (rc == 0 && o->json) {
        buf_adds(&k->json, "]}\n");
        code = cmd_print(&k->json);
    } else {
        buf_free(&k->json);
    }
    mem_free(k->weights);
    mem_free(k);
    return code;
}
