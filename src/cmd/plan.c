/* plan.c - `fathom plan`: what a model needs and what this machine has, from metadata alone.
 * The numbers are the engine's own (fathom_plan_make), the same that decide at open. A plan
 * that does not fit is a result, not a failure: exit code 0, "fits" in the JSON tells. */
#include "cmd/cmd.h"

#include <stdio.h>

#include "cmd/model.h"
#include "json/json.h"

static void line(struct buf *b, const char *what, uint64_t bytes, const char *note)
{
    buf_addf(b, "%-22s %10s  %17llu  %s\n", what, cmd_bytes(bytes), (unsigned long long)bytes,
             note);
}

static void print_text(struct buf *b, const fathom_plan *p, const char *what)
{
    char note[128];
    buf_addf(b, "%s, context %u tokens, %u sequence%s\n\n", what, p->ctx, p->n_seq,
             p->n_seq == 1 ? "" : "s");
    line(b, "weights", p->weight_bytes, "");
    snprintf(note, sizeof note, "compressed and index rows %s, state slot %s",
             cmd_bytes(p->rows_bytes), cmd_bytes(p->slot_bytes));
    line(b, "KV of one sequence", p->kv_bytes, note);
    line(b, "scratch", p->scratch_bytes, "");
    line(b, "total", p->total_bytes, "");
    line(b, "one frontier copy", p->frontier_bytes, "kept per turn, not in the total");
    buf_addc(b, '\n');
    line(b, "memory", p->memory_bytes, "of this machine");
    line(b, "available now", p->available_bytes, "");
    buf_addf(b, "\nfits: %s; largest context beside the weights: %u tokens\n",
             p->fits ? "yes" : "no", p->max_ctx_fits);
    if (p->advice[0]) {
        buf_addf(b, "%s\n", p->advice);
    }
}

static void print_json(struct buf *b, const fathom_plan *p)
{
    const struct {
        const char *key;
        uint64_t v;
    } n[] = {
        {"weight_bytes", p->weight_bytes},
        {"scratch_bytes", p->scratch_bytes},
        {"slot_bytes", p->slot_bytes},
        {"page_bytes", p->page_bytes},
        {"rows_bytes", p->rows_bytes},
        {"kv_bytes", p->kv_bytes},
        {"frontier_bytes", p->frontier_bytes},
        {"total_bytes", p->total_bytes},
        {"memory_bytes", p->memory_bytes},
        {"available_bytes", p->available_bytes},
        {"ctx", p->ctx},
        {"n_seq", p->n_seq},
        {"max_ctx_fits", p->max_ctx_fits},
    };
    buf_addc(b, '{');
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++) {
        buf_addf(b, "\"%s\":%llu,", n[i].key, (unsigned long long)n[i].v);
    }
    buf_addf(b, "\"fits\":%s,\"advice\":", p->fits ? "true" : "false");
    json_write_str(b, slice_of(p->advice));
    buf_adds(b, "}\n");
}

int cmd_plan(struct cli *o)
{
    if (o->shape && o->model) {
        return cmd_usage(o, "give either -m or --shape, not both");
    }
    if (o->recipe && !o->shape) {
        return cmd_usage(o, "--recipe goes with --shape");
    }
    fathom_err err = {0};
    struct model_ref m = {0};
    if (!o->shape && model_find(&m, o, &err)) {
        return cmd_fail(NULL, &err);
    }
    struct progress progress = {0};
    fathom_engine_options opt;
    model_engine_options(&opt, o, &m, &progress);
    opt.max_seq = o->sequences ? o->sequences : 1;
    const char *recipe = o->recipe ? o->recipe : "q2";
    fathom_plan plan = {0};
    if (fathom_plan_make(&plan, &opt, o->shape, o->shape ? recipe : NULL, o->ctx, &err)) {
        return cmd_fail("cannot plan", &err);
    }
    struct buf b = {0}, what = {0};
    if (o->shape) {
        buf_addf(&what, "shape %s, recipe %s", o->shape, recipe);
    } else {
        buf_adds(&what, model_label(&m));
    }
    if (o->json) {
        print_json(&b, &plan);
    } else {
        print_text(&b, &plan, buf_cstr(&what));
    }
    buf_free(&what);
    return cmd_print(&b);
}
