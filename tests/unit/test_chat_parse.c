/* test_chat_parse.c - the completion parser against parse.json, and against itself: every
 * completion is fed whole, cut in two at every byte, byte by byte and token by token, strict
 * and lenient, and must always give the same message. Then what leniency allows, what it does
 * not, and when text is released. */
#include "chat_util.h"

#include "base/rng.h"
#include "chat/events.h"
#include "chat/template.h"

static struct tokenizer *tok;

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
    return 0;
}

/* A sink that checks the order of events and that every text is valid UTF-8, and collects. */
struct checked {
    struct chat_result r;
    size_t n_begun;
    bool in_call, ended;
};

static void checked_sink(void *user, const struct chat_event *ev)
{
    struct checked *k = user;
    bool text = ev->kind == CHAT_EV_REASONING || ev->kind == CHAT_EV_CONTENT ||
                ev->kind == CHAT_EV_ARGUMENTS;
    assert_false(k->ended);
    assert_true(!text || ev->text.n > 0);
    assert_true(ev->text.n == 0 || utf8_valid(ev->text.p, ev->text.n));
    if (ev->kind == CHAT_EV_REASONING) {
        assert_true(k->r.content.n == 0 && k->n_begun == 0);
    } else if (ev->kind == CHAT_EV_CONTENT) {
        assert_int_equal(k->n_begun, 0);
    } else if (ev->kind == CHAT_EV_CALL) {
        assert_false(k->in_call);
        assert_int_equal(ev->call, k->n_begun++);
        k->in_call = true;
    } else if (ev->kind != CHAT_EV_END) {
        assert_true(k->in_call);
        assert_int_equal(ev->call, k->n_begun - 1);
        k->in_call = ev->kind == CHAT_EV_ARGUMENTS;
    } else {
        k->ended = true;
        assert_true((ev->end == CHAT_END_STOP) == (ev->why == NULL));
    }
    chat_result_sink(&k->r, ev);
}

enum feed { WHOLE, SPLIT, BYTES, IDS };

/* Parses `text` (or `ids`, for IDS) in the given way; `cut` is where SPLIT cuts. */
static void parse(struct checked *k, bool thinking, bool strict, struct slice text,
                  const struct json *ids, enum feed feed, size_t cut)
{
    struct chat_events e;
    struct chat_events_opts o = {thinking, strict, checked_sink, k};
    *k = (struct checked){0};
    chat_events_start(&e, &o, tok);
    if (feed == WHOLE) {
        chat_events_text(&e, text.p, text.n);
    } else if (feed == SPLIT) {
        chat_events_text(&e, text.p, cut);
        chat_events_text(&e, text.p + cut, text.n - cut);
    }
    for (size_t i = 0; feed == BYTES && i < text.n; i++) {
        chat_events_text(&e, text.p + i, 1);
    }
    for (size_t i = 0; feed == IDS && i < ids->n; i++) {
        int64_t id = -1;
        assert_true(json_int(&ids->items[i], &id));
        chat_events_token(&e, (uint32_t)id);
    }
    assert_int_equal(chat_events_finish(&e, NULL), 0);
    assert_false(k->r.failed);
    assert_true(k->ended);
}

static void same_result(const char *what, const struct chat_result *a,
                        const struct chat_result *b)
{
    util_same_text(what, buf_slice(&a->reasoning), buf_slice(&b->reasoning));
    util_same_text(what, buf_slice(&a->content), buf_slice(&b->content));
    if (a->n_call != b->n_call || a->end != b->end || (a->why != b->why)) {
        fail_msg("%s: %zu calls, %s; expected %zu calls, %s", what, a->n_call,
                 a->why ? a->why : "complete", b->n_call, b->why ? b->why : "complete");
    }
    for (size_t i = 0; i < a->n_call; i++) {
        util_same_text(what, buf_slice(&a->call[i].name), buf_slice(&b->call[i].name));
        util_same_text(what, buf_slice(&a->call[i].arguments),
                       buf_slice(&b->call[i].arguments));
    }
}

