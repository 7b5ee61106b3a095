/* formats.c - the one table of tensor element types: name, class, block length and block bytes.
 * Nothing else in the program knows a block size by heart. The gaps (removed ids) and ids
 * beyond the table answer with the same empty entry, so callers test one field. The byte
 * layouts behind the sizes stand in decode.c and decode_iq.c. */
#include "quant/formats.h"

#include <strings.h>

/* clang-format off */
static const struct qformat table[QT_COUNT] = {
    [QT_F32]     = {"F32",     QC_FLOAT,    1,   4},
    [QT_F16]     = {"F16",     QC_FLOAT,    1,   2},
    [QT_BF16]    = {"BF16",    QC_FLOAT,    1,   2},
    [QT_Q4_0]    = {"Q4_0",    QC_BLOCK,   32,  18},
    [QT_Q4_1]    = {"Q4_1",    QC_BLOCK,   32,  20},
    [QT_Q5_0]    = {"Q5_0",    QC_BLOCK,   32,  22},
    [QT_Q5_1]    = {"Q5_1",    QC_BLOCK,   32,  24},
    [QT_Q8_0]    = {"Q8_0",    QC_BLOCK,   32,  34},
    [QT_Q2_K]    = {"Q2_K",    QC_BLOCK,  256,  84},
    [QT_Q3_K]    = {"Q3_K",    QC_BLOCK,  256, 110},
    [QT_Q4_K]    = {"Q4_K",    QC_BLOCK,  256, 144},
    [QT_Q5_K]    = {"Q5_K",    QC_BLOCK,  256, 176},
    [QT_Q6_K]    = {"Q6_K",    QC_BLOCK,  256, 210},
    [QT_IQ2_XXS] = {"IQ2_XXS", QC_BLOCK,  256,  66},
    [QT_IQ2_XS]  = {"IQ2_XS",  QC_BLOCK,  256,  74},
    [QT_IQ2_S]   = {"IQ2_S",   QC_BLOCK,  256,  82},
    [QT_IQ3_XXS] = {"IQ3_XXS", QC_BLOCK,  256,  98},
    [QT_IQ3_S]   = {"IQ3_S",   QC_BLOCK,  256, 110},
    [QT_IQ1_S]   = {"IQ1_S",   QC_BLOCK,  256,  50},
    [QT_IQ1_M]   = {"IQ1_M",   QC_BLOCK,  256,  56},
    [QT_IQ4_NL]  = {"IQ4_NL",  QC_BLOCK,   32,  18},
    [QT_IQ4_XS]  = {"IQ4_XS",  QC_BLOCK,  256, 136},
    [QT_MXFP4]   = {"MXFP4",   QC_BLOCK,   32,  17},
    [QT_I8]      = {"I8",      QC_INT,      1,   1},
    [QT_I16]     = {"I16",     QC_INT,      1,   2},
    [QT_I32]     = {"I32",     QC_INT,      1,   4},
    [QT_I64]     = {"I64",     QC_INT,      1,   8},
    [QT_F64]     = {"F64",     QC_INT,      1,   8},
    [QT_Q8_1]    = {"Q8_1",    QC_OPAQUE,  32,  36},
    [QT_Q8_K]    = {"Q8_K",    QC_OPAQUE, 256, 292},
    [QT_TQ1_0]   = {"TQ1_0",   QC_OPAQUE, 256,  54},
    [QT_TQ2_0]   = {"TQ2_0",   QC_OPAQUE, 256,  66},
    [QT_NVFP4]   = {"NVFP4",   QC_OPAQUE,  64,  36},
    [QT_Q1_0]    = {"Q1_0",    QC_OPAQUE, 128,  18},
    [QT_Q2_0]    = {"Q2_0",    QC_OPAQUE,  64,  18},
};
/* clang-format on */

const struct qformat *qformat(uint32_t type_id)
{
    static const struct qformat none = {NULL, QC_NONE, 0, 0};
    return type_id < QT_COUNT ? &table[type_id] : &none;
}

int qformat_by_name(const char *name)
{
    for (int id = 0; id < QT_COUNT; id++) {
        if (table[id].name && strcasecmp(table[id].name, name) == 0) {
            return id;
        }
    }
    return -1;
}

size_t qformat_row_bytes(uint32_t type_id, uint64_t n)
{
    const struct qformat *f = qformat(type_id);
    size_t bytes;
    if (f->cls == QC_NONE || n % f->block_elems != 0 ||
        __builtin_mul_overflow(n / f->block_elems, f->block_bytes, &bytes)) {
        return 0;
    }
    return bytes;
}
