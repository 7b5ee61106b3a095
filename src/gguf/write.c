/* write.c - the bytes before the data section of a GGUF v3 file, and where each tensor goes.
 * Keys are serialised as they come; tensor records are kept until gguf_writer_header, because
 * their offsets depend on nothing but their order and sizes: each starts at the running sum of
 * the padded sizes before it, without gaps. That is the strictest rule any reader has.
 * Mistakes in keys (twice the same, no name, too long) are remembered and reported by
 * gguf_writer_header, so that callers need not check every line. Tensor data is not handled
 * here: the caller writes it at gguf_writer_offset. */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/num.h"
#include "gguf/gguf_int.h"

struct out_key {
    struct slice name; /* first: see name_index */
};

struct out_tensor {
    struct slice name; /* first: see name_index */
    uint32_t type, rank;
    uint64_t ne[4], bytes, offset; /* offset relative to the data section */
};

struct gguf_writer {
    struct arena names;
    struct buf kv; /* serialised key/value records */
    struct out_key *keys;
    size_t n_keys, cap_keys;
    struct out_tensor *tensors;
    size_t n_tensors, cap_tensors;
    struct name_index key_index, tensor_index;
    uint32_t alignment;
    uint64_t data_start, data_bytes; /* known after gguf_writer_header */
    fathom_err first_err;            /* of a key */
};

struct gguf_writer *gguf_writer_new(void)
{
    struct gguf_writer *w = mem_calloc(1, sizeof *w);
    if (w) {
        w->alignment = GGUF_DEFAULT_ALIGNMENT;
    }
    return w;
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w) {
        return;
    }
    arena_fini(&w->names);
    buf_free(&w->kv);
    name_index_free(&w->key_index);
    name_index_free(&w->tensor_index);
    mem_free(w->keys);
    mem_free(w->tensors);
    mem_free(w);
}

static void add_u32(struct buf *b, uint32_t v)
{
    uint8_t bytes[4];
    store_le32(bytes, v);
    buf_add(b, bytes, sizeof bytes);
}

static void add_u64(struct buf *b, uint64_t v)
{
    uint8_t bytes[8];
    store_le64(bytes, v);
    buf_add(b, bytes, sizeof bytes);
}

static void add_string(struct buf *b, struct slice s)
{
    add_u64(b, s.n);
    buf_add_slice(b, s);
}

/* Room for one more record in a growing array. */
static void *grow_array(void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) {
        return p;
    }
    size_t bigger = *cap ? *cap * 2 : 64;
    void *q = mem_realloc(p, bigger, size);
    if (q) {
        *cap = bigger;
    }
    return q;
}

/* Remembers the key and starts its record; false (and first_err set) if it cannot be written.
 */
static bool begin_key(struct gguf_writer *w, struct slice key, enum gguf_vtype type)
{
    fathom_err *err = &w->first_err;
    if (err->code != 0) {
        return false;
    }
    if (key.n == 0 || key.n > GGUF_MAX_KEY_BYTES) {
        err_set(err, FATHOM_EINVAL, "GGUF key of %zu bytes, must be 1 to %u", key.n,
                GGUF_MAX_KEY_BYTES);
        return false;
    }
    struct out_key *keys = grow_array(w->keys, w->n_keys, &w->cap_keys, sizeof *keys);
    char *name = keys ? arena_strndup(&w->names, key.p, key.n) : NULL;
    w->keys = keys ? keys : w->keys;
    if (!name) {
        err_nomem(err, "GGUF key", key.n);
        return false;
    }
    size_t twin;
    keys[w->n_keys].name = (struct slice){name, key.n};
    if (name_index_add(&w->key_index, keys, sizeof *keys, w->n_keys, &twin, err) != 0) {
        return false;
    }
    if (twin != NAME_NONE) {
        err_set(err, FATHOM_EINVAL, "GGUF key \"%s\" written twice", name_show(key).s);
        return false;
    }
    w->n_keys++;
    add_string(&w->kv, key);
    add_u32(&w->kv, (uint32_t)type);
    return true;
}

