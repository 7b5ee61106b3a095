/* safetensors.c - see safetensors.h. A file is: u64 header length, a JSON object, tensor bytes.
 *
 * The header is read through the mapping (one pass of the JSON reader), tensor bytes by pread,
 * so that a file that shrinks or a disk that fails during a long conversion is an error with a
 * name and not a SIGBUS.
 *
 * Invariants after open: every tensor lies inside its file, its byte count equals shape times
 * element size, no two tensors of a file overlap, and names are unique; the tensors stand
 * sorted by name, which is what st_find searches. The JSON reader keeps only the last of two
 * equal keys, so duplicates are found by counting the keys of the header's text. */
#include "factory/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "json/json.h"

enum {
    MAX_HEADER_BYTES = 100 * 1000 * 1000,
    MAX_INDEX_BYTES = 100 * 1000 * 1000,
    MAX_NAME_BYTES = 512,
    MAX_SHARDS = 4096,
    MAX_TENSORS = 1 << 22
};

struct shard {
    char *path; /* owned */
    struct file_map map;
};

struct st_set {
    struct shard *shards;
    size_t n_shards;
    struct st_tensor *t;
    size_t n, cap;
    struct arena names;
};

static const struct {
    const char *name;
    uint32_t bytes;
} dtypes[ST_DTYPE_COUNT] = {
    [ST_BOOL] = {"BOOL", 1},    [ST_U8] = {"U8", 1},        [ST_I8] = {"I8", 1},
    [ST_E5M2] = {"F8_E5M2", 1}, [ST_E4M3] = {"F8_E4M3", 1}, [ST_E8M0] = {"F8_E8M0", 1},
    [ST_I16] = {"I16", 2},      [ST_U16] = {"U16", 2},      [ST_F16] = {"F16", 2},
    [ST_BF16] = {"BF16", 2},    [ST_I32] = {"I32", 4},      [ST_U32] = {"U32", 4},
    [ST_F32] = {"F32", 4},      [ST_I64] = {"I64", 8},      [ST_U64] = {"U64", 8},
    [ST_F64] = {"F64", 8},
};

const char *st_dtype_name(enum st_dtype t)
{
    return dtypes[t].name;
}

uint32_t st_dtype_bytes(enum st_dtype t)
{
    return dtypes[t].bytes;
}

/* Members of the outermost object of valid JSON text: colons at depth 1, outside of strings. */
static size_t count_top_keys(const char *p, size_t n)
{
    size_t keys = 0, depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == ':' && depth == 1) {
            keys++;
        }
    }
    return keys;
}

/* Names are copied into messages and used as C strings. */
static int check_name(struct slice name, const char *file, fathom_err *err)
{
    if (name.n == 0 || name.n > MAX_NAME_BYTES) {
        return err_set(err, FATHOM_EFORMAT, "%s: a tensor name of %zu bytes", file, name.n);
    }
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        if (c < 0x20 || c == 0x7F) {
            return err_set(err, FATHOM_EFORMAT, "%s: control character in a tensor name", file);
        }
    }
    return 0;
}

/* Element i of a JSON array as a non-negative integer. */
static bool array_u64(const struct json *arr, size_t i, uint64_t *out)
{
    int64_t v;
    if (!json_int(json_at(arr, i), &v) || v < 0) {
        return false;
    }
    *out = (uint64_t)v;
    return true;
}

static int parse_shape(struct st_tensor *t, const struct json *shape, const char *file,
                       fathom_err *err)
{
    if (!json_is(shape, JSON_ARRAY) || shape->n > ST_MAX_RANK) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s: shape is no list of at most %d numbers", file, t->name.p,
                       ST_MAX_RANK);
    }
    t->rank = (uint32_t)shape->n;
    t->n_elems = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!array_u64(shape, i, &t->shape[i])) {
            return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: dimension %u is no size", file,
                           t->name.p, i);
        }
        if (__builtin_mul_overflow(t->n_elems, t->shape[i], &t->n_elems)) {
            return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: more than 2^64 elements", file,
                           t->name.p);
        }
    }
    if (__builtin_mul_overflow(t->n_elems, st_dtype_bytes(t->dtype), &t->bytes)) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: more than 2^64 bytes", file,
                       t->name.p);
    }
    return 0;
}

