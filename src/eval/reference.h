/* reference.h - the predictions of a reference model in a file, so that two models that do not fit
 * into memory together can be compared: one run writes, another reads.
 *
 * A row holds the log-probability of the scored id, the best id, and either all logits (kept = 0:
 * the comparison is exactly the one of two open models) or the `kept` likeliest ids with their
 * log-probabilities and the mass of the rest. From the short form the KL divergence is taken over
 * kept + 1 outcomes, the rest being one of them: never more than the full one.
 *
 * Little-endian, no padding: "FATHOMRF", u32 version 1, u32 n_vocab, u32 kept, u32 name_bytes,
 * u64 n_rows, u64 set hash, name (UTF-8, filled with zeros to a multiple of 8), then the rows:
 * f64 log-probability of the id, u32 best id, f32 log of the rest's mass (-infinity: none), then
 * n_vocab f32 logits (an odd count is filled to a multiple of 8 bytes), or kept times u32 id and
 * f32 log-probability, best first. Bytes a row: 16 + 4 n_vocab, or 16 + 8 kept.
 * Thread rule: one thread. */
#ifndef EVAL_REFERENCE_H
#define EVAL_REFERENCE_H

#include "base/file.h"

struct ref_head {
    uint32_t n_vocab, kept;
    uint64_t n_rows, set_hash;
    char name[256]; /* the model, its arithmetic */
};
uint64_t ref_row_bytes(const struct ref_head *h);
uint64_t ref_file_bytes(const struct ref_head *h);

/* ---- writing ---- */

struct ref_writer {
    struct ref_head head;
    struct file_out file;
    unsigned char *row; /* owned, ref_row_bytes */
    uint32_t *order;    /* owned, [kept] */
    uint64_t n;
};
/* Refuses (FATHOM_EIO) what the disk cannot hold. */
int ref_create(struct ref_writer *w, const char *path, const struct ref_head *h,
               fathom_err *err);
/* The next row: logits [n_vocab], their logsumexp, the scored id. */
int ref_write(struct ref_writer *w, const float *logits, double lse, uint32_t id,
              fathom_err *err);
/* The file appears under its name only when all n_rows were written. */
int ref_commit(struct ref_writer *w, fathom_err *err);
void ref_abort(struct ref_writer *w); /* also safe after a failed create, and after commit */

/* ---- reading ---- */

struct ref_file {
    struct ref_head head;
    struct file_map map;
    const unsigned char *rows; /* borrowed from map, or from the caller's memory */
    unsigned char *seen;       /* owned, one byte per id: scratch */
    char label[256];           /* for messages */
};
int ref_open(struct ref_file *f, const char *path, fathom_err *err);
/* Over memory that outlives f (fuzzing). */
int ref_open_mem(struct ref_file *f, const void *p, size_t n, const char *label,
                 fathom_err *err);
void ref_close(struct ref_file *f);

/* What a stored row says about a row of logits [n_vocab]. */
struct ref_compare {
    double logprob; /* of the scored id, by the reference */
    double kl;      /* KL(reference || logits), in nats */
    double rest;    /* mass of the ids that are not kept; 0 for full rows */
    uint32_t best;
};
/* FATHOM_EFORMAT names the row and what is wrong with it. */
int ref_compare_row(struct ref_file *f, uint64_t row, const float *logits, double lse,
                    struct ref_compare *out, fathom_err *err);

#endif
