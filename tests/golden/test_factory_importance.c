/* What an importance matrix does to a converted file. The mini model is converted with and
 * without one whose columns differ from expert to expert: each expert's error, weighed by its
 * own importance, must fall; experts that were never chosen must be made for the mean of their
 * layer; and the file must say which matrix it was made with. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "factory/convert.h"
#include "factory/imatrix.h"
#include "gguf/gguf.h"
#include "quant/formats.h"

static const char MINI[] = FATHOM_SOURCE_DIR "/models/mini";
enum { N_LAYER = 5, N_EXPERT = 8, COLS = 256, ROWS = 256 };
static const char *const KIND[] = {"gate", "up", "down"};
enum { N_TENSOR = 3 * N_LAYER };

static char dir[256];
static char names[N_TENSOR][48];
static double counts[N_TENSOR][N_EXPERT], sums[N_TENSOR][N_EXPERT][COLS];

static const char *at(const char *name)
{
    static char bufs[4][320];
    static unsigned turn;
    char *b = bufs[turn++ % 4];
    snprintf(b, sizeof bufs[0], "%s/%s", dir, name);
    return b;
}

/* ---- the matrix: log-normal columns; the last expert never chosen, the first one twice ---- */

static int give(void *user, size_t i, uint32_t mat, double *out, fathom_err *err)
{
    const struct imatrix_writing *w = user;
    (void)err;
    memcpy(out, sums[i][mat], w->t[i].n_cols * sizeof *out);
    return 0;
}

static void make_matrix(const char *path)
{
    struct imatrix_tensor t[N_TENSOR];
    struct rng r = {99};
    for (size_t i = 0; i < N_TENSOR; i++) {
        snprintf(names[i], sizeof names[i], "blk.%zu.ffn_%s_exps.weight", i / 3, KIND[i % 3]);
        for (uint32_t e = 0; e < N_EXPERT; e++) {
            counts[i][e] = e == N_EXPERT - 1 ? 0 : e == 0 ? 2 : 1000 + e;
            for (int c = 0; c < COLS; c++) {
                double normal = rng_unit(&r) + rng_unit(&r) + rng_unit(&r) + rng_unit(&r) - 2;
                sums[i][e][c] = counts[i][e] * exp(3 * normal);
            }
        }
        t[i] = (struct imatrix_tensor){names[i], COLS, N_EXPERT, counts[i]};
    }
    struct slice set = SLICE("made up");
    struct imatrix_writing w = {.t = t,
                                .n = N_TENSOR,
                                .datasets = &set,
                                .n_datasets = 1,
                                .chunk_count = 17,
                                .chunk_size = 5,
                                .sums = give};
    w.user = &w;
    fathom_err err = {0};
    assert_int_equal(imatrix_write(path, &w, &err), 0);
}

/* What an expert should be made for, from the definition in imatrix.h. */
static double wanted(size_t i, uint32_t e, int c)
{
    double sum = 0, n = 0;
    for (uint32_t k = 0; k < N_EXPERT; k++) {
        sum += sums[i][k][c];
        n += counts[i][k];
    }
    return (sums[i][e][c] + IMATRIX_SHRINK * sum / n) / (counts[i][e] + IMATRIX_SHRINK);
}

/* ---- files ---- */

static int convert(const char *name, const char *recipe, const char *imatrix, bool strict,
                   fathom_err *err)
{
    struct convert_options o = {.dir = MINI,
                                .out = at(name),
                                .recipe = recipe,
                                .imatrix = imatrix,
                                .shrink = IMATRIX_SHRINK,
                                .imatrix_strict = strict,
                                .threads = 2};
    return convert_run(&o, err);
}

static struct gguf *open_file(const char *name)
{
    struct gguf *g;
    fathom_err err = {0};
    assert_int_equal(gguf_open(&g, at(name), &err), 0);
    return g;
}

static double weighted_error(const struct gguf *exact, const struct gguf *coded, size_t i,
                             uint32_t e)
{
    const struct gguf_tensor *a = gguf_find_tensor(exact, names[i]);
    const struct gguf_tensor *b = gguf_find_tensor(coded, names[i]);
    double sum = 0;
    for (uint64_t r = 0; r < ROWS; r++) {
        float x[COLS], y[COLS];
        uint64_t row = e * (uint64_t)ROWS + r;
        quant_decode(a->type, a->data + row * a->row_bytes, 0, COLS, x);
        quant_decode(b->type, b->data + row * b->row_bytes, 0, COLS, y);
        for (int c = 0; c < COLS; c++) {
            double d = (double)y[c] - (double)x[c];
            sum += wanted(i, e, c) * d * d;
        }
    }
    return sum;
}

