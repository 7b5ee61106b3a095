/* machine_int.h - inside of a machine: threads.c moves threads, machine.c keeps sets and stacks,
 * mask.c walks the trie. */
#ifndef CONSTRAIN_MACHINE_INT_H
#define CONSTRAIN_MACHINE_INT_H

#include "constrain/machine.h"

enum { FRAME_NONE = 0, STATE_DEAD = 0, SEEN_SLOTS = 8192 };
#define STATE_UNKNOWN UINT32_MAX /* not computed; as a result: no room to compute it */

struct frame {
    uint32_t parent, ret; /* node to go on with */
    uint64_t data;        /* of a group: members seen, or how many */
    uint64_t hash;        /* of the whole stack, independent of numbering */
    uint32_t depth;
};

struct thread {
    uint32_t node, stack;
    uint32_t a,
        b; /* NODE_TEXT: bytes read; NODE_DFA: state; NODE_STRING, NODE_RAW: state of the
                      reader (with d: escape << 16 | state of the automaton), code points */
    uint64_t hash; /* of the stack */
};

struct state {
    uint32_t at, n; /* threads in the pool */
    uint32_t *next; /* [256], owned; NULL until needed */
    uint32_t *mask; /* owned; NULL until needed */
    bool end, mark; /* a thread stands before the end, before the call marker */
};

struct seen {
    uint64_t key;
    uint32_t turn;
};

struct machine {
    struct grammar *g;
    const struct token_trie *trie;
    atomic_uint refs;
    pthread_mutex_t lock;
    struct position *positions; /* all that are alive */
    struct frame *frame;        /* owned, as all below; [0] is the empty stack */
    uint32_t n_frame, cap_frame;
    struct thread *pool;
    uint32_t n_pool, cap_pool;
    struct state *state; /* [0] is STATE_DEAD */
    uint32_t n_state, cap_state, n_mask;
    uint32_t *frame_slot, *state_slot; /* hash tables, sizes twice the bounds */
    size_t bytes;                      /* of next tables and masks */
    /* the set that is being made */
    struct thread *set; /* [2 * MACHINE_THREADS] */
    uint32_t n_set;
    struct {
        uint32_t node, stack;
    } * work; /* [SEEN_SLOTS] */
    uint32_t n_work;
    struct seen *seen; /* [SEEN_SLOTS] */
    uint32_t n_seen, turn;
    bool full;   /* no room, or memory is out */
    bool failed; /* memory is out: for good */
};

/* threads.c: all add to m->set. */
void set_clear(struct machine *m);
/* Everything that can be read next at node with this stack. */
void set_enter(struct machine *m, uint32_t node, uint32_t stack);
void set_step(struct machine *m, struct thread t, unsigned char c);
void set_step_mark(struct machine *m, struct thread t);
/* Text that a thread takes without looking at it: false if it does look; else which, and how many
 * code points at most. */
bool thread_is_free(const struct machine *m, const struct thread *t, enum trie_text *which,
                    uint32_t *most);

/* intern.c */
uint32_t frame_intern(struct machine *m, uint32_t parent, uint32_t ret, uint64_t data);
/* The state of m->set (which is sorted and freed of doubles); STATE_UNKNOWN: no room. */
uint32_t machine_intern(struct machine *m);

/* machine.c */
uint32_t machine_step(struct machine *m, uint32_t s, unsigned char c);
/* Forgets everything but the positions. False: memory is out. */
bool machine_reset(struct machine *m);

#endif
