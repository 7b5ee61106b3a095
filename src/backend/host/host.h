/* host.h - what the backends that run on the host's memory (ref, cpu) share: buffers, where an
 * operand lies, and the copied step block. An address is always
 *     base of the space + what the step says (row, slot, page) + the operand's offset,
 * and this header is the only place that adds it up. Kernels take plain pointers from here.
 *
 * Threads: the address functions are pure and may be called by any worker while a step runs. */
#ifndef BACKEND_HOST_HOST_H
#define BACKEND_HOST_HOST_H

#include "backend/backend.h"

/* ---- buffers: anonymous zero pages, committed by the system when first touched ---- */
struct buffer {
    unsigned char *base; /* page-aligned */
    uint64_t bytes;
};

/* These have the signatures of struct backend, so that a table can name them directly; dev is
 * not used. Contents start as zero. write, read and copy assert that the range is inside the
 * buffer. */
int host_buf_alloc(struct device *dev, struct buffer **out, uint64_t bytes, enum buf_use use,
                   fathom_err *err);
void host_buf_free(struct device *dev, struct buffer *b); /* NULL is fine */
void host_buf_write(struct device *dev, struct buffer *b, uint64_t at, const void *p,
                    uint64_t n);
void host_buf_read(struct device *dev, const struct buffer *b, uint64_t at, void *p,
                   uint64_t n);
void host_buf_copy(struct device *dev, struct buffer *dst, uint64_t to,
                   const struct buffer *src, uint64_t from, uint64_t n);
void *host_buf_map(struct device *dev, struct buffer *b);

/* ---- spaces: made once when a program is compiled ---- */
struct host_bind {
    unsigned char *arena, *state, *page, *io;
    uint64_t slot_bytes, page_bytes; /* strides of STATE and PAGE */
    uint32_t n_pages;                /* whole pages in the page buffer */
    const struct op_weight *weights; /* of the program: indexed by opmat.w, opvec.w */
};

/* Checks that every buffer is as large as the program needs (arena, io, n_slots state slots;
 * any number of pages). A buffer may be NULL if the program does not use its space. */
int host_bind_make(struct host_bind *h, const struct program *p, const struct exec_bind *b,
                   fathom_err *err);

static inline bool opnd_present(const struct opnd *o)
{
    return o->space != SPACE_NONE;
}

/* Row of an ARENA or IO operand. */
static inline void *host_row(const struct host_bind *h, const struct opnd *o, uint64_t row)
{
    unsigned char *base = o->space == SPACE_IO ? h->io : h->arena;
    return base + o->offset + row * o->row_bytes;
}
/* Ring slot `slot` (a row) of a STATE operand, in state slot `state`. */
static inline void *host_state_row(const struct host_bind *h, const struct opnd *o,
                                   uint32_t state, uint32_t slot)
{
    return h->state + (uint64_t)state * h->slot_bytes + o->offset + slot * o->row_bytes;
}
/* Row `slot` of a PAGE operand's plane, in page number `page`. */
static inline void *host_page_row(const struct host_bind *h, const struct opnd *o,
                                  uint32_t page, uint32_t slot)
{
    return h->page + (uint64_t)page * h->page_bytes + o->offset + slot * o->row_bytes;
}

