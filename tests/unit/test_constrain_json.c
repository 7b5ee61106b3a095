/* test_constrain_json.c - every keyword of JSON schemas: texts that are accepted and texts that are
 * not; refusals with keyword and place; limits. */
#include "constrain_util.h"

#include "constrain/regex.h"

#include <math.h>

static struct bench_vocab vocab;

/* Schemas and texts stand in tables wider than code. */
/* clang-format off */

struct row {
    const char *schema;
    const char *yes[12], *no[12];
};

static void check(const struct row *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fathom_err err = {0};
        struct machine *m = compile_schema(&vocab, r[i].schema, true, &err);
        if (!m) {
            fail_msg("%s: %s", r[i].schema, err.msg);
        }
        for (size_t k = 0; k < ARRAY_LEN(r[i].yes) && r[i].yes[k]; k++) {
            if (!answer_ok(&vocab, m, r[i].yes[k])) {
                fail_msg("%s should accept %s", r[i].schema, r[i].yes[k]);
            }
        }
        for (size_t k = 0; k < ARRAY_LEN(r[i].no) && r[i].no[k]; k++) {
            if (answer_ok(&vocab, m, r[i].no[k])) {
                fail_msg("%s should refuse %s", r[i].schema, r[i].no[k]);
            }
        }
        machine_unref(m);
    }
}

