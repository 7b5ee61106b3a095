/* test_backend_moe.c - routing, experts and PICK of the cpu backend against ref, and against
 * itself over tiers, workers and chunking (ops_harness.h). Routing is exact in its choices:
 * scores are drawn so that no two are within rounding of each other, except where equal ones
 * are the test. */
#include <math.h>

#include "ops_harness.h"

struct moe_case {
    uint32_t n_tok, n_expert, k, f, d, up_type, down_type;
    bool hash, skewed;
    uint32_t w3_type; /* 0: as w1, up_type */
};

static struct program_limits limits(uint32_t t_max)
{
    return (struct program_limits){
        .t_max = t_max, .out_max = t_max, .seq_max = MAX_SEQ, .n_slots = 4, .max_ctx = 4096};
}

static uint32_t form_of(uint32_t type)
{
    return qformat(type)->cls == QC_BLOCK ? FORM_A8 : FORM_F32;
}

/* [V][k] expert ids. */
static struct opvec hash_table(struct op_test *t, uint32_t vocab, uint32_t k, uint32_t n_expert)
{
    uint16_t w = t_weight(t, QT_I32, 1, vocab, k, 0);
    int32_t *v = (int32_t *)(uintptr_t)t->w[w].data;
    for (uint32_t i = 0; i < vocab * k; i++) {
        v[i] = (int32_t)((rng_below(&t->rng, n_expert) / k * k + i % k) % n_expert);
    }
    return (struct opvec){w};
}

/* Scales of IQ2_XXS such that values stay below 1; random blocks have any. */
static struct opmat up_mat(struct op_test *t, const struct moe_case *c, uint32_t type)
{
    struct opmat m = t_mat(t, type, form_of(type), c->n_expert, c->f, c->d, 0.3f);
    unsigned char *block = (unsigned char *)(uintptr_t)t->w[m.w].data;
    const struct qformat *f = qformat(type);
    uint64_t n = type == QT_IQ2_XXS && c->w3_type ? t->w[m.w].bytes / f->block_bytes : 0;
    for (uint64_t i = 0; i < n; i++) {
        store_le16(block + i * f->block_bytes, f32_to_f16(0.004f * rng_sym(&t->rng)));
    }
    return m;
}

struct moe_operands {
    struct opnd x, xa, z, idx, wt, off, pair, h, ha, hs, hsa, hc_x, post, comb;
};

static void moe_operands(struct op_test *t, const struct moe_case *c, struct moe_operands *o)
{
    o->z = t_input(t, "z", c->n_expert);
    o->x = t_input(t, "x", c->d);
    if (form_of(c->up_type) == FORM_A8) {
        o->xa = program_tensor(t->p, "xa", 0, SPACE_IO, FORM_A8, ROWS_TOK, c->d, 1);
    }
    o->hs = t_input(t, "hs", c->f);
    o->hsa = program_tensor(t->p, "hsa", 0, SPACE_IO, FORM_A8, ROWS_TOK, c->f, 1);
    o->hc_x = t_input(t, "X", 4 * c->d);
    o->post = t_input(t, "post", 4);
    o->comb = t_input(t, "comb", 16);
    o->idx = t_arena(t, "idx", FORM_I32, ROWS_TOK, c->k, 1);
    o->wt = t_arena(t, "wt", FORM_F32, ROWS_TOK, c->k, 1);
    o->off = t_arena(t, "off", FORM_I32, ROWS_ONE, c->n_expert + 1, 1);
    o->pair = t_arena(t, "pair", FORM_I32, ROWS_ONE, t->p->lim.t_max * c->k, 1);
    o->h = t_arena(t, "h", FORM_F32, ROWS_PAIR, c->f, c->k);
    if (form_of(c->down_type) == FORM_A8) {
        o->ha = t_arena(t, "ha", FORM_A8, ROWS_PAIR, c->f, c->k);
    }
}

