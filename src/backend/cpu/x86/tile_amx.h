/* tile_amx.h - products of panels (kern_panel.h) with many tokens by the tile instructions of
 * AMX, for formats without minima and with one scale a block. Included by kern_amx.c only.
 *
 * A tile instruction multiplies up to sixteen tokens with sixteen rows, 32 columns deep: a block,
 * because every block has scales of its own. Its sums leave the tile through memory. While tiles
 * are at work, and for some 250 cycles after, products, fma and conversions of 512 bits run at
 * half their rate, so both take turns: the sums of eight blocks (four of each of two panels) are
 * made, then scaled. Longer turns would lose less of that time, but not fit the half of a
 * first-level cache that is left to a thread whose neighbour works, too. What the next turn reads
 * is asked for meanwhile: tile loads from the second-level cache would take longer than the
 * products. Bits are those of kern_tile.h: the same float operations on the same integers, lane
 * by lane. docs/performance.md counts the cycles. */
#ifndef CPU_TILE_AMX_H
#define CPU_TILE_AMX_H

#include "backend/cpu/kern_cut.h"

enum {
    AMX_LEAST = 32,  /* tokens from which on this pays */
    AMX_TOKENS = 16, /* of a tile, at most */
    AMX_TURN = 4,    /* blocks of a turn, in each of two panels */
    AMX_BATCH = 3,   /* tiles that go through the panels together */
};

/* Panels hold codes as they are: both sides of a tile product are signed. */
_Static_assert(W_BIAS == 0 && X_BYTES == 32, "x_pack.h");

/* ---- tile instructions ----
 * Compilers' own do not tell that memory is read, so that stores before could come after. */
