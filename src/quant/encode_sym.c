/* encode_sym.c - the search for the formats without minima: Q3_K, Q6_K and IQ4_XS (layouts:
 * decode.c, decode_iq.c; what the reference does: quantization.md 3.4; metric: encode_fit.h; lanes:
 * encode_lanes.h).
 *
 * A group of 16 or 32 elements is decoded as d * s * level: s a small signed integer, d the f16
 * of the block, level an integer of a short range or one of the 16 IQ4 values. The ranges reach
 * further to one side, so both signs of s are tried. The search: per group the best real scale
 * over many ranges; a common d; then, while the error of the decoded block falls, least squares
 * for d and a new choice of s among its neighbours. Last, the block that the reference would
 * write: few levels and one element far above the rest make local minima that no descent leaves,
 * so the search alone can end above the reference. Whichever has less untilted error is written.
 * LANES groups are worked on at once, one per lane. */
#include "quant/encode_sym.h"

#include <math.h>
#include <pthread.h>

#include "base/num.h"
#include "quant/encode_lanes.h"
#include "quant/formats.h"
#include "quant/tables.h"

enum { RANGES = 16, POLISHES = 2, FACTORS = 20, PASSES = 4, REACH = 2 };

struct symmetric {
    int size;                    /* elements of a group */
    bool iq4;                    /* levels: IQ4 values instead of all integers */
    float low, high;             /* lowest and highest level */
    float scale_low, scale_high; /* range of s */
    bool all_scales;             /* trying every s is affordable */
    float open, clip; /* ranges tried: largest element at |low| - open .. |low| + clip */
};

static const struct symmetric SYM_Q3_K = {
    16, false, -4.0f, 3.0f, -32.0f, 31.0f, .all_scales = true, .open = 0.9f, .clip = 1.6f};
static const struct symmetric SYM_Q6_K = {
    16, false, -32.0f, 31.0f, -128.0f, 127.0f, .all_scales = false, .open = 1.1f, .clip = 1.2f};
static const struct symmetric SYM_IQ4_XS = {
    32,           true, -127.0f, 113.0f, -32.0f, 31.0f, .all_scales = false, .open = 24.0f,
    .clip = 24.0f};

/* Nearest IQ4 value and its code for v: entry floor(2 v) + 254. Exact, because the midpoints of
 * neighbouring values are multiples of one half. */
enum { IQ4_STEPS = 2 * (113 + 127) + 1 };
static float iq4_level[IQ4_STEPS];
static uint8_t iq4_code[IQ4_STEPS];

static void iq4_build(void)
{
    int code = 0;
    for (int i = 0; i < IQ4_STEPS; i++) {
        while (code < 15 &&
               i - 254 >= quant_values_iq4_nl[code] + quant_values_iq4_nl[code + 1]) {
            code++;
        }
        iq4_level[i] = quant_values_iq4_nl[code];
        iq4_code[i] = (uint8_t)code;
    }
}

/* LANES groups. */
struct part {
    struct fit_lanes l;
    f32v a;  /* best real scale */
    f32v ll; /* sum w level^2 with its codes: how much an error of a costs */
    f32v s;  /* chosen multiple */
};

struct sums {
    f32v xl, ll;
};

static inline f32v level4(const struct symmetric *f, bool iq4, f32v v)
{
    f32v c = clampv(v, f->low, f->high);
    if (!iq4) {
        return roundv(c);
    }
    c = 2.0f * c + 254.0f;
    for (int i = 0; i < LANES; i++) {
        c[i] = iq4_level[(int)c[i]];
    }
    return c;
}

static inline struct sums level_sums_of(const struct symmetric *f, bool iq4,
                                        const struct part *q, f32v inverse_a)
{
    struct sums s = {splatv(0.0f), splatv(0.0f)};
    for (int i = 0; i < f->size; i++) {
        f32v level = level4(f, iq4, q->l.x[i] * inverse_a), wl = q->l.w[i] * level;
        s.xl += wl * q->l.x[i];
        s.ll += wl * level;
    }
    return s;
}

