/* test_json_write.c - the JSON writers (Python form, compact form, doubles) and building. */
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/num.h"
#include "base/rng.h"
#include "json/json.h"

static struct arena arena;
static struct buf out;

static const char *python_form(const char *text)
{
    struct json v;
    fathom_err err = {0};
    if (json_read(&v, &arena, text, strlen(text), &err) != 0) {
        fail_msg("%s: %s", text, err.msg);
    }
    buf_clear(&out);
    json_write_python(&out, &v);
    assert_false(out.failed);
    return buf_cstr(&out);
}

static void test_python_form(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"{\"z\":1e5,\"a\":100000000000000000000000,\"m\":1.50,\"k\":-0,\"q\":0.1e-5,\"r\":1E22,"
         "\"w\":123456789.123456789}",
         "{\"z\": 100000.0, \"a\": 100000000000000000000000, \"m\": 1.5, \"k\": 0, \"q\": 1e-06, "
         "\"r\": 1e+22, \"w\": 123456789.12345679}"},
        {"[1,[],{},[null,true,false]]", "[1, [], {}, [null, true, false]]"},
        {"\"\\u0001\\u001f\\u007f\\u0008\\f\\n\\r\\t\\\"\\\\\\/\\u4e2d\"",
         "\"\\u0001\\u001f\x7f\\b\\f\\n\\r\\t\\\"\\\\/\xE4\xB8\xAD\""},
        {"-0", "0"},
        {"-0.0", "-0.0"},
        {"-0e0", "-0.0"},
        {"1e400", "Infinity"},
        {"-1e400", "-Infinity"},
        {"1e-400", "0.0"},
        {"-1e-400", "-0.0"},
        {"1.0", "1.0"},
        {"1e-7", "1e-07"},
        {"12345678901234567890", "12345678901234567890"},
        {"-9007199254740993", "-9007199254740993"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_string_equal(python_form(rows[i].in), rows[i].out);
    }
}

static const char *double_form(double v)
{
    buf_clear(&out);
    json_write_double(&out, v);
    return buf_cstr(&out);
}

static void test_doubles(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } rows[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {-1.5, "-1.5"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1.0 / 3.0, "0.3333333333333333"},
        {100.0, "100.0"},
        {123456789012345.0, "123456789012345.0"},
        {1e15, "1000000000000000.0"},
        {9999999999999998.0, "9999999999999998.0"},
        {1e16, "1e+16"},
        {12345678901234567890.0, "1.2345678901234567e+19"},
        {1e22, "1e+22"},
        {1e23, "1e+23"},
        {1e100, "1e+100"},
        {0.0001, "0.0001"},
        {0.00012345, "0.00012345"},
        {0.00001, "1e-05"},
        {1e-7, "1e-07"},
        {1.5e-10, "1.5e-10"},
        {0x1p-44,
         "5.684341886080802e-14"}, /* not the nearest 16 digits: those read as another */
        {0x1p-1074, "5e-324"},
        {0x1.8p-1073, "1.5e-323"},
        {0x1p-1022, "2.2250738585072014e-308"},
        {0x1.fffffffffffffp1023, "1.7976931348623157e+308"},
        {INFINITY, "Infinity"},
        {-INFINITY, "-Infinity"},
        {NAN, "NaN"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_string_equal(double_form(rows[i].v), rows[i].text);
    }
}

/* Random bit patterns: the text reads back as the same double, and one digit less does not. */
static void test_double_round_trip(void **state)
{
    (void)state;
    uint64_t seed = 7;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng = {seed};
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = rng_u64(&rng);
        double v, back;
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v)) {
            continue;
        }
        const char *text = double_form(v);
        struct json n = {.type = JSON_NUMBER, .n = strlen(text), .s = text};
        assert_true(json_double(&n, &back));
        assert_memory_equal(&v, &back, sizeof v);
        int digits = 0;
        for (const char *p = text; *p && *p != 'e'; p++) {
            digits += *p >= '0' && *p <= '9';
        }
        if (digits > 1 && strchr(text, 'e')) {
            char shorter[64];
            snprintf(shorter, sizeof shorter, "%.*e", digits - 2, v);
            assert_true(strtod(shorter, NULL) != v);
        }
    }
}

