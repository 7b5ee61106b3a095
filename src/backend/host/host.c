/* host.c - buffers in host memory and the copied step block, shared by the ref and cpu
 * backends.
 *
 * Buffers are private anonymous mappings: the KV pool can be sized for the longest context, and
 * the system commits a page only when a step or a load touches it. Everything a kernel takes
 * for granted about a step (ranges, order, ids) is checked here once, when the step is copied,
 * so that kernels need no tests of their own and a wrong step is an error, not a stray write.
 * Read next: op/step.h for the meaning of the fields, backend/ref/ref.c for the walk. */
#include "backend/host/host.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

/* ---- buffers ---- */

int host_buf_alloc(struct device *dev, struct buffer **out, uint64_t bytes, enum buf_use use,
                   fathom_err *err)
{
    (void)dev;
    (void)use;
    struct buffer *b = mem_calloc(1, sizeof *b);
    if (!b) {
        return err_nomem(err, "buffer", sizeof *b);
    }
    if (bytes > SIZE_MAX / 2) {
        mem_free(b);
        return err_nomem(err, "device buffer", SIZE_MAX);
    }
    size_t map_bytes = bytes ? (size_t)bytes : 1;
    void *p = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        mem_free(b);
        return err_nomem(err, "device buffer", map_bytes);
    }
    /* rows picked from all over the KV pool: fewer page walks */
    mem_want_huge(p, map_bytes);
    b->base = p;
    b->bytes = bytes;
    *out = b;
    return 0;
}

void host_buf_free(struct device *dev, struct buffer *b)
{
    (void)dev;
    if (b) {
        munmap(b->base, b->bytes ? (size_t)b->bytes : 1);
        mem_free(b);
    }
}

static void check_range(const struct buffer *b, uint64_t at, uint64_t n)
{
    (void)b;
    (void)at;
    (void)n;
    assert(at <= b->bytes && n <= b->bytes - at);
}

void host_buf_write(struct device *dev, struct buffer *b, uint64_t at, const void *p,
                    uint64_t n)
{
    (void)dev;
    check_range(b, at, n);
    if (n) {
        memcpy(b->base + at, p, n);
    }
}

void host_buf_read(struct device *dev, const struct buffer *b, uint64_t at, void *p, uint64_t n)
{
    (void)dev;
    check_range(b, at, n);
    if (n) {
        memcpy(p, b->base + at, n);
    }
}

void host_buf_copy(struct device *dev, struct buffer *dst, uint64_t to,
                   const struct buffer *src, uint64_t from, uint64_t n)
{
    (void)dev;
    check_range(dst, to, n);
    check_range(src, from, n);
    memcpy(dst->base + to, src->base + from, n);
}

void *host_buf_map(struct device *dev, struct buffer *b)
{
    (void)dev;
    return b->base;
}

/* ---- spaces ---- */

static int check_buffer(const char *what, const struct buffer *b, uint64_t need,
                        fathom_err *err)
{
    uint64_t have = b ? b->bytes : 0;
    if (have < need) {
        return err_set(err, FATHOM_EINVAL, "%s buffer has %llu bytes, the program needs %llu",
                       what, (unsigned long long)have, (unsigned long long)need);
    }
    return 0;
}

int host_bind_make(struct host_bind *h, const struct program *p, const struct exec_bind *b,
                   fathom_err *err)
{
    uint64_t state_bytes;
    if (__builtin_mul_overflow(p->slot_bytes, (uint64_t)p->lim.n_slots, &state_bytes)) {
        return err_set(err, FATHOM_EINVAL, "state slots: size overflow");
    }
    int rc = check_buffer("arena", b->arena, p->arena_bytes, err);
    if (rc == 0) {
        rc = check_buffer("io", b->io, p->io_bytes, err);
    }
    if (rc == 0) {
        rc = check_buffer("state", b->state, state_bytes, err);
    }
    if (rc != 0) {
        return rc;
    }
    uint64_t n_pages = b->page && p->page_bytes ? b->page->bytes / p->page_bytes : 0;
    *h = (struct host_bind){
        .arena = b->arena ? b->arena->base : NULL,
        .state = b->state ? b->state->base : NULL,
        .page = b->page ? b->page->base : NULL,
        .io = b->io ? b->io->base : NULL,
        .slot_bytes = p->slot_bytes,
        .page_bytes = p->page_bytes,
        .n_pages = n_pages < UINT32_MAX ? (uint32_t)n_pages : UINT32_MAX,
        .weights = p->weights,
    };
    return 0;
}

