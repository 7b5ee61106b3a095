/* verify.c - see verify.h. What it guards against is not the encoder (which has its own tests)
 * but the path between: rows of the wrong tensor or expert, offsets, padding, a disk that lies.
 * So a few rows of every tensor suffice: the first, the last and some in between, chosen by a
 * fixed generator from the tensor's name so that a failure can be repeated. */
#include "factory/verify.h"

#include <math.h>

#include "base/num.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "quant/formats.h"

enum { ROWS_PER_TENSOR = 6 };

/* Bound on |stored - x| for one element; block_max is the largest magnitude of its 32. */
static double bound(uint32_t type, double x, double block_max)
{
    switch (type) {
    case QT_F32: return 0;
    case QT_BF16: return fabs(x) * 0x1p-9 + 0x1p-134;
    case QT_F16: return fabs(x) * 0x1p-11 + 0x1p-25;
    case QT_Q8_0: /* half a step, and 127 steps times the rounding of the scale to F16 */
        return block_max * (0.5 / 127 + 0x1p-11 + 0x1p-20) + 128 * 0x1p-25;
    case QT_MXFP4: /* half of the widest gap (4 to 6), or saturation of up to 8 to 6 */
        return block_max * 0.25 + 0x1p-126;
    default: return 0;
    }
}

/* Largest root mean square error of a row, relative to its own, that a searching type may show:
 * about twice what it shows on uniform weights, still below the 1 of a row of zeros and the 1.4
 * of an unrelated row. 0: not a searching type. */
static double row_error(uint32_t type)
{
    switch (type) {
    case QT_IQ2_XXS:
    case QT_IQ2_XS: return 0.85;
    case QT_Q2_K: return 0.7;
    case QT_IQ3_XXS:
    case QT_Q3_K: return 0.5;
    case QT_Q4_K:
    case QT_IQ4_XS: return 0.25;
    case QT_Q5_K: return 0.15;
    case QT_Q6_K: return 0.1;
    default: return 0;
    }
}

/* *bad is the element with the largest error. A search that weighs columns may give up the
 * others, so its error is measured as it saw it; no column counts for nothing. */
static bool verify_searched(double limit, const float *x, const float *stored,
                            const float *importance, size_t n, size_t *bad)
{
    double error = 0, power = 0, worst = -1, mean = 0;
    for (size_t i = 0; importance && i < n; i++) {
        mean += (double)importance[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double w = mean > 0 ? (double)importance[i] / mean + 1e-3 : 1;
        double d = (double)stored[i] - (double)x[i];
        if (!(w * d * d <= worst)) {
            worst = w * d * d;
            *bad = i;
        }
        error += w * d * d;
        power += w * (double)x[i] * (double)x[i];
    }
    return error <= limit * limit * power + (double)n * 0x1p-36; /* scales underflow at 2^-25 */
}

bool verify_row(uint32_t type, const float *x, const float *stored, const float *importance,
                size_t n, size_t *bad)
{
    if (row_error(type) > 0) {
        return verify_searched(row_error(type), x, stored, importance, n, bad);
    }
    for (size_t b = 0; b < n; b += 32) {
        size_t end = MIN(b + 32, n);
        double max = 0;
        for (size_t i = b; i < end; i++) {
            max = MAX(max, fabs((double)x[i]));
        }
        for (size_t i = b; i < end; i++) {
            if (!(fabs((double)stored[i] - (double)x[i]) <= bound(type, x[i], max))) {
                *bad = i;
                return false;
            }
        }
    }
    return true;
}

static int check_record(const struct plan_tensor *t, const struct gguf_tensor *g,
                        const char *path, fathom_err *err)
{
    uint64_t ne[3];
    plan_dims(t, ne);
    bool same = g && g->type == t->type && g->rank == t->def.rank && g->ne[0] == ne[0] &&
                g->ne[1] == ne[1] && g->ne[2] == ne[2];
    return same ? 0
                : err_set(err, FATHOM_EIO,
                          "%s: check failed: tensor %s is not in the file as it "
                          "was planned",
                          path, t->def.gguf);
}

static int mismatch(const struct plan_tensor *t, const char *path, uint64_t mat, uint64_t row,
                    fathom_err *err)
{
    return err_set(err, FATHOM_EIO,
                   "%s: check failed: tensor %s, matrix %llu, row %llu differs from its source "
                   "(disk or memory fault?)",
                   path, t->def.gguf, (unsigned long long)mat, (unsigned long long)row);
}

/* One row of a table or of a matrix; x holds three rows. */
static int check_row(const struct plan *p, const struct plan_tensor *t,
                     const struct gguf_tensor *g, const char *path, uint64_t at, float *x,
                     fathom_err *err)
{
    uint64_t mat = at / t->def.rows, row = at % t->def.rows;
    float *y = x + t->def.cols, *w = t->use.e ? y + t->def.cols : NULL;
    const unsigned char *stored = g->data + (mat * t->def.rows + row) * g->row_bytes;
    uint64_t cols = t->def.cols;
    if (t->def.role == ROLE_TABLE) {
        int32_t *ids = (int32_t *)(void *)x;
        int rc = source_table_rows(&t->mats[0], row, 1, UINT64_MAX, ids, err);
        for (uint64_t c = 0; rc == 0 && c < cols; c++) {
            if ((int32_t)load_le32(stored + 4 * c) != ids[c]) {
                rc = mismatch(t, path, mat, row, err);
            }
        }
        return rc;
    }
    struct source_reader r;
    size_t bad;
    int rc = source_open(&r, &t->mats[mat], 1, err);
    if (rc == 0 && w) {
        rc = imatrix_weights(&t->use, (uint32_t)mat, p->shrink, w, err);
    }
    if (rc == 0 && (rc = source_rows(&r, row, 1, x, err)) == 0) {
        quant_decode(t->type, stored, 0, cols, y);
        if (!verify_row(t->type, x, y, w, cols, &bad)) {
            rc = mismatch(t, path, mat, row, err);
        }
    }
    source_close(&r);
    return rc;
}

static int check_tensor(const struct plan *p, const struct plan_tensor *t, const struct gguf *g,
                        const char *path, fathom_err *err)
{
    const struct gguf_tensor *in_file = gguf_find_tensor(g, t->def.gguf);
    int rc = check_record(t, in_file, path, err);
    if (rc) {
        return rc;
    }
    uint64_t n_rows = t->def.rows * t->def.n_mats;
    struct rng rng = {t->def.cols};
    for (const char *c = t->def.gguf; *c; c++) {
        rng.s = splitmix64(rng.s ^ (unsigned char)*c);
    }
    float *x = mem_alloc(3 * t->def.cols, sizeof *x);
    if (!x) {
        return err_nomem(err, t->def.gguf, 3 * t->def.cols * sizeof *x);
    }
    for (int k = 0; rc == 0 && k < ROWS_PER_TENSOR; k++) {
        uint64_t at = k == 0 ? 0 : k == 1 ? n_rows - 1 : rng_u64(&rng) % n_rows;
        rc = check_row(p, t, in_file, path, at, x, err);
    }
    mem_free(x);
    return rc;
}

int verify_file(const struct plan *p, const char *path, fathom_err *err)
{
    struct gguf *g;
    int rc = gguf_open(&g, path, err);
    if (rc) {
        err_prefix(err, "check failed");
        return rc;
    }
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        rc = check_tensor(p, &p->t[i], g, path, err);
    }
    gguf_close(g);
    return rc;
}
