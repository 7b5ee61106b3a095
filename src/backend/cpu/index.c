/* index.c - INDEX_SELECT (op.h, model.md 8): scores compressed rows by their index vectors and
 * lists the best.
 *
 * Sixteen rows are decoded into a panel, one lane a row, and meet all heads of a few tokens.
 * Few tokens: the row panels are shared out, scores go to shared scratch, and after a barrier
 * one worker a token selects. Many tokens: a worker takes a handful of neighbouring tokens and
 * keeps their scores to itself, so scratch does not grow with the number of tokens. Selection
 * finds the k-th largest by three passes of an 11-bit histogram over order-preserving integers,
 * then takes rows in ascending order: no sort. Read next: attn.c, which reads the list. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"
#include "base/num.h"

enum { TILE = 4 /* tokens that share a decoded panel */ };

struct index_tmp {
    float *rows, *panel; /* [16][n] */
    float *q;            /* [TILE][heads][n] in panel order */
    float *iw;           /* [TILE][heads], scaled */
    float *score;        /* [TILE][rows_max] */
    uint32_t *count;     /* histogram [2048] */
};

/* Rows a token can see at most, in whole panels. */
static uint64_t rows_max(const struct exec *e, const struct op_index_select *o)
{
    return align_up(e->p->lim.max_ctx / o->ratio + 1, KERN_PANEL);
}

static void index_tmp_take(struct index_tmp *t, struct carve *c, const struct exec *e,
                           const struct op_index_select *o)
{
    t->rows = carve_take(c, (uint64_t)KERN_PANEL * o->n, sizeof(float));
    t->panel = carve_take(c, (uint64_t)KERN_PANEL * o->n, sizeof(float));
    t->q = carve_take(c, (uint64_t)TILE * o->heads * o->n, sizeof(float));
    t->iw = carve_take(c, (uint64_t)TILE * o->heads, sizeof(float));
    t->score =
        e->p->lim.t_max > CPU_FEW ? carve_take(c, TILE * rows_max(e, o), sizeof(float)) : NULL;
    t->count = carve_take(c, 2048, sizeof(uint32_t));
}

static void index_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    struct index_tmp t;
    index_tmp_take(&t, c, e, &op->index_select);
}

static void index_shared(const struct exec *e, const struct op *op, struct carve *c)
{
    uint64_t few = MIN(e->p->lim.t_max, (uint32_t)CPU_FEW);
    carve_take(c, few * rows_max(e, &op->index_select), sizeof(float));
}

/* ---- scores ---- */

/* Queries of tokens [t0, t0 + n), reordered; head weights times the scale. */
static void load_queries(const struct worker *w, const struct op_index_select *o, uint32_t t0,
                         uint32_t n, struct index_tmp *tmp)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *qi = host_row(&w->e->h, &o->qi, t0 + i);
        const float *iw = host_row(&w->e->h, &o->iw, t0 + i);
        for (uint32_t h = 0; h < o->heads; h++) {
            size_t at = ((size_t)i * o->heads + h) * o->n;
            w->k->index_order(qi + (size_t)h * o->n, o->n, tmp->q + at);
            tmp->iw[i * o->heads + h] = iw[h] * o->scale;
        }
    }
}

/* Rows [r0, r0 + n) of the sequence into the panel. */
static void load_panel(const struct worker *w, const struct op_index_select *o,
                       const struct step_seq *q, uint32_t r0, uint32_t n, struct index_tmp *tmp)
{
    for (uint32_t r = 0; r < n; r++) {
        struct host_rows row =
            host_rows_page(&w->e->h, w->s, q, &o->rows, r0 + r, o->rows_per_page);
        w->k->row_floats(&o->geom, row.codes, row.scales, tmp->rows + (size_t)r * o->n);
    }
    w->k->index_pack(tmp->rows, n, o->n, tmp->panel);
}

/* Scores of the panel for query i of the tile. */
static void score_panel(const struct worker *w, const struct op_index_select *o, uint32_t i,
                        struct index_tmp *tmp, float out[KERN_PANEL])
{
    w->k->index_scores(tmp->panel, tmp->q + (size_t)i * o->heads * o->n,
                       tmp->iw + (size_t)i * o->heads, o->heads, o->n, out);
}

/* ---- selection ---- */

/* Order-preserving: larger score, larger key; NaN below everything. */
static uint32_t score_key(float s)
{
    uint32_t u = f32_bits(s == 0.0f ? 0.0f : s); /* -0 ties with +0 */
    if (s != s) {
        u = f32_bits(-INFINITY);
    }
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Key of the k-th largest score (k <= n), and how many scores of exactly that key to take. */
static uint32_t kth_key(const float *score, uint32_t n, uint32_t k, uint32_t *count,
                        uint32_t *n_equal)
{
    static const uint8_t shifts[3] = {21, 10, 0};
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        uint32_t bits = pass < 2 ? 11 : 10, digit = 1u << bits;
        memset(count, 0, digit * sizeof *count);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = score_key(score[i]);
            count[key >> shifts[pass] & (digit - 1)] += (key & mask) == prefix;
        }
        uint32_t d = digit - 1;
        while (count[d] < k) {
            k -= count[d--];
        }
        prefix |= d << shifts[pass];
        mask |= (digit - 1) << shifts[pass];
    }
    *n_equal = k;
    return prefix;
}

