/* encode_iq_grid.h - the grids of IQ2_XXS, IQ2_XS and IQ3_XXS as their searches want them, and
 * what a search finds. Included by encode_iq.c and encode_iq_reference.h, whose idea it serves:
 * the cost of an entry is a straight line, so the lines of all entries are computed at once. */
#ifndef QUANT_ENCODE_IQ_GRID_H
#define QUANT_ENCODE_IQ_GRID_H

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>

#include "quant/encode_lanes.h"
#include "quant/formats.h"
#include "quant/tables.h"

enum {
    MAX_ENTRIES = 512,
    MAX_TUPLES = 6561,   /* 3^8; IQ3_XXS has 8^4 = 4096 */
    MAX_NEAR = 512 * 360 /* enough for the grids there are: 113413, 182233, 19241 */
};

/* A grid transposed: level[j][k] is element j of entry k, square[j][k] its square. */
struct levels {
    alignas(32) float level[8][MAX_ENTRIES], square[8][MAX_ENTRIES];
};

/* Entries that the reference considers for elements that round to a tuple of level numbers: the
 * tuple itself if it is an entry, else those at the two least distances, in order of distance
 * and number. Tuple i, sum of number_j * levels^j, has entry[first[i]] .. entry[first[i + 1]). */
struct near {
    uint32_t first[MAX_TUPLES + 1];
    uint16_t entry[MAX_NEAR];
};

struct grid {
    int entries, length; /* length: elements of an entry, 8 or 4 */
    int n_levels;        /* different levels, 3 or 8 */
    int lines;           /* scales tried per vector ... */
    float first, ratio;  /* ... in units of max|x| / largest level: first, first * ratio, ... */
    float unit;          /* element = d * unit * (2 s + 1) * level */
    bool halves;         /* one scale per 16 elements instead of 32 */
    float top;           /* largest level */
    struct levels real;  /* as decoded */
    struct levels odd;   /* as the reference searches: 1, 3, 5 ... */
    struct near near;
};

/* What a search finds; vector v is elements 8 v .. 8 v + 7, its two entries in IQ3_XXS are the
 * low and the high byte. */
struct solution {
    uint16_t entry[FIT_N / 8];
    uint8_t minus[FIT_N / 8]; /* sign bits, an even number of them */
    uint8_t s[FIT_N / 16];    /* of 16 elements; equal in pairs unless halves */
};

/* Entry of the first (elements 0..) or second half of a vector. */
static inline unsigned entry_part(const struct grid *g, unsigned entry, int j)
{
    return g->length == 8 ? entry : entry >> 8 * (j / 4) & 255;
}

static void levels_set(struct levels *l, int j, int k, float v)
{
    l->level[j][k] = v;
    l->square[j][k] = v * v;
}

static int near_distance(const struct grid *g, int k, const int *number)
{
    int sum = 0;
    for (int j = 0; j < g->length; j++) {
        int step = (int)g->odd.level[j][k] - (2 * number[j] + 1);
        sum += step * step;
    }
    return sum;
}

static void near_build(struct grid *g)
{
    uint32_t n = 0;
    int tuples = 1;
    for (int j = 0; j < g->length; j++) {
        tuples *= g->n_levels;
    }
    for (int i = 0; i < tuples; i++) {
        int number[8], distance[MAX_ENTRIES], shell[2] = {1 << 20, 1 << 20};
        for (int j = 0, rest = i; j < g->length; j++, rest /= g->n_levels) {
            number[j] = rest % g->n_levels;
        }
        for (int k = 0; k < g->entries; k++) {
            distance[k] = near_distance(g, k, number);
            if (distance[k] < shell[0]) {
                shell[1] = shell[0];
                shell[0] = distance[k];
            } else if (distance[k] > shell[0] && distance[k] < shell[1]) {
                shell[1] = distance[k];
            }
        }
        g->near.first[i] = n;
        for (int t = 0; t < (shell[0] == 0 ? 1 : 2); t++) {
            for (int k = 0; k < g->entries; k++) {
                if (distance[k] == shell[t]) {
                    assert(n < MAX_NEAR);
                    g->near.entry[n++] = (uint16_t)k;
                }
            }
        }
    }
    g->near.first[tuples] = n;
}

