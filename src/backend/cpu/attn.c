/* attn.c - ATTN (op.h, model.md 6): softmax attention of all heads over one list of rows a
 * token: window rows by position, then compressed rows.
 *
 * The list is cut into splits of 128 entries; a split gives each head its maximum, sum and
 * weighted rows, and splits are merged in order, starting from the sink. Heads work in groups
 * of 16. An item is a tile of neighbouring tokens and a range of groups, which walks the splits
 * itself; it decodes window rows, and compressed rows without a selection, once. Few tokens on
 * more workers than groups: every (token, split, group) is an item, and after a barrier the
 * merges are shared out. Same splits and merges, same bits. Read next: norm.c, where window
 * rows come from. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"

enum {
    TILE = 8,
    AHEAD = 3 /* selected rows lie apart: they are asked for that many rows early */
};

/* What a token attends to: n_win window rows from position `first`, then n_comp others. */
struct entries {
    const struct step_seq *q;
    uint32_t first, n_win, n_comp;
    const uint32_t *sel; /* numbers of the compressed rows; NULL: 0, 1, 2 ... */
};

static struct entries entries_of(const struct worker *w, const struct op_attn *o, uint32_t t)
{
    struct entries l = {.q = step_seq_of(w->s, t)};
    uint32_t pos = step_pos(l.q, t);
    l.first = step_win_first(l.q, pos, o->window);
    l.n_win = pos + 1 - l.first;
    if (opnd_present(&o->sel)) {
        l.sel = host_row(&w->e->h, &o->sel, t);
        l.n_comp = *(const uint32_t *)host_row(&w->e->h, &o->n_sel, t);
    } else if (o->ratio != 0) {
        l.n_comp = step_rows_seen(pos, o->ratio);
    }
    return l;
}

static uint32_t n_splits(const struct entries *l)
{
    return (l->n_win + l->n_comp + KERN_SPLIT - 1) / KERN_SPLIT;
}

static uint32_t n_groups(const struct op_attn *o)
{
    return (o->heads + KERN_HEADS - 1) / KERN_HEADS;
}

/* ---- scratch ---- */

/* The result of one split for 16 heads, and the running state of the merge. */
struct part {
    float *max, *sum; /* [16] */
    float *o;         /* [16][n] */
};
struct attn_tmp {
    size_t ld;                  /* floats from one decoded row to the next */
    float *win;                 /* [window + TILE][ld] decoded window rows of a tile */
    float *comp;                /* [2 * 128][ld] decoded compressed rows of a split */
    const float **rows;         /* [128] */
    float (*score)[KERN_HEADS]; /* [128] */
    struct part part;
    struct part *state; /* [TILE][groups] */
};

static void part_take(struct part *p, struct carve *c, uint32_t n)
{
    p->max = carve_take(c, KERN_HEADS, sizeof(float));
    p->sum = carve_take(c, KERN_HEADS, sizeof(float));
    p->o = carve_take(c, (uint64_t)KERN_HEADS * n, sizeof(float));
}

static void attn_tmp_take(struct attn_tmp *t, struct carve *c, const struct op_attn *o)
{
    uint32_t n_state = TILE * n_groups(o);
    t->ld = o->n + 16; /* rows apart by an odd number of cache lines share no cache set */
    t->win = carve_take(c, (o->window + TILE) * t->ld, sizeof(float));
    t->comp = carve_take(c, 2 * KERN_SPLIT * t->ld, sizeof(float));
    t->rows = carve_take(c, KERN_SPLIT, sizeof *t->rows);
    t->score = carve_take(c, KERN_SPLIT, sizeof *t->score);
    part_take(&t->part, c, o->n);
    t->state = carve_take(c, n_state, sizeof *t->state);
    for (uint32_t i = 0; i < n_state; i++) {
        struct part s;
        part_take(&s, c, o->n);
        if (c->base) {
            t->state[i] = s;
        }
    }
}

static void attn_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct attn_tmp t;
    attn_tmp_take(&t, c, &op->attn);
}

static uint32_t splits_max(const struct exec *e, const struct op_attn *o)
{
    uint64_t comp = opnd_present(&o->sel) ? o->sel.cols
                    : o->ratio            ? e->p->lim.max_ctx / o->ratio
                                          : 0;
    return (uint32_t)((o->window + comp + KERN_SPLIT - 1) / KERN_SPLIT);
}

/* Part number `index` of the op's shared scratch. */
static struct part shared_part(const struct worker *w, const struct op_attn *o, uint64_t index)
{
    float *base = (float *)shared_scratch(w) + index * KERN_HEADS * (o->n + 2);
    return (struct part){
        .max = base, .sum = base + KERN_HEADS, .o = base + (size_t)2 * KERN_HEADS};
}

