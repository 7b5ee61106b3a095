/* synthetic.c - see synthetic.h.
 *
 * A tensor list (names.h) with types by the recipe gives the GGUF header; then every tensor is
 * filled slice by slice by a team of workers, straight into the image or into a buffer that is
 * written out. A slice's content depends on the tensor's number and the rows alone
 * (random_rows.h), so both ways give the same bytes. Sizes are known before anything large is
 * allocated. */
#include "factory/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"
#include "base/team.h"
#include "factory/meta.h"
#include "factory/random_rows.h"
#include "gguf/gguf.h"
#include "quant/formats.h"

enum { SLICE_BYTES = 64 << 20 };

/* A model about to be made. */
struct making {
    const struct synthetic_options *opt;
    struct plan plan; /* shape and recipe only: what the metadata needs */
    struct tensor_def *def;
    size_t n;
    struct gguf_writer *w;
    struct buf header;
    struct team *team;
    uint64_t total, done; /* bytes, for progress */
};

/* ---- shape ---- */

static void cut_layers(struct shape *s, const struct shape *full,
                       const struct synthetic_options *opt)
{
    uint32_t n = opt->n_layer;
    for (uint32_t il = 0; il < n; il++) {
        s->ratio[il] = opt->ratios ? opt->ratios[il] : full->ratio[il == 0 ? 0 : il + 1];
        s->swiglu_lim[il] = full->swiglu_lim[il];
    }
    s->n_layer = n;
    uint32_t share = (full->n_hash * n + full->n_layer / 2) / full->n_layer;
    s->n_hash = MIN(MIN(full->n_hash, n), MAX(share, 1u));
    s->max_ratio = 1;
    for (uint32_t il = 0; il < n; il++) {
        s->max_ratio = MAX(s->max_ratio, (uint32_t)s->ratio[il]);
    }
}

int synthetic_shape(struct shape *s, const struct synthetic_options *opt, fathom_err *err)
{
    const struct shape *full = shape_preset(opt->shape);
    if (!full) {
        return err_set(err, FATHOM_EINVAL, "no shape \"%s\"; there are flash and pro",
                       opt->shape);
    }
    *s = *full;
    if (opt->n_layer > full->n_layer || (opt->ratios && opt->n_layer == 0)) {
        return err_set(err, FATHOM_EINVAL, "%u layers: %s has %u", opt->n_layer, opt->shape,
                       full->n_layer);
    }
    if (opt->n_layer && (opt->n_layer < full->n_layer || opt->ratios)) {
        cut_layers(s, full, opt);
    }
    if (opt->n_expert > full->n_expert || (opt->n_expert && opt->n_expert < full->n_used)) {
        return err_set(err, FATHOM_EINVAL, "%u experts: %s has %u and uses %u", opt->n_expert,
                       opt->shape, full->n_expert, full->n_used);
    }
    if (opt->n_vocab > full->n_vocab) {
        return err_set(err, FATHOM_EINVAL, "a vocabulary of %u: %s has %u", opt->n_vocab,
                       opt->shape, full->n_vocab);
    }
    s->n_expert = opt->n_expert ? opt->n_expert : s->n_expert;
    s->n_vocab = opt->n_vocab ? opt->n_vocab : s->n_vocab;
    return shape_check(s, true, opt->shape, err);
}

/* ---- records ---- */

static void making_free(struct making *m)
{
    gguf_writer_free(m->w);
    buf_free(&m->header);
    mem_free(m->def);
    team_free(m->team);
    *m = (struct making){0};
}

static uint32_t stored_type(const struct making *m, const struct tensor_def *d)
{
    return recipe_type(m->plan.recipe, d->role, d->layer, m->plan.shape.n_layer, d->cols, NULL);
}

static int add_tensors(struct making *m, fathom_err *err)
{
    for (size_t i = 0; i < m->n; i++) {
        const struct tensor_def *d = &m->def[i];
        uint64_t ne[4] = {d->cols, d->rows, d->n_mats, 1};
        uint32_t type = stored_type(m, d);
        int at = gguf_writer_tensor(m->w, d->gguf, type, d->rank, ne, err);
        if (at < 0) {
            return at;
        }
    }
    return 0;
}

