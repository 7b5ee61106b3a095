/* kern_tile.h - products of panels (kern_panel.h) with many tokens in A8 form. Included once per
 * tier, behind a vocabulary and kern_panel.h.
 *
 * A vector holds sixteen rows; a few tokens (a tile) and one or two panels are kept in
 * registers. The unit of work is one lane of op.h: its blocks of two panels stay in the
 * first-level cache while all tiles of a batch of tokens meet them; each tile has a stack for
 * the lanes that wait until the tree joins them. Dot instructions of x86 want unsigned weights:
 * codes are stored with W_BIAS added, and sums start at what that adds too much, so that the
 * bias costs nothing; codes of formats with minima are unsigned as they are. Read next:
 * kern_lane.h, then prod.c, the caller. */
#ifndef CPU_KERN_TILE_H
#define CPU_KERN_TILE_H

#include "backend/cpu/kern_cut.h"

enum {
    TILE_BATCH = 48, /* tokens that go through the lanes together */
    LANE_BLOCKS = 8, /* blocks of a visit: 13 KB of two panels */
    PACK_GROUP = 16, /* tokens packed together */
    PACK_AHEAD = 512 /* bytes of each that are asked for ahead */
};

_Static_assert(TILE_HALVES <= TILE_TOKENS && TILE_TOKENS <= 8, "tile_lane_any");

/* The sums of whole blocks may start at the bits of 1.5 * 2^23: then they are floats, AS_F32_ONE
 * + S exactly (|S| < 2^22), and s * S of SCALED panels is one fma, also exact (panel_form),
 * instead of a conversion and a product. */
#if defined(V16_AS_F32) && !defined(TILE_SUMS)
#define AS_F32 1
#else
#define AS_F32 0
static inline v16 i16_as_f32(i16 a)
{
    return i16_to_f32(a); /* never called */
}
#endif
#define AS_F32_BITS (AS_F32 ? 0x4B400000 : 0)
#define AS_F32_ONE 12582912.0f

/* Blocks of this kind start so: all that are SCALED, and PLAIN ones with the bias of a token,
 * because that has it (there, a subtraction is the conversion). */
TILE_INLINE bool sums_as_f32(struct panel_kind kind)
{
    return AS_F32 && (kind.form == PANEL_SCALED ||
                      (kind.form == PANEL_PLAIN && !kind.has_min && W_BIAS != 0));
}

/* ---- tokens ---- */

/* Sixteen tokens, the last `count` .. 15 of which have no place: they repeat another one. */
struct pack_group {
    struct act_codes t[PACK_GROUP];
    uint32_t count;
};

static inline struct pack_group pack_group(const struct act_codes *t, uint32_t n_tok,
                                           uint32_t first, uint32_t end)
{
    struct pack_group g = {.count = end - first < PACK_GROUP ? end - first : PACK_GROUP};
    for (uint32_t i = 0; i < PACK_GROUP; i++) {
        g.t[i] = t[first + i < n_tok ? first + i : n_tok - 1];
    }
    return g;
}

/* Factors and sums of blocks [b, b + 16), block b + j to place at[j] and those behind it: turned
 * in registers, because one by one they cost more than the codes. False: nothing done. */
#ifdef V16_STORE_FIRST
TILE_INLINE bool pack_factors(const struct pack_group *g, size_t b, const size_t at[16],
                              const struct pack_x *to)
{
    const int16_t minus[2] = {-W_BIAS, -W_BIAS};
    v16 r[16];
    UNROLL for (int i = 0; i < 16; i++)
    {
        r[i] = v16_load(g->t[i].d + b);
        __builtin_prefetch(g->t[i].d + b + 16);
    }
    v16_transpose(r);
    UNROLL for (int j = 0; j < 16; j++)
    {
        i16_store_first(to->d + at[j], g->count, v16_bits(r[j]));
    }
    UNROLL for (int i = 0; i < 16; i++)
    {
        r[i] = v16_load(g->t[i].sum + 2 * b);
        __builtin_prefetch(g->t[i].sum + 2 * b + 32);
    }
    v16_transpose(r);
    UNROLL for (int j = 0; j < 16; j++)
    {
        int16_t pairs[2 * PACK_GROUP];
        v16_store(pairs, r[j]);
        i16_store_first(to->sum + at[j], g->count, v16_bits(r[j]));
        if (W_BIAS) {
            i16_store_first(to->bias + at[j], g->count,
                            i16_madd(i16_set1(AS_F32_BITS), pairs, minus));
        }
    }
    return true;
}
#else
static inline bool pack_factors(const struct pack_group *g, size_t b, const size_t at[16],
                                const struct pack_x *to)
{
    (void)g, (void)b, (void)at, (void)to;
    return false;
}
#endif