static void select_rows(const struct worker *w, const struct op_index_select *o, uint32_t t,
                        uint32_t n_vis, const float *score, uint32_t *count)
{
    uint32_t *sel = host_row(&w->e->h, &o->sel, t), n = 0;
    if (n_vis <= o->k_sel) {
        for (; n < n_vis; n++) {
            sel[n] = n;
        }
    } else {
        uint32_t equal, kth = kth_key(score, n_vis, o->k_sel, count, &equal);
        for (uint32_t i = 0; i < n_vis && n < o->k_sel; i++) {
            uint32_t key = score_key(score[i]);
            if (key > kth || (key == kth && equal > 0)) {
                equal -= key == kth;
                sel[n++] = i;
            }
        }
    }
    *(uint32_t *)host_row(&w->e->h, &o->n_sel, t) = n;
}

static uint32_t visible(const struct worker *w, const struct op_index_select *o, uint32_t t)
{
    return step_rows_seen(step_pos(step_seq_of(w->s, t), t), o->ratio);
}

/* ---- few tokens ---- */

static void score_few(struct worker *w, const struct op_index_select *o, struct index_tmp *tmp,
                      float *score, uint64_t ld)
{
    uint32_t n_panel = 0;
    for (uint32_t t = 0; t < w->s->n_tok; t++) {
        uint32_t n_vis = visible(w, o, t);
        n_panel += n_vis > o->k_sel ? (n_vis + KERN_PANEL - 1) / KERN_PANEL : 0;
    }
    struct share sh = share_make(w, 0, n_panel);
    uint32_t loaded = UINT32_MAX;
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = 0, n_vis = 0;
        for (;; t++) { /* item i: panel i of the first token that has so many left */
            n_vis = visible(w, o, t);
            uint32_t n = n_vis > o->k_sel ? (n_vis + KERN_PANEL - 1) / KERN_PANEL : 0;
            if (i < n) {
                break;
            }
            i -= n;
        }
        if (loaded != t) {
            load_queries(w, o, t, 1, tmp);
            loaded = t;
        }
        uint32_t r0 = i * KERN_PANEL;
        load_panel(w, o, step_seq_of(w->s, t), r0, MIN(n_vis - r0, (uint32_t)KERN_PANEL), tmp);
        score_panel(w, o, 0, tmp, score + t * ld + r0);
    }
    if (n_panel > 0) {
        worker_barrier(w);
    }
    sh = share_make(w, 1, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        select_rows(w, o, t, visible(w, o, t), score + t * ld, tmp->count);
    }
}

/* ---- many tokens ---- */

/* Tokens [t0, t0 + n) of one sequence. */
static void score_tile(struct worker *w, const struct op_index_select *o, uint32_t t0,
                       uint32_t n, struct index_tmp *tmp, uint64_t ld)
{
    const struct step_seq *q = step_seq_of(w->s, t0);
    uint32_t n_vis = visible(w, o, t0 + n - 1); /* of the last: the most */
    if (n_vis > o->k_sel) {
        load_queries(w, o, t0, n, tmp);
        for (uint32_t r0 = 0; r0 < n_vis; r0 += KERN_PANEL) {
            load_panel(w, o, q, r0, MIN(n_vis - r0, (uint32_t)KERN_PANEL), tmp);
            for (uint32_t i = 0; i < n; i++) {
                score_panel(w, o, i, tmp, tmp->score + i * ld + r0);
            }
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        select_rows(w, o, t0 + i, visible(w, o, t0 + i), tmp->score + i * ld, tmp->count);
    }
}

static void index_run(struct worker *w, const struct op *op)
{
    const struct op_index_select *o = &op->index_select;
    struct carve c = {.base = w->mem};
    struct index_tmp tmp;
    index_tmp_take(&tmp, &c, w->e, o);
    uint64_t ld = rows_max(w->e, o);
    if (w->s->n_tok <= CPU_FEW) {
        score_few(w, o, &tmp, shared_scratch(w), ld);
        return;
    }
    struct share sh = share_make(w, 0, (w->s->n_tok + TILE - 1) / TILE);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = i * TILE, end = MIN(t + TILE, w->s->n_tok);
        while (t < end) { /* a tile may hold the seam of two sequences */
            const struct step_seq *q = step_seq_of(w->s, t);
            uint32_t n = MIN(end, q->tok0 + q->n_tok) - t;
            score_tile(w, o, t, n, &tmp, ld);
            t += n;
        }
    }
}

static const char *index_supports(const struct program *p, const struct op *op)
{
    (void)p;
    const struct op_index_select *o = &op->index_select;
    return o->ratio == 0 || o->k_sel == 0 ? "attributes out of range" : NULL;
}

const struct cpu_op cpu_index_select = {.run = index_run,
                                        .private_scratch = index_scratch,
                                        .shared_scratch = index_shared,
                                        .supports = index_supports};
