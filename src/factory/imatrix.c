/* imatrix.c - values of an open importance matrix, and the importance of a matrix's columns that
 * they are turned into (imatrix.h). Opening: imatrix_open.c. */
#include "factory/imatrix_int.h"

#include <float.h>
#include <math.h>

#include "base/num.h"
#include "gguf/gguf.h"

/* ---- reading ---- */

int imatrix_bytes(const struct imatrix *im, uint64_t at, size_t n, void *out, fathom_err *err)
{
    if (at > im->file->n || n > im->file->n - at) {
        return err_set(err, FATHOM_EFORMAT, "%s: ends early", im->label);
    }
    if (im->file->fd < 0) {
        memcpy(out, im->file->p + at, n);
        return 0;
    }
    return file_pread_full(im->file->fd, out, n, at, im->label, err);
}

int imatrix_values(const struct imatrix *im, const struct imatrix_entry *e, uint64_t from,
                   uint64_t n, float *out, fathom_err *err)
{
    if (from > e->n_values || n > e->n_values - from) {
        return err_set(err, FATHOM_EINVAL, "%s: %s has no values there", im->label, e->name);
    }
    int rc = imatrix_bytes(im, e->at + 4 * from, (size_t)(4 * n), out, err);
    for (uint64_t i = 0; rc == 0 && i < n; i++) { /* little-endian, in place */
        out[i] = f32_from_bits(load_le32(&out[i]));
    }
    return rc;
}

/* ---- finding ---- */

const struct imatrix_entry *imatrix_find(const struct imatrix *im, const char *name)
{
    size_t lo = 0, hi = im->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct imatrix_entry *e = &im->e[im->sorted[mid]];
        int c = strcmp(name, e->name);
        if (c == 0) {
            return e;
        }
        *(c < 0 ? &hi : &lo) = c < 0 ? mid : mid + 1;
    }
    return NULL;
}

void imatrix_close(struct imatrix *im)
{
    if (im) {
        gguf_close(im->gguf);
        file_map_close(&im->map);
        arena_fini(&im->arena);
        mem_free(im->label);
        mem_free(im);
    }
}

const char *imatrix_label(const struct imatrix *im)
{
    return im->label;
}

bool imatrix_is_legacy(const struct imatrix *im)
{
    return !im->gguf;
}

size_t imatrix_n(const struct imatrix *im)
{
    return im->n;
}

const struct imatrix_entry *imatrix_at(const struct imatrix *im, size_t i)
{
    return i < im->n ? &im->e[i] : NULL;
}

size_t imatrix_n_datasets(const struct imatrix *im)
{
    return im->n_dataset;
}

struct slice imatrix_dataset(const struct imatrix *im, size_t i)
{
    return i < im->n_dataset ? im->dataset[i] : (struct slice){"", 0};
}

uint32_t imatrix_chunk_count(const struct imatrix *im)
{
    return im->chunk_count;
}

uint32_t imatrix_chunk_size(const struct imatrix *im)
{
    return im->chunk_size;
}

uint64_t imatrix_digest(const struct imatrix *im)
{
    return im->digest;
}

/* ---- importance ---- */

/* What a legacy file holds for an expert that was never chosen. */
static bool all_ones(const float *v, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (v[i] != 1.0f) {
            return false;
        }
    }
    return true;
}

/* Was this vector of the entry measured at all? v: its values. */
static bool measured(const struct imatrix_use *u, uint32_t mat, const float *v)
{
    if (u->e->count) {
        return u->e->count[mat] > 0;
    }
    return u->shared || u->n_mat == 1 || !all_ones(v, u->n_cols);
}

/* Sums of one vector of the entry, and how many inputs they stand for (legacy: means, 1). */
static int read_mat(const struct imatrix_use *u, uint32_t mat, float *v, double *count,
                    fathom_err *err)
{
    int rc = imatrix_values(u->im, u->e, (u->shared ? 0 : mat) * u->n_cols, u->n_cols, v, err);
    *count = 0;
    if (rc == 0 && measured(u, u->shared ? 0 : mat, v)) {
        *count = u->e->count ? u->e->count[u->shared ? 0 : mat] : u->e->divisor;
    }
    return rc;
}

/* A count below one (no writer has such) must not make an infinity of a finite sum. */
static float to_float(double v)
{
    return v < (double)FLT_MAX ? (float)v : FLT_MAX;
}

/* The mean over all inputs of all matrices, and how many matrices met few of them or none. */
static int take_mean(struct imatrix_use *u, double shrink, float *v, double *sum,
                     fathom_err *err)
{
    double total = 0, count;
    uint32_t n = u->shared ? 1 : u->n_mat;
    memset(sum, 0, (size_t)u->n_cols * sizeof *sum);
    for (uint32_t m = 0; m < n; m++) {
        int rc = read_mat(u, m, v, &count, err);
        if (rc) {
            return rc;
        }
        for (uint64_t c = 0; count > 0 && c < u->n_cols; c++) {
            sum[c] += (double)v[c];
        }
        total += count;
        u->n_none += count <= 0;
        u->n_few += u->e->count && n > 1 && count > 0 && count < shrink;
    }
    for (uint64_t c = 0; c < u->n_cols; c++) {
        u->mean[c] = total > 0 ? to_float(sum[c] / total) : 0;
    }
    if (total <= 0) {
        u->e = NULL; /* nothing was ever measured here */
    }
    return 0;
}

static int check_size(const struct imatrix_use *u, fathom_err *err)
{
    const struct imatrix_entry *e = u->e;
    bool fits = (e->n_cols == 0 || e->n_cols == u->n_cols) &&
                (e->n_values == u->n_cols ||
                 (e->n_values % u->n_cols == 0 && e->n_values / u->n_cols == u->n_mat));
    return fits
               ? 0
               : err_set(err, FATHOM_EFORMAT,
                         "%s: %s has %llu values; the model's tensor needs %llu x %u (is it of "
                         "another model?)",
                         u->im->label, e->name, (unsigned long long)e->n_values,
                         (unsigned long long)u->n_cols, u->n_mat);
}

int imatrix_bind(struct imatrix_use *use, const struct imatrix *im, const char *name,
                 uint64_t n_cols, uint32_t n_mat, double shrink, struct arena *a,
                 fathom_err *err)
{
    *use = (struct imatrix_use){.im = im, .n_cols = n_cols, .n_mat = n_mat};
    use->e = imatrix_find(im, name);
    int rc = use->e ? check_size(use, err) : 0;
    if (rc || !use->e) {
        return rc;
    }
    use->shared = use->e->n_values == n_cols;
    use->mean = arena_alloc(a, (size_t)n_cols * sizeof *use->mean);
    float *v = mem_alloc((size_t)n_cols, sizeof *v);
    double *sum = mem_alloc((size_t)n_cols, sizeof *sum);
    rc = use->mean && v && sum ? take_mean(use, shrink, v, sum, err)
                               : err_nomem(err, name, (size_t)n_cols * 16);
    mem_free(v);
    mem_free(sum);
    return rc;
}

int imatrix_weights(const struct imatrix_use *use, uint32_t mat, double shrink, float *out,
                    fathom_err *err)
{
    double count;
    int rc = read_mat(use, mat, out, &count, err);
    if (rc) {
        return rc;
    }
    double k = use->e->count && !use->shared && use->n_mat > 1 ? shrink : 0;
    for (uint64_t c = 0; c < use->n_cols; c++) {
        double mean = (double)use->mean[c];
        out[c] = to_float(count > 0 ? ((double)out[c] + k * mean) / (count + k) : mean);
    }
    return 0;
}
