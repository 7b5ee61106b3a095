/* shape.c - metadata to struct shape (see shape.h). One table maps GGUF keys to fields, so that
 * reading, range checks and the error texts exist once. Keys that draft files lack are taken
 * from a preset whose sizes agree (gguf.md 3), with a warning; anything else missing is an
 * error. */
#include "model/shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "gguf/gguf.h"

#define PREFIX "deepseek4."

struct key {
    const char *name;
    size_t offset; /* in struct shape */
    bool is_float;
    double min, max; /* inclusive */
};
#define U(name, field, lo, hi)                             \
    {                                                      \
        name, offsetof(struct shape, field), false, lo, hi \
    }
#define F(name, field, lo, hi)                            \
    {                                                     \
        name, offsetof(struct shape, field), true, lo, hi \
    }

static const struct key KEYS[] = {
    U("embedding_length", d, 1, 65536),
    U("attention.head_count", n_head, 1, 1024),
    U("attention.key_length", head_dim, 2, 4096),
    U("rope.dimension_count", rope_dim, 2, 2 * ROPE_MAX),
    U("attention.q_lora_rank", q_lora, 1, 65536),
    U("attention.output_group_count", o_groups, 1, 1024),
    U("attention.output_lora_rank", o_lora, 1, 65536),
    U("attention.sliding_window", window, 1, 65536),
    U("attention.indexer.head_count", index_heads, 0, 1024),
    U("attention.indexer.key_length", index_dim, 0, 4096),
    U("attention.indexer.top_k", index_topk, 0, 65536),
    U("expert_feed_forward_length", n_ff, 1, 65536),
    U("expert_count", n_expert, 1, 4096),
    U("expert_used_count", n_used, 1, 64),
    U("hash_layer_count", n_hash, 0, SHAPE_MAX_LAYERS),
    F("expert_weights_scale", route_scale, 1e-6, 1e6),
    U("hyper_connection.count", hc, 1, 16),
    U("hyper_connection.sinkhorn_iterations", sinkhorn_iters, 1, 1000),
    F("hyper_connection.epsilon", hc_eps, 0, 1),
    F("attention.layer_norm_rms_epsilon", eps, 0, 1),
    F("rope.freq_base", theta, 1.0001, 1e12),
    F("attention.compress_rope_freq_base", theta_compress, 1.0001, 1e12),
    F("rope.scaling.factor", yarn_factor, 1e-3, 1e6),
    F("rope.scaling.yarn_beta_fast", yarn_beta_fast, 1e-6, 1e6),
    F("rope.scaling.yarn_beta_slow", yarn_beta_slow, 1e-6, 1e6),
    U("rope.scaling.original_context_length", yarn_orig, 0, 1 << 30),
    U("context_length", max_ctx, 1, 1 << 24),
};

/* Sizes for plan and explain without a file; model.md 1. */
static const struct shape FLASH = {.n_vocab = 129280,
                                   .d = 4096,
                                   .n_layer = 43,
                                   .n_head = 64,
                                   .head_dim = 512,
                                   .rope_dim = 64,
                                   .q_lora = 1024,
                                   .o_groups = 8,
                                   .o_lora = 1024,
                                   .window = 128,
                                   .index_heads = 64,
                                   .index_dim = 128,
                                   .index_topk = 512,
                                   .n_ff = 2048,
                                   .n_expert = 256,
                                   .n_used = 6,
                                   .n_hash = 3,
                                   .route_scale = 1.5f,
                                   .hc = 4,
                                   .sinkhorn_iters = 20,
                                   .eps = 1e-6f,
                                   .hc_eps = 1e-6f,
                                   .theta = 10000.0f,
                                   .theta_compress = 160000.0f,
                                   .yarn_factor = 16.0f,
                                   .yarn_beta_fast = 32.0f,
                                   .yarn_beta_slow = 1.0f,
                                   .yarn_orig = 65536,
                                   .max_ctx = 1048576,
                                   .max_ratio = 128};

/* Pro is Flash with other numbers. */
static void make_pro(struct shape *s)
{
    s->d = 7168;
    s->n_layer = 61;
    s->n_head = 128;
    s->q_lora = 1536;
    s->o_groups = 16;
    s->index_topk = 1024;
    s->n_ff = 3072;
    s->n_expert = 384;
    s->route_scale = 2.5f;
}

const struct shape *shape_preset(const char *name)
{
    static _Thread_local struct shape s;
    bool pro = strcmp(name, "pro") == 0;
    if (!pro && strcmp(name, "flash") != 0) {
        return NULL;
    }
    s = FLASH;
    if (pro) {
        make_pro(&s);
    }
    for (uint32_t il = 0; il < s.n_layer; il++) {
        s.ratio[il] = il < 2 ? (pro ? 128 : 0) : il % 2 ? 128 : 4;
        s.swiglu_lim[il] = 10.0f;
    }
    return &s;
}

