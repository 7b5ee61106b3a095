/* explain.c - `fathom explain`: records the program of one step, as the engine does, and prints
 * the listing of op/print.c with what it costs to launch. Needs metadata only: with --shape no
 * file at all, with a file its tensor types, never its data. */
#include "cmd/cmd.h"

#include <stdlib.h>

#include "backend/backend.h"
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

static struct program *record(struct subject *s, const struct cli *o, fathom_err *err)
{
    uint32_t n = o->tokens ? o->tokens : 1;
    uint32_t ctx = o->ctx ? o->ctx : MIN(s->shape.max_ctx, (uint32_t)EXPLAIN_CTX);
    struct program_limits lim = {
        .t_max = n, .out_max = 1, .seq_max = 1, .n_slots = 1, .max_ctx = ctx};
    struct forward_options opt = {.act_f32 = o->act && strcmp(o->act, "f32") == 0};
    return forward_record(&s->shape, &s->weights, &s->layout, &lim, &opt, err);
}

/* How a backend runs the list: `ref` walks it op by op, `cpu` with one barrier a level. */
static uint32_t launches(const struct backend *b, const struct program *p)
{
    return strcmp(b->name, "ref") == 0 ? p->n_ops : p->n_levels;
}

static void print_text(struct buf *b, const struct program *p, const struct cli *o)
{
    program_print(b, p,
                  &(struct program_print_options){.operands = o->operands, .layer = o->layer});
    buf_addc(b, '\n');
    const struct backend *be;
    for (size_t i = 0; (be = backend_at(i)) != NULL; i++) {
        buf_addf(b, "launches %s %u (%s)\n", be->name, launches(be, p),
                 strcmp(be->name, "ref") == 0 ? "one call an op" : "one barrier a level");
    }
}

static void print_json(struct buf *b, const struct program *p)
{
    buf_addf(b, "{\"ops\":%u,\"levels\":%u,\"launches\":{", p->n_ops, p->n_levels);
    const struct backend *be;
    for (size_t i = 0; (be = backend_at(i)) != NULL; i++) {
        buf_addf(b, "%s\"%s\":%u", i ? "," : "", be->name, launches(be, p));
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
    fathom_err err = {0};
    struct subject *s = calloc(1, sizeof *s);
    if (!s) {
        err_nomem(&err, "explain", sizeof *s);
        return cmd_fail(NULL, &err);
    }
    struct program *p = load(s, o, &err) ? NULL : record(s, o, &err);
    int code;
    if (p) {
        struct buf b = {0};
        if (o->json) {
            print_json(&b, p);
        } else {
            print_text(&b, p, o);
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
