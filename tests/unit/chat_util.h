/* chat_util.h - shared by the test_chat_*.c programs: reading vector files, the tokenizer. */
#ifndef TESTS_CHAT_UTIL_H
#define TESTS_CHAT_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/file.h"
#include "json/json.h"
#include "testdata.h"
#include "text/text.h"

static struct arena util_arena; /* everything read by these functions */

static inline struct slice util_file(const char *name)
{
    struct buf b = {0};
    fathom_err err = {0};
    if (file_read_all(&b, test_data_path(name), (size_t)64 << 20, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    char *copy = arena_strndup(&util_arena, buf_cstr(&b), b.n);
    assert_non_null(copy);
    struct slice s = {copy, b.n};
    buf_free(&b);
    return s;
}

static inline const struct json *util_json_text(struct slice text)
{
    struct json *v = arena_alloc(&util_arena, sizeof *v);
    fathom_err err = {0};
    if (json_read(v, &util_arena, text.p, text.n, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return v;
}

static inline const struct json *util_json(const char *name)
{
    return util_json_text(util_file(name));
}

static inline struct tokenizer *util_tokenizer(void)
{
    struct tokenizer *t = NULL;
    fathom_err err = {0};
    if (tokenizer_from_json(&t, test_data_path("tokenizer/tokenizer.json.xz"), &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return t;
}

/* Fails with the first difference of two texts. */
static inline void util_same_text(const char *what, struct slice got, struct slice want)
{
    if (!slice_eq(got, want)) {
        size_t i = 0;
        while (i < got.n && i < want.n && got.p[i] == want.p[i]) {
            i++;
        }
        fail_msg("%s: differs at byte %zu: got %.*s, expected %.*s", what, i,
                 (int)MIN(got.n - i, (size_t)80), got.p + i, (int)MIN(want.n - i, (size_t)80),
                 want.p + i);
    }
}

static inline void util_same_ids(const char *what, const struct ids *got,
                                 const struct json *want)
{
    assert_true(json_is(want, JSON_ARRAY));
    for (size_t i = 0; i < want->n || i < got->n; i++) {
        int64_t id = -1;
        (void)json_int(json_at(want, i), &id);
        if (i >= got->n || (int64_t)got->p[i] != id) {
            fail_msg("%s: id %zu is %lld, expected %lld (%zu and %zu ids)", what, i,
                     i < got->n ? (long long)got->p[i] : -1LL, (long long)id, got->n, want->n);
        }
    }
}

#endif
