/* bench_engine_save.c - does writing KV state delay decoding? And what does a snapshot take on
 * disk? links: factory
 *
 * A synthetic model of Flash's width (few layers, few experts) decodes behind random rows of a
 * 32K-token conversation. Rounds without writing alternate with rounds in which the store's
 * writer never runs out of work: whole snapshots of that conversation (all segments and a
 * frontier), each under other ids. That is harder than real use, where a token in 2048 fills a
 * page. Printed: median and mean time of a step idle and while writing, their ratios, the
 * writer's rate, and the bytes of the files.
 *
 * Usage: bench_engine_save DIR [threads [layers [rounds [share]]]]; share: of a core for the
 * writer in percent (0: no limit), default 1, as the engine sets it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "factory/synthetic.h"
#include "kv/store.h"

enum { DEPTH = 32768, STEPS_MAX = 4096, ROUND_STEPS = 16, QUEUED = 200 };

struct bench {
    fathom_engine *e;
    fathom_session *s;
    struct kv_store *store;
    struct kv_geom geom;
    uint32_t *ids;
    struct frontier *front;
    unsigned held; /* pages and frontiers that the writer holds */
    double idle[STEPS_MAX], busy[STEPS_MAX];
    uint32_t n_idle, n_busy;
    uint32_t n_snapshots;
    double seconds;
};

static void page_read(void *user, uint32_t page, uint64_t at, void *dst, uint64_t n)
{
    const struct kv_pool *p = engine_pool(((struct bench *)user)->e);
    p->be->buf_read(p->dev, p->page, page * p->layout->page_bytes + at, dst, n);
}
static void page_write(void *user, uint32_t page, uint64_t at, const void *src, uint64_t n)
{
    (void)user, (void)page, (void)at, (void)src, (void)n;
    abort(); /* nothing is loaded here */
}
static void page_release(void *user, uint32_t page, void *ref)
{
    (void)page, (void)ref;
    ((struct bench *)user)->held--;
}

static int fail(const fathom_err *err)
{
    fprintf(stderr, "bench_engine_save: %s\n", err->msg);
    return 1;
}

static int open_all(struct bench *b, const struct synthetic *m, const char *dir,
                    uint32_t threads, double share, fathom_err *err)
{
    fathom_engine_options o = {.model_data = m->data,
                               .model_bytes = m->n_bytes,
                               .n_threads = threads,
                               .max_ctx = DEPTH + STEPS_MAX * 2,
                               .max_seq = 1,
                               .kv_no_share = true};
    int rc = fathom_engine_open(&b->e, &o, err);
    rc = rc ? rc : fathom_session_new(&b->s, b->e, err);
    rc = rc ? rc : session_fill(b->s, DEPTH, 1, err);
    rc = rc ? rc
            : kv_geom_from_layout(&b->geom, engine_layout(b->e), engine_shape(b->e)->n_vocab,
                                  err);
    struct kv_store_config c = {
        .dir = dir,
        .budget_bytes = (uint64_t)4 << 30,
        .geom = &b->geom,
        .queue_bytes = (uint64_t)2 << 30,
        .writer_share = share,
        .io = {.user = b, .read = page_read, .write = page_write, .release = page_release}};
    rc = rc ? rc : kv_store_open(&b->store, &c, err);
    b->ids = mem_alloc(DEPTH, sizeof *b->ids);
    b->front = mem_alloc(1, sizeof *b->front + (size_t)kv_geom_state_bytes(&b->geom, DEPTH));
    return rc ? rc : b->ids && b->front ? 0 : err_nomem(err, "ids", 0);
}

/* One token; its time goes to t. */
static int step(struct bench *b, double *t, fathom_err *err)
{
    uint32_t id = 7;
    int rc = fathom_session_append(b->s, &id, 1, err);
    fathom_work w = {b->s, 1, FATHOM_WANT_LAST};
    double t0 = clock_now();
    rc = rc ? rc : fathom_step(b->e, &w, 1, err);
    *t = clock_now() - t0;
    kv_store_poll(b->store);
    return rc;
}

/* Queues a whole snapshot under new ids. */
static int queue_snapshot(struct bench *b, uint64_t seed, fathom_err *err)
{
    struct rng g = {splitmix64(seed)};
    struct kv_chain chain;
    const struct kv_state *st = session_state(b->s);
    uint32_t size = engine_layout(b->e)->page_tokens, n = DEPTH / size;
    for (uint32_t i = 0; i < DEPTH; i++) {
        b->ids[i] = rng_below(&g, engine_shape(b->e)->n_vocab);
    }
    struct kv_id none = {{0}};
    int rc = kv_chain_init(&chain, &none, NULL, size, err);
    if (rc != 0) {
        return rc;
    }
    enum kv_why why = KV_WHY_NONE;
    for (uint32_t k = 0; k < n && why == KV_WHY_NONE; k++) {
        why = kv_store_put_segment(b->store, &chain, b->ids, k, st->pages[k], 1000, 1000, true);
        b->held += why == KV_WHY_NONE;
    }
    if (why == KV_WHY_NONE) {
        why = kv_store_put_frontier(b->store, &chain, b->ids, DEPTH, b->front->data, b->front,
                                    0, 1000);
        b->held += why == KV_WHY_NONE;
    }
    kv_chain_fini(&chain);
    return why == KV_WHY_NONE ? 0
                              : err_set(err, FATHOM_EIO, "not queued: %s", kv_why_name(why));
}

