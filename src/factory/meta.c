/* meta.c - see meta.h. Key names and value types are those that every V4 Flash loader reads
 * (docs/gguf.md 2.2); values come from config.json alone.
 *
 * nextn_predict_layers is 0: drafting blocks are not in the file, whatever the checkpoint has.
 * fathom.release tells the chat format apart, which the shapes cannot. */
#include "factory/meta.h"

#include "gguf/gguf.h"
#include "text/text.h"

enum { GATING_SQRT_SOFTPLUS = 4 };

static void write_arrays(struct gguf_writer *w, const struct shape *s)
{
    int32_t ratio[SHAPE_MAX_LAYERS];
    for (uint32_t l = 0; l < s->n_layer; l++) {
        ratio[l] = (int32_t)s->ratio[l];
    }
    gguf_writer_arr_i32(w, "deepseek4.attention.compress_ratios", ratio, s->n_layer);
    gguf_writer_arr_f32(w, "deepseek4.swiglu_clamp_exp", s->swiglu_lim, s->n_layer);
}

void meta_write_model(struct gguf_writer *w, const struct plan *p, struct slice name)
{
    const struct shape *s = &p->shape;
    gguf_writer_str(w, "general.architecture", SLICE("deepseek4"));
    gguf_writer_str(w, "general.type", SLICE("model"));
    gguf_writer_str(w, "general.name", name);
    gguf_writer_u32(w, "general.file_type", p->recipe->file_type);
    gguf_writer_u32(w, "general.quantization_version", 2);
    gguf_writer_str(w, "fathom.release", s->release_0731 ? SLICE("0731") : SLICE("preview"));

    const struct {
        const char *key;
        uint32_t v;
    } ints[] = {
        {"deepseek4.block_count", s->n_layer},
        {"deepseek4.context_length", s->max_ctx},
        {"deepseek4.embedding_length", s->d},
        {"deepseek4.vocab_size", s->n_vocab},
        {"deepseek4.attention.head_count", s->n_head},
        {"deepseek4.attention.head_count_kv", 1},
        {"deepseek4.attention.key_length", s->head_dim},
        {"deepseek4.attention.value_length", s->head_dim},
        {"deepseek4.attention.q_lora_rank", s->q_lora},
        {"deepseek4.attention.output_lora_rank", s->o_lora},
        {"deepseek4.attention.output_group_count", s->o_groups},
        {"deepseek4.attention.sliding_window", s->window},
        {"deepseek4.attention.indexer.head_count", s->index_heads},
        {"deepseek4.attention.indexer.key_length", s->index_dim},
        {"deepseek4.attention.indexer.top_k", s->index_topk},
        {"deepseek4.rope.dimension_count", s->rope_dim},
        {"deepseek4.rope.scaling.original_context_length", s->yarn_orig},
        {"deepseek4.expert_count", s->n_expert},
        {"deepseek4.expert_used_count", s->n_used},
        {"deepseek4.expert_shared_count", 1},
        {"deepseek4.expert_feed_forward_length", s->n_ff},
        {"deepseek4.expert_gating_func", GATING_SQRT_SOFTPLUS},
        {"deepseek4.hash_layer_count", s->n_hash},
        {"deepseek4.hyper_connection.count", s->hc},
        {"deepseek4.hyper_connection.sinkhorn_iterations", s->sinkhorn_iters},
        {"deepseek4.nextn_predict_layers", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        gguf_writer_u32(w, ints[i].key, ints[i].v);
    }
    const struct {
        const char *key;
        float v;
    } floats[] = {
        {"deepseek4.attention.layer_norm_rms_epsilon", s->eps},
        {"deepseek4.attention.compress_rope_freq_base", s->theta_compress},
        {"deepseek4.rope.freq_base", s->theta},
        {"deepseek4.rope.scaling.factor", s->yarn_factor},
        {"deepseek4.rope.scaling.yarn_beta_fast", s->yarn_beta_fast},
        {"deepseek4.rope.scaling.yarn_beta_slow", s->yarn_beta_slow},
        {"deepseek4.expert_weights_scale", s->route_scale},
        {"deepseek4.hyper_connection.epsilon", s->hc_eps},
    };
    for (size_t i = 0; i < ARRAY_LEN(floats); i++) {
        gguf_writer_f32(w, floats[i].key, floats[i].v);
    }
    gguf_writer_str(w, "deepseek4.rope.scaling.type",
                    s->yarn_orig ? SLICE("yarn") : SLICE("none"));
    gguf_writer_bool(w, "deepseek4.expert_weights_norm", true);
    write_arrays(w, s);
}

/* n strings, appended to b one after the other by get, as slices. Returns NULL without memory.
 */
static struct slice *collect(const struct tokenizer *t, uint32_t n, struct buf *b,
                             void (*get)(const struct tokenizer *, uint32_t, struct buf *))
{
    size_t *ends = mem_alloc((size_t)n + 1, sizeof *ends);
    struct slice *s = mem_alloc((size_t)n + 1, sizeof *s);
    for (uint32_t i = 0; ends && i < n; i++) {
        get(t, i, b);
        ends[i] = b->n;
    }
    if (!ends || !s || b->failed) {
        mem_free(ends);
        mem_free(s);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) { /* b has stopped moving */
        size_t from = i ? ends[i - 1] : 0;
        s[i] = (struct slice){b->p + from, ends[i] - from};
    }
    mem_free(ends);
    return s;
}

static void write_id(struct gguf_writer *w, const char *key, int32_t id)
{
    if (id >= 0) {
        gguf_writer_u32(w, key, (uint32_t)id);
    }
}

int meta_write_tokenizer(struct gguf_writer *w, const struct tokenizer *t, uint32_t n_vocab,
                         fathom_err *err)
{
    uint32_t n = tokenizer_n_vocab(t), n_merges = tokenizer_n_merges(t);
    if (n != n_vocab) {
        return err_set(err, FATHOM_EFORMAT,
                       "tokenizer.json has %u tokens, but vocab_size in config.json is %u", n,
                       n_vocab);
    }
    struct buf tokens = {0}, merges = {0};
    struct slice *token = collect(t, n, &tokens, tokenizer_stored_text);
    struct slice *merge = collect(t, n_merges, &merges, tokenizer_stored_merge);
    int32_t *type = mem_alloc(n, sizeof *type);
    int rc = 0;
    if (!token || !merge || !type) {
        rc = err_nomem(err, "the vocabulary", tokens.n + merges.n);
    } else {
        for (uint32_t i = 0; i < n; i++) {
            type[i] = tokenizer_type(t, i);
        }
        gguf_writer_str(w, "tokenizer.ggml.model", SLICE("gpt2"));
        gguf_writer_str(w, "tokenizer.ggml.pre", SLICE("joyai-llm"));
        gguf_writer_arr_str(w, "tokenizer.ggml.tokens", token, n);
        gguf_writer_arr_i32(w, "tokenizer.ggml.token_type", type, n);
        gguf_writer_arr_str(w, "tokenizer.ggml.merges", merge, n_merges);
        write_id(w, "tokenizer.ggml.bos_token_id", tokenizer_control(t, CT_BOS));
        write_id(w, "tokenizer.ggml.eos_token_id", tokenizer_control(t, CT_EOS));
        write_id(w, "tokenizer.ggml.padding_token_id", tokenizer_control(t, CT_PAD));
        gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", false);
        gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", false);
    }
    mem_free(type);
    mem_free(token);
    mem_free(merge);
    buf_free(&tokens);
    buf_free(&merges);
    return rc;
}
