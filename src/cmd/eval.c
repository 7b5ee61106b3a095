/* eval.c - `fathom eval`: reads what is to be measured, opens the model with the context that this
 * needs, measures, reports. Two models are compared either open at the same time (--against), or
 * one after the other through a file (--save-reference, --reference). */
#include "cmd/eval.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/shape.h"

enum {
    WINDOW = 2048,
    FULL_ROWS_VOCAB = 4096,
    KEEP = 256,
    FLOOR_TOKENS = 4096,
    FLOOR_REF_TOKENS = 512 /* the oracle is slow, and every prompt is computed, too */
};

struct job {
    const struct cli *o;
    struct model_ref m;
    struct tokenizer *tok; /* NULL: the file has none */
    struct manifest_ctx ctx;
    struct progress progress;
    fathom_engine *engine;
    struct eval_result r;
};

/* ---- what is to be measured ---- */

/* Tokenizer, vocabulary and release of the model, without its weights. */
static int read_head(struct job *j, fathom_err *err)
{
    struct gguf *g;
    struct shape *shape = mem_calloc(1, sizeof *shape);
    if (!shape) {
        return err_nomem(err, "model", sizeof *shape);
    }
    int rc = model_gguf(&g, &j->m, err);
    if (rc) {
        mem_free(shape);
        return rc;
    }
    fathom_err none = {0};
    rc = shape_from_gguf(shape, g, err);
    if (rc == 0 && (rc = tokenizer_from_gguf(&j->tok, g, &none)) == FATHOM_ENOENT) {
        rc = 0; /* ids can be scored without */
    } else if (rc && none.code) {
        err_set(err, rc, "%s", none.msg);
    }
    j->ctx = (struct manifest_ctx){.tok = j->tok,
                                   .release = shape->release_0731 ? CHAT_0731 : CHAT_PREVIEW,
                                   .n_vocab = shape->n_vocab};
    if (j->o->release) {
        chat_release_parse(j->o->release, &j->ctx.release); /* the table allows known names */
    }
    mem_free(shape);
    gguf_close(g);
    return rc;
}

static int load_text(struct job *j, struct slice text, fathom_err *err)
{
    const struct cli *o = j->o;
    struct eval_result *r = &j->r;
    r->window = o->window ? o->window : o->ctx ? MIN(o->ctx, (uint32_t)WINDOW) : WINDOW;
    r->overlap = o->overlap < 0 ? r->window / 4 : (uint32_t)o->overlap;
    if (!j->tok) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "the model file has no tokenizer: score ids with --cases");
    }
    return eval_set_text(&r->set, j->tok, text, !o->plain, r->window, r->overlap, err);
}

/* Keeps about --limit tokens of the set. */
static int limit_set(struct job *j, fathom_err *err)
{
    struct eval_set view;
    int rc = j->o->limit ? eval_set_view(&view, &j->r.set, j->o->limit, err) : 0;
    if (rc == 0 && j->o->limit) {
        mem_free(j->r.set.seq);
        j->r.set = view; /* it takes over the ids */
    }
    return rc;
}

/* Reads one of the inputs into the part that it is for. */
static int load(struct job *j, const char *path, int part, fathom_err *err)
{
    struct buf b = {0};
    int rc = file_read_all(&b, path, MANIFEST_MAX_BYTES, err);
    struct slice text = buf_slice(&b);
    if (rc == 0) {
        rc = part == 'f'   ? load_text(j, text, err)
             : part == 'c' ? eval_set_cases(&j->r.set, &j->ctx, text, j->o->all, err)
             : part == 't' ? eval_tasks_load(&j->r.tasks, &j->ctx, text, j->o->every, err)
                           : official_load(&j->r.official, &j->ctx, text, err);
        if (rc) {
            err_prefix(err, "%s", path);
        }
    }
    buf_free(&b);
    return rc;
}

static int load_all(struct job *j, fathom_err *err)
{
    const struct cli *o = j->o;
    int rc = o->file ? load(j, o->file, 'f', err) : 0;
    rc = rc || !o->cases ? rc : load(j, o->cases, 'c', err);
    j->r.has_set = o->file || o->cases;
    rc = rc || !j->r.has_set ? rc : limit_set(j, err);
    rc = rc || !o->tasks ? rc : load(j, o->tasks, 't', err);
    return rc || !o->official ? rc : load(j, o->official, 'o', err);
}

/* ---- models ---- */

