/* test_text_bpe.c - ids of texts: every vector of the real and of the mini vocabulary, and long
 * single pieces against a simple BPE that rescans for each merge. The simple one learns its
 * merges from the public interface and shares no code with bpe.c. */
#include "text_common.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/rng.h"

/* ---- a simple BPE over one piece ---- */

struct simple {
    const struct tokenizer *t;
    uint32_t byte_id[256];
    uint64_t *pair; /* [n] left << 32 | right, sorted */
    uint32_t *id;   /* [n] of the same order */
    size_t n;
};

struct pair_id {
    uint64_t pair;
    uint32_t id;
};

static int by_pair(const void *a, const void *b)
{
    uint64_t x = ((const struct pair_id *)a)->pair, y = ((const struct pair_id *)b)->pair;
    return (x > y) - (x < y);
}

struct text_id {
    struct slice text;
    uint32_t id;
};

static int by_text(const void *a, const void *b)
{
    struct slice x = ((const struct text_id *)a)->text, y = ((const struct text_id *)b)->text;
    int c = memcmp(x.p, y.p, MIN(x.n, y.n));
    return c ? c : (x.n > y.n) - (x.n < y.n);
}

static uint32_t id_of(const struct text_id *v, size_t n, struct slice s)
{
    struct text_id key = {.text = s};
    const struct text_id *hit = bsearch(&key, v, n, sizeof *v, by_text);
    assert_non_null(hit);
    return hit->id;
}

static struct simple simple_new(const struct tokenizer *t)
{
    struct simple s = {.t = t, .n = tokenizer_n_merges(t)};
    size_t n_text = 256 + s.n;
    struct text_id *texts = malloc(n_text * sizeof *texts);
    struct buf *stored = calloc(n_text, sizeof *stored);
    struct pair_id *pairs = malloc(s.n * sizeof *pairs);
    assert_true(texts && stored && pairs);
    for (size_t i = 0; i < n_text; i++) {
        tokenizer_stored_text(t, (uint32_t)i + 3, &stored[i]);
        texts[i] = (struct text_id){buf_slice(&stored[i]), (uint32_t)i + 3};
        if (i < 256) {
            s.byte_id[(unsigned char)tokenizer_bytes(t, (uint32_t)i + 3).p[0]] =
                (uint32_t)i + 3;
        }
    }
    qsort(texts, n_text, sizeof *texts, by_text);
    struct buf m = {0};
    for (size_t r = 0; r < s.n; r++) {
        buf_clear(&m);
        tokenizer_stored_merge(t, (uint32_t)r, &m);
        const char *space = strchr(m.p, ' ');
        uint64_t left = id_of(texts, n_text, (struct slice){m.p, (size_t)(space - m.p)});
        uint32_t right = id_of(texts, n_text, slice_of(space + 1));
        pairs[r] = (struct pair_id){left << 32 | right, 259 + (uint32_t)r};
    }
    qsort(pairs, s.n, sizeof *pairs, by_pair);
    s.pair = malloc(s.n * sizeof *s.pair);
    s.id = malloc(s.n * sizeof *s.id);
    for (size_t i = 0; i < s.n; i++) {
        s.pair[i] = pairs[i].pair;
        s.id[i] = pairs[i].id;
    }
    for (size_t i = 0; i < n_text; i++) {
        buf_free(&stored[i]);
    }
    buf_free(&m);
    free(pairs);
    free(stored);
    free(texts);
    return s;
}

static void simple_free(struct simple *s)
{
    free(s->pair);
    free(s->id);
}

static uint32_t simple_find(const struct simple *s, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right;
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (s->pair[mid] < key) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < s->n && s->pair[lo] == key ? s->id[lo] : UINT32_MAX;
}

/* BPE as defined, O(n^2): p is one piece. Returns the count; out has room for n ids. */
static size_t simple_encode(const struct simple *s, struct slice p, uint32_t *out)
{
    size_t n = p.n;
    for (size_t i = 0; i < n; i++) {
        out[i] = s->byte_id[(unsigned char)p.p[i]];
    }
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t id = simple_find(s, out[i], out[i + 1]);
            if (id < best) {
                best = id;
                at = i;
            }
        }
        if (best == UINT32_MAX) {
            return n;
        }
        out[at] = best;
        n--;
        memmove(out + at + 1, out + at + 2, (n - at - 1) * sizeof *out);
    }
}

