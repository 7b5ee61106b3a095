/* encode_iq.c - the search for the grid formats IQ2_XXS, IQ2_XS and IQ3_XXS (layouts:
 * decode_iq.c; what the reference does: quantization.md 3.2).
 *
 * Idea. Decoding entry k of the grid at scale a, with the best signs, costs
 *   sum w (|x| - a g_k)^2 = const + a (a Q_k - P_k),   Q_k = sum w g_k^2,
 *   P_k = 2 sum w |x| g_k,  less 4 min_j w_j |x_j| g_kj if the number of minus signs is odd
 * (the format stores an even number, so one sign must be wrong: the cheapest, for this entry).
 * Neither P nor Q depends on the scale. So all entries are compared at once, exactly, with the
 * levels that the decoder uses, and the best at any scale is the minimum of straight lines
 * a Q_k - P_k. A vector of eight keeps the lines that win at a geometric series of scales
 * (its lower envelope, nearly); everything after that - the common f16 scale, the 4-bit scales,
 * least squares, choosing again - works on these few lines without looking at elements.
 *
 * Lane v of every f32x4 belongs to vector v of a group of 32. Groups are scaled together (all
 * four lanes) or in halves (IQ2_XS: lanes 0-1 and 2-3); `fold` is the only place that knows.
 * Entry order of the loops is fixed, ties go to a fixed side: same input, same bytes. */
#include "quant/encode_iq.h"

#include <math.h>
#include <pthread.h>
#include <stdalign.h>

#include "base/num.h"
#include "quant/encode_lanes.h"
#include "quant/formats.h"
#include "quant/tables.h"

#define REGAIN_MIN 0.75f

enum {
    MAX_ENTRIES = 512,
    GROUPS = FIT_N / 32,
    MAX_LINES = 24,
    D_STEPS = 20,
    REFITS = 3,
};

/* A grid transposed: level[j][k] is element j of entry k, square[j][k] its square. */
struct grid {
    int entries, length; /* length: elements of an entry, 8 or 4 */
    int lines;           /* scales tried per vector ... */
    float first, ratio;  /* ... in units of max|x| / largest level: first, first * ratio, ... */
    float unit;          /* element = d * unit * (2 s + 1) * level */
    bool halves;         /* one scale per 16 elements instead of 32 */
    float top;           /* largest level */
    alignas(32) float level[8][MAX_ENTRIES], square[8][MAX_ENTRIES];
};

static struct grid grid_iq2_xxs = {256, 8, 14, 1.6f, 0.86f, 0.125f, .halves = false};
static struct grid grid_iq2_xs = {512, 8, 14, 1.6f, 0.86f, 0.125f, .halves = true};
static struct grid grid_iq3_xxs = {256, 4, 24, 1.6f, 0.93f, 0.25f, .halves = false};

static void grid_build(struct grid *g, const uint8_t *table)
{
    for (int k = 0; k < g->entries; k++) {
        for (int j = 0; j < g->length; j++) {
            float v = table[k * g->length + j];
            g->level[j][k] = v;
            g->square[j][k] = v * v;
            g->top = v > g->top ? v : g->top;
        }
    }
}

static void grids_build(void)
{
    grid_build(&grid_iq2_xxs, quant_grid_iq2_xxs[0]);
    grid_build(&grid_iq2_xs, quant_grid_iq2_xs[0]);
    grid_build(&grid_iq3_xxs, quant_grid_iq3_xxs[0]);
}

/* Eight elements as the search sees them. */
struct vector {
    float x[8]; /* magnitudes */
    float w[8];
    unsigned minus; /* sign bits */
    bool odd;       /* their parity */
};

/* The lines of all entries of a grid for one vector (or half of one): P with right signs, P
 * with the cheapest sign wrong, and Q. */
struct lines {
    alignas(32) float p[MAX_ENTRIES], p_wrong[MAX_ENTRIES], q[MAX_ENTRIES];
};

/* What a group keeps: per lane the lines found, and the entries they belong to (IQ3_XXS: the
 * second entry in the high byte). */
