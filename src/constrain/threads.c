/* threads.c - how one thread reads one byte (machine_int.h). The states of the readers of strings
 * stand in the enums below; every state of a reader can be left towards an end, see grammar.h. */
#include "constrain/machine_int.h"

/* JSON strings without automaton: states of the UTF-8 reader, then escapes. A high surrogate
 * must be followed by a low one. */
enum {
    STR_ESCAPE = UTF8_STATES,
    STR_U,    /* \u */
    STR_UD,   /* \uD */
    STR_HEX3, /* three digits to come, two, one */
    STR_HEX2 = STR_HEX3 + 1,
    STR_HEX1,
    STR_HIGH2, /* \uD8: two digits of a high surrogate to come, one */
    STR_HIGH1,
    STR_LOW, /* the '\' of the low one must come, 'u', 'd', 'c'..'f', two digits, one */
    STR_LOW_U,
    STR_LOW_D,
    STR_LOW_C,
    STR_LOW2,
    STR_LOW1,
    STR_REFUSED = 0xFF,
};

/* With automaton: what was read of an escape. */
enum { ESC_NONE, ESC_BACKSLASH, ESC_U, ESC_U0, ESC_U00, ESC_U000, ESC_U001 };

/* ---- the set ---- */

void set_clear(struct machine *m)
{
    m->n_set = m->n_work = m->n_seen = 0;
    m->turn++;
}

static void add(struct machine *m, struct thread t)
{
    if (m->n_set < 2 * MACHINE_THREADS) {
        t.hash = m->frame[t.stack].hash;
        m->set[m->n_set++] = t;
    }
}

/* False if this place with this stack was met before (or there are too many). */
static bool first_time(struct machine *m, uint32_t node, uint32_t stack)
{
    uint64_t key = (uint64_t)node << 32 | stack;
    uint32_t i = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 40) % SEEN_SLOTS;
    for (; m->seen[i].turn == m->turn; i = (i + 1) % SEEN_SLOTS) {
        if (m->seen[i].key == key) {
            return false;
        }
    }
    if (m->n_seen >= SEEN_SLOTS / 2) {
        return false;
    }
    m->seen[i] = (struct seen){key, m->turn};
    m->n_seen++;
    return true;
}

static void push(struct machine *m, uint32_t node, uint32_t stack)
{
    if (stack != UINT32_MAX && m->n_work < SEEN_SLOTS && first_time(m, node, stack)) {
        m->work[m->n_work].node = node;
        m->work[m->n_work++].stack = stack;
    }
}

/* ---- groups ---- */

static bool fits(const struct machine *m, uint32_t stack, uint32_t need)
{
    return need != GRAMMAR_INFINITE && m->frame[stack].depth + need <= GRAMMAR_DEPTH;
}

static bool may_close(const struct group *p, uint64_t data)
{
    if (p->list) {
        return data >= p->min;
    }
    if (p->n <= GRAMMAR_ANY_ORDER) {
        return (p->required & ~data) == 0;
    }
    for (uint64_t i = data; i < p->n; i++) {
        if (p->member[i].required) {
            return false;
        }
    }
    return true;
}

/* Enters the members that may come now if `enter`; says whether there are any. */
static bool members(struct machine *m, const struct group *p, uint32_t stack, bool enter)
{
    struct frame f = m->frame[stack];
    bool any = false, extra = p->extra != NO_NODE && fits(m, stack, p->extra_need);
    if (p->list) {
        uint64_t most = p->max == UINT32_MAX ? MAX(p->n, p->min) : p->max;
        bool own = f.data < p->n;
        any = f.data < p->max && (own ? fits(m, stack, p->member[f.data].need) : extra);
        if (any && enter) {
            push(m, own ? p->member[f.data].node : p->extra,
                 frame_intern(m, f.parent, f.ret, MIN(f.data + 1, most)));
        }
        return any;
    }
    bool ordered = p->n > GRAMMAR_ANY_ORDER;
    for (uint64_t i = ordered ? f.data : 0; i < p->n; i++) {
        bool open = ordered || !(f.data >> i & 1);
        if (open && fits(m, stack, p->member[i].need)) {
            any = true;
            uint64_t data = ordered ? i + 1 : f.data | 1ull << i;
            if (enter) {
                push(m, p->member[i].node, frame_intern(m, f.parent, f.ret, data));
            }
        }
        if (any && !enter) {
            return true;
        }
        if (ordered && p->member[i].required) {
            return any; /* must not be passed over */
        }
    }
    if (extra && enter) {
        push(m, p->extra, stack);
    }
    return any || extra;
}

