/* machine.c - see machine.h: the life of a machine, its positions, and what they may read. */
#include "constrain/machine_int.h"

#include "text/text.h"

/* ---- life ---- */

static bool alloc_parts(struct machine *m)
{
    m->frame_slot = mem_calloc(2 * MACHINE_FRAMES, sizeof *m->frame_slot);
    m->state_slot = mem_calloc(2 * MACHINE_STATES, sizeof *m->state_slot);
    m->set = mem_alloc(2 * MACHINE_THREADS, sizeof *m->set);
    m->work = mem_alloc(SEEN_SLOTS, sizeof *m->work);
    m->seen = mem_calloc(SEEN_SLOTS, sizeof *m->seen);
    m->cap_frame = m->cap_pool = m->cap_state = 256;
    m->frame = mem_alloc(m->cap_frame, sizeof *m->frame);
    m->pool = mem_alloc(m->cap_pool, sizeof *m->pool);
    m->state = mem_alloc(m->cap_state, sizeof *m->state);
    return m->frame_slot && m->state_slot && m->set && m->work && m->seen && m->frame &&
           m->pool && m->state;
}

static void clear(struct machine *m)
{
    for (uint32_t i = 0; i < m->n_state; i++) {
        mem_free(m->state[i].next);
        mem_free(m->state[i].mask);
    }
    memset(m->frame_slot, 0, 2 * MACHINE_FRAMES * sizeof *m->frame_slot);
    memset(m->state_slot, 0, 2 * MACHINE_STATES * sizeof *m->state_slot);
    m->n_frame = m->n_state = 1;
    m->n_pool = m->n_mask = 0;
    m->frame[FRAME_NONE] = (struct frame){.hash = 0x51ED270B7B9B4E7Du};
    m->state[STATE_DEAD] = (struct state){0};
    m->bytes = 0;
    m->full = m->failed;
}

struct machine *machine_new(struct grammar *g, const struct token_trie *trie)
{
    struct machine *m = mem_calloc(1, sizeof *m);
    if (m) {
        m->g = g;
        m->trie = trie;
        atomic_init(&m->refs, 1);
        pthread_mutex_init(&m->lock, NULL);
        if (alloc_parts(m)) {
            clear(m);
            return m;
        }
        machine_unref(m);
        return NULL;
    }
    grammar_unref(g);
    return NULL;
}

void machine_ref(struct machine *m)
{
    atomic_fetch_add(&m->refs, 1);
}

void machine_unref(struct machine *m)
{
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) {
        return;
    }
    for (uint32_t i = 0; i < m->n_state; i++) {
        mem_free(m->state[i].next);
        mem_free(m->state[i].mask);
    }
    grammar_unref(m->g);
    mem_free(m->frame);
    mem_free(m->pool);
    mem_free(m->state);
    mem_free(m->frame_slot);
    mem_free(m->state_slot);
    mem_free(m->set);
    mem_free(m->work);
    mem_free(m->seen);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

const struct token_trie *machine_trie(const struct machine *m)
{
    return m->trie;
}

size_t machine_bytes(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    size_t n = sizeof *m + m->bytes + grammar_bytes(m->g) + m->cap_frame * sizeof *m->frame +
               m->cap_pool * sizeof *m->pool + m->cap_state * sizeof *m->state +
               2 * MACHINE_FRAMES * sizeof *m->frame_slot +
               2 * MACHINE_STATES * sizeof *m->state_slot +
               2 * MACHINE_THREADS * sizeof *m->set +
               SEEN_SLOTS * (sizeof *m->work + sizeof *m->seen);
    pthread_mutex_unlock(&m->lock);
    return n;
}

/* ---- states ---- */

uint32_t machine_step(struct machine *m, uint32_t s, unsigned char c)
{
    struct state *st = &m->state[s];
    if (s == STATE_DEAD || (st->next && st->next[c] != STATE_UNKNOWN)) {
        return s == STATE_DEAD ? STATE_DEAD : st->next[c];
    }
    if (!st->next) {
        st->next = mem_alloc(256, sizeof *st->next);
        if (!st->next) {
            m->full = m->failed = true;
            return STATE_UNKNOWN;
        }
        memset(st->next, 0xFF, 256 * sizeof *st->next);
        m->bytes += 256 * sizeof *st->next;
    }
    uint32_t at = st->at, n = st->n;
    set_clear(m);
    for (uint32_t i = 0; i < n && !m->full; i++) {
        set_step(m, m->pool[at + i], c);
    }
    uint32_t to = machine_intern(m);
    m->state[s].next[c] = to; /* STATE_UNKNOWN: not computed */
    return to;
}

static uint32_t start_state(struct machine *m)
{
    set_clear(m);
    set_enter(m, m->g->rule[m->g->root], FRAME_NONE);
    return machine_intern(m);
}

/* ---- forgetting ---- */

/* The threads of a state, each with its whole stack, as words: node, a, b, frames, then from the
 * bottom ret, data low, data high. */
static void save_state(const struct machine *m, uint32_t s, struct buf *out)
{
    const struct state *st = &m->state[s];
    for (uint32_t i = 0; i < st->n; i++) {
        const struct thread *t = &m->pool[st->at + i];
        uint32_t depth = m->frame[t->stack].depth;
        uint32_t head[4] = {t->node, t->a, t->b, depth}, path[GRAMMAR_DEPTH + 2];
        uint32_t at = t->stack;
        for (uint32_t k = depth; k > 0; k--) {
            path[k] = at;
            at = m->frame[at].parent;
        }
        buf_add(out, head, sizeof head);
        for (uint32_t k = 1; k <= depth; k++) {
            const struct frame *f = &m->frame[path[k]];
            uint32_t w[3] = {f->ret, (uint32_t)f->data, (uint32_t)(f->data >> 32)};
            buf_add(out, w, sizeof w);
        }
    }
}

