/* factory_common.h - for the tests of src/factory: a temporary directory, safetensors files
 * built piece by piece, and a tiny checkpoint of every storage form with its exact values. */
#ifndef TESTS_FACTORY_COMMON_H
#define TESTS_FACTORY_COMMON_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "factory/config.h"
#include "factory/names.h"

/* ---- temporary directory ---- */

static char tmp_dir[512];

static inline void tmp_make(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(tmp_dir, sizeof tmp_dir, "%s/fathom-factory-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(tmp_dir));
}

/* Removes every file in the directory (there are no folders in it). */
static inline void tmp_clear(void)
{
    DIR *d = opendir(tmp_dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", tmp_dir, e->d_name);
        if (e->d_name[0] != '.') {
            unlink(path);
        }
    }
    if (d) {
        closedir(d);
    }
}

static inline void tmp_remove(void)
{
    tmp_clear();
    rmdir(tmp_dir);
}

static inline const char *tmp_path(const char *name) /* four buffers in turn */
{
    static char bufs[4][1024];
    static unsigned turn;
    char *b = bufs[turn++ % 4];
    snprintf(b, sizeof bufs[0], "%s/%s", tmp_dir, name);
    return b;
}

static inline void write_whole(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline bool path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* ---- safetensors bytes ---- */

/* u64 length, header text, data. */
static inline void st_bytes(struct buf *out, const char *header, const void *data, size_t n)
{
    uint8_t len[8];
    store_le64(len, strlen(header));
    buf_clear(out);
    buf_add(out, len, 8);
    buf_adds(out, header);
    buf_add(out, data, n);
    assert_false(out->failed);
}

/* ---- a checkpoint, tensor by tensor ---- */

struct made {
    char name[NAME_BYTES];
    const char *dtype;
    uint32_t rank;
    uint64_t shape[2];
    struct buf data;
    bool skip; /* not written */
};

enum { MADE_MAX = 400 };

struct made_set {
    struct made t[MADE_MAX];
    size_t n;
    char config[2048];
    struct shape c;
};

static inline struct made *made_find(struct made_set *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->t[i].name, name) == 0) {
            return &s->t[i];
        }
    }
    return NULL;
}

static inline struct made *made_add(struct made_set *s, const char *name, const char *dtype,
                                    uint32_t rank, uint64_t rows, uint64_t cols, size_t bytes)
{
    assert_true(s->n < MADE_MAX);
    struct made *m = &s->t[s->n++];
    *m = (struct made){.dtype = dtype, .rank = rank};
    snprintf(m->name, sizeof m->name, "%s", name);
    m->shape[0] = rank == 1 ? cols : rows;
    m->shape[1] = cols;
    assert_true(buf_reserve(&m->data, bytes + 1));
    m->data.n = bytes;
    return m;
}

static inline void fill_codes(struct made *m, struct rng *g, int lo, int n_codes)
{
    for (size_t i = 0; i < m->data.n; i++) {
        m->data.p[i] = (char)(lo + (int)rng_below(g, (uint32_t)n_codes));
    }
}

/* A weight (and its scale) in the release's storage form for its role. */
static inline void made_weight(struct made_set *s, const struct tensor_def *d, uint32_t mat,
                               struct rng *g)
{
    char name[NAME_BYTES], scale[NAME_BYTES];
    names_source(d, mat, false, name);
    names_source(d, mat, true, scale);
    uint64_t n = d->rows * d->cols;
    if (d->role == ROLE_TABLE) {
        struct made *m = made_add(s, name, "I64", 2, d->rows, d->cols, n * 8);
        for (uint64_t i = 0; i < n; i++) {
            store_le64(m->data.p + 8 * i, rng_below(g, s->c.n_expert));
        }
    } else if (d->rank == 3) {
        fill_codes(made_add(s, name, "I8", 2, d->rows, d->cols / 2, n / 2), g, 0, 256);
        fill_codes(made_add(s, scale, "F8_E8M0", 2, d->rows, d->cols / 32, n / 32), g, 110, 20);
    } else if (d->role == ROLE_DENSE) {
        struct made *m = made_add(s, name, "F8_E4M3", 2, d->rows, d->cols, n);
        fill_codes(m, g, 0, 127); /* no NaN; signs below */
        for (uint64_t i = 0; i < n; i++) {
            m->data.p[i] = (char)(m->data.p[i] | (rng_u64(g) & 1 ? 0x80 : 0));
        }
        uint64_t r = (d->rows + 127) / 128, c = (d->cols + 127) / 128;
        fill_codes(made_add(s, scale, "F8_E8M0", 2, r, c, r * c), g, 110, 12);
    } else if (d->role == ROLE_HC_FN || (d->role == ROLE_VECTOR && !strstr(name, "norm"))) {
        struct made *m = made_add(s, name, "F32", d->rank, d->rows, d->cols, n * 4);
        for (uint64_t i = 0; i < n; i++) {
            store_le32(m->data.p + 4 * i, f32_bits(rng_sym(g)));
        }
    } else {
        struct made *m = made_add(s, name, "BF16", d->rank, d->rows, d->cols, n * 2);
        for (uint64_t i = 0; i < n; i++) {
            store_le16(m->data.p + 2 * i, f32_to_bf16(rng_sym(g)));
        }
    }
}

/* Odd sizes on purpose: tiles of 128 are cut (D 160, 192 rows of wq_b), q_lora 48 is no
 * multiple of 32. */
