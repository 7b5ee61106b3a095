/* test_backend_linear.c - dense products, norms and hyper-connections of the cpu backend
 * against ref, and against itself over tiers, workers and chunking (ops_harness.h). LINEAR is
 * also held to its stated tolerance: 2e-6 of the sum of absolute terms of each output. */
#include <math.h>

#include "ops_harness.h"

enum { ROUNDS = 10 };

static const uint32_t all_types[] = {
    QT_F32,   QT_F16,   QT_BF16,  QT_Q8_0,   QT_Q4_0,   QT_Q4_1,    QT_Q5_0,   QT_Q5_1,
    QT_Q2_K,  QT_Q3_K,  QT_Q4_K,  QT_Q5_K,   QT_Q6_K,   QT_IQ2_XXS, QT_IQ2_XS, QT_IQ2_S,
    QT_IQ3_S, QT_IQ1_S, QT_IQ1_M, QT_IQ4_NL, QT_IQ4_XS, QT_IQ3_XXS, QT_MXFP4};

static struct program_limits limits(uint32_t t_max)
{
    return (struct program_limits){
        .t_max = t_max, .out_max = t_max, .seq_max = MAX_SEQ, .n_slots = 4, .max_ctx = 4096};
}

static void one_seq(struct op_test *t, uint32_t n_tok, uint32_t n0)
{
    t_seq(t, (struct step_seq){.n0 = n0, .n_tok = n_tok});
}

static uint32_t form_of(uint32_t type)
{
    return qformat(type)->cls == QC_BLOCK ? FORM_A8 : FORM_F32;
}

/* Sum of absolute terms of one product. */
static double abs_terms(const struct op_test *t, const struct opmat *m, uint32_t row,
                        const struct opnd *x, const struct opnd *x_act, uint32_t t_row,
                        uint32_t col0)
{
    const struct op_weight *w = &t->w[m->w];
    float *v = mem_alloc(m->cols, sizeof *v);
    quant_decode(w->type, (const char *)w->data + row * w->row_bytes, 0, m->cols, v);
    double sum = 0;
    for (uint32_t i = 0; i < m->cols; i++) {
        double xi;
        if (m->act == FORM_F32) {
            xi = (double)((const float *)img_row(&t->in, x, t_row))[col0 + i];
        } else {
            void *a = img_row(&t->in, x_act, t_row);
            xi = (double)act8_d(a, x_act->cols)[(col0 + i) / 32] * act8_q(a)[col0 + i];
        }
        sum += fabs((double)v[i] * xi);
    }
    mem_free(v);
    return sum;
}

static void linear_bound(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    const struct op_linear *o = &t->p->ops[0].linear;
    uint32_t groups = o->groups > 1 ? o->groups : 1;
    for (uint32_t p = 0; p < o->n_part; p++) {
        const struct opmat *m = &o->part[p].w;
        for (uint32_t r = 0; r < t->s.n_tok; r++) {
            const float *a = img_row(ref, &o->part[p].y, r),
                        *b = img_row(cpu, &o->part[p].y, r);
            for (uint32_t i = 0; i < m->rows; i++) {
                uint32_t col0 = i / (m->rows / groups) * m->cols;
                double bound = 2e-6 * abs_terms(t, m, i, &o->x, &o->x_act, r, col0) + 1e-42;
                if (!(fabs((double)a[i] - (double)b[i]) <= bound)) {
                    fail_msg("%s seed %llu: part %u type %s row %u token %u: ref %.9g cpu %.9g "
                             "bound %.3g",
                             t->what, (unsigned long long)t->seed, p,
                             qformat(t->w[m->w].type)->name, i, r, (double)a[i], (double)b[i],
                             bound);
                }
            }
        }
    }
}

/* A LINEAR of n_part parts, to be filled in, with both forms of its tokens. */
static struct op *linear_op(struct op_test *t, uint32_t cols, uint32_t n_part)
{
    struct opnd x = t_arena(t, "x", FORM_F32, ROWS_TOK, cols, 1);
    struct opnd xa = t_arena(t, "xa", FORM_A8, ROWS_TOK, cols, 1);
    struct op *op = program_op(t->p, OP_LINEAR, 0, "t");
    op->linear = (struct op_linear){.x = x, .x_act = xa, .n_part = n_part};
    for (uint32_t p = n_part; p < OP_LINEAR_PARTS; p++) {
        op->linear.part[p].w.w = WEIGHT_NONE;
    }
    return op;
}

