/* imatrix_gguf.c - the GGUF form of an importance matrix: for every weight tensor NAME two F32
 * tensors, NAME.in_sum2 with dims [n_cols, n_mat] (raw sums) and NAME.counts with n_mat values.
 * The container itself is checked by the GGUF reader; here only what makes it an importance
 * matrix. */
#include <math.h>

#include "base/num.h"
#include "factory/imatrix_int.h"
#include "gguf/gguf.h"
#include "quant/formats.h"

static const char SUMS[] = ".in_sum2", COUNTS[] = ".counts";

static bool ends_with(struct slice s, const char *end, size_t n)
{
    return s.n > n && memcmp(s.p + s.n - n, end, n) == 0;
}

static int bad(const struct imatrix *im, struct slice name, const char *what, fathom_err *err)
{
    return err_set(err, FATHOM_EFORMAT, "%s: tensor %.*s: %s", im->label,
                   (int)MIN(name.n, (size_t)IMATRIX_MAX_NAME), name.p, what);
}

/* The counts that belong to sums; *count in the arena. */
static int read_counts(struct imatrix *im, const char *name, struct imatrix_entry *e,
                       fathom_err *err)
{
    char full[IMATRIX_MAX_NAME + sizeof COUNTS];
    size_t n = strlen(name);
    memcpy(full, name, n);
    memcpy(full + n, COUNTS, sizeof COUNTS);
    const struct gguf_tensor *t = gguf_find_tensor(im->gguf, full);
    if (!t) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s%s has no %s", im->label, name, SUMS, full);
    }
    if (t->type != QT_F32 || t->bytes != (uint64_t)e->n_mat * 4) {
        return bad(im, t->name, "must be F32, one value for each matrix of the sums", err);
    }
    double *count = arena_alloc(&im->arena, e->n_mat * sizeof *count);
    if (!count) {
        return err_nomem(err, im->label, e->n_mat * sizeof *count);
    }
    for (uint32_t i = 0; i < e->n_mat; i++) {
        unsigned char raw[4];
        int rc = imatrix_bytes(im, t->offset + 4u * (uint64_t)i, 4, raw, err);
        float v = rc ? 0 : f32_from_bits(load_le32(raw));
        if (rc || !(v >= 0 && isfinite(v))) {
            return rc ? rc : bad(im, t->name, "a count is negative or not finite", err);
        }
        count[i] = (double)v;
    }
    e->count = count;
    return 0;
}

static int read_entry(struct imatrix *im, const struct gguf_tensor *t, fathom_err *err)
{
    size_t n = t->name.n - (sizeof SUMS - 1);
    uint64_t mats = t->ne[1] * t->ne[2] * t->ne[3]; /* no overflow: the bytes exist */
    if (t->type != QT_F32) {
        return bad(im, t->name, "must be F32", err);
    }
    if (n > IMATRIX_MAX_NAME || memchr(t->name.p, 0, n)) {
        return bad(im, t->name, "no usable name", err);
    }
    if (mats > IMATRIX_MAX_MATS) {
        return bad(im, t->name, "too many matrices", err);
    }
    struct imatrix_entry *e = &im->e[im->n];
    *e = (struct imatrix_entry){.name = arena_strndup(&im->arena, t->name.p, n),
                                .n_values = t->ne[0] * mats,
                                .n_cols = t->ne[0],
                                .n_mat = (uint32_t)mats,
                                .divisor = 1,
                                .at = t->offset};
    int rc = e->name ? read_counts(im, e->name, e, err) : err_nomem(err, im->label, n);
    im->n += rc == 0;
    return rc;
}

static int read_entries(struct imatrix *im, fathom_err *err)
{
    size_t n = gguf_n_tensors(im->gguf), n_sums = 0, n_counts = 0;
    im->e = arena_alloc(&im->arena, (n + 1) * sizeof *im->e);
    if (!im->e) {
        return err_nomem(err, im->label, n * sizeof *im->e);
    }
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(im->gguf, i);
        int rc = 0;
        if (ends_with(t->name, SUMS, sizeof SUMS - 1)) {
            n_sums++;
            rc = read_entry(im, t, err);
        } else if (ends_with(t->name, COUNTS, sizeof COUNTS - 1)) {
            n_counts++;
        } else {
            rc = bad(im, t->name, "does not belong into an importance matrix", err);
        }
        if (rc) {
            return rc;
        }
    }
    return n_counts == n_sums ? 0
                              : err_set(err, FATHOM_EFORMAT, "%s: %zu sums but %zu counts",
                                        im->label, n_sums, n_counts);
}

static int read_datasets(struct imatrix *im, fathom_err *err)
{
    const struct gguf_kv *kv = gguf_find(im->gguf, "imatrix.datasets");
    if (!kv || kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING) {
        return 0; /* only for people */
    }
    im->dataset = arena_alloc(&im->arena, (size_t)(kv->n + 1) * sizeof *im->dataset);
    if (!im->dataset) {
        return err_nomem(err, im->label, (size_t)kv->n * sizeof *im->dataset);
    }
    size_t cursor = 0;
    while (gguf_str_next(kv, &cursor, &im->dataset[im->n_dataset])) {
        im->n_dataset++;
    }
    return 0;
}

static uint32_t key_u32(const struct imatrix *im, const char *key)
{
    uint64_t v;
    return gguf_u64(gguf_find(im->gguf, key), &v) && v <= UINT32_MAX ? (uint32_t)v : 0;
}

int imatrix_parse_gguf(struct imatrix *im, fathom_err *err)
{
    struct slice type;
    if (!gguf_str(gguf_find(im->gguf, "general.type"), &type) || !slice_is(type, "imatrix")) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: a GGUF file, but no importance matrix (general.type is not "
                       "\"imatrix\")",
                       im->label);
    }
    if (gguf_n_parts(im->gguf) != 1) {
        return err_set(err, FATHOM_EUNSUPPORTED, "%s: a split importance matrix", im->label);
    }
    im->chunk_count = key_u32(im, "imatrix.chunk_count");
    im->chunk_size = key_u32(im, "imatrix.chunk_size");
    int rc = read_datasets(im, err);
    return rc ? rc : read_entries(im, err);
}
