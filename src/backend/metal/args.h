/* args.h - what the host writes and the kernels read: one struct per task, compiled as C and as
 * Metal. Both sides check the sizes. Places are byte offsets into a space, never pointers, so the
 * structs are written once, when a program is compiled.
 *
 * A dispatch runs one level: up to METAL_SLOTS tasks side by side, each a range of threadgroups.
 * A task is an op or a part of one. Everything that changes from step to step lies in the step
 * buffers. */
#ifndef METAL_ARGS_H
#define METAL_ARGS_H

#ifdef __METAL_VERSION__
typedef uint mu32;
typedef ulong mu64;
#else
#include <stdint.h>
typedef uint32_t mu32;
typedef uint64_t mu64;
#endif

enum {
    METAL_SLOTS = 5,        /* tasks of one dispatch */
    METAL_VIEWS = 12,       /* weight buffers */
    METAL_THREADS = 256,    /* of every threadgroup: 8 simdgroups */
    METAL_ROWS = 32,        /* weight rows of a product block; one A8 block; one HC_MIX chunk */
    METAL_FEW = 8,          /* tokens up to which products go row by row */
    METAL_TILE = 32,        /* tokens of a product tile */
    METAL_HEADS = 8,        /* attention heads of a threadgroup: one a simdgroup */
    METAL_SPLIT = 128,      /* ATTN entries of one split (op.h) */
    METAL_ATTN_ROWS = 4,    /* stored rows decoded at a time */
    METAL_HEAD_MAX = 512,   /* longest head, longest stored row */
    METAL_HC_MAX = 5,       /* streams: hc * hc lanes of one simdgroup */
    METAL_K_MAX = 16,       /* routed experts of a token */
    METAL_EXPERTS = 4096,   /* most routed experts */
    METAL_NORM_MAX = 2048,  /* longest vector of a norm that is folded into a product */
    METAL_INDEX_N = 128,    /* longest index vector */
    METAL_INDEX_BATCH = 16, /* tokens whose index scores exist at a time */
    METAL_PARTS = 8,
};

/* Threadgroup memory of the tasks with products, ROUTE and HCpost, in floats. What few tokens need
 * comes first: a dispatch asks for what its tasks use in this step (metal_tg_bytes), so that a core
 * holds several threadgroups. */
enum {
    METAL_AT_LIST = 0,  /* 32 row numbers of the tokens, as uint */
    METAL_AT_ROOM = 32, /* 8 floats for group_sum */
    METAL_AT_PAIR = 64, /* MOE: 32 pairs, 32 weights */
    METAL_AT_MIX = 128, /* HCpost: [METAL_HC_MAX][32] */
    METAL_AT_OUT = 288, /* [tokens][32] */
    /* Behind METAL_FEW tokens' results: a norm fused in front; or ROUTE: the chosen experts and
     * their weights, then [n_expert] scores. */
    METAL_AT_FEW = 544,
    METAL_AT_SCORE = METAL_AT_FEW + 2 * METAL_K_MAX,
    METAL_AT_W = 1312, /* tiles: [32 rows][64] codes of two blocks */
    METAL_AT_X = 3360, /* [32 tokens][64] */
    METAL_AT_I = 5408, /* [2 blocks][32 tokens][32 rows] integer sums */
    METAL_AT_S = 7456, /* per (block, row): d, m, mc0, mc1: [4][2][32] */
    METAL_AT_A = 7712, /* per (block, token): d, sum0, sum1: [3][2][32] */
    METAL_AT_END = 7904,
    /* Other tasks. */
    METAL_AT_VECTOR = 64, /* RMS_NORM, KV_ROW, COMPRESS: the vector, behind group_sum's room */
    METAL_AT_HC_VECTOR = 96,   /* HC_NORM, HC_HEAD: behind sums, room and pre */
    METAL_PIECE = 4096,        /* norms write at most so many elements at a time */
    METAL_SELECT_FLOATS = 512, /* INDEX_TOP, PICK */
    METAL_INDEX_SUMS = 512,    /* INDEX_SCORE: sums of 16 heads and 32 rows; then 48 vectors */
};

