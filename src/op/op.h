/* op.h - the op catalogue: 18 fused ops are all a DeepSeek V4 step needs. The model records a
 * list of them (program.h); every backend executes that same list.
 *
 * An op is a pure function of operands, attributes and the step block. T = rows of the step
 * (tokens), [n] counts elements; F32 unless noted. The comment above each struct is its
 * definition: shapes, order of operations, tolerance of its test. docs/ops.md is generated from
 * these comments (tools/gen_ops_doc.py).
 *
 * ---- Order of operations (determinism) ----
 * Every output value of a token row is computed by one documented order that depends on shapes
 * and on that token's position only: never on how many rows, sequences, threads or chunks there
 * are. `ref` uses double accumulators in the same order; `cpu` keeps the F32 order below in
 * every tier. The building blocks:
 *
 * - lanes16(f, n): 16 partial sums c_0..c_15 = +0; for i = 0..n-1 ascending, c_(i mod 16) takes
 *   term i by fma; then a halving tree: c_l += c_(l+8) for l < 8, then +4, +2, +1; result c_0.
 *   A vector kernel keeps the c_l in its lanes; a matrix kernel (one lane a row) visits lanes in
 *   tree order with few live sums: both give the same bits.
 * - DOT, F32 form: lanes16 over elements: c = fma(w_i, x_i, c), w_i decoded to F32.
 * - DOT, A8 form: lanes16 over blocks of 32. With quant_codes32 of weight block b and A8 block
 *   (d_a, q, sum), I1 = sum w q and I2 = mc0 sum0 + mc1 sum1 are exact integers, and
 *   c = fma(d_w * d_a, (float)I1, c), then, if the format has minima,
 *   c = fma(-(m_w * d_a), (float)I2, c).
 * - sum of squares (norms): lanes16 over elements, c = fma(x, x, c).
 * - exp: one implementation per backend, used for every element (tails are padded, not
 *   switched).
 *
 * No reassociation, no implicit contraction, no flush to zero, no float atomics. */
#ifndef OP_OP_H
#define OP_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum op_kind {
    OP_EMBED,
    OP_HC_MIX,
    OP_HC_NORM,
    OP_HC_HEAD,
    OP_LINEAR,
    OP_RMS_NORM,
    OP_KV_ROW,
    OP_COMPRESS,
    OP_HEAD_FINISH,
    OP_INDEX_SELECT,
    OP_ATTN,
    OP_RING_STORE,
    OP_LINEAR_HC,
    OP_FFN_UP,
    OP_ROUTE,
    OP_MOE_UP,
    OP_MOE_DOWN,
    OP_PICK,
    OP_KIND_COUNT
};

/* ---- operands: {space, offset, row stride, form}, never pointers ---- */
enum op_space {
    SPACE_NONE,  /* operand absent */
    SPACE_ARENA, /* base + offset + row * row_bytes; planned by liveness */
    SPACE_STATE, /* slot base + seq.state * slot_bytes + offset + ring slot * row_bytes */
    SPACE_PAGE,  /* page base + page number * page_bytes + offset + slot in page * row_bytes */
    SPACE_IO,    /* like ARENA, in the buffer the host sees */
};
enum op_form {
    FORM_F32,
    FORM_A8, /* activation blocks of 32, planes as quant/act.h */
    FORM_I32,
    FORM_BYTES, /* stored rows (op/rows.h), masks, pick records */
};
struct opnd {
    uint8_t space; /* enum op_space */
    uint8_t form;  /* enum op_form */
    uint16_t id;   /* tensor of the program: hazards, names */
    uint32_t cols; /* elements of a row (bytes for FORM_BYTES) */
    uint64_t offset;
    uint64_t row_bytes;
};
/* Stored rows: code plane and scale plane (scales.space NONE in the F32 form); rows.h. */
struct opnd_rows {
    struct opnd codes, scales;
};

/* A matrix weight [rows][cols] (experts: [n_mat][rows][cols]) and the activation form it reads.
 */
