/* test_server_replay.c - the prompt of a conversation that comes back begins with the prompt that
 * was answered and the ids that were sampled for it, whatever tokens those were; changed answers
 * are not replayed; salts are apart; the memory is bounded. */
#include <math.h>

#include "base/rng.h"
#include "chat/events.h"
#include "server_util.h"

static int setup(void **state)
{
    (void)state;
    return util_open("{\"completion\":\"x\"}", 1);
}

static int teardown(void **state)
{
    (void)state;
    util_close();
    return 0;
}

/* A text as ids, cut at random places, so that they are rarely those of the tokenizer. */
static void odd_ids(struct ids *out, struct rng *r, const char *s)
{
    size_t n = strlen(s);
    for (size_t at = 0; at < n;) {
        size_t len = 1 + rng_below(r, 6);
        len = MIN(n - at, len);
        while (at + len < n && ((unsigned char)s[at + len] & 0xC0) == 0x80) {
            len++; /* not inside a character */
        }
        tokenizer_encode(util_tok, s + at, len, false, out);
        at += len;
    }
}

static void random_text(struct buf *b, struct rng *r)
{
    static const char *const words[] = {"hello", " world", "\n",    "\n\n",  "né",
                                        " 42",   "<",      "x = {", " the ", "漢字",
                                        "🙂",  "}",      ".",     "  ",    "a"};
    size_t n = rng_below(r, 12);
    for (size_t i = 0; i < n; i++) {
        buf_adds(b, words[rng_below(r, ARRAY_LEN(words))]);
    }
}

struct sampled {
    struct ids ids;
    struct chat_result msg;
};

/* The marker-and-text stream of an answer with one call, as a model might sample it: JSON with
 * other blanks than the renderer's. */
static void sample(struct sampled *s, struct rng *r, bool thinking, bool call)
{
    struct buf reasoning = {0}, content = {0}, value = {0};
    struct ids *o = &s->ids;
    random_text(&reasoning, r);
    random_text(&content, r);
    random_text(&value, r);
    if (thinking) {
        odd_ids(o, r, buf_cstr(&reasoning));
        ids_add(o, (uint32_t)tokenizer_control(util_tok, CT_THINK_CLOSE));
    }
    odd_ids(o, r, buf_cstr(&content));
    if (call) {
        uint32_t mark = (uint32_t)tokenizer_control(util_tok, CT_DSML);
        odd_ids(o, r, "\n\n<");
        ids_add(o, mark);
        odd_ids(o, r, "tool_calls>\n<");
        ids_add(o, mark);
        odd_ids(o, r, "invoke name=\"f\">\n<");
        ids_add(o, mark);
        odd_ids(o, r, "parameter name=\"v\" string=\"true\">");
        odd_ids(o, r, buf_cstr(&value));
        odd_ids(o, r, "</");
        ids_add(o, mark);
        odd_ids(o, r, "parameter>\n<");
        ids_add(o, mark);
        odd_ids(o, r, "parameter name=\"j\" string=\"false\">[1,2,{\"b\":0.50}]</");
        ids_add(o, mark);
        odd_ids(o, r, "parameter>\n</");
        ids_add(o, mark);
        odd_ids(o, r, "invoke>\n</");
        ids_add(o, mark);
        odd_ids(o, r, "tool_calls>");
    }
    ids_add(o, (uint32_t)tokenizer_control(util_tok, CT_EOS));
    struct chat_events e;
    struct chat_events_opts opts = {
        .thinking = thinking, .sink = chat_result_sink, .user = &s->msg};
    chat_events_start(&e, &opts, util_tok);
    for (size_t i = 0; i < o->n; i++) {
        chat_events_token(&e, o->p[i]);
    }
    assert_int_equal(chat_events_finish(&e, NULL), 0);
    if (s->msg.end != CHAT_END_STOP) {
        fail_msg("%s", s->msg.why);
    }
    buf_free(&reasoning);
    buf_free(&content);
    buf_free(&value);
}

static void add_answer(struct chat_conversation *c, const struct sampled *s, const char *id,
                       const char *arguments)
{
    struct chat_message *m = chat_add(c, CHAT_ASSISTANT, buf_slice(&s->msg.content));
    assert_true(chat_set_reasoning(c, m, buf_slice(&s->msg.reasoning)));
    for (size_t i = 0; i < s->msg.n_call; i++) {
        struct slice args =
            arguments ? slice_of(arguments) : buf_slice(&s->msg.call[i].arguments);
        assert_true(chat_add_call(c, m, slice_of(id), SLICE("f"), args));
    }
}

static void prompt_ids(struct replay *replay, struct chat_conversation *c,
                       const struct chat_render_opts *o, struct sip_digest salt,
                       struct ids *out, bool *in_reasoning)
{
    struct chat_prompt p = {0};
    fathom_err err = {0};
    replay_calls(replay, salt, c);
    assert_int_equal(chat_render(&p, c, o, &err), 0);
    assert_int_equal(replay_prompt_ids(replay, salt, &p, util_tok, out, &err), 0);
    *in_reasoning = p.in_reasoning;
    chat_prompt_fini(&p);
}

