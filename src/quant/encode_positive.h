/* encode_positive.h - the reference's fit of a positive scale (quantization.md 3.3), which its
 * searches for K-quants and grids share: LANES fits side by side. Internal to encode_*.c. */
#ifndef QUANT_ENCODE_POSITIVE_H
#define QUANT_ENCODE_POSITIVE_H

#include "quant/encode_lanes.h"

/* One sweep of coordinate descent over codes 0..top: each code in turn becomes the one that suits
 * the scale of all others, if that explains more. Returns whether any code of any lane changed. */
static inline bool positive_sweep(int n, float top, const f32v *x, const f32v *w, f32v *code,
                                  f32v *xl, f32v *ll)
{
    f32v zero = splatv(0.0f), one = splatv(1.0f);
    bool any = false;
    for (int i = 0; i < n; i++) {
        f32v wx = w[i] * x[i], rest_x = *xl - wx * code[i];
        f32v rest_l = *ll - w[i] * code[i] * code[i];
        i32v usable = (rest_x > zero) & (rest_l > zero);
        f32v next = x[i] * rest_l / selectv(usable, rest_x, one);
        next = roundv(clampv(next, 0.0f, top));
        f32v next_x = rest_x + wx * next, next_l = rest_l + w[i] * next * next;
        i32v better = usable & (next != code[i]) & (next_x * next_x * *ll > *xl * *xl * next_l);
        any |= anyv(better);
        code[i] = selectv(better, next, code[i]);
        *xl = selectv(better, next_x, *xl);
        *ll = selectv(better, next_l, *ll);
    }
    return any;
}

/* Fits x[0..n) ~ scale * code with codes 0..top and weights w. Returns the scales; 0 where no
 * element is positive or none of those has weight. */
static inline f32v positive_fit(int n, float top, const f32v *x, const f32v *w, f32v *code)
{
    enum { TRIALS = 10, SWEEPS = 5 };
    f32v zero = splatv(0.0f), max = zero, best = splatv(1e30f), inverse = zero;
    for (int i = 0; i < n; i++) {
        max = maxv(x[i], max);
    }
    i32v usable = max >= splatv(1e-15f);
    f32v divisor = selectv(usable, max, splatv(1.0f));
    for (int k = 0; k < TRIALS; k++) { /* the plain range first, then -0.4 .. 0.4 around it */
        float range = k == 0 ? top : top + 0.1f * (float)(k - 5);
        f32v r = splatv(range) / divisor, scale = splatv(1.0f) / r, e = zero;
        for (int i = 0; i < n; i++) {
            f32v v = x[i] - scale * roundv(clampv(r * x[i], 0.0f, top));
            e += w[i] * v * v;
        }
        i32v better = e < best;
        best = selectv(better, e, best);
        inverse = selectv(better, r, inverse);
    }
    f32v xl = zero, ll = zero;
    for (int i = 0; i < n; i++) {
        code[i] = selectv(usable, roundv(clampv(inverse * x[i], 0.0f, top)), zero);
        xl += w[i] * x[i] * code[i];
        ll += w[i] * code[i] * code[i];
    }
    for (int t = 0; t < SWEEPS && positive_sweep(n, top, x, w, code, &xl, &ll); t++) {
    }
    i32v found = ll > zero;
    return selectv(found, xl / selectv(found, ll, splatv(1.0f)), zero);
}

#endif
