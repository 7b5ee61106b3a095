/* safetensors.h - reading checkpoints: one model.safetensors, or an index with shards. st_open
 * reads headers only; tensor bytes are fetched by st_read, so memory stays small whatever the
 * size of the checkpoint. Everything a header says is checked before it is used: lengths,
 * dtypes, shapes, offsets, overlap, duplicate names. A struct st_set is immutable after open
 * and may be shared between threads. */
#ifndef FACTORY_SAFETENSORS_H
#define FACTORY_SAFETENSORS_H

#include "base/err.h"
#include "base/str.h"

enum st_dtype {
    ST_BOOL,
    ST_U8,
    ST_I8,
    ST_E5M2,
    ST_E4M3,
    ST_E8M0,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_I64,
    ST_U64,
    ST_F64,
    ST_DTYPE_COUNT
};
const char *st_dtype_name(enum st_dtype t); /* as in the file: "BF16", "F8_E4M3" */
uint32_t st_dtype_bytes(enum st_dtype t);   /* of one element */

enum { ST_MAX_RANK = 8 };

struct st_tensor {
    struct slice name; /* as in the file; NUL-terminated behind its end */
    enum st_dtype dtype;
    uint32_t rank;               /* 0..ST_MAX_RANK; rank 0 is one element */
    uint64_t shape[ST_MAX_RANK]; /* slowest dimension first, as in the file */
    uint64_t n_elems, bytes;
    uint64_t offset; /* absolute, in its shard */
    uint32_t shard;
};

struct st_set; /* opaque */

/* dir holds model.safetensors.index.json and the shards it names, or model.safetensors. With an
 * index, exactly the tensors it lists are in the set, each from the shard it names. */
int st_open(struct st_set **out, const char *dir, fathom_err *err);
/* One file in borrowed memory that outlives the set (tests, fuzzing); label is for messages. */
int st_open_mem(struct st_set **out, const void *mem, size_t n, const char *label,
                fathom_err *err);
void st_close(struct st_set *s); /* NULL is fine */

size_t st_n_tensors(const struct st_set *s);
const struct st_tensor *st_at(const struct st_set *s, size_t i); /* in order of name */
const struct st_tensor *st_find(const struct st_set *s,
                                const char *name);                      /* NULL when absent */
const char *st_file(const struct st_set *s, const struct st_tensor *t); /* path or label */

/* Copies n bytes at `at` (relative to the tensor's first byte) to out; a range outside the
 * tensor is FATHOM_EINVAL. A file that shrank since st_open gives an error, not a signal. */
int st_read(const struct st_set *s, const struct st_tensor *t, uint64_t at, size_t n, void *out,
            fathom_err *err);

#endif