/* The same for one block. */
static inline void pack_factors_one(const struct pack_group *g, size_t b, size_t at,
                                    const struct pack_x *to)
{
    for (uint32_t i = 0; i < g->count; i++, at++) {
        const struct act_codes *a = &g->t[i];
        to->d[at] = a->d[b];
        memcpy(to->sum[at], a->sum + 2 * b, sizeof to->sum[at]);
        if (W_BIAS) {
            to->bias[at] = AS_F32_BITS - W_BIAS * (a->sum[2 * b] + a->sum[2 * b + 1]);
        }
    }
}

/* Planes of x are [block in lane order][x->stride tokens]; those behind the last token repeat
 * it, so that tiles may be computed whole. Sixteen tokens at a time: their rows and the places
 * of sixteen blocks stay in the first-level cache, while the next sixteen are asked for. order()
 * puts a block's codes as panels have them. */
TILE_INLINE void pack_tokens_by(const struct act_codes *t, uint32_t n_tok, size_t n,
                                const struct pack_x *x,
                                void (*order)(const int8_t *q, unsigned char *to))
{
    const size_t n_block = n / 32;
    const struct pack_x to = *x; /* else read again behind every store */
    size_t base[16];
    lane_bases(n_block, base);
    for (uint32_t i0 = 0; i0 < to.stride; i0 += PACK_GROUP) {
        const struct pack_group g = pack_group(t, n_tok, i0, to.stride);
        for (size_t b = 0; b < n_block; b += 16) {
            size_t at[16];
            const size_t left = n_block - b < 16 ? n_block - b : 16;
            for (size_t j = 0; j < left; j++) {
                at[j] = (base[j] + b / 16) * to.stride + i0;
            }
            /* a group of nothing but repeated tokens is not worth it */
            const bool turned =
                left == 16 && g.count > PACK_PAD && pack_factors(&g, b, at, &to);
            for (size_t j = 0; j < left; j++) {
                unsigned char *q = to.q + at[j] * X_BYTES;
                for (uint32_t i = 0; i < g.count; i++, q += X_BYTES) {
                    if (j % 2 == 0) {
                        __builtin_prefetch(g.t[i].q + 32 * (b + j) + PACK_AHEAD);
                    }
                    order(g.t[i].q + 32 * (b + j), q);
                }
                if (!turned) {
                    pack_factors_one(&g, b + j, at[j], &to);
                }
            }
        }
    }
}
static inline void pack_tokens_a8(const struct act_codes *t, uint32_t n_tok, size_t n,
                                  const struct pack_x *x)
{
    pack_tokens_by(t, n_tok, n, x, x_pack);
}

/* ---- one block ---- */

/* What a tile reads of block k: panels, and planes from its first token on. */
struct tile_at {
    const struct pack_w *w[V16_PANELS];
    const unsigned char *q;
    const float *d;
    const int32_t *bias;
    const int16_t (*sum)[2];
    uint32_t more; /* lanes behind this one, as long as it is, that come along */
};

