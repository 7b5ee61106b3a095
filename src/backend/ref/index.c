/* index.c - the lightning indexer (model.md 8): INDEX_SELECT of op/op.h.
 *
 * When a token sees more compressed rows than it may attend to, every row gets a score from
 * small index vectors, and the k_sel best are listed in ascending order for ATTN. While it sees
 * no more than that, all are listed and nothing is scored (the result is the same). Read next:
 * attn.c (entry_list), which reads the list. */
#include "backend/ref/ref_int.h"

enum { GROUP = 32 };

/* Query times row: sums of groups of 32, added ascending. */
static double dot_grouped(const float *q, const float *row, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i += GROUP) {
        sum += dot_f32(q + i, row + i, n - i < GROUP ? n - i : GROUP);
    }
    return sum;
}

static double row_score(const struct op_index_select *o, const float *qi, const float *iw,
                        const float *row)
{
    double score = 0;
    for (uint32_t h = 0; h < o->heads; h++) {
        double dot = dot_grouped(qi + (size_t)h * o->n, row, o->n);
        score += (dot < 0 ? 0 : dot) * ((double)iw[h] * (double)o->scale);
    }
    return isnan(score) ? -INFINITY : score;
}

void ref_index_select(const struct exec *e, const struct op *op)
{
    const struct op_index_select *o = &op->index_select;
    const struct step *s = &e->step.s;
    for (uint32_t t = 0; t < s->n_tok; t++) {
        const struct step_seq *q = step_seq_of(s, t);
        uint32_t n_vis = step_rows_seen(step_pos(q, t), o->ratio), n_sel = n_vis;
        uint32_t *sel = host_row(&e->h, &o->sel, t);
        if (n_vis <= o->k_sel) {
            for (uint32_t i = 0; i < n_vis; i++) {
                sel[i] = i;
            }
        } else {
            for (uint32_t i = 0; i < n_vis; i++) {
                struct host_rows r = host_rows_page(&e->h, s, q, &o->rows, i, o->rows_per_page);
                row_decode(&o->geom, r.codes, r.scales, e->tmp.kv);
                e->tmp.score[i] = row_score(o, host_row(&e->h, &o->qi, t),
                                            host_row(&e->h, &o->iw, t), e->tmp.kv);
            }
            n_sel = ref_top_k(e->tmp.score, n_vis, o->k_sel, sel);
            ref_sort(sel, n_sel);
        }
        *(uint32_t *)host_row(&e->h, &o->n_sel, t) = n_sel;
    }
}
