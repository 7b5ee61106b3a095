/* test_gguf_write.c - what the writer lays out, read back: values, the strict running-sum rule
 * of offsets at alignments 32, 4096 and 16384, refused records, and the size of the published
 * V4 Flash layouts computed from their tensor table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "gguf/gguf.h"
#include "quant/formats.h"
#include "testdata.h"

static struct gguf *must_open(const struct buf *b)
{
    struct gguf *g;
    fathom_err err = {0};
    if (gguf_open_mem(&g, b->p, b->n, "test", &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return g;
}

static void add_keys(struct gguf_writer *w)
{
    static const int32_t ints[3] = {-1, 0, INT32_MAX};
    static const float floats[2] = {0.5f, -1e30f};
    static const struct slice strs[3] = {{"a", 1}, {"", 0}, {"x\0y\xFF", 4}};
    gguf_writer_str(w, "general.architecture", SLICE("deepseek4"));
    gguf_writer_u32(w, "k.u32", UINT32_MAX);
    gguf_writer_u64(w, "k.u64", UINT64_MAX);
    gguf_writer_f32(w, "k.f32", 1.25f);
    gguf_writer_bool(w, "k.true", true);
    gguf_writer_bool(w, "k.false", false);
    gguf_writer_arr_i32(w, "k.ints", ints, 3);
    gguf_writer_arr_f32(w, "k.floats", floats, 2);
    gguf_writer_arr_str(w, "k.strs", strs, 3);
    gguf_writer_arr_i32(w, "k.none", NULL, 0);
}

static void check_scalars(const struct gguf *g)
{
    uint64_t u = 0;
    double d = 0;
    bool b = false;
    struct slice s = {0};
    assert_true(gguf_str(gguf_find(g, "general.architecture"), &s) && slice_is(s, "deepseek4"));
    assert_true(gguf_u64(gguf_find(g, "k.u32"), &u) && u == UINT32_MAX);
    assert_true(gguf_u64(gguf_find(g, "k.u64"), &u) && u == UINT64_MAX);
    assert_true(gguf_f64(gguf_find(g, "k.u64"), &d) && d == 0x1p64);
    assert_true(gguf_f64(gguf_find(g, "k.f32"), &d) && d == 1.25);
    assert_true(gguf_bool(gguf_find(g, "k.true"), &b) && b);
    assert_true(gguf_bool(gguf_find(g, "k.false"), &b) && !b);
    assert_false(gguf_u64(gguf_find(g, "k.f32"), &u));
    assert_false(gguf_u64(gguf_find(g, "k.true"), &u));
    assert_false(gguf_bool(gguf_find(g, "k.u32"), &b));
    assert_false(gguf_str(gguf_find(g, "k.u32"), &s));
    assert_false(gguf_u64(gguf_find(g, "absent"), &u));
    assert_null(gguf_find(g, "k.u3"));
}

static void check_arrays(const struct gguf *g)
{
    uint64_t u = 0;
    double d = 0;
    struct slice s = {0};
    const struct gguf_kv *ints = gguf_find(g, "k.ints"), *strs = gguf_find(g, "k.strs");
    assert_int_equal(ints->n, 3);
    assert_false(gguf_u64_at(ints, 0, &u)); /* negative */
    assert_true(gguf_f64_at(ints, 0, &d) && d == -1);
    assert_true(gguf_u64_at(ints, 2, &u) && u == INT32_MAX);
    assert_false(gguf_u64_at(ints, 3, &u));
    assert_false(gguf_u64_at(strs, 0, &u));
    assert_false(gguf_u64(ints, &u));
    assert_true(gguf_f64_at(gguf_find(g, "k.floats"), 1, &d) && d == (double)-1e30f);
    size_t at = 0;
    assert_true(gguf_str_next(strs, &at, &s) && slice_is(s, "a"));
    assert_true(gguf_str_next(strs, &at, &s) && s.n == 0);
    assert_true(gguf_str_next(strs, &at, &s) && s.n == 4 && memcmp(s.p, "x\0y\xFF", 4) == 0);
    assert_false(gguf_str_next(strs, &at, &s));
    at = 0;
    assert_false(gguf_str_next(ints, &at, &s));
    assert_int_equal(gguf_find(g, "k.none")->n, 0);
    assert_false(gguf_u64_at(gguf_find(g, "k.none"), 0, &u));
}