static void no_marker_in(const char *what, const struct buf *text)
{
    static const enum control_token markers[] = {CT_BOS, CT_EOS, CT_THINK_OPEN, CT_THINK_CLOSE,
                                                 CT_DSML};
    for (size_t i = 0; i < ARRAY_LEN(markers); i++) {
        if (strstr(buf_cstr(text), control_token_text(markers[i]))) {
            fail_msg("%s: %s in the text", what, control_token_text(markers[i]));
        }
    }
}

/* All ways of feeding give what feeding it whole gives; that is left in *whole. */
static void all_feeds(const char *what, struct checked *whole, bool thinking, bool strict,
                      struct slice text, const struct json *ids)
{
    struct checked k;
    parse(whole, thinking, strict, text, ids, WHOLE, 0);
    no_marker_in(what, &whole->r.content);
    no_marker_in(what, &whole->r.reasoning);
    for (size_t cut = 0; cut <= text.n; cut++) {
        parse(&k, thinking, strict, text, ids, SPLIT, cut);
        same_result(what, &k.r, &whole->r);
        chat_result_fini(&k.r);
    }
    parse(&k, thinking, strict, text, ids, BYTES, 0);
    same_result(what, &k.r, &whole->r);
    chat_result_fini(&k.r);
    if (ids) {
        parse(&k, thinking, strict, text, ids, IDS, 0);
        same_result(what, &k.r, &whole->r);
        chat_result_fini(&k.r);
    }
}

static void same_as_expected(const char *what, const struct chat_result *r,
                             const struct json *want)
{
    const struct json *calls = json_get(want, "tool_calls");
    if (r->end != CHAT_END_STOP) {
        fail_msg("%s: refused: %s", what, r->why);
    }
    util_same_text(what, buf_slice(&r->reasoning),
                   json_str(json_get(want, "reasoning_content")));
    util_same_text(what, buf_slice(&r->content), json_str(json_get(want, "content")));
    assert_int_equal(r->n_call, calls->n);
    for (size_t i = 0; i < r->n_call; i++) {
        const struct json *call = &calls->items[i];
        util_same_text(what, buf_slice(&r->call[i].name), json_str(json_get(call, "name")));
        util_same_text(what, buf_slice(&r->call[i].arguments),
                       json_str(json_get(call, "arguments")));
    }
}

static void test_vectors(void **state)
{
    (void)state;
    const struct json *all = util_json("chat-vectors/parse.json");
    assert_true(json_is(all, JSON_ARRAY) && all->n > 0);
    print_message("%zu completions\n", all->n);
    for (size_t i = 0; i < all->n; i++) {
        const struct json *e = &all->items[i], *ids = json_get(e, "completion_ids");
        struct slice text = json_str(json_get(e, "completion"));
        struct slice id = json_str(json_get(e, "id")), name = json_str(json_get(e, "name"));
        bool thinking = slice_is(json_str(json_get(e, "thinking_mode")), "thinking");
        bool refused = json_get(e, "error") || json_get(e, "quirk");
        char what[200];
        struct checked strict, lenient;
        snprintf(what, sizeof what, "%.*s %.*s", (int)id.n, id.p, (int)name.n, name.p);
        all_feeds(what, &strict, thinking, true, text, ids);
        all_feeds(what, &lenient, thinking, false, text, ids);
        if (refused) {
            assert_int_not_equal(strict.r.end, CHAT_END_STOP);
        } else {
            same_as_expected(what, &strict.r, json_get(e, "expect"));
            same_as_expected(what, &lenient.r, json_get(e, "expect"));
        }
        chat_result_fini(&strict.r);
        chat_result_fini(&lenient.r);
    }
}

#define OPEN "<｜DSML｜tool_calls>"
#define CLOSE "</｜DSML｜tool_calls>"
#define CALL(name) "<｜DSML｜invoke name=\"" name "\">\n"
#define END "</｜DSML｜invoke>"
#define PARAM(key, value) \
    "<｜DSML｜parameter name=\"" key "\" string=\"true\">" value "</｜DSML｜parameter>"
