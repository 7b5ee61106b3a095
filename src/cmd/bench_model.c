/* bench_model.c - whole steps of a model: prefill and decode at context frontiers.
 *
 * At a frontier C the session is brought to just before C (by computing the prompt, or with
 * --fill by random cache rows and a short prompt), then the last tokens up to C are decoded one
 * by one and timed. So all decode figures are for positions just below C, and nothing is
 * computed twice. The ids are random, drawn by position: sampling costs nothing and every run
 * does the same work. A few decode steps and the last chunk of each prompt run traced, op by
 * op; their shares split the measured times over layer kinds, from which a cut model is
 * extrapolated to all layers.
 * Read next: bench_products.c, bench_bytes.c, bench_report.c. */
#include "cmd/bench.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/plan.h"
#include "factory/synthetic.h"

/* Decode steps are timed in groups with a pass of plain reads before each: the speed of a machine
 * that others share drifts by the second, and a share of it means something only if both were
 * measured at once. A pass also leaves nothing of the weights in the caches, as all the layers of
 * a whole model would. */
enum { STEP_GROUP = 4 };
enum { GEN_DEFAULT = 32, PREFILL_DEFAULT = 256, WARM_STEPS = 1, TRACED_STEPS = 2, SEED = 20 };
enum { STANDARD_PROMPT = 11709, STANDARD_DECODE = 32768 };

struct frontier_job {
    uint32_t ctx;    /* decode up to here */
    uint32_t prompt; /* tokens to compute behind random rows; all if not filled */
    bool filled;
};

struct bench {
    const struct cli *o;
    fathom_engine *e;
    fathom_session *s;
    const struct shape *shape;
    struct progress progress;
    struct bench_result res;
    struct frontier_job job[BENCH_ROWS];
    uint32_t n_job, gen;
    struct bench_reader reader;
    uint32_t streams; /* of its passes */
    /* of the traced steps being run */
    double layer_seconds[SHAPE_MAX_LAYERS], head_seconds, op_seconds[OP_KIND_COUNT];
    struct bench_meter *meter; /* of a prompt's */
};

/* ---- steps ---- */

static uint32_t id_at(const struct bench *b, uint32_t pos)
{
    struct rng r = {splitmix64(SEED ^ splitmix64(pos))};
    return rng_below(&r, b->shape->n_vocab);
}

static int step(struct bench *b, uint32_t n, bool logits, fathom_err *err)
{
    uint32_t at = fathom_session_len(b->s);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = id_at(b, at + i);
        int rc = fathom_session_append(b->s, &id, 1, err);
        if (rc != 0) {
            return rc;
        }
    }
    fathom_work w = {b->s, n, logits ? FATHOM_WANT_LAST : FATHOM_WANT_NONE};
    return fathom_step(b->e, &w, 1, err);
}

static void on_op(void *user, const struct op *op, const struct step *s, double seconds)
{
    struct bench *b = user;
    if (b->meter) {
        bench_meter_op(b->meter, op, s->n_tok, seconds);
    }
    b->op_seconds[op->kind] += seconds;
    if (op->layer < 0) {
        b->head_seconds += seconds;
    } else {
        b->layer_seconds[op->layer] += seconds;
    }
}

static void trace_begin(struct bench *b)
{
    memset(b->layer_seconds, 0, sizeof b->layer_seconds);
    memset(b->op_seconds, 0, sizeof b->op_seconds);
    b->head_seconds = 0;
    engine_trace(b->e, &(struct backend_trace){.kinds = UINT64_MAX, .fn = on_op, .user = b});
}

/* Splits `seconds` (per token, measured) over the head and the kinds as the traced times were. */
static void trace_end(struct bench *b, struct bench_row *row, double seconds, bool decode)
{
    engine_trace(b->e, NULL);
    double total = b->head_seconds;
    for (uint32_t il = 0; il < b->shape->n_layer; il++) {
        total += b->layer_seconds[il];
    }
    double scale = total > 0 ? seconds / total : 0;
    for (uint32_t il = 0; il < b->shape->n_layer; il++) {
        for (uint32_t k = 0; k < row->n_kind; k++) {
            if (row->kind[k].ratio == b->shape->ratio[il]) {
                double *to =
                    decode ? &row->kind[k].decode_seconds : &row->kind[k].prefill_seconds;
                *to += b->layer_seconds[il] * scale;
            }
        }
    }
    *(decode ? &row->head_decode_seconds : &row->head_prefill_seconds) =
        b->head_seconds * scale;
    for (int i = 0; i < OP_KIND_COUNT; i++) {
        *(decode ? &row->op_seconds[i] : &row->prompt_op_seconds[i]) = b->op_seconds[i] * scale;
    }
}

