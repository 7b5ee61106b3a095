/* Are the files of our quantisers at least as good, end to end, as those of the reference's search
 * (tests/unit/quant_reference.h)? The routed experts of the mini model are quantised twice to the
 * types of recipe q2, from the same rows with the same importance, once by each search, and
 * put back
 * as F32; everything else is the same Q8_0 and F16. Both files are compared with the lossless one
 * over continuations of tests/data/mini-model, token by token: KL divergence, same best token, and
 * the paired difference of the divergences with its 95 % interval. Done with the importance matrix
 * that the shipped file is made with, and with none (energy of the weights).
 * FATHOM_TEST_TASKS=N takes every N-th case. links: cmd */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "eval/score.h"
#include "factory/convert.h"
#include "factory/imatrix.h"
#include "gguf/gguf.h"
#include "quant/encode.h"
#include "testdata.h"
#include "unit/quant_reference.h"

enum { MAX_PROMPT = 200, RESAMPLES = 2000 };

static char dir[64], exact_path[128], q2_path[128];
static struct gguf *exact, *q2;
static struct eval_set set;

static void convert(const char *path, const char *recipe)
{
    fathom_err err = {0};
    struct convert_options o = {.dir = "models/mini", .out = path, .recipe = recipe};
    if (convert_run(&o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

/* Cases with a short prompt: many predictions for little computing. */
static void make_set(void)
{
    const char *every = getenv("FATHOM_TEST_TASKS");
    size_t step = every ? (size_t)atoi(every) : 1, n = 0, seen = 0;
    struct buf text = {0};
    struct manifest_ctx m = {0}; /* ids only */
    fathom_err err = {0};
    const char *path = test_data_path("mini-model/eval/tasks.jsonl");
    assert_int_equal(file_read_all(&text, path, 1 << 26, &err), 0);
    assert_int_equal(eval_set_cases(&set, &m, buf_slice(&text), false, &err), 0);
    set.n_scored = set.n_computed = set.longest = 0;
    for (size_t i = 0; i < set.n; i++) {
        struct eval_seq q = set.seq[i];
        if (q.from <= MAX_PROMPT && seen++ % step == 0) {
            set.seq[n++] = q;
            set.n_scored += q.n - q.from;
            set.n_computed += q.n;
            set.longest = MAX(set.longest, q.n);
        }
    }
    set.n = n;
    buf_free(&text);
}

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    fathom_err err = {0};
    snprintf(dir, sizeof dir, "%.30s/fathom-search-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    snprintf(exact_path, sizeof exact_path, "%s/exact.gguf", dir);
    snprintf(q2_path, sizeof q2_path, "%s/q2.gguf", dir);
    convert(exact_path, "bf16");
    convert(q2_path, "q2");
    assert_int_equal(gguf_open(&exact, exact_path, &err), 0);
    assert_int_equal(gguf_open(&q2, q2_path, &err), 0);
    make_set();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gguf_close(exact);
    gguf_close(q2);
    eval_set_fini(&set);
    unlink(exact_path);
    unlink(q2_path);
    return rmdir(dir);
}

/* ---- a model whose experts went through one of the searches ---- */

static bool is_expert(const struct gguf_tensor *t)
{
    return t->rank == 3 && (t->type == QT_IQ2_XXS || t->type == QT_Q2_K);
}

/* Importance of the columns of one expert. */
static void importance(float *q, const struct imatrix *im, const struct gguf_tensor *t,
                       uint32_t mat, const float *rows, uint64_t n_rows, uint64_t cols)
{
    fathom_err err = {0};
    if (im) {
        struct imatrix_use use;
        struct arena a = {0};
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
        assert_int_equal(
            imatrix_bind(&use, im, name, cols, (uint32_t)t->ne[2], IMATRIX_SHRINK, &a, &err),
            0);
        assert_non_null(use.e);
        assert_int_equal(imatrix_weights(&use, mat, IMATRIX_SHRINK, q, &err), 0);
        arena_fini(&a);
        return;
    }
    memset(q, 0, cols * sizeof *q);
    for (uint64_t r = 0; r < n_rows; r++) {
        for (uint64_t c = 0; c < cols; c++) {
            q[c] += rows[r * cols + c] * rows[r * cols + c];
        }
    }
}

/* out: F32 [mats][rows][cols]; *error: sum of importance x squared error. */
static void quantise_experts(float *out, const struct gguf_tensor *t, const struct imatrix *im,
                             bool reference, double *error)
{
    uint64_t cols = t->ne[0], rows = t->ne[1];
    const struct gguf_tensor *from = NULL;
    for (size_t i = 0; i < gguf_n_tensors(exact); i++) {
        const struct gguf_tensor *e = gguf_tensor_at(exact, i);
        from = slice_eq(e->name, t->name) ? e : from;
    }
    assert_non_null(from);
    float *x = mem_alloc(rows * cols, sizeof *x), *q = mem_alloc(cols, sizeof *q);
    unsigned char *row = mem_alloc(cols, sizeof *x);
    for (uint32_t m = 0; m < t->ne[2]; m++) {
        for (uint64_t r = 0; r < rows; r++) {
            quant_decode(from->type, from->data + (m * rows + r) * from->row_bytes, 0, cols,
                         x + r * cols);
        }
        importance(q, im, t, m, x, rows, cols);
        for (uint64_t r = 0; r < rows; r++) {
            float *y = out + (m * rows + r) * cols;
            if (reference) {
                ref_quantise(t->type, x + r * cols, q, cols, y);
            } else {
                assert_int_equal(quant_encode_weighted(t->type, x + r * cols, cols, q, row), 0);
                quant_decode(t->type, row, 0, cols, y);
            }
            for (uint64_t c = 0; c < cols; c++) {
                double d = (double)y[c] - (double)x[r * cols + c];
                *error += (double)q[c] * d * d;
            }
        }
    }
    mem_free(x);
    mem_free(q);
    mem_free(row);
}

struct model {
    unsigned char *p;
    size_t n;
    double error;
};

static struct model make_model(const struct imatrix *im, bool reference)
{
    struct gguf_writer *w = gguf_writer_new();
    struct buf header = {0};
    struct model m = {0};
    fathom_err err = {0};
    for (size_t i = 0; i < gguf_n_kv(q2); i++) {
        gguf_writer_kv(w, gguf_kv_at(q2, i));
    }
    for (size_t i = 0; i < gguf_n_tensors(q2); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(q2, i);
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
        assert_int_equal(
            gguf_writer_tensor(w, name, is_expert(t) ? QT_F32 : t->type, t->rank, t->ne, &err),
            (int)i);
    }
    assert_int_equal(gguf_writer_header(w, &header, &err), 0);
    m.n = gguf_writer_file_bytes(w);
    m.p = mem_alloc_aligned(4096, align_up(m.n, 4096));
    assert_non_null(m.p);
    memset(m.p, 0, m.n);
    memcpy(m.p, header.p, header.n);
    for (size_t i = 0; i < gguf_n_tensors(q2); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(q2, i);
        unsigned char *at = m.p + gguf_writer_offset(w, (int)i);
        if (is_expert(t)) {
            quantise_experts((float *)(void *)at, t, im, reference, &m.error);
        } else {
            memcpy(at, t->data, t->bytes);
        }
    }
    buf_free(&header);
    gguf_writer_free(w);
    return m;
}

/* ---- comparison ---- */

static fathom_engine *open_engine(const char *path, const struct model *m)
{
    fathom_engine *e;
    fathom_err err = {0};
    fathom_engine_options o = {.model_path = path,
                               .model_data = m ? m->p : NULL,
                               .model_bytes = m ? m->n : 0,
                               .backend = "cpu",
                               .max_ctx = set.longest,
                               .max_seq = 1};
    if (fathom_engine_open(&e, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return e;
}

static void score(struct eval_score *out, struct eval_summary *sum, const struct model *m)
{
    fathom_err err = {0};
    struct eval_score_options o = {.engine = open_engine(NULL, m),
                                   .against = open_engine(exact_path, NULL)};
    if (eval_score(out, &set, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(eval_summarise(sum, out, &set, RESAMPLES, 1, &err), 0);
    fathom_engine_close(o.engine);
    fathom_engine_close(o.against);
}

/* Ours must have the smaller weighted error, and its divergence must not be shown to be the larger
 * one: the paired difference is not above 0 with confidence, and on average at most 5 % of the
 * reference's divergence above it. */
static void compare(const char *name, const struct imatrix *im)
{
    struct model ours = make_model(im, false), theirs = make_model(im, true);
    struct eval_score a, b;
    struct eval_summary sa, sb;
    struct eval_mean d;
    score(&a, &sa, &ours);
    score(&b, &sb, &theirs);
    assert_int_equal(eval_kl_difference(&d, &a, &b, &set, RESAMPLES, 1, NULL), 0);
    print_message("%s, %zu tokens: weighted squared error %.3f of the reference search's\n"
                  "  KL ours %.3e (%.3e .. %.3e), reference %.3e (%.3e .. %.3e)\n"
                  "  paired difference %+.3e (%+.3e .. %+.3e); same best token %.2f %% and "
                  "%.2f %%\n",
                  name, a.n, ours.error / theirs.error, sa.kl.mean, sa.kl.lo, sa.kl.hi,
                  sb.kl.mean, sb.kl.lo, sb.kl.hi, d.mean, d.lo, d.hi, 100 * sa.agree.mean,
                  100 * sb.agree.mean);
    assert_true(ours.error < theirs.error);
    assert_true(d.lo <= 0 && d.mean <= 0.05 * sb.kl.mean);
    eval_score_fini(&a);
    eval_score_fini(&b);
    mem_free(ours.p);
    mem_free(theirs.p);
}

static void test_with_matrix(void **state)
{
    (void)state;
    struct imatrix *im;
    fathom_err err = {0};
    assert_int_equal(imatrix_open(&im, "models/mini/imatrix.gguf", &err), 0);
    compare("importance matrix", im);
    imatrix_close(im);
}

static void test_without(void **state)
{
    (void)state;
    compare("energy of the weights", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_matrix),
        cmocka_unit_test(test_without),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
