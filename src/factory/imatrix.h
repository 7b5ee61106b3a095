/* imatrix.h - importance matrices: for every weight matrix and every column of it, the mean
 * square of the inputs that the column met (docs/factory.md). Two forms are read: the GGUF form
 * (general.type "imatrix": raw sums and counts per matrix, so that files can be added up), which
 * is the one written, and the legacy .dat form, which holds means only.
 *
 * A struct imatrix keeps names, counts and places; values are read from the file when they are
 * asked for, so that a converter's memory does not grow with the file. Immutable after open; any
 * number of threads may read. */
#ifndef FACTORY_IMATRIX_H
#define FACTORY_IMATRIX_H

#include "base/err.h"
#include "base/str.h"

/* The input of one weight tensor. */
struct imatrix_entry {
    const char *name;    /* of the weight tensor, "blk.3.ffn_gate_exps.weight" */
    uint64_t n_values;   /* n_cols x n_mat */
    uint64_t n_cols;     /* 0: not known (legacy) */
    uint32_t n_mat;      /* 0: not known (legacy) */
    const double *count; /* [n_mat] inputs that were summed up; NULL: not known (legacy) */
    double divisor;      /* legacy: the values divided by this are means; else 1 */
    uint64_t at;         /* place of the values in the file: F32, matrix after matrix */
};

struct imatrix; /* opaque */

/* Opens either form and checks everything: lengths, names, that every value is finite and not
 * negative. FATHOM_ENOENT, FATHOM_EFORMAT (file, entry, reason), FATHOM_EIO, FATHOM_ENOMEM. */
int imatrix_open(struct imatrix **out, const char *path, fathom_err *err);
/* The same over borrowed memory that outlives it (tests, fuzzing); label is for messages. */
int imatrix_open_mem(struct imatrix **out, const void *mem, size_t n, const char *label,
                     fathom_err *err);
void imatrix_close(struct imatrix *im); /* NULL is fine */

const char *imatrix_label(const struct imatrix *im);
bool imatrix_is_legacy(const struct imatrix *im);
size_t imatrix_n(const struct imatrix *im);
const struct imatrix_entry *imatrix_at(const struct imatrix *im, size_t i); /* file order */
const struct imatrix_entry *imatrix_find(const struct imatrix *im, const char *name);
/* The data sets it was made from, how many prompts and how long the longest was; 0 if the file
 * does not say. */
size_t imatrix_n_datasets(const struct imatrix *im);
struct slice imatrix_dataset(const struct imatrix *im, size_t i);
uint32_t imatrix_chunk_count(const struct imatrix *im);
uint32_t imatrix_chunk_size(const struct imatrix *im);
/* Checksum of the whole file (journal.h): names it in what is made with it. */
uint64_t imatrix_digest(const struct imatrix *im);

/* Values [from, from + n) of an entry as they are stored. FATHOM_EIO if the file has changed. */
int imatrix_values(const struct imatrix *im, const struct imatrix_entry *e, uint64_t from,
                   uint64_t n, float *out, fathom_err *err);

/* ---- importance for a quantiser ---- */

/* One weight tensor bound to its entry. */
struct imatrix_use {
    const struct imatrix *im;
    const struct imatrix_entry *e;
    uint64_t n_cols;
    uint32_t n_mat;
    bool shared;     /* the entry has one vector for all matrices */
    float *mean;     /* [n_cols] over all inputs of all matrices; owned by the caller's arena */
    uint32_t n_few;  /* matrices that met fewer inputs than the shrinkage (see below) */
    uint32_t n_none; /* ... none at all: they take the mean */
};
struct arena;
/* Binds a weight tensor of n_mat matrices of n_cols columns. use->e is NULL if the file has no
 * entry of that name, or one that met no input at all. An entry of another size is
 * FATHOM_EFORMAT. Reads all values of the entry once, for the mean, n_few and n_none. */
int imatrix_bind(struct imatrix_use *use, const struct imatrix *im, const char *name,
                 uint64_t n_cols, uint32_t n_mat, double shrink, struct arena *a,
                 fathom_err *err);
/* The importance of the columns of matrix `mat`: (sum + shrink * mean) / (count + shrink), so an
 * expert that was rarely chosen is pulled to the mean of its layer and one that never was takes
 * it. A single matrix and the vectors of a legacy file, whose counts are not known, stay as
 * they are; the ones that a legacy file writes for an expert never chosen become the mean. */
int imatrix_weights(const struct imatrix_use *use, uint32_t mat, double shrink, float *out,
                    fathom_err *err);
#define IMATRIX_SHRINK 32.0

/* ---- writing (imatrix_write.c) ---- */

struct imatrix_tensor {
    const char *name; /* of the weight tensor */
    uint64_t n_cols;
    uint32_t n_mat;
    const double *count; /* [n_mat] */
};
struct imatrix_writing {
    const struct imatrix_tensor *t; /* [n], distinct names */
    size_t n;
    const struct slice *datasets; /* [n_datasets] */
    size_t n_datasets;
    uint32_t chunk_count, chunk_size;
    /* Gives the sums of matrix `mat` of tensor i: n_cols values. */
    int (*sums)(void *user, size_t i, uint32_t mat, double *out, fathom_err *err);
    void *user;
};
/* Writes the GGUF form, complete or not at all. A sum or count that is not finite, or negative,
 * is FATHOM_EINVAL and names the tensor. FATHOM_EIO, FATHOM_ENOMEM. */
int imatrix_write(const char *path, const struct imatrix_writing *w, fathom_err *err);

/* Adds up files of the GGUF form into a new one: entries by name, sums and counts; entries of
 * different sizes are FATHOM_EFORMAT. A legacy file is FATHOM_EUNSUPPORTED: it has neither
 * counts nor shapes. report (may be NULL) gets one line without newline for each thing a user
 * should know. */
int imatrix_merge(const char *out, const char *const *paths, size_t n,
                  void (*report)(void *user, const char *line), void *user, fathom_err *err);

#endif