static const char made_config[] =
    "{\"model_type\":\"deepseek_v4\",\"vocab_size\":70,\"hidden_size\":160,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"head_dim\":96,\"qk_rope_head_dim\":32,"
    "\"q_lora_rank\":48,\"o_groups\":2,\"o_lora_rank\":16,\"sliding_window\":8,"
    "\"compress_ratios\":[0,4,16,0],\"index_n_heads\":2,\"index_head_dim\":32,\"index_topk\":4,"
    "\"moe_intermediate_size\":96,\"n_routed_experts\":3,\"num_experts_per_tok\":2,"
    "\"num_hash_layers\":1,\"routed_scaling_factor\":1.5,\"swiglu_limit\":10.0,\"hc_mult\":2,"
    "\"hc_sinkhorn_iters\":3,\"rope_theta\":10000,\"compress_rope_theta\":160000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,"
    "\"original_max_position_embeddings\":4096,\"beta_fast\":32,\"beta_slow\":1}}";

static inline struct made_set *made_checkpoint(uint64_t seed)
{
    struct made_set *s = calloc(1, sizeof *s);
    assert_non_null(s);
    snprintf(s->config, sizeof s->config, "%s", made_config);
    assert_int_equal(config_parse(&s->c, s->config, strlen(s->config), "config.json", NULL), 0);
    struct rng g = {seed};
    size_t n = names_count(&s->c);
    struct tensor_def *defs = calloc(n, sizeof *defs);
    assert_non_null(defs);
    names_fill(&s->c, defs);
    for (size_t i = 0; i < n; i++) {
        for (uint32_t m = 0; m < defs[i].n_mats; m++) {
            made_weight(s, &defs[i], m, &g);
        }
    }
    free(defs);
    return s;
}

static inline void made_free(struct made_set *s)
{
    for (size_t i = 0; i < s->n; i++) {
        buf_free(&s->t[i].data);
    }
    free(s);
}

/* The exact value of an element, by the definitions of model.md section 2. */
static inline double made_value(struct made_set *s, const char *name, uint64_t row,
                                uint64_t col)
{
    struct made *m = made_find(s, name);
    assert_non_null(m);
    const unsigned char *p = (const unsigned char *)m->data.p;
    uint64_t cols = m->rank == 1 ? m->shape[0] : m->shape[1], at = row * cols + col;
    if (strcmp(m->dtype, "BF16") == 0) {
        return bf16_to_f32(load_le16(p + 2 * at));
    }
    if (strcmp(m->dtype, "F32") == 0) {
        return f32_from_bits(load_le32(p + 4 * at));
    }
    char scale_name[NAME_BYTES];
    snprintf(scale_name, sizeof scale_name, "%.*s.scale", (int)strlen(name) - 7, name);
    struct made *sc = made_find(s, scale_name);
    assert_non_null(sc);
    const unsigned char *q = (const unsigned char *)sc->data.p;
    if (strcmp(m->dtype, "F8_E4M3") == 0) {
        int code = p[at], e = code >> 3 & 15, f = code & 7;
        double v = e ? ldexp(8 + f, e - 10) : ldexp(f, -9);
        return ldexp(code & 0x80 ? -v : v, q[row / 128 * sc->shape[1] + col / 128] - 127);
    }
    static const double magnitude[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    int code = p[row * cols + col / 2] >> (col % 2 ? 4 : 0) & 15;
    double v = code & 8 ? -magnitude[code & 7] : magnitude[code & 7];
    return ldexp(v, q[row * sc->shape[1] + col / 32] - 127);
}

/* Writes tensors [from, to) as one safetensors file, names after `prefix`. */
static inline void made_write_file(const struct made_set *s, size_t from, size_t to,
                                   const char *prefix, const char *path)
{
    struct buf header = {0}, data = {0}, all = {0};
    buf_adds(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = from; i < to; i++) {
        const struct made *m = &s->t[i];
        if (m->skip) {
            continue;
        }
        buf_addf(&header, ",\"%s%s\":{\"dtype\":\"%s\",\"shape\":[%llu", prefix, m->name,
                 m->dtype, (unsigned long long)m->shape[0]);
        if (m->rank == 2) {
            buf_addf(&header, ",%llu", (unsigned long long)m->shape[1]);
        }
        buf_addf(&header, "],\"data_offsets\":[%zu,%zu]}", data.n, data.n + m->data.n);
        buf_add(&data, m->data.p, m->data.n);
    }
    buf_adds(&header, "}");
    st_bytes(&all, buf_cstr(&header), data.p, data.n);
    write_whole(path, all.p, all.n);
    buf_free(&header);
    buf_free(&data);
    buf_free(&all);
}

/* Writes the checkpoint into the temporary directory; with n_shards > 1 as index and shards. */
static inline void made_write(const struct made_set *s, size_t n_shards, const char *prefix)
{
    tmp_clear();
    write_whole(tmp_path("config.json"), s->config, strlen(s->config));
    if (n_shards <= 1) {
        made_write_file(s, 0, s->n, prefix, tmp_path("model.safetensors"));
        return;
    }
    struct buf index = {0};
    size_t per = (s->n + n_shards - 1) / n_shards;
    buf_adds(&index, "{\"metadata\":{},\"weight_map\":{");
    for (size_t k = 0, i = 0; k < n_shards; k++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, n_shards);
        size_t end = (k + 1) * per < s->n ? (k + 1) * per : s->n;
        made_write_file(s, i, end, prefix, tmp_path(name));
        for (; i < end; i++) {
            buf_addf(&index, "%s\"%s%s\":\"%s\"", i ? "," : "", prefix, s->t[i].name, name);
        }
    }
    buf_adds(&index, "}}");
    write_whole(tmp_path("model.safetensors.index.json"), index.p, index.n);
    buf_free(&index);
}

#endif
