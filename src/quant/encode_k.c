/* encode_k.c - the search for the K-quants with minima, Q2_K, Q4_K and Q5_K (layouts: decode.c;
 * what the reference does: quantization.md 3.1; metric: encode_fit.h; lanes: encode_lanes.h).
 *
 * A group of 16 or 32 elements is decoded as a * l - b with a = d * s and b = dmin * m: l the
 * codes, s and m small integers, d and dmin two f16 for the whole block. The search:
 * 1. Per group, good (a, b) as real numbers, from many ranges and least squares for the codes
 *    that each gives.
 * 2. From two of these solutions: d and dmin whose multiples come closest; and again with dmin =
 *    d times the largest code, so that a group with s = m has zero among its values, which is what
 *    sparse rows need. Then s and m of each group by the true error. The best of the four goes
 *    on (Q2_K), or all four do (Q4_K, Q5_K).
 * 3. In turn, while the error falls: solve for d and dmin, choose s and m again.
 * 4. The same from the solution that the reference would write, which is also what the result is
 *    compared with, in untilted weights: no block that we write is worse.
 * Errors in 2 and 3 are those of the block as it will be decoded, f16 scales and codes
 * included. A change of a by one step wants b to follow (the codes' mean stays in place), so
 * neighbours are tried along that slope.
 * LANES groups are worked on at once, one per lane. */
#include "quant/encode_k.h"

#include "base/num.h"
#include "quant/encode_positive.h"
#include "quant/formats.h"

enum { POLISHES = 2, FACTORS = 24, PASSES = 4, STARTS = 4 };

struct affine {
    int size;     /* elements of a group */
    float codes;  /* largest l */
    float scales; /* largest s and m */
    float narrow; /* ranges tried: codes over 1 - 0.06 .. 1 + this times the span, or so */
    float wide;
    int trims, ranges; /* how many of them: lower ends times widths */
    float factor_step; /* spacing of the common factors tried, in units of s */
};

static const struct affine AFFINE_Q2_K = {16, 3.0f, 15.0f, 0.5f, 0.3f, 3, 9, 0.25f};
static const struct affine AFFINE_Q4_K = {32, 15.0f, 63.0f, 0.2f, 0.06f, 3, 9, 0.375f};
static const struct affine AFFINE_Q5_K = {32, 31.0f, 63.0f, 0.2f, 0.06f, 4, 12, 0.375f};

/* Real-valued solutions for LANES groups: the best one with its code slope (mean code: what b
 * moves by per unit of a), the plain range, and the best one with b = 0. */
enum solution { FREE, PLAIN, NO_OFFSET, N_SOLUTIONS };
struct fit {
    f32v gain; /* sum w x^2 less the error */
    f32v a, b;
    f32v ll; /* sum w l^2: how much an error of a costs */
    f32v slope;
};

/* LANES groups. */
struct part {
    struct fit_lanes l;
    f32v sum_w, sum_wx;
    struct fit fit[N_SOLUTIONS];
    struct multiples {
        f32v s, m;
    } at;       /* the present choice ... */
    f32v slope; /* ... and its slope */
};

/* d and dmin. */
struct scales {
    struct fit_scale d, m;
};

/* What least squares needs of a set of codes. */
struct sums {
    f32v l, ll, xl;
};

static inline f32v code4(f32v x, f32v b, f32v inverse_a, float codes)
{
    return roundv(clampv((x + b) * inverse_a, 0.0f, codes));
}

static struct sums code_sums(const struct affine *f, const struct part *q, f32v b,
                             f32v inverse_a)
{
    struct sums s = {splatv(0.0f), splatv(0.0f), splatv(0.0f)};
    for (int i = 0; i < f->size; i++) {
        f32v l = code4(q->l.x[i], b, inverse_a, f->codes), wl = q->l.w[i] * l;
        s.l += wl;
        s.ll += wl * l;
        s.xl += wl * q->l.x[i];
    }
    return s;
}

