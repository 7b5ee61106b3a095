/* ref_bench.h - programs of a few hand-recorded ops on the reference backend, for tests/ops: a
 * bench owns the program, random weights with their decoded values, the buffers and the device.
 * Operands that a test fills or reads are IO tensors; state slot 1 and pages 3, 4 ... are used.
 * Include after cmocka.h. */
#ifndef TESTS_REF_BENCH_H
#define TESTS_REF_BENCH_H

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

static inline void bench_open(struct bench *b)
{
    memset(b, 0, sizeof *b);
    b->r.s = SEED;
    struct program_limits lim = {T_MAX, T_MAX, 3, N_SLOTS, MAX_CTX, 0};
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

static inline void fill(struct bench *b, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = rng_sym(&b->r) * scale;
    }
}

/* A weight of an encodable type with random values (or the given ones). */
static inline uint16_t add_weight(struct bench *b, uint32_t type, uint32_t n_mat, uint32_t rows,
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

static inline struct opmat mat(const struct bench *b, uint16_t w, enum op_form act)
{
    return (struct opmat){w, (uint8_t)act, b->w[w].rows, b->w[w].cols};
}

static inline struct opnd tensor(struct bench *b, enum op_form form, enum row_count rows,
                                 uint32_t cols, uint32_t k)
{
    return program_tensor(b->p, "t", 0, SPACE_IO, form, rows, cols, k);
}

static inline void bench_ready(struct bench *b)
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

static inline void bench_close(struct bench *b)
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
static inline void *io_row(struct bench *b, const struct opnd *o, uint32_t row)
{
    return (char *)backend_ref.buf_map(b->dev, b->bind.io) + o->offset + row * o->row_bytes;
}

static inline void set_rows(struct bench *b, const struct opnd *o, uint32_t n, float scale)
{
    for (uint32_t t = 0; t < n; t++) {
        fill(b, io_row(b, o, t), o->cols, scale);
    }
}

/* Positions [n0, n0 + n) of a sequence in state slot 1, pages 3, 4 ...; logits for the last
 * row. */
static inline void run(struct bench *b, uint32_t n0, uint32_t n, uint32_t start, uint32_t keep,
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

static inline void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) {
        fail_msg("%.9g, expected %.9g within %g", got, want, tolerance);
    }
}

#endif
