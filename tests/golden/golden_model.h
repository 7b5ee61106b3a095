/* golden_model.h - the golden tiny model of docs/model.md 17, made from nothing but tensor
 * names: every value is a hash of the tensor's official name and the element's index. The model
 * is written as a GGUF file into memory and opened like any file, so tests that use it also
 * test the loader. struct golden_run runs one program of it on one backend, step by step.
 *
 * Matrices are F32, or of the given type where a real file would quantise them (dense and
 * expert matrices; every size is a multiple of 32). Any failure here prints its reason and
 * aborts. */
#ifndef TESTS_GOLDEN_MODEL_H
#define TESTS_GOLDEN_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "model/forward.h"
#include "quant/encode.h"
#include "quant/formats.h"

enum {
    GOLDEN_V = 101,
    GOLDEN_D = 64,
    GOLDEN_L = 6,
    GOLDEN_H = 4,
    GOLDEN_HD = 192,
    GOLDEN_RD = 64,
    GOLDEN_QL = 32,
    GOLDEN_OG = 2,
    GOLDEN_OL = 16,
    GOLDEN_W = 16,
    GOLDEN_IH = 16,
    GOLDEN_IHD = 128,
    GOLDEN_TOPK = 5,
    GOLDEN_F = 64,
    GOLDEN_E = 8,
    GOLDEN_K = 2,
    GOLDEN_N_HASH = 2,
    GOLDEN_HC = 4,
    GOLDEN_ITERS = 20,
    GOLDEN_MIX = (2 + GOLDEN_HC) * GOLDEN_HC
};
static const int32_t GOLDEN_RATIO[GOLDEN_L] = {0, 4, 128, 4, 8, 0};

#define GOLDEN_CHECK(ok, what)                                       \
    do {                                                             \
        if (!(ok)) {                                                 \
            fprintf(stderr, "golden model: %s (%s)\n", (what), #ok); \
            abort();                                                 \
        }                                                            \
    } while (0)

/* ---- values ---- */

static inline uint64_t golden_fnv1a(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) {
        h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    }
    return h;
}

static inline uint32_t golden_token(uint32_t p)
{
    return (uint32_t)(splitmix64(7777u + (uint64_t)p) % GOLDEN_V);
}

