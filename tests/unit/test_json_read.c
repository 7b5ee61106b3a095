/* test_json_read.c - the JSON reader: the edge table of docs/dependencies.md, the grammar, the
 * limits, duplicate keys (also in hostile numbers), lookups and getters. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "json/json.h"
#include "json/keyset.h"

static struct arena arena;

static const struct json *must_read(const char *text)
{
    struct json *v = arena_alloc(&arena, sizeof *v);
    fathom_err err = {0};
    if (json_read(v, &arena, text, strlen(text), &err) != 0) {
        fail_msg("%s: %s", text, err.msg);
    }
    return v;
}

/* Compact form of what text reads as; "!" if it is refused. */
static const char *round_trip(const char *text, size_t n)
{
    static struct buf b;
    struct json v;
    fathom_err err = {0};
    buf_clear(&b);
    if (json_read(&v, &arena, text, n, &err) != 0) {
        assert_int_equal(err.code, FATHOM_EFORMAT);
        assert_non_null(strstr(err.msg, "line"));
        return "!";
    }
    json_write_compact(&b, &v);
    return buf_cstr(&b);
}

static void test_table(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out; /* "!" = refused */
    } rows[] = {
        /* dependencies.md: what packaged libraries got wrong */
        {"{\"b\":1,\"a\":2}", "{\"b\":1,\"a\":2}"},
        {"[0.1,1e5]", "[0.1,1e5]"},
        {"9007199254740993", "9007199254740993"},
        {"18446744073709551615", "18446744073709551615"},
        {"100000000000000000000000", "100000000000000000000000"},
        {"1E400", "1E400"},
        {"\"\\ud83d\"", "\"\xEF\xBF\xBD\""},
        {"\"a\\u0000b\"", "\"a\\u0000b\""},
        {"{\"k\":1,\"x\":2,\"k\":3}", "{\"k\":3,\"x\":2}"},
        {"\"\xff\"", "!"},
        /* words */
        {"null", "null"},
        {" true ", "true"},
        {"\t\r\nfalse\n", "false"},
        {"nul", "!"},
        {"True", "!"},
        {"NaN", "!"},
        {"Infinity", "!"},
        {"-Infinity", "!"},
        {"truefalse", "!"},
        /* numbers */
        {"0", "0"},
        {"-0", "-0"},
        {"-0.0e+00", "-0.0e+00"},
        {"01", "!"},
        {"1.", "!"},
        {".5", "!"},
        {"+1", "!"},
        {"-", "!"},
        {"1e", "!"},
        {"1e+", "!"},
        {"0x10", "!"},
        {"1_0", "!"},
        /* strings */
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t\xC3\xA9\""},
        {"\"\\ud83d\\ude00\"", "\"\xF0\x9F\x98\x80\""},
        {"\"\\uD83D\\uDE00\"", "\"\xF0\x9F\x98\x80\""},
        {"\"\\ude00\\ud83d\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\"\\ud83d\\ud83d\\ude00\"", "\"\xEF\xBF\xBD\xF0\x9F\x98\x80\""},
        {"\"\\ud83dx\"", "\"\xEF\xBF\xBDx\""},
        {"\"\\ud83d\\u0041\"", "\"\xEF\xBF\xBD\x41\""},
        {"\"\\uffff\"", "\"\xEF\xBF\xBF\""},
        {"\"\\x41\"", "!"},
        {"\"\\u12g4\"", "!"},
        {"\"\\u12\"", "!"},
        {"\"\\ud83d\\u12\"", "!"},
        {"\"\\\"", "!"},
        {"\"abc", "!"},
        {"\"", "!"},
        {"\"a\nb\"", "!"},
        {"\"\x1f\"", "!"},
        {"\"\x7f\"", "\"\x7f\""},
        {"'a'", "!"},
        {"\"\xC0\x80\"", "!"},         /* overlong NUL */
        {"\"\xED\xA0\x80\"", "!"},     /* surrogate in UTF-8 */
        {"\"\xF4\x90\x80\x80\"", "!"}, /* above U+10FFFF */
        {"\"\xE2\x82\"", "!"},
        /* containers */
        {"[]", "[]"},
        {"{}", "{}"},
        {"[ ]", "[]"},
        {"{ }", "{}"},
        {"[[],{},[[]]]", "[[],{},[[]]]"},
        {"{\"\":{\"\":[]}}", "{\"\":{\"\":[]}}"},
        {"[1,]", "!"},
        {"[,1]", "!"},
        {"[1 2]", "!"},
        {"{\"a\":1,}", "!"},
        {"{\"a\"}", "!"},
        {"{\"a\":}", "!"},
        {"{a:1}", "!"},
        {"{1:1}", "!"},
        {"[1}", "!"},
        {"{\"a\":1]", "!"},
        {"[", "!"},
        {"]", "!"},
        {"{\"a\":1", "!"},
        {"", "!"},
        {"   ", "!"},
        {"1 1", "!"},
        {"[] []", "!"},
        {"\xEF\xBB\xBF[]", "!"}, /* byte order mark */
        {"// c\n1", "!"},
        {"[1,\v2]", "!"},
        {"\xC2\xA0[]", "!"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *got = round_trip(rows[i].in, strlen(rows[i].in));
        if (strcmp(got, rows[i].out) != 0) {
            fail_msg("%s: expected %s, got %s", rows[i].in, rows[i].out, got);
        }
    }
    assert_string_equal(round_trip("[1]\0", 4), "!"); /* a NUL is not a blank */
    assert_string_equal(round_trip("[1]junk", 3), "[1]");
}

