/* attn.c - the attention sublayer without its projections (model.md 6): KV_ROW, HEAD_FINISH,
 * ATTN, RING_STORE of op/op.h.
 *
 * One row per position serves as key and value of all heads. A token sees the rows of the last
 * `window` positions, then compressed rows: those the indexer chose, all complete ones, or
 * none. Rows are always read in their stored form, whether they come from this step (wrow),
 * from the ring of an earlier step or from a page, so a token's result does not depend on
 * chunking. Read next: compress.c (where compressed rows come from), index.c (which are
 * chosen). */
#include <string.h>

#include "backend/ref/ref_int.h"

void ref_kv_row(const struct exec *e, const struct op *op)
{
    const struct op_kv_row *o = &op->kv_row;
    const struct step *s = &e->step.s;
    uint32_t n = o->geom.n;
    double *row = e->tmp.row;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        const float *x = host_row(&e->h, &o->x, t);
        for (uint32_t i = 0; i < n; i++) {
            row[i] = (double)x[i];
        }
        ref_rms_norm(row, n, o->eps, host_vec(&e->h, &o->w));
        ref_rope(row, n, &e->p->rope[o->rope], step_pos(step_seq_of(s, t), t), false);
        ref_round(row, n, e->tmp.rounded);
        struct host_rows out = host_rows_arena(&e->h, &o->wrow, t);
        row_encode(&o->geom, e->tmp.rounded, out.codes, out.scales);
    }
}

void ref_head_finish(const struct exec *e, const struct op *op)
{
    const struct op_head_finish *o = &op->head_finish;
    const struct step *s = &e->step.s;
    double *row = e->tmp.row;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        uint32_t pos = step_pos(step_seq_of(s, t), t);
        for (uint32_t h = 0; h < o->heads; h++) {
            float *q = (float *)host_row(&e->h, &o->q, t) + (size_t)h * o->n;
            for (uint32_t i = 0; i < o->n; i++) {
                row[i] = (double)q[i];
            }
            if (o->norm) {
                ref_rms_norm(row, o->n, o->eps, NULL);
            }
            ref_rope(row, o->n, &e->p->rope[o->rope], pos, false);
            if (o->index) {
                ref_hadamard(row, o->n);
            }
            ref_round(row, o->n, q);
            if (o->fp4) {
                fp4_sim(q, o->n);
            }
        }
    }
}

/* What one token attends to: n_win window rows from position `first`, then n_comp others. */
struct entries {
    uint32_t first, n_win, n_comp;
    const int32_t *sel; /* numbers of the compressed rows; NULL: 0, 1, 2 ... */
};

static struct entries entry_list(const struct exec *e, const struct op_attn *o,
                                 const struct step_seq *q, uint32_t t)
{
    uint32_t pos = step_pos(q, t);
    struct entries l = {.first = step_win_first(q, pos, o->window)};
    l.n_win = pos + 1 - l.first;
    if (opnd_present(&o->sel)) {
        l.sel = host_row(&e->h, &o->sel, t);
        l.n_comp = (uint32_t) * (const int32_t *)host_row(&e->h, &o->n_sel, t);
    } else if (o->ratio != 0) {
        l.n_comp = step_rows_seen(pos, o->ratio);
    }
    return l;
}

static void decode_entry(const struct exec *e, const struct op_attn *o,
                         const struct step_seq *q, const struct entries *l, uint32_t i,
                         float *out)
{
    struct host_rows r;
    if (i < l->n_win) {
        r = host_rows_window(&e->h, q, &o->wrow, &o->ring, l->first + i, o->slots);
    } else {
        uint32_t row = l->sel ? (uint32_t)l->sel[i - l->n_win] : i - l->n_win;
        r = host_rows_page(&e->h, &e->step.s, q, &o->rows, row, o->rows_per_page);
    }
    row_decode(&o->geom, r.codes, r.scales, out);
}

/* Adds the softmax of n entries to one head's running (M, S, O):
 * the split's own maximum, sum and weighted rows first, then the merge. */
