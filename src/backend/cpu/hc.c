/* hc.c - EMBED and the hyper-connections HC_MIX, HC_NORM, HC_HEAD (op.h, model.md 5).
 *
 * HC_MIX is a product with very few rows over the whole residual, cut into chunks of 32 columns
 * whose partial sums HC_NORM adds up: with many tokens a worker decodes the weights of a range of
 * chunks once and runs all tokens through, sixteen side by side; with few it multiplies the range
 * straight from the weight. HC_NORM then works token by token: the coefficients (a handful of
 * scalars), the collapsed vector, its norm, and the 8-bit form. Read next: norm.c. */
#include <math.h>
#include <string.h>

#include "backend/cpu/prod.h"
#include "quant/formats.h"

/* ---- EMBED ---- */

static void embed_run(struct worker *w, const struct op *op)
{
    const struct op_embed *o = &op->embed;
    uint32_t type = host_weight(&w->e->h, &o->table)->type;
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        float *x = host_row(&w->e->h, &o->x, t);
        const void *row = host_mat_row(&w->e->h, &o->table, 0, w->s->tok[t]);
        w->k->weight_decode(type, row, 0, o->d, x);
        for (uint32_t j = 1; j < o->hc; j++) {
            memcpy(x + (size_t)j * o->d, x, o->d * sizeof *x);
        }
    }
}

static const char *embed_supports(const struct program *p, const struct op *op)
{
    return prod_supports(p, &op->embed.table);
}

const struct cpu_op cpu_embed = {.run = embed_run, .supports = embed_supports};

/* ---- HC_MIX ---- */

/* Chunks of an item, at most: 4 KB of every stream. Tokens of a group: more would not fit the
 * second-level cache, because rows lie powers of two apart and their pieces share few sets. */
enum { MIX_RANGE = 32, MIX_TOKENS = 16 };

struct mix_tmp {
    float *rows; /* [16][hc][32]: decoded */
    float *fn;   /* [MIX_RANGE][m / 16, rounded up][hc * 32][16] */
    float *x;    /* [hc * 32][16 tokens] */
    float *sums; /* [KERN_MIX_SUMS][16 tokens] */
};

/* Weight rows as they are packed: whole panels. */
static size_t mix_rows(const struct op_hc_mix *o)
{
    return ((size_t)o->m + KERN_PANEL - 1) / KERN_PANEL * KERN_PANEL;
}

static void mix_tmp_take(struct mix_tmp *t, struct carve *c, const struct op_hc_mix *o)
{
    uint64_t chunk = (uint64_t)o->hc * KERN_CHUNK;
    t->rows = carve_take(c, KERN_PANEL * chunk, sizeof(float));
    t->fn = carve_take(c, MIX_RANGE * mix_rows(o) * chunk, sizeof(float));
    t->x = carve_take(c, MIX_TOKENS * chunk, sizeof(float));
    t->sums = carve_take(c, MIX_TOKENS * KERN_MIX_SUMS(o->m), sizeof(float));
}

static void hc_mix_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct mix_tmp t;
    mix_tmp_take(&t, c, &op->hc_mix);
}

static const float *mix_x(const struct worker *w, const struct op_hc_mix *o, uint32_t r)
{
    return host_row(&w->e->h, &o->x, o->rows_out ? w->s->out[r] : r);
}

/* Columns of chunk c; the last one may be shorter than the others. */
static uint32_t chunk_cols(const struct op_hc_mix *o, uint32_t c)
{
    return MIN(o->d - c * KERN_CHUNK, (uint32_t)KERN_CHUNK);
}

/* Chunks [c, c + n) of all weight rows, decoded and packed as kern.h wants them. */
static void mix_load(const struct worker *w, const struct op_hc_mix *o, struct mix_tmp *tmp,
                     uint32_t c, uint32_t n)
{
    const uint32_t type = host_weight(&w->e->h, &o->fn)->type;
    const size_t piece = (size_t)o->hc * KERN_CHUNK;
    float *to = tmp->fn;
    for (uint32_t k = c; k < c + n; k++) {
        const uint32_t cols = chunk_cols(o, k);
        for (uint32_t i0 = 0; i0 < o->m; i0 += KERN_PANEL, to += KERN_PANEL * piece) {
            const float *rows[KERN_PANEL];
            for (uint32_t i = 0; i < KERN_PANEL; i++) { /* absent rows repeat the last */
                rows[i] = tmp->rows + MIN(i, o->m - 1 - i0) * piece;
            }
            for (uint32_t i = i0; i < MIN(i0 + KERN_PANEL, o->m); i++) {
                const void *row = host_mat_row(&w->e->h, &o->fn, 0, i);
                for (uint32_t j = 0; j < o->hc; j++) {
                    w->k->weight_decode(type, row, (size_t)j * o->d + k * KERN_CHUNK, cols,
                                        tmp->rows + (i - i0) * piece + j * KERN_CHUNK);
                }
            }
            w->k->hc_pack(rows, KERN_CHUNK, o->hc, cols, to);
        }
    }
}

