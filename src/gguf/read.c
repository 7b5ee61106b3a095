/* read.c - opening: one file, one block of memory, or all parts of a split set.
 * A set is recognised by the name, PREFIX-00002-of-00004.gguf; any part may be given, all parts
 * are opened in order from the same folder. parse.c checks each file by itself; here stands
 * what concerns the set: that the parts' split.* keys agree with the names and with each other,
 * and that no file changed its size while it was read (a download still running). Keys are
 * those of the first part; tensors are those of all parts. Ownership: a struct gguf owns its
 * mappings; with gguf_open_mem the bytes are borrowed. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "gguf/gguf_int.h"

/* "-00002-of-00004.gguf" at the end of a path. */
enum { SUFFIX_BYTES = 20 };

struct set_name {
    size_t prefix_bytes; /* before the suffix */
    uint32_t number, count;
};

static bool read_5_digits(const char *s, uint32_t *v)
{
    *v = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return false;
        }
        *v = *v * 10 + (uint32_t)(s[i] - '0');
    }
    return true;
}

static bool parse_set_name(const char *path, struct set_name *name)
{
    size_t n = strlen(path);
    if (n <= SUFFIX_BYTES) {
        return false;
    }
    const char *s = path + n - SUFFIX_BYTES;
    name->prefix_bytes = n - SUFFIX_BYTES;
    return s[0] == '-' && read_5_digits(s + 1, &name->number) &&
           memcmp(s + 6, "-of-", 4) == 0 && read_5_digits(s + 10, &name->count) &&
           strcmp(s + 15, ".gguf") == 0;
}

/* An integer key of a part: *have tells whether it is there; a value of another type is an
 * error. */
static int read_split_key(const struct gguf_part *part, const char *key, bool *have,
                          uint64_t *value, fathom_err *err)
{
    size_t i = name_index_find(&part->keys, part->kv, sizeof *part->kv, slice_of(key));
    *have = i != NAME_NONE;
    if (*have && !gguf_u64(&part->kv[i], value)) {
        return err_set(
            err, FATHOM_EFORMAT,
            "%s: key \"%s\": has type %s, must be a non-negative integer; the file was "
            "written wrongly: convert it again",
            part->path, key, gguf_vtype_name(part->kv[i].type));
    }
    return 0;
}

/* A part's number and the size of the set, against its file name. */
static int check_split_number(const struct gguf *g, size_t i, fathom_err *err)
{
    const struct gguf_part *part = &g->parts[i];
    uint64_t no = 0, count = 0;
    bool have_no, have_count;
    int rc;
    if ((rc = read_split_key(part, "split.no", &have_no, &no, err)) != 0 ||
        (rc = read_split_key(part, "split.count", &have_count, &count, err)) != 0) {
        return rc;
    }
    if (g->n_parts == 1 && count > 1) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: this is part %" PRIu64 " of %" PRIu64
                       " of a split set, but its name does not end in -%05" PRIu64
                       "-of-%05" PRIu64
                       ".gguf; give all parts their published names and open one of them",
                       part->path, no + 1, count, no + 1, count);
    }
    if (g->n_parts > 1 && (!have_no || !have_count)) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: named as part of a split set, but the keys \"split.no\" and "
                       "\"split.count\" are missing; rename it if it is a whole model",
                       part->path);
    }
    if (g->n_parts > 1 && count != g->n_parts) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: key \"split.count\": the set has %" PRIu64
                       " parts, the name says %zu; "
                       "give the parts their published names",
                       part->path, count, g->n_parts);
    }
    if (no != i) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: key \"split.no\": this is part %" PRIu64 ", not part %zu; give the "
                       "parts their published names",
                       part->path, no + 1, i + 1);
    }
    return 0;
}

/* The sum that a part states is what all parts hold. */
static int check_split_total(const struct gguf *g, size_t i, fathom_err *err)
{
    const struct gguf_part *part = &g->parts[i];
    uint64_t total = 0;
    bool have_total;
    int rc = read_split_key(part, "split.tensors.count", &have_total, &total, err);
    if (rc != 0) {
        return rc;
    }
    if (have_total && total != g->n_tensors) {
        return err_set(err, FATHOM_EFORMAT,
                       "%s: key \"split.tensors.count\": %" PRIu64
                       " tensors expected, %zu found "
                       "in %zu part(s); the parts do not belong together: download them again",
                       part->path, total, g->n_tensors, g->n_parts);
    }
    return 0;
}

/* All numbers first: they explain a wrong total. */
static int check_split(const struct gguf *g, fathom_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < g->n_parts; i++) {
        rc = check_split_number(g, i, err);
    }
    for (size_t i = 0; rc == 0 && i < g->n_parts; i++) {
        rc = check_split_total(g, i, err);
    }
    return rc;
}