#define EOS "<｜end▁of▁sentence｜>"
#define GOOD CALL("f") PARAM("a", "b") "\n" END "\n"

/* One line per rule: what lenient parsing makes of a completion. */
static const struct lenient_row {
    const char *text;
    bool thinking;
    enum chat_end end;
    const char *reasoning, *content;
    const char *calls; /* NAME ARGUMENTS of each complete call, a newline after each */
} lenient_rows[] = {
    /* tolerated: blanks around the calls */
    {"x\n\n" OPEN "\n" GOOD CLOSE EOS, false, CHAT_END_STOP, "", "x", "f {\"a\": \"b\"}\n"},
    {"x\n" OPEN "\n" GOOD CLOSE EOS, false, CHAT_END_STOP, "", "x\n", "f {\"a\": \"b\"}\n"},
    {"x" OPEN "\n" GOOD CLOSE EOS, false, CHAT_END_STOP, "", "x", "f {\"a\": \"b\"}\n"},
    {"r</think>" OPEN "\n" GOOD CLOSE EOS, true, CHAT_END_STOP, "r", "", "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN GOOD CLOSE EOS, false, CHAT_END_STOP, "", "", "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN "\n\n  " GOOD "\t" CLOSE " \n" EOS, false, CHAT_END_STOP, "", "",
     "f {\"a\": \"b\"}\n"},
    /* tolerated: blanks inside tags and between them */
    {"\n\n" OPEN "\n<｜DSML｜invoke   name=\"f\"  >" PARAM("a", " b ") END CLOSE EOS, false,
     CHAT_END_STOP, "", "", "f {\"a\": \" b \"}\n"},
    {"\n\n" OPEN "\n" CALL("f") "<｜DSML｜parameter\n name=\"a\"\n string=\"false\" >1"
                                "</｜DSML｜parameter>\n\n" END "\n" CLOSE EOS,
     false, CHAT_END_STOP, "", "", "f {\"a\": 1}\n"},
    {"\n\n" OPEN "\n" CALL("f") END CALL("g") "\n\n" END CLOSE EOS, false, CHAT_END_STOP, "",
     "", "f {}\ng {}\n"},
    /* values keep what looks like something else */
    {"\n\n" OPEN "\n" CALL("f")
         PARAM("a", "x</｜DSML｜invoke>\n" CLOSE "</</think>") "\n" END "\n" CLOSE EOS,
     false, CHAT_END_STOP, "", "",
     "f {\"a\": \"x</｜DSML｜invoke>\\n</｜DSML｜tool_calls></</think>\"}\n"},
    {"\n\n" OPEN "\n" CALL("f") PARAM("a\" b>", "1") "\n" END "\n" CLOSE EOS, false,
     CHAT_END_STOP, "", "", "f {\"a\\\" b>\": \"1\"}\n"},
    /* cut off: never a call that was not closed, never a byte of a tag */
    {"", false, CHAT_END_LENGTH, "", "", ""},
    {"", true, CHAT_END_LENGTH, "", "", ""},
    {"abc", true, CHAT_END_LENGTH, "abc", "", ""},
    {"abc\n\n", false, CHAT_END_LENGTH, "", "abc\n\n", ""},
    {"abc\n\n<", false, CHAT_END_LENGTH, "", "abc\n\n<", ""},
    {"abc\n\n<｜DSML｜", false, CHAT_END_LENGTH, "", "abc", ""},
    {"abc\n\n<｜DSML｜tool_ca", false, CHAT_END_LENGTH, "", "abc", ""},
    {"abc\n\n<｜DSML｜tool_calls", false, CHAT_END_LENGTH, "", "abc", ""},
    {"abc\n\n" OPEN, false, CHAT_END_LENGTH, "", "abc", ""},
    {"\n\n" OPEN "\n" CALL("f"), false, CHAT_END_LENGTH, "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") PARAM("a", "b") "\n</｜DSML｜invoke", false, CHAT_END_LENGTH,
     "", "", ""},
    {"\n\n" OPEN "\n" GOOD, false, CHAT_END_LENGTH, "", "", "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN "\n" GOOD CALL("g") "<｜DSML｜parameter name=\"x\" string=\"true\">12", false,
     CHAT_END_LENGTH, "", "", "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN "\n" GOOD CLOSE, false, CHAT_END_STOP, "", "", "f {\"a\": \"b\"}\n"},
    /* malformed: the end came, but not where it may */
    {"abc" EOS, true, CHAT_END_MALFORMED, "abc", "", ""},
    {"\n\n" OPEN "\n" CALL("f") EOS, false, CHAT_END_MALFORMED, "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") "<｜DSML｜parameter name=\"x\" string=\"true\">12" EOS, false,
     CHAT_END_MALFORMED, "", "", ""},
    {"\n\n" OPEN "\n" GOOD EOS, false, CHAT_END_MALFORMED, "", "", "f {\"a\": \"b\"}\n"},
    {"a" EOS "b", false, CHAT_END_MALFORMED, "", "a", ""},
    /* malformed: stray markers leave the text around them */
    {"a</think>b" EOS, false, CHAT_END_MALFORMED, "", "ab", ""},
    {"<think>a</think>b" EOS, true, CHAT_END_MALFORMED, "a", "b", ""},
    {"a\n\n" OPEN "b</think>c" EOS, true, CHAT_END_MALFORMED, "a\n\n<tool_calls>b", "c", ""},
    {"The ｜DSML｜ token" EOS, false, CHAT_END_MALFORMED, "", "The  token", ""},
    {"x\n\n<｜DSML｜function_calls>" EOS, false, CHAT_END_MALFORMED, "",
     "x\n\n<function_calls>", ""},
    /* malformed: no call is made up */
    {"\n\n" OPEN "\n<｜DSML｜invoke>\n" END "\n" CLOSE EOS, false, CHAT_END_MALFORMED, "", "",
     ""},
    {"\n\n" OPEN "\n<｜DSML｜invoke name=\"\">\n" END "\n" CLOSE EOS, false, CHAT_END_MALFORMED,
     "", "", ""},
    {"\n\n" OPEN "\n<｜DSML｜call name=\"f\">\n" END "\n" CLOSE EOS, false, CHAT_END_MALFORMED,
     "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") "{\"a\": 1}\n" END "\n" CLOSE EOS, false, CHAT_END_MALFORMED,
     "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") PARAM("a", "1") "," PARAM("b", "2") END "\n" CLOSE EOS, false,
     CHAT_END_MALFORMED, "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") PARAM("a", "1") "\n" PARAM("a", "2") "\n" END "\n" CLOSE EOS,
     false, CHAT_END_MALFORMED, "", "", ""},
    {"\n\n" OPEN "\n" CALL("f") "<｜DSML｜parameter name=\"a\" string=\"maybe\">1"
                                "</｜DSML｜parameter>\n" END "\n" CLOSE EOS,
     false, CHAT_END_MALFORMED, "", "", ""},
    {"\n\n" OPEN "\n" GOOD "<｜DSML｜invoke nme=\"g\">\n" END "\n" CLOSE EOS, false,
     CHAT_END_MALFORMED, "", "", "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN "\n" GOOD CLOSE "and more" EOS, false, CHAT_END_MALFORMED, "", "",
     "f {\"a\": \"b\"}\n"},
    {"\n\n" OPEN "\n" GOOD CLOSE "\n\n" OPEN "\n" CALL("g") END CLOSE EOS, false,
     CHAT_END_MALFORMED, "", "", "f {\"a\": \"b\"}\n"},
};

