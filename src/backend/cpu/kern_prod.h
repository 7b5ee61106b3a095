/* kern_prod.h - the part of kern_c.h that multiplies weights with activations: decoding rows,
 * products row by row, packing. Included by kern_c.h only.
 *
 * Row by row, a vector holds the 16 partial sums of one product ("lanes" of op.h) and is added
 * up at the end. In tiles, a vector holds one partial sum of 16 rows; lanes are visited in the
 * order in which the halving tree joins them, so few finished ones wait at a time. Both do the
 * same additions on the same numbers. Read next: prod.c, the caller. */
#ifndef CPU_KERN_PROD_H
#define CPU_KERN_PROD_H

/* ---- weights to numbers ---- */

static void weight_decode(uint32_t type, const void *row, size_t k0, size_t n, float *out)
{
    size_t i = 0;
    if (type == QT_F16) {
        const char *p = (const char *)row + 2 * k0;
        for (; i + 16 <= n; i += 16) {
            v16_store(out + i, v16_load_f16(p + 2 * i));
        }
    } else if (type == QT_BF16) {
        const char *p = (const char *)row + 2 * k0;
        for (; i + 16 <= n; i += 16) {
            v16_store(out + i, v16_load_bf16(p + 2 * i));
        }
    }
    if (i < n) {
        quant_decode(type, row, k0 + i, n - i, out + i);
    }
}

static void codes_q8_0(const char *row, size_t n, struct row_codes *out)
{
    for (size_t b = 0; b < n / 32; b++) {
        const char *block = row + 34 * b;
        int8_t q[32];
        memcpy(q, block + 2, sizeof q);
        int16_t *w = out->w + 32 * b;
        for (int i = 0; i < 32; i++) {
            w[i] = q[i];
        }
        out->d[b] = f16_to_f32(load_le16(block));
    }
    out->has_min = false;
}

static void weight_codes(uint32_t type, const void *row, size_t n, struct row_codes *out)
{
    if (type == QT_Q8_0) {
        codes_q8_0(row, n, out);
        return;
    }
    out->has_min = type == QT_Q4_1 || type == QT_Q5_1 || type == QT_Q2_K || type == QT_Q4_K ||
                   type == QT_Q5_K;
    for (size_t b = 0; b < n / 32; b++) {
        struct codes32 c;
        quant_codes32(type, row, b, &c);
        memcpy(out->w + 32 * b, c.w, sizeof c.w);
        out->d[b] = c.d;
        out->m[b] = c.m;
        out->mc[2 * b] = c.mc[0];
        out->mc[2 * b + 1] = c.mc[1];
    }
}

/* ---- products, few tokens ---- */

static inline v16 load_w(uint32_t type, const char *p, size_t i)
{
    return type == QT_F32   ? v16_load(p + 4 * i)
           : type == QT_F16 ? v16_load_f16(p + 2 * i)
                            : v16_load_bf16(p + 2 * i);
}

/* Lanes of `acc` plus the terms [i, n) behind the last full vector, then the tree. */
static float dot_tail(v16 acc, uint32_t type, const void *w, const float *x, size_t i, size_t n)
{
    float c[16], tail[16];
    v16_store(c, acc);
    quant_decode(type, w, i, n - i, tail);
    for (size_t l = 0; i + l < n; l++) {
        c[l] = fmaf(tail[l], x[i + l], c[l]);
    }
    return v16_sum(v16_load(c));
}

/* Four products side by side, of n_w rows (the tokens differ) or of four (the token is one).
 * far: in bytes, from a row to the one that its place will have next. */
static inline void dot_four(uint32_t type, const char *const w[4], int n_w, size_t far,
                            const float *const x[4], size_t n, float out[4])
{
    const size_t bytes = type == QT_F32 ? 4 : 2;
    v16 acc[4] = {v16_set1(0), v16_set1(0), v16_set1(0), v16_set1(0)};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < n_w && i * bytes % AHEAD_LINE == 0; j++) {
            __builtin_prefetch(w[j] + i * bytes + far, 0, 2);
            __builtin_prefetch(w[j] + i * bytes + AHEAD_NEAR, 0, 3);
        }
        UNROLL for (int j = 0; j < 4; j++)
        {
            acc[j] = v16_fma(load_w(type, w[j], i), v16_load(x[j] + i), acc[j]);
        }
    }
    if (i == n) {
        v16_sum4(acc, out);
        return;
    }
    for (int j = 0; j < 4; j++) {
        out[j] = dot_tail(acc[j], type, w[j], x[j], i, n);
    }
}

