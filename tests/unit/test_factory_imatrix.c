/* Importance matrices as files: both forms read, every kind of damage refused by name, what is
 * written read back, merging as addition, and the rule that turns sums into importance. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "factory/imatrix.h"
#include "factory_common.h"
#include "gguf/gguf.h"

/* ---- building files ---- */

static void add_i32(struct buf *b, int32_t v)
{
    uint8_t raw[4];
    store_le32(raw, (uint32_t)v);
    buf_add(b, raw, 4);
}

static void add_f32(struct buf *b, float v)
{
    add_i32(b, (int32_t)f32_bits(v));
}

/* One legacy entry whose values are v[0..n). */
static void add_legacy(struct buf *b, const char *name, int32_t ncall, const float *v,
                       int32_t n)
{
    add_i32(b, (int32_t)strlen(name));
    buf_adds(b, name);
    add_i32(b, ncall);
    add_i32(b, n);
    for (int32_t i = 0; i < n; i++) {
        add_f32(b, v[i]);
    }
}

static const double *sums_of;
static int give_sums(void *user, size_t i, uint32_t mat, double *out, fathom_err *err)
{
    const struct imatrix_writing *w = user;
    const double *at = sums_of;
    (void)err;
    for (size_t k = 0; k < i; k++) {
        at += w->t[k].n_cols * w->t[k].n_mat;
    }
    memcpy(out, at + mat * w->t[i].n_cols, w->t[i].n_cols * sizeof *out);
    return 0;
}

/* A file of the given tensors; sums one behind the other. */
static int write_gguf(const char *path, const struct imatrix_tensor *t, size_t n,
                      const double *sums, const char *dataset, fathom_err *err)
{
    struct slice name = slice_of(dataset);
    struct imatrix_writing w = {.t = t,
                                .n = n,
                                .datasets = &name,
                                .n_datasets = 1,
                                .chunk_count = 3,
                                .chunk_size = 7,
                                .sums = give_sums};
    w.user = &w;
    sums_of = sums;
    return imatrix_write(path, &w, err);
}

static void refused(const struct buf *b, size_t n, const char *why)
{
    struct imatrix *im;
    fathom_err err = {0};
    int rc = imatrix_open_mem(&im, b->p, n, "name.x", &err);
    assert_int_equal(rc, FATHOM_EFORMAT);
    assert_null(im);
    if (!strstr(err.msg, why)) {
        fail_msg("no \"%s\" in \"%s\"", why, err.msg);
    }
    assert_non_null(strstr(err.msg, "name.x"));
}

/* ---- reading ---- */

static void test_legacy(void **state)
{
    (void)state;
    struct buf b = {0};
    const float a[] = {2, 4, 6, 1, 1, 1}, c[] = {0.5f};
    add_i32(&b, 2);
    add_legacy(&b, "first", 2, a, 6);
    add_legacy(&b, "second", 0, c, 1);
    size_t bare = b.n;
    add_i32(&b, 12);
    add_i32(&b, 4);
    buf_adds(&b, "text");
    struct imatrix *im;
    fathom_err err = {0};
    assert_int_equal(imatrix_open_mem(&im, b.p, b.n, "x", &err), 0);
    assert_true(imatrix_is_legacy(im));
    assert_int_equal(imatrix_n(im), 2);
    assert_int_equal(imatrix_chunk_count(im), 12);
    assert_true(slice_is(imatrix_dataset(im, 0), "text"));
    const struct imatrix_entry *e = imatrix_find(im, "first");
    assert_ptr_equal(e, imatrix_at(im, 0));
    assert_null(e->count);
    assert_null(imatrix_find(im, "third"));
    struct arena arena = {0};
    struct imatrix_use use;
    float v[3];
    assert_int_equal(imatrix_bind(&use, im, "first", 6, 1, 32, &arena, &err), 0);
    assert_int_equal(imatrix_bind(&use, im, "first", 3, 2, 32, &arena, &err), 0);
    assert_int_equal(imatrix_weights(&use, 0, 32, v, &err), 0);
    assert_true(v[0] == 1 && v[1] == 2 && v[2] == 3); /* divided by ncall */
    imatrix_close(im);
    arena_fini(&arena);
    /* every shorter file but the one without the tail is refused */
    for (size_t n = 0; n < b.n; n++) {
        if (n != bare && n != bare + 4) {
            refused(&b, n, "neither a GGUF nor a legacy importance matrix");
        }
    }
    buf_addc(&b, 0);
    refused(&b, b.n, "bytes behind the end");
    buf_free(&b);
}

