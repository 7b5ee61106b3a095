/* What is scored: windows in which every token of a text is predicted exactly once, manifests in
 * all their forms, and hostile ones; tasks and official answers as they are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/official.h"
#include "eval/set.h"
#include "eval/tasks.h"

static struct tokenizer *tok;
static struct manifest_ctx ctx;

static int setup(void **state)
{
    (void)state;
    fathom_err err = {0};
    assert_int_equal(tokenizer_from_json(&tok, "models/mini/tokenizer.json", &err), 0);
    ctx = (struct manifest_ctx){
        .tok = tok, .release = CHAT_PREVIEW, .n_vocab = tokenizer_n_vocab(tok)};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_free(tok);
    return 0;
}

/* ---- windows ---- */

static void check_windows(const struct ids *all, struct slice text, uint32_t window,
                          uint32_t overlap)
{
    struct eval_set s = {0};
    uint32_t bos = (uint32_t)tokenizer_control(tok, CT_BOS);
    size_t next = 0;
    assert_int_equal(eval_set_text(&s, tok, text, true, window, overlap, NULL), 0);
    for (size_t i = 0; i < s.n; i++) {
        const struct eval_seq *q = &s.seq[i];
        const uint32_t *ids = s.ids.p + q->at;
        assert_true(q->n <= window && q->n <= s.longest && ids[0] == bos);
        assert_int_equal(q->from, 1 + (next < overlap ? next : overlap));
        for (uint32_t k = 1; k < q->n; k++) { /* context and scored ids, where they stand */
            assert_int_equal(ids[k], all->p[next + k - q->from]);
        }
        next += q->n - q->from;
    }
    assert_int_equal(next, all->n);
    assert_int_equal(s.n_scored, all->n);
    assert_int_equal(s.n_computed, s.ids.n);
    assert_int_equal(s.n_context + s.n_scored + s.n, s.n_computed);
    assert_int_equal(eval_set_bytes(&s, tok), text.n);
    size_t *end, n_block;
    assert_int_equal(eval_set_blocks(&end, &n_block, &s, NULL), 0);
    assert_int_equal(end[n_block - 1], s.n_scored);
    for (size_t b = 0; b < n_block; b++) {
        assert_in_range(end[b] - (b ? end[b - 1] : 0), 1, EVAL_BLOCK);
    }
    mem_free(end);
    eval_set_fini(&s);
}

static void test_windows(void **state)
{
    (void)state;
    struct buf text = {0};
    for (int i = 0; i < 150; i++) {
        buf_addf(&text, "The cat saw number %d. ", i * 37 % 1000);
    }
    struct ids all = {0};
    tokenizer_encode(tok, text.p, text.n, true, &all);
    const uint32_t forms[][2] = {{2, 0}, {3, 1}, {64, 0}, {64, 16}, {64, 62}, {100000, 99}};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        check_windows(&all, buf_slice(&text), forms[i][0], forms[i][1]);
    }
    struct eval_set s = {0};
    fathom_err err = {0};
    assert_int_equal(eval_set_text(&s, tok, buf_slice(&text), true, 1, 0, &err), FATHOM_EINVAL);
    assert_int_equal(eval_set_text(&s, tok, buf_slice(&text), true, 64, 63, NULL),
                     FATHOM_EINVAL);
    assert_int_equal(eval_set_text(&s, tok, SLICE(""), true, 64, 0, NULL), FATHOM_EFORMAT);
    eval_set_fini(&s);
    /* a BOS that the text brings along is not doubled; untrusted text has none */
    assert_int_equal(
        eval_set_text(&s, tok, SLICE("<｜begin▁of▁sentence｜>cat"), true, 64, 0, NULL), 0);
    assert_true(s.ids.n >= 2 && s.ids.p[1] != s.ids.p[0]);
    eval_set_fini(&s);
    assert_int_equal(
        eval_set_text(&s, tok, SLICE("<｜begin▁of▁sentence｜>cat"), false, 64, 0, NULL), 0);
    assert_true(s.ids.n > 5);
    eval_set_fini(&s);
    ids_free(&all);
    buf_free(&text);
}

/* ---- manifests ---- */

static int cases(struct eval_set *s, const char *text, bool all, fathom_err *err)
{
    *s = (struct eval_set){0};
    return eval_set_cases(s, &ctx, slice_of(text), all, err);
}