static inline void rows_typed(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                              const float *const *x, uint32_t n_tok, size_t n, float *out,
                              size_t out_ld)
{
    const char *base = w;
    float y[4];
    for (uint32_t t = 0; n_tok < 4 && t < n_tok; t++) {
        for (uint32_t r = 0; r < n_row; r += 4) {
            uint32_t left = n_row - r < 4 ? n_row - r : 4;
            const char *wr[4];
            const float *const xr[4] = {x[t], x[t], x[t], x[t]};
            for (uint32_t j = 0; j < 4; j++) {
                wr[j] = base + (r + (j < left ? j : 0)) * row_bytes;
            }
            dot_four(type, wr, 4, 4 * row_bytes, xr, n, y);
            memcpy(out + t * out_ld + r, y, left * sizeof *y);
        }
    }
    for (uint32_t r = 0; n_tok >= 4 && r < n_row; r++) {
        const char *row = base + r * row_bytes;
        const char *const wr[4] = {row, row, row, row};
        for (uint32_t t = 0; t < n_tok; t += 4) {
            uint32_t left = n_tok - t < 4 ? n_tok - t : 4;
            const float *xr[4];
            for (uint32_t j = 0; j < 4; j++) {
                xr[j] = x[t + (j < left ? j : 0)];
            }
            dot_four(type, wr, 1, AHEAD_FAR, xr, n, y);
            for (uint32_t j = 0; j < left; j++) {
                out[(t + j) * out_ld + r] = y[j];
            }
        }
    }
}

static void rows_f32(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                     const float *const *x, uint32_t n_tok, size_t n, float *out, size_t out_ld)
{
    if (type == QT_F32) { /* constant types, so that each loop is specialised */
        rows_typed(QT_F32, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    } else if (type == QT_F16) {
        rows_typed(QT_F16, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    } else {
        rows_typed(QT_BF16, w, row_bytes, n_row, x, n_tok, n, out, out_ld);
    }
}

/* Integer sums of 16 blocks as floats; those behind the last block are 0. */
static void block_sums(const struct row_codes *w, const struct act_codes *x, size_t b0,
                       size_t n_block, float i1[16])
{
    size_t b = 0;
    for (; b + 4 <= n_block; b += 4) {
        idot32x4(w->w + 32 * (b0 + b), x->q + 32 * (b0 + b), i1 + b);
    }
    for (; b < n_block; b++) {
        int32_t sum = 0;
        for (size_t i = 32 * (b0 + b); i < 32 * (b0 + b) + 32; i++) {
            sum += w->w[i] * x->q[i];
        }
        i1[b] = (float)sum;
    }
    for (; b < 16; b++) {
        i1[b] = 0.0f;
    }
}

static float dot_a8(const struct row_codes *w, const struct act_codes *x, size_t n)
{
    v16 c = v16_set1(0);
    for (size_t b0 = 0; b0 < n / 32; b0 += 16) {
        size_t left = n / 32 - b0 < 16 ? n / 32 - b0 : 16;
        float i1[16], dw[16] = {0}, da[16] = {0};
        block_sums(w, x, b0, left, i1);
        memcpy(dw, w->d + b0, left * sizeof *dw);
        memcpy(da, x->d + b0, left * sizeof *da);
        /* absent blocks add 0 to a lane that cannot be -0: a finite, exact no-op */
        c = v16_fma(v16_mul(v16_load(dw), v16_load(da)), v16_load(i1), c);
        if (w->has_min) {
            float i2[16] = {0}, mw[16] = {0};
            for (size_t b = 0; b < left; b++) {
                const int16_t *mc = w->mc + 2 * (b0 + b), *sum = x->sum + 2 * (b0 + b);
                i2[b] = (float)(mc[0] * sum[0] + mc[1] * sum[1]);
                mw[b] = -w->m[b0 + b];
            }
            c = v16_fma(v16_mul(v16_load(mw), v16_load(da)), v16_load(i2), c);
        }
    }
    return v16_sum(c);
}

/* Rows of Q8_0 (34 bytes a block: f16 scale, 32 codes) without unpacking. */
static float dot_q8_0(const char *row, const struct act_codes *x, size_t n)
{
    v16 c = v16_set1(0);
    for (size_t b0 = 0; b0 < n / 32; b0 += 16, row += 16 * 34) {
        size_t left = n / 32 - b0 < 16 ? n / 32 - b0 : 16, b = 0;
        uint16_t half[16] = {0};
        float i1[16] = {0}, da[16] = {0};
        ahead(row, 16 * 34);
        for (; b + 4 <= left; b += 4) {
            idot_q8_0x4(row + 34 * b, x->q + 32 * (b0 + b), i1 + b);
        }
        for (; b < left; b++) {
            const int8_t *codes = (const int8_t *)row + 34 * b + 2; /* char may be unsigned */
            int32_t sum = 0;
            for (size_t i = 0; i < 32; i++) {
                sum += codes[i] * x->q[32 * (b0 + b) + i];
            }
            i1[b] = (float)sum;
        }
        for (b = 0; b < left; b++) {
            memcpy(&half[b], row + 34 * b, 2);
        }
        memcpy(da, x->d + b0, left * sizeof *da);
        c = v16_fma(v16_mul(v16_load_f16(half), v16_load(da)), v16_load(i1), c);
    }
    return v16_sum(c);
}

static void rows_q8_0(const void *w, size_t row_bytes, uint32_t n_row,
                      const struct act_codes *x, uint32_t n_tok, size_t n, float *out,
                      size_t out_ld)
{
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t t = 0; t < n_tok; t++) {
            out[t * out_ld + r] = dot_q8_0((const char *)w + r * row_bytes, &x[t], n);
        }
    }
}

