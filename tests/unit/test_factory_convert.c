/* test_factory_convert.c - conversions read back with the GGUF reader and compared, element by
 * element, with the source values: the mini model (BF16) and made checkpoints in the release's
 * storage (FP8 tiles, FP4 groups), through every recipe. Then everything that must fail, with
 * the target left untouched. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "factory/convert.h"
#include "factory/safetensors.h"
#include "factory/verify.h"
#include "factory_common.h"
#include "gguf/gguf.h"
#include "quant/formats.h"
#include "text/text.h"

static const uint64_t SEED = 20260731;

/* ---- running ---- */

struct seen {
    struct buf lines;
    uint64_t done, total;
    const char *stage;
    unsigned calls;
    atomic_bool cancel;
    uint64_t cancel_at; /* bytes; 0 never */
};

static void on_line(void *user, const char *line)
{
    struct seen *s = user;
    buf_adds(&s->lines, line);
    buf_addc(&s->lines, '\n');
}

static bool on_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct seen *s = user;
    assert_true(strcmp(stage, s->stage) != 0 || done >= s->done);
    assert_true(done <= total);
    s->stage = stage;
    s->done = done;
    s->total = total;
    s->calls++;
    if (s->cancel_at && done >= s->cancel_at) {
        atomic_store(&s->cancel, true);
    }
    return true;
}

static int run_opt(struct convert_options o, struct seen *s, fathom_err *err)
{
    buf_clear(&s->lines);
    s->done = s->total = s->calls = 0;
    s->stage = "";
    *err = (fathom_err){0};
    o.report = on_line;
    o.progress = on_progress;
    o.user = s;
    o.cancel = &s->cancel;
    return convert_run(&o, err);
}

/* Small slices, so that every matrix of more than a few rows is read in several. */
enum { SLICE_BYTES = 5000 };

static int run(const char *dir, const char *recipe, struct seen *s, fathom_err *err)
{
    return run_opt((struct convert_options){.dir = dir,
                                            .out = tmp_path("out.gguf"),
                                            .recipe = recipe,
                                            .slice_bytes = SLICE_BYTES},
                   s, err);
}

static struct gguf *converted(const char *dir, const char *recipe, struct seen *s)
{
    fathom_err err;
    if (run(dir, recipe, s, &err) != 0) {
        fail_msg("%s: %s", recipe, err.msg);
    }
    struct gguf *g;
    if (gguf_open(&g, tmp_path("out.gguf"), &err) != 0) {
        fail_msg("%s: %s", recipe, err.msg);
    }
    assert_int_equal(s->done, s->total);
    assert_true(s->total > gguf_file_bytes(g) / 2 && s->total < gguf_file_bytes(g));
    assert_false(path_exists(tmp_path("out.gguf.part")));
    assert_false(path_exists(tmp_path("out.gguf.journal")));
    return g;
}

/* ---- comparing ---- */

typedef double value_fn(void *source, const char *official, uint64_t row, uint64_t col);

/* Largest allowed difference of a stored element. */
static double allowed(uint32_t type, double x, double block_max)
{
    switch (type) {
    case QT_F16: return fmax(fabs(x) * 0x1p-11, 0x1p-25);
    case QT_BF16: return fabs(x) * 0x1p-9;
    case QT_Q8_0: return block_max * (0.5 / 127 + 0x1p-11 * 1.01) + 0x1p-18;
    default: return 0;
    }
}

static void compare_matrix(const struct gguf_tensor *t, const struct tensor_def *d,
                           uint32_t mat, value_fn *value, void *source, uint32_t exact_type)
{
    char official[NAME_BYTES];
    names_source(d, mat, false, official);
    float *got = malloc((size_t)t->ne[0] * sizeof *got);
    double *want = malloc((size_t)t->ne[0] * sizeof *want);
    assert_true(got && want);
    for (uint64_t row = 0; row < d->rows; row++) {
        quant_decode(t->type, t->data + (mat * d->rows + row) * t->row_bytes, 0, t->ne[0], got);
        for (uint64_t c = 0; c < t->ne[0]; c++) {
            want[c] = value(source, official, row, c);
        }
        double max = 0;
        for (uint64_t c = 0; c < t->ne[0]; c++) {
            for (uint64_t k = c; c % 32 == 0 && k < c + 32 && k < t->ne[0]; k++) {
                max = fmax(k == c ? 0 : max, fabs(want[k]));
            }
            double tol = t->type == exact_type ? 0 : allowed(t->type, want[c], max);
            if (!(fabs(got[c] - want[c]) <= tol)) {
                fail_msg("%s (%s) matrix %u row %llu column %llu: %.9g, expected %.9g +- %.3g",
                         d->gguf, qformat(t->type)->name, mat, (unsigned long long)row,
                         (unsigned long long)c, (double)got[c], want[c], tol);
            }
        }
    }
    free(got);
    free(want);
}

