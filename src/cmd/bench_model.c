/* bench_model.c - whole steps of a model: prefill and decode at context frontiers.
 *
 * At a frontier C a session is brought to just before C (by computing the prompt, or with
 * --fill by random cache rows and a short prompt), then the last tokens up to C are decoded one
 * by one and timed. So all decode figures are for positions just below C, and nothing is
 * computed twice. The ids are random, drawn by position: sampling costs nothing and every run
 * does the same work. Some decode steps and the last chunk of each prompt run traced, op by
 * op; their shares split the measured times over layer kinds, from which a cut model is
 * extrapolated to all layers.
 *
 * With --fill every context has its own session, all are held at once and decode in turn. A
 * computed prompt instead passes one context on its way to the next, which may take an hour:
 * each is measured when it is reached. Contexts whose caches do not fit into memory together
 * are measured one after the other, and the output says so.
 * Read next: bench_steps.c, bench_turn.c, bench_products.c, bench_bytes.c, bench_report.c. */
#include "cmd/bench_steps.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/plan.h"
#include "factory/synthetic.h"

enum { GEN_DEFAULT = 32, PREFILL_DEFAULT = 256 };
enum { STANDARD_PROMPT = 11709, STANDARD_DECODE = 32768 };

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
    uint32_t n;
    double gen = bench_full_seconds(row, &row->decode, &n);
    uint64_t bytes = row->head_read_bytes;
    for (uint32_t k = 0; k < row->n_kind; k++) {
        bytes += row->kind[k].read_bytes / row->kind[k].n_layer * row->kind[k].n_full;
    }
    if (r->cut_of && n == r->n_full_layer) {
        row->full_gen_tps = row->n_gen ? 1 / gen : 0;
        row->full_prefill_tps =
            row->n_prefill ? 1 / bench_full_seconds(row, &row->prefill, NULL) : 0;
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

/* Brings a place's session to just before its context. */
static int set_up(struct bench *b, struct bench_place *p, const struct frontier_job *j,
                  fathom_err *err)
{
    const uint32_t tail = bench_tail(b), align = engine_layout(b->e)->align;
    int rc = 0;
    p->job = j;
    *p->row = (struct bench_row){.ctx = j->ctx, .filled = j->filled};
    find_kinds(b, p->row);
    if (j->filled || !p->s) {
        fathom_session_free(p->s);
        p->s = NULL;
        rc = fathom_session_new(&p->s, b->e, err);
    }
    if (rc == 0 && j->filled) {
        uint32_t want = j->ctx - tail > j->prompt ? j->ctx - tail - j->prompt : 0;
        if (want / align > 0) {
            bench_progress(b, "fill", 0, 1, err);
            rc = session_fill(p->s, want / align * align, BENCH_SEED, err);
        }
    }
    rc = rc ? rc : bench_prefill(b, p, j->ctx - tail, err);
    progress_end(&b->progress);
    return rc;
}

/* What follows from a place's measurement; the row is complete. */
static void finish(struct bench *b, struct bench_place *p)
{
    struct bench_row *row = p->row;
    const struct layout *l = engine_layout(b->e);
    row->kv_bytes = session_state(p->s)->n_pages * l->page_bytes + l->slot_bytes;
    double int8_gops, f32_gflops;
    bench_peaks(&b->reader, &int8_gops, &f32_gflops);
    b->res.int8_gops = MAX(b->res.int8_gops, int8_gops);
    b->res.read_gbs = MAX(b->res.read_gbs, row->best_gbs);
    row->share = (double)row->read_bytes * row->gen_tps / (row->read_gbs * 1e9);
    extrapolate(&b->res, row);
    b->res.n_row++;
    bench_report_row(b->o, &b->res, row);
}

/* Each context when it is reached. */
static int measure_alone(struct bench *b, fathom_err *err)
{
    struct bench_place *p = &b->place[0];
    int rc = 0;
    for (uint32_t i = 0; i < b->n_job && rc == 0; i++) {
        p->row = &b->res.row[i];
        rc = set_up(b, p, &b->job[i], err);
        rc = rc ? rc : bench_decode(b, p, 1, err);
        progress_end(&b->progress);
        if (rc == 0) {
            finish(b, p);
        }
    }
    return rc;
}

/* All contexts are set up, then they decode in turn. */
static int measure_in_turn(struct bench *b, fathom_err *err)
{
    int rc = 0;
    b->res.round = mem_calloc((size_t)b->n_job * b->gen, sizeof *b->res.round);
    if (!b->res.round) {
        return err_nomem(err, "rounds", (size_t)b->n_job * b->gen * sizeof *b->res.round);
    }
    for (uint32_t i = 0; i < b->n_job && rc == 0; i++) {
        b->place[i].row = &b->res.row[i];
        b->place[i].round = b->res.round + (size_t)i * b->gen;
        rc = set_up(b, &b->place[i], &b->job[i], err);
    }
    rc = rc ? rc : bench_decode(b, b->place, b->n_job, err);
    progress_end(&b->progress);
    for (uint32_t i = 0; i < b->n_job && rc == 0; i++) {
        finish(b, &b->place[i]);
    }
    return rc ? rc : bench_turn_rows(&b->res, b->gen, err);
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

/* The standard prompt has the same length either way: its context is what is decoded more. */
static void set_in_turn(struct bench *b, bool in_turn)
{
    b->res.in_turn = in_turn;
    if (b->o->standard) {
        b->job[0].ctx = STANDARD_PROMPT + bench_tail(b);
    }
}

static int choose_jobs(struct bench *b, fathom_err *err)
{
    const struct cli *o = b->o;
    const char *all = o->fill ? "2k,8k,32k,128k,1m" : "2k,8k,32k";
    int rc = 0;
    b->gen = o->gen ? o->gen : GEN_DEFAULT;
    if (o->standard) {
        add_job(b, 0, STANDARD_PROMPT, false);
        add_job(b, STANDARD_DECODE, o->prefill ? o->prefill : PREFILL_DEFAULT, o->fill);
    } else {
        rc = read_frontiers(b, o->frontiers ? o->frontiers : all, err);
    }
    set_in_turn(b, o->fill && b->n_job > 1);
    return rc;
}

/* Drops frontiers beyond the limit: silently those of the default list, else it is an error. */
static int limit_jobs(struct bench *b, uint32_t max_ctx, fathom_err *err)
{
    const uint32_t tail = bench_tail(b);
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
                                    .seed = BENCH_SEED,
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

/* Contexts are measured one after the other. */
static void alone(struct bench *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void alone(struct bench *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b->res.alone, sizeof b->res.alone, fmt, ap);
    va_end(ap);
    set_in_turn(b, false);
}

/* KV memory of all contexts at once, by the model's file; those beyond its limit are out. */
static int kv_together(struct bench *b, const struct model_ref *m, bool sim_off,
                       uint64_t *bytes, fathom_err *err)
{
    struct {
        struct shape shape;
        struct layout layout;
    } *x = mem_calloc(1, sizeof *x);
    struct gguf *g = NULL;
    int rc = x ? model_gguf(&g, m, err) : err_nomem(err, "layout", sizeof *x);
    rc = rc ? rc : shape_from_gguf(&x->shape, g, err);
    if (rc == 0) {
        uint32_t most = x->shape.max_ctx;
        rc = limit_jobs(b, b->o->ctx ? MIN(b->o->ctx, most) : most, err);
    }
    rc = rc ? rc : layout_make(&x->layout, &x->shape, !sim_off, 0, err);
    *bytes = 0;
    for (uint32_t i = 0; i < b->n_job && rc == 0; i++) {
        *bytes += layout_sequence_bytes(&x->layout, b->job[i].ctx);
    }
    gguf_close(g);
    mem_free(x);
    return rc;
}

/* Opens an engine that holds all contexts at once, their caches of `bytes`. FATHOM_ENOMEM also if
 * that leaves no room for the read test: both will be written in full. */
static int try_together(struct bench *b, const struct model_ref *m, fathom_engine_options opt,
                        uint64_t bytes, fathom_err *err)
{
    uint64_t total, available;
    memory_info(&total, &available);
    opt.max_seq = b->n_job;
    opt.max_ctx = b->job[b->n_job - 1].ctx;
    opt.kv_bytes = bytes;
    int rc = fathom_engine_open(&b->e, &opt, err);
    if (rc != 0 || available == 0 || str_list_has(opt.debug, "overcommit")) {
        return rc;
    }
    fathom_info info;
    fathom_engine_info(b->e, &info);
    uint64_t need = info.scratch_bytes + bytes + bench_stream_bytes();
    need += m->data ? 0 : info.weight_bytes; /* else they are in memory already */
    if (need > available) {
        fathom_engine_close(b->e);
        b->e = NULL;
        return err_set(err, FATHOM_ENOMEM, "no room for the read test");
    }
    return 0;
}

/* An engine for all contexts at once; none, and the reason noted, if memory is short. */
static int open_together(struct bench *b, const struct model_ref *m,
                         const fathom_engine_options *opt, fathom_err *err)
{
    const uint64_t most = b->o->kv_memory;
    uint64_t bytes;
    int rc = kv_together(b, m, opt->sim_off, &bytes, err);
    if (rc != 0) {
        return rc;
    }
    if (b->n_job == 1) {
        alone(b, "there is one");
        return 0;
    }
    if (most && bytes > most) {
        alone(b, "together their caches take %s, and --kv-memory allows %s", cmd_bytes(bytes),
              cmd_bytes(most));
    } else {
        rc = try_together(b, m, *opt, bytes, err);
        if (rc != FATHOM_ENOMEM) {
            return rc;
        }
        *err = (fathom_err){0};
        alone(b,
              "together their caches take %s, and memory for that is not free beside the "
              "weights and the read test",
              cmd_bytes(bytes));
    }
    progress_end(&b->progress);
    cmd_note("the contexts are measured one after the other, not in turn: %s", b->res.alone);
    return 0;
}

static int open_engine(struct bench *b, const struct model_ref *m, fathom_err *err)
{
    fathom_engine_options opt;
    model_engine_options(&opt, b->o, m, &b->progress);
    int rc = 0;
    if (b->res.in_turn) {
        rc = open_together(b, m, &opt, err);
    } else {
        alone(b, b->n_job == 1 ? "there is one"
                               : "a computed prompt passes one on its way to the next; with "
                                 "--fill they are measured in turn");
    }
    if (rc == 0 && !b->e) {
        opt.kv_bytes = b->o->kv_memory;
        rc = fathom_engine_open(&b->e, &opt, err);
    }
    progress_end(&b->progress);
    return rc;
}

static int run(struct bench *b, const struct model_ref *m, fathom_err *err)
{
    int rc = choose_jobs(b, err);
    rc = rc ? rc : open_engine(b, m, err);
    if (rc != 0) {
        return rc;
    }
    fathom_info info;
    fathom_engine_info(b->e, &info);
    b->shape = engine_shape(b->e);
    describe(b, &info);
    rc = limit_jobs(b, info.max_ctx, err);
    rc = rc ? rc : measure_machine(b, err);
    if (rc != 0) {
        return rc;
    }
    b->res.n_ctx = b->n_job;
    bench_report_begin(b->o, &b->res);
    return b->res.in_turn ? measure_in_turn(b, err) : measure_alone(b, err);
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
    for (uint32_t i = 0; i < BENCH_ROWS; i++) {
        fathom_session_free(b->place[i].s);
    }
    mem_free(b->res.round);
    fathom_engine_close(b->e);
    synthetic_free(&made);
    mem_free(b);
    interrupt_off();
    return code;
}