/* Weighted error of the groups decoded with a and b, codes chosen for them; or, where it is no
 * less than `enough` in any lane, something that is no less either. */
static f32v error_at(const struct affine *f, const struct part *q, f32v a, f32v b, f32v enough)
{
    f32v inverse_a = inversev(a), e = splatv(0.0f);
    for (int i = 0; i < f->size;) {
        for (int end = i + f->size / 4; i < end; i++) {
            f32v r = (q->l.x[i] + b) - a * code4(q->l.x[i], b, inverse_a, f->codes);
            e += q->l.w[i] * r * r;
        }
        if (!anyv(e < enough)) {
            break;
        }
    }
    return e;
}

static void take(struct fit *to, i32v where, f32v gain, f32v a, f32v b, struct sums s,
                 f32v slope)
{
    to->gain = selectv(where, gain, to->gain);
    to->a = selectv(where, a, to->a);
    to->b = selectv(where, b, to->b);
    to->ll = selectv(where, s.ll, to->ll);
    to->slope = selectv(where, slope, to->slope);
}

/* Solves for (a, b) with given codes, and for a alone with b = 0; keeps what is better than the
 * solutions so far. b must not be negative: dmin is a minimum below zero. */
static void consider(struct part *q, struct sums s)
{
    f32v zero = splatv(0.0f), tiny = 1e-12f * q->sum_w;
    f32v a0 = s.xl / maxv(s.ll, tiny), gain0 = s.xl * a0;
    take(&q->fit[NO_OFFSET], gain0 > q->fit[NO_OFFSET].gain, gain0, a0, zero, s, zero);

    f32v mean_x = q->sum_wx / q->sum_w, mean_l = s.l / q->sum_w;
    f32v det = s.ll - mean_l * s.l; /* nothing but rounding if all weight is on one code */
    f32v a = (s.xl - mean_x * s.l) / maxv(det, tiny);
    f32v b = a * mean_l - mean_x;
    f32v gain = mean_x * q->sum_wx + (s.xl - mean_x * s.l) * a;
    i32v valid = (b >= zero) & (a > zero) & (det > 1e-5f * s.ll);
    gain = selectv(valid, gain, gain0);
    a = selectv(valid, a, a0);
    take(&q->fit[FREE], (gain > q->fit[FREE].gain) & (a >= zero), gain, a,
         selectv(valid, b, zero), s, selectv(valid, mean_l, zero));
}

/* Part 1: tries spans from (a part of) the lowest element upwards. */
static void part_fit(const struct affine *f, struct part *q)
{
    f32v zero = splatv(0.0f), low = zero, high = q->l.x[0];
    for (int i = 0; i < f->size; i++) {
        low = minv(low, q->l.x[i]);
        high = maxv(high, q->l.x[i]);
    }
    struct fit none = {splatv(-1.0f), zero, zero, zero, zero};
    q->fit[FREE] = q->fit[NO_OFFSET] = none;
    q->fit[FREE].b = -low;
    for (int u = 0; u < f->trims; u++) {
        f32v from = low * (1.0f - (float)u * (0.5f / f->codes)), span = inversev(high - from);
        for (int t = 0; t < f->ranges; t++) {
            float step = (f->narrow + f->wide) / (float)(f->ranges - 1);
            float k = f->codes * (1.0f - f->wide + step * (float)t);
            consider(q, code_sums(f, q, -from, k * span));
        }
    }
    for (int t = 0; t < POLISHES; t++) {
        consider(q, code_sums(f, q, q->fit[FREE].b, inversev(q->fit[FREE].a)));
    }
    q->fit[PLAIN] = q->fit[FREE];
    q->fit[PLAIN].a = (high - low) * (1.0f / f->codes);
    q->fit[PLAIN].b = -low;
}

