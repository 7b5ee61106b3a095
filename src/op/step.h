/* step.h - the step block: everything that changes from one step to the next, and the position
 * arithmetic that every backend derives from it. One recorded program serves decode,
 * verification, batches and prefill; only this block differs. Compiled as C, CUDA and Metal:
 * plain scalars and inline functions, no library calls.
 *
 * Ownership: the caller fills a step on its stack; submit copies what it needs. */
#ifndef OP_STEP_H
#define OP_STEP_H

#include <stdint.h>

/* Token value "what PICK chose for this state slot in the last step". */
#define TOK_PICKED 0xFFFFFFFFu
/* V: most rows one verification step may hold; rings are this much longer than needed, so that
 * forgetting up to V tokens is free (kv-store.md 2.1). */
#define STEP_VERIFY_MAX 8u

/* One sequence's share of a step. */
struct step_seq {
    uint32_t state; /* state slot */
    uint32_t n0;    /* tokens already in the sequence = position of its first token here */
    uint32_t n_tok; /* tokens here, >= 1 */
    uint32_t tok0;  /* first token row; rows of a sequence are adjacent, sequences in order */
    uint32_t start; /* positions below do not exist for window and compressor inputs: 0, or
                       where an exact re-run begins (kv-store.md 2.4) */
    uint32_t keep;  /* rows of groups that end at or below this position exist already: they are
                       read, not written */
    uint32_t page0; /* first entry in pages[] */
    uint32_t n_page; /* entries, enough for n0 + n_tok tokens */
    uint32_t out0;   /* first entry in out[] */
    uint32_t n_out;  /* logits rows wanted, token rows ascending */
};

struct step {
    uint32_t n_tok, n_seq, n_out, n_page;
    const struct step_seq *seq; /* [n_seq] */
    const uint32_t *tok;        /* [n_tok] token ids, or TOK_PICKED */
    const uint32_t *tok_seq;    /* [n_tok] index into seq */
    const uint32_t *pages;      /* [n_page] page numbers in the pool */
    const uint32_t *out;        /* [n_out] token row of each logits row */
    uint32_t use_mask;          /* the IO mask bits apply (else all tokens are allowed) */
};

/* Absolute position of token row t. */
static inline uint32_t step_pos(const struct step_seq *s, uint32_t t)
{
    return s->n0 + (t - s->tok0);
}
/* First position whose window row token at `pos` sees (it sees this .. pos). */
static inline uint32_t step_win_first(const struct step_seq *s, uint32_t pos, uint32_t window)
{
    uint32_t first = pos + 1 > window ? pos + 1 - window : 0;
    return first > s->start ? first : s->start;
}
/* Compressed rows visible at `pos`: rows 0 .. n-1; the row completed by pos itself included. */
static inline uint32_t step_rows_seen(uint32_t pos, uint32_t ratio)
{
    return (uint32_t)(((uint64_t)pos + 1) / ratio);
}
/* Is position p computed in this step (its data is in the ARENA), or earlier (STATE ring)? */
static inline int step_own(const struct step_seq *s, uint32_t p)
{
    return p >= s->n0;
}
/* Token row of an own position. */
static inline uint32_t step_row_of(const struct step_seq *s, uint32_t p)
{
    return s->tok0 + (p - s->n0);
}
/* Slot of a position in a ring of n slots. */
static inline uint32_t step_ring(uint32_t p, uint32_t n)
{
    return p % n;
}
/* First position of this step that must reach a ring of n slots (older ones are overwritten).
 */
static inline uint32_t step_ring_first(const struct step_seq *s, uint32_t n)
{
    return s->n_tok > n ? s->n0 + s->n_tok - n : s->n0;
}
/* Where compressed row i lives: entry of the sequence's page list and slot in the page. */
static inline uint32_t step_row_page(uint32_t i, uint32_t rows_per_page)
{
    return i / rows_per_page;
}
static inline uint32_t step_row_slot(uint32_t i, uint32_t rows_per_page)
{
    return i % rows_per_page;
}
/* Compressed groups completed in this step: rows [first, end) where group g covers positions
 * [g*r, (g+1)*r); rows that end at or below keep are not written again. */
static inline uint32_t step_group_first(const struct step_seq *s, uint32_t ratio)
{
    uint32_t from = s->n0 > s->keep ? s->n0 : s->keep;
    return from / ratio;
}
static inline uint32_t step_group_end(const struct step_seq *s, uint32_t ratio)
{
    return (uint32_t)(((uint64_t)s->n0 + s->n_tok) / ratio);
}

#endif
