/* test_text_load.c - loading a vocabulary: facts of the two known ones, every refusal with its
 * message, damaged and random files, and a vocabulary with overlapping added tokens. */
#include "text_common.h"

#include <unistd.h>

#include "base/rng.h"

static struct buf mini_text;

static int read_mini(void **state)
{
    (void)state;
    fathom_err err = {0};
    return file_read_all(&mini_text, MINI_JSON, (size_t)1 << 24, &err);
}

static int free_mini(void **state)
{
    (void)state;
    buf_free(&mini_text);
    return 0;
}

static void real_facts(void **state)
{
    (void)state;
    struct tokenizer *t = load_real();
    size_t n_type[5] = {0};
    assert_int_equal(tokenizer_n_vocab(t), 129280);
    assert_int_equal(tokenizer_n_merges(t), 127741);
    for (uint32_t id = 0; id < 129280; id++) {
        assert_true(tokenizer_type(t, id) == 1 || tokenizer_type(t, id) >= 3);
        n_type[tokenizer_type(t, id)]++;
        assert_int_equal(tokenizer_is_control(t, id), id < 3 || id >= 128000);
        assert_true(tokenizer_bytes(t, id).n > 0);
    }
    assert_int_equal(n_type[3], 1277);
    assert_int_equal(n_type[4], 6);
    static const int32_t ids[CT_COUNT] = {0,      1,      128803, 128804, 128821, 128822,
                                          128825, 2,      128828, 128829, 128830, 128831,
                                          128832, 128833, 128836, 128844, 128845};
    for (int c = 0; c < CT_COUNT; c++) {
        assert_int_equal(tokenizer_control(t, (enum control_token)c), ids[c]);
        assert_true(slice_is(tokenizer_bytes(t, (uint32_t)ids[c]),
                             control_token_text((enum control_token)c)));
    }
    assert_int_equal(tokenizer_bytes(t, 129280).n, 0);
    assert_int_equal(tokenizer_bytes(t, UINT32_MAX).n, 0);
    assert_false(tokenizer_is_control(t, 129280));
    assert_true(slice_is(tokenizer_bytes(t, 223), " "));
    assert_true(slice_is(tokenizer_bytes(t, 201), "\n"));
    struct buf b = {0};
    tokenizer_stored_merge(t, 0, &b);
    assert_string_equal(b.p, "\xC4\xA0 t");
    buf_clear(&b);
    tokenizer_stored_text(t, 259, &b);
    assert_string_equal(b.p, "\xC4\xA0t");
    buf_free(&b);
    tokenizer_free(t);
}

static void mini_facts(void **state)
{
    (void)state;
    struct tokenizer *t = load_json(MINI_JSON);
    assert_int_equal(tokenizer_n_vocab(t), 2304);
    assert_int_equal(tokenizer_n_merges(t), 2031);
    assert_int_equal(tokenizer_control(t, CT_BOS), 0);
    assert_int_equal(tokenizer_control(t, CT_DSML), 2294);
    assert_int_equal(tokenizer_control(t, CT_READ_URL), 2303);
    assert_false(tokenizer_is_control(t, 2289));
    assert_true(tokenizer_is_control(t, 2290));
    tokenizer_free(t);
}

/* ---- refusals ---- */

/* The mini tokenizer.json with the first `from` replaced by `to`. */
static struct buf changed(const char *from, const char *to)
{
    struct buf b = {0};
    const char *at = strstr(mini_text.p, from);
    if (!at) {
        fail_msg("the mini tokenizer has no: %s", from);
    }
    buf_add(&b, mini_text.p, (size_t)(at - mini_text.p));
    buf_adds(&b, to);
    buf_adds(&b, at + strlen(from));
    return b;
}

