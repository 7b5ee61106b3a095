/* reference.c - see reference.h. Nothing from a file is believed: sizes are checked when it is
 * opened, ids and numbers row by row when they are used. */
#include "eval/reference.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "eval/stats.h"

enum { HEAD_BYTES = 40, ROW_HEAD = 16, VERSION = 1, MAX_VOCAB = 1 << 24 };
static const char MAGIC[8] = {'F', 'A', 'T', 'H', 'O', 'M', 'R', 'F'};

uint64_t ref_row_bytes(const struct ref_head *h)
{
    return ROW_HEAD + (h->kept ? 8ull * h->kept : align_up(4ull * h->n_vocab, 8));
}

static uint64_t head_bytes(size_t n_name)
{
    return HEAD_BYTES + align_up(n_name, 8);
}

uint64_t ref_file_bytes(const struct ref_head *h)
{
    return head_bytes(strlen(h->name)) + h->n_rows * ref_row_bytes(h);
}

/* ---- writing ---- */

int ref_create(struct ref_writer *w, const char *path, const struct ref_head *h,
               fathom_err *err)
{
    *w = (struct ref_writer){.head = *h, .file = {.fd = -1}};
    uint32_t n_name = (uint32_t)strlen(h->name);
    uint64_t free_bytes = file_free_bytes(path);
    if (ref_file_bytes(h) > free_bytes) {
        return err_set(err, FATHOM_EIO,
                       "%s: not enough space: %llu bytes are needed, %llu are free; keep fewer "
                       "ids a row (--keep), or score fewer tokens (--limit)",
                       path, (unsigned long long)ref_file_bytes(h),
                       (unsigned long long)free_bytes);
    }
    w->row = mem_calloc(ref_row_bytes(h), 1);
    w->order = mem_alloc(h->kept, sizeof *w->order);
    if (!w->row || !w->order) {
        ref_abort(w);
        return err_nomem(err, path, ref_row_bytes(h));
    }
    unsigned char head[HEAD_BYTES + sizeof h->name + 8] = {0};
    uint32_t u32[4] = {VERSION, h->n_vocab, h->kept, n_name};
    uint64_t u64[2] = {h->n_rows, h->set_hash};
    memcpy(head, MAGIC, 8);
    memcpy(head + 8, u32, 16);
    memcpy(head + 24, u64, 16);
    memcpy(head + HEAD_BYTES, h->name, n_name);
    int rc = file_out_open(&w->file, path, err);
    rc = rc ? rc : file_out_write(&w->file, head, head_bytes(n_name), err);
    if (rc) {
        ref_abort(w);
    }
    return rc;
}

/* Is a worse than b: a smaller logit, or the same and a higher id. */
static bool worse(const float *v, uint32_t a, uint32_t b)
{
    return v[a] < v[b] || (v[a] == v[b] && a > b);
}

/* Sinks heap[i] in a heap of n whose root is the worst. */
static void sink(uint32_t *heap, uint32_t n, uint32_t i, const float *v)
{
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && worse(v, heap[child + 1], heap[child])) {
            child++;
        }
        if (!worse(v, heap[child], heap[i])) {
            return;
        }
        uint32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

/* The k best of n ids, best first. */
static void best_ids(uint32_t *out, uint32_t k, const float *v, uint32_t n)
{
    for (uint32_t i = 0; i < k; i++) {
        out[i] = i;
    }
    for (uint32_t i = k / 2; i-- > 0;) {
        sink(out, k, i, v);
    }
    for (uint32_t i = k; i < n; i++) {
        if (worse(v, out[0], i)) {
            out[0] = i;
            sink(out, k, 0, v);
        }
    }
    for (uint32_t i = k; i-- > 1;) { /* the worst goes to the end */
        uint32_t t = out[0];
        out[0] = out[i];
        out[i] = t;
        sink(out, i, 0, v);
    }
}

