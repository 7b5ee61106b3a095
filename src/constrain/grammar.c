/* grammar.c - see grammar.h: building, and the depths. */
#include "constrain/grammar.h"

static bool grow(struct grammar *g, void **p, uint32_t n, uint32_t *cap, size_t bytes,
                 uint32_t most)
{
    if (g->err.code) {
        return false;
    }
    if (n < *cap) {
        return true;
    }
    uint32_t want = *cap ? *cap * 2 : 64;
    void *q = n < most ? mem_realloc(*p, want, bytes) : NULL;
    if (!q) {
        if (n >= most) {
            err_set(&g->err, FATHOM_ELIMIT, "the grammar is too large: more than %u parts",
                    most);
        } else {
            err_nomem(&g->err, "a grammar", want * bytes);
        }
        return false;
    }
    *p = q;
    *cap = want;
    return true;
}

#define GROW(g, what, most) \
    grow(g, (void **)&(g)->what, (g)->n_##what, &(g)->cap_##what, sizeof *(g)->what, most)

struct grammar *grammar_new(void)
{
    struct grammar *g = mem_calloc(1, sizeof *g);
    if (g) {
        atomic_init(&g->refs, 1);
        g->text.max_bytes = GRAMMAR_MAX_BYTES;
        g->ret = grammar_node(g, (struct node){.kind = NODE_RETURN});
    }
    return g;
}

void grammar_ref(struct grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
}

void grammar_unref(struct grammar *g)
{
    if (!g || atomic_fetch_sub(&g->refs, 1) != 1) {
        return;
    }
    for (uint32_t i = 0; i < g->n_dfa; i++) {
        dfa_free(&g->dfa[i]);
    }
    mem_free(g->node);
    mem_free(g->list);
    mem_free(g->rule);
    mem_free(g->group);
    mem_free(g->dfa);
    buf_free(&g->text);
    arena_fini(&g->arena);
    mem_free(g);
}

size_t grammar_bytes(const struct grammar *g)
{
    return sizeof *g + g->cap_node * sizeof *g->node + g->cap_list * sizeof *g->list +
           g->cap_rule * sizeof *g->rule + g->cap_group * sizeof *g->group +
           g->cap_dfa * sizeof *g->dfa + g->dfa_bytes + g->text.cap + g->arena.used_bytes;
}

/* ---- building ---- */

uint32_t grammar_rule(struct grammar *g)
{
    if (!GROW(g, rule, GRAMMAR_MAX_RULES)) {
        return 0;
    }
    g->rule[g->n_rule] = NO_NODE;
    return g->n_rule++;
}

uint32_t grammar_node(struct grammar *g, struct node n)
{
    if (!GROW(g, node, GRAMMAR_MAX_NODES)) {
        return 0;
    }
    g->node[g->n_node] = n;
    return g->n_node++;
}

uint32_t grammar_text(struct grammar *g, struct slice s, uint32_t next)
{
    size_t at = g->text.n;
    if (s.n == 0) {
        return next;
    }
    buf_add_slice(&g->text, s);
    if (g->text.failed) {
        err_set(&g->err, FATHOM_ELIMIT, "the grammar is too large: its texts");
    }
    return grammar_node(
        g,
        (struct node){.kind = NODE_TEXT, .next = next, .at = (uint32_t)at, .n = (uint32_t)s.n});
}

uint32_t grammar_call(struct grammar *g, uint32_t rule, uint32_t next)
{
    return grammar_node(g, (struct node){.kind = NODE_CALL, .d = rule, .next = next});
}

uint32_t grammar_blank(struct grammar *g, bool lines, uint32_t next)
{
    return grammar_node(g, (struct node){.kind = NODE_BLANK, .n = lines, .next = next});
}

uint32_t grammar_mark(struct grammar *g, uint32_t next)
{
    return grammar_node(g, (struct node){.kind = NODE_MARK, .next = next});
}

uint32_t grammar_end(struct grammar *g)
{
    return grammar_node(g, (struct node){.kind = NODE_END});
}

uint32_t grammar_alt(struct grammar *g, const uint32_t *node, uint32_t n)
{
    uint32_t at = g->n_list;
    if (n == 1) {
        return node[0];
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!GROW(g, list, GRAMMAR_MAX_NODES)) {
            return 0;
        }
        g->list[g->n_list++] = node[i];
    }
    return grammar_node(g, (struct node){.kind = NODE_ALT, .at = at, .n = n});
}

uint32_t grammar_dfa(struct grammar *g, struct dfa *d)
{
    if (!GROW(g, dfa, GRAMMAR_MAX_NODES)) {
        dfa_free(d);
        return 0;
    }
    g->dfa_bytes += dfa_bytes(d);
    if (g->dfa_bytes > GRAMMAR_MAX_BYTES) {
        err_set(&g->err, FATHOM_ELIMIT, "the grammar is too large: its automata");
    }
    g->dfa[g->n_dfa] = *d;
    *d = (struct dfa){0};
    return g->n_dfa++;
}