static void enter_group(struct machine *m, const struct node *n, uint32_t stack)
{
    const struct group *p = &m->g->group[n->d];
    if (n->kind != NODE_MEMBER && may_close(p, m->frame[stack].data)) {
        push(m, n->kind == NODE_FIRST ? p->end_first : p->end, stack);
    }
    if (n->kind == NODE_NEXT) {
        if (members(m, p, stack, false)) {
            push(m, p->separator, stack);
        }
    } else {
        members(m, p, stack, true);
    }
}

/* ---- entering ---- */

static void enter_one(struct machine *m, uint32_t at, uint32_t stack)
{
    const struct grammar *g = m->g;
    const struct node *n = &g->node[at];
    struct frame f = m->frame[stack];
    switch (n->kind) {
    case NODE_DFA:
        add(m, (struct thread){.node = at, .stack = stack, .a = DFA_START});
        if (g->dfa[n->d].flags[DFA_START] & DFA_ACCEPT) {
            push(m, n->next, stack);
        }
        break;
    case NODE_RAW:
    case NODE_BLANK:
        add(m, (struct thread){.node = at, .stack = stack});
        if (n->kind == NODE_BLANK || n->min == 0) {
            push(m, n->next, stack);
        }
        break;
    case NODE_STRING:
        add(m,
            (struct thread){.node = at, .stack = stack, .a = n->d == NO_DFA ? 0 : DFA_START});
        break;
    case NODE_CALL:
        push(m, g->rule[n->d], n->next == g->ret ? stack : frame_intern(m, stack, n->next, 0));
        break;
    case NODE_ALT:
        for (uint32_t i = 0; i < n->n; i++) {
            uint32_t to = g->list[n->at + i];
            if (fits(m, stack, g->node[to].need)) {
                push(m, to, stack);
            }
        }
        break;
    case NODE_ENTER: push(m, g->group[n->d].first, frame_intern(m, stack, n->next, 0)); break;
    case NODE_RETURN:
    case NODE_LEAVE: push(m, f.ret, f.parent); break;
    case NODE_FIRST:
    case NODE_NEXT:
    case NODE_MEMBER: enter_group(m, n, stack); break;
    default: add(m, (struct thread){.node = at, .stack = stack}); break;
    }
}

void set_enter(struct machine *m, uint32_t node, uint32_t stack)
{
    push(m, node, stack);
    while (m->n_work > 0 && !m->full) {
        m->n_work--;
        enter_one(m, m->work[m->n_work].node, m->work[m->n_work].stack);
    }
}

/* ---- one byte ---- */

