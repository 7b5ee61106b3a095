/* The end of a context of a million tokens, without its prefill: pages and rings hold random
 * rows (session_fill), the last tokens are computed. cpu gives the same bits one at a time
 * and in chunks of any size, and agrees with ref. Without the simulations nothing is rounded
 * to coarse steps, so the two differ by rounding of sums only: 1e-3 absolute on logits of
 * size 1. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden/random_model.h"

enum { CTX = 1 << 20, LAST = 128, N_REF = 6 };

static struct random_model model;
static float want[LAST][128], got[LAST][128];
static uint32_t ids[LAST];

static fathom_engine *open_engine(const char *backend, bool sim_off, uint32_t chunk)
{
    fathom_err err = {0};
    fathom_engine *e;
    fathom_engine_options o = {.model_data = model.file,
                               .model_bytes = model.file_bytes,
                               .backend = backend,
                               .n_threads = 2,
                               .max_ctx = CTX,
                               .max_seq = 1,
                               .chunk = chunk,
                               .sim_off = sim_off};
    if (fathom_engine_open(&e, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return e;
}

/* The last n tokens behind CTX - LAST random ones, `size` at a time. */
static void run(fathom_engine *e, uint32_t n, uint32_t size, float (*out)[128])
{
    fathom_err err = {0};
    fathom_session *s;
    assert_int_equal(fathom_session_new(&s, e, &err), 0);
    assert_int_equal(session_fill(s, CTX - LAST, 11, &err), 0);
    assert_int_equal(fathom_session_len(s), CTX - LAST);
    assert_int_equal(fathom_session_append(s, ids, LAST + 1, &err), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_append(s, ids, n, NULL), 0);
    for (uint32_t at = 0; at < n;) {
        uint32_t k = size < n - at ? size : n - at;
        fathom_work w = {s, k, FATHOM_WANT_ALL};
        err = (fathom_err){0};
        if (fathom_step(e, &w, 1, &err) != 0) {
            fail_msg("%s", err.msg);
        }
        for (uint32_t i = 0; i < k; i++, at++) {
            memcpy(out[at], fathom_session_logits(s, i), model.shape.n_vocab * sizeof(float));
        }
    }
    fathom_session_free(s);
}

static void test_chunks(void **state)
{
    (void)state;
    fathom_engine *e = open_engine("cpu", false, 64);
    run(e, LAST, 1, want);
    assert_true(isfinite(want[LAST - 1][0]));
    static const uint32_t sizes[] = {64, 7};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        memset(got, 0, sizeof got);
        run(e, LAST, sizes[i], got);
        assert_memory_equal(got, want, sizeof got);
    }
    fathom_engine_close(e);
}

static void test_ref(void **state)
{
    (void)state;
    fathom_engine *e = open_engine("cpu", true, 64);
    run(e, N_REF, 1, got);
    fathom_engine_close(e);
    e = open_engine("ref", true, 64);
    run(e, N_REF, N_REF, want);
    fathom_engine_close(e);
    for (int i = 0; i < N_REF; i++) {
        for (uint32_t k = 0; k < model.shape.n_vocab; k++) {
            if (!(fabsf(got[i][k] - want[i][k]) < 1e-3f)) {
                fail_msg("token %d, logit %u: cpu %g, ref %g", i, k, got[i][k], want[i][k]);
            }
        }
    }
}

int main(void)
{
    struct random_config c = {.seed = 17,
                              .shape = {.n_layer = 3,
                                        .ratio = {0, 4, 128},
                                        .window = 128,
                                        .index_topk = 64,
                                        .max_ctx = CTX,
                                        .yarn_orig = 65536}};
    random_model_make(&model, &c);
    struct rng g = {5};
    for (int i = 0; i < LAST; i++) {
        ids[i] = rng_below(&g, model.shape.n_vocab);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_ref)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    random_model_free(&model);
    return failed;
}
