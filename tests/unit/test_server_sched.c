/* test_server_sched.c - the scheduler with a scripted model and many threads that ask, join, read
 * slowly and leave at random times: every answer that is read to its end is the script's, ends
 * exactly once, and nothing is left behind. Meant for the thread sanitizer, too. */
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/sched.h"
#include "server_util.h"

enum { THREADS = 6, JOBS = 40 };

static struct sched *sched;
static struct metrics metrics;

static void quiet(void *user, enum log_level level, const char *line)
{
    (void)user;
    (void)level;
    (void)line; /* the steps that fail are meant to */
}

static int setup(void **state)
{
    (void)state;
    log_set_sink(quiet, NULL);
    return util_open(
        "{\"match\":\"[1]\",\"completion\":\"</think>one answer with some words\"}\n"
        "{\"match\":\"[2]\",\"completion\":\"r</think>another\"}\n"
        "{\"match\":\"[3]\",\"completion\":\"</think>fails late\",\"fault_after\":3}\n"
        "{\"completion\":\"x\"}\n",
        4);
}

static int teardown(void **state)
{
    (void)state;
    util_close();
    return 0;
}

static void make_spec(struct job_spec *s, int kind, uint32_t extra, bool seeded)
{
    char text[64];
    *s = (struct job_spec){
        .chat = true, .in_reasoning = true, .max_tokens = 100, .seeded = seeded};
    s->sampling.seed = extra % 2;
    snprintf(text, sizeof text, "[%d] prompt number %u ", kind, extra % 3);
    for (int i = 0; i < 40; i++) {
        tokenizer_encode(util_tok, text, strlen(text), false, &s->prompt);
    }
}

static void nap(struct rng *r)
{
    nanosleep(&(struct timespec){0, (long)rng_below(r, 500000)}, NULL);
}

/* Reads a job; leaves early with some chance. Checks what was read to its end. */
static void read_job(struct job *j, int kind, struct rng *r)
{
    static const char *const want[] = {"", "one answer with some words", "another", ""};
    struct job_reader rd = {.job = j};
    struct buf content = {0};
    bool ended = false, leave = rng_below(r, 4) == 0;
    enum finish finish = FINISH_STOP;
    double give_up = clock_now() + 30;
    while (!ended && !(leave && rng_below(r, 6) == 0)) {
        assert_true(clock_now() < give_up);
        job_read(&rd, 0.05);
        assert_false(rd.failed);
        for (size_t i = 0; i < rd.n; i++) {
            assert_false(ended);
            if (rd.event[i].kind == JOB_EV_CONTENT) {
                buf_add_slice(&content, job_text(&rd, &rd.event[i]));
            }
            ended = rd.event[i].kind == JOB_EV_END;
            finish = rd.event[i].finish;
        }
        nap(r);
    }
    if (ended && kind == 3) {
        assert_int_equal(finish, FINISH_FAULT);
    } else if (ended) {
        assert_int_equal(finish, FINISH_STOP);
        assert_string_equal(buf_cstr(&content), want[kind]);
        assert_true(job_usage(j).output > 0);
    }
    job_reader_fini(&rd);
    buf_free(&content);
    job_leave(j);
    sched_poke(sched);
}

static void *client(void *number)
{
    struct rng r = {(uint64_t)(uintptr_t)number * 977 + 1};
    for (int i = 0; i < JOBS; i++) {
        struct job_spec spec;
        enum submit how;
        int kind = 1 + (int)rng_below(&r, 3);
        make_spec(&spec, kind, rng_below(&r, 100), rng_below(&r, 2));
        spec.key = rng_below(&r, 3);
        struct job *j = sched_submit(sched, &spec, &how);
        if (j) {
            read_job(j, kind, &r);
        } else {
            assert_int_equal(how, SUBMIT_FULL);
            nap(&r);
        }
    }
    return NULL;
}

static void *engine(void *unused)
{
    fathom_err err = {0};
    (void)unused;
    assert_int_equal(sched_run(sched, &util_model, &err), 0);
    return NULL;
}

static void test_many_clients(void **state)
{
    pthread_t threads[THREADS], engine_thread;
    (void)state;
    sched = sched_new(
        &(struct sched_config){.max_queue = 5, .stall_seconds = 0.1, .metrics = &metrics});
    assert_non_null(sched);
    assert_int_equal(pthread_create(&engine_thread, NULL, engine, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, client, (void *)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    sched_stop(sched, 5);
    pthread_join(engine_thread, NULL);
    assert_int_equal(atomic_load(&metrics.running), 0);
    assert_int_equal(atomic_load(&metrics.queued), 0);
    struct job_spec spec;
    enum submit how;
    make_spec(&spec, 1, 0, true);
    assert_null(sched_submit(sched, &spec, &how));
    assert_int_equal(how, SUBMIT_STOPPING);
    sched_free(sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_clients)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