/* data_offsets against the size of the data section and against shape and dtype. */
static int parse_offsets(struct st_tensor *t, const struct json *offsets, uint64_t data_at,
                         uint64_t data_bytes, const char *file, fathom_err *err)
{
    uint64_t begin, end;
    if (!json_is(offsets, JSON_ARRAY) || offsets->n != 2 || !array_u64(offsets, 0, &begin) ||
        !array_u64(offsets, 1, &end)) {
        return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: data_offsets are not two sizes",
                       file, t->name.p);
    }
    if (begin > end) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s: data_offsets run backwards (%llu to %llu)", file,
                       t->name.p, (unsigned long long)begin, (unsigned long long)end);
    }
    if (end - begin != t->bytes) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s: %llu bytes stored, but its shape and %s need %llu", file,
                       t->name.p, (unsigned long long)(end - begin), st_dtype_name(t->dtype),
                       (unsigned long long)t->bytes);
    }
    if (end > data_bytes) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: tensor %s ends %llu bytes past the end of the file (download "
                       "incomplete?)",
                       file, t->name.p, (unsigned long long)(end - data_bytes));
    }
    t->offset = data_at + begin;
    return 0;
}

static int parse_dtype(struct st_tensor *t, const struct json *v, const char *file,
                       fathom_err *err)
{
    struct slice s = json_str(v);
    for (int i = 0; s.p && i < ST_DTYPE_COUNT; i++) {
        if (slice_is(s, dtypes[i].name)) {
            t->dtype = (enum st_dtype)i;
            return 0;
        }
    }
    return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: unknown dtype %.*s", file, t->name.p,
                   s.p ? (int)MIN(s.n, (size_t)40) : 4, s.p ? s.p : "none");
}

static int add_tensor(struct st_set *s, const struct st_tensor *t, fathom_err *err)
{
    if (s->n == s->cap) {
        size_t cap = MAX((size_t)256, 2 * s->cap);
        struct st_tensor *p = cap > MAX_TENSORS ? NULL : mem_realloc(s->t, cap, sizeof *p);
        if (!p) {
            return err_nomem(err, "the tensor list", cap * sizeof *p);
        }
        s->t = p;
        s->cap = cap;
    }
    s->t[s->n++] = *t;
    return 0;
}