uint32_t grammar_group(struct grammar *g, uint32_t *member)
{
    *member = 0;
    if (!GROW(g, group, GRAMMAR_MAX_NODES)) {
        return 0;
    }
    uint32_t d = g->n_group++;
    g->group[d] = (struct group){.extra = NO_NODE, .max = UINT32_MAX};
    g->group[d].first = grammar_node(g, (struct node){.kind = NODE_FIRST, .d = d});
    g->group[d].next_node = grammar_node(g, (struct node){.kind = NODE_NEXT, .d = d});
    *member = grammar_node(g, (struct node){.kind = NODE_MEMBER, .d = d});
    return d;
}

uint32_t grammar_enter(struct grammar *g, uint32_t group, uint32_t next)
{
    return grammar_node(g, (struct node){.kind = NODE_ENTER, .d = group, .next = next});
}

/* ---- depths ---- */

static uint32_t plus(uint32_t a, uint32_t b)
{
    return a >= GRAMMAR_DEPTH || b >= GRAMMAR_DEPTH ? GRAMMAR_INFINITE : a + b;
}

static uint32_t list_need(const struct grammar *g, const struct group *p)
{
    uint32_t need = 0;
    for (uint32_t i = 0; i < MIN(p->min, p->n); i++) {
        need = MAX(need, p->member[i].need);
    }
    if (p->min > p->n) {
        need = MAX(need, p->extra == NO_NODE ? GRAMMAR_INFINITE : p->extra_need);
    }
    (void)g;
    return p->max < p->min ? GRAMMAR_INFINITE : need;
}

/* What members need, from what their values need. The chain of a member ends in NODE_NEXT of its
 * own group; that part is the group's, so it counts as nothing here. */
static void group_need(struct grammar *g, struct group *p)
{
    uint32_t need = 0;
    p->extra_need = p->extra == NO_NODE ? GRAMMAR_INFINITE : g->node[p->extra].need;
    for (uint32_t i = 0; i < p->n; i++) {
        p->member[i].need = g->node[p->member[i].node].need;
        if (!p->list && p->member[i].required) {
            need = MAX(need, p->member[i].need);
        }
    }
    p->need = p->list ? list_need(g, p) : need;
}

static uint32_t node_need(const struct grammar *g, const struct node *n)
{
    uint32_t best = GRAMMAR_INFINITE, own;
    switch (n->kind) {
    case NODE_END:
    case NODE_RETURN:
    case NODE_LEAVE:
    case NODE_FIRST:
    case NODE_NEXT:
    case NODE_MEMBER: return 0;
    case NODE_CALL:
        own = g->rule[n->d] == NO_NODE ? GRAMMAR_INFINITE : g->node[g->rule[n->d]].need;
        own = n->next == g->ret ? own : plus(own, 1);
        return MAX(own, g->node[n->next].need);
    case NODE_ENTER: return MAX(plus(g->group[n->d].need, 1), g->node[n->next].need);
    case NODE_ALT:
        for (uint32_t i = 0; i < n->n; i++) {
            best = MIN(best, g->node[g->list[n->at + i]].need);
        }
        return best;
    case NODE_DFA:
    case NODE_STRING:
        if (n->d != NO_DFA && g->dfa[n->d].n <= 1) {
            return GRAMMAR_INFINITE;
        }
        return n->min > n->max ? GRAMMAR_INFINITE : g->node[n->next].need;
    case NODE_RAW: return n->min > n->max ? GRAMMAR_INFINITE : g->node[n->next].need;
    default: return g->node[n->next].need;
    }
}

int grammar_finish(struct grammar *g, uint32_t root, struct fuel *fuel, fathom_err *err)
{
    bool more = true;
    g->root = root;
    for (uint32_t i = 0; i < g->n_node; i++) {
        g->node[i].need = GRAMMAR_INFINITE;
    }
    for (uint32_t i = 0; i < g->n_group; i++) {
        g->group[i].need = GRAMMAR_INFINITE;
    }
    while (more && !g->err.code) {
        more = false;
        fuel_use(fuel, g->n_node / 4 + 1, &g->err);
        for (uint32_t i = 0; i < g->n_node; i++) {
            uint32_t need = node_need(g, &g->node[i]);
            more = more || need != g->node[i].need;
            g->node[i].need = need;
        }
        for (uint32_t i = 0; i < g->n_group; i++) {
            uint32_t was = g->group[i].need;
            group_need(g, &g->group[i]);
            more = more || was != g->group[i].need;
        }
    }
    for (uint32_t i = 0; i < g->n_group; i++) {
        struct group *p = &g->group[i];
        for (uint32_t k = 0; k < p->n && p->n <= GRAMMAR_ANY_ORDER; k++) {
            p->required |= p->member[k].required ? 1ull << k : 0;
        }
    }
    if (g->err.code) {
        return err_set(err, g->err.code, "%s", g->err.msg);
    }
    if (g->node[g->rule[root]].need == GRAMMAR_INFINITE) {
        return err_set(err, FATHOM_EFORMAT, "no value can satisfy this");
    }
    return 0;
}
