/* roles.c - see roles.h. Adding a tensor to the model is one line here, a handle in weights.h
 * and its use in attn.c, ffn.c or head.c. */
#include "model/roles.h"

#include <stdio.h>

#include "base/mem.h"
#include "model/weights.h"

enum dim {
    X0,
    D_1,
    D_D,
    D_V,
    D_HCD,
    D_MIX,
    D_MIX3,
    D_HC,
    D_QL,
    D_QOUT,
    D_HD,
    D_HEADS,
    D_OIN,
    D_OLOW,
    D_KHD,
    D_RATIO,
    D_IQOUT,
    D_IH,
    D_KIHD,
    D_IHD,
    D_E,
    D_F,
    D_K
};
enum when { TENSOR_ALWAYS, TENSOR_COMPRESSED, TENSOR_INDEXED, TENSOR_HASHED, TENSOR_ROUTED };

#define G(f) offsetof(struct weights, f)
#define L(f) offsetof(struct weights_layer, f)

/* clang-format off */
static const struct tensor_role_def GLOBAL[] = {
    {"token_embd.weight", NULL, "embed.weight", G(embed), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_EMBED, {D_D, D_V}},
    {"output.weight", NULL, "head.weight", G(head), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_HEAD, {D_D, D_V}},
    {"output_norm.weight", NULL, "norm.weight", G(norm), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_D}},
    {"output_hc_fn.weight", "hc_head_fn", "hc_head_fn", G(hc_head_fn), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_HC_FN, {D_HCD, D_HC}},
    {"output_hc_base.weight", "hc_head_base", "hc_head_base", G(hc_head_base), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_HC}},
    {"output_hc_scale.weight", "hc_head_scale", "hc_head_scale", G(hc_head_scale), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_1}},
};

static const struct tensor_role_def LAYER[] = {
    {"attn_norm.weight", NULL, "attn_norm.weight", L(attn_norm), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_D}},
    {"ffn_norm.weight", NULL, "ffn_norm.weight", L(ffn_norm), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_D}},
    {"hc_attn_fn.weight", NULL, "hc_attn_fn", L(hc_attn_fn), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_HC_FN, {D_HCD, D_MIX}},
    {"hc_attn_base.weight", NULL, "hc_attn_base", L(hc_attn_base), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_MIX}},
    {"hc_attn_scale.weight", NULL, "hc_attn_scale", L(hc_attn_scale), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_MIX3}},
    {"hc_ffn_fn.weight", NULL, "hc_ffn_fn", L(hc_ffn_fn), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_HC_FN, {D_HCD, D_MIX}},
    {"hc_ffn_base.weight", NULL, "hc_ffn_base", L(hc_ffn_base), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_MIX}},
    {"hc_ffn_scale.weight", NULL, "hc_ffn_scale", L(hc_ffn_scale), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_MIX3}},
    {"attn_q_a.weight", NULL, "attn.wq_a.weight", L(wq_a), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_D, D_QL}},
    {"attn_q_a_norm.weight", NULL, "attn.q_norm.weight", L(q_norm), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_QL}},
    {"attn_q_b.weight", NULL, "attn.wq_b.weight", L(wq_b), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_QL, D_QOUT}},
    {"attn_kv.weight", "attn_kv_latent.weight|attn_kv_a_mqa.weight", "attn.wkv.weight", L(wkv), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_D, D_HD}},
    {"attn_kv_a_norm.weight", NULL, "attn.kv_norm.weight", L(kv_norm), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_HD}},
    {"attn_sinks.weight", NULL, "attn.attn_sink", L(sinks), TENSOR_VECTOR, TENSOR_ALWAYS, ROLE_VECTOR, {D_HEADS}},
    {"attn_output_a.weight", NULL, "attn.wo_a.weight", L(wo_a), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_OIN, D_OLOW}},
    {"attn_output_b.weight", NULL, "attn.wo_b.weight", L(wo_b), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_OLOW, D_D}},
    {"attn_compressor_kv.weight", "attn_compress_kv.weight", "attn.compressor.wkv.weight", L(comp_kv), TENSOR_MATRIX, TENSOR_COMPRESSED, ROLE_COMPRESSOR, {D_D, D_KHD}},
    {"attn_compressor_gate.weight", "attn_compress_gate.weight", "attn.compressor.wgate.weight", L(comp_gate), TENSOR_MATRIX, TENSOR_COMPRESSED, ROLE_COMPRESSOR, {D_D, D_KHD}},
    {"attn_compressor_ape.weight", "attn_compress_ape.weight", "attn.compressor.ape", L(comp_ape), TENSOR_VECTOR, TENSOR_COMPRESSED, ROLE_VECTOR, {D_KHD, D_RATIO}},
    {"attn_compressor_norm.weight", "attn_compress_norm.weight", "attn.compressor.norm.weight", L(comp_norm), TENSOR_VECTOR, TENSOR_COMPRESSED, ROLE_VECTOR, {D_HD}},
    {"indexer.attn_q_b.weight", NULL, "attn.indexer.wq_b.weight", L(index_q), TENSOR_MATRIX, TENSOR_INDEXED, ROLE_INDEXER, {D_QL, D_IQOUT}},
    {"indexer.proj.weight", NULL, "attn.indexer.weights_proj.weight", L(index_proj), TENSOR_MATRIX, TENSOR_INDEXED, ROLE_INDEXER, {D_D, D_IH}},
    {"indexer_compressor_kv.weight", "indexer.compress_kv.weight", "attn.indexer.compressor.wkv.weight", L(index_comp_kv), TENSOR_MATRIX, TENSOR_INDEXED, ROLE_INDEXER, {D_D, D_KIHD}},
    {"indexer_compressor_gate.weight", "indexer.compress_gate.weight", "attn.indexer.compressor.wgate.weight", L(index_comp_gate), TENSOR_MATRIX, TENSOR_INDEXED, ROLE_INDEXER, {D_D, D_KIHD}},
    {"indexer_compressor_ape.weight", "indexer.compress_ape.weight", "attn.indexer.compressor.ape", L(index_comp_ape), TENSOR_VECTOR, TENSOR_INDEXED, ROLE_VECTOR, {D_KIHD, D_RATIO}},
    {"indexer_compressor_norm.weight", "indexer.compress_norm.weight", "attn.indexer.compressor.norm.weight", L(index_comp_norm), TENSOR_VECTOR, TENSOR_INDEXED, ROLE_VECTOR, {D_IHD}},
    {"ffn_gate_inp.weight", NULL, "ffn.gate.weight", L(router), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_ROUTER, {D_D, D_E}},
    {"exp_probs_b.bias", NULL, "ffn.gate.bias", L(router_bias), TENSOR_VECTOR, TENSOR_ROUTED, ROLE_VECTOR, {D_E}},
    {"ffn_gate_tid2eid.weight", NULL, "ffn.gate.tid2eid", L(tid2eid), TENSOR_TABLE, TENSOR_HASHED, ROLE_TABLE, {D_K, D_V}},
    {"ffn_gate_exps.weight", NULL, "ffn.experts.*.w1.weight", L(gate_exps), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_GATE_EXPS, {D_D, D_F, D_E}},
    {"ffn_up_exps.weight", NULL, "ffn.experts.*.w3.weight", L(up_exps), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_UP_EXPS, {D_D, D_F, D_E}},
    {"ffn_down_exps.weight", NULL, "ffn.experts.*.w2.weight", L(down_exps), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DOWN_EXPS, {D_F, D_D, D_E}},
    {"ffn_gate_shexp.weight", NULL, "ffn.shared_experts.w1.weight", L(gate_shexp), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_D, D_F}},
    {"ffn_up_shexp.weight", NULL, "ffn.shared_experts.w3.weight", L(up_shexp), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_D, D_F}},
    {"ffn_down_shexp.weight", NULL, "ffn.shared_experts.w2.weight", L(down_shexp), TENSOR_MATRIX, TENSOR_ALWAYS, ROLE_DENSE, {D_F, D_D}},
};
/* clang-format on */

