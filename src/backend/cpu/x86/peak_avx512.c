/* peak_avx512.c - the loops of peak.h for x86-64-v4, with the 8-bit dot instruction (VNNI)
 * where the processor has it: that one is outside x86-64-v4, so its function names its own
 * target. */
#include "backend/cpu/peak.h"

#include <immintrin.h>

enum { ACCS = 12 };

/* Any value that depends on every bit; unsigned, because the sums wrap around. */
static inline uint64_t sum_words(__m512i v)
{
    uint64_t w[8], sum = 0;
    _mm512_storeu_si512(w, v);
    for (int i = 0; i < 8; i++) {
        sum += w[i];
    }
    return sum;
}

static uint64_t read_avx512(const void *p, size_t n, uint32_t streams)
{
    size_t one = n / streams;
    __m512i s[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
    for (size_t at = 0; at < one; at += PEAK_PIECE) {
        for (size_t k = 0; k < streams; k++) {
            const __m512i *v = (const __m512i *)((const char *)p + k * one + at);
            for (size_t i = 0; i < PEAK_PIECE / sizeof *v; i++) {
                s[i % 4] = _mm512_add_epi64(s[i % 4], _mm512_load_si512(v + i));
            }
        }
    }
    s[0] = _mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3]));
    return sum_words(s[0]);
}

static uint64_t int8_avx512(uint64_t n)
{
    __m512i acc[8], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    const __m512i one = _mm512_set1_epi16(1);
    for (int i = 0; i < 8; i++) {
        acc[i] = _mm512_setzero_si512();
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+v"(a));
            acc[i] =
                _mm512_add_epi32(acc[i], _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), one));
        }
    }
    for (int i = 1; i < 8; i++) {
        acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    }
    return sum_words(acc[0]);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static uint64_t int8_vnni(uint64_t n)
{
    __m512i acc[ACCS], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
    for (int i = 0; i < ACCS; i++) {
        acc[i] = _mm512_setzero_si512();
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < ACCS; i++) {
            acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
        }
        __asm__ volatile("" : "+v"(a));
    }
    for (int i = 1; i < ACCS; i++) {
        acc[0] = _mm512_add_epi32(acc[0], acc[i]);
    }
    return sum_words(acc[0]);
}

static float f32_avx512(uint64_t n)
{
    __m512 acc[ACCS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    for (int i = 0; i < ACCS; i++) {
        acc[i] = _mm512_set1_ps((float)i);
    }
    for (uint64_t r = 0; r < n; r++) {
        for (int i = 0; i < ACCS; i++) {
            acc[i] = _mm512_fmadd_ps(acc[i], a, b);
        }
        __asm__ volatile("" : "+v"(a));
    }
    for (int i = 1; i < ACCS; i++) {
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    }
    return _mm512_reduce_add_ps(acc[0]);
}

void peak_init_avx512(struct cpu_peak *p)
{
    *p = (struct cpu_peak){.name = "avx512",
                           .int8_name = "vpmaddubsw + vpmaddwd, 512 bits",
                           .f32_name = "vfmadd, 512 bits",
                           .read = read_avx512,
                           .int8 = int8_avx512,
                           .f32 = f32_avx512,
                           .int8_ops = 8 * 64 * 2.0,
                           .f32_ops = ACCS * 16 * 2.0};
    if (__builtin_cpu_supports("avx512vnni")) {
        p->int8_name = "vpdpbusd, 512 bits";
        p->int8 = int8_vnni;
        p->int8_ops = ACCS * 64 * 2.0;
    }
}