static void test_python_words(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[NaN,Infinity,-Infinity,1]}";
    struct json v;
    struct buf b = {0};
    double d;
    assert_int_equal(json_read_python(&v, &arena, text, sizeof text - 1, NULL), 0);
    json_write_python(&b, &v);
    assert_string_equal(buf_cstr(&b), "{\"a\": [NaN, Infinity, -Infinity, 1]}");
    buf_clear(&b);
    json_write_compact(&b, &v);
    assert_string_equal(buf_cstr(&b), "{\"a\":[null,null,null,1]}");
    assert_false(json_double(json_at(json_get(&v, "a"), 0), &d));
    assert_int_not_equal(json_read_python(&v, &arena, "nan", 3, NULL), 0);
    buf_free(&b);
}

static void test_error_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } rows[] = {
        {"[1,\n 2,\n  x]", "line 3, column 3"}, {"{\"a\" 1}", "line 1, column 6"},
        {"\n\n", "line 3, column 1"},           {"[\"ab", "line 1, column 2"},
        {"\"a\\q\"", "line 1, column 3"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct json v;
        fathom_err err = {0};
        int rc = json_read(&v, &arena, rows[i].text, strlen(rows[i].text), &err);
        assert_int_equal(rc, FATHOM_EFORMAT);
        assert_int_equal(v.type, JSON_NULL);
        if (!strstr(err.msg, rows[i].place)) {
            fail_msg("%s: %s", rows[i].text, err.msg);
        }
    }
}

static void test_depth(void **state)
{
    (void)state;
    char text[600];
    for (int depth = 127; depth <= 129; depth++) {
        for (int object = 0; object < 2; object++) {
            struct buf b = {0};
            for (int i = 0; i < depth; i++) {
                buf_adds(&b, object ? "{\"\":" : "[");
            }
            buf_adds(&b, "1");
            for (int i = 0; i < depth; i++) {
                buf_addc(&b, object ? '}' : ']');
            }
            const char *want = depth <= JSON_MAX_DEPTH ? buf_cstr(&b) : "!";
            assert_string_equal(round_trip(buf_cstr(&b), b.n), want);
            buf_free(&b);
        }
    }
    memset(text, '[', sizeof text);
    assert_string_equal(round_trip(text, sizeof text), "!");
}

/* Objects of all sizes around the switch to hashing, with repeated keys, against a naive model.
 */
static void test_duplicates(void **state)
{
    (void)state;
    struct rng rng = {20240611};
    for (uint32_t n = 0; n < 80; n++) {
        struct buf text = {0};
        uint32_t order[80], value[80], n_keys = 0, n_names = n / 2 + 1;
        buf_addc(&text, '{');
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = rng_below(&rng, n_names), j = 0;
            buf_addf(&text, "%s\"k%u\":%u", i ? "," : "", key, i);
            while (j < n_keys && order[j] != key) {
                j++;
            }
            order[j] = key;
            value[j] = i;
            n_keys += j == n_keys;
        }
        buf_addc(&text, '}');
        const struct json *v = must_read(buf_cstr(&text));
        assert_int_equal(v->n, n_keys);
        for (uint32_t j = 0; j < n_keys; j++) {
            char name[16];
            int64_t got;
            snprintf(name, sizeof name, "k%u", order[j]);
            assert_true(slice_is(v->members[j].key, name));
            assert_true(json_int(&v->members[j].value, &got));
            assert_int_equal(got, value[j]);
        }
        buf_free(&text);
    }
}

/* 400,000 distinct keys, then many objects just above the switch: comparing all pairs, or
 * clearing a large table for each small object, would take minutes. */
static void test_many_keys(void **state)
{
    (void)state;
    enum { BIG = 400000, SMALL = 20000 };
    struct buf text = {0};
    buf_adds(&text, "[{");
    for (int i = 0; i < BIG; i++) {
        buf_addf(&text, "\"%x\":0,", i);
    }
    buf_adds(&text, "\"0\":1}");
    for (int i = 0; i < SMALL; i++) {
        buf_adds(&text,
                 ",{\"a\":0,\"b\":0,\"c\":0,\"d\":0,\"e\":0,\"f\":0,\"g\":0,\"h\":0,\"i\":0,"
                 "\"j\":0,\"k\":0,\"l\":0,\"m\":0,\"n\":0,\"o\":0,\"p\":0,\"q\":0}");
    }
    buf_adds(&text, "]");
    double start = clock_now();
    const struct json *v = must_read(buf_cstr(&text));
    assert_true(clock_now() - start < 20);
    assert_int_equal(v->n, SMALL + 1);
    assert_int_equal(v->items[0].n, BIG);
    assert_int_equal(v->items[SMALL].n, 17);
    buf_free(&text);
}

