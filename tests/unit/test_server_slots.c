/* test_server_slots.c - where prompts go, and KV memory: a scripted model whose sequences take
 * memory by the page. The budget is never exceeded; idle sequences make room; prefixes are found
 * in idle and in running sequences, forked when that is better, and never across salts. */
#include "base/rng.h"
#include "server/sched_int.h"
#include "server_util.h"

enum { SEQS = 4, PAGE = 64, PAGE_BYTES = 100 };

static const struct model_ops *real;
static struct model_ops counted;
static void *live[SEQS + 1]; /* sequences that exist */
static uint32_t n_live, n_forks;
static uint64_t budget;

static int seq_new(void *impl, void **seq, struct sip_digest salt, fathom_err *err)
{
    int rc = real->seq_new(impl, seq, salt, err);
    assert_true(n_live < SEQS); /* never more than there are slots */
    live[n_live++] = *seq;
    return rc;
}

static void seq_free(void *impl, void *seq)
{
    uint32_t i = 0;
    while (live[i] != seq) {
        i++;
    }
    live[i] = live[--n_live];
    real->seq_free(impl, seq);
}

static int seq_fork(void *impl, void **out, void *seq, uint32_t n, fathom_err *err)
{
    int rc = real->seq_fork(impl, out, seq, n, err);
    assert_true(n_live < SEQS);
    live[n_live++] = *out;
    n_forks++;
    return rc;
}

static void memory(void *impl, struct model_memory *out)
{
    *out = (struct model_memory){.budget_bytes = budget};
    for (uint32_t i = 0; i < n_live; i++) {
        uint32_t n;
        real->ids(impl, live[i], &n);
        n += real->pending(impl, live[i]);
        out->used_bytes += (uint64_t)(n + PAGE - 1) / PAGE * PAGE_BYTES;
    }
}

static int setup(void **state)
{
    (void)state;
    util_open("{\"completion\":\"x\"}", SEQS);
    real = util_model.ops;
    counted = *real;
    counted.seq_new = seq_new;
    counted.seq_free = seq_free;
    counted.seq_fork = seq_fork;
    counted.memory = memory;
    util_model.ops = &counted;
    util_model.info.page_tokens = PAGE;
    util_model.info.page_bytes = PAGE_BYTES;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    util_close();
    return 0;
}

/* A run whose prompt is `first` repeated `same` times, then `rest` numbers from `from`. */
static struct run *make(uint32_t first, uint32_t same, uint32_t from, uint32_t rest,
                        uint32_t answer, uint64_t salt)
{
    struct job_spec spec = {.max_tokens = answer, .salt = {{salt, 0}}};
    for (uint32_t i = 0; i < same; i++) {
        ids_add(&spec.prompt, 10 + first);
    }
    for (uint32_t i = 0; i < rest; i++) {
        ids_add(&spec.prompt, 10 + (from + i) % 500);
    }
    struct run *r = mem_calloc(1, sizeof *r);
    r->job = job_new(&spec);
    r->reserve = same + rest + answer;
    return r;
}

static void compute(struct slots *s, struct run *r, uint32_t n)
{
    uint32_t pending = real->pending(util_model.impl, r->seq);
    struct model_work w = {r->seq, MIN(n, pending), n >= pending};
    assert_int_equal(real->step(util_model.impl, &w, 1, NULL), 0);
    r->state = n >= pending ? RUN_DECODE : RUN_PREFILL;
    (void)s;
}

static void end(struct slots *s, struct run *r)
{
    if (r->seq) {
        slots_release(s, r);
    }
    job_leave(r->job);
    mem_free(r);
}

static enum place place(struct slots *s, struct run *r)
{
    fathom_err err = {0};
    enum place p = slots_place(s, r, &err);
    struct model_memory now;
    memory(util_model.impl, &now);
    assert_true(now.used_bytes <= now.budget_bytes);
    return p;
}

