/* ops_harness.h - builds small programs with random weights and inputs and runs them on
 * backends.
 *
 * Memory starts as poison (0xFF: NaN, -1, NaN codes); inputs are every operand that some op
 * reads before any op writes it, plus whatever the test puts into STATE and PAGE. A check
 * runs
 *   1. ref and cpu: outputs within the tolerance the test states;
 *   2. cpu on every tier and with 1, 2, 3 and 7 workers: all memory bit-identical (NaN = NaN);
 *   3. cpu token by token: what survives, and STATE and PAGE, bit-identical to the whole step;
 *   4. nothing outside the written rows has changed.
 * Seeds are printed by each failing check. */
#ifndef TESTS_OPS_HARNESS_H
#define TESTS_OPS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cpu/kern.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "op/program.h"
#include "op/rows.h"
#include "op/step.h"
#include "quant/act.h"
#include "quant/encode.h"
#include "quant/formats.h"

enum { MAX_W = 24, MAX_T = 320, MAX_SEQ = 4, MAX_PAGES = 512, N_SPACES = 4 };

struct image { /* arena, state, page, io */
    unsigned char *mem[N_SPACES];
    size_t bytes[N_SPACES];
};

struct op_test {
    uint64_t seed;
    struct rng rng;
    struct program *p;
    struct op_weight w[MAX_W];
    uint32_t n_w, n_pages;
    struct step s;
    struct step_seq seq[MAX_SEQ];
    uint32_t tok[MAX_T], tok_seq[MAX_T], pages[MAX_PAGES], out[MAX_T];
    struct image in;
    float amplitude; /* of random inputs */
    const char *what;
};

static inline size_t space_index(const struct opnd *o)
{
    return o->space == SPACE_ARENA   ? 0
           : o->space == SPACE_STATE ? 1
           : o->space == SPACE_PAGE  ? 2
                                     : 3;
}

/* ---- building ---- */

static inline void t_begin(struct op_test *t, const char *what, uint64_t seed,
                           struct program_limits lim)
{
    memset(t, 0, sizeof *t);
    t->seed = seed;
    t->what = what;
    t->rng.s = seed;
    t->amplitude = 1.0f;
    t->p = program_new(&lim, NULL);
    assert_non_null(t->p);
}

static inline float t_float(struct op_test *t)
{
    return t->amplitude * rng_sym(&t->rng);
}

/* Random rows of a type; block formats without an encoder get random blocks with finite scales,
 * integers are 0 (the test fills them in). */
static inline uint16_t t_weight(struct op_test *t, uint32_t type, uint32_t n_mat, uint32_t rows,
                                uint32_t cols, float scale)
{
    assert_true(t->n_w < MAX_W);
    size_t row_bytes = qformat_row_bytes(type, cols), n = (size_t)n_mat * rows;
    assert_true(row_bytes > 0);
    unsigned char *data = mem_alloc(n, row_bytes);
    float *x = mem_alloc(cols, sizeof *x);
    const struct qformat *f = qformat(type);
    for (size_t r = 0; r < n; r++) {
        unsigned char *row = data + r * row_bytes;
        if (quant_can_encode(type)) {
            for (uint32_t i = 0; i < cols; i++) {
                x[i] = scale * rng_sym(&t->rng);
            }
            quant_encode(type, x, cols, row);
            continue;
        }
        memset(row, 0, row_bytes);
        for (uint32_t b = 0; f->cls == QC_BLOCK && b < cols / f->block_elems; b++) {
            unsigned char *block = row + (size_t)b * f->block_bytes;
            do {
                for (uint32_t i = 0; i < f->block_bytes; i++) {
                    block[i] = (unsigned char)rng_u64(&t->rng);
                }
            } while (!quant_row_finite(type, block, f->block_elems));
        }
    }
    mem_free(x);
    t->w[t->n_w] = (struct op_weight){.name = "w",
                                      .type = type,
                                      .cols = cols,
                                      .rows = rows,
                                      .n_mat = n_mat,
                                      .row_bytes = row_bytes,
                                      .bytes = row_bytes * n,
                                      .data = data};
    return (uint16_t)t->n_w++;
}

static inline struct opmat t_mat(struct op_test *t, uint32_t type, uint32_t act, uint32_t n_mat,
                                 uint32_t rows, uint32_t cols, float scale)
{
    return (struct opmat){.w = t_weight(t, type, n_mat, rows, cols, scale),
                          .act = (uint8_t)act,
                          .rows = rows,
                          .cols = cols};
}