static void test_legacy_damage(void **state)
{
    (void)state;
    struct buf b = {0};
    const float good = 1, bad[] = {-1, NAN, INFINITY};
    const int32_t counts[] = {-1, 0, 2, 1 << 30, INT32_MIN};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) { /* entries; name length; values */
        for (int where = 0; where < 3; where++) {
            buf_clear(&b);
            add_i32(&b, where == 0 ? counts[i] : 1);
            add_i32(&b, where == 1 ? counts[i] : 1);
            buf_adds(&b, "a");
            add_i32(&b, 1);
            add_i32(&b, where == 2 ? counts[i] : 1);
            add_f32(&b, 1);
            refused(&b, b.n, "neither a GGUF");
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        buf_clear(&b);
        add_i32(&b, 1);
        add_legacy(&b, "a", 1, &bad[i], 1);
        refused(&b, b.n, "finite and not negative");
    }
    buf_clear(&b);
    add_i32(&b, 2);
    add_legacy(&b, "twin", 1, &good, 1);
    add_legacy(&b, "twin", 1, &good, 1);
    refused(&b, b.n, "two entries are named twin");
    buf_free(&b);
}

static void test_written_reads_back(void **state)
{
    (void)state;
    const double count[] = {4, 0}, one[] = {10};
    const double sums[] = {1, 2, 3, 0, 0, 0, 1e-3, 1e20};
    const struct imatrix_tensor t[] = {{"blk.0.ffn_gate_exps.weight", 3, 2, count},
                                       {"output.weight", 2, 1, one}};
    const char *path = tmp_path("im.gguf");
    fathom_err err = {0};
    assert_int_equal(write_gguf(path, t, 2, sums, "corpus.txt", &err), 0);
    struct imatrix *im;
    assert_int_equal(imatrix_open(&im, path, &err), 0);
    assert_false(imatrix_is_legacy(im));
    assert_int_equal(imatrix_n(im), 2);
    assert_int_equal(imatrix_chunk_count(im), 3);
    assert_int_equal(imatrix_chunk_size(im), 7);
    assert_true(slice_is(imatrix_dataset(im, 0), "corpus.txt"));
    size_t at = 0;
    for (size_t i = 0; i < 2; i++) {
        const struct imatrix_entry *e = imatrix_find(im, t[i].name);
        float v[8];
        assert_int_equal(e->n_cols, t[i].n_cols);
        assert_int_equal(e->n_mat, t[i].n_mat);
        assert_int_equal(imatrix_values(im, e, 0, e->n_values, v, &err), 0);
        for (uint64_t k = 0; k < e->n_values; k++) {
            assert_true(v[k] == (float)sums[at + k]);
        }
        for (uint32_t m = 0; m < e->n_mat; m++) {
            assert_true(e->count[m] == t[i].count[m]);
        }
        at += e->n_values;
    }
    imatrix_close(im);
    /* the strict rule of other readers: no gaps but padding */
    struct gguf *g;
    assert_int_equal(gguf_open(&g, path, &err), 0);
    uint64_t next = gguf_tensor_at(g, 0)->offset;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        assert_int_equal(gguf_tensor_at(g, i)->offset, next);
        next = align_up(next + gguf_tensor_at(g, i)->bytes, 32);
    }
    gguf_close(g);
}

static void test_write_refuses(void **state)
{
    (void)state;
    const double bad[] = {NAN, -1, INFINITY, 1e39}, fine[] = {1};
    const char *path = tmp_path("never.gguf");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        fathom_err err = {0};
        struct imatrix_tensor t = {"a.weight", 1, 1, fine};
        assert_int_equal(write_gguf(path, &t, 1, &bad[i], "x", &err), FATHOM_EINVAL);
        assert_non_null(strstr(err.msg, "a.weight"));
        t.count = &bad[i];
        assert_int_equal(write_gguf(path, &t, 1, fine, "x", NULL), FATHOM_EINVAL);
    }
    assert_false(path_exists(path));
    assert_false(path_exists(tmp_path("never.gguf.part")));
}

/* ---- GGUF files that are no importance matrices ---- */

struct part {
    const char *name;
    uint32_t type;
    uint64_t ne[2];
    float value;
};

/* A GGUF of these tensors, each filled with its value. */
static void build(struct buf *b, const char *kind, const struct part *p, size_t n)
{
    struct gguf_writer *w = gguf_writer_new();
    fathom_err err = {0};
    if (kind) {
        gguf_writer_str(w, "general.type", slice_of(kind));
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(gguf_writer_tensor(w, p[i].name, p[i].type, 2, p[i].ne, &err), (int)i);
    }
    buf_clear(b);
    assert_int_equal(gguf_writer_header(w, b, &err), 0);
    for (size_t i = 0; i < n; i++) {
        while (b->n < gguf_writer_offset(w, (int)i)) {
            buf_addc(b, 0);
        }
        for (uint64_t k = 0; k < gguf_writer_tensor_bytes(w, (int)i); k += 4) {
            add_f32(b, p[i].value);
        }
    }
    while (b->n < gguf_writer_file_bytes(w)) {
        buf_addc(b, 0);
    }
    gguf_writer_free(w);
}