static void part_load(const struct affine *f, const float *x, const float *w, int first,
                      struct part *q)
{
    fit_lanes_load(&q->l, x, w, f->size, first);
    q->sum_w = q->sum_wx = splatv(0.0f);
    for (int i = 0; i < f->size; i++) {
        q->sum_w += q->l.w[i];
        q->sum_wx += q->l.w[i] * q->l.x[i];
    }
}

static void parts_load(const struct affine *f, struct part *q, const float *x, const float *w)
{
    for (int i = 0; i < FIT_N / f->size / LANES; i++) {
        part_load(f, x, w, LANES * i, &q[i]);
    }
}

/* Part 2: a common factor for the a (or b) of one solution: of those that put the largest near
 * the end of the range or beyond, the one with the least weighted square of the distances to
 * multiples. */
static float common_factor(const struct affine *f, const struct part *q, int n, enum solution k,
                           bool offset)
{
    f32v most = splatv(0.0f);
    for (int i = 0; i < n; i++) {
        most = maxv(most, offset ? q[i].fit[k].b : q[i].fit[k].a);
    }
    float max = highestv(most), best = 0.0f, least = 0x1p126f;
    for (int t = 0; max > 0.0f && t < FACTORS; t++) {
        float d = max / (f->scales + 0.4f - f->factor_step * (float)t);
        f32x4 sum = {0};
        for (int i = 0; i < n; i++) {
            f32v v = offset ? q[i].fit[k].b : q[i].fit[k].a;
            f32v w = offset ? q[i].sum_w : q[i].fit[k].ll;
            f32v r = v - d * roundv(clampv(v * (1.0f / d), 0.0f, f->scales));
            sum = add_lanes(sum, w * r * r);
        }
        float e = sum4(sum);
        if (e < least) {
            least = e;
            best = d;
        }
    }
    return best;
}

/* Tries multiples near (a, b), `reach` steps of s to both sides, and for each three of m. */
static void try_near(const struct affine *f, struct part *q, const struct scales *sc, f32v a,
                     f32v b, f32v slope, int reach, int reach_m, f32v *least)
{
    f32v s = roundv(clampv(a * inversev(splatv(sc->d.d)), 0.0f, f->scales));
    f32v inverse_m = inversev(splatv(sc->m.d));
    for (int i = -reach; i <= reach; i++) {
        f32v try_s = clampv(s + (float)i, 0.0f, f->scales), try_a = try_s * sc->d.d;
        f32v follow = b + (try_a - a) * slope;
        f32v m = roundv(clampv(follow * inverse_m, 0.0f, f->scales));
        for (int j = -reach_m; j <= reach_m; j++) {
            f32v try_m = clampv(m + (float)j, 0.0f, f->scales);
            f32v e = error_at(f, q, try_a, try_m * sc->m.d, *least);
            i32v better = e < *least;
            *least = selectv(better, e, *least);
            q->at.s = selectv(better, try_s, q->at.s);
            q->at.m = selectv(better, try_m, q->at.m);
        }
    }
}

/* Tries every s, with the m that follows it from (a, b): a group with one large element has
 * good choices far apart. */
static void try_all(const struct affine *f, struct part *q, const struct scales *sc, f32v a,
                    f32v b, f32v *least)
{
    f32v inverse_m = inversev(splatv(sc->m.d));
    for (float s = 0.0f; s <= f->scales; s += 1.0f) {
        f32v try_a = splatv(s * sc->d.d), follow = b + (try_a - a) * q->slope;
        f32v m = roundv(clampv(follow * inverse_m, 0.0f, f->scales));
        f32v e = error_at(f, q, try_a, m * sc->m.d, *least);
        i32v better = e < *least;
        *least = selectv(better, e, *least);
        q->at.s = selectv(better, splatv(s), q->at.s);
        q->at.m = selectv(better, m, q->at.m);
    }
}

