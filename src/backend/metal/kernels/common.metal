/* common.metal - what all tasks share: where operands lie, reductions in a fixed order, the 8-bit
 * form of activations, stored rows, rope, exp.
 *
 * Order of operations (arithmetic class metal/1). Products of block formats: op.h's own order, 16
 * lanes over blocks and a halving tree; the sum inside a block is an exact integer below 2^24, so
 * plain float arithmetic gives it in any order. F32 products: op.h's order. Sums over a vector
 * (norms): thread t adds elements t, t + 256, ... ascending, then a halving tree over the 32 lanes
 * of each simdgroup, then the simdgroups ascending. None of this depends on the number of tokens,
 * splits or threadgroups. simd_sum and its like are not used for floats: their order is not
 * specified. */

struct ctx {
    constant metal_step *step;
    constant metal_seq *seq;
    constant uint *tok;
    constant uint *tok_seq;
    constant uint *pages;
    constant uint *out_rows;
    device const float *angles;
    device uchar *arena;
    device uchar *state;
    device uchar *page;
    device uchar *io;
    device uchar *scratch;
    device const uchar *view[METAL_VIEWS];
    threadgroup float *tg; /* as much as the tasks need (metal_tg_bytes) */
    uint t, lane, sg;      /* thread of 256, lane of 32, simdgroup of 8 */
    uint group;            /* threadgroup within the task */
    uint tok0;             /* first token of the batch (INDEX_SELECT) */
};

/* enum op_space, enum row_kind, enum qtype: checked by the host against the C headers. */
constant uint SPACE_STATE = 2, SPACE_PAGE = 3, SPACE_IO = 4;
constant uint ROW_F32 = 0, ROW_FP8 = 1, ROW_FP4 = 2;

inline bool present(constant metal_opnd &o)
{
    return o.space != 0;
}

inline device uchar *row_at(thread const ctx &c, constant metal_opnd &o, ulong row)
{
    device uchar *base = o.space == SPACE_IO ? c.io : c.arena;
    return base + o.offset + row * o.row_bytes;
}
inline device float *floats_at(thread const ctx &c, constant metal_opnd &o, ulong row)
{
    return (device float *)row_at(c, o, row);
}
inline device uint *words_at(thread const ctx &c, constant metal_opnd &o, ulong row)
{
    return (device uint *)row_at(c, o, row);
}
inline device uchar *state_at(thread const ctx &c, constant metal_opnd &o, uint state,
                              uint slot)
{
    return c.state + (ulong)state * c.step->slot_bytes + o.offset + (ulong)slot * o.row_bytes;
}
inline device uchar *page_at(thread const ctx &c, constant metal_opnd &o, uint page, uint slot)
{
    return c.page + (ulong)page * c.step->page_bytes + o.offset + (ulong)slot * o.row_bytes;
}
/* Planes of a stored row; the F32 form has no scales (then: its codes, never read). */
inline device uchar *row_scales(thread const ctx &c, constant metal_rows &r, ulong row)
{
    return row_at(c, present(r.scales) ? r.scales : r.codes, row);
}
inline device uchar *state_scales(thread const ctx &c, constant metal_rows &r, uint state,
                                  uint slot)
{
    return state_at(c, present(r.scales) ? r.scales : r.codes, state, slot);
}
inline device uchar *page_scales(thread const ctx &c, constant metal_rows &r, uint page,
                                 uint slot)
{
    return page_at(c, present(r.scales) ? r.scales : r.codes, page, slot);
}
inline device const float *vec_at(thread const ctx &c, constant metal_vec &v)
{
    return (device const float *)(c.view[v.view] + v.offset);
}

inline void sync()
{
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
}

/* ---- the step (op/step.h) ---- */

inline uint pos_of(constant metal_seq &q, uint t)
{
    return q.n0 + (t - q.tok0);
}
inline constant metal_seq &seq_of(thread const ctx &c, uint t)
{
    return c.seq[c.tok_seq[t]];
}
inline uint win_first(constant metal_seq &q, uint pos, uint window)
{
    uint first = pos + 1 > window ? pos + 1 - window : 0;
    return first > q.start ? first : q.start;
}
inline uint rows_seen(uint pos, uint ratio)
{
    return (pos + 1) / ratio;
}
inline uint ring_first(constant metal_seq &q, uint n)
{
    return q.n_tok > n ? q.n0 + q.n_tok - n : q.n0;
}
inline uint group_first(constant metal_seq &q, uint ratio)
{
    return (q.n0 > q.keep ? q.n0 : q.keep) / ratio;
}
inline uint group_end(constant metal_seq &q, uint ratio)
{
    return (q.n0 + q.n_tok) / ratio;
}
/* Token row that row i of an op stands for. */
inline uint token_row(thread const ctx &c, uint rows_out, uint i)
{
    return rows_out ? c.out_rows[i] : i;
}
inline device const float *token_angles(thread const ctx &c, uint rope, uint t)
{
    return c.angles + c.step->angle_first[rope] + (ulong)t * c.step->angle_row[rope];
}

