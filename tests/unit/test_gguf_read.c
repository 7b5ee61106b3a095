/* test_gguf_read.c - the reader against files that are wrong in one way each (the message must
 * name the reason), every truncation and every changed byte of a small valid file, and files
 * that are unusual but right. All files are built byte by byte in heap blocks of their exact
 * size, so that AddressSanitizer sees any read past the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "gguf/gguf.h"
#include "gguf_build.h"
#include "quant/formats.h"

/* A string of 8192 letters is "bad" for nothing by itself; F32 tensors of 8 elements are 32
 * bytes. Types of values: 0 u8 ... 4 u32, 7 bool, 8 string, 9 array. Types of tensors: 0 F32, 8
 * Q8_0. */
static const struct hostile {
    const char *script, *want;
} hostile[] = {
    /* header */
    {"", "empty"},
    {"raw:GGU", "not a GGUF file"},
    {"raw:GGML u32:3 u64:0 u64:0 z:8", "not a GGUF file"},
    {"raw:ggml u32:3 u64:0 u64:0 z:8", "older than GGUF"},
    {"raw:<!DOCTYPE z:32", "web page"},
    {"raw:version x:20 raw:https://git-lfs.github.com/spec/v1", "LFS pointer"},
    {"raw:GGUF", "4 bytes short"},
    {"raw:GGUF u32:3 u64:0 u32:0", "4 bytes short"},
    {"raw:GGUF u32:1 u64:0 u64:0", "version 1;"},
    {"raw:GGUF u32:2 u64:0 u64:0", "version 2;"},
    {"raw:GGUF u32:4 u64:0 u64:0", "version 4;"},
    {"raw:GGUF u32:0 u64:0 u64:0", "version 0;"},
    {"raw:GGUF u32:0x03000000 u64:0 u64:0", "big-endian"},
    {"H:0x8000000000000000:0", "negative"},
    {"H:0:-1", "negative"},
    {"H:65537:0 z:64", "65537 tensors"},
    {"H:0:65537 z:64", "65537 keys"},
    {"H:65536:0 z:64", "bytes short"},
    {"H:0:65536 z:64", "bytes short"},
    {"H:1:0 z:31", "1 bytes short"},
    {"H:0:1 z:12", "1 bytes short"},
    /* keys */
    {"H:0:1 u64:0 u32:4 u32:1 z:8", "key number 0: empty name"},
    {"H:0:1 u64:65536 a:65536 u32:4 u32:1", "name of 65536 bytes"},
    {"H:0:1 u64:40 raw:abcde z:8", "bytes short"},
    {"H:0:1 u64:-1 raw:abcde z:8", "name of 18446744073709551615 bytes"},
    {"H:0:2 s:a u32:4 u32:1 s:a u32:0 u8:1", "key \"a\": given twice"},
    {"H:0:1 s:a u32:13 z:16", "key \"a\": unknown value type 13"},
    {"H:0:1 s:a u32:-1 z:16", "unknown value type 4294967295"},
    {"H:0:1 s:a u32:7 u8:2", "key \"a\": a bool of value 2"},
    {"H:0:1 s:a u32:9 u32:7 u64:3 x:0001ff", "a bool of value 255"},
    {"H:0:1 s:ab u32:10 u32:1", "key \"ab\": the file ends inside its header, at least 4"},
    {"H:0:1 s:ab u32:8 u64:5 raw:four", "at least 1 bytes short"},
    {"H:0:1 s:ab u32:8 u64:16777217 z:64", "a string of 16777217 bytes"},
    {"H:0:1 s:ab u32:8 u64:0x8000000000000000 z:64", "a string of 9223372036854775808"},
    {"H:0:1 s:ab u32:9 u32:9 u64:0", "key \"ab\": array of arrays"},
    {"H:0:1 s:ab u32:9 u32:13 u64:0", "array of unknown value type 13"},
    {"H:0:1 s:ab u32:9 u32:4 u64:3 u32:1 u32:2", "at least 4 bytes short"},
    {"H:0:1 s:ab u32:9 u32:12 u64:16777216 z:64", "bytes short"},
    {"H:0:1 s:ab u32:9 u32:0 u64:16777217 z:64", "array of 16777217 elements"},
    {"H:0:1 s:ab u32:9 u32:12 u64:0x2000000000000001 z:64", "array of 2305843009213693953"},
    {"H:0:1 s:ab u32:9 u32:8 u64:3 s:x s:y z:7", "at least 1 bytes short"},
    {"H:0:1 s:ab u32:9 u32:8 u64:1000 s:x s:y z:8", "bytes short"},
    {"H:0:1 s:ab u32:9 u32:8 u64:1 u64:16777217 z:64", "a string of 16777217"},
    {"H:0:1 s:ab u32:9 u32:4", "at least 8 bytes short"},
    {"H:0:1 x:0300000000000000ff0a22 u32:13 z:8", "key \"??\"\": unknown"},
    /* alignment */
    {"H:0:1 s:general.alignment u32:4 u32:0", "general.alignment\": 0 is no power"},
    {"H:0:1 s:general.alignment u32:4 u32:33", "33 is no power of two"},
    {"H:0:1 s:general.alignment u32:4 u32:2097152", "2097152 is no power"},
    {"H:0:1 s:general.alignment u32:10 u64:32", "has type u64, must be u32"},
    {"H:0:1 s:general.alignment u32:8 s:32", "has type string, must be u32"},
    {"H:0:1 s:general.alignment u32:9 u32:4 u64:1 u32:32", "has type array, must be u32"},
    /* tensor records */
    {"H:1:0 u64:0 u32:1 u64:8 u32:0 u64:0 pad:32 z:32", "tensor number 0: empty name"},
    {"H:1:0 u64:128 a:128 u32:1 u64:8 u32:0 u64:0 pad:32 z:32", "name of 128 bytes"},
    {"H:2:0 s:t u32:1 u64:8 u32:0 u64:0 s:t u32:1 u64:8 u32:0 u64:32 pad:32 z:64",
     "tensor \"t\": given twice"},
    {"H:1:0 s:t u32:0 u32:0 u64:0 z:40", "tensor \"t\": rank 0"},
    {"H:1:0 s:t u32:5 u64:1 u64:1 u64:1 u64:1 u64:1 u32:0 u64:0 z:40", "rank 5"},
    {"H:1:0 s:t u32:-1 u64:1 u32:0 u64:0 z:40", "rank 4294967295"},
    {"H:1:0 s:t u32:2 u64:8 u64:0 u32:0 u64:0 z:40", "a dimension is 0"},
    {"H:1:0 s:t u32:1 u64:0 u32:8 u64:0 z:40", "a dimension is 0"},
    {"H:1:0 s:t u32:3 u64:8 u64:0x100000000 u64:0x100000000 u32:0 u64:0 z:40",
     "the dimensions overflow"},
    {"H:1:0 s:t u32:2 u64:0x4000000000000000 u64:4 u32:0 u64:0 z:40", "overflow"},
    {"H:1:0 s:t u32:2 u64:0x40000000 u64:0x40000000 u32:28 u64:0 z:40", "size overflows"},
    {"H:1:0 s:t u32:2 u64:0x80000000 u64:0x80000000 u32:24 u64:0 z:40", "bytes short"},
    {"H:1:0 s:t u32:1 u64:8 u32:43 u64:0 z:40", "type id 43 is unknown"},
    {"H:1:0 s:t u32:1 u64:8 u32:-1 u64:0 z:40", "type id 4294967295 is unknown"},
    {"H:1:0 s:t u32:1 u64:8 u32:97 u64:0 z:40", "type id 97 is unknown"},
    {"H:1:0 s:t u32:1 u64:32 u32:4 u64:0 z:40", "type id 4 is one that was removed"},
    {"H:1:0 s:t u32:1 u64:32 u32:5 u64:0 z:40", "type id 5 is one that was removed"},
    {"H:1:0 s:t u32:1 u64:32 u32:31 u64:0 z:40", "type id 31 is one that was removed"},
    {"H:1:0 s:t u32:1 u64:32 u32:38 u64:0 z:40", "type id 38 is one that was removed"},
    {"H:1:0 s:t u32:1 u64:33 u32:8 u64:0 z:80", "not a multiple of Q8_0's block of 32"},
    {"H:1:0 s:t u32:1 u64:128 u32:16 u64:0 z:80", "not a multiple of IQ2_XXS's block of 256"},
    {"H:1:0 s:t u32:1 u64:8 u32:0 u64:8 pad:32 z:64", "offset 8 is no multiple"},
    {"H:1:1 s:general.alignment u32:4 u32:4096 s:t u32:1 u64:8 u32:0 u64:32 pad:4096 z:96",
     "offset 32 is no multiple of the alignment 4096"},
    {"H:1:0 s:t u32:1 u64:8 u32:0 u64:-32 pad:32 z:32", "its end overflows"},
    {"H:1:0 s:t u32:1 u64:8 u32:0 u64:0x7fffffffffffffe0 pad:32 z:32", "its end overflows"},
    {"H:1:0 s:t u32:1 u64:8 u32:0 u64:0x100000000000 pad:32 z:32",
     "17592186044416 bytes short"},
    {"H:1:0 s:t u32:1 u64:8 u32:0 u64:0 pad:32 z:31",
     "1 bytes short (95 of 96): tensor \"t\" is incomplete"},
    {"H:2:0 s:t u32:1 u64:8 u32:0 u64:0 s:u u32:1 u64:8 u32:0 u64:32 pad:32 z:32",
     "32 bytes short (128 of 160): tensor \"u\" is incomplete, 1 of 2"},
    {"H:2:0 s:t u32:1 u64:8 u32:0 u64:32 s:u u32:1 u64:8 u32:0 u64:0 pad:32 z:16",
     "48 bytes short (112 of 160): tensor \"u\" is incomplete, 2 of 2"},
    {"H:2:0 s:t u32:1 u64:9 u32:0 u64:0 s:u u32:1 u64:8 u32:0 u64:32 pad:32 z:96",
     "tensor \"u\": overlaps tensor \"t\""},
    {"H:2:0 s:t u32:1 u64:8 u32:0 u64:0 s:u u32:1 u64:8 u32:0 u64:0 pad:32 z:96", "overlaps"},
    {"H:3:0 s:t u32:1 u64:24 u32:0 u64:0 s:u u32:1 u64:8 u32:0 u64:96 s:v u32:1 u64:1 u32:0 "
     "u64:64 pad:32 z:200",
     "tensor \"v\": overlaps tensor \"t\""},
    /* parts of a set without the set */
    {"H:0:2 s:split.no u32:2 u16:1 s:split.count u32:2 u16:3", "part 2 of 3"},
    {"H:0:1 s:split.count u32:8 s:3", "split.count\": has type string"},
    {"H:0:1 s:split.no u32:3 u16:-1", "split.no\": has type i16"},
    {"H:0:1 s:split.no u32:2 u16:4", "this is part 5, not part 1"},
    {"H:0:1 s:split.tensors.count u32:5 u32:9", "9 tensors expected, 0 found"},
};

