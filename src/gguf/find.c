/* find.c - lookups and getters over an opened GGUF: the name index, keys and tensors by name,
 * and typed access to values. Values lie unaligned in the mapping, so everything goes through
 * the load_le functions. All sizes were checked when the file was opened (parse.c); the getters
 * only check what the caller asks for: type, range, element number. */
#include "gguf/gguf_int.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rng.h"

/* The index relies on the name being the first member of its records. */
_Static_assert(offsetof(struct gguf_kv, key) == 0, "name_index needs the key first");
_Static_assert(offsetof(struct gguf_tensor, name) == 0, "name_index needs the name first");

static uint64_t hash_name(uint64_t seed, struct slice s)
{
    uint64_t h = seed ^ s.n;
    size_t i = 0;
    for (; i + 8 <= s.n; i += 8) {
        h = splitmix64(h ^ load_le64(s.p + i));
    }
    for (; i < s.n; i++) {
        h = splitmix64(h ^ (unsigned char)s.p[i]);
    }
    return splitmix64(h);
}

static struct slice record_name(const void *records, size_t stride, size_t i)
{
    struct slice s;
    memcpy(&s, (const char *)records + i * stride, sizeof s);
    return s;
}

/* The slot that holds `name`, or the free one where it belongs; cap > n. */
static size_t probe(const struct name_index *ix, const void *records, size_t stride,
                    struct slice name)
{
    size_t mask = ix->cap - 1, at = (size_t)hash_name(ix->seed, name) & mask;
    while (ix->slot[at] && !slice_eq(record_name(records, stride, ix->slot[at] - 1), name)) {
        at = (at + 1) & mask;
    }
    return at;
}

static int grow(struct name_index *ix, const void *records, size_t stride, fathom_err *err)
{
    struct name_index bigger = {.cap = ix->cap ? ix->cap * 2 : 64, .n = ix->n};
    bigger.slot = mem_calloc(bigger.cap, sizeof *bigger.slot);
    if (!bigger.slot) {
        return err_nomem(err, "name index", bigger.cap * sizeof *bigger.slot);
    }
    bigger.seed = splitmix64((uintptr_t)bigger.slot); /* not known to whoever wrote the file */
    for (size_t i = 0; i < ix->cap; i++) {
        if (ix->slot[i]) {
            struct slice name = record_name(records, stride, ix->slot[i] - 1);
            bigger.slot[probe(&bigger, records, stride, name)] = ix->slot[i];
        }
    }
    mem_free(ix->slot);
    *ix = bigger;
    return 0;
}

int name_index_add(struct name_index *ix, const void *records, size_t stride, size_t i,
                   size_t *twin, fathom_err *err)
{
    if (2 * (ix->n + 1) > ix->cap && grow(ix, records, stride, err) != 0) {
        return FATHOM_ENOMEM;
    }
    size_t at = probe(ix, records, stride, record_name(records, stride, i));
    *twin = ix->slot[at] ? ix->slot[at] - 1 : NAME_NONE;
    if (*twin == NAME_NONE) {
        ix->slot[at] = (uint32_t)i + 1;
        ix->n++;
    }
    return 0;
}

size_t name_index_find(const struct name_index *ix, const void *records, size_t stride,
                       struct slice name)
{
    if (ix->n == 0) {
        return NAME_NONE;
    }
    uint32_t slot = ix->slot[probe(ix, records, stride, name)];
    return slot ? slot - 1 : NAME_NONE;
}

void name_index_free(struct name_index *ix)
{
    mem_free(ix->slot);
    *ix = (struct name_index){0};
}

struct shown name_show(struct slice name)
{
    struct shown out;
    size_t n = MIN(name.n, sizeof out.s - 4);
    for (size_t i = 0; i < n; i++) {
        char c = name.p[i];
        out.s[i] = c >= 32 && c < 127 ? c : '?';
    }
    memcpy(out.s + n, n < name.n ? "..." : "", n < name.n ? 4 : 1);
    return out;
}

const char *gguf_vtype_name(enum gguf_vtype type)
{
    static const char *const names[GGUF_VTYPE_COUNT] = {
        "u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
        "bool", "string", "array", "u64", "i64", "f64",
    };
    return type < GGUF_VTYPE_COUNT ? names[type] : "unknown";
}

