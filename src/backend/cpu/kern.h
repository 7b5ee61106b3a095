/* kern.h - the table of compute kernels of the cpu backend, one instance per instruction-set
 * tier. kern_c.h is the one source of all of them; kern_c.c and x86/kern_*.c compile it with
 * different flags and vocabularies (vec_c.h). All tiers give the same bits for every input that
 * holds no NaN, and NaN in the same places.
 *
 * Kernels are pure: plain pointers in and out, no step, no operands, no threads. Pointers to
 * weights need no alignment. */
#ifndef CPU_KERN_H
#define CPU_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "op/op.h"
#include "quant/formats.h"

/* Bits of backend_config.cpu_mask. The portable tier is always allowed. */
enum cpu_tier {
    CPU_TIER_C = 1,
    CPU_TIER_AVX2 = 2,
    CPU_TIER_AVXVNNI = 4,      /* and the 8-bit dot instructions of 256 bits */
    CPU_TIER_AVX512 = 8,       /* x86-64-v4 */
    CPU_TIER_AVX512VNNI = 16,  /* and VNNI, VBMI, GFNI */
    CPU_TIER_AMX = 32,         /* and tiles of 8-bit numbers */
    CPU_TIER_NEON = 1 << 8,    /* every arm64 processor */
    CPU_TIER_DOTPROD = 1 << 9, /* armv8.2 and 8-bit dot products */
    CPU_TIER_I8MM = 1 << 10,   /* and 8-bit matrix products */
};

enum {
    KERN_PANEL = 16,       /* weight rows of a packed panel: one lane a row */
    KERN_ROWS = 32,        /* weight rows of a product block: two panels; also one A8 block */
    KERN_TOKENS = 8,       /* tokens of a packed tile */
    KERN_FEW = 8,          /* more tokens than these go through panels in every tier */
    KERN_LANE_TOKENS = 96, /* of cpu_kern.lanes_a8 */
    KERN_HEADS = 16,       /* heads of an attention group */
    KERN_SPLIT = 128,      /* ATTN entries of one split (op.h) */
    KERN_CHUNK = 32,       /* HC_MIX columns of one chunk (op.h) */
};

/* Places of an F32 panel or tile of n elements: one is left free behind every lane. */
#define KERN_TERMS(n) ((size_t)(n) + 16)
/* Kernels of HC_MIX compute eight rows at a time, and squares. */
#define KERN_MIX_SUMS(m) (((size_t)(m) + 8) / 8 * 8)

/* Packed forms. A dot product visits its 16 partial sums ("lanes" of op.h) in the order 0, 8,
 * 4, 12, ..., 15 in which the halving tree joins them, and for each lane its terms ascending.
 * Terms are packed in exactly that order, so that kernels read straight ahead. F32: a panel
 * holds for each element 16 floats (one per row), a tile 8 floats (one per token). A8: blocks
 * of 32 elements instead of elements: */
struct pack_w {                  /* one block of 16 rows; which fields count: kern_panel.h */
    uint8_t q[8][KERN_PANEL][4]; /* codes [four elements][row], in the form of the tier */
    float d[KERN_PANEL];
    float s[2][KERN_PANEL]; /* factors of the block, or of its two halves */
    float m[KERN_PANEL];    /* negated */
    int16_t mc[KERN_PANEL][2];
};
struct pack_x {       /* tokens of a gathering; planes [block][stride] */
    uint32_t stride;  /* at least PACK_PAD more than there are tokens */
    bool turned;      /* as cpu_kern.turned of the format that they meet */
    unsigned char *q; /* codes, at most 64 bytes each, in the form of the tier */
    float *d;
    int32_t *bias; /* what the sums of a block start at */
    int16_t (*sum)[2];
};
enum { PACK_PAD = 3 };
/* What a product of packed blocks may ask memory for meanwhile: the next weights. */
struct next_rows {
    const char *p;
    size_t bytes;
};

