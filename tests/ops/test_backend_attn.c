/* test_backend_attn.c - rows, compressor, indexer and attention of the cpu backend against ref,
 * and against itself over tiers, workers and chunking (ops_harness.h). Single ops read rows
 * that the test stores, so that roundings cannot flip; KV_ROW and COMPRESS may flip a code
 * where ref and cpu fall on two sides of a rounding border (op.h), which the row comparison
 * allows: values within one code step, and few of them. Whole sublayers, recorded as the model
 * does, are compared with plain float rows, and with rounded rows against themselves. */
#include <math.h>

#include "ops_harness.h"

/* One attention sublayer: sizes, where its planes lie, and its operands. */
struct sub {
    struct op_test *t;
    enum row_kind kind, index_kind;
    uint32_t heads, n, rope_n, window, win_slots;
    uint32_t ratio, k, in_slots, align, page_tokens;
    uint32_t ih, in, k_sel;
    struct row_geom geom, index_geom;
    uint64_t state_at, page_at;
    struct opnd_rows ring, wrow, rows, irows;
    struct opnd cring, iring, bound, ibound;
};

static struct opnd plane(struct sub *s, enum op_space space, enum op_form form, uint32_t cols,
                         uint32_t rows, const char *name)
{
    uint64_t row_bytes = form == FORM_BYTES ? cols : cols * 4ull;
    uint64_t *at = space == SPACE_STATE ? &s->state_at : &s->page_at;
    struct opnd o =
        program_plane(s->t->p, name, 0, space, form, cols, *at, row_bytes, row_bytes * rows);
    *at += align_up(row_bytes * rows, 64);
    return o;
}

static struct opnd_rows row_planes(struct sub *s, enum op_space space, const struct row_geom *g,
                                   uint32_t rows, const char *name)
{
    struct opnd_rows r = {.codes = plane(s, space, FORM_BYTES, g->code_bytes, rows, name)};
    if (g->scale_bytes) {
        r.scales = plane(s, space, FORM_BYTES, g->scale_bytes, rows, name);
    }
    return r;
}

static struct opnd_rows row_arena(struct sub *s, const struct row_geom *g, const char *name)
{
    struct opnd_rows r = {.codes = t_arena(s->t, name, FORM_BYTES, ROWS_TOK, g->code_bytes, 1)};
    if (g->scale_bytes) {
        r.scales = t_arena(s->t, name, FORM_BYTES, ROWS_TOK, g->scale_bytes, 1);
    }
    return r;
}

static void rope_tables(struct program *p, uint32_t n_pairs)
{
    for (int c = 0; c < ROPE_CLASSES; c++) {
        p->rope[c].n = n_pairs;
        for (uint32_t i = 0; i < n_pairs; i++) {
            p->rope[c].freq[i] = (float)pow(c ? 160000.0 : 10000.0, -(double)i / n_pairs);
        }
    }
}

static void sub_begin(struct sub *s, struct op_test *t, const char *what, uint64_t seed,
                      uint32_t t_max)
{
    s->t = t;
    t_begin(
        t, what, seed,
        (struct program_limits){
            .t_max = t_max, .out_max = 1, .seq_max = MAX_SEQ, .n_slots = 3, .max_ctx = 2048});
    rope_tables(t->p, s->rope_n / 2);
    s->geom = row_geom_make(s->kind, s->n, s->rope_n);
    s->index_geom = row_geom_make(s->index_kind, s->in, s->rope_n);
    s->ring = row_planes(s, SPACE_STATE, &s->geom, s->win_slots, "ring");
    s->wrow = row_arena(s, &s->geom, "wrow");
    if (s->ratio) {
        uint32_t per_page = s->page_tokens / s->ratio;
        s->rows = row_planes(s, SPACE_PAGE, &s->geom, per_page, "rows");
        s->cring = plane(s, SPACE_STATE, FORM_F32, 2 * s->k * s->n, s->in_slots, "cring");
        s->bound = plane(s, SPACE_STATE, FORM_F32, 2 * s->n, 2 * s->ratio, "bound");
        if (s->k_sel) {
            s->irows = row_planes(s, SPACE_PAGE, &s->index_geom, per_page, "irows");
            s->iring = plane(s, SPACE_STATE, FORM_F32, 2 * s->k * s->in, s->in_slots, "iring");
            s->ibound = plane(s, SPACE_STATE, FORM_F32, 2 * s->in, 2 * s->ratio, "ibound");
        }
    }
    t->p->slot_bytes = align_up(s->state_at, 64);
    t->p->page_bytes = align_up(s->page_at, 64);
    t->p->page_tokens = s->page_tokens;
}

