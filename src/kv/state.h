/* state.h - one sequence: its page table, its state slot, how far it is computed, and what
 * of its rings is still good (kv-store.md 2.3, 2.4).
 *
 * Positions. Tokens [0, n) are computed. Rows of groups that end at or below `keep` exist in
 * the pages although n may be smaller: tokens [n, keep) are computed again ("re-run") to
 * rebuild window and compressor inputs, reading those rows. A re-run has no logits; keep <=
 * n when none is under way.
 *
 * Rewinding to n' tries, cheapest first: nothing to do (rings are V slots longer than
 * needed); ring and boundary copy of a multiple of A, then <= A - 1 + A tokens again; a
 * frontier copy; an exact re-run from so far back that what does not exist cannot matter.
 * All give the same bits.
 *
 * A step: state_begin, submit and wait, state_commit; state_abort if the step failed. Owned
 * by a session; borrows the pool. Thread rule: engine thread. */
#ifndef KV_STATE_H
#define KV_STATE_H

#include "kv/frontier.h"
#include "op/step.h"

struct kv_state {
    struct kv_pool *pool;
    uint32_t slot;
    uint32_t *pages; /* owned; page i holds the rows of positions [i*S, (i+1)*S) */
    uint32_t n_pages, cap_pages;
    uint32_t reserved; /* pages promised by the pool and not taken */
    uint32_t n, keep;
    uint32_t start;    /* inputs below do not exist: 0, or where the last exact re-run began */
    uint32_t restore;  /* compressor inputs below are not in their rings (last restore point) */
    uint32_t high;     /* end of what compressor rings were given since the restore point */
    uint32_t win_low;  /* window rows below were never given to the ring */
    uint32_t win_high; /* end of what the window ring was ever given */
    uint32_t bound[2]; /* multiple of A whose boundary copy is valid in each place; 0: none */
};

/* Takes a slot; FATHOM_ELIMIT if none is free. cap_tokens: longest sequence, sizes the page
 * table. */
int state_init(struct kv_state *st, struct kv_pool *p, uint32_t cap_tokens, fathom_err *err);
/* Gives everything back. {0} is fine. */
void state_fini(struct kv_state *st);

/* Tokens whose rows exist: max(n, keep). */
static inline uint32_t state_rows(const struct kv_state *st)
{
    return st->n > st->keep ? st->n : st->keep;
}

/* Reserves the pages for growing to n_total tokens (a shared page that will be written
 * included); FATHOM_ELIMIT, with the numbers, leaves everything as it was. */
int state_reserve(struct kv_state *st, uint32_t n_total, fathom_err *err);

/* Makes the pages of [n, n + n_tok) writable where rows will be written and marks the rings as
 * written. The pages must be reserved (assert). */
void state_begin(struct kv_state *st, uint32_t n_tok);
/* This sequence's share of the step block: state, n0, n_tok, start, keep, n_page;
 * pages[0..n_page) are copied. The rest is the caller's. */
void state_step(const struct kv_state *st, uint32_t n_tok, struct step_seq *seq,
                uint32_t *pages);
void state_commit(struct kv_state *st, uint32_t n_tok);

enum kv_resume { KV_RESUME_FREE, KV_RESUME_RING, KV_RESUME_FRONTIER, KV_RESUME_RERUN };
struct kv_plan {
    enum kv_resume how;
    uint32_t from;                   /* n after the rewind: first token to compute */
    uint32_t keep;                   /* = n' */
    const struct frontier *frontier; /* the one to use */
};
/* The cheapest way back to n' <= state_rows; front: candidates (those beyond n' are
 * ignored). */
struct kv_plan state_plan(const struct kv_state *st, uint32_t n_new,
                          struct frontier *const *front, uint32_t n_front);
/* Rewinds by that plan. Pages beyond n' are given back; pending reservations stay. */
struct kv_plan state_rewind(struct kv_state *st, uint32_t n_new, struct frontier *const *front,
                            uint32_t n_front);
/* After a failed step begun with state_begin: finds the way back to where the sequence was. */
void state_abort(struct kv_state *st, struct frontier *const *front, uint32_t n_front);

/* A copy of src cut to n' <= rows: full pages are shared, the partial one and the slot copied.
 * FATHOM_ELIMIT if no slot or page is free. */
int state_fork(struct kv_state *out, const struct kv_state *src, uint32_t n_new,
               struct frontier *const *front, uint32_t n_front, uint32_t cap_tokens,
               fathom_err *err);

/* ---- sharing: the parts of a fork, for sequences that continue from a prefix index ---- */

/* Forgets all tokens and gives all pages back; slot and reservations stay. */
void state_clear(struct kv_state *st);
/* On a sequence without tokens: pages[0 .. ceil(n / S)) hold the rows of [0, n); one reference
 * each passes to st. n = 0, keep = n as after state_adopt; then state_rewind or state_follow. */
void state_share(struct kv_state *st, const uint32_t *pages, uint32_t n);
/* If the page in which the next row goes is shared, copies it now (needs a reservation), so that
 * the other holder may write into its own. */
void state_own(struct kv_state *st);
/* After state_share with pages of src (st->keep <= rows of src): takes over src's rings as well
 * and rewinds to keep, by whatever is cheapest. */
struct kv_plan state_follow(struct kv_state *st, const struct kv_state *src,
                            struct frontier *const *front, uint32_t n_front);

/* A frontier at the last multiple of A; NULL if the rings no longer hold it, m is 0, or
 * memory is out. */
struct frontier *state_checkpoint(const struct kv_state *st);

/* Rows from elsewhere (a disk store, a benchmark). On a sequence without tokens: takes pages
 * for n tokens, which the caller fills with the rows of [0, n); nothing is computed yet (n =
 * 0, keep = n). Then state_rewind(n) finds the way on, with a frontier or a re-run. */
int state_adopt(struct kv_state *st, uint32_t n, fathom_err *err);
/* Instead: the caller has written the slot as well, as it would be at keep, a multiple of A. */
void state_assume(struct kv_state *st);

/* Rows of further tokens from elsewhere, all or nothing: begin takes pages for the tokens from
 * the start of page *first (the one in which the known rows end) to n and puts them in pages[];
 * nothing else changes. The caller fills them. end keeps those that hold [first * S, n_new)
 * completely and extends keep to n_new; n_new <= the known rows: everything is given back and
 * the sequence is as before. n_loaded: pages that begin took. After end the reservation must be
 * renewed (state_reserve), and state_rewind finds the way on. begin: false if there are not
 * enough pages. */
bool state_load_begin(struct kv_state *st, uint32_t n, uint32_t *first, uint32_t *pages);
void state_load_end(struct kv_state *st, uint32_t first, const uint32_t *pages,
                    uint32_t n_loaded, uint32_t n_new);

/* Where an exact re-run that must be right at n' has to begin (kv-store.md 2.4): a multiple
 * of A. */
uint32_t layout_rerun_start(const struct layout *l, uint32_t n_new);

#endif
