/* Writing sums, and dropout's draws sixteen blocks of eight channels at a time. */
#include "backend/cpu/call.h"

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
SIMD_CLONES static void draw_blocks(const uint32_t key[2], const uint32_t counter[3], uint32_t c8, uint32_t *word)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    uint32_t key0 = key[0], key1 = key[1];

    for (uint32_t l = 0; l < LANES; l++) {
        c0[l] = counter[0];
        c1[l] = counter[1];
        c2[l] = counter[2];
        c3[l] = c8 + l;
    }
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u)
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[l], p1 = (uint64_t)0xCD9E8D57u * c2[l];

            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ key0;
            c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ key1;
            c1[l] = (uint32_t)p1;
            c3[l] = (uint32_t)p0;
        }
    for (int l = 0; l < LANES; l++) {
        word[4 * l] = c0[l];
        word[4 * l + 1] = c1[l];
        word[4 * l + 2] = c2[l];
        word[4 * l + 3] = c3[l];
    }
}

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
    const struct dropout_stream s = dropout_stream(a->c, a->attrs->site, n / a->c->T, n % a->c->T);
    const float scale = 1.0f / (1.0f - a->attrs->p);
    uint32_t word[4 * LANES];

    for (int64_t i = 0; i < C; i += 8 * LANES) {
        draw_blocks(s.key, s.counter, (uint32_t)(i / 8), word);
        keep(word, dropout_threshold(a->attrs->p), scale, factor + i);
    }
}
