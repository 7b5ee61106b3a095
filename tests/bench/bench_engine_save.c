/* bench_engine_save.c - does writing KV state delay decoding? And what does a snapshot take on
 * disk? links: factory
 *
 * A synthetic model of Flash's width (few layers, few experts) decodes behind random rows of a
 * 32K-token conversation, in short blocks of steps. Three blocks make a triple, in random order:
 * two idle ones (A, B) and one (W) in which the store's writer never runs out of work: whole
 * snapshots of that conversation (all segments and a frontier), each under other ids. That is
 * harder than real use, where a token in 2048 fills a page. What the writer has left at the end
 * of W is written before the next block; the first step of a block is not counted.
 *
 * Printed: the time of a step in W over that in A and B together, and in B over that in A, which is
 * what the machine's noise alone looks like: as ratio of means, of medians, and as the median of
 * the triples' own ratios, which slow changes of the machine do not touch; 95 % intervals by a
 * bootstrap over triples; the writer's rate; the bytes of the files.
 *
 * Usage: bench_engine_save DIR [threads [layers [seconds [share]]]]; share: of a core for the
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

enum {
    DEPTH = 32768,
    BLOCK = 6,         /* counted steps */
    TRIPLES_MAX = 400, /* (BLOCK + 1) * 3 steps each */
    QUEUED = 64,       /* files that wait for the writer */
    RESAMPLES = 2000
};
enum kind { IDLE_A, IDLE_B, WRITING, KINDS };

