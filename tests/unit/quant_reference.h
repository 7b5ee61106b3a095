/* quant_reference.h - the reference searches of quantization.md 3, written down plainly: what
 * our quantisers must not be worse than on rows for which there is no record. They return
 * decoded values, no blocks. Slow and scalar on purpose. */
#ifndef TESTS_QUANT_REFERENCE_H
#define TESTS_QUANT_REFERENCE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/num.h"
#include "quant/formats.h"
#include "quant/tables.h"

static float ref_f16(float v)
{
    return f16_to_f32(f32_to_f16(v));
}

/* The reference rounds by adding 1.5 * 2^23: ties to even. They are common in rows of few values,
 * and which way they fall decides what its descents find. */
static int ref_code(float v, int low, int high)
{
    float r = nearbyintf(v);
    return r < (float)low ? low : r > (float)high ? high : (int)r;
}

/* 3.3: scale for targets >= 0 with codes 0..top. */
static float ref_positive(int n, int top, const float *x, const float *w, int *code)
{
    float max = 0;
    for (int i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    memset(code, 0, (size_t)n * sizeof *code);
    if (max < 1e-15f) {
        return 0;
    }
    float best = 1e30f, inverse = 0;
    for (int k = 0; k <= 9; k++) { /* k = 0: the plain one; then t = -4..4 */
        float r = k == 0 ? (float)top / max : ((float)top + 0.1f * (float)(k - 5)) / max, e = 0;
        for (int i = 0; i < n; i++) {
            float v = x[i] - (float)ref_code(r * x[i], 0, top) / r;
            e += w[i] * v * v;
        }
        if (e < best) {
            best = e;
            inverse = r;
        }
    }
    float xl = 0, ll = 0;
    for (int i = 0; i < n; i++) {
        code[i] = ref_code(inverse * x[i], 0, top);
        xl += w[i] * x[i] * (float)code[i];
        ll += w[i] * (float)(code[i] * code[i]);
    }
    for (int sweep = 0; sweep < 5; sweep++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)code[i], ox = xl - w[i] * x[i] * l, ol = ll - w[i] * l * l;
            if (!(ox > 0 && ol > 0)) {
                continue;
            }
            int next = ref_code(x[i] * ol / ox, 0, top);
            float nx = ox + w[i] * x[i] * (float)next, nl = ol + w[i] * (float)(next * next);
            if (next != code[i] && nx * nx * ll > xl * xl * nl) {
                code[i] = next;
                xl = nx;
                ll = nl;
                changed++;
            }
        }
        if (changed == 0) {
            break;
        }
    }
    return ll > 0 ? xl / ll : 0;
}

/* 3.1, step 1: x ~ a * l - b. */
static void ref_affine(int n, int top, const float *x, const float *w, int *code, float *a,
                       float *b)
{
    float low = 0, high = x[0], sw = 0, sx = 0;
    for (int i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sw += w[i];
        sx += w[i] * x[i];
    }
    memset(code, 0, (size_t)n * sizeof *code);
    *a = 0;
    *b = -low;
    if (high <= low) {
        return;
    }
    float best = 1e30f;
    for (int t = -1; t <= 36; t++) { /* -1: the start, without least squares */
        float r = (t < 0 ? (float)top : (float)top - 0.9f + 0.05f * (float)t) / (high - low);
        float sl = 0, sll = 0, sxl = 0, e = 0, ta = 1 / r, tb = -low;
        int c[32];
        for (int i = 0; i < n; i++) {
            c[i] = ref_code(r * (x[i] - low), 0, top);
            sl += w[i] * (float)c[i];
            sll += w[i] * (float)(c[i] * c[i]);
            sxl += w[i] * x[i] * (float)c[i];
        }
        float det = sw * sll - sl * sl;
        if (t >= 0) {
            if (!(det > 0)) {
                continue;
            }
            ta = (sw * sxl - sx * sl) / det;
            tb = (sl * sxl - sll * sx) / det;
            if (tb < 0) {
                tb = 0;
                ta = sxl / sll;
            }
        }
        for (int i = 0; i < n; i++) {
            float v = ta * (float)c[i] - tb - x[i];
            e += w[i] * v * v;
        }
        if (e < best) {
            best = e;
            *a = ta;
            *b = tb;
            memcpy(code, c, (size_t)n * sizeof *code);
        }
    }
}