static bool begin_named(struct gguf_writer *w, const char *key, enum gguf_vtype type)
{
    if (strcmp(key, "general.alignment") == 0) {
        err_set(&w->first_err, FATHOM_EINVAL,
                "GGUF key \"general.alignment\" is written by gguf_writer_set_alignment");
        return false;
    }
    return begin_key(w, slice_of(key), type);
}

void gguf_writer_set_alignment(struct gguf_writer *w, uint32_t align)
{
    if (align < 8 || (align & (align - 1)) != 0 || align > GGUF_MAX_ALIGNMENT) {
        err_set(&w->first_err, FATHOM_EINVAL,
                "GGUF alignment %" PRIu32 ", must be a power of two from 8 to %u", align,
                GGUF_MAX_ALIGNMENT);
        return;
    }
    if (begin_key(w, SLICE("general.alignment"), GGUF_U32)) {
        add_u32(&w->kv, align);
        w->alignment = align;
    }
}

void gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    if (begin_named(w, key, GGUF_U32)) {
        add_u32(&w->kv, v);
    }
}

void gguf_writer_u64(struct gguf_writer *w, const char *key, uint64_t v)
{
    if (begin_named(w, key, GGUF_U64)) {
        add_u64(&w->kv, v);
    }
}

void gguf_writer_f32(struct gguf_writer *w, const char *key, float v)
{
    if (begin_named(w, key, GGUF_F32)) {
        add_u32(&w->kv, f32_bits(v));
    }
}

void gguf_writer_bool(struct gguf_writer *w, const char *key, bool v)
{
    if (begin_named(w, key, GGUF_BOOL)) {
        buf_addc(&w->kv, v ? 1 : 0);
    }
}

void gguf_writer_str(struct gguf_writer *w, const char *key, struct slice v)
{
    if (begin_named(w, key, GGUF_STRING)) {
        add_string(&w->kv, v);
    }
}

static bool begin_array(struct gguf_writer *w, const char *key, enum gguf_vtype elem, size_t n)
{
    if (n > GGUF_MAX_ARRAY) {
        err_set(&w->first_err, FATHOM_EINVAL, "GGUF key \"%s\": %zu elements, the limit is %u",
                key, n, GGUF_MAX_ARRAY);
    }
    if (!begin_named(w, key, GGUF_ARRAY)) {
        return false;
    }
    add_u32(&w->kv, (uint32_t)elem);
    add_u64(&w->kv, n);
    return true;
}

void gguf_writer_arr_i32(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    if (begin_array(w, key, GGUF_I32, n)) {
        for (size_t i = 0; i < n; i++) {
            add_u32(&w->kv, (uint32_t)v[i]);
        }
    }
}

void gguf_writer_arr_f32(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
    if (begin_array(w, key, GGUF_F32, n)) {
        for (size_t i = 0; i < n; i++) {
            add_u32(&w->kv, f32_bits(v[i]));
        }
    }
}

void gguf_writer_arr_str(struct gguf_writer *w, const char *key, const struct slice *v,
                         size_t n)
{
    if (begin_array(w, key, GGUF_STRING, n)) {
        for (size_t i = 0; i < n; i++) {
            add_string(&w->kv, v[i]);
        }
    }
}

void gguf_writer_kv(struct gguf_writer *w, const struct gguf_kv *kv)
{
    if (slice_is(kv->key, "general.alignment") || !begin_key(w, kv->key, kv->type)) {
        return;
    }
    if (kv->type == GGUF_ARRAY) {
        add_u32(&w->kv, (uint32_t)kv->elem);
        add_u64(&w->kv, kv->n);
    }
    buf_add(&w->kv, kv->p, kv->bytes);
}

int gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint32_t rank,
                       const uint64_t *ne, fathom_err *err)
{
    struct slice s = slice_of(name);
    char text[160];
    uint64_t row_bytes, bytes;
    const char *why = gguf_tensor_sizes(type, rank, ne, text, &row_bytes, &bytes);
    if (s.n == 0 || s.n > GGUF_MAX_NAME_BYTES) {
        why = "the name must have 1 to 127 bytes";
    } else if (w->n_tensors == GGUF_MAX_TENSORS) {
        why = "too many tensors";
    }
    if (why) {
        return err_set(err, FATHOM_EINVAL, "GGUF tensor \"%s\": %s", name_show(s).s, why);
    }
    struct out_tensor *all = grow_array(w->tensors, w->n_tensors, &w->cap_tensors, sizeof *all);
    char *copy = all ? arena_strndup(&w->names, s.p, s.n) : NULL;
    w->tensors = all ? all : w->tensors;
    if (!copy) {
        return err_nomem(err, "GGUF tensor record", sizeof *all);
    }
    struct out_tensor *t = &all[w->n_tensors];
    *t = (struct out_tensor){.name = {copy, s.n}, .type = type, .rank = rank, .bytes = bytes};
    memcpy(t->ne, ne, rank * sizeof *ne);
    size_t twin;
    if (name_index_add(&w->tensor_index, all, sizeof *all, w->n_tensors, &twin, err) != 0) {
        return FATHOM_ENOMEM;
    }
    if (twin != NAME_NONE) {
        return err_set(err, FATHOM_EINVAL, "GGUF tensor \"%s\": added twice", name_show(s).s);
    }
    return (int)w->n_tensors++;
}

/* The running sum over padded sizes. */
static int assign_offsets(struct gguf_writer *w, fathom_err *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        w->tensors[i].offset = at;
        if (__builtin_add_overflow(at, w->tensors[i].bytes, &at) ||
            at > (uint64_t)INT64_MAX - GGUF_MAX_ALIGNMENT) {
            return err_set(err, FATHOM_EINVAL, "GGUF file larger than 2^63 bytes");
        }
        at = align_up(at, w->alignment);
    }
    w->data_bytes = at;
    return 0;
}

int gguf_writer_header(struct gguf_writer *w, struct buf *b, fathom_err *err)
{
    size_t start = b->n;
    int rc;
    if (w->first_err.code != 0) {
        return err_set(err, w->first_err.code, "%s", w->first_err.msg);
    }
    if (w->n_keys > GGUF_MAX_KV) {
        return err_set(err, FATHOM_EINVAL, "%zu GGUF keys, the limit is %u", w->n_keys,
                       GGUF_MAX_KV);
    }
    if ((rc = assign_offsets(w, err)) != 0) {
        return rc;
    }
    buf_adds(b, "GGUF");
    add_u32(b, 3);
    add_u64(b, w->n_tensors);
    add_u64(b, w->n_keys);
    buf_add(b, w->kv.p, w->kv.n);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct out_tensor *t = &w->tensors[i];
        add_string(b, t->name);
        add_u32(b, t->rank);
        for (uint32_t d = 0; d < t->rank; d++) {
            add_u64(b, t->ne[d]);
        }
        add_u32(b, t->type);
        add_u64(b, t->offset);
    }
    w->data_start = align_up(b->n - start, w->alignment);
    while (!b->failed && b->n - start < w->data_start) {
        buf_addc(b, 0);
    }
    if (b->failed || w->kv.failed) {
        return err_nomem(err, "GGUF header", w->kv.n);
    }
    return 0;
}

uint64_t gguf_writer_offset(const struct gguf_writer *w, int tensor)
{
    return w->data_start + w->tensors[tensor].offset;
}

uint64_t gguf_writer_tensor_bytes(const struct gguf_writer *w, int tensor)
{
    return w->tensors[tensor].bytes;
}

uint64_t gguf_writer_file_bytes(const struct gguf_writer *w)
{
    return w->data_start + w->data_bytes;
}