static bool is_hex(unsigned char c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

/* The state after c inside an escape; STR_REFUSED: not JSON. */
static uint32_t escape_next(uint32_t s, unsigned char c)
{
    unsigned char l = c | 32;
    switch (s) {
    case STR_ESCAPE:
        return c == 'u' ? STR_U : c && strchr("\"\\/bfnrt", c) ? UTF8_BETWEEN : STR_REFUSED;
    case STR_U: return l == 'd' ? STR_UD : is_hex(c) ? STR_HEX3 : STR_REFUSED;
    case STR_UD:
        if (c >= '0' && c <= '7') {
            return STR_HEX2;
        }
        return c == '8' || c == '9' || l == 'a' || l == 'b' ? STR_HIGH2 : STR_REFUSED;
    case STR_HEX3: return is_hex(c) ? STR_HEX2 : STR_REFUSED;
    case STR_HEX2: return is_hex(c) ? STR_HEX1 : STR_REFUSED;
    case STR_HEX1: return is_hex(c) ? UTF8_BETWEEN : STR_REFUSED;
    case STR_HIGH2: return is_hex(c) ? STR_HIGH1 : STR_REFUSED;
    case STR_HIGH1: return is_hex(c) ? STR_LOW : STR_REFUSED;
    case STR_LOW: return c == '\\' ? STR_LOW_U : STR_REFUSED;
    case STR_LOW_U: return c == 'u' ? STR_LOW_D : STR_REFUSED;
    case STR_LOW_D: return l == 'd' ? STR_LOW_C : STR_REFUSED;
    case STR_LOW_C: return l >= 'c' && l <= 'f' ? STR_LOW2 : STR_REFUSED;
    case STR_LOW2: return is_hex(c) ? STR_LOW1 : STR_REFUSED;
    default: return is_hex(c) ? UTF8_BETWEEN : STR_REFUSED;
    }
}

/* One more code point begins; false: there are enough. Without an upper bound only the lower one
 * is counted to. */
static bool count(const struct node *n, struct thread *t)
{
    if (n->max == UINT32_MAX) {
        t->b = MIN(t->b + 1, n->min);
        return true;
    }
    return ++t->b <= n->max;
}

static void step_string(struct machine *m, const struct node *n, struct thread t,
                        unsigned char c)
{
    if (t.a == UTF8_BETWEEN && c == '"') {
        if (t.b >= n->min) {
            set_enter(m, n->next, t.stack);
        }
        return;
    }
    if (t.a == UTF8_BETWEEN && (c < 0x20 || !count(n, &t))) {
        return;
    }
    if (t.a >= STR_ESCAPE) {
        t.a = escape_next(t.a, c);
    } else if (t.a == UTF8_BETWEEN && c == '\\') {
        t.a = STR_ESCAPE;
    } else {
        t.a = utf8_next((uint8_t)t.a, c);
    }
    if (t.a != STR_REFUSED) {
        add(m, t);
    }
}

static bool any_control(const struct dfa *d, uint32_t s, int lo, int hi)
{
    for (int c = lo; c <= hi; c++) {
        if (dfa_step(d, s, (unsigned char)c)) {
            return true;
        }
    }
    return false;
}

static bool any_escape(const struct dfa *d, uint32_t s)
{
    return any_control(d, s, 0, 0x1F) || dfa_step(d, s, '"') || dfa_step(d, s, '\\') ||
           dfa_step(d, s, '/');
}

/* The escape after c; *out: the byte that it stands for, -1: not complete; -2: refused. */
static uint32_t escape_step(const struct dfa *d, uint32_t s, uint32_t esc, unsigned char c,
                            int *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *f = c ? strchr(from, c) : NULL;
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
    *out = -1;
    if (esc == ESC_BACKSLASH && f) {
        *out = to[f - from];
    } else if (esc == ESC_BACKSLASH && c == 'u' && any_control(d, s, 0, 0x1F)) {
        return ESC_U;
    } else if (esc == ESC_U && c == '0') {
        return ESC_U0;
    } else if (esc == ESC_U0 && c == '0') {
        return ESC_U00;
    } else if (esc == ESC_U00 && c == '0' && any_control(d, s, 0, 0xF)) {
        return ESC_U000;
    } else if (esc == ESC_U00 && c == '1' && any_control(d, s, 0x10, 0x1F)) {
        return ESC_U001;
    } else if (esc >= ESC_U000 && is_hex(c)) {
        *out = (esc == ESC_U001 ? 0x10 : 0) | digit;
    } else {
        *out = -2;
    }
    return ESC_NONE;
}

/* A string whose meaning an automaton reads. */
static void step_pattern(struct machine *m, const struct node *n, struct thread t,
                         unsigned char c)
{
    const struct dfa *d = &m->g->dfa[n->d];
    uint32_t s = t.a & 0xFFFF, esc = t.a >> 16;
    int out = c;
    if (esc == ESC_NONE && c == '"') {
        if (d->flags[s] & DFA_ACCEPT) {
            set_enter(m, n->next, t.stack);
        }
        return;
    }
    if (esc == ESC_NONE && c == '\\') {
        if (any_escape(d, s)) {
            t.a = s | ESC_BACKSLASH << 16;
            add(m, t);
        }
        return;
    }
    if (esc != ESC_NONE) {
        esc = escape_step(d, s, esc, c, &out);
    } else if (c < 0x20) {
        return;
    }
    if (out >= 0) {
        s = dfa_step(d, s, (unsigned char)out);
    }
    if (out != -2 && s != DFA_DEAD) {
        t.a = s | esc << 16;
        add(m, t);
    }
}

static void step_blank(struct machine *m, const struct node *n, struct thread t,
                       unsigned char c)
{
    bool line = n->n && t.a == 0 && c == '\n';
    bool indent = t.a > 0 && t.a <= BLANK_MAX && (c == ' ' || c == '\t');
    if (line || indent) {
        t.a++;
        if (t.a <= BLANK_MAX) {
            add(m, t);
        }
        set_enter(m, n->next, t.stack);
    } else if (t.a == 0 && c == ' ') {
        set_enter(m, n->next, t.stack);
    }
}

void set_step(struct machine *m, struct thread t, unsigned char c)
{
    const struct node *n = &m->g->node[t.node];
    switch (n->kind) {
    case NODE_TEXT:
        if ((unsigned char)m->g->text.p[n->at + t.a] != c) {
            break;
        }
        if (++t.a < n->n) {
            add(m, t);
        } else {
            set_enter(m, n->next, t.stack);
        }
        break;
    case NODE_DFA:
        t.a = dfa_step(&m->g->dfa[n->d], t.a, c);
        if (t.a != DFA_DEAD) {
            add(m, t);
            if (m->g->dfa[n->d].flags[t.a] & DFA_ACCEPT) {
                set_enter(m, n->next, t.stack);
            }
        }
        break;
    case NODE_STRING:
        if (n->d == NO_DFA) {
            step_string(m, n, t, c);
        } else {
            step_pattern(m, n, t, c);
        }
        break;
    case NODE_RAW:
        if (t.a == UTF8_BETWEEN && !count(n, &t)) {
            break;
        }
        t.a = utf8_next((uint8_t)t.a, c);
        if (t.a != UTF8_REFUSED) {
            add(m, t);
            if (t.a == UTF8_BETWEEN && t.b >= n->min) {
                set_enter(m, n->next, t.stack);
            }
        }
        break;
    case NODE_BLANK: step_blank(m, n, t, c); break;
    default: break; /* markers are no bytes */
    }
}

void set_step_mark(struct machine *m, struct thread t)
{
    if (m->g->node[t.node].kind == NODE_MARK) {
        set_enter(m, m->g->node[t.node].next, t.stack);
    }
}

bool thread_is_free(const struct machine *m, const struct thread *t, enum trie_text *which,
                    uint32_t *most)
{
    const struct node *n = &m->g->node[t->node];
    *most = UINT32_MAX;
    *which = n->kind == NODE_STRING ? TRIE_JSON : TRIE_TEXT;
    if (n->kind == NODE_DFA || (n->kind == NODE_STRING && n->d != NO_DFA)) {
        return t->a <= 0xFFFF && (m->g->dfa[n->d].flags[t->a] & DFA_ANY);
    }
    if ((n->kind == NODE_STRING || n->kind == NODE_RAW) && t->a == UTF8_BETWEEN) {
        *most = n->max == UINT32_MAX ? UINT32_MAX : n->max - t->b;
        return true;
    }
    return false;
}
