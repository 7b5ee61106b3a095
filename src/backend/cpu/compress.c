/* compress.c - COMPRESS (op.h, model.md 7): pools the inputs of complete groups into rows, and
 * keeps the inputs that later steps need.
 *
 * Phase 1 makes the rows (one item a group) and the boundary copies, which read the STATE ring;
 * phase 2 overwrites the ring. The barrier between them is needed only when phase 1 has work.
 * Which inputs a group reads, and from where, follows from positions alone. Read next: index.c. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"

/* One channel half of one position's inputs. */
struct half {
    const float *a, *g;
    const float *ape; /* to be added to g; NULL where the ring holds the sum already */
};

static struct half input_half(const struct worker *w, const struct op_compress *o,
                              const struct step_seq *q, uint32_t p, uint32_t half)
{
    uint32_t n = o->geom.n;
    const float *row = host_input_row(&w->e->h, q, &o->x, &o->ring, p, o->slots);
    struct half in = {.a = row + half * n, .g = row + (o->k + half) * n};
    if (step_own(q, p)) {
        const float *ape = host_vec(&w->e->h, &o->ape);
        in.ape = ape + ((size_t)(p % o->ratio) * o->k + half) * n;
    }
    return in;
}

struct pool_tmp {
    float *row;
    const float **a, **g, **ape; /* [k * ratio] */
};

static void pool_tmp_take(struct pool_tmp *t, struct carve *c, const struct op_compress *o)
{
    uint32_t n_pos = o->k * o->ratio;
    t->row = carve_take(c, o->geom.n, sizeof(float));
    t->a = carve_take(c, n_pos, sizeof *t->a);
    t->g = carve_take(c, n_pos, sizeof *t->g);
    t->ape = carve_take(c, n_pos, sizeof *t->ape);
}

static void compress_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct pool_tmp t;
    pool_tmp_take(&t, c, &op->compress);
}

/* ---- rows ---- */

/* Positions of the previous group (first halves) and of this one, ascending; those below the
 * start of the sequence do not exist. */
static void pool_group(const struct worker *w, const struct op_compress *o,
                       const struct step_seq *q, uint32_t group, struct pool_tmp *tmp)
{
    uint32_t first = group * o->ratio, n = 0;
    uint32_t from = o->k == 2 && first >= o->ratio ? first - o->ratio : first;
    for (uint32_t p = MAX(from, q->start); p < first + o->ratio; p++) {
        struct half in = input_half(w, o, q, p, o->k == 2 && p >= first);
        tmp->a[n] = in.a;
        tmp->g[n] = in.g;
        tmp->ape[n++] = in.ape;
    }
    w->k->pool(tmp->a, tmp->g, tmp->ape, n, o->geom.n, tmp->row);
}

static void write_row(const struct worker *w, const struct op_compress *o,
                      const struct step_seq *q, uint32_t group, struct pool_tmp *tmp)
{
    uint32_t n = o->geom.n, first = group * o->ratio;
    const struct rope_table *table = &w->e->p->rope[o->rope];
    float *row = tmp->row, own[2 * ROPE_MAX];
    const float *angles = own;
    pool_group(w, o, q, group, tmp);
    float r = 1.0f / sqrtf(w->k->sum_squares(row, n) / (float)n + o->eps);
    w->k->scale_vec(row, r, host_vec(&w->e->h, &o->norm), n, row);
    if (step_own(q, first)) {
        angles = angles_of_row(w, o->rope, step_row_of(q, first));
    } else {
        rope_angles(table, first, own);
    }
    rope_apply(row + n - 2 * table->n, table->n, angles, false);
    if (o->geom.kind == ROW_FP4) {
        w->k->hadamard(row, n);
    }
    struct host_rows out = host_rows_page(&w->e->h, w->s, q, &o->rows, group, o->rows_per_page);
    w->k->row_store(&o->geom, row, out.codes, out.scales);
}

static uint32_t groups_of(const struct op_compress *o, const struct step_seq *q)
{
    uint32_t first = step_group_first(q, o->ratio), end = step_group_end(q, o->ratio);
    return end > first ? end - first : 0;
}

