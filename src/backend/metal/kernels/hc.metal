/* hc.metal - EMBED and the hyper-connections: HC_MIX, HC_NORM, HC_HEAD, and what a product does to
 * the residual streams (HCpost), with the next HC_MIX behind it where the host folds it in. */

inline void task_embed(thread const ctx &c, constant metal_embed &o)
{
    uint t = c.group, id = c.tok[t];
    if (id == 0xFFFFFFFFu) {
        id = words_at(c, o.picked, 0)[seq_of(c, t).state];
    }
    device const uchar *row = mat_row(c, o.table, 0, id);
    device float *x = floats_at(c, o.x, t);
    for (uint i = c.t; i < o.d; i += METAL_THREADS) {
        float v = value_of(o.table.type, row, i);
        for (uint j = 0; j < o.hc; j++) {
            x[j * o.d + i] = v;
        }
    }
}

/* Sums of one chunk of 32 columns for one row, by 16 lanes per output (op.h); x: [hc][stride], its
 * columns [0, n) in any memory. First output `first`, every `step`-th. */
template <typename X>
inline void mix_chunk(thread const ctx &c, constant metal_hc_mix &o, X x, uint stride,
                      uint chunk, uint n, device float *mixp, uint first, uint step)
{
    uint l = c.lane % 16;
    for (uint base = first; base <= o.m; base += step) {
        uint i = base + c.lane / 16;
        float acc = 0.0f;
        for (uint j = 0; j < o.hc && i <= o.m; j++) {
            for (uint d = l; d < n; d += 16) {
                float v = x[j * stride + d];
                float w = v;
                if (i < o.m) {
                    w = value_of(o.fn.type, mat_row(c, o.fn, 0, i), j * o.d + 32 * chunk + d);
                }
                acc = fma(w, v, acc);
            }
        }
        for (ushort h = 8; h > 0; h /= 2) {
            acc = acc + simd_shuffle_down(acc, h);
        }
        if (l == 0 && i <= o.m) {
            mixp[chunk * (o.m + 1) + i] = acc;
        }
    }
}

/* One simdgroup a chunk. */
inline void task_hc_mix(thread const ctx &c, constant metal_hc_mix &o)
{
    uint per_row = (o.nc + 7) / 8, row = c.group / per_row,
         chunk = c.group % per_row * 8 + c.sg;
    if (chunk < o.nc) {
        device const float *x = floats_at(c, o.x, token_row(c, o.rows_out, row)) + 32 * chunk;
        mix_chunk(c, o, x, o.d, chunk, min(o.d - 32 * chunk, 32u), floats_at(c, o.mixp, row), 0,
                  2);
    }
}

/* The matrix C from Z in lanes j * hc + k: softmax of rows, then column, row, column ... steps. All
 * 32 lanes; those from hc * hc on compute along. */
inline float mix_matrix(float z, uint lane, uint hc, uint iters, float eps)
{
    uint j = lane / hc * hc, k = lane % hc;
    float m = simd_shuffle(z, ushort(j));
    for (uint i = 1; i < hc; i++) {
        float y = simd_shuffle(z, ushort(j + i));
        m = y > m ? y : m;
    }
    float v = exp_one(z - m), s = 0.0f;
    for (uint i = 0; i < hc; i++) {
        s = s + simd_shuffle(v, ushort(j + i));
    }
    v = v / s + eps;
    for (uint it = 0; it < 2 * iters - 1; it++) {
        s = 0.0f;
        for (uint i = 0; i < hc; i++) {
            s = s + simd_shuffle(v, ushort(it % 2 ? j + i : i * hc + k));
        }
        v = v / (s + eps);
    }
    return v;
}

