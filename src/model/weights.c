/* weights.c - binds tensors to roles (see weights.h). One table lists every tensor of the
 * model: GGUF name, draft aliases, where its handle goes, dimensions as symbols of the shape,
 * when a layer has it, and its recipe role. Loading, shape-only programs and all error texts
 * come from it. What a type may be is decided by kind: matrices any float or decodable block
 * format, vectors any float format (converted to F32 once), the hash table I32 with every entry
 * checked. */
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

#include "gguf/gguf.h"
#include "quant/formats.h"
#include "quant/recipe.h"

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
enum when { ALWAYS, COMPRESSED, INDEXED, HASHED, ROUTED };
enum kind { MAT, VEC, TABLE };

struct role {
    const char *name;  /* within the layer, or global */
    const char *alias; /* draft name, or NULL */
    size_t handle;     /* offset in struct weights_layer, or struct weights */
    uint8_t kind, when, role;
    uint8_t dim[3]; /* GGUF order: cols, rows, matrices; X0 = absent */
};
#define G(f) offsetof(struct weights, f)
#define L(f) offsetof(struct weights_layer, f)

static const struct role GLOBAL[] = {
    {"token_embd.weight", NULL, G(embed), MAT, ALWAYS, ROLE_EMBED, {D_D, D_V}},
    {"output.weight", NULL, G(head), MAT, ALWAYS, ROLE_HEAD, {D_D, D_V}},
    {"output_norm.weight", NULL, G(norm), VEC, ALWAYS, ROLE_VECTOR, {D_D}},
    {"output_hc_fn.weight",
     "hc_head_fn",
     G(hc_head_fn),
     MAT,
     ALWAYS,
     ROLE_SMALL,
     {D_HCD, D_HC}},
    {"output_hc_base.weight",
     "hc_head_base",
     G(hc_head_base),
     VEC,
     ALWAYS,
     ROLE_VECTOR,
     {D_HC}},
    {"output_hc_scale.weight",
     "hc_head_scale",
     G(hc_head_scale),
     VEC,
     ALWAYS,
     ROLE_VECTOR,
     {D_1}},
};