/* Sums over the levels nearest to x * inverse_a. */
static struct sums level_sums(const struct symmetric *f, const struct part *q, f32v inverse_a)
{
    return f->iq4 ? level_sums_of(f, true, q, inverse_a)
                  : level_sums_of(f, false, q, inverse_a);
}

static inline f32v error_at_of(const struct symmetric *f, bool iq4, const struct part *q,
                               f32v a)
{
    f32v inverse_a = inversev(a), e = splatv(0.0f);
    for (int i = 0; i < f->size; i++) {
        f32v r = q->l.x[i] - a * level4(f, iq4, q->l.x[i] * inverse_a);
        e += q->l.w[i] * r * r;
    }
    return e;
}

/* Weighted error of the groups decoded with scale a, codes chosen for it. */
static f32v error_at(const struct symmetric *f, const struct part *q, f32v a)
{
    return f->iq4 ? error_at_of(f, true, q, a) : error_at_of(f, false, q, a);
}

/* Least squares for the scale with the codes of 1 / inverse_a, kept if better. */
static void consider(const struct symmetric *f, struct part *q, f32v inverse_a, f32v *gain)
{
    struct sums s = level_sums(f, q, inverse_a);
    f32v a = s.xl / maxv(s.ll, splatv(1e-20f));
    i32v better = s.xl * a > *gain;
    *gain = selectv(better, s.xl * a, *gain);
    q->a = selectv(better, a, q->a);
    q->ll = selectv(better, s.ll, q->ll);
}

static void part_fit(const struct symmetric *f, struct part *q)
{
    f32v gain = splatv(0.0f), max = gain;
    for (int i = 0; i < f->size; i++) {
        max = maxv(max, maxv(q->l.x[i], -q->l.x[i]));
    }
    f32v inverse = inversev(max);
    q->a = q->ll = splatv(0.0f);
    for (int t = 0; t < RANGES; t++) {
        float step = (f->open + f->clip) / (float)(RANGES - 1);
        f32v k = inverse * (-f->low - f->open + step * (float)t);
        consider(f, q, k, &gain);
        consider(f, q, -k, &gain);
    }
    for (int t = 0; t < POLISHES; t++) {
        consider(f, q, inversev(q->a), &gain);
    }
}

/* A common factor, of either sign, for the scales: of those that put the largest near the end
 * of the range or beyond, the one with the least weighted square of distances to multiples. */
static float common_factor(const struct symmetric *f, const struct part *q, int n)
{
    f32v most = splatv(0.0f);
    for (int i = 0; i < n; i++) {
        most = maxv(most, maxv(q[i].a, -q[i].a));
    }
    float max = highestv(most), best = 0.0f, least = 0x1p126f;
    for (int t = 0; max > 0.0f && t < 2 * FACTORS; t++) {
        float d = max / (-f->scale_low + 0.4f - 0.5f * (float)(t / 2));
        d = t % 2 == 0 ? -d : d;
        f32x4 sum = {0};
        for (int i = 0; i < n; i++) {
            f32v k = clampv(q[i].a * (1.0f / d), f->scale_low, f->scale_high);
            f32v r = q[i].a - d * roundv(k);
            sum = add_lanes(sum, q[i].ll * r * r);
        }
        float e = sum4(sum);
        if (e < least) {
            least = e;
            best = d;
        }
    }
    return best;
}

/* Chooses s of all groups for scale d, around the present values or (`all`) from the whole
 * range. Returns the error. */
