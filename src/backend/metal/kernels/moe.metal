/* moe.metal - ROUTE, MOE_UP, MOE_DOWN. Few tokens: a threadgroup takes one (token, slot) and 32 rows;
 * many: one expert, 32 rows and all its tokens, so that weights are decoded once per 32 tokens. The
 * sum over a token's experts runs over ascending slots, the shared expert last, either way. */

/* log(1 + e^z) with full relative accuracy: the rounding of 1 + e is taken back. */
inline float softplus(float z)
{
    if (z > 20.0f) {
        return z;
    }
    float e = exp_one(z), w = 1.0f + e;
    return w == 1.0f ? e : precise::log(w) * (e / (w - 1.0f));
}
inline float route_score(float z)
{
    return precise::sqrt(softplus(z));
}

/* The experts of token t, ascending, and their weights, in threadgroup memory at METAL_AT_FEW. */
inline void route_token(thread const ctx &c, constant metal_route &o, uint t)
{
    threadgroup float *score = c.tg + METAL_AT_SCORE, *wt = c.tg + METAL_AT_FEW + METAL_K_MAX;
    threadgroup uint *idx = (threadgroup uint *)(c.tg + METAL_AT_FEW);
    device const float *z = floats_at(c, o.z, t);
    bool hashed = o.table.view != METAL_ABSENT, biased = o.bias.view != METAL_ABSENT;
    sync();
    for (uint e = c.t; e < o.n_expert; e += METAL_THREADS) {
        score[e] = route_score(z[e]);
    }
    if (hashed && c.t < o.k) {
        uint id = c.tok[t];
        id = id == 0xFFFFFFFFu ? words_at(c, o.picked, 0)[seq_of(c, t).state] : id;
        idx[c.t] = ((device const uint *)vec_at(c, o.table))[(ulong)id * o.k + c.t];
    }
    sync();
    for (uint s = 0; s < o.k && !hashed && c.sg == 0; s++) {
        uint best = 0xFFFFFFFFu, key = 0; /* keys are at least 1: NaN counts as -infinity */
        for (uint e = c.lane; e < o.n_expert; e += 32) {
            float v = biased ? score[e] + vec_at(c, o.bias)[e] : score[e];
            uint u = max(key_of(v), 1u);
            bool taken = false;
            for (uint i = 0; i < s; i++) {
                taken = taken || idx[i] == e;
            }
            if (!taken && u > key) {
                key = u;
                best = e;
            }
        }
        for (ushort h = 16; h > 0; h /= 2) {
            uint k2 = simd_shuffle_xor(key, h), b2 = simd_shuffle_xor(best, h);
            bool other = k2 > key || (k2 == key && b2 < best);
            key = other ? k2 : key;
            best = other ? b2 : best;
        }
        if (c.lane == 0) {
            idx[s] = best;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
    sync();
    if (c.t == 0) {
        for (uint i = 1; i < o.k; i++) {
            uint x = idx[i], j = i;
            for (; j > 0 && idx[j - 1] > x; j--) {
                idx[j] = idx[j - 1];
            }
            idx[j] = x;
        }
        float sum = 0.0f;
        for (uint s = 0; s < o.k; s++) {
            sum = sum + score[idx[s]];
        }
        for (uint s = 0; s < o.k; s++) {
            wt[s] = score[idx[s]] / sum * o.scale;
        }
    }
    sync();
}
inline void route_write(thread const ctx &c, constant metal_route &o, uint t)
{
    if (c.t < o.k) {
        words_at(c, o.idx, t)[c.t] = ((threadgroup uint *)(c.tg + METAL_AT_FEW))[c.t];
        floats_at(c, o.wt, t)[c.t] = c.tg[METAL_AT_FEW + METAL_K_MAX + c.t];
    }
    sync();
}
/* off and pair: pairs of an expert in token order. One threadgroup. */
inline void route_group(thread const ctx &c, constant metal_route &o)
{
    device uint *off = words_at(c, o.off, 0), *pair = words_at(c, o.pair, 0);
    threadgroup uint *count = (threadgroup uint *)(c.tg + METAL_AT_SCORE);
    for (uint e = c.t; e < o.n_expert; e += METAL_THREADS) {
        uint n = 0;
        for (uint t = 0; t < c.step->n_tok; t++) {
            for (uint s = 0; s < o.k; s++) {
                n += words_at(c, o.idx, t)[s] == e;
            }
        }
        count[e] = n;
    }
    sync();
    if (c.t == 0) {
        uint at = 0;
        for (uint e = 0; e < o.n_expert; e++) {
            uint n = count[e];
            off[e] = at;
            count[e] = at;
            at += n;
        }
        off[o.n_expert] = at;
    }
    sync();
    for (uint e = c.t; e < o.n_expert; e += METAL_THREADS) {
        uint at = count[e];
        for (uint t = 0; t < c.step->n_tok; t++) {
            for (uint s = 0; s < o.k; s++) {
                if (words_at(c, o.idx, t)[s] == e) {
                    pair[at++] = t * o.k + s;
                }
            }
        }
    }
    sync();
}
inline void task_route(thread const ctx &c, constant metal_route &o)
{
    for (uint t = 0; t < c.step->n_tok; t++) {
        route_token(c, o, t);
        route_write(c, o, t);
    }
    route_group(c, o);
}
inline void task_route_token(thread const ctx &c, constant metal_route &o)
{
    route_token(c, o, c.group);
    route_write(c, o, c.group);
}

/* ---- MOE_UP ---- */

/* Rows [row0, ...) of expert e for the tokens of tk; pair and weight of token j: pr[j], wt[j]. */
inline void up_block(thread const ctx &c, constant metal_moe_up &o, uint e, uint row0,
                     thread const tokens &tk, threadgroup const uint *pr,
                     threadgroup const float *wt)
{
    uint n_rows = min(o.f - row0, (uint)METAL_ROWS);
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    float g[METAL_TILE / 8];
    product(c, o.w1, e, row0, n_rows, 0, o.x, o.x_act, tk, st, out);
    for (uint j = c.sg, i = 0; j < tk.n; j += 8, i++) {
        g[i] = out[j * METAL_ROWS + c.lane];
    }
    sync();
    product(c, o.w3, e, row0, n_rows, 0, o.x, o.x_act, tk, st, out);
    for (uint j = c.sg, i = 0; j < tk.n; j += 8, i++) {
        float h =
            c.lane < n_rows ? swiglu(g[i], out[j * METAL_ROWS + c.lane], o.lim) * wt[j] : 0.0f;
        if (c.lane < n_rows && present(o.h)) {
            floats_at(c, o.h, pr[j])[row0 + c.lane] = h;
        }
        if (present(o.h_act)) {
            a8_put(c, o.h_act, pr[j], row0, h);
        }
    }
    sync();
}

inline void task_moe_up(thread const ctx &c, constant metal_moe_up &o)
{
    uint n_block = (o.f + METAL_ROWS - 1) / METAL_ROWS, i = c.group / n_block;
    uint t = i / o.k, s = i % o.k;
    threadgroup uint *pr = (threadgroup uint *)(c.tg + METAL_AT_PAIR);
    threadgroup float *wt = c.tg + METAL_AT_PAIR + METAL_TILE;
    uint e;
    if (o.route.k) {
        if (c.group == 0) {
            task_route(c, o.route);
        }
        route_token(c, o.route, t);
        e = ((threadgroup uint *)(c.tg + METAL_AT_FEW))[s];
    } else {
        e = words_at(c, o.idx, t)[s];
    }
    if (c.t == 0) {
        wt[0] = o.route.k ? c.tg[METAL_AT_FEW + METAL_K_MAX + s] : floats_at(c, o.wt, t)[s];
        pr[0] = i;
    }
    tokens tk = tokens_range(c, t, 1);
    up_block(c, o, e, c.group % n_block * METAL_ROWS, tk, pr, wt);
}

/* Pairs [p, p + n) of expert lists into threadgroup memory: rows of the input, pairs, weights. */
inline tokens pairs_range(thread const ctx &c, constant metal_opnd &pair, uint p, uint n,
                          uint div)
{
    threadgroup uint *pr = (threadgroup uint *)(c.tg + METAL_AT_PAIR);
    sync();
    if (c.t < n) {
        uint v = words_at(c, pair, 0)[p + c.t];
        pr[c.t] = v;
        token_list(c)[c.t] = v / div;
    }
    sync();
    return {token_list(c), n, 0};
}
inline void task_moe_up_expert(thread const ctx &c, constant metal_moe_up &o)
{
    uint n_block = (o.f + METAL_ROWS - 1) / METAL_ROWS, e = c.group / n_block;
    uint row0 = c.group % n_block * METAL_ROWS, first = words_at(c, o.off, 0)[e];
    uint end = words_at(c, o.off, 0)[e + 1];
    threadgroup uint *pr = (threadgroup uint *)(c.tg + METAL_AT_PAIR);
    threadgroup float *wt = c.tg + METAL_AT_PAIR + METAL_TILE;
    for (uint p = first; p < end; p += METAL_TILE) {
        tokens tk = pairs_range(c, o.pair, p, min(end - p, (uint)METAL_TILE), o.k);
        if (c.t < tk.n) {
            wt[c.t] = floats_at(c, o.wt, pr[c.t] / o.k)[pr[c.t] % o.k];
        }
        sync();
        up_block(c, o, e, row0, tk, pr, wt);
    }
}

/* ---- MOE_DOWN ---- */

/* Few tokens: all slots of all tokens for 32 columns. */
inline void task_moe_down(thread const ctx &c, constant metal_moe_down &o)
{
    uint d0 = c.group * METAL_ROWS, n_rows = min(o.d - d0, (uint)METAL_ROWS),
         n_tok = c.step->n_tok;
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    float y = 0.0f; /* simdgroup = token, lane = column */
    for (uint s = 0; s < o.k; s++) {
        for (uint t = 0; t < n_tok; t++) {
            tokens tk = tokens_range(c, t * o.k + s, 1);
            product(c, o.w2, words_at(c, o.idx, t)[s], d0, n_rows, 0, o.h, o.h_act, tk, st,
                    out);
            if (c.sg == t) {
                y = s == 0 ? out[c.lane] : y + out[c.lane];
            }
        }
    }
    tokens tk = tokens_range(c, 0, n_tok);
    product(c, o.shared, 0, d0, n_rows, 0, o.hs, o.hs_act, tk, st, out);
    if (c.sg < n_tok) {
        out[c.sg * METAL_ROWS + c.lane] = y + out[c.sg * METAL_ROWS + c.lane];
    }
    sync();
    for (uint t = 0; t < n_tok; t++) {
        hc_post(c, o.hc_x, o.post, o.comb, o.hc, o.d, t, d0, n_rows, out + t * METAL_ROWS,
                o.mix, c.tg + METAL_AT_MIX);
    }
}

inline void task_moe_down_expert(thread const ctx &c, constant metal_moe_down &o)
{
    uint n_block = (o.d + METAL_ROWS - 1) / METAL_ROWS, e = c.group / n_block;
    uint d0 = c.group % n_block * METAL_ROWS, n_rows = min(o.d - d0, (uint)METAL_ROWS);
    uint first = words_at(c, o.off, 0)[e], end = words_at(c, o.off, 0)[e + 1];
    threadgroup float *out = c.tg + METAL_AT_OUT;
    threadgroup uint *pr = (threadgroup uint *)(c.tg + METAL_AT_PAIR);
    staged st = not_staged();
    device float *part = (device float *)(c.scratch + o.scratch);
    for (uint p = first; p < end; p += METAL_TILE) {
        tokens tk = pairs_range(c, o.pair, p, min(end - p, (uint)METAL_TILE), 1);
        product(c, o.w2, e, d0, n_rows, 0, o.h, o.h_act, tk, st, out);
        for (uint j = c.sg; j < tk.n; j += 8) {
            if (c.lane < n_rows) {
                part[(ulong)pr[j] * o.d + d0 + c.lane] = out[j * METAL_ROWS + c.lane];
            }
        }
        sync();
    }
}
inline void task_moe_down_sum(thread const ctx &c, constant metal_moe_down &o)
{
    uint n_block = (o.d + METAL_ROWS - 1) / METAL_ROWS, t0 = c.group / n_block * METAL_TILE;
    uint d0 = c.group % n_block * METAL_ROWS, n_rows = min(o.d - d0, (uint)METAL_ROWS);
    threadgroup float *out = c.tg + METAL_AT_OUT;
    staged st = not_staged();
    device const float *part = (device const float *)(c.scratch + o.scratch);
    tokens tk = tokens_range(c, t0, min(c.step->n_tok - t0, (uint)METAL_TILE));
    product(c, o.shared, 0, d0, n_rows, 0, o.hs, o.hs_act, tk, st, out);
    for (uint j = c.sg; j < tk.n; j += 8) {
        if (c.lane < n_rows) {
            ulong row = (ulong)(t0 + j) * o.k;
            float y = part[row * o.d + d0 + c.lane];
            for (uint s = 1; s < o.k; s++) {
                y = y + part[(row + s) * o.d + d0 + c.lane];
            }
            out[j * METAL_ROWS + c.lane] = y + out[j * METAL_ROWS + c.lane];
        }
    }
    sync();
    for (uint j = 0; j < tk.n; j++) {
        hc_post(c, o.hc_x, o.post, o.comb, o.hc, o.d, t0 + j, d0, n_rows, out + j * METAL_ROWS,
                o.mix, c.tg + METAL_AT_MIX);
    }
}
