/* test_factory_names.c - the table of tensors against the listing of the real model,
 * config.json in both dialects, and patterns of rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "factory/plan.h"
#include "factory_common.h"
#include "quant/formats.h"
#include "testdata.h"

static const char flash_fields[] =
    "\"vocab_size\":129280,\"hidden_size\":4096,\"num_hidden_layers\":43,"
    "\"num_attention_heads\":64,\"head_dim\":512,\"qk_rope_head_dim\":64,\"q_lora_rank\":1024,"
    "\"o_groups\":8,\"o_lora_rank\":1024,\"sliding_window\":128,\"index_n_heads\":64,"
    "\"index_head_dim\":128,\"index_topk\":512,\"moe_intermediate_size\":2048,"
    "\"n_routed_experts\":256,\"num_experts_per_tok\":6,\"num_hash_layers\":3,"
    "\"routed_scaling_factor\":1.5,\"swiglu_limit\":10.0,\"hc_mult\":4,\"hc_sinkhorn_iters\":20,"
    "\"rope_theta\":10000,\"compress_rope_theta\":160000,\"compress_ratios\":[0,0";

static void flash_config(struct buf *b)
{
    buf_addf(b, "{%s", flash_fields);
    for (int l = 2; l < 43; l++) {
        buf_adds(b, l % 2 ? ",128" : ",4");
    }
    buf_adds(b, ",0]}"); /* entry of the drafting block */
}

struct listed {
    char name[80], q4[16];
    uint64_t ne[3];
    uint32_t rank;
    bool seen;
};

/* Columns name, type in q2, type in q4, dims "a x b x c" by v4-flash-tensors.tsv. */
static size_t read_listing(struct listed *out, size_t max)
{
    FILE *f = fopen(test_data_path("gguf-layout/v4-flash-tensors.tsv"), "rb");
    assert_non_null(f);
    char line[512];
    size_t n = 0;
    assert_non_null(fgets(line, sizeof line, f)); /* heading */
    while (fgets(line, sizeof line, f)) {
        assert_true(n < max);
        char q2[16], dims[64];
        struct listed *l = &out[n++];
        *l = (struct listed){.ne = {1, 1, 1}};
        assert_int_equal(
            sscanf(line, "%79[^\t]\t%15[^\t]\t%15[^\t]\t%63[^\t]", l->name, q2, l->q4, dims),
            4);
        for (char *p = dims; *p; l->rank++) {
            assert_true(l->rank < 3);
            char *end;
            l->ne[l->rank] = strtoull(p, &end, 10);
            assert_ptr_not_equal(p, end);
            for (p = end; *p && (*p < '0' || *p > '9'); p++) {
            }
        }
    }
    fclose(f);
    return n;
}

static void test_flash_listing(void **state)
{
    (void)state;
    static struct listed list[1400];
    size_t n_listed = read_listing(list, ARRAY_LEN(list));
    assert_int_equal(n_listed, 1328);

    struct buf text = {0};
    fathom_err err = {0};
    struct shape c;
    flash_config(&text);
    assert_int_equal(config_parse(&c, text.p, text.n, "flash", &err), 0);
    buf_free(&text);
    size_t n = names_count(&c);
    assert_int_equal(n, 1328);
    struct tensor_def *defs = calloc(n, sizeof *defs);
    assert_non_null(defs);
    names_fill(&c, defs);
    const struct recipe *q8 = recipe_find("q8", &err);
    assert_non_null(q8);
    for (size_t i = 0; i < n; i++) {
        struct listed *l = NULL;
        for (size_t k = 0; k < n_listed && !l; k++) {
            l = strcmp(list[k].name, defs[i].gguf) == 0 ? &list[k] : NULL;
        }
        if (!l || l->seen) {
            fail_msg("%s is not in the listing, or twice", defs[i].gguf);
        }
        l->seen = true;
        if (l->rank != defs[i].rank || l->ne[0] != defs[i].cols || l->ne[1] != defs[i].rows ||
            l->ne[2] != defs[i].n_mats) {
            fail_msg("%s has other dimensions than listed", defs[i].gguf);
        }
        /* The reference mix, but for the experts (q8 keeps them at 8 bits) and for ape, which
         * we keep F32 as in the checkpoint. */
        const char *type = qformat((uint32_t)q8->type[defs[i].role][0])->name;
        const char *want = defs[i].rank == 3          ? "Q8_0"
                           : strstr(l->name, "_ape.") ? "F32"
                                                      : l->q4;
        if (strcmp(type, want) != 0) {
            fail_msg("%s: type %s, listed %s", defs[i].gguf, type, want);
        }
    }
    free(defs);
}

