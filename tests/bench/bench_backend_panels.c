/* bench_backend_panels.c - packed products of the cpu backend, one thread, everything in the
 * second-level cache: nanoseconds to decode a block of 32 rows, to pack a token, and per token
 * and block of 32 rows, for some numbers of tokens; the share of the register-only 8-bit dot loop
 * that the products reach without and with the decoding (lane by lane where the tier does so);
 * and nanoseconds per token for the same rows one by one, the way of few tokens. Every pass
 * stands next to one of that loop, because the speed of a shared machine drifts; the best of each
 * is kept.
 *
 *   bench_backend_panels [COLS [TIER_MASK]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/peak.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "quant/act.h"
#include "quant/formats.h"

#include "bench_common.h"

enum { MAX_TOK = 256, PASSES = 30 };

struct bench {
    struct cpu_kern k;
    struct cpu_peak peak;
    uint32_t cols;
    unsigned char *w, *act;
    struct pack_w *lo, *hi;
    struct pack_x x;
    struct act_codes t[MAX_TOK];
    float (*out)[KERN_ROWS];
    uint64_t keep;
};

static void set_up(struct bench *b)
{
    size_t blocks = b->cols / 32, places = blocks * (MAX_TOK + PACK_PAD);
    b->w = need(KERN_ROWS, 4 * (size_t)b->cols);
    b->act = need(MAX_TOK, act8_row_bytes(b->cols));
    b->lo = need(blocks, sizeof *b->lo);
    b->hi = need(blocks, sizeof *b->hi);
    b->x.q = need(places, 64);
    b->x.d = need(places, sizeof(float));
    b->x.bias = need(places, sizeof(int32_t));
    b->x.sum = need(places, sizeof *b->x.sum);
    b->out = need(MAX_TOK + 16, sizeof *b->out);
    float *v = need(b->cols, sizeof *v);
    struct rng r = {5};
    for (uint32_t t = 0; t < MAX_TOK; t++) {
        unsigned char *row = b->act + t * act8_row_bytes(b->cols);
        for (uint32_t i = 0; i < b->cols; i++) {
            v[i] = rng_sym(&r);
        }
        act8_encode(v, 0, b->cols, b->cols, row);
        b->t[t] = (struct act_codes){act8_q(row), act8_d(row, b->cols), act8_sum(row, b->cols)};
    }
    mem_free(v);
}

/* Random blocks with finite scales: the speed of float operations depends on nothing else. */
static void fill(struct bench *b, uint32_t type)
{
    const struct qformat *f = qformat(type);
    struct rng r = {6};
    size_t bytes = qformat_row_bytes(type, b->cols);
    for (size_t i = 0; i < KERN_ROWS * bytes; i += f->block_bytes) {
        do {
            for (uint32_t j = 0; j < f->block_bytes; j++) {
                b->w[i + j] = (unsigned char)rng_u64(&r);
            }
            if (type == QT_MXFP4) { /* no subnormal scales, which processors are slow at */
                b->w[i] = (unsigned char)(120 + b->w[i] % 8);
            }
        } while (!quant_row_finite(type, b->w + i, f->block_elems));
    }
}

static void measure(struct bench *b, uint32_t type, uint32_t n_tok)
{
    size_t row_bytes = qformat_row_bytes(type, b->cols);
    double decode = 0, pack = 0, tiles = 0, rows = 0, both = 0, loop = 0;
    const struct cpu_panels *panels = kern_panels(&b->k, n_tok);
    lanes_a8_fn *lanes = n_tok <= KERN_LANE_TOKENS ? panels->lanes[type] : NULL;
    uint32_t repeat = 2000 / n_tok + 1;
    for (int pass = 0; pass < PASSES; pass++) {
        double t0 = clock_now();
        for (uint32_t i = 0; i < 20; i++) {
            panels->pack[type](type, b->w, row_bytes, 16, b->cols, b->lo);
            panels->pack[type](type, b->w + 16 * row_bytes, row_bytes, 16, b->cols, b->hi);
        }
        double t1 = clock_now();
        b->x.stride = n_tok + PACK_PAD;
        b->x.turned = b->k.turned[type];
        b->k.pack_tokens_a8(b->t, n_tok, b->cols, &b->x);
        double t2 = clock_now();
        for (uint32_t i = 0; i < repeat; i++) {
            panels->tiles[type]((const struct pack_w *const[2]){b->lo, b->hi}, &b->x, n_tok,
                                b->cols, (struct next_rows){0}, b->out);
        }
        double t3 = clock_now();
        b->keep += b->peak.int8(20000);
        double t4 = clock_now();
        if (b->k.rows_a8[type]) {
            b->k.rows_a8[type](b->w, row_bytes, KERN_ROWS, b->t, 4, b->cols, b->out[0],
                               KERN_ROWS);
        }
        double t5 = clock_now();
        for (uint32_t i = 0; lanes && i < repeat / 4 + 1; i++) {
            lanes(b->w, row_bytes, &b->x, n_tok, b->cols, (struct next_rows){0}, b->lo, b->out);
        }
        double t6 = clock_now();
        decode = best(decode, (t1 - t0) / 20);
        pack = best(pack, (t2 - t1) / n_tok);
        tiles = best(tiles, (t3 - t2) / repeat / n_tok);
        rows = best(rows, (t5 - t4) / 4);
        both = best(both, lanes ? (t6 - t5) / (repeat / 4 + 1) : 0);
        loop = best(loop, (t4 - t3) / (20000 * b->peak.int8_ops));
    }
    double ops = 2.0 * KERN_ROWS * b->cols;
    both = lanes ? both / n_tok : tiles + decode / n_tok;
    printf("%-8s %4u %9.0f %7.0f %8.1f %7.0f %6.1f%% %6.1f%% %8.0f\n", qformat(type)->name,
           n_tok, decode * 1e9, pack * 1e9, tiles * 1e9, ops / tiles / 1e9,
           100 * ops * loop / tiles, 100 * ops * loop / both, rows * 1e9);
}

int main(int argc, char **argv)
{
    static const uint32_t types[] = {QT_Q8_0,  QT_Q2_K, QT_IQ2_XXS, QT_Q4_K,
                                     QT_MXFP4, QT_Q6_K, QT_Q5_K};
    static const uint32_t tokens[] = {12, 48, 256};
    struct bench b = {.cols = argc > 1 ? (uint32_t)atoi(argv[1]) : 4096};
    uint32_t mask = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    if (b.cols == 0 || b.cols % 256 != 0) {
        return 2;
    }
    kern_select(&b.k, mask);
    peak_select(&b.peak, 0);
    set_up(&b);
    printf("tier %s, %u columns; dot loop: %s\n", b.k.name, b.cols, b.peak.int8_name);
    puts("format    tok decode ns pack ns  prod ns GFLOP/s of peak  decoded  rows ns");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        fill(&b, types[i]);
        for (size_t j = 0; j < ARRAY_LEN(tokens); j++) {
            measure(&b, types[i], tokens[j]);
        }
    }
    return b.keep == 1;
}
