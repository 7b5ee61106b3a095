/* imatrix.c - `fathom imatrix`: the command around factory/collect.h and factory/imatrix.h.
 * Ctrl-C ends it between two chunks; what was saved until then stays under the final name, and
 * the message says how to go on. */
#include "cmd/cmd.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/model.h"
#include "engine/engine.h"
#include "factory/collect.h"
#include "factory/corpus.h"
#include "factory/imatrix.h"

static void on_report(void *user, const char *line)
{
    (void)user;
    fprintf(stderr, "%s\n", line);
}

static int merge(const struct cli *o, fathom_err *err)
{
    int rc = imatrix_merge(o->output, o->args, o->n_args, on_report, NULL, err);
    if (rc == 0) {
        cmd_note("%s: %u files added up", o->output, o->n_args);
    }
    return rc;
}

/* The corpus's own name, without its folder. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strcmp(path, "-") == 0 ? "stdin" : slash ? slash + 1 : path;
}

static int load_corpus(struct corpus *c, const struct cli *o, fathom_engine *e, fathom_err *err)
{
    fathom_info info;
    fathom_engine_info(e, &info);
    struct corpus_options opt = {.window = o->window, .limit = info.max_ctx, .trusted = o->raw};
    chat_release_parse(o->release ? o->release : info.release, &opt.release);
    if (!engine_tokenizer(e)) {
        return err_set(err, FATHOM_EUNSUPPORTED,
                       "the model file has no tokenizer: a corpus cannot be read with it");
    }
    int rc = corpus_load(c, engine_tokenizer(e), o->file, &opt, err);
    if (rc == 0 && c->n_cut) {
        cmd_note("%zu of %zu prompts are longer than the context of %u tokens and are cut "
                 "(see --ctx)",
                 c->n_cut, c->n, info.max_ctx);
    }
    return rc;
}

static void say_result(const struct cli *o, const struct collect_result *r, double seconds)
{
    cmd_note("%s: %zu prompts, %llu tokens, %.1f tokens/s", o->output, r->n_prompts,
             (unsigned long long)r->n_tokens,
             seconds > 0 ? (double)r->n_tokens / seconds : 0.0);
}

static int collect(const struct cli *o, fathom_engine *e, struct progress *progress,
                   fathom_err *err)
{
    struct corpus c;
    struct collect_result r = {0};
    struct collect_options opt = {.out = o->output,
                                  .dataset = base_name(o->file),
                                  .skip = o->skip_prompts,
                                  .max_prompts = o->limit_prompts,
                                  .max_tokens = o->limit_tokens,
                                  .save_seconds = 60.0 * o->save_minutes,
                                  .progress = progress_report,
                                  .user = progress};
    int rc = load_corpus(&c, o, e, err);
    if (rc == 0) {
        interrupt_on();
        double start = clock_now();
        rc = collect_corpus(e, &c, &opt, &r, err);
        progress_end(progress);
        interrupt_off();
        if (rc == 0) {
            say_result(o, &r, clock_now() - start);
        } else if (r.n_saved) {
            cmd_note("%s holds the first %zu prompts; to go on, collect the others with "
                     "--skip-prompts %zu into another file and add both up with --merge",
                     o->output, r.n_saved, o->skip_prompts + r.n_saved);
        }
    }
    corpus_free(&c);
    return rc;
}

static int check_usage(const struct cli *o)
{
    if (!o->output) {
        return cmd_usage(o, "-o FILE is needed");
    }
    if (o->merge && o->n_args == 0) {
        return cmd_usage(o, "--merge needs the files to add up");
    }
    if (o->merge && (o->file || o->model)) {
        return cmd_usage(o, "--merge takes neither -m nor -f");
    }
    if (!o->merge && o->n_args) {
        return cmd_usage(o, "unexpected word \"%s\" (files are for --merge)", o->args[0]);
    }
    if (!o->merge && !o->file) {
        return cmd_usage(o, "-f CORPUS is needed");
    }
    return EXIT_DONE;
}

int cmd_imatrix(struct cli *o)
{
    fathom_err err = {0};
    struct model_ref m;
    struct progress progress = {0};
    fathom_engine *e = NULL;
    int code = check_usage(o);
    if (code) {
        return code;
    }
    if (o->merge) {
        return merge(o, &err) ? cmd_fail("cannot merge", &err) : EXIT_DONE;
    }
    if (model_find(&m, o, &err)) {
        return cmd_fail(NULL, &err);
    }
    if (model_engine(&e, o, &m, &progress, &err)) {
        return model_fail(&m, &err);
    }
    code = collect(o, e, &progress, &err) ? cmd_fail("cannot collect", &err) : EXIT_DONE;
    fathom_engine_close(e);
    return code;
}
