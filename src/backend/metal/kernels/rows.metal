/* rows.metal - KV_ROW, HEAD_FINISH, RING_STORE, COMPRESS: the small ops on stored rows. */

inline void task_kv_row(thread const ctx &c, constant metal_kv_row &o)
{
    uint t = c.group, n = o.geom.n;
    threadgroup float *room = c.tg, *y = c.tg + METAL_AT_VECTOR;
    device const float *x = floats_at(c, o.x, t), *w = vec_at(c, o.w);
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        y[i] = x[i];
    }
    sync();
    float f = norm_factor(c, y, n, o.eps, room);
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        y[i] = y[i] * f * w[i];
    }
    sync();
    uint n_pairs = c.step->angle_row[o.rope] / 2;
    rope_pairs(c, y + n - 2 * n_pairs, n_pairs, token_angles(c, o.rope, t));
    sync();
    store_row(c, o.geom, y, row_at(c, o.wrow.codes, t), row_scales(c, o.wrow, t));
}

/* One head in threadgroup memory, by its simdgroup: norm, RoPE, Hadamard, FP4. Sums run over the 32
 * lanes (element i in lane i % 32, ascending) and their tree. */
inline void finish_head(thread const ctx &c, constant metal_head_finish &o,
                        threadgroup float *q, device const float *cs, uint n_pairs)
{
    if (o.norm) {
        float s = 0.0f;
        for (uint i = c.lane; i < o.n; i += 32) {
            s = fma(q[i], q[i], s);
        }
        float f = 1.0f / precise::sqrt(lanes_sum(s) / float(o.n) + o.eps);
        for (uint i = c.lane; i < o.n; i += 32) {
            q[i] = q[i] * f;
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup float *x = q + o.n - 2 * n_pairs;
    for (uint i = c.lane; i < n_pairs; i += 32) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cs[2 * i] - b * cs[2 * i + 1];
        x[2 * i + 1] = a * cs[2 * i + 1] + b * cs[2 * i];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (o.index) {
        float f = 1.0f;
        for (uint k = o.n; k > 1; k /= 4) {
            f = k == 2 ? f * 0.70710678118654752f : f * 0.5f;
        }
        for (uint stride = 1; stride < o.n; stride *= 2) {
            for (uint p = c.lane; p < o.n / 2; p += 32) {
                uint i = p / stride * 2 * stride + p % stride;
                float a = q[i], b = q[i + stride];
                q[i] = a + b;
                q[i + stride] = a - b;
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (uint i = c.lane; i < o.n; i += 32) {
            q[i] = q[i] * f;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    for (uint b = 0; o.fp4 && b < o.n; b += 32) {
        float v = q[b + c.lane];
        float m = max(lanes_max(finite_or_zero(v)), 6.0f * 1.1754943508222875e-38f);
        float scale = e8m0_value(ue8m0_ceil(m * (1.0f / 6.0f)));
        q[b + c.lane] = e2m1_value(e2m1_code(v / scale)) * scale;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

/* Eight heads a threadgroup. */
inline void task_head_finish(thread const ctx &c, constant metal_head_finish &o)
{
    uint per_tok = (o.heads + 7) / 8, t = c.group / per_tok, h = c.group % per_tok * 8 + c.sg;
    threadgroup float *q = c.tg + c.sg * o.n;
    if (h < o.heads) {
        device float *x = floats_at(c, o.q, t) + h * o.n;
        for (uint i = c.lane; i < o.n; i += 32) {
            q[i] = x[i];
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        finish_head(c, o, q, token_angles(c, o.rope, t), c.step->angle_row[o.rope] / 2);
        for (uint i = c.lane; i < o.n; i += 32) {
            x[i] = q[i];
        }
    }
}

inline void copy_bytes(thread const ctx &c, device uchar *to, device const uchar *from, uint n)
{
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        to[i] = from[i];
    }
}
inline void task_ring_store(thread const ctx &c, constant metal_ring_store &o)
{
    uint t = c.group;
    constant metal_seq &q = seq_of(c, t);
    uint p = pos_of(q, t);
    if (p < ring_first(q, o.slots)) {
        return;
    }
    copy_bytes(c, state_at(c, o.ring.codes, q.state, p % o.slots), row_at(c, o.wrow.codes, t),
               o.wrow.codes.cols);
    if (present(o.wrow.scales)) {
        copy_bytes(c, state_scales(c, o.ring, q.state, p % o.slots),
                   row_at(c, o.wrow.scales, t), o.wrow.scales.cols);
    }
}

/* ---- COMPRESS ---- */

/* Input a and gate g (with ape) of channel ch, half `half`, position p. */
inline float2 comp_input(thread const ctx &c, constant metal_compress &o, constant metal_seq &q,
                         uint p, uint half_, uint ch)
{
    uint n = o.geom.n;
    if (p >= q.n0) {
        device const float *x = floats_at(c, o.x, q.tok0 + (p - q.n0));
        float ape = vec_at(c, o.ape)[((ulong)(p % o.ratio) * o.k + half_) * n + ch];
        return float2(x[half_ * n + ch], x[(o.k + half_) * n + ch] + ape);
    }
    device const float *x = (device const float *)state_at(c, o.ring, q.state, p % o.slots);
    return float2(x[half_ * n + ch], x[(o.k + half_) * n + ch]);
}

/* Row `g` of the sequence; index: of this group among the step's completed ones. */
inline void comp_row(thread const ctx &c, constant metal_compress &o, constant metal_seq &q,
                     uint g, uint index)
{
    uint n = o.geom.n, first = g * o.ratio, end = first + o.ratio;
    uint from = o.k == 2 && first >= o.ratio ? first - o.ratio : first;
    from = from > q.start ? from : q.start;
    threadgroup float *room = c.tg, *row = c.tg + METAL_AT_VECTOR;
    for (uint ch = c.t; ch < n; ch += METAL_THREADS) {
        float m = -MAXFLOAT, den = 0.0f,
              num = 0.0f; /* not -INFINITY: no special values needed */
        for (uint p = from; p < end; p++) {
            float s = comp_input(c, o, q, p, o.k == 2 && p >= first, ch).y;
            m = s > m ? s : m;
        }
        for (uint p = from; p < end; p++) {
            float2 in = comp_input(c, o, q, p, o.k == 2 && p >= first, ch);
            float e = exp_one(in.y - m);
            den = den + e;
            num = fma(e, in.x, num);
        }
        row[ch] = num / den;
    }
    sync();
    float f = norm_factor(c, row, n, o.eps, room);
    device const float *w = vec_at(c, o.norm);
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        row[i] = row[i] * f * w[i];
    }
    sync();
    uint n_pairs = c.step->angle_row[o.rope] / 2;
    rope_pairs(c, row + n - 2 * n_pairs, n_pairs,
               c.angles + c.step->group_first[o.group_kind] + (ulong)index * 2 * n_pairs);
    sync();
    if (o.geom.kind == ROW_FP4) {
        hadamard_group(c, row, n);
    }
    uint page = c.pages[q.page0 + g / o.rows_per_page], slot = g % o.rows_per_page;
    store_row(c, o.geom, row, page_at(c, o.rows.codes, page, slot),
              page_scales(c, o.rows, page, slot));
    sync();
}

/* First halves of the group that ends at m. */
inline void comp_boundary(thread const ctx &c, constant metal_compress &o,
                          constant metal_seq &q, uint m)
{
    uint n = o.geom.n, copy = m / o.align % 2;
    for (uint j = 0; j < o.ratio; j++) {
        uint p = m - o.ratio + j;
        if (p >= q.start) {
            device float *out =
                (device float *)state_at(c, o.bound, q.state, copy * o.ratio + j);
            for (uint ch = c.t; ch < n; ch += METAL_THREADS) {
                float2 in = comp_input(c, o, q, p, 0, ch);
                out[ch] = in.x;
                out[n + ch] = in.y;
            }
        }
    }
}
inline void comp_boundaries(thread const ctx &c, constant metal_compress &o,
                            constant metal_seq &q)
{
    uint end = q.n0 + q.n_tok, last = end - end % o.align;
    if (o.k != 2 || !present(o.bound) || last <= q.n0) {
        return;
    }
    if (last - q.n0 > o.align) {
        comp_boundary(c, o, q, last - o.align);
    }
    comp_boundary(c, o, q, last);
}
inline void comp_ring(thread const ctx &c, constant metal_compress &o, constant metal_seq &q,
                      uint p)
{
    uint n = o.geom.n;
    device float *out = (device float *)state_at(c, o.ring, q.state, p % o.slots);
    for (uint half_ = 0; half_ < o.k; half_++) {
        for (uint ch = c.t; ch < n; ch += METAL_THREADS) {
            float2 in = comp_input(c, o, q, p, half_, ch);
            out[half_ * n + ch] = in.x;
            out[(o.k + half_) * n + ch] = in.y;
        }
    }
}

inline uint groups_of(constant metal_seq &q, uint ratio)
{
    uint a = group_first(q, ratio), b = group_end(q, ratio);
    return b > a ? b - a : 0;
}

/* Few tokens: everything of one sequence in one threadgroup, the ring last. */
inline void task_compress(thread const ctx &c, constant metal_compress &o)
{
    constant metal_seq &q = c.seq[c.group];
    uint index = 0;
    for (uint s = 0; s < c.group; s++) {
        index += groups_of(c.seq[s], o.ratio);
    }
    for (uint g = group_first(q, o.ratio); g < group_end(q, o.ratio); g++) {
        comp_row(c, o, q, g, index++);
    }
    comp_boundaries(c, o, q);
    sync();
    for (uint p = ring_first(q, o.slots); p < q.n0 + q.n_tok; p++) {
        comp_ring(c, o, q, p);
    }
}
/* Many tokens: groups of all sequences in order, then one threadgroup a sequence for boundaries. */
inline void task_compress_rows(thread const ctx &c, constant metal_compress &o)
{
    uint i = c.group;
    for (uint s = 0; s < c.step->n_seq; s++) {
        uint n = groups_of(c.seq[s], o.ratio);
        if (i < n) {
            comp_row(c, o, c.seq[s], group_first(c.seq[s], o.ratio) + i, c.group);
            return;
        }
        i -= n;
    }
    comp_boundaries(c, o, c.seq[i]);
}
inline void task_compress_ring(thread const ctx &c, constant metal_compress &o)
{
    constant metal_seq &q = seq_of(c, c.group);
    uint p = pos_of(q, c.group);
    if (p >= ring_first(q, o.slots)) {
        comp_ring(c, o, q, p);
    }
}
