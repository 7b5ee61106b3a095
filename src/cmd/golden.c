/* golden.c - see golden.h. The tensors come from the model's own table (model/roles.h), in its
 * order; a value is a function of the official tensor name and the element's index alone. Two
 * passes: record all tensors, then fill the file once its layout is known. */
#include "cmd/golden.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "model/roles.h"
#include "quant/encode.h"
#include "quant/formats.h"

static const struct shape SHAPE = {
    .n_vocab = GOLDEN_VOCAB,
    .d = 64,
    .n_layer = 6,
    .n_head = 4,
    .head_dim = 192,
    .rope_dim = 64,
    .q_lora = 32,
    .o_groups = 2,
    .o_lora = 16,
    .window = 16,
    .index_heads = 16,
    .index_dim = 128,
    .index_topk = 5,
    .n_ff = 64,
    .n_expert = 8,
    .n_used = 2,
    .n_hash = 2,
    .route_scale = 1.5f,
    .hc = 4,
    .sinkhorn_iters = 20,
    .eps = 1e-6f,
    .hc_eps = 1e-6f,
    .theta = 10000,
    .theta_compress = 160000,
    .yarn_factor = 16,
    .yarn_beta_fast = 32,
    .yarn_beta_slow = 1,
    .yarn_orig = 64,
    .max_ctx = 1024,
    .max_ratio = 128,
    .ratio = {0, 4, 128, 4, 8, 0},
};
static const float SWIGLU_LIMIT = 0.6f;

static const struct golden_row SIM_OFF[] = {
    {0, 51, {-0.69256, 0.67148, 1.52837, -0.11361}, 69.23343},
    {3, 23, {-0.07985, 0.93486, 0.80901, 1.46027}, 77.07558},
    {4, 47, {-0.54312, 0.62470, 0.31671, 2.11438}, 87.81727},
    {7, 26, {0.79204, -0.00087, 1.30184, 1.24817}, 77.10530},
    {20, 26, {1.70545, 1.52745, 0.16585, -0.27108}, 72.61454},
    {127, 51, {-0.67391, -0.32070, 2.03367, -0.90550}, 83.08905},
    {128, 51, {-1.78125, -1.22833, -0.49061, 0.38788}, 76.40392},
    {255, 90, {-0.70985, 0.35659, 0.96373, -1.97957}, 78.91853},
    {299, 62, {-0.27026, 0.39565, 1.52456, -0.36254}, 86.24151},
};
static const struct golden_row NATIVE[] = {
    {0, 51, {-0.68439, 0.69340, 1.55619, -0.11599}, 69.78902},
    {3, 23, {-0.10853, 0.99879, 0.82190, 1.41005}, 77.40156},
    {4, 47, {-0.54118, 0.66208, 0.31069, 2.07978}, 88.21067},
    {7, 26, {0.80498, 0.02554, 1.25317, 1.24494}, 77.20104},
    {15, 2, {0.36927, 1.20141, 2.77203, 0.65534}, 85.15696},
    {20, 26, {1.65797, 1.52981, 0.19828, -0.26203}, 72.88744},
};

const struct golden_row *golden_rows(bool sim, size_t *n)
{
    *n = sim ? ARRAY_LEN(NATIVE) : ARRAY_LEN(SIM_OFF);
    return sim ? NATIVE : SIM_OFF;
}

uint32_t golden_id(uint32_t p)
{
    return (uint32_t)(splitmix64(7777u + (uint64_t)p) % GOLDEN_VOCAB);
}

static uint64_t fnv1a(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) {
        h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    }
    return h;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* n values of the float tensor with this official name. */
static void fill_floats(const char *name, uint32_t rank, uint64_t cols, size_t n, float *out)
{
    uint64_t base = fnv1a(name);
    float scale = (float)sqrt(3.0 / (double)cols);
    for (size_t i = 0; i < n; i++) {
        float u = (float)((double)(splitmix64(base + i) >> 40) / 0x1p23 - 1.0);
        if (strstr(name, "norm")) {
            out[i] = 1 + 0.25f * u;
        } else if (strcmp(name, "embed.weight") == 0) {
            out[i] = u;
        } else if (ends_with(name, "ape")) {
            out[i] = 3 * u;
        } else if (ends_with(name, "_scale")) {
            out[i] = 0.75f + 0.25f * u;
        } else {
            out[i] = rank == 1 ? 0.5f * u : u * scale;
        }
    }
}

/* Two different experts for every token. */
static void fill_table(const char *name, int32_t *out)
{
    uint64_t base = fnv1a(name);
    for (uint32_t t = 0; t < SHAPE.n_vocab; t++) {
        uint64_t r = splitmix64(base + t), first = (r >> 8) % SHAPE.n_expert;
        out[2 * t] = (int32_t)first;
        out[2 * t + 1] =
            (int32_t)((first + 1 + (r >> 32) % (SHAPE.n_expert - 1)) % SHAPE.n_expert);
    }
}