static void types(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"null\"}", {"null"}, {"nul", "true", "\"null\"", "", " null"}},
        {"{\"type\":\"boolean\"}", {"true", "false"}, {"null", "True", "1"}},
        {"{\"type\":[\"integer\",\"null\"]}", {"null", "0", "-17"}, {"1.5", "\"1\"", "true"}},
        {"{\"type\":\"string\"}",
         {"\"\"", "\"abc\"", "\"\\n\\u00e9\\\"\\\\\"", "\"\xE4\xB8\xAD\xF0\x9F\x98\x80\"",
          "\"\\ud83d\\ude00\""},
         {"abc", "\"a", "\"a\"b", "\"\n\"", "\"\\x\"", "\"\\ud83d\"", "\"\\ude00\"",
          "\"\\u12\"", "'a'"}},
        {"{\"type\":\"integer\"}",
         {"0", "7", "-1", "1234567890123456789012345678901234567890"},
         {"01", "-", "-0", "1.0", "1e3", "+1", "12345678901234567890123456789012345678901"}},
        {"{\"type\":\"number\"}",
         {"0", "0.5", "-12.25", "1e5", "1.5E-7", "3e+10", "99999999999999999999"},
         {".5", "1.", "-", "1e", "1e123", "00", "-0", "NaN", "Infinity", "0x1",
          "999999999999999999999"}},
        {"{\"type\":\"array\"}",
         {"[]", "[1]", "[1,2]", "[1, \"a\", [null]]", "[\n  1,\n  2\n]"},
         {"[", "[1,]", "[,]", "1", "[1 2]", "[\n\n1]"}},
        {"{\"type\":\"object\"}",
         {"{}", "{\"a\":1}", "{\"a\": 1, \"b\": [true, {\"c\": null}]}",
          "{\n  \"a\": \"x\"\n}"},
         {"[]", "{\"a\"}", "{a:1}", "{\"a\":1,}", "{\"a\":1 \"b\":2}"}},
        {"{}", {"1", "\"x\"", "[1, {}]", "{\"a\": {\"b\": []}}", "null"}, {"", "x", "{"}},
        {"true", {"1", "{}"}, {"tru"}},
        {"{\"type\":[\"string\",\"number\"]}", {"\"a\"", "-2.5"}, {"null", "[]"}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void strings(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
         {"\"ab\"", "\"abc\"", "\"\xE4\xB8\xAD\xE4\xB8\xAD\xE4\xB8\xAD\"", "\"\\n\\n\"",
          "\"\\ud83d\\ude00x\""},
         {"\"\"", "\"a\"", "\"abcd\"", "\"\xE4\xB8\xAD\"", "\"\\ud83d\\ude00\""}},
        {"{\"minLength\":1}", {"\"a\""}, {"\"\"", "1"}},
        {"{\"type\":\"string\",\"pattern\":\"^a+b?$\"}",
         {"\"a\"", "\"aaab\""},
         {"\"\"", "\"b\"", "\"abb\"", "\"xa\""}},
        {"{\"type\":\"string\",\"pattern\":\"b\"}",
         {"\"b\"", "\"abc\"",
          "\"\xE4\xB8\xAD"
          "b\""},
         {"\"a\"", "\"\""}},
        {"{\"type\":\"string\",\"pattern\":\"^[\\\\w.-]+@\\\\d{2,3}$\"}",
         {"\"a.b@12\"", "\"-@123\""},
         {"\"@12\"", "\"a@1\"", "\"a@1234\""}},
        {"{\"type\":\"string\",\"pattern\":\"^(foo|ba(r|z))$\"}",
         {"\"foo\"", "\"bar\"", "\"baz\""},
         {"\"ba\"", "\"fo\"", "\"foobar\""}},
        {"{\"type\":\"string\",\"pattern\":\"^[^a-z]$\"}",
         {"\"A\"", "\"\xC3\xA9\"", "\"\xF0\x9F\x98\x80\"", "\"\\\"\"", "\"\\u0001\"",
          "\"\\n\""},
         {"\"a\"", "\"AA\"", "\"\n\""}},
        {"{\"type\":\"string\",\"pattern\":\"^\\\\u4e2d[\\\\u00e0-\\\\u00ff]$\"}",
         {"\"\xE4\xB8\xAD\xC3\xA9\""},
         {"\"\xE4\xB8\xAD\"", "\"\xE4\xB8\xAD"
                              "e\""}},
        {"{\"type\":\"string\",\"pattern\":\"^a*$\",\"minLength\":2,\"maxLength\":4}",
         {"\"aa\"", "\"aaaa\""},
         {"\"a\"", "\"aaaaa\"", "\"ab\""}},
        {"{\"type\":\"string\",\"pattern\":\"^ab\",\"maxLength\":3}",
         {"\"ab\"", "\"abz\""},
         {"\"abzz\"", "\"a\""}},
        {"{\"type\":\"string\",\"pattern\":\"^(?:a{3}|(?<n>b){2,})$\"}",
         {"\"aaa\"", "\"bb\"", "\"bbbbb\""},
         {"\"aa\"", "\"b\"", "\"aab\""}},
        {"{\"type\":\"string\",\"pattern\":\"^\\\\s?\\\\S\\\\D\\\\W$\"}",
         {"\"xy-\"", "\" xy-\""},
         {"\"x1-\"", "\"xyz\""}},
        {"{\"type\":\"string\",\"pattern\":\"^.$\"}",
         {"\"a\"", "\"\xE2\x82\xAC\""},
         {"\"\\n\"", "\"ab\""}},
        {"{\"type\":\"string\",\"pattern\":\"^\\\\\\\\$\"}", {"\"\\\\\""}, {"\"\\\"", "\"a\""}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void formats(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"string\",\"format\":\"date\"}",
         {"\"2024-02-29\"", "\"2023-12-31\"", "\"2000-02-29\""},
         {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"",
          "\"24-01-01\""}},
        {"{\"type\":\"string\",\"format\":\"time\"}",
         {"\"12:30:00Z\"", "\"23:59:59.123+02:00\""},
         {"\"24:00:00Z\"", "\"12:30Z\"", "\"12:30:00\""}},
        {"{\"type\":\"string\",\"format\":\"date-time\"}",
         {"\"2024-02-29T12:30:00Z\"", "\"2023-01-01T00:00:00-05:30\""},
         {"\"2024-02-30T12:30:00Z\"", "\"2024-02-29 12:30:00Z\""}},
        {"{\"type\":\"string\",\"format\":\"uuid\"}",
         {"\"123e4567-e89b-12d3-a456-426614174000\""},
         {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}},
        {"{\"type\":\"string\",\"format\":\"email\"}",
         {"\"a.b+c@example.org\""},
         {"\"a@b\"", "\"@example.org\"", "\"a b@example.org\"", "\"a@-x.org\""}},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}",
         {"\"127.0.0.1\"", "\"255.255.255.255\""},
         {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""}},
        {"{\"type\":\"string\",\"format\":\"ipv6\"}",
         {"\"::1\"", "\"2001:db8::8a2e:370:7334\"", "\"1:2:3:4:5:6:7:8\"", "\"::\"", "\"1::\""},
         {"\"1:2\"", "\"1::2::3\"", "\"12345::\"", "\":1\""}},
        {"{\"type\":\"string\",\"format\":\"uri\"}",
         {"\"https://example.org/a?b=c#d\"", "\"mailto:x@y.z\"", "\"http://localhost:8080\""},
         {"\"example.org\"", "\"http://a b\"", "\"http://x/%zz\""}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void numbers(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":12}",
         {"3", "9", "10", "12"},
         {"2", "13", "-3", "0", "03", "100"}},
        {"{\"type\":\"integer\",\"minimum\":-15,\"maximum\":-2}",
         {"-2", "-15", "-9"},
         {"-1", "-16", "2", "0", "-100"}},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":0}",
         {"1", "10", "999"},
         {"0", "-1", "-0"}},
        {"{\"type\":\"integer\",\"minimum\":0,\"exclusiveMaximum\":256}",
         {"0", "255"},
         {"256", "300", "1000"}},
        {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
         {"0", "1", "0.5", "1.0", "0.999", "1.000"},
         {"1.1", "1.0001", "-0.1", "2", "10", "1e0"}},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0.25,\"exclusiveMaximum\":2.5}",
         {"0.26", "0.251", "2.4", "2", "1", "2.49999"},
         {"0.25", "0.250", "2.5", "2.50", "0.2", "3", "0"}},
        {"{\"type\":\"number\",\"minimum\":-1.5,\"maximum\":-0.25}",
         {"-1.5", "-1", "-0.25", "-0.250", "-0.3"},
         {"-1.51", "-0.2", "0", "-2", "1"}},
        {"{\"type\":\"number\",\"minimum\":1e2,\"maximum\":1.5E+2}",
         {"100", "150.0", "125"},
         {"99.9", "150.1", "1000"}},
        {"{\"type\":\"number\",\"minimum\":0.001}",
         {"0.001", "0.0011", "5"},
         {"0.0009", "0", "0.00"}},
        {"{\"allOf\":[{\"type\":\"integer\",\"minimum\":2},{\"maximum\":4},{\"type\":\"number\",\"minimum\":1}]}",
         {"2", "4"},
         {"1", "5", "2.5"}},
        {"{\"type\":\"integer\",\"minimum\":1,\"exclusiveMinimum\":true}", {"2"}, {"1"}},
    };
    check(rows, ARRAY_LEN(rows));
}