static void merge_split(const float *q, const float *kv, uint32_t n, uint32_t width,
                        double scale, double *m_s, double *acc, double *split)
{
    double s[REF_SPLIT], max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        s[i] = dot_f32(q, kv + (size_t)i * width, width) * scale;
        max = s[i] > max ? s[i] : max;
    }
    for (uint32_t c = 0; c < width; c++) {
        split[c] = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        double w = exp(s[i] - max);
        sum += w;
        for (uint32_t c = 0; c < width; c++) {
            split[c] += w * (double)kv[(size_t)i * width + c];
        }
    }
    double m_new = m_s[0] > max ? m_s[0] : max;
    double old = exp(m_s[0] - m_new), add = exp(max - m_new);
    m_s[0] = m_new;
    m_s[1] = m_s[1] * old + sum * add;
    for (uint32_t c = 0; c < width; c++) {
        acc[c] = acc[c] * old + split[c] * add;
    }
}

/* All heads of token t: O[h] and the denominators in tmp.acc and tmp.den. */
static void attend(const struct exec *e, const struct op_attn *o, const struct step_seq *q,
                   uint32_t t)
{
    struct entries l = entry_list(e, o, q, t);
    const float *sink = host_vec(&e->h, &o->sink), *query = host_row(&e->h, &o->q, t);
    for (uint32_t h = 0; h < o->heads; h++) {
        e->tmp.den[2 * h] = (double)sink[h]; /* the sink: a score without a value row */
        e->tmp.den[2 * h + 1] = 1;
    }
    memset(e->tmp.acc, 0, (size_t)o->heads * o->n * sizeof *e->tmp.acc);
    uint32_t n_entries = l.n_win + l.n_comp;
    for (uint32_t i0 = 0; i0 < n_entries; i0 += REF_SPLIT) {
        uint32_t n = n_entries - i0 < REF_SPLIT ? n_entries - i0 : REF_SPLIT;
        for (uint32_t i = 0; i < n; i++) {
            decode_entry(e, o, q, &l, i0 + i, e->tmp.kv + (size_t)i * o->n);
        }
        for (uint32_t h = 0; h < o->heads; h++) {
            size_t at = (size_t)h * o->n;
            merge_split(query + at, e->tmp.kv, n, o->n, (double)o->scale, e->tmp.den + 2 * h,
                        e->tmp.acc + at, e->tmp.row);
        }
    }
}

void ref_attn(const struct exec *e, const struct op *op)
{
    const struct op_attn *o = &op->attn;
    const struct step *s = &e->step.s;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        const struct step_seq *q = step_seq_of(s, t);
        attend(e, o, q, t);
        float *out = ref_out_row(e, &o->o, &o->o_act, t);
        for (uint32_t h = 0; h < o->heads; h++) {
            double *acc = e->tmp.acc + (size_t)h * o->n;
            for (uint32_t c = 0; c < o->n; c++) {
                acc[c] /= e->tmp.den[2 * h + 1];
            }
            ref_rope(acc, o->n, &e->p->rope[o->rope], step_pos(q, t), true);
            ref_round(acc, o->n, out + (size_t)h * o->n);
        }
    }
    ref_out_finish(e, &o->o, &o->o_act, s->n_tok);
}

void ref_ring_store(const struct exec *e, const struct op *op)
{
    const struct op_ring_store *o = &op->ring_store;
    const struct step *s = &e->step.s;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        const struct step_seq *q = &s->seq[i];
        for (uint32_t p = step_ring_first(q, o->slots); p < q->n0 + q->n_tok; p++) {
            struct host_rows from = host_rows_arena(&e->h, &o->wrow, step_row_of(q, p));
            struct host_rows to =
                host_rows_state(&e->h, &o->ring, q->state, step_ring(p, o->slots));
            memcpy(to.codes, from.codes, o->wrow.codes.cols);
            if (to.scales) {
                memcpy(to.scales, from.scales, o->wrow.scales.cols);
            }
        }
    }
}