#define WEIGHT_NONE 0xFFFFu
struct opmat {
    uint16_t w;  /* handle: index into program.weights; WEIGHT_NONE = absent */
    uint8_t act; /* FORM_F32 or FORM_A8: which form of the input this weight reads */
    uint32_t rows, cols;
};
/* A vector weight, always F32 (tid2eid: I32). */
struct opvec {
    uint16_t w;
};

/* How compressed and window rows are stored (rows.h). */
enum row_kind {
    ROW_F32, /* n floats, no scale plane: simulations off */
    ROW_FP8, /* n-rope E4M3 codes, rope bf16 values; scale plane: one E8M0 per 64, padded to 8
                bytes */
    ROW_FP4, /* n/2 bytes of E2M1 (low nibble = even element); scale plane: one E8M0 per 32 */
};
struct row_geom {
    uint8_t kind;         /* enum row_kind */
    uint32_t n, rope;     /* values in a row; trailing ones that carry RoPE */
    uint32_t code_bytes;  /* of one row */
    uint32_t scale_bytes; /* of one row, 0 for ROW_F32 */
};

enum { OP_LINEAR_PARTS = 8, PICK_TOP = 64 };

/* ---- EMBED ----
 * X[t][j][:] = table[tok[t]][:] for all hc streams j (decoded to F32). tok TOK_PICKED takes
 * picked[state]. Exact. */
struct op_embed {
    struct opmat table; /* [V][D] */
    struct opnd picked; /* IO I32, one row of n_slots values */
    struct opnd x;      /* [T][hc*D] */
    uint32_t hc, d;
};

/* ---- HC_MIX ----
 * First half of HCpre (model.md 5): partial sums per chunk c of 32 consecutive d (last one may
 * be shorter), over all streams. mixp[row][c][i] for i < m: sum of fn[i][j*D + d] * X[j][d];
 * mixp[row][c][m]: sum of X[j][d]^2. Within a chunk: 16 lanes, lane (d - 32c) mod 16; for j
 * ascending, d ascending: c_l = fma(.,.,c_l); then the halving tree. rows_out: rows are the out
 * rows of the step (row i = token row out[i]) instead of all T. Tolerance vs ref 2e-6 of the
 * sum of absolute terms. */
struct op_hc_mix {
    struct opnd x;    /* [T][hc*D] */
    struct opmat fn;  /* [m][hc*D], FORM_F32 */
    struct opnd mixp; /* [rows][nc*(m+1)] */
    uint32_t hc, d, m, nc;
    bool rows_out;
};

/* ---- HC_NORM ----
 * Second half of HCpre and the layer norm. Sums of chunks ascending give s_i and q; r = 1 /
 * sqrt(q / (hc*D) + eps); mix_i = s_i * r; pre, post, C as model.md 5 (sigmoid, softmax, iters
 * Sinkhorn rounds, final column step; sums ascending); x[d] = fma over j ascending of
 * pre[j]*X[j][d] starting at 0; xn = x * (1/sqrt(mean x^2 + eps)) * norm[d]. Tolerance 1e-5
 * relative to max|out|. */
struct op_hc_norm {
    struct opnd x, mixp;
    struct opvec scale, base, norm; /* [3], [(2+hc)*hc], [D] */
    struct opnd xn, xn_act;         /* [T][D] F32; A8 form (absent if nobody reads it) */
    struct opnd post, comb;         /* [T][hc], [T][hc*hc]: comb[j*hc+k] = C[j][k] */
    uint32_t hc, d, nc, iters;
    float eps, hc_eps;
};

/* ---- HC_HEAD ----
 * HChead and final norm on the out rows: w[j] = sigmoid(mix_j * scale[0] + base[j]) + hc_eps;
 * h[d] = fma over j of w[j]*X[out[row]][j][d]; hn = rmsnorm(h) * norm. Tolerance as HC_NORM. */
struct op_hc_head {
    struct opnd x, mixp;
    struct opvec scale, base, norm; /* [1], [hc], [D] */
    struct opnd hn, hn_act;         /* [n_out][D] */
    uint32_t hc, d, nc;
    float eps, hc_eps;
};