/* Asks for chunks [c, c + n) of n_tok rows, straight ahead, which chunk by chunk is not. */
static void mix_ahead(const struct worker *w, const struct op_hc_mix *o, uint32_t c, uint32_t n,
                      uint32_t r0, uint32_t n_tok)
{
    const uint32_t cols = MIN(n * KERN_CHUNK, o->d - c * KERN_CHUNK);
    for (uint32_t r = r0; r < r0 + n_tok; r++) {
        for (uint32_t j = 0; j < o->hc; j++) {
            const float *x = mix_x(w, o, r) + (size_t)j * o->d + c * KERN_CHUNK;
            for (uint32_t i = 0; i < cols; i += 16) {
                __builtin_prefetch(x + i, 0, 2);
            }
        }
    }
}

/* Chunks [c, c + n) of all rows by way of decoded weights. */
static void mix_tiles(struct worker *w, const struct op_hc_mix *o, struct mix_tmp *tmp,
                      uint32_t c, uint32_t n, uint32_t rows)
{
    const size_t stride = mix_rows(o) * o->hc * KERN_CHUNK;
    mix_load(w, o, tmp, c, n);
    for (uint32_t r0 = 0; r0 < rows; r0 += MIX_TOKENS) {
        uint32_t n_tok = MIN(rows - r0, (uint32_t)MIX_TOKENS);
        const float *x[MIX_TOKENS];
        float *out[MIX_TOKENS];
        for (uint32_t t = 0; t < MIX_TOKENS; t++) { /* absent tokens repeat the first */
            uint32_t r = r0 + (t < n_tok ? t : 0);
            x[t] = mix_x(w, o, r) + c * KERN_CHUNK;
            out[t] = (float *)host_row(&w->e->h, &o->mixp, r) + (size_t)c * (o->m + 1);
        }
        mix_ahead(w, o, c, n, r0, n_tok);
        for (uint32_t k = 0; k < n; k++) {
            w->k->hc_pack(x, o->d, o->hc, chunk_cols(o, c + k), tmp->x);
            w->k->hc_tile(tmp->fn + k * stride, tmp->x, o->hc, o->m, tmp->sums);
            w->k->hc_turn(tmp->sums, o->m + 1, out, n_tok);
            for (uint32_t t = 0; t < MIX_TOKENS; t++) {
                x[t] += KERN_CHUNK;
                out[t] += o->m + 1;
            }
        }
    }
}

/* Chunks [c, c + n) of all rows, all whole, from a weight of floats. */
static void mix_direct(struct worker *w, const struct op_hc_mix *o, uint32_t c, uint32_t n,
                       uint32_t rows)
{
    const struct op_weight *fn = host_weight(&w->e->h, &o->fn);
    const size_t d0 = (size_t)c * KERN_CHUNK;
    const char *from =
        (const char *)host_mat_row(&w->e->h, &o->fn, 0, 0) + fn->row_bytes / o->fn.cols * d0;
    for (uint32_t r = 0; r < rows; r++) {
        float *out = (float *)host_row(&w->e->h, &o->mixp, r) + (size_t)c * (o->m + 1);
        w->k->hc_chunks(fn->type, from, (size_t)fn->row_bytes, mix_x(w, o, r) + d0, o->d, o->hc,
                        o->m, n, out);
    }
}