static const struct role LAYER[] = {
    {"attn_norm.weight", NULL, L(attn_norm), VEC, ALWAYS, ROLE_VECTOR, {D_D}},
    {"ffn_norm.weight", NULL, L(ffn_norm), VEC, ALWAYS, ROLE_VECTOR, {D_D}},
    {"hc_attn_fn.weight", NULL, L(hc_attn_fn), MAT, ALWAYS, ROLE_SMALL, {D_HCD, D_MIX}},
    {"hc_attn_base.weight", NULL, L(hc_attn_base), VEC, ALWAYS, ROLE_VECTOR, {D_MIX}},
    {"hc_attn_scale.weight", NULL, L(hc_attn_scale), VEC, ALWAYS, ROLE_VECTOR, {D_MIX3}},
    {"hc_ffn_fn.weight", NULL, L(hc_ffn_fn), MAT, ALWAYS, ROLE_SMALL, {D_HCD, D_MIX}},
    {"hc_ffn_base.weight", NULL, L(hc_ffn_base), VEC, ALWAYS, ROLE_VECTOR, {D_MIX}},
    {"hc_ffn_scale.weight", NULL, L(hc_ffn_scale), VEC, ALWAYS, ROLE_VECTOR, {D_MIX3}},
    {"attn_q_a.weight", NULL, L(wq_a), MAT, ALWAYS, ROLE_DENSE, {D_D, D_QL}},
    {"attn_q_a_norm.weight", NULL, L(q_norm), VEC, ALWAYS, ROLE_VECTOR, {D_QL}},
    {"attn_q_b.weight", NULL, L(wq_b), MAT, ALWAYS, ROLE_DENSE, {D_QL, D_QOUT}},
    {"attn_kv.weight",
     "attn_kv_latent.weight|attn_kv_a_mqa.weight",
     L(wkv),
     MAT,
     ALWAYS,
     ROLE_DENSE,
     {D_D, D_HD}},
    {"attn_kv_a_norm.weight", NULL, L(kv_norm), VEC, ALWAYS, ROLE_VECTOR, {D_HD}},
    {"attn_sinks.weight", NULL, L(sinks), VEC, ALWAYS, ROLE_VECTOR, {D_HEADS}},
    {"attn_output_a.weight", NULL, L(wo_a), MAT, ALWAYS, ROLE_DENSE, {D_OIN, D_OLOW}},
    {"attn_output_b.weight", NULL, L(wo_b), MAT, ALWAYS, ROLE_DENSE, {D_OLOW, D_D}},
    {"attn_compressor_kv.weight",
     "attn_compress_kv.weight",
     L(comp_kv),
     MAT,
     COMPRESSED,
     ROLE_SMALL,
     {D_D, D_KHD}},
    {"attn_compressor_gate.weight",
     "attn_compress_gate.weight",
     L(comp_gate),
     MAT,
     COMPRESSED,
     ROLE_SMALL,
     {D_D, D_KHD}},
    {"attn_compressor_ape.weight",
     "attn_compress_ape.weight",
     L(comp_ape),
     VEC,
     COMPRESSED,
     ROLE_VECTOR,
     {D_KHD, D_RATIO}},
    {"attn_compressor_norm.weight",
     "attn_compress_norm.weight",
     L(comp_norm),
     VEC,
     COMPRESSED,
     ROLE_VECTOR,
     {D_HD}},
    {"indexer.attn_q_b.weight", NULL, L(index_q), MAT, INDEXED, ROLE_SMALL, {D_QL, D_IQOUT}},
    {"indexer.proj.weight", NULL, L(index_proj), MAT, INDEXED, ROLE_SMALL, {D_D, D_IH}},
    {"indexer_compressor_kv.weight",
     "indexer.compress_kv.weight",
     L(index_comp_kv),
     MAT,
     INDEXED,
     ROLE_SMALL,
     {D_D, D_KIHD}},
    {"indexer_compressor_gate.weight",
     "indexer.compress_gate.weight",
     L(index_comp_gate),
     MAT,
     INDEXED,
     ROLE_SMALL,
     {D_D, D_KIHD}},
    {"indexer_compressor_ape.weight",
     "indexer.compress_ape.weight",
     L(index_comp_ape),
     VEC,
     INDEXED,
     ROLE_VECTOR,
     {D_KIHD, D_RATIO}},
    {"indexer_compressor_norm.weight",
     "indexer.compress_norm.weight",
     L(index_comp_norm),
     VEC,
     INDEXED,
     ROLE_VECTOR,
     {D_IHD}},
    {"ffn_gate_inp.weight", NULL, L(router), MAT, ALWAYS, ROLE_SMALL, {D_D, D_E}},
    {"exp_probs_b.bias", NULL, L(router_bias), VEC, ROUTED, ROLE_VECTOR, {D_E}},
    {"ffn_gate_tid2eid.weight", NULL, L(tid2eid), TABLE, HASHED, ROLE_TABLE, {D_K, D_V}},
    {"ffn_gate_exps.weight", NULL, L(gate_exps), MAT, ALWAYS, ROLE_EXPERT_UP, {D_D, D_F, D_E}},
    {"ffn_up_exps.weight", NULL, L(up_exps), MAT, ALWAYS, ROLE_EXPERT_UP, {D_D, D_F, D_E}},
    {"ffn_down_exps.weight",
     NULL,
     L(down_exps),
     MAT,
     ALWAYS,
     ROLE_EXPERT_DOWN,
     {D_F, D_D, D_E}},
    {"ffn_gate_shexp.weight", NULL, L(gate_shexp), MAT, ALWAYS, ROLE_DENSE, {D_D, D_F}},
    {"ffn_up_shexp.weight", NULL, L(up_shexp), MAT, ALWAYS, ROLE_DENSE, {D_D, D_F}},
    {"ffn_down_shexp.weight", NULL, L(down_shexp), MAT, ALWAYS, ROLE_DENSE, {D_F, D_D}},
};

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

static bool has_role(const struct shape *s, uint32_t il, const struct role *r)
{
    switch ((enum when)r->when) {
    case ALWAYS: return true;
    case COMPRESSED: return s->ratio[il] != 0;
    case INDEXED: return s->ratio[il] == 4;
    case HASHED: return shape_is_hash(s, il);
    case ROUTED: return !shape_is_hash(s, il);
    }
    return false;
}

/* ---- binding to a file ---- */

static const struct gguf_tensor *lookup(const struct gguf *g, const struct role *r, int il,
                                        char *name, size_t cap)
{
    char prefix[32] = "";
    if (il >= 0) {
        snprintf(prefix, sizeof prefix, "blk.%d.", il);
    }
    snprintf(name, cap, "%s%s", prefix, r->name);
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    for (const char *a = r->alias; !t && a;) {
        size_t n = strcspn(a, "|");
        char other[128];
        snprintf(other, sizeof other, "%s%.*s", prefix, (int)n, a);
        t = gguf_find_tensor(g, other);
        if (!t) { /* drafts write some names without the suffix, some with */
            snprintf(other, sizeof other, "%s%.*s.weight", prefix, (int)n, a);
            t = gguf_find_tensor(g, other);
        }
        a = a[n] ? a + n + 1 : NULL;
    }
    return t;
}