static void attn_shared(const struct exec *e, const struct op *op, struct carve *c)
{
    const struct op_attn *o = &op->attn;
    uint64_t parts =
        (uint64_t)MIN(e->p->lim.t_max, (uint32_t)CPU_FEW) * n_groups(o) * splits_max(e, o);
    carve_take(c, parts * KERN_HEADS * (o->n + 2), sizeof(float));
}

/* ---- one split ---- */

static void decode_window(const struct worker *w, const struct op_attn *o,
                          const struct step_seq *q, uint32_t p, float *out)
{
    struct host_rows r = host_rows_window(&w->e->h, q, &o->wrow, &o->ring, p, o->slots);
    w->k->row_floats(&o->geom, r.codes, r.scales, out);
}

static void decode_page(const struct worker *w, const struct op_attn *o,
                        const struct step_seq *q, uint32_t i, float *out)
{
    struct host_rows r = host_rows_page(&w->e->h, w->s, q, &o->rows, i, o->rows_per_page);
    w->k->row_floats(&o->geom, r.codes, r.scales, out);
}

/* Asks for a row that will be decoded soon. */
static void prefetch_page(const struct worker *w, const struct op_attn *o,
                          const struct step_seq *q, uint32_t i)
{
    struct host_rows r = host_rows_page(&w->e->h, w->s, q, &o->rows, i, o->rows_per_page);
    for (uint32_t b = 0; b < o->geom.code_bytes; b += 64) {
        __builtin_prefetch(r.codes + b);
    }
    if (r.scales) {
        __builtin_prefetch(r.scales);
    }
}

/* Compressed row e - n_win of the list, entry e of `end`; the rows behind it are on their way. */
static void decode_selected(const struct worker *w, const struct op_attn *o,
                            const struct entries *l, uint32_t e, uint32_t end, float *out)
{
    uint32_t i = e - l->n_win;
    if (!l->sel) {
        decode_page(w, o, l->q, i, out);
        return;
    }
    if (e + AHEAD < end) {
        prefetch_page(w, o, l->q, l->sel[i + AHEAD]);
    }
    decode_page(w, o, l->q, l->sel[i], out);
}

/* 16 heads (fewer in the last group) of token t over the n rows of tmp->rows. */
static void attend(const struct worker *w, const struct op_attn *o, uint32_t t, uint32_t group,
                   uint32_t n, struct attn_tmp *tmp, const struct part *out)
{
    uint32_t h0 = group * KERN_HEADS, heads = MIN(o->heads - h0, (uint32_t)KERN_HEADS);
    const float *q = (const float *)host_row(&w->e->h, &o->q, t) + (size_t)h0 * o->n;
    w->k->attn_scores(q, heads, tmp->rows, n, o->n, o->scale, tmp->score);
    w->k->attn_softmax(tmp->score, n, out->max, out->sum);
    w->k->attn_values((const float(*)[KERN_HEADS])tmp->score, heads, tmp->rows, n, o->n,
                      out->o);
}

/* ---- merging ---- */

/* The sink: a score with weight one and no row. */
static void state_init(const struct worker *w, const struct op_attn *o, uint32_t group,
                       const struct part *s)
{
    const float *sink = host_vec(&w->e->h, &o->sink);
    for (uint32_t h = 0; h < KERN_HEADS; h++) {
        uint32_t head = group * KERN_HEADS + h;
        s->max[h] = head < o->heads ? sink[head] : 0.0f;
        s->sum[h] = 1.0f;
    }
    memset(s->o, 0, (size_t)KERN_HEADS * o->n * sizeof *s->o);
}

static void state_merge(const struct worker *w, const struct op_attn *o, uint32_t group,
                        const struct part *s, const struct part *p)
{
    uint32_t heads = MIN(o->heads - group * KERN_HEADS, (uint32_t)KERN_HEADS);
    float a[KERN_HEADS], b[KERN_HEADS];
    for (uint32_t h = 0; h < KERN_HEADS; h++) {
        float m = p->max[h] > s->max[h] ? p->max[h] : s->max[h];
        a[h] = s->max[h] - m;
        b[h] = p->max[h] - m;
        s->max[h] = m;
    }
    w->k->exp_vec(a, KERN_HEADS);
    w->k->exp_vec(b, KERN_HEADS);
    for (uint32_t h = 0; h < heads; h++) {
        s->sum[h] = s->sum[h] * a[h] + p->sum[h] * b[h];
        w->k->attn_merge(s->o + (size_t)h * o->n, a[h], p->o + (size_t)h * o->n, b[h], o->n);
    }
}