int ref_write(struct ref_writer *w, const float *logits, double lse, uint32_t id,
              fathom_err *err)
{
    const struct ref_head *h = &w->head;
    unsigned char *p = w->row + ROW_HEAD;
    double logprob = (double)logits[id] - lse, rest = 0;
    uint32_t best = eval_argmax(logits, h->n_vocab);
    if (w->n == h->n_rows) {
        return err_set(err, FATHOM_EINVAL, "%s: more rows than announced", w->file.path);
    }
    if (h->kept) {
        best_ids(w->order, h->kept, logits, h->n_vocab);
        double kept = 0;
        for (uint32_t i = 0; i < h->kept; i++, p += 8) {
            float lp = (float)((double)logits[w->order[i]] - lse);
            memcpy(p, &w->order[i], 4);
            memcpy(p + 4, &lp, 4);
            kept += exp((double)logits[w->order[i]] - lse);
        }
        rest = kept < 1 && h->kept < h->n_vocab ? 1 - kept : 0;
    } else {
        memcpy(p, logits, 4ull * h->n_vocab);
    }
    float log_rest = rest > 0 ? (float)log(rest) : -INFINITY;
    memcpy(w->row, &logprob, 8);
    memcpy(w->row + 8, &best, 4);
    memcpy(w->row + 12, &log_rest, 4);
    w->n++;
    return file_out_write(&w->file, w->row, ref_row_bytes(h), err);
}

int ref_commit(struct ref_writer *w, fathom_err *err)
{
    int rc = 0;
    if (w->n != w->head.n_rows) {
        rc = err_set(err, FATHOM_EINVAL, "%s: %llu of %llu rows were written", w->file.path,
                     (unsigned long long)w->n, (unsigned long long)w->head.n_rows);
    }
    rc = rc ? rc : file_out_commit(&w->file, err);
    ref_abort(w);
    return rc;
}

void ref_abort(struct ref_writer *w)
{
    file_out_abort(&w->file);
    mem_free(w->row);
    mem_free(w->order);
    *w = (struct ref_writer){.file = {.fd = -1}};
}

/* ---- reading ---- */

static int parse(struct ref_file *f, const unsigned char *p, size_t n, fathom_err *err)
{
    struct ref_head *h = &f->head;
    uint32_t u32[4];
    uint64_t u64[2], body;
    if (n < HEAD_BYTES || memcmp(p, MAGIC, 8) != 0) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: not a reference file (fathom eval --save-reference writes them)",
                       f->label);
    }
    memcpy(u32, p + 8, 16);
    memcpy(u64, p + 24, 16);
    *h = (struct ref_head){
        .n_vocab = u32[1], .kept = u32[2], .n_rows = u64[0], .set_hash = u64[1]};
    if (u32[0] != VERSION) {
        return err_set(err, FATHOM_EUNSUPPORTED, "%s: form %u of reference files; known is %d",
                       f->label, u32[0], VERSION);
    }
    if (h->n_vocab < 1 || h->n_vocab > MAX_VOCAB || h->kept > h->n_vocab || h->n_rows == 0 ||
        u32[3] >= sizeof h->name || head_bytes(u32[3]) > n) {
        return err_set(err, FATHOM_EFORMAT, "%s: the header makes no sense", f->label);
    }
    memcpy(h->name, p + HEAD_BYTES, u32[3]);
    if (!utf8_valid(h->name, u32[3]) || memchr(h->name, 0, u32[3])) {
        return err_set(err, FATHOM_EFORMAT, "%s: the model's name is not text", f->label);
    }
    body = n - head_bytes(u32[3]);
    if (body % ref_row_bytes(h) != 0 || body / ref_row_bytes(h) != h->n_rows) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: %llu bytes of rows; %llu rows of %llu bytes were announced",
                       f->label, (unsigned long long)body, (unsigned long long)h->n_rows,
                       (unsigned long long)ref_row_bytes(h));
    }
    f->rows = p + head_bytes(u32[3]);
    f->seen = mem_calloc(h->n_vocab, 1);
    return f->seen ? 0 : err_nomem(err, f->label, h->n_vocab);
}

int ref_open_mem(struct ref_file *f, const void *p, size_t n, const char *label,
                 fathom_err *err)
{
    *f = (struct ref_file){.map = {.fd = -1}};
    snprintf(f->label, sizeof f->label, "%s", label);
    int rc = parse(f, p, n, err);
    if (rc) {
        ref_close(f);
    }
    return rc;
}