static void test_cases(void **state)
{
    (void)state;
    struct eval_set s;
    assert_int_equal(cases(&s,
                           "{\"prompt_ids\":[0,5,6],\"continuation_ids\":[7,8]}\n\n \r\n"
                           "{\"prompt_ids\":[0,5,6],\"sample\":[9]}",
                           false, NULL),
                     0);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.seq[0].n, 5);
    assert_int_equal(s.seq[0].from, 3);
    assert_int_equal(s.seq[1].from, 3);
    assert_int_equal(s.n_scored, 3);
    assert_int_equal(s.ids.p[s.seq[1].at + 3], 9);
    uint64_t h = eval_set_hash(&s);
    eval_set_fini(&s);
    /* with the prompts: the same ids, other scored ranges, another identity */
    assert_int_equal(cases(&s,
                           "{\"prompt_ids\":[0,5,6],\"continuation_ids\":[7,8]}\n"
                           "{\"prompt_ids\":[0,5,6],\"sample\":[9]}",
                           true, NULL),
                     0);
    assert_int_equal(s.n_scored, 7);
    assert_true(eval_set_hash(&s) != h);
    eval_set_fini(&s);
    /* the same prompt in three forms: ids, messages, one user message */
    const char *const forms[] = {
        "{\"prompt\":\"Hi\",\"system\":\"Be brief.\",\"continuation\":\"Hello\"}",
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\","
        "\"content\":\"Hi\"}],\"continuation\":\"Hello\"}"};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        assert_int_equal(cases(&s, forms[i], false, NULL), 0);
        uint64_t same = eval_set_hash(&s);
        assert_true(i == 0 || same == h);
        h = same;
        assert_true(s.ids.p[0] == (uint32_t)tokenizer_control(tok, CT_BOS));
        eval_set_fini(&s);
    }
    assert_int_equal(
        cases(&s, "{\"prompt\":\"Hi\",\"thinking\":true,\"continuation\":\"x</think>\"}", false,
              NULL),
        0);
    assert_int_equal(s.ids.p[s.ids.n - 1], tokenizer_control(tok, CT_THINK_CLOSE));
    assert_int_equal(s.ids.p[s.seq[0].from - 1], tokenizer_control(tok, CT_THINK_OPEN));
    eval_set_fini(&s);
}

static void test_hostile_manifests(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "no case"},
        {"{", "line 1"},
        {"[]", "line 1: not a JSON object"},
        {"{\"prompt_ids\":[0],\"sample\":[1]}\n7", "line 2: not a JSON object"},
        {"{}", "no prompt"},
        {"{\"prompt_ids\":[0,5]}", "no continuation"},
        {"{\"prompt_ids\":[0,5],\"sample\":[]}", "no continuation"},
        {"{\"prompt_ids\":[],\"sample\":[1]}", "empty"},
        {"{\"prompt_ids\":[0,2304],\"sample\":[1]}", "prompt_ids[1]"},
        {"{\"prompt_ids\":[0,-1],\"sample\":[1]}", "prompt_ids[1]"},
        {"{\"prompt_ids\":[0,1.5],\"sample\":[1]}", "prompt_ids[1]"},
        {"{\"prompt_ids\":[0,\"1\"],\"sample\":[1]}", "prompt_ids[1]"},
        {"{\"prompt_ids\":[0],\"sample\":[99999999999999999999]}", "sample[0]"},
        {"{\"prompt\":5,\"sample\":[1]}", "no prompt"},
        {"{\"prompt\":\"x\",\"thinking\":\"yes\",\"sample\":[1]}", "thinking"},
        {"{\"messages\":[{\"role\":\"nobody\",\"content\":\"x\"}],\"sample\":[1]}", "line 1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct eval_set s;
        fathom_err err = {0};
        int rc = cases(&s, bad[i].text, false, &err);
        if (rc != FATHOM_EFORMAT || !strstr(err.msg, bad[i].says)) {
            fail_msg("%s: %d %s", bad[i].text, rc, err.msg);
        }
        eval_set_fini(&s);
    }
    /* text without a tokenizer */
    struct manifest_ctx none = {0};
    struct eval_set s = {0};
    assert_int_equal(
        eval_set_cases(&s, &none, SLICE("{\"prompt\":\"x\",\"sample\":[1]}"), false, NULL),
        FATHOM_EUNSUPPORTED);
    eval_set_fini(&s);
}