/* ---- step block ---- */

static uint32_t pages_of(const struct program *p, uint64_t n_tok)
{
    return p->page_tokens ? (uint32_t)((n_tok + p->page_tokens - 1) / p->page_tokens) : 0;
}

int host_step_init(struct host_step *hs, const struct program *p, fathom_err *err)
{
    *hs = (struct host_step){.prog = p};
    const struct program_limits *lim = &p->lim;
    uint64_t max_pages = (uint64_t)pages_of(p, lim->max_ctx) * lim->seq_max;
    if (max_pages > UINT32_MAX / 4) {
        return err_set(err, FATHOM_EINVAL, "step block: too many pages");
    }
    hs->max_pages = (uint32_t)max_pages;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].kind == OP_EMBED) {
            hs->vocab = p->ops[i].embed.table.rows;
        }
    }
    hs->seq = mem_calloc(lim->seq_max, sizeof *hs->seq);
    hs->tok = mem_calloc(lim->t_max, sizeof *hs->tok);
    hs->tok_seq = mem_calloc(lim->t_max, sizeof *hs->tok_seq);
    hs->out = mem_calloc(lim->out_max, sizeof *hs->out);
    hs->pages = mem_calloc(max_pages, sizeof *hs->pages);
    if (!hs->seq || !hs->tok || !hs->tok_seq || !hs->out || !hs->pages) {
        host_step_fini(hs);
        return err_nomem(err, "step block", lim->t_max * sizeof *hs->tok);
    }
    return 0;
}

void host_step_fini(struct host_step *hs)
{
    mem_free(hs->seq);
    mem_free(hs->tok);
    mem_free(hs->tok_seq);
    mem_free(hs->out);
    mem_free(hs->pages);
    *hs = (struct host_step){0};
}

/* One sequence: rows and outs follow the previous one's, everything inside its pool. */
static int check_seq(const struct host_step *hs, const struct step *s, uint32_t i,
                     uint32_t tok0, uint32_t out0, fathom_err *err)
{
    const struct program *p = hs->prog;
    const struct step_seq *q = &s->seq[i];
    if (q->n_tok == 0 || q->tok0 != tok0 || q->n_tok > s->n_tok - tok0) {
        return err_set(err, FATHOM_EINVAL, "step: rows of sequence %u are not adjacent", i);
    }
    if (q->out0 != out0 || q->n_out > s->n_out - out0) {
        return err_set(err, FATHOM_EINVAL, "step: logits rows of sequence %u out of order", i);
    }
    uint64_t end = (uint64_t)q->n0 + q->n_tok;
    if (end > p->lim.max_ctx) {
        return err_set(err, FATHOM_ELIMIT, "step: position %llu beyond the context of %u",
                       (unsigned long long)end - 1, p->lim.max_ctx);
    }
    if (q->state >= p->lim.n_slots || q->start > q->n0) {
        return err_set(err, FATHOM_EINVAL, "step: sequence %u: state slot %u, start %u", i,
                       q->state, q->start);
    }
    for (uint32_t j = 0; j < i; j++) {
        if (s->seq[j].state == q->state) {
            return err_set(err, FATHOM_EINVAL, "step: sequences %u and %u share state slot %u",
                           j, i, q->state);
        }
    }
    if (p->page_bytes && (q->page0 > s->n_page || q->n_page > s->n_page - q->page0 ||
                          q->n_page < pages_of(p, end))) {
        return err_set(err, FATHOM_EINVAL, "step: sequence %u has %u pages for %llu tokens", i,
                       q->n_page, (unsigned long long)end);
    }
    for (uint32_t t = tok0; t < tok0 + q->n_tok; t++) {
        if (s->tok_seq[t] != i) {
            return err_set(err, FATHOM_EINVAL, "step: token row %u is not of sequence %u", t,
                           i);
        }
    }
    for (uint32_t o = out0; o < out0 + q->n_out; o++) {
        if (s->out[o] < tok0 || s->out[o] >= tok0 + q->n_tok ||
            (o > out0 && s->out[o] <= s->out[o - 1])) {
            return err_set(err, FATHOM_EINVAL, "step: logits row %u names token row %u", o,
                           s->out[o]);
        }
    }
    return 0;
}

