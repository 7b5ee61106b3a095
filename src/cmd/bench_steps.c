/* bench_steps.c - computing a prompt, and decoding at one context or at several in turn.
 *
 * Alone, a context has a warm step, a few traced ones (op by op, for the shares of layers and
 * ops), then the timed ones. In turn, every round takes a timed step and a traced one at each
 * context: a comparison of two contexts is then one of steps that stand next to each other, and
 * the speed of a machine that others share, which changes by the second, is in both. The order
 * of a round is reversed in every second one and begins with another context every two, so that
 * neither a drift nor what runs before a step favours any of them. Of four rounds, the first
 * and the last take their timed steps first: their positions are 0, 3, 5 and 6, so they meet
 * each of the four phases of ratio 4 once.
 * What a step finds in the caches is what the step before it left there, of the same context or
 * of another: nothing, once the weights of a step are larger than the caches.
 * Read next: bench_turn.c. */
#include "cmd/bench_steps.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

/* A pass of plain reads stands before every so many timed steps: the speed of a machine that
 * others share drifts by the second, and a share of it means something only if both were
 * measured at once. A pass also leaves nothing of the weights in the caches, as all the layers of
 * a whole model would. */
enum { STEP_GROUP = 4 };
enum { WARM_STEPS = 1, TRACED_STEPS = 2 };

uint32_t bench_tail(const struct bench *b)
{
    return WARM_STEPS + b->gen + (b->res.in_turn ? b->gen : TRACED_STEPS);
}

bool bench_progress(struct bench *b, const char *stage, uint64_t done, uint64_t total,
                    fathom_err *err)
{
    if (progress_report(&b->progress, stage, done, total)) {
        return true;
    }
    err_set(err, FATHOM_ECANCEL, "interrupted");
    return false;
}

/* ---- one step ---- */

static uint32_t id_at(const struct bench *b, uint32_t pos)
{
    struct rng r = {splitmix64(BENCH_SEED ^ splitmix64(pos))};
    return rng_below(&r, b->shape->n_vocab);
}

static int step(struct bench *b, fathom_session *s, uint32_t n, bool logits, fathom_err *err)
{
    uint32_t at = fathom_session_len(s);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = id_at(b, at + i);
        int rc = fathom_session_append(s, &id, 1, err);
        if (rc != 0) {
            return rc;
        }
    }
    fathom_work w = {s, n, logits ? FATHOM_WANT_LAST : FATHOM_WANT_NONE};
    return fathom_step(b->e, &w, 1, err);
}

static void on_op(void *user, const struct op *op, const struct step *s, double seconds)
{
    struct bench *b = user;
    if (b->meter) {
        bench_meter_op(b->meter, op, s->n_tok, seconds);
    }
    b->trace->op[op->kind] += seconds;
    *(op->layer < 0 ? &b->trace->head : &b->trace->layer[op->layer]) += seconds;
}

/* A step op by op, into *t. */
static int traced_step(struct bench *b, struct bench_trace *t, fathom_session *s, uint32_t n,
                       bool logits, fathom_err *err)
{
    *t = (struct bench_trace){0};
    b->trace = t;
    engine_trace(b->e, &(struct backend_trace){.kinds = UINT64_MAX, .fn = on_op, .user = b});
    int rc = step(b, s, n, logits, err);
    engine_trace(b->e, NULL);
    b->trace = NULL;
    return rc;
}

/* Splits `seconds` over the head, the kinds and the ops (NULL: not wanted) as the traced times
 * were. */
static struct bench_split split(const struct bench *b, const struct bench_row *row,
                                const struct bench_trace *t, double seconds,
                                double op_seconds[OP_KIND_COUNT])
{
    double total = t->head;
    for (uint32_t il = 0; il < b->shape->n_layer; il++) {
        total += t->layer[il];
    }
    double scale = total > 0 ? seconds / total : 0;
    struct bench_split out = {.step = seconds, .head = t->head * scale};
    for (uint32_t il = 0; il < b->shape->n_layer; il++) {
        for (uint32_t k = 0; k < row->n_kind; k++) {
            out.kind[k] += row->kind[k].ratio == b->shape->ratio[il] ? t->layer[il] * scale : 0;
        }
    }
    for (int i = 0; op_seconds && i < OP_KIND_COUNT; i++) {
        op_seconds[i] = t->op[i] * scale;
    }
    return out;
}

/* ---- a prompt ---- */

/* One chunk, traced, with the register-only loops between its ops; adds what those took. */
static int metered_step(struct bench *b, struct bench_place *p, struct bench_trace *t,
                        uint32_t n, double *loops, fathom_err *err)
{
    struct bench_meter m;
    bench_meter_begin(&m, &b->reader, engine_program(b->e, 0));
    b->meter = &m;
    int rc = traced_step(b, t, p->s, n, false, err);
    b->meter = NULL;
    bench_meter_end(&m);
    *loops += m.loop_seconds;
    memcpy(p->row->products, m.op, sizeof p->row->products);
    return rc;
}

