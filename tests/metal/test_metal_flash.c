/* test_metal_flash.c - programs of V4 Flash on the stand-in device, which counts and checks all
 * calls but runs no kernel: dispatches of a token as counted by the device and by the planner, at
 * most 550; verification and prefill programs in bounded command buffers; and that kernels exist
 * for what every recipe of the converter makes. The weights are an address range without memory
 * behind it. */
// links: engine
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/metal/plan.h"
#include "base/mem.h"
#include "model/forward.h"
#include "quant/formats.h"
#include "standin.h"

enum { CTX = 16384, LONG_CTX = 1 << 20, MOST = 550, MAX_TOK = 1024, MAX_PAGES = 1 << 15 };

struct flash {
    struct shape shape;
    struct weights w;
    struct layout layout;
    struct program *p;
    uint32_t ctx;
};

static void ok(int rc, const fathom_err *err)
{
    const char *fault = standin_fault();
    if (rc || fault) {
        fail_msg("%s", fault ? fault : err->msg);
    }
}

/* The type of what the recipe keeps as Q8_0 in attention and shared expert, where its rows are
 * whole blocks. */
static void set_dense(struct weights *w, uint32_t type)
{
    for (uint32_t i = 0; i < w->n; i++) {
        struct op_weight *x = &w->w[i];
        bool dense = strstr(x->name, ".attn_q_") || strstr(x->name, ".attn_kv") ||
                     strstr(x->name, ".attn_output_") || strstr(x->name, "_shexp");
        if (dense && x->type == QT_Q8_0 && x->cols % 256 == 0) {
            x->type = type;
            x->row_bytes = qformat_row_bytes(type, x->cols);
            x->bytes = x->row_bytes * x->rows * x->n_mat;
        }
    }
}

static void flash_open_dense(struct flash *f, const char *recipe, uint32_t dense,
                             uint32_t t_max, uint32_t ctx)
{
    fathom_err err = {0};
    f->ctx = ctx;
    f->shape = *shape_preset("flash");
    ok(weights_from_shape(&f->w, &f->shape, recipe, &err), &err);
    if (dense) {
        set_dense(&f->w, dense);
    }
    ok(layout_make(&f->layout, &f->shape, true, 0, &err), &err);
    struct program_limits lim = {.t_max = t_max,
                                 .out_max = 1,
                                 .seq_max = 1,
                                 .n_slots = 1,
                                 .max_ctx = ctx,
                                 .live_slack = 1};
    struct forward_options fo = {0};
    f->p = forward_record(&f->shape, &f->w, &f->layout, &lim, &fo, &err);
    assert_non_null(f->p);
}
static void flash_open(struct flash *f, const char *recipe, uint32_t t_max, uint32_t ctx)
{
    flash_open_dense(f, recipe, 0, t_max, ctx);
}
static void flash_close(struct flash *f)
{
    program_free(f->p);
    weights_free(&f->w);
}

