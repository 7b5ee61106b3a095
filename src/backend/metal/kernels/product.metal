/* product.metal - products of a block of up to 32 weight rows with some tokens: out[token][row].
 * Up to METAL_FEW tokens go row by row (16 lanes a row, each weight decoded once for all tokens);
 * more are cut into tiles of 32 tokens, multiplied by simdgroup matrices. Both visit blocks in the
 * order of op.h, so they give the same bits: sums inside a block are exact integers.
 * Threadgroup memory: METAL_AT_* of args.h. */

constant uchar lane_order[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

/* The tokens of a product: rows list[0..n) (threadgroup memory) of the operands. */
struct tokens {
    threadgroup const uint *list;
    uint n;
    uint k0; /* first column (grouped LINEAR) */
};

/* A norm fused in front: its result in A8 form in threadgroup memory (planes as quant/act.h), and
 * what gives its floats: x * factor * w. */
struct staged {
    threadgroup const char *q; /* [tokens][n] */
    threadgroup const float *d;
    threadgroup const short *sum;
    threadgroup const float *factor; /* [tokens] */
    device const float *w;           /* [n] */
    uint n;                          /* 0: no norm */
};
inline staged not_staged()
{
    return {nullptr, nullptr, nullptr, nullptr, nullptr, 0};
}

/* One 32-block of weights times one token's block; acc as op.h. */
template <typename Q, typename S>
inline float block_add(float acc, thread const float *w, thread const codes32 &s, bool minima,
                       Q q, float da, S sum)
{
    float i1 = 0.0f;
    for (uint i = 0; i < 32; i++) {
        i1 = fma(w[i], float(q[i]), i1);
    }
    acc = fma(s.d * da, i1, acc);
    if (minima) {
        acc = fma(-(s.m * da), s.mc0 * float(sum[0]) + s.mc1 * float(sum[1]), acc);
    }
    return acc;
}

/* One weight row against up to METAL_FEW tokens, by 16 lanes; l: lane of 16. */
inline void row_a8(thread const ctx &c, uint type, device const uchar *row, uint n_block,
                   uint l, constant metal_opnd &x_act, thread const tokens &tk, uint t0, uint n,
                   thread const staged &st, thread float *acc)
{
    bool minima = has_minima(type);
    for (uint b = l; b < n_block; b += 16) {
        float w[32];
        codes32 s;
        codes_of(type, row, b, w, s);
        uint col = tk.k0 / 32 + b;
        for (uint j = 0; j < n; j++) {
            if (st.n) {
                ulong base = (ulong)(t0 + j) * st.n;
                acc[j] = block_add(acc[j], w, s, minima, st.q + base + 32 * col,
                                   st.d[base / 32 + col], st.sum + base / 16 + 2 * col);
            } else {
                a8_row a = a8_at(c, x_act, tk.list[t0 + j]);
                acc[j] =
                    block_add(acc[j], w, s, minima, a.q + 32 * col, a.d[col], a.sum + 2 * col);
            }
        }
    }
}
inline void row_f32(thread const ctx &c, uint type, device const uchar *row, uint cols, uint l,
                    constant metal_opnd &x, thread const tokens &tk, uint t0, uint n,
                    thread const staged &st, thread float *acc)
{
    for (uint i = l; i < cols; i += 16) {
        float w = float_of(type, row, i);
        for (uint j = 0; j < n; j++) {
            float v = floats_at(c, x, tk.list[t0 + j])[tk.k0 + i];
            v = st.n ? v * st.factor[t0 + j] * st.w[i] : v;
            acc[j] = fma(w, v, acc[j]);
        }
    }
}

/* Rows [row0, row0 + n_rows) of matrix `mat`, tokens [t0, t0 + n) with n <= METAL_FEW. group_rows: rows
 * that share an input segment (grouped LINEAR), 0: all do. */
inline void product_rows(thread const ctx &c, constant metal_mat &w, uint mat, uint row0,
                         uint n_rows, uint group_rows, constant metal_opnd &x,
                         constant metal_opnd &x_act, tokens tk, uint t0, uint n,
                         thread const staged &st, threadgroup float *out)
{
    uint l = c.lane % 16;
    for (uint r = 2 * c.sg + c.lane / 16; r < METAL_ROWS; r += METAL_THREADS / 16) {
        float acc[METAL_FEW];
        for (uint j = 0; j < METAL_FEW; j++) {
            acc[j] = 0.0f;
        }
        if (r < n_rows) {
            device const uchar *row = mat_row(c, w, mat, row0 + r);
            tk.k0 = group_rows ? (row0 + r) / group_rows * w.cols : 0;
            if (w.act) {
                row_a8(c, w.type, row, w.cols / 32, l, x_act, tk, t0, n, st, acc);
            } else {
                row_f32(c, w.type, row, w.cols, l, x, tk, t0, n, st, acc);
            }
        }
        for (uint j = 0; j < n;
             j++) { /* the halving tree of op.h; lanes behind it are not used */
            for (ushort h = 8; h > 0; h /= 2) {
                acc[j] = acc[j] + simd_shuffle_down(acc[j], h);
            }
            if (l == 0) {
                out[(t0 + j) * METAL_ROWS + r] = acc[j];
            }
        }
    }
}

/* ---- tiles ---- */

/* Codes of blocks b[0..nb) of 32 weight rows; rows behind the last are zero. */
inline void tile_load_w(thread const ctx &c, constant metal_mat &w, uint mat, uint row0,
                        uint n_rows, uint b0, uint b1, uint nb)
{
    threadgroup float *codes = c.tg + METAL_AT_W, *s = c.tg + METAL_AT_S;
    if (c.t >= 64) {
        return;
    }
    uint r = c.t % 32, k = c.t / 32;
    float v[32];
    codes32 z = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint i = 0; i < 32; i++) {
        v[i] = 0.0f;
    }
    if (r < n_rows && k < nb) {
        codes_of(w.type, mat_row(c, w, mat, row0 + r), k ? b1 : b0, v, z);
    }
    for (uint i = 0; i < 32; i++) {
        codes[r * 64 + k * 32 + i] = v[i];
    }
    s[k * 32 + r] = z.d;
    s[64 + k * 32 + r] = z.m;
    s[128 + k * 32 + r] = z.mc0;
    s[192 + k * 32 + r] = z.mc1;
}
inline void tile_load_x(thread const ctx &c, constant metal_opnd &x_act,
                        thread const tokens &tk, uint b0, uint b1, uint nb)
{
    threadgroup float *codes = c.tg + METAL_AT_X, *a = c.tg + METAL_AT_A;
    for (uint i = c.t; i < 32 * 64; i += METAL_THREADS) {
        uint tok = i / 64, k = i / 32 % 2;
        float v = 0.0f;
        if (tok < tk.n && k < nb) {
            v = float(a8_at(c, x_act, tk.list[tok]).q[tk.k0 + 32 * (k ? b1 : b0) + i % 32]);
        }
        codes[i] = v;
    }
    if (c.t < 64) {
        uint tok = c.t % 32, k = c.t / 32;
        float d = 0.0f, s0 = 0.0f, s1 = 0.0f;
        if (tok < tk.n && k < nb) {
            a8_row r = a8_at(c, x_act, tk.list[tok]);
            uint col = tk.k0 / 32 + (k ? b1 : b0);
            d = r.d[col];
            s0 = float(r.sum[2 * col]);
            s1 = float(r.sum[2 * col + 1]);
        }
        a[k * 32 + tok] = d;
        a[64 + k * 32 + tok] = s0;
        a[128 + k * 32 + tok] = s1;
    }
}
/* I[block][token][row] = exact sums of the two blocks: 32 8x8 results, four a simdgroup. */
inline void tile_multiply(thread const ctx &c)
{
    for (uint i = c.sg; i < 32; i += METAL_THREADS / 32) {
        uint k = i / 16, tt = i / 4 % 4 * 8, rr = i % 4 * 8;
        simdgroup_float8x8 a, b, acc = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (uint j = 0; j < 32; j += 8) {
            simdgroup_load(a, c.tg + METAL_AT_X + tt * 64 + k * 32 + j, 64);
            simdgroup_load(b, c.tg + METAL_AT_W + rr * 64 + k * 32 + j, 64, ulong2(0), true);
            simdgroup_multiply_accumulate(acc, a, b, acc);
        }
        simdgroup_store(acc, c.tg + METAL_AT_I + k * 1024 + tt * 32 + rr, 32);
    }
}
/* This thread's four outputs: token t / 8, rows 4 (t % 8) ... */
inline void tile_rescale(thread const ctx &c, uint k, bool minima, thread float *acc)
{
    uint tok = c.t / 8, r0 = c.t % 8 * 4;
    threadgroup const float *s = c.tg + METAL_AT_S + k * 32, *a = c.tg + METAL_AT_A + k * 32;
    float da = a[tok];
    for (uint j = 0; j < 4; j++) {
        uint r = r0 + j;
        float i1 = c.tg[METAL_AT_I + k * 1024 + tok * 32 + r];
        acc[j] = fma(s[r] * da, i1, acc[j]);
        if (minima) {
            float i2 = s[128 + r] * a[64 + tok] + s[192 + r] * a[128 + tok];
            acc[j] = fma(-(s[64 + r] * da), i2, acc[j]);
        }
    }
}