static void check_refused(const struct buf *b, const char *message_part)
{
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    int rc = tokenizer_from_json_mem(&t, b->p, b->n, "x.json", &err);
    assert_null(t);
    if (rc != FATHOM_EFORMAT || !strstr(err.msg, message_part)) {
        fail_msg("expected \"%s\", got %d \"%s\"", message_part, rc, err.msg);
    }
    assert_memory_equal(err.msg, "x.json: ", 8);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *message_part;
    } cases[] = {
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type"},
        {"\"model\": {", "\"other\": {", "model is missing"},
        {"\"vocab\": {", "\"vocab\": 5, \"v\": {", "model.vocab"},
        {"\"merges\": [", "\"merges\": null, \"m\": [", "merges"},
        {"\"added_tokens\": [", "\"added\": [", "added_tokens"},
        {"{1,3}", "{1,2}", "pre_tokenizer"},
        {"\"behavior\": \"Isolated\"", "\"behavior\": \"Removed\"", "pre_tokenizer"},
        {"\"use_regex\": false", "\"use_regex\": true", "pre_tokenizer"},
        {"\"normalizers\": []", "\"normalizers\": [{\"type\": \"NFC\"}]", "normalizer"},
        {"\"dropout\": null", "\"dropout\": 0.1", "option"},
        {"\"byte_fallback\": false", "\"byte_fallback\": true", "option"},
        {"\"fuse_unk\": false", "\"ignore_merges\": true", "option"},
        {"\"lstrip\": false", "\"lstrip\": true", "added_tokens[0]"},
        {"\"id\": 2290", "\"id\": 2.5", "added_tokens[3]"},
        {"\"id\": 2290", "\"id\": -1", "token id -1"},
        {"\"id\": 2290", "\"id\": 99999999999", "token id 99999999999"},
        {"\"id\": 2290", "\"id\": 2291", "two texts for token id 2291"},
        {"\"id\": 2290", "\"id\": 2304", "token 2290 has no text"},
        {"<｜User｜>", "<｜Usr｜>", "<｜User｜> is missing"},
        {"<｜begin▁of▁sentence｜>\",\n   \"single", "<｜begin｜>\",\n   \"single", "two texts"},
        {"<｜latest_reminder｜>", "<｜action｜>", "have the same text"},
        {"\"content\": \"<｜title｜>\"", "\"content\": \"\"", "added_tokens[14]"},
        {"\"!\": 3,", "\"!\": \"3\",", "model.vocab: entry 3"},
        {"\"!\": 3,", "\"!!\": 3,", "ids 3 to 258"},
        {"\"!\": 3,", "\"! \": 3,", "byte alphabet"},
        {"\"!\": 3,", "\"\": 3,", "token 3 has no text"},
        {"\"Ġ t\"", "\"Ġt\"", "model.merges[0]"},
        {"\"Ġ t\"", "\" t\"", "model.merges[0]"},
        {"\"Ġ t\"", "\"Ġ \"", "model.merges[0]"},
        {"\"Ġ t\"", "[\"Ġ\"]", "model.merges[0]"},
        {"\"Ġ t\"", "7", "model.merges[0]"},
        {"\"Ġ t\"", "\"Ġ 中\"", "merge 0: its right half"},
        {"\"Ġ t\"", "\"Ġ a\"", "merge 0 does not produce token 259"},
        {"\"Ġ t\",", "\"Ġ a\", \"Ġ t\",", "token 2290 has type 3"},
        {"\"Ġ t\",", "", "token 2289 has type 1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b = changed(cases[i].from, cases[i].to);
        check_refused(&b, cases[i].message_part);
        buf_free(&b);
    }
}

static void long_token_is_refused(void **state)
{
    (void)state;
    struct buf text = {0};
    while (text.n < 3000) {
        buf_adds(&text, "long");
    }
    struct buf b = changed("<｜action｜>", text.p);
    check_refused(&b, "longer than");
    buf_free(&b);
    buf_free(&text);
}

/* Newer libraries write merges as pairs. */
static void merges_as_pairs(void **state)
{
    (void)state;
    struct buf b = changed("\"Ġ t\"", "[\"Ġ\", \"t\"]");
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    assert_int_equal(tokenizer_from_json_mem(&t, b.p, b.n, "x", &err), 0);
    struct ids ids = {0};
    tokenizer_encode(t, " t", 2, false, &ids);
    assert_true(ids.n == 1 && ids.p[0] == 259);
    ids_free(&ids);
    tokenizer_free(t);
    buf_free(&b);
}

/* ---- damage ---- */

static void load_any(const char *p, size_t n)
{
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    int rc = tokenizer_from_json_mem(&t, p, n, "x", &err);
    assert_true(rc == 0 ? t != NULL && err.code == 0 : t == NULL && err.msg[0] != 0);
    tokenizer_free(t);
}

static void truncated(void **state)
{
    (void)state;
    for (size_t n = 0; n < mini_text.n; n += n < 64 ? 1 : 397) {
        struct tokenizer *t = NULL;
        fathom_err err = {0};
        char *copy = malloc(n ? n : 1); /* exact size: a read beyond is seen by the sanitizer */
        memcpy(copy, mini_text.p, n);
        assert_int_equal(tokenizer_from_json_mem(&t, copy, n, "x", &err), FATHOM_EFORMAT);
        assert_null(t);
        free(copy);
    }
}