/* Ranges against arithmetic. */
static void number_ranges(void **state)
{
    (void)state;
    static const double bounds[] = {-120, -7.5, -1, -0.125, 0, 0.5, 3, 9.99, 100};
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        for (size_t k = i; k < ARRAY_LEN(bounds); k++) {
            for (int form = 0; form < 8; form++) {
                char lo[32], hi[32];
                struct dfa d;
                struct fuel fuel = {1u << 24};
                fathom_err err = {0};
                bool open_lo = form & 1, open_hi = form & 2, integer = form & 4;
                snprintf(lo, sizeof lo, "%g", bounds[i]);
                snprintf(hi, sizeof hi, "%g", bounds[k]);
                struct number_bounds b = {slice_of(lo), slice_of(hi), open_lo, open_hi,
                                          integer};
                assert_int_equal(dfa_number(&d, &b, &fuel, &err), 0);
                for (int x = -12500; x <= 12500; x += 7) { /* in hundredths */
                    char text[32];
                    double v = x / 100.0;
                    snprintf(text, sizeof text, x % 100 ? "%.2f" : "%.0f", v);
                    bool in = (open_lo ? v > bounds[i] : v >= bounds[i]) &&
                              (open_hi ? v < bounds[k] : v <= bounds[k]) &&
                              !(integer && x % 100) && strcmp(text, "-0") != 0;
                    if (dfa_match(&d, slice_of(text)) != in) {
                        fail_msg("%s in %s..%s, form %d: %d is wrong", text, lo, hi, form, !in);
                    }
                }
                dfa_free(&d);
            }
        }
    }
}