/* All n <= METAL_TILE tokens at once; A8 form. */
inline void product_tile(thread const ctx &c, constant metal_mat &w, uint mat, uint row0,
                         uint n_rows, constant metal_opnd &x_act, thread const tokens &tk,
                         threadgroup float *out)
{
    bool minima = has_minima(w.type);
    float stack[5][4];
    uint n = 0, n_block = w.cols / 32;
    for (uint i = 0; i < 16; i++) {
        float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (uint b = lane_order[i]; b < n_block; b += 32) {
            uint nb = b + 16 < n_block ? 2 : 1;
            tile_load_w(c, w, mat, row0, n_rows, b, b + 16, nb);
            tile_load_x(c, x_act, tk, b, b + 16, nb);
            sync();
            tile_multiply(c);
            sync();
            for (uint k = 0; k < nb; k++) {
                tile_rescale(c, k, minima, acc);
            }
            sync(); /* the scales have been read */
        }
        for (uint m = i; m & 1u; m >>= 1) {
            n--;
            for (uint j = 0; j < 4; j++) {
                acc[j] = stack[n][j] + acc[j];
            }
        }
        for (uint j = 0; j < 4; j++) {
            stack[n][j] = acc[j];
        }
        n++;
    }
    for (uint j = 0; j < 4; j++) {
        out[c.t / 8 * METAL_ROWS + c.t % 8 * 4 + j] = stack[0][j];
    }
}