/* Every tensor of the file against its source; exact_type must be stored without any loss. */
static void compare_all(struct gguf *g, const struct shape *c, value_fn *value, void *source,
                        uint32_t exact_type)
{
    size_t n = names_count(c);
    struct tensor_def *defs = calloc(n, sizeof *defs);
    assert_non_null(defs);
    names_fill(c, defs);
    assert_int_equal(gguf_n_tensors(g), n);
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        assert_true(slice_is(t->name, defs[i].gguf));
        if (i == 0) {
            at = t->offset;
        }
        assert_int_equal(t->offset, at); /* the strict running sum */
        at += (t->bytes + 31) / 32 * 32;
        for (uint32_t m = 0; defs[i].role != ROLE_TABLE && m < defs[i].n_mats; m++) {
            compare_matrix(t, &defs[i], m, value, source, exact_type);
        }
    }
    free(defs);
}

static uint32_t type_of(struct gguf *g, const char *name)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    assert_non_null(t);
    return t->type;
}

static uint64_t key_u64(struct gguf *g, const char *key)
{
    uint64_t v = 0;
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_U32 || !gguf_u64(kv, &v)) {
        fail_msg("%s is no u32", key);
    }
    return v;
}

static double key_f32(struct gguf *g, const char *key)
{
    double v = 0;
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_F32 || !gguf_f64(kv, &v)) {
        fail_msg("%s is no f32", key);
    }
    return v;
}

static void assert_key_str(struct gguf *g, const char *key, const char *want)
{
    struct slice s;
    if (!gguf_str(gguf_find(g, key), &s) || !slice_is(s, want)) {
        fail_msg("%s is not %s", key, want);
    }
}

static void assert_line(const struct seen *s, const char *words)
{
    if (!strstr(buf_cstr(&s->lines), words)) {
        fail_msg("not reported: %s\n%s", words, buf_cstr(&s->lines));
    }
}