static void sub_seq(struct sub *s, uint32_t state, uint32_t n0, uint32_t n_tok, uint32_t start,
                    uint32_t keep)
{
    t_seq(s->t,
          (struct step_seq){.state = state,
                            .n0 = n0,
                            .n_tok = n_tok,
                            .start = start,
                            .keep = keep,
                            .n_page = (n0 + n_tok + s->page_tokens - 1) / s->page_tokens});
}

static void fill_row(struct op_test *t, const struct row_geom *g, unsigned char *codes,
                     unsigned char *scales)
{
    float x[1024];
    for (uint32_t i = 0; i < g->n; i++) {
        x[i] = t_float(t);
    }
    row_encode(g, x, codes, scales);
}

/* Random stored rows everywhere: ring of every slot, every page, and wrow if it is an input. */
static void fill_rows(struct sub *s, const struct opnd_rows *r, const struct row_geom *g,
                      uint32_t rows)
{
    struct op_test *t = s->t;
    size_t sp = space_index(&r->codes);
    uint64_t stride = sp == 1 ? t->p->slot_bytes : sp == 2 ? t->p->page_bytes : 0;
    uint32_t n = sp == 1 ? t->p->lim.n_slots : sp == 2 ? t->n_pages : 1;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t row = 0; row < rows; row++) {
            unsigned char *codes =
                (unsigned char *)img_row(&t->in, &r->codes, row) + i * stride;
            unsigned char *scales =
                g->scale_bytes ? (unsigned char *)img_row(&t->in, &r->scales, row) + i * stride
                               : NULL;
            fill_row(t, g, codes, scales);
        }
    }
}

static void fill_floats(struct sub *s, const struct opnd *o, uint32_t rows)
{
    for (uint32_t i = 0; i < s->t->p->lim.n_slots; i++) {
        for (uint32_t row = 0; row < rows; row++) {
            float *x = (float *)((unsigned char *)img_row(&s->t->in, o, row) +
                                 i * s->t->p->slot_bytes);
            for (uint32_t c = 0; c < o->cols; c++) {
                x[c] = t_float(s->t);
            }
        }
    }
}

/* ---- KV_ROW ---- */

/* Rows of ref and cpu after decoding: equal up to `tol` of the largest value, except for at
 * most `flips` values that are one code step (an eighth, or half for FP4) apart. */
static void rows_close(struct op_test *t, const struct row_geom *g, const void *ac,
                       const void *as, const void *bc, const void *bs, double tol,
                       uint32_t *flips)
{
    float a[1024], b[1024], max = 0;
    row_decode(g, ac, as, a);
    row_decode(g, bc, bs, b);
    for (uint32_t i = 0; i < g->n; i++) {
        max = fabsf(a[i]) > max ? fabsf(a[i]) : max;
    }
    double step = g->kind == ROW_FP4 ? 0.5 : 0.126;
    for (uint32_t i = 0; i < g->n; i++) {
        double diff = fabs((double)a[i] - (double)b[i]);
        if (diff <= tol * (double)max || (a[i] != a[i] && b[i] != b[i])) {
            continue;
        }
        ++*flips;
        double allowed =
            g->kind == ROW_F32 ? 0 : step * fabs((double)a[i]) + 0.17 * (double)max;
        if (!(diff <= allowed)) {
            fail_msg("%s seed %llu: stored value %u: ref %.9g cpu %.9g", t->what,
                     (unsigned long long)t->seed, i, (double)a[i], (double)b[i]);
        }
    }
}

