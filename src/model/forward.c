/* forward.c - the model's step as a recorded program: embedding, layers [l0, l1), head. What
 * a layer computes is in attn.c and ffn.c; this file holds the order. There is one recording
 * for decode, verification, batches and prefill: size classes differ in row counts. */
#include "model/forward.h"

#include "model/record_int.h"

struct program *forward_record(const struct shape *s, const struct weights *w,
                               const struct layout *l, const struct program_limits *lim,
                               const struct forward_options *opt, fathom_err *err)
{
    uint32_t l1 = opt->l1 ? opt->l1 : s->n_layer;
    if (opt->l0 >= l1 || l1 > s->n_layer || lim->t_max == 0) {
        err_set(err, FATHOM_EINVAL, "cannot record layers [%u, %u) of %u for %u tokens",
                opt->l0, l1, s->n_layer, lim->t_max);
        return NULL;
    }
    struct program *p = program_new(lim, err);
    if (!p) {
        return NULL;
    }
    p->weights = w->w;
    p->n_weights = w->n;
    p->slot_bytes = l->slot_bytes;
    p->page_bytes = l->page_bytes;
    p->page_tokens = l->page_tokens;
    shape_rope(s, p->rope);
    struct rec r = {.p = p, .s = s, .w = w, .l = l, .act_f32 = opt->act_f32};
    r.x = rec_tensor(&r, "x", -1, FORM_F32, ROWS_TOK, s->hc * s->d);
    r.picked = program_tensor(p, "picked", -1, SPACE_IO, FORM_I32, ROWS_ONE, lim->n_slots, 1);
    p->io_picked = r.picked;
    if (!opt->no_embed) {
        record_embed(&r);
    }
    for (uint32_t il = opt->l0; il < l1; il++) {
        record_attn(&r, (int)il);
        record_ffn(&r, (int)il);
    }
    if (!opt->no_head) {
        record_head(&r);
    }
    if (program_finish(p, err) != 0) {
        program_free(p);
        return NULL;
    }
    return p;
}
