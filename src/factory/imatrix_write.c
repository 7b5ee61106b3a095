/* imatrix_write.c - the GGUF form written, and files of it added up (imatrix.h). Tensors lie in
 * order of name, sums before counts. Values stream through one row, so a merge of any size
 * needs little memory; sums are added in double, file after file in the order given. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "factory/imatrix.h"
#include "gguf/gguf.h"
#include "quant/formats.h"

/* ---- writing ---- */

struct writer {
    const struct imatrix_writing *w;
    struct gguf_writer *g;
    struct buf header;
    struct file_out f;
    double *sum;
    unsigned char *raw;
};

static int add_tensor(struct gguf_writer *g, const char *name, const char *suffix, uint64_t n0,
                      uint64_t n1, fathom_err *err)
{
    struct buf full = {0};
    buf_addf(&full, "%s%s", name, suffix);
    uint64_t ne[2] = {n0, n1};
    int at = full.failed ? err_nomem(err, name, full.n)
                         : gguf_writer_tensor(g, full.p, QT_F32, 2, ne, err);
    buf_free(&full);
    return at < 0 ? at : 0;
}

static int make_header(struct writer *k, fathom_err *err)
{
    const struct imatrix_writing *w = k->w;
    gguf_writer_str(k->g, "general.type", SLICE("imatrix"));
    gguf_writer_arr_str(k->g, "imatrix.datasets", w->datasets, w->n_datasets);
    gguf_writer_u32(k->g, "imatrix.chunk_count", w->chunk_count);
    gguf_writer_u32(k->g, "imatrix.chunk_size", w->chunk_size);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < w->n; i++) {
        const struct imatrix_tensor *t = &w->t[i];
        rc = add_tensor(k->g, t->name, ".in_sum2", t->n_cols, t->n_mat, err);
        rc = rc ? rc : add_tensor(k->g, t->name, ".counts", 1, t->n_mat, err);
    }
    return rc ? rc : gguf_writer_header(k->g, &k->header, err);
}

/* Doubles to the file's floats; refuses what is no sum of squares. */
static int put(struct writer *k, const char *name, const double *v, uint64_t n, uint64_t at,
               fathom_err *err)
{
    for (uint64_t i = 0; i < n; i++) {
        float f = (float)v[i];
        if (!(v[i] >= 0 && isfinite(f))) {
            return err_set(err, FATHOM_EINVAL,
                           "%s: column %llu: the sum is %g (did the model compute NaN?)", name,
                           (unsigned long long)i, v[i]);
        }
        store_le32(k->raw + 4 * i, f32_bits(f));
    }
    return file_out_pwrite(&k->f, k->raw, (size_t)(4 * n), at, err);
}

static int write_tensor(struct writer *k, size_t i, fathom_err *err)
{
    const struct imatrix_tensor *t = &k->w->t[i];
    uint64_t at = gguf_writer_offset(k->g, (int)(2 * i));
    int rc = 0;
    for (uint32_t m = 0; rc == 0 && m < t->n_mat; m++) {
        rc = k->w->sums(k->w->user, i, m, k->sum, err);
        rc = rc ? rc : put(k, t->name, k->sum, t->n_cols, at + m * t->n_cols * 4, err);
    }
    return rc ? rc
              : put(k, t->name, t->count, t->n_mat, gguf_writer_offset(k->g, (int)(2 * i + 1)),
                    err);
}

static int write_all(struct writer *k, const char *path, fathom_err *err)
{
    uint64_t row = 1;
    for (size_t i = 0; i < k->w->n; i++) {
        row = MAX(row, MAX(k->w->t[i].n_cols, (uint64_t)k->w->t[i].n_mat));
    }
    k->sum = mem_alloc((size_t)row, sizeof *k->sum);
    k->raw = mem_alloc((size_t)row, 4);
    if (!k->sum || !k->raw) {
        return err_nomem(err, path, (size_t)row * 12);
    }
    int rc = file_out_open(&k->f, path, err);
    /* gaps between tensors are holes, which read as zeros */
    if (rc == 0 && ftruncate(k->f.fd, (off_t)gguf_writer_file_bytes(k->g)) != 0) {
        rc = err_sys(err, k->f.part, "cannot set the size");
    }
    rc = rc ? rc : file_out_pwrite(&k->f, k->header.p, k->header.n, 0, err);
    for (size_t i = 0; rc == 0 && i < k->w->n; i++) {
        rc = write_tensor(k, i, err);
    }
    if (rc == 0) {
        return file_out_commit(&k->f, err);
    }
    file_out_abort(&k->f);
    return rc;
}

