/* gguf.h - GGUF v3 files: reading (mapped, zero copies, every check of docs/gguf.md) and
 * writing. Reader: gguf_open maps one file, or all parts of a split set when given any part
 * whose name ends in -NNNNN-of-NNNNN.gguf. Everything is validated before any pointer is
 * formed; a struct gguf is immutable afterwards and may be shared between threads. Strings and
 * arrays are views into the mapping (unaligned: use the getters). */
#ifndef GGUF_GGUF_H
#define GGUF_GGUF_H

#include "base/err.h"
#include "base/file.h"
#include "base/str.h"

enum gguf_vtype {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_VTYPE_COUNT
};

struct gguf_kv {
    struct slice key;
    enum gguf_vtype type;   /* GGUF_ARRAY for arrays */
    enum gguf_vtype elem;   /* element type of an array */
    uint64_t n;             /* elements of an array, 1 otherwise */
    const unsigned char *p; /* first byte of the value (of the first element) */
    size_t bytes;           /* value bytes */
};

struct gguf_tensor {
    struct slice name;
    uint32_t type;  /* enum qtype, always one qformat() knows with a size */
    uint32_t rank;  /* 1..4 */
    uint64_t ne[4]; /* ne[0] is contiguous; unused ones are 1 */
    uint64_t row_bytes;
    uint64_t bytes;
    uint64_t offset; /* absolute, in its part */
    uint32_t part;
    const unsigned char *data; /* into the mapping */
};

struct gguf; /* opaque */

/* path: a file, or any part of a split set. Keys are those of the set's first part. Errors are
 * FATHOM_EFORMAT (with key or tensor and remedy), FATHOM_ENOENT (file or part missing), EIO,
 * ENOMEM; *out is NULL then. */
int gguf_open(struct gguf **out, const char *path, fathom_err *err);
/* The same over borrowed memory (embedded model, tests, fuzzing); mem outlives the gguf. */
int gguf_open_mem(struct gguf **out, const void *mem, size_t n, const char *label,
                  fathom_err *err);
void gguf_close(struct gguf *g); /* NULL is fine */

const char *gguf_label(const struct gguf *g); /* path or label, for messages */
size_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i);
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
uint64_t gguf_file_bytes(const struct gguf *g); /* sum over parts */
/* The mapped files, for reading around the mapping or advising the kernel; one unless split. */
size_t gguf_n_parts(const struct gguf *g);
const struct file_map *gguf_part_map(const struct gguf *g, size_t i);
/* Bytes before the tensor data of part i: keys and tensor records. */
uint64_t gguf_header_bytes(const struct gguf *g, size_t i);

/* Hashed lookups; NULL when absent. */
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* Typed getters: false when kv is NULL or the type does not fit. gguf_u64 takes any unsigned or
 * non-negative signed integer; gguf_f64 any float or integer. The _at forms read array element
 * i. */
bool gguf_u64(const struct gguf_kv *kv, uint64_t *out);
bool gguf_f64(const struct gguf_kv *kv, double *out);
bool gguf_bool(const struct gguf_kv *kv, bool *out);
bool gguf_str(const struct gguf_kv *kv, struct slice *out);
bool gguf_u64_at(const struct gguf_kv *kv, uint64_t i, uint64_t *out);
bool gguf_f64_at(const struct gguf_kv *kv, uint64_t i, double *out);
/* Walks a string array without random access: *cursor starts at 0 and is advanced. */
bool gguf_str_next(const struct gguf_kv *kv, size_t *cursor, struct slice *out);

/* ---- writing ----
 * Collect keys and tensor records, then gguf_writer_header gives the bytes before the data
 * section, and every tensor its offset by the strict running-sum rule (alignment 32 unless
 * general.alignment was set through set_alignment), so that other readers accept the file. The
 * data itself is the caller's: tensor bytes at gguf_writer_offset, zeros between. */
struct gguf_writer;
struct gguf_writer *gguf_writer_new(void); /* NULL when out of memory */
void gguf_writer_free(struct gguf_writer *w);
void gguf_writer_set_alignment(struct gguf_writer *w, uint32_t align);
void gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_writer_u64(struct gguf_writer *w, const char *key, uint64_t v);
void gguf_writer_f32(struct gguf_writer *w, const char *key, float v);
void gguf_writer_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_writer_str(struct gguf_writer *w, const char *key, struct slice v);
void gguf_writer_arr_i32(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_writer_arr_f32(struct gguf_writer *w, const char *key, const float *v, size_t n);
void gguf_writer_arr_str(struct gguf_writer *w, const char *key, const struct slice *v,
                         size_t n);
/* Copies a key of an opened file as it is; general.alignment is left out. */
void gguf_writer_kv(struct gguf_writer *w, const struct gguf_kv *kv);
/* Returns the tensor's index, or a negative error (duplicate name, bad dims for the type). */
int gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t rank,
                       const uint64_t *ne, fathom_err *err);
/* Ends the record phase. header: appended to b, padded to the alignment. Also reports what was
 * wrong with a key (empty, twice, too long) or with the alignment. */
int gguf_writer_header(struct gguf_writer *w, struct buf *b, fathom_err *err);
uint64_t gguf_writer_offset(const struct gguf_writer *w,
                            int tensor); /* absolute, after header */
uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, int tensor);
uint64_t gguf_writer_file_bytes(const struct gguf_writer *w); /* incl. final padding */

#endif
