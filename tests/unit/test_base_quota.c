/* test_base_quota.c - CPU quotas of control groups: of the own group, of those around it, none,
 * files that say something else. */
#include "base/quota.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A tree of groups: root, root/a, root/a/b; proc names a group. */
struct groups {
    char root[32], proc[64];
};

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void group_set(const struct groups *g, const char *group, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s%s/cpu.max", g->root, group);
    if (text) {
        put(path, text);
    } else {
        unlink(path);
    }
}

static int setup(void **state)
{
    static struct groups g;
    char path[64];
    strcpy(g.root, "/tmp/fathom-quota-XXXXXX");
    assert_non_null(mkdtemp(g.root));
    snprintf(path, sizeof path, "%s/a", g.root);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/a/b", g.root);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(g.proc, sizeof g.proc, "%s/proc", g.root);
    *state = &g;
    return 0;
}

static int teardown(void **state)
{
    const struct groups *g = *state;
    char path[64];
    group_set(g, "", NULL);
    group_set(g, "/a", NULL);
    group_set(g, "/a/b", NULL);
    unlink(g->proc);
    snprintf(path, sizeof path, "%s/a/b", g->root);
    rmdir(path);
    snprintf(path, sizeof path, "%s/a", g->root);
    rmdir(path);
    rmdir(g->root);
    return 0;
}

static void test_quota(void **state)
{
    const struct groups *g = *state;
    assert_int_equal(quota_cpus(g->proc, g->root), 0); /* no such file */
    put(g->proc, "12:cpu,cpuacct:/x\n0::/a/b\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 0); /* groups without one */
    group_set(g, "/a/b", "max 100000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 0);
    group_set(g, "/a/b", "400000 100000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 4);
    group_set(g, "/a/b", "400001 100000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 5);
    group_set(g, "/a/b", "1000 100000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 1);
    group_set(g, "/a/b", "max 100000\n"); /* the group around it counts */
    group_set(g, "/a", "150000 50000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 3);
    group_set(g, "/a/b", "700000 100000\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 3);
    group_set(g, "", "200000 100000\n"); /* and a mounted subtree */
    assert_int_equal(quota_cpus(g->proc, g->root), 2);
    put(g->proc, "0::/\n");
    assert_int_equal(quota_cpus(g->proc, g->root), 2);
    put(g->proc, "0::/../elsewhere\n"); /* outside of what is mounted */
    assert_int_equal(quota_cpus(g->proc, g->root), 2);
}

static void test_nonsense(void **state)
{
    const struct groups *g = *state;
    static const char *const max[] = {"",           "\n",         "100000\n",
                                      "100000 0\n", "0 100000\n", "x y\n"};
    put(g->proc, "0::/\n");
    for (size_t i = 0; i < sizeof max / sizeof *max; i++) {
        group_set(g, "", max[i]);
        assert_int_equal(quota_cpus(g->proc, g->root), 0);
    }
    group_set(g, "", "18446744073709551615 1\n");
    assert_int_equal(quota_cpus(g->proc, g->root), UINT32_MAX);
    group_set(g, "", "200000 100000\n");
    static const char *const proc[] = {"", "0::", "0::/a", "1:cpu:/\n", "0:a:/\n"};
    for (size_t i = 0; i < sizeof proc / sizeof *proc; i++) {
        put(g->proc, proc[i]);
        assert_int_equal(quota_cpus(g->proc, g->root), 0);
    }
    FILE *f = fopen(g->proc, "w"); /* a path longer than any */
    assert_non_null(f);
    fprintf(f, "0::/");
    for (int i = 0; i < 5000; i++) {
        fputc('a', f);
    }
    fputs("\n", f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(quota_cpus(g->proc, g->root), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
