/* weights.h - the tensors of a model by role: names and aliases resolved, shapes and types
 * checked, values that index memory (tid2eid) checked. Matrices are used in place in the
 * mapping; vectors that are not F32 in the file get converted copies, owned here. Handles index
 * `w`. Immutable after weights_bind; the gguf outlives it. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "base/mem.h"
#include "model/shape.h"

/* Handles of one layer; WEIGHT_NONE where the layer has none. */
struct weights_layer {
    uint16_t attn_norm, ffn_norm;
    uint16_t hc_attn_fn, hc_attn_base, hc_attn_scale, hc_ffn_fn, hc_ffn_base, hc_ffn_scale;
    uint16_t wq_a, q_norm, wq_b, wkv, kv_norm, sinks, wo_a, wo_b;
    uint16_t comp_kv, comp_gate, comp_ape, comp_norm;
    uint16_t index_q, index_proj, index_comp_kv, index_comp_gate, index_comp_ape,
        index_comp_norm;
    uint16_t router, router_bias, tid2eid;
    uint16_t gate_exps, up_exps, down_exps, gate_shexp, up_shexp, down_shexp;
};

struct weights {
    struct op_weight *w; /* [n], owned */
    uint32_t n;
    uint16_t embed, head, norm, hc_head_fn, hc_head_base, hc_head_scale;
    struct weights_layer *layer; /* [n_layer], owned */
    struct arena copies;         /* converted vectors, names */
    uint64_t bytes;              /* of all tensors in use */
};

/* From a file. FATHOM_EFORMAT names the tensor, what was found and what is needed. */
int weights_bind(struct weights *w, const struct gguf *g, const struct shape *s,
                 fathom_err *err);
/* Without a file: types as recipe says ("q2", "q4", "mxfp4", "q8", "f16", "bf16", "f32"), data
 * NULL. */
int weights_from_shape(struct weights *w, const struct shape *s, const char *recipe,
                       fathom_err *err);
void weights_free(struct weights *w);

#endif