static void test_every_expert_gains(void **state)
{
    (void)state;
    fathom_err err = {0};
    assert_int_equal(convert("exact.gguf", "f32", NULL, false, &err), 0);
    assert_int_equal(convert("plain.gguf", "q2", NULL, false, &err), 0);
    assert_int_equal(convert("weighed.gguf", "q2", at("im.gguf"), true, &err), 0);
    struct gguf *exact = open_file("exact.gguf"), *plain = open_file("plain.gguf"),
                *weighed = open_file("weighed.gguf");
    double worst = 0;
    for (size_t i = 0; i < N_TENSOR; i++) {
        for (uint32_t e = 0; e < N_EXPERT; e++) {
            double ratio =
                weighted_error(exact, weighed, i, e) / weighted_error(exact, plain, i, e);
            worst = ratio > worst ? ratio : worst;
            if (!(ratio < 0.9)) {
                fail_msg("%s, expert %u: %.3f of the error without importance", names[i], e,
                         ratio);
            }
        }
    }
    print_message("worst expert: %.3f of the error without importance\n", worst);
    /* what the file says */
    struct slice s;
    uint64_t n;
    assert_true(gguf_str(gguf_find(weighed, "quantize.imatrix.file"), &s));
    assert_true(slice_is(s, "im.gguf"));
    assert_true(gguf_str(gguf_find(weighed, "quantize.imatrix.dataset"), &s));
    assert_true(slice_is(s, "made up"));
    assert_true(gguf_u64(gguf_find(weighed, "quantize.imatrix.chunks_count"), &n) && n == 17);
    assert_true(gguf_u64(gguf_find(weighed, "quantize.imatrix.entries_count"), &n) &&
                n == N_TENSOR);
    assert_true(gguf_str(gguf_find(weighed, "fathom.imatrix.digest"), &s) && s.n == 16);
    assert_null(gguf_find(plain, "quantize.imatrix.file"));
    gguf_close(exact);
    gguf_close(plain);
    gguf_close(weighed);
}

static void test_strict(void **state)
{
    (void)state;
    fathom_err err = {0};
    /* a matrix of one tensor only */
    struct imatrix_tensor one = {names[0], COLS, N_EXPERT, counts[0]};
    struct imatrix_writing w = {.t = &one, .n = 1, .sums = give};
    w.user = &w;
    assert_int_equal(imatrix_write(at("one.gguf"), &w, &err), 0);
    assert_int_equal(convert("never.gguf", "q2", at("one.gguf"), true, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "no importance for blk."));
    err = (fathom_err){0};
    assert_int_equal(convert("some.gguf", "q2", at("one.gguf"), false, &err), 0);
    /* of another model */
    one.n_cols = 128;
    err = (fathom_err){0};
    assert_int_equal(imatrix_write(at("one.gguf"), &w, &err), 0);
    assert_int_equal(convert("never.gguf", "q2", at("one.gguf"), false, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "another model"));
    assert_int_not_equal(access(at("never.gguf"), F_OK), 0);
    assert_int_not_equal(access(at("never.gguf.part"), F_OK), 0);
}

/* One column in each row that counts for everything: the other columns may be given up, and the
 * check of the finished file must not take that for damage. */
static void test_extreme(void **state)
{
    (void)state;
    struct imatrix_tensor t[N_TENSOR];
    for (size_t i = 0; i < N_TENSOR; i++) {
        for (int e = 0; e < N_EXPERT; e++) {
            for (int c = 0; c < COLS; c++) {
                sums[i][e][c] = c == 7 * e + (int)i ? 1e9 : 1e-6 * (c % 3);
            }
        }
        t[i] = (struct imatrix_tensor){names[i], COLS, N_EXPERT, counts[1]};
    }
    struct imatrix_writing w = {.t = t, .n = N_TENSOR, .sums = give};
    w.user = &w;
    fathom_err err = {0};
    assert_int_equal(imatrix_write(at("one.gguf"), &w, &err), 0);
    if (convert("some.gguf", "q2", at("one.gguf"), true, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    if (convert("some.gguf", "q4", at("one.gguf"), true, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/fathom-importance-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    make_matrix(at("im.gguf"));
    return 0;
}

static int teardown(void **state)
{
    static const char *const files[] = {"im.gguf",      "one.gguf",   "exact.gguf",
                                        "weighed.gguf", "plain.gguf", "some.gguf"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        unlink(at(files[i]));
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_expert_gains),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_extreme),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