/* One step of n tokens that ends at the last position; what the device counted. */
static struct standin_counts device_counts(struct flash *f, uint32_t n)
{
    fathom_err err = {0};
    struct device *dev;
    struct exec *ex;
    struct exec_bind bind;
    uint64_t total = 0, at = 0;
    for (uint32_t i = 0; i < f->w.n; i++) {
        total += (f->w.w[i].bytes + 63) / 64 * 64;
    }
    unsigned char *range = mmap(NULL, total + 65536, PROT_READ,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(range != MAP_FAILED);
    for (uint32_t i = 0; i < f->w.n; i++) {
        f->w.w[i].data = range + at;
        at += (f->w.w[i].bytes + 63) / 64 * 64;
    }
    standin_reset_counts();
    ok(backend_metal.open(&dev, &(struct backend_config){0}, &err), &err);
    ok(backend_metal.weights_load(dev, f->w.w, f->w.n, &err), &err);
    uint32_t n_page = f->ctx / f->layout.page_tokens;
    const uint64_t bytes[4] = {f->p->arena_bytes, f->p->slot_bytes, f->p->page_bytes * n_page,
                               f->p->io_bytes};
    struct buffer **buf[4] = {&bind.arena, &bind.state, &bind.page, &bind.io};
    const enum buf_use use[4] = {BUF_ARENA, BUF_STATE, BUF_PAGE, BUF_IO};
    for (int i = 0; i < 4; i++) {
        ok(backend_metal.buf_alloc(dev, buf[i], bytes[i], use[i], &err), &err);
    }
    ok(backend_metal.compile(dev, &ex, f->p, &bind, &err), &err);
    static uint32_t tok[MAX_TOK], tok_seq[MAX_TOK], pages[MAX_PAGES], out[1];
    assert_true(n <= MAX_TOK && n_page <= MAX_PAGES);
    for (uint32_t i = 0; i < n_page; i++) {
        pages[i] = i;
    }
    out[0] = n - 1;
    struct step_seq seq = {.n0 = f->ctx - n, .n_tok = n, .n_page = n_page, .n_out = 1};
    struct step s = {.n_tok = n,
                     .n_seq = 1,
                     .n_out = 1,
                     .n_page = n_page,
                     .seq = &seq,
                     .tok = tok,
                     .tok_seq = tok_seq,
                     .pages = pages,
                     .out = out};
    ok(backend_metal.submit(dev, ex, &s, &err), &err);
    ok(backend_metal.wait(dev, &err), &err);
    struct standin_counts c;
    standin_counts(&c);
    backend_metal.exec_free(dev, ex);
    for (int i = 0; i < 4; i++) {
        backend_metal.buf_free(dev, *buf[i]);
    }
    backend_metal.weights_free(dev);
    backend_metal.close(dev);
    assert_int_equal(standin_live_objects(), 0);
    munmap(range, total + 65536);
    return c;
}

static uint32_t planned(const struct flash *f, uint32_t n)
{
    struct metal_plan plan;
    struct metal_plan_options o = {.few = n <= METAL_FEW, .folds = true};
    fathom_err err = {0};
    ok(metal_plan_make(&plan, f->p, &o, &err), &err);
    uint32_t count = metal_count(&plan, f->ctx - n, n);
    metal_plan_free(&plan);
    return count;
}

static void count(uint32_t ctx, uint32_t n, uint32_t most, uint32_t buffers_least,
                  uint32_t buffers_most)
{
    struct flash f;
    flash_open(&f, "q2", n, ctx);
    struct standin_counts c = device_counts(&f, n);
    print_message(
        "%u tokens: %llu dispatches, %llu command buffers, %llu bytes of threadgroup memory a "
        "dispatch\n",
        n, (unsigned long long)c.dispatches, (unsigned long long)c.command_buffers,
        (unsigned long long)(c.tg_bytes / c.dispatches));
    assert_int_equal(c.dispatches, planned(&f, n));
    assert_true(c.dispatches <= most);
    if (n <= METAL_FEW) { /* room for several threadgroups on a core */
        assert_true(c.tg_bytes <= c.dispatches * 12 * 1024);
    }
    assert_in_range(c.command_buffers, buffers_least, buffers_most);
    flash_close(&f);
}

static void test_decode(void **state)
{
    (void)state;
    count(CTX, 1, MOST, 1, 1);
}
static void test_verify(void **state)
{
    (void)state;
    count(CTX, 4, MOST, 1, 1);
}
/* A command buffer a layer: none runs long. INDEX_SELECT goes through the tokens in batches. */
static void test_prefill(void **state)
{
    (void)state;
    count(CTX, 64, 2000, 43, 128);
}
/* A layer's scores over a million tokens take more than one command buffer, and all layers more
 * than may be in flight. */
static void test_prefill_deep(void **state)
{
    (void)state;
    count(LONG_CTX, MAX_TOK, 6000, 129, 1000);
}

static void test_recipes(void **state)
{
    (void)state;
    static const char *const recipes[] = {"q2", "q2-q4tail", "q4",   "mxfp4",
                                          "q8", "f16",       "bf16", "f32"};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        struct flash f;
        flash_open(&f, recipes[i], 16, CTX);
        for (uint32_t k = 0; k < f.p->n_ops; k++) {
            const char *why = metal_supports(f.p, &f.p->ops[k]);
            if (why) {
                fail_msg("recipe %s: op %s: %s", recipes[i], op_name(f.p->ops[k].kind), why);
            }
        }
        flash_close(&f);
    }
}

/* A recipe whose attention and shared expert have another type (convert --dense): the programs
 * are what V4 Flash would be with it. */
