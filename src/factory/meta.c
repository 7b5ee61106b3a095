/* meta.c - see meta.h. Key names and value types are those that every V4 Flash loader reads
 * (docs/gguf.md 2.2); values come from config.json alone.
 *
 * nextn_predict_layers is 0: drafting blocks are not in the file, whatever the checkpoint has.
 * fathom.release tells the chat format apart, which the shapes cannot. */
#include "factory/meta.h"

#include "gguf/gguf.h"
#include "text/text.h"

void meta_write_model(struct gguf_writer *w, const struct plan *p, struct slice name)
{
    const struct shape *s = &p->shape;
    shape_to_gguf(w, s);
    gguf_writer_str(w, "general.type", SLICE("model"));
    gguf_writer_str(w, "general.name", name);
    gguf_writer_u32(w, "general.file_type", p->recipe->file_type);
    gguf_writer_u32(w, "general.quantization_version", 2);
    gguf_writer_str(w, "fathom.release", s->release_0731 ? SLICE("0731") : SLICE("preview"));
    gguf_writer_u32(w, "deepseek4.nextn_predict_layers", 0);
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