int imatrix_write(const char *path, const struct imatrix_writing *w, fathom_err *err)
{
    struct writer k = {.w = w, .g = gguf_writer_new(), .f = {.fd = -1}};
    int rc = k.g ? make_header(&k, err) : err_nomem(err, path, 0);
    rc = rc ? rc : write_all(&k, path, err);
    gguf_writer_free(k.g);
    buf_free(&k.header);
    mem_free(k.sum);
    mem_free(k.raw);
    return rc;
}

/* ---- merging ---- */

struct merge {
    struct imatrix **in; /* [n_in] */
    size_t n_in;
    struct imatrix_tensor *t;
    size_t n;
    struct slice *datasets;
    float *row;
    struct arena arena;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct imatrix_tensor *)a)->name,
                  ((const struct imatrix_tensor *)b)->name);
}

static int merged_sums(void *user, size_t i, uint32_t mat, double *out, fathom_err *err)
{
    const struct merge *m = user;
    const struct imatrix_tensor *t = &m->t[i];
    memset(out, 0, (size_t)t->n_cols * sizeof *out);
    for (size_t k = 0; k < m->n_in; k++) {
        const struct imatrix_entry *e = imatrix_find(m->in[k], t->name);
        int rc = e ? imatrix_values(m->in[k], e, mat * t->n_cols, t->n_cols, m->row, err) : 0;
        if (rc) {
            return rc;
        }
        for (uint64_t c = 0; e && c < t->n_cols; c++) {
            out[c] += (double)m->row[c];
        }
    }
    return 0;
}

/* Adds the counts of one input's entry to the tensor of that name (a new one if t is NULL). */
static int add_counts(struct merge *m, struct imatrix_tensor *t, size_t k,
                      const struct imatrix_entry *e, fathom_err *err)
{
    double *count;
    if (!t) {
        count = arena_alloc(&m->arena, e->n_mat * sizeof *count); /* zeroed */
        if (!count) {
            return err_nomem(err, e->name, e->n_mat * sizeof *count);
        }
        m->t[m->n++] = (struct imatrix_tensor){e->name, e->n_cols, e->n_mat, count};
    } else if (t->n_cols != e->n_cols || t->n_mat != e->n_mat) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: %s is %llu x %u here and %llu x %u in another file",
                       imatrix_label(m->in[k]), e->name, (unsigned long long)e->n_cols,
                       e->n_mat, (unsigned long long)t->n_cols, t->n_mat);
    } else {
        count = (double *)(uintptr_t)t->count;
    }
    for (uint32_t i = 0; i < e->n_mat; i++) {
        count[i] += e->count[i];
    }
    return 0;
}

/* The list of tensors of all inputs, by name. */
static int unite(struct merge *m, fathom_err *err)
{
    size_t cap = 1;
    for (size_t k = 0; k < m->n_in; k++) {
        cap += imatrix_n(m->in[k]);
    }
    m->t = mem_alloc(cap, sizeof *m->t);
    if (!m->t) {
        return err_nomem(err, "the list of entries", cap * sizeof *m->t);
    }
    for (size_t k = 0; k < m->n_in; k++) {
        size_t n_before = m->n; /* names are distinct within a file */
        for (size_t i = 0; i < imatrix_n(m->in[k]); i++) {
            const struct imatrix_entry *e = imatrix_at(m->in[k], i);
            struct imatrix_tensor key = {.name = e->name};
            int rc =
                add_counts(m, bsearch(&key, m->t, n_before, sizeof key, by_name), k, e, err);
            if (rc) {
                return rc;
            }
        }
        qsort(m->t, m->n, sizeof *m->t, by_name);
    }
    return 0;
}

