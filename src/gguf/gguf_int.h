/* gguf_int.h - inside src/gguf only: the opened file's parts, the name index, the part parser.
 * Flow: read.c maps files and calls gguf_parse_part (parse.c) for each; find.c answers lookups.
 */
#ifndef GGUF_GGUF_INT_H
#define GGUF_GGUF_INT_H

#include "gguf/gguf.h"

/* Limits on what a file may claim; far above any real file, low enough to bound all work. */
#define GGUF_MAX_KV 65536u
#define GGUF_MAX_TENSORS 65536u
#define GGUF_MAX_KEY_BYTES 65535u
#define GGUF_MAX_NAME_BYTES 127u
#define GGUF_MAX_STRING_BYTES (16u << 20)
#define GGUF_MAX_ARRAY (1u << 24)
#define GGUF_MAX_ALIGNMENT (1u << 20)
#define GGUF_DEFAULT_ALIGNMENT 32u
#define GGUF_MAX_PARTS 1000u

/* A hash set over an array of records whose first member is a struct slice (the name). Open
 * addressing; the hash is seeded per index, so a file cannot be built to make it slow. */
struct name_index {
    uint32_t *slot; /* record number + 1; owned */
    size_t cap, n;  /* cap: a power of two or 0 */
    uint64_t seed;
};
#define NAME_NONE SIZE_MAX
/* Adds record i of the array. *twin becomes the record of the same name (then nothing is added)
 * or NAME_NONE. Returns 0 or FATHOM_ENOMEM. */
int name_index_add(struct name_index *ix, const void *records, size_t stride, size_t i,
                   size_t *twin, fathom_err *err);
/* The record of that name, or NAME_NONE. */
size_t name_index_find(const struct name_index *ix, const void *records, size_t stride,
                       struct slice name);
void name_index_free(struct name_index *ix);

/* One file of a set. */
struct gguf_part {
    struct file_map map;
    char *path; /* for messages; owned */
    struct gguf_kv *kv;
    size_t n_kv;
    struct name_index keys;
    uint32_t alignment;
    uint64_t data_start;
};

struct gguf {
    char *label;
    struct gguf_part *parts;
    size_t n_parts;
    struct gguf_tensor *tensors; /* of all parts, in part order */
    size_t n_tensors;
    struct name_index names;
};

/* Parses and checks parts[part] (its map and path are set) and appends its tensors to g. */
int gguf_parse_part(struct gguf *g, uint32_t part, fathom_err *err);

/* A name for an error message: unprintable bytes become '?', long ones end in "...". */
struct shown {
    char s[100];
};
struct shown name_show(struct slice name);
const char *gguf_vtype_name(enum gguf_vtype type);
/* Bytes of a fixed-size value; 0 for strings and arrays. */
size_t gguf_vtype_bytes(enum gguf_vtype type);

/* Why a tensor of this type and shape cannot exist, or NULL; then *row_bytes and *bytes are
 * set. Shared by reader and writer. The text is static or in `why`. */
const char *gguf_tensor_sizes(uint32_t type, uint32_t rank, const uint64_t *ne, char why[160],
                              uint64_t *row_bytes, uint64_t *bytes);

#endif
