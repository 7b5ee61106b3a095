/* peak_avx2.c - the loops of peak.h for x86-64-v3: 32-byte loads, 8-bit dots by multiply-add of
 * bytes and of words, float fma. Accumulators enough to hide the latency; the asm statement
 * makes the operand look new in every round, so that no product is taken out of the loop. */
#include "backend/cpu/peak.h"

#include <immintrin.h>

enum { ACCS = 12 };

static uint64_t read_avx2(const void *p, size_t n, uint32_t streams)
{
    size_t one = n / streams;
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    for (size_t at = 0; at < one; at += PEAK_PIECE) {
        for (size_t k = 0; k < streams; k++) {
            const __m256i *v = (const __m256i *)((const char *)p + k * one + at);
            for (size_t i = 0; i < PEAK_PIECE / sizeof *v; i++) {
                s[i % 4] = _mm256_add_epi64(s[i % 4], _mm256_load_si256(v + i));
            }
        }
    }
    uint64_t out[4];
    s[0] = _mm256_add_epi64(_mm256_add_epi64(s[0], s[1]), _mm256_add_epi64(s[2], s[3]));
    _mm256_storeu_si256((__m256i *)out, s[0]);
    return out[0] + out[1] + out[2] + out[3];
}

static uint64_t int8_avx2(uint64_t n)
{
    __m256i acc[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
    const __m256i one = _mm256_set1_epi16(1);
    for (int i = 0; i < 8; i++) {
        acc[i] = _mm256_setzero_si256();
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a));
            acc[i] =
                _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
        }
    }
    for (int i = 1; i < 8; i++) {
        acc[0] = _mm256_add_epi32(acc[0], acc[i]);
    }
    return (uint64_t)_mm256_extract_epi32(acc[0], 0);
}

static float f32_avx2(uint64_t n)
{
    __m256 acc[ACCS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    for (int i = 0; i < ACCS; i++) {
        acc[i] = _mm256_set1_ps((float)i);
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < ACCS; i++) {
            acc[i] = _mm256_fmadd_ps(acc[i], a, b);
        }
        __asm__ volatile("" : "+x"(a));
    }
    for (int i = 1; i < ACCS; i++) {
        acc[0] = _mm256_add_ps(acc[0], acc[i]);
    }
    return _mm256_cvtss_f32(acc[0]);
}

void peak_init_avx2(struct cpu_peak *p)
{
    *p = (struct cpu_peak){.name = "avx2",
                           .int8_name = "vpmaddubsw + vpmaddwd, 256 bits",
                           .f32_name = "vfmadd, 256 bits",
                           .read = read_avx2,
                           .int8 = int8_avx2,
                           .f32 = f32_avx2,
                           .int8_ops = 8 * 32 * 2.0,
                           .f32_ops = ACCS * 8 * 2.0};
}