static int open_inputs(struct merge *m, const char *const *paths, size_t n, fathom_err *err)
{
    m->in = mem_calloc(n, sizeof *m->in);
    int rc = m->in ? 0 : err_nomem(err, "the list of files", n * sizeof *m->in);
    for (; rc == 0 && m->n_in < n; m->n_in += rc == 0) {
        rc = imatrix_open(&m->in[m->n_in], paths[m->n_in], err);
        if (rc == 0 && imatrix_is_legacy(m->in[m->n_in])) {
            rc = err_set(err, FATHOM_EUNSUPPORTED,
                         "%s: a legacy importance matrix holds means without counts and cannot "
                         "be added up; convert takes it as it is",
                         paths[m->n_in]);
            imatrix_close(m->in[m->n_in]);
        }
    }
    return rc;
}

/* Data sets in order, each once; chunks add up. */
static int merge_keys(struct merge *m, struct imatrix_writing *w, fathom_err *err)
{
    size_t cap = 1;
    for (size_t k = 0; k < m->n_in; k++) {
        cap += imatrix_n_datasets(m->in[k]);
    }
    m->datasets = mem_alloc(cap, sizeof *m->datasets);
    if (!m->datasets) {
        return err_nomem(err, "the list of data sets", cap * sizeof *m->datasets);
    }
    for (size_t k = 0; k < m->n_in; k++) {
        for (size_t i = 0; i < imatrix_n_datasets(m->in[k]); i++) {
            struct slice s = imatrix_dataset(m->in[k], i);
            size_t have = 0;
            while (have < w->n_datasets && !slice_eq(m->datasets[have], s)) {
                have++;
            }
            m->datasets[have] = s;
            w->n_datasets = MAX(w->n_datasets, have + 1);
        }
        w->chunk_count += imatrix_chunk_count(m->in[k]);
        w->chunk_size = MAX(w->chunk_size, imatrix_chunk_size(m->in[k]));
    }
    w->datasets = m->datasets;
    return 0;
}

/* Says which files lack entries that others have: usually a mistake. */
static void report_gaps(const struct merge *m, void (*report)(void *user, const char *line),
                        void *user)
{
    for (size_t k = 0; report && k < m->n_in; k++) {
        if (imatrix_n(m->in[k]) != m->n) {
            char line[512];
            snprintf(line, sizeof line, "warning: %s has %zu of %zu entries",
                     imatrix_label(m->in[k]), imatrix_n(m->in[k]), m->n);
            report(user, line);
        }
    }
}

int imatrix_merge(const char *out, const char *const *paths, size_t n,
                  void (*report)(void *user, const char *line), void *user, fathom_err *err)
{
    struct merge m = {0};
    struct imatrix_writing w = {.sums = merged_sums, .user = &m};
    uint64_t cols = 1;
    int rc = open_inputs(&m, paths, n, err);
    rc = rc ? rc : unite(&m, err);
    rc = rc ? rc : merge_keys(&m, &w, err);
    for (size_t i = 0; rc == 0 && i < m.n; i++) {
        cols = MAX(cols, m.t[i].n_cols);
    }
    m.row = mem_alloc((size_t)cols, sizeof *m.row);
    if (rc == 0 && !m.row) {
        rc = err_nomem(err, "a row", (size_t)cols * sizeof *m.row);
    }
    if (rc == 0) {
        report_gaps(&m, report, user);
        w.t = m.t;
        w.n = m.n;
        rc = imatrix_write(out, &w, err);
    }
    for (size_t k = 0; k < m.n_in; k++) {
        imatrix_close(m.in[k]);
    }
    mem_free(m.in);
    mem_free(m.t);
    mem_free(m.datasets);
    mem_free(m.row);
    arena_fini(&m.arena);
    return rc;
}
