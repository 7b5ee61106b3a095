/* select.metal - INDEX_SELECT and PICK: exact selection of the k largest of many floats, in two
 * parts: the k-th largest key by four passes over its bytes, then the chosen ones in ascending order
 * of their number. Counts are integers, so no order of addition matters; ties go to the lower number. */

constant uint SEL_HIST = 0;   /* 256 counters */
constant uint SEL_ROOM = 256; /* 8 + 8 totals of the simdgroups, results */
constant uint SEL_LIST = 288; /* PICK: 64 ids, 64 logits; METAL_SELECT_FLOATS in all */

/* Larger float, larger key; NaN gets 0, the smallest. */
inline uint key_of(float x)
{
    uint u = as_type<uint>(x);
    u = u >> 31 ? ~u : u | 0x80000000u;
    return is_nan(x) ? 0u : u;
}

/* What is selected from: n items, some of them absent. */
struct scores {
    device const float *x;
    device const uint *mask; /* bit i allows item i; absent: all */
    bool masked, nan_out;    /* NaN takes no part */
    uint n;
};
inline bool item(thread const scores &s, uint i, thread uint &key)
{
    if (s.masked && !(s.mask[i / 32] >> (i % 32) & 1u)) {
        return false;
    }
    float x = s.x[i];
    key = key_of(x);
    return !(s.nan_out && is_nan(x));
}

struct threshold {
    uint key;   /* items with a larger key are chosen */
    uint equal; /* and the first so many with this one */
};

/* The k-th largest of the items that take part; there are at least k >= 1. All threads. */
inline threshold kth_largest(thread const ctx &c, thread const scores &s, uint k)
{
    threadgroup atomic_uint *hist = (threadgroup atomic_uint *)(c.tg + SEL_HIST);
    threadgroup uint *result = (threadgroup uint *)(c.tg + SEL_ROOM + 16);
    uint prefix = 0, left = k;
    for (uint shift = 32; shift > 0;) {
        shift -= 8;
        atomic_store_explicit(&hist[c.t], 0u, memory_order_relaxed);
        sync();
        for (uint i = c.t; i < s.n; i += METAL_THREADS) {
            uint key = 0;
            if (item(s, i, key) && (shift == 24 || key >> (shift + 8) == prefix)) {
                atomic_fetch_add_explicit(&hist[key >> shift & 255u], 1u, memory_order_relaxed);
            }
        }
        sync();
        if (c.t == 0) {
            uint b = 255, above = 0;
            for (; b > 0; b--) {
                uint n = atomic_load_explicit(&hist[b], memory_order_relaxed);
                if (above + n >= left) {
                    break;
                }
                above += n;
            }
            result[0] = b;
            result[1] = left - above;
        }
        sync();
        prefix = prefix << 8 | result[0];
        left = result[1];
        sync();
    }
    return {prefix, left};
}

/* Exclusive prefix of `flag` over the threads and the total; two threadgroup words per simdgroup. */
inline uint2 group_prefix(thread const ctx &c, uint flag, uint room_at)
{
    threadgroup uint *room = (threadgroup uint *)(c.tg + room_at);
    uint inside = simd_prefix_exclusive_sum(flag);
    if (c.lane == 31) {
        room[c.sg] = inside + flag;
    }
    sync();
    uint before = 0, total = 0;
    for (uint i = 0; i < METAL_THREADS / 32; i++) {
        before += i < c.sg ? room[i] : 0;
        total += room[i];
    }
    sync();
    return uint2(before + inside, total);
}

/* ---- INDEX_SELECT ---- */

/* Threadgroup memory of INDEX_SCORE: IDX_I, then keys [32 rows][n], then queries [16 heads][n]. */
constant uint IDX_I = 0; /* [16][32] sums of one group; then ReLU of the dots */
constant uint IDX_K = METAL_INDEX_SUMS;

/* Scores of 32 rows for one token: heads by sixteens, exact sums of 32 by simdgroup matrices, group
 * sums added ascending, heads ascending. n is a multiple of 32, at most 128. */
