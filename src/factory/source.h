/* source.h - the matrices of a checkpoint as rows of floats, whatever they are stored in: F32,
 * F16, BF16; E4M3 with an E8M0 scale per 128 x 128 tile; packed E2M1 with an E8M0 scale per row
 * and 32 columns (model.md 2, quantization.md 7). Memory is bounded by the slice of rows that
 * the caller asks for. A reader belongs to one thread; the set is shared. */
#ifndef FACTORY_SOURCE_H
#define FACTORY_SOURCE_H

#include "factory/safetensors.h"

/* A matrix [rows][cols] (a vector: one row) and where it lies. Borrows from the set. */
struct source {
    const struct st_set *set;
    const struct st_tensor *w;
    const struct st_tensor *scale; /* NULL unless w is E4M3 or packed FP4 */
    uint64_t rows, cols;
};

/* Binds a weight and its scale (NULL if the checkpoint has none) and checks dtypes and shapes.
 * is_vector: the stored shape is [cols], not [rows][cols]. */
int source_bind(struct source *s, const struct st_set *set, const struct st_tensor *w,
                const struct st_tensor *scale, uint64_t rows, uint64_t cols, bool is_vector,
                fathom_err *err);
bool source_is_fp4(const struct source *s);
/* "BF16", "FP8", "FP4" ...: for messages. */
const char *source_kind(const struct source *s);

struct source_reader {
    struct source s;
    uint8_t *raw;     /* owned: stored bytes of a slice */
    uint8_t *scale;   /* owned: all scale codes of the matrix */
    float value[256]; /* of each E4M3 code */
    uint64_t raw_row_bytes, max_rows;
};
/* Prepares to read slices of at most max_rows rows. Scale codes are read here; a NaN code is
 * FATHOM_EFORMAT. */
int source_open(struct source_reader *r, const struct source *s, uint64_t max_rows,
                fathom_err *err);
void source_close(struct source_reader *r); /* also safe after a failed open */

/* Rows [row, row + n) to out[n * cols]. A value that is not finite is FATHOM_EFORMAT and names
 * tensor, row and column. */
int source_rows(struct source_reader *r, uint64_t row, uint64_t n, float *out, fathom_err *err);
/* The same rows of a packed FP4 matrix as MXFP4 rows, moved without a rounding. */
int source_rows_mxfp4(struct source_reader *r, uint64_t row, uint64_t n, uint8_t *out,
                      fathom_err *err);
/* An upper bound on the magnitudes of a matrix: exact for stored floats (reads them, in slices
 * of slice_bytes), from the scales alone for E4M3 and FP4. */
int source_max(const struct source *s, uint64_t slice_bytes, double *out, fathom_err *err);

/* An I64 (or I32) table [rows][cols] of ids below n_ids: rows [row, row + n) to out. */
int source_table_bind(struct source *s, const struct st_set *set, const struct st_tensor *w,
                      uint64_t rows, uint64_t cols, fathom_err *err);
int source_table_rows(const struct source *s, uint64_t row, uint64_t n, uint64_t n_ids,
                      int32_t *out, fathom_err *err);

/* Rows per slice that keep a slice of floats below slice_bytes (0: 4 MiB), at least one. */
uint64_t source_slice_rows(uint64_t cols, uint64_t slice_bytes);

#endif