static void engine_options(struct job *j, fathom_engine_options *e, const struct model_ref *m)
{
    uint32_t need = MAX(j->r.set.longest, MAX(j->r.tasks.room, j->r.official.set.longest));
    model_engine_options(e, j->o, m, &j->progress);
    e->max_ctx = j->o->ctx ? j->o->ctx : MAX(need, 2u);
    e->max_seq = j->r.tasks.n && m == &j->m ? EVAL_TASK_SESSIONS : 1;
}

static int open_model(struct job *j, fathom_engine **out, const fathom_engine_options *e,
                      fathom_err *err)
{
    int rc = fathom_engine_open(out, e, err);
    progress_end(&j->progress);
    return rc;
}

static void describe(char *out, size_t n, const char *label, const fathom_info *info)
{
    snprintf(out, n, "%.120s (%.32s, %.64s)", label, info->backend, info->arith_class);
}

static void keep_info(struct eval_result *r, const struct job *j)
{
    fathom_engine_info(j->engine, &r->info);
    snprintf(r->label, sizeof r->label, "%s", model_label(&j->m));
    snprintf(r->backend, sizeof r->backend, "%s", r->info.backend);
    snprintf(r->arith, sizeof r->arith, "%s", r->info.arith_class);
}

/* ---- measuring ---- */

static int start_saving(struct job *j, struct ref_writer *w, fathom_err *err)
{
    struct eval_result *r = &j->r;
    uint32_t v = r->info.n_vocab;
    uint32_t keep = j->o->keep >= 0 ? (uint32_t)j->o->keep : v <= FULL_ROWS_VOCAB ? 0 : KEEP;
    struct ref_head h = {.n_vocab = v,
                         .kept = keep >= v ? 0 : keep,
                         .n_rows = r->set.n_scored,
                         .set_hash = eval_set_hash(&r->set)};
    describe(h.name, sizeof h.name, r->label, &r->info);
    while (!utf8_valid(h.name, strlen(h.name))) {
        h.name[strlen(h.name) - 1] = 0; /* cut inside a character */
    }
    snprintf(r->saved, sizeof r->saved, "%s", j->o->save_reference);
    r->saved_bytes = ref_file_bytes(&h);
    cmd_note("%s: %llu rows, %s, %s in all", j->o->save_reference, (unsigned long long)h.n_rows,
             h.kept ? "the likeliest ids of each and the mass of the rest" : "all logits",
             cmd_bytes(r->saved_bytes));
    return ref_create(w, j->o->save_reference, &h, err);
}

/* The set through the model and its reference; sums. */
static int score(struct job *j, fathom_engine *against, struct ref_file *file, fathom_err *err)
{
    const struct cli *o = j->o;
    struct ref_writer w = {.file = {.fd = -1}};
    struct eval_score_options s = {.engine = j->engine,
                                   .against = against,
                                   .reference = file,
                                   .progress = progress_report,
                                   .progress_user = &j->progress};
    int rc = o->save_reference ? start_saving(j, &w, err) : 0;
    s.save = o->save_reference ? &w : NULL;
    rc = rc ? rc : eval_score(&j->r.score, &j->r.set, &s, err);
    progress_end(&j->progress);
    if (rc == 0 && o->save_reference) {
        rc = ref_commit(&w, err);
    }
    ref_abort(&w);
    return rc ? rc
              : eval_summarise(&j->r.sum, &j->r.score, &j->r.set, EVAL_RESAMPLES,
                               o->seed_given ? o->seed : 1, err);
}

static int score_set(struct job *j, fathom_err *err)
{
    const struct cli *o = j->o;
    struct model_ref mb = {.path = o->against};
    fathom_engine_options e;
    fathom_engine *against = NULL;
    struct ref_file file = {.map = {.fd = -1}};
    fathom_info info;
    int rc = 0;
    if (o->against) {
        engine_options(j, &e, &mb);
        rc = open_model(j, &against, &e, err);
        if (rc) {
            return err_prefix(err, "--against %s", o->against);
        }
        fathom_engine_info(against, &info);
        describe(j->r.reference, sizeof j->r.reference, o->against, &info);
    } else if (o->reference) {
        rc = ref_open(&file, o->reference, err);
        snprintf(j->r.reference, sizeof j->r.reference, "%s", file.head.name);
        j->r.kept = file.head.kept;
    }
    rc = rc ? rc : score(j, against, o->reference ? &file : NULL, err);
    fathom_engine_close(against);
    ref_close(&file);
    return rc;
}

