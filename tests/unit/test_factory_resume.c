/* test_factory_resume.c - the conversion as a set of items: 2-bit and 4-bit recipes against
 * direct calls of the encoder, the same bytes for any number of threads and slices, and the
 * journal: interrupted, damaged, torn and foreign ones. (Killing the program:
 * tests/api/test_convert.py.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "factory/convert.h"
#include "factory/items.h"
#include "factory/journal.h"
#include "factory_common.h"
#include "gguf/gguf.h"
#include "quant/encode.h"
#include "quant/formats.h"

static const char MINI[] = "models/mini";

struct stopper {
    struct buf lines;
    uint64_t cancel_at; /* bytes of the "convert" stage; 0: never */
    uint64_t checked;   /* bytes of the "check" stage */
    const char *block;  /* made a directory while data is written */
};

static void on_line(void *user, const char *line)
{
    struct stopper *s = user;
    buf_adds(&s->lines, line);
    buf_addc(&s->lines, '\n');
}

static bool on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct stopper *s = user;
    assert_true(done <= total);
    if (strcmp(stage, "check") == 0) {
        s->checked = total;
        return true;
    }
    if (s->block) {
        assert_int_equal(mkdir(s->block, 0700), 0);
        s->block = NULL;
    }
    return !s->cancel_at || done < s->cancel_at;
}

static int run(const char *out, const char *recipe, int threads, struct stopper *s,
               fathom_err *err)
{
    struct convert_options o = {.dir = MINI,
                                .out = out,
                                .recipe = recipe,
                                .threads = threads,
                                .report = on_line,
                                .progress = on_progress,
                                .user = s};
    *err = (fathom_err){0};
    s->checked = 0;
    buf_clear(&s->lines);
    return convert_run(&o, err);
}

static void load(struct buf *b, const char *path)
{
    buf_clear(b);
    assert_int_equal(file_read_all(b, path, 1 << 28, NULL), 0);
}

static void assert_same(const struct buf *want, const char *path)
{
    struct buf got = {0};
    load(&got, path);
    assert_true(slice_eq(buf_slice(want), buf_slice(&got)));
    buf_free(&got);
}

/* ---- encoding ---- */

/* One expert of one tensor, encoded here from the checkpoint's BF16 values. */
static void check_expert(const struct gguf *g, const struct st_set *set, const char *gguf_name,
                         const char *source, uint32_t mat, uint32_t type)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, gguf_name);
    const struct st_tensor *w = st_find(set, source);
    assert_true(t && w && w->dtype == ST_BF16);
    assert_int_equal(t->type, type);
    size_t rows = t->ne[1], cols = t->ne[0];
    uint16_t *raw = malloc(w->bytes);
    float *x = malloc(rows * cols * sizeof *x), *q = malloc(cols * sizeof *q);
    double *energy = calloc(cols, sizeof *energy), mean = 0;
    uint8_t *row = malloc(t->row_bytes);
    assert_true(raw && x && q && energy && row);
    assert_int_equal(st_read(set, w, 0, w->bytes, raw, NULL), 0);
    for (size_t i = 0; i < rows * cols; i++) {
        x[i] = bf16_to_f32(load_le16((unsigned char *)&raw[i]));
        energy[i % cols] += (double)x[i] * x[i];
    }
    for (size_t c = 0; c < cols; c++) {
        mean += energy[c] / (double)cols;
    }
    for (size_t c = 0; c < cols; c++) {
        q[c] = (float)(energy[c] / mean);
    }
    for (size_t r = 0; r < rows; r += 17) {
        bool needs = quant_needs_importance(type);
        assert_int_equal(quant_encode_weighted(type, x + r * cols, cols, needs ? q : NULL, row),
                         0);
        assert_memory_equal(t->data + (mat * rows + r) * t->row_bytes, row, t->row_bytes);
    }
    free(raw);
    free(x);
    free(q);
    free(energy);
    free(row);
}