/* ---- numbers ---- */

/* Exact for every half, subnormal ones too, whatever the unit does with them. */
inline float f16_value(ushort h)
{
    uint e = h >> 10 & 31u, m = h & 1023u;
    float small = float(m) * 5.960464477539063e-08f;
    uint bits = e == 31u ? 0x7F800000u | m << 13 : (e + 112u) << 23 | m << 13;
    float v = e == 0 ? small : as_type<float>(bits);
    return h & 0x8000u ? -v : v;
}
inline float bf16_value(ushort h)
{
    return as_type<float>((uint)h << 16);
}
inline ushort bf16_code(float x)
{
    uint u = as_type<uint>(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) {
        return ushort(u >> 16 | 64u);
    }
    return ushort((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}
inline float e8m0_value(uint e) /* 2^(e - 127) */
{
    return e == 0 ? as_type<float>(0x00400000u)
                  : as_type<float>(e == 255 ? 0x7FC00000u : e << 23);
}
inline bool is_nan(float x)
{
    return (as_type<uint>(x) & 0x7FFFFFFFu) > 0x7F800000u;
}
inline bool is_finite(float x)
{
    return (as_type<uint>(x) & 0x7F800000u) != 0x7F800000u;
}
inline ushort load16(device const uchar *p)
{
    return ushort(p[0] | p[1] << 8);
}

/* exp, error below 1.5 units in the last place, exactly 1 at 0, NaN passes, very negative gives 0:
 * the cpu backend's polynomial, so that no library version changes a bit. */
inline float exp_one(float x)
{
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = fma(x, 1.4426950216293335f, 12582912.0f);
    float n = shifted - 12582912.0f;
    float r = fma(n, -0.693145751953125f, x);
    r = fma(n, -1.428606765330187e-06f, r);
    float p = 0.00019841270113829523f;
    p = fma(p, r, 0.0013888889225199819f);
    p = fma(p, r, 0.008333333767950535f);
    p = fma(p, r, 0.0416666679084301f);
    p = fma(p, r, 0.1666666716337204f);
    p = fma(p, r, 0.5f);
    p = fma(p, r * r, r);
    p = p + 1.0f;
    int e = int(as_type<uint>(shifted) - 0x4B400000u), e1 = e >> 1, e2 = e - e1;
    float s1 = as_type<float>(uint(e1 + 127) << 23), s2 = as_type<float>(uint(e2 + 127) << 23);
    return p * s1 * s2;
}
inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exp_one(-x));
}

/* ---- reductions in a fixed order ---- */

inline float lanes_sum(float x) /* halving tree over 32 lanes; all lanes get it */
{
    for (ushort h = 16; h > 0; h /= 2) {
        x = x + simd_shuffle_xor(x, h); /* a + b = b + a: every lane sums the same tree */
    }
    return x;
}
inline float lanes_max(float x) /* NaN is passed over */
{
    for (ushort h = 16; h > 0; h /= 2) {
        float y = simd_shuffle_xor(x, h);
        x = y > x || is_nan(x) ? y : x;
    }
    return x;
}
/* Sum of all threads' x; room: 8 floats of threadgroup memory that nobody else uses until the next
 * sync. All threads get it. */
inline float group_sum(thread const ctx &c, float x, threadgroup float *room)
{
    x = lanes_sum(x);
    if (c.lane == 0) {
        room[c.sg] = x;
    }
    sync();
    float s = room[0];
    for (uint i = 1; i < METAL_THREADS / 32; i++) {
        s = s + room[i];
    }
    sync();
    return s;
}

/* ---- the 8-bit form (quant/act.h) ---- */

struct a8_row {
    device const char *q;
    device const float *d;
    device const short *sum;
};
inline a8_row a8_at(thread const ctx &c, constant metal_opnd &o, ulong row)
{
    device const uchar *p = row_at(c, o, row);
    return {(device const char *)p, (device const float *)(p + o.cols),
            (device const short *)(p + o.cols + o.cols / 8)};
}