static bool report_progress(struct bench *b, const char *stage, uint64_t done, uint64_t total,
                            fathom_err *err)
{
    if (progress_report(&b->progress, stage, done, total)) {
        return true;
    }
    err_set(err, FATHOM_ECANCEL, "interrupted");
    return false;
}

/* One chunk, traced, with the register-only loops between its ops; adds what those took. */
static int metered_step(struct bench *b, struct bench_row *row, uint32_t n, double *loops,
                        fathom_err *err)
{
    struct bench_meter m;
    bench_meter_begin(&m, &b->reader, engine_program(b->e, 0));
    b->meter = &m;
    trace_begin(b);
    int rc = step(b, n, false, err);
    engine_trace(b->e, NULL);
    b->meter = NULL;
    bench_meter_end(&m);
    *loops += m.loop_seconds;
    memcpy(row->products, m.op, sizeof row->products);
    return rc;
}

/* Computes the prompt up to `end`; the last chunk traced. */
static int prefill(struct bench *b, struct bench_row *row, uint32_t end, fathom_err *err)
{
    uint32_t start = fathom_session_len(b->s), at;
    double t0 = clock_now(), loops = 0;
    row->n_prefill = end - start;
    while ((at = fathom_session_len(b->s)) < end) {
        uint32_t n = MIN(end - at, b->res.chunk);
        int rc = at + n == end ? metered_step(b, row, n, &loops, err) : step(b, n, false, err);
        if (rc != 0 || !report_progress(b, "prefill", at + n - start, end - start, err)) {
            return rc ? rc : FATHOM_ECANCEL;
        }
    }
    if (end > start) {
        double per_token = (clock_now() - t0 - loops) / (end - start);
        row->prefill_tps = 1 / per_token;
        trace_end(b, row, per_token, false);
    }
    return 0;
}

static int decode(struct bench *b, struct bench_row *row, fathom_err *err)
{
    int rc = 0;
    double best = 0, sum = 0;
    for (int i = 0; i < WARM_STEPS && rc == 0; i++) {
        rc = step(b, 1, true, err);
    }
    trace_begin(b);
    for (int i = 0; i < TRACED_STEPS && rc == 0; i++) {
        rc = step(b, 1, true, err);
    }
    engine_trace(b->e, NULL);
    double reads = 0;
    uint32_t n_read = 0;
    for (uint32_t i = 0; i < b->gen && rc == 0; i++) {
        if (i % STEP_GROUP == 0) {
            double gbs = bench_read_pass(&b->reader, b->streams);
            row->best_gbs = MAX(row->best_gbs, gbs);
            reads += gbs;
            n_read++;
        }
        double t0 = clock_now();
        rc = step(b, 1, true, err);
        double s = clock_now() - t0;
        sum += s;
        best = i == 0 ? s : MIN(best, s);
        if (rc == 0 && !report_progress(b, "decode", i + 1, b->gen, err)) {
            rc = FATHOM_ECANCEL;
        }
    }
    if (rc == 0) {
        row->n_gen = b->gen;
        row->gen_tps = b->gen / sum;
        row->gen_best_tps = 1 / best;
        row->read_gbs = reads / n_read;
        trace_end(b, row, sum / b->gen, true);
    }
    return rc;
}

/* ---- a row ---- */

