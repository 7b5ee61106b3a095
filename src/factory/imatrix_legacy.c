/* imatrix_legacy.c - the legacy .dat form of an importance matrix (quantization.md 4), little-
 * endian: i32 entries; per entry i32 name length, name, i32 ncall, i32 nval, nval float32 (means
 * times ncall if ncall > 0, means otherwise); then, optionally, i32 chunk count, i32 length and
 * name of the data set. Shapes and true counts are not in it. */
#include "base/num.h"
#include "factory/imatrix_int.h"

/* A place in the file; every read is checked against its end. */
struct cursor {
    struct imatrix *im;
    uint64_t at;
};

static int short_file(const struct cursor *c, const char *what, fathom_err *err)
{
    return err_set(err, FATHOM_EFORMAT,
                   "%s: neither a GGUF nor a legacy importance matrix, or cut off: %s at byte "
                   "%llu of %zu",
                   c->im->label, what, (unsigned long long)c->at, c->im->file->n);
}

static uint64_t left(const struct cursor *c)
{
    return c->im->file->n - c->at;
}

static int read_i32(struct cursor *c, int32_t *v, const char *what, fathom_err *err)
{
    unsigned char raw[4];
    if (left(c) < 4) {
        return short_file(c, what, err);
    }
    int rc = imatrix_bytes(c->im, c->at, 4, raw, err);
    *v = rc ? 0 : (int32_t)load_le32(raw);
    c->at += rc ? 0 : 4;
    return rc;
}

/* A length and so many bytes, as a string in the arena. */
static int read_text(struct cursor *c, struct slice *s, int32_t max, const char *what,
                     fathom_err *err)
{
    int32_t n;
    int rc = read_i32(c, &n, what, err);
    if (rc) {
        return rc;
    }
    if (n < 0 || n > max || (uint64_t)n > left(c)) {
        return short_file(c, what, err);
    }
    char *p = arena_alloc(&c->im->arena, (size_t)n + 1);
    if (!p) {
        return err_nomem(err, c->im->label, (size_t)n);
    }
    rc = imatrix_bytes(c->im, c->at, (size_t)n, p, err);
    *s = (struct slice){p, (size_t)n};
    c->at += (uint64_t)n;
    return rc;
}

static int read_entry(struct cursor *c, struct imatrix_entry *e, fathom_err *err)
{
    struct slice name;
    int32_t ncall, nval;
    int rc = read_text(c, &name, IMATRIX_MAX_NAME, "a name's length", err);
    rc = rc ? rc : read_i32(c, &ncall, "a count of calls", err);
    rc = rc ? rc : read_i32(c, &nval, "a count of values", err);
    if (rc) {
        return rc;
    }
    if (name.n == 0 || memchr(name.p, 0, name.n)) {
        return short_file(c, "a name that is no name", err);
    }
    if (nval <= 0 || (uint64_t)nval > left(c) / 4) {
        return short_file(c, "a count of values that the file does not have", err);
    }
    *e = (struct imatrix_entry){.name = name.p,
                                .n_values = (uint64_t)nval,
                                .divisor = ncall > 0 ? (double)ncall : 1,
                                .at = c->at};
    c->at += 4 * (uint64_t)nval;
    return 0;
}

/* What may stand behind the entries. */
static int read_tail(struct cursor *c, fathom_err *err)
{
    int32_t chunks;
    if (left(c) == 0) {
        return 0;
    }
    struct imatrix *im = c->im;
    im->dataset = arena_alloc(&im->arena, sizeof *im->dataset);
    if (!im->dataset) {
        return err_nomem(err, im->label, sizeof *im->dataset);
    }
    int rc = read_i32(c, &chunks, "the count of chunks", err);
    if (rc == 0 && left(c) > 0) {
        rc = read_text(c, &im->dataset[0], 1 << 16, "the data set's name", err);
        im->n_dataset = rc == 0;
    }
    if (rc == 0) {
        im->chunk_count = chunks > 0 ? (uint32_t)chunks : 0;
        rc = left(c) ? short_file(c, "bytes behind the end", err) : 0;
    }
    return rc;
}

int imatrix_parse_legacy(struct imatrix *im, fathom_err *err)
{
    struct cursor c = {im, 0};
    int32_t n;
    int rc = read_i32(&c, &n, "the number of entries", err);
    if (rc) {
        return rc;
    }
    /* the smallest entry: one byte of name, one value */
    if (n <= 0 || n > IMATRIX_MAX_ENTRIES || (uint64_t)n > left(&c) / 17) {
        return short_file(&c, "a number of entries that cannot be", err);
    }
    im->e = arena_alloc(&im->arena, (size_t)n * sizeof *im->e);
    if (!im->e) {
        return err_nomem(err, im->label, (size_t)n * sizeof *im->e);
    }
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        rc = read_entry(&c, &im->e[i], err);
        im->n += rc == 0;
    }
    return rc ? rc : read_tail(&c, err);
}