static bool extends(const struct ids *longer, const struct ids *a, const struct ids *b)
{
    return longer->n >= a->n + b->n && memcmp(longer->p, a->p, a->n * sizeof *a->p) == 0 &&
           memcmp(longer->p + a->n, b->p, b->n * sizeof *b->p) == 0;
}

/* One answer and its return. */
static void round_trip(struct rng *r, bool thinking, bool call)
{
    struct arena a = {0};
    struct replay *replay = replay_new(1 << 20);
    struct chat_render_opts o = {
        .thinking = thinking, .keep_thinking = true, .api_rules = true};
    struct sip_digest salt = {{rng_u64(r), 1}}, other = {{2, 2}};
    struct chat_conversation c;
    struct sampled s = {0};
    struct ids first = {0}, second = {0}, apart = {0};
    bool in_reasoning;
    chat_init(&c, &a);
    chat_add(&c, CHAT_USER, SLICE("question"));
    prompt_ids(replay, &c, &o, salt, &first, &in_reasoning);
    assert_int_equal(in_reasoning, thinking);
    sample(&s, r, thinking, call);
    add_answer(&c, &s, "call_1", NULL);
    replay_note(replay, util_tok, salt, c.msg[1], &o, &s.ids, in_reasoning);
    chat_add(&c, call ? CHAT_TOOL : CHAT_USER, SLICE("more"));
    prompt_ids(replay, &c, &o, salt, &second, &in_reasoning);
    if (!extends(&second, &first, &s.ids)) {
        fail_msg("thinking %d, call %d: the ids that were sampled did not come back", thinking,
                 call);
    }
    prompt_ids(replay, &c, &o, other, &apart, &in_reasoning);
    /* another salt knows nothing; its ids decode to a prompt all the same */
    assert_true(apart.n > first.n);
    ids_free(&first);
    ids_free(&second);
    ids_free(&apart);
    ids_free(&s.ids);
    chat_result_fini(&s.msg);
    replay_free(replay);
    arena_fini(&a);
}

static void test_round_trips(void **state)
{
    struct rng r = {42};
    (void)state;
    for (int i = 0; i < 400; i++) {
        round_trip(&r, i & 1, i & 2);
    }
}

static void test_reprinted_arguments(void **state)
{
    static const struct {
        const char *args;
        bool same;
    } rows[] = {
        {"{\"v\": \"x\", \"j\": [1,2,{\"b\":0.50}]}", true},
        {"{\"j\":[1,2,{\"b\":0.5}],\"v\":\"x\"}", true},
        {"{ \"v\" : \"\\u0078\", \"j\": [1.0, 2, {\"b\": 5e-1}] }", true},
        {"{\"v\": \"y\", \"j\": [1,2,{\"b\":0.50}]}", false},
        {"{\"v\": \"x\", \"j\": [2,1,{\"b\":0.50}]}", false},
        {"{\"v\": \"x\"}", false},
        {"{\"v\": \"x\", \"j\": [1,2,{\"b\":0.50}], \"k\": 1}", false},
        {"[]", false},
        {"not json", false},
    };
    struct sip_digest salt = {{0}};
    struct arena a = {0};
    struct replay *replay = replay_new(1 << 20);
    struct chat_conversation c;
    struct chat_render_opts o = {.api_rules = true};
    struct ids none = {0};
    (void)state;
    chat_init(&c, &a);
    struct chat_message *m = chat_add(&c, CHAT_ASSISTANT, SLICE("t"));
    chat_add_call(&c, m, SLICE("id"), SLICE("f"), slice_of(rows[0].args));
    replay_note(replay, util_tok, salt, m, &o, &none, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        m->call[0].arguments = slice_of(rows[i].args);
        replay_calls(replay, salt, &c);
        assert_int_equal(slice_is(m->call[0].arguments, rows[0].args), rows[i].same);
    }
    m->call[0].arguments = slice_of(rows[1].args);
    m->call[0].name = SLICE("g"); /* another tool */
    replay_calls(replay, salt, &c);
    assert_true(slice_is(m->call[0].arguments, rows[1].args));
    replay_free(replay);
    arena_fini(&a);
}

static void test_bounded(void **state)
{
    struct rng r = {7};
    struct replay *replay = replay_new(20000);
    struct chat_render_opts o = {.api_rules = true};
    (void)state;
    for (int i = 0; i < 500; i++) {
        struct arena a = {0};
        struct chat_conversation c;
        struct sampled s = {0};
        char id[32];
        snprintf(id, sizeof id, "call_%d", i);
        chat_init(&c, &a);
        sample(&s, &r, false, true);
        add_answer(&c, &s, id, NULL);
        replay_note(replay, util_tok, (struct sip_digest){0}, c.msg[0], &o, &s.ids, false);
        assert_true(replay_stats(replay).n_bytes <= 20000);
        ids_free(&s.ids);
        chat_result_fini(&s.msg);
        arena_fini(&a);
    }
    assert_true(replay_stats(replay).n_records > 10);
    replay_free(replay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trips),
                                       cmocka_unit_test(test_reprinted_arguments),
                                       cmocka_unit_test(test_bounded)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