static inline bool golden_ends(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Values [0, n) of the tensor with this official name; cols = in, rank 1 for vectors. */
static inline void golden_fill(const char *name, uint32_t rank, uint32_t cols, size_t n,
                               float *out)
{
    uint64_t b = golden_fnv1a(name);
    for (size_t i = 0; i < n; i++) {
        float u = (float)((double)(splitmix64(b + i) >> 40) / 0x1p23 - 1.0);
        out[i] = strstr(name, "norm")                ? 1 + 0.25f * u
                 : golden_ends(name, "embed.weight") ? u
                 : golden_ends(name, "ape")          ? 3 * u
                 : golden_ends(name, "_scale")       ? 0.75f + 0.25f * u
                 : rank == 1                         ? 0.5f * u
                                                     : u * (float)sqrt(3.0 / cols);
    }
}

/* tid2eid: two different experts for every token. */
static inline void golden_fill_table(const char *name, int32_t *out)
{
    uint64_t b = golden_fnv1a(name);
    for (uint32_t t = 0; t < GOLDEN_V; t++) {
        uint64_t r = splitmix64(b + t), first = (r >> 8) % GOLDEN_E;
        out[2 * t] = (int32_t)first;
        out[2 * t + 1] = (int32_t)((first + 1 + (r >> 32) % (GOLDEN_E - 1)) % GOLDEN_E);
    }
}

/* ---- tensors ---- */

enum golden_when { GOLDEN_ALWAYS, GOLDEN_COMP, GOLDEN_INDEX, GOLDEN_HASHED, GOLDEN_ROUTED };

/* Sizes that depend on the layer: rows or columns of compressors. */
enum { GOLDEN_X_KHD = 1 << 20, GOLDEN_X_KIHD, GOLDEN_X_RATIO };

struct golden_tensor {
    const char *gguf,
        *official;              /* behind the layer prefix; experts: "..%u.." gets the number */
    uint32_t cols, rows, n_mat; /* 0 = this dimension is absent */
    uint8_t when;
    bool big; /* quantised where a real file would be */
};

static const struct golden_tensor GOLDEN_GLOBAL[] = {
    {"token_embd.weight", "embed.weight", GOLDEN_D, GOLDEN_V, 0, 0, false},
    {"output_hc_fn.weight", "hc_head_fn", GOLDEN_HC *GOLDEN_D, GOLDEN_HC, 0, 0, false},
    {"output_hc_base.weight", "hc_head_base", GOLDEN_HC, 0, 0, 0, false},
    {"output_hc_scale.weight", "hc_head_scale", 1, 0, 0, 0, false},
    {"output_norm.weight", "norm.weight", GOLDEN_D, 0, 0, 0, false},
    {"output.weight", "head.weight", GOLDEN_D, GOLDEN_V, 0, 0, true},
};

#define GOLDEN_HEADS_ALL (GOLDEN_H * GOLDEN_HD)
static const struct golden_tensor GOLDEN_LAYER[] = {
    {"attn_norm.weight", "attn_norm.weight", GOLDEN_D, 0, 0, 0, false},
    {"ffn_norm.weight", "ffn_norm.weight", GOLDEN_D, 0, 0, 0, false},
    {"hc_attn_fn.weight", "hc_attn_fn", GOLDEN_HC *GOLDEN_D, GOLDEN_MIX, 0, 0, false},
    {"hc_attn_base.weight", "hc_attn_base", GOLDEN_MIX, 0, 0, 0, false},
    {"hc_attn_scale.weight", "hc_attn_scale", 3, 0, 0, 0, false},
    {"hc_ffn_fn.weight", "hc_ffn_fn", GOLDEN_HC *GOLDEN_D, GOLDEN_MIX, 0, 0, false},
    {"hc_ffn_base.weight", "hc_ffn_base", GOLDEN_MIX, 0, 0, 0, false},
    {"hc_ffn_scale.weight", "hc_ffn_scale", 3, 0, 0, 0, false},
    {"attn_q_a.weight", "attn.wq_a.weight", GOLDEN_D, GOLDEN_QL, 0, 0, true},
    {"attn_q_a_norm.weight", "attn.q_norm.weight", GOLDEN_QL, 0, 0, 0, false},
    {"attn_q_b.weight", "attn.wq_b.weight", GOLDEN_QL, GOLDEN_HEADS_ALL, 0, 0, true},
    {"attn_kv.weight", "attn.wkv.weight", GOLDEN_D, GOLDEN_HD, 0, 0, true},
    {"attn_kv_a_norm.weight", "attn.kv_norm.weight", GOLDEN_HD, 0, 0, 0, false},
    {"attn_sinks.weight", "attn.attn_sink", GOLDEN_H, 0, 0, 0, false},
    {"attn_output_a.weight", "attn.wo_a.weight", GOLDEN_HEADS_ALL / GOLDEN_OG,
     GOLDEN_OG *GOLDEN_OL, 0, 0, true},
    {"attn_output_b.weight", "attn.wo_b.weight", GOLDEN_OG *GOLDEN_OL, GOLDEN_D, 0, 0, true},
    {"attn_compressor_kv.weight", "attn.compressor.wkv.weight", GOLDEN_D, GOLDEN_X_KHD, 0,
     GOLDEN_COMP, false},
    {"attn_compressor_gate.weight", "attn.compressor.wgate.weight", GOLDEN_D, GOLDEN_X_KHD, 0,
     GOLDEN_COMP, false},
    {"attn_compressor_ape.weight", "attn.compressor.ape", GOLDEN_X_KHD, GOLDEN_X_RATIO, 0,
     GOLDEN_COMP, false},
    {"attn_compressor_norm.weight", "attn.compressor.norm.weight", GOLDEN_HD, 0, 0, GOLDEN_COMP,
     false},
    {"indexer.attn_q_b.weight", "attn.indexer.wq_b.weight", GOLDEN_QL, GOLDEN_IH *GOLDEN_IHD, 0,
     GOLDEN_INDEX, false},
    {"indexer.proj.weight", "attn.indexer.weights_proj.weight", GOLDEN_D, GOLDEN_IH, 0,
     GOLDEN_INDEX, false},
    {"indexer_compressor_kv.weight", "attn.indexer.compressor.wkv.weight", GOLDEN_D,
     GOLDEN_X_KIHD, 0, GOLDEN_INDEX, false},
    {"indexer_compressor_gate.weight", "attn.indexer.compressor.wgate.weight", GOLDEN_D,
     GOLDEN_X_KIHD, 0, GOLDEN_INDEX, false},
    {"indexer_compressor_ape.weight", "attn.indexer.compressor.ape", GOLDEN_X_KIHD,
     GOLDEN_X_RATIO, 0, GOLDEN_INDEX, false},
    {"indexer_compressor_norm.weight", "attn.indexer.compressor.norm.weight", GOLDEN_IHD, 0, 0,
     GOLDEN_INDEX, false},
    {"ffn_gate_inp.weight", "ffn.gate.weight", GOLDEN_D, GOLDEN_E, 0, 0, false},
    {"ffn_gate_tid2eid.weight", "ffn.gate.tid2eid", GOLDEN_K, GOLDEN_V, 0, GOLDEN_HASHED,
     false},
    {"exp_probs_b.bias", "ffn.gate.bias", GOLDEN_E, 0, 0, GOLDEN_ROUTED, false},
    {"ffn_gate_exps.weight", "ffn.experts.%u.w1.weight", GOLDEN_D, GOLDEN_F, GOLDEN_E, 0, true},
    {"ffn_up_exps.weight", "ffn.experts.%u.w3.weight", GOLDEN_D, GOLDEN_F, GOLDEN_E, 0, true},
    {"ffn_down_exps.weight", "ffn.experts.%u.w2.weight", GOLDEN_F, GOLDEN_D, GOLDEN_E, 0, true},
    {"ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight", GOLDEN_D, GOLDEN_F, 0, 0, true},
    {"ffn_up_shexp.weight", "ffn.shared_experts.w3.weight", GOLDEN_D, GOLDEN_F, 0, 0, true},
    {"ffn_down_shexp.weight", "ffn.shared_experts.w2.weight", GOLDEN_F, GOLDEN_D, 0, 0, true},
};

static inline bool golden_has(const struct golden_tensor *t, int il)
{
    int32_t r = il >= 0 ? GOLDEN_RATIO[il] : 0;
    switch ((enum golden_when)t->when) {
    case GOLDEN_ALWAYS: return true;
    case GOLDEN_COMP: return r != 0;
    case GOLDEN_INDEX: return r == 4;
    case GOLDEN_HASHED: return il < GOLDEN_N_HASH;
    case GOLDEN_ROUTED: return il >= GOLDEN_N_HASH;
    }
    return false;
}

static inline uint32_t golden_dim(uint32_t dim, int il)
{
    uint32_t r = il >= 0 ? (uint32_t)GOLDEN_RATIO[il] : 0, k = r == 4 ? 2 : 1;
    return dim == GOLDEN_X_KHD     ? k * GOLDEN_HD
           : dim == GOLDEN_X_KIHD  ? k * GOLDEN_IHD
           : dim == GOLDEN_X_RATIO ? r
                                   : dim;
}

/* ---- the file ---- */

struct golden {
    unsigned char *file; /* owned, 64-byte aligned */
    size_t file_bytes;
    struct gguf *g;
    struct shape shape;
    struct weights w;
};

/* Writer, and the file once its size is known: the tensors are visited twice, first to be
 * recorded, then to be filled. */
struct golden_writer {
    struct gguf_writer *w;
    uint32_t big_type;
    int index;
    unsigned char *file; /* NULL in the first visit */
};

static inline void golden_official(const struct golden_tensor *t, int il, uint32_t expert,
                                   char *name, size_t cap)
{
    int n = il >= 0 ? snprintf(name, cap, "layers.%d.", il) : 0;
    const char *hole = strstr(t->official, "%u");
    if (hole) {
        snprintf(name + n, cap - (size_t)n, "%.*s%u%s", (int)(hole - t->official), t->official,
                 expert, hole + 2);
    } else {
        snprintf(name + n, cap - (size_t)n, "%s", t->official);
    }
}

static inline void golden_fill_mats(const struct golden_tensor *t, int il, uint32_t type,
                                    uint32_t cols, uint32_t rows, unsigned char *out)
{
    size_t n = (size_t)cols * rows, row_bytes = qformat_row_bytes(type, cols);
    float *x = mem_alloc(n, sizeof *x);
    GOLDEN_CHECK(x, "out of memory");
    for (uint32_t m = 0; m < (t->n_mat ? t->n_mat : 1); m++) {
        char name[128];
        golden_official(t, il, m, name, sizeof name);
        if (t->when == GOLDEN_HASHED) {
            golden_fill_table(name, (int32_t *)(void *)out);
            break;
        }
        golden_fill(name, t->rows ? 2 : 1, cols, n, x);
        for (uint32_t i = 0; i < rows; i++) {
            quant_encode(type, x + (size_t)i * cols, cols,
                         out + ((size_t)m * rows + i) * row_bytes);
        }
    }
    mem_free(x);
}

static inline void golden_visit(struct golden_writer *gw, const struct golden_tensor *t, int il)
{
    uint32_t cols = golden_dim(t->cols, il), rows = golden_dim(t->rows, il);
    uint32_t type = t->when == GOLDEN_HASHED ? QT_I32 : t->big ? gw->big_type : QT_F32;
    if (!gw->file) {
        char name[128];
        uint64_t ne[3] = {cols, rows, t->n_mat};
        int at = il >= 0 ? snprintf(name, sizeof name, "blk.%d.", il) : 0;
        snprintf(name + at, sizeof name - (size_t)at, "%s", t->gguf);
        fathom_err err = {0};
        int rc = gguf_writer_tensor(gw->w, name, type, t->n_mat ? 3 : rows ? 2 : 1, ne, &err);
        GOLDEN_CHECK(rc == gw->index, err.msg);
    } else {
        golden_fill_mats(t, il, type, cols, rows ? rows : 1,
                         gw->file + gguf_writer_offset(gw->w, gw->index));
    }
    gw->index++;
}

static inline void golden_visit_all(struct golden_writer *gw)
{
    gw->index = 0;
    for (size_t i = 0; i < ARRAY_LEN(GOLDEN_GLOBAL); i++) {
        golden_visit(gw, &GOLDEN_GLOBAL[i], -1);
    }
    for (int il = 0; il < GOLDEN_L; il++) {
        for (size_t i = 0; i < ARRAY_LEN(GOLDEN_LAYER); i++) {
            if (golden_has(&GOLDEN_LAYER[i], il)) {
                golden_visit(gw, &GOLDEN_LAYER[i], il);
            }
        }
    }
}

static inline void golden_keys(struct gguf_writer *w)
{
    static const struct {
        const char *key;
        uint32_t v;
    } ints[] = {{"block_count", GOLDEN_L},
                {"context_length", 1024},
                {"embedding_length", GOLDEN_D},
                {"vocab_size", GOLDEN_V},
                {"attention.head_count", GOLDEN_H},
                {"attention.head_count_kv", 1},
                {"attention.key_length", GOLDEN_HD},
                {"attention.value_length", GOLDEN_HD},
                {"attention.q_lora_rank", GOLDEN_QL},
                {"attention.output_lora_rank", GOLDEN_OL},
                {"attention.output_group_count", GOLDEN_OG},
                {"attention.sliding_window", GOLDEN_W},
                {"attention.indexer.head_count", GOLDEN_IH},
                {"attention.indexer.key_length", GOLDEN_IHD},
                {"attention.indexer.top_k", GOLDEN_TOPK},
                {"rope.dimension_count", GOLDEN_RD},
                {"rope.scaling.original_context_length", 64},
                {"expert_count", GOLDEN_E},
                {"expert_used_count", GOLDEN_K},
                {"expert_shared_count", 1},
                {"expert_feed_forward_length", GOLDEN_F},
                {"expert_gating_func", 4},
                {"hash_layer_count", GOLDEN_N_HASH},
                {"hyper_connection.count", GOLDEN_HC},
                {"hyper_connection.sinkhorn_iterations", GOLDEN_ITERS}};
    static const struct {
        const char *key;
        float v;
    } floats[] = {{"attention.layer_norm_rms_epsilon", 1e-6f},
                  {"attention.compress_rope_freq_base", 160000},
                  {"rope.freq_base", 10000},
                  {"rope.scaling.factor", 16},
                  {"rope.scaling.yarn_beta_fast", 32},
                  {"rope.scaling.yarn_beta_slow", 1},
                  {"expert_weights_scale", 1.5f},
                  {"hyper_connection.epsilon", 1e-6f}};
    char key[96];
    gguf_writer_str(w, "general.architecture", SLICE("deepseek4"));
    for (size_t i = 0; i < ARRAY_LEN(ints); i++) {
        snprintf(key, sizeof key, "deepseek4.%s", ints[i].key);
        gguf_writer_u32(w, key, ints[i].v);
    }
    for (size_t i = 0; i < ARRAY_LEN(floats); i++) {
        snprintf(key, sizeof key, "deepseek4.%s", floats[i].key);
        gguf_writer_f32(w, key, floats[i].v);
    }
    float lim[GOLDEN_L];
    for (int i = 0; i < GOLDEN_L; i++) {
        lim[i] = 0.6f;
    }
    gguf_writer_arr_i32(w, "deepseek4.attention.compress_ratios", GOLDEN_RATIO, GOLDEN_L);
    gguf_writer_arr_f32(w, "deepseek4.swiglu_clamp_exp", lim, GOLDEN_L);
    gguf_writer_str(w, "deepseek4.rope.scaling.type", SLICE("yarn"));
    gguf_writer_bool(w, "deepseek4.expert_weights_norm", true);
}

/* Builds the file in memory, opens it, reads its shape and binds its weights. big_type: QT_F32,
 * or an encodable type for the dense and expert matrices. */
static inline void golden_open(struct golden *m, uint32_t big_type)
{
    memset(m, 0, sizeof *m);
    fathom_err err = {0};
    struct golden_writer gw = {.w = gguf_writer_new(), .big_type = big_type};
    GOLDEN_CHECK(gw.w, "out of memory");
    golden_keys(gw.w);
    golden_visit_all(&gw);
    struct buf head = {0};
    GOLDEN_CHECK(gguf_writer_header(gw.w, &head, &err) == 0 && !head.failed, err.msg);
    m->file_bytes = gguf_writer_file_bytes(gw.w);
    m->file = mem_alloc_aligned(64, m->file_bytes);
    GOLDEN_CHECK(m->file, "out of memory");
    memset(m->file, 0, m->file_bytes);
    memcpy(m->file, head.p, head.n);
    buf_free(&head);
    gw.file = m->file;
    golden_visit_all(&gw);
    gguf_writer_free(gw.w);
    GOLDEN_CHECK(gguf_open_mem(&m->g, m->file, m->file_bytes, "golden", &err) == 0, err.msg);
    GOLDEN_CHECK(shape_from_gguf(&m->shape, m->g, &err) == 0, err.msg);
    GOLDEN_CHECK(weights_bind(&m->w, m->g, &m->shape, &err) == 0, err.msg);
}

static inline void golden_close(struct golden *m)
{
    weights_free(&m->w);
    gguf_close(m->g);
    mem_free(m->file);
}

/* ---- running it ---- */

enum { GOLDEN_CTX = 512, GOLDEN_SLOTS = 8, GOLDEN_SEQS = 8, GOLDEN_PAGE_TOKENS = 128 };

/* One program on one backend with its own KV pool: sequence i uses state slot i and pages
 * [i * n_page, (i + 1) * n_page) unless a step says otherwise. */
struct golden_run {
    const struct backend *be;
    struct device *dev;
    struct layout layout;
    struct program *p;
    struct exec *ex;
    struct exec_bind bind;
    uint32_t n_page; /* of a sequence at full length */
};

struct golden_run_options {
    bool sim, act_f32;
    uint32_t t_max; /* also the most logits rows */
    uint32_t n_threads, cpu_mask;
    const char *debug;
};

static inline void golden_run_open(struct golden_run *r, const struct backend *be,
                                   const struct golden *m, const struct golden_run_options *o)
{
    memset(r, 0, sizeof *r);
    fathom_err err = {0};
    r->be = be;
    struct backend_config cfg = {
        .n_threads = o->n_threads, .cpu_mask = o->cpu_mask, .debug = o->debug};
    GOLDEN_CHECK(be->open(&r->dev, &cfg, &err) == 0, err.msg);
    struct backend_caps caps;
    be->caps(r->dev, &caps);
    GOLDEN_CHECK(be->weights_load(r->dev, m->w.w, m->w.n, &err) == 0, err.msg);
    GOLDEN_CHECK(layout_make(&r->layout, &m->shape, o->sim, GOLDEN_PAGE_TOKENS, &err) == 0,
                 err.msg);
    struct program_limits lim = {.t_max = o->t_max,
                                 .out_max = o->t_max,
                                 .seq_max = GOLDEN_SEQS,
                                 .n_slots = GOLDEN_SLOTS,
                                 .max_ctx = GOLDEN_CTX,
                                 .live_slack = caps.live_slack};
    struct forward_options fo = {.act_f32 = o->act_f32};
    r->p = forward_record(&m->shape, &m->w, &r->layout, &lim, &fo, &err);
    GOLDEN_CHECK(r->p, err.msg);
    r->n_page = GOLDEN_CTX / r->layout.page_tokens;
    const uint64_t bytes[4] = {r->p->arena_bytes, r->p->slot_bytes * GOLDEN_SLOTS,
                               r->p->page_bytes * r->n_page * GOLDEN_SLOTS, r->p->io_bytes};
    struct buffer **buf[4] = {&r->bind.arena, &r->bind.state, &r->bind.page, &r->bind.io};
    const enum buf_use use[4] = {BUF_ARENA, BUF_STATE, BUF_PAGE, BUF_IO};
    for (int i = 0; i < 4; i++) {
        GOLDEN_CHECK(be->buf_alloc(r->dev, buf[i], bytes[i], use[i], &err) == 0, err.msg);
    }
    GOLDEN_CHECK(be->compile(r->dev, &r->ex, r->p, &r->bind, &err) == 0, err.msg);
}

static inline void golden_run_close(struct golden_run *r)
{
    r->be->exec_free(r->dev, r->ex);
    r->be->buf_free(r->dev, r->bind.arena);
    r->be->buf_free(r->dev, r->bind.state);
    r->be->buf_free(r->dev, r->bind.page);
    r->be->buf_free(r->dev, r->bind.io);
    program_free(r->p);
    r->be->weights_free(r->dev);
    r->be->close(r->dev);
}

/* Tokens of one sequence in a step. */
struct golden_part {
    uint32_t state;    /* state slot */
    uint32_t pages_of; /* whose pages: usually = state */
    uint32_t n0, n_tok;
    uint32_t start, keep;
    const uint32_t *tok; /* [n_tok]; NULL: the golden tokens of positions n0 .. */
};

/* Runs one step with logits for every row; copies them to logits[row][GOLDEN_V] if not NULL. */
static inline void golden_step(struct golden_run *r, const struct golden_part *part,
                               uint32_t n_part, float *logits)
{
    enum { MAX_ROWS = 512, MAX_PAGES = GOLDEN_SEQS * 8 };
    uint32_t tok[MAX_ROWS], tok_seq[MAX_ROWS], out[MAX_ROWS], pages[MAX_PAGES];
    struct step_seq seq[GOLDEN_SEQS];
    struct step s = {.n_seq = n_part,
                     .seq = seq,
                     .tok = tok,
                     .tok_seq = tok_seq,
                     .pages = pages,
                     .out = out};
    for (uint32_t i = 0; i < n_part; i++) {
        const struct golden_part *q = &part[i];
        GOLDEN_CHECK(s.n_tok + q->n_tok <= MAX_ROWS, "step too long");
        seq[i] = (struct step_seq){.state = q->state,
                                   .n0 = q->n0,
                                   .n_tok = q->n_tok,
                                   .tok0 = s.n_tok,
                                   .start = q->start,
                                   .keep = q->keep,
                                   .page0 = s.n_page,
                                   .n_page = r->n_page,
                                   .out0 = s.n_tok,
                                   .n_out = q->n_tok};
        for (uint32_t k = 0; k < r->n_page; k++) {
            pages[s.n_page++] = q->pages_of * r->n_page + k;
        }
        for (uint32_t k = 0; k < q->n_tok; k++, s.n_tok++) {
            tok[s.n_tok] = q->tok ? q->tok[k] : golden_token(q->n0 + k);
            tok_seq[s.n_tok] = i;
            out[s.n_tok] = s.n_tok;
        }
    }
    s.n_out = s.n_tok;
    fathom_err err = {0};
    mem_guard_begin();
    GOLDEN_CHECK(r->be->submit(r->dev, r->ex, &s, &err) == 0, err.msg);
    GOLDEN_CHECK(r->be->wait(r->dev, &err) == 0, err.msg);
    GOLDEN_CHECK(mem_guard_end() == 0, "a step allocated memory");
    for (uint32_t i = 0; i < s.n_out && logits; i++) {
        r->be->buf_read(r->dev, r->bind.io,
                        r->p->io_logits.offset + i * r->p->io_logits.row_bytes,
                        logits + (size_t)i * GOLDEN_V, GOLDEN_V * sizeof *logits);
    }
}

/* Positions [from, to) of sequence `state` in chunks of at most `chunk`; logits (may be NULL)
 * is [to][GOLDEN_V], indexed by position. */
static inline void golden_feed(struct golden_run *r, uint32_t state, uint32_t from, uint32_t to,
                               uint32_t chunk, float *logits)
{
    for (uint32_t p = from; p < to; p += chunk) {
        struct golden_part part = {.state = state,
                                   .pages_of = state,
                                   .n0 = p,
                                   .n_tok = to - p < chunk ? to - p : chunk};
        golden_step(r, &part, 1, logits ? logits + (size_t)p * GOLDEN_V : NULL);
    }
}

static inline uint32_t golden_argmax(const float *logits)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < GOLDEN_V; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

#endif