/* First choice of s and m: near all three real-valued solutions. Returns the error. */
static float choose_first(const struct affine *f, struct part *q, int n,
                          const struct scales *sc)
{
    f32x4 sum = {0};
    for (int i = 0; i < n; i++) {
        f32v least = splatv(0x1p126f);
        for (int k = 0; k < N_SOLUTIONS; k++) {
            const struct fit *t = &q[i].fit[k];
            try_near(f, &q[i], sc, t->a, t->b, t->slope, 1, f->scales > 16.0f ? 0 : 1, &least);
        }
        sum = add_lanes(sum, least);
    }
    return sum4(sum);
}

/* Choice after d and dmin have changed: near the present one or (`all`) with every s. */
static float choose_again(const struct affine *f, struct part *q, int n,
                          const struct scales *old, const struct scales *sc, int reach,
                          bool all)
{
    f32x4 sum = {0};
    for (int i = 0; i < n; i++) {
        f32v least = splatv(0x1p126f), a = q[i].at.s * old->d.d, b = q[i].at.m * old->m.d;
        try_near(f, &q[i], sc, a, b, q[i].slope, reach, 1, &least);
        if (all) {
            try_all(f, &q[i], sc, a, b, &least);
        }
        sum = add_lanes(sum, least);
    }
    return sum4(sum);
}

/* Part 3: least squares for d and dmin with s, m and codes fixed; notes the slopes. */
static struct scales refit(const struct affine *f, const struct fit_block *b, struct part *q,
                           int n, const struct scales *sc)
{
    double ss = 0, sm = 0, mm = 0, sx = 0, mx = 0;
    for (int i = 0; i < n; i++) {
        f32v s = q[i].at.s, m = q[i].at.m;
        struct sums u = code_sums(f, &q[i], m * sc->m.d, inversev(s * sc->d.d));
        q[i].slope = u.l / q[i].sum_w;
        ss = add_sums(ss, s * s * u.ll);
        sm = add_sums(sm, s * m * u.l);
        mm = add_sums(mm, m * m * q[i].sum_w);
        sx = add_sums(sx, s * u.xl);
        mx = add_sums(mx, m * q[i].sum_wx);
    }
    double det = ss * mm - sm * sm, d = ss > 0 ? sx / ss : 0, dmin = 0;
    if (det > 1e-9 * ss * mm && sx * mm > sm * mx && sx * sm >= ss * mx) {
        d = (sx * mm - sm * mx) / det;
        dmin = (sx * sm - ss * mx) / det;
    }
    return (struct scales){fit_scale_round(b, (float)d), fit_scale_round(b, (float)dmin)};
}

static void save(struct multiples *to, const struct part *q, int n)
{
    for (int i = 0; i < n; i++) {
        to[i] = q[i].at;
    }
}

static void restore(struct part *q, const struct multiples *from, int n)
{
    for (int i = 0; i < n; i++) {
        q[i].at = from[i];
    }
}

/* Part 3 from the present choice: its error falls to what is returned. */
static float descend(const struct affine *f, const struct fit_block *b, struct part *q, int n,
                     struct scales *sc, float least)
{
    struct multiples best[FIT_MAX_PARTS];
    for (int t = 0; t < PASSES; t++) {
        struct scales next = refit(f, b, q, n, sc);
        save(best, q, n);
        float e = choose_again(f, q, n, sc, &next, t == 0 ? 2 : 1, t == 0 && f->scales < 16.0f);
        if (!(e < least)) {
            restore(q, best, n);
            break;
        }
        least = e;
        *sc = next;
    }
    return least;
}

