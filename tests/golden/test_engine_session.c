/* The public interface on a small random model: opening and refusing, reuse, cancelling, forks,
 * memory budget, errors that change nothing, no allocation in the token loop, whole answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "golden/random_model.h"

static struct random_model model;
static uint32_t ids[2048];

static fathom_engine_options options(void)
{
    return (fathom_engine_options){.model_data = model.file,
                                   .model_bytes = model.file_bytes,
                                   .backend = "cpu",
                                   .n_threads = 2,
                                   .max_ctx = 1024,
                                   .max_seq = 3,
                                   .chunk = 32,
                                   .page_tokens = 128,
                                   .debug = "poison-kv"};
}

/* Sessions that see only their own tokens. */
static fathom_engine_options alone(void)
{
    fathom_engine_options o = options();
    o.kv_no_share = true;
    return o;
}

static fathom_engine *open_with(fathom_engine_options o)
{
    fathom_err err = {0};
    fathom_engine *e;
    if (fathom_engine_open(&e, &o, &err) != 0) {
        fail_msg("%s", err.msg);
    }
    return e;
}

static fathom_session *new_session(fathom_engine *e)
{
    fathom_session *s;
    assert_int_equal(fathom_session_new(&s, e, NULL), 0);
    return s;
}

static void step(fathom_session *s, fathom_engine *e, uint32_t n, enum fathom_want want)
{
    fathom_err err = {0};
    fathom_work w = {s, n, want};
    if (fathom_step(e, &w, 1, &err) != 0) {
        fail_msg("%s", err.msg);
    }
}

/* ---- opening ---- */

static void test_open(void **state)
{
    (void)state;
    fathom_err err = {0};
    fathom_engine *e;
    fathom_engine_options o = options();
    o.backend = "none";
    assert_int_equal(fathom_engine_open(&e, &o, &err), FATHOM_EUNSUPPORTED);
    assert_true(strstr(err.msg, "cpu") && strstr(err.msg, "ref"));
    assert_null(e);
    o = options();
    o.model_path = "x";
    assert_int_equal(fathom_engine_open(&e, &o, NULL), FATHOM_EINVAL);
    o.model_data = NULL;
    o.model_path = "/nonexistent/model.gguf";
    err = (fathom_err){0};
    assert_int_equal(fathom_engine_open(&e, &o, &err), FATHOM_ENOENT);
    assert_true(strstr(err.msg, "/nonexistent/model.gguf") != NULL);
    o = options();
    o.max_ctx = 1 << 20; /* the model ends at 4096 */
    assert_int_equal(fathom_engine_open(&e, &o, NULL), FATHOM_ELIMIT);

    e = open_with(options());
    fathom_info i;
    fathom_engine_info(e, &i);
    assert_string_equal(i.backend, "cpu");
    assert_string_equal(i.model_name, "random");
    assert_string_equal(i.release, "preview");
    assert_int_equal(i.max_ctx, 1024);
    assert_int_equal(i.max_seq, 3);
    assert_int_equal(i.chunk, 32);
    assert_false(i.has_tokenizer);
    assert_int_equal(i.kv_used_bytes, 0);
    const struct layout *l = engine_layout(e);
    assert_int_equal(i.kv_budget_bytes, 3 * layout_sequence_bytes(l, 1024));
    assert_int_equal(engine_n_classes(e), 3); /* 1, 8, 32 */
    assert_int_equal(engine_program(e, 2)->lim.t_max, 32);
    assert_int_equal(engine_class_of(e, 1), 0);
    assert_int_equal(engine_class_of(e, 2), 1);
    assert_int_equal(engine_class_of(e, 9), 2);
    /* Text functions say what is missing. */
    uint32_t *out;
    size_t n;
    err = (fathom_err){0};
    assert_int_equal(fathom_tokenize(e, "a", 1, false, &out, &n, &err), FATHOM_EUNSUPPORTED);
    assert_int_equal(fathom_token_eos(e), -1);
    assert_int_equal(fathom_token_bytes(e, 1, &n) == NULL || n == 0, 1);
    fathom_engine_close(e);
    fathom_engine_close(NULL);
}