/* HC_NORM of a token row, or HC_HEAD of an out row. */
inline void task_hc_norm(thread const ctx &c, constant metal_hc_norm &o)
{
    uint row = c.group, hc = o.hc, m = o.head ? hc : (2 + hc) * hc;
    threadgroup float *mix = c.tg, *room = c.tg + 64, *pre = c.tg + 80,
                      *x = c.tg + METAL_AT_HC_VECTOR;
    device const float *mixp = floats_at(c, o.mixp, row);
    device const float *scale = vec_at(c, o.scale), *base = vec_at(c, o.base);
    if (c.t <= m) {
        float s = 0.0f;
        for (uint i = 0; i < o.nc; i++) {
            s = s + mixp[i * (m + 1) + c.t];
        }
        mix[c.t] = s;
    }
    sync();
    float r = 1.0f / precise::sqrt(mix[m] / float(hc * o.d) + o.eps);
    if (c.t < hc) {
        pre[c.t] = sigmoid(mix[c.t] * r * scale[0] + base[c.t]) + o.hc_eps;
    }
    if (!o.head && c.t < hc) {
        floats_at(c, o.post, row)[c.t] =
            2.0f * sigmoid(mix[hc + c.t] * r * scale[1] + base[hc + c.t]);
    }
    if (!o.head && c.sg == 1) {
        uint l = min(c.lane, hc * hc - 1);
        float z = mix_matrix(mix[2 * hc + l] * r * scale[2] + base[2 * hc + l], l, hc, o.iters,
                             o.hc_eps);
        if (c.lane < hc * hc) {
            floats_at(c, o.comb, row)[l] = z;
        }
    }
    sync();
    device const float *streams = floats_at(c, o.x, token_row(c, o.head, row));
    device const float *w = vec_at(c, o.norm);
    float s = 0.0f;
    for (uint d = c.t; d < o.d; d += METAL_THREADS) {
        float y = 0.0f;
        for (uint j = 0; j < hc; j++) {
            y = fma(pre[j], streams[j * o.d + d], y);
        }
        s = fma(y, y, s);
    }
    float f = 1.0f / precise::sqrt(group_sum(c, s, room) / float(o.d) + o.eps);
    for (uint d0 = 0; d0 < o.d;
         d0 += METAL_PIECE) { /* in pieces: D may be longer than the memory */
        uint n = min(o.d - d0, (uint)METAL_PIECE);
        for (uint i = c.t; i < n; i += METAL_THREADS) {
            float y = 0.0f;
            for (uint j = 0; j < hc; j++) {
                y = fma(pre[j], streams[j * o.d + d0 + i], y);
            }
            x[i] = y * f * w[d0 + i];
        }
        sync();
        out_put(c, o.xn, o.xn_act, row, d0, x, n);
        sync();
    }
}

/* HCpost on columns [d0, d0 + n) of token t, y[0..n) in threadgroup memory; then, if mix.m > 0,
 * those columns' sums of the next HC_MIX. `room`: hc * 32 floats. All threads. */
inline void hc_post(thread const ctx &c, constant metal_opnd &hc_x, constant metal_opnd &post,
                    constant metal_opnd &comb, uint hc, uint d, uint t, uint d0, uint n,
                    threadgroup const float *y, constant metal_hc_mix &mix,
                    threadgroup float *room)
{
    device float *x = floats_at(c, hc_x, t) + d0;
    device const float *p = floats_at(c, post, t), *cm = floats_at(c, comb, t);
    uint k = c.t / 32, i = c.lane; /* simdgroup k makes stream k: hc <= 8 */
    float v = 0.0f;
    if (k < hc && i < n) {
        v = p[k] * y[i];
        for (uint j = 0; j < hc; j++) {
            v = fma(cm[j * hc + k], x[j * d + i], v);
        }
    }
    sync(); /* every stream has been read */
    if (k < hc && i < n) {
        x[k * d + i] = v;
        room[k * 32 + i] = v;
    }
    if (mix.m > 0) {
        sync();
        mix_chunk(c, mix, (threadgroup const float *)room, 32, d0 / 32, n,
                  floats_at(c, mix.mixp, t), 2 * c.sg, METAL_THREADS / 16);
    }
    sync();
}