/* The model's own weights through other arithmetic: F32 activations, or the oracle backend. */
static int measure_floor(struct job *j, bool ref_backend, fathom_err *err)
{
    struct eval_result *r = &j->r;
    struct eval_floor *f = &r->floor[r->n_floor];
    struct eval_set view;
    struct eval_score x = {0};
    fathom_engine_options e;
    fathom_engine *other = NULL;
    engine_options(j, &e, &j->m);
    e.max_seq = 1;
    e.backend = ref_backend ? "ref" : j->o->backend;
    e.act_f32 = ref_backend ? e.act_f32 : !e.act_f32;
    snprintf(f->name, sizeof f->name, "%s",
             ref_backend ? "backend ref"
             : e.act_f32 ? "activations f32"
                         : "activations a8");
    int rc = eval_set_view(&view, &r->set, ref_backend ? FLOOR_REF_TOKENS : FLOOR_TOKENS, err);
    if (rc) {
        return rc;
    }
    rc = open_model(j, &other, &e, err);
    struct eval_score_options s = {.engine = j->engine,
                                   .against = other,
                                   .stage = "floor",
                                   .progress = progress_report,
                                   .progress_user = &j->progress};
    rc = rc ? rc : eval_score(&x, &view, &s, err);
    progress_end(&j->progress);
    rc = rc ? rc : eval_summarise(&f->sum, &x, &view, EVAL_RESAMPLES, r->sum.seed, err);
    r->n_floor += rc == 0;
    fathom_engine_close(other);
    eval_score_fini(&x);
    eval_set_view_fini(&view);
    return rc ? err_prefix(err, "noise floor") : 0;
}

static int measure(struct job *j, fathom_err *err)
{
    const struct cli *o = j->o;
    struct eval_result *r = &j->r;
    int rc = 0;
    keep_info(r, j);
    if (r->has_set) {
        r->set_bytes = eval_set_bytes(&r->set, j->tok);
        rc = score_set(j, err);
        if (rc == 0 && o->floor && strcmp(o->floor, "ref") != 0) {
            rc = measure_floor(j, false, err);
        }
        if (rc == 0 && o->floor && strcmp(o->floor, "act") != 0) {
            rc = measure_floor(j, true, err);
        }
        if (rc == 0 && o->rows) {
            rc = eval_write_rows(o->rows, r, err);
        }
    }
    if (rc == 0 && r->tasks.n) {
        rc = eval_tasks_run(&r->tasks, j->engine, progress_report, &j->progress, err);
    }
    if (rc == 0 && r->official.n) {
        rc = official_run(&r->official, j->engine, progress_report, &j->progress, err);
    }
    progress_end(&j->progress);
    return rc;
}

/* ---- the command ---- */

static const char *wrong_options(const struct cli *o)
{
    bool set = o->file || o->cases;
    return !set && !o->tasks && !o->official
               ? "nothing to measure: give -f TEXT, --cases, --tasks or --official"
           : o->file && o->cases ? "give either -f or --cases"
           : !set && (o->against || o->reference || o->save_reference || o->floor || o->rows)
               ? "--against, --reference, --save-reference, --floor and --rows need -f or --cases"
           : o->against && o->reference ? "give either --against or --reference"
           : o->all && !o->cases        ? "--all is for --cases"
           : (o->window || o->overlap >= 0 || o->plain) && !o->file
               ? "--window, --overlap and --plain are for -f"
           : o->keep >= 0 && !o->save_reference ? "--keep is for --save-reference"
                                                : NULL;
}

static int run(struct job *j, fathom_err *err)
{
    fathom_engine_options e;
    int rc = load_all(j, err);
    if (rc) {
        return rc;
    }
    engine_options(j, &e, &j->m);
    if (open_model(j, &j->engine, &e, err)) {
        return err->code;
    }
    interrupt_on();
    rc = measure(j, err);
    interrupt_off();
    return rc;
}

int cmd_eval(struct cli *o)
{
    const char *wrong = wrong_options(o);
    if (wrong) {
        return cmd_usage(o, "%s", wrong);
    }
    fathom_err err = {0};
    struct job *j = calloc(1, sizeof *j);
    if (!j) {
        err_nomem(&err, "evaluation", sizeof *j);
        return cmd_fail(NULL, &err);
    }
    j->o = o;
    int code = EXIT_DONE, rc = model_find(&j->m, o, &err);
    if (rc == 0 && read_head(j, &err)) {
        code = model_fail(&j->m, &err);
    } else if (rc || run(j, &err)) {
        code = cmd_fail(NULL, &err);
    } else {
        code = eval_report(o, &j->r, j->tok);
    }
    fathom_engine_close(j->engine);
    eval_set_fini(&j->r.set);
    eval_score_fini(&j->r.score);
    eval_tasks_fini(&j->r.tasks);
    official_fini(&j->r.official);
    tokenizer_free(j->tok);
    free(j);
    return code;
}
