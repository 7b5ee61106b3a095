/* test_text_stream.c - streaming decoder: stream.jsonl directly and through the JSON lines
 * form, random bytes cut anywhere, and the other direction of the JSON lines form. */
#include "text_common.h"

#include "base/rng.h"
#include "text/jsonl.h"

static void check_bytes(struct slice bytes, struct slice hex, struct slice name, size_t i)
{
    struct buf b = {0};
    for (size_t k = 0; k < bytes.n; k++) {
        buf_addf(&b, "%02x", (unsigned char)bytes.p[k]);
    }
    if (!slice_eq(buf_slice(&b), hex)) {
        fail_msg("%s: bytes of token %zu are %s", name.p, i, buf_cstr(&b));
    }
    buf_free(&b);
}

static void check_line(const struct json *v, void *user)
{
    const struct tokenizer *t = user;
    struct slice name = json_str(json_get(v, "id"));
    const struct json *ids = json_get(v, "ids"), *deltas = json_get(v, "deltas");
    struct detok d = {0};
    struct buf out = {0};
    assert_true(ids && deltas && ids->n == deltas->n);
    for (size_t i = 0; i < ids->n; i++) {
        int64_t id = -1;
        assert_true(json_int(json_at(ids, i), &id));
        struct slice bytes = tokenizer_bytes(t, (uint32_t)id);
        check_bytes(bytes, json_str(json_at(json_get(v, "bytes_hex"), i)), name, i);
        buf_clear(&out);
        detok_feed(&d, bytes.p, bytes.n, &out);
        if (!slice_eq(buf_slice(&out), json_str(json_at(deltas, i)))) {
            fail_msg("%s: delta %zu is \"%s\"", name.p, i, buf_cstr(&out));
        }
    }
    buf_clear(&out);
    detok_flush(&d, &out);
    assert_true(slice_eq(buf_slice(&out), json_str(json_get(v, "flush"))));
    buf_free(&out);
}

/* The same line as text: the answer must hold the same deltas and flush. */
static void check_jsonl(const struct json *v, void *user)
{
    struct buf line = {0}, answer = {0};
    struct arena a = {0};
    struct json got;
    fathom_err err = {0};
    json_write_compact(&line, v);
    jsonl_decode(user, buf_slice(&line), &answer);
    assert_int_equal(answer.p[answer.n - 1], '\n');
    assert_null(memchr(answer.p, '\n', answer.n - 1));
    assert_int_equal(json_read(&got, &a, answer.p, answer.n, &err), 0);
    const struct json *deltas = json_get(&got, "deltas"), *want = json_get(v, "deltas");
    assert_true(json_is(deltas, JSON_ARRAY) && deltas->n == want->n);
    for (size_t i = 0; i < want->n; i++) {
        assert_true(slice_eq(json_str(json_at(deltas, i)), json_str(json_at(want, i))));
    }
    assert_true(slice_eq(json_str(json_get(&got, "flush")), json_str(json_get(v, "flush"))));
    arena_fini(&a);
    buf_free(&line);
    buf_free(&answer);
}

static void vectors(void **state)
{
    (void)state;
    struct tokenizer *t = load_real();
    const char *path = test_data_path("tokenizer/stream.jsonl");
    assert_true(for_each_line(path, check_line, t) > 0);
    for_each_line(path, check_jsonl, t);
    tokenizer_free(t);
}

static void random_bytes(void **state)
{
    (void)state;
    static const unsigned char kinds[] = {'a',  0x80, 0xBF, 0xC3, 0xE0, 0xA0, 0xE4, 0xED, 0x9F,
                                          0xEF, 0xF0, 0x90, 0xF4, 0x8F, 0xF5, 0xC0, 0xFF};
    struct rng r = {.s = 99};
    print_message("seed 99\n");
    for (int i = 0; i < 100000; i++) {
        char text[16];
        size_t n = 1 + rng_below(&r, sizeof text);
        for (size_t k = 0; k < n; k++) {
            text[k] = (char)kinds[rng_below(&r, sizeof kinds)];
        }
        struct detok d = {0};
        struct buf got = {0}, want = {0};
        for (size_t at = 0; at < n;) {
            size_t k = rng_below(&r, (uint32_t)MIN(n - at, 5) + 1);
            detok_feed(&d, text + at, k, &got);
            assert_true(d.n <= 3 && utf8_valid(got.p ? got.p : "", got.n));
            at += k;
        }
        detok_flush(&d, &got);
        assert_int_equal(d.n, 0);
        buf_add_utf8_lossy(&want, text, n);
        if (!slice_eq(buf_slice(&got), buf_slice(&want))) {
            for (size_t k = 0; k < n; k++) {
                print_message("%02x ", (unsigned char)text[k]);
            }
            fail_msg("text %d is decoded differently", i);
        }
        buf_free(&got);
        buf_free(&want);
    }
}

static void check_answer(const struct tokenizer *t, bool decode, bool trusted, const char *line,
                         const char *want)
{
    struct buf out = {0};
    if (decode) {
        jsonl_decode(t, slice_of(line), &out);
    } else {
        jsonl_encode(t, trusted, slice_of(line), &out);
    }
    assert_int_equal(out.p[out.n - 1], '\n');
    if (want) {
        out.p[out.n - 1] = 0;
        assert_string_equal(out.p, want);
    } else {
        assert_memory_equal(out.p, "{\"error\":\"", 10);
    }
    buf_free(&out);
}

static void json_lines(void **state)
{
    (void)state;
    struct tokenizer *t = load_json(MINI_JSON);
    check_answer(t, false, true, "{\"text\":\"\"}", "{\"ids\":[]}");
    check_answer(t, false, true, "{\"text\":\"<think>a\\u0000\"}", "{\"ids\":[2292,67,191]}");
    check_answer(t, false, false, "{\"x\":1,\"text\":\"a\"}", "{\"ids\":[67]}");
    check_answer(t, false, true, "{\"text\":5}", NULL);
    check_answer(t, false, true, "[\"text\"]", NULL);
    check_answer(t, false, true, "", NULL);
    check_answer(t, false, true, "{\"text\":\"a\"", NULL);
    check_answer(t, true, false, "{\"ids\":[]}", "{\"deltas\":[],\"flush\":\"\"}");
    check_answer(t, true, false, "{\"ids\":[67,2292]}",
                 "{\"deltas\":[\"a\",\"<think>\"],\"flush\":\"\"}");
    check_answer(t, true, false, "{\"ids\":[2304]}", NULL);
    check_answer(t, true, false, "{\"ids\":[67,-1]}", NULL);
    check_answer(t, true, false, "{\"ids\":[\"67\"]}", NULL);
    check_answer(t, true, false, "{\"ids\":67}", NULL);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(vectors),
                                       cmocka_unit_test(random_bytes),
                                       cmocka_unit_test(json_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
