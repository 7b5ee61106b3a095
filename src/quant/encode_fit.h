/* encode_fit.h - what the searching quantisers share: a block made ready for fitting, and the
 * f16 scale as it will be read back. Lanes: encode_lanes.h. Internal to src/quant/encode*.c.
 *
 * The metric everywhere is the weighted squared error of the decoded values,
 *   sum over the block of w[i] * (x[i] - decoded[i])^2,
 * w being the importance (quantization.md 4: proportional to the expected error of the matrix
 * product), tilted a little towards large elements (fit_block_load). All sums run in a fixed
 * order over fixed lanes and only correctly rounded operations are used, so the bytes written
 * depend on nothing but the row and its importance. */
#ifndef QUANT_ENCODE_FIT_H
#define QUANT_ENCODE_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FIT_N = 256 }; /* elements of a block; all searching formats have the same */

#define FIT_LEAST 0x1p-20f /* what keeps elements without importance encoded sensibly */

/* A block scaled by a power of two (exact) so that its largest magnitude is in [1, 2), with
 * weights of mean 1 before the tilt. Where all importance is zero it counts as ones; elements
 * without importance inside a block that has some keep a weight of about 2^-20, so that they
 * are encoded sensibly but decide nothing. */
struct fit_block {
    float x[FIT_N];
    float w[FIT_N];
    float plain[FIT_N]; /* the importance times a power of two; ones where all is zero */
    float unit;         /* the original is x * unit; a power of two */
};

enum fit_state {
    FIT_OK,
    FIT_ZERO,      /* all elements are zero: write a block of zeros */
    FIT_UNDERFLOW, /* not all zero, but no f16 scale reaches them: write zeros and report */
    FIT_BAD,       /* NaN or infinity: write a NaN scale and report */
};

/* Fills b (only for FIT_OK) from FIT_N elements; importance may be NULL (ones). */
enum fit_state fit_block_load(struct fit_block *b, const float *x, const float *importance);

/* The reference's weights (quantization.md 3): plain * sqrt(factor * mean x^2 + x^2). */
void fit_reference_weights(const struct fit_block *b, float factor, float *w);

/* A scale as stored and as the decoder will use it. */
struct fit_scale {
    float d;       /* in units of the normalised block */
    uint16_t bits; /* f16 */
    bool clipped;  /* the wanted scale is beyond f16; this is the largest finite one */
};
struct fit_scale fit_scale_round(const struct fit_block *b, float d);
/* The same, but a positive d becomes at least the smallest f16, not zero. */
struct fit_scale fit_scale_round_up(const struct fit_block *b, float d);

/* For which processors the searches are compiled: a wider tier writes the same bytes sooner. */
enum encode_tier { ENCODE_BASE, ENCODE_AVX2 };
/* The widest tier of this processor. */
enum encode_tier quant_encode_tier(void);
/* Writes one block of a searching type over zeros, by a tier that the processor has. True if it
 * is lost (quant_encode_weighted). */
bool encode_block_tier(enum encode_tier tier, uint32_t type_id, const struct fit_block *b,
                       uint8_t *out);

#endif
