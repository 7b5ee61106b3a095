/* hc.c - EMBED and the hyper-connections HC_MIX, HC_NORM, HC_HEAD (op.h, model.md 5).
 *
 * HC_MIX is a product with very few rows over the whole residual, cut into chunks of 32 columns
 * whose partial sums HC_NORM adds up: with many tokens a worker decodes the small panel of its
 * chunk once and runs all of them through it, with few it multiplies a range of chunks straight
 * from the weight. HC_NORM then works token by token: the coefficients (a handful of
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

enum { MIX_AHEAD = 4, MIX_RANGE = 8 }; /* chunks */

struct mix_tmp {
    float *row; /* one decoded weight row section of 32 */
    float *fn;  /* [m][hc][32] */
    float *x;   /* [hc][32] */
};

static void mix_tmp_take(struct mix_tmp *t, struct carve *c, const struct op_hc_mix *o)
{
    t->row = carve_take(c, 2 * KERN_CHUNK, sizeof(float));
    t->fn = carve_take(c, (uint64_t)o->m * o->hc * KERN_CHUNK, sizeof(float));
    t->x = carve_take(c, (uint64_t)o->hc * KERN_CHUNK, sizeof(float));
}

static void hc_mix_scratch(const struct exec *e, const struct op *op, struct carve *c)
{
    (void)e;
    struct mix_tmp t;
    mix_tmp_take(&t, c, &op->hc_mix);
}

/* Columns [d0, d0 + n) of all streams of every weight row, zeros behind. */
static void load_chunk(const struct worker *w, const struct op_hc_mix *o, struct mix_tmp *tmp,
                       uint32_t d0, uint32_t n)
{
    const struct op_weight *fn = host_weight(&w->e->h, &o->fn);
    const uint32_t type = fn->type;
    /* A chunk is a line or two of every stream of every row, far from each other, which no
     * hardware prefetches: ask for those of the chunk after the next few. */
    const size_t chunk_bytes = (size_t)fn->row_bytes * KERN_CHUNK / o->fn.cols;
    memset(tmp->fn, 0, (size_t)o->m * o->hc * KERN_CHUNK * sizeof *tmp->fn);
    memset(tmp->x, 0, (size_t)o->hc * KERN_CHUNK * sizeof *tmp->x);
    for (uint32_t i = 0; i < o->m; i++) {
        const void *row = host_mat_row(&w->e->h, &o->fn, 0, i);
        for (uint32_t j = 0; j < o->hc; j++) {
            size_t at = (size_t)j * o->d + d0;
            __builtin_prefetch((const char *)row + (at / KERN_CHUNK + MIX_AHEAD) * chunk_bytes);
            w->k->weight_decode(type, row, at, n,
                                tmp->fn + ((size_t)i * o->hc + j) * KERN_CHUNK);
        }
    }
}

static const float *mix_x(const struct worker *w, const struct op_hc_mix *o, uint32_t r)
{
    return host_row(&w->e->h, &o->x, o->rows_out ? w->s->out[r] : r);
}

/* Chunk c of all rows by way of the decoded panel. */
static void mix_panel(struct worker *w, const struct op_hc_mix *o, struct mix_tmp *tmp,
                      uint32_t c, uint32_t rows)
{
    uint32_t d0 = c * KERN_CHUNK, n = MIN(o->d - d0, (uint32_t)KERN_CHUNK);
    load_chunk(w, o, tmp, d0, n);
    for (uint32_t r = 0; r < rows; r++) {
        const float *x = mix_x(w, o, r) + d0;
        for (uint32_t j = 0; j < o->hc; j++) {
            memcpy(tmp->x + j * KERN_CHUNK, x + (size_t)j * o->d, n * sizeof *x);
        }
        float *out = (float *)host_row(&w->e->h, &o->mixp, r) + (size_t)c * (o->m + 1);
        w->k->hc_chunk(tmp->fn, tmp->x, o->hc, o->m, out);
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
    uint32_t rows = step_rows(w->s, o->rows_out), whole = o->d / KERN_CHUNK, range = 1;
    if (rows > CPU_FEW || qformat(host_weight(&w->e->h, &o->fn)->type)->cls != QC_FLOAT) {
        whole = 0;
    } else { /* about four items a worker */
        range = MIN(MAX(o->nc / (4 * w->n), 1u), (uint32_t)MIX_RANGE);
    }
    struct share sh = share_make(w, 0, rows ? (o->nc + range - 1) / range : 0);
    for (uint32_t i; share_next(&sh, &i);) {
        uint32_t at = i * range, end = MIN(at + range, o->nc);
        if (at < whole) {
            uint32_t n = MIN(end, whole) - at;
            mix_direct(w, o, at, n, rows);
            at += n;
        }
        for (; at < end; at++) {
            mix_panel(w, o, &tmp, at, rows);
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