static float choose(const struct symmetric *f, struct part *q, int n, float d, bool all)
{
    f32x4 sum = {0};
    int tries = all ? (int)(f->scale_high - f->scale_low) + 1 : 2 * REACH + 1;
    for (int i = 0; i < n; i++) {
        f32v least = splatv(0x1p126f);
        f32v from = all ? splatv(f->scale_low) : q[i].s - (float)REACH;
        for (int t = 0; t < tries; t++) {
            f32v try = clampv(from + (float)t, f->scale_low, f->scale_high);
            f32v e = error_at(f, &q[i], try * d);
            i32v better = e < least;
            least = selectv(better, e, least);
            q[i].s = selectv(better, try, q[i].s);
        }
        sum = add_lanes(sum, least);
    }
    return sum4(sum);
}

/* Least squares for d with everything else fixed. */
static float refit(const struct symmetric *f, const struct part *q, int n, float d)
{
    double sx = 0, ss = 0;
    for (int i = 0; i < n; i++) {
        struct sums u = level_sums(f, &q[i], inversev(q[i].s * d));
        sx = add_sums(sx, q[i].s * u.xl);
        ss = add_sums(ss, q[i].s * q[i].s * u.ll);
    }
    return ss > 0 ? (float)(sx / ss) : 0.0f;
}

static void save(f32v *to, const struct part *q, int n)
{
    for (int i = 0; i < n; i++) {
        to[i] = q[i].s;
    }
}

static void restore(struct part *q, const f32v *from, int n)
{
    for (int i = 0; i < n; i++) {
        q[i].s = from[i];
    }
}

/* Least squares and choices in turn while the error falls. */
static float descend(const struct symmetric *f, const struct fit_block *b, struct part *q,
                     struct fit_scale *scale, float least)
{
    int n = FIT_N / f->size / LANES;
    f32v s[FIT_MAX_PARTS];
    for (int t = 0; t < PASSES; t++) {
        save(s, q, n);
        struct fit_scale next = fit_scale_round(b, refit(f, q, n, scale->d));
        float e = choose(f, q, n, next.d, false);
        if (!(e < least)) {
            restore(q, s, n);
            break;
        }
        least = e;
        *scale = next;
    }
    return least;
}

/* The whole search: descents from a few neighbouring scales, because the error has many local
 * minima where a few elements have most of the weight; then, where s has few values, a choice
 * among all of them (a group with one large element has many good ones, far apart) and another
 * descent. Returns the error of the block as it will be decoded. */
static float search(const struct symmetric *f, const struct fit_block *b, struct part *q,
                    struct fit_scale *scale)
{
    static const float start[] = {1.0f, 0.992f, 1.008f, 0.98f};
    int n = FIT_N / f->size / LANES;
    f32v s[FIT_MAX_PARTS];
    float d = common_factor(f, q, n), least = 0x1p126f;
    for (size_t t = 0; t < sizeof start / sizeof start[0]; t++) {
        struct fit_scale next = fit_scale_round_up(b, d * start[t]);
        f32v inverse = inversev(splatv(next.d));
        for (int i = 0; i < n; i++) {
            q[i].s = roundv(clampv(q[i].a * inverse, f->scale_low, f->scale_high));
        }
        float e = descend(f, b, q, &next, choose(f, q, n, next.d, false));
        if (e < least) {
            least = e;
            *scale = next;
            save(s, q, n);
        }
    }
    restore(q, s, n);
    if (f->all_scales) {
        least = descend(f, b, q, scale, choose(f, q, n, scale->d, true));
    }
    return least;
}

/* ---- the reference's choice (quantization.md 3.4) as another candidate ---- */

/* Error of the block decoded with d and s[], in the weights of q. */
static float block_error(const struct symmetric *f, const struct part *q, int n, const f32v *s,
                         float d)
{
    f32x4 sum = {0};
    for (int i = 0; i < n; i++) {
        sum = add_lanes(sum, error_at(f, &q[i], s[i] * d));
    }
    return sum4(sum);
}

/* What it takes for one scale and its codes: of some ranges around the element of largest
 * magnitude the one that explains most. Where that element is alone in its group, all ranges
 * explain the same, and the order in which they are looked at decides: ascending, or first the
 * range that reaches that element exactly. Both are in use, so both are tried. */