/* 3: w_i = q_i * sqrt(sigma2 + x_i^2) for a block. */
static void ref_weights(const float *x, const float *q, float factor, float *w)
{
    float sum = 0;
    for (int i = 0; i < 256; i++) {
        sum += x[i] * x[i];
    }
    for (int i = 0; i < 256; i++) {
        w[i] = q[i] * sqrtf(factor * sum / 256 + x[i] * x[i]);
    }
}

/* 3.1: Q2_K (size 16, top 3, scale_top 15), Q4_K (32, 15, 63), Q5_K (32, 31, 63). */
static void ref_k_block(int size, int top, int scale_top, const float *x, const float *q,
                        float *y)
{
    float w[256], a[16], b[16], sw[16] = {0};
    int code[256], s[16], m[16], n = 256 / size;
    ref_weights(x, q, size == 16 ? 1.0f : 2.0f, w);
    for (int g = 0; g < n; g++) {
        ref_affine(size, top, x + size * g, w + size * g, code + size * g, &a[g], &b[g]);
        for (int i = 0; i < size; i++) {
            sw[g] += w[size * g + i];
        }
    }
    float d = ref_f16(ref_positive(n, scale_top, a, sw, s));
    float dmin = ref_f16(ref_positive(n, scale_top, b, sw, m));
    for (int i = 0; i < 256; i++) {
        float da = d * (float)s[i / size], db = dmin * (float)m[i / size];
        int l = da != 0 ? ref_code((x[i] + db) / da, 0, top) : code[i];
        y[i] = da * (float)l - db;
    }
}

/* 3.4: symmetric codes -n..n-1 with a signed scale. */
static float ref_signed(int count, int n, const float *x, const float *w, int *code)
{
    float m = 0, best = 0, scale = 0;
    for (int i = 0; i < count; i++) {
        m = fabsf(x[i]) > fabsf(m) ? x[i] : m;
    }
    memset(code, 0, (size_t)count * sizeof *code);
    for (int t = -9; fabsf(m) > 1e-15f && t <= 9; t++) {
        float r = -((float)n + 0.1f * (float)t) / m, xl = 0, ll = 0;
        int c[32];
        for (int i = 0; i < count; i++) {
            c[i] = ref_code(r * x[i], -n, n - 1);
            xl += w[i] * x[i] * (float)c[i];
            ll += w[i] * (float)(c[i] * c[i]);
        }
        if (ll > 0 && xl * xl > best * ll) {
            best = xl * xl / ll;
            scale = xl / ll;
            memcpy(code, c, (size_t)count * sizeof *code);
        }
    }
    return scale;
}

/* 3.4: Q3_K (n 4, scales -32..31) and Q6_K (n 32, scales -128..127). */
static void ref_symmetric_block(int n, int scale_n, const float *x, const float *q, float *y)
{
    float w[256], a[16], sw[16] = {0};
    int code[256], s[16];
    ref_weights(x, q, 2.0f, w);
    for (int g = 0; g < 16; g++) {
        a[g] = ref_signed(16, n, x + 16 * g, w + 16 * g, code + 16 * g);
        for (int i = 0; i < 16; i++) {
            sw[g] += w[16 * g + i];
        }
    }
    float d = ref_f16(ref_signed(16, scale_n, a, sw, s));
    for (int i = 0; i < 256; i++) {
        float da = d * (float)s[i / 16];
        int l = da != 0 ? ref_code(x[i] / da, -n, n - 1) : code[i];
        y[i] = da * (float)l;
    }
}

static float ref_iq4(float v)
{
    float best = 0;
    for (int k = 0; k < 16; k++) {
        float level = quant_values_iq4_nl[k];
        best = k == 0 || fabsf(v - level) < fabsf(v - best) ? level : best;
    }
    return best;
}

