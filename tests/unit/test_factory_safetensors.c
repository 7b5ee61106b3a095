/* test_factory_safetensors.c - the checkpoint reader: what a valid file gives, and that every
 * hostile or damaged header is refused with a message that names the file (and the tensor). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "factory/safetensors.h"
#include "factory_common.h"

static const char two[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}  ";

static void test_valid(void **state)
{
    (void)state;
    struct buf f = {0};
    uint8_t data[32];
    for (int i = 0; i < 32; i++) {
        data[i] = (uint8_t)(i + 1);
    }
    st_bytes(&f, two, data, sizeof data);
    struct st_set *s;
    fathom_err err = {0};
    assert_int_equal(st_open_mem(&s, f.p, f.n, "two", &err), 0);
    assert_int_equal(st_n_tensors(s), 2);
    assert_string_equal(st_at(s, 0)->name.p, "a.weight"); /* in order of name */
    const struct st_tensor *b = st_find(s, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, ST_F32);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->n_elems, 6);
    assert_int_equal(b->bytes, 24);
    assert_null(st_find(s, "c"));
    uint8_t got[8];
    assert_int_equal(st_read(s, b, 4, 8, got, &err), 0);
    assert_memory_equal(got, data + 4, 8);
    assert_int_equal(st_read(s, st_find(s, "a.weight"), 0, 8, got, &err), 0);
    assert_memory_equal(got, data + 24, 8);
    assert_int_equal(st_read(s, b, 20, 5, got, &err), FATHOM_EINVAL);
    err = (fathom_err){0};
    assert_int_equal(st_read(s, b, UINT64_MAX, 1, got, &err), FATHOM_EINVAL);
    st_close(s);
    buf_free(&f);
}

/* Escapes in names are real JSON escapes; a scalar has rank 0; empty tensors and gaps are fine. */
static void test_valid_corners(void **state)
{
    (void)state;
    struct buf f = {0};
    struct st_set *s;
    static const char header[] =
        "{\"\\u0061\\\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[8,16]},"
        "\"none\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[8,8]}}";
    st_bytes(&f, header, "0123456789abcdef", 16);
    assert_int_equal(st_open_mem(&s, f.p, f.n, "corner", NULL), 0);
    const struct st_tensor *t = st_find(s, "a\"b");
    assert_non_null(t);
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->n_elems, 1);
    assert_int_equal(st_find(s, "none")->bytes, 0);
    st_close(s);
    st_bytes(&f, "{}", "", 0);
    assert_int_equal(st_open_mem(&s, f.p, f.n, "empty", NULL), 0);
    assert_int_equal(st_n_tensors(s), 0);
    assert_null(st_find(s, "x"));
    st_close(s);
    buf_free(&f);
}

#define REC(dtype, shape, offsets) \
    "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

/* With 16 bytes of data; each must be refused and the message must hold the given words. */
static const struct {
    const char *header, *words;
} hostile[] = {
    {"", "header"},
    {"[]", "no JSON object"},
    {"{\"x\":1}", "x"},
    {"{\"x\":{}}", "dtype"},
    {REC("\"F9\"", "[4]", "[0,16]"), "unknown dtype F9"},
    {REC("4", "[4]", "[0,16]"), "dtype"},
    {REC("\"F32\"", "4", "[0,16]"), "shape"},
    {REC("\"F32\"", "[4.5]", "[0,16]"), "dimension 0"},
    {REC("\"F32\"", "[-4]", "[0,16]"), "dimension 0"},
    {REC("\"F32\"", "[\"4\"]", "[0,16]"), "dimension 0"},
    {REC("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), "at most 8"},
    {REC("\"F32\"", "[4294967296,4294967296]", "[0,16]"), "elements"},
    {REC("\"F32\"", "[9223372036854775807]", "[0,16]"), "bytes"},
    {REC("\"F32\"", "[18446744073709551616]", "[0,16]"), "dimension 0"},
    {REC("\"F32\"", "[4]", "[0]"), "data_offsets"},
    {REC("\"F32\"", "[4]", "[0,16,16]"), "data_offsets"},
    {REC("\"F32\"", "[4]", "[-16,0]"), "data_offsets"},
    {REC("\"F32\"", "[4]", "[16,0]"), "backwards"},
    {REC("\"F32\"", "[4]", "[0,15]"), "15 bytes stored"},
    {REC("\"F32\"", "[5]", "[0,16]"), "need 20"},
    {REC("\"F32\"", "[4]", "[1,17]"), "past the end"},
    {REC("\"F32\"", "[0]", "[17,17]"), "past the end"},
    {REC("\"F32\"", "[4]", "[9223372036854775791,9223372036854775807]"), "past the end"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]},"
     "\"y\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
     "x and y overlap"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
     "twice"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"\\u0078\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}}",
     "twice"},
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "name"},
    {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "control"},
    {"{\"a\\nb\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "control"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}", "header"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}}", "header"},
    {"{\"\xFF\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "header"},
};

static void test_hostile(void **state)
{
    (void)state;
    struct buf f = {0};
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        st_bytes(&f, hostile[i].header, "0123456789abcdef", 16);
        struct st_set *s = (struct st_set *)&f;
        fathom_err err = {0};
        int rc = st_open_mem(&s, f.p, f.n, "hostile.safetensors", &err);
        if (rc != FATHOM_EFORMAT || s || !strstr(err.msg, hostile[i].words) ||
            !strstr(err.msg, "hostile.safetensors")) {
            fail_msg("%s: rc %d, message: %s", hostile[i].header, rc, err.msg);
        }
    }
    buf_free(&f);
}

