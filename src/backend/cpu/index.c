/* index.c - INDEX_SELECT (op.h, model.md 8): scores compressed rows by their index vectors and
 * lists the best.
 *
 * A tile of neighbouring tokens walks a range of rows, sixteen at a time: they are unpacked
 * once, one lane a row, and meet all heads of each token. FP4 rows and queries are scored on
 * integers (index_int.h); the few rows whose scales are too far apart are gathered and scored in
 * F32, sixteen at a time as well, and so is a token whose queries are no FP4 values. Each token
 * keeps only the best rows so far (struct top), so scratch does not grow with the context.
 *
 * Few tokens: every worker walks its share of the rows for all tokens and leaves its best in
 * shared scratch; after a barrier they are joined. Many tokens: a tile is an item. The list is
 * the same set for any split: larger score first, then lower row. Read next: attn.c, which reads
 * the list. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"
#include "base/num.h"

enum {
    TILE = 8, /* tokens that share unpacked rows */
    DIGITS = 2048
};

/* The best rows so far, in ascending order, with more behind them that were better than the
 * last bar: when `cap` is reached, all but the best k leave and the k-th score is the new bar.
 * A later row with that very score loses against those k. */
struct top {
    float *score;
    uint32_t *row;
    uint32_t n, cap, k;
    bool barred;
    float bar;
};

/* What a worker leaves for the others, per token: at most k rows. */
struct found {
    float *score;
    uint32_t *row, *n;
};

struct index_tmp {
    float *rows, *panel; /* F32 form: [16][n] */
    float *q;            /* F32 form: [TILE][heads][n] in panel order */
    float *iw;           /* [TILE][heads], scaled */
    struct index_rows *codes;
    struct index_query query[TILE];
    bool exact[TILE];                      /* the token's queries have the integer form */
    bool floats;                           /* q is filled in for all tokens of the tile */
    uint32_t wide[2 * KERN_PANEL], n_wide; /* rows without integer form, yet to be scored */
    struct top top[TILE];
    uint32_t *count; /* histogram [DIGITS] */
};

/* ---- scratch ---- */

static uint32_t padded_heads(const struct op_index_select *o)
{
    return (o->heads + INDEX_HEADS - 1) / INDEX_HEADS * INDEX_HEADS;
}

static void query_take(struct index_query *q, struct carve *c, const struct op_index_select *o)
{
    uint32_t heads = padded_heads(o), groups = (o->n + 31) / 32;
    q->heads = heads;
    q->q = carve_take(c, (uint64_t)heads * o->n, sizeof *q->q);
    q->sum2 = carve_take(c, (uint64_t)heads * groups * 2, sizeof *q->sum2);
    q->sum = carve_take(c, heads, sizeof *q->sum);
    q->w = carve_take(c, heads, sizeof *q->w);
    q->factor = carve_take(c, (uint64_t)heads * groups, sizeof *q->factor);
    q->wide = carve_take(c, heads, sizeof *q->wide);
}

static void index_tmp_take(struct index_tmp *t, struct carve *c,
                           const struct op_index_select *o)
{
    t->rows = carve_take(c, (uint64_t)KERN_PANEL * o->n, sizeof(float));
    t->panel = carve_take(c, (uint64_t)KERN_PANEL * o->n, sizeof(float));
    t->q = carve_take(c, (uint64_t)TILE * o->heads * o->n, sizeof(float));
    t->iw = carve_take(c, (uint64_t)TILE * o->heads, sizeof(float));
    t->codes = carve_take(c, 1, sizeof *t->codes);
    t->count = carve_take(c, DIGITS, sizeof *t->count);
    for (int i = 0; i < TILE; i++) {
        struct top *top = &t->top[i];
        query_take(&t->query[i], c, o);
        top->k = o->k_sel;
        top->cap = 4 * o->k_sel + 2 * KERN_PANEL;
        top->score = carve_take(c, top->cap, sizeof *top->score);
        top->row = carve_take(c, top->cap, sizeof *top->row);
    }
}

static void index_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct index_tmp t;
    index_tmp_take(&t, c, &op->index_select);
}