/* Every type alone, over token counts on both sides of the row and tile kernels. */
static void test_linear_types(void **state)
{
    (void)state;
    static const uint32_t toks[] = {1, 3, 5, 9, 21};
    for (size_t k = 0; k < ARRAY_LEN(all_types); k++) {
        struct op_test t;
        uint32_t type = all_types[k], n_tok = toks[k % 5], rows = 33 + (uint32_t)k;
        uint32_t cols = qformat(type)->block_elems > 32 ? 768 : 544;
        t_begin(&t, "LINEAR types", 100 + k, limits(n_tok));
        struct opnd x = t_arena(&t, "x", FORM_F32, ROWS_TOK, cols, 1);
        struct opnd xa = t_arena(&t, "xa", FORM_A8, ROWS_TOK, cols, 1);
        struct opnd y = t_arena(&t, "y", FORM_F32, ROWS_TOK, rows, 1);
        struct op *op = program_op(t.p, OP_LINEAR, 0, "t");
        op->linear = (struct op_linear){.x = x, .n_part = 1};
        op->linear.part[0].w = t_mat(&t, type, form_of(type), 1, rows, cols, 1.0f);
        if (form_of(type) == FORM_A8) {
            op->linear.x_act = xa;
        }
        op->linear.part[0].y = y;
        for (int p = 1; p < OP_LINEAR_PARTS; p++) {
            op->linear.part[p].w.w = WEIGHT_NONE;
        }
        one_seq(&t, n_tok, 0);
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-4, T_SPLIT, linear_bound);
        t_end(&t);
    }
}

/* Several parts of mixed types that write columns of wider tensors; odd sizes. */
static void test_linear_parts(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct op_test t;
        struct rng r = {200 + round};
        uint32_t n_tok = (uint32_t[]){1, 2, 8, 9, 17, 40, 130, 3, 16, 24}[round];
        uint32_t cols = (1 + rng_below(&r, 12)) * 32;
        t_begin(&t, "LINEAR parts", 200 + round, limits(n_tok + rng_below(&r, 3)));
        struct op *op = linear_op(&t, cols, 3);
        struct opnd wide = t_arena(&t, "wide", FORM_F32, ROWS_TOK, 200, 1);
        struct opnd y2 = t_arena(&t, "y2", FORM_F32, ROWS_TOK, 65, 1);
        op->linear.part[0].w = t_mat(&t, QT_BF16, FORM_F32, 1, 90, cols, 1.0f);
        op->linear.part[0].y = opnd_cols(wide, 0, 90);
        op->linear.part[1].w = t_mat(&t, QT_Q8_0, FORM_A8, 1, 110, cols, 1.0f);
        op->linear.part[1].y = opnd_cols(wide, 90, 110);
        op->linear.part[2].w = t_mat(&t, QT_Q8_0, FORM_F32, 1, 65, cols, 1.0f);
        op->linear.part[2].y = y2; /* block weights on floats: oracle runs */
        one_seq(&t, n_tok, 0);
        t.amplitude = round % 3 == 2 ? 1e-20f : round % 3 == 1 ? 1e18f : 1.0f;
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-4, T_SPLIT, linear_bound);
        t_end(&t);
    }
}

/* So many tokens and rows that the op is cut into token groups and ranges of blocks. */
static void test_linear_many(void **state)
{
    (void)state;
    struct op_test t;
    const uint32_t n_tok = 300, cols = 32, rows = 1030;
    t_begin(&t, "LINEAR many", 290, limits(n_tok));
    struct op *op = linear_op(&t, cols, 2);
    op->linear.part[0].w = t_mat(&t, QT_Q8_0, FORM_A8, 1, rows, cols, 1.0f);
    op->linear.part[0].y = t_arena(&t, "y0", FORM_F32, ROWS_TOK, rows, 1);
    op->linear.part[1].w = t_mat(&t, QT_F16, FORM_F32, 1, 40, cols, 1.0f);
    op->linear.part[1].y = t_arena(&t, "y1", FORM_F32, ROWS_TOK, 40, 1);
    one_seq(&t, n_tok, 0);
    t_finish(&t, 0);
    t_fill(&t);
    t_check(&t, 1e-4, T_SPLIT, linear_bound);
    t_end(&t);
}

static void a8_of_f32(struct op_test *t, const struct opnd *f32, const struct opnd *a8,
                      uint32_t rows, const struct image *m)
{
    for (uint32_t r = 0; r < rows; r++) {
        unsigned char want[4096];
        act8_encode(img_row(m, f32, r), 0, f32->cols, f32->cols, want);
        same_bytes(t, "A8 form of the F32 output", want, img_row(m, a8, r),
                   act8_row_bytes(f32->cols), 0, 0);
    }
}