/* Buffer indices of the one kernel. */
enum {
    METAL_BUF_LEVEL,
    METAL_BUF_ARGS,
    METAL_BUF_STEP,
    METAL_BUF_SEQ,
    METAL_BUF_TOK,
    METAL_BUF_TOK_SEQ,
    METAL_BUF_PAGES,
    METAL_BUF_OUT,
    METAL_BUF_ANGLES,
    METAL_BUF_ARENA,
    METAL_BUF_STATE,
    METAL_BUF_PAGE,
    METAL_BUF_IO,
    METAL_BUF_SCRATCH,
    METAL_BUF_VIEW0,
};

/* Function constants: the kind of each slot's task; the weight types of the level's products. */
enum { METAL_FC_KIND0 = 0, METAL_FC_TYPES_LO = METAL_SLOTS, METAL_FC_TYPES_HI };

enum metal_task {
    METAL_NONE,
    METAL_EMBED,
    METAL_HC_MIX,
    METAL_HC_NORM,
    METAL_HC_HEAD,
    METAL_LINEAR,
    METAL_RMS_NORM,
    METAL_KV_ROW,
    METAL_COMPRESS,      /* all of it, one threadgroup a sequence: few tokens */
    METAL_COMPRESS_ROWS, /* rows and boundary copies, then ... */
    METAL_COMPRESS_RING, /* ... in a later dispatch the ring */
    METAL_HEAD_FINISH,
    METAL_INDEX_SCORE,
    METAL_INDEX_TOP,
    METAL_ATTN,       /* one split of 8 heads to scratch; or all splits of a token */
    METAL_ATTN_MERGE, /* splits in order, from scratch */
    METAL_RING_STORE,
    METAL_LINEAR_HC,
    METAL_FFN_UP,
    METAL_ROUTE,       /* all tokens, one threadgroup: few tokens */
    METAL_ROUTE_TOKEN, /* one threadgroup a token, then ... */
    METAL_ROUTE_GROUP, /* ... the lists of the experts */
    METAL_MOE_UP,
    METAL_MOE_UP_EXPERT, /* grouped by expert: many tokens */
    METAL_MOE_DOWN,
    METAL_MOE_DOWN_EXPERT, /* products of each pair to scratch, then ... */
    METAL_MOE_DOWN_SUM,    /* ... their sum, the shared expert, the residual */
    METAL_PICK,
    METAL_TASKS
};

/* Which threadgroups run which task: those from first[i] to first[i + 1]. */
struct metal_level {
    mu32 first[METAL_SLOTS + 1];
    mu32 args[METAL_SLOTS]; /* byte offsets into the args buffer */
    mu32 tok0, n_tok; /* tokens of INDEX_SELECT's tasks: it goes through them in batches */
};

/* ---- operands ---- */
struct metal_opnd {
    mu64 offset;
    mu32 row_bytes, cols;
    mu32 space; /* enum op_space; 0: absent */
    mu32 pad;
};
struct metal_rows {
    struct metal_opnd codes, scales;
};
struct metal_mat {
    mu64 offset; /* in its view */
    mu64 mat_bytes;
    mu32 view, type; /* type: enum qtype; METAL_ABSENT: no matrix */
    mu32 act;        /* 0: F32 form, 1: A8 */
    mu32 row_bytes, rows, cols;
};
#define METAL_ABSENT 0xFFFFFFFFu
struct metal_vec {
    mu64 offset;
    mu32 view; /* METAL_ABSENT: none */
    mu32 pad;
};
struct metal_geom {
    mu32 kind, n, rope, code_bytes, scale_bytes;
};

/* ---- the step: header; arrays in buffers of their own ---- */
struct metal_seq { /* struct step_seq, plus where its angles begin */
    mu32 state, n0, n_tok, tok0, start, keep, page0, n_page, out0, n_out;
};
enum { METAL_GROUP_KINDS = 4 }; /* pairs (ratio, rope class) among the COMPRESS ops */
struct metal_step {
    mu32 n_tok, n_seq, n_out, use_mask;
    mu64 slot_bytes, page_bytes;
    mu32 angle_row[2];   /* floats a row: 2 * pairs of each rope class */
    mu32 angle_first[2]; /* of the token rows, in floats */
    mu32
        group_first[METAL_GROUP_KINDS]; /* of the rows of completed groups, in sequence order */
};

