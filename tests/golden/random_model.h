/* random_model.h - small random DeepSeek V4 models of many shapes, as GGUF files in memory,
 * for tests that compare an engine with itself. Shapes follow the constraints of model.md 1;
 * values have the size that keeps activations near 1, so that rounding, selection and
 * saturation all happen. Tensors are filled by the seed and their order; block formats
 * without an encoder get random codes with a sane scale. Everything is static; any failure
 * prints its reason and aborts.
 *
 *     struct random_model m;
 *     random_model_make(&m, &(struct random_config){.seed = 1, ...});   // zero fields: defaults
 *     ... m.file, m.file_bytes ...
 *     random_model_free(&m); */
#ifndef TESTS_RANDOM_MODEL_H
#define TESTS_RANDOM_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "model/roles.h"
#include "quant/encode.h"
#include "quant/formats.h"

/* Numbers of model.md 1; 0 takes the default of random_model_defaults. */
struct random_config {
    uint64_t seed;
    struct shape shape;     /* n_layer and ratio[] count; other zero fields get defaults */
    uint32_t dense;         /* qtype of dense matrices; 0 = F32 */
    uint32_t gate_up, down; /* qtype of routed experts; 0 = F32 */
};

struct random_model {
    unsigned char *file; /* owned, 4096-aligned */
    size_t file_bytes;
    struct shape shape;
};

#define RANDOM_CHECK(ok, what)                                       \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "random model: %s (%s)\n", (what), #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

static inline void random_model_defaults(struct shape *s)
{
#define RANDOM_DEFAULT(field, value) s->field = s->field ? s->field : (value)
    RANDOM_DEFAULT(n_vocab, 97);
    RANDOM_DEFAULT(d, 64);
    RANDOM_DEFAULT(n_head, 4);
    RANDOM_DEFAULT(head_dim, 96);
    RANDOM_DEFAULT(rope_dim, 32);
    RANDOM_DEFAULT(q_lora, 32);
    RANDOM_DEFAULT(o_groups, 2);
    RANDOM_DEFAULT(o_lora, 32);
    RANDOM_DEFAULT(window, 16);
    RANDOM_DEFAULT(index_heads, 16);
    RANDOM_DEFAULT(index_dim, 32);
    RANDOM_DEFAULT(index_topk, 5);
    RANDOM_DEFAULT(n_ff, 32);
    RANDOM_DEFAULT(n_expert, 6);
    RANDOM_DEFAULT(n_used, 2);
    RANDOM_DEFAULT(route_scale, 1.5f);
    RANDOM_DEFAULT(hc, 4);
    RANDOM_DEFAULT(sinkhorn_iters, 5);
    RANDOM_DEFAULT(eps, 1e-6f);
    RANDOM_DEFAULT(hc_eps, 1e-6f);
    RANDOM_DEFAULT(theta, 10000.0f);
    RANDOM_DEFAULT(theta_compress, 160000.0f);
    RANDOM_DEFAULT(yarn_factor, 16.0f);
    RANDOM_DEFAULT(yarn_beta_fast, 32.0f);
    RANDOM_DEFAULT(yarn_beta_slow, 1.0f);
    RANDOM_DEFAULT(yarn_orig, 64);
    RANDOM_DEFAULT(max_ctx, 4096);
#undef RANDOM_DEFAULT
    s->max_ratio = 1;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        s->max_ratio = s->ratio[i] > s->max_ratio ? s->ratio[i] : s->max_ratio;
    }
}

/* ---- tensors ---- */