static void arrays(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}",
         {"[1,2]", "[1, 2, 3]"},
         {"[]", "[1]", "[1,2,3,4]", "[1,\"a\"]"}},
        {"{\"prefixItems\":[{\"type\":\"string\"},{\"type\":\"integer\"}],\"items\":false}",
         {"[]", "[\"a\"]", "[\"a\",1]"},
         {"[1]", "[\"a\",1,2]"}},
        {"{\"prefixItems\":[{\"type\":\"string\"}],\"items\":{\"type\":\"null\"},\"minItems\":2}",
         {"[\"a\",null]", "[\"a\",null,null]"},
         {"[\"a\"]", "[\"a\",1]", "[]"}},
        {"{\"items\":[{\"const\":1}],\"additionalItems\":false}",
         {"[1]", "[]"},
         {"[2]", "[1,1]"}},
        {"{\"type\":\"array\",\"maxItems\":0}", {"[]", "[ ]"}, {"[1]"}},
        {"{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"enum\":[1]},\"minItems\":1}}",
         {"[]", "[[1]]", "[[1,1],[1]]"},
         {"[[]]", "[1]", "[[2]]"}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void objects(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}},"
         "\"required\":[\"a\"],\"additionalProperties\":false}",
         {"{\"a\":1}", "{\"a\": 1, \"b\": \"x\"}", "{\"b\":\"x\",\"a\":1}"},
         {"{}", "{\"b\":\"x\"}", "{\"a\":1,\"a\":2}", "{\"a\":\"x\"}", "{\"a\":1,\"c\":2}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}",
         {"{}", "{\"a\":1}"},
         {"{\"c\":2}"}},
        {"{\"type\":\"object\",\"properties\":{\"ab\":{\"const\":1}},\"additionalProperties\":{\"type\":\"boolean\"}}",
         {"{\"ab\":1,\"a\":true,\"abc\":false}", "{\"x\":true}", "{\"\":true}"},
         {"{\"ab\":true}", "{\"x\":1}", "{\"\\u0061b\":true}"}},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"propertyNames\":{\"pattern\":\"^[a-c]+$\"}}",
         {"{}", "{\"abc\":1,\"a\":2}"},
         {"{\"d\":1}", "{\"\":1}", "{\"a\":\"x\"}"}},
        {"{\"type\":\"object\",\"propertyNames\":{\"enum\":[\"x\",\"y\"]},\"additionalProperties\":{\"type\":\"null\"}}",
         {"{}", "{\"y\":null,\"x\":null}"},
         {"{\"z\":null}", "{\"x\":1}", "{\"x\":null,\"x\":null}"}},
        {"{\"type\":\"object\",\"propertyNames\":{\"maxLength\":2}}",
         {"{\"ab\":1}"},
         {"{\"abc\":1}"}},
        {"{\"required\":[\"q\"],\"additionalProperties\":{\"type\":\"integer\"}}",
         {"{\"q\":1}", "{\"r\":2,\"q\":1}"},
         {"{}", "{\"r\":1}", "{\"q\":\"\"}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\\\"\\n\\u00e9/\":{\"const\":1}},\"required\":[\"a\\\"\\n\\u00e9/\"]}",
         {"{\"a\\\"\\n\xC3\xA9/\":1}"},
         {"{\"a\":1}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":false,\"b\":true}}",
         {"{\"b\":[1]}", "{}"},
         {"{\"a\":1}"}},
    };
    check(rows, ARRAY_LEN(rows));
}