enum { ASCENDING, EXACT_FIRST, ORDERS };
struct reference {
    f32v scale[ORDERS], inverse[ORDERS]; /* codes are those of x * inverse */
};

enum { REFERENCE_REACH = 9, REFERENCE_TRIALS = 2 * REFERENCE_REACH + 1 };

/* One look at a range: takes it if it explains more than what was taken before. */
static void reference_take(struct reference *r, int order, f32v xl, f32v ll, f32v inverse,
                           f32v *best)
{
    i32v better = (ll > splatv(0.0f)) & (xl * xl > *best * ll);
    f32v safe = selectv(better, ll, splatv(1.0f)), scale = xl / safe;
    f32v gain = order == ASCENDING ? xl * xl / safe : scale * xl; /* as either rounds it */
    *best = selectv(better, gain, *best);
    r->scale[order] = selectv(better, scale, r->scale[order]);
    r->inverse[order] = selectv(better, inverse, r->inverse[order]);
}

/* n elements x with weights w in each lane; levels low .. high, or the IQ4 ones. */
static void reference_fit(const struct symmetric *f, bool iq4, float low, float high, int n,
                          const f32v *x, const f32v *w, struct reference *r)
{
    const struct symmetric range = {.low = low, .high = high};
    f32v zero = splatv(0.0f), extreme = zero, xl[REFERENCE_TRIALS], ll[REFERENCE_TRIALS];
    f32v inverse[REFERENCE_TRIALS];
    for (int i = 0; i < n; i++) {
        extreme = selectv(maxv(x[i], -x[i]) > maxv(extreme, -extreme), x[i], extreme);
    }
    i32v usable = (extreme > splatv(1e-20f)) | (extreme < splatv(-1e-20f));
    f32v divisor = selectv(usable, extreme, splatv(1.0f));
    int reach = iq4 ? 7 : REFERENCE_REACH, trials = 2 * reach + 1;
    for (int t = 0; t < trials; t++) {
        float k = iq4 ? low + (float)(t - reach) : -(-low + 0.1f * (float)(t - reach));
        inverse[t] = splatv(k) / divisor;
        xl[t] = ll[t] = zero;
        for (int i = 0; i < n; i++) {
            f32v level = level4(&range, iq4, inverse[t] * x[i]);
            xl[t] += w[i] * x[i] * level;
            ll[t] += w[i] * (level * level);
        }
        ll[t] = selectv(usable, ll[t], zero);
    }
    for (int order = 0; order < (f->iq4 ? 1 : ORDERS); order++) {
        f32v best = zero;
        r->scale[order] = r->inverse[order] = zero;
        if (order == EXACT_FIRST) {
            reference_take(r, order, xl[reach], ll[reach], inverse[reach], &best);
        }
        for (int t = 0; t < trials; t++) {
            reference_take(r, order, xl[t], ll[t], inverse[t], &best);
        }
    }
}

static void load_lanes(const struct symmetric *f, struct part *q, int n, const float *x,
                       const float *w)
{
    for (int i = 0; i < n; i++) {
        fit_lanes_load(&q[i].l, x, w, f->size, LANES * i);
    }
}

/* A reference's solution. */
struct candidate {
    float d;
    f32v s[FIT_MAX_PARTS];
};

/* d and s of IQ4_XS for real scales: the largest becomes -32. s are multiples of d before and of d
 * after it was rounded: both are in use. */
static void iq4_factor(const struct symmetric *f, const struct fit_block *b, int n,
                       const struct reference *r, struct candidate *c)
{
    float extreme = 0.0f;
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < LANES; v++) {
            float a = r[i].scale[ASCENDING][v];
            extreme = fabsf(a) > fabsf(extreme) ? a : extreme;
        }
    }
    float d = extreme / f->scale_low, rounded = fit_scale_round(b, d).d;
    for (int k = 0; k < 2; k++) {
        f32v inverse = inversev(splatv(k == 0 ? d : rounded));
        c[k].d = d;
        for (int i = 0; i < n; i++) {
            f32v s = clampv(r[i].scale[ASCENDING] * inverse, f->scale_low, f->scale_high);
            c[k].s[i] = roundv(s);
        }
    }
}

