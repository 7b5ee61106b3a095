/* test_text_classes.c - the generated class table against unicode-classes.tsv, for every code
 * point, with its own reader of the file. */
#include "text_common.h"

#include "text/classes.h"

enum { N_CODE_POINTS = 0x110000 };

/* What the third stage sees inside the CJK ranges: letters and marks but for seven code points.
 */
static unsigned class_in_cjk(uint32_t cp)
{
    switch (cp) {
    case 0x3040:
    case 0x3097:
    case 0x3098: return CLASS_CJK | CLASS_OTHER;
    case 0x309B:
    case 0x309C:
    case 0x30A0:
    case 0x30FB: return CLASS_CJK | CLASS_PS;
    default: return CLASS_CJK | CLASS_LM;
    }
}

static unsigned class_named(const char *name, uint32_t cp)
{
    static const struct {
        const char *name;
        unsigned k;
    } names[] = {
        {"WS", CLASS_WS}, {"NL", CLASS_NL}, {"N", CLASS_N}, {"LM", CLASS_LM}, {"PS", CLASS_PS}};
    if (strcmp(name, "CJK") == 0) {
        return class_in_cjk(cp);
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i].name) == 0) {
            return names[i].k;
        }
    }
    fail_msg("unknown class %s", name);
    return 0;
}

static void every_code_point(void **state)
{
    (void)state;
    unsigned char *want = calloc(N_CODE_POINTS, 1);
    FILE *f = fopen(test_data_path("tokenizer/unicode-classes.tsv"), "r");
    assert_true(want && f);
    char line[256];
    unsigned n = 0;
    while (fgets(line, sizeof line, f)) {
        unsigned first, last;
        char name[16];
        if (line[0] == '#') {
            continue;
        }
        assert_int_equal(sscanf(line, "%x %x %15s", &first, &last, name), 3);
        assert_true(first <= last && last < N_CODE_POINTS);
        for (uint32_t cp = first; cp <= last; cp++) {
            want[cp] = (unsigned char)class_named(name, cp);
        }
        n++;
    }
    fclose(f);
    assert_true(n > 1000);
    for (uint32_t cp = 0; cp < N_CODE_POINTS; cp++) {
        if (char_class(cp) != want[cp]) {
            fail_msg("U+%04X: class %u, expected %u", cp, char_class(cp), want[cp]);
        }
    }
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_code_point)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
