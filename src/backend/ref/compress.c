/* compress.c - the compressor (model.md 7): COMPRESS of op/op.h.
 *
 * Every `ratio` positions one compressed row is made: per channel a softmax over the group's
 * gate values weighs its inputs. With overlap (k = 2) a group also reads the first-half
 * channels of the group before it. Inputs of a group may come from this step (x) or from
 * earlier ones (the STATE ring); which one follows from the position alone, so chunk ends do
 * not show. Order within a sequence: rows first, then boundary copies, then the ring, because a
 * long step overwrites ring slots that the first two still read. Read next: index.c, which
 * searches the rows made here. */
#include <string.h>

#include "backend/ref/ref_int.h"

/* The inputs of one channel half of one position: n values and n gate values. */
struct half {
    const float *a, *g;
    const float *ape; /* to be added to g; NULL where the ring holds the sum already */
};

/* Half 0 or 1 (k = 2; else 0) of position p. */
static struct half input_half(const struct exec *e, const struct op_compress *o,
                              const struct step_seq *q, uint32_t p, uint32_t half)
{
    uint32_t n = o->geom.n;
    const float *row = host_input_row(&e->h, q, &o->x, &o->ring, p, o->slots);
    struct half in = {.a = row + half * n, .g = row + o->k * n + half * n};
    if (step_own(q, p)) {
        const float *ape = host_vec(&e->h, &o->ape);
        in.ape = ape + (size_t)(p % o->ratio) * o->k * n + half * n;
    }
    return in;
}

static float gate(const struct half *in, uint32_t c)
{
    return in->ape ? in->g[c] + in->ape[c] : in->g[c];
}

/* Running softmax-weighted sum of all channels, in two passes over the positions: pass 0 finds
 * the maximum, pass 1 adds. */
struct pool {
    double *max, *den, *num; /* [n] each */
};

static void pool_add(struct pool *s, const struct half *in, uint32_t n, int pass)
{
    for (uint32_t c = 0; c < n; c++) {
        double g = (double)gate(in, c);
        if (pass == 0) {
            s->max[c] = g > s->max[c] ? g : s->max[c];
        } else {
            double w = exp(g - s->max[c]);
            s->den[c] += w;
            s->num[c] += w * (double)in->a[c];
        }
    }
}

/* Pools group `group` into row[0..n). Positions of the previous group and of this one,
 * ascending; those before the sequence's start do not exist. */
static void pool_group(const struct exec *e, const struct op_compress *o,
                       const struct step_seq *q, uint32_t group, double *row)
{
    uint32_t n = o->geom.n, first = group * o->ratio, end = first + o->ratio;
    uint32_t from = o->k == 2 && first >= o->ratio ? first - o->ratio : first;
    from = from > q->start ? from : q->start;
    struct pool s = {.max = e->tmp.acc, .den = e->tmp.acc + n, .num = row};
    for (uint32_t c = 0; c < n; c++) {
        s.max[c] = -INFINITY;
        s.den[c] = s.num[c] = 0;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t p = from; p < end; p++) {
            struct half in = input_half(e, o, q, p, o->k == 2 && p >= first ? 1 : 0);
            pool_add(&s, &in, n, pass);
        }
    }
    for (uint32_t c = 0; c < n; c++) {
        row[c] = s.num[c] / s.den[c];
    }
}

static void write_rows(const struct exec *e, const struct op_compress *o,
                       const struct step_seq *q)
{
    uint32_t n = o->geom.n, end = step_group_end(q, o->ratio);
    double *row = e->tmp.row;
    for (uint32_t i = step_group_first(q, o->ratio); i < end; i++) {
        pool_group(e, o, q, i, row);
        ref_rms_norm(row, n, o->eps, host_vec(&e->h, &o->norm));
        ref_rope(row, n, &e->p->rope[o->rope], i * o->ratio, false);
        if (o->geom.kind == ROW_FP4) {
            ref_hadamard(row, n);
        }
        ref_round(row, n, e->tmp.rounded);
        struct host_rows out =
            host_rows_page(&e->h, &e->step.s, q, &o->rows, i, o->rows_per_page);
        row_encode(&o->geom, e->tmp.rounded, out.codes, out.scales);
    }
}

/* Copies [a | g + ape] of one half to out[0..2n). */
static void store_half(const struct half *in, uint32_t n, float *out_a, float *out_g)
{
    for (uint32_t c = 0; c < n; c++) {
        out_a[c] = in->a[c];
        out_g[c] = gate(in, c);
    }
}

/* The first halves of the group that ends at the boundary m: what a rewind to m needs. */
static void write_boundary(const struct exec *e, const struct op_compress *o,
                           const struct step_seq *q, uint32_t m)
{
    uint32_t n = o->geom.n, copy = m / o->align % 2;
    for (uint32_t j = 0; j < o->ratio; j++) {
        uint32_t p = m - o->ratio + j;
        if (p >= q->start) {
            struct half in = input_half(e, o, q, p, 0);
            float *out = host_state_row(&e->h, &o->bound, q->state, copy * o->ratio + j);
            store_half(&in, n, out, out + n);
        }
    }
}

static void write_boundaries(const struct exec *e, const struct op_compress *o,
                             const struct step_seq *q)
{
    uint32_t end = q->n0 + q->n_tok, last = end - end % o->align;
    if (last > q->n0 && last - q->n0 > o->align) {
        write_boundary(e, o, q, last - o->align);
    }
    if (last > q->n0) {
        write_boundary(e, o, q, last);
    }
}

static void write_ring(const struct exec *e, const struct op_compress *o,
                       const struct step_seq *q)
{
    uint32_t n = o->geom.n;
    for (uint32_t p = step_ring_first(q, o->slots); p < q->n0 + q->n_tok; p++) {
        float *out = host_state_row(&e->h, &o->ring, q->state, step_ring(p, o->slots));
        for (uint32_t half = 0; half < o->k; half++) {
            struct half in = input_half(e, o, q, p, half);
            store_half(&in, n, out + half * n, out + (o->k + half) * n);
        }
    }
}

void ref_compress(const struct exec *e, const struct op *op)
{
    const struct op_compress *o = &op->compress;
    const struct step *s = &e->step.s;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        write_rows(e, o, &s->seq[i]);
        if (o->k == 2 && opnd_present(&o->bound)) {
            write_boundaries(e, o, &s->seq[i]);
        }
        write_ring(e, o, &s->seq[i]);
    }
}