static void test_views(void **state)
{
    (void)state;
    struct buf text = {0};
    struct eval_set s, v;
    for (int i = 0; i < 100; i++) {
        buf_addf(&text, "{\"prompt_ids\":[0,%d],\"sample\":[1,2,3]}\n", i);
    }
    assert_int_equal(cases(&s, buf_cstr(&text), false, NULL), 0);
    const uint64_t limits[] = {1, 2, 3, 30, 299, 300, 1000};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        assert_int_equal(eval_set_view(&v, &s, limits[i], NULL), 0);
        assert_true(v.n_scored <= limits[i] && v.n_scored > 0);
        assert_true(v.n_scored >= (limits[i] < 300 ? limits[i] / 2 : 300));
        if (limits[i] == 30) { /* spread, not the beginning */
            assert_true(v.ids.p[v.seq[v.n - 1].at + 1] >= 80);
        }
        eval_set_view_fini(&v);
    }
    eval_set_fini(&s);
    buf_free(&text);
}

/* ---- tasks, official answers ---- */

static void test_tasks(void **state)
{
    (void)state;
    struct eval_tasks t = {0};
    fathom_err err = {0};
    static const char text[] =
        "{\"id\":\"a\",\"task\":\"g\",\"prompt_ids\":[0,1],\"expected\":[\"x\",\"longer\"]}\n"
        "{\"id\":\"b\",\"prompt_ids\":[0,1]}\n"
        "{\"id\":\"c\",\"prompt_ids\":[0,1,2],\"expected\":[\"y\"]}\n";
    assert_int_equal(eval_tasks_load(&t, &ctx, SLICE(text), 1, &err), 0);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_skipped, 1);
    assert_int_equal(t.v[0].n_expected, 2);
    assert_int_equal(t.room, 8);
    assert_string_equal(t.v[1].group, "");
    eval_tasks_fini(&t);
    assert_int_equal(eval_tasks_load(&t, &ctx, SLICE(text), 2, &err), 0);
    assert_int_equal(t.n, 1);
    eval_tasks_fini(&t);
    static const char *const bad[] = {
        "{\"prompt_ids\":[0,1]}", "{\"prompt_ids\":[0],\"expected\":[5]}",
        "{\"prompt_ids\":[0],\"expected\":[\"\"]}", "{\"expected\":[\"x\"]}"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(eval_tasks_load(&t, &ctx, slice_of(bad[i]), 1, NULL), FATHOM_EFORMAT);
        eval_tasks_fini(&t);
    }
}

static void test_official(void **state)
{
    (void)state;
    struct official o = {0};
    fathom_err err = {0};
    /* "The", then bytes that no token of the small vocabulary has, then "The" again */
    static const char text[] =
        "{\"id\":\"a\",\"prompt\":\"Hi\",\"prompt_tokens\":4,\"release\":\"0731\",\"steps\":["
        "{\"token\":\"546865\"},{\"token\":\"e0ba80e0ba81e0ba82\"},{\"token\":\"546865\"}]}";
    assert_int_equal(official_load(&o, &ctx, SLICE(text), &err), 0);
    assert_int_equal(o.n, 1);
    assert_int_equal(o.v[0].n_steps, 3);
    assert_int_equal(o.v[0].n_usable, 1);
    assert_int_equal(o.set.n_scored, 1);
    assert_true(slice_is(tokenizer_bytes(tok, o.set.ids.p[o.set.ids.n - 1]), "The"));
    official_fini(&o);
    static const char *const bad[] = {
        "{\"prompt\":\"x\"}",
        "{\"prompt\":\"x\",\"steps\":[]}",
        "{\"prompt\":\"x\",\"steps\":[{}]}",
        "{\"prompt\":\"x\",\"steps\":[{\"token\":\"5\"}]}",
        "{\"prompt\":\"x\",\"steps\":[{\"token\":\"zz\"}]}",
        "{\"prompt\":\"x\",\"steps\":[{\"token\":\"\"}]}",
        "{\"prompt\":\"x\",\"release\":\"2020\",\"steps\":[{\"token\":\"54\"}]}",
        "{\"prompt\":\"x\",\"prompt_tokens\":-1,\"steps\":[{\"token\":\"54\"}]}",
        "{\"steps\":[{\"token\":\"54\"}]}",
        ""};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (official_load(&o, &ctx, slice_of(bad[i]), NULL) != FATHOM_EFORMAT) {
            fail_msg("accepted: %s", bad[i]);
        }
        official_fini(&o);
    }
    /* a name longer than any known one is quoted whole */
    assert_int_equal(official_load(&o, &ctx,
                                   SLICE("{\"prompt\":\"x\",\"release\":\"preview-2026-07-31\","
                                         "\"steps\":[{\"token\":\"54\"}]}"),
                                   &err),
                     FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "unknown release \"preview-2026-07-31\""));
    official_fini(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_hostile_manifests),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_official),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