const struct tensor_role_def *roles_global(size_t *n)
{
    *n = ARRAY_LEN(GLOBAL);
    return GLOBAL;
}

const struct tensor_role_def *roles_layer(size_t *n)
{
    *n = ARRAY_LEN(LAYER);
    return LAYER;
}

static uint32_t dim_value(const struct shape *s, uint32_t il, uint8_t dim)
{
    uint32_t r = s->ratio[il], k = shape_overlap(r);
    switch ((enum dim)dim) {
    case X0:
    case D_1: return 1;
    case D_D: return s->d;
    case D_V: return s->n_vocab;
    case D_HCD: return s->hc * s->d;
    case D_MIX: return (2 + s->hc) * s->hc;
    case D_MIX3: return 3;
    case D_HC: return s->hc;
    case D_QL: return s->q_lora;
    case D_QOUT: return s->n_head * s->head_dim;
    case D_HD: return s->head_dim;
    case D_HEADS: return s->n_head;
    case D_OIN: return s->n_head * s->head_dim / s->o_groups;
    case D_OLOW: return s->o_groups * s->o_lora;
    case D_KHD: return k * s->head_dim;
    case D_RATIO: return r;
    case D_IQOUT: return s->index_heads * s->index_dim;
    case D_IH: return s->index_heads;
    case D_KIHD: return k * s->index_dim;
    case D_IHD: return s->index_dim;
    case D_E: return s->n_expert;
    case D_F: return s->n_ff;
    case D_K: return s->n_used;
    }
    return 0;
}

bool role_in_layer(const struct shape *s, uint32_t il, const struct tensor_role_def *r)
{
    switch ((enum when)r->when) {
    case TENSOR_ALWAYS: return true;
    case TENSOR_COMPRESSED: return s->ratio[il] != 0;
    case TENSOR_INDEXED: return s->ratio[il] == 4;
    case TENSOR_HASHED: return shape_is_hash(s, il);
    case TENSOR_ROUTED: return !shape_is_hash(s, il);
    }
    return false;
}

void role_name(const struct tensor_role_def *r, int il, char *out, size_t cap)
{
    if (il >= 0) {
        snprintf(out, cap, "blk.%d.%s", il, r->gguf);
    } else {
        snprintf(out, cap, "%s", r->gguf);
    }
}

uint32_t role_rank(const struct tensor_role_def *r)
{
    return r->dim[2] ? 3 : r->dim[1] ? 2 : 1;
}

void role_dims(const struct shape *s, uint32_t il, const struct tensor_role_def *r,
               uint64_t ne[3])
{
    for (int i = 0; i < 3; i++) {
        ne[i] = dim_value(s, il, r->dim[i]);
    }
}
