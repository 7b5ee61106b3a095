/* fuzz_eval_reference.c - any bytes as a reference file of `fathom eval`. What opens must be
 * consistent, and every row must give finite numbers or a clear refusal. */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "eval/reference.h"
#include "eval/stats.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_VOCAB = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float logits[MAX_VOCAB];
    struct ref_file f;
    fathom_err err = {0};
    void *copy = malloc(size + 1); /* aligned, and red zones begin at its end */
    assert(copy);
    memcpy(copy, data, size);
    int rc = ref_open_mem(&f, copy, size, "fuzz", &err);
    assert((rc == 0) == (err.code == 0));
    for (uint64_t i = 0; rc == 0 && f.head.n_vocab <= MAX_VOCAB && i <= f.head.n_rows; i++) {
        uint32_t n = f.head.n_vocab;
        struct ref_compare c;
        fathom_err why = {0};
        for (uint32_t k = 0; k < n; k++) {
            logits[k] = (float)((k * 7 + (uint32_t)i) % 23) - 11;
        }
        int bad = ref_compare_row(&f, i, logits, eval_logsumexp(logits, n), &c, &why);
        assert(bad ? why.msg[0] != 0 : isfinite(c.kl) && c.kl >= 0 && c.best < n);
        assert(bad || i < f.head.n_rows);
        for (uint32_t k = 0; k < n; k++) {
            assert(f.seen[k] == 0);
        }
    }
    ref_close(&f);
    free(copy);
    return 0;
}