static inline struct opvec t_vec(struct op_test *t, uint32_t n, float scale)
{
    return (struct opvec){t_weight(t, QT_F32, 1, 1, n, scale)};
}

static inline struct opnd t_arena(struct op_test *t, const char *name, enum op_form form,
                                  enum row_count rows, uint32_t cols, uint32_t k)
{
    return program_tensor(t->p, name, 0, SPACE_ARENA, form, rows, cols, k);
}

/* An input that is first read behind the first level: in IO, whose memory is never shared. */
static inline struct opnd t_input(struct op_test *t, const char *name, uint32_t cols)
{
    return program_tensor(t->p, name, 0, SPACE_IO, FORM_F32, ROWS_TOK, cols, 1);
}

/* One sequence of the step; call in order, then t_finish. */
static inline void t_seq(struct op_test *t, struct step_seq q)
{
    uint32_t i = t->s.n_seq++;
    assert_true(i < MAX_SEQ && t->s.n_tok + q.n_tok <= MAX_T);
    q.tok0 = t->s.n_tok;
    q.page0 = t->s.n_page;
    q.out0 = t->s.n_out;
    for (uint32_t k = 0; k < q.n_tok; k++) {
        t->tok_seq[t->s.n_tok++] = i;
    }
    t->s.n_page += q.n_page;
    t->s.n_out += q.n_out;
    t->seq[i] = q;
}

/* Finishes the program, makes the poisoned memory and fills the inputs. Pages are dealt out
 * in a scrambled order from a pool of n_pages. */
static inline void t_finish(struct op_test *t, uint32_t n_pages)
{
    fathom_err err = {0};
    t->p->weights = t->w;
    t->p->n_weights = t->n_w;
    if (program_finish(t->p, &err) || program_check(t->p, &err)) {
        fail_msg("%s seed %llu: %s", t->what, (unsigned long long)t->seed, err.msg);
    }
    t->n_pages = n_pages;
    t->s.seq = t->seq;
    t->s.tok = t->tok;
    t->s.tok_seq = t->tok_seq;
    t->s.pages = t->pages;
    t->s.out = t->out;
    for (uint32_t i = 0; i < t->s.n_page; i++) {
        t->pages[i] = (i * 7 + 3) % n_pages; /* 7 and n_pages coprime: no page twice */
    }
    const struct program *p = t->p;
    size_t bytes[N_SPACES] = {p->arena_bytes, p->slot_bytes * p->lim.n_slots,
                              p->page_bytes * n_pages, p->io_bytes};
    for (int i = 0; i < N_SPACES; i++) {
        t->in.bytes[i] = bytes[i];
        t->in.mem[i] = mem_alloc(bytes[i], 1);
        memset(t->in.mem[i], 0xFF, bytes[i]);
    }
}

static inline void *img_row(const struct image *m, const struct opnd *o, uint64_t row)
{
    return m->mem[space_index(o)] + o->offset + row * o->row_bytes;
}

/* ---- operands of a program: who is input, who is written, how many rows ---- */

struct used {
    const struct opnd *o;
    bool read_first, written;
    uint32_t rows;    /* in this step */
    uint32_t per_tok; /* rows per token; 0: not a row per token */
};

static inline uint32_t rows_used(const struct op_test *t, const struct step *s,
                                 const struct opnd *o, uint32_t *per_tok)
{
    const struct tensor *x = &t->p->tensors[o->id];
    uint32_t all = (uint32_t)(x->bytes / x->row_bytes), k = 1;
    *per_tok = 0;
    switch (x->rows) {
    case ROWS_TOK: *per_tok = 1; return s->n_tok;
    case ROWS_PAIR:
        k = all / t->p->lim.t_max;
        *per_tok = k;
        return s->n_tok * k;
    case ROWS_OUT: return s->n_out;
    default: return 1;
    }
}

