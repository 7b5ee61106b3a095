/* index_dot.h - the indexer on integers (index_int.h) with the 8-bit dot products of arm64:
 * signed bytes on both sides, so rows carry no offset and are shifted to their unit when they
 * are unpacked. Eight rows in the lanes of two vectors meet eight heads, whose elements of a
 * step are two vectors again. Included by the tiers that have SDOT, after kern_c.h. */
#ifndef CPU_ARM_INDEX_DOT_H
#define CPU_ARM_INDEX_DOT_H

static uint32_t index_rows_dot(const uint8_t *const *codes, const uint8_t *const *scales,
                               size_t n, struct index_rows *out)
{
    static const uint8_t value[16] = {INDEX_CODES};
    uint8_t shift[INDEX_MAX_N / 32][KERN_PANEL];
    uint32_t wide = index_units(scales, n / 32, shift, out->unit);
    int8x16_t table = vreinterpretq_s8_u8(vsubq_u8(vld1q_u8(value), vdupq_n_u8(12)));
    for (size_t g = 0; g < n / 32; g++) {
        for (int r = 0; r < KERN_PANEL; r++) {
            uint8x16_t c = vld1q_u8(codes[r] + 16 * g);
            int8x16_t up = vdupq_n_s8((int8_t)shift[g][r]);
            int8_t lo[16], hi[16];
            vst1q_s8(lo, vshlq_s8(vqtbl1q_s8(table, vandq_u8(c, vdupq_n_u8(15))), up));
            vst1q_s8(hi, vshlq_s8(vqtbl1q_s8(table, vshrq_n_u8(c, 4)), up));
            for (size_t j = 0; j < 4; j++) {
                memcpy(out->w[8 * g + 2 * j][r], lo + 4 * j, 4);
                memcpy(out->w[8 * g + 2 * j + 1][r], hi + 4 * j, 4);
            }
            out->mul[g][r][0] = out->mul[g][r][1] = 1;
        }
    }
    return wide;
}

#define INDEX_ADD(h, q, lane)                            \
    do {                                                 \
        s[h][0] = vdotq_laneq_s32(s[h][0], w0, q, lane); \
        s[h][1] = vdotq_laneq_s32(s[h][1], w1, q, lane); \
    } while (0)

/* Sums of eight heads (q: their steps) with 8 of the 16 rows (w). */
static inline void index_sums(const uint8_t *w, const int8_t *q, size_t n,
                              int32x4_t s[INDEX_HEADS][2])
{
    for (int h = 0; h < INDEX_HEADS; h++) {
        s[h][0] = s[h][1] = vdupq_n_s32(0);
    }
    for (size_t i = 0; i < n / 4; i++, w += 4 * KERN_PANEL, q += 4 * INDEX_HEADS) {
        int8x16_t w0 = vreinterpretq_s8_u8(vld1q_u8(w));
        int8x16_t w1 = vreinterpretq_s8_u8(vld1q_u8(w + 16));
        int8x16_t q0 = vld1q_s8(q), q1 = vld1q_s8(q + 16);
        INDEX_ADD(0, q0, 0);
        INDEX_ADD(1, q0, 1);
        INDEX_ADD(2, q0, 2);
        INDEX_ADD(3, q0, 3);
        INDEX_ADD(4, q1, 0);
        INDEX_ADD(5, q1, 1);
        INDEX_ADD(6, q1, 2);
        INDEX_ADD(7, q1, 3);
    }
}

static void index_dots_dot(const struct index_rows *rows, const struct index_query *q, size_t n,
                           float out[KERN_PANEL])
{
    const float32x4_t zero = vdupq_n_f32(0);
    for (int half = 0; half < KERN_PANEL; half += 8) {
        float32x4_t score[2] = {zero, zero};
        for (uint32_t h0 = 0; h0 < q->heads; h0 += INDEX_HEADS) {
            int32x4_t sum[INDEX_HEADS][2];
            index_sums(rows->w[0][half], index_at(q, h0, 0, n), n, sum);
            for (uint32_t h = 0; h < INDEX_HEADS; h++) {
                float32x4_t dot[2] = {vcvtq_f32_s32(sum[h][0]), vcvtq_f32_s32(sum[h][1])};
                if (q->some_wide && q->wide[h0 + h]) {
                    float d[KERN_PANEL];
                    index_wide_head(rows, 0, q, h0 + h, n, d);
                    dot[0] = vld1q_f32(d + half);
                    dot[1] = vld1q_f32(d + half + 4);
                }
                float32x4_t w = vdupq_n_f32(q->w[h0 + h]);
                score[0] = vfmaq_f32(score[0], vmaxq_f32(dot[0], zero), w);
                score[1] = vfmaq_f32(score[1], vmaxq_f32(dot[1], zero), w);
            }
        }
        vst1q_f32(out + half, vmulq_f32(score[0], vld1q_f32(rows->unit + half)));
        vst1q_f32(out + half + 4, vmulq_f32(score[1], vld1q_f32(rows->unit + half + 4)));
    }
}

static void index_dot_init(struct cpu_kern *k)
{
    k->index_rows = index_rows_dot;
    k->index_dots = index_dots_dot;
}

#endif