#ifndef TILE_SUMS
/* Sums of the groups of four elements [g0, g1) of n_tok tokens: of the block or of a half. */
TILE_INLINE void tile_sums(struct panel_kind kind, const struct tile_at *at, int g0, int g1,
                           int n_tok, i16 sum[V16_PANELS][TILE_TOKENS])
{
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            sum[p][t] = W_BIAS == 0 || kind.has_min
                            ? i16_set1(sums_as_f32(kind) ? AS_F32_BITS : 0)
                        : g1 - g0 == 8 ? i16_set1(at->bias[t])
                                       : i16_set1(-W_BIAS * at->sum[t][g0 / 4]);
        }
    }
    UNROLL for (int g = g0; g < g1; g++)
    {
        w4 w[V16_PANELS];
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            w[p] = w4_load(at->w[p]->q[g]);
        }
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            x4 x = x4_load(at->q + t * X_BYTES + g * (X_BYTES / 8));
            UNROLL for (int p = 0; p < V16_PANELS; p++)
            {
                sum[p][t] = i16_dot(sum[p][t], w[p], x);
            }
        }
    }
}
#define TILE_SUMS tile_sums
#endif

/* One block into the running sums of a lane. kind and n_tok are constants. */
TILE_INLINE void tile_block(struct panel_kind kind, const struct tile_at *at, int n_tok,
                            v16 acc[V16_PANELS][TILE_TOKENS])
{
    v16 i1[V16_PANELS][TILE_TOKENS];
    i16 sum[V16_PANELS][TILE_TOKENS];
    if (kind.form == PANEL_HALVES) {
        TILE_SUMS(kind, at, 0, 4, n_tok, sum);
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            v16 s = v16_load(at->w[p]->s[0]);
            UNROLL for (int t = 0; t < n_tok; t++)
            {
                i1[p][t] = v16_mul(s, i16_to_f32(sum[p][t]));
            }
        }
        TILE_SUMS(kind, at, 4, 8, n_tok, sum);
    } else {
        TILE_SUMS(kind, at, 0, 8, n_tok, sum);
    }
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        const struct pack_w *w = at->w[p];
        v16 d = v16_load(w->d), m = v16_load(w->m);
        v16 s = v16_load(w->s[kind.form == PANEL_HALVES]);
        const bool as_f32 = sums_as_f32(kind);
        const v16 one = v16_set1(-AS_F32_ONE);
        const v16 less = as_f32 && kind.form == PANEL_SCALED ? v16_mul(s, one) : one;
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            v16 da = v16_set1(at->d[t]);
            v16 f = as_f32 ? i16_as_f32(sum[p][t]) : i16_to_f32(sum[p][t]);
            f = as_f32 && kind.form == PANEL_SCALED ? v16_fma(s, f, less)
                : as_f32                            ? v16_add(f, less)
                : kind.form == PANEL_SCALED         ? v16_mul(s, f)
                : kind.form == PANEL_HALVES         ? v16_fma(s, f, i1[p][t])
                                                    : f;
            acc[p][t] = v16_fma(v16_mul(d, da), f, acc[p][t]);
            if (kind.has_min) {
                i16 i2 = i16_madd(i16_zero(), w->mc[0], at->sum[t]);
                acc[p][t] = v16_fma(v16_mul(m, da), i16_to_f32(i2), acc[p][t]);
            }
        }
    }
}

/* ---- lanes ---- */

/* A tile's lanes until the tree joins them: never more than five. */
struct tile_stack {
    v16 sum[5][V16_PANELS][TILE_TOKENS];
};

TILE_INLINE void tile_step(struct tile_at *at, uint32_t stride)
{
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        at->w[p]++;
    }
    at->q += (size_t)stride * X_BYTES;
    at->d += stride;
    at->sum += stride;
    if (W_BIAS) {
        at->bias += stride;
    }
}

