/* test_factory_synthetic.c - random rows have the spread that was asked for, in every format;
 * synthetic models are valid, the same bytes in memory and in a file and for any number of
 * threads, and their step gives finite logits of sane size; what cannot be made is refused with
 * the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "factory/random_rows.h"
#include "factory/synthetic.h"
#include "gguf/gguf.h"
#include "model/weights.h"
#include "quant/formats.h"

enum { COLS = 1024, ROWS = 64 };

/* Mean and spread of the decoded values, all of them finite. Uniform codes: the tolerance
 * covers 65536 values, codes that reach from -8 to 7, and the step of a power-of-two scale. */
static void check_rows(uint32_t type, float mean, float dev)
{
    struct random_rows g;
    fathom_err err = {0};
    assert_int_equal(random_rows_init(&g, type, COLS, mean, dev, 5, &err), 0);
    unsigned char *rows = mem_alloc(ROWS, g.row_bytes), *again = mem_alloc(ROWS, g.row_bytes);
    float *x = mem_alloc(COLS, sizeof *x);
    random_rows_fill(&g, 0, ROWS, rows);
    for (uint64_t r = ROWS; r-- > 0;) { /* any slice by itself */
        random_rows_fill(&g, r, 1, again + r * g.row_bytes);
    }
    assert_memory_equal(rows, again, ROWS * g.row_bytes);
    double sum = 0, squares = 0, n = (double)ROWS * COLS;
    for (int r = 0; r < ROWS; r++) {
        assert_true(quant_row_finite(type, rows + (size_t)r * g.row_bytes, COLS));
        quant_decode(type, rows + (size_t)r * g.row_bytes, 0, COLS, x);
        for (int i = 0; i < COLS; i++) {
            sum += (double)x[i];
            squares += (double)x[i] * (double)x[i];
        }
    }
    double got = sqrt(squares / n - sum / n * (sum / n));
    double rel = type == QT_MXFP4 ? 0.45 : 0.10;
    if (fabs(sum / n - (double)mean) > 0.15 * (double)dev ||
        fabs(got / (double)dev - 1) > rel) {
        fail_msg("%s: mean %g, deviation %g; asked for %g, %g", qformat(type)->name, sum / n,
                 got, (double)mean, (double)dev);
    }
    mem_free(rows);
    mem_free(again);
    mem_free(x);
}

static void test_spread(void **state)
{
    (void)state;
    static const uint32_t types[] = {
        QT_Q4_0,    QT_Q5_0,   QT_Q8_0,  QT_Q2_K,    QT_Q3_K,  QT_Q4_K,   QT_Q5_K,   QT_Q6_K,
        QT_IQ2_XXS, QT_IQ2_XS, QT_IQ2_S, QT_IQ3_XXS, QT_IQ3_S, QT_IQ4_NL, QT_IQ4_XS, QT_MXFP4};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        check_rows(types[i], 0, 1.0f / 32);
        check_rows(types[i], 0, 1.0f / 128);
    }
    check_rows(QT_F32, 1, 0.1f);
    check_rows(QT_F16, -2, 0.5f);
    check_rows(QT_BF16, 0, 1.0f / 64);
}

static void test_unknown_type(void **state)
{
    (void)state;
    struct random_rows g;
    fathom_err err = {0};
    assert_int_equal(random_rows_init(&g, QT_NVFP4, COLS, 0, 1, 1, &err), FATHOM_EUNSUPPORTED);
    err = (fathom_err){0};
    assert_int_equal(random_rows_init(&g, QT_Q2_K, 100, 0, 1, 1, &err), FATHOM_EINVAL);
}

static void test_shape(void **state)
{
    (void)state;
    struct shape s;
    fathom_err err = {0};
    struct synthetic_options o = {.shape = "flash", .recipe = "q2", .n_layer = 4};
    assert_int_equal(synthetic_shape(&s, &o, &err), 0);
    static const uint16_t cut[4] = {0, 4, 128, 4};
    assert_memory_equal(s.ratio, cut, sizeof cut);
    assert_int_equal(s.n_hash, 1);
    assert_int_equal(s.n_expert, 256);
    static const uint16_t own[2] = {4, 0};
    o.n_layer = 2;
    o.ratios = own;
    assert_int_equal(synthetic_shape(&s, &o, &err), 0);
    assert_memory_equal(s.ratio, own, sizeof own);
    assert_int_equal(s.max_ratio, 4);
    o = (struct synthetic_options){.shape = "pro", .recipe = "q2"};
    assert_int_equal(synthetic_shape(&s, &o, &err), 0);
    assert_int_equal(s.n_layer, 61);
    struct synthetic_options bad[] = {{.shape = "v5", .recipe = "q2"},
                                      {.shape = "flash", .recipe = "q2", .n_layer = 44},
                                      {.shape = "flash", .recipe = "q2", .n_expert = 5},
                                      {.shape = "flash", .recipe = "q2", .n_vocab = 1 << 20}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err = (fathom_err){0};
        assert_int_equal(synthetic_shape(&s, &bad[i], &err), FATHOM_EINVAL);
        assert_true(err.msg[0]);
    }
}

