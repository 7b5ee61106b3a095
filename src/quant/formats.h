/* formats.h - the tensor element types of GGUF: one table, and what can be done with a row.
 * The format definitions (block layouts) stand in decode.c and decode_iq.c.
 * Rows never share a block. All functions are pure and thread-safe. */
#ifndef QUANT_FORMATS_H
#define QUANT_FORMATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* GGUF type ids. */
/* clang-format off */
enum qtype {
    QT_F32 = 0, QT_F16 = 1, QT_Q4_0 = 2, QT_Q4_1 = 3, QT_Q5_0 = 6, QT_Q5_1 = 7, QT_Q8_0 = 8,
    QT_Q8_1 = 9, QT_Q2_K = 10, QT_Q3_K = 11, QT_Q4_K = 12, QT_Q5_K = 13, QT_Q6_K = 14,
    QT_Q8_K = 15, QT_IQ2_XXS = 16, QT_IQ2_XS = 17, QT_IQ3_XXS = 18, QT_IQ1_S = 19,
    QT_IQ4_NL = 20, QT_IQ3_S = 21, QT_IQ2_S = 22, QT_IQ4_XS = 23, QT_I8 = 24, QT_I16 = 25,
    QT_I32 = 26, QT_I64 = 27, QT_F64 = 28, QT_IQ1_M = 29, QT_BF16 = 30, QT_TQ1_0 = 34,
    QT_TQ2_0 = 35, QT_MXFP4 = 39, QT_NVFP4 = 40, QT_Q1_0 = 41, QT_Q2_0 = 42,
    QT_COUNT = 43 /* ids are below this; the gaps are removed types */
};
/* clang-format on */

enum qclass {
    QC_NONE,   /* not a type (removed or unknown id) */
    QC_FLOAT,  /* F32, F16, BF16: used with F32 activations */
    QC_BLOCK,  /* decodable block format: used with A8 activations (act.h) */
    QC_INT,    /* integers and F64: tables, never multiplied */
    QC_OPAQUE, /* size known, not decodable here (Q8_1, Q8_K, TQ*, NVFP4, Q1_0, Q2_0) */
};

struct qformat {
    const char *name; /* "IQ2_XXS" */
    enum qclass cls;
    uint32_t block_elems; /* elements per block */
    uint32_t block_bytes;
};

/* The table's entry; cls QC_NONE (and name NULL) for ids that are no type; any id is safe. */
const struct qformat *qformat(uint32_t type_id);
/* By name, case-insensitive; -1 if unknown. */
int qformat_by_name(const char *name);
/* Bytes of one row of n elements; 0 if n is no multiple of the block or the type is none. */
size_t qformat_row_bytes(uint32_t type_id, uint64_t n);

/* Decodes elements [k0, k0 + n) of a row to float, bit for bit as decode.c and decode_iq.c
 * define (products left to right in float32). k0 and n are multiples of 32 for QC_BLOCK formats
 * (of any block length), arbitrary for QC_FLOAT. Only QC_FLOAT and QC_BLOCK types (assert). */
void quant_decode(uint32_t type_id, const void *row, size_t k0, size_t n, float *out);

/* The exact integer form of 32 consecutive elements [32 j, 32 j + 32) of a QC_BLOCK row:
 *   x[i] = d * w[i] - m * mc[i / 16]     (in real arithmetic; w and mc are exact integers)
 * Sub-block scales are multiplied into w and mc, so |w| <= 4096 and sum |w| * 127 over 32 fits
 * 32 bits. This is what every A8 dot product of style "LINEAR" is defined on (op/op.h). */
struct codes32 {
    float d, m; /* m = 0 where the format has no minimum */
    int16_t w[32];
    int16_t mc[2];
};
void quant_codes32(uint32_t type_id, const void *row, size_t j, struct codes32 *out);

/* The same 32 elements with the sub-block scales apart, as the file has them:
 *   x[i] = (d * s[i / 16]) * v[i] - m * mc[i / 16]
 * d and m come from an f16 (11 significant bits) or are a power of two, |s| has at most 8 bits,
 * mc at most 6: the products d * s and m * mc are exact in float32, and so is any power-of-two
 * factor moved from s into d. So quant_codes32 has the same d, m and mc, and w = s * v. */
struct unpacked32 {
    float d, m;
    int16_t s[2], mc[2];
    int8_t v[32];
};
void quant_unpack32(uint32_t type_id, const void *row, size_t j, struct unpacked32 *out);

/* True when everything in a row of n elements is finite: every scale of QC_BLOCK rows (so that
 * all decoded values are), every element of QC_FLOAT rows (inspect --check). No other classes.
 */
bool quant_row_finite(uint32_t type_id, const void *row, size_t n);

#endif
