/* explain.c - `fathom explain`: records the program of one step, as the engine does, and prints
 * the listing of op/print.c with what it costs to launch. Needs metadata only: with --shape no
 * file at all, with a file its tensor types, never its data. */
#include "cmd/cmd.h"

#include <stdlib.h>

#include "backend/backend.h"
#include "backend/metal/plan.h"
#include "cmd/model.h"
#include "json/json.h"
#include "model/forward.h"

enum { EXPLAIN_CTX = 1 << 20 };

/* Everything a recorded program borrows from. */
struct subject {
    struct shape shape;
    struct layout layout;
    struct weights weights;
    struct gguf *gguf;
};

static int load(struct subject *s, const struct cli *o, fathom_err *err)
{
    bool sim = !(o->sim && strcmp(o->sim, "off") == 0);
    int rc;
    if (o->shape) {
        s->shape = *shape_preset(o->shape);
        rc = weights_from_shape(&s->weights, &s->shape, o->recipe ? o->recipe : "q2", err);
    } else {
        struct model_ref m;
        rc = model_find(&m, o, err);
        rc = rc ? rc : model_gguf(&s->gguf, &m, err);
        rc = rc ? rc : shape_from_gguf(&s->shape, s->gguf, err);
        rc = rc ? rc : weights_bind(&s->weights, s->gguf, &s->shape, err);
    }
    rc = rc ? rc : shape_check(&s->shape, sim, o->shape ? o->shape : "model", err);
    return rc ? rc : layout_make(&s->layout, &s->shape, sim, 0, err);
}

/* slack: see program_limits.live_slack. */
static struct program *record(struct subject *s, const struct cli *o, uint32_t slack,
                              fathom_err *err)
{
    uint32_t n = o->tokens ? o->tokens : 1;
    uint32_t ctx = o->ctx ? o->ctx : MIN(s->shape.max_ctx, (uint32_t)EXPLAIN_CTX);
    struct program_limits lim = {.t_max = n,
                                 .out_max = 1,
                                 .seq_max = 1,
                                 .n_slots = 1,
                                 .max_ctx = ctx,
                                 .live_slack = slack};
    struct forward_options opt = {.act_f32 = o->act && strcmp(o->act, "f32") == 0};
    return forward_record(&s->shape, &s->weights, &s->layout, &lim, &opt, err);
}

/* What a step costs to launch on each backend: `ref` walks the list op by op, `cpu` with one
 * barrier a level, `metal` in dispatches, which its planner counts without a device: with the folds
 * it makes, at the last position of the context (index scores are needed there). */
struct launch {
    const char *name, *unit;
    uint32_t n; /* 0: the backend cannot run this program */
    const char *why;
};
enum { N_LAUNCH = 3 };

static void count_metal(struct launch *l, struct subject *s, const struct cli *o)
{
    struct metal_plan plan;
    fathom_err err = {0};
    struct program *p = record(s, o, 1, &err);
    *l = (struct launch){"metal", "dispatches, folded", 0, "it cannot be planned"};
    for (uint32_t i = 0; p && i < p->n_ops; i++) {
        const char *why = metal_supports(p, &p->ops[i]);
        l->why = why ? why : l->why;
    }
    uint32_t n = o->tokens ? o->tokens : 1;
    struct metal_plan_options opt = {.few = n <= METAL_FEW, .folds = true};
    if (p && metal_plan_make(&plan, p, &opt, &err) == 0) {
        l->n = metal_count(&plan, p->lim.max_ctx > n ? p->lim.max_ctx - n : 0, n);
        metal_plan_free(&plan);
    }
    program_free(p);
}

static void count_launches(struct launch l[N_LAUNCH], struct subject *s,
                           const struct program *p, const struct cli *o)
{
    count_metal(&l[0], s, o);
    l[1] = (struct launch){"cpu", "one barrier a level", p->n_levels, NULL};
    l[2] = (struct launch){"ref", "one call an op", p->n_ops, NULL};
}

static bool wanted(const struct cli *o, const struct launch *l)
{
    return !o->backend || strcmp(o->backend, l->name) == 0;
}

static void print_text(struct buf *b, struct subject *s, const struct program *p,
                       const struct cli *o)
{
    struct launch l[N_LAUNCH];
    count_launches(l, s, p, o);
    program_print(b, p,
                  &(struct program_print_options){.operands = o->operands, .layer = o->layer});
    buf_addc(b, '\n');
    for (int i = 0; i < N_LAUNCH; i++) {
        if (!wanted(o, &l[i])) {
            continue;
        }
        if (l[i].n) {
            buf_addf(b, "launches %s %u (%s)\n", l[i].name, l[i].n, l[i].unit);
        } else {
            buf_addf(b, "launches %s none (%s)\n", l[i].name, l[i].why);
        }
    }
}

static void print_json(struct buf *b, struct subject *s, const struct program *p,
                       const struct cli *o)
{
    struct launch l[N_LAUNCH];
    const char *comma = "";
    count_launches(l, s, p, o);
    buf_addf(b, "{\"ops\":%u,\"levels\":%u,\"launches\":{", p->n_ops, p->n_levels);
    for (int i = 0; i < N_LAUNCH; i++) {
        if (wanted(o, &l[i])) {
            buf_addf(b, "%s\"%s\":%u", comma, l[i].name, l[i].n);
            comma = ",";
        }
    }
    buf_adds(b, "},\"by_kind\":{");
    uint32_t count[OP_KIND_COUNT] = {0};
    for (uint32_t i = 0; i < p->n_ops; i++) {
        count[p->ops[i].kind]++;
    }
    for (int k = 0; k < OP_KIND_COUNT; k++) {
        buf_addf(b, "%s\"%s\":%u", k ? "," : "", op_name((enum op_kind)k), count[k]);
    }
    buf_addf(b, "},\"t_max\":%u,\"arena_bytes\":%llu,\"io_bytes\":%llu}\n", p->lim.t_max,
             (unsigned long long)p->arena_bytes, (unsigned long long)p->io_bytes);
}

int cmd_explain(struct cli *o)
{
    if (o->shape && o->model) {
        return cmd_usage(o, "give either -m or --shape, not both");
    }
    if (o->recipe && !o->shape) {
        return cmd_usage(o, "--recipe goes with --shape");
    }
    if (o->backend && strcmp(o->backend, "metal") && strcmp(o->backend, "cpu") &&
        strcmp(o->backend, "ref")) {
        return cmd_usage(o, "explain knows the backends metal, cpu and ref");
    }
    fathom_err err = {0};
    struct subject *s = calloc(1, sizeof *s);
    if (!s) {
        err_nomem(&err, "explain", sizeof *s);
        return cmd_fail(NULL, &err);
    }
    struct program *p = load(s, o, &err) ? NULL : record(s, o, 0, &err);
    int code;
    if (p) {
        struct buf b = {0};
        if (o->json) {
            print_json(&b, s, p, o);
        } else {
            print_text(&b, s, p, o);
        }
        code = cmd_print(&b);
    } else {
        code = cmd_fail("cannot explain", &err);
    }
    program_free(p);
    weights_free(&s->weights);
    gguf_close(s->gguf);
    free(s);
    return code;
}
