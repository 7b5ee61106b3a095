/* attn.metal - ATTN. A threadgroup takes 8 heads (one a simdgroup) of one token; stored rows are
 * decoded four at a time into threadgroup memory and serve all 8. A split of 128 entries gives each
 * head (max, sum, o); splits are merged in order, either by the same threadgroup (many tokens) or,
 * from scratch, by a second dispatch (few tokens, so that the splits spread over the chip). Sums over
 * a head's elements and over a split's weights: lane i % 32 ascending, then the tree of lanes_sum. */

/* Threadgroup memory, n elements a head: queries, then results [8][n]; scores, then weights [8][128]; rows [4][n].
 * ATTN_MERGE has the first only. */
inline threadgroup float *head_room(thread const ctx &c, uint n)
{
    return c.tg + c.sg * n;
}
inline threadgroup float *score_room(thread const ctx &c, uint n)
{
    return c.tg + METAL_HEADS * n + c.sg * METAL_SPLIT;
}
inline threadgroup float *row_room(thread const ctx &c, uint n)
{
    return c.tg + METAL_HEADS * (n + METAL_SPLIT);
}

struct entries {
    uint first, n_win, n;
    bool all; /* compressed rows 0, 1, 2 ...; else those of sel */
};
inline entries entries_of(thread const ctx &c, constant metal_attn &o, uint t)
{
    constant metal_seq &q = seq_of(c, t);
    uint pos = pos_of(q, t);
    entries e;
    e.first = win_first(q, pos, o.window);
    e.n_win = pos + 1 - e.first;
    e.all = !present(o.sel);
    uint n_comp = present(o.sel) ? words_at(c, o.n_sel, t)[0]
                  : o.ratio      ? rows_seen(pos, o.ratio)
                                 : 0;
    e.n = e.n_win + n_comp;
    return e;
}

/* Element d of entry i. */
inline float entry_value(thread const ctx &c, constant metal_attn &o, thread const entries &e,
                         uint t, uint i, uint d)
{
    constant metal_seq &q = seq_of(c, t);
    if (i < e.n_win) {
        uint p = e.first + i;
        if (p >= q.n0) {
            uint row = q.tok0 + (p - q.n0);
            return stored_value(o.geom, row_at(c, o.wrow.codes, row),
                                row_scales(c, o.wrow, row), d);
        }
        return stored_value(o.geom, state_at(c, o.ring.codes, q.state, p % o.slots),
                            state_scales(c, o.ring, q.state, p % o.slots), d);
    }
    uint row = e.all ? i - e.n_win : words_at(c, o.sel, t)[i - e.n_win];
    uint page = c.pages[q.page0 + row / o.rows_per_page], slot = row % o.rows_per_page;
    return stored_value(o.geom, page_at(c, o.rows.codes, page, slot),
                        page_scales(c, o.rows, page, slot), d);
}
inline void load_rows(thread const ctx &c, constant metal_attn &o, thread const entries &e,
                      uint t, uint i0, uint n)
{
    sync(); /* the last tile has been read */
    for (uint i = c.t; i < n * o.n; i += METAL_THREADS) {
        row_room(c, o.n)[i] = entry_value(c, o, e, t, i0 + i / o.n, i % o.n);
    }
    sync();
}

struct head_part {
    float m, sum;
    float o[METAL_HEAD_MAX / 32]; /* element lane + 32 i */
};

