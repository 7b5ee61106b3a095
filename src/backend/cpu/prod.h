/* prod.h - products of weight rows with the activation rows of many or few tokens, for all the
 * ops that contain one. A worker gathers the tokens once (struct prod_x), then asks for blocks
 * of up to 32 weight rows; out[t][r] has the sums, whatever the weight's type and the number of
 * tokens. Few tokens go row by row (decode: each weight is used once, memory is the limit;
 * cpu_kern.few has the number, KERN_FEW that of floats); more are packed into tiles, and blocks
 * of weight rows into panels, once per block (prefill). Both give the same bits (op.h). */
#ifndef CPU_PROD_H
#define CPU_PROD_H

#include "backend/cpu/cpu_int.h"

/* Scratch of one worker, sized for the widest matrix and the most tokens of an op. */
struct prod_tmp {
    uint32_t max_tok;          /* of one gathering; at most CPU_PACK_TOKENS */
    const float **rows_f32;    /* [max_tok padded to 16] */
    struct act_codes *rows_a8; /* the same */
    float *tiles_f32;          /* packed tokens */
    struct pack_x tiles_a8;
    float *wide;       /* 16 decoded weight rows */
    float *panels_f32; /* 2 packed panels */
    struct pack_w *panels_a8;
    struct row_codes codes;
    float (*out[2])[KERN_ROWS]; /* [max_tok padded][32] */
};
/* Carves scratch for matrices of up to `cols` columns and gatherings of up to n_tok rows;
 * `acts`: bit FORM_F32, bit FORM_A8 of the forms that occur. */
void prod_tmp_take(struct prod_tmp *p, struct carve *c, uint32_t n_tok, uint32_t cols,
                   uint32_t acts);
static inline uint32_t prod_act(const struct opmat *m)
{
    return m->w == WEIGHT_NONE ? 0 : 1u << m->act;
}

/* The gathered tokens: all 0 before the first prod_x_set; forms are packed when first used. */
struct prod_x {
    const struct worker *w;
    struct prod_tmp *tmp;
    const struct opnd *x, *x_act;
    uint32_t n;
    bool ready[2]; /* per form: pointers made, tiles packed (for these columns) */
    uint32_t col0[2], cols[2];
    bool turned;         /* the A8 tiles (cpu_kern) */
    const uint32_t *row; /* [n] rows of the operands; NULL: row0, row0 + 1, ... */
    uint32_t row0;
};
/* Rows row[0..n) (NULL: row0 ..) of the operands x and x_act; n at most tmp->max_tok. The same
 * row0 and n again, without `row`, keeps what is packed: to be called for every item of an op. */
void prod_x_set(struct prod_x *px, const struct worker *w, struct prod_tmp *tmp,
                const struct opnd *x, const struct opnd *x_act, const uint32_t *row,
                uint32_t row0, uint32_t n);
/* out[t][r] = DOT(row r0 + r of matrix `mat`, x[t][col0 .. col0 + cols)) for r < n_row <= 32. */
void prod_block(struct prod_x *px, const struct opmat *m, uint32_t mat, uint32_t r0,
                uint32_t n_row, uint32_t col0, float (*out)[KERN_ROWS]);

/* How T tokens and n_block row blocks of `cols` columns are cut into items: token groups times
 * block ranges. */
struct prod_grid {
    uint32_t n_tok, n_block;
    uint32_t tok_group, block_range; /* per item */
    uint32_t n_item;
};
struct prod_grid prod_grid_make(const struct worker *w, uint32_t n_tok, uint32_t n_block,
                                uint32_t cols);
struct prod_item {
    uint32_t t0, n_tok, b0, b1;
};
struct prod_item prod_grid_item(const struct prod_grid *g, uint32_t item);

/* Can products use this matrix? NULL or a static reason. */
const char *prod_supports(const struct program *p, const struct opmat *m);

#endif