static int key_error(const struct gguf *g, const char *key, const char *why, fathom_err *err)
{
    return err_set(err, FATHOM_EFORMAT, "%s: metadata key %s%s %s", gguf_label(g), PREFIX, key,
                   why);
}

static const struct gguf_kv *find(const struct gguf *g, const char *name)
{
    char key[128];
    snprintf(key, sizeof key, PREFIX "%s", name);
    return gguf_find(g, key);
}

/* A preset whose main sizes are those of the file; NULL if none. */
static const struct shape *matching_preset(const struct gguf *g, uint32_t n_layer)
{
    static const char *const names[] = {"flash", "pro"};
    for (int i = 0; i < 2; i++) {
        const struct shape *p = shape_preset(names[i]);
        uint64_t d = 0, heads = 0;
        if (gguf_u64(find(g, "embedding_length"), &d) &&
            gguf_u64(find(g, "attention.head_count"), &heads) && d == p->d &&
            heads == p->n_head && n_layer == p->n_layer) {
            return p;
        }
    }
    return NULL;
}

static int read_key(struct shape *s, const struct gguf *g, const struct key *k,
                    const struct shape *preset, fathom_err *err)
{
    const struct gguf_kv *kv = find(g, k->name);
    char *field = (char *)s + k->offset;
    if (!kv) {
        if (strncmp(k->name, "rope.scaling.", 13) == 0 && !find(g, "rope.scaling.factor")) {
            return 0; /* no YaRN at all: yarn_orig stays 0 */
        }
        if (!preset) {
            return key_error(g, k->name, "is missing", err);
        }
        log_warn("%s: metadata key %s%s is missing, using the value of the matching model",
                 gguf_label(g), PREFIX, k->name);
        memcpy(field, (const char *)preset + k->offset, 4);
        return 0;
    }
    double v;
    uint64_t u;
    if (k->is_float ? !gguf_f64(kv, &v) : !gguf_u64(kv, &u)) {
        return key_error(g, k->name, "has the wrong type", err);
    }
    v = k->is_float ? v : (double)u;
    if (!(v >= k->min && v <= k->max)) {
        char why[96];
        snprintf(why, sizeof why, "is %.9g, allowed are %g to %g", v, k->min, k->max);
        return key_error(g, k->name, why, err);
    }
    if (k->is_float) {
        float f = (float)v;
        memcpy(field, &f, 4);
    } else {
        uint32_t n = (uint32_t)u;
        memcpy(field, &n, 4);
    }
    return 0;
}

static int read_arch(const struct gguf *g, fathom_err *err)
{
    struct slice arch = {0};
    if (!gguf_str(gguf_find(g, "general.architecture"), &arch)) {
        return err_set(err, FATHOM_EFORMAT, "%s: no general.architecture; not a model file",
                       gguf_label(g));
    }
    if (!slice_is(arch, "deepseek4")) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: architecture \"%.*s\" is not supported; Fathom runs deepseek4 "
                       "(DeepSeek V4 Flash and Pro)%s",
                       gguf_label(g), (int)MIN(arch.n, (size_t)64), arch.p,
                       slice_is(arch, "deepseek41") ? "; V4.1 is another model" : "");
    }
    return 0;
}

/* Layers of the trunk: block_count, less the predictor layer that mainline files may include.
 */
static int read_layers(struct shape *s, const struct gguf *g, fathom_err *err)
{
    uint64_t n = 0, nextn = 0;
    if (!gguf_u64(find(g, "block_count"), &n) || n == 0 || n > SHAPE_MAX_LAYERS) {
        return key_error(g, "block_count", "is missing or out of range", err);
    }
    char name[64];
    snprintf(name, sizeof name, "blk.%u.nextn.eh_proj.weight", (unsigned)n - 1);
    if (gguf_find_tensor(g, name) && gguf_u64(find(g, "nextn_predict_layers"), &nextn) &&
        nextn < n) {
        n -= nextn;
    }
    s->n_layer = (uint32_t)n;
    return 0;
}

