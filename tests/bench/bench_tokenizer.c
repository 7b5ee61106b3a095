/* bench_tokenizer.c - speed of the tokenizer on one thread, as CSV lines:
 * name,bytes,ids,seconds, MB/s. "load" is the whole way from tokenizer.json.xz; "mixed" joins
 * the texts of vectors.jsonl (every script, every edge) with generated prose and C code in
 * equal parts; "first" runs begin with an empty cache on text that does not repeat. The rest
 * are 1 MB texts that are one piece. Usage: bench_tokenizer [tokenizer.json[.xz]], from the
 * root of the repository. */
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "json/json.h"
#include "testdata.h"
#include "text/text.h"

enum { MIXED_BYTES = 12000000, PIECE_BYTES = 1000000, REPEATS = 3 };

static void report(const char *name, size_t bytes, size_t n_ids, double seconds)
{
    printf("%s,%zu,%zu,%.4f,%.1f\n", name, bytes, n_ids, seconds,
           (double)bytes / seconds / 1e6);
}

/* Best of a few runs over the whole text. */
static bool bench_text(const struct tokenizer *t, const char *name, const struct buf *b,
                       bool trusted)
{
    double best = 1e9;
    struct ids ids = {0};
    for (int i = 0; i < REPEATS; i++) {
        ids_free(&ids);
        double t0 = clock_now();
        tokenizer_encode(t, b->p, b->n, trusted, &ids);
        best = MIN(best, clock_now() - t0);
    }
    report(name, b->n, ids.n, best);
    bool ok = !ids.failed && !b->failed;
    ids_free(&ids);
    return ok;
}

/* All texts of vectors.jsonl but the huge ones, in order, with a line end each. */
static int read_vectors(struct buf *out, fathom_err *err)
{
    struct buf file = {0};
    int rc =
        file_read_all(&file, test_data_path("tokenizer/vectors.jsonl"), (size_t)1 << 28, err);
    for (size_t at = 0; rc == 0 && at < file.n;) {
        const char *nl = memchr(file.p + at, '\n', file.n - at);
        size_t end = nl ? (size_t)(nl - file.p) : file.n;
        struct arena a = {0};
        struct json v;
        rc = json_read(&v, &a, file.p + at, end - at, err);
        struct slice text = json_str(rc == 0 ? json_get(&v, "text") : NULL);
        if (text.n < 2000) {
            buf_add_slice(out, text);
            buf_addc(out, '\n');
        }
        arena_fini(&a);
        at = end + 1;
    }
    buf_free(&file);
    return rc;
}

/* A pronounceable word; common ones (low k) repeat, rare ones hardly. */
static void add_word(struct buf *b, struct rng *r)
{
    static const char *const parts[] = {"ing", "con",  "ter", "al",  "re",  "pro", "mi",
                                        "st",  "and",  "ou",  "the", "ver", "le",  "is",
                                        "ca",  "tion", "per", "se",  "no",  "de",  "ment"};
    uint64_t k = rng_below(r, 1u << rng_below(r, 15));
    struct rng w = {.s = k};
    for (uint32_t n = 1 + rng_below(&w, 3); n > 0; n--) {
        buf_adds(b, parts[rng_below(&w, ARRAY_LEN(parts))]);
    }
}

static void add_prose(struct buf *b, struct rng *r)
{
    for (uint32_t n = 6 + rng_below(r, 14); n > 0; n--) {
        add_word(b, r);
        buf_adds(b, n == 1 ? ".\n" : rng_below(r, 9) == 0 ? ", " : " ");
    }
}

static void add_code(struct buf *b, struct rng *r)
{
    buf_adds(b, "    for (size_t i = 0; i < ");
    add_word(b, r);
    buf_addf(b, "->n_%u; i++) {\n        ", rng_below(r, 1000));
    add_word(b, r);
    buf_adds(b, "_");
    add_word(b, r);
    buf_addf(b, "[i] += (double)%u.%u * scale;\n    }\n", rng_below(r, 100),
             rng_below(r, 10000));
}

static bool bench_mixed(const struct tokenizer *t, const struct buf *vectors)
{
    struct buf mixed = {0}, prose = {0}, code = {0};
    struct rng r = {.s = 1};
    while (prose.n < MIXED_BYTES / 3) {
        add_prose(&prose, &r);
        add_code(&code, &r);
    }
    while (mixed.n < MIXED_BYTES / 3) {
        buf_add_slice(&mixed, buf_slice(vectors));
    }
    bool ok = bench_text(t, "vectors", &mixed, false);
    buf_add_slice(&mixed, buf_slice(&prose));
    buf_add(&mixed, code.p, MIN(code.n, (size_t)MIXED_BYTES / 3));
    ok = bench_text(t, "prose", &prose, false) && ok;
    ok = bench_text(t, "code", &code, false) && ok;
    ok = bench_text(t, "mixed", &mixed, false) && ok;
    ok = bench_text(t, "mixed (trusted)", &mixed, true) && ok;
    buf_free(&mixed);
    buf_free(&prose);
    buf_free(&code);
    return ok;
}

static bool bench_new_words(const struct tokenizer *t)
{
    struct buf b = {0};
    struct rng r = {.s = 3};
    while (b.n < MIXED_BYTES / 3) {
        buf_addc(&b, ' ');
        for (uint32_t n = 5 + rng_below(&r, 8); n > 0; n--) {
            buf_addc(&b, "etaoinshrdlu"[rng_below(&r, 12)]);
        }
    }
    bool ok = bench_text(t, "new words", &b, false);
    buf_free(&b);
    return ok;
}

static bool bench_pieces(const struct tokenizer *t)
{
    static const char *const units[] = {"a",  "ab", "the",          " ",
                                        "\n", "=",  "\xE4\xB8\xAD", "\x01"};
    static const char *const names[] = {"a",  "ab", "the",    "space",
                                        "LF", "=",  "U+4E2D", "U+0001"};
    bool ok = true;
    struct buf b = {0};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        buf_clear(&b);
        while (b.n < PIECE_BYTES) {
            buf_adds(&b, units[i]);
        }
        ok = bench_text(t, names[i], &b, false) && ok;
    }
    static const char *const alphabets[] = {
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "etaoin"};
    struct rng r = {.s = 2};
    for (size_t i = 0; i < ARRAY_LEN(alphabets); i++) {
        buf_clear(&b);
        while (b.n < PIECE_BYTES) {
            buf_addc(&b, alphabets[i][rng_below(&r, (uint32_t)strlen(alphabets[i]))]);
        }
        ok = bench_text(t, i == 0 ? "random letters" : "random etaoin", &b, false) && ok;
    }
    buf_free(&b);
    return ok;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : test_data_path("tokenizer/tokenizer.json.xz");
    fathom_err err = {0};
    struct tokenizer *t = NULL;
    struct buf vectors = {0};
    double t0 = clock_now();
    int rc = tokenizer_from_json(&t, path, &err);
    double seconds = clock_now() - t0;
    if (rc == 0) {
        rc = read_vectors(&vectors, &err);
    }
    if (rc != 0) {
        fprintf(stderr, "bench_tokenizer: %s\n", err.msg);
        tokenizer_free(t);
        return 1;
    }
    printf("name,bytes,ids,seconds,MB/s\n");
    printf("load,,%u,%.4f,\n", tokenizer_n_vocab(t), seconds);
    bool ok = bench_mixed(t, &vectors);
    ok = bench_new_words(t) && ok;
    ok = bench_pieces(t) && ok;
    buf_free(&vectors);
    tokenizer_free(t);
    return ok ? 0 : 1;
}
