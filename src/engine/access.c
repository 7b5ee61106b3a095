/* access.c - what tools, tests and the other files of this folder read of an open engine
 * (engine.h): plain accessors, no state of their own. */
#include <assert.h>
#include <string.h>

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

const struct kv_tree *engine_tree(const fathom_engine *e)
{
    return &e->tree;
}

struct kv_store *engine_store(const fathom_engine *e)
{
    return e->store;
}

void engine_check(const fathom_engine *e)
{
    pool_check(&e->pool);
    tree_check(&e->tree);
    uint32_t size = e->layout.page_tokens;
    for (const fathom_session *s = e->sessions; s; s = s->next) {
        assert(s->kv.n <= state_rows(&s->kv) && state_rows(&s->kv) <= s->n_ids);
        assert(s->n_pub * (uint64_t)size <= state_rows(&s->kv) && (s->n_pub > 0) == !!s->node);
        const struct tree_node *at = s->node;
        for (uint32_t k = s->n_pub; k-- > 0; at = at->parent) {
            assert(at->page == s->kv.pages[k] && at->start == k * size && at->n_ids == size);
            assert(memcmp(at->ids, s->ids + at->start, size * sizeof *s->ids) == 0);
        }
        for (uint32_t i = 0; i < s->n_front; i++) {
            assert(s->front[i]->pos <= state_rows(&s->kv));
            assert(i == 0 || s->front[i]->pos > s->front[i - 1]->pos);
        }
    }
    for (uint32_t i = 0; i < e->pool.n_pages; i++) {
        assert(e->reuse.ignore[i] == 0);
    }
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

struct buffer *engine_io(const fathom_engine *e)
{
    return e->io;
}

void engine_trace(fathom_engine *e, const struct backend_trace *t)
{
    struct backend_trace off = {0};
    e->be->trace(e->dev, t ? t : &off);
}
