/* bench_backend_amx.c - what products of blocks of 32 by the tiles of AMX are made of. Cycles,
 * counted in tile instructions of the full depth (16 each): 8-bit tile products, storing their
 * sums, the float rescale of one 16 x 16 block, the same with one TILEZERO in between, how late
 * 768 fma are done that follow a few tile products, and the whole kernel for a format with one
 * scale in two ways: products with the rescale of an earlier block interleaved, and products and
 * rescale of sixteen blocks by turns. docs/performance.md has the conclusion, tile_amx.h the
 * kernel. Linux on x86-64 with AMX; elsewhere the program says so. */
#include <stdio.h>

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <stdalign.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define AMX __attribute__((target("avx512f,amx-tile,amx-int8"), noinline))
#define RESCALE_INLINE static inline __attribute__((target("avx512f"), always_inline))

enum {
    BLOCKS = 128,
    ROUNDS = 100,
    PASSES = 60,
    RING = 16,
    PERMISSION = 0x1023,
    TILE_DATA = 18
};

static alignas(64) struct {
    int8_t a[(BLOCKS + RING) * 512], gap[1088], b[(BLOCKS + RING) * 512];
    float d[BLOCKS][16], da[BLOCKS][16], out[16][16];
    int32_t ring[RING][16][16];
} m;

/* Tiles 0 to 3 are sums, 4 and 5 tokens (16 of 32 bytes), 6 and 7 weights (8 fours of 16). */
AMX static void configure(int depth)
{
    static alignas(64) struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
        c.bytes[i] = (uint16_t)(i == 4 || i == 5 ? depth : 64);
        c.rows[i] = (uint8_t)(i < 6 ? 16 : depth / 4);
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

AMX static void products(void)
{
    for (int i = 0; i < BLOCKS / 4; i++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
}
AMX static void stores(void)
{
    for (int i = 0; i < BLOCKS; i += 2) {
        _tile_stored(0, m.ring[i % RING], 64);
        _tile_stored(1, m.ring[(i + 1) % RING], 64);
    }
}
/* Tokens [t, t + 4) of block b into the running sums. */
RESCALE_INLINE void rescale(__m512 c[16], int b, int t)
{
    __m512 d = _mm512_load_ps(m.d[b]);
    for (int i = t; i < t + 4; i++) {
        __m512 f = _mm512_cvtepi32_ps(_mm512_load_si512(m.ring[b % RING][i]));
        c[i] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(m.da[b][i])), f, c[i]);
    }
}
#define RESCALE_ALL(c, b) \
    rescale(c, b, 0);     \
    rescale(c, b, 4);     \
    rescale(c, b, 8);     \
    rescale(c, b, 12)
#define SUMS_BEGIN                  \
    __m512 c[16];                   \
    for (int i = 0; i < 16; i++) {  \
        c[i] = _mm512_setzero_ps(); \
    }
#define SUMS_END                         \
    for (int i = 0; i < 16; i++) {       \
        _mm512_store_ps(m.out[i], c[i]); \
    }

AMX static void rescale_only(void)
{
    SUMS_BEGIN
    for (int b = 0; b < BLOCKS; b++) {
        RESCALE_ALL(c, b);
    }
    SUMS_END
}
AMX static void rescale_tilezero(void)
{
    SUMS_BEGIN
    for (int b = 0; b < BLOCKS; b++) {
        _tile_zero(0);
        RESCALE_ALL(c, b);
    }
    SUMS_END
}
/* Sums of block b + 8 begin, those of b + 6 are stored, b is rescaled. */
#define STEP(b, sum, stored, tokens, weights)           \
    _tile_zero(sum);                                    \
    _tile_loadd(tokens, m.a + 512 * ((b) + 8), 32);     \
    rescale(c, b, 0);                                   \
    _tile_loadd(weights, m.b + 512 * ((b) + 8), 64);    \
    rescale(c, b, 4);                                   \
    _tile_dpbssd(sum, tokens, weights);                 \
    rescale(c, b, 8);                                   \
    _tile_stored(stored, m.ring[((b) + 6) % RING], 64); \
    rescale(c, b, 12)