/* Distinct ARENA and IO operands in list order; returns the count. */
static inline uint32_t t_used(const struct op_test *t, const struct step *s, struct used *u)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->p->n_ops; i++) {
        const struct op *op = &t->p->ops[i];
        size_t nf;
        const struct op_field *f = op_fields(op->kind, &nf);
        for (int pass = 0; pass < 2; pass++) {
            for (size_t j = 0; j < nf; j++) {
                const struct opnd *o = op_field_opnd(op, &f[j]);
                if (f[j].type != FIELD_OPND ||
                    (o->space != SPACE_ARENA && o->space != SPACE_IO)) {
                    continue;
                }
                uint32_t at = 0;
                while (at < n && (u[at].o->id != o->id || u[at].o->offset != o->offset)) {
                    at++;
                }
                if (at == n) {
                    u[n++] = (struct used){.o = o};
                    u[at].rows = rows_used(t, s, o, &u[at].per_tok);
                }
                if (pass == 0 && (f[j].access & ACCESS_R) && !u[at].written) {
                    u[at].read_first = true;
                }
                if (pass == 1 && (f[j].access & ACCESS_W)) {
                    u[at].written = true;
                }
            }
        }
    }
    return n;
}
enum { MAX_USED = 128 };

/* Random values into every F32 and A8 input. */
static inline void t_fill(struct op_test *t)
{
    struct used u[MAX_USED];
    uint32_t n = t_used(t, &t->s, u);
    for (uint32_t i = 0; i < n; i++) {
        const struct opnd *o = u[i].o;
        if (!u[i].read_first) {
            continue;
        }
        for (uint32_t r = 0; r < u[i].rows; r++) {
            float *x = mem_alloc(o->cols, sizeof *x);
            for (uint32_t c = 0; c < o->cols; c++) {
                x[c] = t_float(t);
            }
            if (o->form == FORM_F32) {
                memcpy(img_row(&t->in, o, r), x, o->cols * sizeof *x);
            } else if (o->form == FORM_A8) {
                act8_encode(x, 0, o->cols, o->cols, img_row(&t->in, o, r));
            }
            mem_free(x);
        }
    }
}

/* ---- running ---- */

/* Under test: cpu, in its tiers and with several workers; or, in the test build of the Metal
 * backend (TEST_METAL), metal with several orders of its lanes. */
struct cpu_config {
    uint32_t mask, threads;
};
#ifdef TEST_METAL
#include "metal/ops_metal.h"
#else
#define TEST_BACKEND backend_cpu
static inline void t_configure(struct cpu_config c)
{
    (void)c;
}
static inline void t_faults(void)
{
}
static inline bool t_wanted(int config, uint64_t seed)
{
    (void)config;
    (void)seed;
    return true;
}
/* Tiers of x86-64 and arm64 up to the second, up to the third, the fourth, all. */
enum {
    T_TWO = CPU_TIER_C | CPU_TIER_AVX2 | CPU_TIER_NEON,
    T_THREE = T_TWO | CPU_TIER_AVX512 | CPU_TIER_DOTPROD,
    T_FOUR = T_THREE | CPU_TIER_AVX512VNNI | CPU_TIER_I8MM,
    T_ALL = 0
};
static const struct cpu_config t_configs[] = {{CPU_TIER_C, 1}, {T_TWO, 2},     {T_THREE, 1},
                                              {T_ALL, 3},      {T_ALL, 7},     {T_FOUR, 1},
                                              {T_TWO, 1},      {CPU_TIER_C, 2}};
enum { N_CONFIGS = sizeof t_configs / sizeof *t_configs };
#endif

static inline void img_copy(struct image *to, const struct image *from)
{
    for (int i = 0; i < N_SPACES; i++) {
        to->bytes[i] = from->bytes[i];
        to->mem[i] = mem_alloc(from->bytes[i], 1);
        memcpy(to->mem[i], from->mem[i], from->bytes[i]);
    }
}
static inline void img_free(struct image *m)
{
    for (int i = 0; i < N_SPACES; i++) {
        mem_free(m->mem[i]);
    }
}

struct session {
    const struct backend *b;
    struct device *dev;
    struct exec *exec;
    struct buffer *buf[N_SPACES];
};

static inline void t_ok(const struct op_test *t, int rc, const fathom_err *err)
{
    if (rc) {
        fail_msg("%s seed %llu: %s", t->what, (unsigned long long)t->seed, err->msg);
    }
}