/* ---- LINEAR ----
 * Up to 8 products that share one input: part y[t][i] = DOT(w[i][:], x[t][seg]). groups > 1
 * (one part only): row i reads columns [g*K, (g+1)*K) of x with g = i / (rows/groups) and K =
 * w.cols (wo_a of model.md 6). Each part reads the form its weight asks for. rows_out: the rows
 * are out rows (input already compact, n_out rows). y_act (only with n_part 1, w.rows a multiple
 * of 32) takes the A8 form of part 0's result as well. Tolerance: F32 form 2e-6, A8 form 2e-6 of
 * the sum of absolute terms. */
struct op_linear {
    struct opnd x, x_act; /* [rows][cols] */
    struct {
        struct opmat w;
        struct opnd y; /* [rows][w.rows]; may be a column range of a wider tensor */
    } part[OP_LINEAR_PARTS];
    struct opnd y_act; /* A8 of part 0 [rows][part[0].w.rows], or absent */
    uint32_t n_part, groups;
    bool rows_out;
};

/* ---- RMS_NORM ----
 * y = x * (1/sqrt(mean(x^2) + eps)) * w, F32 and A8. Tolerance 1e-6 relative to max|y|. */
struct op_rms_norm {
    struct opnd x, y, y_act; /* [T][n] */
    struct opvec w;
    uint32_t n;
    float eps;
};

/* ---- KV_ROW ----
 * Window row in stored form: rmsnorm(x) * w, RoPE at the token's position on the last rope
 * values, then the row form's rounding (FP8sim per 64 and bf16 rope, or F32 as is). Rounding
 * flips are allowed where the unrounded values differ by 1e-6 relative; else exact codes. */
struct op_kv_row {
    struct opnd x; /* [T][n] */
    struct opvec w;
    struct opnd_rows wrow; /* [T], ARENA */
    struct row_geom geom;
    uint32_t rope; /* index of the rope table in the program */
    float eps;
};

/* ---- COMPRESS ----
 * Compressor of model.md 7, k = 2 (overlap) or 1. x row: [a (k*n) | g (k*n)]; g gets ape[p %
 * ratio] added (F32 add). Inputs of own positions come from x, earlier ones from the STATE ring
 * (which holds [a | g + ape] of position p at slot p % slots); positions below seq.start do not
 * exist. For every group completed in the step and ending above keep: per channel c,
 * softmax-weighted sum over the group's positions ascending (k = 2: the previous group's
 * first-half channels, then the current group's second half; absent positions skipped): max,
 * then e = exp(s - max), den and num summed ascending (num = fma(e, a, num)), row[c] = num /
 * den. Then rmsnorm * norm, RoPE at the group's first position, row form rounding (main:
 * FP8/bf16; index: Hadamard, FP4; ROW_F32: neither, and HEAD_FINISH.index is false too, since
 * the transform of both sides cancels); stored in its page. Afterwards the ring takes the last
 * min(n_tok, slots) positions, and for the last two multiples m of `align` in (n0, n0 + n_tok]
 * the boundary copy slot (m / align) % 2 takes the first-half channels [a | g+ape] of positions
 * m-ratio .. m-1 (k = 2 only; absent = untouched). Tolerance of the unrounded row 1e-5 relative
 * to max|row|. */
struct op_compress {
    struct opnd x;          /* [T][2*k*n] */
    struct opvec ape, norm; /* [ratio][k*n], [n] */
    struct opnd ring;       /* STATE: slots rows of 2*k*n floats */
    struct opnd bound; /* STATE: 2*ratio rows of 2*n floats (copy, position in group); k = 2 */
    struct opnd_rows rows; /* PAGE */
    struct row_geom geom;
    uint32_t ratio, k, slots, align, rows_per_page, rope;
    float eps;
};

/* ---- HEAD_FINISH ----
 * In place on q[t][h][0..n): if norm: q *= 1/sqrt(mean q^2 + eps) per head; RoPE at the token's
 * position on the last rope_n values; if index: Hadamard over n, and if fp4: FP4sim per 32
 * (values stay F32). Tolerance 1e-6 relative before rounding. */
struct op_head_finish {
    struct opnd q; /* [T][heads*n] */
    uint32_t heads, n, rope_n, rope;
    bool norm, index, fp4;
    float eps;
};

