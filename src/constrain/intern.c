/* intern.c - stacks and sets of the machine, kept once each (machine_int.h). Their numbers depend
 * on what was read before; nothing that is decided depends on them: sets are sorted by content. */
#include "constrain/machine_int.h"

#include <stdlib.h>

/* Room for n more elements; on failure the machine is full. */
static bool room(struct machine *m, void **p, uint32_t n, uint32_t more, uint32_t *cap,
                 size_t bytes, uint32_t most)
{
    if (n + more <= *cap) {
        return true;
    }
    uint32_t want = MAX(n + more, *cap * 2);
    void *q = n + more <= most ? mem_realloc(*p, want, bytes) : NULL;
    m->failed = m->failed || (!q && n + more <= most);
    m->full = m->full || !q;
    if (q) {
        *p = q;
        *cap = want;
    }
    return q != NULL;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

uint32_t frame_intern(struct machine *m, uint32_t parent, uint32_t ret, uint64_t data)
{
    uint64_t h = mix(mix(m->frame[parent].hash, ret), data);
    uint32_t i = (uint32_t)(h >> 20) % (2 * MACHINE_FRAMES);
    for (; m->frame_slot[i]; i = (i + 1) % (2 * MACHINE_FRAMES)) {
        const struct frame *f = &m->frame[m->frame_slot[i]];
        if (f->parent == parent && f->ret == ret && f->data == data) {
            return m->frame_slot[i];
        }
    }
    void *p = m->frame;
    bool ok = room(m, &p, m->n_frame, 1, &m->cap_frame, sizeof *m->frame, MACHINE_FRAMES);
    m->frame = p;
    if (!ok) {
        return UINT32_MAX;
    }
    m->frame[m->n_frame] = (struct frame){.parent = parent,
                                          .ret = ret,
                                          .data = data,
                                          .hash = h,
                                          .depth = m->frame[parent].depth + 1};
    m->frame_slot[i] = m->n_frame;
    return m->n_frame++;
}

static int compare(const void *pa, const void *pb)
{
    const struct thread *a = pa, *b = pb;
    if (a->node != b->node) {
        return a->node < b->node ? -1 : 1;
    }
    if (a->a != b->a) {
        return a->a < b->a ? -1 : 1;
    }
    if (a->b != b->b) {
        return a->b < b->b ? -1 : 1;
    }
    return a->hash != b->hash ? (a->hash < b->hash ? -1 : 1)
                              : (a->stack > b->stack) - (a->stack < b->stack);
}

static void sort_set(struct machine *m)
{
    uint32_t n = 0;
    if (m->n_set > 1) {
        qsort(m->set, m->n_set, sizeof *m->set, compare);
    }
    for (uint32_t i = 0; i < m->n_set; i++) {
        if (n == 0 || compare(&m->set[n - 1], &m->set[i]) != 0) {
            m->set[n++] = m->set[i];
        }
    }
    m->n_set = MIN(n, (uint32_t)MACHINE_THREADS);
}

uint32_t machine_intern(struct machine *m)
{
    uint64_t h = 1;
    sort_set(m);
    if (m->n_set == 0 || m->full) {
        return m->full ? STATE_UNKNOWN : STATE_DEAD;
    }
    for (uint32_t i = 0; i < m->n_set; i++) {
        const struct thread *t = &m->set[i];
        h = mix(mix(h, (uint64_t)t->node << 32 | t->a), t->hash + t->b);
    }
    uint32_t slot = (uint32_t)(h >> 20) % (2 * MACHINE_STATES);
    for (; m->state_slot[slot]; slot = (slot + 1) % (2 * MACHINE_STATES)) {
        const struct state *s = &m->state[m->state_slot[slot]];
        if (s->n == m->n_set && memcmp(m->pool + s->at, m->set, s->n * sizeof *m->set) == 0) {
            return m->state_slot[slot];
        }
    }
    void *pool = m->pool, *states = m->state;
    bool ok = room(m, &pool, m->n_pool, m->n_set, &m->cap_pool, sizeof *m->pool, MACHINE_POOL);
    m->pool = pool;
    ok = ok && room(m, &states, m->n_state, 1, &m->cap_state, sizeof *m->state, MACHINE_STATES);
    m->state = states;
    if (!ok) {
        return STATE_UNKNOWN;
    }
    struct state s = {.at = m->n_pool, .n = m->n_set};
    for (uint32_t i = 0; i < m->n_set; i++) {
        s.end = s.end || m->g->node[m->set[i].node].kind == NODE_END;
        s.mark = s.mark || m->g->node[m->set[i].node].kind == NODE_MARK;
    }
    memcpy(m->pool + m->n_pool, m->set, m->n_set * sizeof *m->set);
    m->n_pool += m->n_set;
    m->state_slot[slot] = m->n_state;
    m->state[m->n_state] = s;
    return m->n_state++;
}
