/* bench_constrain.c - time of a mask and of a compilation, on the real vocabulary.
 * links: constrain
 *
 * For each case an answer is followed token by token; "cold" is the first time with a fresh
 * machine, "warm" the second time with the same one. Prints microseconds: mean, 99th percentile
 * and largest of the cold masks with the step to the next token, mean of the warm ones, and the
 * time to compile. Run it from the repository's root. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "constrain/constrain.h"
#include "text/text.h"

#define D          \
    "\xEF\xBD\x9C" \
    "DSML"         \
    "\xEF\xBD\x9C"
enum { MAX_TOKENS = 4096, ROUNDS = 5 };

/* clang-format off */
static const char title[] =
    "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\"}},\"required\":[\"title\"],"
    "\"additionalProperties\":false}";
static const char person[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":80},"
    "\"born\":{\"type\":\"string\",\"format\":\"date\"},\"mail\":{\"type\":\"string\",\"format\":\"email\"},"
    "\"height\":{\"type\":\"number\",\"minimum\":0.3,\"maximum\":2.6},\"kind\":{\"enum\":[\"student\","
    "\"teacher\",\"guest\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":"
    "\"^[a-z]+(-[a-z]+)*$\"},\"maxItems\":8}},\"required\":[\"name\",\"born\",\"mail\",\"height\",\"kind\"],"
    "\"additionalProperties\":false}";
static const char tools[] =
    "[{\"function\":{\"name\":\"write_file\",\"parameters\":{\"type\":\"object\",\"properties\":{\"path\":"
    "{\"type\":\"string\"},\"text\":{\"type\":\"string\"},\"mode\":{\"enum\":[\"w\",\"a\"]},\"line\":"
    "{\"type\":\"integer\",\"minimum\":1}},\"required\":[\"path\",\"text\"]}}},{\"function\":{\"name\":"
    "\"bash\",\"parameters\":{\"type\":\"object\",\"properties\":{\"command\":{\"type\":\"string\"}}}}}]";
static const char prose[] =
    "The quick brown fox jumps over the lazy dog, and then it sits down to think about what it has done: "
    "seven dogs, three foxes, no regrets. Ein kurzer Satz mit \xC3\xBC und \xC3\xA4. "
    "\xE4\xB8\xAD\xE6\x96\x87\xE4\xB9\x9F\xE6\x9C\x89\xE3\x80\x82 for (int i = 0; i < n; i++) sum += v[i];";

/* clang-format on */

struct result {
    double compile, cold_mean, cold_p99, cold_max, warm_mean;
    size_t n, bytes;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double total(const double *t, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += t[i];
    }
    return sum;
}

static size_t follow(struct machine *m, const struct ids *ids, uint32_t *mask, double *t)
{
    struct position p;
    machine_start(m, &p);
    for (size_t i = 0; i < ids->n; i++) {
        double start = clock_now();
        machine_mask(m, &p, mask);
        bool ok = mask[ids->p[i] / 32] >> ids->p[i] % 32 & 1u;
        ok = machine_token(m, &p, ids->p[i]) && ok;
        t[i] = (clock_now() - start) * 1e6;
        if (!ok) {
            fprintf(stderr, "token %zu is refused\n", i);
            exit(1);
        }
    }
    machine_stop(m, &p);
    return ids->n;
}

static void measure(const char *name, const struct constrain_spec *spec,
                    const struct token_trie *trie, const struct ids *ids)
{
    static double cold[MAX_TOKENS * ROUNDS], warm[MAX_TOKENS];
    uint32_t *mask = malloc(trie->n_words * sizeof *mask);
    struct result r = {0};
    size_t n = 0;
    for (int k = 0; k < ROUNDS; k++) {
        struct machine *m;
        fathom_err err = {0};
        double start = clock_now();
        if (constrain_compile(&m, spec, trie, &err) != 0) {
            fprintf(stderr, "%s: %s\n", name, err.msg);
            exit(1);
        }
        r.compile += (clock_now() - start) * 1e6 / ROUNDS;
        n += follow(m, ids, mask, cold + n);
        follow(m, ids, mask, warm);
        r.warm_mean += total(warm, ids->n) / (double)ids->n / ROUNDS;
        r.bytes = machine_bytes(m);
        machine_unref(m);
    }
    r.cold_mean = total(cold, n) / (double)n;
    qsort(cold, n, sizeof *cold, by_value);
    printf("%-16s %6zu %9.0f %9.1f %9.1f %9.1f %9.1f %8.1f\n", name, ids->n, r.compile,
           r.cold_mean, cold[n * 99 / 100], cold[n - 1], r.warm_mean,
           (double)r.bytes / 1048576);
    free(mask);
}

/* Schemas that want to be expensive: the time until they are compiled or refused. */
/* clang-format off */
static void hostile(const struct token_trie *trie)
{
    static const char *const text[] = {
        "{\"pattern\":\"(a|b)*a(a|b){20}\"}", "{\"pattern\":\"^(.{0,60}x){0,30}$\"}",
        "{\"pattern\":\"((a{0,40}){0,40}){0,40}\"}",
        "{\"pattern\":\"^[^a]{0,2000}$\",\"maxLength\":1900}",
        ("{\"anyOf\":[{\"$ref\":\"#/d/a\"},{\"$ref\":\"#/d/b\"}],\"d\":{\"a\":{\"pattern\":\"^(a|b|ab)*c{900}$\"},"
        "\"b\":{\"pattern\":\"^([a-y]*z){80}$\",\"minLength\":50,\"maxLength\":90}}}")};
    /* clang-format on */
    for (size_t i = 0; i <= ARRAY_LEN(text); i++) {
        struct buf b = {0};
        struct arena a = {0};
        struct json v;
        struct machine *m = NULL;
        fathom_err err = {0};
        if (i < ARRAY_LEN(text)) {
            buf_adds(&b, text[i]);
        } else { /* every branch doubles the rules */
            buf_adds(&b, "{\"allOf\":[");
            for (int k = 0; k < 24; k++) {
                buf_addf(&b, "%s{\"anyOf\":[{\"minimum\":%d},{\"maximum\":%d}]}", k ? "," : "",
                         k, 100 + k);
            }
            buf_adds(&b, "]}");
        }
        json_read(&v, &a, b.p, b.n, NULL);
        double start = clock_now();
        constrain_compile(&m, &(struct constrain_spec){.schema = &v}, trie, &err);
        printf("%7.1f ms: %.50s ... %s\n", (clock_now() - start) * 1e3, b.p,
               m ? "compiled" : "refused");
        machine_unref(m);
        arena_fini(&a);
        buf_free(&b);
    }
}

static void add_text(const struct tokenizer *t, struct ids *ids, const char *s)
{
    tokenizer_encode(t, s, strlen(s), true, ids);
}

int main(void)
{
    struct tokenizer *tok;
    struct token_trie *trie;
    struct arena a = {0};
    struct json v;
    fathom_err err = {0};
    if (tokenizer_from_json(&tok, "tests/data/tokenizer/tokenizer.json.xz", &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    double start = clock_now();
    if (trie_new(&trie, tok, &err) != 0) {
        return 1;
    }
    printf(
        "trie: %.1f ms, %.1f MB, %u nodes, of them walked inside JSON strings %u, inside text %u\n",
        (clock_now() - start) * 1e3, (double)trie->bytes / 1048576, trie->all.n,
        trie->rest[TRIE_JSON].n, trie->rest[TRIE_TEXT].n);
    printf("%-16s %6s %9s %9s %9s %9s %9s %8s\n", "us", "tokens", "compile", "mean", "p99",
           "max", "warm", "MB");
    struct buf text = {0};
    struct ids ids[5] = {{0}};
    buf_addf(&text, "{\"title\": \"%s %s %s\"}", prose, prose, prose);
    add_text(tok, &ids[0], buf_cstr(&text));
    add_text(
        tok, &ids[1],
        "{\n  \"name\": \"Ada Lovelace\",\n  \"born\": \"1815-12-10\",\n"
        "  \"mail\": \"ada@example.org\",\n"
        "  \"height\": 1.65,\n  \"kind\": \"guest\",\n  \"tags\": [\"first\", \"of-her-kind\"]\n}");
    buf_clear(&text);
    buf_addf(
        &text,
        "{\"a\": [1, 2.5, {\"b\": null, \"c\": \"%s\"}], \"d\": {\"e\": [true, false, []]}}",
        prose);
    add_text(tok, &ids[2], buf_cstr(&text));
    buf_clear(&text);
    buf_addf(&text,
             "\n\n<" D "tool_calls>\n<" D "invoke name=\"write_file\">\n<" D
             "parameter name=\"path\" string=\"true\">/tmp/a.txt</" D "parameter>\n<" D
             "parameter name=\"text\" string=\"true\">%s\n%s\n%s</" D "parameter>\n<" D
             "parameter name=\"line\" string=\"false\">31</" D "parameter>\n</" D
             "invoke>\n</" D "tool_calls>",
             prose, prose, prose);
    add_text(tok, &ids[3], buf_cstr(&text));
    if (json_read(&v, &a, title, sizeof title - 1, &err) == 0) {
        measure("title", &(struct constrain_spec){.schema = &v, .strict = true}, trie, &ids[0]);
    }
    if (json_read(&v, &a, person, sizeof person - 1, &err) == 0) {
        measure("person", &(struct constrain_spec){.schema = &v, .strict = true}, trie,
                &ids[1]);
    }
    measure("json_object", &(struct constrain_spec){.object = true}, trie, &ids[2]);
    if (json_read(&v, &a, tools, sizeof tools - 1, &err) == 0) {
        measure("tools required",
                &(struct constrain_spec){.calls = CONSTRAIN_CALLS_MUST, .tools = &v}, trie,
                &ids[3]);
    }
    hostile(trie);
    for (int i = 0; i < 5; i++) {
        ids_free(&ids[i]);
    }
    buf_free(&text);
    arena_fini(&a);
    trie_free(trie);
    tokenizer_free(tok);
    return 0;
}