static void row_a8(const struct row_codes *w, const struct act_codes *x, uint32_t n_tok,
                   size_t n, float *out, size_t out_ld)
{
    for (uint32_t t = 0; t < n_tok; t++) {
        out[t * out_ld] = dot_a8(w, &x[t], n);
    }
}

/* ---- products, many tokens: packing ---- */

/* base: where the terms of each lane begin. */
static inline void pack_typed(uint32_t type, const char *w, size_t row_bytes, uint32_t n_row,
                              size_t n, const size_t base[16], float *panel)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16 r[16];
        if (n_row == 16) {
            UNROLL for (uint32_t j = 0; j < 16; j++)
            {
                r[j] = load_w(type, w + j * row_bytes, i);
            }
        } else {
            for (uint32_t j = 0; j < 16; j++) {
                r[j] = j < n_row ? load_w(type, w + j * row_bytes, i) : v16_set1(0);
            }
        }
        v16_transpose(r);
        UNROLL for (int l = 0; l < 16; l++)
        {
            v16_store(panel + (base[l] + i / 16) * KERN_PANEL, r[l]);
        }
    }
    for (; i < n; i++) {
        float *to = panel + (base[i % 16] + i / 16) * KERN_PANEL;
        for (uint32_t j = 0; j < 16; j++) {
            to[j] = 0.0f;
            if (j < n_row) {
                quant_decode(type, w + j * row_bytes, i, 1, to + j);
            }
        }
    }
}

static void pack_rows_f32(uint32_t type, const void *w, size_t row_bytes, uint32_t n_row,
                          size_t n, float *panel)
{
    size_t base[16];
    term_bases(n, base);
    if (type == QT_F32) { /* constant types, so that each loop is specialised */
        pack_typed(QT_F32, w, row_bytes, n_row, n, base, panel);
    } else if (type == QT_F16) {
        pack_typed(QT_F16, w, row_bytes, n_row, n, base, panel);
    } else {
        pack_typed(QT_BF16, w, row_bytes, n_row, n, base, panel);
    }
}

static void pack_tokens_f32(const float *const x[16], size_t n, float *lo, float *hi)
{
    size_t base[16], i = 0;
    term_bases(n, base);
    for (; i + 16 <= n; i += 16) {
        v16 r[16];
        for (int j = 0; j < 16; j++) {
            r[j] = v16_load(x[j] + i);
        }
        v16_transpose(r);
        for (int l = 0; l < 16; l++) {
            size_t at = (base[l] + i / 16) * KERN_TOKENS;
            v16_store_halves(lo + at, hi + at, r[l]);
        }
    }
    for (; i < n; i++) {
        size_t at = (base[i % 16] + i / 16) * KERN_TOKENS;
        for (int j = 0; j < 8; j++) {
            lo[at + (size_t)j] = x[j][i];
            hi[at + (size_t)j] = x[j + 8][i];
        }
    }
}

#endif