static const struct synthetic_options SMALL = {.shape = "flash",
                                               .recipe = "q2",
                                               .n_layer = 1,
                                               .n_expert = 6,
                                               .n_vocab = 320,
                                               .seed = 3,
                                               .n_threads = 3};

static void test_memory_and_file(void **state)
{
    (void)state;
    struct synthetic a, b;
    fathom_err err = {0};
    uint64_t bytes = 0;
    assert_int_equal(synthetic_bytes(&bytes, &SMALL, &err), 0);
    assert_int_equal(synthetic_make(&a, &SMALL, &err), 0);
    assert_int_equal(a.n_bytes, bytes);
    struct synthetic_options one = SMALL;
    one.n_threads = 1;
    assert_int_equal(synthetic_make(&b, &one, &err), 0);
    assert_true(memcmp(a.data, b.data, a.n_bytes) == 0);
    synthetic_free(&b);

    char path[] = "/tmp/fathom-synthetic-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(synthetic_save(path, &SMALL, &err), 0);
    struct file_map m;
    assert_int_equal(file_map_open(&m, path, &err), 0);
    assert_int_equal(m.n, a.n_bytes);
    assert_true(memcmp(m.p, a.data, m.n) == 0);
    file_map_close(&m);
    unlink(path);

    struct gguf *g;
    struct shape *s = mem_calloc(1, sizeof *s);
    struct weights w = {0};
    assert_int_equal(gguf_open_mem(&g, a.data, a.n_bytes, "synthetic", &err), 0);
    assert_int_equal(shape_from_gguf(s, g, &err), 0);
    assert_int_equal(weights_bind(&w, g, s, &err), 0);
    struct slice of = {0};
    assert_true(gguf_str(gguf_find(g, SYNTHETIC_KEY), &of) && slice_is(of, "flash"));
    const struct gguf_tensor *up = gguf_find_tensor(g, "blk.0.ffn_up_exps.weight");
    assert_true(up && up->type == QT_IQ2_XXS && up->ne[2] == 6);
    weights_free(&w);
    gguf_close(g);
    mem_free(s);
    synthetic_free(&a);
}

static bool stop_at_once(void *user, const char *stage, uint64_t done, uint64_t total)
{
    (void)stage;
    (void)done;
    (void)total;
    ++*(int *)user;
    return false;
}

static void test_refused(void **state)
{
    (void)state;
    struct synthetic m;
    fathom_err err = {0};
    struct synthetic_options o = {.shape = "flash", .recipe = "q2", .limit_bytes = 1 << 30};
    assert_int_equal(synthetic_make(&m, &o, &err), FATHOM_ENOMEM);
    assert_non_null(strstr(err.msg, "1.07 GB"));
    assert_non_null(strstr(err.msg, "--layers"));
    err = (fathom_err){0};
    o.recipe = "q17";
    assert_int_equal(synthetic_make(&m, &o, &err), FATHOM_EINVAL);
    int calls = 0;
    o = SMALL;
    o.progress = stop_at_once;
    o.user = &calls;
    err = (fathom_err){0};
    assert_int_equal(synthetic_make(&m, &o, &err), FATHOM_ECANCEL);
    assert_int_equal(calls, 1);
    assert_null(m.data);
    err = (fathom_err){0};
    assert_int_equal(synthetic_save("/tmp/fathom-synthetic-cancelled.gguf", &o, &err),
                     FATHOM_ECANCEL);
    assert_int_equal(access("/tmp/fathom-synthetic-cancelled.gguf", F_OK), -1);
    assert_int_equal(access("/tmp/fathom-synthetic-cancelled.gguf.part", F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),  cmocka_unit_test(test_unknown_type),
        cmocka_unit_test(test_shape),   cmocka_unit_test(test_memory_and_file),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