/* Everything up to the header; nothing large is allocated. */
static int making_begin(struct making *m, const struct synthetic_options *opt, fathom_err *err)
{
    *m = (struct making){.opt = opt};
    int rc = synthetic_shape(&m->plan.shape, opt, err);
    if (rc != 0) {
        return rc;
    }
    m->plan.recipe = recipe_find(opt->recipe, err);
    if (!m->plan.recipe) {
        return FATHOM_EINVAL;
    }
    m->n = names_count(&m->plan.shape);
    m->def = mem_calloc(m->n, sizeof *m->def);
    m->w = gguf_writer_new();
    if (!m->def || !m->w) {
        return err_nomem(err, "tensor list", m->n * sizeof *m->def);
    }
    names_fill(&m->plan.shape, m->def);
    char name[96];
    snprintf(name, sizeof name, "synthetic %s, %u layers, %s, random weights", opt->shape,
             m->plan.shape.n_layer, opt->recipe);
    meta_write_model(m->w, &m->plan, slice_of(name));
    gguf_writer_str(m->w, SYNTHETIC_KEY, slice_of(opt->shape));
    rc = add_tensors(m, err);
    rc = rc ? rc : gguf_writer_header(m->w, &m->header, err);
    m->total = rc ? 0 : gguf_writer_file_bytes(m->w);
    return rc;
}

static int check_limit(const struct making *m, const char *what, uint64_t limit,
                       fathom_err *err)
{
    if (m->total <= limit) {
        return 0;
    }
    const struct shape *s = &m->plan.shape;
    return err_set(err, FATHOM_ENOMEM,
                   "%u layers of %s with %u experts (%s) take %.2f GB, %.2f GB of %s are "
                   "available; use fewer layers (--layers), keep fewer experts (--experts; "
                   "a token reads as much), or take another recipe",
                   s->n_layer, m->opt->shape, s->n_expert, m->plan.recipe->name,
                   (double)m->total / 1e9, (double)limit / 1e9, what);
}

int synthetic_bytes(uint64_t *bytes, const struct synthetic_options *opt, fathom_err *err)
{
    struct making m;
    int rc = making_begin(&m, opt, err);
    *bytes = m.total;
    making_free(&m);
    return rc;
}

/* ---- values ---- */

/* Mean and deviation of a tensor's values. Matrices: 1/sqrt(inputs), which keeps sizes; vectors
 * by a part of their name. */
static void distribution(const struct tensor_def *d, float *mean, float *dev)
{
    static const struct {
        const char *part;
        float mean, dev;
    } vectors[] = {{"norm", 1.0f, 0.1f},
                   {"_ape", 0.0f, 1.0f},
                   {"_scale", 0.75f, 0.1f},
                   {"exp_probs_b", 0.0f, 0.02f},
                   {"", 0.0f, 0.25f}};
    *mean = 0.0f;
    *dev = d->role == ROLE_EMBED ? 1.0f : 1.0f / sqrtf((float)d->cols);
    for (size_t i = 0; d->role == ROLE_VECTOR && i < ARRAY_LEN(vectors); i++) {
        if (strstr(d->gguf, vectors[i].part)) {
            *mean = vectors[i].mean;
            *dev = vectors[i].dev;
            return;
        }
    }
}

/* A row of the hash table: different experts. */
static void fill_table_row(struct rng *r, uint32_t n_expert, uint64_t cols, unsigned char *out)
{
    for (uint64_t k = 0; k < cols;) {
        uint32_t e = rng_below(r, n_expert);
        bool taken = false;
        for (uint64_t i = 0; i < k; i++) {
            taken |= load_le32(out + 4 * i) == e;
        }
        if (!taken) {
            store_le32(out + 4 * k++, e);
        }
    }
}

/* Rows [first, first + n) of one tensor, shared out to the team. */
struct slice_job {
    const struct tensor_def *def;
    const struct random_rows *rows; /* NULL: hash table */
    uint64_t first, n, seed;
    size_t row_bytes;
    uint32_t n_expert, n_workers;
    unsigned char *out;
};

static void fill_share(void *ctx, uint32_t rank)
{
    const struct slice_job *j = ctx;
    uint64_t from = j->n * rank / j->n_workers, to = j->n * (rank + 1) / j->n_workers;
    unsigned char *out = j->out + from * j->row_bytes;
    if (j->rows) {
        random_rows_fill(j->rows, j->first + from, to - from, out);
        return;
    }
    for (uint64_t i = from; i < to; i++, out += j->row_bytes) {
        struct rng r = {splitmix64(j->seed ^ splitmix64(j->first + i))};
        fill_table_row(&r, j->n_expert, j->def->cols, out);
    }
}

/* Where slices go: into the image, or through a buffer to the file. */
struct sink {
    unsigned char *image; /* NULL: file */
    struct file_out file;
    unsigned char *slice; /* [slice_bytes] */
};