static bool stop_loading(void *user, const char *stage, uint64_t done, uint64_t total)
{
    unsigned *calls = user;
    assert_string_equal(stage, "load");
    assert_true(done <= total);
    return ++*calls < 2;
}

static void test_load_progress(void **state)
{
    (void)state;
    unsigned calls = 0;
    fathom_engine *e;
    fathom_engine_options o = options();
    o.progress = stop_loading;
    o.progress_user = &calls;
    assert_int_equal(fathom_engine_open(&e, &o, NULL), FATHOM_ECANCEL);
    assert_int_equal(calls, 2);
}

static void test_memory(void **state)
{
    (void)state;
    fathom_engine_options o = alone();
    fathom_engine *e = open_with(o);
    struct layout l = *engine_layout(e);
    fathom_engine_close(e);
    fathom_err err = {0};
    o.kv_bytes = 3 * l.slot_bytes + 2 * l.page_bytes; /* 256 tokens */
    assert_int_equal(fathom_engine_open(&e, &o, &err), FATHOM_ENOMEM);
    assert_true(strstr(err.msg, "256 tokens") || strstr(err.msg, "kv_bytes"));
    o.max_ctx = 256;
    e = open_with(o);
    fathom_session *s = new_session(e), *t = new_session(e);
    fathom_reuse r;
    assert_int_equal(fathom_session_set(s, ids, 257, &r, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_sync(s, ids, 100, NULL, NULL, &r, NULL), 0);
    err = (fathom_err){0};
    assert_int_equal(fathom_session_set(t, ids, 129, &r, &err), FATHOM_ELIMIT);
    assert_true(strstr(err.msg, "kv_bytes") != NULL);
    assert_int_equal(fathom_session_pending(t), 0);
    assert_int_equal(fathom_session_append(t, ids, 129, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_append(t, ids, 128, NULL), 0); /* the last page */
    assert_int_equal(fathom_session_append(s, ids, 29, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_set(s, ids + 1, 129, NULL, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_len(s), 100);
    assert_int_equal(fathom_session_append(s, ids, 28, NULL), 0); /* fits its own page */
    fathom_session_free(t);
    assert_int_equal(fathom_session_append(s, ids, 128, NULL), 0);
    assert_int_equal(fathom_session_append(s, ids, 1, NULL), FATHOM_ELIMIT);
    fathom_session_free(s);
    pool_check(engine_pool(e));
    fathom_engine_close(e);
    /* Without an explicit context the budget decides it. */
    o.max_ctx = 0;
    e = open_with(o);
    fathom_info i;
    fathom_engine_info(e, &i);
    assert_int_equal(i.max_ctx, 256);
    fathom_engine_close(e);
    o.kv_bytes = 3 * l.slot_bytes;
    assert_int_equal(fathom_engine_open(&e, &o, NULL), FATHOM_ENOMEM);
}

static void test_plan(void **state)
{
    (void)state;
    fathom_plan p;
    fathom_err err = {0};
    assert_int_equal(fathom_plan_make(&p, NULL, "flash", "q2", 1 << 20, &err), 0);
    assert_int_equal(p.page_bytes, 7197184);
    assert_int_equal(p.slot_bytes, 22071488);
    assert_int_equal(p.rows_bytes, 14057ull * (1 << 18));
    assert_int_equal(p.kv_bytes, 512ull * 7197184 + 22071488);
    assert_int_equal(p.frontier_bytes, 3644416);
    assert_int_equal(p.total_bytes, p.weight_bytes + p.scratch_bytes + p.kv_bytes);
    assert_true(p.weight_bytes > 85e9 && p.weight_bytes < 88e9);
    assert_true(p.fits == (p.total_bytes <= p.available_bytes));
    assert_true(p.advice[0] != 0);
    fathom_engine_options o = options();
    assert_int_equal(fathom_plan_make(&p, &o, NULL, NULL, 512, &err), 0);
    assert_true(p.fits && p.n_seq == 3 && p.ctx == 512 && p.max_ctx_fits == 4096);
    assert_int_equal(fathom_plan_make(&p, &o, NULL, NULL, 5000, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_plan_make(&p, NULL, "huge", "q2", 0, NULL), FATHOM_EINVAL);
    assert_int_equal(fathom_plan_make(&p, NULL, "flash", "q99", 0, NULL), FATHOM_EINVAL);
    assert_int_equal(fathom_plan_make(&p, NULL, NULL, NULL, 0, NULL), FATHOM_EINVAL);
}

/* ---- reuse ---- */

static void test_reuse(void **state)
{
    (void)state;
    fathom_engine *e = open_with(alone());
    fathom_session *s = new_session(e);
    fathom_reuse r;
    assert_int_equal(fathom_session_sync(s, ids, 500, NULL, NULL, &r, NULL), 0);
    assert_true(r.matched == 0 && r.kept == 0 && r.rerun == 0 && r.computed == 500);
    assert_int_equal(fathom_session_len(s), 500);
    assert_memory_equal(fathom_session_ids(s), ids, 500 * sizeof ids[0]);
    static float last[256];
    memcpy(last, fathom_session_logits(s, 0), 97 * sizeof last[0]);
    /* The same again: only the last token is computed. */
    assert_int_equal(fathom_session_sync(s, ids, 500, NULL, NULL, &r, NULL), 0);
    assert_true(r.matched == 500 && r.kept == 499 && r.rerun == 0 && r.computed == 1);
    assert_memory_equal(last, fathom_session_logits(s, 0), 97 * sizeof last[0]);
    /* Longer: nothing again. */
    assert_int_equal(fathom_session_sync(s, ids, 520, NULL, NULL, &r, NULL), 0);
    assert_true(r.matched == 500 && r.kept == 500 && r.computed == 20);
    /* Back beyond V, not below the last multiple of 128: ring, then re-run. */
    assert_int_equal(fathom_session_set(s, ids, 505, &r, NULL), 0);
    assert_true(r.matched == 505 && r.kept == 384 && r.rerun == 120 && r.computed == 1);
    assert_int_equal(fathom_session_len(s), 384);
    assert_int_equal(fathom_session_pending(s), 121);
    /* The pending re-run has no logits; the new token has. */
    for (int i = 0; i < 4; i++) {
        step(s, e, 30, FATHOM_WANT_ALL);
        assert_null(fathom_session_logits(s, 0));
    }
    step(s, e, 1, FATHOM_WANT_LAST);
    assert_non_null(fathom_session_logits(s, 0));
    /* A frontier brings back what the rings lost. */
    assert_int_equal(fathom_session_rewind(s, 0, &r, NULL), 0);
    assert_int_equal(fathom_session_sync(s, ids, 300, NULL, NULL, &r, NULL), 0);
    assert_int_equal(fathom_session_checkpoint(s, NULL), 0);
    assert_int_equal(fathom_session_checkpoint(s, NULL), 0); /* once is enough */
    uint64_t front = pool_used_bytes(engine_pool(e), KV_FRONTIERS);
    assert_int_equal(front, layout_frontier_bytes(engine_layout(e), 256));
    assert_int_equal(fathom_session_sync(s, ids, 1000, NULL, NULL, &r, NULL), 0);
    assert_int_equal(fathom_session_rewind(s, 260, &r, NULL), 0);
    assert_true(r.frontier == 256 && r.kept == 256 && r.rerun == 4);
    assert_int_equal(fathom_session_rewind(s, 200, &r, NULL), 0); /* the frontier is gone */
    assert_int_equal(r.frontier, 0);
    assert_int_equal(pool_used_bytes(engine_pool(e), KV_FRONTIERS), 0);
    assert_int_equal(fathom_session_rewind(s, 201, &r, NULL), FATHOM_EINVAL);
    fathom_session_free(s);
    fathom_engine_close(e);
}

/* At most 8 frontiers a session; under pressure they make room for pages. */
static void test_frontier_limits(void **state)
{
    (void)state;
    fathom_engine *e = open_with(alone());
    fathom_session *s = new_session(e);
    const struct kv_pool *p = engine_pool(e);
    uint64_t one = layout_frontier_bytes(engine_layout(e), 128);
    for (uint32_t n = 128; n <= 1024; n += 128) {
        assert_int_equal(fathom_session_sync(s, ids, n, NULL, NULL, NULL, NULL), 0);
        assert_int_equal(fathom_session_checkpoint(s, NULL), 0);
    }
    assert_int_equal(pool_used_bytes(p, KV_FRONTIERS), 8 * one);
    fathom_session *t = new_session(e), *u = new_session(e);
    assert_int_equal(fathom_session_set(t, ids, 1024, NULL, NULL), 0);
    assert_int_equal(fathom_session_set(u, ids, 1024, NULL, NULL), 0);
    assert_int_equal(pool_used_bytes(p, KV_FRONTIERS), 0);
    fathom_session_free(t);
    fathom_session_free(u);
    assert_int_equal(fathom_session_checkpoint(s, NULL), 0);
    assert_int_equal(pool_used_bytes(p, KV_FRONTIERS), one);
    fathom_session *f;
    assert_int_equal(fathom_session_fork(&f, s, 1024, NULL), 0); /* shared, counted once */
    assert_int_equal(pool_used_bytes(p, KV_FRONTIERS), one);
    assert_int_equal(pool_used_bytes(p, KV_PAGES), 8 * engine_layout(e)->page_bytes);
    fathom_session_free(s);
    assert_int_equal(pool_used_bytes(p, KV_FRONTIERS), one);
    fathom_session_free(f);
    assert_int_equal(pool_used_bytes(p, KV_KIND_COUNT), 0);
    fathom_engine_close(e);
}

static void test_sessions_end(void **state)
{
    (void)state;
    fathom_engine *e = open_with(options());
    fathom_session *s[3], *more;
    for (int i = 0; i < 3; i++) {
        s[i] = new_session(e);
    }
    fathom_err err = {0};
    assert_int_equal(fathom_session_new(&more, e, &err), FATHOM_ELIMIT);
    assert_true(strstr(err.msg, "max_seq") != NULL);
    assert_int_equal(fathom_session_fork(&more, s[0], 0, NULL), FATHOM_ELIMIT);
    fathom_session_free(s[1]);
    assert_int_equal(fathom_session_fork(&more, s[0], 0, NULL), 0);
    fathom_session_free(s[0]);
    fathom_session_free(s[2]);
    fathom_session_free(more);
    fathom_session_free(NULL);
    fathom_engine_close(e);
}

/* ---- errors change nothing ---- */

static void test_wrong_calls(void **state)
{
    (void)state;
    fathom_engine *e = open_with(options());
    fathom_session *s = new_session(e), *t = new_session(e);
    uint32_t bad = 97;
    assert_int_equal(fathom_session_set(s, ids, 0, NULL, NULL), FATHOM_EINVAL);
    assert_int_equal(fathom_session_set(s, &bad, 1, NULL, NULL), FATHOM_EINVAL);
    assert_int_equal(fathom_session_append(s, &bad, 1, NULL), FATHOM_EINVAL);
    assert_int_equal(fathom_session_set(s, ids, 1025, NULL, NULL), FATHOM_ELIMIT);
    assert_int_equal(fathom_session_set(s, ids, 40, NULL, NULL), 0);
    assert_int_equal(fathom_session_append(t, ids, 2, NULL), 0);
    const fathom_work wrong[][2] = {
        {{s, 0, FATHOM_WANT_LAST}, {t, 1, FATHOM_WANT_LAST}},
        {{s, 41, FATHOM_WANT_LAST}, {t, 1, FATHOM_WANT_LAST}},
        {{s, 20, FATHOM_WANT_LAST}, {s, 1, FATHOM_WANT_LAST}},
        {{s, 31, FATHOM_WANT_LAST}, {t, 2, FATHOM_WANT_LAST}}, /* 33 of 32 */
        {{NULL, 1, FATHOM_WANT_LAST}, {t, 2, FATHOM_WANT_LAST}},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        fathom_err err = {0};
        assert_int_equal(fathom_step(e, wrong[i], 2, &err), FATHOM_EINVAL);
        assert_true(err.msg[0] != 0);
        assert_int_equal(fathom_session_len(s), 0);
        assert_int_equal(fathom_session_len(t), 0);
    }
    assert_int_equal(fathom_step(e, wrong[0], 0, NULL), FATHOM_EINVAL);
    fathom_choice c;
    fathom_sampling p = {0};
    assert_int_equal(fathom_session_sample(s, &p, NULL, &c, NULL), FATHOM_EINVAL);
    step(s, e, 30, FATHOM_WANT_NONE);
    assert_int_equal(fathom_session_sample(s, &p, NULL, &c, NULL), FATHOM_EINVAL);
    step(s, e, 10, FATHOM_WANT_LAST);
    assert_int_equal(fathom_session_sample(s, &p, NULL, &c, NULL), 0);
    step(t, e, 1, FATHOM_WANT_LAST); /* ends the logits of s */
    assert_int_equal(fathom_session_sample(s, &p, NULL, &c, NULL), FATHOM_EINVAL);
    fathom_session_free(s);
    fathom_session_free(t);
    fathom_engine_close(e);
}

struct cancel_at {
    fathom_session *s;
    unsigned after, calls;
    bool by_return;
};
static bool cancel_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    struct cancel_at *c = user;
    assert_string_equal(stage, "prefill");
    assert_true(done <= total && total == 500);
    if (++c->calls == c->after) {
        if (c->by_return) {
            return false;
        }
        fathom_session_cancel(c->s);
    }
    return true;
}

static void test_cancel(void **state)
{
    (void)state;
    fathom_engine *e = open_with(alone());
    for (int by_return = 0; by_return < 2; by_return++) {
        fathom_session *s = new_session(e);
        struct cancel_at c = {s, 3, 0, by_return};
        fathom_reuse r;
        assert_int_equal(fathom_session_sync(s, ids, 500, cancel_progress, &c, &r, NULL),
                         FATHOM_ECANCEL);
        assert_int_equal(fathom_session_len(s), 96); /* three chunks are kept */
        assert_int_equal(fathom_session_pending(s), 404);
        assert_int_equal(fathom_session_sync(s, ids, 500, NULL, NULL, &r, NULL), 0);
        assert_true(r.kept == 96 && r.computed == 404);
        fathom_session_free(s);
    }
    fathom_engine_close(e);
}

/* A decode step, the choice and the append allocate nothing, except that a page that became full
 * is entered in the prefix index. */
static void test_no_allocation(void **state)
{
    (void)state;
    fathom_engine *e = open_with(options());
    fathom_session *s = new_session(e), *t = new_session(e);
    assert_int_equal(fathom_session_sync(s, ids, 200, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(fathom_session_sync(t, ids, 50, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(fathom_session_append(s, ids, 1, NULL), 0);
    assert_int_equal(fathom_session_append(t, ids, 1, NULL), 0);
    fathom_sampling p = {.temperature = 0.8f, .top_p = 0.9f, .repeat_penalty = 1.1f};
    unsigned n = 0, n_pages = 0;
    for (int i = 0; i < 200; i++) { /* page ends and group ends included */
        bool fills =
            (fathom_session_len(s) + 1) % 128 == 0 || (fathom_session_len(t) + 1) % 128 == 0;
        fathom_work w[2] = {{s, 1, FATHOM_WANT_LAST}, {t, 1, FATHOM_WANT_LAST}};
        fathom_choice c[2];
        mem_guard_begin();
        int rc = fathom_step(e, w, 2, NULL);
        rc = rc ? rc : fathom_session_sample(s, &p, NULL, &c[0], NULL);
        rc = rc ? rc : fathom_session_sample(t, &p, NULL, &c[1], NULL);
        rc = rc ? rc : fathom_session_append(s, &c[0].id, 1, NULL);
        rc = rc ? rc : fathom_session_append(t, &c[1].id, 1, NULL);
        *(fills ? &n_pages : &n) += mem_guard_end();
        assert_int_equal(rc, 0);
    }
    assert_int_equal(n, 0);
    assert_true(n_pages <= 12); /* of 3 pages */
    fathom_session_free(s);
    fathom_session_free(t);
    fathom_engine_close(e);
}

/* ---- whole answers ---- */

struct answer {
    uint32_t ids[64], n, end_after;
};
static bool on_token(void *user, const fathom_choice *c, const char *bytes, size_t n)
{
    (void)bytes;
    (void)n;
    struct answer *a = user;
    a->ids[a->n++] = c->id;
    return a->n != a->end_after;
}

static void test_generate(void **state)
{
    (void)state;
    fathom_engine *e = open_with(options());
    fathom_session *s = new_session(e), *t = new_session(e);
    struct answer a = {0}, b = {0};
    fathom_generate_options o = {.max_tokens = 40,
                                 .on_token = on_token,
                                 .user = &a,
                                 .sampling = {.temperature = 0.9f, .top_k = 20, .seed = 5}};
    fathom_result r;
    assert_int_equal(fathom_generate(s, ids, 100, &o, &r, NULL), 0);
    assert_int_equal(r.finish, FATHOM_FINISH_LENGTH);
    assert_true(r.n_prompt == 100 && r.n_generated == 40 && a.n == 40);
    assert_int_equal(fathom_session_len(s) + fathom_session_pending(s), 140);
    assert_memory_equal(fathom_session_ids(s) + 100, a.ids, 40 * sizeof a.ids[0]);
    /* The same by hand, with another chunking. */
    o.user = &b;
    b.end_after = 7;
    assert_int_equal(fathom_session_append(t, ids, 100, NULL), 0);
    for (int i = 0; i < 10; i++) {
        step(t, e, 10, FATHOM_WANT_NONE);
    }
    assert_int_equal(fathom_generate(t, ids, 100, &o, &r, NULL), 0);
    assert_int_equal(r.finish, FATHOM_FINISH_CALLER);
    assert_int_equal(r.n_generated, 7);
    assert_int_equal(r.reuse.kept, 99);
    assert_memory_equal(a.ids, b.ids, 7 * sizeof a.ids[0]);
    /* To the end of the context. */
    o = (fathom_generate_options){0};
    assert_int_equal(fathom_generate(s, ids, 1000, &o, &r, NULL), 0);
    assert_true(r.finish == FATHOM_FINISH_LENGTH && r.n_generated == 24);
    assert_int_equal(fathom_generate(s, ids, 1025, &o, &r, NULL), FATHOM_ELIMIT);
    fathom_session_free(s);
    fathom_session_free(t);
    fathom_engine_close(e);
}

static void test_misc(void **state)
{
    (void)state;
    assert_true(fathom_version()[0] != 0);
    for (int i = FATHOM_EUNSUPPORTED; i <= 0; i++) {
        assert_string_not_equal(fathom_status_text(i), fathom_status_text(1));
    }
}

int main(void)
{
    struct random_config c = {.seed = 21,
                              .shape = {.n_layer = 5, .ratio = {0, 4, 128, 4, 8}, .n_hash = 1}};
    random_model_make(&model, &c);
    struct rng g = {5};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        ids[i] = rng_below(&g, model.shape.n_vocab);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),         cmocka_unit_test(test_load_progress),
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_plan),
        cmocka_unit_test(test_reuse),        cmocka_unit_test(test_frontier_limits),
        cmocka_unit_test(test_sessions_end), cmocka_unit_test(test_wrong_calls),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_generate),     cmocka_unit_test(test_misc),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    random_model_free(&model);
    return failed;
}
