/* ops_metal.h - the ops tests over the Metal backend on the emulated device: a configuration is an
 * order in which the lanes of a simdgroup take turns. Included by ops/ops_harness.h. */
#ifndef TESTS_METAL_OPS_METAL_H
#define TESTS_METAL_OPS_METAL_H

#include "standin.h"

#define TEST_BACKEND backend_metal
/* One test of a program, for run_planted.py. */
__attribute__((constructor)) static void t_filter(void)
{
    const char *pattern = getenv("FATHOM_TEST_FILTER");
    if (pattern && *pattern) {
        cmocka_set_test_filter(pattern);
    }
}
/* At the end of a program no object of the two frameworks, and none of the host's, is left. */
__attribute__((destructor)) static void t_leaks(void)
{
    if (standin_live_objects() != 0) {
        fprintf(stderr, "metal: %ld objects are left\n", standin_live_objects());
        _Exit(1);
    }
}
/* mask: enum emu_order + 1; threads 2: the other order of reductions, dispatches shuffled */
static const struct cpu_config t_configs[] = {{1, 1}, {2, 1}, {3, 2}};
enum { N_CONFIGS = 3 };
/* Besides the first, every test runs in one of the other two, in turn, or with FATHOM_TEST_LONG in
 * both. */
static inline bool t_wanted(int config, uint64_t seed)
{
    return getenv("FATHOM_TEST_LONG") || config == 1 + (int)(seed & 1);
}

static inline void t_configure(struct cpu_config c)
{
    struct standin_options o = {
        .emu = {.order = c.mask ? (enum emu_order)(c.mask - 1) : EMU_FORWARD,
                .seed = 7,
                .workers = 2,
                .butterfly = c.threads > 1},
        .shuffle = c.threads > 1,
        .shuffle_seed = 11,
        .max_buffer_bytes = 1 << 24};
    standin_set(&o);
}

/* What the host code or a kernel did wrong ends the test. */
static inline void t_faults(void)
{
    const char *fault = standin_fault();
    if (fault) {
        fail_msg("metal: %s", fault);
    }
}

#endif