static void test_gguf_damage(void **state)
{
    (void)state;
    enum { F32 = 0, F16 = 1, I32 = 26 };
    const struct part sums = {"a.in_sum2", F32, {4, 2}, 1},
                      counts = {"a.counts", F32, {1, 2}, 1};
    const struct {
        const char *kind;
        struct part p[2];
        size_t n;
        const char *why;
    } cases[] = {
        {"model", {sums, counts}, 2, "general.type"},
        {NULL, {sums, counts}, 2, "general.type"},
        {"imatrix", {sums, counts}, 0, "without entries"},
        {"imatrix", {sums, counts}, 1, "has no a.counts"},
        {"imatrix", {counts, sums}, 1, "0 sums but 1 counts"},
        {"imatrix", {sums, {"a.counts", F32, {1, 3}, 1}}, 2, "one value for each matrix"},
        {"imatrix", {sums, {"a.counts", I32, {1, 2}, 1}}, 2, "must be F32"},
        {"imatrix", {sums, {"a.counts", F32, {1, 2}, -1}}, 2, "negative or not finite"},
        {"imatrix", {sums, {"a.counts", F32, {1, 2}, NAN}}, 2, "negative or not finite"},
        {"imatrix", {{"a.in_sum2", F16, {4, 2}, 1}, counts}, 2, "must be F32"},
        {"imatrix", {{"a.in_sum2", F32, {4, 2}, NAN}, counts}, 2, "finite and not negative"},
        {"imatrix", {{"a.weight", F32, {4, 2}, 1}, sums}, 1, "does not belong"},
    };
    struct buf b = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        build(&b, cases[i].kind, cases[i].p, cases[i].n);
        refused(&b, b.n, cases[i].why);
    }
    buf_free(&b);
}

/* ---- importance ---- */

static void test_shrinkage(void **state)
{
    (void)state;
    /* expert 0 met 100 inputs, expert 1 two, expert 2 none */
    const double count[] = {100, 2, 0}, sums[] = {100, 300, 4, 0, 0, 0};
    const struct imatrix_tensor t = {"w", 2, 3, count};
    const char *path = tmp_path("s.gguf");
    fathom_err err = {0};
    assert_int_equal(write_gguf(path, &t, 1, sums, "x", &err), 0);
    struct imatrix *im;
    assert_int_equal(imatrix_open(&im, path, &err), 0);
    struct arena a = {0};
    struct imatrix_use use;
    assert_int_equal(imatrix_bind(&use, im, "w", 2, 3, 32, &a, &err), 0);
    assert_int_equal(use.n_few, 1);
    assert_int_equal(use.n_none, 1);
    const double mean[] = {104.0 / 102, 300.0 / 102};
    for (uint32_t m = 0; m < 3; m++) {
        for (int k = 0; k <= 32; k += 32) {
            float v[2];
            assert_int_equal(imatrix_weights(&use, m, k, v, &err), 0);
            for (int c = 0; c < 2; c++) {
                double n = count[m] + k;
                double want = n > 0 ? (sums[2 * m + c] + k * mean[c]) / n : mean[c];
                assert_true(fabs((double)v[c] - want) <= 1e-6 * want);
            }
        }
    }
    /* an entry of another size, and one that is not there */
    assert_int_equal(imatrix_bind(&use, im, "w", 3, 3, 32, &a, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "another model"));
    assert_int_equal(imatrix_bind(&use, im, "w", 2, 2, 32, &a, NULL), FATHOM_EFORMAT);
    assert_int_equal(imatrix_bind(&use, im, "v", 2, 3, 32, &a, NULL), 0);
    assert_null(use.e);
    imatrix_close(im);
    /* nothing measured at all counts as not there */
    const double none[] = {0, 0, 0}, zeros[6] = {0};
    const struct imatrix_tensor z = {"w", 2, 3, none};
    assert_int_equal(write_gguf(path, &z, 1, zeros, "x", &err), 0);
    assert_int_equal(imatrix_open(&im, path, &err), 0);
    assert_int_equal(imatrix_bind(&use, im, "w", 2, 3, 32, &a, NULL), 0);
    assert_null(use.e);
    imatrix_close(im);
    arena_fini(&a);
}