static struct found found_take(struct carve *c, const struct op_index_select *o)
{
    struct found f;
    f.score = carve_take(c, o->k_sel, sizeof *f.score);
    f.row = carve_take(c, o->k_sel, sizeof *f.row);
    f.n = carve_take(c, 1, sizeof *f.n);
    return f;
}

static void index_shared(const struct exec *e, const struct op *op, struct carve *c)
{
    uint64_t lists = (uint64_t)MIN(e->p->lim.t_max, (uint32_t)CPU_FEW) * e->dev->n_workers;
    for (uint64_t i = 0; i < lists; i++) {
        found_take(c, &op->index_select);
    }
}

static struct found found_of(const struct worker *w, const struct op_index_select *o,
                             uint32_t t, uint32_t rank)
{
    struct carve one = {0};
    found_take(&one, o);
    uint64_t bytes = (one.used + 63) / 64 * 64;
    struct carve c = {.base = shared_scratch(w), .used = (t * w->n + rank) * bytes};
    return found_take(&c, o);
}

/* ---- selection ---- */

/* Order-preserving: larger score, larger key. No NaN, no -0 (clean). */
static uint32_t score_key(float s)
{
    uint32_t u = f32_bits(s);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static float key_score(uint32_t key)
{
    return f32_from_bits(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* NaN counts as -inf, -0 ties with +0. */
static float clean(float s)
{
    return s != s ? -INFINITY : s + 0.0f;
}

/* Key of the k-th largest score (k <= n) by three passes of a histogram, and how many scores of
 * exactly that key belong to the k. */
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

/* Down to the best k. */
static void top_cut(struct top *top, uint32_t *count)
{
    if (top->n <= top->k) {
        return;
    }
    uint32_t equal, kth = kth_key(top->score, top->n, top->k, count, &equal), n = 0;
    for (uint32_t i = 0; i < top->n; i++) {
        uint32_t key = score_key(top->score[i]);
        if (key > kth || (key == kth && equal > 0)) {
            equal -= key == kth;
            top->score[n] = top->score[i];
            top->row[n++] = top->row[i];
        }
    }
    top->n = n;
    top->barred = true;
    top->bar = key_score(kth);
}

static void top_reset(struct top *top)
{
    top->n = 0;
    top->barred = false;
}

/* n <= 16 rows from r0 on, all behind those offered before; skip: bits of rows to leave out. */
static void top_offer(struct top *top, uint32_t r0, const float *score, uint32_t n,
                      uint32_t skip, uint32_t *count)
{
    if (top->n + KERN_PANEL > top->cap) {
        top_cut(top, count);
    }
    if (top->barred && n == KERN_PANEL) { /* nearly always: nothing beats the bar */
        int beats = 0;
        for (int l = 0; l < KERN_PANEL; l++) {
            beats |= score[l] > top->bar;
        }
        if (!beats) {
            return;
        }
    }
    for (uint32_t l = 0; l < n; l++) {
        float s = clean(score[l]);
        if (skip >> l & 1 || (top->barred && !(s > top->bar))) {
            continue;
        }
        top->score[top->n] = s;
        top->row[top->n++] = r0 + l;
    }
}

/* One row with others behind it: it goes where it belongs. */
static void top_insert(struct top *top, uint32_t row, float score, uint32_t *count)
{
    float s = clean(score);
    if (top->barred && s < top->bar) {
        return;
    }
    if (top->n == top->cap) {
        top_cut(top, count);
    }
    uint32_t i = top->n++;
    for (; i > 0 && top->row[i - 1] > row; i--) {
        top->row[i] = top->row[i - 1];
        top->score[i] = top->score[i - 1];
    }
    top->row[i] = row;
    top->score[i] = s;
}

static void write_selection(const struct worker *w, const struct op_index_select *o, uint32_t t,
                            struct top *top, uint32_t *count)
{
    top_cut(top, count);
    memcpy(host_row(&w->e->h, &o->sel, t), top->row, top->n * sizeof *top->row);
    *(uint32_t *)host_row(&w->e->h, &o->n_sel, t) = top->n;
}

/* All rows, where no more are visible than may be chosen. */
static void write_all(const struct worker *w, const struct op_index_select *o, uint32_t t,
                      uint32_t n_vis)
{
    uint32_t *sel = host_row(&w->e->h, &o->sel, t);
    for (uint32_t i = 0; i < n_vis; i++) {
        sel[i] = i;
    }
    *(uint32_t *)host_row(&w->e->h, &o->n_sel, t) = n_vis;
}

/* ---- scores ---- */

/* Tokens [t0, t0 + n) of one sequence, and the rows each sees. */
struct tile {
    const struct step_seq *q;
    uint32_t t0, n;
    uint32_t n_vis[TILE];
};

static struct tile tile_at(const struct worker *w, const struct op_index_select *o, uint32_t t,
                           uint32_t end)
{
    struct tile x = {.q = step_seq_of(w->s, t), .t0 = t};
    x.n = MIN(MIN(end, x.q->tok0 + x.q->n_tok) - t, (uint32_t)TILE);
    for (uint32_t i = 0; i < x.n; i++) {
        x.n_vis[i] = step_rows_seen(step_pos(x.q, t + i), o->ratio);
    }
    return x;
}

/* Has some token more rows than it may choose? The last one sees the most. */
static bool tile_scores(const struct tile *x, const struct op_index_select *o)
{
    return x->n_vis[x->n - 1] > o->k_sel;
}

/* Queries of the tile in the F32 form. */
static void load_floats(const struct worker *w, const struct op_index_select *o,
                        const struct tile *x, struct index_tmp *tmp)
{
    for (uint32_t i = 0; i < x->n && !tmp->floats; i++) {
        const float *qi = host_row(&w->e->h, &o->qi, x->t0 + i);
        for (uint32_t h = 0; h < o->heads; h++) {
            size_t at = ((size_t)i * o->heads + h) * o->n;
            w->k->index_order(qi + (size_t)h * o->n, o->n, tmp->q + at);
        }
    }
    tmp->floats = true;
}

/* Head weights, and queries in the integer form where there is one. */
static void load_queries(const struct worker *w, const struct op_index_select *o,
                         const struct tile *x, struct index_tmp *tmp)
{
    bool codes = o->geom.kind == ROW_FP4 && o->n <= INDEX_MAX_N;
    tmp->floats = false;
    tmp->n_wide = 0;
    for (uint32_t i = 0; i < x->n; i++) {
        const float *qi = host_row(&w->e->h, &o->qi, x->t0 + i);
        const float *iw = host_row(&w->e->h, &o->iw, x->t0 + i);
        float *scaled = tmp->iw + (size_t)i * o->heads;
        for (uint32_t h = 0; h < o->heads; h++) {
            scaled[h] = iw[h] * o->scale;
        }
        tmp->exact[i] = codes && w->k->index_query(qi, scaled, o->heads, o->n, &tmp->query[i]);
        top_reset(&tmp->top[i]);
    }
}

static struct host_rows index_row(const struct worker *w, const struct op_index_select *o,
                                  const struct tile *x, uint32_t r)
{
    return host_rows_page(&w->e->h, w->s, x->q, &o->rows, r, o->rows_per_page);
}

/* The n rows of the list to the F32 panel. */
static void load_panel(const struct worker *w, const struct op_index_select *o,
                       const struct tile *x, const uint32_t *row, uint32_t n,
                       struct index_tmp *tmp)
{
    for (uint32_t r = 0; r < n; r++) {
        struct host_rows from = index_row(w, o, x, row[r]);
        w->k->row_floats(&o->geom, from.codes, from.scales, tmp->rows + (size_t)r * o->n);
    }
    w->k->index_pack(tmp->rows, n, o->n, tmp->panel);
}

/* Rows [r0, r0 + n) as integers; bits of those that have no such form. */
static uint32_t load_codes(const struct worker *w, const struct op_index_select *o,
                           const struct tile *x, uint32_t r0, uint32_t n, struct index_tmp *tmp)
{
    const uint8_t *codes[KERN_PANEL], *scales[KERN_PANEL];
    for (uint32_t r = 0; r < KERN_PANEL; r++) { /* behind the last row it is repeated */
        struct host_rows from = index_row(w, o, x, r0 + MIN(r, n - 1));
        codes[r] = from.codes;
        scales[r] = from.scales;
    }
    return w->k->index_rows(codes, scales, o->n, tmp->codes) & ((1u << n) - 1);
}

/* Scores of the F32 panel for token i of the tile. */
static void score_panel(const struct worker *w, const struct op_index_select *o, uint32_t i,
                        const struct index_tmp *tmp, float out[KERN_PANEL])
{
    w->k->index_scores(tmp->panel, tmp->q + (size_t)i * o->heads * o->n,
                       tmp->iw + (size_t)i * o->heads, o->heads, o->n, out);
}

/* The first n of the gathered rows meet the tokens that had to leave them out. */
static void score_wide(const struct worker *w, const struct op_index_select *o,
                       const struct tile *x, uint32_t n, struct index_tmp *tmp)
{
    load_floats(w, o, x, tmp);
    load_panel(w, o, x, tmp->wide, n, tmp);
    for (uint32_t i = 0; i < x->n; i++) {
        if (!tmp->exact[i]) {
            continue;
        }
        float score[KERN_PANEL];
        score_panel(w, o, i, tmp, score);
        for (uint32_t r = 0; r < n && tmp->wide[r] < x->n_vis[i]; r++) {
            top_insert(&tmp->top[i], tmp->wide[r], score[r], tmp->count);
        }
    }
    tmp->n_wide -= n;
    memmove(tmp->wide, tmp->wide + n, tmp->n_wide * sizeof *tmp->wide);
}

/* Rows [r0, r0 + n) meet all tokens of the tile. */
static void score_rows(const struct worker *w, const struct op_index_select *o,
                       const struct tile *x, uint32_t r0, uint32_t n, struct index_tmp *tmp)
{
    float score[KERN_PANEL];
    bool exact = false, floats = false;
    for (uint32_t i = 0; i < x->n; i++) {
        exact |= tmp->exact[i];
        floats |= !tmp->exact[i];
    }
    uint32_t wide = exact ? load_codes(w, o, x, r0, n, tmp) : 0;
    if (floats) {
        uint32_t row[KERN_PANEL];
        for (uint32_t r = 0; r < n; r++) {
            row[r] = r0 + r;
        }
        load_floats(w, o, x, tmp);
        load_panel(w, o, x, row, n, tmp);
    }
    for (uint32_t i = 0; i < x->n; i++) {
        if (r0 >= x->n_vis[i]) {
            continue;
        }
        if (tmp->exact[i]) {
            w->k->index_dots(tmp->codes, &tmp->query[i], o->n, score);
        } else {
            score_panel(w, o, i, tmp, score);
        }
        top_offer(&tmp->top[i], r0, score, MIN(n, x->n_vis[i] - r0), tmp->exact[i] ? wide : 0,
                  tmp->count);
    }
    for (uint32_t r = 0; r < n; r++) {
        if (wide >> r & 1) {
            tmp->wide[tmp->n_wide++] = r0 + r;
        }
    }
    if (tmp->n_wide >= KERN_PANEL) {
        score_wide(w, o, x, KERN_PANEL, tmp);
    }
}

/* Panels of 16 rows [first, end) for the tile's tokens, whose tops start anew. */
static void score_range(const struct worker *w, const struct op_index_select *o,
                        const struct tile *x, uint32_t first, uint32_t end,
                        struct index_tmp *tmp)
{
    uint32_t n_vis = x->n_vis[x->n - 1];
    load_queries(w, o, x, tmp);
    for (uint32_t p = first; p < end; p++) {
        uint32_t r0 = p * KERN_PANEL;
        score_rows(w, o, x, r0, MIN(n_vis - r0, (uint32_t)KERN_PANEL), tmp);
    }
    if (tmp->n_wide > 0) {
        score_wide(w, o, x, tmp->n_wide, tmp);
    }
}

static uint32_t n_panels(const struct tile *x)
{
    return (x->n_vis[x->n - 1] + KERN_PANEL - 1) / KERN_PANEL;
}

/* ---- few tokens ---- */

/* This worker's share of the rows, for all tokens. */
static void score_share(const struct worker *w, const struct op_index_select *o,
                        struct index_tmp *tmp)
{
    for (uint32_t t = 0; t < w->s->n_tok;) {
        struct tile x = tile_at(w, o, t, w->s->n_tok);
        uint64_t n = tile_scores(&x, o) ? n_panels(&x) : 0;
        if (n > 0) {
            score_range(w, o, &x, (uint32_t)(n * w->rank / w->n),
                        (uint32_t)(n * (w->rank + 1) / w->n), tmp);
        }
        for (uint32_t i = 0; i < x.n && n > 0; i++) {
            struct top *top = &tmp->top[i];
            struct found f = found_of(w, o, t + i, w->rank);
            top_cut(top, tmp->count);
            memcpy(f.score, top->score, top->n * sizeof *top->score);
            memcpy(f.row, top->row, top->n * sizeof *top->row);
            *f.n = top->n;
        }
        t += x.n;
    }
}

/* Joins what the workers found for token t, in the order of their rows. */
static void join_found(const struct worker *w, const struct op_index_select *o, uint32_t t,
                       struct index_tmp *tmp)
{
    struct top *top = &tmp->top[0];
    top_reset(top);
    for (uint32_t rank = 0; rank < w->n; rank++) {
        struct found f = found_of(w, o, t, rank);
        if (top->n + *f.n > top->cap) {
            top_cut(top, tmp->count);
        }
        memcpy(top->score + top->n, f.score, *f.n * sizeof *f.score);
        memcpy(top->row + top->n, f.row, *f.n * sizeof *f.row);
        top->n += *f.n;
    }
    write_selection(w, o, t, top, tmp->count);
}

static void index_few(const struct worker *w, const struct op_index_select *o,
                      struct index_tmp *tmp)
{
    bool scores = false;
    for (uint32_t t = 0; t < w->s->n_tok; t++) {
        struct tile x = tile_at(w, o, t, t + 1);
        scores |= tile_scores(&x, o);
    }
    if (scores) {
        score_share(w, o, tmp);
        worker_barrier(w);
    }
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        struct tile x = tile_at(w, o, t, t + 1);
        if (tile_scores(&x, o)) {
            join_found(w, o, t, tmp);
        } else {
            write_all(w, o, t, x.n_vis[0]);
        }
    }
}

/* ---- many tokens ---- */

static void index_tile(const struct worker *w, const struct op_index_select *o,
                       const struct tile *x, struct index_tmp *tmp)
{
    if (tile_scores(x, o)) {
        score_range(w, o, x, 0, n_panels(x), tmp);
    }
    for (uint32_t i = 0; i < x->n; i++) {
        if (x->n_vis[i] > o->k_sel) {
            write_selection(w, o, x->t0 + i, &tmp->top[i], tmp->count);
        } else {
            write_all(w, o, x->t0 + i, x->n_vis[i]);
        }
    }
}

static void index_run(struct worker *w, const struct op *op)
{
    const struct op_index_select *o = &op->index_select;
    struct carve c = {.base = w->mem};
    struct index_tmp tmp;
    index_tmp_take(&tmp, &c, o);
    if (w->s->n_tok <= CPU_FEW) {
        index_few(w, o, &tmp);
        return;
    }
    /* smaller tiles where there would not be some for every worker */
    uint32_t size = MAX(MIN(w->s->n_tok / (4 * w->n), (uint32_t)TILE), 1u);
    struct share sh = share_make(w, 0, (w->s->n_tok + size - 1) / size);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = i * size, end = MIN(t + size, w->s->n_tok);
        while (t < end) { /* a tile may hold the seam of two sequences */
            struct tile x = tile_at(w, o, t, end);
            index_tile(w, o, &x, &tmp);
            t += x.n;
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
