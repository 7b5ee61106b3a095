/* encode_iq_reference.h - the reference's search for the grid formats (quantization.md 3.2), so
 * that encode_iq.c can compare. It finds the same blocks by less work: the distance of an entry
 * to the elements, sum v (q / r - x)^2, is a straight line Q - r P in the inverse scale r (times
 * something that all entries share); so the lines are computed once per vector, and while
 * neighbouring scales round to the same tuple and the line that is lowest at both ends is the
 * same, it is the lowest in between. Sums are added in another order than the reference's, so ties
 * may fall differently. Part of encode_iq.c. */
#ifndef QUANT_ENCODE_IQ_REFERENCE_H
#define QUANT_ENCODE_IQ_REFERENCE_H

#include <math.h>

#include "quant/encode_iq_grid.h"
#include "quant/encode_positive.h"

enum { REFERENCE_MAX_TRIALS = 31, REFERENCE_MAX_CELLS = 8 };

/* One entry's elements: eight, or four with the upper half zero. */
struct cell {
    f32x4 x[2], wx[2], w[2];
    struct lines lines; /* with the square roots of the weights, of the odd levels */
};

/* Magnitudes, the weakest of an odd number of minus signs on the other side of zero. */
static void reference_signs(const float *x, const float *w, float *magnitude, uint8_t *minus)
{
    unsigned bits = 0, parity = 0, weakest = 0;
    for (unsigned j = 0; j < 8; j++) {
        unsigned negative = x[j] < 0.0f;
        magnitude[j] = negative ? -x[j] : x[j];
        bits |= negative << j;
        parity ^= negative;
        weakest = w[j] * x[j] * x[j] < w[weakest] * x[weakest] * x[weakest] ? j : weakest;
    }
    if (parity) {
        bits ^= 1u << weakest;
        magnitude[weakest] = -magnitude[weakest];
    }
    *minus = (uint8_t)bits;
}

static void cell_load(const struct grid *g, const float *x, const float *w, struct cell *c)
{
    float root[8];
    for (int i = 0; i < 2; i++) {
        bool used = 4 * i < g->length;
        c->x[i] = used ? load4(x + 4 * i) : splat4(0.0f);
        c->w[i] = used ? load4(w + 4 * i) : splat4(0.0f);
        c->wx[i] = c->w[i] * c->x[i];
    }
    for (int j = 0; j < g->length; j++) {
        root[j] = sqrtf(w[j]);
    }
    lines_build(g, &g->odd, false, x, root, &c->lines);
}

/* Number of the tuple that the elements round to at inverse scale r. */
static int cell_tuple(const struct grid *g, const struct cell *c, float r)
{
    static const f32x4 three[2] = {{1, 3, 9, 27}, {81, 243, 729, 2187}},
                       eight = {1, 8, 64, 512};
    float top = (float)(g->n_levels - 1);
    f32x4 low = round4(clamp4(0.5f * (r * c->x[0] - 1.0f), 0.0f, top));
    if (g->length == 4) {
        return (int)sum4(low * eight);
    }
    f32x4 high = round4(clamp4(0.5f * (r * c->x[1] - 1.0f), 0.0f, top));
    return (int)sum4(low * three[0] + high * three[1]);
}

/* The entry that the reference takes for a tuple at inverse scale r. */
static int cell_nearest(const struct grid *g, const struct cell *c, int tuple, float r)
{
    uint32_t i = g->near.first[tuple], end = g->near.first[tuple + 1];
    int best = g->near.entry[i];
    float least = c->lines.q[best] - r * c->lines.p[best];
    for (i++; i < end; i++) {
        int k = g->near.entry[i];
        float e = c->lines.q[k] - r * c->lines.p[k];
        best = e < least ? k : best;
        least = e < least ? e : least;
    }
    return best;
}

/* Adds sum w x q and sum w q^2 of an entry's odd levels. */
static void cell_sums(const struct grid *g, const struct cell *c, int entry, float *xq,
                      float *qq)
{
    float q[8] = {0};
    for (int j = 0; j < g->length; j++) {
        q[j] = g->odd.level[j][entry];
    }
    f32x4 low = load4(q), high = load4(q + 4);
    *xq = sum4(c->wx[0] * low + c->wx[1] * high);
    *qq = sum4(c->w[0] * low * low + c->w[1] * high * high);
}

/* One cell at all inverse scales r[0..n), which ascend: entry[t], and its sums added to xq[t]
 * and qq[t]. */