static int put_tensor(struct making *m, struct sink *to, size_t i, fathom_err *err)
{
    const struct tensor_def *d = &m->def[i];
    uint32_t type = stored_type(m, d);
    uint64_t rows = d->rows * d->n_mats, at = gguf_writer_offset(m->w, (int)i);
    struct slice_job job = {.def = d,
                            .seed = splitmix64(m->opt->seed ^ splitmix64(i)),
                            .row_bytes = qformat_row_bytes(type, d->cols),
                            .n_expert = m->plan.shape.n_expert,
                            .n_workers = team_size(m->team)};
    struct random_rows gen;
    if (d->role != ROLE_TABLE) {
        float mean, dev;
        distribution(d, &mean, &dev);
        int rc = random_rows_init(&gen, type, d->cols, mean, dev, job.seed, err);
        if (rc != 0) {
            return rc;
        }
        job.rows = &gen;
    }
    uint64_t per = MAX((uint64_t)SLICE_BYTES / job.row_bytes, (uint64_t)1);
    for (uint64_t r = 0; r < rows; r += per) {
        uint64_t pos = at + r * job.row_bytes;
        job.first = r;
        job.n = MIN(per, rows - r);
        job.out = to->image ? to->image + pos : to->slice;
        team_run(m->team, fill_share, &job);
        size_t bytes = (size_t)(job.n * job.row_bytes);
        int rc = to->image ? 0 : file_out_pwrite(&to->file, to->slice, bytes, pos, err);
        m->done += bytes;
        if (rc == 0 && m->opt->progress &&
            !m->opt->progress(m->opt->user, to->image ? "make weights" : "write", m->done,
                              m->total)) {
            rc = err_set(err, FATHOM_ECANCEL, "cancelled");
        }
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int put_all(struct making *m, struct sink *to, fathom_err *err)
{
    int rc = team_create(&m->team, m->opt->n_threads, false, err);
    for (size_t i = 0; i < m->n && rc == 0; i++) {
        rc = put_tensor(m, to, i, err);
    }
    return rc;
}

/* Zeroes the bytes of the image that belong to no tensor. */
static void clear_gaps(const struct making *m, unsigned char *image)
{
    uint64_t end = m->header.n;
    for (size_t i = 0; i <= m->n; i++) {
        uint64_t next = i < m->n ? gguf_writer_offset(m->w, (int)i) : m->total;
        memset(image + end, 0, (size_t)(next - end));
        end = i < m->n ? next + gguf_writer_tensor_bytes(m->w, (int)i) : end;
    }
}

/* ---- interface ---- */

int synthetic_make(struct synthetic *out, const struct synthetic_options *opt, fathom_err *err)
{
    *out = (struct synthetic){0};
    struct making m;
    struct sink to = {0};
    int rc = making_begin(&m, opt, err);
    if (rc == 0 && opt->limit_bytes) {
        rc = check_limit(&m, "memory", opt->limit_bytes, err);
    }
    if (rc == 0) {
        to.image = mem_alloc_huge((size_t)m.total);
        rc = to.image ? 0 : err_nomem(err, "synthetic model", (size_t)m.total);
    }
    if (rc == 0) {
        memcpy(to.image, m.header.p, m.header.n);
        clear_gaps(&m, to.image);
        rc = put_all(&m, &to, err);
    }
    if (rc == 0) {
        *out = (struct synthetic){.data = to.image, .n_bytes = (size_t)m.total};
    } else {
        mem_free(to.image);
    }
    making_free(&m);
    return rc;
}

void synthetic_free(struct synthetic *m)
{
    mem_free(m->data);
    *m = (struct synthetic){0};
}

static int save_open(struct making *m, struct sink *to, const char *path, fathom_err *err)
{
    int rc = check_limit(m, "disk space", file_free_bytes(path), err);
    if (rc != 0) {
        return rc;
    }
    size_t widest = 0; /* a slice holds at least one row */
    for (size_t i = 0; i < m->n; i++) {
        uint32_t type = stored_type(m, &m->def[i]);
        widest = MAX(widest, qformat_row_bytes(type, m->def[i].cols));
    }
    to->slice = mem_alloc(1, MAX(widest, (size_t)SLICE_BYTES));
    if (!to->slice) {
        return err_nomem(err, "slice buffer", MAX(widest, (size_t)SLICE_BYTES));
    }
    return file_out_open(&to->file, path, err);
}

int synthetic_save(const char *path, const struct synthetic_options *opt, fathom_err *err)
{
    struct making m;
    struct sink to = {.file = {.fd = -1}};
    int rc = making_begin(&m, opt, err);
    rc = rc ? rc : save_open(&m, &to, path, err);
    if (rc == 0) {
        static const unsigned char zero =
            0; /* the last byte first: gaps are holes that read 0 */
        rc = file_out_pwrite(&to.file, &zero, 1, m.total - 1, err);
        rc = rc ? rc : file_out_pwrite(&to.file, m.header.p, m.header.n, 0, err);
        rc = rc ? rc : put_all(&m, &to, err);
        rc = rc ? rc : file_out_commit(&to.file, err);
        if (rc != 0) {
            file_out_abort(&to.file);
        }
    }
    mem_free(to.slice);
    making_free(&m);
    return rc;
}