static inline void t_open(struct session *x, const struct op_test *t, const struct backend *b,
                          struct cpu_config c)
{
    static const enum buf_use uses[] = {BUF_ARENA, BUF_STATE, BUF_PAGE, BUF_IO};
    fathom_err err = {0};
    *x = (struct session){.b = b};
    t_configure(c);
    struct backend_config cfg = {.n_threads = c.threads, .cpu_mask = c.mask};
    t_ok(t, b->open(&x->dev, &cfg, &err), &err);
    t_ok(t, b->weights_load(x->dev, t->w, t->n_w, &err), &err);
    for (int i = 0; i < N_SPACES; i++) {
        t_ok(t, b->buf_alloc(x->dev, &x->buf[i], t->in.bytes[i], uses[i], &err), &err);
    }
    struct exec_bind bind = {x->buf[0], x->buf[1], x->buf[2], x->buf[3]};
    t_ok(t, b->compile(x->dev, &x->exec, t->p, &bind, &err), &err);
}

static inline void t_step(struct session *x, const struct op_test *t, const struct step *s,
                          struct image *m)
{
    fathom_err err = {0};
    for (int i = 0; i < N_SPACES; i++) {
        x->b->buf_write(x->dev, x->buf[i], 0, m->mem[i], m->bytes[i]);
    }
    mem_guard_begin();
    int rc = x->b->submit(x->dev, x->exec, s, &err);
    rc = rc ? rc : x->b->wait(x->dev, &err);
    unsigned allocs = mem_guard_end();
    t_faults();
    t_ok(t, rc, &err);
    assert_int_equal(allocs, 0);
    for (int i = 0; i < N_SPACES; i++) {
        x->b->buf_read(x->dev, x->buf[i], 0, m->mem[i], m->bytes[i]);
    }
}

static inline void t_close(struct session *x)
{
    x->b->exec_free(x->dev, x->exec);
    for (int i = 0; i < N_SPACES; i++) {
        x->b->buf_free(x->dev, x->buf[i]);
    }
    x->b->weights_free(x->dev);
    x->b->close(x->dev);
}

static inline void t_run(const struct op_test *t, const struct backend *b, struct cpu_config c,
                         struct image *out)
{
    struct session x;
    img_copy(out, &t->in);
    t_open(&x, t, b, c);
    t_step(&x, t, &t->s, out);
    t_close(&x);
}

/* ---- comparing ---- */

static inline bool same_word(uint32_t a, uint32_t b)
{
    float x = f32_from_bits(a), y = f32_from_bits(b);
    return a == b || (x != x && y != y);
}

static inline void same_bytes(const struct op_test *t, const char *how, const void *a,
                              const void *b, size_t n, int space, size_t at)
{
    if (memcmp(a, b, n) == 0) {
        return;
    }
    for (size_t i = 0; i + 4 <= n; i += 4) {
        uint32_t x, y;
        memcpy(&x, (const char *)a + i, 4);
        memcpy(&y, (const char *)b + i, 4);
        if (!same_word(x, y)) {
            fail_msg("%s seed %llu: %s: space %d byte %zu: %08x %08x (%g %g)", t->what,
                     (unsigned long long)t->seed, how, space, at + i, x, y,
                     (double)f32_from_bits(x), (double)f32_from_bits(y));
        }
    }
}

static inline size_t row_form_bytes(const struct opnd *o)
{
    return o->form == FORM_A8      ? act8_row_bytes(o->cols)
           : o->form == FORM_BYTES ? o->cols
                                   : o->cols * 4;
}

/* Everything that no op may write is as before. */
static inline void check_untouched(const struct op_test *t, const struct image *ref,
                                   const struct image *got)
{
    struct used u[MAX_USED];
    uint32_t n = t_used(t, &t->s, u);
    for (int sp = 0; sp < N_SPACES; sp++) {
        unsigned char *may = mem_calloc(t->in.bytes[sp], 1);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t r = 0; u[i].written && r < u[i].rows; r++) {
                if (space_index(u[i].o) == (size_t)sp) {
                    memset(may + u[i].o->offset + r * u[i].o->row_bytes, 1,
                           row_form_bytes(u[i].o));
                }
            }
        }
        for (size_t i = 0; i < t->in.bytes[sp]; i++) {
            bool state = sp == 1 || sp == 2; /* there ref shows what may change, by words */
            size_t word = i / 4 * 4;
            bool allowed = state ? memcmp(ref->mem[sp] + word, t->in.mem[sp] + word,
                                          MIN((size_t)4, t->in.bytes[sp] - word)) != 0
                                 : may[i];
            if (!allowed && got->mem[sp][i] != t->in.mem[sp][i]) {
                fail_msg("%s seed %llu: wrote outside: space %d byte %zu", t->what,
                         (unsigned long long)t->seed, sp, i);
            }
        }
        mem_free(may);
    }
}

