/* Writing sums, and dropout's draws sixteen blocks of eight channels at a time. */
#include "backend/cpu/call.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backend/dropout.h"

int cpu_no_scratch(struct backend *b, struct kernel *k, struct err *err)
{
    (void)b;
    (void)k;
    (void)err;
    return 0;
}

void cpu_give(const struct cpu_call *a, int output, int64_t begin, int64_t n, float *sum)
{
    const enum dtype type = kernel_out(a->kernel, output)->dtype;
    float tile[SIMD_TILE];

    for (int64_t i = 0; i < n; i += SIMD_TILE) {
        const int64_t m = n - i < SIMD_TILE ? n - i : SIMD_TILE;

        if (a->adds)
            simd_add(sum + i, simd_load(a->out[output], type, begin + i, m, tile), m);
        if (type == F32)
            memcpy((float *)a->out[output] + begin + i, sum + i, (size_t)m * sizeof *sum);
        simd_store(a->out[output], type, begin + i, m, sum + i);
    }
}

#define LANES 16

/* rng_philox on sixteen counters that differ in their last word alone; word 4*l + i is v[i] of block c8 + l. */
static void draw_plain(const uint32_t key[2], const uint32_t counter[3], uint32_t c8, uint32_t *word)
{
    for (uint32_t l = 0; l < LANES; l++) {
        const struct rng_block r = rng_philox(key[0], key[1], counter[0], counter[1], counter[2], c8 + l);

        memcpy(word + 4 * l, r.v, sizeof r.v);
    }
}

#if defined(__x86_64__)
/* The same four blocks at a time: 32-bit words in 64-bit places, where vpmuludq wants them and leaves the whole product. No
 * compiler finds this by itself, and it is three times as fast: dropout is bound by its draws. What is in the upper half
 * of a place does not matter until the end. */
__attribute__((target("avx2"))) static void draw_avx2(const uint32_t key[2], const uint32_t counter[3], uint32_t c8,
                                                      uint32_t *word)
{
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i key0[10], key1[10];

    for (uint32_t round = 0; round < 10; round++) {
        key0[round] = _mm256_set1_epi32((int)(key[0] + round * 0x9E3779B9u));
        key1[round] = _mm256_set1_epi32((int)(key[1] + round * 0xBB67AE85u));
    }
    for (uint32_t l = 0; l < LANES; l += 4) {
        const long long last = c8 + l;
        __m256i c0 = _mm256_set1_epi64x(counter[0]), c1 = _mm256_set1_epi64x(counter[1]);
        __m256i c2 = _mm256_set1_epi64x(counter[2]), c3 = _mm256_setr_epi64x(last, last + 1, last + 2, last + 3);

        for (int round = 0; round < 10; round++) {
            const __m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);

            c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), key0[round]);
            c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), key1[round]);
            c1 = p1;
            c3 = p0;
        }
        const __m256i low = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
        const __m256i high = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
        const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);

        _mm256_storeu_si256((__m256i *)(word + 4 * l), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(word + 4 * l + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }
}

static void draw_blocks(const uint32_t key[2], const uint32_t counter[3], uint32_t c8, uint32_t *word)
{
    if (__builtin_cpu_supports("avx2"))
        draw_avx2(key, counter, c8, word);
    else
        draw_plain(key, counter, c8, word);
}
#else
#define draw_blocks draw_plain
#endif

SIMD_CLONES static void keep(const uint32_t *restrict word, uint32_t threshold, float scale, float *restrict factor)
{
#pragma omp simd
    for (int i = 0; i < 4 * LANES; i++) {
        factor[2 * i] = (word[i] & 0xffffu) < threshold ? 0.0f : scale;
        factor[2 * i + 1] = word[i] >> 16 < threshold ? 0.0f : scale;
    }
}

void cpu_dropout_factors(const struct cpu_call *a, int64_t n, int64_t C, float *factor)
{
    const struct dropout_stream s = dropout_stream(a->c, a->attrs->site, a->places ? a->places[n] : n);
    const float scale = 1.0f / (1.0f - a->attrs->p);
    uint32_t word[4 * LANES];

    for (int64_t i = 0; i < C; i += 8 * LANES) {
        draw_blocks(s.key, s.counter, (uint32_t)(i / 8), word);
        keep(word, dropout_threshold(a->attrs->p), scale, factor + i);
    }
}
