/* identity.c - what a stored row depends on besides the tokens before it, as one SHA-256 (docs/
 * kv-store.md 3.2): store format, geometry, numeric configuration, tokenizer, the whole GGUF
 * header, a sample of every tensor, run-time modifiers, arithmetic class. Not in it: paths, file
 * times, context size, threads, chunk size, device model. Two engines with equal identities read
 * each other's files. The sample is 16 pieces of 4 KiB a tensor: another quantisation or a
 * fine-tune shows, an edit of a few blocks by hand does not. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine_int.h"
#include "gguf/gguf.h"
#include "kv/format.h"
#include "text/text.h"

enum { PIECES = 16, PIECE_BYTES = 4096 };

static void add_geometry(struct kv_identity *d, const struct kv_geom *g)
{
    kv_identity_add_u64(d, "format", KV_VERSION);
    kv_identity_add_u64(d, "layout", g->layout);
    kv_identity_add_u64(d, "page-tokens", g->page_tokens);
    kv_identity_add_u64(d, "window", g->window);
    kv_identity_add_u64(d, "vocabulary", g->n_vocab);
    kv_identity_add_u64(d, "layers", g->n_layer);
    for (uint32_t i = 0; i < g->n_layer; i++) {
        const struct kv_geom_layer *y = &g->layer[i];
        kv_identity_add_u64(d, "ratio", y->ratio);
        for (uint32_t k = 0; k < KV_PLANES; k++) {
            kv_identity_add_u64(d, "row-bytes", y->plane[k].row_bytes);
        }
        kv_identity_add_u64(d, "window-row-bytes", y->window_row_bytes);
        kv_identity_add_u64(d, "group-bytes", y->group_bytes);
        kv_identity_add_u64(d, "slot-bytes", y->slot_bytes);
    }
}

static void add_numbers(struct kv_identity *d, const struct shape *s, bool sim, bool act_f32)
{
    const double f[] = {
        s->route_scale,    s->eps,         s->hc_eps,         s->theta,
        s->theta_compress, s->yarn_factor, s->yarn_beta_fast, s->yarn_beta_slow};
    const uint64_t u[] = {
        s->d,      s->n_head,      s->head_dim,  s->rope_dim,       s->q_lora,   s->o_groups,
        s->o_lora, s->index_heads, s->index_dim, s->index_topk,     s->n_ff,     s->n_expert,
        s->n_used, s->n_hash,      s->hc,        s->sinkhorn_iters, s->yarn_orig};
    for (size_t i = 0; i < ARRAY_LEN(f); i++) {
        kv_identity_add_f64(d, "real", f[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(u); i++) {
        kv_identity_add_u64(d, "whole", u[i]);
    }
    for (uint32_t i = 0; i < s->n_layer; i++) {
        kv_identity_add_f64(d, "limit", s->swiglu_lim[i]);
    }
    kv_identity_add_u64(d, "simulations", sim);
    kv_identity_add_u64(d, "f32-activations", act_f32);
}

/* Vocabulary and merges: ids mean something only with them. */
static bool add_tokenizer(struct kv_identity *d, const struct tokenizer *t)
{
    if (!t) {
        kv_identity_add(d, "no-tokenizer", "", 0);
        return true;
    }
    struct hash h = {0};
    unsigned char sum[SHA256_BYTES];
    struct buf text = {0};
    bool ok = hash_open(&h, HASH_SHA256);
    for (uint32_t i = 0; ok && i < tokenizer_n_vocab(t); i++) {
        struct slice b = tokenizer_bytes(t, i);
        uint32_t head[2] = {(uint32_t)b.n, (uint32_t)tokenizer_type(t, i)};
        hash_add(&h, head, sizeof head);
        hash_add(&h, b.p, b.n);
    }
    for (uint32_t i = 0; ok && i < tokenizer_n_merges(t); i++) {
        buf_clear(&text);
        tokenizer_stored_merge(t, i, &text);
        buf_addc(&text, '\n');
        ok = !text.failed;
        hash_add(&h, buf_cstr(&text), text.n);
    }
    ok = ok && hash_digest(&h, sum);
    kv_identity_add(d, "tokenizer", sum, ok ? sizeof sum : 0);
    hash_close(&h);
    buf_free(&text);
    return ok;
}

static void add_tensor(struct kv_identity *d, const struct gguf_tensor *t, unsigned char *room)
{
    unsigned char sum[XXH128_BYTES];
    if (t->bytes <= PIECES * PIECE_BYTES) {
        xxh128(t->data, (size_t)t->bytes, sum);
    } else {
        for (uint64_t i = 0; i < PIECES; i++) { /* the first and the last bytes among them */
            uint64_t at = (t->bytes - PIECE_BYTES) / (PIECES - 1) * i;
            at = i == PIECES - 1 ? t->bytes - PIECE_BYTES : at;
            memcpy(room + i * PIECE_BYTES, t->data + at, PIECE_BYTES);
        }
        xxh128(room, PIECES * PIECE_BYTES, sum);
    }
    kv_identity_add(d, "tensor", sum, sizeof sum);
}

int engine_identity(const fathom_engine *e, bool act_f32, const struct kv_geom *g,
                    struct kv_id *out, fathom_err *err)
{
    struct kv_identity d;
    unsigned char *room = mem_alloc(PIECES, PIECE_BYTES);
    bool ok = room && kv_identity_open(&d);
    if (ok) {
        add_geometry(&d, g);
        add_numbers(&d, &e->shape, e->layout.sim, act_f32);
        ok = add_tokenizer(&d, e->tok);
        for (size_t i = 0; i < gguf_n_parts(e->gguf); i++) {
            kv_identity_add(&d, "header", gguf_part_map(e->gguf, i)->p,
                            (size_t)gguf_header_bytes(e->gguf, i));
        }
        for (size_t i = 0; i < gguf_n_tensors(e->gguf); i++) {
            add_tensor(&d, gguf_tensor_at(e->gguf, i), room);
        }
        kv_identity_add(&d, "arithmetic", e->caps.arith_class, strlen(e->caps.arith_class));
        ok = kv_identity_close(&d, out) && ok;
    }
    mem_free(room);
    return ok ? 0 : err_nomem(err, "identity of the model", PIECES * PIECE_BYTES);
}