/* Does the tensor's memory still hold it at the end of the step? */
static inline bool survives(const struct program *p, uint16_t id)
{
    const struct tensor *a = &p->tensors[id];
    for (uint32_t j = 0; j < p->n_tensors; j++) {
        const struct tensor *b = &p->tensors[j];
        if (j != id && a->space == SPACE_ARENA && b->space == SPACE_ARENA &&
            b->first > a->last && a->offset < b->offset + b->bytes &&
            b->offset < a->offset + a->bytes) {
            return false;
        }
    }
    return true;
}

/* The step cut into single tokens: same bits for all rows, STATE and PAGE. */
static inline void check_split(const struct op_test *t, const struct image *whole,
                               struct cpu_config c)
{
    struct session x;
    struct image m;
    img_copy(&m, &t->in);
    t_open(&x, t, &TEST_BACKEND, c);
    for (uint32_t row = 0; row < t->s.n_tok; row++) {
        const struct step_seq *q = &t->seq[t->tok_seq[row]];
        struct step_seq one = *q;
        one.n0 = step_pos(q, row);
        one.n_tok = 1;
        one.tok0 = one.page0 = one.out0 = 0;
        one.n_out = 0;
        uint32_t zero = 0, out0 = 0;
        for (uint32_t o = q->out0; o < q->out0 + q->n_out; o++) {
            if (t->out[o] == row) {
                one.n_out = 1;
                out0 = o;
            }
        }
        struct step s = {.n_tok = 1,
                         .n_seq = 1,
                         .n_out = one.n_out,
                         .n_page = q->n_page,
                         .seq = &one,
                         .tok = t->tok + row,
                         .tok_seq = &zero,
                         .pages = t->pages + q->page0,
                         .out = &zero,
                         .use_mask = t->s.use_mask};
        struct used u[MAX_USED];
        uint32_t n = t_used(t, &s, u);
        memcpy(m.mem[0], t->in.mem[0], m.bytes[0]); /* poison again: nothing may be left over */
        for (uint32_t i = 0; i < n; i++) {
            uint32_t k = u[i].per_tok;
            bool out_row = t->p->tensors[u[i].o->id].rows == ROWS_OUT;
            for (uint32_t r = 0; u[i].read_first && r < u[i].rows; r++) {
                uint64_t from = k ? (uint64_t)row * k + r : out_row ? out0 : r;
                memcpy(img_row(&m, u[i].o, r), img_row(&t->in, u[i].o, from),
                       row_form_bytes(u[i].o));
            }
        }
        t_step(&x, t, &s, &m);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t k = u[i].per_tok;
            bool out_row = t->p->tensors[u[i].o->id].rows == ROWS_OUT;
            if (!u[i].written || (!k && !out_row) || !survives(t->p, u[i].o->id)) {
                continue;
            }
            for (uint32_t r = 0; r < u[i].rows; r++) {
                uint64_t at = k ? (uint64_t)row * k + r : out0;
                same_bytes(t, "token by token", img_row(whole, u[i].o, at),
                           img_row(&m, u[i].o, r), row_form_bytes(u[i].o), 0, u[i].o->offset);
            }
        }
    }
    for (int sp = 1; sp <= 2; sp++) {
        same_bytes(t, "state after token by token", whole->mem[sp], m.mem[sp], m.bytes[sp], sp,
                   0);
    }
    t_close(&x);
    img_free(&m);
}

/* A8 rows written beside an F32 row must be exactly its encoding; alone: same as ref within one
 * code step. */
static inline void check_close(const struct op_test *t, const struct opnd *o, uint64_t row,
                               const struct image *ref, const struct image *got, double tol)
{
    const float *a = img_row(ref, o, row), *b = img_row(got, o, row);
    double max = 0;
    for (uint32_t i = 0; i < o->cols; i++) {
        double v = fabs((double)a[i]);
        max = v > max && v < INFINITY ? v : max;
    }
    for (uint32_t i = 0; i < o->cols; i++) {
        bool both_nan = a[i] != a[i] && b[i] != b[i];
        if (!both_nan && a[i] != b[i] &&
            !(fabs((double)a[i] - (double)b[i]) <= tol * max + 1e-42)) {
            fail_msg("%s seed %llu: tensor %s row %llu col %u: ref %.9g cpu %.9g, max %.3g",
                     t->what, (unsigned long long)t->seed, t->p->tensors[o->id].name,
                     (unsigned long long)row, i, (double)a[i], (double)b[i], max);
        }
    }
}