static uint32_t load_state(struct machine *m, const struct buf *in)
{
    set_clear(m);
    for (size_t at = 0; at < in->n;) {
        uint32_t head[4], stack = FRAME_NONE, w[3];
        memcpy(head, in->p + at, sizeof head);
        at += sizeof head;
        for (uint32_t k = 0; k < head[3] && stack != UINT32_MAX; k++, at += sizeof w) {
            memcpy(w, in->p + at, sizeof w);
            stack = frame_intern(m, stack, w[0], w[1] | (uint64_t)w[2] << 32);
        }
        if (stack == UINT32_MAX) {
            return STATE_UNKNOWN;
        }
        m->set[m->n_set++] = (struct thread){.node = head[0],
                                             .stack = stack,
                                             .a = head[1],
                                             .b = head[2],
                                             .hash = m->frame[stack].hash};
    }
    return machine_intern(m);
}

bool machine_reset(struct machine *m)
{
    size_t n = 0, i = 0;
    for (struct position *p = m->positions; p; p = p->next) {
        n++;
    }
    struct buf *saved = mem_calloc(n + 1, sizeof *saved);
    bool ok = saved != NULL;
    for (struct position *p = m->positions; p && ok; p = p->next, i++) {
        save_state(m, p->state, &saved[i]);
        ok = !saved[i].failed;
    }
    if (ok) {
        clear(m);
    }
    i = 0;
    for (struct position *p = m->positions; p && ok; p = p->next, i++) {
        p->state = saved[i].n ? load_state(m, &saved[i]) : STATE_DEAD;
        ok = p->state != STATE_UNKNOWN;
    }
    for (i = 0; saved && i < n; i++) {
        buf_free(&saved[i]);
    }
    mem_free(saved);
    m->failed = m->failed || !ok;
    return ok;
}

/* ---- positions ---- */

void machine_start(struct machine *m, struct position *p)
{
    pthread_mutex_lock(&m->lock);
    *p = (struct position){.next = m->positions};
    if (p->next) {
        p->next->prev = p;
    }
    m->positions = p;
    p->state = start_state(m);
    if (p->state == STATE_UNKNOWN) { /* full of other answers' states */
        p->state = STATE_DEAD;
        p->state = machine_reset(m) ? start_state(m) : STATE_DEAD;
        p->state = p->state == STATE_UNKNOWN ? STATE_DEAD : p->state;
    }
    pthread_mutex_unlock(&m->lock);
}

void machine_stop(struct machine *m, struct position *p)
{
    pthread_mutex_lock(&m->lock);
    if (p->prev) {
        p->prev->next = p->next;
    } else {
        m->positions = p->next;
    }
    if (p->next) {
        p->next->prev = p->prev;
    }
    pthread_mutex_unlock(&m->lock);
}

/* Where token id leads; STATE_UNKNOWN: no room. */
static uint32_t token_step(struct machine *m, uint32_t s, uint32_t id)
{
    if (id == m->trie->mark) {
        set_clear(m);
        for (uint32_t i = 0; i < m->state[s].n; i++) {
            set_step_mark(m, m->pool[m->state[s].at + i]);
        }
        return machine_intern(m);
    }
    struct slice b = tokenizer_bytes(m->trie->tok, id);
    if (b.n == 0 || b.n > TRIE_DEPTH_MAX || tokenizer_is_control(m->trie->tok, id)) {
        return STATE_DEAD;
    }
    for (size_t i = 0; i < b.n && s != STATE_DEAD && s != STATE_UNKNOWN; i++) {
        s = machine_step(m, s, (unsigned char)b.p[i]);
    }
    return s;
}

static uint32_t token_lead(struct machine *m, struct position *p, uint32_t id)
{
    uint32_t s = token_step(m, p->state, id);
    if (s == STATE_UNKNOWN && machine_reset(m)) {
        s = token_step(m, p->state, id);
    }
    return s == STATE_UNKNOWN ? STATE_DEAD : s;
}

bool machine_token(struct machine *m, struct position *p, uint32_t id)
{
    pthread_mutex_lock(&m->lock);
    bool ok = !p->ended && p->state != STATE_DEAD;
    if (id == m->trie->eos) {
        ok = ok && m->state[p->state].end;
        p->ended = true;
    } else {
        p->state = ok ? token_lead(m, p, id) : STATE_DEAD;
        ok = ok && p->state != STATE_DEAD;
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}

bool machine_allows(struct machine *m, struct position *p, uint32_t id)
{
    pthread_mutex_lock(&m->lock);
    bool ok = !p->ended && p->state != STATE_DEAD;
    if (id == m->trie->eos) {
        ok = !ok || m->state[p->state].end;
    } else {
        ok = ok && token_lead(m, p, id) != STATE_DEAD;
    }
    pthread_mutex_unlock(&m->lock);
    return ok;
}

bool machine_may_end(struct machine *m, struct position *p)
{
    pthread_mutex_lock(&m->lock);
    bool ok = p->state != STATE_DEAD && m->state[p->state].end;
    pthread_mutex_unlock(&m->lock);
    return ok;
}