AMX static void interleaved(void)
{
    SUMS_BEGIN
    for (int b = 0; b < BLOCKS; b += 4) {
        STEP(b, 0, 2, 4, 6);
        STEP(b + 1, 1, 3, 5, 7);
        STEP(b + 2, 2, 0, 4, 6);
        STEP(b + 3, 3, 1, 5, 7);
    }
    SUMS_END
}

/* Products of blocks b to b + 3, their sums stored. */
#define PRODUCTS_STORED(b)                         \
    _tile_zero(0);                                 \
    _tile_zero(1);                                 \
    _tile_zero(2);                                 \
    _tile_zero(3);                                 \
    _tile_loadd(4, m.a + 512 * (b), 32);           \
    _tile_loadd(6, m.b + 512 * (b), 64);           \
    _tile_dpbssd(0, 4, 6);                         \
    _tile_loadd(7, m.b + 512 * ((b) + 1), 64);     \
    _tile_dpbssd(1, 4, 7);                         \
    _tile_stored(0, m.ring[(b) % RING], 64);       \
    _tile_loadd(5, m.a + 512 * ((b) + 2), 32);     \
    _tile_loadd(6, m.b + 512 * ((b) + 2), 64);     \
    _tile_dpbssd(2, 5, 6);                         \
    _tile_stored(1, m.ring[((b) + 1) % RING], 64); \
    _tile_loadd(7, m.b + 512 * ((b) + 3), 64);     \
    _tile_dpbssd(3, 5, 7);                         \
    _tile_stored(2, m.ring[((b) + 2) % RING], 64); \
    _tile_stored(3, m.ring[((b) + 3) % RING], 64)
/* Sixteen blocks (eight of two panels), then their rescale: by turns. */
AMX static void turns(void)
{
    SUMS_BEGIN
    for (int first = 0; first < BLOCKS; first += RING) {
        for (int b = first; b < first + RING; b += 4) {
            PRODUCTS_STORED(b);
        }
        for (int b = first; b < first + RING; b++) {
            RESCALE_ALL(c, b);
        }
    }
    SUMS_END
}

/* Four blocks by tiles, and 768 fma that depend on nothing. */
AMX static void tiles_only(void)
{
    int b = 0;
    PRODUCTS_STORED(b);
}
AMX static void fma_only(void)
{
    SUMS_BEGIN
    __m512 x = _mm512_set1_ps(1);
    for (int n = 0; n < 768; n += 16) {
        for (int i = 0; i < 16; i++) {
            c[i] = _mm512_fmadd_ps(x, x, c[i]);
        }
        __asm__ volatile("" : "+v"(x));
    }
    SUMS_END
}
AMX static void tiles_fma(void)
{
    tiles_only();
    fma_only();
}

/* Best seconds of one block. */
static double best(void (*fn)(void))
{
    double least = 1;
    for (int pass = 0; pass < PASSES; pass++) {
        double t0 = clock_now();
        for (int i = 0; i < ROUNDS; i++) {
            fn();
        }
        double s = (clock_now() - t0) / ROUNDS / BLOCKS;
        least = s < least ? s : least;
    }
    return least;
}

int main(void)
{
    if (syscall(SYS_arch_prctl, PERMISSION, TILE_DATA) != 0) {
        puts("no AMX here");
        return 0;
    }
    configure(64);
    double cycle = best(products) / 16;
    printf("tile product, 64 deep: 16.0 cycles (%.0f GOP/s)\n",
           2.0 * 16 * 16 * 64 / (16 * cycle) / 1e9);
    configure(32);
    printf("tile product, 32 deep: %.1f\n", best(products) / cycle);
    printf("storing a tile:        %.1f\n", best(stores) / cycle);
    printf("rescale:               %.1f\n", best(rescale_only) / cycle);
    printf("rescale, TILEZERO:     %.1f\n", best(rescale_tilezero) / cycle);
    double late = best(tiles_fma) - best(tiles_only) - best(fma_only);
    printf("fma behind tiles:      %.0f later\n", late * BLOCKS / cycle);
    printf("whole block:           %.1f\n", best(interleaved) / cycle);
    printf("the same by turns:     %.1f\n", best(turns) / cycle);
    return 0;
}
#else
int main(void)
{
    puts("no AMX here");
    return 0;
}
#endif