static void kv_rows_close(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    const struct op_kv_row *o = &t->p->ops[0].kv_row;
    uint32_t flips = 0;
    for (uint32_t r = 0; r < t->s.n_tok; r++) {
        const struct opnd *sc = &o->wrow.scales;
        rows_close(t, &o->geom, img_row(ref, &o->wrow.codes, r),
                   sc->space ? img_row(ref, sc, r) : NULL, img_row(cpu, &o->wrow.codes, r),
                   sc->space ? img_row(cpu, sc, r) : NULL, 2e-6, &flips);
    }
    assert_true(flips <= 1 + t->s.n_tok * o->geom.n / 500);
}

static void test_kv_row(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        struct sub s = {.kind = round % 2 ? ROW_FP8 : ROW_F32,
                        .heads = 1,
                        .n = 192,
                        .rope_n = 64,
                        .window = 8,
                        .win_slots = 16,
                        .page_tokens = 64};
        uint32_t n_tok = (uint32_t[]){1, 2, 9, 31, 40, 8}[round];
        sub_begin(&s, &t, "KV_ROW", 1000 + round, n_tok);
        struct op *op = program_op(t.p, OP_KV_ROW, 0, "t");
        op->kv_row = (struct op_kv_row){.wrow = s.wrow,
                                        .geom = s.geom,
                                        .rope = ROPE_YARN,
                                        .eps = 1e-6f,
                                        .w = t_vec(&t, s.n, 1.0f)};
        op->kv_row.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, s.n, 1);
        sub_seq(&s, 1, round == 3 ? 1900 : 0, n_tok, 0, 0);
        t.amplitude = round == 5 ? 1e-12f : round == 4 ? 1e5f : 1.0f;
        t_finish(&t, 64);
        t_fill(&t);
        t_check(&t, 1e-6, T_SPLIT, kv_rows_close);
        t_end(&t);
    }
}

/* ---- HEAD_FINISH ---- */

static void test_head_finish(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 6; round++) {
        struct op_test t;
        uint32_t heads = round == 3 ? 11 : 3; /* 11: more than a group of the GPU takes */
        struct sub s = {.kind = ROW_F32,
                        .heads = heads,
                        .n = 128,
                        .rope_n = 32,
                        .window = 4,
                        .win_slots = 8,
                        .page_tokens = 64};
        uint32_t n_tok = (uint32_t[]){1, 7, 9, 30, 4, 12}[round];
        sub_begin(&s, &t, "HEAD_FINISH", 1100 + round, n_tok);
        struct op *op = program_op(t.p, OP_HEAD_FINISH, 0, "t");
        struct op_head_finish o = {
            .heads = heads, .n = 128, .rope_n = 32, .rope = ROPE_PLAIN, .eps = 1e-6f};
        o.norm = round % 2 == 0;
        o.index = round % 2 == 1;
        o.fp4 = round == 5;
        o.q = t_arena(&t, "q", FORM_F32, ROWS_TOK, heads * 128, 1);
        op->head_finish = o;
        sub_seq(&s, 0, round * 100, n_tok, 0, 0);
        t_finish(&t, 64);
        t_fill(&t);
        t_check(&t, o.fp4 ? 0.34 : 2e-6, T_SPLIT, NULL); /* fp4: a flip is one code step */
        t_end(&t);
    }
}

/* ---- ATTN and RING_STORE on stored rows ---- */

static void record_attn(struct sub *s, struct opnd sel, struct opnd n_sel)
{
    struct op_test *t = s->t;
    struct op *op = program_op(t->p, OP_ATTN, 0, "t");
    struct op_attn o = {.wrow = s->wrow,
                        .ring = s->ring,
                        .rows = s->rows,
                        .sel = sel,
                        .n_sel = n_sel,
                        .geom = s->geom,
                        .heads = s->heads,
                        .n = s->n,
                        .window = s->window,
                        .slots = s->win_slots,
                        .ratio = s->ratio,
                        .rows_per_page = s->ratio ? s->page_tokens / s->ratio : 1,
                        .rope = ROPE_YARN,
                        .scale = 1.0f / sqrtf((float)s->n)};
    o.q = t_input(t, "q", s->heads * s->n);
    o.sink = t_vec(t, s->heads, 2.0f);
    o.o = t_arena(t, "o", FORM_F32, ROWS_TOK, s->heads * s->n, 1);
    o.o_act = t_arena(t, "oa", FORM_A8, ROWS_TOK, s->heads * s->n, 1);
    op->attn = o;
    op = program_op(t->p, OP_RING_STORE, 0, "t");
    op->ring_store =
        (struct op_ring_store){.wrow = s->wrow, .ring = s->ring, .slots = s->win_slots};
}