/* The product, whatever the number of tokens (<= METAL_TILE); ends with a sync. */
inline void product(thread const ctx &c, constant metal_mat &w, uint mat, uint row0,
                    uint n_rows, uint group_rows, constant metal_opnd &x,
                    constant metal_opnd &x_act, thread const tokens &given,
                    thread const staged &st, threadgroup float *out)
{
    tokens tk = given;
    if (w.act && tk.n > METAL_FEW && group_rows % METAL_ROWS == 0) {
        tk.k0 = group_rows ? row0 / group_rows * w.cols : 0;
        product_tile(c, w, mat, row0, n_rows, x_act, tk, out);
    } else {
        for (uint t0 = 0; t0 < tk.n; t0 += METAL_FEW) {
            product_rows(c, w, mat, row0, n_rows, group_rows, x, x_act, tk, t0,
                         min(tk.n - t0, (uint)METAL_FEW), st, out);
        }
    }
    sync();
}

inline threadgroup uint *token_list(thread const ctx &c)
{
    return (threadgroup uint *)(c.tg + METAL_AT_LIST);
}
/* Rows t0 .. t0 + n of the operands. */
inline tokens tokens_range(thread const ctx &c, uint t0, uint n)
{
    sync(); /* nobody reads the last list any more */
    if (c.t < n) {
        token_list(c)[c.t] = t0 + c.t;
    }
    sync();
    return {token_list(c), n, 0};
}
inline uint tiles_of(uint n)
{
    return (n + METAL_TILE - 1) / METAL_TILE;
}