static void check_simple(const struct simple *s, struct slice piece, const char *name)
{
    struct ids ids = {0};
    uint32_t *want = malloc((piece.n + 1) * sizeof *want);
    size_t n = simple_encode(s, piece, want);
    tokenizer_encode(s->t, piece.p, piece.n, false, &ids);
    if (ids.failed || ids.n != n || memcmp(ids.p, want, n * sizeof *want) != 0) {
        fail_msg("%s: %zu bytes as one piece: ids differ from the simple BPE", name, piece.n);
    }
    free(want);
    ids_free(&ids);
}

/* ---- tests ---- */

static void real_vectors(void **state)
{
    (void)state;
    struct vector_check c = {.t = load_real()};
    size_t n = for_each_line(test_data_path("tokenizer/vectors.jsonl"), check_vector, &c);
    size_t again = for_each_line(test_data_path("tokenizer/vectors.jsonl"), check_vector, &c);
    assert_true(n > 0 && n == again); /* the second pass finds the cache warm */
    assert_true(c.n_plain_differs > 0);
    tokenizer_free((struct tokenizer *)c.t);
}

static void check_trusted(const struct json *v, void *user)
{
    check_ids(user, json_str(json_get(v, "text")), true, json_get(v, "ids"), "mini model");
}

static void mini_vectors(void **state)
{
    (void)state;
    struct tokenizer *t = load_json(MINI_JSON);
    const char *path = test_data_path("mini-model/tokenizer-vectors.jsonl");
    assert_true(for_each_line(path, check_trusted, t) > 0);
    tokenizer_free(t);
}

/* Fills b with n bytes that the pre-tokeniser keeps as one piece. */
static void fill_letters(struct buf *b, size_t n, const char *alphabet, struct rng *r)
{
    size_t k = strlen(alphabet);
    buf_clear(b);
    assert_true(buf_reserve(b, n));
    while (b->n < n) {
        buf_addc(b, alphabet[rng_below(r, (uint32_t)k)]);
    }
}

static void fill_repeat(struct buf *b, size_t n, const char *unit)
{
    buf_clear(b);
    while (b->n + strlen(unit) <= n) {
        buf_adds(b, unit);
    }
}

static void count_piece(void *user, const char *p, size_t n)
{
    (void)p;
    (void)n;
    ++*(size_t *)user;
}

static void check_megabyte(const struct simple *s, const struct buf *b, const char *name)
{
    size_t n_pieces = 0;
    pretok_split(b->p, b->n, count_piece, &n_pieces);
    assert_int_equal(n_pieces, 1);
    struct ids ids = {0};
    double t0 = clock_now();
    tokenizer_encode(s->t, b->p, b->n, false, &ids);
    double seconds = clock_now() - t0;
    assert_false(ids.failed);
    size_t at = 0;
    for (size_t i = 0; i < ids.n; i++) {
        struct slice tok = tokenizer_bytes(s->t, ids.p[i]);
        assert_false(tokenizer_is_control(s->t, ids.p[i]));
        assert_true(tok.n <= b->n - at && memcmp(tok.p, b->p + at, tok.n) == 0);
        at += tok.n;
    }
    assert_int_equal(at, b->n);
    print_message("%-24s %zu bytes, %zu ids, %.3f s\n", name, b->n, ids.n, seconds);
    ids_free(&ids);
    check_simple(s, (struct slice){b->p, MIN(b->n, (size_t)3000)}, name);
}

