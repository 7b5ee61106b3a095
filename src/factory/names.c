/* names.c - see names.h. One table row per kind of tensor: official name, GGUF name, role,
 * where it occurs, rows, columns (official order [rows][cols], which GGUF lists as cols x
 * rows). Sizes are symbols of model.md section 1 that are evaluated per layer.
 *
 * File order is table order: embedding, layer by layer, head. Names of layers get "layers.N."
 * and "blk.N." in front; '*' stands for the number of a routed expert. */
#include "factory/names.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum dim {
    D_1,
    D_3,
    D_V,
    D_D,
    D_QL,
    D_HHD,
    D_HD,
    D_H,
    D_OLO,
    D_GROUP,
    D_RATIO,
    D_KHD,
    D_IQ,
    D_IH,
    D_2IHD,
    D_IHD,
    D_4,
    D_E,
    D_K,
    D_F,
    D_HC,
    D_HCD,
    D_MIX,
};

enum where {
    IN_TOP,        /* once, before the layers */
    IN_LAYER,      /* every layer */
    IN_COMPRESSED, /* layers with a ratio */
    IN_INDEXED,    /* layers of ratio 4 */
    IN_HASHED,     /* the first n_hash_layers */
    IN_SCORED,     /* the others */
    IN_END,        /* once, after the layers */
};

struct row {
    const char *official, *gguf;
    enum tensor_role role;
    enum where where;
    enum dim rows, cols;
};

