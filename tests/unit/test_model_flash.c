/* test_model_flash.c - the recorded programs and KV layout of the real shapes, against the
 * figures of the format documents: op and level counts, page, slot and frontier bytes, tensor
 * sums. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/forward.h"
#include "testdata.h"

static struct program *record(const char *shape, const char *recipe, bool sim, uint32_t t_max,
                              uint32_t l0, uint32_t l1, bool bare)
{
    static struct weights w; /* outlives the program */
    static struct layout l;
    fathom_err err = {0};
    const struct shape *s = shape_preset(shape);
    assert_non_null(s);
    weights_free(&w);
    assert_int_equal(weights_from_shape(&w, s, recipe, &err), 0);
    assert_int_equal(layout_make(&l, s, sim, 0, &err), 0);
    struct program_limits lim = {
        .t_max = t_max, .out_max = 8, .seq_max = 8, .n_slots = 4, .max_ctx = 1 << 20};
    struct forward_options opt = {.l0 = l0, .l1 = l1, .no_embed = bare, .no_head = bare};
    struct program *p = forward_record(s, &w, &l, &lim, &opt, &err);
    if (!p) {
        fail_msg("%s", err.msg);
    }
    return p;
}

/* model.md 14 and the op table: 883 ops in 671 levels for Flash, whatever recipe and class. */
static void flash_counts(void **state)
{
    (void)state;
    static const char *const recipes[] = {"q2", "q4", "mxfp4", "q8", "bf16", "f32"};
    static const uint32_t classes[] = {1, 8, 64, 512};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        struct program *p = record("flash", recipes[i], true, classes[i % 4], 0, 0, false);
        assert_int_equal(p->n_ops, 883);
        assert_int_equal(p->n_levels, 671);
        program_free(p);
    }
}

/* Ops and levels of one layer of each kind: window only 18/15, ratio 128 19/15, ratio 4 22/16.
 */
static void layer_counts(void **state)
{
    (void)state;
    static const struct {
        uint32_t layer, ops, levels;
    } want[] = {{0, 18, 15}, {3, 19, 15}, {2, 22, 16}};
    for (int i = 0; i < 3; i++) {
        struct program *p =
            record("flash", "q2", true, 1, want[i].layer, want[i].layer + 1, true);
        assert_int_equal(p->n_ops, want[i].ops);
        assert_int_equal(p->n_levels, want[i].levels);
        program_free(p);
    }
}

/* 61 layers: 31 of ratio 128 and 30 of ratio 4. */
static void pro_counts(void **state)
{
    (void)state;
    struct program *p = record("pro", "q2", true, 8, 0, 0, false);
    assert_int_equal(p->n_ops, 31 * 19 + 30 * 22 + 5);
    assert_int_equal(p->n_levels, 31 * 15 + 30 * 16 + 5);
    program_free(p);
}

/* The arena holds what is alive, not everything: about 0.37 MB a token in the chunk class. */
static void arena_is_tight(void **state)
{
    (void)state;
    struct program *p = record("flash", "q2", true, 512, 0, 0, false);
    uint64_t all = 0, peak = 0;
    for (uint32_t level = 1; level <= p->n_levels; level++) {
        uint64_t live = 0;
        for (uint32_t i = 0; i < p->n_tensors; i++) {
            const struct tensor *t = &p->tensors[i];
            live +=
                t->space == SPACE_ARENA && t->first <= level && level <= t->last ? t->bytes : 0;
        }
        peak = live > peak ? live : peak;
    }
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        all += p->tensors[i].space == SPACE_ARENA ? p->tensors[i].bytes : 0;
    }
    print_message("arena %llu, live peak %llu, sum %llu bytes; %.3f MB a token\n",
                  (unsigned long long)p->arena_bytes, (unsigned long long)peak,
                  (unsigned long long)all, (double)p->arena_bytes / 512 / 1e6);
    assert_true(p->arena_bytes >= peak);
    assert_true(p->arena_bytes <= peak + peak / 4);
    program_free(p);
}

