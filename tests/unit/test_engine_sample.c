/* Sampling against a brute-force reference that sorts everything, and stop strings against a
 * search in the whole text. Exact: the same token for the same numbers, whichever source (64
 * candidates or the row) was used. Random tests print their seed on failure. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/sample.h"

enum { V = 500 };

static float row[V];
static struct pick pick;
static struct sample_room room;
static unsigned row_reads;

static const float *read_row(void *user)
{
    (void)user;
    row_reads++;
    return row;
}

/* What the PICK op makes of a row (op/op.h), without a mask. */
static void make_pick(uint32_t n)
{
    bool used[V] = {false};
    memset(&pick, 0, sizeof pick);
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        pick.n_nan += isnan(row[i]) != 0;
    }
    for (uint32_t k = 0; k < PICK_TOP; k++) {
        int64_t best = -1;
        for (uint32_t i = 0; i < n; i++) {
            if (!used[i] && !isnan(row[i]) && (best < 0 || row[i] > row[best])) {
                best = i;
            }
        }
        if (best < 0) {
            break;
        }
        used[best] = true;
        pick.top[pick.n_top].id = (uint32_t)best;
        pick.top[pick.n_top++].logit = row[best];
    }
    pick.id = pick.top[0].id;
    for (uint32_t i = 0; i < n && pick.n_top; i++) {
        sum += isnan(row[i]) ? 0.0 : exp((double)row[i] - (double)pick.top[0].logit);
    }
    pick.lse = (float)(log(sum) + (double)pick.top[0].logit);
}

/* ---- the reference ---- */

struct entry {
    double x, w;
    uint32_t id;
};
static int by_value(const void *a, const void *b)
{
    const struct entry *p = a, *q = b;
    return p->x != q->x ? (p->x < q->x ? 1 : -1) : p->id < q->id ? -1 : 1;
}

/* The set that may be drawn, in order, with weights; its size. */
static uint32_t reference_set(uint32_t n, const fathom_sampling *p, const uint32_t *mask,
                              const uint32_t *ids, uint32_t n_ids, struct entry *e)
{
    uint32_t window = p->penalty_window ? p->penalty_window : 64, m = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(row[i]) || (mask && !(mask[i / 32] >> i % 32 & 1))) {
            continue;
        }
        double x = row[i];
        uint32_t count = 0;
        for (uint32_t k = n_ids > window ? n_ids - window : 0; k < n_ids; k++) {
            count += ids[k] == i;
        }
        if (count && p->repeat_penalty > 0) {
            x = x > 0 ? x / (double)p->repeat_penalty : x * (double)p->repeat_penalty;
        }
        if (count) {
            x -= (double)p->frequency_penalty * count + (double)p->presence_penalty;
        }
        e[m++] = (struct entry){x, 0, i};
    }
    /* total in order of ids, as the definition of top-p without top-k */
    double max = -INFINITY, total = 0.0;
    for (uint32_t i = 0; i < m; i++) {
        max = e[i].x > max ? e[i].x : max;
    }
    for (uint32_t i = 0; i < m && p->temperature > 0; i++) {
        e[i].w = exp((e[i].x - max) / (double)p->temperature);
        total += e[i].w;
    }
    qsort(e, m, sizeof *e, by_value);
    if (p->temperature == 0) {
        return m ? 1 : 0;
    }
    if (p->top_k && p->top_k < m) {
        m = p->top_k;
    }
    if (p->top_k) {
        total = 0.0;
        for (uint32_t i = 0; i < m; i++) {
            total += e[i].w;
        }
    }
    if (p->top_p > 0 && p->top_p < 1) {
        double run = 0.0;
        for (uint32_t i = 0; i < m; i++) {
            run += e[i].w;
            if (run >= (double)p->top_p * total) {
                m = i + 1;
            }
        }
    }
    while (m > 1 && e[m - 1].w < (double)p->min_p) {
        m--;
    }
    return m;
}

static int sample(uint32_t n, const fathom_sampling *p, const uint32_t *mask,
                  const uint32_t *ids, uint32_t n_ids, bool full, fathom_choice *out)
{
    struct sample_in in = {
        .pick = &pick, .row = read_row, .mask = mask, .ids = ids, .n_ids = n_ids, .full = full};
    room.n_vocab = n;
    int rc = sample_token(&room, &in, p, out, NULL);
    for (uint32_t i = 0; i < V; i++) {
        assert_int_equal(room.seen[i], 0);
    }
    return rc;
}

