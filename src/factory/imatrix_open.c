/* imatrix_open.c - opening an importance matrix of either form (imatrix_gguf.c, imatrix_legacy.c)
 * and checking all of it: values, names, the digest. */
#include "factory/imatrix_int.h"

#include <math.h>
#include <stdlib.h>

#include "base/num.h"
#include "factory/journal.h"
#include "gguf/gguf.h"

enum { READ_BYTES = 1 << 18 };

/* ---- checks ---- */

static int take_digest(struct imatrix *im, unsigned char *buf, fathom_err *err)
{
    struct checksum c = {0};
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < im->file->n; at += READ_BYTES) {
        size_t n = (size_t)MIN((uint64_t)im->file->n - at, (uint64_t)READ_BYTES);
        rc = imatrix_bytes(im, at, n, buf, err);
        if (rc == 0) {
            checksum_add(&c, buf, n);
        }
    }
    im->digest = checksum_end(&c);
    return rc;
}

static int check_values(const struct imatrix *im, const struct imatrix_entry *e, float *buf,
                        fathom_err *err)
{
    enum { STEP = READ_BYTES / sizeof(float) };
    for (uint64_t at = 0; at < e->n_values; at += STEP) {
        uint64_t n = MIN(e->n_values - at, (uint64_t)STEP);
        int rc = imatrix_values(im, e, at, n, buf, err);
        if (rc) {
            return rc;
        }
        for (uint64_t i = 0; i < n; i++) {
            if (!(buf[i] >= 0 && isfinite(buf[i]))) {
                return err_set(err, FATHOM_EFORMAT,
                               "%s: %s: value %llu is %g; sums of squares are finite and not "
                               "negative",
                               im->label, e->name, (unsigned long long)(at + i),
                               (double)buf[i]);
            }
        }
    }
    return 0;
}

static int check_all(struct imatrix *im, fathom_err *err)
{
    void *buf = mem_alloc(READ_BYTES, 1);
    int rc = buf ? take_digest(im, buf, err) : err_nomem(err, im->label, READ_BYTES);
    for (size_t i = 0; rc == 0 && i < im->n; i++) {
        rc = check_values(im, &im->e[i], buf, err);
    }
    mem_free(buf);
    return rc;
}

struct by_name {
    const char *name;
    uint32_t index;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct by_name *)a)->name, ((const struct by_name *)b)->name);
}

static int sort_entries(struct imatrix *im, fathom_err *err)
{
    struct by_name *list = mem_alloc(im->n + 1, sizeof *list);
    im->sorted = arena_alloc(&im->arena, (im->n + 1) * sizeof *im->sorted);
    if (!list || !im->sorted) {
        mem_free(list);
        return err_nomem(err, im->label, im->n * sizeof *list);
    }
    for (size_t i = 0; i < im->n; i++) {
        list[i] = (struct by_name){im->e[i].name, (uint32_t)i};
    }
    qsort(list, im->n, sizeof *list, compare_names);
    int rc = 0;
    for (size_t i = 0; i < im->n; i++) {
        im->sorted[i] = list[i].index;
        if (i && strcmp(list[i - 1].name, list[i].name) == 0) {
            rc = err_set(err, FATHOM_EFORMAT, "%s: two entries are named %s", im->label,
                         list[i].name);
        }
    }
    mem_free(list);
    return rc;
}

/* ---- opening ---- */

static bool is_gguf(const unsigned char *p, size_t n)
{
    return n >= 4 && memcmp(p, "GGUF", 4) == 0;
}

static int finish_open(struct imatrix **out, struct imatrix *im, fathom_err *err)
{
    int rc = im->gguf ? imatrix_parse_gguf(im, err) : imatrix_parse_legacy(im, err);
    if (rc == 0 && im->n == 0) {
        rc =
            err_set(err, FATHOM_EFORMAT, "%s: an importance matrix without entries", im->label);
    }
    rc = rc ? rc : sort_entries(im, err);
    rc = rc ? rc : check_all(im, err);
    if (rc) {
        imatrix_close(im);
        return rc;
    }
    *out = im;
    return 0;
}

static struct imatrix *new_imatrix(const char *label, fathom_err *err)
{
    struct imatrix *im = mem_calloc(1, sizeof *im);
    if (im) {
        im->map.fd = -1;
        im->label = mem_strdup(label);
    }
    if (!im || !im->label) {
        mem_free(im);
        err_nomem(err, label, sizeof *im);
        return NULL;
    }
    return im;
}

int imatrix_open(struct imatrix **out, const char *path, fathom_err *err)
{
    *out = NULL;
    struct imatrix *im = new_imatrix(path, err);
    if (!im) {
        return FATHOM_ENOMEM;
    }
    int rc = file_map_open(&im->map, path, err);
    if (rc == 0 && is_gguf(im->map.p, im->map.n)) {
        file_map_close(&im->map);
        rc = gguf_open(&im->gguf, path, err);
        im->file = rc ? NULL : gguf_part_map(im->gguf, 0);
    } else if (rc == 0) {
        im->file = &im->map;
    }
    if (rc) {
        imatrix_close(im);
        return rc;
    }
    return finish_open(out, im, err);
}

int imatrix_open_mem(struct imatrix **out, const void *mem, size_t n, const char *label,
                     fathom_err *err)
{
    *out = NULL;
    struct imatrix *im = new_imatrix(label, err);
    if (!im) {
        return FATHOM_ENOMEM;
    }
    im->map = (struct file_map){.p = mem, .n = n, .fd = -1};
    im->file = &im->map;
    int rc = is_gguf(mem, n) ? gguf_open_mem(&im->gguf, mem, n, label, err) : 0;
    if (rc) {
        imatrix_close(im);
        return rc;
    }
    return finish_open(out, im, err);
}