/* Integer form of one weight row (quant_codes32), n elements. */
struct row_codes {
    int16_t *w;   /* [n] */
    float *d;     /* [n / 32] */
    float *m;     /* [n / 32] */
    int16_t *mc;  /* [n / 16] */
    bool has_min; /* m and mc matter */
};
/* The planes of one A8 row, from some block on. */
struct act_codes {
    const int8_t *q;
    const float *d;
    const int16_t *sum;
};

/* The indexer on integers (index_int.h): 16 FP4 rows, and one token's queries. Elements go in
 * steps of four: byte i of step 2 j + p is element 8 j + 2 i + p, as the nibbles of a word lie.
 */
enum { INDEX_MAX_N = 256, INDEX_HEADS = 8 /* heads are padded to a multiple, by zeros */ };
struct index_rows {
    uint8_t w[INDEX_MAX_N / 4][KERN_PANEL][4];    /* codes plus the tier's offset */
    int16_t mul[INDEX_MAX_N / 32][KERN_PANEL][2]; /* what is left to multiply with, twice */
    float unit[KERN_PANEL];
};
struct index_query {
    int8_t *q; /* [heads / 8][n / 4 steps][8 heads][4] */
    int16_t
        *sum2;    /* [heads][n / 32][2]: -12 times the sums of bytes 0, 1 and 2, 3 of a group */
    int32_t *sum; /* [heads]: -128 times the sum of q */
    float *w;     /* [heads]: weight times the head's unit */
    float *factor;  /* [heads][n / 32]: of the groups of a wide head */
    uint8_t *wide;  /* [heads] */
    bool some_wide; /* any of them */
    uint32_t heads; /* padded */
};

typedef void rows_a8_fn(const void *w, size_t row_bytes, uint32_t n_row,
                        const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                        size_t out_ld);

typedef void pack_panel_fn(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                           size_t n, struct pack_w *panel);
typedef void tiles_a8_fn(const struct pack_w *const w[2], const struct pack_x *x,
                         uint32_t n_tok, size_t n, struct next_rows next,
                         float (*out)[KERN_ROWS]);
typedef void lanes_a8_fn(const void *w, size_t row_bytes, const struct pack_x *x,
                         uint32_t n_tok, size_t n, struct next_rows next,
                         struct pack_w *scratch, float (*out)[KERN_ROWS]);

/* Products of packed blocks in A8 form, by format. Panels are for the tiles beside them only. */
struct cpu_panels {
    /* n_row <= 16 rows of a block format, as they lie in the file. */
    pack_panel_fn *pack[QT_COUNT];
    /* out[t][r] for two panels of a format and n_tok tokens. */
    tiles_a8_fn *tiles[QT_COUNT];
    /* The same straight from 32 rows of the file, where that is faster for n_tok <=
     * KERN_LANE_TOKENS; else NULL. scratch: as much as the panels would take, aligned to 64. */
    lanes_a8_fn *lanes[QT_COUNT];
};

struct cpu_kern {
    const char *name; /* "c", "avx2", "avx512vnni", ... */

    /* ---- weights to numbers ---- */
    /* Elements [k0, k0 + n) of a row as floats; k0 and n as quant_decode. */
    void (*weight_decode)(uint32_t type, const void *row, size_t k0, size_t n, float *out);
    void (*weight_codes)(uint32_t type, const void *row, size_t n, struct row_codes *out);

    /* ---- products, one row at a time: few tokens ---- */
    /* out[t * out_ld + r] = DOT(row r, x[t]), F32 form; type F32, F16 or BF16. */
    void (*rows_f32)(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                     const float *const *x, uint32_t n_tok, size_t n, float *out,
                     size_t out_ld);
    /* The same in A8 form for rows of one block format, n_row <= 32, straight from the file's
     * bytes. NULL where a tier has none for the format: weight_codes, then row_a8. */
    rows_a8_fn *rows_a8[QT_COUNT];
    /* Up to so many tokens it is faster to go through the rows one by one, which costs the same
     * for each token, than to decode a panel (bench_backend_panels). At most KERN_FEW. */
    uint32_t few;
    /* out[t * out_ld] = DOT(row, x[t]), A8 form, any block format. */
    void (*row_a8)(const struct row_codes *w, const struct act_codes *x, uint32_t n_tok,
                   size_t n, float *out, size_t out_ld);