static void cell_trials(const struct grid *g, const struct cell *c, const float *r, int n,
                        uint16_t *entry, float *xq, float *qq)
{
    int tuple[REFERENCE_MAX_TRIALS];
    for (int t = 0; t < n; t++) {
        tuple[t] = cell_tuple(g, c, r[t]);
    }
    float x = 0, q = 0;
    for (int t = 0, end; t < n; t = end) {
        for (end = t + 1; end < n && tuple[end] == tuple[t]; end++) {
        }
        int first = cell_nearest(g, c, tuple[t], r[t]), last = first;
        if (end - t > 1) {
            last = cell_nearest(g, c, tuple[t], r[end - 1]);
        }
        for (int u = t; u < end; u++) {
            bool inside = u > t && u < end - 1 && first != last;
            int k = inside ? cell_nearest(g, c, tuple[t], r[u]) : u == t ? first : last;
            if (u == 0 || k != entry[u - 1]) {
                cell_sums(g, c, k, &x, &q);
            }
            entry[u] = (uint16_t)k;
            xq[u] += x;
            qq[u] += q;
        }
    }
}

/* Scale and entries of a group of n cells for a start scale e > 0. Returns the scale in units of
 * the odd levels, 0 if there is none. */
static float reference_group(const struct grid *g, const struct cell *c, int n, float e,
                             uint16_t *entry)
{
    bool two = g->n_levels == 3;
    int reach = two ? 6 : 15, trials = 2 * reach + 1, best = -1;
    float r[REFERENCE_MAX_TRIALS], xq[REFERENCE_MAX_TRIALS] = {0},
                                   qq[REFERENCE_MAX_TRIALS] = {0};
    uint16_t trial[REFERENCE_MAX_CELLS][REFERENCE_MAX_TRIALS];
    for (int t = 0; t < trials; t++) {
        float steps = (float)(2 * g->n_levels - 1);
        r[t] = (steps + (two ? 0.1f : 0.2f) * (float)(t - reach)) / e;
    }
    for (int i = 0; i < n; i++) {
        cell_trials(g, &c[i], r, trials, trial[i], xq, qq);
    }
    float score = 0, scale = 0;
    for (int t = 0; t < trials; t++) {
        if (qq[t] > 0 && xq[t] > 0 && xq[t] * xq[t] > score * qq[t]) {
            score = xq[t] * xq[t] / qq[t];
            scale = xq[t] / qq[t];
            best = t;
        }
    }
    if (best < 0) {
        return 0;
    }
    float again = 1.0f / scale, end_xq = 0, end_qq = 0;
    for (int i = 0; i < n; i++) {
        cell_trials(g, &c[i], &again, 1, &entry[i], &end_xq, &end_qq);
    }
    return end_xq > 0 && end_qq > 0 ? end_xq / end_qq : scale;
}

/* Start scales of all groups. */
static void reference_starts(const struct grid *g, const float *x, const float *w, float *start)
{
    int size = g->halves ? 16 : 32, groups = FIT_N / size;
    float top = (float)(2 * g->n_levels - 2);
    for (int i = 0; i < groups; i += LANES) {
        struct fit_lanes l;
        f32v code[FIT_MAX_GROUP], max = splatv(0.0f), e;
        fit_lanes_load(&l, x, w, size, i);
        for (int j = 0; j < size; j++) {
            max = maxv(l.x[j], max);
        }
        e = g->n_levels == 3 ? positive_fit(size, top, l.x, l.w, code) * (top - 1.0f) : max;
        storev(start + i, selectv(max < splatv(1e-15f), splatv(0.0f), e));
    }
}

/* The whole search: returns d, not yet rounded, and the rest in *out. */
static struct fit_scale reference_search(const struct grid *g, const struct fit_block *b,
                                         struct solution *out)
{
    int size = g->halves ? 16 : 32, groups = FIT_N / size, cells = size / g->length;
    float w[FIT_N], x[FIT_N], start[FIT_N / 16], scale[FIT_N / 16], top = 0;
    uint16_t entry[FIT_N / 4] = {0};
    fit_reference_weights(b, 1.0f, w);
    for (int i = 0; i < FIT_N; i += 8) {
        reference_signs(b->x + i, w + i, x + i, &out->minus[i / 8]);
    }
    reference_starts(g, x, w, start);
    for (int i = 0; i < groups; i++) {
        struct cell c[REFERENCE_MAX_CELLS];
        scale[i] = 0;
        if (start[i] > 0) {
            for (int k = 0; k < cells; k++) {
                int at = size * i + g->length * k;
                cell_load(g, x + at, w + at, &c[k]);
            }
            scale[i] = reference_group(g, c, cells, start[i], entry + cells * i);
        }
        top = scale[i] > top ? scale[i] : top;
    }
    float least_level = g->n_levels == 3 ? 8.0f : 4.0f, unit = least_level * g->unit;
    struct fit_scale d = fit_scale_round(b, top / 31.0f / unit);
    for (int i = 0; i < FIT_N / 16; i++) {
        float real = scale[16 * i / size] / unit;
        float s = d.d != 0 ? 0.5f * (real / d.d - 1.0f) : 0.0f;
        out->s[i] = (uint8_t)(s > 0.0f ? (s < 15.0f ? s : 15.0f) + 0.5f : 0.0f);
    }
    for (int v = 0; v < FIT_N / 8; v++) {
        out->entry[v] =
            g->length == 8 ? entry[v] : (uint16_t)(entry[2 * v] | entry[2 * v + 1] << 8);
    }
    return d;
}

#endif
