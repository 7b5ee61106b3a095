/* items.c - see items.h. FP4 experts that become MXFP4 are moved as codes; everything else goes
 * through float rows, a slice at a time.
 *
 * Importance comes from the plan's matrix (imatrix.h). Types that need one
 * (quant_needs_importance) get the energy of the weights when there is none: q[c] = sum over
 * the rows of this matrix of x[r][c]^2, each expert for itself, divided by its mean over the
 * columns; a matrix of zeros has none. The squares are summed in double, row after row (the
 * square of a float is exact there), so slices do not change them. It takes a pass over the
 * whole matrix, so such a matrix is always one item. */
#include "factory/items.h"

#include <math.h>
#include <stdlib.h>

#include "base/num.h"
#include "gguf/gguf.h"
#include "quant/encode.h"
#include "quant/formats.h"

/* A dense matrix is cut into items of about this many values. */
enum { ITEM_ELEMS = 4 << 20 };

/* ---- the list ---- */

static bool whole_matrix(const struct plan_tensor *t)
{
    return t->def.n_mats > 1 || (quant_needs_importance(t->type) && !t->use.e);
}

static uint64_t item_rows(const struct plan_tensor *t)
{
    return whole_matrix(t) ? t->def.rows
                           : MIN(t->def.rows, MAX(ITEM_ELEMS / t->def.cols, (uint64_t)1));
}

/* Items with their place in the source, for sorting. */
struct placed {
    uint32_t shard;
    uint64_t offset;
    struct item item;
};

static int by_place(const void *pa, const void *pb)
{
    const struct placed *a = pa, *b = pb;
    if (a->shard != b->shard) {
        return a->shard < b->shard ? -1 : 1;
    }
    if (a->offset != b->offset) {
        return a->offset < b->offset ? -1 : 1;
    }
    return a->item.at < b->item.at ? -1 : a->item.at > b->item.at; /* never equal */
}

static size_t count_items(const struct plan *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        uint64_t per = item_rows(&p->t[i]);
        n += (size_t)((p->t[i].def.rows + per - 1) / per * p->t[i].def.n_mats);
    }
    return n;
}

static size_t list_tensor(struct placed *out, const struct plan *p, uint32_t i, uint64_t at)
{
    const struct plan_tensor *t = &p->t[i];
    uint64_t per = item_rows(t), row_bytes = qformat_row_bytes(t->type, t->def.cols);
    size_t n = 0;
    for (uint32_t m = 0; m < t->def.n_mats; m++) {
        const struct st_tensor *w = t->mats[m].w;
        for (uint64_t row = 0; row < t->def.rows; row += per) {
            uint64_t rows = MIN(per, t->def.rows - row);
            out[n++] = (struct placed){
                w->shard,
                w->offset + w->bytes / t->def.rows * row,
                {i, m, row, rows, at + (m * t->def.rows + row) * row_bytes, rows * row_bytes}};
        }
    }
    return n;
}

int items_make(struct item **items, size_t *n, const struct plan *p,
               const struct gguf_writer *w, fathom_err *err)
{
    size_t count = count_items(p), k = 0;
    struct placed *list = mem_alloc(count + 1, sizeof *list);
    *items = mem_alloc(count + 1, sizeof **items);
    *n = count;
    if (!list || !*items) {
        mem_free(list);
        return err_nomem(err, "the list of work", count * sizeof *list);
    }
    for (size_t i = 0; i < p->n; i++) {
        k += list_tensor(list + k, p, (uint32_t)i, gguf_writer_offset(w, (int)i));
    }
    qsort(list, count, sizeof *list, by_place);
    for (size_t i = 0; i < count; i++) {
        (*items)[i] = list[i].item;
    }
    mem_free(list);
    return 0;
}

/* ---- making one ---- */

int item_maker_init(struct item_maker *m, const struct plan *p, uint64_t slice_bytes,
                    fathom_err *err)
{
    *m = (struct item_maker){.plan = p, .slice_bytes = slice_bytes};
    uint64_t elems = 1, cols = 1;
    for (size_t i = 0; i < p->n; i++) {
        const struct tensor_def *d = &p->t[i].def;
        elems = MAX(elems, MIN(source_slice_rows(d->cols, slice_bytes), d->rows) * d->cols);
        cols = MAX(cols, d->cols);
    }
    m->rows = mem_alloc(elems, sizeof *m->rows);
    m->coded = mem_alloc(elems, sizeof *m->rows); /* no type takes more bytes than floats */
    m->energy = mem_alloc(cols, sizeof *m->energy);
    m->importance = mem_alloc(cols, sizeof *m->importance);
    return m->rows && m->coded && m->energy && m->importance
               ? 0
               : err_nomem(err, "slices of rows", elems * 8);
}

void item_maker_free(struct item_maker *m)
{
    mem_free(m->rows);
    mem_free(m->coded);
    mem_free(m->energy);
    mem_free(m->importance);
    *m = (struct item_maker){0};
}