static int read_ratios(struct shape *s, const struct gguf *g, const struct shape *preset,
                       fathom_err *err)
{
    const struct gguf_kv *kv = find(g, "attention.compress_ratios");
    s->max_ratio = 1;
    if (!kv && preset) {
        log_warn("%s: no compress_ratios, using those of the matching model", gguf_label(g));
        memcpy(s->ratio, preset->ratio, sizeof s->ratio);
        s->max_ratio = preset->max_ratio;
        return 0;
    }
    if (!kv || kv->type != GGUF_ARRAY || kv->n < s->n_layer) {
        return key_error(g, "attention.compress_ratios",
                         "must be an array with an entry for each layer", err);
    }
    for (uint32_t il = 0; il < s->n_layer; il++) {
        uint64_t r;
        if (!gguf_u64_at(kv, il, &r) || r > 4096) {
            return key_error(g, "attention.compress_ratios", "has an entry out of range", err);
        }
        s->ratio[il] = (uint16_t)r;
        s->max_ratio = MAX(s->max_ratio, (uint32_t)r);
    }
    return 0;
}

static int read_clamp(struct shape *s, const struct gguf *g, const struct shape *preset,
                      fathom_err *err)
{
    const struct gguf_kv *kv = find(g, "swiglu_clamp_exp");
    if (!kv && !preset) {
        return key_error(g, "swiglu_clamp_exp", "is missing", err);
    }
    for (uint32_t il = 0; il < s->n_layer; il++) {
        double v = preset ? (double)preset->swiglu_lim[il] : 0.0;
        bool ok = !kv || (kv->type == GGUF_ARRAY ? gguf_f64_at(kv, il, &v) : gguf_f64(kv, &v));
        if (!ok || !(v >= 0.0 && v <= 1e9)) {
            return key_error(g, "swiglu_clamp_exp",
                             "must be a number or an array with one >= 0 for each layer", err);
        }
        s->swiglu_lim[il] = (float)v;
    }
    return 0;
}

/* Keys whose value must be what this architecture always has; 0: absent or 0. */
static const struct {
    const char *key;
    uint32_t want;
} FIXED[] = {{"attention.head_count_kv", 1},
             {"expert_shared_count", 1},
             {"expert_group_count", 0},
             {"expert_group_used_count", 0},
             {"expert_gating_func", 4}};

static int read_fixed(const struct gguf *g, fathom_err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(FIXED); i++) {
        const struct gguf_kv *kv = find(g, FIXED[i].key);
        uint64_t v;
        if (kv && (!gguf_u64(kv, &v) || v != FIXED[i].want)) {
            return key_error(g, FIXED[i].key, "has a value this architecture does not know",
                             err);
        }
    }
    bool norm = true;
    const struct gguf_kv *kv = find(g, "expert_weights_norm");
    if (kv && (!gguf_bool(kv, &norm) || !norm)) {
        return key_error(g, "expert_weights_norm", "must be true", err);
    }
    return 0;
}

static void write_u32(struct gguf_writer *w, const char *name, uint32_t v)
{
    char key[128];
    snprintf(key, sizeof key, PREFIX "%s", name);
    gguf_writer_u32(w, key, v);
}

