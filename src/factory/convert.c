/* convert.c - see convert.h. The order: plan (plan.c), header (meta.c and the GGUF writer),
 * space, then data tensor by tensor in file order through one pair of slice buffers, then
 * verify.c on the finished OUT.part, then the rename. Any failure removes OUT.part and leaves
 * OUT alone.
 *
 * FP4 experts that become MXFP4 are moved as codes; everything else goes through float rows.
 * What a rounding destroys is counted: a value that would become infinite stops the conversion,
 * values that become 0 are reported per tensor. */
#include "factory/convert.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/file.h"
#include "base/num.h"
#include "factory/meta.h"
#include "factory/verify.h"
#include "gguf/gguf.h"
#include "quant/encode.h"
#include "quant/formats.h"
#include "text/text.h"

struct job {
    const struct convert_options *opt;
    struct plan plan;
    struct gguf_writer *w;
    struct buf header;
    struct file_out file;
    uint64_t done_bytes, total_bytes;
    float *rows;    /* a slice of decoded rows */
    uint8_t *coded; /* the same, encoded */
    bool has_tokenizer;
};

static void report(const struct job *j, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void report(const struct job *j, const char *fmt, ...)
{
    if (j->opt->report) {
        char line[512];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(line, sizeof line, fmt, ap);
        va_end(ap);
        j->opt->report(j->opt->user, line);
    }
}

/* ---- header ---- */

static int add_tokenizer(struct job *j, fathom_err *err)
{
    struct buf path = {0};
    buf_addf(&path, "%s/tokenizer.json", j->opt->dir);
    struct tokenizer *t = NULL;
    FILE *f = path.failed ? NULL : fopen(path.p, "rb");
    int rc = path.failed ? err_nomem(err, "a path", path.n) : 0;
    if (f) {
        fclose(f);
        rc = tokenizer_from_json(&t, path.p, err);
        if (rc == 0) {
            rc = meta_write_tokenizer(j->w, t, j->plan.shape.n_vocab, err);
            j->has_tokenizer = true;
        }
        tokenizer_free(t);
    }
    buf_free(&path);
    return rc;
}

/* general.name: the directory's own name. */
static struct slice model_name(const char *dir)
{
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/') {
        n--;
    }
    size_t from = n;
    while (from > 0 && dir[from - 1] != '/') {
        from--;
    }
    struct slice s = {dir + from, n - from};
    bool usable = s.n > 0 && s.p[0] != '.' && utf8_valid(s.p, s.n);
    return usable ? s : SLICE("DeepSeek V4");
}

static int make_header(struct job *j, fathom_err *err)
{
    j->w = gguf_writer_new();
    if (!j->w) {
        return err_nomem(err, "the GGUF header", 0);
    }
    meta_write_model(j->w, &j->plan, model_name(j->opt->dir));
    int rc = add_tokenizer(j, err);
    for (size_t i = 0; rc == 0 && i < j->plan.n; i++) {
        const struct plan_tensor *t = &j->plan.t[i];
        uint64_t ne[3];
        plan_dims(t, ne);
        int index = gguf_writer_tensor(j->w, t->def.gguf, t->type, t->def.rank, ne, err);
        rc = index < 0 ? index : 0; /* tensor i of the plan is tensor i of the writer */
    }
    if (rc == 0 && (rc = gguf_writer_header(j->w, &j->header, err)) == 0) {
        j->total_bytes = gguf_writer_file_bytes(j->w);
    }
    return rc;
}

/* ---- what the user is told ---- */

static void report_tensor(const struct job *j, size_t i)
{
    const struct plan_tensor *t = &j->plan.t[i];
    char dims[64];
    int k = snprintf(dims, sizeof dims, "%llu", (unsigned long long)t->def.cols);
    if (t->def.rank > 1) {
        k += snprintf(dims + k, sizeof dims - (size_t)k, " x %llu",
                      (unsigned long long)t->def.rows);
    }
    if (t->def.rank > 2) {
        snprintf(dims + k, sizeof dims - (size_t)k, " x %u", t->def.n_mats);
    }
    report(j, "%s: %s from %s, %s, %llu bytes%s%s", t->def.gguf, qformat(t->type)->name,
           source_kind(&t->mats[0]), dims,
           (unsigned long long)gguf_writer_tensor_bytes(j->w, (int)i), t->note[0] ? "; " : "",
           t->note);
}

/* Experts that are not FP4 lose precision on the way to MXFP4. */
static bool is_rounded_fp4(const struct plan_tensor *t)
{
    for (uint32_t m = 0; t->type == QT_MXFP4 && m < t->def.n_mats; m++) {
        if (!source_is_fp4(&t->mats[m])) {
            return true;
        }
    }
    return false;
}