static const struct shape {
    const char *name;
    uint32_t type, rank;
    uint64_t ne[4];
} shapes[] = {
    {"a.weight", QT_F32, 1, {3}},        {"b.weight", QT_IQ2_XXS, 3, {256, 2, 5}},
    {"c.weight", QT_MXFP4, 2, {64, 7}},  {"d.weight", QT_F16, 4, {1, 1, 1, 1}},
    {"e.weight", QT_Q8_0, 2, {32, 100}}, {"f.weight", QT_TQ1_0, 1, {256}},
    {"g.weight", QT_I32, 2, {6, 9}},
};

static void check_layout(uint32_t align)
{
    struct gguf_writer *w = gguf_writer_new();
    struct buf b = {0};
    fathom_err err = {0};
    buf_adds(&b, "before"); /* the header is appended */
    add_keys(w);
    gguf_writer_set_alignment(w, align);
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct shape *s = &shapes[i];
        assert_int_equal(gguf_writer_tensor(w, s->name, s->type, s->rank, s->ne, &err), (int)i);
    }
    assert_int_equal(gguf_writer_header(w, &b, &err), 0);
    memmove(b.p, b.p + 6, b.n -= 6);
    assert_int_equal(b.n % align, 0);
    uint64_t at = b.n;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        assert_int_equal(gguf_writer_offset(w, (int)i), at);
        at = align_up(at + gguf_writer_tensor_bytes(w, (int)i), align);
    }
    assert_int_equal(gguf_writer_file_bytes(w), at);
    while (b.n < at) {
        buf_addc(&b, (char)b.n);
    }
    struct gguf *g = must_open(&b);
    check_scalars(g);
    check_arrays(g);
    assert_int_equal(gguf_n_kv(g), 11);
    assert_int_equal(gguf_n_tensors(g), ARRAY_LEN(shapes));
    assert_int_equal(gguf_file_bytes(g), at);
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct gguf_tensor *t = gguf_find_tensor(g, shapes[i].name);
        assert_ptr_equal(t, gguf_tensor_at(g, i));
        assert_int_equal(t->type, shapes[i].type);
        assert_int_equal(t->rank, shapes[i].rank);
        uint64_t rows = 1;
        for (uint32_t k = 0; k < 4; k++) {
            assert_int_equal(t->ne[k], k < t->rank ? shapes[i].ne[k] : 1);
            rows *= k > 0 ? t->ne[k] : 1;
        }
        assert_int_equal(t->row_bytes, qformat_row_bytes(t->type, t->ne[0]));
        assert_int_equal(t->bytes, rows * t->row_bytes);
        assert_int_equal(t->bytes, gguf_writer_tensor_bytes(w, (int)i));
        assert_int_equal(t->offset, gguf_writer_offset(w, (int)i));
        assert_ptr_equal(t->data, (const unsigned char *)b.p + t->offset);
    }
    assert_null(gguf_tensor_at(g, ARRAY_LEN(shapes)));
    assert_null(gguf_find_tensor(g, "h.weight"));
    gguf_close(g);
    gguf_writer_free(w);
    buf_free(&b);
}

static void test_layout(void **state)
{
    (void)state;
    check_layout(32);
    check_layout(8);
    check_layout(4096);
    check_layout(16384);
}