static int by_offset(const void *pa, const void *pb)
{
    const struct st_tensor *a = pa, *b = pb;
    if (a->offset != b->offset) {
        return a->offset < b->offset ? -1 : 1;
    }
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static int compare_names(struct slice a, struct slice b)
{
    int c = memcmp(a.p, b.p, MIN(a.n, b.n));
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int by_name(const void *pa, const void *pb)
{
    const struct st_tensor *a = pa, *b = pb;
    return compare_names(a->name, b->name);
}

static int check_overlap(struct st_tensor *t, size_t n, const char *file, fathom_err *err)
{
    if (n) {
        qsort(t, n, sizeof *t, by_offset);
    }
    for (size_t i = 1; i < n; i++) {
        if (t[i].offset < t[i - 1].offset + t[i - 1].bytes) {
            return err_set(err, FATHOM_EFORMAT, "%s: tensors %s and %s overlap", file,
                           t[i - 1].name.p, t[i].name.p);
        }
    }
    return 0;
}

static int parse_records(struct st_set *s, uint32_t shard, const struct json *root,
                         uint64_t data_at, fathom_err *err)
{
    const char *file = s->shards[shard].path;
    uint64_t data_bytes = s->shards[shard].map.n - data_at;
    size_t first = s->n;
    for (size_t i = 0; i < root->n; i++) {
        const struct json_member *m = &root->members[i];
        if (slice_is(m->key, "__metadata__")) {
            continue;
        }
        int rc = check_name(m->key, file, err);
        if (rc) {
            return rc;
        }
        struct st_tensor t = {.shard = shard};
        char *name = arena_strndup(&s->names, m->key.p, m->key.n);
        if (!name) {
            return err_nomem(err, "tensor names", m->key.n);
        }
        t.name = (struct slice){name, m->key.n};
        if (!json_is(&m->value, JSON_OBJECT)) {
            return err_set(err, FATHOM_EFORMAT, "%s: tensor %s: its record is no object", file,
                           name);
        }
        if ((rc = parse_dtype(&t, json_get(&m->value, "dtype"), file, err)) != 0 ||
            (rc = parse_shape(&t, json_get(&m->value, "shape"), file, err)) != 0 ||
            (rc = parse_offsets(&t, json_get(&m->value, "data_offsets"), data_at, data_bytes,
                                file, err)) != 0 ||
            (rc = add_tensor(s, &t, err)) != 0) {
            return rc;
        }
    }
    return s->n == first ? 0 : check_overlap(s->t + first, s->n - first, file, err);
}

/* Reads a JSON object whose keys must be distinct. */
static int read_object(struct json *root, struct arena *a, const char *p, size_t n,
                       const char *file, const char *what, fathom_err *err)
{
    int rc = json_read(root, a, p, n, err);
    if (rc) {
        err_prefix(err, "%s: %s", file, what);
        return rc;
    }
    if (root->type != JSON_OBJECT) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s is no JSON object", file, what);
    }
    if (count_top_keys(p, n) != root->n) {
        return err_set(err, FATHOM_EFORMAT, "%s: %s names a tensor twice", file, what);
    }
    return 0;
}

static int parse_shard(struct st_set *s, uint32_t shard, fathom_err *err)
{
    const struct file_map *m = &s->shards[shard].map;
    const char *file = s->shards[shard].path;
    if (m->n < 8) {
        return err_set(err, FATHOM_EFORMAT, "%s: %zu bytes are no safetensors file", file,
                       m->n);
    }
    uint64_t n = load_le64(m->p);
    if (n > m->n - 8) {
        return err_set(
            err, FATHOM_EFORMAT,
            "%s: a header of %llu bytes in a file of %zu (download incomplete, or not "
            "a safetensors file)",
            file, (unsigned long long)n, m->n);
    }
    if (n > MAX_HEADER_BYTES) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: a header of %llu bytes; at most %d are accepted", file,
                       (unsigned long long)n, MAX_HEADER_BYTES);
    }
    struct arena a = {0};
    struct json root;
    int rc = read_object(&root, &a, (const char *)m->p + 8, (size_t)n, file, "the header", err);
    if (rc == 0) {
        rc = parse_records(s, shard, &root, 8 + n, err);
    }
    arena_fini(&a);
    return rc;
}

/* Adds a shard; takes over path. */
static int add_shard(struct st_set *s, char *path, uint32_t *index, fathom_err *err)
{
    struct shard *p = path ? mem_realloc(s->shards, s->n_shards + 1, sizeof *p) : NULL;
    if (!p) {
        mem_free(path);
        return err_nomem(err, "the shard list", (s->n_shards + 1) * sizeof *p);
    }
    s->shards = p;
    *index = (uint32_t)s->n_shards;
    s->shards[s->n_shards++] = (struct shard){.path = path, .map = {.fd = -1}};
    return 0;
}

static char *join_path(const char *dir, struct slice name)
{
    struct buf b = {0};
    buf_adds(&b, dir);
    if (b.n && b.p[b.n - 1] != '/') {
        buf_addc(&b, '/');
    }
    buf_add_slice(&b, name);
    if (b.failed) {
        buf_free(&b);
        return NULL;
    }
    return b.p; /* from mem_realloc: released by mem_free */
}

static int open_shard(struct st_set *s, const char *dir, struct slice name, fathom_err *err)
{
    uint32_t i = 0;
    int rc = add_shard(s, join_path(dir, name), &i, err);
    if (rc == 0) {
        rc = file_map_open(&s->shards[i].map, s->shards[i].path, err);
    }
    return rc ? rc : parse_shard(s, i, err);
}

