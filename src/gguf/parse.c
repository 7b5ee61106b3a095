/* parse.c - one GGUF v3 file: header, keys, tensor records, and every check on them.
 * The bytes are an attacker's. All reads go through a cursor that knows the file size; sizes
 * are u64 with overflow checks; counts are limited before anything is allocated by them; a
 * tensor's pointer is formed only after its whole extent was found inside the file. Nothing
 * recurses, and the work is O(n log n) in the number of records. Values are left where they
 * are: a struct gguf_kv is a checked view. Messages say which key or tensor is wrong and what
 * to do; `subject` in the cursor carries the name. read.c is the caller. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/num.h"
#include "gguf/gguf_int.h"
#include "quant/formats.h"

enum {
    HEADER_BYTES = 24,
    MIN_KV_BYTES = 13,     /* length, one byte of key, type */
    MIN_TENSOR_BYTES = 32, /* length, name, rank, one dimension, type, offset */
};

#define DAMAGED "; the file is damaged or was written wrongly: download or convert it again"

struct cursor {
    const unsigned char *p;
    size_t n, at;
    const char *path;
    char subject[160]; /* what is being read: key "x", tensor "y" */
    fathom_err *err;
};

static int bad(struct cursor *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int bad(struct cursor *c, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(c->err, FATHOM_EFORMAT, "%s: %s%s%s" DAMAGED, c->path, c->subject,
                   c->subject[0] ? ": " : "", text);
}

/* n more bytes are there, or the file ends too early. */
static int need(struct cursor *c, uint64_t n)
{
    uint64_t left = c->n - c->at;
    if (n <= left) {
        return 0;
    }
    return err_set(c->err, FATHOM_EFORMAT,
                   "%s: %s%sthe file ends inside its header, at least %" PRIu64
                   " bytes short; the download was probably interrupted: resume or repeat it",
                   c->path, c->subject, c->subject[0] ? ": " : "", n - left);
}

static int read_u32(struct cursor *c, uint32_t *v)
{
    int rc = need(c, 4);
    if (rc == 0) {
        *v = load_le32(c->p + c->at);
        c->at += 4;
    }
    return rc;
}

static int read_u64(struct cursor *c, uint64_t *v)
{
    int rc = need(c, 8);
    if (rc == 0) {
        *v = load_le64(c->p + c->at);
        c->at += 8;
    }
    return rc;
}

/* A string of at most max bytes; `what` names it in messages. */
static int read_string(struct cursor *c, uint64_t max, const char *what, struct slice *s)
{
    uint64_t n = 0;
    int rc = read_u64(c, &n);
    if (rc != 0) {
        return rc;
    }
    if (n > max) {
        return bad(c, "%s of %" PRIu64 " bytes, the limit is %" PRIu64, what, n, max);
    }
    if ((rc = need(c, n)) == 0) {
        *s = (struct slice){(const char *)c->p + c->at, (size_t)n};
        c->at += (size_t)n;
    }
    return rc;
}

static bool begins(const struct cursor *c, const char *text)
{
    size_t n = strlen(text);
    return c->n >= n && memcmp(c->p, text, n) == 0;
}

/* What people have instead of a model file most often. */
static int not_gguf(struct cursor *c)
{
    const char *hint = "is this the right file?";
    if (c->n == 0) {
        hint = "it is empty: download it again";
    } else if (begins(c, "version https://git-lfs")) {
        hint = "it is a Git LFS pointer: fetch the real file (git lfs pull)";
    } else if (begins(c, "<!") || begins(c, "<html")) {
        hint = "it is a web page: use the direct download link";
    } else if (begins(c, "ggml") || begins(c, "tjgg") || begins(c, "fmgg") ||
               begins(c, "lmgg")) {
        hint = "it has a format older than GGUF: convert the original model";
    }
    return err_set(c->err, FATHOM_EFORMAT, "%s: not a GGUF file; %s", c->path, hint);
}

static int check_version(struct cursor *c, uint32_t version)
{
    if (version == 3) {
        return 0;
    }
    if ((version & 0xFFFFu) == 0 && version != 0) {
        return err_set(c->err, FATHOM_EFORMAT,
                       "%s: big-endian GGUF file; only the little-endian form is read: get or "
                       "convert that one",
                       c->path);
    }
    return err_set(c->err, FATHOM_EFORMAT,
                   "%s: GGUF version %" PRIu32 "; only version 3 is read: get a newer file or "
                   "convert it",
                   c->path, version);
}

static int read_header(struct cursor *c, uint64_t *n_tensors, uint64_t *n_kv)
{
    if (!begins(c, "GGUF")) {
        return not_gguf(c);
    }
    int rc;
    uint32_t version = 0;
    c->at = 4;
    if ((rc = read_u32(c, &version)) != 0 || (rc = check_version(c, version)) != 0 ||
        (rc = read_u64(c, n_tensors)) != 0 || (rc = read_u64(c, n_kv)) != 0) {
        return rc;
    }
    if ((*n_tensors | *n_kv) >> 63) {
        return bad(c, "negative tensor or key count");
    }
    if (*n_tensors > GGUF_MAX_TENSORS || *n_kv > GGUF_MAX_KV) {
        return bad(c, "%" PRIu64 " tensors and %" PRIu64 " keys, the limits are %u and %u",
                   *n_tensors, *n_kv, GGUF_MAX_TENSORS, GGUF_MAX_KV);
    }
    return need(c, *n_tensors * MIN_TENSOR_BYTES + *n_kv * MIN_KV_BYTES);
}

static int check_bools(struct cursor *c, const struct gguf_kv *kv)
{
    for (size_t i = 0; i < kv->bytes; i++) {
        if (kv->p[i] > 1) {
            return bad(c, "a bool of value %u", kv->p[i]);
        }
    }
    return 0;
}

/* n values of a fixed-size type, or n strings, from the cursor on. n <= GGUF_MAX_ARRAY. */
static int read_values(struct cursor *c, struct gguf_kv *kv, enum gguf_vtype type, uint64_t n)
{
    int rc;
    kv->p = c->p + c->at;
    if (type == GGUF_STRING) {
        size_t start = c->at;
        if ((rc = need(c, n * 8)) != 0) {
            return rc;
        }
        for (uint64_t i = 0; i < n; i++) {
            struct slice s;
            if ((rc = read_string(c, GGUF_MAX_STRING_BYTES, "a string", &s)) != 0) {
                return rc;
            }
        }
        kv->bytes = c->at - start;
        return 0;
    }
    if ((rc = need(c, n * gguf_vtype_bytes(type))) != 0) {
        return rc;
    }
    kv->bytes = (size_t)n * gguf_vtype_bytes(type);
    c->at += kv->bytes;
    return type == GGUF_BOOL ? check_bools(c, kv) : 0;
}

static int read_array(struct cursor *c, struct gguf_kv *kv)
{
    uint32_t elem = 0;
    int rc;
    if ((rc = read_u32(c, &elem)) != 0 || (rc = read_u64(c, &kv->n)) != 0) {
        return rc;
    }
    if (elem >= GGUF_VTYPE_COUNT) {
        return bad(c, "array of unknown value type %" PRIu32, elem);
    }
    if (elem == GGUF_ARRAY) {
        return bad(c, "array of arrays");
    }
    if (kv->n > GGUF_MAX_ARRAY) {
        return bad(c, "array of %" PRIu64 " elements, the limit is %u", kv->n, GGUF_MAX_ARRAY);
    }
    kv->elem = (enum gguf_vtype)elem;
    return read_values(c, kv, kv->elem, kv->n);
}

static int read_kv(struct cursor *c, size_t i, struct gguf_kv *kv)
{
    uint32_t type = 0;
    int rc;
    snprintf(c->subject, sizeof c->subject, "key number %zu", i);
    if ((rc = read_string(c, GGUF_MAX_KEY_BYTES, "a name", &kv->key)) != 0) {
        return rc;
    }
    if (kv->key.n == 0) {
        return bad(c, "empty name");
    }
    snprintf(c->subject, sizeof c->subject, "key \"%s\"", name_show(kv->key).s);
    if ((rc = read_u32(c, &type)) != 0) {
        return rc;
    }
    if (type >= GGUF_VTYPE_COUNT) {
        return bad(c, "unknown value type %" PRIu32, type);
    }
    kv->type = kv->elem = (enum gguf_vtype)type;
    kv->n = 1;
    return type == GGUF_ARRAY ? read_array(c, kv) : read_values(c, kv, kv->type, 1);
}

static int read_kvs(struct cursor *c, struct gguf_part *part, size_t n_kv)
{
    part->kv = mem_calloc(n_kv, sizeof *part->kv);
    if (!part->kv) {
        return err_nomem(c->err, "GGUF keys", n_kv * sizeof *part->kv);
    }
    for (size_t i = 0; i < n_kv; i++) {
        size_t twin;
        int rc = read_kv(c, i, &part->kv[i]);
        if (rc == 0) {
            rc = name_index_add(&part->keys, part->kv, sizeof *part->kv, i, &twin, c->err);
        }
        if (rc != 0) {
            return rc;
        }
        if (twin != NAME_NONE) {
            return bad(c, "given twice");
        }
        part->n_kv = i + 1;
    }
    return 0;
}

static int read_alignment(struct cursor *c, struct gguf_part *part)
{
    struct slice key = SLICE("general.alignment");
    size_t i = name_index_find(&part->keys, part->kv, sizeof *part->kv, key);
    part->alignment = GGUF_DEFAULT_ALIGNMENT;
    if (i == NAME_NONE) {
        return 0;
    }
    snprintf(c->subject, sizeof c->subject, "key \"%s\"", key.p);
    if (part->kv[i].type != GGUF_U32) {
        return bad(c, "has type %s, must be u32", gguf_vtype_name(part->kv[i].type));
    }
    uint32_t a = load_le32(part->kv[i].p);
    if (a == 0 || (a & (a - 1)) != 0 || a > GGUF_MAX_ALIGNMENT) {
        return bad(c, "%" PRIu32 " is no power of two from 1 to %u", a, GGUF_MAX_ALIGNMENT);
    }
    part->alignment = a;
    return 0;
}

const char *gguf_tensor_sizes(uint32_t type, uint32_t rank, const uint64_t *ne, char why[160],
                              uint64_t *row_bytes, uint64_t *bytes)
{
    const struct qformat *f = qformat(type);
    if (f->cls == QC_NONE) {
        snprintf(why, 160, "type id %" PRIu32 " is %s", type,
                 type < QT_COUNT ? "one that was removed from the format"
                                 : "unknown (from another program's private range?)");
        return why;
    }
    if (rank < 1 || rank > 4) {
        snprintf(why, 160, "rank %" PRIu32 ", must be 1 to 4", rank);
        return why;
    }
    uint64_t rows = 1, total;
    for (uint32_t i = 0; i < rank; i++) {
        if (ne[i] == 0) {
            return "a dimension is 0";
        }
        if (i > 0 && __builtin_mul_overflow(rows, ne[i], &rows)) {
            return "the dimensions overflow";
        }
    }
    if (ne[0] % f->block_elems != 0) {
        snprintf(why, 160,
                 "rows of %" PRIu64 " elements, not a multiple of %s's block of %" PRIu32,
                 ne[0], f->name, f->block_elems);
        return why;
    }
    *row_bytes = qformat_row_bytes(type, ne[0]);
    if (*row_bytes == 0 || __builtin_mul_overflow(rows, ne[0], &total) || total > INT64_MAX ||
        __builtin_mul_overflow(rows, *row_bytes, bytes) || *bytes > INT64_MAX) {
        return "the size overflows";
    }
    return NULL;
}

/* A tensor record; offset stays relative to the data section here. */
static int read_tensor(struct cursor *c, size_t i, struct gguf_tensor *t)
{
    int rc;
    snprintf(c->subject, sizeof c->subject, "tensor number %zu", i);
    if ((rc = read_string(c, GGUF_MAX_NAME_BYTES, "a name", &t->name)) != 0) {
        return rc;
    }
    if (t->name.n == 0) {
        return bad(c, "empty name");
    }
    snprintf(c->subject, sizeof c->subject, "tensor \"%s\"", name_show(t->name).s);
    if ((rc = read_u32(c, &t->rank)) != 0) {
        return rc;
    }
    if (t->rank < 1 || t->rank > 4) {
        return bad(c, "rank %" PRIu32 ", must be 1 to 4", t->rank);
    }
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d < t->rank && (rc = read_u64(c, &t->ne[d])) != 0) {
            return rc;
        }
    }
    if ((rc = read_u32(c, &t->type)) != 0 || (rc = read_u64(c, &t->offset)) != 0) {
        return rc;
    }
    char text[160];
    const char *why =
        gguf_tensor_sizes(t->type, t->rank, t->ne, text, &t->row_bytes, &t->bytes);
    return why ? bad(c, "%s", why) : 0;
}

