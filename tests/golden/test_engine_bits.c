/* test_engine_bits.c - the bits of arithmetic class cpu/1 are pinned: a hash over the logits of
 * the golden tiny model (docs/model.md 17) in its forms, equal for every tier of every processor
 * architecture, and there for 1, 2, 3 and 7 threads, steps of 1, 7, 128 and all tokens, without
 * folds, and 1 to 8 sequences. A change of these numbers is a change of the class's name
 * (backend/cpu/cpu.c). What could differ between machines is the C library alone: sin, cos,
 * log1p and exp in double precision, rounded to float or used for routing, where a last-bit
 * difference shows in one of 2^29 values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/cpu/kern.h"
#include "base/num.h"
#include "golden/golden_model.h"

enum { N = 136, CHUNK = 32 };

static const struct form {
    const char *name;
    uint32_t type;
    bool sim;
    uint64_t hash;
} FORMS[] = {
    {"F32 weights, F32 rows", QT_F32, false, 0x841D8234216FA124u},
    {"F32 weights, native rows", QT_F32, true, 0x3691122C447D5F8Du},
    {"Q8_0 weights, native rows", QT_Q8_0, true, 0x289DCA3405F3C65Fu},
};

/* FNV-1a over the bits, little end first. */
static uint64_t hash_floats(const float *x, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) {
        for (int shift = 0; shift < 32; shift += 8) {
            h = (h ^ (f32_bits(x[i]) >> shift & 255u)) * 0x100000001B3u;
        }
    }
    return h;
}

static void test_bits(void **state)
{
    (void)state;
    static float logits[N][GOLDEN_V];
    const struct backend *cpu = &backend_cpu;
    struct backend_caps caps;
    uint32_t have = kern_available();
    for (size_t f = 0; f < ARRAY_LEN(FORMS); f++) {
        struct golden m;
        golden_open(&m, FORMS[f].type);
        for (uint32_t bit = 1; bit && bit <= have; bit <<= 1) {
            if (!(have & bit)) {
                continue;
            }
            struct golden_run r;
            struct golden_run_options o = {.sim = FORMS[f].sim,
                                           .t_max = CHUNK,
                                           .n_threads = 1,
                                           .cpu_mask = bit | (bit - 1)};
            golden_run_open(&r, cpu, &m, &o);
            cpu->caps(r.dev, &caps);
            assert_string_equal(caps.arith_class, "cpu/1");
            /* many tokens a step, then one */
            golden_feed(&r, 0, 0, N - 8, CHUNK, logits[0]);
            golden_feed(&r, 0, N - 8, N, 1, logits[0]);
            golden_run_close(&r);
            uint64_t h = hash_floats(logits[0], (size_t)N * GOLDEN_V);
            print_message("%s, tier %#x: %016llx\n", FORMS[f].name, (unsigned)bit,
                          (unsigned long long)h);
            assert_true(h == FORMS[f].hash);
        }
        golden_close(&m);
    }
}

/* ---- what must not matter, in every tier ---- */

static const struct way {
    uint32_t threads, chunk;
    const char *debug;
} WAYS[] = {
    {1, 1, NULL}, {2, 7, NULL}, {3, 128, NULL}, {7, N, NULL}, {2, 7, "no-folds"},
};

static void run_ways(const struct golden *m, const struct form *f, uint32_t mask)
{
    static float logits[N][GOLDEN_V];
    for (size_t i = 0; i < ARRAY_LEN(WAYS); i++) {
        struct golden_run r;
        struct golden_run_options o = {.sim = f->sim,
                                       .t_max = N,
                                       .n_threads = WAYS[i].threads,
                                       .cpu_mask = mask,
                                       .debug = WAYS[i].debug};
        golden_run_open(&r, &backend_cpu, m, &o);
        golden_feed(&r, 0, 0, N, WAYS[i].chunk, logits[0]);
        golden_run_close(&r);
        if (hash_floats(logits[0], (size_t)N * GOLDEN_V) != f->hash) {
            fail_msg("%s, tiers %#x: %u threads and steps of %u tokens (%s) give other bits",
                     f->name, (unsigned)mask, WAYS[i].threads, WAYS[i].chunk,
                     WAYS[i].debug ? WAYS[i].debug : "folded");
        }
    }
}

/* Steps of 1 to 8 sequences, a token each: sequence i joins in step i. */
static void run_sequences(const struct golden *m, const struct form *f, uint32_t mask)
{
    enum { STEPS = 16 };
    static float alone[STEPS][GOLDEN_V], got[GOLDEN_SEQS][GOLDEN_V];
    struct golden_run r;
    struct golden_run_options o = {
        .sim = f->sim, .t_max = GOLDEN_SEQS, .n_threads = 2, .cpu_mask = mask};
    golden_run_open(&r, &backend_cpu, m, &o);
    golden_feed(&r, 0, 0, STEPS, 1, alone[0]);
    for (uint32_t t = 0; t < STEPS; t++) {
        struct golden_part part[GOLDEN_SEQS];
        uint32_t n = MIN(t + 1, (uint32_t)GOLDEN_SEQS);
        for (uint32_t i = 0; i < n; i++) {
            part[i] = (struct golden_part){.state = i, .pages_of = i, .n0 = t - i, .n_tok = 1};
        }
        golden_step(&r, part, n, got[0]);
        for (uint32_t i = 0; i < n; i++) {
            if (memcmp(got[i], alone[t - i], sizeof got[i]) != 0) {
                fail_msg("%s, tiers %#x: position %u differs among %u sequences", f->name,
                         (unsigned)mask, t - i, n);
            }
        }
    }
    golden_run_close(&r);
}

static void test_ways(void **state)
{
    (void)state;
    uint32_t have = kern_available();
    for (size_t f = 1; f < ARRAY_LEN(FORMS); f++) {
        struct golden m;
        golden_open(&m, FORMS[f].type);
        for (uint32_t bit = 1; bit && bit <= have; bit <<= 1) {
            if (have & bit) {
                run_ways(&m, &FORMS[f], bit | (bit - 1));
                run_sequences(&m, &FORMS[f], bit | (bit - 1));
            }
        }
        golden_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits),
                                       cmocka_unit_test(test_ways)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