static void find_kinds(const struct bench *b, struct bench_row *row)
{
    const struct shape *s = b->shape;
    const struct shape *full = b->res.cut_of ? shape_preset(b->res.cut_of) : NULL;
    const struct program *p = engine_program(b->e, 0);
    for (uint32_t il = 0; il < s->n_layer; il++) {
        uint32_t k = 0;
        while (k < row->n_kind && row->kind[k].ratio != s->ratio[il]) {
            k++;
        }
        if (k == BENCH_KINDS) {
            continue;
        }
        row->n_kind = MAX(row->n_kind, k + 1);
        row->kind[k].ratio = s->ratio[il];
        row->kind[k].n_layer++;
        row->kind[k].read_bytes += bench_layer_bytes(p, (int)il, row->ctx - 1);
    }
    for (uint32_t il = 0; full && il < full->n_layer; il++) {
        for (uint32_t k = 0; k < row->n_kind; k++) {
            row->kind[k].n_full += row->kind[k].ratio == full->ratio[il];
        }
    }
    bench_op_bytes(p, row->ctx - 1, row->op_bytes);
    row->head_read_bytes = bench_layer_bytes(p, -1, row->ctx - 1);
    row->read_bytes = row->head_read_bytes;
    for (uint32_t k = 0; k < row->n_kind; k++) {
        row->read_bytes += row->kind[k].read_bytes;
    }
}

/* Head once, every kind as often as the whole model has it; nothing if a kind was not measured. */
static void extrapolate(const struct bench_result *r, struct bench_row *row)
{
    uint32_t n = 0;
    uint64_t bytes = row->head_read_bytes;
    double gen = row->head_decode_seconds, pre = row->head_prefill_seconds;
    for (uint32_t k = 0; k < row->n_kind; k++) {
        const struct bench_kind *x = &row->kind[k];
        gen += x->decode_seconds / x->n_layer * x->n_full;
        pre += x->prefill_seconds / x->n_layer * x->n_full;
        bytes += x->read_bytes / x->n_layer * x->n_full;
        n += x->n_full;
    }
    if (r->cut_of && n == r->n_full_layer) {
        row->full_gen_tps = row->n_gen ? 1 / gen : 0;
        row->full_prefill_tps = row->n_prefill ? 1 / pre : 0;
        row->full_read_bytes = bytes;
    }
}

/* What the machine can do, and the kind of reading that it does best. */
static int measure_machine(struct bench *b, fathom_err *err)
{
    int rc = bench_reader_new(&b->reader, b->res.threads, err);
    double f32_gflops, best[2] = {0};
    if (rc != 0) {
        return rc;
    }
    for (int i = 0; i < 8; i++) {
        double gbs = bench_read_pass(&b->reader, i % 2 ? BENCH_STREAMS : BENCH_PLAIN);
        best[i % 2] = MAX(best[i % 2], gbs);
    }
    b->streams = best[1] > best[0] ? BENCH_STREAMS : BENCH_PLAIN;
    b->res.read_gbs = MAX(best[0], best[1]);
    bench_peaks(&b->reader, &b->res.int8_gops, &f32_gflops);
    return 0;
}

static int measure(struct bench *b, const struct frontier_job *j, fathom_err *err)
{
    const uint32_t tail = b->gen + WARM_STEPS + TRACED_STEPS;
    const uint32_t align = engine_layout(b->e)->align;
    struct bench_row *row = &b->res.row[b->res.n_row];
    *row = (struct bench_row){.ctx = j->ctx, .filled = j->filled};
    find_kinds(b, row);
    int rc = 0;
    if (j->filled) {
        fathom_session_free(b->s);
        b->s = NULL;
        rc = fathom_session_new(&b->s, b->e, err);
        uint32_t want = j->ctx - tail > j->prompt ? j->ctx - tail - j->prompt : 0;
        if (rc == 0 && want / align > 0) {
            report_progress(b, "fill", 0, 1, err);
            rc = session_fill(b->s, want / align * align, SEED, err);
        }
    }
    rc = rc ? rc : prefill(b, row, j->ctx - tail, err);
    rc = rc ? rc : decode(b, row, err);
    progress_end(&b->progress);
    if (rc != 0) {
        return rc;
    }
    fathom_info info;
    fathom_engine_info(b->e, &info);
    row->kv_bytes = info.kv_used_bytes;
    double int8_gops, f32_gflops;
    bench_peaks(&b->reader, &int8_gops, &f32_gflops);
    b->res.int8_gops = MAX(b->res.int8_gops, int8_gops);
    b->res.read_gbs = MAX(b->res.read_gbs, row->best_gbs);
    row->share = (double)row->read_bytes * row->gen_tps / (row->read_gbs * 1e9);
    extrapolate(&b->res, row);
    b->res.n_row++;
    bench_report_row(b->o, &b->res, row);
    return 0;
}