/* Official name: "layers.N." before, the expert's number in place of '*'. */
static void official_name(const struct tensor_role_def *r, int il, uint64_t expert, char *out,
                          size_t cap)
{
    int at = il < 0 ? 0 : snprintf(out, cap, "layers.%d.", il);
    const char *star = strchr(r->official, '*');
    int head = star ? (int)(star - r->official) : (int)strlen(r->official);
    at += snprintf(out + at, cap - (size_t)at, "%.*s", head, r->official);
    if (star) {
        snprintf(out + at, cap - (size_t)at, "%llu%s", (unsigned long long)expert, star + 1);
    }
}

/* Type in a file whose large matrices are `big`. */
static uint32_t type_of(const struct tensor_role_def *r, uint32_t big)
{
    if (r->kind == TENSOR_TABLE) {
        return QT_I32;
    }
    bool large = r->role == ROLE_DENSE || r->role == ROLE_GATE_EXPS ||
                 r->role == ROLE_UP_EXPS || r->role == ROLE_DOWN_EXPS;
    return r->kind == TENSOR_MATRIX && large ? big : QT_F32;
}

static int fill_rows(const char *name, uint32_t rank, uint64_t cols, size_t n, uint32_t type,
                     unsigned char *out, fathom_err *err)
{
    if (type == QT_F32) {
        fill_floats(name, rank, cols, n, (float *)(void *)out);
        return 0;
    }
    float *x = mem_alloc(n, sizeof *x);
    if (!x) {
        return err_nomem(err, "golden model", n * sizeof *x);
    }
    fill_floats(name, rank, cols, n, x);
    size_t row_bytes = qformat_row_bytes(type, cols);
    for (size_t i = 0; i < n / cols; i++) {
        quant_encode(type, x + i * cols, (uint32_t)cols, out + i * row_bytes);
    }
    mem_free(x);
    return 0;
}

/* Records the tensor in w (file NULL), or fills its place in the file. */
static int visit(struct gguf_writer *w, const struct tensor_role_def *r, int il, int index,
                 uint32_t big, unsigned char *file, fathom_err *err)
{
    uint32_t type = type_of(r, big);
    char name[128];
    uint64_t ne[3];
    uint32_t rank = role_rank(r);
    role_dims(&SHAPE, il < 0 ? 0 : (uint32_t)il, r, ne);
    if (!file) {
        role_name(r, il, name, sizeof name);
        int rc = gguf_writer_tensor(w, name, type, rank, ne, err);
        return rc < 0 ? rc : 0;
    }
    unsigned char *at = file + gguf_writer_offset(w, index);
    size_t n = ne[0] * ne[1];
    int rc = 0;
    for (uint64_t m = 0; m < ne[2] && rc == 0; m++) {
        official_name(r, il, m, name, sizeof name);
        if (r->kind == TENSOR_TABLE) {
            fill_table(name, (int32_t *)(void *)at);
        } else {
            rc = fill_rows(name, rank, ne[0], n, type,
                           at + m * ne[1] * qformat_row_bytes(type, ne[0]), err);
        }
    }
    return rc;
}

static int visit_all(struct gguf_writer *w, uint32_t big, unsigned char *file, fathom_err *err)
{
    size_t n_global, n_layer;
    const struct tensor_role_def *global = roles_global(&n_global),
                                 *layer = roles_layer(&n_layer);
    int index = 0, rc = 0;
    for (size_t i = 0; i < n_global && rc == 0; i++) {
        rc = visit(w, &global[i], -1, index++, big, file, err);
    }
    for (uint32_t il = 0; il < SHAPE.n_layer; il++) {
        for (size_t i = 0; i < n_layer && rc == 0; i++) {
            if (role_in_layer(&SHAPE, il, &layer[i])) {
                rc = visit(w, &layer[i], (int)il, index++, big, file, err);
            }
        }
    }
    return rc;
}

static void write_keys(struct gguf_writer *w)
{
    struct shape s = SHAPE;
    for (uint32_t i = 0; i < s.n_layer; i++) {
        s.swiglu_lim[i] = SWIGLU_LIMIT;
    }
    shape_to_gguf(w, &s);
    gguf_writer_str(w, "general.name", SLICE("golden tiny model"));
}

int golden_build(unsigned char **out, size_t *n_bytes, uint32_t big, fathom_err *err)
{
    struct gguf_writer *w = gguf_writer_new();
    struct buf head = {0};
    unsigned char *file = NULL;
    if (!w) {
        return err_nomem(err, "golden model", 0);
    }
    write_keys(w);
    int rc = visit_all(w, big, NULL, err);
    rc = rc ? rc : gguf_writer_header(w, &head, err);
    if (rc == 0) {
        *n_bytes = gguf_writer_file_bytes(w);
        file = mem_alloc_aligned(4096, *n_bytes);
        rc = file ? 0 : err_nomem(err, "golden model", *n_bytes);
    }
    if (rc == 0) {
        memset(file, 0, *n_bytes);
        memcpy(file, head.p, head.n);
        rc = visit_all(w, big, file, err);
    }
    buf_free(&head);
    gguf_writer_free(w);
    *out = file;
    return rc;
}