static void report_plan(const struct job *j)
{
    const struct plan *p = &j->plan;
    size_t count[QT_COUNT] = {0}, rounded = 0;
    uint64_t bytes[QT_COUNT] = {0};
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_tensor *t = &p->t[i];
        count[t->type]++;
        bytes[t->type] += gguf_writer_tensor_bytes(j->w, (int)i);
        rounded += is_rounded_fp4(t);
        if (j->opt->dry_run || t->note[0]) {
            report_tensor(j, i);
        }
    }
    if (rounded) {
        report(j, "%zu expert tensors are rounded to MXFP4: their source is not FP4", rounded);
    }
    if (p->n_mtp) {
        report(j, "%zu tensors of drafting blocks (mtp.*) are left out", p->n_mtp);
    }
    if (p->n_unused) {
        report(j,
               "warning: %zu tensors of the checkpoint are not part of this architecture and "
               "are left out, the first is %s",
               p->n_unused, p->unused);
    }
    if (!j->has_tokenizer) {
        report(j,
               "no tokenizer.json in %s: the file will serve logits, inspect and bench, but no "
               "text",
               j->opt->dir);
    }
    for (int t = 0; t < QT_COUNT; t++) {
        if (count[t]) {
            report(j, "%s: %zu tensors, %.3f GB", qformat((uint32_t)t)->name, count[t],
                   (double)bytes[t] * 1e-9);
        }
    }
    report(j, "recipe %s, release %s: %zu tensors, %llu bytes", p->recipe->name,
           p->shape.release_0731 ? "0731" : "preview", p->n,
           (unsigned long long)j->total_bytes);
}

static int check_space(const struct job *j, fathom_err *err)
{
    uint64_t have = file_free_bytes(j->opt->out);
    if (j->opt->space_limit_bytes) {
        have = MIN(have, j->opt->space_limit_bytes);
    }
    if (j->total_bytes <= have) {
        return 0;
    }
    if (j->opt->dry_run) {
        report(j, "warning: %llu bytes are needed, %llu are free",
               (unsigned long long)j->total_bytes, (unsigned long long)have);
        return 0;
    }
    return err_set(err, FATHOM_EIO,
                   "%s: not enough space: %llu bytes are needed, %llu are free", j->opt->out,
                   (unsigned long long)j->total_bytes, (unsigned long long)have);
}

/* ---- data ---- */

static int write_bytes(struct job *j, const void *p, size_t n, fathom_err *err)
{
    if (j->opt->cancel && atomic_load(j->opt->cancel)) {
        return err_set(err, FATHOM_ECANCEL, "cancelled");
    }
    int rc = file_out_write(&j->file, p, n, err);
    if (rc == 0) {
        j->done_bytes += n;
        if (j->opt->progress) {
            j->opt->progress(j->opt->user, j->done_bytes, j->total_bytes);
        }
    }
    return rc;
}

static int pad_to(struct job *j, uint64_t at, fathom_err *err)
{
    static const uint8_t zeros[256];
    int rc = 0;
    while (rc == 0 && j->done_bytes < at) {
        rc =
            write_bytes(j, zeros, (size_t)MIN(at - j->done_bytes, (uint64_t)sizeof zeros), err);
    }
    return rc;
}

/* A value that the type would make infinite is refused. */
static int check_range(const struct plan_tensor *t, const float *x, uint64_t n, fathom_err *err)
{
    double limit = type_max_value(t->type);
    for (uint64_t i = 0; i < n; i++) {
        if (x[i] > limit || x[i] < -limit) {
            return err_set(err, FATHOM_EFORMAT,
                           "%s: the value %g does not fit %s; choose another type for it by a "
                           "rule, or recipe bf16",
                           t->def.gguf, (double)x[i], qformat(t->type)->name);
        }
    }
    return 0;
}

static int write_matrix(struct job *j, const struct plan_tensor *t, const struct source *s,
                        uint64_t *lost, fathom_err *err)
{
    uint64_t cols = t->def.cols,
             step = MIN(source_slice_rows(cols, j->opt->slice_bytes), t->def.rows);
    size_t row_bytes = qformat_row_bytes(t->type, cols);
    bool move_codes = t->type == QT_MXFP4 && source_is_fp4(s);
    struct source_reader r;
    int rc = source_open(&r, s, step, err);
    for (uint64_t row = 0; rc == 0 && row < t->def.rows; row += step) {
        uint64_t n = MIN(step, t->def.rows - row);
        uint64_t lost_here = 0;
        if (move_codes) {
            rc = source_rows_mxfp4(&r, row, n, j->coded, err);
        } else if ((rc = source_rows(&r, row, n, j->rows, err)) == 0) {
            for (uint64_t i = 0; i < n; i++) {
                lost_here +=
                    quant_encode(t->type, j->rows + i * cols, cols, j->coded + i * row_bytes);
            }
            rc = lost_here ? check_range(t, j->rows, n * cols, err) : 0;
        }
        *lost += lost_here;
        rc = rc ? rc : write_bytes(j, j->coded, n * row_bytes, err);
    }
    source_close(&r);
    return rc;
}