/* A shard is a plain file name beside the index: no path may leave the directory. */
static bool shard_name_ok(struct slice f)
{
    static const char end[] = ".safetensors";
    return f.p && f.n > sizeof end - 1 && f.n < 256 && f.p[0] != '.' &&
           !memchr(f.p, '/', f.n) && !memchr(f.p, 0, f.n) &&
           memcmp(f.p + f.n - (sizeof end - 1), end, sizeof end - 1) == 0;
}

static struct slice shard_base(const struct st_set *s, size_t i)
{
    const char *slash = strrchr(s->shards[i].path, '/');
    return slice_of(slash ? slash + 1 : s->shards[i].path);
}

/* One line of the weight map. */
struct placed {
    struct slice name, file;
};

static int by_file(const void *pa, const void *pb)
{
    const struct placed *a = pa, *b = pb;
    return compare_names(a->file, b->file);
}

static int by_placed_name(const void *pa, const void *pb)
{
    const struct placed *a = pa, *b = pb;
    return compare_names(a->name, b->name);
}

/* Opens every distinct shard that the index names, in order of name. Sorts want by file. */
static int open_shards(struct st_set *s, const char *dir, struct placed *want, size_t n,
                       const char *index, fathom_err *err)
{
    qsort(want, n, sizeof *want, by_file);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && slice_eq(want[i].file, want[i - 1].file)) {
            continue;
        }
        if (s->n_shards == MAX_SHARDS) {
            return err_set(err, FATHOM_EFORMAT, "%s: more than %d shards", index, MAX_SHARDS);
        }
        int rc = open_shard(s, dir, want[i].file, err);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* Keeps exactly the tensors of the weight map, each from the shard it names. Sorts want by
 * name. */
static int apply_index(struct st_set *s, struct placed *want, size_t n, const char *index,
                       fathom_err *err)
{
    qsort(want, n, sizeof *want, by_placed_name);
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct st_tensor t = s->t[i];
        struct placed key = {.name = t.name};
        const struct placed *w = bsearch(&key, want, n, sizeof key, by_placed_name);
        if (w && slice_eq(w->file, shard_base(s, t.shard))) {
            s->t[kept++] = t;
        }
    }
    s->n = kept;
    if (kept) {
        qsort(s->t, kept, sizeof *s->t, by_name);
    }
    for (size_t i = 0; i < n; i++) {
        struct st_tensor key = {.name = want[i].name};
        if (!kept || !bsearch(&key, s->t, kept, sizeof key, by_name)) {
            return err_set(err, FATHOM_EFORMAT, "%s: tensor %.*s is not in %.*s", index,
                           (int)MIN(key.name.n, (size_t)MAX_NAME_BYTES), key.name.p,
                           (int)want[i].file.n, want[i].file.p);
        }
    }
    return 0;
}

static int read_weight_map(struct st_set *s, const char *dir, const struct json *map,
                           const char *index, struct arena *a, fathom_err *err)
{
    if (!json_is(map, JSON_OBJECT) || map->n == 0) {
        return err_set(err, FATHOM_EFORMAT, "%s: no weight_map with tensors", index);
    }
    struct placed *want = arena_alloc(a, map->n * sizeof *want);
    if (!want) {
        return err_nomem(err, "the weight map", map->n * sizeof *want);
    }
    for (size_t i = 0; i < map->n; i++) {
        want[i] = (struct placed){map->members[i].key, json_str(&map->members[i].value)};
        if (!shard_name_ok(want[i].file)) {
            return err_set(err, FATHOM_EFORMAT,
                           "%s: tensor %.*s: its shard is no plain *.safetensors file name",
                           index, (int)MIN(want[i].name.n, (size_t)MAX_NAME_BYTES),
                           want[i].name.p);
        }
    }
    int rc = open_shards(s, dir, want, map->n, index, err);
    return rc ? rc : apply_index(s, want, map->n, index, err);
}

