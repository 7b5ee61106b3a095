/* test_model_shape.c - metadata to shape: a valid header, then every key missing, of a wrong
 * type and out of range, with the message that must name it; architectures, presets for draft
 * files, the mainline predictor layer, the release marker; and weights_bind on damaged tensor
 * lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "gguf/gguf.h"
#include "model/roles.h"
#include "model/weights.h"
#include "quant/formats.h"

/* A small valid model: 3 layers of ratios 0, 4, 8. */
struct key {
    const char *name;
    double v;
    bool is_float;
};
static const struct key KEYS[] = {
    {"block_count", 3, false},
    {"context_length", 4096, false},
    {"embedding_length", 64, false},
    {"vocab_size", 40, false},
    {"attention.head_count", 4, false},
    {"attention.head_count_kv", 1, false},
    {"attention.key_length", 128, false},
    {"attention.q_lora_rank", 32, false},
    {"attention.output_lora_rank", 16, false},
    {"attention.output_group_count", 2, false},
    {"attention.sliding_window", 16, false},
    {"attention.layer_norm_rms_epsilon", 1e-6, true},
    {"attention.compress_rope_freq_base", 160000, true},
    {"attention.indexer.head_count", 16, false},
    {"attention.indexer.key_length", 64, false},
    {"attention.indexer.top_k", 5, false},
    {"rope.dimension_count", 64, false},
    {"rope.freq_base", 10000, true},
    {"rope.scaling.factor", 16, true},
    {"rope.scaling.original_context_length", 64, false},
    {"rope.scaling.yarn_beta_fast", 32, true},
    {"rope.scaling.yarn_beta_slow", 1, true},
    {"expert_count", 8, false},
    {"expert_used_count", 2, false},
    {"expert_shared_count", 1, false},
    {"expert_feed_forward_length", 32, false},
    {"expert_weights_scale", 1.5, true},
    {"expert_gating_func", 4, false},
    {"hash_layer_count", 1, false},
    {"hyper_connection.count", 4, false},
    {"hyper_connection.sinkhorn_iterations", 20, false},
    {"hyper_connection.epsilon", 1e-6, true},
};

/* How the header differs from the valid one. */
struct change {
    const char *drop; /* key left out */
    const char *set;  /* key with another value */
    double value;
    const char *as_text; /* key written as a string */
    const char *arch;
    const char *release;
    const int32_t *ratios;
    size_t n_ratios;
    bool no_clamp, nextn;
    const char *drop_tensor, *long_tensor, *typed_tensor;
    int bad_expert; /* value written into the hash table */
};

static void write_keys(struct gguf_writer *w, const struct change *c)
{
    gguf_writer_str(w, "general.architecture", slice_of(c->arch ? c->arch : "deepseek4"));
    if (c->release) {
        gguf_writer_str(w, "fathom.release", slice_of(c->release));
    }
    for (size_t i = 0; i < ARRAY_LEN(KEYS); i++) {
        char key[128];
        snprintf(key, sizeof key, "deepseek4.%s", KEYS[i].name);
        double v = c->set && !strcmp(c->set, KEYS[i].name) ? c->value : KEYS[i].v;
        if (c->drop && !strcmp(c->drop, KEYS[i].name)) {
            continue;
        }
        if (c->as_text && !strcmp(c->as_text, KEYS[i].name)) {
            gguf_writer_str(w, key, SLICE("many"));
        } else if (KEYS[i].is_float) {
            gguf_writer_f32(w, key, (float)v);
        } else {
            gguf_writer_u32(w, key, (uint32_t)v);
        }
    }
    static const int32_t ratios[] = {0, 4, 8};
    static const float clamp[] = {10, 10, 10, 10};
    gguf_writer_arr_i32(w, "deepseek4.attention.compress_ratios",
                        c->ratios ? c->ratios : ratios, c->ratios ? c->n_ratios : 3);
    if (!c->no_clamp) {
        gguf_writer_arr_f32(w, "deepseek4.swiglu_clamp_exp", clamp, 4);
    }
    if (c->nextn) {
        gguf_writer_u32(w, "deepseek4.nextn_predict_layers", 1);
    }
}

static const struct shape *base_shape(void);

