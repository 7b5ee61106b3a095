/* kern_lane.h - products of two panels that never exist as a whole: for the formats of experts and
 * few tokens (kern_tile.h has the rest). Included once per tier, behind kern_tile.h.
 *
 * A panel of 4096 columns is 213 KB; writing it to the second-level cache costs more time than
 * decoding, and 12 tokens are too few to make up for it. So the rows are only transposed, to
 * "words" of a few bits a weight, and each lane's blocks are decoded into a buffer of the
 * first-level cache just before the tiles meet them. The sums are those of kern_tile.h. */
#ifndef CPU_KERN_LANE_H
#define CPU_KERN_LANE_H

enum { LANE_WORDS = 22 }; /* of 64 bytes, of a block of 256 */

/* A block of 256 of sixteen rows, one row a lane: parts of the file's block as dwords, and its
 * scales as floats. */
struct lane_words {
    i16 word[LANE_WORDS];
};
_Static_assert(sizeof(struct pack_w) % 64 == 0, "words lie behind blocks, aligned");

/* Blocks of 256 of sixteen rows to words, n elements. */
typedef void lane_words_fn(const char *w, size_t row_bytes, size_t n, struct lane_words *to);
/* Group g, a constant, of n_block blocks of 256, every other one, to one block each. */
typedef void lane_decode_fn(const struct lane_words *from, int g, size_t n_block,
                            struct pack_w *to);

/* ---- Q2_K: scales and minima, 16 words of codes, d, -dmin ---- */

static void words_q2_k(const char *w, size_t row_bytes, size_t n, struct lane_words *to)
{
    for (size_t i = 0; i < n / 256; i++, w += 84, to++) {
        i16 tail[4];
        UNROLL for (int k = 0; k < 5; k++)
        {
            i16_rows(w + 16 * k, row_bytes, to->word + 4 * k);
        }
        i16_rows(w + 68, row_bytes, tail); /* the last dword has d and dmin */
        v16_store(&to->word[20], v16_half(tail[3]));
        v16_store(&to->word[21], v16_mul(v16_half(i16_srl(tail[3], 16)), v16_set1(-1)));
    }
}

TILE_INLINE void decode_q2_k(const struct lane_words *from, int g, size_t n_block,
                             struct pack_w *to)
{
    for (size_t b = 0; b < n_block; b++, from += 2, to++) {
        put_q2_k(from->word, from->word + 4 + 8 * (g / 4), g, to);
        put_d_m(to, v16_load(&from->word[20]), v16_load(&from->word[21]));
    }
}

/* ---- all formats ---- */

TILE_INLINE void lane_decode(lane_decode_fn *decode, const struct lane_words *from, int g,
                             size_t n_block, struct pack_w *to)
{
    switch (g) { /* one copy of the code for each */
    case 0: decode(from, 0, n_block, to); break;
    case 1: decode(from, 1, n_block, to); break;
    case 2: decode(from, 2, n_block, to); break;
    case 3: decode(from, 3, n_block, to); break;
    case 4: decode(from, 4, n_block, to); break;
    case 5: decode(from, 5, n_block, to); break;
    case 6: decode(from, 6, n_block, to); break;
    default: decode(from, 7, n_block, to); break;
    }
}

/* See cpu_kern.lanes_a8. */
TILE_INLINE void lanes(struct panel_kind kind, lane_words_fn *words, lane_decode_fn *decode,
                       const void *w, size_t row_bytes, const struct pack_x *x, uint32_t n_tok,
                       size_t n, struct next_rows next, struct pack_w *scratch,
                       float (*out)[KERN_ROWS])
{
    _Static_assert(V16_PANELS == 2, "both panels at a time");
    struct tile_stack stack[(KERN_LANE_TOKENS + TILE_TOKENS - 1) / TILE_TOKENS];
    struct tile_batch batch = tile_batch(kind, x, 0, n_tok, next, stack);
    size_t most = n / 512 + 1, k = 0;
    struct lane_words *from = (struct lane_words *)(scratch + 2 * most);
    words(w, row_bytes, n, from);
    words((const char *)w + KERN_PANEL * row_bytes, row_bytes, n, from + n / 256);
    for (int i = 0; i < 16; i++) {
        size_t n_block = lane_blocks(i, n / 32);
        for (size_t p = 0; p < 2; p++) { /* block 16k + lane: of every other block of 256 */
            lane_decode(decode, from + p * (n / 256) + lane_order[i] / 8, lane_order[i] % 8,
                        n_block, scratch + p * most);
        }
        const struct pack_w *const at[2] = {scratch, scratch + most};
        tile_batch_lanes(kind, &batch, at, k, n_block, i, 0);
        k += n_block;
    }
    tile_batch_end(&batch, out);
}

#define LANES(name, form, min)                                                              \
    static void lanes_##name(const void *w, size_t row_bytes, const struct pack_x *x,       \
                             uint32_t n_tok, size_t n, struct next_rows next,               \
                             struct pack_w *scratch, float(*out)[KERN_ROWS])                \
    {                                                                                       \
        lanes((struct panel_kind){form, min}, words_##name, decode_##name, w, row_bytes, x, \
              n_tok, n, next, scratch, out);                                                \
    }
LANES(q2_k, PANEL_PLAIN, true)

#endif
