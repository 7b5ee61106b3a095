/* test_server_constraint.c - the cache of compiled constraints: equal ones are compiled once, the
 * least recently used goes first, number and bytes are bounded whatever clients send. */
#include "server_util.h"

#include "server/constraint.h"

/* Compiles the schema that allows only the text of a number; that of its digest in out. */
static void make(struct constraint_cache *cache, unsigned number, unsigned char *out)
{
    struct arena a = {0};
    struct json schema;
    char text[64];
    fathom_err err = {0};
    struct constraint *c = NULL;
    int n = snprintf(text, sizeof text, "{\"enum\": [\"%u\"]}", number);
    assert_int_equal(json_read(&schema, &a, text, (size_t)n, &err), 0);
    struct constraint_spec s = {.kind = CONSTRAINT_JSON_SCHEMA, .schema = &schema};
    assert_int_equal(constraint_make(&c, cache, &s, &err), 0);
    assert_non_null(constraint_mask(c));
    memcpy(out, c->digest, SHA256_BYTES);
    constraint_free(c);
    arena_fini(&a);
}

static void test_equal_ones_are_kept_once(void **state)
{
    unsigned char first[SHA256_BYTES], again[SHA256_BYTES], other[SHA256_BYTES];
    size_t n;
    (void)state;
    struct constraint_cache *cache = constraint_cache_new(util_tok, (size_t)64 << 20);
    make(cache, 1, first);
    make(cache, 2, other);
    make(cache, 1, again);
    constraint_cache_bytes(cache, &n);
    assert_int_equal(n, 2);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    constraint_cache_free(cache);
}

static void test_number_is_bounded(void **state)
{
    unsigned char digest[SHA256_BYTES];
    size_t n;
    (void)state;
    struct constraint_cache *cache = constraint_cache_new(util_tok, (size_t)1 << 30);
    for (unsigned i = 0; i < 600; i++) {
        make(cache, i, digest);
        assert_true(constraint_cache_bytes(cache, &n) <= (size_t)1 << 30);
        assert_true(n >= MIN(i + 1, 255u) && n <= 256);
    }
    constraint_cache_free(cache);
}

static void test_bytes_are_bounded(void **state)
{
    unsigned char digest[SHA256_BYTES];
    size_t n, one;
    (void)state;
    struct constraint_cache *cache = constraint_cache_new(util_tok, 1);
    make(cache, 0, digest);
    one = constraint_cache_bytes(cache, &n);
    assert_int_equal(n, 1); /* the newest stays */
    make(cache, 1, digest);
    constraint_cache_bytes(cache, &n);
    assert_int_equal(n, 1);
    constraint_cache_free(cache);
    cache = constraint_cache_new(util_tok, 8 * one);
    for (unsigned i = 0; i < 100; i++) {
        make(cache, 100 + i, digest);
        constraint_cache_bytes(cache, &n);
        assert_true(n <= 8 && n >= MIN(i + 1, 4u));
    }
    constraint_cache_free(cache);
}

static int setup(void **state)
{
    (void)state;
    return util_open("{\"completion\":\"x\"}", 2);
}

static int teardown(void **state)
{
    (void)state;
    util_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_equal_ones_are_kept_once),
                                       cmocka_unit_test(test_number_is_bounded),
                                       cmocka_unit_test(test_bytes_are_bounded)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