static void random_row(struct rng *g, uint32_t n)
{
    bool coarse = rng_below(g, 3) == 0;
    for (uint32_t i = 0; i < n; i++) {
        row[i] = 8.0f * rng_sym(g) * rng_sym(g);
        row[i] = coarse ? roundf(row[i]) : row[i]; /* many ties */
        row[i] = rng_below(g, 200) == 0 ? NAN : row[i];
    }
}

static void test_sets(void **state)
{
    (void)state;
    static struct entry e[V];
    unsigned from_row = 0, from_pick = 0;
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        struct rng g = {splitmix64(seed)};
        uint32_t n = rng_below(&g, 4) ? V : 1 + rng_below(&g, 80), ids[100], n_ids,
                 mask[V / 32 + 1];
        random_row(&g, n);
        row[rng_below(&g, n)] = 1.0f; /* at least one number */
        make_pick(n);
        n_ids = rng_below(&g, 100);
        for (uint32_t i = 0; i < n_ids; i++) {
            ids[i] =
                rng_below(&g, 3) ? rng_below(&g, n) : pick.top[rng_below(&g, pick.n_top)].id;
        }
        bool masked = rng_below(&g, 3) == 0;
        for (size_t i = 0; i < ARRAY_LEN(mask); i++) {
            mask[i] = (uint32_t)rng_u64(&g) &
                      (rng_below(&g, 2) ? 0xFFFFFFFFu : (uint32_t)rng_u64(&g));
        }
        fathom_sampling p = {.temperature = rng_below(&g, 4) ? 0.2f + (float)rng_unit(&g) : 0,
                             .top_k = rng_below(&g, 2) ? 1 + rng_below(&g, 90) : 0,
                             .top_p = rng_below(&g, 2) ? (float)rng_unit(&g) : 0,
                             .min_p = rng_below(&g, 2) ? 0.3f * (float)rng_unit(&g) : 0,
                             .seed = seed};
        if (rng_below(&g, 2)) {
            p.repeat_penalty = rng_below(&g, 4) ? 1.3f : 0.8f;
            p.frequency_penalty = 0.5f * rng_sym(&g);
            p.presence_penalty = rng_below(&g, 2) ? 0.4f : 0;
            p.penalty_window = rng_below(&g, 2) ? 30 : 0;
        }
        const uint32_t *use = masked ? mask : NULL;
        uint32_t m = reference_set(n, &p, use, ids, n_ids, e);
        fathom_choice a, b;
        row_reads = 0;
        int rc = sample(n, &p, use, ids, n_ids, false, &a);
        *(row_reads ? &from_row : &from_pick) += 1;
        assert_int_equal(sample(n, &p, use, ids, n_ids, true, &b), rc);
        assert_int_equal(rc, m ? 0 : FATHOM_EINVAL);
        if (m == 0) {
            continue;
        }
        if (a.id != b.id) {
            fail_msg("seed %u: %u from the candidates, %u from the row", (unsigned)seed, a.id,
                     b.id);
        }
        /* The draw: running sums in order against u; recomputed from the definition. */
        struct rng u = {splitmix64(seed) ^ splitmix64(n_ids * 0xD1342543DE82EF95u + 1)};
        double sum = 0.0, run = 0.0, r = rng_unit(&u);
        bool whole = !p.top_k && !(p.top_p > 0 && p.top_p < 1) && p.min_p == 0;
        if (whole) { /* total in order of ids */
            static double w[V];
            memset(w, 0, sizeof w);
            for (uint32_t i = 0; i < m; i++) {
                w[e[i].id] = e[i].w;
            }
            for (uint32_t i = 0; i < n; i++) {
                sum += w[i];
            }
        } else {
            for (uint32_t i = 0; i < m; i++) {
                sum += e[i].w;
            }
        }
        uint32_t want = 0;
        for (want = 0; want + 1 < m && p.temperature > 0; want++) {
            run += e[want].w;
            if (run > r * sum) {
                break;
            }
        }
        if (a.id != e[want].id) {
            fail_msg("seed %u: token %u, reference %u (set of %u)", (unsigned)seed, a.id,
                     e[want].id, m);
        }
    }
    print_message("%u draws from 64 candidates, %u needed the row\n", from_pick, from_row);
    assert_true(from_pick > 500 && from_row > 500);
}

