/* matcher.c - one answer and its constraint (constrain.h): reasoning is free, then the grammar
 * holds; a lazy one only from the marker of a calls block on. */
#include "constrain/constrain.h"
#include "text/text.h"

enum phase { PHASE_REASONING, PHASE_TEXT, PHASE_GRAMMAR };

struct matcher {
    struct machine *m;
    const struct token_trie *trie;
    struct position at; /* PHASE_GRAMMAR */
    enum phase phase;
    bool lazy;
    bool angle; /* the last token ended in '<' */
    uint32_t *mask;
};

/* In reasoning that must lead to an answer every token but the control ones may come; of those
 * only the end of thinking. */
static void reasoning_mask(struct matcher *t)
{
    memset(t->mask, 0xFF, t->trie->n_words * sizeof *t->mask);
    for (uint32_t id = 0; id < t->trie->n_words * 32; id++) {
        bool control = id >= t->trie->n_vocab || tokenizer_is_control(t->trie->tok, id);
        if (control && id != t->trie->think_close) {
            t->mask[id / 32] &= ~(1u << id % 32);
        }
    }
}

static void begin(struct matcher *t)
{
    t->phase = PHASE_GRAMMAR;
    machine_start(t->m, &t->at);
}

struct matcher *matcher_new(struct machine *m, bool lazy, bool in_reasoning)
{
    struct matcher *t = mem_calloc(1, sizeof *t);
    if (!t) {
        return NULL;
    }
    t->trie = machine_trie(m);
    t->mask = mem_alloc(t->trie->n_words, sizeof *t->mask);
    if (!t->mask) {
        mem_free(t);
        return NULL;
    }
    machine_ref(m);
    t->m = m;
    t->lazy = lazy;
    t->phase = in_reasoning ? PHASE_REASONING : PHASE_TEXT;
    if (in_reasoning && !lazy) {
        reasoning_mask(t);
    } else if (!in_reasoning && !lazy) {
        begin(t);
    }
    return t;
}

const uint32_t *matcher_mask(struct matcher *t)
{
    if (t->phase == PHASE_GRAMMAR) {
        machine_mask(t->m, &t->at, t->mask);
        return t->mask;
    }
    return t->lazy ? NULL : t->mask;
}

void matcher_accept(struct matcher *t, uint32_t id)
{
    struct slice s = tokenizer_bytes(t->trie->tok, id);
    if (t->phase == PHASE_GRAMMAR) {
        machine_token(t->m, &t->at, id);
    } else if (t->phase == PHASE_REASONING) {
        if (id == t->trie->think_close) {
            t->phase = PHASE_TEXT;
            if (!t->lazy) {
                begin(t);
            }
        }
    } else if (id == t->trie->mark && t->angle) {
        begin(t);
    }
    t->angle = s.n > 0 && s.p[s.n - 1] == '<' && !tokenizer_is_control(t->trie->tok, id);
}

void matcher_free(struct matcher *t)
{
    if (t) {
        if (t->phase == PHASE_GRAMMAR) {
            machine_stop(t->m, &t->at);
        }
        machine_unref(t->m);
        mem_free(t->mask);
        mem_free(t);
    }
}