static void grouped_a8(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    const struct op_linear *o = &t->p->ops[0].linear;
    linear_bound(t, ref, cpu);
    a8_of_f32(t, &o->part[0].y, &o->y_act, t->s.n_tok, cpu);
}

/* Grouped rows (wo_a), output in both forms, any column count for floats; groups narrower than
 * a block of 32 rows, or ending inside one, too. */
static void test_linear_grouped(void **state)
{
    (void)state;
    static const uint32_t group_rows[] = {64, 64, 64, 64, 16, 48, 8, 16, 48, 8};
    static const uint32_t n_groups[] = {2, 3, 2, 3, 2, 2, 4, 4, 4, 8};
    static const uint32_t n_toks[] = {1, 6, 19, 64, 5, 3, 30, 64, 1, 12};
    for (uint64_t round = 0; round < ARRAY_LEN(n_toks); round++) {
        struct op_test t;
        uint32_t n_tok = n_toks[round], groups = n_groups[round];
        bool a8 = round % 2;
        uint32_t k = a8 ? 96 : 70, rows = groups * group_rows[round];
        t_begin(&t, "LINEAR grouped", 300 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_LINEAR, 0, "t");
        op->linear.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, groups * k, 1);
        if (a8) {
            op->linear.x_act = t_arena(&t, "xa", FORM_A8, ROWS_TOK, groups * k, 1);
        }
        op->linear.part[0].w =
            t_mat(&t, a8 ? QT_Q8_0 : QT_F16, a8 ? FORM_A8 : FORM_F32, 1, rows, k, 1.0f);
        op->linear.part[0].y = t_arena(&t, "y", FORM_F32, ROWS_TOK, rows, 1);
        op->linear.y_act = t_arena(&t, "ya", FORM_A8, ROWS_TOK, rows, 1);
        op->linear.n_part = 1;
        op->linear.groups = groups;
        one_seq(&t, n_tok, 0);
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-4, T_SPLIT, grouped_a8);
        t_end(&t);
    }
}

/* NaN and infinity in the input show in the output, in the same places as in ref. */
static void test_linear_nan(void **state)
{
    (void)state;
    struct op_test t;
    t_begin(&t, "LINEAR NaN", 400, limits(12));
    struct op *op = program_op(t.p, OP_LINEAR, 0, "t");
    op->linear.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, 64, 1);
    op->linear.x_act = t_arena(&t, "xa", FORM_A8, ROWS_TOK, 64, 1);
    op->linear.part[0].w = t_mat(&t, QT_F32, FORM_F32, 1, 40, 64, 1.0f);
    op->linear.part[0].y = t_arena(&t, "y0", FORM_F32, ROWS_TOK, 40, 1);
    op->linear.part[1].w = t_mat(&t, QT_Q8_0, FORM_A8, 1, 40, 64, 1.0f);
    op->linear.part[1].y = t_arena(&t, "y1", FORM_F32, ROWS_TOK, 40, 1);
    op->linear.n_part = 2;
    one_seq(&t, 12, 0);
    t_finish(&t, 0);
    t_fill(&t);
    const struct op_linear *o = &t.p->ops[0].linear;
    float *x = img_row(&t.in, &o->x, 3), *x7 = img_row(&t.in, &o->x, 7);
    x[5] = NAN;
    x7[9] = INFINITY;
    act8_encode(x, 0, 64, 64, img_row(&t.in, &o->x_act, 3));
    act8_encode(x7, 0, 64, 64, img_row(&t.in, &o->x_act, 7));
    t_check(&t, 1e-4, T_SPLIT, NULL);
    t_end(&t);
}

/* ---- HCpost and SwiGLU after a product ---- */

static void test_linear_hc(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        uint32_t n_tok = (uint32_t[]){1, 4, 9, 33, 70, 2}[round];
        uint32_t d = (uint32_t[]){64, 40, 96, 33, 256, 31}[round], hc = round == 3 ? 3 : 4;
        bool a8 = round % 2;
        t_begin(&t, "LINEAR_HC", 500 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_LINEAR_HC, 0, "t");
        struct op_linear_hc o = {.hc = hc, .d = d};
        o.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, 160, 1);
        o.x_act = t_arena(&t, "xa", FORM_A8, ROWS_TOK, 160, 1);
        o.w = t_mat(&t, a8 ? QT_Q8_0 : QT_F32, a8 ? FORM_A8 : FORM_F32, 1, d, 160, 0.1f);
        o.hc_x = t_arena(&t, "X", FORM_F32, ROWS_TOK, hc * d, 1);
        o.post = t_arena(&t, "post", FORM_F32, ROWS_TOK, hc, 1);
        o.comb = t_arena(&t, "comb", FORM_F32, ROWS_TOK, hc * hc, 1);
        op->linear_hc = o;
        one_seq(&t, n_tok, 0);
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 4e-6, T_SPLIT, NULL);
        t_end(&t);
    }
}