/* Frequencies follow the weights: chi-square over 8 tokens, 20000 draws, bound at p ~ 1e-6. */
static void test_distribution(void **state)
{
    (void)state;
    enum { N = 8, DRAWS = 20000 };
    double w[N], sum = 0.0, chi = 0.0;
    unsigned count[N] = {0};
    for (uint32_t i = 0; i < N; i++) {
        row[i] = (float)i * 0.4f;
        w[i] = exp((double)row[i] / 0.7);
        sum += w[i];
    }
    make_pick(N);
    fathom_sampling p = {.temperature = 0.7f, .seed = 12345};
    fathom_choice c;
    for (uint32_t i = 0; i < DRAWS; i++) { /* one seed, many positions */
        static uint32_t ids[DRAWS];
        assert_int_equal(sample(N, &p, NULL, ids, i, false, &c), 0);
        count[c.id]++;
    }
    for (uint32_t i = 0; i < N; i++) {
        double e = DRAWS * w[i] / sum;
        chi += (count[i] - e) * (count[i] - e) / e;
    }
    assert_true(chi < 40.0);
    /* Same seed and position: the same token; another seed: another sequence. */
    unsigned same = 0;
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t ids[200] = {0};
        fathom_choice a, b;
        sample(N, &p, NULL, ids, i, false, &a);
        sample(N, &p, NULL, ids, i, false, &b);
        assert_int_equal(a.id, b.id);
        p.seed = 54321;
        sample(N, &p, NULL, ids, i, false, &b);
        p.seed = 12345;
        same += a.id == b.id;
    }
    assert_true(same < 150);
}

static void test_logprobs(void **state)
{
    (void)state;
    struct rng g = {3};
    for (uint32_t i = 0; i < 20; i++) {
        row[i] = 3.0f * rng_sym(&g);
    }
    make_pick(20);
    fathom_sampling p = {.n_logprobs = 20, .repeat_penalty = 1.5f, .temperature = 0.5f};
    fathom_choice c;
    uint32_t ids[1] = {pick.top[0].id};
    assert_int_equal(sample(20, &p, NULL, ids, 1, false, &c), 0);
    assert_int_equal(c.n_top, 20);
    double sum = 0.0;
    for (int i = 0; i < 20; i++) {
        sum += exp((double)c.top[i].logprob);
        if (c.top[i].id == c.id) { /* penalties and temperature do not show */
            assert_true(c.top[i].logprob == c.logprob);
        }
    }
    assert_true(fabs(sum - 1.0) < 1e-5);
    /* A token outside the 64 candidates. */
    for (uint32_t i = 0; i < V; i++) {
        row[i] = (float)i;
    }
    make_pick(V);
    uint32_t mask[V / 32 + 1] = {1u << 5};
    p.n_logprobs = 2;
    assert_int_equal(sample(V, &p, mask, ids, 0, false, &c), 0);
    assert_int_equal(c.id, 5);
    assert_true(fabsf(c.logprob - (5.0f - pick.lse)) < 1e-3f);
    assert_int_equal(c.top[0].id, V - 1);
}

static void test_odd_rows(void **state)
{
    (void)state;
    fathom_choice c;
    fathom_sampling p = {.temperature = 1.0f};
    for (int i = 0; i < 100; i++) {
        row[i] = NAN;
    }
    make_pick(100);
    assert_int_equal(sample(100, &p, NULL, NULL, 0, false, &c), FATHOM_EINVAL);
    row[7] = -3.0f;
    make_pick(100);
    assert_int_equal(sample(100, &p, NULL, NULL, 0, true, &c), 0);
    assert_int_equal(c.id, 7);
    row[9] = INFINITY;
    make_pick(100);
    assert_int_equal(sample(100, &p, NULL, NULL, 0, true, &c), 0);
    assert_int_equal(c.id, 9);
    uint32_t none[4] = {0};
    assert_int_equal(sample(100, &p, none, NULL, 0, false, &c), FATHOM_EINVAL);
    const fathom_sampling bad[] = {{.temperature = -1.0f}, {.temperature = NAN},
                                   {.top_p = 1.5f},        {.min_p = -0.1f},
                                   {.repeat_penalty = -2}, {.n_logprobs = 21}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(sample(100, &bad[i], NULL, NULL, 0, false, &c), FATHOM_EINVAL);
    }
    /* Ties go to the lower id. */
    for (int i = 0; i < 100; i++) {
        row[i] = 1.0f;
    }
    make_pick(100);
    p.temperature = 0;
    assert_int_equal(sample(100, &p, NULL, NULL, 0, false, &c), 0);
    assert_int_equal(c.id, 0);
}