    /* ---- products of packed blocks: many tokens ---- */
    /* n_row <= 16 rows of n floats, type F32, F16 or BF16, into one panel; missing rows are zero.
     */
    void (*pack_rows_f32)(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                          size_t n, float *panel);
    /* 16 tokens into two tiles. */
    void (*pack_tokens_f32)(const float *const x[16], size_t n, float *lo, float *hi);
    /* n_tok tokens into the planes of x; the places behind them repeat the last. */
    void (*pack_tokens_a8)(const struct act_codes *t, uint32_t n_tok, size_t n,
                           const struct pack_x *x);
    /* Panels of these formats have elements g, 8 + g, 16 + g, 24 + g of a block in group g, not
     * 4g to 4g + 3. */
    bool turned[QT_COUNT];
    /* out[t][r] for two panels (32 rows) and n_tok tokens, in tiles of KERN_TERMS(n) * 8. */
    void (*tiles_f32)(const float *const w[2], const float *x, uint32_t n_tok, size_t n,
                      struct next_rows next, float (*out)[KERN_ROWS]);
    /* The same in A8 form; from wide_from tokens on with the second set (kern_panels). */
    struct cpu_panels panels, wide;
    uint32_t wide_from; /* 0: never */

    /* ---- vectors ---- */
    void (*exp_vec)(float *x, size_t n); /* in place */
    float (*sum_squares)(const float *x, size_t n);
    /* y = (x * r) * w, or x * r without w. */
    void (*scale_vec)(const float *x, float r, const float *w, size_t n, float *y);
    /* h = (g / (1 + exp(-g))) * u, clamped if lim > 0, then * wt if use_wt; in place on g. */
    void (*swiglu)(float *g, const float *u, size_t n, float lim, const float *wt);
    void (*add_vec)(float *y, const float *x, size_t n); /* y += x */
    /* n_block blocks of 32 floats to the planes of an A8 row from there on, as act8_encode. */
    void (*act8)(const float *x, size_t n_block, int8_t *q, float *d, int16_t *sum);
    /* Stored row to floats, as row_decode. */
    void (*row_floats)(const struct row_geom *g, const void *codes, const void *scales,
                       float *out);

    /* Floats to a stored row, as row_encode. */
    void (*row_store)(const struct row_geom *g, const float *x, uint8_t *codes,
                      uint8_t *scales);
    /* hadamard of op/rows.h. */
    void (*hadamard)(float *x, size_t n);
    /* fp4_sim of op/rows.h. */
    void (*fp4_round)(float *x, size_t n);

    /* ---- hyper-connections ---- */
    /* One chunk of HC_MIX for sixteen tokens or weight rows. x: to the chunk's first column of
     * stream 0 of each, streams d columns apart; cols <= 32 count, as if zeros were behind them.
     * tile [16 lanes, in the order above][2 hc terms][16]. */
    void (*hc_pack)(const float *const x[16], size_t d, uint32_t hc, uint32_t cols,
                    float *tile);
    /* fn: hc_pack of rows 0 to 15, of 16 to 31, ... of m; tile: of tokens. sums
     * [KERN_MIX_SUMS(m)][16]: the first m + 1 as mixp. */
    void (*hc_tile)(const float *fn, const float *tile, uint32_t hc, uint32_t m, float *sums);
    /* out[t][i] = sums[i][t] for i < n, t < n_tok <= 16. */
    void (*hc_turn)(const float *sums, uint32_t n, float *const *out, uint32_t n_tok);
    /* n_chunk whole chunks of one token straight from the weight, type F32, F16 or BF16: fn and
     * x point to the first column of row and stream 0, streams of both are d columns apart;
     * out [n_chunk][m + 1]. */
    void (*hc_chunks)(uint32_t type, const void *fn, size_t row_bytes, const float *x, size_t d,
                      uint32_t hc, uint32_t m, uint32_t n_chunk, float *out);
    /* y[d] = fma over j of w[j] * x[j * ld + d]. */
    void (*hc_collapse)(const float *x, size_t ld, const float *w, uint32_t hc, size_t n,
                        float *y);
    /* HCpost on columns [0, n) of x[j * ld]. */
    void (*hc_post)(float *x, size_t ld, const float *post, const float *comb, uint32_t hc,
                    const float *y, size_t n);