static void combinations(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"{\"enum\":[\"a\",1,null,true,{\"x\":[1,2]}]}",
         {"\"a\"", "1", "null", "true", "{\"x\": [1, 2]}"},
         {"\"b\"", "2", "false", "{\"x\":[1,2]}"}},
        {"{\"type\":\"string\",\"enum\":[\"a\",1,\"ab\"]}",
         {"\"a\"", "\"ab\""},
         {"1", "\"abc\""}},
        {"{\"const\":\"x\\\"y\"}", {"\"x\\\"y\""}, {"\"x\""}},
        {"{\"enum\":[\"a\",\"bb\",\"c1\"],\"pattern\":\"1\"}", {"\"c1\""}, {"\"a\"", "\"bb\""}},
        {"{\"enum\":[1,5,9],\"maximum\":5}", {"1", "5"}, {"9"}},
        {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}",
         {"1", "\"a\""},
         {"\"ab\"", "null"}},
        {"{\"oneOf\":[{\"const\":\"ab\"},{\"const\":\"abc\"},{\"type\":\"null\"}]}",
         {"\"ab\"", "\"abc\"", "null"},
         {"\"a\""}},
        {"{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},"
         "{\"properties\":{\"b\":{\"type\":\"string\"},\"a\":{\"minimum\":5}},\"required\":[\"b\"]}]}",
         {"{\"a\":5,\"b\":\"\"}", "{\"b\":\"\",\"a\":7}"},
         {"{\"a\":4,\"b\":\"\"}", "{\"a\":5}", "{\"a\":5,\"b\":\"\",\"c\":1}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
         {"{\"a\":1}", "{\"b\":1}", "{\"a\":1,\"b\":2}"},
         {"{}"}},
        {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":"
         "{\"anyOf\":[{\"$ref\":\"#/$defs/n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
         {"{\"v\":1,\"next\":null}",
          "{\"v\":1,\"next\":{\"v\":2,\"next\":{\"next\":null,\"v\":3}}}"},
         {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
        {"{\"type\":\"object\",\"properties\":{\"c\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}},\"additionalProperties\":false}",
         {"{}", "{\"c\":[{},{\"c\":[]}]}"},
         {"{\"c\":[1]}"}},
        {"{\"definitions\":{\"a/b\":{\"const\":1},\"c~d\":{\"const\":2}},\"anyOf\":[{\"$ref\":\"#/definitions/a~1b\"},"
         "{\"$ref\":\"#/definitions/c~0d\"}]}",
         {"1", "2"},
         {"3"}},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"const\":4}]}", {"4"}, {"5"}},
        {"{\"title\":\"t\",\"description\":\"d\",\"default\":7,\"examples\":[1],\"$schema\":\"x\",\"x-own\":1,\"type\":\"integer\"}",
         {"1"},
         {"\"1\""}},
        {"{\"type\":\"integer\",\"minLength\":3}", {"1"}, {"\"abc\""}},
        {"{\"uniqueItems\":false,\"type\":\"array\",\"minItems\":0}", {"[]"}, {"1"}},
    };
    check(rows, ARRAY_LEN(rows));
}

/* ---- refusals ---- */

static void refused(const char *schema, bool strict, int code, const char *a, const char *b)
{
    fathom_err err = {0};
    struct machine *m = compile_schema(&vocab, schema, strict, &err);
    if (m || err.code != code || !strstr(err.msg, a) || !strstr(err.msg, b)) {
        fail_msg("%.200s: %d %s", schema, err.code, m ? "accepted" : err.msg);
    }
}

static void refusals(void **state)
{
    (void)state;
    refused("{\"required\":5}", true, FATHOM_EFORMAT, "required", "list of names");
    refused("{\"items\":{\"required\":[1]}}", true, FATHOM_EFORMAT, "required", "#/items");
    refused("{\"properties\":[]}", true, FATHOM_EFORMAT, "properties", "an object");
    static const char *const unsupported[] = {"\"multipleOf\":2",
                                              "\"uniqueItems\":true",
                                              "\"not\":{}",
                                              "\"if\":{\"const\":1}",
                                              "\"contains\":{}",
                                              "\"minProperties\":1",
                                              "\"patternProperties\":{\"a\":{}}",
                                              "\"dependentRequired\":{\"a\":[]}",
                                              "\"unevaluatedProperties\":false",
                                              "\"format\":\"iri\""};
    for (size_t i = 0; i < ARRAY_LEN(unsupported); i++) {
        char schema[200], key[40];
        snprintf(schema, sizeof schema, "{\"properties\":{\"a/b\":{\"items\":[{%s}]}}}",
                 unsupported[i]);
        snprintf(key, sizeof key, "%.*s\"", (int)strcspn(unsupported[i] + 1, "\"") + 1,
                 unsupported[i]);
        refused(schema, true, FATHOM_EUNSUPPORTED, key, "\"#/properties/a~1b/items/0\"");
        fathom_err err = {0};
        struct machine *m = compile_schema(&vocab, schema, false, &err);
        assert_non_null(m);
        machine_unref(m);
    }
    for (int strict = 0; strict < 2; strict++) {
        refused("{\"type\":\"strin\"}", strict, FATHOM_EFORMAT, "type", "#");
        refused("{\"items\":3}", strict, FATHOM_EFORMAT, "#/items", "object");
        refused("{\"minLength\":-1}", strict, FATHOM_EFORMAT, "minLength", "integer");
        refused("{\"minLength\":2001}", strict, FATHOM_ELIMIT, "minLength", "2000");
        refused("{\"pattern\":\"(\"}", strict, FATHOM_EFORMAT, "pattern", "without ')'");
        refused("{\"pattern\":\"a{3,1}\"}", strict, FATHOM_EFORMAT, "pattern", "byte 1");
        refused("{\"pattern\":\"a{0,2001}\"}", strict, FATHOM_ELIMIT, "pattern", "2000");
        refused("{\"pattern\":\"(a|b)*a(a|b){14}$\"}", strict, FATHOM_ELIMIT, "pattern",
                "4096");
        refused("{\"enum\":[]}", strict, FATHOM_EFORMAT, "satisfy", "");
        refused("false", strict, FATHOM_EFORMAT, "satisfy", "");
        refused("{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", strict, FATHOM_EFORMAT,
                "satisfy", "");
        refused("{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", strict,
                FATHOM_EFORMAT, "satisfy", "");
        refused("{\"properties\":[]}", strict, FATHOM_EFORMAT, "properties", "object");
    }
    refused("{\"pattern\":\"(?=a)\"}", true, FATHOM_EUNSUPPORTED, "pattern", "look-around");
    refused("{\"pattern\":\"(a)\\\\1\"}", true, FATHOM_EUNSUPPORTED, "pattern", "back-ref");
    refused("{\"pattern\":\"\\\\bx\"}", true, FATHOM_EUNSUPPORTED, "pattern", "boundaries");
    refused("{\"$ref\":\"#/nowhere\"}", true, FATHOM_EFORMAT, "$ref", "nothing");
}