static void test_recipes(void **state)
{
    (void)state;
    static const struct {
        const char *recipe;
        uint32_t up, down;
    } cases[] = {{"q2", QT_IQ2_XXS, QT_Q2_K},
                 {"q4", QT_Q4_K, QT_Q4_K},
                 {"q2-q4tail", QT_Q4_K, QT_Q4_K}}; /* five layers are all in the tail of six */
    char out[1024];
    snprintf(out, sizeof out, "%s", tmp_path("recipe.gguf"));
    struct stopper s = {0};
    struct st_set *set;
    struct gguf *g;
    fathom_err err;
    assert_int_equal(st_open(&set, MINI, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (run(out, cases[i].recipe, 2, &s, &err) != 0) {
            fail_msg("%s: %s", cases[i].recipe, err.msg);
        }
        assert_int_equal(gguf_open(&g, out, NULL), 0);
        check_expert(g, set, "blk.3.ffn_up_exps.weight", "layers.3.ffn.experts.5.w3.weight", 5,
                     cases[i].up);
        check_expert(g, set, "blk.0.ffn_down_exps.weight", "layers.0.ffn.experts.7.w2.weight",
                     7, cases[i].down);
        gguf_close(g);
    }
    st_close(set);
    buf_free(&s.lines);
}

/* Types of a recipe with a tail, layer by layer. */
static void test_tail(void **state)
{
    (void)state;
    const struct recipe *r = recipe_find("q2-q4tail", NULL);
    assert_non_null(r);
    assert_true(recipe_writable(r) && recipe_writable(recipe_find("q2", NULL)));
    for (int il = 0; il < 43; il++) {
        bool tail = il >= 37;
        assert_int_equal(recipe_type(r, ROLE_UP_EXPS, il, 43, 4096, NULL),
                         tail ? QT_Q4_K : QT_IQ2_XXS);
        assert_int_equal(recipe_type(r, ROLE_DOWN_EXPS, il, 43, 2048, NULL),
                         tail ? QT_Q4_K : QT_Q2_K);
        assert_int_equal(recipe_type(r, ROLE_DENSE, il, 43, 4096, NULL), QT_Q8_0);
    }
    assert_int_equal(recipe_type(r, ROLE_HEAD, -1, 43, 4096, NULL), QT_Q8_0);
    bool fallback;
    assert_int_equal(recipe_type(r, ROLE_UP_EXPS, 42, 43, 160, &fallback), QT_Q8_0);
    assert_true(fallback);
}

/* A rule with every type that can be written; the check of the finished file accepts each. */
static void test_every_type(void **state)
{
    (void)state;
    static const char *const types[] = {"F32",     "F16",    "BF16",    "Q8_0",  "MXFP4",
                                        "Q2_K",    "Q3_K",   "Q4_K",    "Q5_K",  "Q6_K",
                                        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ4_XS"};
    char out[1024];
    snprintf(out, sizeof out, "%s", tmp_path("type.gguf"));
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct convert_rule rules[] = {{"blk.2.ffn_down_exps.weight", types[i]},
                                       {"blk.1.ffn_*_shexp.weight", types[i]}};
        struct convert_options o = {
            .dir = MINI, .out = out, .recipe = "q8", .rules = rules, .n_rules = 2};
        fathom_err err = {0};
        if (convert_run(&o, &err) != 0) {
            fail_msg("%s: %s", types[i], err.msg);
        }
        struct gguf *g;
        assert_int_equal(gguf_open(&g, out, NULL), 0);
        int want = qformat_by_name(types[i]);
        assert_int_equal(gguf_find_tensor(g, "blk.2.ffn_down_exps.weight")->type, want);
        assert_int_equal(gguf_find_tensor(g, "blk.1.ffn_up_shexp.weight")->type, want);
        gguf_close(g);
    }
}

static void test_threads(void **state)
{
    (void)state;
    struct buf want = {0};
    struct stopper s = {0};
    fathom_err err;
    char out[1024];
    snprintf(out, sizeof out, "%s", tmp_path("threads.gguf"));
    for (int n = 1; n <= 3; n++) {
        if (run(out, "q2", n, &s, &err) != 0) {
            fail_msg("%d threads: %s", n, err.msg);
        }
        if (n == 1) {
            load(&want, out);
        }
        assert_same(&want, out);
    }
    struct convert_options o = {.dir = MINI, .out = out, .recipe = "q2", .slice_bytes = 3000};
    assert_int_equal(convert_run(&o, &err), 0);
    assert_same(&want, out);
    buf_free(&want);
    buf_free(&s.lines);
}

/* ---- journal ---- */

static void test_checksum(void **state)
{
    (void)state;
    unsigned char data[1000];
    struct rng g = {20260731};
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)rng_u64(&g);
    }
    struct checksum whole = {0};
    checksum_add(&whole, data, sizeof data);
    for (int trial = 0; trial < 50; trial++) { /* cut anywhere: the same */
        struct checksum c = {0};
        for (size_t at = 0; at < sizeof data;) {
            size_t n = rng_below(&g, 30);
            n = MIN(n, sizeof data - at);
            checksum_add(&c, data + at, n);
            at += n;
        }
        assert_int_equal(checksum_end(&c), checksum_end(&whole));
    }
    for (size_t i = 0; i < 8 * sizeof data; i += 37) { /* any bit counts */
        data[i / 8] ^= (unsigned char)(1u << i % 8);
        struct checksum c = {0};
        checksum_add(&c, data, sizeof data);
        assert_int_not_equal(checksum_end(&c), checksum_end(&whole));
        data[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    struct checksum a = {0}, b = {0};
    checksum_add(&a, "\0", 1);
    checksum_add(&b, "\0\0", 2);
    assert_int_not_equal(checksum_end(&a), checksum_end(&b));
}

static void flip_byte(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(c ^ 0x40, f), c ^ 0x40);
    fclose(f);
}