static int check_dims(const struct gguf *g, const struct gguf_tensor *t, const struct shape *s,
                      uint32_t il, const struct role *r, const char *name, fathom_err *err)
{
    uint32_t rank = r->dim[2] ? 3 : r->dim[1] ? 2 : 1;
    bool ok = t->rank == rank;
    for (uint32_t i = 0; i < rank && ok; i++) {
        ok = t->ne[i] == dim_value(s, il, r->dim[i]);
    }
    if (!ok) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s has dimensions [%llu, %llu, %llu] (rank %u), the model's "
                       "metadata asks for [%u, %u, %u] (rank %u)",
                       gguf_label(g), name, (unsigned long long)t->ne[0],
                       (unsigned long long)t->ne[1], (unsigned long long)t->ne[2], t->rank,
                       dim_value(s, il, r->dim[0]), dim_value(s, il, r->dim[1]),
                       dim_value(s, il, r->dim[2]), rank);
    }
    return 0;
}

static int check_type(const struct gguf *g, const struct gguf_tensor *t, const struct role *r,
                      const char *name, fathom_err *err)
{
    enum qclass cls = qformat(t->type)->cls;
    bool ok = r->kind == MAT   ? cls == QC_FLOAT || cls == QC_BLOCK
              : r->kind == VEC ? cls == QC_FLOAT
                               : t->type == QT_I32;
    if (!ok) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s has type %s, which cannot be used here", gguf_label(g),
                       name, qformat(t->type)->name);
    }
    if ((uintptr_t)t->data % 32 != 0) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s is not aligned to 32 bytes; rewrite the file with "
                       "general.alignment 32 or more",
                       gguf_label(g), name);
    }
    return 0;
}

static int check_table(const struct gguf *g, const struct gguf_tensor *t, const struct shape *s,
                       const char *name, fathom_err *err)
{
    const int32_t *v = (const int32_t *)(const void *)t->data;
    for (uint64_t i = 0; i < t->ne[0] * t->ne[1]; i++) {
        if (v[i] < 0 || (uint32_t)v[i] >= s->n_expert) {
            return err_set(err, FATHOM_EFORMAT,
                           "%s: tensor %s names expert %d for token %llu, there are %u",
                           gguf_label(g), name, v[i], (unsigned long long)(i / t->ne[0]),
                           s->n_expert);
        }
    }
    return 0;
}

static int add(struct weights *w, const char *name, const struct gguf_tensor *t, uint32_t type,
               const uint64_t ne[3], uint16_t *handle, fathom_err *err)
{
    char *own = arena_strndup(&w->copies, name, strlen(name));
    if (!own) {
        return err_nomem(err, name, strlen(name));
    }
    struct op_weight *o = &w->w[w->n];
    *o = (struct op_weight){.name = own,
                            .type = type,
                            .cols = (uint32_t)ne[0],
                            .rows = (uint32_t)ne[1],
                            .n_mat = (uint32_t)ne[2],
                            .row_bytes = qformat_row_bytes(type, ne[0]),
                            .data = t ? t->data : NULL};
    o->bytes = o->row_bytes * o->rows * o->n_mat;
    w->bytes += o->bytes;
    *handle = (uint16_t)w->n++;
    return 0;
}

/* A vector stored in 16 bits gets an F32 copy: vectors are tiny, ops want one form. */
static int widen(struct weights *w, uint16_t handle, const struct gguf_tensor *t,
                 fathom_err *err)
{
    struct op_weight *o = &w->w[handle];
    if (o->type == QT_F32) {
        return 0;
    }
    float *f = arena_alloc(&w->copies, (size_t)o->cols * o->rows * sizeof *f);
    if (!f) {
        return err_nomem(err, o->name, (size_t)o->cols * o->rows * sizeof *f);
    }
    for (uint32_t i = 0; i < o->rows; i++) {
        quant_decode(t->type, t->data + i * t->row_bytes, 0, o->cols, f + (size_t)i * o->cols);
    }
    o->type = QT_F32;
    o->row_bytes = (uint64_t)o->cols * sizeof *f;
    o->data = f;
    return 0;
}

