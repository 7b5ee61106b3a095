/* test_json_python.c - agreement with Python's json module on 10,000 random documents.
 * tests/unit/json_python.py makes the documents and compares; this program is both the test,
 * which starts the script, and (with --filter) the filter that the script runs: one document in
 * hex a line; for each it prints the Python form, the compact form and the Python-literal
 * verdict. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "json/json.h"

static const char *self;

static int hex_digit(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One line of answers: "E" for a refusal, else the form in hex. */
static void answer(const struct json *v, int rc,
                   void (*write)(struct buf *, const struct json *))
{
    struct buf b = {0};
    if (rc == 0) {
        write(&b, v);
    }
    if (rc != 0 || b.failed) {
        fputs("E", stdout);
    }
    for (size_t i = 0; i < b.n; i++) {
        printf("%02x", (unsigned char)b.p[i]);
    }
    buf_free(&b);
}

static int filter(void)
{
    struct buf doc = {0};
    int c;
    while ((c = getchar()) != EOF) {
        if (c != '\n') {
            int low = getchar();
            buf_addc(&doc, (char)(hex_digit(c) << 4 | hex_digit(low)));
            continue;
        }
        struct arena a = {0};
        struct json v;
        int rc = json_read(&v, &a, doc.p, doc.n, NULL);
        answer(&v, rc, json_write_compact);
        putchar(' ');
        rc = json_read_python(&v, &a, doc.p, doc.n, NULL);
        answer(&v, rc, json_write_python);
        putchar('\n');
        arena_fini(&a);
        buf_clear(&doc);
    }
    buf_free(&doc);
    return 0;
}

static void test_agreement(void **state)
{
    (void)state;
    char command[8192];
    if (system("python3 -c 'import json' >/dev/null 2>&1") != 0) {
        print_message("python3 is not installed\n");
        skip();
    }
    snprintf(command, sizeof command, "python3 tests/unit/json_python.py '%s' 10000", self);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    char line[4096];
    while (fgets(line, sizeof line, p)) {
        print_message("%s", line);
    }
    assert_int_equal(pclose(p), 0);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--filter") == 0) {
        return filter();
    }
    self = argv[0];
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_agreement)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