static void ffn_a8(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    (void)ref;
    const struct op_ffn_up *o = &t->p->ops[0].ffn_up;
    if (o->h.space != SPACE_NONE && o->h_act.space != SPACE_NONE) {
        a8_of_f32(t, &o->h, &o->h_act, t->s.n_tok, cpu);
    }
}

static void test_ffn_up(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        uint32_t n_tok = (uint32_t[]){1, 8, 9, 40, 3, 20}[round];
        uint32_t f = (uint32_t[]){64, 96, 128, 32, 50, 70}[round];
        t_begin(&t, "FFN_UP", 600 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_FFN_UP, 0, "t");
        struct op_ffn_up o = {.f = f, .lim = round % 2 ? 2.0f : 0.0f};
        o.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, 256, 1);
        o.x_act = t_arena(&t, "xa", FORM_A8, ROWS_TOK, 256, 1);
        o.w1 = t_mat(&t, QT_Q8_0, FORM_A8, 1, f, 256, round == 4 ? 30.0f : 0.5f);
        o.w3 = t_mat(&t, QT_BF16, FORM_F32, 1, f, 256, 0.5f);
        if (round != 2) {
            o.h = t_arena(&t, "h", FORM_F32, ROWS_TOK, f, 1);
        }
        if (f % 32 == 0) {
            o.h_act = t_arena(&t, "ha", FORM_A8, ROWS_TOK, f, 1);
        }
        op->ffn_up = o;
        one_seq(&t, n_tok, 0);
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-5, T_SPLIT, ffn_a8);
        t_end(&t);
    }
}

/* ---- embedding, norms, hyper-connections ---- */

static void test_embed(void **state)
{
    (void)state;
    static const uint32_t types[] = {QT_F32, QT_BF16, QT_F16, QT_Q8_0};
    for (uint64_t round = 0; round < 4; round++) {
        struct op_test t;
        uint32_t n_tok = (uint32_t[]){1, 9, 3, 30}[round], d = round == 3 ? 96 : 90, hc = 4;
        t_begin(&t, "EMBED", 700 + round, limits(n_tok));
        struct opnd picked =
            program_tensor(t.p, "picked", -1, SPACE_IO, FORM_I32, ROWS_ONE, 4, 1);
        struct op *op = program_op(t.p, OP_EMBED, -1, "t");
        op->embed = (struct op_embed){.hc = hc, .d = d};
        op->embed.table = t_mat(&t, types[round], FORM_F32, 1, 37, d, 1.0f);
        op->embed.picked = picked;
        op->embed.x = t_arena(&t, "X", FORM_F32, ROWS_TOK, hc * d, 1);
        one_seq(&t, n_tok, 0);
        for (uint32_t i = 0; i < n_tok; i++) {
            t.tok[i] = rng_below(&t.rng, 37);
        }
        t_finish(&t, 0);
        t.p->io_picked = t.p->ops[0].embed.picked;
        t.tok[n_tok / 2] = TOK_PICKED;
        ((uint32_t *)img_row(&t.in, &t.p->io_picked, 0))[0] = 36;
        t_check(&t, 0.0, T_SPLIT, NULL);
        t_end(&t);
    }
}

static void test_rms_norm(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        uint32_t n_tok = (uint32_t[]){1, 5, 20, 9, 2, 4}[round];
        uint32_t n = (uint32_t[]){128, 96, 45, 1024, 17, 96}[round];
        t_begin(&t, "RMS_NORM", 800 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_RMS_NORM, 0, "t");
        struct op_rms_norm o = {.n = n, .eps = 1e-6f};
        o.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, n, 1);
        o.y = t_arena(&t, "y", FORM_F32, ROWS_TOK, n, 1);
        if (n % 32 == 0) {
            o.y_act = t_arena(&t, "ya", FORM_A8, ROWS_TOK, n, 1);
        }
        o.w = t_vec(&t, n, 1.0f);
        if (round == 5) { /* two of three blocks have no 8-bit form: their scale must be NaN */
            float *w = (float *)t.w[o.w.w].data;
            w[3] = INFINITY;
            w[40] = NAN;
        }
        op->rms_norm = o;
        one_seq(&t, n_tok, 0);
        t.amplitude = round == 3 ? 1e-30f : round == 1 ? 1e12f : 1.0f;
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-6, T_SPLIT, NULL);
        t_end(&t);
    }
}

