/* prod.c - products of weights and activations (prod.h): gathering tokens, decoding and packing
 * weights, choosing the kernel. No arithmetic on values happens here.
 *
 * In the packed way a block of 32 weight rows is decoded once and meets all gathered tokens;
 * both stay in the second-level cache meanwhile. Weights of block formats
 * that read F32 activations (oracle runs) are decoded to floats first and then treated as F32.
 * Read next: linear.c. */
#include "backend/cpu/prod.h"

#include <assert.h>
#include <string.h>

#include "quant/formats.h"

static uint32_t pad_tok(uint32_t n)
{
    return (n + 15) / 16 * 16;
}

void prod_tmp_take(struct prod_tmp *p, struct carve *c, uint32_t n_tok, uint32_t cols,
                   uint32_t acts)
{
    uint32_t max_tok = MIN(n_tok, (uint32_t)CPU_PACK_TOKENS), pad = pad_tok(max_tok);
    bool f32 = (acts >> FORM_F32 & 1) != 0, a8 = (acts >> FORM_A8 & 1) != 0;
    uint64_t blocks = cols / 32;
    *p = (struct prod_tmp){.max_tok = max_tok};
    p->rows_f32 = carve_take(c, pad, sizeof *p->rows_f32);
    p->rows_a8 = carve_take(c, pad, sizeof *p->rows_a8);
    p->out[0] = carve_take(c, pad, sizeof *p->out[0]);
    p->out[1] = carve_take(c, pad, sizeof *p->out[1]);
    if (f32) {
        p->wide = carve_take(c, (uint64_t)cols * KERN_PANEL, sizeof(float));
    }
    if (f32 && max_tok > KERN_FEW) {
        p->tiles_f32 = carve_take(c, KERN_TERMS(cols) * pad, sizeof(float));
        p->panels_f32 = carve_take(c, KERN_TERMS(cols) * KERN_ROWS, sizeof(float));
    }
    if (a8) {
        p->codes.w = carve_take(c, cols, sizeof(int16_t));
        p->codes.d = carve_take(c, blocks, sizeof(float));
        p->codes.m = carve_take(c, blocks, sizeof(float));
        p->codes.mc = carve_take(c, 2 * blocks, sizeof(int16_t));
        struct pack_x *x = &p->tiles_a8;
        uint64_t n = blocks * (pad + PACK_PAD);
        x->q = carve_take(c, n, 64);
        x->d = carve_take(c, n, sizeof *x->d);
        x->bias = carve_take(c, n, sizeof *x->bias);
        x->sum = carve_take(c, n, sizeof *x->sum);
        p->panels_a8 = carve_take(c, 2 * blocks, sizeof(struct pack_w));
    }
}

void prod_x_set(struct prod_x *px, const struct worker *w, struct prod_tmp *tmp,
                const struct opnd *x, const struct opnd *x_act, const uint32_t *row,
                uint32_t row0, uint32_t n)
{
    assert(n <= tmp->max_tok);
    bool same = px->tmp == tmp && px->x == x && px->x_act == x_act && px->n == n &&
                px->row0 == row0 && !px->row && !row;
    if (same) {
        return;
    }
    *px = (struct prod_x){
        .w = w, .tmp = tmp, .x = x, .x_act = x_act, .n = n, .row = row, .row0 = row0};
}

/* ---- tokens ---- */

/* Pointers to the gathered rows from column col0 on; the pad repeats row 0. */
static void gather_f32(struct prod_x *px, uint32_t col0, uint32_t pad)
{
    for (uint32_t i = 0; i < pad; i++) {
        uint32_t j = i < px->n ? i : 0, row = px->row ? px->row[j] : px->row0 + j;
        px->tmp->rows_f32[i] = (const float *)host_row(&px->w->e->h, px->x, row) + col0;
    }
}

static void gather_a8(struct prod_x *px, uint32_t col0, uint32_t pad)
{
    uint32_t n = px->x_act->cols;
    for (uint32_t i = 0; i < pad; i++) {
        uint32_t j = i < px->n ? i : 0, row = px->row ? px->row[j] : px->row0 + j;
        void *a8 = host_row(&px->w->e->h, px->x_act, row);
        px->tmp->rows_a8[i] = (struct act_codes){.q = act8_q(a8) + col0,
                                                 .d = act8_d(a8, n) + col0 / 32,
                                                 .sum = act8_sum(a8, n) + col0 / 16};
    }
}

static void pack_tokens(struct prod_x *px, uint32_t form, uint32_t cols, uint32_t pad)
{
    const struct cpu_kern *k = px->w->k;
    struct prod_tmp *tmp = px->tmp;
    if (form == FORM_F32) {
        size_t tile = KERN_TERMS(cols) * KERN_TOKENS;
        for (uint32_t t = 0; t < pad; t += 16) {
            float *lo = tmp->tiles_f32 + t / KERN_TOKENS * tile;
            k->pack_tokens_f32(tmp->rows_f32 + t, cols, lo, lo + tile);
        }
    } else {
        tmp->tiles_a8.stride = px->n + PACK_PAD;
        tmp->tiles_a8.turned = px->turned;
        k->pack_tokens_a8(tmp->rows_a8, px->n, cols, &tmp->tiles_a8);
    }
}

