/* fuzz_json.c - reads any bytes as JSON, writes both forms, and reads those again: the result
 * must be accepted and must be written the same way (the forms are fixed points). Numbers are
 * read as integer and double on the way. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "json/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void touch(const struct json *v)
{
    int64_t i;
    double d;
    bool flag;
    (void)json_int(v, &i);
    (void)json_double(v, &d);
    (void)json_bool(v, &flag);
    (void)json_str(v);
    (void)json_get(v, "a");
    (void)json_at(v, 0);
}

static void check_again(const struct buf *text,
                        void (*write)(struct buf *, const struct json *))
{
    struct arena a = {0};
    struct json v;
    struct buf again = {0};
    int rc = json_read_python(&v, &a, text->p, text->n, NULL);
    assert(rc == 0);
    (void)rc;
    write(&again, &v);
    assert(slice_eq(buf_slice(&again), buf_slice(text)));
    buf_free(&again);
    arena_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a = {0};
    struct json v, strict;
    struct buf python = {0}, compact = {0};
    int rc_strict = json_read(&strict, &a, (const char *)data, size, NULL);
    int rc = json_read_python(&v, &a, (const char *)data, size, NULL);
    assert(rc_strict == FATHOM_EFORMAT || rc == 0);
    (void)rc_strict;
    if (rc == 0) {
        json_write_python(&python, &v);
        json_write_compact(&compact, &v);
        check_again(&python, json_write_python);
        check_again(&compact, json_write_compact);
        touch(&v);
        for (size_t i = 0; i < v.n && (v.type == JSON_ARRAY || v.type == JSON_OBJECT); i++) {
            touch(v.type == JSON_ARRAY ? &v.items[i] : &v.members[i].value);
        }
    }
    buf_free(&python);
    buf_free(&compact);
    arena_fini(&a);
    return 0;
}