struct group {
    f32x4 p[MAX_LINES], q[MAX_LINES];
    uint16_t entry[MAX_LINES][4];
    f32x4 best; /* best scale of each lane's part if it could be any number */
    struct vector v[4];
};

/* The solution for a group: odd multiples 2 s + 1, lines and their entries. */
struct choice {
    f32x4 c, p, q;
    int line[4];
};

static void vector_load(struct vector *v, const float *x, const float *w)
{
    v->minus = 0;
    unsigned parity = 0;
    for (unsigned j = 0; j < 8; j++) {
        unsigned minus = x[j] < 0.0f;
        v->x[j] = minus ? -x[j] : x[j];
        v->w[j] = w[j];
        v->minus |= minus << j;
        parity ^= minus;
    }
    v->odd = parity != 0;
}

/* All lines of elements [from, from + length). Inlined with constant length and wrong. */
static inline void lines_fill(const struct grid *g, int length, bool wrong, const float *x,
                              const float *w, struct lines *out)
{
    f32v wx[8], ww[8];
    for (int j = 0; j < length; j++) {
        wx[j] = splatv(2.0f * w[j] * x[j]);
        ww[j] = splatv(w[j]);
    }
    for (int k = 0; k < g->entries; k += LANES) {
        f32v p = wx[0] * loadv(&g->level[0][k]), q = ww[0] * loadv(&g->square[0][k]);
        f32v least = p;
        for (int j = 1; j < length; j++) {
            f32v t = wx[j] * loadv(&g->level[j][k]);
            p += t;
            q += ww[j] * loadv(&g->square[j][k]);
            least = wrong ? minv(least, t) : least;
        }
        storev(out->p + k, p);
        storev(out->q + k, q);
        if (wrong) {
            storev(out->p_wrong + k, p - (least + least));
        }
    }
}

static void lines_build(const struct grid *g, bool wrong, const float *x, const float *w,
                        struct lines *out)
{
    if (g->length == 8) {
        wrong ? lines_fill(g, 8, true, x, w, out) : lines_fill(g, 8, false, x, w, out);
    } else {
        wrong ? lines_fill(g, 4, true, x, w, out) : lines_fill(g, 4, false, x, w, out);
    }
}

/* The lowest line at scale a. The entry number rides in the nine low bits of the value, which
 * leaves 15 bits to compare with: far finer than the differences that matter. */
static int lowest_line(const float *p, const float *q, int entries, float a)
{
    enum { UNROLL = 4 };
    const i32v keep = (i32v){0} - 512;
    f32v va = splatv(a), best[UNROLL];
    i32v tag[UNROLL];
    for (int u = 0; u < UNROLL; u++) {
        best[u] = splatv(0x1p126f);
        for (int v = 0; v < LANES; v++) {
            tag[u][v] = LANES * u + v;
        }
    }
    for (int k = 0; k < entries; k += LANES * UNROLL) {
        for (int u = 0; u < UNROLL; u++) {
            f32v v = va * loadv(q + k + LANES * u) - loadv(p + k + LANES * u);
            best[u] = minv((f32v)(((i32v)v & keep) | tag[u]), best[u]);
            tag[u] += LANES * UNROLL;
        }
    }
    f32v m = minv(minv(best[0], best[1]), minv(best[2], best[3]));
    float low = m[0];
    for (int i = 1; i < LANES; i++) {
        low = m[i] < low ? m[i] : low;
    }
    return (int)(f32_bits(low) & 511u);
}

/* Line of a pair of four-element entries at scale a, the second half being h[1]: if a sign must
 * be wrong, it is in the half where that costs less. */
static void lowest_pair(const struct lines *h, bool odd, int entries, float a, float *p,
                        float *q, uint16_t *entry)
{
    int k0 = lowest_line(h[0].p, h[0].q, entries, a);
    int k1 = lowest_line(h[1].p, h[1].q, entries, a);
    if (odd) {
        int r0 = lowest_line(h[0].p_wrong, h[0].q, entries, a);
        int r1 = lowest_line(h[1].p_wrong, h[1].q, entries, a);
        float p_first = h[0].p_wrong[r0] + h[1].p[k1], q_first = h[0].q[r0] + h[1].q[k1];
        float p_second = h[0].p[k0] + h[1].p_wrong[r1], q_second = h[0].q[k0] + h[1].q[r1];
        bool first = a * q_first - p_first < a * q_second - p_second;
        k0 = first ? r0 : k0;
        k1 = first ? k1 : r1;
        *p = first ? p_first : p_second;
        *q = first ? q_first : q_second;
    } else {
        *p = h[0].p[k0] + h[1].p[k1];
        *q = h[0].q[k0] + h[1].q[k1];
    }
    *entry = (uint16_t)(k0 | k1 << 8);
}