/* A random ascending choice among the rows each token sees. */
static void fill_selection(struct sub *s, const struct opnd *sel, const struct opnd *n_sel)
{
    struct op_test *t = s->t;
    for (uint32_t r = 0; r < t->s.n_tok; r++) {
        uint32_t pos = step_pos(&t->seq[t->tok_seq[r]], r),
                 seen = step_rows_seen(pos, s->ratio);
        uint32_t *v = img_row(&t->in, sel, r), n = 0;
        for (uint32_t i = 0; i < seen && n < s->k_sel; i++) {
            if (seen - i <= s->k_sel - n || rng_below(&t->rng, 2)) {
                v[n++] = i;
            }
        }
        *(uint32_t *)img_row(&t->in, n_sel, r) = n;
    }
}

static void attn_round(uint64_t round, enum row_kind kind, uint32_t mode, uint32_t n_tok)
{
    struct op_test t;
    struct sub s = {.kind = kind,
                    .heads = round % 3 == 0   ? 4
                             : round % 3 == 1 ? 18
                                              : 3,
                    .n = kind == ROW_FP8 ? 128 : 96,
                    .rope_n = kind == ROW_FP8 ? 64 : 32,
                    .window = round % 3 ? 20 : 128,
                    .page_tokens = 64,
                    .k = 2,
                    .in_slots = 24,
                    .align = 64};
    s.win_slots = s.window + 12;
    s.ratio = mode == 0 ? 0 : 4;
    s.k_sel = mode == 2 ? 150 : 0;
    s.in = 64;
    s.index_kind = ROW_F32;
    sub_begin(&s, &t, "ATTN", 1200 + round, n_tok);
    struct opnd sel = {0}, n_sel = {0};
    if (mode == 2) {
        sel = t_arena(&t, "sel", FORM_I32, ROWS_TOK, s.k_sel, 1);
        n_sel = t_arena(&t, "n_sel", FORM_I32, ROWS_TOK, 1, 1);
    }
    record_attn(&s, sel, n_sel);
    uint32_t half = n_tok / 4; /* the second sequence may be longer than its ring */
    if (half > 0) { /* two sequences, the second past its ring's wrap and with a start */
        sub_seq(&s, 2, 0, half, 0, 0);
        sub_seq(&s, 0, 701, n_tok - half, round % 2 ? 690 : 0, 0);
    } else {
        sub_seq(&s, 1, 1000, n_tok, 0, 0);
    }
    t_finish(&t, 64);
    bool sharp = round % 4 == 3; /* scores of hundreds: their own rounding shows in exp */
    t.amplitude = sharp ? 30.0f : 2.0f;
    t_fill(&t);
    const struct op_attn *o = &t.p->ops[0].attn;
    fill_rows(&s, &o->ring, &s.geom, s.win_slots);
    fill_rows(&s, &o->wrow, &s.geom, n_tok);
    if (mode) {
        fill_rows(&s, &o->rows, &s.geom, s.page_tokens / s.ratio);
    }
    if (mode == 2) {
        fill_selection(&s, &o->sel, &o->n_sel);
    }
    t_check(&t, sharp ? 3e-4 : 1e-5, T_SPLIT, NULL);
    t_end(&t);
}

static void test_attn(void **state)
{
    (void)state;
    static const uint32_t toks[] = {1, 2, 8, 9, 26, 60};
    for (uint64_t round = 0; round < 18; round++) {
        attn_round(round, round % 2 ? ROW_FP8 : ROW_F32, (uint32_t)(round / 2 % 3),
                   toks[(round * 5 + round / 6) % 6]);
    }
}

/* ---- COMPRESS ---- */

struct compress_case {
    enum row_kind kind;
    uint32_t ratio, k, n0, n_tok, start, keep;
};