static bool is_packed(const struct prod_x *px, uint32_t form)
{
    return px->n > (form == FORM_A8 ? px->w->k->few : (uint32_t)KERN_FEW);
}

/* Makes the form's pointers (and tiles) for these columns, unless they are there. turned: see
 * cpu_kern; matrices that take turns with the same tokens are of one format in every recipe. */
static void need_tokens(struct prod_x *px, uint32_t form, uint32_t col0, uint32_t cols,
                        bool turned)
{
    bool packed = is_packed(px, form),
         same = form == FORM_F32 || !packed || px->turned == turned;
    if (px->ready[form] && px->col0[form] == col0 && px->cols[form] == cols && same) {
        return;
    }
    px->turned = form == FORM_A8 ? turned : px->turned;
    uint32_t pad = packed ? pad_tok(px->n) : px->n;
    if (form == FORM_F32) {
        gather_f32(px, col0, pad);
    } else {
        gather_a8(px, col0, pad);
    }
    if (packed) {
        pack_tokens(px, form, cols, pad);
    }
    px->ready[form] = true;
    px->col0[form] = col0;
    px->cols[form] = cols;
}

/* ---- weights ---- */

struct wrows { /* the rows of one block */
    const unsigned char *base;
    size_t row_bytes;
    uint32_t type, n_row, cols;
    struct next_rows next; /* what lies behind them */
};

static void few_f32(struct prod_x *px, const struct wrows *r, float (*out)[KERN_ROWS])
{
    const struct cpu_kern *k = px->w->k;
    const float *const *x = px->tmp->rows_f32;
    if (qformat(r->type)->cls == QC_FLOAT) {
        k->rows_f32(r->type, r->base, r->row_bytes, r->n_row, x, px->n, r->cols, out[0],
                    KERN_ROWS);
        return;
    }
    for (uint32_t i = 0; i < r->n_row; i++) {
        k->weight_decode(r->type, r->base + i * r->row_bytes, 0, r->cols, px->tmp->wide);
        k->rows_f32(QT_F32, px->tmp->wide, 0, 1, x, px->n, r->cols, out[0] + i, KERN_ROWS);
    }
}

static void few_a8(struct prod_x *px, const struct wrows *r, float (*out)[KERN_ROWS])
{
    const struct cpu_kern *k = px->w->k;
    if (k->rows_a8[r->type]) {
        k->rows_a8[r->type](r->base, r->row_bytes, r->n_row, px->tmp->rows_a8, px->n, r->cols,
                            out[0], KERN_ROWS);
        return;
    }
    for (uint32_t i = 0; i < r->n_row; i++) {
        k->weight_codes(r->type, r->base + i * r->row_bytes, r->cols, &px->tmp->codes);
        k->row_a8(&px->tmp->codes, px->tmp->rows_a8, px->n, r->cols, out[0] + i, KERN_ROWS);
    }
}

/* n rows from row `first` of the block on into a panel. */
static void many_rows(struct prod_x *px, const struct wrows *r, uint32_t first, uint32_t n,
                      float *panel)
{
    const struct cpu_kern *k = px->w->k;
    const unsigned char *base = r->base + first * r->row_bytes;
    if (qformat(r->type)->cls == QC_FLOAT) {
        k->pack_rows_f32(r->type, base, r->row_bytes, n, r->cols, panel);
        return;
    }
    const size_t wide = r->cols * sizeof(float);
    for (uint32_t i = 0; i < n; i++) {
        k->weight_decode(r->type, base + i * r->row_bytes, 0, r->cols,
                         px->tmp->wide + (size_t)i * r->cols);
    }
    k->pack_rows_f32(QT_F32, px->tmp->wide, wide, n, r->cols, panel);
}

static void many_f32(struct prod_x *px, const struct wrows *r, float (*out)[KERN_ROWS])
{
    const struct cpu_kern *k = px->w->k;
    struct prod_tmp *tmp = px->tmp;
    size_t panel = KERN_TERMS(r->cols) * KERN_PANEL;
    for (uint32_t p = 0; p < 2; p++) {
        uint32_t first = p * KERN_PANEL;
        uint32_t n = r->n_row > first ? MIN(r->n_row - first, (uint32_t)KERN_PANEL) : 0;
        many_rows(px, r, first, n, tmp->panels_f32 + p * panel);
    }
    const float *const w[2] = {tmp->panels_f32, tmp->panels_f32 + panel};
    k->tiles_f32(w, tmp->tiles_f32, px->n, r->cols, r->next, out);
}