/* A stored row (op/rows.h): codes, and scales unless the form has none (then NULL). */
struct host_rows {
    unsigned char *codes, *scales;
};
static inline struct host_rows host_rows_arena(const struct host_bind *h,
                                               const struct opnd_rows *o, uint32_t row)
{
    struct host_rows r = {host_row(h, &o->codes, row), NULL};
    if (opnd_present(&o->scales)) {
        r.scales = host_row(h, &o->scales, row);
    }
    return r;
}
static inline struct host_rows host_rows_state(const struct host_bind *h,
                                               const struct opnd_rows *o, uint32_t state,
                                               uint32_t slot)
{
    struct host_rows r = {host_state_row(h, &o->codes, state, slot), NULL};
    if (opnd_present(&o->scales)) {
        r.scales = host_state_row(h, &o->scales, state, slot);
    }
    return r;
}
/* Compressed row i of sequence q. */
static inline struct host_rows host_rows_page(const struct host_bind *h, const struct step *s,
                                              const struct step_seq *q,
                                              const struct opnd_rows *o, uint32_t i,
                                              uint32_t rows_per_page)
{
    uint32_t page = s->pages[q->page0 + step_row_page(i, rows_per_page)];
    uint32_t slot = step_row_slot(i, rows_per_page);
    struct host_rows r = {host_page_row(h, &o->codes, page, slot), NULL};
    if (opnd_present(&o->scales)) {
        r.scales = host_page_row(h, &o->scales, page, slot);
    }
    return r;
}
/* Window row of position p of sequence q: from this step (wrow) or from the ring. */
static inline struct host_rows host_rows_window(const struct host_bind *h,
                                                const struct step_seq *q,
                                                const struct opnd_rows *wrow,
                                                const struct opnd_rows *ring, uint32_t p,
                                                uint32_t slots)
{
    return step_own(q, p) ? host_rows_arena(h, wrow, step_row_of(q, p))
                          : host_rows_state(h, ring, q->state, step_ring(p, slots));
}
/* The float row [a | g] of position p of sequence q, as COMPRESS reads its inputs: arena
 * operand x for own positions (g without ape), STATE ring (g with ape) for earlier ones. */
static inline const float *host_input_row(const struct host_bind *h, const struct step_seq *q,
                                          const struct opnd *x, const struct opnd *ring,
                                          uint32_t p, uint32_t slots)
{
    return step_own(q, p) ? host_row(h, x, step_row_of(q, p))
                          : host_state_row(h, ring, q->state, step_ring(p, slots));
}

/* The token PICK chose for a state slot (IO operand, one row of n_slots values). */
static inline uint32_t *host_picked(const struct host_bind *h, const struct opnd *picked,
                                    uint32_t state)
{
    return (uint32_t *)host_row(h, picked, 0) + state;
}

/* ---- weights ---- */
static inline const struct op_weight *host_weight(const struct host_bind *h,
                                                  const struct opmat *m)
{
    return &h->weights[m->w];
}
/* Stored row `row` of matrix `mat` (0 unless the weight holds one matrix per expert). */
static inline const void *host_mat_row(const struct host_bind *h, const struct opmat *m,
                                       uint32_t mat, uint32_t row)
{
    const struct op_weight *w = &h->weights[m->w];
    return (const unsigned char *)w->data + ((uint64_t)mat * w->rows + row) * w->row_bytes;
}
/* A vector weight's elements: float, or int32_t for the hash table. NULL if absent. */
static inline const void *host_vec(const struct host_bind *h, const struct opvec *v)
{
    return v->w == WEIGHT_NONE ? NULL : h->weights[v->w].data;
}

/* ---- the step block ---- */
/* A copy of a step with all its arrays, in memory sized for the program, so that submit
 * allocates nothing. tok holds real ids: TOK_PICKED is replaced when the step is copied. */
struct host_step {
    struct step s; /* points into the arrays below */
    struct step_seq *seq;
    uint32_t *tok, *tok_seq, *pages, *out;
    uint32_t max_pages, vocab; /* entries of pages; ids are below vocab if it is not 0 */
    const struct program *prog;
};
int host_step_init(struct host_step *hs, const struct program *p, fathom_err *err);
void host_step_fini(struct host_step *hs);
/* Copies and checks everything a kernel relies on: counts within the program's limits, rows of
 * sequences adjacent and in order, slots and pages inside their pools, token ids inside the
 * vocabulary. After an error nothing has run. */
int host_step_load(struct host_step *hs, const struct host_bind *h, const struct step *s,
                   fathom_err *err);

/* Sequence of token row t. */
static inline const struct step_seq *step_seq_of(const struct step *s, uint32_t t)
{
    return &s->seq[s->tok_seq[t]];
}
/* Rows of an operand in this step: its out rows or its token rows. */
static inline uint32_t step_rows(const struct step *s, bool rows_out)
{
    return rows_out ? s->n_out : s->n_tok;
}

#endif