/* ---- tasks ---- */
struct metal_embed {
    struct metal_mat table;
    struct metal_opnd picked, x;
    mu32 hc, d;
};
struct metal_hc_mix {
    struct metal_opnd x, mixp;
    struct metal_mat fn;
    mu32 hc, d, m, nc, rows_out;
};
struct metal_hc_norm { /* HC_HEAD too: head 1 */
    struct metal_opnd x, mixp, xn, xn_act, post, comb;
    struct metal_vec scale, base, norm;
    mu32 hc, d, nc, iters, head;
    float eps, hc_eps;
};
struct metal_norm_in { /* a norm that a product runs over its own input first (n_norm > 0) */
    struct metal_opnd x;
    struct metal_vec w;
    mu32 n;
    float eps;
};
struct metal_linear {
    struct metal_opnd x, x_act, y_act;
    struct {
        struct metal_mat w;
        struct metal_opnd y;
        mu32 first; /* its first block of 32 rows among those of all parts */
        mu32 pad;
    } part[METAL_PARTS];
    mu32 n_part, groups, rows_out, n_block;
    struct metal_norm_in norm;
};
struct metal_rms_norm {
    struct metal_opnd x, y, y_act;
    struct metal_vec w;
    mu32 n;
    float eps;
};
struct metal_kv_row {
    struct metal_opnd x;
    struct metal_rows wrow;
    struct metal_vec w;
    struct metal_geom geom;
    mu32 rope;
    float eps;
};
struct metal_compress {
    struct metal_opnd x, ring, bound;
    struct metal_rows rows;
    struct metal_vec ape, norm;
    struct metal_geom geom;
    mu32 ratio, k, slots, align, rows_per_page, rope, group_kind;
    float eps;
};
struct metal_head_finish {
    struct metal_opnd q;
    mu32 heads, n, rope, norm, index, fp4;
    float eps;
};
struct metal_index {
    struct metal_opnd qi, iw, sel, n_sel;
    struct metal_rows rows;
    struct metal_geom geom;
    mu64 scratch; /* scores: [METAL_INDEX_BATCH][max_rows] floats */
    mu32 heads, n, k_sel, ratio, rows_per_page, max_rows;
    float scale;
    struct metal_head_finish finish; /* heads > 0: qi is finished here */
};
struct metal_attn {
    struct metal_opnd q, o, o_act, sel, n_sel;
    struct metal_rows wrow, ring, rows;
    struct metal_vec sink;
    struct metal_geom geom;
    mu64 scratch; /* [T][heads][max_splits] of {max, sum, o[n]} */
    mu32 heads, n, window, slots, ratio, rows_per_page, rope, max_splits;
    mu32 whole; /* a threadgroup walks all splits of its token and writes o */
    float scale;
    struct metal_head_finish finish;
};
struct metal_ring_store {
    struct metal_rows wrow, ring;
    mu32 slots;
};
struct metal_linear_hc {
    struct metal_opnd x, x_act, hc_x, post, comb;
    struct metal_mat w;
    mu32 hc, d;
    struct metal_hc_mix mix; /* m > 0: the next HC_MIX, done on the rows just written */
};
struct metal_ffn_up {
    struct metal_opnd x, x_act, h, h_act;
    struct metal_mat w1, w3;
    mu32 f;
    float lim;
};
struct metal_route {
    struct metal_opnd z, idx, wt, off, pair, picked;
    struct metal_vec bias, table;
    mu32 n_expert, k;
    float scale;
};
struct metal_moe_up {
    struct metal_opnd x, x_act, idx, wt, off, pair, h, h_act;
    struct metal_mat w1, w3;
    mu32 n_expert, k, f;
    float lim;
    struct metal_route route; /* k > 0: ROUTE is done here */
};
struct metal_moe_down {
    struct metal_opnd h, h_act, hs, hs_act, idx, off, pair, hc_x, post, comb;
    struct metal_mat w2, shared;
    mu64 scratch; /* [T * k][d] floats */
    mu32 n_expert, k, hc, d;
    struct metal_hc_mix mix;
};
struct metal_pick {
    struct metal_opnd logits, mask, picks, picked;
    mu32 vocab;
};

#ifdef __METAL_VERSION__
#define METAL_CHECK(type, bytes) static_assert(sizeof(struct type) == bytes, #type)
#else
#define METAL_CHECK(type, bytes) _Static_assert(sizeof(struct type) == bytes, #type)
#endif
METAL_CHECK(metal_level, 52);
METAL_CHECK(metal_opnd, 24);
METAL_CHECK(metal_mat, 40);
METAL_CHECK(metal_vec, 16);
METAL_CHECK(metal_seq, 40);
METAL_CHECK(metal_step, 64);

#endif