/* n_block blocks: the lane visited as number i, onto the stack. */
TILE_INLINE void tile_lane_one(struct panel_kind kind, struct tile_at *at, uint32_t stride,
                               size_t n_block, int i, int n_tok, struct tile_stack *stack)
{
    v16 acc[V16_PANELS][TILE_TOKENS];
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            acc[p][t] = v16_set1(0);
        }
    }
    if (n_block > 0) { /* the sums are 0 there, and not yet in memory */
        tile_block(kind, at, n_tok, acc);
        tile_step(at, stride);
    }
    for (size_t k = 1; k < n_block; k++) {
        tile_block(kind, at, n_tok, acc);
        tile_step(at, stride);
    }
    int top = lanes_waiting(i);
    for (int join = i; join & 1; join >>= 1) {
        top--;
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            UNROLL for (int t = 0; t < n_tok; t++)
            {
                acc[p][t] = v16_add(stack->sum[top][p][t], acc[p][t]);
            }
        }
    }
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            stack->sum[top][p][t] = acc[p][t];
        }
    }
}

/* The same and the lanes behind it that come along. */
TILE_INLINE void tile_lane(struct panel_kind kind, struct tile_at at, uint32_t stride,
                           size_t n_block, int i, int n_tok, struct tile_stack *stack)
{
    for (uint32_t more = 0; more <= at.more; more++) {
        tile_lane_one(kind, &at, stride, n_block, i + (int)more, n_tok, stack);
    }
}

/* Specialised for the number of tokens, a constant from here on; narrower tiles compute what
 * nobody reads. */
TILE_INLINE void tile_lane_any(struct panel_kind kind, const struct tile_at *at,
                               uint32_t stride, size_t n_block, int i, uint32_t n_tok,
                               struct tile_stack *stack)
{
    const uint32_t most = kind.form == PANEL_HALVES ? TILE_HALVES : TILE_TOKENS;
    if (most > 7 && n_tok == 8) {
        tile_lane(kind, *at, stride, n_block, i, 8, stack);
    } else if (most > 6 && n_tok == 7) {
        tile_lane(kind, *at, stride, n_block, i, 7, stack);
    } else if (most > 4 && n_tok == 6) {
        tile_lane(kind, *at, stride, n_block, i, 6, stack);
    } else if (most > 4 && n_tok == 5) {
        tile_lane(kind, *at, stride, n_block, i, 5, stack);
    } else {
        tile_lane(kind, *at, stride, n_block, i, most > 4 ? 4 : (int)most, stack);
    }
}

/* Weights come from memory while products keep the processor busy: each tile of a lane asks for
 * `step` bytes of what is needed next, into the second-level cache. */
static inline void ask_ahead(struct next_rows *a, size_t step)
{
    size_t n = a->bytes < step ? a->bytes : step;
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(a->p + i, 0, 2);
    }
    a->p += n;
    a->bytes -= n;
}

/* A batch of tokens on its way through the lanes. */
struct tile_batch {
    const struct pack_x *x;
    uint32_t t0; /* its first token */
    struct tile_cut cut;
    struct next_rows next;
    size_t step;
    struct tile_stack *stack; /* [cut.n] */
};

TILE_INLINE struct tile_batch tile_batch(struct panel_kind kind, const struct pack_x *x,
                                         uint32_t t0, uint32_t n_tok, struct next_rows next,
                                         struct tile_stack *stack)
{
    struct tile_cut cut =
        tile_cut(n_tok, kind.form == PANEL_HALVES ? TILE_HALVES : TILE_TOKENS);
    return (struct tile_batch){.x = x,
                               .t0 = t0,
                               .cut = cut,
                               .next = next,
                               .step = (next.bytes / (16 * cut.n) + 64) / 64 * 64,
                               .stack = stack};
}

/* The lane visited as number i and `more` behind it: w has their blocks, n_block each, the planes
 * of x have them from place k on. */