/* The loader reads the same shape from the file as config.json gives. */
static void check_shape(const struct gguf *g, const struct shape *want)
{
    struct shape got;
    fathom_err err = {0};
    if (shape_from_gguf(&got, g, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_memory_equal(&got, want, sizeof got);
}

/* ---- the mini model ---- */

/* Values through the safetensors reader (tested on its own); one tensor is kept at a time. */
struct mini {
    struct st_set *set;
    struct buf data;
    char name[NAME_BYTES];
};

static double mini_value(void *source, const char *official, uint64_t row, uint64_t col)
{
    struct mini *m = source;
    const struct st_tensor *t = st_find(m->set, official);
    assert_non_null(t);
    if (strcmp(m->name, official) != 0) {
        snprintf(m->name, sizeof m->name, "%s", official);
        buf_clear(&m->data);
        assert_true(buf_reserve(&m->data, t->bytes));
        assert_int_equal(st_read(m->set, t, 0, t->bytes, m->data.p, NULL), 0);
    }
    uint64_t at = row * t->shape[t->rank - 1] + col;
    return t->dtype == ST_F32 ? f32_from_bits(load_le32(m->data.p + 4 * at))
                              : bf16_to_f32(load_le16(m->data.p + 2 * at));
}

static void check_mini_keys(struct gguf *g)
{
    assert_key_str(g, "general.architecture", "deepseek4");
    assert_key_str(g, "fathom.release", "preview");
    assert_key_str(g, "tokenizer.ggml.model", "gpt2");
    assert_key_str(g, "tokenizer.ggml.pre", "joyai-llm");
    assert_key_str(g, "deepseek4.rope.scaling.type", "yarn");
    assert_int_equal(key_u64(g, "deepseek4.vocab_size"), 2304);
    assert_int_equal(key_u64(g, "deepseek4.block_count"), 5);
    assert_int_equal(key_u64(g, "deepseek4.embedding_length"), 256);
    assert_int_equal(key_u64(g, "deepseek4.attention.indexer.top_k"), 64);
    assert_int_equal(key_u64(g, "deepseek4.expert_used_count"), 2);
    assert_int_equal(key_u64(g, "deepseek4.rope.scaling.original_context_length"), 65536);
    assert_true(key_f32(g, "deepseek4.expert_weights_scale") == 1.5);
    assert_true(key_f32(g, "deepseek4.hyper_connection.epsilon") == (double)1e-6f);
    const struct gguf_kv *kv = gguf_find(g, "deepseek4.attention.compress_ratios");
    static const uint64_t ratios[] = {0, 0, 4, 128, 4};
    assert_true(kv && kv->type == GGUF_ARRAY && kv->elem == GGUF_I32 && kv->n == 5);
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t v;
        assert_true(gguf_u64_at(kv, i, &v) && v == ratios[i]);
    }
    kv = gguf_find(g, "deepseek4.swiglu_clamp_exp");
    double clamp = 0;
    assert_true(kv && kv->elem == GGUF_F32 && kv->n == 5 && gguf_f64_at(kv, 4, &clamp));
    assert_true(clamp == 10.0);
}

/* Every key of the reference metadata with its type, but for those of other tools. */
static void check_key_types(struct gguf *g)
{
    FILE *f = fopen("tests/data/gguf-layout/v4-flash-metadata.tsv", "rb");
    assert_non_null(f);
    char line[512], key[128], type[64];
    assert_non_null(fgets(line, sizeof line, f));
    static const struct {
        const char *name;
        enum gguf_vtype type;
    } types[] = {{"uint32", GGUF_U32},
                 {"float32", GGUF_F32},
                 {"bool", GGUF_BOOL},
                 {"string", GGUF_STRING},
                 {"array", GGUF_ARRAY}};
    unsigned checked = 0;
    while (fgets(line, sizeof line, f)) {
        assert_int_equal(sscanf(line, "%127[^\t]\t%63[^ \t]", key, type), 2);
        const struct gguf_kv *kv = gguf_find(g, key);
        if (strncmp(key, "quantize.", 9) == 0 || strstr(key, "expert_group")) {
            assert_null(kv);
            continue;
        }
        if (!kv) {
            fail_msg("key %s is missing", key);
        }
        for (size_t i = 0; i < ARRAY_LEN(types); i++) {
            if (strcmp(type, types[i].name) == 0) {
                assert_int_equal(kv->type, types[i].type);
                checked++;
            }
        }
    }
    fclose(f);
    assert_true(checked > 45);
}

static void test_mini(void **state)
{
    (void)state;
    struct mini m = {0};
    struct seen s = {0};
    struct shape c;
    assert_int_equal(config_read(&c, "models/mini", NULL), 0);
    assert_int_equal(st_open(&m.set, "models/mini", NULL), 0);
    static const struct {
        const char *recipe;
        uint32_t exact, expert, head;
    } cases[] = {
        {"f32", QT_F32, QT_F32, QT_F32},
        {"bf16", QT_BF16, QT_BF16, QT_BF16},
        {"f16", QT_F32, QT_F16, QT_F16},
        {"q8", QT_F32, QT_Q8_0, QT_Q8_0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct gguf *g = converted("models/mini", cases[i].recipe, &s);
        compare_all(g, &c, mini_value, &m, cases[i].exact);
        assert_int_equal(type_of(g, "blk.4.ffn_up_exps.weight"), cases[i].expert);
        assert_int_equal(type_of(g, "output.weight"), cases[i].head);
        assert_int_equal(type_of(g, "blk.0.hc_attn_base.weight"), QT_F32);
        check_mini_keys(g);
        check_shape(g, &c);
        check_key_types(g);
        gguf_close(g);
    }
    st_close(m.set);
    buf_free(&m.data);
    buf_free(&s.lines);
}

/* The tokenizer that the file carries gives the ids of the one it came from. */
static void test_mini_tokenizer(void **state)
{
    (void)state;
    struct seen s = {0};
    struct gguf *g = converted("models/mini", "q8", &s);
    struct tokenizer *a, *b;
    assert_int_equal(tokenizer_from_gguf(&a, g, NULL), 0);
    assert_int_equal(tokenizer_from_json(&b, "models/mini/tokenizer.json", NULL), 0);
    assert_int_equal(tokenizer_n_vocab(a), 2304);
    assert_int_equal(tokenizer_n_merges(a), tokenizer_n_merges(b));
    for (uint32_t id = 0; id < 2304; id++) {
        assert_true(slice_eq(tokenizer_bytes(a, id), tokenizer_bytes(b, id)));
        assert_int_equal(tokenizer_type(a, id), tokenizer_type(b, id));
    }
    static const char text[] = "Hello <｜User｜>world, 42 \xC3\xA9 <think>";
    struct ids ia = {0}, ib = {0};
    tokenizer_encode(a, text, sizeof text - 1, true, &ia);
    tokenizer_encode(b, text, sizeof text - 1, true, &ib);
    assert_int_equal(ia.n, ib.n);
    assert_memory_equal(ia.p, ib.p, ia.n * sizeof *ia.p);
    ids_free(&ia);
    ids_free(&ib);
    tokenizer_free(a);
    tokenizer_free(b);
    gguf_close(g);
    buf_free(&s.lines);
}

/* ---- made checkpoints: FP8, FP4, shards ---- */

static double value_of_made(void *source, const char *official, uint64_t row, uint64_t col)
{
    return made_value(source, official, row, col);
}

static void check_table(struct gguf *g, struct made_set *made)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, "blk.0.ffn_gate_tid2eid.weight");
    struct made *m = made_find(made, "layers.0.ffn.gate.tid2eid");
    assert_true(t && m && t->type == QT_I32 && t->ne[0] == 2 && t->ne[1] == 70);
    for (uint64_t i = 0; i < 140; i++) {
        assert_int_equal(load_le32(t->data + 4 * i), load_le64(m->data.p + 8 * i));
    }
}

