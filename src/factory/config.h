/* config.h - the shape of a checkpoint, read from its config.json (model.md 1): the Hugging Face
 * names or those of the official inference config, never a built-in default for a size. */
#ifndef FACTORY_CONFIG_H
#define FACTORY_CONFIG_H

#include "base/err.h"

enum { CONFIG_MAX_LAYERS = 256 };

/* Symbols of model.md section 1 in the comments. All sizes are checked against each other. */
struct model_config {
    uint32_t vocab;                       /* V */
    uint32_t width;                       /* D */
    uint32_t n_layers;                    /* L */
    uint32_t n_heads, head_dim, rope_dim; /* H, hd, rd */
    uint32_t q_lora;                      /* ql */
    uint32_t o_groups, o_lora;            /* og, ol */
    uint32_t window;                      /* W */
    uint32_t ratio[CONFIG_MAX_LAYERS];    /* r[l], n_layers entries */
    uint32_t index_heads, index_dim, index_top_k;
    uint32_t expert_ffn, n_experts, n_experts_used; /* F, E, K */
    uint32_t n_hash_layers;
    double route_scale, swiglu_limit;     /* rs, lim (0: no clamp) */
    uint32_t hc, sinkhorn_iters;
    double hc_eps, norm_eps;
    double rope_theta, compress_theta;
    double yarn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_context;                /* T0; 0: no YaRN */
    uint32_t max_context;
    bool is_0731;                         /* has the dspark keys */
};

/* Reads dir/config.json. Errors name the file and the key; another architecture (V4.1, V3, ...)
 * is FATHOM_EUNSUPPORTED. */
int config_read(struct model_config *c, const char *dir, fathom_err *err);
/* The same from text; label is for messages. */
int config_parse(struct model_config *c, const char *text, size_t n, const char *label,
                 fathom_err *err);

#endif