/* clang-format off */
static const struct row table[] = {
    {"embed.weight", "token_embd.weight", ROLE_EMBED, IN_TOP, D_V, D_D},

    {"hc_attn_fn", "hc_attn_fn.weight", ROLE_HC_FN, IN_LAYER, D_MIX, D_HCD},
    {"hc_attn_base", "hc_attn_base.weight", ROLE_VECTOR, IN_LAYER, D_1, D_MIX},
    {"hc_attn_scale", "hc_attn_scale.weight", ROLE_VECTOR, IN_LAYER, D_1, D_3},
    {"attn_norm.weight", "attn_norm.weight", ROLE_VECTOR, IN_LAYER, D_1, D_D},
    {"attn.wq_a.weight", "attn_q_a.weight", ROLE_DENSE, IN_LAYER, D_QL, D_D},
    {"attn.q_norm.weight", "attn_q_a_norm.weight", ROLE_VECTOR, IN_LAYER, D_1, D_QL},
    {"attn.wq_b.weight", "attn_q_b.weight", ROLE_DENSE, IN_LAYER, D_HHD, D_QL},
    {"attn.wkv.weight", "attn_kv.weight", ROLE_DENSE, IN_LAYER, D_HD, D_D},
    {"attn.kv_norm.weight", "attn_kv_a_norm.weight", ROLE_VECTOR, IN_LAYER, D_1, D_HD},
    {"attn.attn_sink", "attn_sinks.weight", ROLE_VECTOR, IN_LAYER, D_1, D_H},
    {"attn.wo_a.weight", "attn_output_a.weight", ROLE_DENSE, IN_LAYER, D_OLO, D_GROUP},
    {"attn.wo_b.weight", "attn_output_b.weight", ROLE_DENSE, IN_LAYER, D_D, D_OLO},
    {"attn.compressor.wkv.weight", "attn_compressor_kv.weight", ROLE_COMPRESSOR, IN_COMPRESSED, D_KHD, D_D},
    {"attn.compressor.wgate.weight", "attn_compressor_gate.weight", ROLE_COMPRESSOR, IN_COMPRESSED, D_KHD, D_D},
    {"attn.compressor.ape", "attn_compressor_ape.weight", ROLE_APE, IN_COMPRESSED, D_RATIO, D_KHD},
    {"attn.compressor.norm.weight", "attn_compressor_norm.weight", ROLE_VECTOR, IN_COMPRESSED, D_1, D_HD},
    {"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", ROLE_INDEXER, IN_INDEXED, D_IQ, D_QL},
    {"attn.indexer.weights_proj.weight", "indexer.proj.weight", ROLE_INDEXER, IN_INDEXED, D_IH, D_D},
    {"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight", ROLE_INDEXER, IN_INDEXED, D_2IHD, D_D},
    {"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight", ROLE_INDEXER, IN_INDEXED, D_2IHD, D_D},
    {"attn.indexer.compressor.ape", "indexer_compressor_ape.weight", ROLE_APE, IN_INDEXED, D_4, D_2IHD},
    {"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight", ROLE_VECTOR, IN_INDEXED, D_1, D_IHD},
    {"hc_ffn_fn", "hc_ffn_fn.weight", ROLE_HC_FN, IN_LAYER, D_MIX, D_HCD},
    {"hc_ffn_base", "hc_ffn_base.weight", ROLE_VECTOR, IN_LAYER, D_1, D_MIX},
    {"hc_ffn_scale", "hc_ffn_scale.weight", ROLE_VECTOR, IN_LAYER, D_1, D_3},
    {"ffn_norm.weight", "ffn_norm.weight", ROLE_VECTOR, IN_LAYER, D_1, D_D},
    {"ffn.gate.weight", "ffn_gate_inp.weight", ROLE_ROUTER, IN_LAYER, D_E, D_D},
    {"ffn.gate.bias", "exp_probs_b.bias", ROLE_VECTOR, IN_SCORED, D_1, D_E},
    {"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", ROLE_TABLE, IN_HASHED, D_V, D_K},
    {"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", ROLE_DENSE, IN_LAYER, D_F, D_D},
    {"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", ROLE_DENSE, IN_LAYER, D_F, D_D},
    {"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", ROLE_DENSE, IN_LAYER, D_D, D_F},
    {"ffn.experts.*.w1.weight", "ffn_gate_exps.weight", ROLE_GATE_EXPS, IN_LAYER, D_F, D_D},
    {"ffn.experts.*.w3.weight", "ffn_up_exps.weight", ROLE_UP_EXPS, IN_LAYER, D_F, D_D},
    {"ffn.experts.*.w2.weight", "ffn_down_exps.weight", ROLE_DOWN_EXPS, IN_LAYER, D_D, D_F},

    {"hc_head_fn", "output_hc_fn.weight", ROLE_HC_FN, IN_END, D_HC, D_HCD},
    {"hc_head_base", "output_hc_base.weight", ROLE_VECTOR, IN_END, D_1, D_HC},
    {"hc_head_scale", "output_hc_scale.weight", ROLE_VECTOR, IN_END, D_1, D_1},
    {"norm.weight", "output_norm.weight", ROLE_VECTOR, IN_END, D_1, D_D},
    {"head.weight", "output.weight", ROLE_HEAD, IN_END, D_V, D_D},
};
/* clang-format on */

const char *role_name(enum tensor_role role)
{
    static const char *const names[ROLE_COUNT] = {
        [ROLE_EMBED] = "embedding",
        [ROLE_HEAD] = "output head",
        [ROLE_DENSE] = "attention and shared expert",
        [ROLE_GATE_EXPS] = "routed gate",
        [ROLE_UP_EXPS] = "routed up",
        [ROLE_DOWN_EXPS] = "routed down",
        [ROLE_ROUTER] = "router",
        [ROLE_HC_FN] = "hyper-connections",
        [ROLE_COMPRESSOR] = "compressor",
        [ROLE_INDEXER] = "indexer",
        [ROLE_APE] = "position bias",
        [ROLE_VECTOR] = "vectors",
        [ROLE_TABLE] = "hash tables",
    };
    return names[role];
}