/* A locale with a decimal comma must change nothing. Skipped where none is installed. */
static void test_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "it_IT.UTF-8", "de_DE"};
    const char *set = NULL;
    for (size_t i = 0; i < ARRAY_LEN(names) && !set; i++) {
        set = setlocale(LC_NUMERIC, names[i]);
    }
    if (!set) {
        skip();
    }
    assert_string_equal(python_form("[1.50,0.1e-5,1234567.25]"), "[1.5, 1e-06, 1234567.25]");
    setlocale(LC_NUMERIC, "C");
}

static void test_strings(void **state)
{
    (void)state;
    buf_clear(&out);
    json_write_str(&out, SLICE("a\xff\"\xE2\x82z"));
    assert_string_equal(buf_cstr(&out), "\"a\xEF\xBF\xBD\\\"\xEF\xBF\xBDz\"");
    buf_clear(&out);
    json_write_line_str(&out,
                        SLICE("\xC2\x85 a\xE2\x80\xA8\xE2\x80\xA9\n\xE2\x80\xAA\xC2\x86"));
    assert_string_equal(buf_cstr(&out), "\"\\u0085 a\\u2028\\u2029\\n\xE2\x80\xAA\xC2\x86\"");
    buf_clear(&out);
    json_write_python_str(&out, (struct slice){NULL, 0});
    assert_string_equal(buf_cstr(&out), "\"\"");
    buf_clear(&out);
    json_write_python_chars(&out, SLICE("\0\x01\x10\x1f /\xC2\x80"));
    assert_string_equal(buf_cstr(&out), "\\u0000\\u0001\\u0010\\u001f /\xC2\x80");
}

static void test_building(void **state)
{
    (void)state;
    struct json *obj = json_new_object(&arena), *arr = json_new_array(&arena);
    char key[8];
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%d", i % 30);
        assert_true(json_set(&arena, obj, key, json_make_str(&arena, slice_of(key))));
        assert_true(json_push(&arena, arr, json_make_str(&arena, slice_of(key))));
    }
    assert_int_equal(obj->n, 30);
    assert_int_equal(arr->n, 40);
    assert_true(slice_is(json_str(json_at(arr, 39)), "k9"));
    assert_true(slice_is(json_str(json_get(obj, "k29")), "k29"));

    struct json read;
    assert_int_equal(json_read(&read, &arena, "{\"a\":[1,2,3],\"b\":1}", 19, NULL), 0);
    assert_true(json_set(&arena, &read, "b", *arr)); /* replaces in place */
    assert_true(json_set(&arena, &read, "c", json_make_str(&arena, SLICE("x"))));
    assert_true(json_push(&arena, &read.members[0].value, (struct json){.type = JSON_NULL}));
    json_set(&arena, &read, "b", (struct json){.type = JSON_TRUE});
    buf_clear(&out);
    json_write_compact(&out, &read);
    assert_string_equal(buf_cstr(&out), "{\"a\":[1,2,3,null],\"b\":true,\"c\":\"x\"}");
}

static void test_writer_depth(void **state)
{
    (void)state;
    struct json v = {.type = JSON_NULL};
    for (int depth = 1; depth <= JSON_MAX_DEPTH + 1; depth++) {
        struct json *arr = json_new_array(&arena);
        assert_true(json_push(&arena, arr, v));
        v = *arr;
        buf_clear(&out);
        json_write_python(&out, &v);
        assert_int_equal(out.failed, depth > JSON_MAX_DEPTH);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_python_form),       cmocka_unit_test(test_doubles),
        cmocka_unit_test(test_double_round_trip), cmocka_unit_test(test_locale),
        cmocka_unit_test(test_strings),           cmocka_unit_test(test_building),
        cmocka_unit_test(test_writer_depth),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_fini(&arena);
    buf_free(&out);
    return failed;
}