static void test_keyset(void **state)
{
    (void)state;
    struct keyset s = {0};
    char keys[1000][8];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++) {
            snprintf(keys[i], sizeof keys[i], "%d", i * 7);
            assert_int_equal(keyset_add(&s, slice_of(keys[i])), i);
        }
        for (int i = 0; i < 1000; i++) {
            assert_int_equal(keyset_add(&s, slice_of(keys[i])), i);
            assert_int_equal(keyset_find(&s, slice_of(keys[i])), i);
        }
        assert_true(keyset_find(&s, SLICE("1")) == KEYSET_NONE);
        keyset_clear(&s);
        assert_true(keyset_find(&s, SLICE("0")) == KEYSET_NONE);
        assert_int_equal(keyset_add(&s, SLICE("")), 0);
        assert_int_equal(keyset_add(&s, SLICE("a\0b")), 1);
        assert_int_equal(keyset_add(&s, SLICE("a\0c")), 2);
        assert_int_equal(keyset_add(&s, SLICE("a\0b")), 1);
        keyset_clear(&s);
    }
    keyset_free(&s);
}

static void test_lookup(void **state)
{
    (void)state;
    const struct json *v = must_read("{\"a\":[10,\"x\\u0000y\",true],\"b\":{\"c\":null}}");
    int64_t i = 0;
    bool flag = false;
    assert_true(json_int(json_at(json_get(v, "a"), 0), &i));
    assert_int_equal(i, 10);
    struct slice s = json_str(json_at(json_get(v, "a"), 1));
    assert_true(slice_eq(s, SLICE("x\0y")));
    assert_true(json_bool(json_at(json_get(v, "a"), 2), &flag));
    assert_true(flag);
    assert_true(json_is(json_get(json_get(v, "b"), "c"), JSON_NULL));
    assert_null(json_get(v, "zz"));
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(json_get(v, "a"), "a"));
    assert_null(json_at(json_get(v, "a"), 3));
    assert_null(json_at(NULL, 0));
    assert_null(json_at(v, 0));
    assert_null(json_str(v).p);
    assert_false(json_int(NULL, &i));
    assert_false(json_bool(v, &flag));
    assert_false(json_is(NULL, JSON_NULL));
}

static void test_integers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } rows[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"0.0", true, 0},
        {"42", true, 42},
        {"42.0", true, 42},
        {"4.2e1", true, 42},
        {"420e-1", true, 42},
        {"1e18", true, 1000000000000000000},
        {"1e19", false, 0},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775808", true, INT64_MIN},
        {"-9223372036854775809", false, 0},
        {"18446744073709551616", false, 0},
        {"0.5", false, 0},
        {"1e-1", false, 0},
        {"1e99999999999999999999", false, 0},
        {"1e-99999999999999999999", false, 0},
        {"0e99999999999999999999", true, 0},
        {"\"1\"", false, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t v = 0;
        bool ok = json_int(must_read(rows[i].text), &v);
        if (ok != rows[i].ok || (ok && v != rows[i].value)) {
            fail_msg("%s", rows[i].text);
        }
    }
}

static void test_doubles(void **state)
{
    (void)state;
    double d;
    static const struct {
        const char *text;
        double value;
    } rows[] = {
        {"0", 0},
        {"1.5", 1.5},
        {"-2e-3", -2e-3},
        {"9007199254740993", 9007199254740992.0},
        {"9007199254740993.00000000000000000000000001", 9007199254740994.0},
        {"5e-324", 0x1p-1074},
        {"2e-324", 0},
        {"1.7976931348623157e308", 0x1.fffffffffffffp1023},
        {"0.000000000000000000000000000001e30", 1},
        {"1e-400", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(json_double(must_read(rows[i].text), &d));
        if (d != rows[i].value) {
            fail_msg("%s: %.17g", rows[i].text, d);
        }
    }
    assert_true(json_double(must_read("-0.0"), &d));
    assert_true(signbit(d));
    assert_false(json_double(must_read("1e400"), &d));
    assert_false(json_double(must_read("-1e99999999999999999999"), &d));
    assert_false(json_double(must_read("\"1\""), &d));

    /* A tie between two doubles that only the 2,001st digit decides. */
    struct buf b = {0};
    buf_adds(&b, "9007199254740993.");
    for (int i = 0; i < 2000; i++) {
        buf_addc(&b, '0');
    }
    assert_true(json_double(must_read(buf_cstr(&b)), &d));
    assert_true(d == 9007199254740992.0);
    buf_addc(&b, '1');
    assert_true(json_double(must_read(buf_cstr(&b)), &d));
    assert_true(d == 9007199254740994.0);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_python_words),
        cmocka_unit_test(test_error_place), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_duplicates),  cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_keyset),      cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_integers),    cmocka_unit_test(test_doubles),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_fini(&arena);
    return failed;
}
