/* fuzz_safetensors.c - any bytes as a safetensors file. If the reader accepts them, everything it
 * promises must hold: tensors inside the file, sizes that agree with shapes, names sorted and
 * distinct, no overlap, every byte readable, nothing beyond. links: factory */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "factory/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const struct st_set *s, const struct st_tensor *t, size_t size)
{
    assert(t->name.n > 0 && t->name.p[t->name.n] == 0 && t->rank <= ST_MAX_RANK);
    assert(t->bytes == t->n_elems * st_dtype_bytes(t->dtype));
    assert(t->offset <= size && t->bytes <= size - t->offset);
    assert(st_find(s, t->name.p) == t);
    uint8_t *copy = malloc(t->bytes + 1);
    assert(copy);
    assert(st_read(s, t, 0, t->bytes, copy, NULL) == 0);
    assert(st_read(s, t, t->bytes, 1, copy, NULL) != 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_set *s;
    fathom_err err = {0};
    int rc = st_open_mem(&s, data, size, "fuzz", &err);
    if (rc) {
        assert(!s && err.code == rc && err.msg[0]);
        return 0;
    }
    for (size_t i = 0; i < st_n_tensors(s) && i < 64; i++) {
        const struct st_tensor *t = st_at(s, i);
        check_tensor(s, t, size);
        for (size_t k = 0; k < i; k++) { /* disjoint */
            const struct st_tensor *u = st_at(s, k);
            assert(t->offset + t->bytes <= u->offset || u->offset + u->bytes <= t->offset ||
                   t->bytes == 0 || u->bytes == 0);
        }
        assert(i == 0 || strcmp(st_at(s, i - 1)->name.p, t->name.p) < 0);
    }
    st_close(s);
    return 0;
}