/* Finds the lines of lane i for scales from `top` downwards; the first is tried at four times
 * that, for groups far below the others, which get a scale larger than they would like. */
static void find_lines(const struct grid *g, struct group *gr, int i, float top)
{
    const struct vector *v = &gr->v[i];
    struct lines h[2];
    lines_build(g, v->odd, v->x, v->w, &h[0]);
    if (g->length == 4) {
        lines_build(g, v->odd, v->x + 4, v->w + 4, &h[1]);
    }
    const float *p = v->odd ? h[0].p_wrong : h[0].p;
    float a = top;
    for (int t = 0; t < g->lines; t++) {
        float at = t == 0 ? 4.0f * a : a, line_p, line_q;
        if (g->length == 8) {
            int k = lowest_line(p, h[0].q, g->entries, at);
            line_p = p[k];
            line_q = h[0].q[k];
            gr->entry[t][i] = (uint16_t)k;
        } else {
            lowest_pair(h, v->odd, g->entries, at, &line_p, &line_q, &gr->entry[t][i]);
        }
        gr->p[t][i] = line_p;
        gr->q[t][i] = line_q;
        a *= g->ratio;
    }
}

/* Sums over the lanes that share a scale, in all of them. */
static inline f32x4 fold(const struct grid *g, f32x4 v)
{
    f32x4 t = v + (f32x4){v[1], v[0], v[3], v[2]};
    return g->halves ? t : t + (f32x4){t[2], t[3], t[0], t[1]};
}

/* Lines of a whole group, and the scale that would suit it best: the minimum of
 * a (a Q - P) is -P^2 / 4 Q at a = P / 2 Q. */
static void group_load(const struct grid *g, const struct fit_block *b, int at,
                       struct group *gr)
{
    float max[4];
    for (int i = 0; i < 4; i++) {
        vector_load(&gr->v[i], b->x + at + 8 * i, b->w + at + 8 * i);
        max[i] = 1e-6f;
        for (int j = 0; j < 8; j++) {
            max[i] = gr->v[i].x[j] > max[i] ? gr->v[i].x[j] : max[i];
        }
    }
    float low = max[0] > max[1] ? max[0] : max[1], high = max[2] > max[3] ? max[2] : max[3];
    if (!g->halves) {
        low = high = low > high ? low : high;
    }
    for (int i = 0; i < 4; i++) {
        find_lines(g, gr, i, (i < 2 ? low : high) * (g->first / g->top));
    }
    f32x4 most = splat4(-1.0f);
    gr->best = splat4(0.0f);
    for (int t = 0; t < g->lines; t++) {
        f32x4 p = fold(g, gr->p[t]), q = fold(g, gr->q[t]), gain = p * p / q;
        i32x4 better = gain > most;
        most = select4(better, gain, most);
        gr->best = select4(better, 0.5f * p / q, gr->best);
    }
}

/* The error (less sum w x^2) of each lane at scales a. */
static inline f32x4 group_error(const struct grid *g, const struct group *gr, f32x4 a)
{
    f32x4 best = a * gr->q[0] - gr->p[0];
    for (int t = 1; t < g->lines; t++) {
        best = min4(a * gr->q[t] - gr->p[t], best);
    }
    return a * best;
}

/* Chooses 2 s + 1 for a group at common scale d * unit among `tries` odd numbers from below the
 * ideal value upwards. Returns the error of each lane, and the choice in *c. */