static void hc_mix_run(struct worker *w, const struct op *op)
{
    const struct op_hc_mix *o = &op->hc_mix;
    struct carve c = {.base = w->mem};
    struct mix_tmp tmp;
    mix_tmp_take(&tmp, &c, o);
    uint32_t rows = step_rows(w->s, o->rows_out), whole = o->d / KERN_CHUNK;
    uint32_t range = MIN(MAX(o->nc / (4 * w->n), 1u), (uint32_t)MIX_RANGE);
    if (rows > CPU_FEW || qformat(host_weight(&w->e->h, &o->fn)->type)->cls != QC_FLOAT) {
        whole = 0;
    }
    struct share sh = share_make(w, 0, rows ? (o->nc + range - 1) / range : 0);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t at = i * range, end = MIN(at + range, o->nc);
        if (at < whole) {
            uint32_t n = MIN(end, whole) - at;
            mix_direct(w, o, at, n, rows);
            at += n;
        }
        if (at < end) {
            mix_tiles(w, o, &tmp, at, end - at, rows);
        }
    }
}

static const char *hc_mix_supports(const struct program *p, const struct op *op)
{
    const struct op_hc_mix *o = &op->hc_mix;
    const char *why = prod_supports(p, &o->fn);
    if (why) {
        return why;
    }
    if (o->nc != (o->d + KERN_CHUNK - 1) / KERN_CHUNK) {
        return "chunks must have 32 columns";
    }
    bool floats = qformat(p->weights[o->fn.w].type)->cls == QC_FLOAT;
    return floats || o->d % 32 == 0 ? NULL : "block formats need columns in 32s";
}

const struct cpu_op cpu_hc_mix = {
    .run = hc_mix_run, .private_scratch = hc_mix_scratch, .supports = hc_mix_supports};

/* ---- HC_NORM and HC_HEAD ---- */

enum { MIX_MAX = (2 + CPU_HC_MAX) * CPU_HC_MAX };

/* Adds up the chunks and normalises: mix[i] = s_i / sqrt(q / n_x + eps). */
static void mix_finish(const float *mixp, uint32_t nc, uint32_t m, size_t n_x, float eps,
                       float *mix)
{
    float q = 0.0f;
    memset(mix, 0, m * sizeof *mix);
    for (uint32_t c = 0; c < nc; c++, mixp += m + 1) {
        for (uint32_t i = 0; i < m; i++) {
            mix[i] += mixp[i];
        }
        q += mixp[m];
    }
    float r = 1.0f / sqrtf(q / (float)n_x + eps);
    for (uint32_t i = 0; i < m; i++) {
        mix[i] *= r;
    }
}

/* x[i] = 1 / (1 + exp(-x[i])) */
static void sigmoid_vec(const struct cpu_kern *k, float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        x[i] = -x[i];
    }
    k->exp_vec(x, n);
    for (uint32_t i = 0; i < n; i++) {
        x[i] = 1.0f / (1.0f + x[i]);
    }
}

/* One Sinkhorn half step: rows (or columns) divided by their sum + eps. */
static void sinkhorn_rows(float *c, uint32_t hc, float eps)
{
    for (uint32_t j = 0; j < hc; j++) {
        float sum = 0.0f;
        for (uint32_t k = 0; k < hc; k++) {
            sum += c[j * hc + k];
        }
        for (uint32_t k = 0; k < hc; k++) {
            c[j * hc + k] /= sum + eps;
        }
    }
}

static void sinkhorn_cols(float *c, uint32_t hc, float eps)
{
    float sum[CPU_HC_MAX] = {0};
    for (uint32_t j = 0; j < hc; j++) {
        for (uint32_t k = 0; k < hc; k++) {
            sum[k] += c[j * hc + k];
        }
    }
    for (uint32_t j = 0; j < hc; j++) {
        for (uint32_t k = 0; k < hc; k++) {
            c[j * hc + k] /= sum[k] + eps;
        }
    }
}

/* C from Z, in place: softmax of each row, then column, row, column ...; last a column step. */
static void mix_matrix(const struct cpu_kern *kern, float *c, uint32_t hc, uint32_t iters,
                       float eps)
{
    for (uint32_t j = 0; j < hc; j++) {
        float *row = c + j * hc, max = row[0], sum = 0.0f;
        for (uint32_t k = 1; k < hc; k++) {
            max = row[k] > max ? row[k] : max;
        }
        for (uint32_t k = 0; k < hc; k++) {
            row[k] -= max;
        }
        kern->exp_vec(row, hc);
        for (uint32_t k = 0; k < hc; k++) {
            sum += row[k];
        }
        for (uint32_t k = 0; k < hc; k++) {
            row[k] = row[k] / sum + eps;
        }
    }
    sinkhorn_cols(c, hc, eps);
    for (uint32_t i = 1; i < iters; i++) {
        sinkhorn_rows(c, hc, eps);
        sinkhorn_cols(c, hc, eps);
    }
}