static void test_lenient(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lenient_rows); i++) {
        const struct lenient_row *row = &lenient_rows[i];
        struct checked k;
        struct buf calls = {0};
        all_feeds(row->text, &k, row->thinking, false, slice_of(row->text), NULL);
        if (k.r.end != row->end) {
            fail_msg("row %zu: %s: end %d (%s)", i, row->text, (int)k.r.end, k.r.why);
        }
        util_same_text(row->text, buf_slice(&k.r.reasoning), slice_of(row->reasoning));
        util_same_text(row->text, buf_slice(&k.r.content), slice_of(row->content));
        for (size_t c = 0; c < k.r.n_call; c++) {
            buf_add_slice(&calls, buf_slice(&k.r.call[c].name));
            buf_adds(&calls, " ");
            buf_add_slice(&calls, buf_slice(&k.r.call[c].arguments));
            buf_adds(&calls, "\n");
        }
        util_same_text(row->text, buf_slice(&calls), slice_of(row->calls));
        buf_free(&calls);
        chat_result_fini(&k.r);
    }
}

/* By tokens, spelled-out control tokens are text like any other. */
static void test_look_alikes(void **state)
{
    (void)state;
    static const char text[] =
        "a </think> <think> " EOS "\n\n" OPEN "\n" GOOD CLOSE " ｜DSML｜ z";
    struct ids ids = {0};
    struct checked k = {0};
    struct chat_events e;
    struct chat_events_opts o = {.thinking = true, .sink = checked_sink, .user = &k};
    tokenizer_encode(tok, text, sizeof text - 1, false, &ids);
    chat_events_start(&e, &o, tok);
    for (int part = 0; part < 2; part++) {
        for (size_t i = 0; i < ids.n; i++) {
            chat_events_token(&e, ids.p[i]);
        }
        assert_false(chat_events_done(&e));
        chat_events_token(&e, (uint32_t)tokenizer_control(tok, part ? CT_EOS : CT_THINK_CLOSE));
    }
    assert_true(chat_events_done(&e));
    assert_int_equal(chat_events_finish(&e, NULL), 0);
    assert_int_equal(k.r.end, CHAT_END_STOP);
    util_same_text("reasoning", buf_slice(&k.r.reasoning), SLICE(text));
    util_same_text("content", buf_slice(&k.r.content), SLICE(text));
    assert_int_equal(k.r.n_call, 0);
    chat_result_fini(&k.r);
    ids_free(&ids);
}