static f32x4 group_scale(const struct grid *g, const struct group *gr, float du, int tries,
                         f32x4 *c)
{
    f32x4 ideal = gr->best * splat4(1.0f / du);
    ideal = min4(ideal, splat4(33.0f)); /* keep round4 in range */
    f32x4 odd = 2.0f * round4(0.5f * (ideal - (float)tries)) + 1.0f;
    f32x4 least = splat4(0x1p126f), error = least;
    for (int t = 0; t < tries; t++) {
        f32x4 try = clamp4(odd + (float)(2 * t), 1.0f, 31.0f);
        f32x4 lanes = group_error(g, gr, try * du), total = fold(g, lanes);
        i32x4 better = total < least;
        least = select4(better, total, least);
        error = select4(better, lanes, error);
        *c = select4(better, try, *c);
    }
    return error;
}

/* The common scale to start from: the one under which the sum of the best errors is least,
 * among steps of 5 % around "the largest group gets s = 15". */
static float start_scale(const struct grid *g, const struct fit_block *b,
                         const struct group *gr)
{
    f32x4 most = gr[0].best, c = splat4(1.0f);
    for (int i = 1; i < GROUPS; i++) {
        most = max4(most, gr[i].best);
    }
    float top = most[0] > most[2] ? most[0] : most[2];
    float d = top * 1.15f / (31.0f * g->unit), best = 0.0f, least = 0x1p126f;
    for (int t = 0; t < D_STEPS; t++) {
        struct fit_scale s = fit_scale_round_up(b, d);
        f32x4 sum = splat4(0.0f);
        for (int i = 0; i < GROUPS; i++) {
            sum += group_scale(g, &gr[i], s.d * g->unit, 2, &c);
        }
        float error = sum4(sum);
        if (error < least) {
            least = error;
            best = s.d;
        }
        d *= 0.95f;
    }
    return best;
}

/* Fixes multiples and lines of all groups for scale d; returns the error. */
static float choose(const struct grid *g, const struct group *gr, float d, struct choice *out)
{
    f32x4 sum = splat4(0.0f);
    for (int i = 0; i < GROUPS; i++) {
        struct choice *o = &out[i];
        o->c = splat4(1.0f);
        sum += group_scale(g, &gr[i], d * g->unit, 4, &o->c);
        f32x4 a = o->c * (d * g->unit), best = splat4(0x1p126f);
        i32x4 line = {0};
        for (int t = 0; t < g->lines; t++) {
            f32x4 v = a * gr[i].q[t] - gr[i].p[t];
            i32x4 better = v < best;
            best = min4(v, best);
            line = (better & t) | (~better & line);
        }
        for (int v = 0; v < 4; v++) {
            o->line[v] = line[v];
            o->p[v] = gr[i].p[line[v]][v];
            o->q[v] = gr[i].q[line[v]][v];
        }
    }
    return sum4(sum);
}

/* Weighted least squares for d with everything else fixed: the error is d (d B - A). */
static float refit(const struct grid *g, const struct choice *c)
{
    f32x4 a = splat4(0.0f), b = a;
    for (int i = 0; i < GROUPS; i++) {
        f32x4 m = c[i].c * g->unit;
        a += m * c[i].p;
        b += m * m * c[i].q;
    }
    return 0.5f * sum4(a) / sum4(b);
}

/* Least squares makes a block too quiet: what it decodes to, projected on what it stands for, is
 * short by the relative squared error, a tenth at 2 bits. In products of gate, up and down these
 * shares add up, and a change in one direction costs a model far more than noise of the same
 * energy (measured: docs/quality.md). So the scale of a finished block goes three quarters of the
 * way (in the exponent) to where sum w x decoded = sum w x^2; the whole way would cost more
 * squared error than the reference has on some rows. A block that falls shorter than
 * REGAIN_MIN, as sparse ones do, has lost single elements, which no scale brings back: it stays
 * with least squares. */
static float regain(const struct grid *g, const struct fit_block *b, const struct choice *c,
                    float d)
{
    f32x4 a = splat4(0.0f), x2 = a;
    for (int i = 0; i < GROUPS; i++) {
        a += c[i].c * g->unit * c[i].p;
    }
    for (int i = 0; i < FIT_N; i += 4) {
        f32x4 x = load4(b->x + i);
        x2 += load4(b->w + i) * x * x;
    }
    float gain = 0.5f * d * sum4(a) / sum4(x2);
    if (!(gain > REGAIN_MIN && gain < 1.0f)) {
        return d;
    }
    float half = sqrtf(gain);
    return d / (half * sqrtf(half));
}