/* ---- INDEX_SELECT ----
 * Lightning indexer (model.md 8) for each token: n_vis = rows seen. n_vis <= k_sel: all rows.
 * Else score_i = sum over heads h ascending of fma(max(0, qi_h . IK_i), iw_h * scale, .). The
 * dot: per group of 32 elements lanes16, group sums added ascending (FP4 times FP4 is exact
 * inside a group, so integer kernels give the same bits). NaN counts as -inf; the k_sel
 * largest, ties to the lower row. sel ascending, n_sel the count. Exact given equal scores;
 * tests draw scores with a margin. */
struct op_index_select {
    struct opnd qi, iw;     /* [T][heads*n], [T][heads] */
    struct opnd_rows rows;  /* PAGE */
    struct opnd sel, n_sel; /* I32 [T][k_sel], [T][1] */
    struct row_geom geom;
    uint32_t heads, n, k_sel, ratio, rows_per_page;
    float scale;
};

/* ---- ATTN ----
 * Entry list of a token: window rows by position (first .. pos), then compressed rows
 * ascending: sel (ratio with indexer), all rows seen (ratio without), none (ratio 0). Score s =
 * (lanes16 dot of q and row) * scale. Splits of 128 entries by list index; per split: max m,
 * e_i = exp(s_i - m), sum and o accumulated in list order (o = fma(e_i, row, o)). Start M =
 * sink, S = 1, O = 0; merge splits in order: N = max(M, m); S = S*exp(M-N) + sum*exp(m-N); O
 * likewise. o = O / S, inverse RoPE at pos. Rows of own positions come from wrow, earlier ones
 * from the ring; always the stored form. Tolerance 1e-5. */
struct op_attn {
    struct opnd q;                     /* [T][heads*n] */
    struct opnd_rows wrow, ring, rows; /* ARENA; STATE; PAGE (absent: ratio 0) */
    struct opnd sel, n_sel;            /* absent without indexer */
    struct opvec sink;                 /* [heads] */
    struct opnd o, o_act;              /* [T][heads*n] */
    struct row_geom geom;
    uint32_t heads, n, window, slots, ratio, rows_per_page, rope;
    float scale;
};

/* ---- RING_STORE ----
 * The last min(n_tok, slots) window rows of each sequence go to the STATE ring. Exact copy. */
struct op_ring_store {
    struct opnd_rows wrow, ring;
    uint32_t slots;
};

/* ---- LINEAR_HC ----
 * y = DOT(w, x); then in place on X: Xnew[k][d] = post[k] * y[d], then fma(C[j][k], X[j][d], .)
 * for j ascending (HCpost, model.md 5). Tolerance as LINEAR plus 1e-6 of the sum of absolute
 * terms. */
struct op_linear_hc {
    struct opnd x, x_act; /* [T][cols] */
    struct opmat w;       /* [D][cols] */
    struct opnd hc_x;     /* [T][hc*D], read and written */
    struct opnd post, comb;
    uint32_t hc, d;
};

/* ---- FFN_UP ----
 * Shared expert: g = DOT(w1, x), u = DOT(w3, x); lim > 0: g = min(g, lim), u = clamp(u, -lim,
 * lim); h = (g / (1 + exp(-g))) * u. Tolerance as LINEAR. */
struct op_ffn_up {
    struct opnd x, x_act;
    struct opmat w1, w3;  /* [F][D] */
    struct opnd h, h_act; /* [T][F] */
    uint32_t f;
    float lim;
};

/* ---- ROUTE ----
 * sc_e = sqrt(softplus(z_e)); selection: tid2eid[tok] (hash layers) or the k largest sc_e +
 * bias_e (NaN counts as -inf), ties to the lower expert; experts ascending; wt = sc / (sum of
 * the k sc, ascending by expert) * scale. Also for grouping: off[e] = first entry of expert e
 * in pair[]; pair[i] = t * k + slot sorted by (expert, token); off has E + 1 entries and covers
 * all T*k pairs. */
struct op_route {
    struct opnd z;            /* [T][E] */
    struct opvec bias, table; /* [E] F32, or [V][k] I32; exactly one unless bias is absent */
    struct opnd picked;       /* IO, as EMBED */
    struct opnd idx, wt;      /* I32 [T][k], F32 [T][k] */
    struct opnd off, pair;    /* I32: one row of E+1; one row of T_max*k */
    uint32_t n_expert, k;
    float scale;
};