static inline bool random_ends(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Type of a tensor: quantised where a real file would be, as far as rows fit the blocks. */
static inline uint32_t random_type(const struct random_config *c,
                                   const struct tensor_role_def *r, const char *name,
                                   uint64_t cols)
{
    uint32_t t = r->kind == TENSOR_TABLE           ? QT_I32
                 : r->kind == TENSOR_VECTOR        ? QT_F32
                 : strstr(name, "_gate_exps")      ? c->gate_up
                 : strstr(name, "_up_exps")        ? c->gate_up
                 : strstr(name, "_down_exps")      ? c->down
                 : strstr(name, "hc_")             ? QT_F32
                 : strstr(name, "ffn_gate_inp")    ? QT_F32
                 : strstr(name, "token_embd")      ? QT_F32
                 : strstr(name, "attn_compressor") ? (c->dense ? QT_F16 : QT_F32)
                 : strstr(name, "indexer")         ? (c->dense ? QT_BF16 : QT_F32)
                                                   : c->dense;
    return cols % qformat(t)->block_elems ? QT_F32 : t;
}

/* Random codes and a scale that gives elements the size of 1 / sqrt(cols). */
static inline void random_block_row(struct rng *g, uint32_t type, uint64_t cols,
                                    unsigned char *row)
{
    size_t bytes = qformat_row_bytes(type, cols), block = qformat(type)->block_bytes;
    for (size_t i = 0; i < bytes; i++) {
        row[i] = (unsigned char)rng_u64(g);
    }
    for (unsigned char *b = row; b < row + bytes; b += block) {
        float size = 1.0f / sqrtf((float)cols) * (1.0f + 0.5f * rng_sym(g));
        if (type == QT_IQ2_XXS) { /* d, then codes: values around 60 d */
            store_le16(b, f32_to_f16(size / 60));
        } else { /* Q2_K: d and dmin behind 16 scales and 64 bytes of codes */
            store_le16(b + 80, f32_to_f16(size / 12));
            store_le16(b + 82, f32_to_f16(size / 8));
        }
    }
}

static inline void random_fill(struct rng *g, const struct tensor_role_def *r, const char *name,
                               uint32_t type, const uint64_t ne[3], const struct shape *s,
                               unsigned char *out)
{
    uint64_t cols = ne[0], rows = ne[1] * ne[2];
    size_t row_bytes = qformat_row_bytes(type, cols);
    float *x = mem_alloc(cols, sizeof *x);
    RANDOM_CHECK(x, "out of memory");
    for (uint64_t i = 0; i < rows; i++, out += row_bytes) {
        if (r->kind == TENSOR_TABLE) { /* different experts for every token */
            int32_t first = (int32_t)rng_below(g, s->n_expert);
            for (uint64_t k = 0; k < cols; k++) {
                int32_t v = (first + (int32_t)k) % (int32_t)s->n_expert;
                memcpy(out + 4 * k, &v, 4);
            }
            continue;
        }
        if (type == QT_IQ2_XXS || type == QT_Q2_K) {
            random_block_row(g, type, cols, out);
            continue;
        }
        for (uint64_t k = 0; k < cols; k++) {
            float u = rng_sym(g);
            x[k] = strstr(name, "norm")                 ? 1 + 0.25f * u
                   : strstr(name, "token_embd")         ? u
                   : strstr(name, "_ape")               ? 3 * u
                   : random_ends(name, "_scale.weight") ? 0.75f + 0.25f * u
                   : r->kind == TENSOR_VECTOR           ? 0.5f * u
                                                        : u * sqrtf(3.0f / (float)cols);
        }
        quant_encode(type, x, cols, out);
    }
    mem_free(x);
}

/* Visits every tensor: first to record it (file NULL), then to fill it. */
static inline void random_visit(struct gguf_writer *w, const struct random_config *c,
                                const struct shape *s, unsigned char *file)
{
    struct rng g = {splitmix64(c->seed)};
    size_t n[2];
    const struct tensor_role_def *tab[2] = {roles_global(&n[0]), roles_layer(&n[1])};
    int index = 0;
    for (int il = -1; il < (int)s->n_layer; il++) {
        for (size_t i = 0; i < n[il >= 0]; i++) {
            const struct tensor_role_def *r = &tab[il >= 0][i];
            if (il >= 0 && !role_in_layer(s, (uint32_t)il, r)) {
                continue;
            }
            char name[160];
            uint64_t ne[3];
            role_name(r, il, name, sizeof name);
            role_dims(s, il >= 0 ? (uint32_t)il : 0, r, ne);
            uint32_t type = random_type(c, r, name, ne[0]);
            if (!file) {
                fathom_err err = {0};
                int at = gguf_writer_tensor(w, name, type, role_rank(r), ne, &err);
                RANDOM_CHECK(at == index, err.msg);
            } else {
                random_fill(&g, r, name, type, ne, s, file + gguf_writer_offset(w, index));
            }
            index++;
        }
    }
}

static inline void random_model_make(struct random_model *m, const struct random_config *c)
{
    fathom_err err = {0};
    m->shape = c->shape;
    random_model_defaults(&m->shape);
    struct gguf_writer *w = gguf_writer_new();
    RANDOM_CHECK(w, "out of memory");
    shape_to_gguf(w, &m->shape);
    gguf_writer_str(w, "general.name", SLICE("random"));
    random_visit(w, c, &m->shape, NULL);
    struct buf head = {0};
    RANDOM_CHECK(gguf_writer_header(w, &head, &err) == 0, err.msg);
    m->file_bytes = (size_t)gguf_writer_file_bytes(w);
    m->file = mem_alloc_aligned(4096, align_up(m->file_bytes, 4096));
    RANDOM_CHECK(m->file, "out of memory");
    memset(m->file, 0, m->file_bytes);
    memcpy(m->file, head.p, head.n);
    random_visit(w, c, &m->shape, m->file);
    buf_free(&head);
    gguf_writer_free(w);
}

static inline void random_model_free(struct random_model *m)
{
    mem_free(m->file);
    *m = (struct random_model){0};
}

#endif