/* Sizes on disk are still those that were mapped. */
static int check_unchanged(const struct gguf *g, fathom_err *err)
{
    for (size_t i = 0; i < g->n_parts; i++) {
        const struct gguf_part *part = &g->parts[i];
        struct stat st;
        if (part->map.fd < 0) {
            continue;
        }
        if (fstat(part->map.fd, &st) != 0) {
            return err_sys(err, part->path, "cannot stat");
        }
        if ((uint64_t)st.st_size != part->map.n) {
            return err_set(
                err, FATHOM_EFORMAT,
                "%s: changed its size while it was opened (%zu bytes, now %lld); wait "
                "until the download is complete",
                part->path, part->map.n, (long long)st.st_size);
        }
    }
    return 0;
}

static struct gguf *gguf_new(const char *label, size_t n_parts)
{
    struct gguf *g = mem_calloc(1, sizeof *g);
    if (!g) {
        return NULL;
    }
    g->label = mem_strdup(label);
    g->parts = mem_calloc(n_parts, sizeof *g->parts);
    if (!g->label || !g->parts) {
        gguf_close(g);
        return NULL;
    }
    g->n_parts = n_parts;
    for (size_t i = 0; i < n_parts; i++) {
        g->parts[i].map.fd = -1;
    }
    return g;
}

void gguf_close(struct gguf *g)
{
    if (!g) {
        return;
    }
    for (size_t i = 0; i < g->n_parts; i++) {
        struct gguf_part *part = &g->parts[i];
        file_map_close(&part->map);
        name_index_free(&part->keys);
        mem_free(part->kv);
        mem_free(part->path);
    }
    name_index_free(&g->names);
    mem_free(g->tensors);
    mem_free(g->parts);
    mem_free(g->label);
    mem_free(g);
}

/* The path of part i: the given one, or with its number replaced. */
static char *part_path(const char *path, const struct set_name *set, size_t i)
{
    char *p = mem_strdup(path);
    if (p && set) {
        char number[8];
        snprintf(number, sizeof number, "%05u", (unsigned)(i + 1) % 100000u);
        memcpy(p + set->prefix_bytes + 1, number, 5);
    }
    return p;
}

static int open_part(struct gguf *g, uint32_t i, const char *path, const struct set_name *set,
                     fathom_err *err)
{
    struct gguf_part *part = &g->parts[i];
    part->path = part_path(path, set, i);
    if (!part->path) {
        return err_nomem(err, path, strlen(path) + 1);
    }
    fathom_err why = {0};
    int rc = file_map_open(&part->map, part->path, &why);
    if (rc == FATHOM_ENOENT && set) {
        return err_set(err, rc,
                       "%s: part %u of %zu of this split set is missing; put all parts in one "
                       "folder",
                       part->path, (unsigned)(i + 1), g->n_parts);
    }
    if (rc != 0) {
        return err_set(err, rc, "%s", why.msg);
    }
    return gguf_parse_part(g, i, err);
}

int gguf_open(struct gguf **out, const char *path, fathom_err *err)
{
    struct set_name name, *set = parse_set_name(path, &name) ? &name : NULL;
    int rc = 0;
    *out = NULL;
    if (set && (name.number < 1 || name.number > name.count || name.count > GGUF_MAX_PARTS)) {
        return err_set(
            err, FATHOM_EFORMAT,
            "%s: part number or count in the name is out of range (1 to %u); rename it", path,
            GGUF_MAX_PARTS);
    }
    size_t n_parts = set ? name.count : 1;
    struct gguf *g = gguf_new(path, n_parts);
    if (!g) {
        return err_nomem(err, path, n_parts * sizeof *g->parts);
    }
    for (uint32_t i = 0; rc == 0 && i < n_parts; i++) {
        rc = open_part(g, i, path, set, err);
    }
    if (rc == 0) {
        rc = check_split(g, err);
    }
    if (rc == 0) {
        rc = check_unchanged(g, err);
    }
    if (rc != 0) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

int gguf_open_mem(struct gguf **out, const void *mem, size_t n, const char *label,
                  fathom_err *err)
{
    *out = NULL;
    struct gguf *g = gguf_new(label, 1);
    if (!g) {
        return err_nomem(err, label, sizeof *g);
    }
    g->parts[0].map = (struct file_map){.p = mem, .n = n, .fd = -1};
    g->parts[0].path = mem_strdup(label);
    int rc =
        g->parts[0].path ? gguf_parse_part(g, 0, err) : err_nomem(err, label, strlen(label));
    if (rc == 0) {
        rc = check_split(g, err);
    }
    if (rc != 0) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}