/* ---- which frontiers ---- */

/* False when there are too many. */
static bool add_job(struct bench *b, uint32_t ctx, uint32_t prompt, bool filled)
{
    if (b->n_job == BENCH_ROWS) {
        return false;
    }
    b->job[b->n_job++] = (struct frontier_job){ctx, prompt, filled};
    return true;
}

/* "2k,8k,1m": ascending numbers. */
static int read_frontiers(struct bench *b, const char *list, fathom_err *err)
{
    uint32_t prompt = b->o->prefill ? b->o->prefill : PREFILL_DEFAULT;
    uint64_t last = 0;
    for (const char *p = list; *p;) {
        char *end;
        uint64_t v = isdigit((unsigned char)*p) ? strtoull(p, &end, 10) : 0;
        if (v && (*end == 'k' || *end == 'K')) {
            v *= 1024;
            end++;
        } else if (v && (*end == 'm' || *end == 'M')) {
            v *= 1 << 20;
            end++;
        }
        if (v <= last || v > 1u << 30 || (*end && *end != ',') ||
            !add_job(b, (uint32_t)v, prompt, b->o->fill)) {
            return err_set(err, FATHOM_EINVAL,
                           "--frontiers takes up to %d ascending token counts such as "
                           "2k,8k,32k, not \"%s\"",
                           BENCH_ROWS, list);
        }
        last = v;
        p = end + (*end == ',');
    }
    return b->n_job ? 0 : err_set(err, FATHOM_EINVAL, "--frontiers is empty");
}

