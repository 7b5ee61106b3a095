/* jsonl.c - see jsonl.h. Lines are outside input: json_read checks syntax and UTF-8, this file
 * the one member it needs; other members are ignored, so lines of the vector files can be fed
 * as they are. An answer is built whole or replaced by an error line.
 * Read next: bpe.c and detok.c. */
#include "text/jsonl.h"

#include "base/mem.h"
#include "json/json.h"

static void put_error(struct buf *out, const char *msg)
{
    buf_adds(out, "{\"error\":");
    json_write_str(out, slice_of(msg));
    buf_adds(out, "}\n");
}

/* Parses a line and finds its member `key` of the given type. On an error the error line is
 * written. */
static const struct json *read_member(struct arena *a, struct slice line, const char *key,
                                      enum json_type type, struct buf *out)
{
    fathom_err err = {0};
    struct json *root = arena_alloc(a, sizeof *root);
    if (!root) {
        put_error(out, "out of memory");
        return NULL;
    }
    if (json_read(root, a, line.p, line.n, &err) != 0) {
        put_error(out, err.msg);
        return NULL;
    }
    const struct json *v = json_get(root, key);
    if (!json_is(v, type)) {
        err_set(&err, FATHOM_EINVAL, "the line needs a member \"%s\" that is %s", key,
                type == JSON_STRING ? "a string" : "an array");
        put_error(out, err.msg);
        return NULL;
    }
    return v;
}

void jsonl_encode(const struct tokenizer *t, bool trusted, struct slice line, struct buf *out)
{
    struct arena a = {0};
    const struct json *text = read_member(&a, line, "text", JSON_STRING, out);
    if (text) {
        struct ids ids = {0};
        tokenizer_encode(t, text->s, text->n, trusted, &ids);
        if (ids.failed) {
            put_error(out, "out of memory");
        } else {
            buf_adds(out, "{\"ids\":[");
            for (size_t i = 0; i < ids.n; i++) {
                buf_addf(out, i == 0 ? "%u" : ",%u", ids.p[i]);
            }
            buf_adds(out, "]}\n");
        }
        ids_free(&ids);
    }
    arena_fini(&a);
}

/* Appends the deltas of all ids to out; false, with the reason in err, if an id is unusable. */
static bool decode_ids(const struct tokenizer *t, const struct json *ids, struct detok *d,
                       struct buf *out, fathom_err *err)
{
    struct buf delta = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < ids->n; i++) {
        int64_t id;
        if (!json_int(&ids->items[i], &id) || id < 0 || id >= (int64_t)tokenizer_n_vocab(t)) {
            err_set(err, FATHOM_EINVAL, "ids[%zu] is not an integer from 0 to %u", i,
                    tokenizer_n_vocab(t) - 1);
            ok = false;
            break;
        }
        struct slice bytes = tokenizer_bytes(t, (uint32_t)id);
        buf_clear(&delta);
        detok_feed(d, bytes.p, bytes.n, &delta);
        if (i > 0) {
            buf_addc(out, ',');
        }
        json_write_str(out, buf_slice(&delta));
        out->failed = out->failed || delta.failed;
    }
    buf_free(&delta);
    return ok;
}

void jsonl_decode(const struct tokenizer *t, struct slice line, struct buf *out)
{
    struct arena a = {0};
    const struct json *ids = read_member(&a, line, "ids", JSON_ARRAY, out);
    if (ids) {
        fathom_err err = {0};
        struct detok d = {0};
        struct buf deltas = {0}, flush = {0};
        bool ok = decode_ids(t, ids, &d, &deltas, &err);
        detok_flush(&d, &flush);
        if (!ok) {
            put_error(out, err.msg);
        } else if (deltas.failed || flush.failed) {
            put_error(out, "out of memory");
        } else {
            buf_adds(out, "{\"deltas\":[");
            buf_add_slice(out, buf_slice(&deltas));
            buf_adds(out, "],\"flush\":");
            json_write_str(out, buf_slice(&flush));
            buf_adds(out, "}\n");
        }
        buf_free(&deltas);
        buf_free(&flush);
    }
    arena_fini(&a);
}