/* Two candidates, the reference's in either reading. Its weights lack the least weight that ours
 * have: an element far above the rest that has no importance then leaves the other groups
 * alone. */
static void reference_choices(const struct symmetric *f, const struct fit_block *b, int n,
                              struct candidate *c)
{
    struct part q[FIT_MAX_PARTS];
    struct reference r[FIT_MAX_PARTS], over;
    float w[FIT_N];
    f32v scale[16], weight[16]; /* lane o: real scale of group g in order o */
    fit_reference_weights(b, 2.0f, w);
    load_lanes(f, q, n, b->x, w);
    for (int i = 0; i < n; i++) {
        f32v sum = splatv(0.0f);
        for (int j = 0; j < f->size; j++) {
            sum += q[i].l.w[j];
        }
        reference_fit(f, f->iq4, f->low, f->high, f->size, q[i].l.x, q[i].l.w, &r[i]);
        for (int v = 0; !f->iq4 && v < LANES; v++) {
            int g = LANES * i + v;
            scale[g] = splatv(0.0f);
            weight[g] = splatv(sum[v]);
            scale[g][ASCENDING] = r[i].scale[ASCENDING][v];
            scale[g][EXACT_FIRST] = r[i].scale[EXACT_FIRST][v];
        }
    }
    if (f->iq4) {
        iq4_factor(f, b, n, r, c);
        return;
    }
    reference_fit(f, false, f->scale_low, f->scale_high, 16, scale, weight, &over);
    for (int order = 0; order < ORDERS; order++) {
        c[order].d = over.scale[order][order];
        f32v inverse = splatv(over.inverse[order][order]);
        for (int g = 0; g < 16; g++) {
            f32v s = roundv(clampv(inverse * scale[g], f->scale_low, f->scale_high));
            c[order].s[g / LANES][g % LANES] = s[order];
        }
    }
}

/* Replaces the found scales where the reference's leave less error in the plain weights, or
 * those of a descent from there if that is no worse. */
static void try_reference(const struct symmetric *f, const struct fit_block *b, struct part *q,
                          struct fit_scale *scale)
{
    int n = FIT_N / f->size / LANES;
    struct candidate c[ORDERS];
    struct part plain[FIT_MAX_PARTS], from[FIT_MAX_PARTS];
    f32v best[FIT_MAX_PARTS], lower[FIT_MAX_PARTS];
    int taken = -1;
    reference_choices(f, b, n, c);
    load_lanes(f, plain, n, b->x, b->plain);
    save(best, q, n);
    float least = block_error(f, plain, n, best, scale->d);
    for (int k = 0; k < ORDERS; k++) {
        struct fit_scale next = fit_scale_round(b, c[k].d);
        float e = block_error(f, plain, n, c[k].s, next.d);
        if (e < least) {
            least = e;
            *scale = next;
            taken = k;
        }
    }
    if (taken < 0) {
        return;
    }
    float w[FIT_N];
    for (int i = 0; i < FIT_N; i++) { /* so that groups without importance follow, too */
        w[i] = b->plain[i] + FIT_LEAST;
    }
    load_lanes(f, from, n, b->x, w);
    restore(from, c[taken].s, n);
    struct fit_scale end = *scale;
    descend(f, b, from, &end, block_error(f, from, n, c[taken].s, scale->d));
    save(lower, from, n);
    bool better = block_error(f, plain, n, lower, end.d) <= least;
    restore(q, better ? lower : c[taken].s, n);
    *scale = better ? end : *scale;
}

/* ---- writing ---- */