#define TILE_LOAD(tile, p, step) \
    __asm__ volatile("tileloadd (%0,%1), %%tmm" #tile ::"r"(p), "r"((size_t)(step)) : "memory")
#define TILE_STORE(tile, p) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1)" ::"r"(p), "r"((size_t)64) : "memory")
#define TILE_DOTS(sums, x, w)                      \
    __asm__ volatile("tilezero %%tmm" #sums "\n\t" \
                     "tdpbssd %%tmm" #w ", %%tmm" #x ", %%tmm" #sums ::)

/* Tiles 0 to 3 are sums, 4 and 5 tokens, 6 and 7 blocks of a panel. */
static void amx_configure(uint32_t n_tok)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.bytes[i] = i == 4 || i == 5 ? X_BYTES : 64;
        c.rows[i] = i < 6 ? (uint8_t)n_tok : 8;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

/* ---- sums of a turn ---- */

struct amx_sums {
    _Alignas(64) int32_t v[2][AMX_TURN][AMX_TOKENS][KERN_PANEL];
};

#define AMX_OUT(tile, panel, b) TILE_STORE(tile, to->v[panel][b])

/* Blocks b and b + 1. The sums of the two before them, which are ready by now, go out. q: of
 * the tile's first token in block 0, `step` bytes from block to block. */
TILE_INLINE void amx_two(const struct pack_w *const w[2], const unsigned char *q, size_t step,
                         size_t b, struct amx_sums *to)
{
    const bool out = b > 0;
    if (out) {
        AMX_OUT(0, 0, b - 2);
    }
    TILE_LOAD(4, q + b * step, X_BYTES);
    TILE_LOAD(6, w[0][b].q, 64);
    TILE_DOTS(0, 4, 6);
    if (out) {
        AMX_OUT(1, 1, b - 2);
    }
    TILE_LOAD(7, w[1][b].q, 64);
    TILE_DOTS(1, 4, 7);
    if (out) {
        AMX_OUT(2, 0, b - 1);
    }
    TILE_LOAD(5, q + (b + 1) * step, X_BYTES);
    TILE_LOAD(6, w[0][b + 1].q, 64);
    TILE_DOTS(2, 5, 6);
    if (out) {
        AMX_OUT(3, 1, b - 1);
    }
    TILE_LOAD(7, w[1][b + 1].q, 64);
    TILE_DOTS(3, 5, 7);
}

/* n <= AMX_TURN blocks. */
TILE_INLINE void amx_dots(const struct pack_w *const w[2], const unsigned char *q, size_t step,
                          size_t n, struct amx_sums *to)
{
    size_t b = 0;
    for (; b + 2 <= n; b += 2) {
        amx_two(w, q, step, b, to);
    }
    if (b > 0) {
        AMX_OUT(0, 0, b - 2);
        AMX_OUT(1, 1, b - 2);
        AMX_OUT(2, 0, b - 1);
        AMX_OUT(3, 1, b - 1);
    }
    if (b < n) {
        TILE_LOAD(4, q + b * step, X_BYTES);
        TILE_LOAD(6, w[0][b].q, 64);
        TILE_DOTS(0, 4, 6);
        TILE_LOAD(7, w[1][b].q, 64);
        TILE_DOTS(1, 4, 7);
        AMX_OUT(0, 0, b);
        AMX_OUT(1, 1, b);
    }
}

/* ---- scaling ---- */

/* What a tile reads of a turn: the panels' blocks, and planes of x from its first token on. */
struct amx_at {
    const struct pack_w *w[2];
    const unsigned char *q;
    const float *d;
};
/* What will be read next: the next tile's or turn's tokens, and every `every`-th line of the
 * next turn's blocks from `line` on. */
struct amx_next {
    struct amx_at at;
    size_t line, every;
    const char *rows; /* and weights from memory, `step` bytes a block, to the second level */
    size_t step;
};

/* Asks for a part of it, to the first-level cache: as much of block b as panel p's turn has time
 * for. */
TILE_INLINE void amx_fetch(bool scaled, const struct amx_next *next, size_t stride, size_t p,
                           size_t b)
{
    const unsigned char *q = next->at.q + b * stride * X_BYTES;
    const struct pack_w *w = next->at.w[p];
    const size_t half = AMX_TOKENS * X_BYTES / 2, lines = scaled ? 10 : 9; /* q, d, s[0] */
    for (size_t i = 0; i < half; i += 64) {
        __builtin_prefetch(q + p * half + i);
    }
    if (p == 0) {
        __builtin_prefetch(next->at.d + b * stride);
    }
    for (size_t l = next->line; l < lines; l += next->every) {
        __builtin_prefetch((const char *)(w + b) + 64 * l);
    }
    for (size_t i = 0; i < next->step; i += 64) {
        __builtin_prefetch(next->rows + (b * 2 + p) * next->step + i, 0, 2);
    }
}

/* Blocks [b, end) of a turn into panel p's running sums of n_tok tokens, a constant. */
TILE_INLINE void amx_scale(bool scaled, const struct amx_at *at, const struct amx_next *next,
                           size_t stride, size_t p, size_t b, size_t end, int n_tok,
                           const struct amx_sums *from, v16 *acc)
{
    for (; b < end; b++) {
        const struct pack_w *w = at->w[p] + b;
        const float *da = at->d + b * stride;
        const v16 d = v16_load(w->d), s = v16_load(w->s[0]);
        amx_fetch(scaled, next, stride, p, b);
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            v16 f = i16_to_f32(_mm512_loadu_si512(from->v[p][b][t]));
            f = scaled ? v16_mul(s, f) : f;
            acc[t] = v16_fma(v16_mul(d, v16_set1(da[t])), f, acc[t]);
        }
    }
}

/* Where a turn begins: in the lane visited as number i, behind `done` of its blocks. */
struct amx_place {
    int i;
    size_t done;
};

/* A tile's lanes that wait for the tree (never more than five, as in kern_tile.h), and behind them
 * the one under way. */
struct amx_stack {
    v16 sum[6][2][AMX_TOKENS];
};

/* n blocks of a turn, all parts of lanes in it, for panel p; n_block: of a whole row. */
TILE_INLINE struct amx_place amx_panel(bool scaled, const struct amx_at *at,
                                       const struct amx_next *next, size_t stride, size_t p,
                                       size_t n, size_t n_block, struct amx_place place,
                                       int n_tok, const struct amx_sums *from,
                                       struct amx_stack *stack)
{
    for (size_t b = 0; b < n || (place.i < 16 && lane_blocks(place.i, n_block) == 0);) {
        size_t left = lane_blocks(place.i, n_block) - place.done;
        size_t part = left < n - b ? left : n - b;
        int top = lanes_waiting(place.i);
        v16 acc[AMX_TOKENS];
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            acc[t] = place.done == 0 ? v16_set1(0) : stack->sum[top][p][t];
        }
        amx_scale(scaled, at, next, stride, p, b, b + part, n_tok, from, acc);
        b += part;
        place.done += part;
        if (part == left) {
            for (int join = place.i; join & 1; join >>= 1) {
                top--;
                UNROLL for (int t = 0; t < n_tok; t++)
                {
                    acc[t] = v16_add(stack->sum[top][p][t], acc[t]);
                }
            }
            place = (struct amx_place){place.i + 1, 0};
        }
        UNROLL for (int t = 0; t < n_tok; t++)
        {
            stack->sum[top][p][t] = acc[t];
        }
    }
    return place;
}