/* o = O / S, rotated back to relative positions, written out. */
static void state_finish(const struct worker *w, const struct op_attn *o, uint32_t t,
                         uint32_t group, const struct part *s)
{
    uint32_t heads = MIN(o->heads - group * KERN_HEADS, (uint32_t)KERN_HEADS);
    uint32_t n_pairs = w->e->p->rope[o->rope].n;
    for (uint32_t h = 0; h < heads; h++) {
        float *x = s->o + (size_t)h * o->n;
        w->k->div_vec(x, s->sum[h], o->n);
        rope_apply(x + o->n - 2 * n_pairs, n_pairs, angles_of_row(w, o->rope, t), true);
        out_put(w, &o->o, &o->o_act, t, (group * KERN_HEADS + h) * o->n, x, o->n);
    }
}

/* ---- few tokens, many workers: items of one split ---- */

/* Decodes the entries of split k of one token and points at them. */
static uint32_t load_split(const struct worker *w, const struct op_attn *o,
                           const struct entries *l, uint32_t k, struct attn_tmp *tmp)
{
    uint32_t i0 = k * KERN_SPLIT, n = MIN(l->n_win + l->n_comp - i0, (uint32_t)KERN_SPLIT);
    for (uint32_t j = 0; j < n; j++) {
        float *row = tmp->comp + j * tmp->ld;
        uint32_t i = i0 + j;
        if (i < l->n_win) {
            decode_window(w, o, l->q, l->first + i, row);
        } else {
            decode_selected(w, o, l, i, i0 + n, row);
        }
        tmp->rows[j] = row;
    }
    return n;
}

static void attn_splits(struct worker *w, const struct op_attn *o, struct attn_tmp *tmp)
{
    uint32_t groups = n_groups(o), n_item = 0, n_tok = w->s->n_tok, base[CPU_FEW + 1] = {0};
    for (uint32_t t = 0; t < n_tok; t++) {
        struct entries l = entries_of(w, o, t);
        n_item += n_splits(&l) * groups;
        base[t + 1] = n_item;
    }
    struct share sh = share_make(w, 0, n_item);
    uint32_t loaded = UINT32_MAX, n = 0;
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = 0;
        while (i >= base[t + 1]) {
            t++;
        }
        if (loaded != i / groups) { /* the number of the split over all tokens */
            struct entries l = entries_of(w, o, t);
            n = load_split(w, o, &l, (i - base[t]) / groups, tmp);
            loaded = i / groups;
        }
        struct part p = shared_part(w, o, i);
        attend(w, o, t, (i - base[t]) % groups, n, tmp, &p);
    }
    worker_barrier(w);
    sh = share_make(w, 1, n_tok * groups);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = i / groups, g = i % groups;
        state_init(w, o, g, &tmp->state[0]);
        for (uint32_t k = base[t] + g; k < base[t + 1]; k += groups) {
            struct part p = shared_part(w, o, k);
            state_merge(w, o, g, &tmp->state[0], &p);
        }
        state_finish(w, o, t, g, &tmp->state[0]);
    }
}

/* ---- items that walk all splits ---- */

struct tile {
    uint32_t t0, n;         /* tokens, of one sequence */
    uint32_t group, groups; /* groups of heads [group, groups) */
    uint32_t first;         /* position of the first decoded window row */
    struct entries l[TILE];
};

/* Compressed rows [lo, hi) that the tokens' split k reads, decoded at tmp->comp. Neighbouring
 * tokens read nearly the same rows; without a selection they fit twice a split. */
static uint32_t load_shared_rows(const struct worker *w, const struct op_attn *o,
                                 const struct tile *tile, uint32_t k, struct attn_tmp *tmp)
{
    uint32_t lo = UINT32_MAX, hi = 0;
    for (uint32_t i = 0; i < tile->n; i++) {
        const struct entries *l = &tile->l[i];
        uint32_t i0 = k * KERN_SPLIT, end = MIN(i0 + KERN_SPLIT, l->n_win + l->n_comp);
        if (end > l->n_win && end > i0) {
            lo = MIN(lo, i0 > l->n_win ? i0 - l->n_win : 0);
            hi = MAX(hi, end - l->n_win);
        }
    }
    for (uint32_t r = lo; r < hi; r++) {
        decode_page(w, o, tile->l[0].q, r, tmp->comp + (r - lo) * tmp->ld);
    }
    return lo;
}

