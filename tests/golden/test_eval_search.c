/* Are the files of our quantisers at least as good, end to end, as those of the reference's search
 * (tests/unit/quant_reference.h)? The routed experts of the mini model are quantised twice to the
 * types of recipe q2, from the same rows with the same importance, once by each search, and put
 * back as F32; everything else is the same Q8_0 and F16. Both files are compared with the
 * lossless one over continuations of tests/data/mini-model, token by token: KL divergence, same
 * best token, and the paired difference of the divergences with its 95 % interval.
 *
 * One pair of files says little: a few tokens where the model hesitates make most of a mean
 * divergence, and which of them a file hits is luck. So it is done with the importance matrix that
 * the shipped file is made with and with the energy of the weights, as without a matrix: with
 * neither may our file be worse with confidence, or have fewer same best tokens, and over both
 * together its divergence must not be larger. FATHOM_TEST_TASKS=N takes every N-th case, and then
 * only the differences with confidence count. links: cmd */
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

enum kind { MATRIX, ENERGY, KINDS };
static const char *const KIND[KINDS] = {"importance matrix", "energy of the weights"};

static char dir[64], exact_path[128], q2_path[128], rows_path[128];
static struct gguf *exact, *q2;
static struct imatrix *matrix;
static struct eval_set set;
static struct ref_file rows; /* what the lossless file predicts */
static bool all_cases;

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
    all_cases = step == 1;
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

struct model {
    unsigned char *p;
    size_t n;
    double error; /* sum of importance x squared error of its experts */
};

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

/* The predictions of the lossless file, once for all comparisons. */
static void save_rows(void)
{
    fathom_err err = {0};
    struct eval_score x;
    struct ref_writer w;
    fathom_info info;
    struct eval_score_options o = {.engine = open_engine(exact_path, NULL), .save = &w};
    fathom_engine_info(o.engine, &info);
    struct ref_head h = {.n_vocab = info.n_vocab,
                         .n_rows = set.n_scored,
                         .set_hash = eval_set_hash(&set),
                         .name = "lossless"};
    assert_int_equal(ref_create(&w, rows_path, &h, &err), 0);
    assert_int_equal(eval_score(&x, &set, &o, &err), 0);
    assert_int_equal(ref_commit(&w, &err), 0);
    assert_int_equal(ref_open(&rows, rows_path, &err), 0);
    eval_score_fini(&x);
    fathom_engine_close(o.engine);
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
    snprintf(rows_path, sizeof rows_path, "%s/rows.bin", dir);
    convert(exact_path, "bf16");
    convert(q2_path, "q2");
    assert_int_equal(gguf_open(&exact, exact_path, &err), 0);
    assert_int_equal(gguf_open(&q2, q2_path, &err), 0);
    assert_int_equal(imatrix_open(&matrix, "models/mini/imatrix.gguf", &err), 0);
    make_set();
    save_rows();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gguf_close(exact);
    gguf_close(q2);
    imatrix_close(matrix);
    ref_close(&rows);
    eval_set_fini(&set);
    unlink(exact_path);
    unlink(q2_path);
    unlink(rows_path);
    return rmdir(dir);
}

/* ---- a model whose experts went through one of the searches ---- */

static bool is_expert(const struct gguf_tensor *t)
{
    return t->rank == 3 && (t->type == QT_IQ2_XXS || t->type == QT_Q2_K);
}

static void by_matrix(float *q, const struct gguf_tensor *t, uint32_t mat)
{
    struct imatrix_use use;
    struct arena a = {0};
    fathom_err err = {0};
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
    assert_int_equal(imatrix_bind(&use, matrix, name, t->ne[0], (uint32_t)t->ne[2],
                                  IMATRIX_SHRINK, &a, &err),
                     0);
    assert_non_null(use.e);
    assert_int_equal(imatrix_weights(&use, mat, IMATRIX_SHRINK, q, &err), 0);
    arena_fini(&a);
}

/* Importance of the columns of one expert with these rows. */
static void importance(float *q, enum kind kind, const struct gguf_tensor *t, uint32_t mat,
                       const float *x)
{
    uint64_t cols = t->ne[0];
    if (kind == MATRIX) {
        by_matrix(q, t, mat);
        return;
    }
    for (uint64_t c = 0; c < cols; c++) {
        float e = 0;
        for (uint64_t r = 0; r < t->ne[1]; r++) {
            e += x[r * cols + c] * x[r * cols + c];
        }
        q[c] = e;
    }
}

/* out: F32 [mats][rows][cols]; *error: sum of importance x squared error. */
static void quantise_experts(float *out, const struct gguf_tensor *t, enum kind kind,
                             bool reference, double *error)
{
    uint64_t cols = t->ne[0], n_rows = t->ne[1];
    const struct gguf_tensor *from = NULL;
    for (size_t i = 0; i < gguf_n_tensors(exact); i++) {
        const struct gguf_tensor *e = gguf_tensor_at(exact, i);
        from = slice_eq(e->name, t->name) ? e : from;
    }
    assert_non_null(from);
    float *x = mem_alloc(n_rows * cols, sizeof *x), *q = mem_alloc(cols, sizeof *q);
    unsigned char *row = mem_alloc(cols, sizeof *x);
    for (uint32_t m = 0; m < t->ne[2]; m++) {
        for (uint64_t r = 0; r < n_rows; r++) {
            quant_decode(from->type, from->data + (m * n_rows + r) * from->row_bytes, 0, cols,
                         x + r * cols);
        }
        importance(q, kind, t, m, x);
        for (uint64_t r = 0; r < n_rows; r++) {
            float *y = out + (m * n_rows + r) * cols;
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

static struct model make_model(enum kind kind, bool reference)
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
            quantise_experts((float *)(void *)at, t, kind, reference, &m.error);
        } else {
            memcpy(at, t->data, t->bytes);
        }
    }
    buf_free(&header);
    gguf_writer_free(w);
    return m;
}

/* ---- comparison ---- */

static void score(struct eval_score *out, struct eval_summary *sum, const struct model *m)
{
    fathom_err err = {0};
    struct eval_score_options o = {.engine = open_engine(NULL, m), .reference = &rows};
    if (eval_score(out, &set, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(eval_summarise(sum, out, &set, RESAMPLES, 1, &err), 0);
    fathom_engine_close(o.engine);
}

/* Returns the mean paired difference: negative, if ours is closer. */
static double compare(enum kind kind)
{
    struct model ours = make_model(kind, false), theirs = make_model(kind, true);
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
                  KIND[kind], a.n, ours.error / theirs.error, sa.kl.mean, sa.kl.lo, sa.kl.hi,
                  sb.kl.mean, sb.kl.lo, sb.kl.hi, d.mean, d.lo, d.hi, 100 * sa.agree.mean,
                  100 * sb.agree.mean);
    assert_true(ours.error < theirs.error);
    assert_true(d.lo <= 0);
    assert_true(!all_cases || sa.agree.mean >= sb.agree.mean);
    eval_score_fini(&a);
    eval_score_fini(&b);
    mem_free(ours.p);
    mem_free(theirs.p);
    return d.mean;
}

static void test_searches(void **state)
{
    (void)state;
    double sum = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        sum += compare((enum kind)kind);
    }
    print_message("mean over both: %+.3e\n", sum / KINDS);
    assert_true(!all_cases || sum <= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_searches)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
