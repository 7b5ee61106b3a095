/* test_constrain_mask.c - masks against the definition: a token is allowed exactly if a second
 * machine, which reads it byte by byte, takes it. Random answers over the mini and the real
 * vocabulary, each ending in a text that the JSON reader and the call parser accept; calls; lazy
 * grammars; sharing and forgetting. */
#include "constrain_util.h"

#include "base/rng.h"
#include "constrain/machine_int.h"

static struct bench_vocab mini, real;

/* clang-format off */
static const char *const schemas[] = {
    "{\"type\":\"object\"}",
    "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\"}},\"required\":[\"title\"],"
    "\"additionalProperties\":false}",
    "{\"type\":\"string\",\"minLength\":3,\"maxLength\":9}",
    "{\"type\":\"string\",\"pattern\":\"^[a-z]+(-[0-9]{2})?$\"}",
    "{\"type\":\"string\",\"pattern\":\"x\"}",
    "{\"type\":\"array\",\"items\":{\"enum\":[\"a\",\"ab\",\"abc\",1,12]},\"maxItems\":5}",
    "{\"anyOf\":[{\"type\":\"string\",\"maxLength\":5},{\"type\":\"string\",\"pattern\":\"^the \"},"
    "{\"type\":\"number\",\"minimum\":-5,\"maximum\":5.5}]}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":[\"null\",\"boolean\"]},"
    "\"d\":{\"format\":\"date-time\"}},\"additionalProperties\":{\"type\":\"string\",\"maxLength\":2}}",
    "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"l\":{\"$ref\":\"#/$defs/t\"},\"v\":"
    "{\"type\":\"integer\"}},\"required\":[\"v\"]}},\"$ref\":\"#/$defs/t\"}",
};

static const char tools_text[] =
    "[{\"function\":{\"name\":\"write\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"path\":{\"type\":\"string\",\"minLength\":1},\"mode\":{\"enum\":[\"w\",\"a\",7]},\"n\":{\"type\":"
    "\"integer\",\"minimum\":1},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"when\":"
    "{\"anyOf\":[{\"type\":\"string\",\"format\":\"date\"},{\"type\":\"null\"}]}},\"required\":[\"path\"],"
    "\"additionalProperties\":false}}},"
    "{\"function\":{\"name\":\"write_all\",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":"
    "{\"type\":\"boolean\"}},\"required\":[\"x\"]}}},"
    "{\"function\":{\"name\":\"none\"}}]";

/* clang-format on */

static struct machine *compile_tools(const struct bench_vocab *v, enum constrain_calls calls,
                                     const char *only, bool one)
{
    struct arena a = {0};
    struct json tools = read_text(&a, tools_text);
    struct machine *m = NULL;
    fathom_err err = {0};
    struct constrain_spec spec = {.calls = calls, .tools = &tools, .one_call = one};
    spec.only = only ? slice_of(only) : (struct slice){0};
    if (constrain_compile(&m, &spec, v->trie, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    arena_fini(&a);
    return m;
}

static bool bit(const uint32_t *mask, uint32_t id)
{
    return mask[id / 32] >> id % 32 & 1u;
}

static void compare(const struct bench_vocab *v, const uint32_t *mask, struct machine *other,
                    struct position *at, const char *what, const struct buf *so_far)
{
    for (uint32_t id = 0; id < v->trie->n_words * 32; id++) {
        bool is = bit(mask, id);
        bool want = id < v->trie->n_vocab && machine_allows(other, at, id);
        if (is != want) {
            struct slice s = tokenizer_bytes(v->tok, id);
            fail_msg("%.60s after \"%s\": token %u \"%.*s\": the mask says %d", what,
                     buf_cstr(so_far), id, (int)s.n, s.p, is);
        }
    }
}

/* A random token that the mask allows; now and then one of a few bytes, or an end, so that answers
 * get somewhere. */
static uint32_t draw(const struct bench_vocab *v, const uint32_t *mask, struct rng *r)
{
    uint32_t n = v->trie->n_vocab, eos = v->trie->eos;
    if (bit(mask, eos) && rng_below(r, 4) == 0) {
        return eos;
    }
    for (int i = 0; i < 200; i++) {
        uint32_t id = rng_below(r, i % 2 ? 259 : n);
        if (bit(mask, id)) {
            return id;
        }
    }
    uint32_t from = rng_below(r, n);
    for (uint32_t i = 0; i < n; i++) {
        if (bit(mask, (from + i) % n)) {
            return (from + i) % n;
        }
    }
    fail_msg("an empty mask");
    return 0;
}

static uint32_t byte_token(const struct bench_vocab *v, const uint32_t *mask, char c)
{
    for (uint32_t id = 3; id < 259; id++) {
        if (tokenizer_bytes(v->tok, id).p[0] == c && bit(mask, id)) {
            return id;
        }
    }
    return 0;
}

/* A token that tends to end things: one of the bytes that close, in random order, so that no
 * grammar is led in circles for ever. */
static uint32_t closing(const struct bench_vocab *v, const uint32_t *mask, struct rng *r)
{
    static const char close[] = "\"}]x</</</</\n>";
    static const char rest[] = "v0123456789:{[,aeintrsuflo- ";
    uint32_t id = 0;
    if (bit(mask, v->trie->eos) || (bit(mask, v->trie->mark) && rng_below(r, 2))) {
        return bit(mask, v->trie->eos) ? v->trie->eos : v->trie->mark;
    }
    for (int i = 0; i < 24 && !id; i++) {
        id = byte_token(v, mask, close[rng_below(r, sizeof close - 1)]);
    }
    for (const char *c = rest; *c && !id; c++) {
        id = byte_token(v, mask, *c);
    }
    return id ? id : draw(v, mask, r);
}

/* One random answer; every `every`-th mask is compared. Returns its tokens. */
static void random_answer(const struct bench_vocab *v, struct machine *m, struct machine *other,
                          struct rng *r, int every, const char *what, struct buf *text,
                          struct ids *ids)
{
    struct position a, b;
    uint32_t *mask = malloc(v->trie->n_words * sizeof *mask);
    assert_non_null(mask);
    machine_start(m, &a);
    machine_start(other, &b);
    for (int i = 0; i < 4000; i++) {
        machine_mask(m, &a, mask);
        if (i % every == 0 && i < 60) {
            compare(v, mask, other, &b, what, text);
        }
        uint32_t id = i < 30 ? draw(v, mask, r) : closing(v, mask, r);
        assert_true(machine_token(m, &a, id) && machine_token(other, &b, id));
        if (id == v->trie->eos) {
            break;
        }
        ids_add(ids, id);
        buf_add_slice(text, tokenizer_bytes(v->tok, id));
    }
    if (!a.ended) {
        fail_msg("%.60s: no end: %s", what, buf_cstr(text));
    }
    machine_mask(m, &a, mask);
    for (uint32_t id = 0; id < v->trie->n_vocab; id++) {
        assert_int_equal(bit(mask, id), id == v->trie->eos);
    }
    machine_stop(m, &a);
    machine_stop(other, &b);
    free(mask);
}

static void json_answers(const struct bench_vocab *v, int rounds, int every)
{
    struct rng r = {7};
    for (size_t i = 0; i < ARRAY_LEN(schemas); i++) {
        fathom_err err = {0};
        struct machine *m = compile_schema(v, schemas[i], true, &err);
        struct machine *other = compile_schema(v, schemas[i], true, &err);
        assert_true(m && other);
        for (int k = 0; k < rounds; k++) {
            struct buf text = {0};
            struct ids ids = {0};
            struct arena arena = {0};
            struct json value;
            random_answer(v, m, other, &r, every, schemas[i], &text, &ids);
            if (json_read(&value, &arena, buf_cstr(&text), text.n, &err) != 0) {
                fail_msg("%s: %s: %s", schemas[i], buf_cstr(&text), err.msg);
            }
            arena_fini(&arena);
            buf_free(&text);
            ids_free(&ids);
        }
        machine_unref(m);
        machine_unref(other);
    }
}

static void masks_of_the_mini_vocabulary(void **state)
{
    (void)state;
    json_answers(&mini, 8, 1);
}

static void masks_of_the_real_vocabulary(void **state)
{
    (void)state;
    json_answers(&real, 1, 6);
}

static void masks_of_calls(void **state)
{
    (void)state;
    struct rng r = {11};
    struct machine *m = compile_tools(&mini, CONSTRAIN_CALLS_MUST, NULL, false);
    struct machine *other = compile_tools(&mini, CONSTRAIN_CALLS_MUST, NULL, false);
    for (int k = 0; k < 30; k++) {
        struct buf text = {0};
        struct ids ids = {0};
        random_answer(&mini, m, other, &r, 1, "calls", &text, &ids);
        static const char head[] = "\n\n<";
        assert_memory_equal(text.p, head, 3);
        buf_free(&text);
        ids_free(&ids);
    }
    machine_unref(m);
    machine_unref(other);
}

/* ---- calls, by their text ---- */

#define D          \
    "\xEF\xBD\x9C" \
    "DSML"         \
    "\xEF\xBD\x9C"
#define CALL(name, params) "<" D "invoke name=\"" name "\">\n" params "\n</" D "invoke>"
#define BLOCK(calls) "\n\n<" D "tool_calls>\n" calls "\n</" D "tool_calls>"
#define STR(k, v) "<" D "parameter name=\"" k "\" string=\"true\">" v "</" D "parameter>"
#define VAL(k, v) "<" D "parameter name=\"" k "\" string=\"false\">" v "</" D "parameter>"

static void texts(struct machine *m, const char *const *yes, const char *const *no)
{
    for (; *yes; yes++) {
        if (!answer_ok(&mini, m, *yes)) {
            fail_msg("should be accepted: %s", *yes);
        }
    }
    for (; *no; no++) {
        if (answer_ok(&mini, m, *no)) {
            fail_msg("should be refused: %s", *no);
        }
    }
}

static void required_calls(void **state)
{
    (void)state;
    struct machine *m = compile_tools(&mini, CONSTRAIN_CALLS_MUST, NULL, false);
    texts(
        m,
        (const char *[]){
            BLOCK(CALL("write", STR("path", "a </b> <\"\n}"))),
            BLOCK(CALL("write", STR("path", "p") "\n" STR("mode", "w") "\n" VAL("n", "3"))),
            BLOCK(CALL("write", VAL("mode", "7") "\n" STR("path", "p"))),
            BLOCK(CALL("write", STR("path", "p") "\n" VAL("when", "null"))),
            BLOCK(CALL("write", STR("path", "p") "\n" STR("when", "2024-02-29"))),
            BLOCK(CALL("write", STR("path", "p") "\n" VAL("tags", "[\"a\", \"b\"]"))),
            BLOCK(CALL("write_all", VAL("x", "true"))), BLOCK(CALL("none", "")),
            BLOCK(CALL("none", STR("any", "") "\n" VAL("more", "{\"a\": [1]}"))),
            BLOCK(CALL("write_all", VAL("x", "true")) "\n" CALL("none", "")), NULL},
        (const char *[]){"hello",
                         "",
                         "{}",
                         BLOCK(""),
                         BLOCK(CALL("writ", STR("path", "p"))),
                         BLOCK(CALL("write", "")),
                         BLOCK(CALL("write", STR("path", ""))),
                         BLOCK(CALL("write", VAL("path", "\"p\""))),
                         BLOCK(CALL("write", STR("path", "p") STR("mode", "w"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" STR("path", "q"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" STR("mode", "x"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" VAL("n", "0"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" STR("n", "3"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" STR("other", "3"))),
                         BLOCK(CALL("write", STR("path", "p") "\n" STR("when", "2023-02-29"))),
                         BLOCK(CALL("write_all", VAL("x", "1"))),
                         BLOCK(CALL("write_all", STR("x", "true"))),
                         "text" BLOCK(CALL("none", "")),
                         BLOCK(CALL("none", "")) "text",
                         NULL});
    machine_unref(m);
}

static void named_and_single_calls(void **state)
{
    (void)state;
    struct machine *m = compile_tools(&mini, CONSTRAIN_CALLS_MUST, "none", true);
    texts(m,
          (const char *[]){BLOCK(CALL("none", "")), BLOCK(CALL("none", STR("a", "b"))), NULL},
          (const char *[]){BLOCK(CALL("write_all", VAL("x", "true"))),
                           BLOCK(CALL("none", "") "\n" CALL("none", "")), NULL});
    machine_unref(m);
}

/* Feeds a matcher with the tokens of a text; false where a mask refuses one. */
static bool follow(struct matcher *t, const char *text)
{
    struct ids ids = {0};
    bool ok = true;
    tokenizer_encode(mini.tok, text, strlen(text), true, &ids);
    for (size_t i = 0; i < ids.n && ok; i++) {
        const uint32_t *mask = matcher_mask(t);
        ok = !mask || bit(mask, ids.p[i]);
        matcher_accept(t, ids.p[i]);
    }
    ids_free(&ids);
    return ok;
}

static bool followed(struct machine *m, bool lazy, bool in_reasoning, const char *text)
{
    struct matcher *t = matcher_new(m, lazy, in_reasoning);
    bool ok = follow(t, text) && follow(t, control_token_text(CT_EOS));
    matcher_free(t);
    return ok;
}

static void lazy_calls(void **state)
{
    (void)state;
    struct machine *m = compile_tools(&mini, CONSTRAIN_CALLS_MAY, NULL, false);
    assert_true(followed(m, true, false, "Any text < at all, {1}"));
    assert_true(followed(m, true, false, "Text." BLOCK(CALL("none", ""))));
    assert_true(followed(m, true, false, BLOCK(CALL("write_all", ""))));
    assert_true(followed(m, true, false, BLOCK(CALL("write_all", STR("x", "free")))));
    assert_false(followed(m, true, false, BLOCK(CALL("unknown", ""))));
    assert_false(followed(m, true, false, BLOCK(CALL("write_all", STR("y", "free")))));
    assert_false(followed(m, true, false, BLOCK(CALL("write_all", VAL("x", "no JSON")))));
    /* write is strict */
    assert_false(followed(m, true, false, BLOCK(CALL("write", ""))));
    assert_true(followed(m, true, false, BLOCK(CALL("write", STR("path", "p")))));
    assert_false(
        followed(m, true, false, BLOCK(CALL("write", STR("path", "p") "\n" VAL("n", "0")))));
    /* markers in reasoning begin nothing */
    assert_true(followed(m, true, true, "<" D "x</think>text" BLOCK(CALL("none", ""))));
    machine_unref(m);
}

static void reasoning_is_free(void **state)
{
    (void)state;
    struct machine *m = compile_tools(&mini, CONSTRAIN_CALLS_MUST, NULL, false);
    assert_true(followed(m, false, true, "Let me think {\n</think>" BLOCK(CALL("none", ""))));
    assert_false(followed(m, false, true, "no end"));
    assert_false(followed(m, false, true, "<" D "</think>" BLOCK(CALL("none", ""))));
    assert_false(followed(m, false, true, "x</think>text"));
    machine_unref(m);
}

static void json_or_calls(void **state)
{
    (void)state;
    struct arena a = {0};
    struct json tools = read_text(&a, tools_text), schema = read_text(&a, schemas[1]);
    struct machine *m = NULL;
    struct constrain_spec spec = {
        .schema = &schema, .calls = CONSTRAIN_CALLS_MAY, .tools = &tools};
    assert_int_equal(constrain_compile(&m, &spec, mini.trie, NULL), 0);
    texts(m, (const char *[]){"{\"title\": \"x\"}", BLOCK(CALL("none", "")), NULL},
          (const char *[]){"{}", "x", "{\"title\": \"x\"}" BLOCK(CALL("none", "")), NULL});
    machine_unref(m);
    spec = (struct constrain_spec){.object = true};
    assert_int_equal(constrain_compile(&m, &spec, mini.trie, NULL), 0);
    texts(m, (const char *[]){"{\"title\": [1, {}]}", "{}", NULL},
          (const char *[]){"[]", "1", "{\"a\"}", NULL});
    machine_unref(m);
    arena_fini(&a);
}

/* Nesting ends where it can still be closed. */
static void depth_is_bounded(void **state)
{
    (void)state;
    fathom_err err = {0};
    struct machine *m = compile_schema(&mini, "{}", true, &err);
    struct position p;
    uint32_t *mask = malloc(mini.trie->n_words * sizeof *mask);
    struct buf text = {0};
    uint32_t open = 0, close = 0;
    for (uint32_t id = 3; id < 259; id++) {
        char c = tokenizer_bytes(mini.tok, id).p[0];
        open = c == '[' ? id : open;
        close = c == ']' ? id : close;
    }
    machine_start(m, &p);
    uint32_t depth = 0;
    for (; depth < 1000; depth++) {
        machine_mask(m, &p, mask);
        if (!bit(mask, open)) {
            break;
        }
        assert_true(machine_token(m, &p, open));
    }
    assert_in_range(depth, 90, JSON_MAX_DEPTH);
    for (uint32_t i = 0; i < depth; i++) {
        machine_mask(m, &p, mask);
        assert_true(bit(mask, close));
        assert_true(machine_token(m, &p, close));
    }
    assert_true(machine_may_end(m, &p));
    machine_stop(m, &p);
    machine_unref(m);
    free(mask);
    buf_free(&text);
}

/* What a machine remembers may be forgotten at any moment without changing a mask. */
static void forgetting_changes_nothing(void **state)
{
    (void)state;
    struct rng r = {5};
    fathom_err err = {0};
    struct machine *m = compile_schema(&mini, schemas[7], true, &err);
    struct machine *other = compile_schema(&mini, schemas[7], true, &err);
    size_t bytes = mini.trie->n_words * sizeof(uint32_t);
    uint32_t *x = malloc(bytes), *y = malloc(bytes);
    for (int k = 0; k < 20; k++) {
        struct position a, b, c;
        machine_start(m, &a);
        machine_start(m, &c);
        machine_start(other, &b);
        for (int i = 0; i < 4000 && !a.ended; i++) {
            if (i % 3 == 0 && i < 100) {
                assert_true(machine_reset(m));
            }
            machine_mask(m, &a, x);
            machine_mask(other, &b, y);
            assert_memory_equal(x, y, bytes);
            uint32_t id = i < 40 ? draw(&mini, x, &r) : closing(&mini, x, &r);
            assert_true(machine_token(m, &a, id) && machine_token(other, &b, id));
        }
        assert_true(a.ended);
        machine_mask(m, &c, x); /* still at its beginning */
        machine_stop(other, &b);
        machine_start(other, &b);
        machine_mask(other, &b, y);
        assert_memory_equal(x, y, bytes);
        machine_stop(m, &a);
        machine_stop(m, &c);
        machine_stop(other, &b);
    }
    machine_unref(m);
    machine_unref(other);
    free(x);
    free(y);
}

static int setup(void **state)
{
    (void)state;
    mini = vocab_open(MINI_JSON);
    real = vocab_open(test_data_path("tokenizer/tokenizer.json.xz"));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vocab_close(&mini);
    vocab_close(&real);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_of_the_mini_vocabulary),
        cmocka_unit_test(masks_of_the_real_vocabulary),
        cmocka_unit_test(masks_of_calls),
        cmocka_unit_test(required_calls),
        cmocka_unit_test(named_and_single_calls),
        cmocka_unit_test(lazy_calls),
        cmocka_unit_test(reasoning_is_free),
        cmocka_unit_test(json_or_calls),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(forgetting_changes_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
