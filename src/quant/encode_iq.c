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
 * Last, the block is compared with the one that the reference's search finds
 * (encode_iq_reference.h), in untilted weights: none that we write is worse.
 *
 * Lane v of every f32x4 belongs to vector v of a group of 32. Groups are scaled together (all
 * four lanes) or in halves (IQ2_XS: lanes 0-1 and 2-3); `fold` is the only place that knows.
 * Entry order of the loops is fixed, ties go to a fixed side: same input, same bytes. */
#include "quant/encode_iq.h"

#include <math.h>

#include "base/num.h"
#include "quant/encode_iq_grid.h"
#include "quant/encode_iq_reference.h"

#define REGAIN_MIN 0.75f

enum { GROUPS = FIT_N / 32, MAX_LINES = 24, D_STEPS = 20, REFITS = 3 };

/* Eight elements as the search sees them. */
struct vector {
    float x[8]; /* magnitudes */
    float w[8];
    unsigned minus; /* sign bits */
    bool odd;       /* their parity */
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
    lines_build(g, &g->real, v->odd, v->x, v->w, &h[0]);
    if (g->length == 4) {
        lines_build(g, &g->real, v->odd, v->x + 4, v->w + 4, &h[1]);
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

/* Sign bits of a vector; if their number is odd, the cheapest one for the entry is wrong. */
static unsigned even_signs(const struct grid *g, const struct vector *v, unsigned entry)
{
    if (!v->odd) {
        return v->minus;
    }
    float least = 0x1p126f;
    unsigned wrong = 0;
    for (unsigned j = 0; j < 8; j++) {
        unsigned k = entry_part(g, entry, (int)j);
        float cost = 2.0f * v->w[j] * v->x[j] * g->real.level[j % (unsigned)g->length][k];
        if (cost < least) {
            least = cost;
            wrong = j;
        }
    }
    return v->minus ^ 1u << wrong;
}

static void solution_set(const struct grid *g, const struct group *gr, const struct choice *c,
                         struct solution *out)
{
    for (int v = 0; v < FIT_N / 8; v++) {
        const struct group *from = &gr[v / 4];
        const struct choice *chosen = &c[v / 4];
        out->entry[v] = from->entry[chosen->line[v % 4]][v % 4];
        out->minus[v] = (uint8_t)even_signs(g, &from->v[v % 4], out->entry[v]);
        out->s[v / 2] = (uint8_t)(((int)chosen->c[v % 4] - 1) / 2);
    }
}

/* ---- the scale of a finished block, and the reference's block as another candidate ---- */

/* A block of given entries, signs and s as a function of d: the untilted error is
 * xx - 2 d xu + d^2 uu; wxu and wxx are the sums with tilted weights. */
struct finished {
    double xx, xu, uu, wxu, wxx;
};

static struct finished finish(const struct grid *g, const struct fit_block *b,
                              const struct solution *sol)
{
    struct finished f = {0};
    for (int v = 0; v < FIT_N / 8; v++) {
        float scale = g->unit * (float)(2 * sol->s[v / 2] + 1);
        for (int j = 0; j < 8; j++) {
            unsigned k = entry_part(g, sol->entry[v], j);
            float u = scale * g->real.level[j % g->length][k];
            double x = (double)b->x[8 * v + j], p = (double)b->plain[8 * v + j];
            double signed_u = sol->minus[v] >> j & 1 ? -(double)u : (double)u;
            double w = (double)b->w[8 * v + j];
            f.xx += p * x * x;
            f.xu += p * x * signed_u;
            f.uu += p * signed_u * signed_u;
            f.wxu += w * x * signed_u;
            f.wxx += w * x * x;
        }
    }
    return f;
}

static double finished_error(const struct finished *f, double d)
{
    return f->xx - d * (2 * f->xu - d * f->uu);
}

/* Least squares makes a block too quiet: what it decodes to, projected on what it stands for, is
 * short by the relative squared error, a tenth at 2 bits. In products of gate, up and down these
 * shares add up, and a change in one direction costs a model far more than noise of the same
 * energy (measured: docs/quality.md). So the scale of a finished block goes three quarters of the
 * way (in the exponent) to where sum w x decoded = sum w x^2; the whole way would cost more
 * squared error than the reference has on some rows. A block that falls shorter than
 * REGAIN_MIN, as sparse ones do, has lost single elements, which no scale brings back: it stays
 * with least squares. */
static float regain(const struct finished *f, float d)
{
    float gain = d * (float)(f->wxu / f->wxx);
    if (!(gain > REGAIN_MIN && gain < 1.0f)) {
        return d;
    }
    float half = sqrtf(gain);
    return d / (half * sqrtf(half));
}

/* The scale nearest to `want` with which the error is at most `limit`; bits 0 if none is found. */
static struct fit_scale scale_within(const struct fit_block *b, const struct finished *f,
                                     float want, double limit)
{
    struct fit_scale s = fit_scale_round(b, want);
    if (finished_error(f, (double)s.d) <= limit) {
        return s;
    }
    double best = f->uu > 0 ? f->xu / f->uu : 0, spare = limit - finished_error(f, best);
    if (spare >= 0) {
        double reach = sqrt(spare / f->uu);
        s = fit_scale_round(b, (float)(best + ((double)want < best ? -reach : reach)));
        if (finished_error(f, (double)s.d) <= limit) {
            return s;
        }
        s = fit_scale_round(b, (float)best); /* f16 has no value so near the limit */
        if (finished_error(f, (double)s.d) <= limit) {
            return s;
        }
    }
    return (struct fit_scale){0};
}

/* Decides between a found solution at scale *d (0: none) and the reference's: *sol and *d become
 * what has no more untilted error than the reference's and, under that condition, is as loud as
 * regain() wants it. */
static void try_reference(const struct grid *g, const struct fit_block *b, struct solution *sol,
                          struct fit_scale *d)
{
    struct solution theirs;
    struct fit_scale their_d = reference_search(g, b, &theirs), s = {0};
    struct finished their = finish(g, b, &theirs);
    double limit = finished_error(&their, (double)their_d.d);
    if ((d->bits & 0x7FFF) != 0) {
        struct finished our = finish(g, b, sol);
        s = scale_within(b, &our, regain(&our, d->d), limit);
        s.clipped = d->clipped;
    }
    if ((s.bits & 0x7FFF) == 0 && limit < their.xx) {
        *sol = theirs;
        s = scale_within(b, &their, regain(&their, (float)(their.xu / their.uu)), limit);
        s = (s.bits & 0x7FFF) != 0 ? s : their_d;
        s.clipped = their_d.clipped;
    }
    *d = s;
}

/* ---- writing ---- */

/* Group i of a block: see decode_iq.c. */
static void write_group(uint32_t type, int i, const struct solution *sol, uint8_t *out)
{
    const uint16_t *entry = sol->entry + 4 * i;
    uint32_t signs[4], s[2] = {sol->s[2 * i], sol->s[2 * i + 1]};
    for (int v = 0; v < 4; v++) {
        signs[v] = sol->minus[4 * i + v] & 127;
    }
    uint32_t word = signs[0] | signs[1] << 7 | signs[2] << 14 | signs[3] << 21 | s[0] << 28;
    uint8_t *p = out + 2 + 8 * i;
    for (int v = 0; v < 4; v++) {
        if (type == QT_IQ2_XXS) {
            p[v] = (uint8_t)entry[v];
        } else if (type == QT_IQ2_XS) {
            store_le16(p + 2 * v, (uint16_t)(entry[v] | signs[v] << 9));
        } else {
            store_le16(p + 2 * v, entry[v]);
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
    const struct grid *g = grid_of(type);
    struct group gr[GROUPS];
    struct choice c[GROUPS];
    struct solution sol;
    struct fit_scale scale;
    for (int i = 0; i < GROUPS; i++) {
        group_load(g, b, 32 * i, &gr[i]);
    }
    if (search(g, b, gr, &scale, c) < 0.0f) {
        solution_set(g, gr, c, &sol);
    } else {
        scale = (struct fit_scale){0};
    }
    try_reference(g, b, &sol, &scale);
    if ((scale.bits & 0x7FFF) == 0) {
        return true; /* nothing is better than zeros: the caller has written those */
    }
    store_le16(out, scale.bits);
    for (int i = 0; i < GROUPS; i++) {
        write_group(type, i, &sol, out);
    }
    return scale.clipped;
}