static void test_source_names(void **state)
{
    (void)state;
    struct tensor_def d = {.official = "layers.7.ffn.experts.*.w2.weight"};
    char name[NAME_BYTES];
    names_source(&d, 213, false, name);
    assert_string_equal(name, "layers.7.ffn.experts.213.w2.weight");
    names_source(&d, 0, true, name);
    assert_string_equal(name, "layers.7.ffn.experts.0.w2.scale");
    d = (struct tensor_def){.official = "layers.12.attn.wq_a.weight"};
    names_source(&d, 0, true, name);
    assert_string_equal(name, "layers.12.attn.wq_a.scale");
}

/* Official name of a GGUF name of layer 1 (ratio 4, routed by score) of the made checkpoint. */
static void test_pairs(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"attn.wo_a.weight", "attn_output_a.weight"},
        {"attn.kv_norm.weight", "attn_kv_a_norm.weight"},
        {"attn.compressor.wgate.weight", "attn_compressor_gate.weight"},
        {"attn.compressor.ape", "attn_compressor_ape.weight"},
        {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight"},
        {"attn.indexer.weights_proj.weight", "indexer.proj.weight"},
        {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight"},
        {"ffn.gate.bias", "exp_probs_b.bias"},
        {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight"},
        {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight"},
        {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight"},
        {"ffn.experts.*.w1.weight", "ffn_gate_exps.weight"},
        {"ffn.experts.*.w2.weight", "ffn_down_exps.weight"},
        {"ffn.experts.*.w3.weight", "ffn_up_exps.weight"},
        {"hc_ffn_fn", "hc_ffn_fn.weight"},
    };
    struct shape c;
    assert_int_equal(config_parse(&c, made_config, strlen(made_config), "made", NULL), 0);
    size_t n = names_count(&c), found = 0;
    struct tensor_def *defs = calloc(n, sizeof *defs);
    assert_non_null(defs);
    names_fill(&c, defs);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < ARRAY_LEN(pairs); k++) {
            char gguf[NAME_BYTES], official[NAME_BYTES];
            snprintf(gguf, sizeof gguf, "blk.1.%s", pairs[k][1]);
            snprintf(official, sizeof official, "layers.1.%s", pairs[k][0]);
            if (strcmp(defs[i].gguf, gguf) == 0) {
                assert_string_equal(defs[i].official, official);
                found++;
            }
        }
    }
    assert_int_equal(found, ARRAY_LEN(pairs));
    free(defs);
}

static const char inference_config[] =
    "{\"vocab_size\":70,\"dim\":160,\"n_layers\":3,\"n_heads\":2,\"head_dim\":96,"
    "\"rope_head_dim\":32,\"q_lora_rank\":48,\"o_groups\":2,\"o_lora_rank\":16,"
    "\"window_size\":8,\"compress_ratios\":[0,4,16,0],\"index_n_heads\":2,"
    "\"index_head_dim\":32,\"index_topk\":4,\"moe_inter_dim\":96,\"n_routed_experts\":3,"
    "\"n_activated_experts\":2,\"n_hash_layers\":1,\"route_scale\":1.5,\"swiglu_limit\":10.0,"
    "\"hc_mult\":2,\"hc_sinkhorn_iters\":3,\"rope_theta\":10000,"
    "\"compress_rope_theta\":160000,\"rope_factor\":16,\"original_seq_len\":4096,"
    "\"beta_fast\":32,\"beta_slow\":1,\"score_func\":\"sqrtsoftplus\"}";

static void test_config_dialects(void **state)
{
    (void)state;
    struct shape a, b;
    assert_int_equal(config_parse(&a, made_config, strlen(made_config), "hf", NULL), 0);
    assert_int_equal(config_parse(&b, inference_config, strlen(inference_config), "inf", NULL),
                     0);
    assert_memory_equal(&a, &b, sizeof a);
    assert_int_equal(a.d, 160);
    assert_int_equal(a.ratio[2], 16);
    assert_int_equal(a.yarn_orig, 4096);
    assert_true(a.hc_eps == 1e-6f && a.eps == 1e-6f);
    assert_false(a.release_0731);
}

/* made_config with one piece replaced. */
static int parse_with(const char *from, const char *to, struct shape *c, fathom_err *err)
{
    struct buf b = {0};
    const char *at = strstr(made_config, from);
    assert_non_null(at);
    buf_add(&b, made_config, (size_t)(at - made_config));
    buf_adds(&b, to);
    buf_adds(&b, at + strlen(from));
    *err = (fathom_err){0};
    int rc = config_parse(c, b.p, b.n, "config.json", err);
    buf_free(&b);
    return rc;
}

static void test_config_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        int rc;
        const char *words;
    } cases[] = {
        {"\"hidden_size\":160,", "", FATHOM_EFORMAT, "hidden_size is missing"},
        {"\"compress_ratios\":[0,4,16,0],", "", FATHOM_EFORMAT, "compress_ratios is missing"},
        {"[0,4,16,0]", "[0,4]", FATHOM_EFORMAT, "compress_ratios"},
        {"[0,4,16,0]", "[0,3,16]", FATHOM_EFORMAT, "does not divide"},
        {"[0,4,16,0]", "[0,-4,16]", FATHOM_EFORMAT, "compress_ratios[1]"},
        {"\"hidden_size\":160", "\"hidden_size\":\"160\"", FATHOM_EFORMAT, "hidden_size"},
        {"\"hidden_size\":160", "\"hidden_size\":160.5", FATHOM_EFORMAT, "whole number"},
        {"\"hidden_size\":160", "\"hidden_size\":0", FATHOM_EFORMAT, "hidden_size"},
        {"\"hidden_size\":160", "\"hidden_size\":1e300", FATHOM_EFORMAT, "hidden_size"},
        {"\"o_groups\":2", "\"o_groups\":3", FATHOM_EFORMAT, "output groups"},
        {"\"index_head_dim\":32", "\"index_head_dim\":48", FATHOM_EFORMAT, "index heads"},
        {"\"qk_rope_head_dim\":32", "\"qk_rope_head_dim\":64", FATHOM_EFORMAT, "rope dim"},
        {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":4", FATHOM_EFORMAT, "experts"},
        {"\"type\":\"yarn\"", "\"type\":\"linear\"", FATHOM_EUNSUPPORTED, "linear"},
        {"deepseek_v4\"", "deepseek_v41\"", FATHOM_EUNSUPPORTED, "V4.1"},
        {"deepseek_v4\"", "deepseek_v3\"", FATHOM_EUNSUPPORTED, "deepseek_v3"},
        {"{\"model_type\":\"deepseek_v4\"", "{\"kv_source_layer_ids\":[2]", FATHOM_EUNSUPPORTED,
         "V4.1"},
        {"{\"model_type\":\"deepseek_v4\"", "{\"scoring_func\":\"softmax\"",
         FATHOM_EUNSUPPORTED, "scoring_func"},
        {"{\"model_type\":\"deepseek_v4\"", "{\"norm_topk_prob\":false", FATHOM_EUNSUPPORTED,
         "norm_topk_prob"},
        {"{\"model_type\":\"deepseek_v4\"", "{\"n_shared_experts\":2", FATHOM_EUNSUPPORTED,
         "n_shared_experts"},
        {"{\"model_type\":\"deepseek_v4\"", "{\"tie_word_embeddings\":true",
         FATHOM_EUNSUPPORTED, "tie_word_embeddings"},
        {"}}", "}", FATHOM_EFORMAT, "config.json"},
    };
    struct shape c;
    fathom_err err;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int rc = parse_with(cases[i].from, cases[i].to, &c, &err);
        if (rc != cases[i].rc || !strstr(err.msg, cases[i].words)) {
            fail_msg("%s -> %s: rc %d, message: %s", cases[i].from, cases[i].to, rc, err.msg);
        }
    }
    assert_int_equal(parse_with("\"hc_mult\"", "\"dspark_block_size\":5,\"hc_mult\"", &c, &err),
                     0);
    assert_true(c.release_0731);
    assert_int_equal(parse_with("\"swiglu_limit\":10.0,", "", &c, &err), 0);
    assert_true(c.swiglu_lim[0] == 0 && c.swiglu_lim[2] == 0);
}

static void test_patterns(void **state)
{
    (void)state;
    assert_true(name_matches("output.weight", "output.weight"));
    assert_false(name_matches("output.weight", "output.weights"));
    assert_true(name_matches("*", ""));
    assert_true(name_matches("blk.*.ffn_*_exps.weight", "blk.12.ffn_gate_exps.weight"));
    assert_false(name_matches("blk.*.ffn_*_exps.weight", "blk.12.ffn_gate_shexp.weight"));
    assert_true(name_matches("*a*a*", "xaxxa"));
    assert_false(name_matches("*a*a", "xaxxb"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flash_listing),  cmocka_unit_test(test_source_names),
        cmocka_unit_test(test_pairs),          cmocka_unit_test(test_config_dialects),
        cmocka_unit_test(test_config_refused), cmocka_unit_test(test_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
