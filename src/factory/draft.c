/* draft.c - see draft.h. A stage is a block like those of the model, with window attention only
 * and without a hash table, so its tensors are those of the model's table for such a layer;
 * around them stand a few that only drafting has, listed here. */
#include "factory/draft.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "gguf/gguf.h"
#include "json/json.h"

/* Which stages have a tensor. */
enum where { EVERY, FIRST, LAST };
enum size { SIZE_1, SIZE_D, SIZE_HC, SIZE_HCD, SIZE_V, SIZE_STORED };

/* A tensor outside the block. SIZE_STORED: as the checkpoint has it. Names are behind "mtp.N.";
 * the official one may also lack ".weight". */
struct extra {
    const char *official, *gguf;
    enum draft_kind kind; /* DRAFT_NONE: both */
    enum where where;     /* of DSpark; MTP has all of its own in every stage */
    enum tensor_role role;
    enum size cols, rows; /* rows SIZE_1 and ROLE_VECTOR: a vector */
};

static const struct extra EXTRA[] = {
    {"e_proj.weight", "e_proj.weight", DRAFT_MTP, EVERY, ROLE_DENSE, SIZE_D, SIZE_D},
    {"h_proj.weight", "h_proj.weight", DRAFT_MTP, EVERY, ROLE_DENSE, SIZE_D, SIZE_D},
    {"enorm.weight", "enorm.weight", DRAFT_MTP, EVERY, ROLE_VECTOR, SIZE_D, SIZE_1},
    {"hnorm.weight", "hnorm.weight", DRAFT_MTP, EVERY, ROLE_VECTOR, SIZE_D, SIZE_1},
    {"main_proj.weight", "main_proj.weight", DRAFT_DSPARK, FIRST, ROLE_DENSE, SIZE_STORED,
     SIZE_D},
    {"main_norm.weight", "main_norm.weight", DRAFT_DSPARK, FIRST, ROLE_VECTOR, SIZE_D, SIZE_1},
    {"norm.weight", "norm.weight", DRAFT_NONE, LAST, ROLE_VECTOR, SIZE_D, SIZE_1},
    {"hc_head_fn", "hc_head_fn.weight", DRAFT_NONE, LAST, ROLE_HC_FN, SIZE_HCD, SIZE_HC},
    {"hc_head_base", "hc_head_base.weight", DRAFT_NONE, LAST, ROLE_VECTOR, SIZE_HC, SIZE_1},
    {"hc_head_scale", "hc_head_scale.weight", DRAFT_NONE, LAST, ROLE_VECTOR, SIZE_1, SIZE_1},
    {"markov_head.markov_w1.weight", "markov_head.w1.weight", DRAFT_DSPARK, LAST, ROLE_EMBED,
     SIZE_STORED, SIZE_V},
    {"markov_head.markov_w2.weight", "markov_head.w2.weight", DRAFT_DSPARK, LAST, ROLE_EMBED,
     SIZE_STORED, SIZE_V},
    {"confidence_head.proj.weight", "confidence_head.proj.weight", DRAFT_DSPARK, LAST,
     ROLE_ROUTER, SIZE_STORED, SIZE_1},
};

static const struct st_tensor *find(const struct st_set *set, const char *name)
{
    char longer[NAME_BYTES + 8];
    const struct st_tensor *t = st_find(set, name);
    snprintf(longer, sizeof longer, "model.%s", name);
    return t ? t : st_find(set, longer);
}

enum draft_kind draft_find(const struct st_set *set, uint32_t *n_stages)
{
    uint32_t n = 0;
    char name[NAME_BYTES];
    for (; n < DRAFT_MAX_STAGES; n++) {
        snprintf(name, sizeof name, "mtp.%u.attn_norm.weight", n);
        if (!find(set, name)) {
            break;
        }
    }
    *n_stages = n;
    bool dspark = find(set, "mtp.0.main_proj.weight") != NULL;
    return n == 0 ? DRAFT_NONE : dspark ? DRAFT_DSPARK : DRAFT_MTP;
}

const char *draft_kind_text(enum draft_kind kind)
{
    return kind == DRAFT_MTP ? "mtp" : kind == DRAFT_DSPARK ? "dspark" : "none";
}

static uint64_t size_of(enum size z, const struct shape *s, const struct st_tensor *t)
{
    switch (z) {
    case SIZE_1: return 1;
    case SIZE_D: return s->d;
    case SIZE_HC: return s->hc;
    case SIZE_HCD: return (uint64_t)s->hc * s->d;
    case SIZE_V: return s->n_vocab;
    case SIZE_STORED: return t && t->rank ? t->shape[t->rank - 1] : 0;
    }
    return 0;
}

static bool has(const struct extra *x, enum draft_kind kind, uint32_t stage, uint32_t n_stages)
{
    if (x->kind != DRAFT_NONE && x->kind != kind) {
        return false;
    }
    return kind == DRAFT_MTP || x->where == EVERY ||
           (x->where == FIRST ? stage == 0 : stage == n_stages - 1);
}

