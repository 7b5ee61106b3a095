/* test_gguf_split.c - sets of files: any part opens the whole set; a missing, renamed, foreign
 * or contradicting part is refused by name. Files live in a temporary directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "gguf_build.h"

static char dir[256];

static const char *in_dir(const char *name)
{
    static char paths[4][512];
    static unsigned turn;
    char *p = paths[turn++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static void write_script(const char *name, const char *script)
{
    struct buf b = {0};
    struct file_out f;
    fathom_err err = {0};
    gguf_build(&b, script);
    if (file_out_open(&f, in_dir(name), &err) != 0 || file_out_write(&f, b.p, b.n, &err) != 0 ||
        file_out_commit(&f, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    buf_free(&b);
}

/* Part `no` (from 0) of `count`, saying that all parts have `total` tensors. Part 0 has
 * metadata only; every other one has two tensors named after it and its own alignment. */
static void write_part(const char *name, int no, int count, int total)
{
    char script[1024];
    if (no == 0) {
        snprintf(script, sizeof script,
                 "H:0:4 s:general.architecture u32:8 s:deepseek4 s:split.no u32:2 u16:0 "
                 "s:split.count u32:2 u16:%d s:split.tensors.count u32:5 u32:%d pad:32",
                 count, total);
    } else {
        snprintf(script, sizeof script,
                 "H:2:4 s:split.no u32:2 u16:%d s:split.count u32:2 u16:%d "
                 "s:split.tensors.count u32:5 u32:%d s:general.alignment u32:4 u32:%d "
                 "s:a.%d u32:1 u64:8 u32:0 u64:0 s:b.%d u32:1 u64:4 u32:0 u64:%d "
                 "pad:%d a:32 pad:%d a:16",
                 no, count, total, 32 << no, no, no, 32 << no, 32 << no, 32 << no);
    }
    write_script(name, script);
}

static void write_set(void)
{
    write_part("m-00001-of-00003.gguf", 0, 3, 4);
    write_part("m-00002-of-00003.gguf", 1, 3, 4);
    write_part("m-00003-of-00003.gguf", 2, 3, 4);
}

static void refuse(const char *name, int code, const char *want1, const char *want2)
{
    struct gguf *g;
    fathom_err err = {0};
    int rc = gguf_open(&g, in_dir(name), &err);
    if (rc != code || g || !strstr(err.msg, want1) || !strstr(err.msg, want2)) {
        fail_msg("%s: got %d \"%s\", wanted \"%s\" and \"%s\"", name, rc, err.msg, want1,
                 want2);
    }
}

static void test_any_part(void **state)
{
    (void)state;
    static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                        "m-00003-of-00003.gguf"};
    write_set();
    for (size_t i = 0; i < 3; i++) {
        struct gguf *g;
        fathom_err err = {0};
        struct slice s;
        uint64_t sum = 0;
        if (gguf_open(&g, in_dir(names[i]), &err) != 0) {
            fail_msg("%s", err.msg);
        }
        assert_true(gguf_str(gguf_find(g, "general.architecture"), &s) &&
                    slice_is(s, "deepseek4"));
        assert_int_equal(gguf_n_kv(g), 4);
        assert_int_equal(gguf_n_tensors(g), 4);
        assert_int_equal(gguf_n_parts(g), 3);
        static const char *const tensors[4] = {"a.1", "b.1", "a.2", "b.2"};
        for (uint32_t k = 0; k < 4; k++) {
            const struct gguf_tensor *t = gguf_find_tensor(g, tensors[k]);
            assert_ptr_equal(t, gguf_tensor_at(g, k));
            assert_int_equal(t->part, 1 + k / 2);
            assert_int_equal(t->offset % (32u << t->part), 0);
            assert_ptr_equal(t->data, gguf_part_map(g, t->part)->p + t->offset);
            assert_int_equal(t->data[0], 'a');
            assert_int_equal(t->data[t->bytes - 1], 'a');
        }
        for (size_t k = 0; k < 3; k++) {
            sum += gguf_part_map(g, k)->n;
        }
        assert_true(gguf_file_bytes(g) == sum);
        gguf_close(g);
    }
}