/* Points at the entries of split k of token i; selected rows are decoded here. */
static uint32_t point_split(const struct worker *w, const struct op_attn *o,
                            const struct tile *tile, uint32_t i, uint32_t k, uint32_t lo,
                            struct attn_tmp *tmp)
{
    const struct entries *l = &tile->l[i];
    uint32_t i0 = k * KERN_SPLIT, total = l->n_win + l->n_comp;
    uint32_t n = total > i0 ? MIN(total - i0, (uint32_t)KERN_SPLIT) : 0;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t e = i0 + j;
        if (e < l->n_win) {
            tmp->rows[j] = tmp->win + (l->first + e - tile->first) * tmp->ld;
        } else if (l->sel) {
            float *row = tmp->comp + j * tmp->ld;
            decode_selected(w, o, l, e, i0 + n, row);
            tmp->rows[j] = row;
        } else {
            tmp->rows[j] = tmp->comp + (e - l->n_win - lo) * tmp->ld;
        }
    }
    return n;
}

/* Token i of the tile over n rows, all groups of heads. */
static void attend_groups(const struct worker *w, const struct op_attn *o,
                          const struct tile *tile, uint32_t i, uint32_t n, struct attn_tmp *tmp)
{
    for (uint32_t g = tile->group; g < tile->groups; g++) {
        attend(w, o, tile->t0 + i, g, n, tmp, &tmp->part);
        state_merge(w, o, g, &tmp->state[i * n_groups(o) + g], &tmp->part);
    }
}

static void attend_tile(const struct worker *w, const struct op_attn *o, struct tile *tile,
                        struct attn_tmp *tmp)
{
    uint32_t splits = 0, all = n_groups(o);
    for (uint32_t i = 0; i < tile->n; i++) {
        tile->l[i] = entries_of(w, o, tile->t0 + i);
        splits = MAX(splits, n_splits(&tile->l[i]));
        for (uint32_t g = tile->group; g < tile->groups; g++) {
            state_init(w, o, g, &tmp->state[i * all + g]);
        }
    }
    tile->first = tile->l[0].first;
    const struct entries *last = &tile->l[tile->n - 1];
    for (uint32_t p = tile->first; p < last->first + last->n_win; p++) {
        decode_window(w, o, last->q, p, tmp->win + (p - tile->first) * tmp->ld);
    }
    for (uint32_t k = 0; k < splits; k++) {
        uint32_t lo = tile->l[0].sel ? 0 : load_shared_rows(w, o, tile, k, tmp);
        for (uint32_t i = 0; i < tile->n; i++) {
            uint32_t n = point_split(w, o, tile, i, k, lo, tmp);
            if (n > 0) {
                attend_groups(w, o, tile, i, n, tmp);
            }
        }
    }
    for (uint32_t i = 0; i < tile->n; i++) {
        for (uint32_t g = tile->group; g < tile->groups; g++) {
            state_finish(w, o, tile->t0 + i, g, &tmp->state[i * all + g]);
        }
    }
}

/* Into how many ranges the groups of heads are cut. Every range decodes the rows anew, so one
 * where tiles alone keep the workers busy, else as many as there are workers. 0: that does not
 * come out even. */
static uint32_t head_parts(const struct worker *w, const struct op_attn *o, uint32_t tiles)
{
    if (tiles >= 4 * w->n) {
        return 1;
    }
    if (n_groups(o) % w->n == 0) {
        return w->n;
    }
    return w->s->n_tok > CPU_FEW ? n_groups(o) : 0;
}

static void attn_run(struct worker *w, const struct op *op)
{
    const struct op_attn *o = &op->attn;
    struct carve c = {.base = w->mem};
    struct attn_tmp tmp;
    attn_tmp_take(&tmp, &c, o);
    uint32_t tiles = (w->s->n_tok + TILE - 1) / TILE, parts = head_parts(w, o, tiles);
    if (parts == 0) {
        attn_splits(w, o, &tmp);
        return;
    }
    struct share sh = share_make(w, 0, tiles * parts);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t t = i % tiles * TILE, end = MIN(t + TILE, w->s->n_tok), part = i / tiles;
        while (t < end) { /* a tile ends at the seam of two sequences */
            const struct step_seq *q = step_seq_of(w->s, t);
            struct tile tile = {.t0 = t,
                                .n = MIN(end, q->tok0 + q->n_tok) - t,
                                .group = n_groups(o) * part / parts,
                                .groups = n_groups(o) * (part + 1) / parts};
            attend_tile(w, o, &tile, &tmp);
            t += tile.n;
        }
    }
}

static const char *attn_supports(const struct program *p, const struct op *op)
{
    (void)p;
    const struct op_attn *o = &op->attn;
    if (o->window == 0 || o->slots == 0) {
        return "attributes out of range";
    }
    return opnd_present(&o->o_act) && o->n % 32 != 0 ? "8-bit output needs heads in 32s" : NULL;
}

const struct cpu_op cpu_attn = {.run = attn_run,
                                .private_scratch = attn_scratch,
                                .shared_scratch = attn_shared,
                                .supports = attn_supports};