static int read_tensors(struct cursor *c, struct gguf *g, uint32_t part, size_t n)
{
    struct gguf_tensor *all = mem_realloc(g->tensors, g->n_tensors + n, sizeof *all);
    if (!all) {
        return err_nomem(c->err, "GGUF tensor records", (g->n_tensors + n) * sizeof *all);
    }
    g->tensors = all;
    memset(all + g->n_tensors, 0, n * sizeof *all);
    for (size_t i = 0; i < n; i++) {
        size_t twin;
        struct gguf_tensor *t = &all[g->n_tensors];
        t->part = part;
        int rc = read_tensor(c, i, t);
        if (rc == 0) {
            rc = name_index_add(&g->names, all, sizeof *all, g->n_tensors, &twin, c->err);
        }
        if (rc != 0) {
            return rc;
        }
        if (twin != NAME_NONE) {
            return bad(c, "given twice");
        }
        g->n_tensors++;
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a;
    const struct gguf_tensor *y = *(const struct gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* sorted: the part's tensors by offset. */
static int check_extents(struct cursor *c, const struct gguf_tensor *const *sorted, size_t n)
{
    size_t n_short = 0;
    for (size_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = sorted[i];
        if (i > 0 && t->offset < sorted[i - 1]->offset + sorted[i - 1]->bytes) {
            snprintf(c->subject, sizeof c->subject, "tensor \"%s\"", name_show(t->name).s);
            return bad(c, "overlaps tensor \"%s\"", name_show(sorted[i - 1]->name).s);
        }
        n_short += t->offset + t->bytes > c->n;
    }
    if (n_short == 0) {
        return 0;
    }
    const struct gguf_tensor *last = sorted[n - 1], *first = sorted[n - n_short];
    uint64_t end = last->offset + last->bytes;
    return err_set(c->err, FATHOM_EFORMAT,
                   "%s: the file is %" PRIu64 " bytes short (%zu of %" PRIu64
                   "): tensor \"%s\" is incomplete, %zu of %zu are missing or incomplete; the "
                   "download was probably interrupted: resume or repeat it",
                   c->path, end - c->n, c->n, end, name_show(first->name).s, n_short, n);
}

/* Makes offsets absolute and checks them; forms the data pointers last. */
static int place_tensors(struct cursor *c, const struct gguf_part *part, struct gguf_tensor *t,
                         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        snprintf(c->subject, sizeof c->subject, "tensor \"%s\"", name_show(t[i].name).s);
        if (t[i].offset % part->alignment != 0) {
            return bad(c, "offset %" PRIu64 " is no multiple of the alignment %" PRIu32,
                       t[i].offset, part->alignment);
        }
        uint64_t end;
        if (__builtin_add_overflow(t[i].offset, part->data_start, &t[i].offset) ||
            __builtin_add_overflow(t[i].offset, t[i].bytes, &end) || end > INT64_MAX) {
            return bad(c, "its end overflows");
        }
    }
    const struct gguf_tensor **sorted = mem_alloc(n, sizeof *sorted);
    if (!sorted) {
        return err_nomem(c->err, "GGUF tensor order", n * sizeof *sorted);
    }
    for (size_t i = 0; i < n; i++) {
        sorted[i] = &t[i];
    }
    qsort(sorted, n, sizeof *sorted, by_offset);
    int rc = check_extents(c, sorted, n);
    mem_free(sorted);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        t[i].data = c->p + t[i].offset;
    }
    return rc;
}

int gguf_parse_part(struct gguf *g, uint32_t part_no, fathom_err *err)
{
    struct gguf_part *part = &g->parts[part_no];
    struct cursor c = {.p = part->map.p, .n = part->map.n, .path = part->path, .err = err};
    uint64_t n_tensors = 0, n_kv = 0;
    size_t first = g->n_tensors;
    int rc;
    if ((rc = read_header(&c, &n_tensors, &n_kv)) != 0 ||
        (rc = read_kvs(&c, part, (size_t)n_kv)) != 0 || (rc = read_alignment(&c, part)) != 0 ||
        (rc = read_tensors(&c, g, part_no, (size_t)n_tensors)) != 0) {
        return rc;
    }
    part->data_start = align_up(c.at, part->alignment);
    return place_tensors(&c, part, g->tensors + first, (size_t)n_tensors);
}