static void test_missing(void **state)
{
    (void)state;
    write_set();
    assert_int_equal(unlink(in_dir("m-00003-of-00003.gguf")), 0);
    refuse("m-00001-of-00003.gguf", FATHOM_ENOENT, "m-00003-of-00003.gguf: part 3 of 3",
           "is missing");
    assert_int_equal(unlink(in_dir("m-00001-of-00003.gguf")), 0);
    refuse("m-00002-of-00003.gguf", FATHOM_ENOENT, "m-00001-of-00003.gguf: part 1 of 3",
           "is missing");
    refuse("other-00001-of-00002.gguf", FATHOM_ENOENT, "part 1 of 2", "is missing");
}

static void test_contradictions(void **state)
{
    (void)state;
    write_set(); /* a set whose parts were renamed among each other */
    assert_int_equal(rename(in_dir("m-00002-of-00003.gguf"), in_dir("x")), 0);
    assert_int_equal(rename(in_dir("m-00003-of-00003.gguf"), in_dir("m-00002-of-00003.gguf")),
                     0);
    assert_int_equal(rename(in_dir("x"), in_dir("m-00003-of-00003.gguf")), 0);
    refuse("m-00001-of-00003.gguf", FATHOM_EFORMAT, "m-00002-of-00003.gguf: key \"split.no\"",
           "this is part 3, not part 2");

    write_set(); /* the same part twice: its tensors come twice */
    write_part("m-00003-of-00003.gguf", 1, 3, 4);
    refuse("m-00001-of-00003.gguf", FATHOM_EFORMAT, "m-00003-of-00003.gguf",
           "tensor \"a.1\": given twice");

    write_set(); /* a part of a set of another size */
    write_part("m-00003-of-00003.gguf", 2, 4, 4);
    refuse("m-00001-of-00003.gguf", FATHOM_EFORMAT, "m-00003-of-00003.gguf",
           "the set has 4 parts, the name says 3");

    write_set(); /* fewer tensors than promised */
    write_part("m-00001-of-00003.gguf", 0, 3, 5);
    refuse("m-00001-of-00003.gguf", FATHOM_EFORMAT, "split.tensors.count",
           "5 tensors expected, 4 found in 3 part(s)");

    write_set(); /* a whole model in a part's place */
    write_script("m-00002-of-00003.gguf", "H:0:0 pad:32");
    write_script("m-00003-of-00003.gguf", "H:0:0 pad:32");
    refuse("m-00001-of-00003.gguf", FATHOM_EFORMAT, "m-00002-of-00003.gguf", "are missing");

    write_set(); /* a part that is cut off */
    write_script("m-00002-of-00003.gguf",
                 "H:1:2 s:split.no u32:2 u16:1 s:split.count u32:2 u16:3 "
                 "s:t u32:1 u64:8 u32:0 u64:0 pad:32 z:20");
    refuse("m-00003-of-00003.gguf", FATHOM_EFORMAT, "m-00002-of-00003.gguf", "12 bytes short");
}

static void test_names(void **state)
{
    (void)state;
    struct gguf *g;
    fathom_err err = {0};
    write_part("single.gguf", 1, 3, 4);
    refuse("single.gguf", FATHOM_EFORMAT, "part 2 of 3", "-00002-of-00003.gguf");
    write_script("n-00000-of-00003.gguf", "H:0:0 pad:32");
    refuse("n-00000-of-00003.gguf", FATHOM_EFORMAT, "out of range", "rename");
    refuse("n-00004-of-00003.gguf", FATHOM_EFORMAT, "out of range", "rename");
    refuse("n-00001-of-01001.gguf", FATHOM_EFORMAT, "out of range", "1 to 1000");
    /* Names that only look like it are single files; so is a set of one, with or without keys.
     */
    static const char *const single[] = {"n-00001-of-0002.gguf", "n-0000a-of-00002.gguf",
                                         "n-00001-of-00001.gguf", "n-00001_of_00002.gguf"};
    for (size_t i = 0; i < ARRAY_LEN(single); i++) {
        write_script(single[i], "H:0:0 pad:32");
        if (gguf_open(&g, in_dir(single[i]), &err) != 0) {
            fail_msg("%s", err.msg);
        }
        gguf_close(g);
        unlink(in_dir(single[i]));
    }
    write_part("o-00001-of-00001.gguf", 0, 1, 0);
    assert_int_equal(gguf_open(&g, in_dir("o-00001-of-00001.gguf"), &err), 0);
    gguf_close(g);
    unlink(in_dir("single.gguf"));
    unlink(in_dir("n-00000-of-00003.gguf"));
    unlink(in_dir("o-00001-of-00001.gguf"));
}

static int set_up(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/fathom-split-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 1; i <= 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "m-%05d-of-00003.gguf", i);
        unlink(in_dir(name));
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_part),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