static void test_dense(void **state)
{
    (void)state;
    static const struct {
        const char *recipe;
        uint32_t type;
    } cases[] = {{"q2", QT_Q6_K}, {"q2", QT_Q5_K}, {"q4", QT_Q4_K}, {"mxfp4", QT_Q6_K}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct flash f;
        flash_open_dense(&f, cases[i].recipe, cases[i].type, 1, CTX);
        uint64_t seen = 0;
        for (uint32_t k = 0; k < f.p->n_ops; k++) {
            assert_null(metal_supports(f.p, &f.p->ops[k]));
        }
        struct metal_plan plan;
        struct metal_plan_options o = {.few = true, .folds = true};
        fathom_err err = {0};
        ok(metal_plan_make(&plan, f.p, &o, &err), &err);
        for (uint32_t k = 0; k < plan.n; k++) {
            seen |= plan.d[k].types;
        }
        metal_plan_free(&plan);
        assert_true(seen >> cases[i].type & 1);
        struct standin_counts c = device_counts(&f, 1);
        assert_int_equal(c.dispatches, planned(&f, 1));
        assert_in_range(c.dispatches, 1, MOST);
        flash_close(&f);
    }
}

/* A user without a cache folder: compiled kernels are kept in one that nobody else can read. A
 * second start compiles nothing and leaves the archive as it is; a broken one is made anew. */
static void test_archive(void **state)
{
    (void)state;
    char home[] = "/tmp/fathom-metal-XXXXXX", path[256];
    struct stat st;
    assert_non_null(mkdtemp(home));
    assert_int_equal(setenv("HOME", home, 1), 0);
    unsetenv("XDG_CACHE_HOME");
    mode_t mask = umask(0);
    struct flash f;
    flash_open(&f, "q2", 1, CTX);
    for (int start = 0; start < 4; start++) {
        struct standin_counts c = device_counts(&f, 1);
        bool again = start == 1 || start == 3;
        assert_true(again ? c.pipelines == 0 : c.pipelines > 10);
        assert_int_equal(c.archives_written, again ? 0 : 1);
        static const char *const below[] = {".cache", ".cache/fathom"};
        for (size_t i = 0; i < ARRAY_LEN(below); i++) {
            snprintf(path, sizeof path, "%s/%s", home, below[i]);
            assert_int_equal(stat(path, &st), 0);
            assert_int_equal(st.st_mode & 07777, 0700);
        }
        snprintf(path, sizeof path, "%s/.cache/fathom/metal-" FATHOM_VERSION ".bin", home);
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_size > 0);
        if (start == 1) {
            assert_int_equal(truncate(path, st.st_size - 1), 0);
        }
    }
    umask(mask);
    flash_close(&f);
    unlink(path);
    snprintf(path, sizeof path, "%s/.cache/fathom", home);
    rmdir(path);
    snprintf(path, sizeof path, "%s/.cache", home);
    rmdir(path);
    assert_int_equal(rmdir(home), 0);
}

/* More weights than the system grants: refused before a view is made, with the remedy. */
static void test_working_set(void **state)
{
    (void)state;
    struct flash f;
    fathom_err err = {0};
    struct device *dev;
    flash_open(&f, "q2", 1, CTX);
    for (uint32_t i = 0; i < f.w.n; i++) {
        f.w.w[i].data = (const void *)(uintptr_t)(1 << 20); /* never read */
    }
    struct standin_options o = {
        .dry = true, .max_buffer_bytes = 128ull << 30, .working_set_bytes = 64ull << 30};
    standin_set(&o);
    ok(backend_metal.open(&dev, &(struct backend_config){0}, &err), &err);
    assert_int_equal(backend_metal.weights_load(dev, f.w.w, f.w.n, &err), FATHOM_ENOMEM);
    assert_non_null(strstr(err.msg, "sysctl iogpu.wired_limit_mb="));
    struct standin_counts c;
    standin_counts(&c);
    assert_int_equal(c.buffers_alive, 0);
    backend_metal.close(dev);
    assert_int_equal(standin_live_objects(), 0);
    flash_close(&f);
}

int main(void)
{
    struct standin_options o = {
        .dry = true, .max_buffer_bytes = 16ull << 30, .working_set_bytes = 200ull << 30};
    standin_set(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),  cmocka_unit_test(test_verify),
        cmocka_unit_test(test_prefill), cmocka_unit_test(test_prefill_deep),
        cmocka_unit_test(test_recipes), cmocka_unit_test(test_dense),
        cmocka_unit_test(test_archive), cmocka_unit_test(test_working_set)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