/* 3.4: IQ4_XS. */
static void ref_iq4_block(const float *x, const float *q, float *y)
{
    float w[256], a[8];
    int s[8];
    ref_weights(x, q, 2.0f, w);
    float top = 0;
    for (int g = 0; g < 8; g++) {
        const float *gx = x + 32 * g, *gw = w + 32 * g;
        float m = 0, best = 0;
        a[g] = 0;
        for (int i = 0; i < 32; i++) {
            m = fabsf(gx[i]) > fabsf(m) ? gx[i] : m;
        }
        for (int t = -7; m != 0 && t <= 7; t++) {
            float r = ((float)quant_values_iq4_nl[0] + (float)t) / m, xl = 0, ll = 0;
            for (int i = 0; i < 32; i++) {
                float l = ref_iq4(r * gx[i]);
                xl += gw[i] * gx[i] * l;
                ll += gw[i] * l * l;
            }
            if (ll > 0 && xl * xl > best * ll) {
                best = xl * xl / ll;
                a[g] = xl / ll;
            }
        }
        top = fabsf(a[g]) > fabsf(top) ? a[g] : top;
    }
    float d = ref_f16(-top / 32);
    for (int i = 0; i < 256; i++) {
        s[i / 32] = d != 0 ? ref_code(a[i / 32] / d, -32, 31) : 0;
        float da = d * (float)s[i / 32];
        y[i] = da != 0 ? da * ref_iq4(x[i] / da) : 0;
    }
}

/* A grid: entries of `length` codes 0..levels-1, standing for odd numbers 1, 3, 5 ... in the
 * search and for level[] when decoded. */
struct ref_grid {
    int entries, length, levels;
    const uint8_t *table;
    float level[8];
    int group;  /* elements with one scale */
    float unit; /* decoded = d * unit * (2 s + 1) * level */
    int codes[512][8];
};

