/* tile_dot.h - packed A8 products out of 8-bit dot products: included by kern_dotprod.c and
 * kern_i8mm.c behind kern_c.h, with the macro DOT_GROUP (elements that one dot instruction adds
 * up for a row: 4 or 8) and a function plane_sums(plane, q, sum): sum[t][r] = product of row r
 * and token t over 32 elements.
 *
 * A weight's code has up to 16 bits and is kept as two planes of bytes, code = 256 * high +
 * low; where all high bytes of a block are 0 (Q8_0, Q4_0, MXFP4, Q2_K, ...), half of the work
 * falls away. The sums are exact integers, so they are those of kern_prod.h, and so are the
 * bits. The planes fill the room that struct pack_w and pack_x have for 16-bit codes; only the
 * functions here look inside them. */
#ifndef CPU_TILE_DOT_H
#define CPU_TILE_DOT_H

struct dot_w {                                          /* one block of 16 rows */
    int8_t low[32 * KERN_PANEL], high[32 * KERN_PANEL]; /* [element / GROUP][row][GROUP] */
    float d[KERN_PANEL], m[KERN_PANEL];                 /* m negated */
    int8_t mc[2][KERN_PANEL];
    uint8_t wide[KERN_PANEL]; /* the row's high plane is not 0 */
};
struct dot_x { /* one block of 8 tokens */
    int8_t q[32 * KERN_TOKENS];
    float d[KERN_TOKENS];
    int16_t sum[KERN_TOKENS][2];
};
_Static_assert(sizeof(struct dot_w) <= sizeof(struct pack_w), "fits the room of a panel");
_Static_assert(sizeof(struct dot_x) <= sizeof(struct pack_x), "fits the room of a tile");

/* The caller's arrays count in pack_w and pack_x: block b begins where the b-th of those does. */
static inline struct dot_w *dot_w_at(const struct pack_w *panel, size_t b)
{
    return (struct dot_w *)(uintptr_t)(panel + b);
}
static inline struct dot_x *dot_x_at(const struct pack_x *tile, size_t b)
{
    return (struct dot_x *)(uintptr_t)(tile + b);
}

static void pack_row_dot(const struct row_codes *w, uint32_t r, size_t n, struct pack_w *panel)
{
    size_t base[16];
    lane_bases(n / 32, base);
    for (size_t b = 0; b < n / 32; b++) {
        struct dot_w *to = dot_w_at(panel, base[b % 16] + b / 16);
        int8_t low[32], high[32];
        uint8_t any = 0;
        for (int i = 0; i < 32; i++) {
            int32_t code = w->w[32 * b + (size_t)i], l = ((code + 128) & 255) - 128;
            low[i] = (int8_t)l;
            high[i] = (int8_t)((code - l) / 256);
            any |= (uint8_t)high[i];
        }
        for (uint32_t i = 0; i < 32; i += DOT_GROUP) {
            memcpy(to->low + i * KERN_PANEL + r * DOT_GROUP, low + i, DOT_GROUP);
            memcpy(to->high + i * KERN_PANEL + r * DOT_GROUP, high + i, DOT_GROUP);
        }
        to->wide[r] = any;
        to->d[r] = w->d[b];
        to->m[r] = w->has_min ? -w->m[b] : 0.0f;
        for (size_t h = 0; h < 2; h++) { /* at most 6 bits */
            to->mc[h][r] = w->has_min ? (int8_t)w->mc[2 * b + h] : 0;
        }
    }
}

static void pack_tokens_dot(const struct act_codes x[8], size_t n, struct pack_x *tile)
{
    size_t base[16];
    lane_bases(n / 32, base);
    for (size_t b = 0; b < n / 32; b++) {
        struct dot_x *to = dot_x_at(tile, base[b % 16] + b / 16);
        for (uint32_t t = 0; t < KERN_TOKENS; t++) {
            for (uint32_t i = 0; i < 32; i += DOT_GROUP) {
                memcpy(to->q + i * KERN_TOKENS + t * DOT_GROUP, x[t].q + 32 * b + i, DOT_GROUP);
            }
            to->d[t] = x[t].d[b];
            memcpy(to->sum[t], x[t].sum + 2 * b, sizeof to->sum[t]);
        }
    }
}

