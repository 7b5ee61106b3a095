/* config.c - see config.h. One table names every number: Hugging Face name, official inference
 * name, where it goes, its range, whether it may be absent. Then the rules between them that
 * the arithmetic and the file format need, and the refusals: what this architecture does not
 * have is never silently ignored.
 *
 * YaRN stands inside rope_scaling (Hugging Face) or at the top level (inference config);
 * without either, or with an original context of 0, it is off. Read names.c next: it turns the
 * shape into the list of tensors. */
#include "factory/config.h"

#include <math.h>
#include <stddef.h>

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

struct field {
    const char *hf, *official;
    size_t at; /* offset in struct shape */
    bool is_float;
    bool required;
    double def;      /* when absent and not required */
    double min, max; /* inclusive */
};

#define U32(hf, official, member, min, max)                                    \
    {                                                                          \
        hf, official, offsetof(struct shape, member), false, true, 0, min, max \
    }
#define OPT_U32(hf, official, member, def, min, max)                              \
    {                                                                             \
        hf, official, offsetof(struct shape, member), false, false, def, min, max \
    }
#define F32(hf, official, member, min, max)                                   \
    {                                                                         \
        hf, official, offsetof(struct shape, member), true, true, 0, min, max \
    }
#define OPT_F32(hf, official, member, def, min, max)                             \
    {                                                                            \
        hf, official, offsetof(struct shape, member), true, false, def, min, max \
    }

/* The ranges are those of the loader (model/shape.c): what is converted can be loaded. */
static const struct field fields[] = {
    U32("vocab_size", "vocab_size", n_vocab, 1, 1 << 24),
    U32("hidden_size", "dim", d, 1, 65536),
    U32("num_hidden_layers", "n_layers", n_layer, 1, SHAPE_MAX_LAYERS),
    U32("num_attention_heads", "n_heads", n_head, 1, 1024),
    U32("head_dim", "head_dim", head_dim, 2, 4096),
    U32("qk_rope_head_dim", "rope_head_dim", rope_dim, 2, 2 * ROPE_MAX),
    U32("q_lora_rank", "q_lora_rank", q_lora, 1, 65536),
    U32("o_groups", "o_groups", o_groups, 1, 1024),
    U32("o_lora_rank", "o_lora_rank", o_lora, 1, 65536),
    U32("sliding_window", "window_size", window, 1, 65536),
    U32("index_n_heads", "index_n_heads", index_heads, 1, 1024),
    U32("index_head_dim", "index_head_dim", index_dim, 2, 4096),
    U32("index_topk", "index_topk", index_topk, 1, 65536),
    U32("moe_intermediate_size", "moe_inter_dim", n_ff, 1, 65536),
    U32("n_routed_experts", "n_routed_experts", n_expert, 1, 4096),
    U32("num_experts_per_tok", "n_activated_experts", n_used, 1, 64),
    U32("num_hash_layers", "n_hash_layers", n_hash, 0, SHAPE_MAX_LAYERS),
    F32("routed_scaling_factor", "route_scale", route_scale, 1e-6, 1e6),
    U32("hc_mult", "hc_mult", hc, 1, 16),
    U32("hc_sinkhorn_iters", "hc_sinkhorn_iters", sinkhorn_iters, 1, 1000),
    OPT_F32("hc_eps", "hc_eps", hc_eps, 1e-6, 0, 1),
    OPT_F32("rms_norm_eps", "norm_eps", eps, 1e-6, 0, 1),
    F32("rope_theta", "rope_theta", theta, 1.0001, 1e12),
    F32("compress_rope_theta", "compress_rope_theta", theta_compress, 1.0001, 1e12),
    OPT_U32("max_position_embeddings", "max_position_embeddings", max_ctx, 1048576, 1, 1 << 24),
    /* one number for all layers; spread by config_parse */
    OPT_F32("swiglu_limit", "swiglu_limit", swiglu_lim, 0, 0, 1e9),
};

static const struct field yarn_fields[] = {
    F32("factor", "rope_factor", yarn_factor, 1e-3, 1e6),
    U32("original_max_position_embeddings", "original_seq_len", yarn_orig, 0, 1 << 30),
    OPT_F32("beta_fast", "beta_fast", yarn_beta_fast, 32, 1e-6, 1e6),
    OPT_F32("beta_slow", "beta_slow", yarn_beta_slow, 1, 1e-6, 1e6),
};

static bool present(const struct json *v)
{
    return v && v->type != JSON_NULL;
}

static int read_field(struct shape *s, const struct field *f, const struct json *obj,
                      const char *label, fathom_err *err)
{
    const struct json *v = json_get(obj, f->hf);
    const char *name = f->hf;
    if (!present(v) && present(json_get(obj, f->official))) {
        v = json_get(obj, f->official);
        name = f->official;
    }
    double d = f->def;
    if (!present(v)) {
        if (f->required) {
            return err_set(err, FATHOM_EFORMAT, "%s: key %s is missing", label, f->hf);
        }
    } else if (!json_double(v, &d)) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s is not a number", label, name);
    }
    if (!(d >= f->min && d <= f->max) || (!f->is_float && d != floor(d))) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s is %g, expected %s from %g to %g", label,
                       name, d, f->is_float ? "a number" : "a whole number", f->min, f->max);
    }
    if (f->is_float) {
        float v32 = (float)d;
        memcpy((char *)s + f->at, &v32, sizeof v32);
    } else {
        uint32_t u = (uint32_t)d;
        memcpy((char *)s + f->at, &u, sizeof u);
    }
    return 0;
}