/* Opens a heap copy of exactly n bytes. */
static int open_copy(struct gguf **g, const void *p, size_t n, void **copy, fathom_err *err)
{
    *copy = mem_alloc(n, 1);
    assert_non_null(*copy);
    if (n > 0) {
        memcpy(*copy, p, n);
    }
    return gguf_open_mem(g, *copy, n, "test.gguf", err);
}

static void test_hostile(void **state)
{
    (void)state;
    print_message("%zu hostile files\n", ARRAY_LEN(hostile));
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        struct buf b = {0};
        struct gguf *g = (struct gguf *)&b; /* must be reset */
        void *copy;
        fathom_err err = {0};
        gguf_build(&b, hostile[i].script);
        int rc = open_copy(&g, b.p, b.n, &copy, &err);
        if (rc != FATHOM_EFORMAT || g || !strstr(err.msg, hostile[i].want)) {
            fail_msg("\"%s\": got %d \"%s\", wanted \"%s\"", hostile[i].script, rc, err.msg,
                     hostile[i].want);
        }
        assert_memory_equal(err.msg, "test.gguf: ", 11); /* says which file */
        assert_null(strchr(err.msg, '\n'));
        mem_free(copy);
        buf_free(&b);
    }
}

/* Unusual, but allowed. */
static void test_allowed(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "H:0:0",
        "H:0:1 s:a u32:9 u32:8 u64:0",                 /* an empty array */
        "H:0:1 s:a u32:8 u64:4 x:00ff0a80",            /* a string that is no text */
        "H:0:1 s:general.alignment u32:4 u32:1",       /* no alignment at all */
        "H:0:1 s:general.alignment u32:4 u32:1048576", /* no data: no padding needed */
        "H:0:2 s:split.no u32:2 u16:0 s:split.count u32:2 u16:0", /* a merged set */
        "H:0:2 s:split.no u32:2 u16:0 s:split.count u32:2 u16:1",
        "H:1:0 s:t u32:4 u64:32 u64:1 u64:1 u64:1 u32:8 u64:0 pad:32 z:34", /* no end padding */
        "H:1:0 s:t u32:1 u64:256 u32:34 u64:0 pad:32 z:54", /* opaque types have a size */
        "H:1:0 u64:127 a:127 u32:1 u64:1 u32:0 u64:0 pad:32 z:4",
        "H:1:0 s:t u32:1 u64:1 u32:0 u64:64 pad:32 z:68",                             /* gaps */
        "H:2:0 s:t u32:1 u64:8 u32:0 u64:32 s:u u32:1 u64:8 u32:0 u64:0 pad:32 z:64", /* order
                                                                                       */
    };
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        struct buf b = {0};
        struct gguf *g;
        void *copy;
        fathom_err err = {0};
        gguf_build(&b, scripts[i]);
        if (open_copy(&g, b.p, b.n, &copy, &err) != 0) {
            fail_msg("\"%s\": %s", scripts[i], err.msg);
        }
        assert_string_equal(gguf_label(g), "test.gguf");
        gguf_close(g);
        mem_free(copy);
        buf_free(&b);
    }
    gguf_close(NULL);
}