static void pages_close(struct op_test *t, const struct image *ref, const struct image *cpu)
{
    const struct op_compress *o = &t->p->ops[0].compress;
    uint32_t flips = 0, total = 0;
    for (uint32_t page = 0; page < t->n_pages; page++) {
        for (uint32_t r = 0; r < o->rows_per_page; r++) {
            uint64_t at = page * t->p->page_bytes;
            const unsigned char *a = (unsigned char *)img_row(ref, &o->rows.codes, r) + at;
            const unsigned char *b = (unsigned char *)img_row(cpu, &o->rows.codes, r) + at;
            const unsigned char *sa = NULL, *sb = NULL;
            if (o->rows.scales.space) {
                sa = (unsigned char *)img_row(ref, &o->rows.scales, r) + at;
                sb = (unsigned char *)img_row(cpu, &o->rows.scales, r) + at;
            }
            rows_close(t, &o->geom, a, sa, b, sb, 1e-5, &flips);
            total += o->geom.n;
        }
    }
    assert_true(flips <= 1 + total / 500);
    same_bytes(t, "STATE, cpu against ref", ref->mem[1], cpu->mem[1], ref->bytes[1], 1, 0);
}

static void test_compress(void **state)
{
    (void)state;
    static const struct compress_case cases[] = {
        {ROW_F32, 4, 2, 0, 1, 0, 0},      {ROW_F32, 4, 2, 3, 1, 0, 0},
        {ROW_F32, 4, 2, 0, 70, 0, 0},     {ROW_FP8, 4, 2, 61, 9, 0, 0},
        {ROW_FP4, 4, 2, 126, 130, 0, 0},  {ROW_F32, 16, 1, 5, 60, 0, 0},
        {ROW_FP8, 16, 1, 31, 1, 0, 0},    {ROW_F32, 4, 2, 130, 30, 126, 148},
        {ROW_F32, 4, 2, 128, 20, 128, 0}, {ROW_FP4, 4, 2, 255, 3, 0, 0},
        {ROW_F32, 16, 1, 64, 40, 64, 96}, {ROW_F32, 4, 2, 1, 2, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct compress_case *c = &cases[i];
        struct op_test t;
        struct sub s = {.kind = c->kind,
                        .heads = 1,
                        .n = 128,
                        .rope_n = 64,
                        .window = 4,
                        .win_slots = 8,
                        .page_tokens = 64,
                        .ratio = c->ratio,
                        .k = c->k,
                        .in_slots = c->k * c->ratio + 8,
                        .align = 64};
        sub_begin(&s, &t, "COMPRESS", 1300 + i, c->n_tok + 5);
        struct op *op = program_op(t.p, OP_COMPRESS, 0, "t");
        struct op_compress o = {.ring = s.cring,
                                .rows = s.rows,
                                .geom = s.geom,
                                .ratio = c->ratio,
                                .k = c->k,
                                .slots = s.in_slots,
                                .align = s.align,
                                .rows_per_page = 64 / c->ratio,
                                .rope = ROPE_YARN,
                                .eps = 1e-6f};
        if (c->k == 2) {
            o.bound = s.bound;
        }
        o.x = t_arena(&t, "x", FORM_F32, ROWS_TOK, 2 * c->k * s.n, 1);
        o.ape = t_vec(&t, c->ratio * c->k * s.n, 0.5f);
        o.norm = t_vec(&t, s.n, 1.0f);
        op->compress = o;
        sub_seq(&s, 1, c->n0, c->n_tok, c->start, c->keep);
        sub_seq(&s, 0, 6, 5, 0, 0);
        t_finish(&t, 64);
        t.amplitude = i == 2 ? 40.0f : 2.0f;
        t_fill(&t);
        fill_floats(&s, &t.p->ops[0].compress.ring, s.in_slots);
        t_check(&t, 1e-5, T_SPLIT, pages_close);
        t_end(&t);
    }
}

/* ---- INDEX_SELECT ---- */

enum fault {
    FAULT_NONE,
    FAULT_EQUAL,  /* all scores 0 */
    FAULT_TIES,   /* three values */
    FAULT_NAN,    /* queries, and a row */
    FAULT_WIDE,   /* FP4 rows whose scales lie far apart, some NaN, and such queries */
    FAULT_FLOATS, /* FP4 rows, but queries of every other token that are no FP4 values */
};

/* Scores that take three values only: rows that are 0, 1 or 2 in one element, queries that look
 * at nothing else. */
static void few_scores(struct op_test *t, const struct op_index_select *o)
{
    for (uint32_t i = 0; i < t->n_pages * o->rows_per_page; i++) {
        float *row =
            (float *)((unsigned char *)img_row(&t->in, &o->rows.codes, i % o->rows_per_page) +
                      i / o->rows_per_page * t->p->page_bytes);
        memset(row, 0, o->n * sizeof *row);
        row[40] = (float)rng_below(&t->rng, 3);
    }
    for (uint32_t r = 0; r < t->s.n_tok; r++) {
        float *qi = img_row(&t->in, &o->qi, r), *iw = img_row(&t->in, &o->iw, r);
        memset(qi, 0, o->heads * o->n * sizeof *qi);
        qi[3 * o->n + 40] = 1.0f;
        iw[3] = 0.5f;
    }
}

/* The same as FP4 rows and queries; 1 in two is the code 2. */
static void few_scores_fp4(struct op_test *t, const struct op_index_select *o)
{
    for (uint32_t i = 0; i < t->n_pages * o->rows_per_page; i++) {
        uint64_t at = i / o->rows_per_page * t->p->page_bytes;
        uint32_t slot = i % o->rows_per_page;
        unsigned char *codes = (unsigned char *)img_row(&t->in, &o->rows.codes, slot) + at;
        unsigned char *scales = (unsigned char *)img_row(&t->in, &o->rows.scales, slot) + at;
        memset(codes, 0, o->rows.codes.cols);
        /* every third row: a scale that leaves the integers, for the same value */
        memset(scales, 127, o->rows.scales.cols);
        scales[0] = i % 3 ? 127 : 140;
        codes[20] = (unsigned char)(2 * rng_below(&t->rng, 3));
    }
    for (uint32_t r = 0; r < t->s.n_tok; r++) {
        float *qi = img_row(&t->in, &o->qi, r), *iw = img_row(&t->in, &o->iw, r);
        memset(qi, 0, o->heads * o->n * sizeof *qi);
        qi[3 * o->n + 40] = 1.0f;
        iw[3] = 0.5f;
    }
}

/* Scales of every fifth group moved far up or down, now and then NaN; queries alike. */
static void spread_scales(struct op_test *t, const struct op_index_select *o)
{
    for (uint32_t i = 0; i < t->n_pages * o->rows_per_page; i++) {
        unsigned char *s =
            (unsigned char *)img_row(&t->in, &o->rows.scales, i % o->rows_per_page) +
            i / o->rows_per_page * t->p->page_bytes;
        for (uint32_t g = 0; g < o->rows.scales.cols; g++) {
            if (rng_below(&t->rng, 5) == 0) {
                s[g] = (unsigned char)(s[g] + rng_below(&t->rng, 15) - 7);
            }
            s[g] = rng_below(&t->rng, 200) ? s[g] : 255;
        }
    }
    for (uint32_t r = 0; r < t->s.n_tok; r++) {
        float *qi = img_row(&t->in, &o->qi, r);
        for (uint32_t i = 0; i < o->heads * o->n; i += 32) {
            int e = rng_below(&t->rng, 6) ? 0 : (int)rng_below(&t->rng, 12) - 6;
            for (uint32_t j = i; j < i + 32; j++) {
                qi[j] = ldexpf(qi[j], e);
            }
        }
    }
}

static void index_round(uint64_t round, enum row_kind kind, uint32_t n_tok, enum fault fault)
{
    struct op_test t;
    struct sub s = {.kind = ROW_F32,
                    .heads = 1,
                    .n = 64,
                    .rope_n = 32,
                    .window = 4,
                    .win_slots = 8,
                    .page_tokens = 64,
                    .ratio = 4,
                    .k = 2,
                    .in_slots = 16,
                    .align = 64,
                    .index_kind = kind,
                    .ih = 16,
                    .in = 64,
                    .k_sel = round % 3 == 2 ? 5
                             : round % 2    ? 37
                                            : 64};
    sub_begin(&s, &t, "INDEX_SELECT", 1400 + round, n_tok);
    struct op *op = program_op(t.p, OP_INDEX_SELECT, 0, "t");
    struct op_index_select o = {.rows = s.irows,
                                .geom = s.index_geom,
                                .heads = s.ih,
                                .n = s.in,
                                .k_sel = s.k_sel,
                                .ratio = 4,
                                .rows_per_page = 16,
                                .scale = 0.03f};
    o.qi = t_arena(&t, "qi", FORM_F32, ROWS_TOK, s.ih * s.in, 1);
    o.iw = t_arena(&t, "iw", FORM_F32, ROWS_TOK, s.ih, 1);
    o.sel = t_arena(&t, "sel", FORM_I32, ROWS_TOK, s.k_sel, 1);
    o.n_sel = t_arena(&t, "n_sel", FORM_I32, ROWS_TOK, 1, 1);
    op->index_select = o;
    uint32_t half = n_tok / 3;
    if (half > 0) {
        sub_seq(&s, 0, 4 * s.k_sel - half / 2, half, 0, 0); /* around n_vis = k_sel */
    }
    sub_seq(&s, 1, (round % 3 == 2 ? 1900 : 600) + (uint32_t)round, n_tok - half, 0, 0);
    t_finish(&t, 64);
    t_fill(&t);
    const struct op_index_select *r = &t.p->ops[0].index_select;
    fill_rows(&s, &r->rows, &s.index_geom, 16);
    for (uint32_t i = 0; i < n_tok; i++) {
        float *qi = img_row(&t.in, &r->qi, i);
        if (kind == ROW_FP4 && (fault != FAULT_FLOATS || i % 2)) {
            fp4_sim(qi, s.ih * s.in);
        }
        if (fault == FAULT_EQUAL) {
            memset(qi, 0, s.ih * s.in * sizeof *qi);
        } else if (fault == FAULT_NAN && i % 2) {
            qi[5] = NAN;
        }
    }
    if (fault == FAULT_TIES && kind == ROW_F32) {
        few_scores(&t, r);
    } else if (fault == FAULT_TIES) {
        few_scores_fp4(&t, r);
    } else if (fault == FAULT_WIDE) {
        spread_scales(&t, r);
    }
    if (fault == FAULT_NAN) { /* rows whose values are NaN never win while others are left */
        float *row = img_row(&t.in, &r->rows.codes, 3);
        for (uint32_t i = 0; kind == ROW_F32 && i < s.in; i++) {
            row[i] = NAN;
        }
    }
    t_check(&t, 0, T_SPLIT, NULL);
    t_end(&t);
}

static void test_index_select(void **state)
{
    (void)state;
    static const uint32_t toks[] = {1, 2, 7, 9, 30, 13};
    for (uint64_t round = 0; round < 12; round++) {
        index_round(round, round % 2 ? ROW_FP4 : ROW_F32, toks[round % 6],
                    round < 8    ? FAULT_NONE
                    : round < 10 ? FAULT_EQUAL
                                 : FAULT_NAN);
    }
    index_round(12, ROW_F32, 5, FAULT_TIES);
    index_round(13, ROW_F32, 40, FAULT_TIES);
    index_round(14, ROW_FP4, 5, FAULT_TIES);
    index_round(17, ROW_FP4, 50, FAULT_TIES);
    for (uint64_t round = 20; round < 26; round++) {
        index_round(round, ROW_FP4, toks[round % 6], FAULT_WIDE);
        index_round(round, ROW_FP4, toks[(round + 3) % 6], FAULT_FLOATS);
    }
}

/* ---- a whole sublayer between projections, as the model records it ---- */

static void record_compress(struct sub *s, bool index, struct opnd x)
{
    struct op *op = program_op(s->t->p, OP_COMPRESS, 0, index ? "index" : "main");
    uint32_t n = index ? s->in : s->n;
    op->compress = (struct op_compress){.x = x,
                                        .ape = t_vec(s->t, s->ratio * s->k * n, 0.5f),
                                        .norm = t_vec(s->t, n, 1.0f),
                                        .ring = index ? s->iring : s->cring,
                                        .rows = index ? s->irows : s->rows,
                                        .geom = index ? s->index_geom : s->geom,
                                        .ratio = s->ratio,
                                        .k = s->k,
                                        .slots = s->in_slots,
                                        .align = s->align,
                                        .rows_per_page = s->page_tokens / s->ratio,
                                        .rope = ROPE_YARN,
                                        .eps = 1e-6f};
    if (s->k == 2) {
        op->compress.bound = index ? s->ibound : s->bound;
    }
}

static void sublayer_round(uint64_t round, bool sims, uint32_t n_tok, double tol)
{
    struct op_test t;
    struct sub s = {.kind = sims ? ROW_FP8 : ROW_F32,
                    .heads = 5,
                    .n = 128,
                    .rope_n = 64,
                    .window = 32,
                    .win_slots = 44,
                    .page_tokens = 64,
                    .ratio = 4,
                    .k = 2,
                    .in_slots = 16,
                    .align = 64,
                    .index_kind = sims ? ROW_FP4 : ROW_F32,
                    .ih = 16,
                    .in = 64,
                    .k_sel = 12};
    sub_begin(&s, &t, "attention sublayer", 1500 + round, n_tok);
    struct opnd kv = t_input(&t, "kv", s.n);
    struct opnd cu = t_input(&t, "cu", 2 * s.k * s.n);
    struct opnd iu = t_input(&t, "iu", 2 * s.k * s.in);
    struct opnd qi = t_input(&t, "qi", s.ih * s.in);
    struct opnd iw = t_input(&t, "iw", s.ih);
    struct opnd sel = t_arena(&t, "sel", FORM_I32, ROWS_TOK, s.k_sel, 1);
    struct opnd n_sel = t_arena(&t, "n_sel", FORM_I32, ROWS_TOK, 1, 1);
    struct op *op = program_op(t.p, OP_KV_ROW, 0, "t");
    op->kv_row = (struct op_kv_row){.x = kv,
                                    .wrow = s.wrow,
                                    .geom = s.geom,
                                    .rope = ROPE_YARN,
                                    .eps = 1e-6f,
                                    .w = t_vec(&t, s.n, 1.0f)};
    record_compress(&s, false, cu);
    record_compress(&s, true, iu);
    op = program_op(t.p, OP_HEAD_FINISH, 0, "t");
    op->head_finish = (struct op_head_finish){.q = qi,
                                              .heads = s.ih,
                                              .n = s.in,
                                              .rope_n = 64,
                                              .rope = ROPE_YARN,
                                              .index = true,
                                              .fp4 = sims};
    op = program_op(t.p, OP_INDEX_SELECT, 0, "t");
    op->index_select = (struct op_index_select){.qi = qi,
                                                .iw = iw,
                                                .rows = s.irows,
                                                .sel = sel,
                                                .n_sel = n_sel,
                                                .geom = s.index_geom,
                                                .heads = s.ih,
                                                .n = s.in,
                                                .k_sel = s.k_sel,
                                                .ratio = 4,
                                                .rows_per_page = 16,
                                                .scale = 0.03f};
    record_attn(&s, sel, n_sel);
    sub_seq(&s, 0, 0, n_tok - n_tok / 4, 0, 0);
    if (n_tok / 4) {
        sub_seq(&s, 2, 0, n_tok / 4, 0, 0);
    }
    t_finish(&t, 64);
    t.amplitude = 2.0f;
    t_fill(&t);
    t_check(&t, tol, T_SPLIT, NULL);
    t_end(&t);
}

static void test_sublayer(void **state)
{
    (void)state;
    sublayer_round(0, false, 120, 1e-4);
    sublayer_round(1, false, 7, 1e-4);
    sublayer_round(2, false, 67, 1e-4);
    /* rounded rows: one flip between ref and cpu moves everything behind it, so only cpu
     * against cpu is meaningful */
    sublayer_round(3, true, 120, INFINITY);
    sublayer_round(4, true, 5, INFINITY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_row),       cmocka_unit_test(test_head_finish),
        cmocka_unit_test(test_attn),         cmocka_unit_test(test_compress),
        cmocka_unit_test(test_index_select), cmocka_unit_test(test_sublayer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
