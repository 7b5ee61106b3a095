/* test_server_auth.c - keys, Host and Origin rules as tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/mem.h"
#include "server/auth.h"

static void test_keys(void **state)
{
    static const char *const keys[] = {"first-key-1", "second-key-2"};
    static const char *const short_key[] = {"1234567"};
    static const struct {
        const char *authorization, *key;
        int want;
    } rows[] = {
        {"Bearer first-key-1", NULL, 0},
        {"bearer second-key-2", NULL, 1},
        {"Bearer   first-key-1", NULL, 0},
        {NULL, "second-key-2", 1},
        {"Bearer first-key-1", "x", 0},
        {"Bearer x", "first-key-1", -1},
        {"Bearer", "first-key-1", 0},
        {"Basic first-key-1", NULL, -1},
        {NULL, NULL, -1},
        {"Bearer ", NULL, -1},
        {NULL, "first-key-1 ", -1},
        {NULL, "first-key-", -1},
        {NULL, "FIRST-KEY-1", -1},
        {"first-key-1", NULL, -1},
    };
    struct auth a;
    fathom_err err = {0};
    (void)state;
    assert_int_equal(auth_init(&a, keys, 2, &err), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(auth_check(&a, rows[i].authorization, rows[i].key), rows[i].want);
    }
    auth_fini(&a);
    assert_int_equal(auth_init(&a, NULL, 0, &err), 0);
    assert_int_equal(auth_check(&a, NULL, NULL), 0);
    assert_int_equal(auth_check(&a, "Bearer anything", NULL), 0);
    auth_fini(&a);
    assert_int_equal(auth_init(&a, short_key, 1, &err), FATHOM_EINVAL);
    auth_fini(&a);
}

static void test_hosts(void **state)
{
    static const char *const more[] = {"box.lan"};
    static const struct {
        const char *host;
        bool want;
    } rows[] = {
        {"localhost", true},
        {"localhost:8000", true},
        {"LocalHost.", true},
        {"127.0.0.1:1", true},
        {"[::1]", true},
        {"[::1]:9", true},
        {"10.1.2.3", true},
        {"10.1.2.3:80", true},
        {"box.lan:3", true},
        {"10.1.2.4", false},
        {"box.lan.evil", false},
        {"evil", false},
        {"127.0.0.1.evil", false},
        {"[::1", false},
        {"[::2]", false},
        {"", false},
        {":80", false},
        {"localhost@evil", false},
        {"evil#localhost", false},
        {"0.0.0.0", false},
        {"127.0.0.2", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (host_allowed(rows[i].host, "10.1.2.3", more, 1) != rows[i].want) {
            fail_msg("%s", rows[i].host);
        }
    }
    assert_false(host_allowed("box.lan", "", NULL, 0));
}

static void test_origins(void **state)
{
    (void)state;
    assert_true(origin_is_own("http://127.0.0.1:8000", "127.0.0.1:8000"));
    assert_true(origin_is_own("http://LOCALHOST:8000", "localhost:8000"));
    assert_false(origin_is_own("http://127.0.0.1:8001", "127.0.0.1:8000"));
    assert_false(origin_is_own("http://127.0.0.1", "127.0.0.1:8000"));
    assert_false(origin_is_own("null", "127.0.0.1:8000"));
    assert_false(origin_is_own("http://evil/127.0.0.1:8000", "127.0.0.1:8000"));
    assert_false(origin_is_own("", ""));
    assert_true(address_is_loopback("127.5.0.1") && address_is_loopback("::1"));
    assert_false(address_is_loopback("0.0.0.0") || address_is_loopback("::") ||
                 address_is_loopback("192.168.0.1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys),
                                       cmocka_unit_test(test_hosts),
                                       cmocka_unit_test(test_origins)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