static void test_made(void **state)
{
    (void)state;
    print_message("seed %llu\n", (unsigned long long)SEED);
    struct made_set *made = made_checkpoint(SEED);
    struct seen s = {0};
    static const struct {
        const char *recipe, *prefix;
        size_t shards;
        uint32_t exact, expert;
    } cases[] = {
        {"f32", "", 1, QT_F32, QT_F32},       {"bf16", "model.", 3, QT_BF16, QT_BF16},
        {"mxfp4", "", 4, QT_MXFP4, QT_MXFP4}, {"q8", "", 2, QT_F32, QT_Q8_0},
        {"f16", "", 1, QT_F32, QT_F16},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        made_write(made, cases[i].shards, cases[i].prefix);
        struct gguf *g = converted(tmp_dir, cases[i].recipe, &s);
        compare_all(g, &made->c, value_of_made, made, cases[i].exact);
        check_table(g, made);
        check_shape(g, &made->c);
        assert_int_equal(type_of(g, "blk.2.ffn_down_exps.weight"), cases[i].expert);
        assert_int_equal(type_of(g, "blk.1.attn_compressor_ape.weight"), QT_F32);
        assert_null(gguf_find(g, "tokenizer.ggml.tokens"));
        assert_line(&s, "no tokenizer.json");
        gguf_close(g);
    }
    made_free(made);
    buf_free(&s.lines);
}