inline void task_index_score(thread const ctx &c, constant metal_index &o)
{
    uint tiles = (o.max_rows + 31) / 32, t = c.tok0 + c.group / tiles,
         row0 = c.group % tiles * 32;
    constant metal_seq &q = seq_of(c, t);
    uint n_vis = rows_seen(pos_of(q, t), o.ratio);
    if (n_vis <= o.k_sel || row0 >= n_vis) {
        return;
    }
    for (uint i = c.t; i < 32 * o.n; i += METAL_THREADS) {
        uint row = min(row0 + i / o.n, n_vis - 1),
             page = c.pages[q.page0 + row / o.rows_per_page];
        uint slot = row % o.rows_per_page;
        c.tg[IDX_K + i] = stored_value(o.geom, page_at(c, o.rows.codes, page, slot),
                                       page_scales(c, o.rows, page, slot), i % o.n);
    }
    uint at_q = IDX_K + 32 * o.n;
    float score = 0.0f;
    for (uint h0 = 0; h0 < o.heads; h0 += 16) {
        sync();
        for (uint h = c.sg; h < 16; h += 8) {
            threadgroup float *x = c.tg + at_q + h * o.n;
            bool there = h0 + h < o.heads;
            device const float *from = floats_at(c, o.qi, t) + (there ? h0 + h : 0) * o.n;
            for (uint i = c.lane; i < o.n; i += 32) {
                x[i] = there ? from[i] : 0.0f;
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            if (o.finish.heads) {
                finish_head(c, o.finish, x, token_angles(c, o.finish.rope, t),
                            c.step->angle_row[o.finish.rope] / 2);
            }
        }
        float dot0 = 0.0f, dot1 = 0.0f;
        for (uint g = 0; g < o.n; g += 32) {
            sync();
            simdgroup_float8x8 a, b, acc = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            uint hh = c.sg / 4 * 8, rr = c.sg % 4 * 8;
            for (uint j = 0; j < 32; j += 8) {
                simdgroup_load(a, c.tg + at_q + hh * o.n + g + j, o.n);
                simdgroup_load(b, c.tg + IDX_K + rr * o.n + g + j, o.n, ulong2(0), true);
                simdgroup_multiply_accumulate(acc, a, b, acc);
            }
            simdgroup_store(acc, c.tg + IDX_I + hh * 32 + rr, 32);
            sync();
            dot0 = dot0 + c.tg[IDX_I + c.t];
            dot1 = dot1 + c.tg[IDX_I + 256 + c.t];
        }
        sync();
        c.tg[IDX_I + c.t] = dot0 < 0.0f ? 0.0f : dot0; /* NaN stays */
        c.tg[IDX_I + 256 + c.t] = dot1 < 0.0f ? 0.0f : dot1;
        sync();
        for (uint h = 0; c.t < 32 && h < min(o.heads - h0, 16u); h++) {
            score =
                fma(c.tg[IDX_I + 32 * h + c.t], floats_at(c, o.iw, t)[h0 + h] * o.scale, score);
        }
    }
    if (c.t < 32 && row0 + c.t < n_vis) {
        ((device float *)(c.scratch +
                          o.scratch))[(ulong)(t - c.tok0) * o.max_rows + row0 + c.t] = score;
    }
}

inline void task_index_top(thread const ctx &c, constant metal_index &o)
{
    uint t = c.tok0 + c.group, n_vis = rows_seen(pos_of(seq_of(c, t), t), o.ratio);
    device uint *sel = words_at(c, o.sel, t);
    if (c.t == 0) {
        words_at(c, o.n_sel, t)[0] = min(n_vis, o.k_sel);
    }
    if (n_vis <= o.k_sel) {
        for (uint i = c.t; i < n_vis; i += METAL_THREADS) {
            sel[i] = i;
        }
        return;
    }
    scores s = {(device const float *)(c.scratch + o.scratch) + (ulong)c.group * o.max_rows,
                nullptr, false, false, n_vis};
    threshold th = kth_largest(c, s, o.k_sel);
    uint taken = 0, equal = 0;
    for (uint base = 0; base < n_vis; base += METAL_THREADS) {
        uint i = base + c.t, key = 0;
        bool in = i < n_vis && item(s, i, key), same = in && key == th.key;
        uint2 e = group_prefix(c, same ? 1u : 0u, SEL_ROOM);
        bool take = in && (key > th.key || (same && equal + e.x < th.equal));
        uint2 p = group_prefix(c, take ? 1u : 0u, SEL_ROOM);
        if (take) {
            sel[taken + p.x] = i;
        }
        equal += e.y;
        taken += p.y;
    }
}

/* ---- PICK ---- */

struct pick_list {
    uint n_valid, n_nan, n;
};

/* The best 64 into SEL_LIST (ids, then logits), unsorted. */
inline pick_list pick_candidates(thread const ctx &c, thread const scores &s)
{
    threadgroup uint *ids = (threadgroup uint *)(c.tg + SEL_LIST);
    threadgroup float *logits = c.tg + SEL_LIST + 64;
    uint valid = 0, nan = 0;
    for (uint base = 0; base < s.n; base += METAL_THREADS) {
        uint i = base + c.t, key = 0;
        bool in = i < s.n && item(s, i, key);
        bool allowed = i < s.n && (!s.masked || (s.mask[i / 32] >> (i % 32) & 1u));
        valid += in;
        nan += allowed && is_nan(s.x[i]);
    }
    pick_list r;
    r.n_valid = group_prefix(c, valid, SEL_ROOM).y; /* totals of any numbers */
    r.n_nan = group_prefix(c, nan, SEL_ROOM).y;
    r.n = min(r.n_valid, 64u);
    if (r.n == 0) {
        return r;
    }
    threshold th = kth_largest(c, s, r.n);
    uint taken = 0, equal = 0;
    for (uint base = 0; base < s.n && taken < r.n; base += METAL_THREADS) {
        uint i = base + c.t, key = 0;
        bool in = i < s.n && item(s, i, key), same = in && key == th.key;
        uint2 e = group_prefix(c, same ? 1u : 0u, SEL_ROOM);
        bool take = in && (key > th.key || (same && equal + e.x < th.equal));
        uint2 p = group_prefix(c, take ? 1u : 0u, SEL_ROOM);
        if (take) {
            ids[taken + p.x] = i;
            logits[taken + p.x] = s.x[i];
        }
        equal += e.y;
        taken += p.y;
    }
    sync();
    return r;
}

inline void task_pick(thread const ctx &c, constant metal_pick &o)
{
    uint row = c.group;
    constant metal_seq &q = seq_of(c, c.out_rows[row]);
    scores s = {floats_at(c, o.logits, row), words_at(c, o.mask, row), c.step->use_mask != 0,
                true, o.vocab};
    device uint *rec = words_at(c, o.picks, row);
    pick_list l = pick_candidates(c, s);
    threadgroup uint *ids = (threadgroup uint *)(c.tg + SEL_LIST);
    threadgroup float *logits = c.tg + SEL_LIST + 64;
    for (uint i = c.t; i < 128; i += METAL_THREADS) {
        rec[4 + i] = 0;
    }
    sync();
    float best = 0.0f;
    for (uint i = 0; i < l.n; i++) {
        best = i == 0 || logits[i] > best ? logits[i] : best;
    }
    if (c.t < l.n) { /* rank: how many come before */
        uint rank = 0;
        for (uint i = 0; i < l.n; i++) {
            rank += logits[i] > logits[c.t] || (logits[i] == logits[c.t] && ids[i] < ids[c.t]);
        }
        rec[4 + 2 * rank] = ids[c.t];
        rec[5 + 2 * rank] = as_type<uint>(logits[c.t]);
        if (rank == 0) {
            rec[0] = ids[c.t];
            if (row + 1 == q.out0 + q.n_out) {
                words_at(c, o.picked, 0)[q.state] = ids[c.t];
            }
        }
    }
    float sum = 0.0f;
    for (uint i = c.t; i < o.vocab && l.n; i += METAL_THREADS) {
        uint key = 0;
        if (item(s, i, key)) {
            sum = sum + exp_one(s.x[i] - best);
        }
    }
    sum = group_sum(c, sum, c.tg + SEL_ROOM);
    if (c.t == 0) {
        float lse = best;
        if (l.n && is_finite(best)) {
            lse = best + precise::log(sum);
        }
        rec[1] = l.n;
        rec[2] = l.n ? as_type<uint>(lse) : 0xFF800000u; /* -infinity */
        rec[3] = l.n_nan;
        if (l.n == 0) {
            rec[0] = 0;
            if (row + 1 == q.out0 + q.n_out) {
                words_at(c, o.picked, 0)[q.state] = 0;
            }
        }
    }
}
