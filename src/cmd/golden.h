/* golden.h - the golden tiny model of `fathom selftest`: a model with every structural part of
 * DeepSeek V4 whose weights are hashes of the tensor names, so that it needs no file and its
 * logits are known (model.md 17). Tests may use it too. */
#ifndef CMD_GOLDEN_H
#define CMD_GOLDEN_H

#include "base/err.h"

enum { GOLDEN_VOCAB = 101 };

/* The model as a GGUF in memory, 4096-aligned; free with mem_free. big: type of the dense and
 * expert matrices, QT_F32 or an encodable one of blocks of 32. */
int golden_build(unsigned char **out, size_t *n_bytes, uint32_t big, fathom_err *err);
/* Token id of position p of the golden sequence. */
uint32_t golden_id(uint32_t p);

/* Published logits of one position: the first four and the sum of magnitudes. */
struct golden_row {
    uint32_t p, argmax;
    double logits[4], sum_abs;
};
/* sim: native rows (tolerance 1e-3), else simulations off (1e-4). */
const struct golden_row *golden_rows(bool sim, size_t *n);

#endif
