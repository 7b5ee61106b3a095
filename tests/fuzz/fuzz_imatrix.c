/* fuzz_imatrix.c - any bytes as an importance matrix, GGUF or legacy form. What is accepted must
 * keep its promises: names distinct and findable, every value readable, finite and not negative,
 * and the importance made of it finite and not negative for any shape that fits. What is refused
 * must say why. links: factory */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/mem.h"
#include "factory/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_use(const struct imatrix *im, const struct imatrix_entry *e, uint64_t n_cols,
                      uint32_t n_mat)
{
    struct arena a = {0};
    struct imatrix_use use;
    fathom_err err = {0};
    assert(imatrix_bind(&use, im, e->name, n_cols, n_mat, IMATRIX_SHRINK, &a, &err) == 0);
    float *v = malloc(n_cols * sizeof *v);
    assert(v);
    for (uint32_t m = 0; use.e && m < n_mat && m < 16; m++) {
        assert(imatrix_weights(&use, m, IMATRIX_SHRINK, v, &err) == 0);
        for (uint64_t c = 0; c < n_cols; c++) {
            assert(v[c] >= 0 && isfinite(v[c]));
        }
    }
    free(v);
    assert(imatrix_bind(&use, im, e->name, e->n_values + 1, 1, 0, &a, &err) == FATHOM_EFORMAT);
    arena_fini(&a);
}

static void check_entry(const struct imatrix *im, const struct imatrix_entry *e)
{
    float first, last;
    assert(e->name[0] || !imatrix_is_legacy(im));
    assert(imatrix_find(im, e->name) == e && e->n_values > 0 && e->divisor >= 1);
    assert(imatrix_values(im, e, 0, 1, &first, NULL) == 0 && first >= 0);
    assert(imatrix_values(im, e, e->n_values - 1, 1, &last, NULL) == 0 && isfinite(last));
    assert(imatrix_values(im, e, e->n_values, 1, &last, NULL) != 0);
    if (e->n_mat) {
        assert(e->n_cols * e->n_mat == e->n_values && e->count);
        check_use(im, e, e->n_cols, e->n_mat);
    } else {
        check_use(im, e, e->n_values, 1);
        check_use(im, e, e->n_values, 3); /* one vector for all */
        check_use(im, e, 1, (uint32_t)e->n_values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imatrix *im;
    fathom_err err = {0};
    int rc = imatrix_open_mem(&im, data, size, "fuzz", &err);
    if (rc) {
        assert(!im && err.code == rc && err.msg[0]);
        return 0;
    }
    assert(imatrix_n(im) > 0 && !imatrix_at(im, imatrix_n(im)));
    for (size_t i = 0; i < imatrix_n(im) && i < 64; i++) {
        check_entry(im, imatrix_at(im, i));
    }
    for (size_t i = 0; i < imatrix_n_datasets(im); i++) {
        assert(imatrix_dataset(im, i).p);
    }
    imatrix_close(im);
    return 0;
}