static void limits(void **state)
{
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 40; i++) {
        buf_adds(&b, "{\"properties\":{\"a\":");
    }
    buf_adds(&b, "true");
    for (int i = 0; i < 40; i++) {
        buf_adds(&b, "}}");
    }
    refused(buf_cstr(&b), true, FATHOM_ELIMIT, "32", "properties/a");
    buf_clear(&b);
    buf_adds(&b, "{\"properties\":{"); /* too many rules */
    for (int i = 0; i < 5000; i++) {
        buf_addf(&b, "%s\"p%d\":{\"const\":%d}", i ? "," : "", i, i);
    }
    buf_adds(&b, "}}");
    refused(buf_cstr(&b), true, FATHOM_ELIMIT, "", "");
    buf_clear(&b);
    buf_adds(&b, "{\"description\":\"");
    for (int i = 0; i < 270000; i++) {
        buf_addc(&b, 'x');
    }
    buf_adds(&b, "\"}");
    refused(buf_cstr(&b), true, FATHOM_ELIMIT, "262144", "");
    buf_clear(&b);
    /* every anyOf doubles the lists: refused, not followed for ever */
    buf_adds(&b, "{\"allOf\":[");
    for (int i = 0; i < 24; i++) {
        buf_addf(&b, "%s{\"anyOf\":[{\"minimum\":%d},{\"maximum\":%d}]}", i ? "," : "", i,
                 100 + i);
    }
    buf_adds(&b, "]}");
    refused(buf_cstr(&b), true, FATHOM_ELIMIT, "", "");
    buf_free(&b);
}

/* clang-format on */

/* More properties than fit the mask of seen ones: in the order of the schema. */
static void many_properties(void **state)
{
    (void)state;
    struct buf b = {0};
    fathom_err err = {0};
    buf_adds(&b, "{\"required\":[\"p50\"],\"properties\":{");
    for (int i = 0; i < 100; i++) {
        buf_addf(&b, "%s\"p%d\":{\"const\":%d}", i ? "," : "", i, i);
    }
    buf_adds(&b, "}}");
    struct machine *m = compile_schema(&vocab, buf_cstr(&b), true, &err);
    assert_non_null(m);
    assert_true(answer_ok(&vocab, m, "{\"p50\":50}"));
    assert_true(answer_ok(&vocab, m, "{\"p1\":1,\"p7\":7,\"p50\":50,\"p99\":99}"));
    assert_false(answer_ok(&vocab, m, "{\"p1\":1}"));
    assert_false(answer_ok(&vocab, m, "{\"p51\":51}"));
    assert_false(answer_ok(&vocab, m, "{\"p50\":50,\"p50\":50}"));
    machine_unref(m);
    buf_free(&b);
}

static int setup(void **state)
{
    (void)state;
    vocab = vocab_open(MINI_JSON);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vocab_close(&vocab);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types),           cmocka_unit_test(strings),
        cmocka_unit_test(formats),         cmocka_unit_test(numbers),
        cmocka_unit_test(number_ranges),   cmocka_unit_test(arrays),
        cmocka_unit_test(objects),         cmocka_unit_test(combinations),
        cmocka_unit_test(refusals),        cmocka_unit_test(limits),
        cmocka_unit_test(many_properties),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