static int bind_role(struct weights *w, const struct gguf *g, const struct shape *s, int il,
                     const struct role *r, uint16_t *handle, fathom_err *err)
{
    char name[160];
    uint32_t layer = il >= 0 ? (uint32_t)il : 0;
    const struct gguf_tensor *t = lookup(g, r, il, name, sizeof name);
    if (!t) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is missing", gguf_label(g), name);
    }
    int rc = check_dims(g, t, s, layer, r, name, err);
    rc = rc ? rc : check_type(g, t, r, name, err);
    rc = rc ? rc : add(w, name, t, t->type, t->ne, handle, err);
    if (rc == 0 && r->kind == VEC) {
        rc = widen(w, *handle, t, err);
    }
    if (rc == 0 && r->kind == TABLE) {
        rc = check_table(g, t, s, name, err);
    }
    return rc;
}

static int weights_init(struct weights *w, const struct shape *s, fathom_err *err)
{
    *w = (struct weights){0};
    size_t n = ARRAY_LEN(GLOBAL) + (size_t)s->n_layer * ARRAY_LEN(LAYER);
    w->w = mem_calloc(n, sizeof *w->w);
    w->layer = mem_calloc(s->n_layer, sizeof *w->layer);
    if (!w->w || !w->layer) {
        return err_nomem(err, "weight table", n * sizeof *w->w);
    }
    memset(w->layer, 0xFF, s->n_layer * sizeof *w->layer); /* WEIGHT_NONE everywhere */
    return 0;
}

int weights_bind(struct weights *w, const struct gguf *g, const struct shape *s,
                 fathom_err *err)
{
    int rc = weights_init(w, s, err);
    for (size_t i = 0; i < ARRAY_LEN(GLOBAL) && rc == 0; i++) {
        rc = bind_role(w, g, s, -1, &GLOBAL[i],
                       (uint16_t *)(void *)((char *)w + GLOBAL[i].handle), err);
    }
    for (uint32_t il = 0; il < s->n_layer && rc == 0; il++) {
        for (size_t i = 0; i < ARRAY_LEN(LAYER) && rc == 0; i++) {
            if (has_role(s, il, &LAYER[i])) {
                rc = bind_role(w, g, s, (int)il, &LAYER[i],
                               (uint16_t *)(void *)((char *)&w->layer[il] + LAYER[i].handle),
                               err);
            }
        }
    }
    if (rc) {
        weights_free(w);
    }
    return rc;
}

/* ---- without a file ---- */

static int make_role(struct weights *w, const struct shape *s, int il, const struct role *r,
                     const struct recipe *rec, uint16_t *handle, fathom_err *err)
{
    char name[160] = "";
    uint32_t layer = il >= 0 ? (uint32_t)il : 0;
    snprintf(name, sizeof name, il >= 0 ? "blk.%d.%s" : "%.0d%s", il >= 0 ? il : 0, r->name);
    uint64_t ne[3];
    for (int i = 0; i < 3; i++) {
        ne[i] = dim_value(s, layer, r->dim[i]);
    }
    uint32_t type = recipe_type(rec, (enum tensor_role)r->role, ne[0], NULL);
    return add(w, name, NULL, type, ne, handle, err);
}

int weights_from_shape(struct weights *w, const struct shape *s, const char *recipe,
                       fathom_err *err)
{
    const struct recipe *rec = recipe_by_name(recipe);
    if (!rec) {
        return err_set(err, FATHOM_EINVAL, "unknown recipe \"%s\"", recipe);
    }
    int rc = weights_init(w, s, err);
    for (size_t i = 0; i < ARRAY_LEN(GLOBAL) && rc == 0; i++) {
        rc = make_role(w, s, -1, &GLOBAL[i], rec,
                       (uint16_t *)(void *)((char *)w + GLOBAL[i].handle), err);
    }
    for (uint32_t il = 0; il < s->n_layer && rc == 0; il++) {
        for (size_t i = 0; i < ARRAY_LEN(LAYER) && rc == 0; i++) {
            if (has_role(s, il, &LAYER[i])) {
                rc = make_role(w, s, (int)il, &LAYER[i], rec,
                               (uint16_t *)(void *)((char *)&w->layer[il] + LAYER[i].handle),
                               err);
            }
        }
    }
    if (rc) {
        weights_free(w);
    }
    return rc;
}

void weights_free(struct weights *w)
{
    mem_free(w->w);
    mem_free(w->layer);
    arena_fini(&w->copies);
    *w = (struct weights){0};
}
