/* test_chat_jsonl.c - the line functions of `fathom render --jsonl` and `fathom parse --jsonl`:
 * every vector through them, the form of the lines, and answers to bad entries. */
#include "chat_util.h"

#include "chat/jsonl.h"

static struct tokenizer *tok;
static struct buf out;

static int setup(void **state)
{
    (void)state;
    tok = util_tokenizer();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_free(tok);
    arena_fini(&util_arena);
    buf_free(&out);
    return 0;
}

static struct slice entry_text(const struct json *e)
{
    static struct buf b;
    buf_clear(&b);
    json_write_compact(&b, e);
    return buf_slice(&b);
}

static void same_json(const char *what, const struct json *got, const struct json *want)
{
    struct buf a = {0}, b = {0};
    json_write_compact(&a, got);
    json_write_compact(&b, want);
    util_same_text(what, buf_slice(&a), buf_slice(&b));
    buf_free(&a);
    buf_free(&b);
}

static void test_render_vectors(void **state)
{
    (void)state;
    const struct json *all = util_json("chat-vectors/render.json");
    for (size_t i = 0; i < all->n; i++) {
        const struct json *e = &all->items[i], *safe = json_get(e, "safe_ids");
        const char *id = json_get(e, "id")->s;
        buf_clear(&out);
        assert_int_equal(chat_render_line(&out, tok, CHAT_PREVIEW, entry_text(e), NULL), 0);
        assert_null(memchr(out.p, '\n', out.n));
        const struct json *line = util_json_text(buf_slice(&out));
        assert_int_equal(json_get(e, "error") != NULL, json_get(line, "error") != NULL);
        if (!json_get(e, "error")) {
            assert_int_equal(line->n, 3);
            same_json(id, json_get(line, "prompt"), json_get(e, "prompt"));
            same_json(id, json_get(line, "ids"), json_get(e, "prompt_ids"));
            same_json(id, json_get(line, "safe_ids"), safe ? safe : json_get(e, "prompt_ids"));
        }
    }
}

static void test_parse_vectors(void **state)
{
    (void)state;
    const struct json *all = util_json("chat-vectors/parse.json");
    for (size_t i = 0; i < all->n; i++) {
        const struct json *e = &all->items[i], *want = json_get(e, "expect");
        bool refused = json_get(e, "error") || json_get(e, "quirk");
        const char *id = json_get(e, "id")->s;
        for (int strict = 0; strict < 2; strict++) {
            buf_clear(&out);
            assert_int_equal(chat_parse_line(&out, strict != 0, entry_text(e), NULL), 0);
            const struct json *line = util_json_text(buf_slice(&out));
            if (refused) {
                assert_true(!strict || json_get(line, "error"));
                continue;
            }
            same_json(id, json_get(line, "reasoning_content"),
                      json_get(want, "reasoning_content"));
            same_json(id, json_get(line, "content"), json_get(want, "content"));
            const struct json *calls = json_get(line, "tool_calls");
            assert_int_equal(calls->n, json_get(want, "tool_calls")->n);
            for (size_t k = 0; k < calls->n; k++) {
                const struct json *call = json_at(json_get(want, "tool_calls"), k);
                assert_int_equal(calls->items[k].n, 2);
                same_json(id, json_get(&calls->items[k], "name"), json_get(call, "name"));
                same_json(id, json_get(&calls->items[k], "arguments"),
                          json_get(call, "arguments"));
            }
        }
    }
}

static void test_form(void **state)
{
    (void)state;
    static const char render[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\n\\u2028\"}],"
        "\"options\":{\"thinking_mode\":\"chat\",\"add_default_bos_token\":false}}";
    static const char parse[] =
        "{\"thinking_mode\":\"chat\",\"completion\":\"\\n\\n<｜DSML｜"
        "tool_calls>\\n<｜DSML｜invoke name=\\\"f\\\">\\n</｜DSML｜invoke>\\n"
        "</｜DSML｜tool_calls>\"}";
    buf_clear(&out);
    assert_int_equal(chat_render_line(&out, tok, CHAT_PREVIEW, SLICE(render), NULL), 0);
    static const char head[] =
        "{\"prompt\":\"<｜User｜>a\\n\\u2028<｜Assistant｜></think>\",\"ids\":[";
    assert_memory_equal(out.p, head, sizeof head - 1);
    buf_clear(&out);
    assert_int_equal(chat_parse_line(&out, true, SLICE(parse), NULL), 0);
    assert_string_equal(buf_cstr(&out),
                        "{\"reasoning_content\":\"\",\"content\":\"\","
                        "\"tool_calls\":[{\"name\":\"f\",\"arguments\":\"{}\"}]}");
}

/* A bad entry is answered, on its own line, after what the buffer held before. */
static void test_bad_entries(void **state)
{
    (void)state;
    static const char *const render[] = {
        "",
        "[1",
        "[]",
        "{}",
        "{\"messages\":[]}",
        "{\"messages\":{},\"options\":{\"thinking_mode\":\"chat\"}}",
        "{\"messages\":[],\"options\":{\"thinking_mode\":\"loud\"}}",
        "{\"messages\":[],\"options\":{\"thinking_mode\":\"chat\",\"reasoning_effort\":3}}",
        "{\"messages\":[],\"options\":{\"thinking_mode\":\"chat\",\"drop_thinking\":1}}",
        "{\"messages\":[],\"options\":{\"thinking_mode\":\"chat\",\"context\":3}}",
        "{\"messages\":[],\"options\":{\"thinking_mode\":\"chat\"},\"tools\":[{}]}",
        "{\"messages\":[3],\"options\":{\"thinking_mode\":\"chat\"}}",
        "{\"messages\":[{\"role\":\"king\"}],\"options\":{\"thinking_mode\":\"chat\"}}",
        "{\"messages\":[{\"role\":\"user\"},{\"role\":\"user\",\"content\":3}],"
        "\"options\":{\"thinking_mode\":\"chat\"}}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[3]}],"
        "\"options\":{\"thinking_mode\":\"chat\"}}",
        "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}],"
        "\"options\":{\"thinking_mode\":\"chat\"}}",
    };
    static const char *const parse[] = {"", "{}", "{\"thinking_mode\":\"chat\"}",
                                        "{\"completion\":\"\"}",
                                        "{\"thinking_mode\":\"chat\",\"completion\":5}"};
    for (size_t i = 0; i < ARRAY_LEN(render) + ARRAY_LEN(parse); i++) {
        fathom_err err = {0};
        buf_clear(&out);
        buf_adds(&out, "before\n");
        if (i < ARRAY_LEN(render)) {
            assert_int_equal(
                chat_render_line(&out, tok, CHAT_PREVIEW, slice_of(render[i]), &err), 0);
        } else {
            const char *text = parse[i - ARRAY_LEN(render)];
            assert_int_equal(chat_parse_line(&out, false, slice_of(text), &err), 0);
        }
        assert_int_equal(err.code, 0);
        assert_memory_equal(out.p, "before\n{\"error\":\"", 17);
        const struct json *line = util_json_text((struct slice){out.p + 7, out.n - 7});
        assert_int_equal(line->n, 1);
        assert_true(json_str(json_get(line, "error")).n > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render_vectors),
        cmocka_unit_test(test_parse_vectors),
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_bad_entries),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