struct a8_block { /* one lane's part of a block of 32 */
    int q;
    float d;
    int sum; /* of the lane's 16 */
};
inline a8_block a8_encode(float x) /* all 32 lanes of a simdgroup */
{
    bool bad = simd_any(!is_finite(x));
    float m = lanes_max(bad ? 0.0f : fabs(x));
    a8_block b;
    bool tiny = m < 1.504632769052528e-36f;
    b.d = bad ? as_type<float>(0x7FC00000u) : tiny ? 0.0f : m / 127.0f;
    b.q = bad || tiny ? 0 : int(rint(x * (127.0f / m)));
    int s = b.q;
    for (ushort h = 8; h > 0; h /= 2) {
        s += simd_shuffle_xor(s, h);
    }
    b.sum = s;
    return b;
}
/* Value `lane` of the block at column k0 of an operand row. */
inline void a8_put(thread const ctx &c, constant metal_opnd &o, ulong row, uint k0, float x)
{
    device uchar *p = row_at(c, o, row);
    a8_block b = a8_encode(x);
    ((device char *)p)[k0 + c.lane] = char(b.q);
    if (c.lane == 0) {
        ((device float *)(p + o.cols))[k0 / 32] = b.d;
    }
    if (c.lane % 16 == 0) {
        ((device short *)(p + o.cols + o.cols / 8))[k0 / 16 + c.lane / 16] = short(b.sum);
    }
}
/* x[0..n) in threadgroup memory to the forms that are present; n a multiple of 32 if A8 is. */
inline void out_put(thread const ctx &c, constant metal_opnd &f32, constant metal_opnd &a8,
                    ulong row, uint k0, threadgroup const float *x, uint n)
{
    if (present(f32)) {
        for (uint i = c.t; i < n; i += METAL_THREADS) {
            floats_at(c, f32, row)[k0 + i] = x[i];
        }
    }
    if (present(a8)) {
        for (uint b = c.sg * 32; b < n; b += METAL_THREADS) {
            a8_put(c, a8, row, k0 + b, x[b + c.lane]);
        }
    }
}

/* ---- stored rows (op/rows.h) ---- */