/* ---- MOE_UP ----
 * For each token t and slot s with expert e = idx[t][s]: as FFN_UP with w1[e], w3[e], times
 * wt[t][s] last. Row t*k + s of h. Tolerance as LINEAR. */
struct op_moe_up {
    struct opnd x, x_act;
    struct opmat w1, w3; /* [E][F][D] */
    struct opnd idx, wt, off, pair;
    struct opnd h, h_act; /* [T*k][F] */
    uint32_t n_expert, k, f;
    float lim;
};

/* ---- MOE_DOWN ----
 * y[d] = sum over slots ascending of DOT(w2[e], h row), then + DOT(shared w2, hs row), plain
 * F32 adds starting with the first slot; then HCpost as LINEAR_HC. */
struct op_moe_down {
    struct opnd h, h_act;    /* [T*k][F] */
    struct opnd hs, hs_act;  /* [T][F] */
    struct opmat w2, shared; /* [E][D][F], [D][F] */
    struct opnd idx, off, pair;
    struct opnd hc_x, post, comb;
    uint32_t n_expert, k, hc, d;
};

/* One PICK record: what the host needs to sample without reading the logits row. */
struct pick {
    uint32_t id;    /* largest allowed logit; ties to the lower id; NaN never wins */
    uint32_t n_top; /* entries of top, largest first, ties to the lower id, NaN left out */
    float lse;      /* log of the sum of exp over allowed, non-NaN logits */
    uint32_t n_nan; /* NaN logits seen: a fault worth reporting */
    struct {
        uint32_t id;
        float logit;
    } top[PICK_TOP];
};

/* ---- PICK ----
 * Per out row: the pick record over tokens whose mask bit is set (bit id%32 of word id/32; all
 * if step.use_mask is 0), n_nan included; no candidate: id 0, n_top 0, lse -inf. picked[state] =
 * id of the sequence's last out row (unchanged without one). */
struct op_pick {
    struct opnd logits; /* IO F32 [n_out][V] */
    struct opnd mask;   /* IO BYTES [n_out][ceil(V/32)*4] */
    struct opnd picks;  /* IO BYTES [n_out] of struct pick */
    struct opnd picked; /* IO I32, as EMBED */
    uint32_t vocab;
};

struct op {
    uint8_t kind;     /* enum op_kind */
    int16_t layer;    /* -1: embedding and head */
    uint16_t level;   /* from 1; ops of one level are independent */
    const char *role; /* static: "attn", "index", "ffn", "head", ... for listings */
    union {
        struct op_embed embed;
        struct op_hc_mix hc_mix;
        struct op_hc_norm hc_norm;
        struct op_hc_head hc_head;
        struct op_linear linear;
        struct op_rms_norm rms_norm;
        struct op_kv_row kv_row;
        struct op_compress compress;
        struct op_head_finish head_finish;
        struct op_index_select index_select;
        struct op_attn attn;
        struct op_ring_store ring_store;
        struct op_linear_hc linear_hc;
        struct op_ffn_up ffn_up;
        struct op_route route;
        struct op_moe_up moe_up;
        struct op_moe_down moe_down;
        struct op_pick pick;
    };
};

/* ---- the catalogue as data: what builder, validator, listing and docs iterate over ---- */
enum op_access { ACCESS_R = 1, ACCESS_W = 2, ACCESS_RW = 3 };
enum op_field_type { FIELD_OPND, FIELD_MAT, FIELD_VEC };
struct op_field {
    const char *name;
    uint16_t offset; /* in struct op */
    uint8_t type;    /* enum op_field_type */
    uint8_t access;  /* enum op_access; weights: ACCESS_R */
};
const char *op_name(enum op_kind kind);                         /* "HC_MIX" */
const struct op_field *op_fields(enum op_kind kind, size_t *n); /* static table */
static inline const struct opnd *op_field_opnd(const struct op *op, const struct op_field *f)
{
    return (const struct opnd *)((const char *)op + f->offset);
}

#endif