TILE_INLINE void tile_batch_lanes(struct panel_kind kind, struct tile_batch *b,
                                  const struct pack_w *const w[V16_PANELS], size_t k,
                                  size_t n_block, int i, uint32_t more)
{
    const struct pack_x *x = b->x;
    for (uint32_t j = 0; j < b->cut.n; j++) {
        ask_ahead(&b->next, b->step * (more + 1));
        size_t first = k * x->stride + b->t0 + tile_first(&b->cut, j);
        struct tile_at at = {.q = x->q + first * X_BYTES,
                             .d = x->d + first,
                             .bias = W_BIAS ? x->bias + first : NULL,
                             .sum = x->sum + first,
                             .more = more};
        for (int p = 0; p < V16_PANELS; p++) {
            at.w[p] = w[p];
        }
        tile_lane_any(kind, &at, x->stride, n_block, i, tile_width(&b->cut, j), &b->stack[j]);
    }
}

/* The sums, after all lanes; out[0] is the batch's first token. */
static inline void tile_batch_end(const struct tile_batch *b, float (*out)[KERN_ROWS])
{
    for (uint32_t j = 0; j < b->cut.n; j++) {
        for (uint32_t t = 0; t < tile_width(&b->cut, j); t++) {
            for (int p = 0; p < V16_PANELS; p++) {
                v16_store(out[tile_first(&b->cut, j) + t] + p * KERN_PANEL,
                          b->stack[j].sum[0][p][t]);
            }
        }
    }
}

/* Lanes that a tile goes through in a visit: short ones together, so that their ends and the
 * tile's beginning are not met for one or two blocks each. */
static inline uint32_t lanes_together(size_t n_block)
{
    const size_t each = n_block / 16;
    return n_block % 16 != 0 || each == 0 || each > LANE_BLOCKS ? 1
                                                                : LANE_BLOCKS / (uint32_t)each;
}

TILE_INLINE void tile_kind(struct panel_kind kind, const struct pack_w *const w[2],
                           const struct pack_x *x, uint32_t n_tok, size_t n,
                           struct next_rows next, float (*out)[KERN_ROWS])
{
    struct tile_stack stack[TILE_BATCH / TILE_HALVES]; /* the narrowest tiles */
    struct tile_cut cut = tile_cut(n_tok, TILE_BATCH);
    const uint32_t visit = lanes_together(n / 32);
    for (uint32_t c = 0; c < cut.n; c++) {
        uint32_t t0 = tile_first(&cut, c);
        for (int p = 0; p < 2; p += V16_PANELS) {
            struct tile_batch b = tile_batch(kind, x, t0, tile_width(&cut, c), next, stack);
            size_t k = 0;
            for (int i = 0; i < 16; i += (int)visit) {
                const struct pack_w *at[V16_PANELS];
                const size_t n_block = lane_blocks(i, n / 32);
                for (int q = 0; q < V16_PANELS; q++) {
                    at[q] = w[p + q] + k;
                }
                tile_batch_lanes(kind, &b, at, k, n_block, i, visit - 1);
                k += n_block * visit;
            }
            tile_batch_end(&b, (float(*)[KERN_ROWS])(out[t0] + p * KERN_PANEL));
            next.bytes = 0; /* the first batch has asked for everything */
        }
    }
}

#define TILE_KIND(name, form, min)                                                    \
    static void tiles_##name(const struct pack_w *const w[2], const struct pack_x *x, \
                             uint32_t n_tok, size_t n, struct next_rows next,         \
                             float(*out)[KERN_ROWS])                                  \
    {                                                                                 \
        tile_kind((struct panel_kind){form, min}, w, x, n_tok, n, next, out);         \
    }
TILE_KIND(plain, PANEL_PLAIN, false)
TILE_KIND(plain_min, PANEL_PLAIN, true)
TILE_KIND(scaled, PANEL_SCALED, false)
TILE_KIND(scaled_min, PANEL_SCALED, true)
TILE_KIND(halves, PANEL_HALVES, false)

/* For panels of a format. */
static tiles_a8_fn *tiles_a8(uint32_t type)
{
    struct panel_kind kind = panel_kind(type);
    return kind.form == PANEL_HALVES   ? tiles_halves
           : kind.form == PANEL_SCALED ? (kind.has_min ? tiles_scaled_min : tiles_scaled)
           : kind.has_min              ? tiles_plain_min
                                       : tiles_plain;
}

#endif
