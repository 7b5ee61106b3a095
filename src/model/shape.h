/* shape.h - the sizes and constants of one DeepSeek V4 model, from its metadata; nothing about
 * a particular model is compiled into the engine. The presets exist for `plan` and `explain`
 * without a file, and for draft files that lack keys (gguf.md 3). Source: model.md 1,
 * gguf.md 2.2. Plain data, immutable after shape_from_gguf. */
#ifndef MODEL_SHAPE_H
#define MODEL_SHAPE_H

#include "base/err.h"
#include "op/program.h"

struct gguf;
struct gguf_writer;

enum { SHAPE_MAX_LAYERS = 256 };

struct shape {
    uint32_t n_vocab, d, n_layer;
    uint32_t n_head, head_dim, rope_dim, q_lora, o_groups, o_lora, window;
    uint32_t index_heads, index_dim, index_topk; /* 0 if no layer has ratio 4 */
    uint32_t n_ff, n_expert, n_used, n_hash;
    float route_scale;
    uint32_t hc, sinkhorn_iters;
    float eps, hc_eps;
    float theta, theta_compress; /* ratio-0 layers; the others (with YaRN if yarn_orig > 0) */
    float yarn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_orig;
    uint32_t max_ctx;
    uint32_t max_ratio; /* A: largest ratio, 1 if all are 0 */
    uint16_t ratio[SHAPE_MAX_LAYERS];
    float swiglu_lim[SHAPE_MAX_LAYERS];
    bool release_0731; /* chat release of the file (docs/gguf.md 2.2) */
};

/* k of model.md 7: 2 (overlap) for ratio 4, else 1. */
static inline uint32_t shape_overlap(uint32_t ratio)
{
    return ratio == 4 ? 2 : 1;
}
/* Is layer il routed by the hash table? */
static inline bool shape_is_hash(const struct shape *s, uint32_t il)
{
    return il < s->n_hash;
}

/* Reads and checks all keys; FATHOM_EFORMAT names the key. V4.1 and other architectures are
 * refused by name. sim: also demand what the FP8/FP4 row forms need (model.md 1, constraints).
 */
int shape_from_gguf(struct shape *s, const struct gguf *g, fathom_err *err);
int shape_check(const struct shape *s, bool sim, const char *label, fathom_err *err);
/* Writes general.architecture and every key that shape_from_gguf reads (not fathom.release), so
 * that reading gives the same shape back. */
void shape_to_gguf(struct gguf_writer *w, const struct shape *s);
/* "flash" or "pro"; NULL for other names. Valid until this thread's next call. */
const struct shape *shape_preset(const char *name);
/* Frequencies of both rope classes (model.md 3). */
void shape_rope(const struct shape *s, struct rope_table out[ROPE_CLASSES]);

#endif