/* The whole search. Returns the error of the block as it will be decoded. */
static float search(const struct affine *f, const struct fit_block *b, struct part *q,
                    struct scales *sc)
{
    int n = FIT_N / f->size / LANES;
    struct multiples best[FIT_MAX_PARTS];
    float least = 0x1p126f;
    for (int t = 0; t < STARTS; t++) {
        enum solution k = t % 2 ? PLAIN : FREE;
        float d = common_factor(f, q, n, k, false);
        float m = t < 2 ? common_factor(f, q, n, k, true) : f->codes * d;
        struct scales try = {fit_scale_round_up(b, d), fit_scale_round_up(b, m)};
        float e = choose_first(f, q, n, &try);
        if (f->scales > 16.0f) {
            e = descend(f, b, q, n, &try, e);
        }
        if (e < least) {
            least = e;
            *sc = try;
            save(best, q, n);
        }
    }
    restore(q, best, n);
    return f->scales > 16.0f ? least : descend(f, b, q, n, sc, least);
}

/* ---- the reference's choice (quantization.md 3.1) as another candidate ---- */

/* What its fit of LANES groups needs of the elements. */
struct reference {
    f32v rise[FIT_MAX_GROUP]; /* x less the lowest element, or less zero if that is lower */
    f32v wx[FIT_MAX_GROUP];
    f32v low, span, xx; /* xx: sum w x^2 */
    i32v wide;          /* the span is not zero */
};

static void reference_load(const struct affine *f, const struct part *q, struct reference *r)
{
    f32v high = q->l.x[0];
    r->low = r->xx = splatv(0.0f);
    for (int i = 0; i < f->size; i++) {
        f32v x = q->l.x[i];
        r->low = minv(x, r->low);
        high = maxv(x, high);
        r->wx[i] = q->l.w[i] * x;
        r->xx += r->wx[i] * x;
    }
    for (int i = 0; i < f->size; i++) {
        r->rise[i] = q->l.x[i] - r->low;
    }
    r->wide = high > r->low;
    r->span = selectv(r->wide, high - r->low, splatv(1.0f));
}

/* Codes of one range and their sums. */
static struct sums reference_codes(const struct affine *f, const struct part *q,
                                   const struct reference *r, f32v inverse, f32v *codes)
{
    struct sums s = {splatv(0.0f), splatv(0.0f), splatv(0.0f)};
    f32v top = splatv(f->codes);
    for (int i = 0; i < f->size; i++) {
        f32v l = roundv(minv(r->rise[i] * inverse, top));
        codes[i] = l;
        s.l += q->l.w[i] * l;
        s.ll += q->l.w[i] * (l * l);
        s.xl += r->wx[i] * l;
    }
    return s;
}

/* Can a and b with the codes of s have less error than `best`, in any of the lanes? From the
 * sums alone, so with the rounding errors of terms that cancel: those are at most a few hundred
 * units in the last place of the terms without sign. */
static bool reference_hope(const struct part *q, const struct reference *r, struct sums s,
                           f32v a, f32v b, i32v lanes, f32v best)
{
    f32v size = r->xx + a * a * s.ll + b * b * q->sum_w;
    f32v e = size - 2.0f * (a * b * s.l + a * s.xl - b * q->sum_wx);
    return anyv(lanes & (e - 2e-5f * size < best));
}

/* Its real-valued solutions: the range of the elements as it is, and least squares for the codes
 * of 37 ranges around it. */
static void reference_fit(const struct affine *f, const struct part *q, f32v *best_a,
                          f32v *best_b)
{
    struct reference r;
    reference_load(f, q, &r);
    f32v zero = splatv(0.0f), one = splatv(1.0f), best = splatv(1e30f);
    *best_a = zero;
    *best_b = -r.low;
    for (int t = -1; t <= 36; t++) {
        float range = t < 0 ? f->codes : f->codes - 0.9f + 0.05f * (float)t;
        f32v inverse = range / r.span, a = one / inverse, b = -r.low, codes[FIT_MAX_GROUP];
        struct sums s = reference_codes(f, q, &r, inverse, codes);
        i32v valid = r.wide;
        if (t >= 0) {
            f32v det = q->sum_w * s.ll - s.l * s.l;
            valid &= det > zero;
            det = selectv(valid, det, one);
            a = (q->sum_w * s.xl - q->sum_wx * s.l) / det;
            b = (s.l * s.xl - s.ll * q->sum_wx) / det;
            i32v below = b < zero;
            a = selectv(below, s.xl / selectv(s.ll > zero, s.ll, one), a);
            b = selectv(below, zero, b);
        }
        if (!reference_hope(q, &r, s, a, b, valid, best)) {
            continue;
        }
        f32v e = zero;
        for (int i = 0; i < f->size; i++) {
            f32v v = a * codes[i] - b - q->l.x[i];
            e += q->l.w[i] * v * v;
        }
        i32v better = valid & (e < best);
        best = selectv(better, e, best);
        *best_a = selectv(better, a, *best_a);
        *best_b = selectv(better, b, *best_b);
    }
}

