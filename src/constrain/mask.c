/* mask.c - masks (machine.h): the trie is walked with one state for each byte of the path; a byte
 * that leads nowhere skips its subtree. Where threads take any text, the clean tokens come from
 * the trie's tables and only the rest is walked for them. */
#include "constrain/machine_int.h"

static void set_bit(uint32_t *out, uint32_t id)
{
    out[id / 32] |= 1u << id % 32;
}

/* Adds the tokens of a trie that may be read from state s. When the machine is full: stops, or
 * if `pass` goes on with what needs no new state. */
static void walk(struct machine *m, const struct trie_part *part, uint32_t s, bool pass,
                 uint32_t *out)
{
    uint32_t at[TRIE_DEPTH_MAX + 1], end[TRIE_DEPTH_MAX + 1], depth = 0;
    const struct trie_node *node = part->node;
    at[0] = s;
    end[0] = part->n;
    for (uint32_t i = 0; i < part->n;) {
        while (i >= end[depth]) {
            depth--;
        }
        unsigned char c = (unsigned char)node[i].token_byte;
        const uint32_t *next = m->state[at[depth]].next;
        uint32_t to = next ? next[c] : STATE_UNKNOWN;
        if (to == STATE_UNKNOWN) {
            to = machine_step(m, at[depth], c);
        }
        if (to == STATE_UNKNOWN) {
            if (!pass) {
                return;
            }
            m->full = m->failed;
            to = STATE_DEAD;
        }
        if (to == STATE_DEAD) {
            i = node[i].end;
            continue;
        }
        uint32_t id = node[i].token_byte >> 8;
        if (id != TRIE_NONE) {
            set_bit(out, id);
        }
        if (node[i].end > i + 1) {
            at[++depth] = to;
            end[depth] = node[i].end;
        }
        i++;
    }
}

/* The state of those threads of s that are free in text `which` (TRIE_TEXTS: of those that are
 * not free), and the most code points that they take. STATE_UNKNOWN: no room. */
static uint32_t part_of(struct machine *m, uint32_t s, enum trie_text which, uint32_t *most)
{
    const struct state *st = &m->state[s];
    *most = 0;
    set_clear(m);
    for (uint32_t i = 0; i < st->n; i++) {
        const struct thread *t = &m->pool[st->at + i];
        enum trie_text text;
        uint32_t n;
        bool is_free = thread_is_free(m, t, &text, &n);
        if (which == TRIE_TEXTS ? !is_free : is_free && text == which) {
            m->set[m->n_set++] = *t;
            *most = MAX(*most, n);
        }
    }
    return machine_intern(m);
}

static void find(struct machine *m, uint32_t s, bool pass, uint32_t *out)
{
    const struct token_trie *t = m->trie;
    uint32_t most;
    memset(out, 0, t->n_words * sizeof *out);
    for (int w = TRIE_JSON; w <= TRIE_TEXTS && (!m->full || pass); w++) {
        uint32_t part = part_of(m, s, (enum trie_text)w, &most);
        if (part == STATE_DEAD || part == STATE_UNKNOWN) {
            continue;
        }
        if (w == TRIE_TEXTS) {
            walk(m, &t->all, part, pass, out);
            continue;
        }
        const uint32_t *clean = trie_clean(t, (enum trie_text)w, most);
        for (uint32_t i = 0; i < t->n_words; i++) {
            out[i] |= clean[i];
        }
        walk(m, &t->rest[w], part, pass, out);
    }
    for (uint32_t i = 0; i < t->n_same; i++) {
        uint32_t id = t->same[2 * i];
        if (out[id / 32] >> id % 32 & 1u) {
            set_bit(out, t->same[2 * i + 1]);
        }
    }
    if (m->state[s].mark) {
        set_bit(out, t->mark);
    }
    if (m->state[s].end) {
        set_bit(out, t->eos);
    }
}

static void keep(struct machine *m, uint32_t s, const uint32_t *mask)
{
    size_t bytes = m->trie->n_words * sizeof *mask;
    uint32_t *own = mem_alloc(1, bytes);
    if (own) { /* else it is computed again */
        memcpy(own, mask, bytes);
        m->state[s].mask = own;
        m->bytes += bytes;
        m->n_mask++;
    }
}

void machine_mask(struct machine *m, struct position *p, uint32_t *out)
{
    size_t bytes = m->trie->n_words * sizeof *out;
    pthread_mutex_lock(&m->lock);
    if (p->ended || p->state == STATE_DEAD) {
        memset(out, 0, bytes);
        set_bit(out, m->trie->eos);
    } else if (m->state[p->state].mask) {
        memcpy(out, m->state[p->state].mask, bytes);
    } else {
        if (m->n_mask >= MACHINE_MASKS) {
            machine_reset(m);
        }
        find(m, p->state, false, out);
        if (m->full && machine_reset(m)) {
            find(m, p->state, true, out);
            m->full = m->failed;
        }
        keep(m, p->state, out);
    }
    pthread_mutex_unlock(&m->lock);
}
