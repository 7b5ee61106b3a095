/* convert.c - see convert.h. The order: plan (plan.c), header (meta.c and the GGUF writer),
 * space, journal (journal.c), the frame of OUT.part (header, gaps, size), then all data in any
 * order (items.c cuts it, write.c runs the threads), then verify.c on the finished OUT.part,
 * then the rename, and last the journal goes.
 *
 * The drafting blocks go through the same steps as a file of their own, before the model; their
 * journal stays until the model is finished, so that going on does not make them again.
 *
 * A failure of the source or of the check removes OUT.part; after a full disk, Ctrl-C or a kill
 * it stays with its journal, and the same command goes on. OUT is never touched before the
 * rename. What a rounding destroys is counted: a value that would become infinite stops the
 * conversion, values that become 0 are reported per tensor. */
#include "factory/convert.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "factory/importance.h"
#include "factory/journal.h"
#include "factory/meta.h"
#include "factory/verify.h"
#include "factory/write.h"
#include "gguf/gguf.h"
#include "quant/formats.h"
#include "text/text.h"

struct job {
    const struct convert_options *opt;
    const char *out;
    const struct plan *plan;
    struct gguf_writer *w;
    struct buf header;
    struct file_out file;
    struct journal journal;
    uint64_t total_bytes;
    struct item *items; /* owned */
    size_t n_items;
    uint64_t hash; /* plan_hash */
    bool is_done;  /* finished by an earlier run whose model was not */
    bool has_tokenizer;
    bool bad_file; /* the check of the finished file failed */
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
            rc = meta_write_tokenizer(j->w, t, j->plan->shape.n_vocab, err);
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
    meta_write_model(j->w, j->plan, model_name(j->opt->dir));
    int rc = 0;
    if (j->plan->is_draft) {
        rc = draft_meta(j->w, j->plan->draft_kind, j->plan->n_stages, j->opt->dir, err);
    } else {
        importance_meta(j->plan, j->w);
        rc = add_tokenizer(j, err);
    }
    for (size_t i = 0; rc == 0 && i < j->plan->n; i++) {
        const struct plan_tensor *t = &j->plan->t[i];
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
    const struct plan_tensor *t = &j->plan->t[i];
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

/* What the plan leaves out, or makes of it what a user might not expect. */
static void report_remarks(const struct job *j, size_t rounded)
{
    const struct plan *p = j->plan;
    if (rounded) {
        report(j, "%zu expert tensors are rounded to MXFP4: their source is not FP4", rounded);
    }
    importance_report(p, j->opt);
    if (p->n_mtp) {
        report(j, "%zu tensors of drafting blocks (mtp.*) are left out", p->n_mtp);
    }
    if (p->n_unused) {
        report(j,
               "warning: %zu tensors of the checkpoint are not part of this architecture and "
               "are left out, the first is %s",
               p->n_unused, p->unused);
    }
    if (!j->has_tokenizer && !j->plan->is_draft) {
        report(j,
               "no tokenizer.json in %s: the file will serve logits, inspect and bench, but no "
               "text",
               j->opt->dir);
    }
}

static void report_plan(const struct job *j)
{
    const struct plan *p = j->plan;
    size_t count[QT_COUNT] = {0}, rounded = 0;
    uint64_t bytes[QT_COUNT] = {0};
    if (j->plan->is_draft) {
        report(j, "drafting blocks (%s, %u stages): %s", draft_kind_text(p->draft_kind),
               p->n_stages, j->out);
    }
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_tensor *t = &p->t[i];
        count[t->type]++;
        bytes[t->type] += gguf_writer_tensor_bytes(j->w, (int)i);
        rounded += is_rounded_fp4(t);
        if (j->opt->dry_run || t->note[0]) {
            report_tensor(j, i);
        }
    }
    report_remarks(j, rounded);
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

/* Disk space that an unfinished OUT.part holds already. */
static uint64_t part_bytes(const struct job *j)
{
    struct buf path = {0};
    struct stat st;
    buf_addf(&path, "%s.part", j->out);
    bool found = !path.failed && stat(path.p, &st) == 0;
    buf_free(&path);
    return found ? (uint64_t)st.st_blocks * 512 : 0;
}

/* For all files of the conversion, before the first byte of the first one. */
static int check_space(const struct job *jobs, size_t n, fathom_err *err)
{
    const struct convert_options *opt = jobs[0].opt;
    uint64_t have = file_free_bytes(opt->out), need = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t part = part_bytes(&jobs[i]);
        have += MIN(part, UINT64_MAX - have);
        need += jobs[i].is_done ? 0 : jobs[i].total_bytes;
    }
    if (opt->space_limit_bytes) {
        have = MIN(have, opt->space_limit_bytes);
    }
    if (need <= have) {
        return 0;
    }
    if (opt->dry_run) {
        report(&jobs[0], "warning: %llu bytes are needed, %llu are free",
               (unsigned long long)need, (unsigned long long)have);
        return 0;
    }
    return err_set(err, FATHOM_EIO,
                   "%s: not enough space: %llu bytes are needed, %llu are free", opt->out,
                   (unsigned long long)need, (unsigned long long)have);
}

/* ---- data ---- */

/* What decides the bytes of the file: header, program version, and every source tensor with its
 * place and its file's size and time. */
static uint64_t plan_hash(const struct job *j)
{
    struct checksum c = {0};
    checksum_add(&c, FATHOM_VERSION, sizeof FATHOM_VERSION);
    checksum_add(&c, j->header.p, j->header.n);
    for (size_t i = 0; i < j->plan->n; i++) {
        const struct plan_tensor *t = &j->plan->t[i];
        for (uint32_t m = 0; m < t->def.n_mats; m++) {
            const struct st_tensor *src[2] = {t->mats[m].w, t->mats[m].scale};
            for (int k = 0; k < 2 && src[k]; k++) {
                struct stat st = {0};
                stat(st_file(j->plan->set, src[k]), &st); /* zeros if it fails: reading will */
                checksum_u64(&c, src[k]->dtype);
                checksum_u64(&c, src[k]->offset);
                checksum_u64(&c, src[k]->bytes);
                checksum_u64(&c, (uint64_t)st.st_size);
                checksum_u64(&c, (uint64_t)st.st_mtime);
            }
        }
    }
    return checksum_end(&c);
}

/* Header, the zeros between tensors, and the full size. */
static int write_frame(struct job *j, fathom_err *err)
{
    static const uint8_t zeros[256];
    if (ftruncate(j->file.fd, (off_t)j->total_bytes) != 0) {
        return err_sys(err, j->file.part, "cannot set the size");
    }
    int rc = file_out_pwrite(&j->file, j->header.p, j->header.n, 0, err);
    uint64_t at = j->header.n;
    for (size_t i = 0; rc == 0 && i <= j->plan->n; i++) {
        uint64_t next = i < j->plan->n ? gguf_writer_offset(j->w, (int)i) : j->total_bytes;
        for (uint64_t n; rc == 0 && at < next; at += n) {
            n = MIN(next - at, (uint64_t)sizeof zeros);
            rc = file_out_pwrite(&j->file, zeros, n, at, err);
        }
        at = i < j->plan->n ? next + gguf_writer_tensor_bytes(j->w, (int)i) : at;
    }
    return rc;
}

static void report_lost(const struct job *j, const struct write_result *r)
{
    for (size_t i = 0; i < j->plan->n; i++) {
        const struct plan_tensor *t = &j->plan->t[i];
        if (r->lost[i]) {
            bool blocks = qformat(t->type)->cls == QC_BLOCK;
            report(j, "%s: %llu %s too small for %s became 0", t->def.gguf,
                   (unsigned long long)r->lost[i], blocks ? "blocks" : "values",
                   qformat(t->type)->name);
        }
    }
}

static void report_kept(const struct job *j)
{
    report(j, "%s.part is kept: the same command goes on from there (%zu of %zu pieces)",
           j->out, j->journal.n_done, j->journal.n_items);
}

/* Ends the files: what was done is worth keeping if the cause lies outside of it. */
static int end_files(struct job *j, int rc, fathom_err *err)
{
    bool keep = (rc == FATHOM_ECANCEL || rc == FATHOM_EIO || rc == FATHOM_ENOMEM) &&
                !j->bad_file && j->journal.n_done > 0;
    if (rc == 0) { /* complete: not thrown away because the last flush or the rename fails */
        j->file.keeps_part = true;
        rc = file_out_commit(&j->file, err);
        if (rc) {
            report_kept(j);
        }
        journal_close(&j->journal, rc == 0 && !j->plan->is_draft);
        return rc;
    }
    if (keep) {
        report_kept(j);
        file_out_keep(&j->file);
    } else {
        file_out_abort(&j->file);
    }
    journal_close(&j->journal, !keep);
    return rc;
}

static int write_data(struct job *j, struct write_result *result, fathom_err *err)
{
    int rc = j->journal.n_done ? file_out_resume(&j->file, j->out, err)
                               : file_out_open(&j->file, j->out, err);
    rc = rc ? rc : write_frame(j, err);
    rc = rc ? rc
            : write_items(j->plan, j->items, j->n_items, j->opt, &j->file, &j->journal, result,
                          err);
    if (rc == 0) {
        if (result->n_resumed) {
            report(j, "%zu of %zu pieces were there already and are intact", result->n_resumed,
                   j->n_items);
        }
        report_lost(j, result);
        rc = verify_file(j->plan, j->file.part, err);
        j->bad_file = rc != 0;
    }
    return end_files(j, rc, err);
}

static int write_file(struct job *j, fathom_err *err)
{
    if (j->is_done) {
        report(j, "%s was finished before", j->out);
        return 0;
    }
    struct write_result result = {.lost = mem_calloc(j->plan->n + 1, sizeof *result.lost)};
    int rc = result.lost ? 0 : err_nomem(err, "the plan", j->plan->n);
    if (rc == 0) {
        rc = journal_open(&j->journal, j->out, j->hash, j->n_items, err);
        if (rc) {
            journal_close(&j->journal, false);
        } else {
            rc = write_data(j, &result, err);
        }
    }
    mem_free(result.lost);
    return rc;
}

/* ---- the whole conversion ---- */

static int job_init(struct job *j, const struct convert_options *opt, const struct plan *plan,
                    const char *out, fathom_err *err)
{
    *j = (struct job){
        .opt = opt, .out = out, .plan = plan, .file = {.fd = -1}, .journal = {.fd = -1}};
    int rc = make_header(j, err);
    rc = rc ? rc : items_make(&j->items, &j->n_items, plan, j->w, err);
    if (rc == 0) {
        struct stat st;
        j->hash = plan_hash(j);
        j->is_done = plan->is_draft && journal_is_complete(out, j->hash, j->n_items) &&
                     stat(out, &st) == 0 && (uint64_t)st.st_size == j->total_bytes;
    }
    return rc;
}

static void job_free(struct job *j)
{
    mem_free(j->items);
    buf_free(&j->header);
    gguf_writer_free(j->w);
}

static int check_names(const struct convert_options *opt, fathom_err *err)
{
    static const char source[] = ".safetensors";
    if (!opt->dir || !opt->recipe || !opt->out) {
        return err_set(err, FATHOM_EINVAL, "convert needs a directory, a target and a recipe");
    }
    size_t n = strlen(opt->out), k = sizeof source - 1;
    struct stat st;
    if (stat(opt->out, &st) == 0 && !S_ISREG(st.st_mode)) { /* now, not when the rename fails */
        return err_set(err, FATHOM_EINVAL, "%s: the target is not a regular file", opt->out);
    }
    return n < k || strcmp(opt->out + n - k, source) != 0
               ? 0
               : err_set(err, FATHOM_EINVAL,
                         "%s: the target is named like a checkpoint; it must be "
                         "a GGUF file",
                         opt->out);
}

static int run_jobs(struct job *jobs, size_t n, fathom_err *err)
{
    int rc = check_space(jobs, n, err);
    for (size_t i = 0; rc == 0 && !jobs[0].opt->dry_run && i < n; i++) {
        rc = write_file(&jobs[i], err);
    }
    if (rc == 0 && !jobs[0].opt->dry_run && n > 1) {
        journal_remove(jobs[0].out);
    }
    return rc;
}

int convert_run(const struct convert_options *opt, fathom_err *err)
{
    struct plan plan = {0};
    struct job jobs[2] = {0}; /* the draft first, then the model */
    size_t n = 0;
    char *draft = NULL;
    int rc = check_names(opt, err);
    if (rc) {
        return rc;
    }
    rc = plan_make(&plan, opt, err);
    if (rc == 0 && plan.draft) {
        draft = draft_path(opt->out);
        rc = draft ? job_init(&jobs[n++], opt, plan.draft, draft, err)
                   : err_nomem(err, "a path", strlen(opt->out));
    }
    rc = rc ? rc : job_init(&jobs[n++], opt, &plan, opt->out, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        report_plan(&jobs[i]);
    }
    rc = rc ? rc : run_jobs(jobs, n, err);
    for (size_t i = 0; i < n; i++) {
        job_free(&jobs[i]);
    }
    mem_free(draft);
    plan_free(&plan);
    return rc;
}