/* d, dmin, s and m as the reference chooses them. */
static struct scales reference_choice(const struct affine *f, const struct fit_block *b,
                                      struct multiples *to)
{
    int groups = FIT_N / f->size, n = groups / LANES;
    struct part q[FIT_MAX_PARTS];
    float w[FIT_N];
    f32v value[16], weight[16], code[16]; /* lane 0: a of group g; lane 1: b */
    fit_reference_weights(b, f->size == 16 ? 1.0f : 2.0f, w);
    parts_load(f, q, b->x, w);
    for (int g = 0; g < groups; g++) {
        value[g] = weight[g] = splatv(0.0f);
    }
    for (int i = 0; i < n; i++) {
        f32v real_a, real_b;
        reference_fit(f, &q[i], &real_a, &real_b);
        for (int v = 0; v < LANES; v++) {
            int g = LANES * i + v;
            value[g][0] = real_a[v];
            value[g][1] = real_b[v];
            weight[g][0] = weight[g][1] = q[i].sum_w[v];
        }
    }
    f32v scale = positive_fit(groups, f->scales, value, weight, code);
    for (int g = 0; g < groups; g++) {
        to[g / LANES].s[g % LANES] = code[g][0];
        to[g / LANES].m[g % LANES] = code[g][1];
    }
    return (struct scales){fit_scale_round(b, scale[0]), fit_scale_round(b, scale[1])};
}

/* Error of the block decoded with sc and at[], in the weights of q. */
static float block_error(const struct affine *f, const struct part *q,
                         const struct multiples *at, const struct scales *sc)
{
    f32x4 sum = {0};
    for (int i = 0; i < FIT_N / f->size / LANES; i++) {
        f32v a = at[i].s * sc->d.d, b = at[i].m * sc->m.d;
        sum = add_lanes(sum, error_at(f, &q[i], a, b, splatv(0x1p126f)));
    }
    return sum4(sum);
}

/* Replaces the found solution by what a descent from the reference's finds, or by the reference's
 * itself, if that has less error in the plain weights. Where s and m have few values and the
 * reference's solution is worse than ours, its descent is not worth the time. */
static void try_reference(const struct affine *f, const struct fit_block *b, struct part *q,
                          struct scales *sc)
{
    int n = FIT_N / f->size / LANES;
    struct part plain[FIT_MAX_PARTS];
    struct multiples ours[FIT_MAX_PARTS], theirs[FIT_MAX_PARTS], lower[FIT_MAX_PARTS];
    struct scales next = reference_choice(f, b, theirs);
    parts_load(f, plain, b->x, b->plain);
    save(ours, q, n);
    float found = block_error(f, plain, ours, sc);
    float reference = block_error(f, plain, theirs, &next);
    if (!(reference < found) && f->scales < 16.0f) {
        return;
    }
    float w[FIT_N];
    for (int i = 0; i < FIT_N; i++) { /* so that groups without importance follow, too */
        w[i] = b->plain[i] + FIT_LEAST;
    }
    parts_load(f, q, b->x, w);
    restore(q, theirs, n);
    struct scales end = next;
    descend(f, b, q, n, &end, block_error(f, q, theirs, &next));
    save(lower, q, n);
    float e = block_error(f, plain, lower, &end);
    bool descended = e <= reference;
    e = descended ? e : reference;
    if (e < found) {
        restore(q, descended ? lower : theirs, n);
        *sc = descended ? end : next;
    } else {
        restore(q, ours, n);
    }
}