/* Text is released as soon as it can no longer be part of a marker: after each piece, exactly
 * the given text has been sent. */
static void test_prompt_release(void **state)
{
    (void)state;
    static const struct {
        const char *piece, *sent; /* content and arguments so far */
    } rows[] = {
        {"ab", "ab"},
        {"\n", "ab"},
        {"\n", "ab"},
        {"\n", "ab\n"},
        {"c", "ab\n\n\nc"},
        {" </th", "ab\n\n\nc "},
        {"e", "ab\n\n\nc </the"},
        {"m", "ab\n\n\nc </them"},
        {"\xE4\xB8", "ab\n\n\nc </them"},
        {"\xAD.\n\n<", "ab\n\n\nc </them\xE4\xB8\xAD."},
        {"｜DSML｜tool_calls>\n" CALL("f"), "ab\n\n\nc </them\xE4\xB8\xAD."},
        {"<｜DSML｜parameter name=\"k\" string=\"true\">",
         "ab\n\n\nc </them\xE4\xB8\xAD.{\"k\": \""},
        {"v\"", "ab\n\n\nc </them\xE4\xB8\xAD.{\"k\": \"v\\\""},
        {"w</", "ab\n\n\nc </them\xE4\xB8\xAD.{\"k\": \"v\\\"w"},
        {"｜DSML｜parameter>", "ab\n\n\nc </them\xE4\xB8\xAD.{\"k\": \"v\\\"w\""},
        {"\n" END, "ab\n\n\nc </them\xE4\xB8\xAD.{\"k\": \"v\\\"w\"}"},
    };
    struct checked k = {0};
    struct chat_events e;
    struct chat_events_opts o = {.sink = checked_sink, .user = &k};
    chat_events_start(&e, &o, NULL);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf sent = {0};
        chat_events_text(&e, rows[i].piece, strlen(rows[i].piece));
        buf_add_slice(&sent, buf_slice(&k.r.content));
        if (k.r.open || k.r.n_call) {
            buf_add_slice(&sent, buf_slice(&k.r.call[0].arguments));
        }
        util_same_text(rows[i].piece, buf_slice(&sent), slice_of(rows[i].sent));
        buf_free(&sent);
    }
    assert_int_equal(k.r.n_call, 1); /* complete before the block is */
    assert_int_equal(chat_events_finish(&e, NULL), 0);
    assert_int_equal(k.r.end, CHAT_END_LENGTH);
    chat_result_fini(&k.r);
}

