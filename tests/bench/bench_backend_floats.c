/* bench_backend_floats.c - float products of the cpu backend with many tokens, one thread,
 * everything in the second-level cache: nanoseconds to decode and pack a block of 32 rows of
 * F16, to pack a token, and per token and block; and those of HC_MIX per token and chunk. Shares
 * are of the register-only F32 fma loop, without and with decoding and packing. Every pass
 * stands next to one of that loop, because the speed of a shared machine drifts; the best of
 * each is kept.
 *
 *   bench_backend_floats [COLS [TIER_MASK]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kern.h"
#include "backend/cpu/peak.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/rng.h"
#include "quant/formats.h"

#include "bench_common.h"

enum {
    MAX_TOK = 256,
    PASSES = 30,
    LOOP = 20000,
    HC = 4,
    M = 24,
    M_PAD = 32,
    MIX_TOK = 16,
    CHUNKS = 8
};

struct bench {
    struct cpu_kern k;
    struct cpu_peak peak;
    uint32_t cols;
    uint16_t *w;
    float *x, *panels, *tiles, *fn, *mix_x, *mixp, *tile, *sums;
    float (*out)[KERN_ROWS];
    float keep;
};

static float *need_random(struct rng *r, size_t n)
{
    float *x = need(n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = rng_sym(r);
    }
    return x;
}

static void set_up(struct bench *b)
{
    struct rng r = {5};
    size_t cols = b->cols;
    b->w = need(KERN_ROWS * cols, sizeof *b->w);
    for (size_t i = 0; i < KERN_ROWS * cols; i++) {
        b->w[i] = f32_to_f16(rng_sym(&r));
    }
    b->x = need_random(&r, MAX_TOK * cols);
    b->panels = need(KERN_ROWS * KERN_TERMS(cols), sizeof(float));
    b->tiles = need(MAX_TOK * KERN_TERMS(cols), sizeof(float));
    b->out = need(MAX_TOK + 16, sizeof *b->out);
    b->fn = need_random(&r, (size_t)CHUNKS * M_PAD * HC * KERN_CHUNK);
    b->mix_x = need_random(&r, (size_t)CHUNKS * MIX_TOK * HC * KERN_CHUNK);
    b->tile = need((size_t)MIX_TOK * HC * KERN_CHUNK, sizeof(float));
    b->sums = need(MIX_TOK * KERN_MIX_SUMS(M), sizeof(float));
    b->mixp = need((size_t)MIX_TOK * CHUNKS * (M + 1), sizeof(float));
}

static void decode(struct bench *b)
{
    for (size_t p = 0; p < 2; p++) {
        b->k.pack_rows_f32(QT_F16, b->w + p * KERN_PANEL * b->cols, 2 * (size_t)b->cols,
                           KERN_PANEL, b->cols,
                           b->panels + p * KERN_PANEL * KERN_TERMS(b->cols));
    }
}

static void pack(struct bench *b, uint32_t n_tok)
{
    size_t tile = KERN_TERMS(b->cols) * KERN_TOKENS;
    for (uint32_t t = 0; t < n_tok; t += 16) {
        const float *x[16];
        for (uint32_t i = 0; i < 16; i++) {
            x[i] = b->x + (size_t)(t + i < n_tok ? t + i : 0) * b->cols;
        }
        float *lo = b->tiles + t / KERN_TOKENS * tile;
        b->k.pack_tokens_f32(x, b->cols, lo, lo + tile);
    }
}

static void products(struct bench *b, uint32_t n_tok)
{
    const float *const w[2] = {b->panels, b->panels + KERN_PANEL * KERN_TERMS(b->cols)};
    b->k.tiles_f32(w, b->tiles, n_tok, b->cols, (struct next_rows){0}, b->out);
}

static void measure(struct bench *b, uint32_t n_tok)
{
    double dec = 0, pk = 0, prod = 0, loop = 0;
    uint32_t repeat = 250 / n_tok + 1;
    for (int pass = 0; pass < PASSES; pass++) {
        double t0 = clock_now();
        for (int i = 0; i < 4; i++) {
            decode(b);
        }
        double t1 = clock_now();
        pack(b, n_tok);
        double t2 = clock_now();
        for (uint32_t i = 0; i < repeat; i++) {
            products(b, n_tok);
        }
        double t3 = clock_now();
        b->keep += b->peak.f32(LOOP);
        double t4 = clock_now();
        dec = best(dec, (t1 - t0) / 4);
        pk = best(pk, (t2 - t1) / n_tok);
        prod = best(prod, (t3 - t2) / repeat / n_tok);
        loop = best(loop, (t4 - t3) / (LOOP * b->peak.f32_ops));
    }
    double ops = 2.0 * KERN_ROWS * b->cols;
    printf("F16    %4u %9.0f %7.0f %8.1f %7.0f %6.1f%% %6.1f%%\n", n_tok, dec * 1e9, pk * 1e9,
           prod * 1e9, ops / prod / 1e9, 100 * ops * loop / prod,
           100 * ops * loop / (prod + dec / n_tok));
}

static void measure_mix(struct bench *b)
{
    enum { REPEAT = 20 };
    const size_t piece = HC * KERN_CHUNK;
    double mix = 0, loop = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        double t0 = clock_now();
        for (int i = 0; i < REPEAT; i++) {
            for (size_t c = 0; c < CHUNKS; c++) {
                const float *x[MIX_TOK];
                float *out[MIX_TOK];
                for (size_t t = 0; t < MIX_TOK; t++) {
                    x[t] = b->mix_x + t * CHUNKS * piece + c * KERN_CHUNK;
                    out[t] = b->mixp + (t * CHUNKS + c) * (M + 1);
                }
                b->k.hc_pack(x, CHUNKS * KERN_CHUNK, HC, KERN_CHUNK, b->tile);
                b->k.hc_tile(b->fn + c * M_PAD * piece, b->tile, HC, M, b->sums);
                b->k.hc_turn(b->sums, M + 1, out, MIX_TOK);
            }
        }
        double t1 = clock_now();
        b->keep += b->peak.f32(LOOP);
        double t2 = clock_now();
        mix = best(mix, (t1 - t0) / (REPEAT * MIX_TOK * CHUNKS));
        loop = best(loop, (t2 - t1) / (LOOP * b->peak.f32_ops));
    }
    double ops = 2.0 * (M + 1) * (double)piece;
    printf("HC_MIX   16 %26.1f %7.0f %6.1f%%\n", mix * 1e9, ops / mix / 1e9,
           100 * ops * loop / mix);
}

int main(int argc, char **argv)
{
    static const uint32_t tokens[] = {12, 16, 48, 128, 256};
    struct bench b = {.cols = argc > 1 ? (uint32_t)atoi(argv[1]) : 4096};
    uint32_t mask = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    if (b.cols == 0) {
        return 2;
    }
    kern_select(&b.k, mask);
    peak_select(&b.peak, 0);
    set_up(&b);
    printf("tier %s, %u columns; loop: %s\n", b.k.name, b.cols, b.peak.f32_name);
    puts("       tok decode ns pack ns  prod ns GFLOP/s of peak with decoding");
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        measure(&b, tokens[i]);
    }
    measure_mix(&b);
    return b.keep == 1.0f;
}
