/* test_chat_api.c - what the server and `chat` add to the release (docs/chat-format.md, "API
 * rules"), above all that the prompt of a turn begins with the prompt of the turn before, as
 * ids; effort words; prompt token counts of the official API. */
#include "chat_util.h"

#include "base/rng.h"
#include "chat/events.h"
#include "chat/render.h"

static struct tokenizer *tok;
static struct arena arena;
static struct json tools;

static int setup(void **state)
{
    static const char text[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    (void)state;
    tok = util_tokenizer();
    return json_read(&tools, &arena, text, sizeof text - 1, NULL);
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_free(tok);
    arena_fini(&util_arena);
    arena_fini(&arena);
    return 0;
}

static struct chat_prompt prompt; /* of the last render() */

static const char *render(const struct chat_conversation *c, bool thinking)
{
    struct chat_render_opts o = {.thinking = thinking, .api_rules = true};
    fathom_err err = {0};
    if (chat_render(&prompt, c, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return buf_cstr(&prompt.text);
}

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"

/* Roles by letter, for short tables. */
static void add_all(struct chat_conversation *c, const char *roles)
{
    static const struct {
        char letter;
        enum chat_role role;
        const char *text;
    } kinds[] = {{'s', CHAT_SYSTEM, "S"}, {'d', CHAT_DEVELOPER, "D"},
                 {'u', CHAT_USER, "U"},   {'a', CHAT_ASSISTANT, "A"},
                 {'t', CHAT_TOOL, "T"},   {'e', CHAT_SYSTEM, ""}};
    for (; *roles; roles++) {
        for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
            if (kinds[i].letter == *roles) {
                struct chat_message *m = chat_add(c, kinds[i].role, slice_of(kinds[i].text));
                assert_non_null(m);
                if (*roles == 'a') {
                    assert_true(chat_set_reasoning(c, m, SLICE("R")));
                }
            }
        }
    }
}

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *roles;
        bool thinking;
        const char *prompt;
        bool in_reasoning;
    } rows[] = {
        {"u", false, BOS USER "U" ASSISTANT "</think>", false},
        {"u", true, BOS USER "U" ASSISTANT "<think>", true},
        /* developer is system; leading ones are joined */
        {"du", false, BOS "D" USER "U" ASSISTANT "</think>", false},
        {"sdsu", true, BOS "S\n\nD\n\nS" USER "U" ASSISTANT "<think>", true},
        {"seesu", false, BOS "S\n\nS" USER "U" ASSISTANT "</think>", false},
        {"eu", false, BOS USER "U" ASSISTANT "</think>", false},
        /* a system message in mid-conversation: set off, and never without a prefix after it */
        {"us", true, BOS USER "U\n\nS" ASSISTANT "<think>", true},
        {"usd", false, BOS USER "U\n\nS\n\nD" ASSISTANT "</think>", false},
        {"ue", false, BOS USER "U" ASSISTANT "</think>", false},
        {"usu", false, BOS USER "U\n\nS" USER "U" ASSISTANT "</think>", false},
        {"usau", false,
         BOS USER "U\n\nS" ASSISTANT "</think>A" EOS USER "U" ASSISTANT "</think>", false},
        {"usau", true, BOS USER "U\n\nS" ASSISTANT "</think>A" EOS USER "U" ASSISTANT "<think>",
         true},
        {"uasu", true, BOS USER "U" ASSISTANT "</think>A" EOS "S" USER "U" ASSISTANT "<think>",
         true},
        {"uas", true, BOS USER "U" ASSISTANT "<think>R</think>A" EOS "S" ASSISTANT "<think>",
         true},
        {"uts", false, BOS USER "U\n\n<tool_result>T</tool_result>\n\nS" ASSISTANT "</think>",
         false},
        {"s", true, BOS "S" ASSISTANT "<think>", true},
        {"", false, BOS ASSISTANT "</think>", false},
        /* a conversation that ends in assistant is continued */
        {"ua", false, BOS USER "U" ASSISTANT "</think>A", false},
        {"ua", true, BOS USER "U" ASSISTANT "<think>R</think>A", false},
        {"usa", true, BOS USER "U\n\nS" ASSISTANT "<think>R</think>A", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct chat_conversation c;
        chat_init(&c, &arena);
        add_all(&c, rows[i].roles);
        util_same_text(rows[i].roles, slice_of(render(&c, rows[i].thinking)),
                       slice_of(rows[i].prompt));
        assert_int_equal(prompt.in_reasoning, rows[i].in_reasoning);
    }
}

/* Without api_rules the same conversations follow the release (chat-format.md, Rendering). */
static void test_rules_off(void **state)
{
    (void)state;
    static const struct {
        const char *roles, *prompt;
    } rows[] = {
        {"us", BOS USER "US"},
        {"ssu", BOS "SS" USER "U" ASSISTANT "</think>"},
        {"ua", BOS USER "U" ASSISTANT "</think>A" EOS},
        {"du", BOS USER "D" USER "U" ASSISTANT "</think>"},
        {"s", BOS "S"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct chat_conversation c;
        struct chat_render_opts o = {0};
        chat_init(&c, &arena);
        add_all(&c, rows[i].roles);
        assert_int_equal(chat_render(&prompt, &c, &o, NULL), 0);
        util_same_text(rows[i].roles, buf_slice(&prompt.text), slice_of(rows[i].prompt));
    }
}

/* Tools of any leading system message come after the joined text, in one block. */
static void test_tools_joined(void **state)
{
    (void)state;
    struct chat_conversation c;
    chat_init(&c, &arena);
    add_all(&c, "sdu");
    c.msg[0]->tools = c.msg[1]->tools = &tools;
    const char *text = render(&c, true);
    assert_ptr_equal(strstr(text, "S\n\nD\n\n## Tools"), text + strlen(BOS));
    assert_non_null(strstr(text, "{\"name\": \"f\"}\n{\"name\": \"f\"}\n\nYou MUST strictly"));
    assert_null(strstr(strstr(text, "## Tools") + 1, "## Tools"));

    /* Request-level tools go to the first message, or to an empty system message before it. */
    chat_init(&c, &arena);
    add_all(&c, "u");
    assert_int_equal(chat_attach_tools(&c, &tools, NULL), 0);
    assert_int_equal(c.n, 2);
    assert_ptr_equal(strstr(render(&c, false), BOS "\n\n## Tools"), buf_cstr(&prompt.text));
}

static void test_arguments(void **state)
{
    (void)state;
    static const char *const bad[] = {"[1,2]", "\"x\"", "{\"a\": ", "", "12"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct chat_conversation c;
        struct buf want = {0};
        chat_init(&c, &arena);
        add_all(&c, "uat");
        assert_true(chat_add_call(&c, c.msg[1], SLICE("1"), SLICE("f"), slice_of(bad[i])));
        buf_addf(&want,
                 "<｜DSML｜parameter name=\"arguments\" string=\"true\">%s</｜DSML｜parameter>",
                 bad[i]);
        assert_non_null(strstr(render(&c, false), buf_cstr(&want)));
        buf_free(&want);
    }
}

/* Calls without results cannot be continued: better said than guessed. */
static void test_trailing_calls(void **state)
{
    (void)state;
    struct chat_conversation c;
    struct chat_render_opts o = {.api_rules = true};
    fathom_err err = {0};
    chat_init(&c, &arena);
    add_all(&c, "ua");
    assert_true(chat_add_call(&c, c.msg[1], SLICE("1"), SLICE("f"), SLICE("{}")));
    assert_int_equal(chat_render(&prompt, &c, &o, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "results are missing"));
}

/* ---- prefix extension ---- */

static void prompt_ids(const struct chat_conversation *c, bool thinking, struct ids *out)
{
    out->n = 0;
    (void)render(c, thinking);
    assert_int_equal(chat_prompt_ids(&prompt, tok, out, NULL), 0);
}

static struct slice random_text(struct rng *rng)
{
    static const char *const texts[] = {"Hello.",  "a\n\n",    "",      "  x", "中文。\n",
                                        "\n\n- b", "</think>", "12345", "?",   "fin"};
    return slice_of(texts[rng_below(rng, ARRAY_LEN(texts))]);
}

/* What the client sends after the model's answer: results or a user text, then perhaps system
 * messages. */
static void client_turn(struct chat_conversation *c, struct rng *rng,
                        const struct chat_message *answer)
{
    for (size_t i = 0; answer && i < answer->n_call; i++) {
        struct chat_message *m = chat_add(c, CHAT_TOOL, random_text(rng));
        assert_true(chat_set_call_id(c, m, answer->call[i].id));
    }
    if (!answer || answer->n_call == 0 || rng_below(rng, 3) == 0) {
        chat_add(c, CHAT_USER, random_text(rng));
    }
    for (uint32_t n = rng_below(rng, 4); n > 1; n--) {
        chat_add(c, rng_below(rng, 2) ? CHAT_SYSTEM : CHAT_DEVELOPER, random_text(rng));
    }
}

/* The model's answer, as the client will send it back. */
static struct chat_message *model_turn(struct chat_conversation *c, struct rng *rng,
                                       bool with_calls)
{
    char id[16];
    struct chat_message *m = chat_add(c, CHAT_ASSISTANT, random_text(rng));
    assert_true(chat_set_reasoning(c, m, SLICE("thought\n")));
    for (uint32_t n = with_calls ? rng_below(rng, 3) : 0; n > 0; n--) {
        snprintf(id, sizeof id, "call_%u", n);
        assert_true(chat_add_call(c, m, slice_of(id), SLICE("f"), SLICE("{\"a\": 1}")));
    }
    return m;
}

/* Every prompt begins with the prompt before it: always in chat mode, and in thinking mode when
 * tools are defined (else the release drops old reasoning). */
static void test_prefix(void **state)
{
    (void)state;
    uint64_t seed = 42;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng = {seed};
    for (int round = 0; round < 400; round++) {
        struct chat_conversation c;
        struct ids before = {0}, now = {0};
        bool with_tools = round % 4 != 0, thinking = with_tools && round % 2;
        chat_init(&c, &arena);
        for (uint32_t n = rng_below(&rng, 3); n > 0; n--) {
            chat_add(&c, rng_below(&rng, 2) ? CHAT_SYSTEM : CHAT_DEVELOPER, random_text(&rng));
        }
        if (with_tools) {
            assert_int_equal(chat_attach_tools(&c, &tools, NULL), 0);
        }
        const struct chat_message *answer = NULL;
        for (int turn = 0; turn < 5; turn++) {
            client_turn(&c, &rng, answer);
            prompt_ids(&c, thinking, &now);
            assert_int_equal(prompt.in_reasoning, thinking);
            assert_true(now.n >= before.n + (turn > 0));
            if (before.n && memcmp(now.p, before.p, before.n * sizeof *now.p) != 0) {
                fail_msg("round %d, turn %d: the prompt does not extend the last one: %s",
                         round, turn, buf_cstr(&prompt.text));
            }
            struct ids t = before;
            before = now;
            now = t;
            answer = model_turn(&c, &rng, with_tools);
        }
        ids_free(&before);
        ids_free(&now);
    }
}

/* The round trip: what is rendered for an answer is parsed back as that answer. */
static void test_round_trip(void **state)
{
    (void)state;
    uint64_t seed = 43;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng = {seed};
    for (int round = 0; round < 400; round++) {
        struct chat_conversation c;
        struct ids before = {0}, after = {0};
        struct chat_result r = {0};
        struct chat_events e;
        struct chat_events_opts o = {true, true, chat_result_sink, &r};
        chat_init(&c, &arena);
        add_all(&c, "su");
        assert_int_equal(chat_attach_tools(&c, &tools, NULL), 0);
        prompt_ids(&c, true, &before);
        const struct chat_message *m = model_turn(&c, &rng, true);
        add_all(&c, "u");
        prompt_ids(&c, true, &after);
        chat_events_start(&e, &o, tok);
        for (size_t i = before.n; i < after.n && !chat_events_done(&e); i++) {
            chat_events_token(&e, after.p[i]);
        }
        assert_int_equal(chat_events_finish(&e, NULL), 0);
        if (r.end != CHAT_END_STOP) {
            fail_msg("round %d: %s: %s", round, r.why, buf_cstr(&prompt.text));
        }
        util_same_text("content", buf_slice(&r.content), m->content);
        util_same_text("reasoning", buf_slice(&r.reasoning), m->reasoning);
        assert_int_equal(r.n_call, m->n_call);
        for (size_t i = 0; i < r.n_call; i++) {
            util_same_text("arguments", buf_slice(&r.call[i].arguments), m->call[i].arguments);
        }
        chat_result_fini(&r);
        ids_free(&before);
        ids_free(&after);
    }
}

/* ---- effort, official counts ---- */

static void test_think_words(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        bool thinking;
        enum chat_effort preview, refresh;
    } rows[] = {
        {"off", false, CHAT_EFFORT_NONE, CHAT_EFFORT_NONE},
        {"none", false, CHAT_EFFORT_NONE, CHAT_EFFORT_NONE},
        {"on", true, CHAT_EFFORT_NONE, CHAT_EFFORT_NONE},
        {"minimal", true, CHAT_EFFORT_HIGH, CHAT_EFFORT_LOW},
        {"low", true, CHAT_EFFORT_HIGH, CHAT_EFFORT_LOW},
        {"medium", true, CHAT_EFFORT_HIGH, CHAT_EFFORT_HIGH},
        {"high", true, CHAT_EFFORT_HIGH, CHAT_EFFORT_HIGH},
        {"xhigh", true, CHAT_EFFORT_HIGH, CHAT_EFFORT_HIGH},
        {"max", true, CHAT_EFFORT_MAX, CHAT_EFFORT_MAX},
        {"ultra", true, CHAT_EFFORT_MAX, CHAT_EFFORT_MAX},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct chat_render_opts a = {.release = CHAT_PREVIEW}, b = {.release = CHAT_0731};
        struct chat_conversation c;
        assert_true(chat_think_set(&a, rows[i].word, 0));
        assert_true(chat_think_set(&b, rows[i].word, CHAT_MAX_EFFORT_CTX));
        assert_true(a.thinking == rows[i].thinking && a.effort == rows[i].preview);
        assert_true(b.thinking == rows[i].thinking && b.effort == rows[i].refresh);
        chat_init(&c, &arena);
        add_all(&c, "u");
        assert_int_equal(chat_render(&prompt, &c, &a, NULL), 0);
        assert_int_equal(chat_render(&prompt, &c, &b, NULL), 0);
    }
    struct chat_render_opts o = {.thinking = true};
    assert_false(chat_think_set(&o, "much", 0));
    assert_true(o.thinking);
    assert_true(chat_think_set(&o, "max", CHAT_MAX_EFFORT_CTX - 1));
    assert_int_equal(o.effort, CHAT_EFFORT_HIGH);
}

/* The official API counted the tokens of these prompts: template and tokenizer must agree. */
static void test_official_counts(void **state)
{
    (void)state;
    struct slice file = util_file("official-logprobs/official.jsonl");
    size_t n_case = 0;
    for (const char *p = file.p, *end = file.p + file.n; p < end; n_case++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        nl = nl ? nl : end;
        const struct json *e = util_json_text((struct slice){p, (size_t)(nl - p)});
        struct chat_render_opts o = {.api_rules = true};
        struct chat_conversation c;
        struct ids ids = {0};
        int64_t want = 0;
        struct slice release = json_str(json_get(e, "release")),
                     id = json_str(json_get(e, "id"));
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)release.n, release.p);
        assert_true(chat_release_parse(name, &o.release));
        assert_true(json_bool(json_get(e, "thinking"), &o.thinking));
        assert_true(json_int(json_get(e, "prompt_tokens"), &want));
        chat_init(&c, &arena);
        assert_non_null(chat_add(&c, CHAT_USER, json_str(json_get(e, "prompt"))));
        assert_int_equal(chat_render(&prompt, &c, &o, NULL), 0);
        assert_int_equal(chat_prompt_ids(&prompt, tok, &ids, NULL), 0);
        if ((int64_t)ids.n != want) {
            fail_msg("%.*s: %zu tokens, the API counted %lld", (int)id.n, id.p, ids.n,
                     (long long)want);
        }
        ids_free(&ids);
        p = nl + 1;
    }
    assert_true(n_case > 0);
    print_message("%zu prompts\n", n_case);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),           cmocka_unit_test(test_rules_off),
        cmocka_unit_test(test_tools_joined),    cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_trailing_calls),  cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_think_words),
        cmocka_unit_test(test_official_counts),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    chat_prompt_fini(&prompt);
    return failed;
}