static void write_tensors(struct gguf_writer *w, const struct change *c)
{
    const struct shape *s = base_shape();
    for (int il = -1; il < (int)s->n_layer; il++) {
        size_t n;
        const struct tensor_role_def *r = il < 0 ? roles_global(&n) : roles_layer(&n);
        for (size_t i = 0; i < n; i++) {
            char name[128];
            uint64_t ne[3];
            role_name(&r[i], il, name, sizeof name);
            role_dims(s, il < 0 ? 0 : (uint32_t)il, &r[i], ne);
            if ((il >= 0 && !role_in_layer(s, (uint32_t)il, &r[i])) ||
                (c->drop_tensor && !strcmp(c->drop_tensor, name))) {
                continue;
            }
            ne[0] += c->long_tensor && !strcmp(c->long_tensor, name) ? 1 : 0;
            uint32_t type = r[i].kind == TENSOR_TABLE ? QT_I32 : QT_F32;
            if (c->typed_tensor && !strcmp(c->typed_tensor, name)) {
                type = type == QT_I32 ? QT_F32 : QT_I32;
            }
            fathom_err err = {0};
            assert_true(gguf_writer_tensor(w, name, type, role_rank(&r[i]), ne, &err) >= 0);
        }
    }
    if (c->nextn) {
        fathom_err err = {0};
        uint64_t ne[2] = {128, 64};
        assert_true(gguf_writer_tensor(w, "blk.3.nextn.eh_proj.weight", QT_F32, 2, ne, &err) >=
                    0);
    }
}

static void *image; /* page-aligned file image of the last build */

static struct gguf *build(const struct change *c)
{
    fathom_err err = {0};
    struct gguf_writer *w = gguf_writer_new();
    struct buf head = {0};
    write_keys(w, c);
    write_tensors(w, c);
    assert_int_equal(gguf_writer_header(w, &head, &err), 0);
    uint64_t bytes = gguf_writer_file_bytes(w);
    mem_free(image);
    image = mem_alloc_aligned(4096, bytes);
    memset(image, 0, bytes);
    memcpy(image, head.p, head.n);
    struct gguf *g = NULL;
    if (gguf_open_mem(&g, image, bytes, "test.gguf", &err) != 0) {
        fail_msg("%s", err.msg);
    }
    if (c->bad_expert) {
        const struct gguf_tensor *t = gguf_find_tensor(g, "blk.0.ffn_gate_tid2eid.weight");
        int32_t v = c->bad_expert;
        memcpy((char *)image + (t->data - (const unsigned char *)image) + 40, &v, 4);
    }
    buf_free(&head);
    gguf_writer_free(w);
    return g;
}

static const struct shape *base_shape(void)
{
    static struct shape s;
    if (s.n_layer == 0) { /* the fields that role_dims needs */
        s = (struct shape){.n_vocab = 40,
                           .d = 64,
                           .n_layer = 3,
                           .n_head = 4,
                           .head_dim = 128,
                           .rope_dim = 64,
                           .q_lora = 32,
                           .o_groups = 2,
                           .o_lora = 16,
                           .window = 16,
                           .index_heads = 16,
                           .index_dim = 64,
                           .index_topk = 5,
                           .n_ff = 32,
                           .n_expert = 8,
                           .n_used = 2,
                           .n_hash = 1,
                           .hc = 4,
                           .max_ratio = 8,
                           .ratio = {0, 4, 8}};
    }
    return &s;
}

static int shape_of(const struct change *c, struct shape *s, fathom_err *err)
{
    struct gguf *g = build(c);
    *err = (fathom_err){0};
    int rc = shape_from_gguf(s, g, err);
    gguf_close(g);
    return rc;
}

static void refused(const struct change *c, const char *text)
{
    struct shape s;
    fathom_err err;
    assert_int_equal(shape_of(c, &s, &err), FATHOM_EFORMAT);
    if (!strstr(err.msg, text) || !strstr(err.msg, "test.gguf")) {
        fail_msg("message \"%s\" does not name \"%s\"", err.msg, text);
    }
}

static void valid_header(void **state)
{
    (void)state;
    struct shape s;
    fathom_err err;
    assert_int_equal(shape_of(&(struct change){0}, &s, &err), 0);
    assert_int_equal(s.n_layer, 3);
    assert_int_equal(s.n_vocab, 40);
    assert_int_equal(s.max_ratio, 8);
    assert_int_equal(s.ratio[1], 4);
    assert_true(s.swiglu_lim[2] == 10.0f && s.route_scale == 1.5f && s.eps == 1e-6f);
    assert_int_equal(s.yarn_orig, 64);
    assert_false(s.release_0731);
    assert_int_equal(shape_of(&(struct change){.release = "0731"}, &s, &err), 0);
    assert_true(s.release_0731);
    assert_int_equal(shape_of(&(struct change){.drop = "vocab_size"}, &s, &err), 0);
    assert_int_equal(s.n_vocab, 40); /* from the embedding */
}

static void every_key_is_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(KEYS); i++) {
        const char *k = KEYS[i].name;
        bool optional = !strcmp(k, "vocab_size") || !strcmp(k, "attention.head_count_kv") ||
                        !strcmp(k, "expert_shared_count") || !strcmp(k, "expert_gating_func") ||
                        !strcmp(k, "rope.scaling.factor"); /* without it: no YaRN */
        if (!optional) {
            refused(&(struct change){.drop = k}, k);
        }
        refused(&(struct change){.as_text = k}, k);
        refused(&(struct change){.set = k, .value = KEYS[i].is_float ? -1.0 : 4294967295.0}, k);
    }
    refused(&(struct change){.no_clamp = true}, "swiglu_clamp_exp");
    static const int32_t two[] = {0, 4}, odd[] = {0, 4, 6}, negative[] = {0, -4, 8};
    refused(&(struct change){.ratios = two, .n_ratios = 2}, "compress_ratios");
    refused(&(struct change){.ratios = odd, .n_ratios = 3}, "does not divide");
    refused(&(struct change){.ratios = negative, .n_ratios = 3}, "compress_ratios");
}