void shape_to_gguf(struct gguf_writer *w, const struct shape *s)
{
    char key[128];
    int32_t ratio[SHAPE_MAX_LAYERS];
    gguf_writer_str(w, "general.architecture", SLICE("deepseek4"));
    write_u32(w, "block_count", s->n_layer);
    write_u32(w, "vocab_size", s->n_vocab);
    write_u32(w, "attention.value_length", s->head_dim);
    for (size_t i = 0; i < ARRAY_LEN(KEYS); i++) {
        const char *field = (const char *)s + KEYS[i].offset;
        if (KEYS[i].is_float) {
            float v;
            memcpy(&v, field, sizeof v);
            snprintf(key, sizeof key, PREFIX "%s", KEYS[i].name);
            gguf_writer_f32(w, key, v);
        } else {
            uint32_t v;
            memcpy(&v, field, sizeof v);
            write_u32(w, KEYS[i].name, v);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(FIXED); i++) {
        if (FIXED[i].want) {
            write_u32(w, FIXED[i].key, FIXED[i].want);
        }
    }
    for (uint32_t il = 0; il < s->n_layer; il++) {
        ratio[il] = s->ratio[il];
    }
    gguf_writer_arr_i32(w, PREFIX "attention.compress_ratios", ratio, s->n_layer);
    gguf_writer_arr_f32(w, PREFIX "swiglu_clamp_exp", s->swiglu_lim, s->n_layer);
    gguf_writer_str(w, PREFIX "rope.scaling.type",
                    s->yarn_orig ? SLICE("yarn") : SLICE("none"));
    gguf_writer_bool(w, PREFIX "expert_weights_norm", true);
}

static bool read_release(const struct gguf *g)
{
    struct slice v = {0};
    if (gguf_str(gguf_find(g, "fathom.release"), &v)) {
        return slice_is(v, "0731");
    }
    if (gguf_str(gguf_find(g, "general.base_model.0.version"), &v) && slice_is(v, "0731")) {
        return true;
    }
    return gguf_find_tensor(g, "mtp.0.main_proj.weight") != NULL;
}

int shape_from_gguf(struct shape *s, const struct gguf *g, fathom_err *err)
{
    memset(s, 0, sizeof *s);
    int rc = read_arch(g, err);
    rc = rc ? rc : read_layers(s, g, err);
    if (rc) {
        return rc;
    }
    const struct shape *preset = matching_preset(g, s->n_layer);
    for (size_t i = 0; i < ARRAY_LEN(KEYS) && rc == 0; i++) {
        rc = read_key(s, g, &KEYS[i], preset, err);
    }
    rc = rc ? rc : read_ratios(s, g, preset, err);
    rc = rc ? rc : read_clamp(s, g, preset, err);
    rc = rc ? rc : read_fixed(g, err);
    if (rc) {
        return rc;
    }
    const struct gguf_tensor *embd = gguf_find_tensor(g, "token_embd.weight");
    uint64_t vocab = embd && embd->rank == 2 ? embd->ne[1] : 0;
    if (find(g, "vocab_size") && !gguf_u64(find(g, "vocab_size"), &vocab)) {
        return key_error(g, "vocab_size", "has the wrong type", err);
    }
    if (vocab == 0 || vocab > 1 << 24) {
        return key_error(g, "vocab_size", "is missing or out of range", err);
    }
    s->n_vocab = (uint32_t)vocab;
    s->release_0731 = read_release(g);
    return shape_check(s, false, gguf_label(g), err);
}

int shape_check(const struct shape *s, bool sim, const char *label, fathom_err *err)
{
    bool indexed = false;
    for (uint32_t il = 0; il < s->n_layer; il++) {
        uint32_t r = s->ratio[il];
        indexed = indexed || r == 4;
        if (r != 0 && s->max_ratio % r != 0) {
            return err_set(
                err, FATHOM_EFORMAT,
                "%s: compress ratio %u of layer %u does not divide the largest one, %u", label,
                r, il, s->max_ratio);
        }
    }
    const char *why = NULL;
    if (s->rope_dim % 2 || s->rope_dim > s->head_dim) {
        why = "rope dimension must be even and at most the head length";
    } else if (s->n_head % s->o_groups) {
        why = "output groups must divide the head count";
    } else if (s->n_used > s->n_expert) {
        why = "more experts used than there are";
    } else if (indexed && (!s->index_heads || !s->index_topk || s->index_dim < s->rope_dim ||
                           (s->index_dim & (s->index_dim - 1)))) {
        why =
            "index heads need a power-of-two length that holds the rope dimensions, and a top-k";
    } else if (sim && (s->head_dim - s->rope_dim) % 64) {
        why =
            "native rows need (head length - rope) in 64s; this model runs with --sim off only";
    } else if (sim && indexed && s->index_dim % 32) {
        why = "native rows need index heads in 32s; this model runs with --sim off only";
    }
    return why ? err_set(err, FATHOM_EFORMAT, "%s: %s", label, why) : 0;
}

/* Correction dimension of YaRN: where a rotation makes `b` turns over the original context. */
static double yarn_dim(const struct shape *s, double b)
{
    return s->rope_dim * log((double)s->yarn_orig / (b * 2.0 * 3.14159265358979323846)) /
           (2.0 * log((double)s->theta_compress));
}

void shape_rope(const struct shape *s, struct rope_table out[ROPE_CLASSES])
{
    uint32_t n = s->rope_dim / 2;
    bool yarn = s->yarn_orig > 0;
    double lo = 0.0, hi = 0.0;
    if (yarn) {
        lo = fmax(floor(yarn_dim(s, (double)s->yarn_beta_fast)), 0.0);
        hi = fmin(ceil(yarn_dim(s, (double)s->yarn_beta_slow)), s->rope_dim - 1.0);
        if (lo == hi) {
            hi += 0.001;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        double e = 2.0 * i / s->rope_dim;
        double f = 1.0 / pow((double)s->theta_compress, e);
        if (yarn) {
            double ramp = fmin(fmax((i - lo) / (hi - lo), 0.0), 1.0);
            f = f / (double)s->yarn_factor * ramp + f * (1.0 - ramp);
        }
        out[ROPE_PLAIN].freq[i] = (float)(1.0 / pow((double)s->theta, e));
        out[ROPE_YARN].freq[i] = (float)f;
    }
    out[ROPE_PLAIN].n = out[ROPE_YARN].n = n;
}