/* The whole search of a block: a scale, then choices and least squares in turn while that
 * helps. The error is relative to a block of zeros, so a positive one means: write zeros. */
static float search(const struct grid *g, const struct fit_block *b, const struct group *gr,
                    struct fit_scale *scale, struct choice *out)
{
    struct choice next[GROUPS];
    *scale = fit_scale_round_up(b, start_scale(g, b, gr));
    float least = choose(g, gr, scale->d, out);
    for (int t = 0; t < REFITS; t++) {
        struct fit_scale s = fit_scale_round(b, refit(g, out));
        scale->clipped |= s.clipped;
        if (s.bits == scale->bits || s.bits == 0) {
            break;
        }
        float error = choose(g, gr, s.d, next);
        if (!(error < least)) {
            break;
        }
        least = error;
        *scale = s;
        memcpy(out, next, sizeof next);
    }
    return least;
}

/* Sign bits as stored: if their number is odd, the cheapest one for the chosen entry is wrong.
 */
static unsigned stored_signs(const struct grid *g, const struct vector *v, unsigned entry)
{
    if (!v->odd) {
        return v->minus & 127;
    }
    float least = 0x1p126f;
    unsigned wrong = 0;
    for (unsigned j = 0; j < 8; j++) {
        unsigned k = g->length == 8 ? entry : entry >> 8 * (j / 4) & 255;
        float cost = 2.0f * v->w[j] * v->x[j] * g->level[g->length == 8 ? j : j % 4][k];
        if (cost < least) {
            least = cost;
            wrong = j;
        }
    }
    return (v->minus ^ 1u << wrong) & 127;
}

/* Group i of a block: see decode_iq.c. */
static void write_group(uint32_t type, const struct grid *g, int i, const struct group *gr,
                        const struct choice *c, uint8_t *out)
{
    uint32_t signs[4], entry[4],
        s[2] = {((uint32_t)c->c[0] - 1) / 2, ((uint32_t)c->c[2] - 1) / 2};
    for (int v = 0; v < 4; v++) {
        entry[v] = gr->entry[c->line[v]][v];
        signs[v] = stored_signs(g, &gr->v[v], entry[v]);
    }
    uint32_t word = signs[0] | signs[1] << 7 | signs[2] << 14 | signs[3] << 21 | s[0] << 28;
    uint8_t *p = out + 2 + 8 * i;
    for (int v = 0; v < 4; v++) {
        if (type == QT_IQ2_XXS) {
            p[v] = (uint8_t)entry[v];
        } else if (type == QT_IQ2_XS) {
            store_le16(p + 2 * v, (uint16_t)(entry[v] | signs[v] << 9));
        } else {
            store_le16(p + 2 * v, (uint16_t)entry[v]);
        }
    }
    if (type == QT_IQ2_XXS) {
        store_le32(p + 4, word);
    } else if (type == QT_IQ2_XS) {
        out[66 + i] = (uint8_t)(s[0] | s[1] << 4);
    } else {
        store_le32(out + 66 + 4 * i, word);
    }
}

bool iq_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, grids_build);
    const struct grid *g = type == QT_IQ2_XXS  ? &grid_iq2_xxs
                           : type == QT_IQ2_XS ? &grid_iq2_xs
                                               : &grid_iq3_xxs;
    struct group gr[GROUPS];
    struct choice c[GROUPS];
    struct fit_scale scale;
    for (int i = 0; i < GROUPS; i++) {
        group_load(g, b, 32 * i, &gr[i]);
    }
    if (!(search(g, b, gr, &scale, c) < 0.0f)) {
        return true; /* the caller has filled the block with zeros */
    }
    struct fit_scale final = fit_scale_round(b, regain(g, b, c, scale.d));
    store_le16(out, final.clipped ? scale.bits : final.bits);
    for (int i = 0; i < GROUPS; i++) {
        write_group(type, g, i, &gr[i], &c[i], out);
    }
    return scale.clipped;
}