static void ref_grid_init(struct ref_grid *g, uint32_t type)
{
    static const float two[3] = {8, 25, 43}, three[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    bool xs = type == QT_IQ2_XS, iq3 = type == QT_IQ3_XXS;
    g->entries = xs ? 512 : 256;
    g->length = iq3 ? 4 : 8;
    g->levels = iq3 ? 8 : 3;
    g->table = xs ? quant_grid_iq2_xs[0] : iq3 ? quant_grid_iq3_xxs[0] : quant_grid_iq2_xxs[0];
    memcpy(g->level, iq3 ? three : two, (size_t)g->levels * sizeof(float));
    g->group = xs ? 16 : 32;
    g->unit = iq3 ? 0.25f : 0.125f;
    for (int k = 0; k < g->entries; k++) {
        for (int j = 0; j < g->length; j++) {
            int c = 0;
            while (g->level[c] != (float)g->table[k * g->length + j]) {
                c++;
            }
            g->codes[k][j] = c;
        }
    }
}

/* Codes of one grid vector at inverse scale r: the rounded ones if the grid has them, else the
 * best of the entries in the two nearest distance shells. Returns the entry. */
static int ref_grid_vector(const struct ref_grid *g, const float *x, const float *w, float r)
{
    int want[8], distance[512], first = 1 << 30, second = 1 << 30, best = 0;
    for (int j = 0; j < g->length; j++) {
        want[j] = ref_code(0.5f * (r * x[j] - 1), 0, g->levels - 1);
    }
    for (int k = 0; k < g->entries; k++) {
        distance[k] = 0;
        for (int j = 0; j < g->length; j++) {
            int step = 2 * (g->codes[k][j] - want[j]);
            distance[k] += step * step;
        }
        if (distance[k] < first) {
            second = first;
            first = distance[k];
        } else if (distance[k] > first && distance[k] < second) {
            second = distance[k];
        }
        if (distance[k] == 0) {
            return k;
        }
    }
    float least = 1e30f;
    for (int k = 0; k < g->entries; k++) {
        float e = 0;
        for (int j = 0; distance[k] <= second && j < g->length; j++) {
            float v = (float)(2 * g->codes[k][j] + 1) / r - x[j];
            e += sqrtf(w[j]) * v * v;
        }
        if (distance[k] <= second && e < least) {
            least = e;
            best = k;
        }
    }
    return best;
}

/* All vectors of a group at inverse scale r; sums of w x q and w q^2. */
static void ref_grid_group(const struct ref_grid *g, const float *x, const float *w, float r,
                           int *entry, float *xq, float *qq)
{
    *xq = *qq = 0;
    for (int v = 0; v < g->group / g->length; v++) {
        entry[v] = ref_grid_vector(g, x + v * g->length, w + v * g->length, r);
        for (int j = 0; j < g->length; j++) {
            float l = (float)(2 * g->codes[entry[v]][j] + 1);
            *xq += w[v * g->length + j] * x[v * g->length + j] * l;
            *qq += w[v * g->length + j] * l * l;
        }
    }
}

/* Magnitudes with an even number of minus signs per eight; sign[] is what is stored. */
static void ref_signs(const float *x, const float *w, float *magnitude, float *sign)
{
    int minus = 0, weakest = 0;
    for (int j = 0; j < 8; j++) {
        sign[j] = x[j] < 0 ? -1.0f : 1.0f;
        magnitude[j] = fabsf(x[j]);
        minus += x[j] < 0;
        weakest = w[j] * x[j] * x[j] < w[weakest] * x[weakest] * x[weakest] ? j : weakest;
    }
    if (minus % 2) {
        sign[weakest] = -sign[weakest];
        magnitude[weakest] = -magnitude[weakest];
    }
}

/* 3.2. */
static void ref_grid_block(const struct ref_grid *g, const float *x, const float *q, float *y)
{
    float w[256], mag[256], sign[256], scale[16] = {0}, top = 0;
    int entry[16][8] = {{0}}, groups = 256 / g->group;
    ref_weights(x, q, 1.0f, w);
    for (int i = 0; i < 256; i += 8) {
        ref_signs(x + i, w + i, mag + i, sign + i);
    }
    for (int i = 0; i < groups; i++) {
        const float *gx = mag + i * g->group, *gw = w + i * g->group;
        float max = 0, best = 0, xq, qq;
        for (int j = 0; j < g->group; j++) {
            max = gx[j] > max ? gx[j] : max;
        }
        if (max < 1e-15f) {
            continue;
        }
        int code[32], steps = 2 * g->levels - 1, trial[8];
        float e = ref_positive(g->group, steps - 1, gx, gw, code) * (float)(steps - 2);
        e = g->levels == 3 ? e : max;
        if (!(e > 0)) { /* no importance anywhere in the group */
            continue;
        }
        for (int t = g->levels == 3 ? -6 : -15; t <= (g->levels == 3 ? 6 : 15); t++) {
            float r = ((float)steps + (g->levels == 3 ? 0.1f : 0.2f) * (float)t) / e;
            ref_grid_group(g, gx, gw, r, trial, &xq, &qq);
            if (qq > 0 && xq > 0 && xq * xq > best * qq) {
                best = xq * xq / qq;
                scale[i] = xq / qq;
                memcpy(entry[i], trial, sizeof trial);
            }
        }
        if (scale[i] > 0) {
            ref_grid_group(g, gx, gw, 1 / scale[i], entry[i], &xq, &qq);
            scale[i] = xq > 0 && qq > 0 ? xq / qq : scale[i];
        }
        top = scale[i] > top ? scale[i] : top;
    }
    /* one odd level of the search is 8 (or 4) decoded */
    float d = ref_f16(top / 31 / (g->level[0] * g->unit));
    for (int i = 0; i < 256; i++) {
        int gr = i / g->group, in = i % g->group;
        float real = scale[gr] / (g->level[0] * g->unit);
        int s = d != 0 ? ref_code(0.5f * (real / d - 1), 0, 15) : 0;
        float level = g->level[g->codes[entry[gr][in / g->length]][in % g->length]];
        y[i] = d * g->unit * (float)(2 * s + 1) * level * sign[i];
    }
}

/* n (a multiple of 256) elements with importance q through the reference search of a type. */
static void ref_quantise(uint32_t type, const float *x, const float *q, size_t n, float *y)
{
    static struct ref_grid grid;
    static uint32_t grid_type = QT_COUNT;
    bool uses_grid = type == QT_IQ2_XXS || type == QT_IQ2_XS || type == QT_IQ3_XXS;
    if (uses_grid && grid_type != type) {
        ref_grid_init(&grid, type);
        grid_type = type;
    }
    for (size_t i = 0; i < n; i += 256) {
        switch (type) {
        case QT_Q2_K: ref_k_block(16, 3, 15, x + i, q + i, y + i); break;
        case QT_Q4_K: ref_k_block(32, 15, 63, x + i, q + i, y + i); break;
        case QT_Q5_K: ref_k_block(32, 31, 63, x + i, q + i, y + i); break;
        case QT_Q3_K: ref_symmetric_block(4, 32, x + i, q + i, y + i); break;
        case QT_Q6_K: ref_symmetric_block(32, 128, x + i, q + i, y + i); break;
        case QT_IQ4_XS: ref_iq4_block(x + i, q + i, y + i); break;
        default: ref_grid_block(&grid, x + i, q + i, y + i); break;
        }
    }
}

#endif
