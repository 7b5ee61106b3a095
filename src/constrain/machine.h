/* machine.h - runs a grammar over bytes and finds masks. What has been read so far is a set of
 * threads, each a place in the grammar and a stack; ambiguity is several threads. Stacks and sets
 * are kept once each (equal ones are one), and a set remembers where a byte leads and what its
 * mask is, so that it becomes, while it is used, a deterministic automaton over the vocabulary: a
 * mask that was needed before costs a copy.
 *
 * What is remembered belongs to the machine and is shared by all answers that it constrains. It is
 * bounded (MACHINE_STATES, MACHINE_MASKS): when full it is forgotten and only the current
 * positions are kept, which changes times but no mask. A single mask that needs more than all of
 * it leaves out tokens instead, always the same ones.
 *
 * Thread rule: any thread; calls on one machine wait for each other. */
#ifndef CONSTRAIN_MACHINE_H
#define CONSTRAIN_MACHINE_H

#include <pthread.h>

#include "constrain/grammar.h"
#include "constrain/trie.h"

enum {
    MACHINE_STATES = 16384,
    MACHINE_MASKS = 512,
    MACHINE_THREADS = 1024, /* of one set; what is beyond is not followed */
    MACHINE_POOL = 1 << 20, /* threads of all sets */
    MACHINE_FRAMES = 1 << 17,
};

struct machine;

/* Where an answer is. Belongs to a machine from machine_start to machine_stop; must not move. */
struct position {
    uint32_t state; /* 0: something was read that the grammar does not allow */
    bool ended;     /* the end-of-text token was read */
    struct position *prev, *next;
};

/* Takes the grammar's reference over; trie is borrowed and outlives the machine. One reference.
 * NULL: out of memory (the grammar is released). */
struct machine *machine_new(struct grammar *g, const struct token_trie *trie);
void machine_ref(struct machine *m);
void machine_unref(struct machine *m);
size_t machine_bytes(struct machine *m); /* memory in use now, with the grammar */
const struct token_trie *machine_trie(const struct machine *m);

void machine_start(struct machine *m, struct position *p);
void machine_stop(struct machine *m, struct position *p);
/* A token was chosen. False: the grammar does not allow it. */
bool machine_token(struct machine *m, struct position *p, uint32_t id);
/* The tokens that may follow, trie->n_words words. After the end, and after something that was
 * not allowed: only end of text. */
void machine_mask(struct machine *m, struct position *p, uint32_t *out);
/* Would machine_token be true? Read byte by byte, without the trie (tests). */
bool machine_allows(struct machine *m, struct position *p, uint32_t id);
/* May the answer end here? */
bool machine_may_end(struct machine *m, struct position *p);

#endif