/* Writes the official name as this checkpoint spells it. */
static int fill_extra(struct tensor_def *d, const struct extra *x, uint32_t stage,
                      const struct shape *s, const struct st_set *set, fathom_err *err)
{
    static const char weight[] = ".weight";
    *d = (struct tensor_def){.role = x->role, .layer = -1, .n_mats = 1};
    snprintf(d->gguf, sizeof d->gguf, "mtp.%u.%s", stage, x->gguf);
    int n = snprintf(d->official, sizeof d->official, "mtp.%u.%s", stage, x->official);
    const struct st_tensor *t = find(set, d->official);
    size_t end = (size_t)n - (sizeof weight - 1);
    if (!t && strcmp(d->official + end, weight) == 0) {
        d->official[end] = 0;
        t = find(set, d->official);
    }
    d->cols = size_of(x->cols, s, t);
    d->rows = size_of(x->rows, s, t);
    d->rank = x->role == ROLE_VECTOR ? 1 : 2;
    return t && d->cols ? 0
                        : err_set(err, FATHOM_EFORMAT,
                                  "the draft blocks lack tensor mtp.%u.%s; leaving the draft "
                                  "blocks out (--no-mtp) still gives the model",
                                  stage, x->official);
}

/* "layers.0.X" and "blk.0.X" of a plain layer as those of a stage. */
static void rename_block(struct tensor_def *d, uint32_t stage)
{
    char official[NAME_BYTES], gguf[NAME_BYTES];
    snprintf(official, sizeof official, "mtp.%u.%s", stage, d->official + strlen("layers.0."));
    snprintf(gguf, sizeof gguf, "mtp.%u.%s", stage, d->gguf + strlen("blk.0."));
    memcpy(d->official, official, sizeof official);
    memcpy(d->gguf, gguf, sizeof gguf);
    d->layer = -1;
}

int draft_names(struct tensor_def **defs, size_t *n, const struct shape *s,
                const struct st_set *set, enum draft_kind kind, uint32_t n_stages,
                struct arena *a, fathom_err *err)
{
    struct shape *one = mem_alloc(1, sizeof *one); /* a model of one such block */
    if (!one) {
        return err_nomem(err, "the draft blocks", sizeof *one);
    }
    *one = *s;
    one->n_layer = 1;
    one->n_hash = 0;
    one->ratio[0] = 0;
    size_t n_one = names_count(one), cap = n_stages * (n_one + ARRAY_LEN(EXTRA));
    struct tensor_def *block = mem_alloc(n_one, sizeof *block);
    *defs = arena_alloc(a, cap * sizeof **defs);
    *n = 0;
    int rc = block && *defs ? 0 : err_nomem(err, "the draft blocks", cap * sizeof **defs);
    if (rc == 0) {
        names_fill(one, block);
    }
    for (uint32_t k = 0; rc == 0 && k < n_stages; k++) {
        for (size_t i = 0; rc == 0 && i < ARRAY_LEN(EXTRA); i++) {
            if (has(&EXTRA[i], kind, k, n_stages)) {
                rc = fill_extra(&(*defs)[(*n)++], &EXTRA[i], k, s, set, err);
            }
        }
        for (size_t i = 0; rc == 0 && i < n_one; i++) {
            if (block[i].layer == 0) {
                (*defs)[*n] = block[i];
                rename_block(&(*defs)[(*n)++], k);
            }
        }
    }
    mem_free(block);
    mem_free(one);
    return rc;
}

/* ---- keys ---- */

static void copy_u32(struct gguf_writer *w, const char *key, const struct json *v)
{
    int64_t i;
    if (json_int(v, &i) && i >= 0 && i <= UINT32_MAX) {
        gguf_writer_u32(w, key, (uint32_t)i);
    }
}

static void dspark_keys(struct gguf_writer *w, const struct json *config)
{
    int32_t layer[64];
    size_t n = 0;
    const struct json *targets = json_get(config, "dspark_target_layer_ids");
    int64_t v;
    while (n < ARRAY_LEN(layer) && json_int(json_at(targets, n), &v) && v >= 0 && v < 65536) {
        layer[n++] = (int32_t)v;
    }
    copy_u32(w, "fathom.draft.block_size", json_get(config, "dspark_block_size"));
    copy_u32(w, "fathom.draft.noise_token_id", json_get(config, "dspark_noise_token_id"));
    copy_u32(w, "fathom.draft.markov_rank", json_get(config, "dspark_markov_rank"));
    if (n) {
        gguf_writer_arr_i32(w, "fathom.draft.target_layers", layer, n);
    }
}

int draft_meta(struct gguf_writer *w, enum draft_kind kind, uint32_t n_stages, const char *dir,
               fathom_err *err)
{
    gguf_writer_str(w, "fathom.draft.kind", slice_of(draft_kind_text(kind)));
    gguf_writer_u32(w, "fathom.draft.stages", n_stages);
    if (kind != DRAFT_DSPARK) {
        return 0;
    }
    struct buf path = {0}, text = {0};
    struct arena a = {0};
    struct json config;
    buf_addf(&path, "%s/config.json", dir);
    int rc = path.failed ? err_nomem(err, "a path", path.n)
                         : file_read_all(&text, path.p, 16 << 20, err);
    rc = rc ? rc : json_read(&config, &a, buf_cstr(&text), text.n, err);
    if (rc == 0) {
        dspark_keys(w, &config);
    }
    arena_fini(&a);
    buf_free(&path);
    buf_free(&text);
    return rc;
}

char *draft_path(const char *out)
{
    static const char end[] = ".gguf";
    struct buf b = {0};
    size_t n = strlen(out), k = sizeof end - 1;
    n -= n > k && strcmp(out + n - k, end) == 0 ? k : 0;
    buf_add(&b, out, n);
    buf_adds(&b, ".mtp.gguf");
    char *path = b.failed ? NULL : mem_strdup(b.p);
    buf_free(&b);
    return path;
}
