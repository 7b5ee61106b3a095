/* weights.c - binds tensors to roles (see weights.h). The table of roles (roles.c) says what
 * there is; this file looks tensors up, checks dimensions and types by kind, checks values that
 * index memory, and makes the F32 copies of vectors. Files and shape-only programs take one
 * walk. */
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

#include "gguf/gguf.h"
#include "model/roles.h"
#include "quant/formats.h"

/* Finds a tensor by name, then by its draft aliases; name receives the proper one. */
static const struct gguf_tensor *lookup(const struct gguf *g, const struct tensor_role_def *r,
                                        int il, char *name, size_t cap)
{
    char prefix[32] = "";
    if (il >= 0) {
        snprintf(prefix, sizeof prefix, "blk.%d.", il);
    }
    role_name(r, il, name, cap);
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
                      uint32_t il, const struct tensor_role_def *r, const char *name,
                      fathom_err *err)
{
    uint64_t ne[3];
    role_dims(s, il, r, ne);
    bool ok = t->rank == role_rank(r);
    for (uint32_t i = 0; i < 3 && ok; i++) {
        ok = t->ne[i] == ne[i];
    }
    if (!ok) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s has dimensions [%llu, %llu, %llu] (rank %u), the model's "
                       "metadata asks for [%llu, %llu, %llu] (rank %u)",
                       gguf_label(g), name, (unsigned long long)t->ne[0],
                       (unsigned long long)t->ne[1], (unsigned long long)t->ne[2], t->rank,
                       (unsigned long long)ne[0], (unsigned long long)ne[1],
                       (unsigned long long)ne[2], role_rank(r));
    }
    return 0;
}

static int check_type(const struct gguf *g, const struct gguf_tensor *t,
                      const struct tensor_role_def *r, const char *name, fathom_err *err)
{
    enum qclass cls = qformat(t->type)->cls;
    bool ok = r->kind == TENSOR_MATRIX   ? cls == QC_FLOAT || cls == QC_BLOCK
              : r->kind == TENSOR_VECTOR ? cls == QC_FLOAT
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

/* Appends a weight; data NULL for shape-only ones. */
static int add(struct weights *w, const char *name, const void *data, uint32_t type,
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
                            .data = data};
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
    size_t n = (size_t)o->cols * o->rows;
    float *f = arena_alloc(&w->copies, n * sizeof *f);
    if (!f) {
        return err_nomem(err, o->name, n * sizeof *f);
    }
    for (uint32_t i = 0; i < o->rows; i++) {
        quant_decode(t->type, t->data + i * t->row_bytes, 0, o->cols, f + (size_t)i * o->cols);
    }
    o->type = QT_F32;
    o->row_bytes = (uint64_t)o->cols * sizeof *f;
    o->data = f;
    return 0;
}

/* Where the walk takes tensors from: a file, or a recipe (then data is NULL). */
struct source {
    const struct gguf *g;
    const struct recipe *recipe;
};

static int bind_role(struct weights *w, const struct source *src, const struct shape *s, int il,
                     const struct tensor_role_def *r, fathom_err *err)
{
    char name[160];
    uint32_t layer = il >= 0 ? (uint32_t)il : 0;
    char *base = il >= 0 ? (char *)&w->layer[il] : (char *)w;
    uint16_t *handle = (uint16_t *)(void *)(base + r->handle);
    if (src->recipe) {
        uint64_t ne[3];
        role_dims(s, layer, r, ne);
        role_name(r, il, name, sizeof name);
        uint32_t type =
            recipe_type(src->recipe, (enum tensor_role)r->role, il, s->n_layer, ne[0], NULL);
        return add(w, name, NULL, type, ne, handle, err);
    }
    const struct gguf_tensor *t = lookup(src->g, r, il, name, sizeof name);
    if (!t) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s is missing", gguf_label(src->g),
                       name);
    }
    int rc = check_dims(src->g, t, s, layer, r, name, err);
    rc = rc ? rc : check_type(src->g, t, r, name, err);
    rc = rc ? rc : add(w, name, t->data, t->type, t->ne, handle, err);
    if (rc == 0 && r->kind == TENSOR_VECTOR) {
        rc = widen(w, *handle, t, err);
    }
    if (rc == 0 && r->kind == TENSOR_TABLE) {
        rc = check_table(src->g, t, s, name, err);
    }
    return rc;
}

static int bind_all(struct weights *w, const struct source *src, const struct shape *s,
                    fathom_err *err)
{
    size_t n_global, n_layer;
    const struct tensor_role_def *global = roles_global(&n_global);
    const struct tensor_role_def *layer = roles_layer(&n_layer);
    size_t n = n_global + (size_t)s->n_layer * n_layer;
    *w = (struct weights){.w = mem_calloc(n, sizeof *w->w),
                          .layer = mem_calloc(s->n_layer, sizeof *w->layer)};
    int rc = w->w && w->layer ? 0 : err_nomem(err, "weight table", n * sizeof *w->w);
    if (rc == 0) { /* WEIGHT_NONE everywhere */
        memset(w->layer, 0xFF, s->n_layer * sizeof *w->layer);
    }
    for (size_t i = 0; i < n_global && rc == 0; i++) {
        rc = bind_role(w, src, s, -1, &global[i], err);
    }
    for (uint32_t il = 0; il < s->n_layer && rc == 0; il++) {
        for (size_t i = 0; i < n_layer && rc == 0; i++) {
            if (role_in_layer(s, il, &layer[i])) {
                rc = bind_role(w, src, s, (int)il, &layer[i], err);
            }
        }
    }
    if (rc) {
        weights_free(w);
    }
    return rc;
}

int weights_bind(struct weights *w, const struct gguf *g, const struct shape *s,
                 fathom_err *err)
{
    return bind_all(w, &(struct source){.g = g}, s, err);
}

int weights_from_shape(struct weights *w, const struct shape *s, const char *recipe,
                       fathom_err *err)
{
    const struct recipe *rec = recipe_find(recipe, err);
    if (!rec) {
        *w = (struct weights){0};
        return FATHOM_EINVAL;
    }
    return bind_all(w, &(struct source){.recipe = rec}, s, err);
}

void weights_free(struct weights *w)
{
    mem_free(w->w);
    mem_free(w->layer);
    arena_fini(&w->copies);
    *w = (struct weights){0};
}
