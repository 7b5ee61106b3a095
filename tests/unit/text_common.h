/* text_common.h - what the tests of the tokenizer share: JSON lines files, the two tokenizers,
 * and a plain-looking BPE to compare with. */
#ifndef TESTS_UNIT_TEXT_COMMON_H
#define TESTS_UNIT_TEXT_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the headers above */
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "json/json.h"
#include "testdata.h"
#include "text/text.h"

#define MINI_JSON "models/mini/tokenizer.json"

/* Calls fn for every line of a JSON lines file; returns how many there were. */
static inline size_t for_each_line(const char *path,
                                   void (*fn)(const struct json *v, void *user), void *user)
{
    fathom_err err = {0};
    struct buf file = {0};
    if (file_read_all(&file, path, (size_t)1 << 28, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    size_t n = 0;
    for (size_t at = 0; at < file.n;) {
        const char *nl = memchr(file.p + at, '\n', file.n - at);
        size_t end = nl ? (size_t)(nl - file.p) : file.n;
        if (end > at) {
            struct arena a = {0};
            struct json v;
            if (json_read(&v, &a, file.p + at, end - at, &err) != 0) {
                fail_msg("%s: line %zu: %s", path, n + 1, err.msg);
            }
            fn(&v, user);
            arena_fini(&a);
            n++;
        }
        at = end + 1;
    }
    buf_free(&file);
    return n;
}

static inline struct tokenizer *load_json(const char *path)
{
    fathom_err err = {0};
    struct tokenizer *t = NULL;
    if (tokenizer_from_json(&t, path, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_non_null(t);
    return t;
}

static inline struct tokenizer *load_real(void)
{
    return load_json(test_data_path("tokenizer/tokenizer.json.xz"));
}

/* The id list `want` (a JSON array) equals ids of the text. */
static inline void check_ids(const struct tokenizer *t, struct slice text, bool trusted,
                             const struct json *want, const char *name)
{
    struct ids ids = {0};
    tokenizer_encode(t, text.p, text.n, trusted, &ids);
    assert_false(ids.failed);
    if (!json_is(want, JSON_ARRAY) || ids.n != want->n) {
        fail_msg("%s (%s): %zu ids, expected %zu", name, trusted ? "trusted" : "plain", ids.n,
                 want ? want->n : 0);
    }
    for (size_t i = 0; i < ids.n; i++) {
        int64_t id = -1;
        json_int(json_at(want, i), &id);
        if (id != (int64_t)ids.p[i]) {
            fail_msg("%s (%s): id %zu is %u, expected %lld", name,
                     trusted ? "trusted" : "plain", i, ids.p[i], (long long)id);
        }
    }
    ids_free(&ids);
}

struct vector_check {
    const struct tokenizer *t;
    size_t n_plain_differs;
};

/* One line of vectors.jsonl (text, ids, and plain_ids where they differ). */
static inline void check_vector(const struct json *v, void *user)
{
    struct vector_check *c = user;
    struct slice text = json_str(json_get(v, "text")), name = json_str(json_get(v, "id"));
    const struct json *ids = json_get(v, "ids"), *plain = json_get(v, "plain_ids");
    const char *label = name.p ? name.p : "(unnamed)";
    c->n_plain_differs += plain != NULL;
    check_ids(c->t, text, true, ids, label);
    check_ids(c->t, text, false, plain ? plain : ids, label);
}

#endif