TILE_INLINE struct amx_place amx_panels(bool scaled, const struct amx_at *at,
                                        const struct amx_next *next, size_t stride, size_t n,
                                        size_t n_block, struct amx_place place, int n_tok,
                                        const struct amx_sums *from, struct amx_stack *stack)
{
    amx_panel(scaled, at, next, stride, 0, n, n_block, place, n_tok, from, stack);
    return amx_panel(scaled, at, next, stride, 1, n, n_block, place, n_tok, from, stack);
}

/* ---- batches ---- */

/* Tiles on their way through the panels. */
struct amx_batch {
    const struct pack_x *x;
    struct tile_cut cut;    /* of all tokens */
    uint32_t width;         /* tokens that each tile computes: at least as many as it has */
    uint32_t first, n;      /* the batch's tiles */
    size_t n_block;         /* of a row */
    struct amx_place place; /* where the next turn begins */
    struct next_rows rows;  /* asked for on the way, `step` bytes a block of a panel and tile */
    size_t step;
    struct amx_sums *sums;
    struct amx_stack *stack; /* [n] */
};

/* All tokens in batches of AMX_BATCH tiles; the first is ready to go. */
static inline struct amx_batch amx_begin(const struct pack_x *x, uint32_t n_tok, size_t n,
                                         struct next_rows rows, struct amx_sums *sums,
                                         struct amx_stack *stack)
{
    struct tile_cut cut = tile_cut(n_tok, AMX_TOKENS);
    size_t turns = (n / 32 + AMX_TURN - 1) / AMX_TURN;
    struct amx_batch b = {.x = x,
                          .cut = cut,
                          .width = (cut.width + (cut.wider > 0) + 1) / 2 * 2,
                          .n = cut.n < AMX_BATCH ? cut.n : AMX_BATCH,
                          .n_block = n / 32,
                          .rows = rows,
                          .sums = sums,
                          .stack = stack};
    _Static_assert(PACK_PAD >= 2, "a tile computes up to two tokens more than it has");
    _Static_assert(AMX_LEAST >= 2 * AMX_TOKENS, "no tile has fewer than eleven tokens");
    b.step = (rows.bytes / (turns * b.n * 2 * AMX_TURN) + 63) / 64 * 64;
    amx_configure(b.width);
    return b;
}

/* The planes of tile j of all tokens from block k on. */
static inline struct amx_at amx_at(const struct amx_batch *b, uint32_t j, size_t k,
                                   const struct pack_w *const w[2])
{
    size_t first = k * b->x->stride + tile_first(&b->cut, j);
    return (struct amx_at){
        .w = {w[0], w[1]}, .q = b->x->q + first * X_BYTES, .d = b->x->d + first};
}

/* What comes behind tile j of the batch in a turn of blocks [k, k + n). next_w: the blocks of the
 * next turn. */