/* ORs the scale of group g into a zeroed block. */
static void write_scale(uint32_t type, unsigned g, int s, uint8_t *out)
{
    unsigned u = (unsigned)(s + 32);
    if (type == QT_Q6_K) {
        out[192 + g] = (uint8_t)s;
    } else if (type == QT_Q3_K) {
        out[96 + g % 8] |= (uint8_t)((u & 15) << 4 * (g / 8));
        out[104 + g % 4] |= (uint8_t)(u >> 4 << 2 * (g / 4));
    } else {
        out[4 + g / 2] |= (uint8_t)((u & 15) << 4 * (g % 2));
        store_le16(out + 2, (uint16_t)(load_le16(out + 2) | (u >> 4) << 2 * g));
    }
}

/* ORs the code of element i (0..255) into a zeroed block. */
static inline void write_level(uint32_t type, int i, float level, uint8_t *out)
{
    int l = i % 32, g = i / 32;
    if (type == QT_Q3_K) {
        unsigned c = (unsigned)((int)level + 4);
        out[32 + 32 * (g / 4) + l] |= (uint8_t)((c & 3) << 2 * (g % 4));
        out[l] |= (uint8_t)(c >> 2 << g);
    } else if (type == QT_Q6_K) {
        unsigned c = (unsigned)((int)level + 32);
        int n = g / 4, j = g % 4;
        out[64 * n + 32 * (j & 1) + l] |= (uint8_t)((c & 15) << 4 * (j / 2));
        out[128 + 32 * n + l] |= (uint8_t)(c >> 4 << 2 * j);
    } else {
        unsigned c = iq4_code[(int)(2.0f * level + 254.0f)];
        out[8 + 16 * g + l % 16] |= (uint8_t)(c << 4 * (l / 16));
    }
}

static void write_block(uint32_t type, const struct symmetric *f, const struct part *q,
                        const struct fit_scale *scale, uint8_t *out)
{
    store_le16(type == QT_Q3_K ? out + 108 : type == QT_Q6_K ? out + 208 : out, scale->bits);
    for (unsigned g = 0; g < FIT_N / (unsigned)f->size; g++) {
        write_scale(type, g, (int)q[g / LANES].s[g % LANES], out);
    }
    for (int i = 0; i < FIT_N / f->size / LANES; i++) {
        f32v inverse_a = inversev(q[i].s * scale->d);
        for (int j = 0; j < f->size; j++) {
            f32v level = level4(f, f->iq4, q[i].l.x[j] * inverse_a);
            for (int v = 0; v < LANES; v++) {
                write_level(type, f->size * (LANES * i + v) + j, level[v], out);
            }
        }
    }
}

bool sym_encode_block(uint32_t type, const struct fit_block *b, uint8_t *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, iq4_build);
    const struct symmetric *f = type == QT_Q3_K   ? &SYM_Q3_K
                                : type == QT_Q6_K ? &SYM_Q6_K
                                                  : &SYM_IQ4_XS;
    struct part q[FIT_MAX_PARTS];
    f32x4 zeros = {0}; /* error of a block of zeros */
    for (int i = 0; i < FIT_N / f->size / LANES; i++) {
        fit_lanes_load(&q[i].l, b->x, b->w, f->size, LANES * i);
        part_fit(f, &q[i]);
        f32v e = splatv(0.0f);
        for (int j = 0; j < f->size; j++) {
            e += q[i].l.w[j] * q[i].l.x[j] * q[i].l.x[j];
        }
        zeros = add_lanes(zeros, e);
    }
    struct fit_scale scale = {0};
    if (!(search(f, b, q, &scale) < sum4(zeros))) {
        scale = (struct fit_scale){0};
    }
    try_reference(f, b, q, &scale);
    if ((scale.bits & 0x7FFF) == 0) {
        return true; /* nothing is better than zeros */
    }
    write_block(type, f, q, &scale, out);
    return scale.clipped;
}