/* ---- stop strings ---- */

static void one_stop(const char *const *stops, size_t n_stops, const char *text, size_t cut,
                     size_t cut2)
{
    /* Expected: the earliest end; of those that end there, the longest. */
    size_t len = strlen(text), end = len + 1, from = len;
    for (size_t e = 1; e <= len && end > len; e++) {
        for (size_t i = 0; i < n_stops; i++) {
            size_t m = strlen(stops[i]);
            if (m && m <= e && memcmp(text + e - m, stops[i], m) == 0) {
                from = end > len || e - m < from ? e - m : from;
                end = e;
            }
        }
    }
    char out[256];
    size_t n = 0, k;
    bool hit = false;
    fathom_stop *st = fathom_stop_new(stops, n_stops);
    size_t cuts[4] = {0, cut, cut2, len};
    for (int i = 0; i < 3 && !hit; i++) {
        const char *p = fathom_stop_feed(st, text + cuts[i], cuts[i + 1] - cuts[i], &k, &hit);
        assert_true(p != NULL);
        memcpy(out + n, p, k);
        n += k;
    }
    assert_true(hit == (end <= len));
    if (!hit) {
        const char *p = fathom_stop_flush(st, &k);
        memcpy(out + n, p, k);
        n += k;
    } else {
        fathom_stop_feed(st, "more", 4, &k, &hit);
        assert_true(hit && k == 0);
    }
    assert_int_equal(n, from);
    assert_memory_equal(out, text, from);
    fathom_stop_free(st);
}

static void test_stop_strings(void **state)
{
    (void)state;
    static const char *const stops[] = {"abab", "END", "", "ba", "\n\nUser:", "xyx"};
    static const char *const texts[] = {"hello abaEND and more",
                                        "aaab",
                                        "xyxyxy",
                                        "ababab",
                                        "one\n\nUse\n\nUser: no",
                                        "",
                                        "aEaENaENDa",
                                        "xxyyxx\n\nUser",
                                        "bbabb"};
    for (size_t t = 0; t < ARRAY_LEN(texts); t++) {
        for (size_t n = 0; n <= ARRAY_LEN(stops); n++) {
            for (size_t c = 0; c <= strlen(texts[t]); c++) {
                for (size_t d = c; d <= strlen(texts[t]); d++) {
                    one_stop(stops, n, texts[t], c, d);
                    one_stop(stops + n, ARRAY_LEN(stops) - n, texts[t], c, d);
                }
            }
        }
    }
    struct rng g = {9};
    for (int i = 0; i < 3000; i++) {
        char text[41], a[6], b[8];
        for (int k = 0; k < 40; k++) {
            text[k] = (char)('a' + rng_below(&g, 2));
        }
        text[40] = 0;
        snprintf(a, sizeof a, "%.*s", 1 + (int)rng_below(&g, 5), text + rng_below(&g, 30));
        snprintf(b, sizeof b, "%.*sc", 1 + (int)rng_below(&g, 5), text + rng_below(&g, 30));
        b[strlen(b) - 1] = (char)('a' + rng_below(&g, 3));
        const char *const two[] = {a, b};
        size_t c = rng_below(&g, 41);
        one_stop(two, 2, text, c, c + rng_below(&g, 41 - (uint32_t)c));
    }
}

/* Nothing is held back longer than it may belong to a stop string. */
static void test_stop_releases(void **state)
{
    (void)state;
    static const char *const stops[] = {"</end>"};
    fathom_stop *st = fathom_stop_new(stops, 1);
    size_t n;
    bool hit;
    fathom_stop_feed(st, "text <", 6, &n, &hit);
    assert_int_equal(n, 5);
    fathom_stop_feed(st, "/en", 3, &n, &hit);
    assert_int_equal(n, 0);
    const char *p = fathom_stop_feed(st, "<", 1, &n, &hit);
    assert_int_equal(n, 4);
    assert_memory_equal(p, "</en", 4);
    fathom_stop_free(st);
}

int main(void)
{
    if (sample_room_init(&room, V, NULL) != 0) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets),         cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_logprobs),     cmocka_unit_test(test_odd_rows),
        cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_stop_releases),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sample_room_fini(&room);
    return failed;
}