/* A legacy file has means and no counts: nothing is shrunk, ones mean "never chosen". */
static void test_legacy_importance(void **state)
{
    (void)state;
    const float v[] = {2, 6, 1, 1, 4, 8};
    struct buf b = {0};
    add_i32(&b, 1);
    add_legacy(&b, "w", 1, v, 6);
    struct imatrix *im;
    fathom_err err = {0};
    assert_int_equal(imatrix_open_mem(&im, b.p, b.n, "x", &err), 0);
    struct arena a = {0};
    struct imatrix_use use;
    assert_int_equal(imatrix_bind(&use, im, "w", 2, 3, 32, &a, &err), 0);
    assert_int_equal(use.n_none, 1);
    const float want[] = {2, 6, 3, 7, 4, 8};
    for (uint32_t m = 0; m < 3; m++) {
        float got[2];
        assert_int_equal(imatrix_weights(&use, m, 32, got, &err), 0);
        assert_true(got[0] == want[2 * m] && got[1] == want[2 * m + 1]);
    }
    /* one vector for all matrices */
    assert_int_equal(imatrix_bind(&use, im, "w", 6, 5, 32, &a, &err), 0);
    assert_true(use.shared);
    float got[6];
    assert_int_equal(imatrix_weights(&use, 4, 32, got, &err), 0);
    assert_memory_equal(got, v, sizeof v);
    imatrix_close(im);
    arena_fini(&a);
    buf_free(&b);
}

/* ---- merging ---- */

static char said[512];
static void note(void *user, const char *line)
{
    (void)user;
    snprintf(said, sizeof said, "%s", line);
}

static void test_merge(void **state)
{
    (void)state;
    const double c1[] = {1, 0}, c2[] = {2, 5}, c3[] = {1};
    const double s1[] = {1, 2, 0, 0};
    const struct imatrix_tensor a[] = {{"x", 2, 2, c1}},
                                b[] = {{"y", 1, 1, c3}, {"x", 2, 2, c2}};
    const double sb[] = {8, 10, 20, 4, 5};
    fathom_err err = {0};
    const char *in[2] = {mem_strdup(tmp_path("m1.gguf")), mem_strdup(tmp_path("m2.gguf"))};
    char *out = mem_strdup(tmp_path("m3.gguf"));
    assert_int_equal(write_gguf(in[0], a, 1, s1, "one", &err), 0);
    assert_int_equal(write_gguf(in[1], b, 2, sb, "two", &err), 0);
    assert_int_equal(imatrix_merge(out, in, 2, note, NULL, &err), 0);
    assert_non_null(strstr(said, "m1.gguf has 1 of 2 entries"));
    struct imatrix *im;
    assert_int_equal(imatrix_open(&im, out, &err), 0);
    assert_int_equal(imatrix_n(im), 2);
    assert_int_equal(imatrix_n_datasets(im), 2);
    assert_int_equal(imatrix_chunk_count(im), 6);
    const struct imatrix_entry *e = imatrix_find(im, "x");
    float v[4];
    assert_int_equal(imatrix_values(im, e, 0, 4, v, &err), 0);
    const float want[] = {11, 22, 4, 5};
    assert_memory_equal(v, want, sizeof want);
    assert_true(e->count[0] == 3 && e->count[1] == 5);
    assert_true(imatrix_find(im, "y")->count[0] == 1);
    imatrix_close(im);
    /* the same data set is named once; other sizes are refused, and OUT keeps what it held */
    assert_int_equal(
        imatrix_merge(out, (const char *const[]){in[0], in[0]}, 2, NULL, NULL, &err), 0);
    assert_int_equal(imatrix_open(&im, out, &err), 0);
    assert_int_equal(imatrix_n_datasets(im), 1);
    uint64_t digest = imatrix_digest(im);
    imatrix_close(im);
    const struct imatrix_tensor other[] = {{"x", 4, 1, c3}};
    assert_int_equal(write_gguf(in[1], other, 1, s1, "two", &err), 0);
    assert_int_equal(imatrix_merge(out, in, 2, NULL, NULL, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "4 x 1 here and 2 x 2"));
    assert_int_equal(imatrix_open(&im, out, NULL), 0);
    assert_true(imatrix_digest(im) == digest);
    imatrix_close(im);
    mem_free((void *)(uintptr_t)in[0]);
    mem_free((void *)(uintptr_t)in[1]);
    mem_free(out);
}

static int setup(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_legacy_damage),
        cmocka_unit_test(test_written_reads_back),
        cmocka_unit_test(test_write_refuses),
        cmocka_unit_test(test_gguf_damage),
        cmocka_unit_test(test_shrinkage),
        cmocka_unit_test(test_legacy_importance),
        cmocka_unit_test(test_merge),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