static uint64_t dim_value(const struct model_config *c, uint32_t layer, enum dim d)
{
    uint64_t ratio = layer < c->n_layers ? c->ratio[layer] : 0;
    uint64_t hc = c->hc, hd = c->head_dim;
    switch (d) {
    case D_1: return 1;
    case D_3: return 3;
    case D_4: return 4;
    case D_V: return c->vocab;
    case D_D: return c->width;
    case D_QL: return c->q_lora;
    case D_HHD: return c->n_heads * hd;
    case D_HD: return hd;
    case D_H: return c->n_heads;
    case D_OLO: return (uint64_t)c->o_groups * c->o_lora;
    case D_GROUP: return c->n_heads * hd / c->o_groups;
    case D_RATIO: return ratio;
    case D_KHD: return ratio == 4 ? 2 * hd : hd; /* overlap: two halves */
    case D_IQ: return (uint64_t)c->index_heads * c->index_dim;
    case D_IH: return c->index_heads;
    case D_2IHD: return 2 * (uint64_t)c->index_dim;
    case D_IHD: return c->index_dim;
    case D_E: return c->n_experts;
    case D_K: return c->n_experts_used;
    case D_F: return c->expert_ffn;
    case D_HC: return hc;
    case D_HCD: return hc * c->width;
    case D_MIX: return (2 + hc) * hc;
    }
    return 0;
}

static bool occurs(const struct model_config *c, uint32_t layer, enum where w)
{
    switch (w) {
    case IN_LAYER: return true;
    case IN_COMPRESSED: return c->ratio[layer] != 0;
    case IN_INDEXED: return c->ratio[layer] == 4;
    case IN_HASHED: return layer < c->n_hash_layers;
    case IN_SCORED: return layer >= c->n_hash_layers;
    case IN_TOP:
    case IN_END: break;
    }
    return false;
}

static void fill(struct tensor_def *d, const struct model_config *c, const struct row *r,
                 const char *official_prefix, const char *gguf_prefix, uint32_t layer)
{
    *d = (struct tensor_def){.role = r->role,
                             .cols = dim_value(c, layer, r->cols),
                             .rows = dim_value(c, layer, r->rows),
                             .n_mats = 1};
    bool routed = strchr(r->official, '*') != NULL;
    d->rank = routed ? 3 : r->rows == D_1 ? 1 : 2;
    if (routed) {
        d->n_mats = c->n_experts;
    }
    snprintf(d->official, sizeof d->official, "%s%s", official_prefix, r->official);
    snprintf(d->gguf, sizeof d->gguf, "%s%s", gguf_prefix, r->gguf);
}

/* Walks the list; defs NULL only counts. */
static size_t walk(const struct model_config *c, struct tensor_def *defs)
{
    size_t n = 0;
    for (int part = IN_TOP; part <= IN_END; part += IN_END - IN_TOP) {
        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
            if (table[i].where == (enum where)part) {
                if (defs) {
                    fill(&defs[n], c, &table[i], "", "", c->n_layers);
                }
                n++;
            }
        }
        for (uint32_t l = 0; part == IN_TOP && l < c->n_layers; l++) {
            char official[32], gguf[32];
            snprintf(official, sizeof official, "layers.%u.", l);
            snprintf(gguf, sizeof gguf, "blk.%u.", l);
            for (size_t i = 0; i < ARRAY_LEN(table); i++) {
                if (occurs(c, l, table[i].where)) {
                    if (defs) {
                        fill(&defs[n], c, &table[i], official, gguf, l);
                    }
                    n++;
                }
            }
        }
    }
    return n;
}

size_t names_count(const struct model_config *c)
{
    return walk(c, NULL);
}

void names_fill(const struct model_config *c, struct tensor_def *defs)
{
    walk(c, defs);
}

void names_source(const struct tensor_def *d, uint32_t mat, bool scale, char *out)
{
    static const char weight[] = ".weight";
    size_t n = strlen(d->official);
    if (scale && n > sizeof weight &&
        strcmp(d->official + n - (sizeof weight - 1), weight) == 0) {
        n -= sizeof weight - 1;
    }
    const char *star = strchr(d->official, '*');
    const char *suffix = scale ? ".scale" : "";
    if (star) {
        int head = (int)(star - d->official);
        snprintf(out, NAME_BYTES, "%.*s%u%.*s%s", head, d->official, mat, (int)n - head - 1,
                 star + 1, suffix);
    } else {
        snprintf(out, NAME_BYTES, "%.*s%s", (int)n, d->official, suffix);
    }
}