inline float e4m3_value(uint code)
{
    uint e = code >> 3 & 15u, m = code & 7u;
    float v = e == 0 ? float(m) * 0.001953125f : as_type<float>((e + 120u) << 23 | m << 20);
    v = (code & 0x7Fu) == 0x7Fu ? as_type<float>(0x7FC00000u) : v;
    return code & 0x80u ? -v : v;
}
inline float e2m1_value(uint code)
{
    uint e = code >> 1 & 3u, m = code & 1u;
    float v = e == 0 ? 0.5f * float(m) : as_type<float>((e + 126u) << 23 | m << 22);
    return code & 8u ? -v : v;
}
/* Smallest e with 2^(e - 127) >= x, x positive and finite. */
inline uint ue8m0_ceil(float x)
{
    uint u = as_type<uint>(x), e = u >> 23, m = u & 0x7FFFFFu;
    if (e == 0) {
        return m > 0x400000u ? 1u : 0u;
    }
    e += m != 0;
    return e > 254u ? 254u : e;
}
/* Round to nearest even, saturating; NaN is the caller's. */
inline uint e4m3_code(float x)
{
    float a = fabs(x);
    uint s = as_type<uint>(x) >> 24 & 0x80u;
    if (!(a < 464.0f)) {
        return s | 0x7Eu; /* 448 */
    }
    if (a < 0.015625f) {
        return s | uint(rint(a * 512.0f));
    }
    uint u = as_type<uint>(a);
    u += 0x7FFFFu + (u >> 20 & 1u);
    uint code = (u >> 20) - (120u << 3);
    return s | (code > 0x7Eu ? 0x7Eu : code);
}
/* Ties to even codes; beyond 6 and NaN: 6. */
inline uint e2m1_code(float x)
{
    float a = fabs(x);
    uint code = 0;
    code += !(a <= 0.25f);
    code += !(a < 0.75f);
    code += !(a <= 1.25f);
    code += !(a < 1.75f);
    code += !(a <= 2.5f);
    code += !(a < 3.5f);
    code += !(a <= 5.0f);
    return code | (as_type<uint>(x) >> 28 & 8u);
}
/* Element i of a stored row. */
inline float stored_value(constant metal_geom &g, device const uchar *codes,
                          device const uchar *scales, uint i)
{
    if (g.kind == ROW_F32) {
        return ((device const float *)codes)[i];
    }
    if (g.kind == ROW_FP4) {
        return e2m1_value(codes[i / 2] >> (i % 2 * 4) & 15u) * e8m0_value(scales[i / 32]);
    }
    uint n = g.n - g.rope;
    return i < n ? e4m3_value(codes[i]) * e8m0_value(scales[i / 64])
                 : bf16_value(load16(codes + n + 2 * (i - n)));
}
inline float finite_or_zero(float x)
{
    return is_finite(x) ? fabs(x) : 0.0f;
}
/* x[0..n) in threadgroup memory to a stored row; all threads. */
inline void store_row(thread const ctx &c, constant metal_geom &g, threadgroup const float *x,
                      device uchar *codes, device uchar *scales)
{
    if (g.kind == ROW_F32) {
        for (uint i = c.t; i < g.n; i += METAL_THREADS) {
            ((device float *)codes)[i] = x[i];
        }
        return;
    }
    if (g.kind == ROW_FP4) {
        for (uint b = c.sg; b < g.n / 32; b += METAL_THREADS / 32) {
            float v = x[32 * b + c.lane];
            float m = max(lanes_max(finite_or_zero(v)), 6.0f * 1.1754943508222875e-38f);
            uint e = ue8m0_ceil(m * (1.0f / 6.0f)), code = e2m1_code(v / e8m0_value(e));
            uint other = simd_shuffle_xor(code, 1);
            if (c.lane % 2 == 0) {
                codes[16 * b + c.lane / 2] = uchar(code | other << 4);
            }
            if (c.lane == 0) {
                scales[b] = uchar(e);
            }
        }
        return;
    }
    uint n = g.n - g.rope;
    for (uint b = c.sg; b < n / 64; b += METAL_THREADS / 32) {
        float v0 = x[64 * b + c.lane], v1 = x[64 * b + 32 + c.lane];
        float m = max(lanes_max(max(finite_or_zero(v0), finite_or_zero(v1))), 1e-4f);
        uint e = ue8m0_ceil(m * (1.0f / 448.0f));
        float scale = e8m0_value(e);
        codes[64 * b + c.lane] = uchar(is_finite(v0) ? e4m3_code(v0 / scale) : 0x7Fu);
        codes[64 * b + 32 + c.lane] = uchar(is_finite(v1) ? e4m3_code(v1 / scale) : 0x7Fu);
        if (c.lane == 0) {
            scales[b] = uchar(e);
        }
    }
    for (uint i = n / 64 + c.t; i < g.scale_bytes; i += METAL_THREADS) {
        scales[i] = 0;
    }
    for (uint i = c.t; i < g.rope; i += METAL_THREADS) {
        ushort h = bf16_code(x[n + i]);
        codes[n + 2 * i] = uchar(h & 255u);
        codes[n + 2 * i + 1] = uchar(h >> 8);
    }
}

/* ---- norm, rope, Hadamard on a vector in threadgroup memory; all threads ---- */

/* 1 / sqrt(mean of squares + eps). */
inline float norm_factor(thread const ctx &c, threadgroup const float *x, uint n, float eps,
                         threadgroup float *room)
{
    float s = 0.0f;
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        s = fma(x[i], x[i], s);
    }
    return 1.0f / precise::sqrt(group_sum(c, s, room) / float(n) + eps);
}
inline void rope_pairs(thread const ctx &c, threadgroup float *x, uint n_pairs,
                       device const float *cs)
{
    for (uint i = c.t; i < n_pairs; i += METAL_THREADS) {
        float a = x[2 * i], b = x[2 * i + 1], co = cs[2 * i], si = cs[2 * i + 1];
        x[2 * i] = a * co - b * si;
        x[2 * i + 1] = a * si + b * co;
    }
}
inline void hadamard_group(thread const ctx &c, threadgroup float *x, uint n)
{
    for (uint stride = 1; stride < n; stride *= 2) {
        sync();
        for (uint p = c.t; p < n / 2; p += METAL_THREADS) {
            uint i = p / stride * 2 * stride + p % stride;
            float a = x[i], b = x[i + stride];
            x[i] = a + b;
            x[i + stride] = a - b;
        }
    }
    sync();
    float f = 1.0f; /* the float nearest n^-1/2 */
    for (uint k = n; k > 1; k /= 4) {
        f = k == 2 ? f * 0.70710678118654752f : f * 0.5f;
    }
    for (uint i = c.t; i < n; i += METAL_THREADS) {
        x[i] = x[i] * f;
    }
    sync();
}