/* kv-store.md 2.1 and 2.2, exact bytes. */
static void flash_layout(void **state)
{
    (void)state;
    struct layout l;
    fathom_err err = {0};
    assert_int_equal(layout_make(&l, shape_preset("flash"), true, 0, &err), 0);
    assert_int_equal(l.page_tokens, 2048);
    assert_int_equal(l.ring_slots, 264);
    assert_int_equal(l.row.code_bytes, 576);
    assert_int_equal(l.row.scale_bytes, 8);
    assert_int_equal(l.index_row.code_bytes, 64);
    assert_int_equal(l.index_row.scale_bytes, 4);
    assert_int_equal(l.page_bytes, 7197184);
    assert_int_equal(l.window_bytes, 6629568);
    assert_int_equal(l.comp4_bytes, 3440640);
    assert_int_equal(l.comp_other_bytes, 11141120);
    assert_int_equal(l.bound_bytes, 860160);
    assert_int_equal(l.slot_bytes, 6629568 + 3440640 + 11141120 + 860160);
    assert_int_equal(layout_frontier_bytes(&l, 12800), 3644416);
    assert_int_equal(layout_frontier_bytes(&l, 12800 + 127), 14693376);
    /* 3514.25 bytes a token at multiples of 128 */
    for (uint64_t n = 128; n <= 1 << 20; n += 128 * 977) {
        assert_int_equal(layout_row_bytes(&l, n) * 4, n * 14057);
    }
    assert_int_equal(layout_row_bytes(&l, 1 << 20), 512ull * 7197184);
    assert_int_equal(layout_pages(&l, 1 << 20), 512);
    assert_int_equal(layout_pages(&l, (1 << 20) - 2047), 512);
    assert_int_equal(layout_pages(&l, (1 << 20) - 2048), 511);
}

static void f32_layout(void **state)
{
    (void)state;
    struct layout l;
    fathom_err err = {0};
    assert_int_equal(layout_make(&l, shape_preset("flash"), false, 0, &err), 0);
    assert_int_equal(l.row.code_bytes, 2048);
    assert_int_equal(l.row.scale_bytes, 0);
    assert_int_equal(layout_row_bytes(&l, 1 << 20), (uint64_t)13760 << 20);
}

/* Every plane of slot and page inside its space, none overlapping another. */
static void planes_are_disjoint(void **state)
{
    (void)state;
    static const char *const shapes[] = {"flash", "pro"};
    for (int i = 0; i < 4; i++) {
        struct program *p = record(shapes[i & 1], "q2", i < 2, 1, 0, 0, false);
        for (uint32_t a = 0; a < p->n_tensors; a++) {
            const struct tensor *t = &p->tensors[a];
            if (t->space != SPACE_STATE && t->space != SPACE_PAGE) {
                continue;
            }
            assert_true(t->offset + t->bytes <=
                        (t->space == SPACE_STATE ? p->slot_bytes : p->page_bytes));
            for (uint32_t b = a + 1; b < p->n_tensors; b++) {
                const struct tensor *u = &p->tensors[b];
                assert_true(u->space != t->space || u->offset >= t->offset + t->bytes ||
                            t->offset >= u->offset + u->bytes);
            }
        }
        program_free(p);
    }
}

/* Shape-only weights against the published byte counts (tests/data/gguf-layout): the recipes'
 * small parts differ in ape (F32 here, F16 there), so compare without it. */
static void recipe_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *recipe;
        int column;
    } cases[] = {{"q2", 1}, {"q4", 2}};
    for (int c = 0; c < 2; c++) {
        struct weights w;
        fathom_err err = {0};
        assert_int_equal(weights_from_shape(&w, shape_preset("flash"), cases[c].recipe, &err),
                         0);
        uint64_t ours = 0;
        for (uint32_t i = 0; i < w.n; i++) {
            ours += strstr(w.w[i].name, "_ape.") ? w.w[i].bytes / 2 : w.w[i].bytes;
        }
        assert_int_equal(w.n, 1328);
        assert_int_equal(ours, cases[c].column == 1 ? 86714775900ull : 164628167004ull);
        weights_free(&w);
    }
}

/* YaRN of the compressed layers (model.md 3): first 16 kept, last 7 divided by 16, a ramp
 * between. */
static void rope_frequencies(void **state)
{
    (void)state;
    struct rope_table t[ROPE_CLASSES];
    shape_rope(shape_preset("flash"), t);
    assert_int_equal(t[ROPE_YARN].n, 32);
    for (int i = 0; i < 32; i++) {
        double plain = 1.0;
        for (int k = 0; k < i; k++) { /* 160000^(-i/32) by repeated roots is inexact: 1e-6 */
            plain *= 0.68765601;
        }
        double ramp = i < 16 ? 1.0 : i > 24 ? 0.0625 : 0.90625 - 0.09375 * (i - 16);
        assert_true(fabs(t[ROPE_YARN].freq[i] / (plain * ramp) - 1.0) < 1e-5);
    }
    assert_true(t[ROPE_PLAIN].freq[0] == 1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flash_counts),        cmocka_unit_test(layer_counts),
        cmocka_unit_test(pro_counts),          cmocka_unit_test(arena_is_tight),
        cmocka_unit_test(flash_layout),        cmocka_unit_test(f32_layout),
        cmocka_unit_test(planes_are_disjoint), cmocka_unit_test(recipe_bytes),
        cmocka_unit_test(rope_frequencies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
