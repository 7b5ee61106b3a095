/* kern_float.h - the part of kern_c.h that multiplies packed panels of floats with packed tokens
 * (kern_prod.h packs them). Included by kern_c.h only, behind kern_tile.h.
 *
 * A vector holds one of the 16 partial sums ("lanes" of op.h) of sixteen rows. The unit of work
 * is a piece of one lane: its terms of all rows stay in the first-level cache while every tile
 * of a batch of tokens meets them, where a whole panel would come from the second-level cache
 * once for each tile. Lanes are visited in the order in which the halving tree joins them; each
 * tile has a stack for those that wait. Read next: prod.c, the caller. */
#ifndef CPU_KERN_FLOAT_H
#define CPU_KERN_FLOAT_H

enum {
    FLOAT_PIECE = 128, /* terms of a lane: 16 KB of 32 rows */
    FLOAT_BATCH = 64   /* tokens */
};

/* A tile's sums: of lanes that wait, never more than four, and of the one under way. */
struct float_stack {
    v16 sum[5][V16_PANELS][V16_TOKENS];
};

/* Part of a lane. */
struct float_part {
    size_t k0, k1; /* terms, as they are packed */
    int lane;      /* the lane's number in the order of visits */
    bool first, last;
};

/* next: where x will be in the next call. */
static inline void float_tile(const float *const w[V16_PANELS], const float *x,
                              const float *next, const struct float_part *part,
                              struct float_stack *stack)
{
    int top = lanes_waiting(part->lane);
    v16 acc[V16_PANELS][V16_TOKENS];
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            acc[p][t] = part->first ? v16_set1(0) : stack->sum[top][p][t];
        }
    }
    for (size_t k = part->k0; k < part->k1; k++) {
        v16 wv[V16_PANELS];
        __builtin_prefetch(next + k * KERN_TOKENS);
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            wv[p] = v16_load(w[p] + k * KERN_PANEL);
        }
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            v16 xv = v16_set1(x[k * KERN_TOKENS + (size_t)t]);
            UNROLL for (int p = 0; p < V16_PANELS; p++)
            {
                acc[p][t] = v16_fma(wv[p], xv, acc[p][t]);
            }
        }
    }
    for (int join = part->last ? part->lane : 0; join & 1; join >>= 1) {
        top--;
        UNROLL for (int p = 0; p < V16_PANELS; p++)
        {
            UNROLL for (int t = 0; t < V16_TOKENS; t++)
            {
                acc[p][t] = v16_add(stack->sum[top][p][t], acc[p][t]);
            }
        }
    }
    UNROLL for (int p = 0; p < V16_PANELS; p++)
    {
        UNROLL for (int t = 0; t < V16_TOKENS; t++)
        {
            stack->sum[top][p][t] = acc[p][t];
        }
    }
}

/* A batch of tokens through all lanes. */
static void float_batch(const float *const w[V16_PANELS], const float *x, uint32_t n_tok,
                        size_t n, struct next_rows *next, float (*out)[KERN_ROWS])
{
    struct float_stack stack[FLOAT_BATCH / V16_TOKENS];
    const size_t tile = KERN_TERMS(n) * KERN_TOKENS;
    const size_t calls = (n / (16 * FLOAT_PIECE) + 1) * 16 * (n_tok / V16_TOKENS + 1);
    const size_t step = (next->bytes / calls / AHEAD_LINE + 1) * AHEAD_LINE;
    size_t base[16];
    term_bases(n, base);
    for (int i = 0; i < 16; i++) {
        const size_t k0 = base[lane_order[i]], k1 = k0 + n / 16 + (lane_order[i] < n % 16);
        struct float_part part = {.k0 = k0, .lane = i};
        do { /* once at least: also a lane without terms joins the others */
            part.k1 = k1 - part.k0 < FLOAT_PIECE ? k1 : part.k0 + FLOAT_PIECE;
            part.first = part.k0 == k0;
            part.last = part.k1 == k1;
            const float *xt = x, *xn = x;
            for (uint32_t t = 0; t < n_tok; t += V16_TOKENS, xt = xn) {
                const uint32_t tn = t + V16_TOKENS;
                xn = tn < n_tok ? x + tn / KERN_TOKENS * tile + tn % KERN_TOKENS
                                : x + (part.k1 - part.k0) * KERN_TOKENS;
                float_tile(w, xt, xn, &part, &stack[t / V16_TOKENS]);
                ask_ahead(next, step);
            }
            part.k0 = part.k1;
        } while (part.k0 < k1);
    }
    for (uint32_t t = 0; t < n_tok; t++) {
        for (int p = 0; p < V16_PANELS; p++) {
            v16_store(out[t] + p * KERN_PANEL, stack[t / V16_TOKENS].sum[0][p][t % V16_TOKENS]);
        }
    }
}

static void tiles_f32(const float *const w[2], const float *x, uint32_t n_tok, size_t n,
                      struct next_rows next, float (*out)[KERN_ROWS])
{
    for (uint32_t t0 = 0; t0 < n_tok; t0 += FLOAT_BATCH) {
        uint32_t n_batch = n_tok - t0 < FLOAT_BATCH ? n_tok - t0 : FLOAT_BATCH;
        for (int p = 0; p < 2; p += V16_PANELS) {
            float_batch(w + p, x + t0 * KERN_TERMS(n), n_batch, n, &next,
                        (float(*)[KERN_ROWS])(out[t0] + p * KERN_PANEL));
        }
    }
}

#endif