static int open_indexed(struct st_set *s, const char *dir, const char *index, fathom_err *err)
{
    struct buf text = {0};
    struct arena a = {0};
    struct json root;
    int rc = file_read_all(&text, index, MAX_INDEX_BYTES, err);
    if (rc == 0) {
        rc = json_read(&root, &a, buf_cstr(&text), text.n, err);
        if (rc) {
            err_prefix(err, "%s", index);
        }
    }
    if (rc == 0) {
        rc = read_weight_map(s, dir, json_get(&root, "weight_map"), index, &a, err);
    }
    arena_fini(&a);
    buf_free(&text);
    return rc;
}

/* Sorts by name; equal names can only come from one file and were refused there already. */
static int finish(struct st_set **out, struct st_set *s, int rc)
{
    if (rc) {
        st_close(s);
        return rc;
    }
    if (s->n) {
        qsort(s->t, s->n, sizeof *s->t, by_name);
    }
    *out = s;
    return 0;
}

static bool file_exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) {
        fclose(f);
    }
    return f != NULL;
}

int st_open(struct st_set **out, const char *dir, fathom_err *err)
{
    *out = NULL;
    struct st_set *s = mem_calloc(1, sizeof *s);
    char *index = join_path(dir, SLICE("model.safetensors.index.json"));
    char *single = join_path(dir, SLICE("model.safetensors"));
    int rc;
    if (!s || !index || !single) {
        rc = err_nomem(err, "the checkpoint", sizeof *s);
    } else if (file_exists(index)) {
        rc = open_indexed(s, dir, index, err);
    } else if (file_exists(single)) {
        rc = open_shard(s, dir, SLICE("model.safetensors"), err);
    } else {
        rc = err_set(err, FATHOM_ENOENT,
                     "%s: neither model.safetensors nor model.safetensors.index.json is there",
                     dir);
    }
    mem_free(index);
    mem_free(single);
    return finish(out, s, rc);
}

int st_open_mem(struct st_set **out, const void *mem, size_t n, const char *label,
                fathom_err *err)
{
    *out = NULL;
    struct st_set *s = mem_calloc(1, sizeof *s);
    uint32_t i = 0;
    int rc = s ? add_shard(s, mem_strdup(label), &i, err) : err_nomem(err, label, sizeof *s);
    if (rc == 0) {
        s->shards[i].map = (struct file_map){.p = mem, .n = n, .fd = -1};
        rc = parse_shard(s, i, err);
    }
    return finish(out, s, rc);
}

void st_close(struct st_set *s)
{
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->n_shards; i++) {
        file_map_close(&s->shards[i].map);
        mem_free(s->shards[i].path);
    }
    mem_free(s->shards);
    mem_free(s->t);
    arena_fini(&s->names);
    mem_free(s);
}

size_t st_n_tensors(const struct st_set *s)
{
    return s->n;
}

const struct st_tensor *st_at(const struct st_set *s, size_t i)
{
    return &s->t[i];
}

const struct st_tensor *st_find(const struct st_set *s, const char *name)
{
    struct st_tensor key = {.name = slice_of(name)};
    return s->n ? bsearch(&key, s->t, s->n, sizeof key, by_name) : NULL;
}

const char *st_file(const struct st_set *s, const struct st_tensor *t)
{
    return s->shards[t->shard].path;
}

int st_read(const struct st_set *s, const struct st_tensor *t, uint64_t at, size_t n, void *out,
            fathom_err *err)
{
    const struct shard *f = &s->shards[t->shard];
    if (at > t->bytes || n > t->bytes - at) {
        return err_set(err, FATHOM_EINVAL, "%s: tensor %s: read outside of it", f->path,
                       t->name.p);
    }
    if (f->map.fd >= 0) {
        return file_pread_full(f->map.fd, out, n, t->offset + at, f->path, err);
    }
    if (n) {
        memcpy(out, f->map.p + t->offset + at, n);
    }
    return 0;
}