/* A small file with every kind of value and three tensors; it ends with its last tensor byte.
 */
static const char small[] =
    "H:3:15 s:general.architecture u32:8 s:deepseek4 s:general.alignment u32:4 u32:32 "
    "s:k.u8 u32:0 u8:200 s:k.i8 u32:1 u8:-3 s:k.u16 u32:2 u16:65535 s:k.i16 u32:3 u16:-300 "
    "s:k.i32 u32:5 u32:-70000 s:k.i64 u32:11 u64:-5000000000 s:k.u64 u32:10 u64:-1 "
    "s:k.f32 u32:6 x:0000c03f s:k.f64 u32:12 x:000000000000e0bf s:k.bool u32:7 u8:1 "
    "s:k.strs u32:9 u32:8 u64:3 s:alpha s: s:b s:k.i16s u32:9 u32:3 u64:2 u16:7 u16:-7 "
    "s:k.bools u32:9 u32:7 u64:2 u8:0 u8:1 "
    "s:blk.0.a.weight u32:2 u64:32 u64:2 u32:8 u64:0 s:blk.0.b.bias u32:1 u64:3 u32:0 u64:96 "
    "s:blk.1.c.weight u32:1 u64:256 u32:16 u64:128 pad:32 a:68 pad:32 a:12 pad:32 a:66";