/* A value that the type would make infinite, or cut to its largest one, is refused. */
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

/* Fills m->importance; *q is that, or NULL if all weights are zero. */
static int weight_energy(struct item_maker *m, struct source_reader *r, uint64_t step,
                         const float **q, fathom_err *err)
{
    uint64_t cols = r->s.cols;
    int rc = 0;
    memset(m->energy, 0, cols * sizeof *m->energy);
    for (uint64_t row = 0; rc == 0 && row < r->s.rows; row += step) {
        uint64_t n = MIN(step, r->s.rows - row);
        rc = source_rows(r, row, n, m->rows, err);
        for (uint64_t i = 0; rc == 0 && i < n; i++) {
            const float *x = m->rows + i * cols;
            for (uint64_t c = 0; c < cols; c++) {
                m->energy[c] += (double)x[c] * (double)x[c];
            }
        }
    }
    double mean = 0;
    for (uint64_t c = 0; rc == 0 && c < cols; c++) {
        mean += m->energy[c] / (double)cols;
    }
    for (uint64_t c = 0; rc == 0 && c < cols; c++) {
        m->importance[c] = mean > 0 ? (float)(m->energy[c] / mean) : 1.0f;
    }
    *q = rc == 0 && mean > 0 ? m->importance : NULL;
    return rc;
}

static int encode_slice(struct item_maker *m, const struct plan_tensor *t, const float *q,
                        uint64_t n, uint64_t *lost, fathom_err *err)
{
    uint64_t cols = t->def.cols, lost_here = 0;
    size_t row_bytes = qformat_row_bytes(t->type, cols);
    for (uint64_t i = 0; i < n; i++) {
        int rc = quant_encode_weighted(t->type, m->rows + i * cols, cols, q,
                                       m->coded + i * row_bytes);
        if (rc < 0) {
            return err_set(err, FATHOM_EINVAL, "%s: cannot be written as %s", t->def.gguf,
                           qformat(t->type)->name);
        }
        lost_here += (uint64_t)rc;
    }
    *lost += lost_here;
    return lost_here ? check_range(t, m->rows, n * cols, err) : 0;
}

static int make_rows(struct item_maker *m, const struct item *it, item_put_fn *put, void *ctx,
                     uint64_t *lost, fathom_err *err)
{
    const struct plan_tensor *t = &m->plan->t[it->tensor];
    const struct source *s = &t->mats[it->mat];
    uint64_t step = MIN(source_slice_rows(t->def.cols, m->slice_bytes), t->def.rows);
    size_t row_bytes = qformat_row_bytes(t->type, t->def.cols);
    bool move_codes = t->type == QT_MXFP4 && source_is_fp4(s);
    const float *q = NULL;
    struct source_reader r;
    int rc = source_open(&r, s, step, err);
    if (rc == 0 && t->use.e) {
        rc = imatrix_weights(&t->use, it->mat, m->plan->shrink, m->importance, err);
        q = m->importance;
    } else if (rc == 0 && quant_needs_importance(t->type)) {
        rc = weight_energy(m, &r, step, &q, err);
    }
    for (uint64_t k = 0; rc == 0 && k < it->n_rows; k += step) {
        uint64_t n = MIN(step, it->n_rows - k);
        if (move_codes) {
            rc = source_rows_mxfp4(&r, it->row + k, n, m->coded, err);
        } else if ((rc = source_rows(&r, it->row + k, n, m->rows, err)) == 0) {
            rc = encode_slice(m, t, q, n, lost, err);
        }
        rc = rc ? rc : put(ctx, m->coded, n * row_bytes, it->at + k * row_bytes, err);
    }
    source_close(&r);
    return rc;
}

static int make_table(struct item_maker *m, const struct item *it, item_put_fn *put, void *ctx,
                      fathom_err *err)
{
    const struct plan_tensor *t = &m->plan->t[it->tensor];
    uint64_t cols = t->def.cols, step = source_slice_rows(cols, m->slice_bytes);
    int32_t *ids = (int32_t *)(void *)m->rows;
    int rc = 0;
    for (uint64_t k = 0; rc == 0 && k < it->n_rows; k += step) {
        uint64_t n = MIN(step, it->n_rows - k);
        rc = source_table_rows(&t->mats[0], it->row + k, n, m->plan->shape.n_expert, ids, err);
        for (uint64_t i = 0; rc == 0 && i < n * cols; i++) {
            store_le32(m->coded + 4 * i, (uint32_t)ids[i]);
        }
        rc = rc ? rc : put(ctx, m->coded, n * cols * 4, it->at + k * cols * 4, err);
    }
    return rc;
}

int item_make(struct item_maker *m, const struct item *it, item_put_fn *put, void *ctx,
              uint64_t *lost, fathom_err *err)
{
    *lost = 0;
    if (m->plan->t[it->tensor].def.role == ROLE_TABLE) {
        return make_table(m, it, put, ctx, err);
    }
    return make_rows(m, it, put, ctx, lost, err);
}