static int read_yarn(struct shape *s, const struct json *root, const char *label,
                     fathom_err *err)
{
    const struct json *scaling = json_get(root, "rope_scaling");
    const struct json *obj = root;
    s->yarn_factor = s->yarn_beta_fast = s->yarn_beta_slow = 1;
    if (present(scaling)) {
        struct slice type = json_str(json_get(scaling, "type"));
        if (!type.p) {
            type = json_str(json_get(scaling, "rope_type"));
        }
        if (type.p && !slice_is(type, "yarn")) {
            return err_set(err, FATHOM_EUNSUPPORTED, "%s: rope_scaling of type %.*s, not yarn",
                           label, (int)MIN(type.n, (size_t)40), type.p);
        }
        obj = scaling;
    } else if (!present(json_get(root, "original_seq_len"))) {
        return 0; /* no YaRN */
    }
    for (size_t i = 0; i < ARRAY_LEN(yarn_fields); i++) {
        int rc = read_field(s, &yarn_fields[i], obj, label, err);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static int read_ratios(struct shape *s, const struct json *root, const char *label,
                       fathom_err *err)
{
    const struct json *arr = json_get(root, "compress_ratios");
    if (!present(arr)) {
        return err_set(err, FATHOM_EFORMAT, "%s: key compress_ratios is missing", label);
    }
    if (arr->type != JSON_ARRAY || arr->n < s->n_layer) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: compress_ratios is no list of at least %u numbers, one per layer",
                       label, s->n_layer);
    }
    s->max_ratio = 1;
    for (uint32_t l = 0; l < s->n_layer; l++) { /* further entries belong to drafting blocks */
        int64_t r;
        if (!json_int(json_at(arr, l), &r) || r < 0 || r > 4096) {
            return err_set(err, FATHOM_EFORMAT, "%s: compress_ratios[%u] is no ratio", label,
                           l);
        }
        s->ratio[l] = (uint16_t)r;
        s->max_ratio = MAX(s->max_ratio, (uint32_t)r);
    }
    return 0;
}

/* A key that, where present, must have this value: the engine has only this form. */
static int refuse_other(const struct json *root, const char *key, const char *want,
                        const char *label, fathom_err *err)
{
    const struct json *v = json_get(root, key);
    bool b;
    int64_t i;
    bool same = !present(v) || slice_is(json_str(v), want) ||
                (json_bool(v, &b) && strcmp(want, b ? "true" : "false") == 0) ||
                (json_int(v, &i) && i == 1 && strcmp(want, "1") == 0);
    if (!same) {
        return err_set(err, FATHOM_EUNSUPPORTED, "%s: %s is not %s", label, key, want);
    }
    return 0;
}

static int check_architecture(const struct json *root, const char *label, fathom_err *err)
{
    struct slice type = json_str(json_get(root, "model_type"));
    struct slice arch = json_str(json_at(json_get(root, "architectures"), 0));
    bool is_v41 = (type.p && type.n >= 12 && memcmp(type.p, "deepseek_v41", 12) == 0) ||
                  (arch.p && arch.n >= 11 && memcmp(arch.p, "DeepseekV41", 11) == 0) ||
                  json_get(root, "kv_source_layer_ids") ||
                  json_get(root, "index_source_layer_ids");
    if (is_v41) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "%s: this is DeepSeek V4.1, another architecture than V4", label);
    }
    if (type.p && !slice_is(type, "deepseek_v4")) {
        return err_set(err, FATHOM_EUNSUPPORTED, "%s: model_type %.*s, expected deepseek_v4",
                       label, (int)MIN(type.n, (size_t)64), type.p);
    }
    if (!type.p && arch.p && !slice_is(arch, "DeepseekV4ForCausalLM")) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "%s: architecture %.*s, expected DeepseekV4ForCausalLM", label,
                       (int)MIN(arch.n, (size_t)64), arch.p);
    }
    static const char *const fixed[][2] = {
        {"scoring_func", "sqrtsoftplus"}, {"score_func", "sqrtsoftplus"},
        {"norm_topk_prob", "true"},       {"num_key_value_heads", "1"},
        {"n_shared_experts", "1"},        {"tie_word_embeddings", "false"},
        {"attention_bias", "false"},
    };
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        int rc = refuse_other(root, fixed[i][0], fixed[i][1], label, err);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

int config_parse(struct shape *s, const char *text, size_t n, const char *label,
                 fathom_err *err)
{
    *s = (struct shape){0};
    struct arena a = {0};
    struct json root;
    int rc = json_read(&root, &a, text, n, err);
    if (rc) {
        err_prefix(err, "%s", label);
    } else if (root.type != JSON_OBJECT) {
        rc = err_set(err, FATHOM_EFORMAT, "%s: no JSON object", label);
    } else {
        rc = check_architecture(&root, label, err);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(fields); i++) {
        rc = read_field(s, &fields[i], &root, label, err);
    }
    for (uint32_t l = 1; l < s->n_layer; l++) {
        s->swiglu_lim[l] = s->swiglu_lim[0];
    }
    rc = rc ? rc : read_yarn(s, &root, label, err);
    rc = rc ? rc : read_ratios(s, &root, label, err);
    if (rc == 0) {
        s->release_0731 =
            json_get(&root, "dspark_block_size") || json_get(&root, "dspark_target_layer_ids");
        rc = shape_check(s, false, label, err);
    }
    arena_fini(&a);
    return rc;
}

int config_read(struct shape *s, const char *dir, fathom_err *err)
{
    struct buf path = {0}, text = {0};
    buf_addf(&path, "%s/config.json", dir);
    int rc = path.failed ? err_nomem(err, "a path", path.n)
                         : file_read_all(&text, path.p, MAX_CONFIG_BYTES, err);
    if (rc == 0) {
        rc = config_parse(s, buf_cstr(&text), text.n, path.p, err);
    }
    buf_free(&text);
    buf_free(&path);
    return rc;
}