static void random_damage(void **state)
{
    (void)state;
    struct rng r = {.s = 42};
    print_message("seed 42\n");
    char *copy = malloc(mini_text.n);
    for (int i = 0; i < 400; i++) {
        memcpy(copy, mini_text.p, mini_text.n);
        for (uint32_t k = 1 + rng_below(&r, 4); k > 0; k--) {
            uint32_t at = rng_below(&r, (uint32_t)mini_text.n), from = at;
            if (k % 2) {
                copy[at] = "\"[]{},: 0912ea-\\\n\x80"[rng_below(&r, 18)];
            } else { /* a piece from elsewhere */
                from = rng_below(&r, (uint32_t)mini_text.n);
                size_t len = MIN(mini_text.n - MAX(at, from), (size_t)20);
                memcpy(copy + at, mini_text.p + from, len);
            }
        }
        load_any(copy, mini_text.n);
    }
    free(copy);
}

static void write_file(const char *path, const char *p, size_t n)
{
    struct file_out f;
    fathom_err err = {0};
    assert_int_equal(file_out_open(&f, path, &err), 0);
    assert_int_equal(file_out_write(&f, p, n, &err), 0);
    assert_int_equal(file_out_commit(&f, &err), 0);
}

static void damaged_xz(void **state)
{
    (void)state;
    char path[] = "/tmp/test_text_load.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct buf xz = {0};
    fathom_err err = {0};
    const char *from = test_data_path("tokenizer/tokenizer.json.xz");
    assert_int_equal(file_read_all(&xz, from, (size_t)1 << 24, &err), 0);
    const struct {
        size_t keep, flip;
        const char *message_part;
    } cases[] = {
        {6, 0, "cut short"},         {100, 0, "cut short"}, {xz.n - 1, 0, "cut short"},
        {xz.n, xz.n / 2, "damaged"}, {xz.n, 7, "damaged"},  {xz.n + 1, 0, "follow"},
    };
    buf_addc(&xz, 'x');
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tokenizer *t = NULL;
        err = (fathom_err){0};
        xz.p[cases[i].flip] ^= cases[i].flip ? 0x40 : 0;
        write_file(path, xz.p, cases[i].keep);
        xz.p[cases[i].flip] ^= cases[i].flip ? 0x40 : 0;
        assert_int_equal(tokenizer_from_json(&t, path, &err), FATHOM_EFORMAT);
        assert_null(t);
        if (!strstr(err.msg, cases[i].message_part) || !strstr(err.msg, path)) {
            fail_msg("case %zu: %s", i, err.msg);
        }
    }
    unlink(path);
    struct tokenizer *t = NULL;
    err = (fathom_err){0};
    assert_int_equal(tokenizer_from_json(&t, path, &err), FATHOM_ENOENT);
    buf_free(&xz);
}

/* ---- added tokens that overlap ---- */

static void check_text(const struct tokenizer *t, const char *text, size_t n,
                       const uint32_t *want)
{
    struct ids ids = {0};
    tokenizer_encode(t, text, strlen(text), true, &ids);
    if (ids.n != n || memcmp(ids.p, want, n * sizeof *want) != 0) {
        fail_msg("%s: wrong ids", text);
    }
    ids_free(&ids);
}

static void leftmost_longest(void **state)
{
    (void)state;
    struct buf b =
        changed("  {\n   \"id\": 2303,", "  {\"id\": 2304, \"content\": \"<think>x\"},\n"
                                         "  {\"id\": 2305, \"content\": \"k>x</\"},\n"
                                         "  {\"id\": 2306, \"content\": \"<think>xyz\"},\n"
                                         "  {\n   \"id\": 2303,");
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    assert_int_equal(tokenizer_from_json_mem(&t, b.p, b.n, "x", &err), 0);
    assert_int_equal(tokenizer_type(t, 2304), 4);
    check_text(t, "<think>x", 1, (uint32_t[]){2304});
    check_text(t, "<think>", 1, (uint32_t[]){2292});
    check_text(t, "<think>a", 2, (uint32_t[]){2292, 67});
    check_text(t, "<think>xy", 2, (uint32_t[]){2304, 91});
    check_text(t, "<think>xyz", 1, (uint32_t[]){2306});
    check_text(t, "<think>x</think>", 2, (uint32_t[]){2304, 2293}); /* leftmost wins */
    check_text(t, "k>x</", 1, (uint32_t[]){2305});
    check_text(t, "<<think>x<", 3, (uint32_t[]){30, 2304, 30});
    tokenizer_free(t);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_facts),       cmocka_unit_test(mini_facts),
        cmocka_unit_test(refusals),         cmocka_unit_test(long_token_is_refused),
        cmocka_unit_test(merges_as_pairs),  cmocka_unit_test(truncated),
        cmocka_unit_test(random_damage),    cmocka_unit_test(damaged_xz),
        cmocka_unit_test(leftmost_longest),
    };
    return cmocka_run_group_tests(tests, read_mini, free_mini);
}
