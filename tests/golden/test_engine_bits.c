/* test_engine_bits.c - the bits of arithmetic class cpu/1 are pinned: a hash over the logits of
 * the golden tiny model (docs/model.md 17) in its forms, equal for every tier of every processor
 * architecture. A change of these numbers is a change of the class's name (backend/cpu/cpu.c).
 * What could differ between machines is the C library alone: sin, cos, log1p and exp in double
 * precision, rounded to float or used for routing, where a last-bit difference shows in one of
 * 2^29 values. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