static void no_yarn_is_legal(void **state)
{
    (void)state;
    struct shape s;
    fathom_err err;
    struct rope_table t[ROPE_CLASSES];
    /* all four keys are absent in such a file; here one is dropped and the rest are ignored */
    assert_int_equal(
        shape_of(&(struct change){.set = "rope.scaling.original_context_length", .value = 0},
                 &s, &err),
        0);
    shape_rope(&s, t);
    assert_true(t[ROPE_YARN].freq[31] > 1e-6f && t[ROPE_YARN].freq[0] == 1.0f);
}

static void other_architectures(void **state)
{
    (void)state;
    refused(&(struct change){.arch = "llama"}, "llama");
    refused(&(struct change){.arch = "deepseek41"}, "V4.1");
    refused(&(struct change){.set = "expert_gating_func", .value = 2}, "expert_gating_func");
    refused(&(struct change){.set = "expert_shared_count", .value = 2}, "expert_shared_count");
    refused(&(struct change){.set = "attention.head_count_kv", .value = 4}, "head_count_kv");
}

/* block_count 4 with a predictor layer inside means 3 trunk layers. */
static void predictor_layer_is_not_trunk(void **state)
{
    (void)state;
    struct shape s;
    fathom_err err;
    static const int32_t ratios[] = {0, 4, 8, 0};
    struct change c = {
        .set = "block_count", .value = 4, .ratios = ratios, .n_ratios = 4, .nextn = true};
    assert_int_equal(shape_of(&c, &s, &err), 0);
    assert_int_equal(s.n_layer, 3);
}

static void native_rows_have_constraints(void **state)
{
    (void)state;
    struct shape s;
    fathom_err err;
    assert_int_equal(
        shape_of(&(struct change){.set = "attention.key_length", .value = 96}, &s, &err), 0);
    assert_int_equal(shape_check(&s, false, "x", &err), 0);
    assert_int_equal(shape_check(&s, true, "x", &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "--sim off"));
    refused(&(struct change){.set = "attention.indexer.key_length", .value = 96},
            "power-of-two");
    refused(&(struct change){.set = "attention.output_group_count", .value = 3}, "groups");
    refused(&(struct change){.set = "expert_used_count", .value = 9}, "experts");
    refused(&(struct change){.set = "rope.dimension_count", .value = 63}, "rope");
}

static int bind(const struct change *c, fathom_err *err)
{
    struct gguf *g = build(c);
    struct shape s;
    struct weights w;
    *err = (fathom_err){0};
    int rc = shape_from_gguf(&s, g, err);
    assert_int_equal(rc, 0);
    rc = weights_bind(&w, g, &s, err);
    if (rc == 0) {
        assert_int_equal(w.n, gguf_n_tensors(g));
        weights_free(&w);
    }
    gguf_close(g);
    return rc;
}

/* Every tensor in turn: missing, one column too long, of a type that cannot be used. */
static void every_tensor_is_checked(void **state)
{
    (void)state;
    fathom_err err;
    assert_int_equal(bind(&(struct change){0}, &err), 0);
    const struct shape *s = base_shape();
    for (int il = -1; il < (int)s->n_layer; il++) {
        size_t n;
        const struct tensor_role_def *r = il < 0 ? roles_global(&n) : roles_layer(&n);
        for (size_t i = 0; i < n; i++) {
            char name[128];
            role_name(&r[i], il, name, sizeof name);
            if (il >= 0 && !role_in_layer(s, (uint32_t)il, &r[i])) {
                continue;
            }
            struct change c[] = {
                {.drop_tensor = name}, {.long_tensor = name}, {.typed_tensor = name}};
            for (int k = 0; k < 3; k++) {
                assert_int_equal(bind(&c[k], &err), FATHOM_EFORMAT);
                assert_non_null(strstr(err.msg, name));
            }
        }
    }
    assert_int_equal(bind(&(struct change){.bad_expert = 8}, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "tid2eid"));
    assert_int_equal(bind(&(struct change){.bad_expert = -1}, &err), FATHOM_EFORMAT);
}

static int tear_down(void **state)
{
    (void)state;
    mem_free(image);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_header),
        cmocka_unit_test(every_key_is_checked),
        cmocka_unit_test(no_yarn_is_legal),
        cmocka_unit_test(other_architectures),
        cmocka_unit_test(predictor_layer_is_not_trunk),
        cmocka_unit_test(native_rows_have_constraints),
        cmocka_unit_test(every_tensor_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