/* Without set_alignment no key is written and 32 holds; an empty file is a file. */
static void test_minimal(void **state)
{
    (void)state;
    struct gguf_writer *w = gguf_writer_new();
    struct buf b = {0};
    fathom_err err = {0};
    assert_int_equal(gguf_writer_header(w, &b, &err), 0);
    assert_int_equal(b.n, 32);
    assert_int_equal(gguf_writer_file_bytes(w), 32);
    struct gguf *g = must_open(&b);
    assert_int_equal(gguf_n_kv(g), 0);
    assert_int_equal(gguf_n_tensors(g), 0);
    assert_null(gguf_find(g, "x"));
    assert_null(gguf_find_tensor(g, "x"));
    assert_null(gguf_kv_at(g, 0));
    gguf_close(g);
    gguf_writer_free(w);
    buf_free(&b);
}

/* Keys copied from an opened file come out as the same bytes. */
static void test_copy_keys(void **state)
{
    (void)state;
    struct gguf_writer *w = gguf_writer_new(), *w2 = gguf_writer_new();
    struct buf b = {0}, b2 = {0};
    fathom_err err = {0};
    add_keys(w);
    assert_int_equal(gguf_writer_header(w, &b, &err), 0);
    struct gguf *g = must_open(&b);
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        gguf_writer_kv(w2, gguf_kv_at(g, i));
    }
    assert_int_equal(gguf_writer_header(w2, &b2, &err), 0);
    assert_int_equal(b.n, b2.n);
    assert_memory_equal(b.p, b2.p, b.n);
    gguf_close(g);
    gguf_writer_free(w);
    gguf_writer_free(w2);
    buf_free(&b);
    buf_free(&b2);
}

/* Fails with a message containing `want`, from gguf_writer_tensor. */
static void refuse(struct gguf_writer *w, const char *name, uint32_t type, uint32_t rank,
                   const uint64_t *ne, const char *want)
{
    fathom_err err = {0};
    assert_int_equal(gguf_writer_tensor(w, name, type, rank, ne, &err), FATHOM_EINVAL);
    if (!strstr(err.msg, want)) {
        fail_msg("\"%s\" lacks \"%s\"", err.msg, want);
    }
}

static void test_refused_tensors(void **state)
{
    (void)state;
    struct gguf_writer *w = gguf_writer_new();
    char long_name[129];
    memset(long_name, 'n', 128);
    long_name[128] = 0;
    uint64_t one[4] = {1, 1, 1, 1}, k256[2] = {256, 0}, k100[1] = {100};
    uint64_t big[2] = {1ull << 40, 1ull << 40}, wrap[3] = {4, 1ull << 63, 2};
    refuse(w, "", QT_F32, 1, one, "name");
    refuse(w, long_name, QT_F32, 1, one, "name");
    refuse(w, "t", QT_F32, 0, one, "rank");
    refuse(w, "t", QT_F32, 5, one, "rank");
    refuse(w, "t", 4, 1, one, "removed");
    refuse(w, "t", 99, 1, one, "unknown");
    refuse(w, "t", QT_Q2_K, 1, k100, "multiple");
    refuse(w, "t", QT_Q2_K, 2, k256, "dimension is 0");
    refuse(w, "t", QT_F32, 2, big, "overflow");
    refuse(w, "t", QT_F32, 3, wrap, "overflow");
    fathom_err err = {0};
    assert_int_equal(gguf_writer_tensor(w, "t", QT_F32, 1, one, &err), 0);
    refuse(w, "t", QT_F16, 1, one, "twice");
    assert_int_equal(gguf_writer_tensor(w, long_name + 1, QT_F32, 1, one, &err), 1);
    gguf_writer_free(w);
}

static void header_fails(struct gguf_writer *w, const char *want)
{
    struct buf b = {0};
    fathom_err err = {0};
    assert_int_equal(gguf_writer_header(w, &b, &err), FATHOM_EINVAL);
    if (!strstr(err.msg, want)) {
        fail_msg("\"%s\" lacks \"%s\"", err.msg, want);
    }
    buf_free(&b);
    gguf_writer_free(w);
}