/* The streams collapsed with weights wj, normed, written in the forms asked for. */
static void collapse(const struct worker *w, const float *x, const float *wj, uint32_t hc,
                     uint32_t d, const float *norm, float eps, const struct opnd *f32,
                     const struct opnd *a8, uint64_t row)
{
    float *y = (float *)w->mem;
    w->k->hc_collapse(x, d, wj, hc, d, y);
    float r = 1.0f / sqrtf(w->k->sum_squares(y, d) / (float)d + eps);
    w->k->scale_vec(y, r, norm, d, y);
    out_put(w, f32, a8, row, 0, y, d);
}

static void hc_norm_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    carve_take(c, op->kind == OP_HC_NORM ? op->hc_norm.d : op->hc_head.d, sizeof(float));
}

static void hc_norm_run(struct worker *w, const struct op *op)
{
    const struct op_hc_norm *o = &op->hc_norm;
    const struct host_bind *h = &w->e->h;
    const float *scale = host_vec(h, &o->scale), *base = host_vec(h, &o->base);
    uint32_t hc = o->hc, m = (2 + hc) * hc;
    struct share sh = share_make(w, 0, w->s->n_tok);
    for (uint32_t t; share_next(&sh, &t);) {
        float mix[MIX_MAX];
        mix_finish(host_row(h, &o->mixp, t), o->nc, m, (size_t)hc * o->d, o->eps, mix);
        for (uint32_t i = 0; i < m; i++) {
            mix[i] = mix[i] * scale[i < hc ? 0 : i < 2 * hc ? 1 : 2] + base[i];
        }
        sigmoid_vec(w->k, mix, 2 * hc);
        mix_matrix(w->k, mix + 2 * hc, hc, o->iters, o->hc_eps);
        float *post = host_row(h, &o->post, t);
        for (uint32_t j = 0; j < hc; j++) {
            mix[j] += o->hc_eps;
            post[j] = 2.0f * mix[hc + j];
        }
        memcpy(host_row(h, &o->comb, t), mix + 2 * hc, hc * hc * sizeof *mix);
        collapse(w, host_row(h, &o->x, t), mix, hc, o->d, host_vec(h, &o->norm), o->eps, &o->xn,
                 &o->xn_act, t);
    }
}

static const char *hc_norm_supports(const struct program *p, const struct op *op)
{
    (void)p;
    return op->hc_norm.hc > CPU_HC_MAX ? "more than 16 residual streams" : NULL;
}

const struct cpu_op cpu_hc_norm = {
    .run = hc_norm_run, .private_scratch = hc_norm_scratch, .supports = hc_norm_supports};

static void hc_head_run(struct worker *w, const struct op *op)
{
    const struct op_hc_head *o = &op->hc_head;
    const struct host_bind *h = &w->e->h;
    const float *scale = host_vec(h, &o->scale), *base = host_vec(h, &o->base);
    struct share sh = share_make(w, 0, w->s->n_out);
    for (uint32_t row; share_next(&sh, &row);) {
        float mix[CPU_HC_MAX];
        mix_finish(host_row(h, &o->mixp, row), o->nc, o->hc, (size_t)o->hc * o->d, o->eps, mix);
        for (uint32_t j = 0; j < o->hc; j++) {
            mix[j] = mix[j] * scale[0] + base[j];
        }
        sigmoid_vec(w->k, mix, o->hc);
        for (uint32_t j = 0; j < o->hc; j++) {
            mix[j] += o->hc_eps;
        }
        collapse(w, host_row(h, &o->x, w->s->out[row]), mix, o->hc, o->d, host_vec(h, &o->norm),
                 o->eps, &o->hn, &o->hn_act, row);
    }
}

static const char *hc_head_supports(const struct program *p, const struct op *op)
{
    (void)p;
    return op->hc_head.hc > CPU_HC_MAX ? "more than 16 residual streams" : NULL;
}

const struct cpu_op cpu_hc_head = {
    .run = hc_head_run, .private_scratch = hc_norm_scratch, .supports = hc_head_supports};