/* ---- boundary copies ---- */

static void store_half(const struct half *in, uint32_t n, float *out_a, float *out_g)
{
    memcpy(out_a, in->a, n * sizeof *out_a);
    for (uint32_t c = 0; c < n; c++) {
        out_g[c] = in->ape ? in->g[c] + in->ape[c] : in->g[c];
    }
}

/* First halves of the group that ends at the boundary m. */
static void write_boundary(const struct worker *w, const struct op_compress *o,
                           const struct step_seq *q, uint32_t m)
{
    uint32_t n = o->geom.n, copy = m / o->align % 2;
    for (uint32_t j = 0; j < o->ratio; j++) {
        uint32_t p = m - o->ratio + j;
        if (p >= q->start) {
            struct half in = input_half(w, o, q, p, 0);
            float *out = host_state_row(&w->e->h, &o->bound, q->state, copy * o->ratio + j);
            store_half(&in, n, out, out + n);
        }
    }
}

static void write_boundaries(const struct worker *w, const struct op_compress *o,
                             const struct step_seq *q)
{
    uint32_t end = q->n0 + q->n_tok, last = end - end % o->align;
    if (last > q->n0 && last - q->n0 > o->align) {
        write_boundary(w, o, q, last - o->align);
    }
    if (last > q->n0) {
        write_boundary(w, o, q, last);
    }
}

static bool has_boundary(const struct op_compress *o, const struct step_seq *q)
{
    uint32_t end = q->n0 + q->n_tok;
    return o->k == 2 && opnd_present(&o->bound) && end - end % o->align > q->n0;
}

/* ---- ring ---- */

static void write_ring(const struct worker *w, const struct op_compress *o,
                       const struct step_seq *q, uint32_t p)
{
    uint32_t n = o->geom.n;
    float *out = host_state_row(&w->e->h, &o->ring, q->state, step_ring(p, o->slots));
    for (uint32_t half = 0; half < o->k; half++) {
        struct half in = input_half(w, o, q, p, half);
        store_half(&in, n, out + half * n, out + (o->k + half) * n);
    }
}

static void compress_run(struct worker *w, const struct op *op)
{
    const struct op_compress *o = &op->compress;
    struct carve c = {.base = w->mem};
    struct pool_tmp tmp;
    pool_tmp_take(&tmp, &c, o);
    uint32_t n_group = 0, n_bound = 0;
    for (uint32_t s = 0; s < w->s->n_seq; s++) {
        n_group += groups_of(o, &w->s->seq[s]);
        n_bound += has_boundary(o, &w->s->seq[s]);
    }
    /* items: the groups of all sequences in order, then one for the boundary copies */
    struct share sh = share_make(w, 0, n_group + (n_bound > 0));
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t s = 0;
        if (i == n_group) {
            for (s = 0; s < w->s->n_seq; s++) {
                if (has_boundary(o, &w->s->seq[s])) {
                    write_boundaries(w, o, &w->s->seq[s]);
                }
            }
            continue;
        }
        while (i >= groups_of(o, &w->s->seq[s])) {
            i -= groups_of(o, &w->s->seq[s++]);
        }
        const struct step_seq *q = &w->s->seq[s];
        write_row(w, o, q, step_group_first(q, o->ratio) + i, &tmp);
    }
    if (n_group + n_bound > 0) {
        worker_barrier(w);
    }
    sh = share_make(w, 1, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        const struct step_seq *q = step_seq_of(w->s, t);
        uint32_t p = step_pos(q, t);
        if (p >= step_ring_first(q, o->slots)) {
            write_ring(w, o, q, p);
        }
    }
}

static const char *compress_supports(const struct program *p, const struct op *op)
{
    (void)p;
    const struct op_compress *o = &op->compress;
    if (o->ratio == 0 || o->k == 0 || o->k > 2 || o->slots == 0 || o->align == 0) {
        return "attributes out of range";
    }
    return NULL;
}

const struct cpu_op cpu_compress = {
    .run = compress_run, .private_scratch = compress_scratch, .supports = compress_supports};
