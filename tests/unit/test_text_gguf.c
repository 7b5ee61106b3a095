/* test_text_gguf.c - the vocabulary through GGUF keys: a tokenizer written with gguf_writer_*
 * and loaded again gives the same ids on all vectors, types and texts; every refusal. */
#include "text_common.h"

#include "base/log.h"
#include "gguf/gguf.h"

enum { SKIP_TYPES = 1, SKIP_TOKENS = 2, SKIP_MERGES = 4, WRONG_BOS = 8, SHORT_TYPES = 16 };

struct spec {
    const char *model, *pre; /* NULL: leave the key out */
    unsigned flags;
    uint32_t n_vocab, n_merges; /* how many to write */
};

static struct slice *stored_texts(const struct tokenizer *t, uint32_t n, struct buf *mem,
                                  void (*get)(const struct tokenizer *, uint32_t, struct buf *))
{
    size_t *at = malloc(((size_t)n + 1) * sizeof *at);
    struct slice *v = malloc(((size_t)n + 1) * sizeof *v);
    assert_true(at && v);
    for (uint32_t i = 0; i < n; i++) {
        at[i] = mem->n;
        get(t, i, mem);
    }
    at[n] = mem->n;
    for (uint32_t i = 0; i < n; i++) {
        v[i] = (struct slice){mem->p + at[i], at[i + 1] - at[i]};
    }
    free(at);
    return v;
}

static void write_keys(struct gguf_writer *w, const struct tokenizer *t, const struct spec *s)
{
    struct buf texts = {0}, merges = {0};
    struct slice *text = stored_texts(t, s->n_vocab, &texts, tokenizer_stored_text);
    struct slice *merge = stored_texts(t, s->n_merges, &merges, tokenizer_stored_merge);
    int32_t *type = malloc((size_t)s->n_vocab * sizeof *type);
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        type[i] = tokenizer_type(t, i);
    }
    if (s->model) {
        gguf_writer_str(w, "tokenizer.ggml.model", slice_of(s->model));
    }
    if (s->pre) {
        gguf_writer_str(w, "tokenizer.ggml.pre", slice_of(s->pre));
    }
    if (!(s->flags & SKIP_TOKENS)) {
        gguf_writer_arr_str(w, "tokenizer.ggml.tokens", text, s->n_vocab);
    }
    if (!(s->flags & SKIP_MERGES)) {
        gguf_writer_arr_str(w, "tokenizer.ggml.merges", merge, s->n_merges);
    }
    if (!(s->flags & SKIP_TYPES)) {
        size_t n = s->flags & SHORT_TYPES ? s->n_vocab - 1 : s->n_vocab;
        gguf_writer_arr_i32(w, "tokenizer.ggml.token_type", type, n);
    }
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", s->flags & WRONG_BOS ? 5 : 0);
    free(text);
    free(merge);
    free(type);
    buf_free(&texts);
    buf_free(&merges);
}

/* Writes the keys of t as the spec says into *file and loads the result; *file must outlive *g.
 */
static void make_gguf(struct gguf **g, struct buf *file, const struct tokenizer *t,
                      const struct spec *s)
{
    fathom_err err = {0};
    struct gguf_writer *w = gguf_writer_new();
    assert_non_null(w);
    gguf_writer_str(w, "general.architecture", SLICE("deepseek4"));
    if (t) {
        write_keys(w, t, s);
    }
    if (gguf_writer_header(w, file, &err) != 0 ||
        gguf_open_mem(g, file->p, file->n, "made", &err) != 0) {
        fail_msg("%s", err.msg);
    }
    gguf_writer_free(w);
}

static void check_same(const struct tokenizer *a, const struct tokenizer *b)
{
    struct buf x = {0}, y = {0};
    assert_int_equal(tokenizer_n_vocab(a), tokenizer_n_vocab(b));
    assert_int_equal(tokenizer_n_merges(a), tokenizer_n_merges(b));
    for (uint32_t i = 0; i < tokenizer_n_vocab(a); i++) {
        assert_int_equal(tokenizer_type(a, i), tokenizer_type(b, i));
        assert_true(slice_eq(tokenizer_bytes(a, i), tokenizer_bytes(b, i)));
    }
    for (uint32_t i = 0; i < tokenizer_n_merges(a); i++) {
        buf_clear(&x);
        buf_clear(&y);
        tokenizer_stored_merge(a, i, &x);
        tokenizer_stored_merge(b, i, &y);
        assert_true(slice_eq(buf_slice(&x), buf_slice(&y)));
    }
    for (int c = 0; c < CT_COUNT; c++) {
        assert_int_equal(tokenizer_control(a, (enum control_token)c),
                         tokenizer_control(b, (enum control_token)c));
    }
    buf_free(&x);
    buf_free(&y);
}