static void test_refused_keys(void **state)
{
    (void)state;
    struct gguf_writer *w = gguf_writer_new();
    gguf_writer_u32(w, "a.b", 1);
    gguf_writer_str(w, "a.b", SLICE("x"));
    gguf_writer_u32(w, "", 1); /* the first mistake is the one reported */
    header_fails(w, "\"a.b\" written twice");
    w = gguf_writer_new();
    gguf_writer_u32(w, "", 1);
    header_fails(w, "key of 0 bytes");
    w = gguf_writer_new();
    gguf_writer_u32(w, "general.alignment", 64);
    header_fails(w, "set_alignment");
    static const uint32_t wrong[] = {0, 1, 33, 48, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        w = gguf_writer_new();
        gguf_writer_set_alignment(w, wrong[i]);
        header_fails(w, "alignment");
    }
    w = gguf_writer_new();
    gguf_writer_arr_i32(w, "big", NULL, (1u << 24) + 1);
    header_fails(w, "limit");
}

/* ---- the published layouts ---- */

static uint64_t column_u64(char **cols, int i)
{
    return strtoull(cols[i], NULL, 10);
}

/* Splits a line at tabs; returns how many columns (at most 8). */
static int split_tabs(char *line, char **cols)
{
    int n = 0;
    for (char *p = line; p && n < 8; n++) {
        cols[n] = p;
        p = strchr(p, '\t');
        if (p) {
            *p++ = 0;
        }
    }
    return n;
}

/* Adds the tensor of one table row with the type of column `type_col`; checks its bytes. */
static void add_row(struct gguf_writer *w, char **cols, int type_col, int bytes_col)
{
    uint64_t ne[4];
    uint32_t rank = 0;
    fathom_err err = {0};
    char dims[64];
    snprintf(dims, sizeof dims, "%s", cols[3]);
    for (char *p = dims; *p && rank < 4;) {
        ne[rank++] = strtoull(p, &p, 10);
        p += *p == 'x';
    }
    int type = qformat_by_name(cols[type_col]);
    assert_true(type >= 0);
    int id = gguf_writer_tensor(w, cols[0], (uint32_t)type, rank, ne, &err);
    if (id < 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(gguf_writer_tensor_bytes(w, id), column_u64(cols, bytes_col));
}

static void check_published(int type_col, int bytes_col, uint64_t want_bytes)
{
    struct gguf_writer *w = gguf_writer_new();
    fathom_err err = {0};
    struct buf header = {0};
    char line[512], *cols[8];
    uint64_t sum = 0, padding = 0;
    int n = 0;
    FILE *f = fopen(test_data_path("gguf-layout/v4-flash-tensors.tsv"), "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f)); /* column names */
    while (fgets(line, sizeof line, f)) {
        assert_true(split_tabs(line, cols) >= 6);
        add_row(w, cols, type_col, bytes_col);
        uint64_t bytes = gguf_writer_tensor_bytes(w, n++);
        sum += bytes;
        padding += align_up(bytes, 32) - bytes;
    }
    fclose(f);
    assert_int_equal(n, 1328);
    assert_true(sum == want_bytes);
    assert_int_equal(padding, 1764);
    assert_int_equal(gguf_writer_header(w, &header, &err), 0);
    assert_true(gguf_writer_file_bytes(w) == header.n + sum + padding);

    /* Without its data the file is short by exactly the data, and says so. */
    struct gguf *g;
    char want[64];
    snprintf(want, sizeof want, "is %llu bytes short",
             (unsigned long long)(gguf_writer_offset(w, n - 1) +
                                  gguf_writer_tensor_bytes(w, n - 1) - header.n));
    assert_int_equal(gguf_open_mem(&g, header.p, header.n, "test", &err), FATHOM_EFORMAT);
    if (!strstr(err.msg, want) || !strstr(err.msg, "1328 of 1328")) {
        fail_msg("\"%s\" lacks \"%s\"", err.msg, want);
    }
    buf_free(&header);
    gguf_writer_free(w);
}

static void test_published(void **state)
{
    (void)state;
    check_published(1, 4, 86714775900u);
    check_published(2, 5, 164628167004u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),       cmocka_unit_test(test_minimal),
        cmocka_unit_test(test_copy_keys),    cmocka_unit_test(test_refused_tensors),
        cmocka_unit_test(test_refused_keys), cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