static void record_moe(struct op_test *t, const struct moe_case *c)
{
    struct moe_operands o = {0};
    moe_operands(t, c, &o);
    uint32_t down = c->down_type;
    struct op *op = program_op(t->p, OP_ROUTE, 0, "t");
    op->route.z = o.z;
    op->route.idx = o.idx;
    op->route.wt = o.wt;
    op->route.off = o.off;
    op->route.pair = o.pair;
    op->route.n_expert = c->n_expert;
    op->route.k = c->k;
    op->route.scale = 1.5f;
    if (c->hash) {
        op->route.table = hash_table(t, 50, c->k, c->n_expert);
    } else {
        op->route.bias = t_vec(t, c->n_expert, 0.3f);
    }
    op = program_op(t->p, OP_MOE_UP, 0, "t");
    op->moe_up = (struct op_moe_up){.x = o.x,
                                    .x_act = o.xa,
                                    .w1 = up_mat(t, c, c->up_type),
                                    .w3 = up_mat(t, c, c->w3_type ? c->w3_type : c->up_type),
                                    .idx = o.idx,
                                    .wt = o.wt,
                                    .off = o.off,
                                    .pair = o.pair,
                                    .h = o.h,
                                    .h_act = o.ha,
                                    .n_expert = c->n_expert,
                                    .k = c->k,
                                    .f = c->f,
                                    .lim = 10.0f};
    op = program_op(t->p, OP_MOE_DOWN, 0, "t");
    op->moe_down =
        (struct op_moe_down){.h = o.h,
                             .h_act = o.ha,
                             .hs = o.hs,
                             .hs_act = o.hsa,
                             .w2 = t_mat(t, down, form_of(down), c->n_expert, c->d, c->f, 0.3f),
                             .shared = t_mat(t, QT_Q8_0, FORM_A8, 1, c->d, c->f, 0.3f),
                             .idx = o.idx,
                             .off = o.off,
                             .pair = o.pair,
                             .hc_x = o.hc_x,
                             .post = o.post,
                             .comb = o.comb,
                             .n_expert = c->n_expert,
                             .k = c->k,
                             .hc = 4,
                             .d = c->d};
}

static void test_moe(void **state)
{
    (void)state;
    static const struct moe_case cases[] = {
        {1, 8, 2, 64, 96, QT_BF16, QT_BF16, false, false, 0},
        {5, 8, 2, 64, 64, QT_Q8_0, QT_Q8_0, false, false, 0},
        {40, 8, 2, 96, 128, QT_F32, QT_Q8_0, true, false, 0},
        {90, 16, 6, 64, 160, QT_Q8_0, QT_F16, false, true, 0},
        {33, 8, 2, 256, 256, QT_IQ2_XXS, QT_Q2_K, false, false, 0},
        {200, 4, 2, 32, 64, QT_BF16, QT_BF16, false, true, 0},
        {9, 32, 1, 64, 40, QT_F32, QT_F32, true, false, 0},
        {8, 8, 8, 32, 33, QT_F16, QT_MXFP4, false, false, 0},
        /* gate and up of different formats, whose panels want different orders of activations:
         * a gathering is packed for one, then for the other, block after block */
        {40, 4, 2, 96, 256, QT_IQ2_XXS, QT_BF16, false, false, QT_Q8_0},
        {61, 4, 2, 96, 512, QT_Q4_K, QT_BF16, false, true, QT_IQ2_XXS},
        {3, 4, 2, 64, 256, QT_IQ2_XXS, QT_BF16, false, false, QT_IQ4_XS},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct moe_case *c = &cases[i];
        struct op_test t;
        t_begin(&t, "MOE", 2000 + i, limits(c->n_tok));
        record_moe(&t, c);
        uint32_t half = c->n_tok / 2;
        if (half > 0) {
            t_seq(&t, (struct step_seq){.n_tok = half});
        }
        t_seq(&t, (struct step_seq){.state = 2, .n0 = 9, .n_tok = c->n_tok - half});
        for (uint32_t k = 0; k < c->n_tok; k++) {
            t.tok[k] = rng_below(&t.rng, 50);
        }
        t_finish(&t, 0);
        t_fill(&t);
        const struct op_route *r = &t.p->ops[0].route;
        for (uint32_t k = 0; c->skewed && k < c->n_tok; k++) { /* crowded and empty experts */
            float *z = img_row(&t.in, &r->z, k);
            z[1] += 6.0f;
            z[3] -= 6.0f;
        }
        bool wild = c->up_type == QT_IQ2_XXS && !c->w3_type; /* its random scales reach 65504 */
        t_check(&t,
                wild                               ? INFINITY
                : form_of(c->down_type) == FORM_A8 ? 4e-3
                                                   : 2e-5,
                T_SPLIT, NULL);
        t_end(&t);
    }
}

