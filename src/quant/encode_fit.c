/* encode_fit.c - preparation of a block for the searching quantisers (see encode_fit.h).
 * Blocks are normalised by a power of two, because squares of weights as they come (or of an
 * unscaled model) leave the range of float32 long before the values do; the f16 scale is
 * rounded in the block's real units, including its subnormals, so that a search sees exactly
 * the scale that a reader will see. Read encode_k.c, encode_sym.c or encode_iq.c next. */
#include "quant/encode_fit.h"

#include <math.h>

#include "base/num.h"

/* One step of a subnormal f16 scale, the smallest decodable magnitude in every format here, is
 * 2^-24; anything below half of it is best written as zero. */
#define TOO_SMALL 0x1p-26f

/* The largest magnitude; NaN if any element is NaN or infinite. */
static float max_magnitude(const float *x)
{
    uint32_t max = 0;
    for (int i = 0; i < FIT_N; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7FFFFFFFu;
        max = a > max ? a : max;
    }
    return f32_from_bits(max >= 0x7F800000u ? 0x7FC00000u : max);
}

static void load_importance(struct fit_block *b, const float *importance)
{
    double sum = 0;
    for (int i = 0; importance && i < FIT_N; i++) {
        sum += (double)importance[i];
    }
    double inverse = sum == 0 ? 0 : FIT_N / sum;
    int exponent = 0; /* a power of two near the mean: nothing is rounded */
    frexp(sum / FIT_N, &exponent);
    double scale = ldexp(1.0, -exponent);
    for (int i = 0; i < FIT_N; i++) {
        double v = sum == 0 ? 1.0 : (double)importance[i];
        b->plain[i] = (float)(v * scale);
        b->w[i] = sum == 0 ? 1.0f : (float)(v * inverse) + FIT_LEAST;
    }
}

/* The tilt: w *= (1 + x^2 / mean x^2)^(1/8). The reference has the power 1/2 (quantization.md
 * 3), on the experience that keeping large weights is worth more than the plain error says. An
 * eighth costs under one percent of plain error and is markedly better than no tilt in the
 * reference's own measure; square roots are correctly rounded everywhere, pow is not. */
static void tilt_weights(struct fit_block *b)
{
    double sum = 0;
    for (int i = 0; i < FIT_N; i++) {
        sum += (double)b->x[i] * (double)b->x[i];
    }
    float inverse = (float)(FIT_N / sum);
    for (int i = 0; i < FIT_N; i++) {
        b->w[i] *= sqrtf(sqrtf(sqrtf(1.0f + b->x[i] * b->x[i] * inverse)));
    }
}

enum fit_state fit_block_load(struct fit_block *b, const float *x, const float *importance)
{
    float max = max_magnitude(x);
    if (max != max) {
        return FIT_BAD;
    }
    if (max < TOO_SMALL) {
        return max == 0.0f ? FIT_ZERO : FIT_UNDERFLOW;
    }
    uint32_t exponent = f32_bits(max) >> 23;
    exponent = exponent > 253 ? 253 : exponent; /* so that the inverse is a normal float */
    b->unit = f32_from_bits(exponent << 23);
    float inverse = f32_from_bits((254 - exponent) << 23);
    for (int i = 0; i < FIT_N; i++) {
        b->x[i] = x[i] * inverse;
    }
    load_importance(b, importance);
    tilt_weights(b);
    return FIT_OK;
}

void fit_reference_weights(const struct fit_block *b, float factor, float *w)
{
    float sum = 0.0f;
    for (int i = 0; i < FIT_N; i++) {
        sum += b->x[i] * b->x[i];
    }
    for (int i = 0; i < FIT_N; i++) {
        w[i] = b->plain[i] * sqrtf(factor * sum / FIT_N + b->x[i] * b->x[i]);
    }
}

struct fit_scale fit_scale_round(const struct fit_block *b, float d)
{
    float real = d * b->unit;
    struct fit_scale s;
    s.clipped = !(real < 65520.0f && real > -65520.0f);
    s.bits = f32_to_f16(real < -65504.0f ? -65504.0f : real > 65504.0f ? 65504.0f : real);
    s.d = f16_to_f32(s.bits) / b->unit;
    return s;
}

struct fit_scale fit_scale_round_up(const struct fit_block *b, float d)
{
    struct fit_scale s = fit_scale_round(b, d);
    if ((s.bits & 0x7FFF) == 0 && d != 0.0f) {
        s.bits |= 1;
        s.d = f16_to_f32(s.bits) / b->unit;
    }
    return s;
}