/* Interrupts at `at`, lets `harm` do its worst, goes on: always the uninterrupted bytes. */
static void interrupted(const struct buf *want, uint64_t at, void (*harm)(void), bool resumes)
{
    struct stopper s = {.cancel_at = at};
    fathom_err err;
    char out[1024];
    snprintf(out, sizeof out, "%s", tmp_path("part.gguf"));
    unlink(out);
    assert_int_equal(run(out, "q4", 1, &s, &err), FATHOM_ECANCEL);
    assert_false(path_exists(out));
    assert_true(path_exists(tmp_path("part.gguf.part")));
    assert_true(path_exists(tmp_path("part.gguf.journal")));
    assert_non_null(strstr(s.lines.p, "the same command goes on"));
    if (harm) {
        harm();
    }
    s.cancel_at = 0;
    if (run(out, "q4", 2, &s, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_int_equal(s.checked > 0, resumes);
    assert_same(want, out);
    assert_false(path_exists(tmp_path("part.gguf.part")));
    assert_false(path_exists(tmp_path("part.gguf.journal")));
    buf_free(&s.lines);
}

static void harm_data(void) /* somewhere in the middle of what was written, and in a gap */
{
    for (long at = 300000; at < 3000000; at += 90001) {
        flip_byte(tmp_path("part.gguf.part"), at);
    }
}
static void harm_header(void)
{
    flip_byte(tmp_path("part.gguf.part"), 0);
}
static void harm_size(void)
{
    assert_int_equal(truncate(tmp_path("part.gguf.part"), 100000), 0);
}
static void harm_part(void)
{
    assert_int_equal(unlink(tmp_path("part.gguf.part")), 0);
}
static void harm_journal(void)
{
    assert_int_equal(unlink(tmp_path("part.gguf.journal")), 0);
}
static void harm_first_line(void)
{
    assert_int_equal(truncate(tmp_path("part.gguf.journal"), 20), 0);
}
static void harm_last_line(void)
{
    struct stat st;
    assert_int_equal(stat(tmp_path("part.gguf.journal"), &st), 0);
    assert_int_equal(truncate(tmp_path("part.gguf.journal"), st.st_size - 5), 0);
}
static void harm_numbers(void) /* digits of some lines */
{
    struct buf b = {0};
    load(&b, tmp_path("part.gguf.journal"));
    for (size_t i = 70; i < b.n; i += 61) {
        b.p[i] = b.p[i] == '1' ? '2' : b.p[i] >= '0' && b.p[i] <= '9' ? '1' : b.p[i];
    }
    write_whole(tmp_path("part.gguf.journal"), b.p, b.n);
    buf_free(&b);
}

static void test_interrupted(void **state)
{
    (void)state;
    struct stopper s = {0};
    struct buf want = {0};
    fathom_err err;
    assert_int_equal(run(tmp_path("whole.gguf"), "q4", 2, &s, &err), 0);
    load(&want, tmp_path("whole.gguf"));
    interrupted(&want, 1500000, NULL, true);
    interrupted(&want, 4000000, NULL, true);
    interrupted(&want, 9000000, NULL, true);
    interrupted(&want, 4000000, harm_data, true);
    interrupted(&want, 4000000, harm_header, true);
    interrupted(&want, 4000000, harm_size, true);
    interrupted(&want, 4000000, harm_part, false);
    interrupted(&want, 4000000, harm_journal, false);
    interrupted(&want, 4000000, harm_first_line, false);
    interrupted(&want, 4000000, harm_last_line, true);
    interrupted(&want, 4000000, harm_numbers, true);
    buf_free(&want);
    buf_free(&s.lines);
}

/* Another recipe, and a second conversion at the same time, are refused; nothing is lost. */
static void test_refused(void **state)
{
    (void)state;
    struct stopper s = {.cancel_at = 3000000};
    fathom_err err;
    char out[1024];
    struct buf before = {0};
    snprintf(out, sizeof out, "%s", tmp_path("other.gguf"));
    assert_int_equal(run(out, "q4", 1, &s, &err), FATHOM_ECANCEL);
    load(&before, tmp_path("other.gguf.journal"));
    s.cancel_at = 0;
    assert_int_equal(run(out, "q8", 1, &s, &err), FATHOM_EINVAL);
    assert_non_null(strstr(err.msg, "to start over"));
    assert_same(&before, tmp_path("other.gguf.journal"));

    struct journal j;
    char line[96];
    unsigned long long plan;
    size_t n;
    snprintf(line, sizeof line, "%.90s", before.p);
    assert_int_equal(sscanf(line, "fathom-journal 1 plan %llx items %zu", &plan, &n), 2);
    err = (fathom_err){0};
    assert_int_equal(journal_open(&j, out, plan, n, &err), 0);
    assert_true(j.n_done > 0);
    assert_int_equal(run(out, "q4", 1, &s, &err), FATHOM_EINVAL);
    assert_non_null(strstr(err.msg, "another conversion is writing"));
    journal_close(&j, false);
    assert_int_equal(run(out, "q4", 1, &s, &err), 0);

    write_whole(tmp_path("other.gguf.part"), "x", 1);
    write_whole(tmp_path("other.gguf.journal"), "notes\n", 6);
    assert_int_equal(run(out, "q4", 1, &s, &err), FATHOM_EINVAL);
    assert_non_null(strstr(err.msg, "no journal"));
    buf_free(&before);
    buf_free(&s.lines);
}

/* The finished file cannot be renamed: the work is kept, and the same command only checks it. */
static void test_rename_fails(void **state)
{
    (void)state;
    struct stopper s = {0};
    fathom_err err;
    struct buf want = {0};
    char out[1024];
    assert_int_equal(run(tmp_path("named.gguf"), "q4", 2, &s, &err), 0);
    load(&want, tmp_path("named.gguf"));
    snprintf(out, sizeof out, "%s", tmp_path("blocked.gguf"));
    s.block = out;
    assert_int_equal(run(out, "q4", 2, &s, &err), FATHOM_EIO);
    assert_non_null(strstr(err.msg, "cannot rename"));
    assert_true(path_exists(tmp_path("blocked.gguf.part")));
    assert_true(path_exists(tmp_path("blocked.gguf.journal")));
    assert_int_equal(run(out, "q4", 2, &s, &err), FATHOM_EINVAL); /* said before any work */
    assert_non_null(strstr(err.msg, "not a regular file"));
    assert_int_equal(rmdir(out), 0);
    assert_int_equal(run(out, "q4", 2, &s, &err), 0);
    assert_true(s.checked > 0);
    assert_same(&want, out);
    assert_false(path_exists(tmp_path("blocked.gguf.part")));
    assert_false(path_exists(tmp_path("blocked.gguf.journal")));
    buf_free(&want);
    buf_free(&s.lines);
}

static int setup(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recipes),    cmocka_unit_test(test_tail),
        cmocka_unit_test(test_every_type), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_checksum),   cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_rename_fails),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