/* Touches everything that an opened file offers; `sum` keeps the reads alive. */
static unsigned touch_all(const struct gguf *g)
{
    unsigned sum = 0;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        uint64_t u;
        double d;
        bool flag;
        struct slice s;
        size_t at = 0;
        sum += gguf_u64(kv, &u) + gguf_f64(kv, &d) + gguf_bool(kv, &flag) + gguf_str(kv, &s);
        for (uint64_t k = 0; kv->type == GGUF_ARRAY && k < kv->n; k++) {
            sum += gguf_u64_at(kv, k, &u) + gguf_f64_at(kv, k, &d);
        }
        while (gguf_str_next(kv, &at, &s)) {
            sum += s.n ? (unsigned char)s.p[s.n - 1] : 0;
        }
        for (size_t k = 0; k < kv->bytes; k++) {
            sum += kv->p[k];
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        sum += t->data[0] + t->data[t->bytes - 1];
    }
    return sum;
}

static void test_small(void **state)
{
    (void)state;
    struct buf b = {0};
    struct gguf *g;
    void *copy;
    fathom_err err = {0};
    gguf_build(&b, small);
    if (open_copy(&g, b.p, b.n, &copy, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    static const struct {
        const char *key;
        double value;
        bool unsigned_too;
    } numbers[] = {{"k.u8", 200, true},     {"k.i8", -3, false},      {"k.u16", 65535, true},
                   {"k.i16", -300, false},  {"k.i32", -70000, false}, {"k.i64", -5e9, false},
                   {"k.u64", 0x1p64, true}, {"k.f32", 1.5, false},    {"k.f64", -0.5, false}};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        double d = 0;
        uint64_t u = 0;
        assert_true(gguf_f64(gguf_find(g, numbers[i].key), &d));
        assert_true(d == numbers[i].value);
        assert_int_equal(gguf_u64(gguf_find(g, numbers[i].key), &u), numbers[i].unsigned_too);
    }
    double d = 0;
    bool flag = false;
    assert_true(gguf_bool(gguf_find(g, "k.bool"), &flag) && flag);
    assert_true(gguf_f64_at(gguf_find(g, "k.i16s"), 1, &d) && d == -7);
    const struct gguf_tensor *t = gguf_find_tensor(g, "blk.0.b.bias");
    assert_int_equal(t->bytes, 12);
    assert_int_equal(t->data[0], 'a');
    assert_int_equal(gguf_find_tensor(g, "blk.1.c.weight")->bytes, 66);
    assert_int_equal(gguf_find_tensor(g, "blk.0.a.weight")->row_bytes, 34);
    assert_int_equal(gguf_n_parts(g), 1);
    assert_ptr_equal(gguf_part_map(g, 0)->p, copy);
    assert_null(gguf_part_map(g, 1));
    assert_true(touch_all(g) > 0);
    gguf_close(g);
    mem_free(copy);
    buf_free(&b);
}

static void test_truncation(void **state)
{
    (void)state;
    struct buf b = {0};
    gguf_build(&b, small);
    for (size_t n = 0; n < b.n; n++) {
        struct gguf *g;
        void *copy;
        fathom_err err = {0};
        int rc = open_copy(&g, b.p, n, &copy, &err);
        assert_int_equal(rc, FATHOM_EFORMAT);
        assert_null(g);
        assert_true(err.code == rc && strstr(err.msg, "test.gguf"));
        if (n >= 4) {
            assert_non_null(strstr(err.msg, "short"));
        }
        mem_free(copy);
    }
    buf_free(&b);
}

/* Every byte of the file changed in every bit and to some extreme values: no crash, and
 * whatever opens can be walked. */
static void test_changed_bytes(void **state)
{
    (void)state;
    struct buf b = {0};
    unsigned n_ok = 0, n_bad = 0;
    gguf_build(&b, small);
    for (size_t i = 0; i < b.n; i++) {
        unsigned char old = (unsigned char)b.p[i];
        for (int k = 0; k < 11; k++) {
            static const unsigned char extreme[3] = {0, 255, 127};
            struct gguf *g;
            void *copy;
            fathom_err err = {0};
            b.p[i] = (char)(k < 8 ? old ^ 1 << k : extreme[k - 8]);
            int rc = open_copy(&g, b.p, b.n, &copy, &err);
            assert_true(rc == 0 ? g != NULL && err.code == 0 : g == NULL && err.code == rc);
            if (rc == 0) {
                touch_all(g);
                n_ok++;
            } else {
                n_bad++;
            }
            gguf_close(g);
            mem_free(copy);
        }
        b.p[i] = (char)old;
    }
    print_message("%u changes accepted, %u refused\n", n_ok, n_bad);
    assert_true(n_bad > 1000);
    buf_free(&b);
}

/* Eight random bytes changed at a time. */
static void test_random_changes(void **state)
{
    (void)state;
    struct rng r = {77};
    struct buf b = {0};
    print_message("seed %llu\n", (unsigned long long)r.s);
    gguf_build(&b, small);
    for (int round = 0; round < 20000; round++) {
        struct gguf *g;
        char *copy = mem_alloc(b.n, 1);
        size_t n = b.n - (rng_below(&r, 4) == 0 ? rng_below(&r, 100) : 0);
        memcpy(copy, b.p, b.n);
        for (int k = 0; k < 8; k++) {
            copy[rng_below(&r, (uint32_t)b.n)] = (char)rng_u64(&r);
        }
        fathom_err err = {0};
        if (gguf_open_mem(&g, copy, n, "random", &err) == 0) {
            touch_all(g);
        }
        gguf_close(g);
        mem_free(copy);
    }
    buf_free(&b);
}

/* The largest allowed number of records, in the worst order for sorting and with names that
 * differ late, opens quickly; so does the refusal of an overlap at the end. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 65536 };
    struct buf b = {0};
    char word[256];
    snprintf(word, sizeof word, "H:%d:%d", N, N);
    gguf_build(&b, word);
    for (int i = 0; i < N; i++) {
        snprintf(word, sizeof word, "s:general.some.long.prefix.of.a.key.%d u32:0 u8:1", i);
        gguf_build(&b, word);
    }
    size_t last = 0;
    for (int i = 0; i < N; i++) {
        last = b.n;
        snprintf(word, sizeof word, "s:blk.some.long.prefix.%d.weight u32:1 u64:8 u32:0 u64:%d",
                 i, 32 * (N - 1 - i));
        gguf_build(&b, word);
    }
    size_t records_end = b.n;
    gguf_build(&b, "pad:32 z:2097152");
    double t0 = clock_now();
    struct gguf *g;
    fathom_err err = {0};
    if (gguf_open_mem(&g, b.p, b.n, "many", &err) != 0) {
        fail_msg("%s", err.msg);
    }
    print_message("65536 keys and tensors in %.3f s\n", clock_now() - t0);
    assert_true(clock_now() - t0 < 5.0);
    assert_non_null(gguf_find(g, "general.some.long.prefix.of.a.key.65535"));
    assert_null(gguf_find(g, "general.some.long.prefix.of.a.key.65536"));
    assert_int_equal(gguf_find_tensor(g, "blk.some.long.prefix.0.weight")->offset % 32, 0);
    gguf_close(g);
    assert_true(last < records_end);
    store_le64(b.p + records_end - 8, 32); /* the last tensor onto the one before it */
    assert_int_equal(gguf_open_mem(&g, b.p, b.n, "many", &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "overlaps"));
    buf_free(&b);
}