static void test_header_length(void **state)
{
    (void)state;
    struct buf f = {0};
    st_bytes(&f, two, "", 0);
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, 1000};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        struct st_set *s;
        fathom_err err = {0};
        store_le64(f.p, lengths[i]);
        assert_int_equal(st_open_mem(&s, f.p, f.n, "len", &err), FATHOM_EFORMAT);
        assert_non_null(strstr(err.msg, "header"));
    }
    buf_free(&f);
}

/* Every proper prefix of a file whose data is used to the end is refused. */
static void test_truncated(void **state)
{
    (void)state;
    struct buf f = {0};
    char data[32] = {0};
    st_bytes(&f, two, data, sizeof data);
    for (size_t n = 0; n < f.n; n++) {
        unsigned char *copy =
            malloc(n + 1); /* so that a sanitizer sees a read behind the end */
        assert_non_null(copy);
        memcpy(copy, f.p, n);
        copy = realloc(copy, n ? n : 1);
        struct st_set *s;
        fathom_err err = {0};
        if (st_open_mem(&s, copy, n, "cut", &err) != FATHOM_EFORMAT) {
            fail_msg("%zu of %zu bytes were accepted", n, f.n);
        }
        free(copy);
    }
    buf_free(&f);
}

static void put_shard(const char *name, const char *tensor)
{
    struct buf f = {0};
    char header[256];
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
             "\"stray\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
             tensor);
    st_bytes(&f, header, "01234567", 8);
    write_whole(tmp_path(name), f.p, f.n);
    buf_free(&f);
}

static int open_index(const char *index, struct st_set **s, fathom_err *err)
{
    *err = (fathom_err){0};
    write_whole(tmp_path("model.safetensors.index.json"), index, strlen(index));
    return st_open(s, tmp_dir, err);
}

static void test_index(void **state)
{
    (void)state;
    struct st_set *s;
    fathom_err err;
    tmp_clear();
    put_shard("one.safetensors", "p");
    put_shard("two.safetensors", "q");
    assert_int_equal(open_index("{\"weight_map\":{\"q\":\"two.safetensors\","
                                "\"p\":\"one.safetensors\"}}",
                                &s, &err),
                     0);
    assert_int_equal(st_n_tensors(s),
                     2); /* tensors that the index does not list are not there */
    assert_null(st_find(s, "stray"));
    char got[4];
    assert_int_equal(st_read(s, st_find(s, "q"), 0, 4, got, &err), 0);
    assert_memory_equal(got, "0123", 4);
    assert_non_null(strstr(st_file(s, st_find(s, "q")), "two.safetensors"));
    st_close(s);

    static const struct {
        const char *index;
        int rc;
        const char *words;
    } bad[] = {
        {"{", FATHOM_EFORMAT, "index.json"},
        {"{}", FATHOM_EFORMAT, "weight_map"},
        {"{\"weight_map\":{}}", FATHOM_EFORMAT, "weight_map"},
        {"{\"weight_map\":{\"p\":1}}", FATHOM_EFORMAT, "p"},
        {"{\"weight_map\":{\"p\":\"../one.safetensors\"}}", FATHOM_EFORMAT, "p"},
        {"{\"weight_map\":{\"p\":\"/etc/one.safetensors\"}}", FATHOM_EFORMAT, "p"},
        {"{\"weight_map\":{\"p\":\"one\\u0000.safetensors\"}}", FATHOM_EFORMAT, "p"},
        {"{\"weight_map\":{\"p\":\"one.bin\"}}", FATHOM_EFORMAT, "p"},
        {"{\"weight_map\":{\"p\":\"three.safetensors\"}}", FATHOM_ENOENT, "three.safetensors"},
        {"{\"weight_map\":{\"p\":\"two.safetensors\"}}", FATHOM_EFORMAT, "p is not in two"},
        {"{\"weight_map\":{\"p\":\"one.safetensors\",\"r\":\"two.safetensors\"}}",
         FATHOM_EFORMAT, "r is not in two"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int rc = open_index(bad[i].index, &s, &err);
        if (rc != bad[i].rc || s || !strstr(err.msg, bad[i].words)) {
            fail_msg("%s: rc %d, message: %s", bad[i].index, rc, err.msg);
        }
    }
    tmp_clear();
    assert_int_equal(st_open(&s, tmp_dir, &err), FATHOM_ENOENT);
}

/* A file that shrinks after open: an error, no signal. */
static void test_shrunk(void **state)
{
    (void)state;
    struct st_set *s;
    fathom_err err = {0};
    tmp_clear();
    put_shard("model.safetensors", "p");
    assert_int_equal(st_open(&s, tmp_dir, &err), 0);
    assert_int_equal(truncate(tmp_path("model.safetensors"), 10), 0);
    char got[4];
    assert_int_equal(st_read(s, st_find(s, "p"), 0, 4, got, &err), FATHOM_EFORMAT);
    st_close(s);
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
        cmocka_unit_test(test_valid),     cmocka_unit_test(test_valid_corners),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_index),
        cmocka_unit_test(test_shrunk),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