static int run_round(struct bench *b, uint64_t *seed, fathom_err *err)
{
    double t;
    int rc = 0;
    for (int i = 0; i < ROUND_STEPS && rc == 0; i++) {
        rc = step(b, &t, err);
        if (i > 0 && b->n_idle < STEPS_MAX) {
            b->idle[b->n_idle++] = t;
        }
    }
    double t0 = clock_now();
    for (int i = 0; i < ROUND_STEPS && rc == 0; i++) {
        while (rc == 0 && b->held < QUEUED) {
            rc = queue_snapshot(b, ++*seed, err);
            b->n_snapshots++;
        }
        rc = rc ? rc : step(b, &t, err);
        if (b->held == 0) {
            return err_set(err, FATHOM_EIO, "the writer was idle: more must be queued");
        }
        if (rc == 0 && b->n_busy < STEPS_MAX) {
            b->busy[b->n_busy++] = t;
        }
    }
    while (rc == 0 && b->held > 0) { /* not measured */
        kv_store_flush(b->store, 10);
        kv_store_poll(b->store);
    }
    b->seconds += clock_now() - t0;
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double mean(const double *v, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += v[i];
    }
    return sum / MAX(n, 1u);
}

static void report(struct bench *b)
{
    struct kv_store_stats st;
    kv_store_get_stats(b->store, &st);
    qsort(b->idle, b->n_idle, sizeof *b->idle, by_value);
    qsort(b->busy, b->n_busy, sizeof *b->busy, by_value);
    double m0 = b->idle[b->n_idle / 2], m1 = b->busy[b->n_busy / 2];
    double a0 = mean(b->idle, b->n_idle), a1 = mean(b->busy, b->n_busy);
    printf("steps: %u idle, %u while writing\n", b->n_idle, b->n_busy);
    printf("median: %.3f ms idle, %.3f ms while writing, ratio %.4f\n", m0 * 1e3, m1 * 1e3,
           m1 / m0);
    printf("mean:   %.3f ms idle, %.3f ms while writing, ratio %.4f\n", a0 * 1e3, a1 * 1e3,
           a1 / a0);
    printf("written %.1f MB at %.0f MB/s, %llu files\n", (double)st.written_bytes / 1e6,
           (double)st.written_bytes / b->seconds / 1e6, (unsigned long long)st.written_files);
    const struct layout *l = engine_layout(b->e);
    printf(
        "snapshot of %d tokens: %.1f bytes a token (%u layers; rows alone %.1f, frontier %llu)\n",
        DEPTH, (double)st.written_bytes / b->n_snapshots / DEPTH, l->n_layer,
        (double)layout_row_bytes(l, DEPTH) / DEPTH,
        (unsigned long long)kv_geom_frontier_file_bytes(&b->geom, DEPTH));
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_engine_save DIR [threads [layers [rounds [share]]]]\n");
        return 2;
    }
    fathom_err err = {0};
    uint32_t threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    double share = argc > 5 ? atof(argv[5]) / 100 : 0.01;
    uint32_t rounds = argc > 4 ? (uint32_t)atoi(argv[4]) : 6;
    struct synthetic_options so = {.shape = "flash",
                                   .recipe = "q2",
                                   .n_layer = argc > 3 ? (uint32_t)atoi(argv[3]) : 3,
                                   .n_expert = 8,
                                   .n_vocab = 4096,
                                   .seed = 1};
    struct synthetic m = {0};
    static struct bench b;
    if (synthetic_make(&m, &so, &err) != 0 ||
        open_all(&b, &m, argv[1], threads, share, &err) != 0) {
        return fail(&err);
    }
    memset(b.front, 0, sizeof *b.front + (size_t)kv_geom_state_bytes(&b.geom, DEPTH));
    uint64_t seed = (uint64_t)(clock_now() * 1e6);
    for (uint32_t i = 0; i < rounds; i++) {
        if (run_round(&b, &seed, &err) != 0) {
            return fail(&err);
        }
    }
    report(&b);
    kv_store_close(b.store, 5);
    fathom_session_free(b.s);
    fathom_engine_close(b.e);
    synthetic_free(&m);
    mem_free(b.ids);
    mem_free(b.front);
    return 0;
}
