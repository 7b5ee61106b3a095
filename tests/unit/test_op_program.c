/* test_op_program.c - the builder: levels from the three hazards, arena reuse that never adds
 * one, and a validator that notices each kind of damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "op/program.h"

static const struct program_limits LIM = {
    .t_max = 4, .out_max = 2, .seq_max = 2, .n_slots = 2, .max_ctx = 64};

static const float ONES[64];
static struct op_weight weight = {.name = "w",
                                  .type = 0,
                                  .cols = 64,
                                  .rows = 1,
                                  .n_mat = 1,
                                  .row_bytes = 256,
                                  .bytes = 256,
                                  .data = ONES};

static struct program *fresh(void)
{
    fathom_err err = {0};
    struct program *p = program_new(&LIM, &err);
    assert_non_null(p);
    p->weights = &weight;
    p->n_weights = 1;
    return p;
}

static struct opnd vec(struct program *p, const char *name)
{
    return program_tensor(p, name, 0, SPACE_ARENA, FORM_F32, ROWS_TOK, 64, 1);
}

/* A y = norm(x) op: the simplest one with a read and a write. */
static void add_norm(struct program *p, struct opnd x, struct opnd y)
{
    struct op *op = program_op(p, OP_RMS_NORM, 0, "t");
    op->rms_norm = (struct op_rms_norm){.x = x, .y = y, .w = {0}, .n = 64, .eps = 1e-6f};
}

static void levels_follow_hazards(void **state)
{
    (void)state;
    fathom_err err = {0};
    struct program *p = fresh();
    struct opnd a = vec(p, "a"), b = vec(p, "b"), c = vec(p, "c"), d = vec(p, "d");
    add_norm(p, a, b); /* 1 */
    add_norm(p, a, c); /* 1: two readers do not conflict */
    add_norm(p, b, d); /* 2: read after write */
    add_norm(p, c, a); /* 2: write after read of level 1 */
    add_norm(p, d, b); /* 3: b was read at 2 (write after read), d written at 2 */
    add_norm(p, a, c); /* 3: write after write would be 2, read of a at 2 makes 3 */
    assert_int_equal(program_finish(p, &err), 0);
    static const int want[] = {1, 1, 2, 2, 3, 3};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(p->ops[i].level, want[i]);
    }
    assert_int_equal(p->n_levels, 3);
    program_free(p);
}

/* Random programs: no two tensors alive at one level share a byte; every op of a level touches
 * memory that no other op of that level writes. */
static void random_programs(void **state)
{
    (void)state;
    struct rng r = {20261124};
    for (int round = 0; round < 200; round++) {
        fathom_err err = {0};
        struct program *p = fresh();
        struct opnd t[24];
        for (int i = 0; i < 24; i++) {
            t[i] = program_tensor(p, "t", 0, SPACE_ARENA, FORM_F32, ROWS_TOK, 64,
                                  1 + rng_below(&r, 3));
        }
        int n = 5 + (int)rng_below(&r, 40);
        for (int i = 0; i < n; i++) {
            uint32_t x = rng_below(&r, 24), y = rng_below(&r, 24);
            add_norm(p, t[x], t[y == x ? (x + 1) % 24 : y]);
        }
        assert_int_equal(program_finish(p, &err), 0);
        for (uint32_t i = 0; i < p->n_ops; i++) {
            for (uint32_t j = i + 1; j < p->n_ops && p->ops[j].level == p->ops[i].level; j++) {
                const struct op_rms_norm *u = &p->ops[i].rms_norm, *v = &p->ops[j].rms_norm;
                assert_true(u->y.offset != v->y.offset);
                assert_true(u->y.offset != v->x.offset && u->x.offset != v->y.offset);
            }
        }
        assert_int_equal(program_check(p, &err), 0);
        program_free(p);
    }
}

static struct program *chain(void)
{
    fathom_err err = {0};
    struct program *p = fresh();
    struct opnd a = vec(p, "a"), b = vec(p, "b"), c = vec(p, "c");
    add_norm(p, a, b);
    add_norm(p, b, c);
    assert_int_equal(program_finish(p, &err), 0);
    return p;
}

static void expect_bad(struct program *p, const char *text)
{
    fathom_err err = {0};
    assert_int_equal(program_check(p, &err), FATHOM_EINVAL);
    assert_non_null(strstr(err.msg, text));
    program_free(p);
}

static void validator_notices(void **state)
{
    (void)state;
    struct program *p = chain();
    p->ops[1].level = 1;
    expect_bad(p, "live range");
    p = chain();
    p->ops[1].level = 1;
    p->tensors[2].first = 1;
    expect_bad(p, "hazard");
    p = chain();
    p->ops[0].rms_norm.x.id = 99;
    expect_bad(p, "no such tensor");
    p = chain();
    p->ops[0].rms_norm.w.w = 7;
    expect_bad(p, "no such weight");
    p = chain();
    p->arena_bytes = 16;
    expect_bad(p, "outside its space");
    p = chain();
    p->ops[1].rms_norm.y.row_bytes = 128;
    expect_bad(p, "differs from its tensor");
    p = chain();
    p->tensors[1].offset = p->tensors[0].offset = 0;
    p->ops[0].rms_norm.x.offset = p->ops[0].rms_norm.y.offset = p->ops[1].rms_norm.x.offset = 0;
    expect_bad(p, "overlap");
    p = chain();
    p->ops[0].kind = OP_KIND_COUNT;
    expect_bad(p, "unknown op kind");
}

/* The catalogue: 18 kinds, each with a name and at least one written operand. */
static void catalogue_is_complete(void **state)
{
    (void)state;
    assert_int_equal(OP_KIND_COUNT, 18);
    for (int k = 0; k < OP_KIND_COUNT; k++) {
        size_t n;
        const struct op_field *f = op_fields((enum op_kind)k, &n);
        bool writes = false;
        for (size_t i = 0; i < n; i++) {
            writes = writes || (f[i].type == FIELD_OPND && (f[i].access & ACCESS_W));
            assert_true(f[i].offset < sizeof(struct op));
        }
        assert_true(writes);
        assert_true(strlen(op_name((enum op_kind)k)) > 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_follow_hazards), cmocka_unit_test(random_programs),
        cmocka_unit_test(validator_notices), cmocka_unit_test(catalogue_is_complete)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
