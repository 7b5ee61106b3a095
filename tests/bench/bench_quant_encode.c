/* bench_quant_encode.c - weights per second and core of the quantisers, and the weighted
 * relative error they reach, on Gaussian rows with log-normal importance. CSV on standard
 * output; processor time, so that other work on the machine matters little. The error is
 * comparable with quantization.md 5 (log-normal column). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "quant/encode.h"
#include "quant/formats.h"

enum { COLS = 4096, ROWS = 16 };

static double gauss(struct rng *r)
{
    double u = 1.0 - rng_unit(r), v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static double seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static void bench(uint32_t type, const float *x, const float *importance)
{
    size_t row_bytes = qformat_row_bytes(type, COLS);
    uint8_t *row = mem_alloc(row_bytes, 1);
    float *y = mem_alloc(COLS, sizeof *y);
    if (!row || !y) {
        exit(1);
    }
    double error = 0, energy = 0;
    for (int r = 0; r < ROWS; r++) {
        quant_encode_weighted(type, x + r * COLS, COLS, importance, row);
        quant_decode(type, row, 0, COLS, y);
        for (int i = 0; i < COLS; i++) {
            double v = (double)x[r * COLS + i], w = (double)importance[i];
            error += w * (v - (double)y[i]) * (v - (double)y[i]);
            energy += w * v * v;
        }
    }
    double n = 0, start = seconds(), spent = 0;
    for (; spent < 0.5; spent = seconds() - start) {
        for (int r = 0; r < ROWS; r++) {
            quant_encode_weighted(type, x + r * COLS, COLS, importance, row);
        }
        n += (double)ROWS * COLS;
    }
    printf("%s,%.2f,%.5f\n", qformat(type)->name, n / spent / 1e6, sqrt(error / energy));
    mem_free(row);
    mem_free(y);
}

int main(void)
{
    struct rng r = {.s = 7};
    float *x = mem_alloc((size_t)ROWS * COLS, sizeof *x), *w = mem_alloc(COLS, sizeof *w);
    if (!x || !w) {
        return 1;
    }
    for (int i = 0; i < ROWS * COLS; i++) {
        x[i] = (float)(0.02 * gauss(&r));
    }
    for (int i = 0; i < COLS; i++) {
        w[i] = (float)exp(gauss(&r));
    }
    printf("type,Mweights/s,relative error\n");
    for (uint32_t t = 0; t < QT_COUNT; t++) {
        if (quant_can_encode_weighted(t) && qformat(t)->cls == QC_BLOCK) {
            bench(t, x, w);
        }
    }
    mem_free(x);
    mem_free(w);
    return 0;
}
