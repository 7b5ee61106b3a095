/* test_metal_selftest.c - what `fathom selftest --backend metal` does with each kernel, on the
 * emulated device: every op of the golden model starts from the cpu's inputs, and must give the
 * cpu's results. The program's own sequences take the emulator too long: here a prompt, a
 * verification step and a token. planted.py breaks a kernel and wants its op named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "cmd/golden.h"
#include "cmd/selftest_ops.h"
#include "quant/formats.h"
#include "standin.h"

static void test_selftest_ops(void **state)
{
    (void)state;
    enum { N = 16 };
    static const uint32_t steps[] = {12, 3, 1, 0};
    struct op_result r[OP_KIND_COUNT];
    uint32_t ids[N], n_bad = 0;
    unsigned char *file = NULL;
    size_t n = 0;
    fathom_err err = {0};
    for (uint32_t i = 0; i < N; i++) {
        ids[i] = golden_id(i);
    }
    assert_int_equal(golden_build(&file, &n, QT_Q8_0, &err), 0);
    fathom_engine_options o = {.model_data = file,
                               .model_bytes = n,
                               .max_ctx = 256,
                               .max_seq = 1,
                               .chunk = 64,
                               .page_tokens = 128,
                               .kv_no_share = true};
    int rc = selftest_ops(r, &o, "cpu", "metal", &(struct ops_sequence){ids, N, steps}, &err);
    const char *fault = standin_fault();
    if (rc || fault) {
        fail_msg("metal: %s", fault ? fault : err.msg);
    }
    for (int k = 0; k < OP_KIND_COUNT; k++) {
        const char *name = op_name((enum op_kind)k);
        bool ok = r[k].runs > 0 && op_result_ok(&r[k]);
        print_message("%s%s: floats %.1e, %llu of %llu codes\n", ok ? "" : "ERROR: ", name,
                      r[k].worst, (unsigned long long)r[k].differ,
                      (unsigned long long)r[k].codes);
        n_bad += !ok;
    }
    mem_free(file);
    assert_int_equal(n_bad, 0);
}

int main(void)
{
    struct standin_options o = {.emu = {.order = EMU_FORWARD, .workers = 2}};
    standin_set(&o);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_selftest_ops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