/* q_lora 48: rows that Q8_0 cannot hold become F16, and that is said. */
static void test_fallbacks(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 1);
    struct seen s = {0};
    made_write(made, 1, "");
    struct gguf *g = converted(tmp_dir, "q8", &s);
    assert_int_equal(type_of(g, "blk.0.attn_q_b.weight"), QT_F16);
    assert_int_equal(type_of(g, "blk.0.attn_q_a.weight"), QT_Q8_0);
    assert_int_equal(type_of(g, "token_embd.weight"), QT_F16);
    assert_line(&s, "blk.0.attn_q_b.weight: F16 from FP8");
    assert_line(&s, "not Q8_0: rows of 48 are no multiple of 32");
    gguf_close(g);

    /* Values beyond F16: the embedding becomes BF16, a router F32. */
    struct made *embed = made_find(made, "embed.weight");
    struct made *router = made_find(made, "layers.1.ffn.gate.weight");
    store_le16(embed->data.p + 2 * 777, f32_to_bf16(-70000.0f));
    store_le16(router->data.p, f32_to_bf16(1e30f));
    made_write(made, 1, "");
    g = converted(tmp_dir, "q8", &s);
    compare_all(g, &made->c, value_of_made, made, QT_F32);
    assert_int_equal(type_of(g, "token_embd.weight"), QT_BF16);
    assert_int_equal(type_of(g, "blk.1.ffn_gate_inp.weight"), QT_F32);
    assert_int_equal(type_of(g, "blk.2.ffn_gate_inp.weight"), QT_F16);
    assert_line(&s, "not F16: values up to 70144 do not fit");
    gguf_close(g);
    made_free(made);
    buf_free(&s.lines);
}

static void test_rules(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 2);
    struct seen s = {0};
    fathom_err err;
    made_write(made, 1, "");
    struct convert_options o = {.dir = tmp_dir, .out = tmp_path("out.gguf"), .recipe = "q8"};
    static const struct convert_rule good[] = {{"blk.1.*_exps.weight", "MXFP4"},
                                               {"blk.*.ffn_gate_inp.weight", "bf16"},
                                               {"blk.1.*", "F32"}};
    o.rules = good;
    o.n_rules = 3;
    assert_int_equal(run_opt(o, &s, &err), 0);
    struct gguf *g;
    assert_int_equal(gguf_open(&g, tmp_path("out.gguf"), NULL), 0);
    assert_int_equal(type_of(g, "blk.1.ffn_gate_exps.weight"), QT_MXFP4);
    assert_int_equal(type_of(g, "blk.1.ffn_gate_inp.weight"), QT_BF16);
    assert_int_equal(type_of(g, "blk.1.attn_q_a.weight"), QT_F32);
    assert_int_equal(type_of(g, "blk.1.attn_norm.weight"), QT_F32);
    assert_int_equal(type_of(g, "blk.2.ffn_gate_exps.weight"), QT_Q8_0);
    compare_all(g, &made->c, value_of_made, made, QT_MXFP4);
    gguf_close(g);

    static const struct convert_rule bad[] = {{"nothing.*", "F16"},
                                              {"output.weight", "Q9"},
                                              {"output.weight", "IQ2_XXS"},
                                              {"output_norm.weight", "F16"},
                                              {"blk.0.attn_q_b.weight", "Q8_0"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        o.rules = &bad[i];
        o.n_rules = 1;
        assert_int_equal(run_opt(o, &s, &err), FATHOM_EINVAL);
        assert_non_null(strstr(err.msg, bad[i].pattern));
    }
    made_free(made);
    buf_free(&s.lines);
}

static void test_left_out(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 3);
    struct seen s = {0};
    made_add(made, "mtp.0.norm.weight", "BF16", 1, 1, 160, 320);
    made_add(made, "mtp.0.main_proj.weight", "BF16", 2, 4, 4, 32);
    made_add(made, "layers.0.extra", "BF16", 1, 1, 4, 8);
    snprintf(made->config, sizeof made->config, "{\"dspark_block_size\":5,%s", made_config + 1);
    made_write(made, 2, "");
    struct gguf *g = converted(tmp_dir, "bf16", &s);
    assert_key_str(g, "fathom.release", "0731");
    assert_null(gguf_find_tensor(g, "mtp.0.norm.weight"));
    assert_line(&s, "2 tensors of drafting blocks (mtp.*) are left out");
    assert_line(&s, "1 tensors of the checkpoint are not part of this architecture");
    assert_line(&s, "layers.0.extra");
    assert_line(&s, "release 0731");
    gguf_close(g);
    made_free(made);
    buf_free(&s.lines);
}

/* ---- what must fail ---- */

static const char OLD[] = "an older file that must survive";