static void round_trip(const char *json, unsigned flags, bool vectors)
{
    struct tokenizer *t = load_json(json), *again = NULL;
    struct spec s = {"gpt2", "joyai-llm", flags, tokenizer_n_vocab(t), tokenizer_n_merges(t)};
    struct gguf *g;
    struct buf file = {0};
    fathom_err err = {0};
    make_gguf(&g, &file, t, &s);
    if (tokenizer_from_gguf(&again, g, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    gguf_close(g); /* the tokenizer keeps nothing of it */
    buf_free(&file);
    check_same(t, again);
    if (vectors) {
        struct vector_check c = {.t = again};
        const char *path = test_data_path("tokenizer/vectors.jsonl");
        assert_true(for_each_line(path, check_vector, &c) > 0);
    }
    tokenizer_free(again);
    tokenizer_free(t);
}

static void real_round_trip(void **state)
{
    (void)state;
    round_trip(test_data_path("tokenizer/tokenizer.json.xz"), 0, true);
}

static void mini_round_trip(void **state)
{
    (void)state;
    round_trip(MINI_JSON, 0, false);
}

static void types_are_optional(void **state)
{
    (void)state;
    round_trip(test_data_path("tokenizer/tokenizer.json.xz"), SKIP_TYPES, false);
}

static void count_line(void *user, enum log_level level, const char *line)
{
    *(int *)user += level == LOG_WARN && strstr(line, "bos_token_id") != NULL;
}

static void wrong_bos_is_a_warning(void **state)
{
    (void)state;
    int n_lines = 0;
    log_set_sink(count_line, &n_lines);
    round_trip(MINI_JSON, WRONG_BOS, false);
    log_set_sink(NULL, NULL);
    assert_int_equal(n_lines, 1);
}

static void refusals(void **state)
{
    (void)state;
    struct tokenizer *t = load_json(MINI_JSON);
    const struct {
        struct spec s;
        const char *message_part;
    } cases[] = {
        {{"llama", "joyai-llm", 0, 2304, 2031}, "\"llama\""},
        {{"gpt2", "deepseek-v3", 0, 2304, 2031}, "\"deepseek-v3\""},
        {{"gpt2", NULL, 0, 2304, 2031}, "tokenizer.ggml.pre is missing"},
        {{NULL, "joyai-llm", 0, 2304, 2031}, "tokenizer.ggml.model is missing"},
        {{"gpt2", "joyai-llm", SKIP_TOKENS, 2304, 2031}, "tokenizer.ggml.tokens is missing"},
        {{"gpt2", "joyai-llm", SKIP_MERGES, 2304, 2031}, "tokenizer.ggml.merges is missing"},
        {{"gpt2", "joyai-llm", SHORT_TYPES, 2304, 2031}, "tokenizer.ggml.token_type"},
        {{"gpt2", "joyai-llm", 0, 2304, 2030}, "token 2289 has type 1"},
        {{"gpt2", "joyai-llm", 0, 2290, 2031}, "<｜User｜> is missing"},
        {{"gpt2", "joyai-llm", 0, 2289, 2031}, "too few"},
        {{"gpt2", "joyai-llm", 0, 10, 0}, "too few"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tokenizer *u = NULL;
        struct gguf *g;
        struct buf file = {0};
        fathom_err err = {0};
        make_gguf(&g, &file, t, &cases[i].s);
        int rc = tokenizer_from_gguf(&u, g, &err);
        assert_null(u);
        if (rc != FATHOM_EFORMAT || !strstr(err.msg, cases[i].message_part)) {
            fail_msg("expected \"%s\", got %d \"%s\"", cases[i].message_part, rc, err.msg);
        }
        assert_memory_equal(err.msg, "made: ", 6);
        gguf_close(g);
        buf_free(&file);
    }
    tokenizer_free(t);
}

static void no_keys(void **state)
{
    (void)state;
    struct tokenizer *t = NULL;
    struct gguf *g;
    struct buf file = {0};
    fathom_err err = {0};
    make_gguf(&g, &file, NULL, NULL);
    assert_int_equal(tokenizer_from_gguf(&t, g, &err), FATHOM_ENOENT);
    assert_null(t);
    assert_non_null(strstr(err.msg, "no tokenizer"));
    gguf_close(g);
    buf_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_round_trip),        cmocka_unit_test(mini_round_trip),
        cmocka_unit_test(types_are_optional),     cmocka_unit_test(refusals),
        cmocka_unit_test(wrong_bos_is_a_warning), cmocka_unit_test(no_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
