/* sched_int.h - what sched.c (the loop) and slots.c (sequences, prefixes, memory) share. */
#ifndef SERVER_SCHED_INT_H
#define SERVER_SCHED_INT_H

#include "server/decoder.h"
#include "server/sched.h"

enum run_state { RUN_PREFILL, RUN_DECODE };

/* An answer that is being generated. */
struct run {
    struct job *job; /* one reference */
    struct decoder decoder;
    void *seq; /* = slot's */
    enum run_state state;
    uint32_t
        reserve; /* tokens that the sequence may come to hold; memory is kept free for it */
    double started, first_token;
    fathom_reuse reuse;
};

/* A place for a sequence; idle ones keep what they computed, for the next prompt. */
struct slot {
    void *seq; /* owned; NULL: none yet */
    struct run *run;
    struct sip_digest salt;
    double used; /* clock_now() of the last use */
};

struct slots {
    struct model *m;
    struct slot *slot; /* owned: n */
    uint32_t n;
};

enum place {
    PLACE_OK,
    PLACE_WAIT,  /* not now: no slot or no memory; nobody may pass */
    PLACE_LATER, /* not now: another answer is computing this prefix; others may pass */
    PLACE_ERROR, /* never: err says why */
};

int slots_init(struct slots *s, struct model *m, fathom_err *err);
void slots_fini(struct slots *s);
/* Finds a free slot for run, with as much of its prompt as is computed somewhere, and sets the
 * sequence. */
enum place slots_place(struct slots *s, struct run *run, fathom_err *err);
void slots_release(struct slots *s, struct run *run);
/* Frees the idle sequence that was used longest ago; false if there is none. */
bool slots_evict(struct slots *s, const struct slot *but);
uint32_t slots_busy(const struct slots *s);

#endif