static inline void check_a8(const struct op_test *t, const struct opnd *o, uint64_t row,
                            const struct image *ref, const struct image *got, double tol)
{
    void *a = img_row(ref, o, row), *b = img_row(got, o, row);
    double max = 0;
    for (uint32_t i = 0; i < o->cols / 32; i++) {
        double v = (double)act8_d(a, o->cols)[i] * 127;
        max = v > max ? v : max; /* NaN is passed over; fmax here crashes GCC 12 for arm64 */
    }
    for (uint32_t i = 0; i < o->cols; i++) {
        float da = act8_d(a, o->cols)[i / 32], db = act8_d(b, o->cols)[i / 32];
        double x = (double)da * act8_q(a)[i], y = (double)db * act8_q(b)[i];
        if (!(fabs(x - y) <= 1.01 * (double)da + tol * max) && !(da != da && db != db)) {
            fail_msg("%s seed %llu: A8 tensor %s row %llu col %u: ref %.9g cpu %.9g", t->what,
                     (unsigned long long)t->seed, t->p->tensors[o->id].name,
                     (unsigned long long)row, i, x, y);
        }
    }
}

enum { T_SPLIT = 1 };
static unsigned t_checked, t_skipped; /* cases; skipped: the backend does not have the op so */
/* The whole check. Outputs: F32 rows within tol of the row's largest value, A8 within one
 * step beyond that, integers equal (tol INFINITY: not compared with ref); `more` (may be
 * NULL) checks what is special. */
static inline void t_check(struct op_test *t, double tol, int flags,
                           void (*more)(struct op_test *, const struct image *ref,
                                        const struct image *cpu))
{
    struct image ref, first, other;
    for (uint32_t i = 0; i < t->p->n_ops; i++) {
        if (TEST_BACKEND.supports(NULL, t->p, &t->p->ops[i])) {
            t_skipped++;
            return;
        }
    }
    t_checked++;
    t_run(t, &backend_ref, (struct cpu_config){0, 1}, &ref);
    t_run(t, &TEST_BACKEND, t_configs[0], &first);
    struct used u[MAX_USED];
    uint32_t n = t_used(t, &t->s, u);
    for (uint32_t i = 0; i < n && tol < INFINITY; i++) {
        const struct opnd *o = u[i].o;
        for (uint32_t r = 0; u[i].written && survives(t->p, o->id) && r < u[i].rows; r++) {
            if (o->form == FORM_F32) {
                check_close(t, o, r, &ref, &first, tol);
            } else if (o->form == FORM_A8) {
                check_a8(t, o, r, &ref, &first, tol);
            } else if (o->form == FORM_I32) {
                same_bytes(t, "integers, cpu against ref", img_row(&ref, o, r),
                           img_row(&first, o, r), o->cols * 4, (int)space_index(o), o->offset);
            }
        }
    }
    if (more) {
        more(t, &ref, &first);
    }
    check_untouched(t, &ref, &first);
    for (int c = 1; c < N_CONFIGS; c++) {
        if (!t_wanted(c, t->seed)) {
            continue;
        }
        t_run(t, &TEST_BACKEND, t_configs[c], &other);
        for (int sp = 0; sp < N_SPACES; sp++) {
            same_bytes(t, "tiers and workers", first.mem[sp], other.mem[sp], other.bytes[sp],
                       sp, 0);
        }
        img_free(&other);
    }
    if (flags & T_SPLIT) {
        check_split(t, &first, t_configs[N_CONFIGS - 1]);
    }
    img_free(&ref);
    img_free(&first);
}

static inline void t_end(struct op_test *t)
{
    for (uint32_t i = 0; i < t->n_w; i++) {
        mem_free((void *)(uintptr_t)t->w[i].data);
    }
    img_free(&t->in);
    program_free(t->p);
}

static inline uint32_t t_pick(struct op_test *t, const uint32_t *v, size_t n)
{
    return v[rng_below(&t->rng, (uint32_t)n)];
}
#define T_PICK(t, ...)                           \
    t_pick((t), (const uint32_t[]){__VA_ARGS__}, \
           sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

#endif