/* Token ids: TOK_PICKED becomes what PICK wrote for the sequence's slot. */
static int load_tokens(struct host_step *hs, const struct host_bind *h, const struct step *s,
                       fathom_err *err)
{
    const struct opnd *picked = &hs->prog->io_picked;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        uint32_t id = s->tok[t];
        if (id == TOK_PICKED) {
            if (!opnd_present(picked)) {
                return err_set(err, FATHOM_EINVAL, "step: this program picks no tokens");
            }
            id = *host_picked(h, picked, step_seq_of(s, t)->state);
        }
        if (hs->vocab && id >= hs->vocab) {
            return err_set(err, FATHOM_EINVAL, "step: token id %u, vocabulary of %u", id,
                           hs->vocab);
        }
        hs->tok[t] = id;
    }
    return 0;
}

int host_step_load(struct host_step *hs, const struct host_bind *h, const struct step *s,
                   fathom_err *err)
{
    const struct program_limits *lim = &hs->prog->lim;
    if (s->n_tok == 0 || s->n_tok > lim->t_max || s->n_seq == 0 || s->n_seq > lim->seq_max ||
        s->n_out > lim->out_max || s->n_page > hs->max_pages) {
        return err_set(err, FATHOM_EINVAL,
                       "step: %u rows, %u sequences, %u outputs, %u pages; the program holds "
                       "%u, %u, %u, %u",
                       s->n_tok, s->n_seq, s->n_out, s->n_page, lim->t_max, lim->seq_max,
                       lim->out_max, hs->max_pages);
    }
    uint32_t tok0 = 0, out0 = 0;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        int rc = check_seq(hs, s, i, tok0, out0, err);
        if (rc != 0) {
            return rc;
        }
        tok0 += s->seq[i].n_tok;
        out0 += s->seq[i].n_out;
    }
    if (tok0 != s->n_tok || out0 != s->n_out) {
        return err_set(err, FATHOM_EINVAL, "step: %u token rows, %u in sequences", s->n_tok,
                       tok0);
    }
    for (uint32_t i = 0; i < s->n_page; i++) {
        if (h->page_bytes && s->pages[i] >= h->n_pages) {
            return err_set(err, FATHOM_EINVAL, "step: page %u of a pool of %u", s->pages[i],
                           h->n_pages);
        }
        hs->pages[i] = s->pages[i];
    }
    int rc = load_tokens(hs, h, s, err);
    if (rc != 0) {
        return rc;
    }
    memcpy(hs->seq, s->seq, s->n_seq * sizeof *hs->seq);
    memcpy(hs->tok_seq, s->tok_seq, s->n_tok * sizeof *hs->tok_seq);
    if (s->n_out) {
        memcpy(hs->out, s->out, s->n_out * sizeof *hs->out);
    }
    hs->s = *s;
    hs->s.seq = hs->seq;
    hs->s.tok = hs->tok;
    hs->s.tok_seq = hs->tok_seq;
    hs->s.pages = hs->pages;
    hs->s.out = hs->out;
    return 0;
}