    /* ---- attention; q and o [heads][n], s [entry][16 heads] ---- */
    void (*attn_scores)(const float *q, uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float scale, float (*s)[KERN_HEADS]);
    /* Per head: max over entries, s = exp(s - max), sum in entry order. */
    void (*attn_softmax)(float (*s)[KERN_HEADS], uint32_t n_row, float *max, float *sum);
    void (*attn_values)(const float (*e)[KERN_HEADS], uint32_t heads, const float *const *rows,
                        uint32_t n_row, size_t n, float *o);
    /* o = o * a + p * b */
    void (*attn_merge)(float *o, float a, const float *p, float b, size_t n);
    void (*div_vec)(float *x, float by, size_t n);

    /* ---- compressor: softmax-weighted sum of n_pos positions, per channel ---- */
    /* ape[i] is added to g[i] if not NULL. */
    void (*pool)(const float *const *a, const float *const *g, const float *const *ape,
                 uint32_t n_pos, size_t n, float *out);

    /* ---- indexer ---- */
    /* 16 decoded rows of n floats, stride n, to one panel of lanes: per group of 32 in the
     * order of the F32 panels. */
    void (*index_pack)(const float *rows, uint32_t n_row, size_t n, float *panel);
    /* q in the same order: [heads][n]. */
    void (*index_order)(const float *q, size_t n, float *out);
    void (*index_scores)(const float *panel, const float *q, const float *w, uint32_t heads,
                         size_t n, float out[KERN_PANEL]);
    /* The same on integers, n <= INDEX_MAX_N in 32s; both sides by the same tier. A bit of the
     * result: that row has no integer form. False: the query has none. */
    uint32_t (*index_rows)(const uint8_t *const *codes, const uint8_t *const *scales, size_t n,
                           struct index_rows *out);
    bool (*index_query)(const float *q, const float *w, uint32_t heads, size_t n,
                        struct index_query *out);
    void (*index_dots)(const struct index_rows *rows, const struct index_query *q, size_t n,
                       float out[KERN_PANEL]);

    /* ---- pick ---- */
    /* Sum of exp(x[i] - max), lanes16 with plain adds; masked-out entries hold -inf. */
    float (*exp_sum)(const float *x, size_t n, float max);
};

/* The products of n_tok packed tokens. */
static inline const struct cpu_panels *kern_panels(const struct cpu_kern *k, uint32_t n_tok)
{
    return k->wide_from != 0 && n_tok >= k->wide_from ? &k->wide : &k->panels;
}

/* Each fills the table with the kernels of its tier. */
void kern_init_c(struct cpu_kern *k);
void kern_init_avx2(struct cpu_kern *k);
void kern_init_avx512(struct cpu_kern *k);
void kern_init_neon(struct cpu_kern *k);
void kern_init_dotprod(struct cpu_kern *k);
void kern_init_i8mm(struct cpu_kern *k);
void kern_init_avxvnni(struct cpu_kern *k);    /* on top of kern_init_avx2 */
void kern_init_avx512vnni(struct cpu_kern *k); /* on top of kern_init_avx512 */
void kern_init_amx(struct cpu_kern *k);        /* on top of kern_init_avx512vnni */
/* The format kernels of AVX2, NEON and SDOT, for the tiers above them, too. */
void kern_rows_avx2(struct cpu_kern *k);
void kern_rows_neon(struct cpu_kern *k);
void kern_rows_dotprod(struct cpu_kern *k);
void kern_index_avx2(struct cpu_kern *k);
void kern_index_avx512vnni(struct cpu_kern *k);

/* The best table that this machine and `mask` (0 = all) allow; returns the tier. */
enum cpu_tier kern_select(struct cpu_kern *k, uint32_t mask);
/* Tiers this machine can run, as a mask. */
uint32_t kern_available(void);
uint32_t kern_tiers_x86(void); /* its parts (x86/tiers.c, arm/tiers.c) */
uint32_t kern_tiers_arm(void);

#endif
