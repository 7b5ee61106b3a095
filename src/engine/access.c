/* access.c - what tools, tests and the other files of this folder read of an open engine
 * (engine.h): plain accessors, no state of their own. */
#include "engine/engine_int.h"

const struct shape *engine_shape(const fathom_engine *e)
{
    return &e->shape;
}

const struct layout *engine_layout(const fathom_engine *e)
{
    return &e->layout;
}

const struct weights *engine_weights(const fathom_engine *e)
{
    return &e->weights;
}

const struct gguf *engine_gguf(const fathom_engine *e)
{
    return e->gguf;
}

const struct tokenizer *engine_tokenizer(const fathom_engine *e)
{
    return e->tok;
}

const struct kv_pool *engine_pool(const fathom_engine *e)
{
    return &e->pool;
}

uint32_t engine_n_classes(const fathom_engine *e)
{
    return e->n_cls;
}

const struct program *engine_program(const fathom_engine *e, uint32_t i)
{
    return i < e->n_cls ? e->cls[i].prog : NULL;
}

uint32_t engine_class_of(const fathom_engine *e, uint32_t n_tok)
{
    uint32_t i = 0;
    while (i + 1 < e->n_cls && e->cls[i].prog->lim.t_max < n_tok) {
        i++;
    }
    return i;
}

const struct backend *engine_backend(const fathom_engine *e, struct device **dev)
{
    *dev = e->dev;
    return e->be;
}

struct buffer *engine_arena(const fathom_engine *e)
{
    return e->arena;
}

void engine_trace(fathom_engine *e, const struct backend_trace *t)
{
    struct backend_trace off = {0};
    e->be->trace(e->dev, t ? t : &off);
}