int ref_open(struct ref_file *f, const char *path, fathom_err *err)
{
    struct file_map map;
    int rc = file_map_open(&map, path, err);
    if (rc) {
        *f = (struct ref_file){.map = {.fd = -1}};
        return rc;
    }
    rc = ref_open_mem(f, map.p, map.n, path, err);
    if (rc) {
        file_map_close(&map);
        return rc;
    }
    f->map = map;
    return 0;
}

void ref_close(struct ref_file *f)
{
    file_map_close(&f->map);
    mem_free(f->seen);
    *f = (struct ref_file){.map = {.fd = -1}};
}

static int bad_row(const struct ref_file *f, uint64_t row, const char *what, fathom_err *err)
{
    return err_set(err, FATHOM_EFORMAT, "%s: row %llu: %s", f->label, (unsigned long long)row,
                   what);
}

/* Full row: head and rows are multiples of 8 bytes, so the floats are aligned. */
static int compare_full(const struct ref_file *f, uint64_t row, const unsigned char *p,
                        const float *logits, double lse, struct ref_compare *out,
                        fathom_err *err)
{
    const float *ref = (const float *)(const void *)p;
    double ref_lse = eval_logsumexp(ref, f->head.n_vocab);
    if (isnan(ref_lse)) {
        return bad_row(f, row, "a logit is not finite", err);
    }
    out->kl = eval_kl(ref, ref_lse, logits, lse, f->head.n_vocab);
    return 0;
}

/* kept + 1 outcomes. */
static int compare_kept(struct ref_file *f, uint64_t row, const unsigned char *p, float rest,
                        const float *logits, double lse, struct ref_compare *out,
                        fathom_err *err)
{
    uint32_t n = f->head.n_vocab, done = 0;
    double sum = 0, mass = 0, other = 0;
    const char *wrong = NULL;
    for (; done < f->head.kept && !wrong; done++, p += 8) {
        uint32_t id;
        float lp;
        memcpy(&id, p, 4);
        memcpy(&lp, p + 4, 4);
        wrong = id >= n          ? "an id is outside the vocabulary"
                : f->seen[id]    ? "an id stands twice"
                : !(lp <= 1e-6f) ? "a probability above 1"
                : lp < -FLT_MAX  ? "a log-probability is not finite"
                                 : NULL;
        if (!wrong) {
            f->seen[id] = 1;
            mass += exp((double)lp);
            sum += exp((double)lp) * ((double)lp - ((double)logits[id] - lse));
        }
    }
    for (uint32_t i = 0; i < n && !wrong; i++) {
        other += f->seen[i] ? 0 : exp((double)logits[i] - lse);
    }
    memset(f->seen, 0, n);
    out->rest = exp((double)rest);
    if (!wrong && fabs(mass + out->rest - 1) > 1e-3) {
        wrong = "the probabilities do not add up to 1";
    }
    if (wrong) {
        return bad_row(f, row, wrong, err);
    }
    if (out->rest > 0) {
        sum += out->rest * ((double)rest - log(MAX(other, DBL_MIN)));
    }
    out->kl = sum > 0 ? sum : 0;
    return 0;
}

int ref_compare_row(struct ref_file *f, uint64_t row, const float *logits, double lse,
                    struct ref_compare *out, fathom_err *err)
{
    if (row >= f->head.n_rows) {
        return bad_row(f, row, "there is none", err);
    }
    const unsigned char *p = f->rows + row * ref_row_bytes(&f->head);
    float rest;
    *out = (struct ref_compare){0};
    memcpy(&out->logprob, p, 8);
    memcpy(&out->best, p + 8, 4);
    memcpy(&rest, p + 12, 4);
    if (!isfinite(out->logprob) || out->logprob > 1e-6 || !(rest <= 0) ||
        out->best >= f->head.n_vocab) {
        return bad_row(f, row, "a number out of range", err);
    }
    p += ROW_HEAD;
    return f->head.kept ? compare_kept(f, row, p, rest, logits, lse, out, err)
                        : compare_full(f, row, p, logits, lse, out, err);
}