static int write_table(struct job *j, const struct plan_tensor *t, fathom_err *err)
{
    uint64_t cols = t->def.cols,
             step = MIN(source_slice_rows(cols, j->opt->slice_bytes), t->def.rows);
    int32_t *ids = (int32_t *)(void *)j->rows;
    int rc = 0;
    for (uint64_t row = 0; rc == 0 && row < t->def.rows; row += step) {
        uint64_t n = MIN(step, t->def.rows - row);
        rc = source_table_rows(&t->mats[0], row, n, j->plan.shape.n_expert, ids, err);
        for (uint64_t i = 0; rc == 0 && i < n * cols; i++) {
            store_le32(j->coded + 4 * i, (uint32_t)ids[i]);
        }
        rc = rc ? rc : write_bytes(j, j->coded, n * cols * 4, err);
    }
    return rc;
}

static int write_tensor(struct job *j, size_t i, fathom_err *err)
{
    const struct plan_tensor *t = &j->plan.t[i];
    uint64_t lost = 0;
    int rc = pad_to(j, gguf_writer_offset(j->w, (int)i), err);
    if (rc == 0 && t->def.role == ROLE_TABLE) {
        return write_table(j, t, err);
    }
    for (uint32_t m = 0; rc == 0 && m < t->def.n_mats; m++) {
        rc = write_matrix(j, t, &t->mats[m], &lost, err);
    }
    if (rc == 0 && lost) {
        bool blocks = qformat(t->type)->cls == QC_BLOCK;
        report(j, "%s: %llu %s too small for %s became 0", t->def.gguf,
               (unsigned long long)lost, blocks ? "blocks" : "values", qformat(t->type)->name);
    }
    return rc;
}

/* The largest slice of any tensor; a type never takes more bytes than float rows do. */
static int alloc_slices(struct job *j, fathom_err *err)
{
    uint64_t elems = 1;
    for (size_t i = 0; i < j->plan.n; i++) {
        const struct tensor_def *d = &j->plan.t[i].def;
        elems =
            MAX(elems, MIN(source_slice_rows(d->cols, j->opt->slice_bytes), d->rows) * d->cols);
    }
    j->rows = mem_alloc(elems, sizeof *j->rows);
    j->coded = mem_alloc(elems, sizeof *j->rows);
    return j->rows && j->coded ? 0 : err_nomem(err, "slices of rows", elems * 8);
}

static int write_file(struct job *j, fathom_err *err)
{
    int rc = alloc_slices(j, err);
    if (rc || (rc = file_out_open(&j->file, j->opt->out, err)) != 0) {
        return rc;
    }
    rc = write_bytes(j, j->header.p, j->header.n, err);
    for (size_t i = 0; rc == 0 && i < j->plan.n; i++) {
        rc = write_tensor(j, i, err);
    }
    rc = rc ? rc : pad_to(j, j->total_bytes, err);
    rc = rc ? rc : verify_file(&j->plan, j->file.part, err);
    if (rc) {
        file_out_abort(&j->file);
        return rc;
    }
    return file_out_commit(&j->file, err);
}

int convert_run(const struct convert_options *opt, fathom_err *err)
{
    if (!opt->dir || !opt->recipe || !opt->out) {
        return err_set(err, FATHOM_EINVAL, "convert needs a directory, a target and a recipe");
    }
    static const char source[] = ".safetensors";
    size_t n = strlen(opt->out);
    if (n >= sizeof source - 1 && strcmp(opt->out + n - (sizeof source - 1), source) == 0) {
        return err_set(err, FATHOM_EINVAL,
                       "%s: the target is named like a checkpoint; it must be "
                       "a GGUF file",
                       opt->out);
    }
    struct job j = {.opt = opt, .file = {.fd = -1}};
    int rc = plan_make(&j.plan, opt, err);
    rc = rc ? rc : make_header(&j, err);
    if (rc == 0) {
        report_plan(&j);
        rc = check_space(&j, err);
    }
    if (rc == 0 && !opt->dry_run) {
        rc = write_file(&j, err);
    }
    mem_free(j.rows);
    mem_free(j.coded);
    buf_free(&j.header);
    gguf_writer_free(j.w);
    plan_free(&j.plan);
    return rc;
}