static inline struct amx_next amx_next(const struct amx_batch *b, uint32_t j, size_t k,
                                       size_t n, const struct pack_w *const next_w[2])
{
    uint32_t tile = b->first + j + 1; /* of this turn */
    if (j + 1 == b->n) {              /* the first of the next turn, or of the next batch */
        bool more = k + n < b->n_block;
        tile = more || tile == b->cut.n ? b->first : tile;
        k = more ? k + n : 0;
    }
    return (struct amx_next){.at = amx_at(b, tile, k, next_w), .line = j, .every = b->n};
}

/* One turn of all tiles of the batch: blocks [k, k + n), w and next_w as above. */
TILE_INLINE void amx_turn(bool scaled, struct amx_batch *b, size_t k, size_t n,
                          const struct pack_w *const w[2], const struct pack_w *const next_w[2])
{
    const size_t stride = b->x->stride;
    struct amx_place end = b->place;
    for (uint32_t j = 0; j < b->n; j++) {
        struct amx_at at = amx_at(b, b->first + j, k, w);
        struct amx_next next = amx_next(b, j, k, n, next_w);
        next.rows = b->rows.p;
        next.step = b->rows.bytes > 0 ? b->step : 0;
        b->rows.p += 2 * n * b->step;
        amx_dots(at.w, at.q, stride * X_BYTES, n, b->sums);
#define AMX_WIDTH(n_tok)                                                                  \
    end = amx_panels(scaled, &at, &next, stride, n, b->n_block, b->place, n_tok, b->sums, \
                     &b->stack[j])
        switch (b->width) { /* constants from here on */
        case 16: AMX_WIDTH(16); break;
        case 14: AMX_WIDTH(14); break;
        default: AMX_WIDTH(12); break;
        }
#undef AMX_WIDTH
    }
    b->place = end;
}

/* The batch's sums, after all turns, and on to the next batch. */
static inline bool amx_end(struct amx_batch *b, float (*out)[KERN_ROWS])
{
    for (uint32_t j = 0; j < b->n; j++) {
        float(*to)[KERN_ROWS] = out + tile_first(&b->cut, b->first + j);
        for (uint32_t t = 0; t < tile_width(&b->cut, b->first + j); t++) {
            v16_store(to[t], b->stack[j].sum[0][0][t]);
            v16_store(to[t] + KERN_PANEL, b->stack[j].sum[0][1][t]);
        }
    }
    b->place = (struct amx_place){0, 0};
    b->rows.bytes = 0; /* the first batch has asked for everything */
    b->first += b->n;
    b->n = b->cut.n - b->first < AMX_BATCH ? b->cut.n - b->first : AMX_BATCH;
    if (b->n == 0) {
        __asm__ volatile("tilerelease" ::);
    }
    return b->n > 0;
}

TILE_INLINE void amx_tiles(bool scaled, const struct pack_w *const w[2], const struct pack_x *x,
                           uint32_t n_tok, size_t n, struct next_rows rows,
                           float (*out)[KERN_ROWS])
{
    struct amx_sums sums;
    struct amx_stack stack[AMX_BATCH];
    struct amx_batch batch = amx_begin(x, n_tok, n, rows, &sums, stack);
    do {
        for (size_t k = 0; k < n / 32; k += AMX_TURN) {
            size_t left = n / 32 - k, next_k = left > AMX_TURN ? k + AMX_TURN : 0;
            const struct pack_w *const at[2] = {w[0] + k, w[1] + k};
            const struct pack_w *const next[2] = {w[0] + next_k, w[1] + next_k};
            amx_turn(scaled, &batch, k, left < AMX_TURN ? left : AMX_TURN, at, next);
        }
    } while (amx_end(&batch, out));
}

static void amx_tiles_plain(const struct pack_w *const w[2], const struct pack_x *x,
                            uint32_t n_tok, size_t n, struct next_rows rows,
                            float (*out)[KERN_ROWS])
{
    amx_tiles(false, w, x, n_tok, n, rows, out);
}
static void amx_tiles_scaled(const struct pack_w *const w[2], const struct pack_x *x,
                             uint32_t n_tok, size_t n, struct next_rows rows,
                             float (*out)[KERN_ROWS])
{
    amx_tiles(true, w, x, n_tok, n, rows, out);
}

#endif
