/* index_avx2.c - the indexer on integers with the byte products of AVX2: 8 rows in the lanes.
 * Rows carry an offset of 12, because the first operand is unsigned, and are not shifted: their
 * groups' shifts are multiplied in when 16-bit sums become 32-bit ones. The 16-bit sums start at
 * -12 times those of the query; they may wrap on the way, but the end fits: at most 16 products
 * of 12 and 96. Per 8 rows, head and step of four elements: a product and an addition. Read
 * next: index_int.h for why this gives the bits of the F32 form. */
#include <immintrin.h>

#include "backend/cpu/index_int.h"
#include "backend/cpu/kern_order.h"
#include "backend/cpu/x86/vec_avx2.h"

static uint32_t index_rows(const uint8_t *const *codes, const uint8_t *const *scales, size_t n,
                           struct index_rows *out)
{
    static const uint8_t value[16] = {INDEX_CODES};
    uint8_t shift[INDEX_MAX_N / 32][KERN_PANEL];
    uint32_t wide = index_units(scales, n / 32, shift, out->unit);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)value));
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t j0 = 0; j0 < n / 8; j0 += 4) { /* a group */
        for (int half = 0; half < 16; half += 8) {
            __m256 t[8];
            for (int r = 0; r < 8; r++) {
                t[r] = _mm256_castps128_ps256(
                    _mm_loadu_ps((const void *)(codes[half + r] + 4 * j0)));
            }
            transpose8(t);
            for (size_t i = 0; i < 4; i++) {
                __m256i both = _mm256_castps_si256(t[i]);
                __m256i lo = _mm256_and_si256(both, nibble);
                __m256i hi = _mm256_and_si256(_mm256_srli_epi32(both, 4), nibble);
                _mm256_storeu_si256((void *)out->w[2 * (j0 + i)][half],
                                    _mm256_shuffle_epi8(table, lo));
                _mm256_storeu_si256((void *)out->w[2 * (j0 + i) + 1][half],
                                    _mm256_shuffle_epi8(table, hi));
            }
        }
        for (int r = 0; r < KERN_PANEL; r++) {
            int16_t m = (int16_t)(1 << shift[j0 / 4][r]);
            out->mul[j0 / 4][r][0] = out->mul[j0 / 4][r][1] = m;
        }
    }
    return wide;
}

static inline __m256i broadcast4(const void *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

enum { HEADS = 4 };

/* Adds the dots of a group, eight steps of 8 rows (w) and of four of the eight heads (q), to
 * acc; sum2 and mul as in the structs. */
static inline void dots4(const uint8_t (*w)[KERN_PANEL][4], const int8_t *q,
                         const int16_t *sum2, size_t sum2_ld, __m256i mul, __m256i acc[HEADS])
{
    __m256i part[HEADS];
    UNROLL for (int j = 0; j < HEADS; j++)
    {
        part[j] = broadcast4(sum2 + (size_t)j * sum2_ld);
    }
    UNROLL for (int s = 0; s < 8; s++)
    {
        __m256i v = _mm256_loadu_si256((const void *)w[s]);
        UNROLL for (int j = 0; j < HEADS; j++)
        {
            __m256i four = broadcast4(q + 4 * (INDEX_HEADS * s + j));
            part[j] = _mm256_add_epi16(part[j], _mm256_maddubs_epi16(v, four));
        }
    }
    UNROLL for (int j = 0; j < HEADS; j++)
    {
        acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(part[j], mul));
    }
}

/* The dots of rows half .. half + 7 with heads h0 .. h0 + 3 as floats, those of wide heads
 * replaced. */
static __attribute__((noinline)) void fix_wide(const struct index_rows *rows, int half,
                                               const struct index_query *q, uint32_t h0,
                                               size_t n, __m256 dot[HEADS])
{
    for (uint32_t j = 0; j < HEADS; j++) {
        float d[KERN_PANEL];
        if (q->wide[h0 + j]) {
            index_wide_head(rows, 12, q, h0 + j, n, d);
            dot[j] = _mm256_loadu_ps(d + half);
        }
    }
}

static void index_dots(const struct index_rows *rows, const struct index_query *q, size_t n,
                       float out[KERN_PANEL])
{
    size_t groups = n / 32;
    for (int half = 0; half < KERN_PANEL; half += 8) {
        __m256 score = _mm256_setzero_ps(), zero = _mm256_setzero_ps();
        for (uint32_t h0 = 0; h0 < q->heads; h0 += HEADS) {
            const int8_t *codes = index_at(q, h0, 0, n);
            const float *w = q->w + h0;
            __m256i acc[HEADS];
            __m256 dot[HEADS];
            UNROLL for (int j = 0; j < HEADS; j++)
            {
                acc[j] = _mm256_setzero_si256();
            }
            for (size_t g = 0; g < groups; g++) {
                __m256i mul = _mm256_loadu_si256((const void *)rows->mul[g][half]);
                dots4((const uint8_t(*)[KERN_PANEL][4])rows->w[8 * g][half],
                      codes + 32 * INDEX_HEADS * g, q->sum2 + 2 * (h0 * groups + g), 2 * groups,
                      mul, acc);
            }
            UNROLL for (int j = 0; j < HEADS; j++)
            {
                dot[j] = _mm256_cvtepi32_ps(acc[j]);
            }
            if (q->some_wide) {
                __m256 fixed[HEADS];
                memcpy(fixed, dot, sizeof fixed);
                fix_wide(rows, half, q, h0, n, fixed);
                memcpy(dot, fixed, sizeof fixed);
            }
            UNROLL for (int j = 0; j < HEADS; j++)
            {
                score =
                    _mm256_fmadd_ps(_mm256_max_ps(dot[j], zero), _mm256_set1_ps(w[j]), score);
            }
        }
        _mm256_storeu_ps(out + half, _mm256_mul_ps(score, _mm256_loadu_ps(rows->unit + half)));
    }
}

void kern_index_avx2(struct cpu_kern *k)
{
    k->index_rows = index_rows;
    k->index_dots = index_dots;
}