/* HC_MIX into HC_NORM, and HC_MIX (rows_out) into HC_HEAD, with a ragged last chunk. */
static void test_hyper_connections(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        uint32_t n_tok = (uint32_t[]){1, 3, 10, 33, 12, 2}[round];
        uint32_t d = (uint32_t[]){64, 96, 50, 256, 81, 40}[round], hc = round == 5 ? 2 : 4;
        uint32_t nc = (d + 31) / 32, m = (2 + hc) * hc;
        t_begin(&t, "HC", 900 + round, limits(n_tok));
        struct opnd x = t_arena(&t, "X", FORM_F32, ROWS_TOK, hc * d, 1);
        struct opnd mixp = t_arena(&t, "mixp", FORM_F32, ROWS_TOK, nc * (m + 1), 1);
        struct opnd mixh = t_arena(&t, "mixh", FORM_F32, ROWS_OUT, nc * (hc + 1), 1);
        struct opnd xn = t_arena(&t, "xn", FORM_F32, ROWS_TOK, d, 1), none = {0};
        bool a8 = d % 32 == 0;
        struct opnd xa = a8 ? t_arena(&t, "xna", FORM_A8, ROWS_TOK, d, 1) : none;
        struct opnd post = t_arena(&t, "post", FORM_F32, ROWS_TOK, hc, 1);
        struct opnd comb = t_arena(&t, "comb", FORM_F32, ROWS_TOK, hc * hc, 1);
        struct opnd hn = t_arena(&t, "hn", FORM_F32, ROWS_OUT, d, 1);
        uint32_t type = round % 2 ? QT_F16 : QT_F32;
        struct op *op = program_op(t.p, OP_HC_MIX, 0, "t");
        op->hc_mix = (struct op_hc_mix){.x = x,
                                        .mixp = mixp,
                                        .hc = hc,
                                        .d = d,
                                        .m = m,
                                        .nc = nc,
                                        .fn = t_mat(&t, type, FORM_F32, 1, m, hc * d, 0.3f)};
        op = program_op(t.p, OP_HC_MIX, 0, "t");
        op->hc_mix = (struct op_hc_mix){.x = x,
                                        .mixp = mixh,
                                        .hc = hc,
                                        .d = d,
                                        .m = hc,
                                        .nc = nc,
                                        .rows_out = true,
                                        .fn = t_mat(&t, type, FORM_F32, 1, hc, hc * d, 0.3f)};
        op = program_op(t.p, OP_HC_NORM, 0, "t");
        op->hc_norm = (struct op_hc_norm){.x = x,
                                          .mixp = mixp,
                                          .scale = t_vec(&t, 3, 1.0f),
                                          .base = t_vec(&t, m, 1.0f),
                                          .norm = t_vec(&t, d, 1.0f),
                                          .xn = xn,
                                          .xn_act = xa,
                                          .post = post,
                                          .comb = comb,
                                          .hc = hc,
                                          .d = d,
                                          .nc = nc,
                                          .iters = 20,
                                          .eps = 1e-6f,
                                          .hc_eps = 1e-6f};
        op = program_op(t.p, OP_HC_HEAD, 0, "t");
        op->hc_head = (struct op_hc_head){.x = x,
                                          .mixp = mixh,
                                          .scale = t_vec(&t, 1, 1.0f),
                                          .base = t_vec(&t, hc, 1.0f),
                                          .norm = t_vec(&t, d, 1.0f),
                                          .hn = hn,
                                          .hc = hc,
                                          .d = d,
                                          .nc = nc,
                                          .eps = 1e-6f,
                                          .hc_eps = 1e-6f};
        uint32_t n_out = n_tok > 4 ? 3 : 1;
        t_seq(&t, (struct step_seq){.n_tok = n_tok, .n_out = n_out});
        for (uint32_t i = 0; i < n_out; i++) {
            t.out[i] = n_tok - n_out + i;
        }
        t_finish(&t, 0);
        t_fill(&t);
        t_check(&t, 1e-5, T_SPLIT, NULL);
        t_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_types), cmocka_unit_test(test_linear_parts),
        cmocka_unit_test(test_linear_many),  cmocka_unit_test(test_linear_grouped),
        cmocka_unit_test(test_linear_nan),   cmocka_unit_test(test_linear_hc),
        cmocka_unit_test(test_ffn_up),       cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rms_norm),     cmocka_unit_test(test_hyper_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