/* Runs a conversion that must fail; the old target must be there unchanged, and no .part. */
static void expect_failure(struct convert_options o, struct seen *s, int rc, const char *words)
{
    write_whole(tmp_path("out.gguf"), OLD, sizeof OLD);
    fathom_err err;
    int got = run_opt(o, s, &err);
    if (got != rc || !strstr(err.msg, words)) {
        fail_msg("expected %d with '%s', got %d: %s", rc, words, got, err.msg);
    }
    struct buf b = {0};
    assert_int_equal(file_read_all(&b, tmp_path("out.gguf"), 1 << 20, NULL), 0);
    assert_true(b.n == sizeof OLD && memcmp(b.p, OLD, sizeof OLD) == 0);
    buf_free(&b);
    assert_false(path_exists(tmp_path("out.gguf.part")));
}

static void set_shape(struct made *m, uint64_t rows, uint64_t cols)
{
    m->shape[0] = rows;
    m->shape[1] = cols;
}

static void break_missing(struct made_set *m)
{
    made_find(m, "layers.2.ffn.experts.1.w3.weight")->skip = true;
}
static void break_scale_missing(struct made_set *m)
{
    made_find(m, "layers.1.attn.wkv.scale")->skip = true;
}
static void break_scale_extra(struct made_set *m)
{
    memset(made_add(m, "layers.1.ffn.gate.scale", "F8_E8M0", 2, 1, 2, 2)->data.p, 127, 2);
}
static void break_shape(struct made_set *m)
{
    set_shape(made_find(m, "layers.0.attn.wo_a.weight"), 96, 32);
}
static void break_transposed(struct made_set *m)
{
    set_shape(made_find(m, "layers.1.attn.compressor.ape"), 192, 4);
}
static void break_scale_shape(struct made_set *m)
{
    set_shape(made_find(m, "layers.0.attn.wq_b.scale"), 1, 2);
}
static void break_rank(struct made_set *m)
{
    struct made *t = made_find(m, "layers.0.attn_norm.weight");
    t->rank = 2;
    set_shape(t, 1, 160);
}
static void break_scale_nan(struct made_set *m)
{
    made_find(m, "layers.1.ffn.experts.2.w2.scale")->data.p[5] = (char)255;
}
static void break_code_nan(struct made_set *m)
{
    made_find(m, "layers.2.attn.wq_a.weight")->data.p[161] = (char)0xFF;
}
static void break_value_nan(struct made_set *m)
{
    store_le16(made_find(m, "norm.weight")->data.p + 6, 0x7FC0);
}
static void break_value_inf(struct made_set *m)
{
    store_le32(made_find(m, "hc_head_fn")->data.p + 4, 0xFF800000u);
}
static void break_id(struct made_set *m)
{
    store_le64(made_find(m, "layers.0.ffn.gate.tid2eid")->data.p + 16, 3);
}
static void break_id_negative(struct made_set *m)
{
    store_le64(made_find(m, "layers.0.ffn.gate.tid2eid")->data.p + 16, (uint64_t)-1);
}
static void break_dtype(struct made_set *m)
{
    made_find(m, "layers.0.ffn.gate.tid2eid")->dtype = "F64";
}
static void break_weight_dtype(struct made_set *m)
{
    made_find(m, "layers.0.ffn.gate.weight")->dtype = "I16";
}