/* ROUTE alone: equal scores go to the lower expert, NaN is never chosen while others are left. */
static void test_route_ties(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 4; round++) {
        struct op_test t;
        uint32_t n_tok = round % 2 ? 20 : 3, n_expert = 16, k = 4;
        t_begin(&t, "ROUTE ties", 2100 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_ROUTE, 0, "t");
        struct op_route o = {.n_expert = n_expert, .k = k, .scale = 2.5f};
        o.bias.w = o.table.w = WEIGHT_NONE;
        o.z = t_input(&t, "z", n_expert);
        o.idx = t_arena(&t, "idx", FORM_I32, ROWS_TOK, k, 1);
        o.wt = t_arena(&t, "wt", FORM_F32, ROWS_TOK, k, 1);
        o.off = t_arena(&t, "off", FORM_I32, ROWS_ONE, n_expert + 1, 1);
        o.pair = t_arena(&t, "pair", FORM_I32, ROWS_ONE, n_tok * k, 1);
        op->route = o;
        t_seq(&t, (struct step_seq){.n_tok = n_tok});
        t_finish(&t, 0);
        for (uint32_t i = 0; i < n_tok; i++) {
            float *z = img_row(&t.in, &t.p->ops[0].route.z, i);
            for (uint32_t x = 0; x < n_expert; x++) {
                z[x] = (float)rng_below(&t.rng, 3) - 1.0f; /* many ties */
            }
            if (round >= 2) {
                z[i % n_expert] = NAN;
                z[(i + 5) % n_expert] = 40.0f;
                z[(i + 7) % n_expert] = -200.0f;
            }
        }
        t_check(&t, 1e-6, T_SPLIT, NULL);
        t_end(&t);
    }
}

/* ---- PICK ---- */

static void picks_close(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    const struct op_pick *o = &t->p->ops[0].pick;
    for (uint32_t r = 0; r < t->s.n_out; r++) {
        const struct pick *a = img_row(ref, &o->picks, r), *b = img_row(cpu, &o->picks, r);
        assert_int_equal(a->id, b->id);
        assert_int_equal(a->n_top, b->n_top);
        assert_int_equal(a->n_nan, b->n_nan);
        assert_memory_equal(a->top, b->top, sizeof a->top);
        if (a->lse != b->lse) {
            assert_true(fabs((double)a->lse - (double)b->lse) <=
                        2e-6 * (1 + fabs((double)a->lse)));
        }
    }
}

static void fill_logits(struct op_test *t, uint64_t round, float *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        v[i] = round % 3 == 1 ? (float)rng_below(&t->rng, 9) : 20.0f * rng_sym(&t->rng);
        if (round % 3 == 2) {
            uint32_t what = rng_below(&t->rng, 40);
            v[i] = what == 0 ? NAN : what < 30 ? -INFINITY : v[i];
        }
    }
    if (round == 5) { /* nothing left to choose */
        for (uint32_t i = 0; i < n; i++) {
            v[i] = NAN;
        }
    }
    for (uint32_t i = 0; round == 6 && i < n; i++) { /* every logit enters the list */
        v[i] = (float)i;
    }
}

static void test_pick(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 8; round++) {
        struct op_test t;
        uint32_t vocab = (uint32_t[]){2304, 700, 333, 64, 40, 77, 5000, 1}[round];
        uint32_t n_tok = round % 2 ? 12 : 3, words = (vocab + 31) / 32;
        t_begin(&t, "PICK", 2200 + round, limits(n_tok));
        struct op *op = program_op(t.p, OP_PICK, -1, "t");
        struct op_pick o = {.vocab = vocab};
        o.logits = program_tensor(t.p, "logits", -1, SPACE_IO, FORM_F32, ROWS_OUT, vocab, 1);
        o.mask = program_tensor(t.p, "mask", -1, SPACE_IO, FORM_BYTES, ROWS_OUT, words * 4, 1);
        o.picks = program_tensor(t.p, "picks", -1, SPACE_IO, FORM_BYTES, ROWS_OUT,
                                 sizeof(struct pick), 1);
        o.picked = program_tensor(t.p, "picked", -1, SPACE_IO, FORM_I32, ROWS_ONE, 4, 1);
        op->pick = o;
        t_seq(&t, (struct step_seq){.state = 3, .n_tok = 2, .n_out = 2});
        t_seq(&t, (struct step_seq){.state = 1, .n_tok = n_tok - 2, .n_out = 1});
        t.out[0] = 0;
        t.out[1] = 1;
        t.out[2] = n_tok - 1;
        t.s.use_mask = round % 2;
        t_finish(&t, 0);
        const struct op_pick *p = &t.p->ops[0].pick;
        for (uint32_t r = 0; r < t.s.n_out; r++) {
            fill_logits(&t, round, img_row(&t.in, &p->logits, r), vocab);
            uint32_t *mask = img_row(&t.in, &p->mask, r);
            for (uint32_t i = 0; i < words; i++) {
                mask[i] = round == 3 && r == 1 ? 0 : (uint32_t)rng_u64(&t.rng);
            }
        }
        t_check(&t, 0, 0, picks_close);
        t_end(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moe),
        cmocka_unit_test(test_route_ties),
        cmocka_unit_test(test_pick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
