/* linear.metal - LINEAR, LINEAR_HC, FFN_UP, RMS_NORM: products and their epilogues. A threadgroup
 * makes 32 rows for up to 32 tokens. */

/* RMS norm of token rows [t0, t0 + n) and their A8 form into threadgroup memory, for a product that
 * follows in the same dispatch (n <= METAL_FEW). Every threadgroup does it for itself. */
inline staged stage_norm(thread const ctx &c, constant metal_norm_in &o, uint t0, uint n,
                         threadgroup float *memory)
{
    threadgroup float *room = c.tg + METAL_AT_ROOM;
    uint len = o.n;
    threadgroup char *q = (threadgroup char *)memory;
    threadgroup float *d = memory + n * len / 4;
    threadgroup short *sum = (threadgroup short *)(d + n * len / 32);
    threadgroup float *factor = d + n * len / 16;
    device const float *w = vec_at(c, o.w);
    for (uint j = 0; j < n; j++) {
        device const float *x = floats_at(c, o.x, t0 + j);
        float s = 0.0f;
        for (uint i = c.t; i < len; i += METAL_THREADS) {
            s = fma(x[i], x[i], s);
        }
        float f = 1.0f / precise::sqrt(group_sum(c, s, room) / float(len) + o.eps);
        if (c.t == 0) {
            factor[j] = f;
        }
        for (uint b = c.sg; b < len / 32; b += METAL_THREADS / 32) {
            uint i = 32 * b + c.lane;
            a8_block a = a8_encode(x[i] * f * w[i]);
            q[j * len + i] = char(a.q);
            if (c.lane == 0) {
                d[j * len / 32 + b] = a.d;
            }
            if (c.lane % 16 == 0) {
                sum[j * len / 16 + 2 * b + c.lane / 16] = short(a.sum);
            }
        }
    }
    sync();
    return {q, d, sum, factor, w, len};
}

inline void task_linear(thread const ctx &c, constant metal_linear &o)
{
    uint block = c.group % o.n_block, t0 = c.group / o.n_block * METAL_TILE;
    uint n_rows_all = o.rows_out ? c.step->n_out : c.step->n_tok;
    uint p = 0;
    while (p + 1 < o.n_part && block >= o.part[p + 1].first) {
        p++;
    }
    constant metal_mat &w = o.part[p].w;
    uint row0 = (block - o.part[p].first) * METAL_ROWS,
         n_rows = min(w.rows - row0, (uint)METAL_ROWS);
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    if (o.norm.n) {
        st = stage_norm(c, o.norm, t0, min(n_rows_all - t0, (uint)METAL_FEW),
                        c.tg + METAL_AT_FEW);
    }
    tokens tk = tokens_range(c, t0, min(n_rows_all - t0, (uint)METAL_TILE));
    product(c, w, 0, row0, n_rows, o.groups > 1 ? w.rows / o.groups : 0,
            o.norm.n ? o.norm.x : o.x, o.x_act, tk, st, out);
    for (uint j = c.sg; j < tk.n; j += METAL_THREADS / 32) {
        float v = c.lane < n_rows ? out[j * METAL_ROWS + c.lane] : 0.0f;
        if (c.lane < n_rows && present(o.part[p].y)) {
            floats_at(c, o.part[p].y, t0 + j)[row0 + c.lane] = v;
        }
        if (present(o.y_act)) {
            a8_put(c, o.y_act, t0 + j, row0, v);
        }
    }
}

inline void task_rms_norm(thread const ctx &c, constant metal_rms_norm &o)
{
    device const float *x = floats_at(c, o.x, c.group), *w = vec_at(c, o.w);
    threadgroup float *room = c.tg, *y = c.tg + METAL_AT_VECTOR;
    float s = 0.0f;
    for (uint i = c.t; i < o.n; i += METAL_THREADS) {
        s = fma(x[i], x[i], s);
    }
    float f = 1.0f / precise::sqrt(group_sum(c, s, room) / float(o.n) + o.eps);
    for (uint d0 = 0; d0 < o.n; d0 += METAL_PIECE) {
        uint n = min(o.n - d0, (uint)METAL_PIECE);
        for (uint i = c.t; i < n; i += METAL_THREADS) {
            y[i] = x[d0 + i] * f * w[d0 + i];
        }
        sync();
        out_put(c, o.y, o.y_act, c.group, d0, y, n);
        sync();
    }
}

inline void task_linear_hc(thread const ctx &c, constant metal_linear_hc &o)
{
    uint n_block = (o.w.rows + METAL_ROWS - 1) / METAL_ROWS;
    uint row0 = c.group % n_block * METAL_ROWS, t0 = c.group / n_block * METAL_TILE;
    uint n_rows = min(o.w.rows - row0, (uint)METAL_ROWS);
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    tokens tk = tokens_range(c, t0, min(c.step->n_tok - t0, (uint)METAL_TILE));
    product(c, o.w, 0, row0, n_rows, 0, o.x, o.x_act, tk, st, out);
    for (uint j = 0; j < tk.n; j++) {
        hc_post(c, o.hc_x, o.post, o.comb, o.hc, o.d, t0 + j, row0, n_rows,
                out + j * METAL_ROWS, o.mix, c.tg + METAL_AT_MIX);
    }
}

inline float swiglu(float g, float u, float lim)
{
    if (lim > 0.0f) { /* comparisons let NaN through */
        g = g > lim ? lim : g;
        u = u > lim ? lim : u;
        u = u < -lim ? -lim : u;
    }
    return g / (1.0f + exp_one(-g)) * u;
}

/* Gate and up rows of one block: h in registers, one simdgroup a token, through `put`. */
inline void task_ffn_up(thread const ctx &c, constant metal_ffn_up &o)
{
    uint n_block = (o.f + METAL_ROWS - 1) / METAL_ROWS;
    uint row0 = c.group % n_block * METAL_ROWS, t0 = c.group / n_block * METAL_TILE;
    uint n_rows = min(o.f - row0, (uint)METAL_ROWS);
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    tokens tk = tokens_range(c, t0, min(c.step->n_tok - t0, (uint)METAL_TILE));
    float g[METAL_TILE / 8];
    product(c, o.w1, 0, row0, n_rows, 0, o.x, o.x_act, tk, st, out);
    for (uint j = c.sg, i = 0; j < tk.n; j += 8, i++) {
        g[i] = out[j * METAL_ROWS + c.lane];
    }
    sync();
    product(c, o.w3, 0, row0, n_rows, 0, o.x, o.x_act, tk, st, out);
    for (uint j = c.sg, i = 0; j < tk.n; j += 8, i++) {
        float h = c.lane < n_rows ? swiglu(g[i], out[j * METAL_ROWS + c.lane], o.lim) : 0.0f;
        if (c.lane < n_rows && present(o.h)) {
            floats_at(c, o.h, t0 + j)[row0 + c.lane] = h;
        }
        if (present(o.h_act)) {
            a8_put(c, o.h_act, t0 + j, row0, h);
        }
    }
}