static void single_pieces_of_a_megabyte(void **state)
{
    (void)state;
    static const char *const units[] = {"a",    "ab", "abc",      "the", "\xC3\xA9",
                                        " ",    "\n", "=",        "-=",  "\xE4\xB8\xAD",
                                        "\r\n", "\t", "function", "\x01"};
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    struct tokenizer *t = load_real();
    struct simple s = simple_new(t);
    struct buf b = {0};
    struct rng r = {.s = 20260801};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        fill_repeat(&b, 1000000, units[i]);
        struct buf name = {0};
        json_write_str(&name, slice_of(units[i]));
        check_megabyte(&s, &b, name.p);
        buf_free(&name);
    }
    fill_letters(&b, 1000000, letters, &r);
    check_megabyte(&s, &b, "random letters");
    fill_letters(&b, 1000000, "etaoin", &r);
    check_megabyte(&s, &b, "random etaoin");
    fill_letters(&b, 1000000, "!#$%&()*+,-./:;<=>?@[]^_{|}~", &r);
    check_megabyte(&s, &b, "random punctuation");
    buf_free(&b);
    simple_free(&s);
    tokenizer_free(t);
}

/* Lengths around every switch of method: 1, cache limit, short limit, heap. */
static void random_pieces(void **state)
{
    (void)state;
    struct tokenizer *t = load_real();
    struct simple s = simple_new(t);
    struct rng r = {.s = 7};
    struct buf b = {0};
    print_message("seed 7\n");
    for (size_t n = 1; n <= 120; n++) {
        for (int k = 0; k < 20; k++) {
            fill_letters(&b, n, k % 2 ? "etaoinshrdlu" : "aaaaab", &r);
            check_simple(&s, buf_slice(&b), "random");
            check_simple(&s, buf_slice(&b), "random, again");
        }
    }
    buf_free(&b);
    simple_free(&s);
    tokenizer_free(t);
}

/* ---- threads: more of them than the cache has lanes ---- */

enum { N_THREADS = 6, N_ROUNDS = 20 };

struct job {
    const struct tokenizer *t;
    const struct buf *text;
    const struct ids *want;
    unsigned n_wrong;
};

static void *run_job(void *arg)
{
    struct job *j = arg;
    for (int i = 0; i < N_ROUNDS; i++) {
        struct ids ids = {0};
        tokenizer_encode(j->t, j->text->p, j->text->n, true, &ids);
        j->n_wrong += ids.failed || ids.n != j->want->n ||
                      memcmp(ids.p, j->want->p, ids.n * sizeof *ids.p) != 0;
        ids_free(&ids);
    }
    return NULL;
}

static void add_text(const struct json *v, void *user)
{
    struct slice text = json_str(json_get(v, "text"));
    buf_add(user, text.p, MIN(text.n, (size_t)1000));
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *warm = load_json(MINI_JSON), *cold = load_json(MINI_JSON);
    struct buf text = {0};
    struct ids want = {0};
    pthread_t id[N_THREADS];
    struct job jobs[N_THREADS];
    for_each_line(test_data_path("tokenizer/vectors.jsonl"), add_text, &text);
    tokenizer_encode(warm, text.p, text.n, true, &want);
    for (int i = 0; i < N_THREADS; i++) {
        jobs[i] = (struct job){.t = cold, .text = &text, .want = &want};
        assert_int_equal(pthread_create(&id[i], NULL, run_job, &jobs[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(id[i], NULL);
        assert_int_equal(jobs[i].n_wrong, 0);
    }
    ids_free(&want);
    buf_free(&text);
    tokenizer_free(warm);
    tokenizer_free(cold);
}

static void invalid_bytes_are_replaced(void **state)
{
    (void)state;
    struct tokenizer *t = load_json(MINI_JSON);
    static const struct slice bad[] = {SLICE("a\xFFz"), SLICE("\xE4\xB8"),
                                       SLICE("x\xF0\x9F\x87 y"), SLICE("\xED\xA0\x80\xC0\xAF")};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf fixed = {0};
        struct ids a = {0}, b = {0};
        buf_add_utf8_lossy(&fixed, bad[i].p, bad[i].n);
        tokenizer_encode(t, bad[i].p, bad[i].n, false, &a);
        tokenizer_encode(t, fixed.p, fixed.n, false, &b);
        assert_true(a.n > 0 && a.n == b.n);
        assert_memory_equal(a.p, b.p, a.n * sizeof *a.p);
        ids_free(&a);
        ids_free(&b);
        buf_free(&fixed);
    }
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_vectors),
        cmocka_unit_test(mini_vectors),
        cmocka_unit_test(single_pieces_of_a_megabyte),
        cmocka_unit_test(random_pieces),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(invalid_bytes_are_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