static void test_broken(void **state)
{
    (void)state;
    static const struct {
        void (*change)(struct made_set *);
        const char *words;
    } cases[] = {
        {break_missing, "layers.2.ffn.experts.1.w3.weight is missing"},
        {break_scale_missing, "layers.1.attn.wkv.weight is F8_E4M3 but has no scale"},
        {break_scale_extra, "layers.1.ffn.gate.weight is BF16 but has a scale"},
        {break_shape,
         "layers.0.attn.wo_a.weight (F8_E4M3) has shape [96, 32], expected [32, 96]"},
        {break_transposed, "layers.1.attn.compressor.ape"},
        {break_scale_shape, "layers.0.attn.wq_b.scale"},
        {break_rank, "layers.0.attn_norm.weight (BF16) has shape [1, 160], expected [160]"},
        {break_scale_nan, "layers.1.ffn.experts.2.w2.scale: scale 5 is not a number"},
        {break_code_nan,
         "layers.2.attn.wq_a.weight: the value at row 1, column 1 is not finite"},
        {break_value_nan, "norm.weight: the value at row 0, column 3"},
        {break_value_inf, "hc_head_fn: the value at row 0, column 1"},
        {break_id, "layers.0.ffn.gate.tid2eid: id 3 at row 1 is outside 0..2"},
        {break_id_negative, "id -1 at row 1"},
        {break_dtype, "layers.0.ffn.gate.tid2eid is F64, expected I64"},
        {break_weight_dtype, "layers.0.ffn.gate.weight: I16"},
    };
    struct seen s = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct made_set *made = made_checkpoint(SEED + 4);
        cases[i].change(made);
        made_write(made, 1, "");
        for (int k = 0; k < 2; k++) {
            expect_failure((struct convert_options){.dir = tmp_dir,
                                                    .out = tmp_path("out.gguf"),
                                                    .recipe = k ? "mxfp4" : "f32"},
                           &s, FATHOM_EFORMAT, cases[i].words);
        }
        made_free(made);
    }
    buf_free(&s.lines);
}

static void test_other_failures(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 5);
    struct seen s = {0};
    made_write(made, 1, "");
    struct convert_options o = {.dir = tmp_dir, .out = tmp_path("out.gguf"), .recipe = "q8"};
    char out[1024];
    snprintf(out, sizeof out, "%s", o.out); /* tmp_path's buffers turn */
    o.out = out;

    o.space_limit_bytes = 1000;
    expect_failure(o, &s, FATHOM_EIO, "not enough space");
    o.space_limit_bytes = 0;
    o.out = tmp_path("model.safetensors");
    assert_int_equal(run_opt(o, &s, &(fathom_err){0}), FATHOM_EINVAL);
    o.out = out;
    o.recipe = "best";
    expect_failure(o, &s, FATHOM_EINVAL, "best");
    o.recipe = "q8";
    write_whole(tmp_path("tokenizer.json"), "{", 1);
    expect_failure(o, &s, FATHOM_EFORMAT, "tokenizer.json");
    unlink(tmp_path("tokenizer.json"));

    struct buf vocab = {0}; /* 2304 tokens for a vocabulary of 70 */
    assert_int_equal(file_read_all(&vocab, "models/mini/tokenizer.json", 1 << 24, NULL), 0);
    write_whole(tmp_path("tokenizer.json"), vocab.p, vocab.n);
    expect_failure(o, &s, FATHOM_EFORMAT, "vocab_size");
    unlink(tmp_path("tokenizer.json"));
    buf_free(&vocab);

    unlink(tmp_path("config.json"));
    expect_failure(o, &s, FATHOM_ENOENT, "config.json");
    made_free(made);
    buf_free(&s.lines);
}

static void test_dry_run(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 6);
    struct seen s = {0};
    fathom_err err;
    made_write(made, 1, "");
    struct convert_options o = {.dir = tmp_dir,
                                .out = tmp_path("out.gguf"),
                                .recipe = "mxfp4",
                                .dry_run = true,
                                .space_limit_bytes = 10};
    assert_int_equal(run_opt(o, &s, &err), 0);
    assert_false(path_exists(tmp_path("out.gguf")));
    assert_false(path_exists(tmp_path("out.gguf.part")));
    assert_line(&s, "blk.2.ffn_down_exps.weight: MXFP4 from FP4, 96 x 160 x 3, ");
    assert_line(&s, "output.weight: Q8_0 from BF16");
    assert_line(&s, "are needed, 10 are free");
    made_free(made);
    buf_free(&s.lines);
}

/* The same input gives the same bytes, whatever the slices. */
static void test_deterministic(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 7);
    struct seen s = {0};
    struct buf a = {0}, b = {0};
    made_write(made, 2, "");
    gguf_close(converted(tmp_dir, "q8", &s));
    assert_int_equal(file_read_all(&a, tmp_path("out.gguf"), 1 << 26, NULL), 0);
    fathom_err err;
    struct convert_options o = {.dir = tmp_dir, .out = tmp_path("out.gguf"), .recipe = "q8"};
    assert_int_equal(run_opt(o, &s, &err), 0);
    assert_int_equal(file_read_all(&b, tmp_path("out.gguf"), 1 << 26, NULL), 0);
    assert_true(slice_eq(buf_slice(&a), buf_slice(&b)));
    made_free(made);
    buf_free(&a);
    buf_free(&b);
    buf_free(&s.lines);
}