int bench_prefill(struct bench *b, struct bench_place *p, uint32_t end, fathom_err *err)
{
    struct bench_row *row = p->row;
    struct bench_trace t = {0};
    uint32_t start = fathom_session_len(p->s), at;
    double t0 = clock_now(), loops = 0;
    row->n_prefill = end - start;
    while ((at = fathom_session_len(p->s)) < end) {
        uint32_t n = MIN(end - at, b->res.chunk);
        int rc = at + n == end ? metered_step(b, p, &t, n, &loops, err)
                               : step(b, p->s, n, false, err);
        if (rc != 0 || !bench_progress(b, "prefill", at + n - start, end - start, err)) {
            return rc ? rc : FATHOM_ECANCEL;
        }
    }
    if (end > start) {
        double per_token = (clock_now() - t0 - loops) / (end - start);
        row->prefill_tps = 1 / per_token;
        row->prefill = split(b, row, &t, per_token, row->prompt_op_seconds);
    }
    return 0;
}

/* ---- decoding ---- */

struct reads {
    double sum, best;
    uint32_t n;
};

static void read_pass(struct bench *b, struct reads *r)
{
    double gbs = bench_read_pass(&b->reader, b->streams);
    r->best = MAX(r->best, gbs);
    r->sum += gbs;
    r->n++;
}

static int timed(struct bench *b, struct bench_place *p, double *seconds, fathom_err *err)
{
    double t0 = clock_now();
    int rc = step(b, p->s, 1, true, err);
    *seconds = clock_now() - t0;
    p->seconds += *seconds;
    p->best = p->best > 0 ? MIN(p->best, *seconds) : *seconds;
    return rc;
}

static int traced(struct bench *b, struct bench_place *p, struct bench_trace *t,
                  fathom_err *err)
{
    int rc = traced_step(b, t, p->s, 1, true, err);
    p->trace.head += t->head;
    for (uint32_t il = 0; il < b->shape->n_layer; il++) {
        p->trace.layer[il] += t->layer[il];
    }
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        p->trace.op[i] += t->op[i];
    }
    return rc;
}

/* The timed steps of round r at each context. */
static int timed_turn(struct bench *b, struct bench_place *p, uint32_t n, uint32_t r,
                      double *seconds, struct reads *reads, fathom_err *err)
{
    int rc = 0;
    if (r % ((STEP_GROUP + n - 1) / n) == 0) {
        read_pass(b, reads);
    }
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint32_t k = bench_turn_place(r, i, n);
        rc = timed(b, &p[k], &seconds[k], err);
        if (rc == 0 &&
            !bench_progress(b, "decode", (uint64_t)r * n + i + 1, (uint64_t)b->gen * n, err)) {
            rc = FATHOM_ECANCEL;
        }
    }
    return rc;
}

static int traced_turn(struct bench *b, struct bench_place *p, uint32_t n, uint32_t r,
                       struct bench_trace *t, fathom_err *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint32_t k = bench_turn_place(r, i, n);
        rc = traced(b, &p[k], &t[k], err);
    }
    return rc;
}

/* The rounds of several contexts, or the timed steps of one. */
static int rounds(struct bench *b, struct bench_place *p, uint32_t n, struct reads *reads,
                  fathom_err *err)
{
    double seconds[BENCH_ROWS];
    struct bench_trace t[BENCH_ROWS];
    int rc = 0;
    for (uint32_t r = 0; r < b->gen && rc == 0; r++) {
        bool timed_first = n == 1 || ((r + 1) & 2) == 0;
        rc = timed_first ? timed_turn(b, p, n, r, seconds, reads, err)
                         : traced_turn(b, p, n, r, t, err);
        if (n > 1 && rc == 0) {
            rc = timed_first ? traced_turn(b, p, n, r, t, err)
                             : timed_turn(b, p, n, r, seconds, reads, err);
        }
        for (uint32_t i = 0; n > 1 && i < n && rc == 0; i++) {
            p[i].round[r] = split(b, p[i].row, &t[i], seconds[i], NULL);
        }
    }
    return rc;
}

int bench_decode(struct bench *b, struct bench_place *p, uint32_t n, fathom_err *err)
{
    struct reads reads = {0};
    struct bench_trace t;
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        p[i].trace = (struct bench_trace){0};
        p[i].seconds = p[i].best = 0;
        for (int k = 0; k < WARM_STEPS && rc == 0; k++) {
            rc = step(b, p[i].s, 1, true, err);
        }
    }
    for (int k = 0; k < TRACED_STEPS && n == 1 && rc == 0; k++) {
        rc = traced(b, p, &t, err);
    }
    rc = rc ? rc : rounds(b, p, n, &reads, err);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        struct bench_row *row = p[i].row;
        row->n_gen = b->gen;
        row->gen_tps = b->gen / p[i].seconds;
        row->gen_best_tps = 1 / p[i].best;
        row->read_gbs = reads.sum / reads.n;
        row->best_gbs = reads.best;
        row->decode = split(b, row, &p[i].trace, p[i].seconds / b->gen, row->op_seconds);
    }
    return rc;
}