static void grid_build(struct grid *g, const uint8_t *table)
{
    static const uint8_t two[] = {8, 25, 43}, three[] = {4, 12, 20, 28, 36, 44, 52, 62};
    const uint8_t *values = g->n_levels == 3 ? two : three;
    for (int k = 0; k < g->entries; k++) {
        for (int j = 0; j < g->length; j++) {
            int number = 0;
            while (values[number] != table[k * g->length + j]) {
                number++;
            }
            levels_set(&g->real, j, k, values[number]);
            levels_set(&g->odd, j, k, (float)(2 * number + 1));
        }
    }
    g->top = values[g->n_levels - 1];
    near_build(g);
}

static struct grid grid_iq2_xxs = {256, 8, 3, 14, 1.6f, 0.86f, 0.125f, .halves = false};
static struct grid grid_iq2_xs = {512, 8, 3, 14, 1.6f, 0.86f, 0.125f, .halves = true};
static struct grid grid_iq3_xxs = {256, 4, 8, 24, 1.6f, 0.93f, 0.25f, .halves = false};

static void build_iq2_xxs(void)
{
    grid_build(&grid_iq2_xxs, quant_grid_iq2_xxs[0]);
}
static void build_iq2_xs(void)
{
    grid_build(&grid_iq2_xs, quant_grid_iq2_xs[0]);
}
static void build_iq3_xxs(void)
{
    grid_build(&grid_iq3_xxs, quant_grid_iq3_xxs[0]);
}

/* The grid of a type; the first call builds it (a twentieth of a second). */
static const struct grid *grid_of(uint32_t type)
{
    static pthread_once_t once[3] = {PTHREAD_ONCE_INIT, PTHREAD_ONCE_INIT, PTHREAD_ONCE_INIT};
    switch (type) {
    case QT_IQ2_XXS: pthread_once(&once[0], build_iq2_xxs); return &grid_iq2_xxs;
    case QT_IQ2_XS: pthread_once(&once[1], build_iq2_xs); return &grid_iq2_xs;
    default: pthread_once(&once[2], build_iq3_xxs); return &grid_iq3_xxs;
    }
}

/* The lines of all entries of a grid for one vector (or half of one): P with right signs, P
 * with the cheapest sign wrong, and Q. */
struct lines {
    alignas(32) float p[MAX_ENTRIES], p_wrong[MAX_ENTRIES], q[MAX_ENTRIES];
};

/* All lines of `length` elements. Inlined with constant length and wrong. */
static inline void lines_fill(const struct levels *l, int entries, int length, bool wrong,
                              const float *x, const float *w, struct lines *out)
{
    f32v wx[8], ww[8];
    for (int j = 0; j < length; j++) {
        wx[j] = splatv(2.0f * w[j] * x[j]);
        ww[j] = splatv(w[j]);
    }
    for (int k = 0; k < entries; k += LANES) {
        f32v p = wx[0] * loadv(&l->level[0][k]), q = ww[0] * loadv(&l->square[0][k]);
        f32v least = p;
        for (int j = 1; j < length; j++) {
            f32v t = wx[j] * loadv(&l->level[j][k]);
            p += t;
            q += ww[j] * loadv(&l->square[j][k]);
            least = wrong ? minv(least, t) : least;
        }
        storev(out->p + k, p);
        storev(out->q + k, q);
        if (wrong) {
            storev(out->p_wrong + k, p - (least + least));
        }
    }
}

static void lines_build(const struct grid *g, const struct levels *l, bool wrong,
                        const float *x, const float *w, struct lines *out)
{
    if (g->length == 8) {
        wrong ? lines_fill(l, g->entries, 8, true, x, w, out)
              : lines_fill(l, g->entries, 8, false, x, w, out);
    } else {
        wrong ? lines_fill(l, g->entries, 4, true, x, w, out)
              : lines_fill(l, g->entries, 4, false, x, w, out);
    }
}

#endif