/* Random texts of tag pieces: any cut gives the same message, and lenient parsing agrees with
 * strict parsing wherever that accepts. */
static void test_random(void **state)
{
    (void)state;
    static const char *const pieces[] = {OPEN,
                                         CLOSE,
                                         CALL("f"),
                                         END,
                                         PARAM("a", "b"),
                                         "\n",
                                         "\n\n",
                                         "<",
                                         "</",
                                         "｜DSML｜",
                                         EOS,
                                         "<think>",
                                         "</think>",
                                         "x",
                                         "中",
                                         " ",
                                         ">",
                                         "\"",
                                         "parameter",
                                         "tool_calls",
                                         "/",
                                         "<｜DSML｜parameter name=\"q\" string=\"false\">",
                                         "</｜DSML｜parameter>",
                                         GOOD,
                                         "\n\n" OPEN "\n",
                                         CLOSE EOS,
                                         "\xE2\x82",
                                         "\xff"};
    uint64_t seed = 20260417;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng = {seed};
    for (int round = 0; round < 4000; round++) {
        struct buf text = {0};
        struct checked strict, lenient;
        bool thinking = rng_below(&rng, 2);
        for (uint32_t n = rng_below(&rng, 14); n > 0; n--) {
            buf_adds(&text, pieces[rng_below(&rng, ARRAY_LEN(pieces))]);
        }
        all_feeds(buf_cstr(&text), &strict, thinking, true, buf_slice(&text), NULL);
        all_feeds(buf_cstr(&text), &lenient, thinking, false, buf_slice(&text), NULL);
        if (strict.r.end == CHAT_END_STOP) {
            same_result(buf_cstr(&text), &lenient.r, &strict.r);
        }
        chat_result_fini(&strict.r);
        chat_result_fini(&lenient.r);
        buf_free(&text);
    }
}

/* 100,000 parameters in one call, and a value of many pieces: linear time. */
static void test_large(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct checked k = {0};
    struct chat_events e;
    struct chat_events_opts o = {.sink = chat_result_sink, .user = &k.r};
    char piece[160];
    chat_events_start(&e, &o, NULL);
    chat_events_text(&e, "\n\n" OPEN "\n" CALL("f"), strlen("\n\n" OPEN "\n" CALL("f")));
    for (int i = 0; i < N; i++) {
        int n = snprintf(piece, sizeof piece, PARAM("k%d", "</") "\n", i);
        chat_events_text(&e, piece, (size_t)n);
    }
    chat_events_text(&e, END "\n" CLOSE EOS, strlen(END "\n" CLOSE EOS));
    assert_int_equal(chat_events_finish(&e, NULL), 0);
    assert_int_equal(k.r.end, CHAT_END_STOP);
    assert_int_equal(k.r.n_call, 1);
    const struct json *args = util_json_text(buf_slice(&k.r.call[0].arguments));
    assert_int_equal(args->n, N);
    chat_result_fini(&k.r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),     cmocka_unit_test(test_lenient),
        cmocka_unit_test(test_look_alikes), cmocka_unit_test(test_prompt_release),
        cmocka_unit_test(test_random),      cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