static inline i16 i16_load(const int32_t *p)
{
    return (i16){{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
/* low + 256 * high */
static inline i16 i16_join(i16 low, i16 high)
{
    for (int i = 0; i < 4; i++) {
        low.val[i] = vaddq_s32(low.val[i], vshlq_n_s32(high.val[i], 8));
    }
    return low;
}
/* mc[0] * sum[0] + mc[1] * sum[1] of 16 rows */
static inline i16 min_sums(const struct dot_w *w, const int16_t *sum)
{
    i16 r;
    for (int i = 0; i < 2; i++) {
        int16x8_t m0 = vmovl_s8(vld1_s8(w->mc[0] + 8 * i));
        int16x8_t m1 = vmovl_s8(vld1_s8(w->mc[1] + 8 * i));
        int32x4_t a = vmull_n_s16(vget_low_s16(m0), sum[0]);
        int32x4_t b = vmull_high_n_s16(m0, sum[0]);
        r.val[2 * i] = vmlal_n_s16(a, vget_low_s16(m1), sum[1]);
        r.val[2 * i + 1] = vmlal_high_n_s16(b, m1, sum[1]);
    }
    return r;
}

/* One block into the running lane sums. */
static inline void block_dot(const struct dot_w *w, const struct dot_x *x, bool has_min,
                             v16 acc[KERN_TOKENS])
{
    int32_t low[KERN_TOKENS][KERN_PANEL], high[KERN_TOKENS][KERN_PANEL];
    bool wide = vmaxvq_u8(vld1q_u8(w->wide)) != 0;
    plane_sums(w->low, x->q, low);
    if (wide) {
        plane_sums(w->high, x->q, high);
    }
    v16 d = v16_load(w->d), m = v16_load(w->m);
    for (int t = 0; t < KERN_TOKENS; t++) {
        v16 da = v16_set1(x->d[t]);
        i16 sum = i16_load(low[t]);
        if (wide) {
            sum = i16_join(sum, i16_load(high[t]));
        }
        acc[t] = v16_fma(v16_mul(d, da), i16_to_f32(sum), acc[t]);
        if (has_min) {
            acc[t] = v16_fma(v16_mul(m, da), i16_to_f32(min_sums(w, x->sum[t])), acc[t]);
        }
    }
}

static void panel_dot(const struct pack_w *w, const struct pack_x *x, size_t n_block,
                      bool has_min, float out[][KERN_ROWS])
{
    v16 stack[5][KERN_TOKENS]; /* finished lanes, until the tree joins them */
    int top = 0;
    size_t k = 0;
    for (int i = 0; i < 16; i++) {
        size_t end = k + n_block / 16 + (lane_order[i] < n_block % 16);
        v16 acc[KERN_TOKENS];
        for (int t = 0; t < KERN_TOKENS; t++) {
            acc[t] = v16_set1(0);
        }
        for (; k < end; k++) {
            block_dot(dot_w_at(w, k), dot_x_at(x, k), has_min, acc);
        }
        for (int join = i; join & 1; join >>= 1) {
            top--;
            for (int t = 0; t < KERN_TOKENS; t++) {
                acc[t] = v16_add(stack[top][t], acc[t]);
            }
        }
        memcpy(stack[top++], acc, sizeof acc);
    }
    for (int t = 0; t < KERN_TOKENS; t++) {
        v16_store(out[t], stack[0][t]);
    }
}

static void tile_dot(const struct pack_w *lo, const struct pack_w *hi, const struct pack_x *x,
                     size_t n, bool has_min, float out[KERN_TOKENS][KERN_ROWS])
{
    panel_dot(lo, x, n / 32, has_min, out);
    panel_dot(hi, x, n / 32, has_min, (float(*)[KERN_ROWS])(&out[0][KERN_PANEL]));
}

static void tile_dot_init(struct cpu_kern *k)
{
    k->pack_row_a8 = pack_row_dot;
    k->pack_tokens_a8 = pack_tokens_dot;
    k->tile_a8 = tile_dot;
}

#endif
