/* test_backend_cpu.c - the cpu backend as a device: what it reports, what it refuses, tracing. */
#include "ops_harness.h"

static const struct program_limits lim = {
    .t_max = 4, .out_max = 1, .seq_max = 1, .n_slots = 1, .max_ctx = 64};

/* Two products, the second of the first's output. */
static void two_products(struct op_test *t, uint64_t seed)
{
    t_begin(t, "cpu device", seed, lim);
    struct opnd x = t_input(t, "x", 64);
    struct opnd y = t_arena(t, "y", FORM_F32, ROWS_TOK, 96, 1);
    struct opnd z = t_arena(t, "z", FORM_F32, ROWS_TOK, 40, 1);
    struct op *op = program_op(t->p, OP_LINEAR, 3, "first");
    op->linear.x = x;
    op->linear.part[0].w = t_mat(t, QT_F32, FORM_F32, 1, 96, 64, 1.0f);
    op->linear.part[0].y = y;
    op->linear.n_part = 1;
    op = program_op(t->p, OP_LINEAR, 3, "second");
    op->linear.x = y;
    op->linear.part[0].w = t_mat(t, QT_BF16, FORM_F32, 1, 40, 96, 1.0f);
    op->linear.part[0].y = z;
    op->linear.n_part = 1;
    t_seq(t, (struct step_seq){.n_tok = 3});
    t_finish(t, 0);
    t_fill(t);
}

static void test_report(void **state)
{
    (void)state;
    struct backend_info info;
    struct backend_caps caps;
    struct device *dev = NULL;
    fathom_err err = {0};
    assert_ptr_equal(backend_by_name("cpu"), &backend_cpu);
    assert_int_equal(backend_cpu.probe(&info, &err), 0);
    assert_true(info.available && info.n_units >= 1 && info.memory_bytes > 0);
    assert_non_null(strstr(info.features, "c"));
    assert_int_equal(backend_cpu.open(&dev, NULL, &err), 0);
    backend_cpu.caps(dev, &caps);
    assert_string_equal(caps.arith_class, "cpu/1");
    assert_true(caps.host_visible && caps.picked && caps.t_max >= 64);
    backend_cpu.close(dev);
    struct backend_config many = {.n_threads = 1000000};
    assert_true(backend_cpu.open(&dev, &many, &err) < 0);
    assert_non_null(strstr(err.msg, "threads"));
}

struct seen {
    const struct op *op[8];
    const struct step *step;
    uint32_t n;
};

static void note_op(void *user, const struct op *op, const struct step *step, double seconds)
{
    struct seen *s = user;
    assert_true(s->n < 8 && seconds >= 0);
    s->step = step;
    s->op[s->n++] = op;
}

/* The callback sees the ops in list order; a traced step gives the same bits. */
static void test_trace(void **state)
{
    (void)state;
    struct op_test t;
    struct session x;
    struct image plain, traced;
    struct seen seen = {0};
    two_products(&t, 3000);
    t_run(&t, &backend_cpu, (struct cpu_config){0, 2}, &plain);
    img_copy(&traced, &t.in);
    t_open(&x, &t, &backend_cpu, (struct cpu_config){0, 3});
    backend_cpu.trace(
        x.dev, &(struct backend_trace){.kinds = 1u << OP_LINEAR, .fn = note_op, .user = &seen});
    t_step(&x, &t, &t.s, &traced);
    assert_int_equal(seen.n, 2);
    assert_ptr_equal(seen.op[0], &t.p->ops[0]);
    assert_ptr_equal(seen.op[1], &t.p->ops[1]);
    backend_cpu.trace(x.dev, NULL);
    t_step(&x, &t, &t.s, &traced);
    assert_int_equal(seen.n, 2);
    for (int sp = 0; sp < N_SPACES; sp++) {
        same_bytes(&t, "traced", plain.mem[sp], traced.mem[sp], plain.bytes[sp], sp, 0);
    }
    t_close(&x);
    img_free(&plain);
    img_free(&traced);
    t_end(&t);
}

/* Steps beyond the program's limits are refused before anything runs. */
static void test_refused_step(void **state)
{
    (void)state;
    struct op_test t;
    struct session x;
    fathom_err err = {0};
    two_products(&t, 3001);
    t_open(&x, &t, &backend_cpu, (struct cpu_config){0, 2});
    struct step s = t.s;
    s.n_tok = 5;
    assert_int_equal(backend_cpu.submit(x.dev, x.exec, &s, &err), FATHOM_EINVAL);
    t_close(&x);
    t_end(&t);
}

/* What cannot run is refused when it is compiled, with the op and the reason. */
static void test_refused_program(void **state)
{
    (void)state;
    struct op_test t;
    struct session x = {.b = &backend_cpu};
    fathom_err err = {0};
    t_begin(&t, "refused", 3002, lim);
    struct op *op = program_op(t.p, OP_ROUTE, 0, "t");
    struct op_route o = {.n_expert = 4, .k = 2, .scale = 1.0f};
    o.bias.w = WEIGHT_NONE;
    o.table.w = t_weight(&t, QT_I32, 1, 8, 2, 0);
    ((int32_t *)(uintptr_t)t.w[0].data)[5] = 4; /* experts are 0..3 */
    o.z = t_input(&t, "z", 4);
    o.idx = t_arena(&t, "idx", FORM_I32, ROWS_TOK, 2, 1);
    o.wt = t_arena(&t, "wt", FORM_F32, ROWS_TOK, 2, 1);
    o.off = t_arena(&t, "off", FORM_I32, ROWS_ONE, 5, 1);
    o.pair = t_arena(&t, "pair", FORM_I32, ROWS_ONE, 8, 1);
    op->route = o;
    t_seq(&t, (struct step_seq){.n_tok = 1});
    t_finish(&t, 0);
    assert_int_equal(backend_cpu.open(&x.dev, NULL, &err), 0);
    struct exec_bind bind = {0};
    assert_int_equal(backend_cpu.compile(x.dev, &x.exec, t.p, &bind, &err),
                     FATHOM_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "ROUTE"));
    assert_non_null(strstr(err.msg, "expert"));
    assert_non_null(backend_cpu.supports(x.dev, t.p, &t.p->ops[0]));
    struct op bad = t.p->ops[0];
    bad.kind = OP_KIND_COUNT;
    assert_non_null(backend_cpu.supports(x.dev, t.p, &bad));
    backend_cpu.close(x.dev);
    t_end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_refused_step),
        cmocka_unit_test(test_refused_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