size_t gguf_vtype_bytes(enum gguf_vtype type)
{
    static const uint8_t bytes[GGUF_VTYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < GGUF_VTYPE_COUNT ? bytes[type] : 0;
}

const char *gguf_label(const struct gguf *g)
{
    return g->label;
}

size_t gguf_n_kv(const struct gguf *g)
{
    return g->parts[0].n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i)
{
    return i < g->parts[0].n_kv ? &g->parts[0].kv[i] : NULL;
}

size_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

size_t gguf_n_parts(const struct gguf *g)
{
    return g->n_parts;
}

const struct file_map *gguf_part_map(const struct gguf *g, size_t i)
{
    return i < g->n_parts ? &g->parts[i].map : NULL;
}

uint64_t gguf_header_bytes(const struct gguf *g, size_t i)
{
    return i < g->n_parts ? g->parts[i].data_start : 0;
}

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < g->n_parts; i++) {
        sum += g->parts[i].map.n;
    }
    return sum;
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    const struct gguf_part *p = &g->parts[0];
    size_t i = name_index_find(&p->keys, p->kv, sizeof *p->kv, slice_of(key));
    return i == NAME_NONE ? NULL : &p->kv[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    size_t i = name_index_find(&g->names, g->tensors, sizeof *g->tensors, slice_of(name));
    return i == NAME_NONE ? NULL : &g->tensors[i];
}

/* An integer of any type but bool at p, sign-extended; false for other types. */
static bool load_int(enum gguf_vtype type, const unsigned char *p, int64_t *out, bool *is_u64)
{
    *is_u64 = false;
    switch (type) {
    case GGUF_U8: *out = p[0]; return true;
    case GGUF_I8: *out = (int8_t)p[0]; return true;
    case GGUF_U16: *out = load_le16(p); return true;
    case GGUF_I16: *out = (int16_t)load_le16(p); return true;
    case GGUF_U32: *out = load_le32(p); return true;
    case GGUF_I32: *out = (int32_t)load_le32(p); return true;
    case GGUF_U64:
        *is_u64 = true;
        *out = (int64_t)load_le64(p);
        return true;
    case GGUF_I64: *out = (int64_t)load_le64(p); return true;
    default: return false;
    }
}

static bool load_u64(enum gguf_vtype type, const unsigned char *p, uint64_t *out)
{
    int64_t v;
    bool is_u64;
    if (!load_int(type, p, &v, &is_u64) || (v < 0 && !is_u64)) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

static bool load_f64(enum gguf_vtype type, const unsigned char *p, double *out)
{
    int64_t v;
    bool is_u64;
    if (type == GGUF_F32) {
        *out = (double)f32_from_bits(load_le32(p));
        return true;
    }
    if (type == GGUF_F64) {
        uint64_t bits = load_le64(p);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (!load_int(type, p, &v, &is_u64)) {
        return false;
    }
    *out = is_u64 ? (double)(uint64_t)v : (double)v;
    return true;
}

bool gguf_u64(const struct gguf_kv *kv, uint64_t *out)
{
    return kv && load_u64(kv->type, kv->p, out);
}

bool gguf_f64(const struct gguf_kv *kv, double *out)
{
    return kv && load_f64(kv->type, kv->p, out);
}

bool gguf_bool(const struct gguf_kv *kv, bool *out)
{
    if (!kv || kv->type != GGUF_BOOL) {
        return false;
    }
    *out = kv->p[0] != 0;
    return true;
}

bool gguf_str(const struct gguf_kv *kv, struct slice *out)
{
    if (!kv || kv->type != GGUF_STRING) {
        return false;
    }
    *out = (struct slice){(const char *)kv->p + 8, kv->bytes - 8};
    return true;
}

/* The address of element i of an array of fixed-size values, or NULL. */
static const unsigned char *element(const struct gguf_kv *kv, uint64_t i)
{
    if (!kv || kv->type != GGUF_ARRAY || i >= kv->n || gguf_vtype_bytes(kv->elem) == 0) {
        return NULL;
    }
    return kv->p + i * gguf_vtype_bytes(kv->elem);
}

bool gguf_u64_at(const struct gguf_kv *kv, uint64_t i, uint64_t *out)
{
    const unsigned char *p = element(kv, i);
    return p && load_u64(kv->elem, p, out);
}

bool gguf_f64_at(const struct gguf_kv *kv, uint64_t i, double *out)
{
    const unsigned char *p = element(kv, i);
    return p && load_f64(kv->elem, p, out);
}

bool gguf_str_next(const struct gguf_kv *kv, size_t *cursor, struct slice *out)
{
    if (!kv || kv->type != GGUF_ARRAY || kv->elem != GGUF_STRING || *cursor >= kv->bytes ||
        kv->bytes - *cursor < 8) {
        return false;
    }
    const unsigned char *p = kv->p + *cursor;
    uint64_t n = load_le64(p);
    if (n > kv->bytes - *cursor - 8) {
        return false; /* only with a cursor that this function did not make */
    }
    *out = (struct slice){(const char *)p + 8, (size_t)n};
    *cursor += 8 + (size_t)n;
    return true;
}