/* Entries [i0, i0 + n) for this simdgroup's head. */
inline head_part attend(thread const ctx &c, constant metal_attn &o, thread const entries &e,
                        uint t, uint i0, uint n)
{
    threadgroup float *q = head_room(c, o.n), *s = score_room(c, o.n);
    head_part r;
    for (uint a = 0; a < n; a += METAL_ATTN_ROWS) {
        uint len = min(n - a, (uint)METAL_ATTN_ROWS);
        load_rows(c, o, e, t, i0 + a, len);
        threadgroup const float *row =
            row_room(c, o.n); /* rows behind the last: old ones, not used */
        float4 v = float4(0.0f);
        for (uint d = c.lane; d < o.n; d += 32) {
            v = fma(float4(q[d]),
                    float4(row[d], row[o.n + d], row[2 * o.n + d], row[3 * o.n + d]), v);
        }
        for (ushort h = 16; h > 0; h /= 2) { /* the tree of lanes_sum, four rows at once */
            v = v + simd_shuffle_xor(v, h);
        }
        if (c.lane < len) {
            s[a + c.lane] = v[c.lane] * o.scale;
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    float m = -MAXFLOAT;
    for (uint i = c.lane; i < n; i += 32) {
        m = s[i] > m ? s[i] : m;
    }
    r.m = lanes_max(m);
    float sum = 0.0f;
    for (uint i = c.lane; i < n; i += 32) {
        float w = exp_one(s[i] - r.m);
        s[i] = w;
        sum = sum + w;
    }
    r.sum = lanes_sum(sum);
    for (uint k = 0; k < METAL_HEAD_MAX / 32; k++) {
        r.o[k] = 0.0f;
    }
    for (uint a = 0; a < n; a += METAL_ATTN_ROWS) {
        uint len = min(n - a, (uint)METAL_ATTN_ROWS);
        load_rows(c, o, e, t, i0 + a, len);
        for (uint j = 0; j < len; j++) {
            threadgroup const float *row = row_room(c, o.n) + j * o.n;
            float w = s[a + j];
            for (uint k = 0; 32 * k < o.n; k++) {
                if (32 * k + c.lane < o.n) {
                    r.o[k] = fma(w, row[32 * k + c.lane], r.o[k]);
                }
            }
        }
    }
    return r;
}

/* Running merge: the sink first, then splits in order. */
inline void merge_part(thread head_part &to, float m, float sum, thread const float *o,
                       uint n_k)
{
    float top = m > to.m ? m : to.m, a = exp_one(to.m - top), b = exp_one(m - top);
    to.sum = to.sum * a + sum * b;
    for (uint k = 0; k < n_k; k++) {
        to.o[k] = to.o[k] * a + o[k] * b;
    }
    to.m = top;
}
inline head_part sink_part(thread const ctx &c, constant metal_attn &o, uint h)
{
    head_part r;
    r.m = vec_at(c, o.sink)[h];
    r.sum = 1.0f;
    for (uint k = 0; k < METAL_HEAD_MAX / 32; k++) {
        r.o[k] = 0.0f;
    }
    return r;
}

/* o / sum, inverse RoPE, output; by the head's simdgroup. x: METAL_HEAD_MAX floats of its own. */
inline void write_head(thread const ctx &c, constant metal_attn &o, uint t, uint h,
                       thread const head_part &r, threadgroup float *x)
{
    for (uint k = 0; 32 * k < o.n; k++) {
        if (32 * k + c.lane < o.n) {
            x[32 * k + c.lane] = r.o[k] / r.sum;
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    uint n_pairs = c.step->angle_row[o.rope] / 2;
    device const float *cs = token_angles(c, o.rope, t);
    threadgroup float *y = x + o.n - 2 * n_pairs;
    for (uint i = c.lane; i < n_pairs; i += 32) {
        float a = y[2 * i], b = y[2 * i + 1];
        y[2 * i] = a * cs[2 * i] + b * cs[2 * i + 1];
        y[2 * i + 1] = b * cs[2 * i] - a * cs[2 * i + 1];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = c.lane; present(o.o) && i < o.n; i += 32) {
        floats_at(c, o.o, t)[h * o.n + i] = x[i];
    }
    for (uint i = 0; present(o.o_act) && i < o.n; i += 32) {
        a8_put(c, o.o_act, t, h * o.n + i, x[i + c.lane]);
    }
}

/* The query of this simdgroup's head; heads behind the last repeat it and are not written. A barrier
 * stands in finish_head and before the rows are read. */
inline void load_query(thread const ctx &c, constant metal_attn &o, uint t, uint h)
{
    threadgroup float *q = head_room(c, o.n);
    device const float *x = floats_at(c, o.q, t) + h * o.n;
    for (uint i = c.lane; i < o.n; i += 32) {
        q[i] = x[i];
    }
    if (o.finish.heads) {
        finish_head(c, o.finish, q, token_angles(c, o.finish.rope, t),
                    c.step->angle_row[o.finish.rope] / 2);
    }
}
inline device float *part_at(thread const ctx &c, constant metal_attn &o, uint t, uint h,
                             uint split)
{
    return (device float *)(c.scratch + o.scratch) +
           (((ulong)t * o.heads + h) * o.max_splits + split) * (o.n + 2);
}

inline void task_attn(thread const ctx &c, constant metal_attn &o)
{
    uint per_tok = (o.heads + METAL_HEADS - 1) / METAL_HEADS * (o.whole ? 1 : o.max_splits);
    uint t = c.group / per_tok, i = c.group % per_tok;
    uint split = o.whole ? 0 : i % o.max_splits, h8 = o.whole ? i : i / o.max_splits;
    uint h = h8 * METAL_HEADS + c.sg;
    bool mine = h < o.heads;
    h = mine ? h : o.heads - 1;
    entries e = entries_of(c, o, t);
    if (!o.whole && split * METAL_SPLIT >= e.n) {
        return;
    }
    load_query(c, o, t, h);
    if (!o.whole) {
        uint i0 = split * METAL_SPLIT;
        head_part r = attend(c, o, e, t, i0, min(e.n - i0, (uint)METAL_SPLIT));
        device float *out = part_at(c, o, t, h, split);
        for (uint k = 0; mine && 32 * k < o.n; k++) {
            if (32 * k + c.lane < o.n) {
                out[2 + 32 * k + c.lane] = r.o[k];
            }
        }
        if (mine && c.lane == 0) {
            out[0] = r.m;
            out[1] = r.sum;
        }
        return;
    }
    head_part all = sink_part(c, o, h);
    for (uint i0 = 0; i0 < e.n; i0 += METAL_SPLIT) {
        head_part r = attend(c, o, e, t, i0, min(e.n - i0, (uint)METAL_SPLIT));
        merge_part(all, r.m, r.sum, r.o, (o.n + 31) / 32);
    }
    sync(); /* the queries have been used: their memory serves the result */
    if (mine) {
        write_head(c, o, t, h, all, head_room(c, o.n));
    }
}

inline void task_attn_merge(thread const ctx &c, constant metal_attn &o)
{
    uint per_tok = (o.heads + METAL_HEADS - 1) / METAL_HEADS, t = c.group / per_tok;
    uint h = c.group % per_tok * METAL_HEADS + c.sg;
    if (h >= o.heads) {
        return;
    }
    uint n = entries_of(c, o, t).n;
    head_part all = sink_part(c, o, h);
    for (uint s = 0; s * METAL_SPLIT < n; s++) {
        device const float *in = part_at(c, o, t, h, s);
        float v[METAL_HEAD_MAX / 32];
        for (uint k = 0; k < METAL_HEAD_MAX / 32; k++) {
            v[k] = 32 * k + c.lane < o.n ? in[2 + 32 * k + c.lane] : 0.0f;
        }
        merge_part(all, in[0], in[1], v, (o.n + 31) / 32);
    }
    write_head(c, o, t, h, all, head_room(c, o.n));
}