static int choose_jobs(struct bench *b, fathom_err *err)
{
    const struct cli *o = b->o;
    b->gen = o->gen ? o->gen : GEN_DEFAULT;
    if (o->standard) {
        uint32_t tail = b->gen + WARM_STEPS + TRACED_STEPS;
        uint32_t prompt = o->prefill ? o->prefill : PREFILL_DEFAULT;
        add_job(b, STANDARD_PROMPT + tail, STANDARD_PROMPT, false);
        add_job(b, STANDARD_DECODE, prompt, o->fill);
    }
    if (!o->standard) {
        const char *all = o->fill ? "2k,8k,32k,128k,1m" : "2k,8k,32k";
        int rc = read_frontiers(b, o->frontiers ? o->frontiers : all, err);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* Drops frontiers beyond the limit: silently those of the default list, else it is an error. */
static int limit_jobs(struct bench *b, uint32_t max_ctx, fathom_err *err)
{
    const uint32_t tail = b->gen + WARM_STEPS + TRACED_STEPS;
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->n_job; i++) {
        if (b->job[i].ctx <= max_ctx) {
            b->job[n++] = b->job[i];
        } else if (b->o->frontiers || b->o->standard) {
            return err_set(err, FATHOM_EINVAL, "a context of %u tokens is beyond %u",
                           b->job[i].ctx, max_ctx);
        }
        uint32_t before = n > 1 && !b->job[n - 1].filled ? b->job[n - 2].ctx : 0;
        if (n && b->job[n - 1].ctx <= before + tail) {
            return err_set(
                err, FATHOM_EINVAL,
                "up to %u tokens there is no room for a prompt and %u decoded tokens; "
                "lower --gen or choose other frontiers",
                b->job[n - 1].ctx, tail);
        }
    }
    b->n_job = n;
    return n ? 0 : err_set(err, FATHOM_EINVAL, "no frontier is within %u tokens", max_ctx);
}

/* ---- the model ---- */

static int read_ratios(const struct cli *o, uint16_t *ratio, fathom_err *err)
{
    uint32_t n = 0;
    for (const char *p = o->ratios; *p; n++) {
        char *end;
        unsigned long v = isdigit((unsigned char)*p) ? strtoul(p, &end, 10) : 9999;
        if (v > 4096 || n == SHAPE_MAX_LAYERS || (*end && *end != ',')) {
            return err_set(err, FATHOM_EINVAL,
                           "--ratios takes a list such as 0,4,128,4, not \"%s\"", o->ratios);
        }
        ratio[n] = (uint16_t)v;
        p = end + (*end == ',');
    }
    return n == o->layers ? 0
                          : err_set(err, FATHOM_EINVAL, "--ratios names %u layers, --layers %u",
                                    n, o->layers);
}

/* Makes or saves the synthetic model. */
static int make_model(struct synthetic *out, const struct cli *o, struct progress *progress,
                      fathom_err *err)
{
    uint16_t ratio[SHAPE_MAX_LAYERS];
    uint64_t total, available, bytes = 0;
    int rc = o->ratios ? read_ratios(o, ratio, err) : 0;
    if (rc != 0) {
        return rc;
    }
    memory_info(&total, &available);
    struct synthetic_options opt = {.shape = o->synthetic,
                                    .recipe = o->recipe ? o->recipe : "q2",
                                    .n_layer = o->layers,
                                    .ratios = o->ratios ? ratio : NULL,
                                    .n_expert = o->experts,
                                    .n_vocab = o->vocab,
                                    .seed = SEED,
                                    .n_threads = o->threads,
                                    .limit_bytes = available,
                                    .progress = progress_report,
                                    .user = progress};
    rc = synthetic_bytes(&bytes, &opt, err);
    if (rc == 0 && o->save) {
        rc = synthetic_save(o->save, &opt, err);
    } else if (rc == 0) {
        rc = synthetic_make(out, &opt, err);
    }
    progress_end(progress);
    if (rc == 0 && o->save) {
        cmd_note("wrote %s, %s", o->save, cmd_bytes(bytes));
    }
    return rc;
}

static void describe(struct bench *b, const fathom_info *info)
{
    struct slice of = {0};
    const struct shape *full = NULL;
    if (gguf_str(gguf_find(engine_gguf(b->e), SYNTHETIC_KEY), &of)) {
        b->res.cut_of = slice_is(of, "flash") ? "flash" : slice_is(of, "pro") ? "pro" : NULL;
        full = b->res.cut_of ? shape_preset(b->res.cut_of) : NULL;
    }
    b->res.name = info->model_name;
    b->res.backend = info->backend;
    b->res.device = bench_cpu_name();
    b->res.n_layer = info->n_layer;
    b->res.n_full_layer = full ? full->n_layer : info->n_layer;
    b->res.threads = b->o->threads ? b->o->threads : team_cores();
    b->res.chunk = info->chunk;
    b->res.weight_bytes = info->weight_bytes;
}

static int run(struct bench *b, const struct model_ref *m, fathom_err *err)
{
    fathom_engine_options opt;
    model_engine_options(&opt, b->o, m, &b->progress);
    int rc = choose_jobs(b, err);
    rc = rc ? rc : fathom_engine_open(&b->e, &opt, err);
    progress_end(&b->progress);
    if (rc != 0) {
        return rc;
    }
    fathom_info info;
    fathom_engine_info(b->e, &info);
    b->shape = engine_shape(b->e);
    describe(b, &info);
    rc = limit_jobs(b, info.max_ctx, err);
    rc = rc ? rc : measure_machine(b, err);
    rc = rc ? rc : fathom_session_new(&b->s, b->e, err);
    if (rc != 0) {
        return rc;
    }
    bench_report_begin(b->o, &b->res);
    for (uint32_t i = 0; i < b->n_job && rc == 0; i++) {
        rc = measure(b, &b->job[i], err);
    }
    return rc;
}

int bench_model(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m = {0};
    struct synthetic made = {0};
    struct bench *b = mem_calloc(1, sizeof *b);
    if (!b) {
        err_nomem(&err, "benchmark", sizeof *b);
        return cmd_fail(NULL, &err);
    }
    b->o = o;
    interrupt_on();
    int rc = o->synthetic ? make_model(&made, o, &b->progress, &err) : model_find(&m, o, &err);
    if (o->synthetic) {
        m = (struct model_ref){.data = made.data, .n_bytes = made.n_bytes};
    }
    rc = rc || o->save ? rc : run(b, &m, &err);
    progress_end(&b->progress);
    int code = rc        ? cmd_fail(rc == FATHOM_EINVAL ? "bench" : NULL, &err)
               : o->save ? EXIT_DONE
                         : bench_report_end(o, &b->res);
    bench_reader_close(&b->reader);
    fathom_session_free(b->s);
    fathom_engine_close(b->e);
    synthetic_free(&made);
    mem_free(b);
    interrupt_off();
    return code;
}
