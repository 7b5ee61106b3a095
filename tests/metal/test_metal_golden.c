/* test_metal_golden.c - the golden tiny model through the Metal backend on the emulated device: its
 * logits against those of `ref`, and the same bits from prefill (product tiles, grouped experts),
 * decoding (one dispatch a level, with folds and without) and verification steps. Few tokens: an
 * emulated token takes a good part of a second. */
// links: engine
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend/metal/plan.h"
#include "golden/golden_model.h"
#include "standin.h"

enum { N = 20 };
static struct golden model;
static float ref[N][GOLDEN_V], prefill[N][GOLDEN_V], got[N][GOLDEN_V];

static void run(float (*out)[GOLDEN_V], const struct backend *be, bool sim, uint32_t t_max,
                uint32_t chunk, const char *debug)
{
    struct golden_run r;
    golden_run_open(&r, be, &model,
                    &(struct golden_run_options){.sim = sim, .t_max = t_max, .debug = debug});
    golden_feed(&r, 1, 0, N, chunk, out[0]);
    golden_run_close(&r);
    const char *fault = standin_fault();
    if (fault) {
        fail_msg("metal: %s", fault);
    }
}

static void near_ref(double tolerance)
{
    for (uint32_t p = 0; p < N; p++) {
        assert_int_equal(golden_argmax(ref[p]), golden_argmax(prefill[p]));
        for (uint32_t i = 0; i < GOLDEN_V; i++) {
            double d = fabs((double)ref[p][i] - (double)prefill[p][i]);
            if (!(d <= tolerance)) {
                fail_msg("position %u logit %u: ref %.9g metal %.9g", p, i, (double)ref[p][i],
                         (double)prefill[p][i]);
            }
        }
    }
}

static double rms_to_ref(float (*x)[GOLDEN_V])
{
    double sum = 0;
    for (uint32_t i = 0; i < N * GOLDEN_V; i++) {
        double d =
            (double)ref[i / GOLDEN_V][i % GOLDEN_V] - (double)x[i / GOLDEN_V][i % GOLDEN_V];
        sum += d * d;
    }
    return sqrt(sum / (N * GOLDEN_V));
}

static void same(const char *what)
{
    for (uint32_t p = 0; p < N; p++) {
        if (memcmp(prefill[p], got[p], sizeof got[p]) != 0) {
            fail_msg("%s: other bits than the prompt at position %u", what, p);
        }
    }
}

/* Tolerances as for the cpu backend: 1e-4 without simulations, 1e-3 with native rows. */
static void test_rows(void **state)
{
    (void)state;
    for (int sim = 0; sim < 2; sim++) {
        golden_open(&model, QT_F32);
        run(ref, &backend_ref, sim, N, N, NULL);
        run(prefill, &backend_metal, sim, N, N, NULL);
        near_ref(sim ? 1e-3 : 1e-4);
        golden_close(&model);
    }
}

static void test_bits(void **state)
{
    (void)state;
    struct standin_options o = {.emu = {.order = EMU_RANDOM, .seed = 3, .workers = 2},
                                .shuffle = true,
                                .shuffle_seed = 5};
    standin_set(&o);
    golden_open(&model, QT_Q8_0);
    run(ref, &backend_ref, true, N, N, NULL);
    run(got, &backend_cpu, true, N, N, NULL);
    double cpu = rms_to_ref(got); /* codes of 8 bits and rows that round the other way */
    run(prefill, &backend_metal, true, N, N, NULL);
    double metal = rms_to_ref(prefill);
    if (!(metal <= 2 * cpu + 1e-3)) {
        fail_msg("rms difference to ref: metal %g, cpu %g", metal, cpu);
    }
    run(got, &backend_metal, true, 1, 1, NULL);
    same("decoding");
    run(got, &backend_metal, true, 8, 5, NULL);
    same("steps of five");
    run(got, &backend_metal, true, 8, 7, "no-folds,serial-encoder");
    same("steps of seven without folds");
    golden_close(&model);
    long live = standin_live_objects();
    assert_int_equal(live, 0);
}

/* Dispatches of a token as the device counted them and as the planner says. */
static void test_count(void **state)
{
    (void)state;
    struct golden_run r;
    struct standin_counts c;
    golden_open(&model, QT_Q8_0);
    golden_run_open(&r, &backend_metal, &model,
                    &(struct golden_run_options){.sim = true, .t_max = 1});
    golden_feed(&r, 1, 0, 1, 1, NULL);
    standin_reset_counts();
    golden_feed(&r, 1, 1, 2, 1, NULL);
    standin_counts(&c);
    struct metal_plan plan;
    struct metal_plan_options po = {.few = true, .folds = true};
    assert_int_equal(metal_plan_make(&plan, r.p, &po, NULL), 0);
    assert_int_equal(c.dispatches, metal_count(&plan, 1, 1));
    assert_int_equal(c.command_buffers, 1);
    metal_plan_free(&plan);
    golden_run_close(&r);
    golden_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_bits),
                                       cmocka_unit_test(test_count)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