struct bench {
    fathom_engine *e;
    fathom_session *s;
    struct kv_store *store;
    struct kv_geom geom;
    uint32_t *ids;
    struct frontier *front;
    unsigned held;         /* pages and frontiers that the writer holds */
    struct kv_chain chain; /* of the snapshot that is being queued; `part` of its files are */
    uint32_t part, n_parts;
    uint64_t seed;
    struct triple {
        double t[KINDS][BLOCK]; /* seconds of the steps */
    } * triple;
    uint32_t n;
    double write_seconds; /* of the blocks W */
    uint64_t write_bytes;
    uint32_t writer_idle; /* steps of W at whose end nothing was queued */
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
                               .max_ctx = DEPTH + TRIPLES_MAX * (BLOCK + 1) * KINDS,
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

/* Begins a snapshot under new ids. */
static int next_snapshot(struct bench *b, fathom_err *err)
{
    struct rng g = {splitmix64(b->seed++)};
    struct kv_id none = {{0}};
    kv_chain_fini(&b->chain);
    for (uint32_t i = 0; i < DEPTH; i++) {
        b->ids[i] = rng_below(&g, engine_shape(b->e)->n_vocab);
    }
    b->part = 0;
    b->n_parts = DEPTH / engine_layout(b->e)->page_tokens + 1;
    return kv_chain_init(&b->chain, &none, NULL, engine_layout(b->e)->page_tokens, err);
}

/* Queues the next file: a segment, or the frontier after the last one. */
static int queue_one(struct bench *b, fathom_err *err)
{
    int rc = b->part == b->n_parts ? next_snapshot(b, err) : 0;
    if (rc != 0) {
        return rc;
    }
    const struct kv_state *st = session_state(b->s);
    uint32_t k = b->part++;
    enum kv_why why = k + 1 < b->n_parts
                          ? kv_store_put_segment(b->store, &b->chain, b->ids, k, st->pages[k],
                                                 1000, 1000, true)
                          : kv_store_put_frontier(b->store, &b->chain, b->ids, DEPTH,
                                                  b->front->data, b->front, 0, 1000);
    b->held += why == KV_WHY_NONE;
    return why == KV_WHY_NONE ? 0
                              : err_set(err, FATHOM_EIO, "not queued: %s", kv_why_name(why));
}

static uint64_t written(struct bench *b)
{
    struct kv_store_stats st;
    kv_store_get_stats(b->store, &st);
    return st.written_bytes;
}

/* The steps of one block; the first is not counted. */
static int run_block(struct bench *b, enum kind kind, double t[BLOCK], fathom_err *err)
{
    int rc = 0;
    uint64_t before = written(b);
    double first, began = clock_now();
    for (int i = -1; i < BLOCK && rc == 0; i++) {
        while (rc == 0 && kind == WRITING && b->held < QUEUED) {
            rc = queue_one(b, err);
        }
        rc = rc ? rc : step(b, i < 0 ? &first : &t[i], err);
        b->writer_idle += kind == WRITING && b->held == 0;
    }
    if (kind == WRITING) {
        b->write_seconds += clock_now() - began;
        b->write_bytes += written(b) - before;
    }
    while (rc == 0 && b->held > 0) { /* not measured */
        kv_store_flush(b->store, 10);
        kv_store_poll(b->store);
    }
    return rc;
}

static int run_triple(struct bench *b, struct rng *g, fathom_err *err)
{
    enum kind order[KINDS] = {IDLE_A, IDLE_B, WRITING};
    int rc = 0;
    for (uint32_t i = KINDS; i > 1; i--) {
        uint32_t j = rng_below(g, i);
        enum kind was = order[j];
        order[j] = order[i - 1];
        order[i - 1] = was;
    }
    for (int i = 0; i < KINDS && rc == 0; i++) {
        rc = run_block(b, order[i], b->triple[b->n].t[order[i]], err);
    }
    b->n += rc == 0;
    return rc;
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum figure { MEAN, MEDIAN, BY_TRIPLE, FIGURES };

static double median_of(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* The steps of some kinds (a mask) of one triple, to v; their sum to *sum. */
static uint32_t steps_of(const struct triple *t, unsigned kinds, double *v, double *sum)
{
    uint32_t n = 0;
    *sum = 0;
    for (uint32_t k = 0; k < KINDS; k++) {
        for (uint32_t j = 0; (kinds >> k & 1) && j < BLOCK; j++) {
            v[n] = t->t[k][j];
            *sum += v[n++];
        }
    }
    return n;
}

/* Mean or median of the steps of some kinds in the triples pick[0 .. n). */
static double middle(const struct bench *b, const uint32_t *pick, unsigned kinds, bool median,
                     double *room)
{
    uint32_t n = 0;
    double sum = 0, part;
    for (uint32_t i = 0; i < b->n; i++) {
        n += steps_of(&b->triple[pick[i]], kinds, room + n, &part);
        sum += part;
    }
    return median ? median_of(room, n) : sum / n;
}

/* over : under in one triple, by its means. */
static double triple_ratio(const struct triple *t, unsigned over, unsigned under)
{
    double v[KINDS * BLOCK], y, x;
    uint32_t m = steps_of(t, over, v, &y), n = steps_of(t, under, v, &x);
    return y / m / (x / n);
}

static double ratio_of(const struct bench *b, const uint32_t *pick, unsigned over,
                       unsigned under, enum figure what, double *room)
{
    if (what != BY_TRIPLE) {
        double x = middle(b, pick, under, what == MEDIAN, room);
        return middle(b, pick, over, what == MEDIAN, room) / x;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        room[i] = triple_ratio(&b->triple[pick[i]], over, under);
    }
    return median_of(room, b->n);
}

/* The ratio of two kinds of steps with its 95 % interval. */
static void print_ratio(const struct bench *b, unsigned over, unsigned under, enum figure what)
{
    static const char *const name[FIGURES] = {"means", "medians", "median by triple"};
    struct rng g = {1};
    uint32_t *pick = mem_alloc(b->n, sizeof *pick);
    double *room = mem_alloc((size_t)b->n * BLOCK * KINDS, sizeof *room);
    double *ratio = mem_alloc(RESAMPLES, sizeof *ratio);
    if (pick && room && ratio) {
        for (uint32_t r = 0; r < RESAMPLES; r++) {
            for (uint32_t i = 0; i < b->n; i++) {
                pick[i] = rng_below(&g, b->n);
            }
            ratio[r] = ratio_of(b, pick, over, under, what, room);
        }
        qsort(ratio, RESAMPLES, sizeof *ratio, by_value);
        for (uint32_t i = 0; i < b->n; i++) {
            pick[i] = i;
        }
        printf("  %-16s %.4f  [%.4f, %.4f]", name[what],
               ratio_of(b, pick, over, under, what, room), ratio[RESAMPLES / 40],
               ratio[RESAMPLES - 1 - RESAMPLES / 40]);
        if (what != BY_TRIPLE) {
            printf("  (%.3f / %.3f ms)", middle(b, pick, over, what == MEDIAN, room) * 1e3,
                   middle(b, pick, under, what == MEDIAN, room) * 1e3);
        }
        printf("\n");
    }
    mem_free(pick);
    mem_free(room);
    mem_free(ratio);
}

static void print_ratios(const struct bench *b, const char *title, unsigned over,
                         unsigned under)
{
    uint32_t slower = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        slower += triple_ratio(&b->triple[i], over, under) > 1;
    }
    printf("%s: slower in %u of %u triples\n", title, slower, b->n);
    for (int f = 0; f < FIGURES; f++) {
        print_ratio(b, over, under, (enum figure)f);
    }
}

static void report(struct bench *b)
{
    enum { A = 1 << IDLE_A, B = 1 << IDLE_B, W = 1 << WRITING };
    struct kv_store_stats st;
    kv_store_get_stats(b->store, &st);
    printf("%u triples of 3 x %d steps\n", b->n, BLOCK);
    print_ratios(b, "writing / idle", W, A | B);
    print_ratios(b, "idle B / idle A", B, A);
    printf("written while steps were measured: %.1f MB/s (in all %.1f MB, %llu files); writer "
           "out of work at the end of %u steps\n",
           (double)b->write_bytes / b->write_seconds / 1e6, (double)st.written_bytes / 1e6,
           (unsigned long long)st.written_files, b->writer_idle);
    const struct layout *l = engine_layout(b->e);
    uint64_t all = DEPTH / l->page_tokens * kv_geom_segment_file_bytes(&b->geom) +
                   kv_geom_frontier_file_bytes(&b->geom, DEPTH);
    printf("snapshot of %d tokens: %.1f bytes a token (%u layers; rows alone %.1f)\n", DEPTH,
           (double)all / DEPTH, l->n_layer, (double)layout_row_bytes(l, DEPTH) / DEPTH);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_engine_save DIR [threads [layers [seconds [share]]]]\n");
        return 2;
    }
    fathom_err err = {0};
    uint32_t threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    double share = argc > 5 ? atof(argv[5]) / 100 : 0.01;
    double seconds = argc > 4 ? atof(argv[4]) : 30;
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
    b.seed = (uint64_t)(clock_now() * 1e6);
    b.triple = mem_calloc(TRIPLES_MAX, sizeof *b.triple);
    struct rng order = {2};
    double end = clock_now() + seconds;
    while (b.triple && b.n < TRIPLES_MAX && (b.n < 2 || clock_now() < end)) {
        if (run_triple(&b, &order, &err) != 0) {
            return fail(&err);
        }
    }
    report(&b);
    kv_chain_fini(&b.chain);
    mem_free(b.triple);
    kv_store_close(b.store, 5);
    fathom_session_free(b.s);
    fathom_engine_close(b.e);
    synthetic_free(&m);
    mem_free(b.ids);
    mem_free(b.front);
    return 0;
}