static void test_prefixes(void **state)
{
    struct slots s;
    (void)state;
    budget = 1000000;
    n_forks = 0;
    assert_int_equal(slots_init(&s, &util_model, NULL), 0);
    struct run *a = make(1, 2000, 0, 10, 10, 0);
    assert_int_equal(place(&s, a), PLACE_OK);
    assert_int_equal(a->reuse.kept, 0);
    compute(&s, a, 500);
    /* the same prefix is being computed: later; another salt, or another prompt: now */
    struct run *b = make(1, 2000, 99, 10, 10, 0);
    struct run *c = make(1, 2000, 99, 10, 10, 7), *d = make(2, 300, 5, 10, 10, 0);
    assert_int_equal(place(&s, b), PLACE_LATER);
    assert_int_equal(place(&s, c), PLACE_OK);
    assert_int_equal(c->reuse.kept, 0);
    assert_int_equal(place(&s, d), PLACE_OK);
    compute(&s, a, 5000);
    /* computed and still in use: forked */
    assert_int_equal(place(&s, b), PLACE_OK);
    assert_true(b->reuse.kept == 2000 && n_forks == 1 && b->seq != a->seq);
    struct run *e = make(3, 10, 0, 10, 10, 0);
    assert_int_equal(place(&s, e), PLACE_WAIT); /* no slot */
    /* an idle sequence goes on where it was */
    void *seq = a->seq;
    end(&s, a);
    struct run *f = make(1, 2000, 0, 50, 10, 0);
    assert_int_equal(place(&s, f), PLACE_OK);
    assert_true(f->seq == seq && f->reuse.kept == 2010);
    end(&s, b);
    end(&s, c);
    end(&s, d);
    end(&s, e);
    end(&s, f);
    slots_fini(&s);
    assert_int_equal(n_live, 0);
}

static void test_memory(void **state)
{
    struct slots s;
    (void)state;
    budget = 40 * PAGE_BYTES; /* 2560 tokens */
    assert_int_equal(slots_init(&s, &util_model, NULL), 0);
    struct run *a = make(1, 640, 0, 0, 640, 0); /* promised 20 pages */
    assert_int_equal(place(&s, a), PLACE_OK);
    compute(&s, a, 10000);
    struct run *b = make(2, 640, 0, 0, 600, 0); /* 20 pages: just fits */
    assert_int_equal(place(&s, b), PLACE_OK);
    compute(&s, b, 10000);
    struct run *c = make(3, 10, 0, 0, 10, 0);
    assert_int_equal(place(&s, c), PLACE_WAIT); /* all is promised */
    end(&s, b);
    assert_int_equal(place(&s, c), PLACE_OK); /* b's promise is gone, its tokens stay idle */
    assert_int_equal(n_live, 3);
    struct run *d = make(4, 1000, 0, 0, 180, 0); /* 19 pages: b's ten must go */
    assert_int_equal(place(&s, d), PLACE_OK);
    assert_int_equal(n_live, 3);
    struct run *e = make(5, 5000, 0, 0, 10, 0);
    assert_int_equal(place(&s, e), PLACE_WAIT); /* larger than all, but others run */
    end(&s, a);
    end(&s, c);
    end(&s, d);
    end(&s, e);
    slots_fini(&s);
    assert_int_equal(n_live, 0);
}

static void test_random(void **state)
{
    struct slots s;
    struct rng r = {3};
    struct run *run[SEQS] = {0};
    (void)state;
    budget = 60 * PAGE_BYTES;
    assert_int_equal(slots_init(&s, &util_model, NULL), 0);
    for (int i = 0; i < 3000; i++) {
        uint32_t k = rng_below(&r, SEQS);
        if (run[k] && rng_below(&r, 3) == 0) {
            end(&s, run[k]);
            run[k] = NULL;
        } else if (run[k]) {
            compute(&s, run[k], 1 + rng_below(&r, 300));
        } else {
            run[k] = make(rng_below(&r, 4), rng_below(&r, 900), rng_below(&r, 3),
                          1 + rng_below(&r, 100), 1 + rng_below(&r, 500), rng_below(&r, 2));
            if (place(&s, run[k]) != PLACE_OK) {
                end(&s, run[k]);
                run[k] = NULL;
            }
        }
    }
    for (int k = 0; k < SEQS; k++) {
        if (run[k]) {
            end(&s, run[k]);
        }
    }
    slots_fini(&s);
    assert_int_equal(n_live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prefixes),
                                       cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