/* Files: missing, a directory, empty, right. */
static void test_files(void **state)
{
    (void)state;
    char dir[256], path[512];
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/fathom-gguf-XXXXXX", tmp ? tmp : "/tmp");
    struct gguf *g;
    struct file_out f;
    struct buf b = {0};
    fathom_err err = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    assert_int_equal(gguf_open(&g, path, &err), FATHOM_ENOENT);
    assert_null(g);
    err = (fathom_err){0};
    assert_int_equal(gguf_open(&g, dir, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "regular file"));
    err = (fathom_err){0};
    assert_int_equal(file_out_open(&f, path, &err), 0);
    assert_int_equal(file_out_commit(&f, &err), 0);
    assert_int_equal(gguf_open(&g, path, &err), FATHOM_EFORMAT);
    assert_non_null(strstr(err.msg, "empty"));
    err = (fathom_err){0};
    gguf_build(&b, small);
    assert_int_equal(file_out_open(&f, path, &err), 0);
    assert_int_equal(file_out_write(&f, b.p, b.n, &err), 0);
    assert_int_equal(file_out_commit(&f, &err), 0);
    if (gguf_open(&g, path, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    assert_string_equal(gguf_label(g), path);
    assert_int_equal(gguf_file_bytes(g), b.n);
    assert_true(gguf_part_map(g, 0)->mapped && gguf_part_map(g, 0)->fd >= 0);
    const struct gguf_tensor *t = gguf_tensor_at(g, 0);
    assert_ptr_equal(t->data, gguf_part_map(g, 0)->p + t->offset); /* nothing is copied */
    assert_true(touch_all(g) > 0);
    gguf_close(g);
    buf_free(&b);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),       cmocka_unit_test(test_allowed),
        cmocka_unit_test(test_small),         cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_random_changes),
        cmocka_unit_test(test_many),          cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