static void many_a8(struct prod_x *px, const struct wrows *r, float (*out)[KERN_ROWS])
{
    const struct cpu_panels *panels = kern_panels(px->w->k, px->n);
    struct prod_tmp *tmp = px->tmp;
    struct pack_w *lo = tmp->panels_a8, *hi = lo + r->cols / 32;
    lanes_a8_fn *lanes = panels->lanes[r->type];
    pack_panel_fn *pack = panels->pack[r->type];
    if (lanes && r->n_row == KERN_ROWS && px->n <= KERN_LANE_TOKENS) {
        lanes(r->base, r->row_bytes, &tmp->tiles_a8, px->n, r->cols, r->next, lo, out);
        return;
    }
    uint32_t n_lo = MIN(r->n_row, (uint32_t)KERN_PANEL);
    pack(r->type, r->base, r->row_bytes, n_lo, r->cols, lo);
    if (r->n_row > n_lo) {
        pack(r->type, r->base + n_lo * r->row_bytes, r->row_bytes, r->n_row - n_lo, r->cols,
             hi);
    } else {
        hi = lo; /* unused rows */
    }
    panels->tiles[r->type]((const struct pack_w *const[2]){lo, hi}, &tmp->tiles_a8, px->n,
                           r->cols, r->next, out);
}

void prod_block(struct prod_x *px, const struct opmat *m, uint32_t mat, uint32_t r0,
                uint32_t n_row, uint32_t col0, float (*out)[KERN_ROWS])
{
    const struct op_weight *weight = host_weight(&px->w->e->h, m);
    struct wrows r = {.base = host_mat_row(&px->w->e->h, m, mat, r0),
                      .row_bytes = (size_t)weight->row_bytes,
                      .type = weight->type,
                      .n_row = n_row,
                      .cols = m->cols};
    assert(n_row <= KERN_ROWS && r0 + n_row <= m->rows);
    r.next.p = (const char *)r.base + n_row * r.row_bytes;
    r.next.bytes = MIN(m->rows - r0 - n_row, n_row) * r.row_bytes;
    need_tokens(px, m->act, col0, m->cols, px->w->k->turned[r.type]);
    bool packed = is_packed(px, m->act);
    if (m->act == FORM_F32) {
        (packed ? many_f32 : few_f32)(px, &r, out);
    } else {
        (packed ? many_a8 : few_a8)(px, &r, out);
    }
}

/* ---- cutting ---- */

/* Tokens of a group: as many as possible share a block's decoding, but packed they should leave
 * room in the second-level cache for the block. */
static uint32_t group_most(uint32_t cols)
{
    uint32_t fit = (uint32_t)CPU_PACK_BYTES / MAX(cols, 1u);
    return MIN(MAX(fit, 64u), (uint32_t)CPU_PACK_TOKENS);
}

/* Few tokens: one item a block. Else items are a few blocks of a token group: a worker packs
 * each group once and keeps it from item to item. Where there are so few blocks that packing
 * would cost more than decoding, groups are smaller and items are all blocks. */
struct prod_grid prod_grid_make(const struct worker *w, uint32_t n_tok, uint32_t n_block,
                                uint32_t cols)
{
    struct prod_grid g = {.n_tok = n_tok, .n_block = n_block, .tok_group = n_tok};
    if (n_tok == 0 || n_block == 0) {
        return g;
    }
    g.block_range = 1;
    if (n_tok > CPU_FEW) {
        uint32_t most = group_most(cols), groups = (n_tok + most - 1) / most;
        bool is_wide = n_block >= 16 * w->n;
        if (!is_wide) { /* of 64 or more tokens, which still pay for a block's decoding */
            groups = MAX(groups, MIN((n_tok + 63) / 64, 2 * w->n));
        }
        g.block_range = is_wide              ? 4
                        : groups >= 2 * w->n ? n_block
                                             : MAX(n_block * groups / (2 * w->n), 1u);
        g.tok_group = ((n_tok + groups - 1) / groups + 15) / 16 * 16;
    }
    g.n_item = ((n_tok + g.tok_group - 1) / g.tok_group) *
               ((n_block + g.block_range - 1) / g.block_range);
    return g;
}

struct prod_item prod_grid_item(const struct prod_grid *g, uint32_t item)
{
    uint32_t ranges = (g->n_block + g->block_range - 1) / g->block_range;
    uint32_t t0 = item / ranges * g->tok_group, b0 = item % ranges * g->block_range;
    return (struct prod_item){.t0 = t0,
                              .n_tok = MIN(g->tok_group, g->n_tok - t0),
                              .b0 = b0,
                              .b1 = MIN(b0 + g->block_range, g->n_block)};
}

const char *prod_supports(const struct program *p, const struct opmat *m)
{
    if (m->w == WEIGHT_NONE) {
        return NULL;
    }
    const struct op_weight *w = &p->weights[m->w];
    enum qclass cls = qformat(w->type)->cls;
    if (cls != QC_FLOAT && cls != QC_BLOCK) {
        return "a matrix of this type cannot be decoded";
    }
    if (m->act == FORM_A8 && (cls != QC_BLOCK || m->cols % 32 != 0)) {
        return "8-bit activations need a block format and columns in 32s";
    }
    return NULL;
}
