/* index_avx512vnni.c - the indexer on integers with 8-bit dot instructions: 16 rows in the
 * lanes, four elements a lane and instruction. Rows are shifted to their unit when they are
 * unpacked and carry an offset of 128, because the first operand is unsigned; the sums start at
 * -128 times the sum of the query. Per 16 rows and head of 128 elements: 32 dots, a conversion,
 * a maximum and an fma. Read next: index_int.h for why this gives the bits of the F32 form. */
#include <immintrin.h>

#include "backend/cpu/index_int.h"
#include "backend/cpu/kern_order.h"
#include "backend/cpu/x86/vec_avx512.h"

static uint32_t index_rows(const uint8_t *const *codes, const uint8_t *const *scales, size_t n,
                           struct index_rows *out)
{
    static const uint8_t value[16] = {INDEX_CODES};
    uint8_t shift[INDEX_MAX_N / 32][KERN_PANEL];
    uint32_t wide = index_units(scales, n / 32, shift, out->unit);
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)value));
    const __m512i nibble = _mm512_set1_epi8(15);
    for (size_t j0 = 0; j0 < n / 8; j0 += 16) {
        size_t count = n / 8 - j0 < 16 ? n / 8 - j0 : 16;
        __mmask16 mask = (__mmask16)((1u << count) - 1);
        v16 t[16];
        for (int r = 0; r < 16; r++) {
            t[r] = _mm512_maskz_loadu_ps(mask, codes[r] + 4 * j0);
        }
        v16_transpose(t);
        for (size_t j = 0; j < count; j += 4) { /* a group */
            size_t g = (j0 + j) / 4;
            __m512i up = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)shift[g]));
            /* 128 - (12 << up) in every byte */
            __m512i offset =
                _mm512_sub_epi32(_mm512_set1_epi32((int)0x80808080u),
                                 _mm512_sllv_epi32(_mm512_set1_epi32(0x0C0C0C0C), up));
            for (size_t i = j; i < j + 4; i++) {
                __m512i both = _mm512_castps_si512(t[i]);
                __m512i lo = _mm512_and_si512(both, nibble);
                __m512i hi = _mm512_and_si512(_mm512_srli_epi32(both, 4), nibble);
                lo = _mm512_sllv_epi32(_mm512_shuffle_epi8(table, lo), up);
                hi = _mm512_sllv_epi32(_mm512_shuffle_epi8(table, hi), up);
                _mm512_storeu_si512(out->w[2 * (j0 + i)], _mm512_add_epi8(lo, offset));
                _mm512_storeu_si512(out->w[2 * (j0 + i) + 1], _mm512_add_epi8(hi, offset));
            }
            _mm512_storeu_si512(out->mul[g], _mm512_set1_epi16(1));
        }
    }
    return wide;
}

/* Adds the dots of a group, eight steps of rows and of eight heads. */
static inline void dots8(const uint8_t (*rows)[KERN_PANEL][4], const int8_t *q,
                         __m512i acc[INDEX_HEADS])
{
    UNROLL for (int s = 0; s < 8; s++)
    {
        __m512i w = _mm512_loadu_si512(rows[s]);
        UNROLL for (int h = 0; h < INDEX_HEADS; h++)
        {
            int32_t four;
            memcpy(&four, q + 4 * (INDEX_HEADS * s + h), 4);
            acc[h] = _mm512_dpbusd_epi32(acc[h], w, _mm512_set1_epi32(four));
        }
    }
}

/* The sums of heads h0 .. h0 + 7 as floats, those of wide heads replaced. */
static __attribute__((noinline)) void fix_wide(const struct index_rows *rows,
                                               const struct index_query *q, uint32_t h0,
                                               size_t n, __m512 dot[INDEX_HEADS])
{
    for (uint32_t h = 0; h < INDEX_HEADS; h++) {
        float d[KERN_PANEL];
        if (q->wide[h0 + h]) {
            index_wide_head(rows, 128, q, h0 + h, n, d);
            dot[h] = _mm512_loadu_ps(d);
        }
    }
}

static void index_dots(const struct index_rows *rows, const struct index_query *q, size_t n,
                       float out[KERN_PANEL])
{
    __m512 score = _mm512_setzero_ps(), zero = _mm512_setzero_ps();
    const int8_t *codes = q->q;
    for (uint32_t h0 = 0; h0 < q->heads; h0 += INDEX_HEADS) {
        __m512i acc[INDEX_HEADS];
        __m512 dot[INDEX_HEADS];
        const int32_t *sum = q->sum + h0;
        const float *w = q->w + h0;
        UNROLL for (int h = 0; h < INDEX_HEADS; h++)
        {
            acc[h] = _mm512_set1_epi32(sum[h]);
        }
        for (size_t g = 0; g < n / 32; g++) {
            dots8(rows->w + 8 * g, codes, acc);
            codes += 32 * INDEX_HEADS;
        }
        UNROLL for (int h = 0; h < INDEX_HEADS; h++)
        {
            dot[h] = _mm512_cvtepi32_ps(acc[h]);
        }
        if (q->some_wide) {
            __m512 fixed[INDEX_HEADS];
            memcpy(fixed, dot, sizeof fixed);
            fix_wide(rows, q, h0, n, fixed);
            memcpy(dot, fixed, sizeof fixed);
        }
        UNROLL for (int h = 0; h < INDEX_HEADS; h++)
        {
            score = _mm512_fmadd_ps(_mm512_max_ps(dot[h], zero), _mm512_set1_ps(w[h]), score);
        }
    }
    _mm512_storeu_ps(out, _mm512_mul_ps(score, _mm512_loadu_ps(rows->unit)));
}

void kern_index_avx512vnni(struct cpu_kern *k)
{
    k->index_rows = index_rows;
    k->index_dots = index_dots;
}
