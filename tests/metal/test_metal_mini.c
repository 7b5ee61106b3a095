/* test_metal_mini.c - a short generation of the mini model through the Metal backend on the
 * emulated device, against `ref` and the cpu backend: the prompt as one step (many tokens), greedy
 * decoding token by token, and the same tokens as one verification step. The same tokens from all,
 * logits as near to ref as those of cpu, and on metal the same bits from decoding and verification.
 * Two recipes of the converter; with FATHOM_TEST_LONG every recipe, and the K types of convert
 * --dense. */
// links: engine factory
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "factory/convert.h"
#include "fathom/fathom.h"
#include "standin.h"

enum { V = 2304, N_PROMPT = 29, N_NEW = 4 };
/* "Tell me a story about Sara and a shell.", as the mini model's template writes it. */
static const uint32_t PROMPT[N_PROMPT] = {0,   59,   293, 477, 260,  1694, 1518, 1128, 435, 479,
                                          16,  2290, 54,  574, 678,  260,  370,  869,  943, 327,
                                          287, 67,   305, 260, 1225, 862,  16,   2291, 2292};

struct run {
    float prompt[N_PROMPT][V], decoded[N_NEW][V], verified[N_NEW][V];
    uint32_t ids[N_NEW + 1]; /* the choice behind the prompt and behind each new token */
};
static struct run ref, cpu, metal;

static void ok(int rc, const fathom_err *err)
{
    const char *fault = standin_fault();
    if (rc || fault) {
        fail_msg("%s", fault ? fault : err->msg);
    }
}

static void step(fathom_engine *e, fathom_session *s, uint32_t n, float (*out)[V])
{
    fathom_err err = {0};
    fathom_work w = {s, n, FATHOM_WANT_ALL};
    ok(fathom_step(e, &w, 1, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        const float *row = fathom_session_logits(s, i);
        assert_non_null(row);
        memcpy(out[i], row, sizeof out[i]);
    }
}

static uint32_t choose(fathom_session *s)
{
    fathom_choice c;
    fathom_sampling greedy = {0};
    fathom_err err = {0};
    ok(fathom_session_sample(s, &greedy, NULL, &c, &err), &err);
    return c.id;
}

static void generate(struct run *r, const char *path, const char *backend)
{
    fathom_err err = {0};
    fathom_engine *e;
    fathom_session *s, *fork;
    fathom_engine_options o = {.model_path = path,
                               .backend = backend,
                               .max_ctx = 256,
                               .max_seq = 2,
                               .chunk = 32,
                               .page_tokens = 128};
    ok(fathom_engine_open(&e, &o, &err), &err);
    ok(fathom_session_new(&s, e, &err), &err);
    ok(fathom_session_append(s, PROMPT, N_PROMPT, &err), &err);
    step(e, s, N_PROMPT, r->prompt);
    r->ids[0] = choose(s);
    ok(fathom_session_fork(&fork, s, N_PROMPT, &err), &err);
    for (uint32_t i = 0; i < N_NEW; i++) {
        ok(fathom_session_append(s, &r->ids[i], 1, &err), &err);
        step(e, s, 1, &r->decoded[i]);
        r->ids[i + 1] = choose(s);
    }
    ok(fathom_session_append(fork, r->ids, N_NEW, &err), &err);
    step(e, fork, N_NEW, r->verified);
    fathom_session_free(fork);
    fathom_session_free(s);
    fathom_engine_close(e);
    ok(0, &err);
}

static double rms(float (*a)[V], float (*b)[V], uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n * V; i++) {
        double d = (double)a[i / V][i % V] - (double)b[i / V][i % V];
        sum += d * d;
    }
    return sqrt(sum / ((double)n * V));
}

/* As near to ref as cpu is: roundings flip in codes of 8 bits and in stored rows, in either. */
static void near(const char *recipe, const char *what, float (*r)[V], float (*c)[V],
                 float (*m)[V], uint32_t n)
{
    double dc = rms(r, c, n), dm = rms(r, m, n);
    print_message("%s, %s: rms difference to ref %.2g, cpu %.2g\n", recipe, what, dm, dc);
    assert_true(dm <= 2 * dc + 1e-3);
}

static void one_recipe(const char *recipe, const char *dense)
{
    char path[128], name[32];
    fathom_err err = {0};
    const char *tmp = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.60s/fathom-metal-mini-%ld.gguf", tmp ? tmp : "/tmp",
             (long)getpid());
    struct convert_options o = {
        .dir = "models/mini", .out = path, .recipe = recipe, .dense = dense};
    snprintf(name, sizeof name, "%s%s%s", recipe, dense ? " dense " : "", dense ? dense : "");
    ok(convert_run(&o, &err), &err);
    generate(&ref, path, "ref");
    generate(&cpu, path, "cpu");
    generate(&metal, path, "metal");
    unlink(path);
    near(name, "prompt", ref.prompt, cpu.prompt, metal.prompt, N_PROMPT);
    assert_memory_equal(ref.ids, cpu.ids, sizeof ref.ids);
    assert_memory_equal(ref.ids, metal.ids, sizeof ref.ids);
    near(name, "decoding", ref.decoded, cpu.decoded, metal.decoded, N_NEW);
    assert_memory_equal(metal.decoded, metal.verified, sizeof metal.decoded);
}

static void test_generation(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *dense;
    } cases[] = {{"q8", NULL},    {"bf16", NULL},   {"f16", NULL},       {"q4", NULL},
                 {"mxfp4", NULL}, {"q2", NULL},     {"q2-q4tail", NULL}, {"q4", "q6_k"},
                 {"q4", "q5_k"},  {"mxfp4", "q4_k"}};
    size_t n = getenv("FATHOM_TEST_LONG") ? ARRAY_LEN(cases) : 2;
    for (size_t i = 0; i < n; i++) {
        one_recipe(cases[i].recipe, cases[i].dense);
    }
}

int main(void)
{
    struct standin_options o = {
        .emu = {.order = EMU_FORWARD, .workers = 2}, .shuffle = true, .shuffle_seed = 9};
    standin_set(&o);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_generation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