/* ---- writing ---- */

/* 6-bit scale and minimum of group g into 12 zeroed bytes (decode.c: set_scale_min6). Groups
 * 0..3 come first. */
static void write_scale_min6(uint8_t *b, unsigned g, unsigned s, unsigned m)
{
    if (g < 4) {
        b[g] = (uint8_t)s;
        b[g + 4] = (uint8_t)m;
    } else {
        b[g + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
        b[g - 4] |= (uint8_t)(s >> 4 << 6);
        b[g] |= (uint8_t)(m >> 4 << 6);
    }
}

/* ORs the code of element i (0..255) into a zeroed block. */
static inline void write_code(uint32_t type, int i, unsigned code, uint8_t *out)
{
    int l = i % 32, g = i / 32;
    if (type == QT_Q2_K) {
        out[16 + 32 * (g / 4) + l] |= (uint8_t)(code << 2 * (g % 4));
        return;
    }
    uint8_t *q = out + (type == QT_Q4_K ? 16 : 48) + 32 * (g / 2);
    q[l] |= (uint8_t)((code & 15) << 4 * (g % 2));
    if (type == QT_Q5_K) {
        out[16 + l] |= (uint8_t)(code >> 4 << g);
    }
}

static void write_block(uint32_t type, const struct affine *f, const struct part *q,
                        const struct scales *sc, uint8_t *out)
{
    uint8_t *head = type == QT_Q2_K ? out + 80 : out;
    store_le16(head, sc->d.bits);
    store_le16(head + 2, sc->m.bits);
    for (unsigned g = 0; g < FIT_N / (unsigned)f->size; g++) {
        unsigned s = (unsigned)q[g / LANES].at.s[g % LANES],
                 m = (unsigned)q[g / LANES].at.m[g % LANES];
        if (type == QT_Q2_K) {
            out[g] = (uint8_t)(s | m << 4);
        } else {
            write_scale_min6(out + 4, g, s, m);
        }
    }
    for (int i = 0; i < FIT_N / f->size / LANES; i++) {
        f32v b = q[i].at.m * sc->m.d, inverse_a = inversev(q[i].at.s * sc->d.d);
        for (int j = 0; j < f->size; j++) {
            f32v code = code4(q[i].l.x[j], b, inverse_a, f->codes);
            for (int v = 0; v < LANES; v++) {
                write_code(type, f->size * (LANES * i + v) + j, (unsigned)code[v], out);
            }
        }
    }
}

bool k_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out)
{
    const struct affine *f = type == QT_Q2_K   ? &AFFINE_Q2_K
                             : type == QT_Q4_K ? &AFFINE_Q4_K
                                               : &AFFINE_Q5_K;
    struct part q[FIT_MAX_PARTS];
    int n = FIT_N / f->size / LANES;
    f32x4 zeros = {0}; /* error of a block of zeros */
    parts_load(f, q, b->x, b->w);
    for (int i = 0; i < n; i++) {
        part_fit(f, &q[i]);
        f32v e = splatv(0.0f);
        for (int j = 0; j < f->size; j++) {
            e += q[i].l.w[j] * q[i].l.x[j] * q[i].l.x[j];
        }
        zeros = add_lanes(zeros, e);
    }
    struct scales sc = {0};
    if (!(search(f, b, q, &sc) < sum4(zeros))) {
        sc = (struct scales){0};
    }
    try_reference(f, b, q, &sc);
    if (((sc.d.bits | sc.m.bits) & 0x7FFF) == 0) {
        return true; /* nothing is better than zeros */
    }
    write_block(type, f, q, &sc, out);
    return sc.d.clipped || sc.m.clipped;
}