/* The self-check itself: it accepts roundings and refuses a neighbour's row. */
static void test_verify_row(void **state)
{
    (void)state;
    float x[64], y[64];
    struct rng g = {SEED};
    size_t bad;
    for (int i = 0; i < 64; i++) {
        x[i] = rng_sym(&g);
        y[i] = x[i] + (i == 40 ? 0.5f / 127 : 0);
    }
    assert_true(verify_row(QT_F32, x, x, NULL, 64, &bad));
    assert_false(verify_row(QT_F32, x, y, NULL, 64, &bad));
    assert_int_equal(bad, 40);
    assert_false(verify_row(QT_F16, x, y, NULL, 64, &bad));
    assert_true(verify_row(QT_Q8_0, x, y, NULL, 64, &bad));
    y[41] = NAN;
    assert_false(verify_row(QT_Q8_0, x, y, NULL, 64, &bad));
    assert_int_equal(bad, 41);
    for (int i = 0; i < 64; i++) {
        y[i] = rng_sym(&g);
    }
    assert_false(verify_row(QT_Q8_0, x, y, NULL, 64, &bad));
    assert_false(verify_row(QT_MXFP4, x, y, NULL, 64, &bad));
}

/* Changes one byte of a converted file; the check must find it. */
static void expect_detected(const struct plan *p, const char *tensor, bool last_row)
{
    struct gguf *g;
    assert_int_equal(gguf_open(&g, tmp_path("out.gguf"), NULL), 0);
    const struct gguf_tensor *t = gguf_find_tensor(g, tensor);
    assert_non_null(t);
    uint64_t at = t->offset + (last_row ? t->bytes - 1 : 1);
    gguf_close(g);
    for (int k = 0; k < 2; k++) { /* damage, then repair */
        FILE *f = fopen(tmp_path("out.gguf"), "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
        int c = fgetc(f);
        assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
        assert_int_equal(fputc(c ^ 0x55, f), c ^ 0x55);
        fclose(f);
        fathom_err err = {0};
        int rc = verify_file(p, tmp_path("out.gguf"), &err);
        if (rc != (k ? 0 : FATHOM_EIO) || (!k && !strstr(err.msg, tensor))) {
            fail_msg("%s %s: rc %d %s", tensor, k ? "repaired" : "damaged", rc, err.msg);
        }
    }
}

static void test_verify_file(void **state)
{
    (void)state;
    struct made_set *made = made_checkpoint(SEED + 8);
    struct seen s = {0};
    made_write(made, 1, "");
    gguf_close(converted(tmp_dir, "mxfp4", &s));
    struct convert_options o = {.dir = tmp_dir, .out = tmp_path("out.gguf"), .recipe = "mxfp4"};
    struct plan p;
    assert_int_equal(plan_make(&p, &o, NULL), 0);
    for (int last = 0; last < 2; last++) {
        expect_detected(&p, "blk.2.ffn_down_exps.weight", last);
        expect_detected(&p, "blk.0.ffn_gate_tid2eid.weight", last);
        expect_detected(&p, "output.weight", last);
        expect_detected(&p, "token_embd.weight", last);
        expect_detected(&p, "blk.1.attn_norm.weight", last);
    }
    plan_free(&p);
    o.recipe = "q8";
    fathom_err err = {0};
    assert_int_equal(plan_make(&p, &o, NULL), 0);
    assert_int_equal(verify_file(&p, tmp_path("out.gguf"), &err), FATHOM_EIO);
    plan_free(&p);
    made_free(made);
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
        cmocka_unit_test(test_mini),       cmocka_unit_test(test_mini_tokenizer),
        cmocka_unit_test(test_made),       cmocka_unit_test(test_fallbacks),
        cmocka_unit_test(test_rules),      cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_broken),     cmocka_unit_test(test_other_failures),
        cmocka_unit_test(test_dry_run),    cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_verify_row), cmocka_unit_test(test_verify_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
