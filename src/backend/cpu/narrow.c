/* Threads take pieces of the weights' rows as they come free: a core that is kept from working delays no more than a piece.
 * narrow_isa.h holds the inner loops, compiled for each instruction set. */
#include "backend/cpu/narrow.h"

#include <string.h>

#include <omp.h>

#include "backend/cpu/simd.h"
#include "graph/op.h"

#define PIECE_BYTES ((int64_t)128 << 10) /* of weights that a thread takes at a time */

#define BLOCK_ROWS 16 /* of weights, whose sums are kept while a part of x is used on all of them */
#define X_BYTES (16 << 10) /* of that part: with its weights, it stays in the first cache */
#define AHEAD_Q8 4096 /* bytes of int8 weights to ask for before they are needed */
#define LINE 64 /* bytes of a cache's line */

#define KEYS 8 /* of a cache that are worked on at a time, head by head; the next ones are asked for meanwhile */
#define MIX_PAIRS 2 /* pairs of vectors whose sums are kept meanwhile: 64 channels of the widest */

/* Must become part of the loops: as functions of their own they would be compiled without AVX, and each such instruction
 * waits while the upper halves of the vector registers are in use. */
#define PART_OF_LOOPS __attribute__((always_inline)) static inline

PART_OF_LOOPS int64_t bytes_of(enum dtype type)
{
    return type == F32 ? 4 : 2;
}

PART_OF_LOOPS float element(const void *w, enum dtype type, int64_t at)
{
    return type == F32 ? ((const float *)w)[at] : half_to_f32(((const uint16_t *)w)[at], type);
}

PART_OF_LOOPS const void *weights_at(const struct narrow_job *j, int64_t n, int64_t k)
{
    return (const char *)j->w + (n * j->ldw + k) * bytes_of(j->type);
}

PART_OF_LOOPS void finish(const struct narrow_job *j, int64_t m, int64_t n, float sum)
{
    if (j->bias)
        sum += element(j->bias, j->type, n);
    if (j->add)
        sum += element(j->y, j->y_type, m * j->N + n);
    if (j->relu && sum < 0)
        sum = 0;
    if (j->y_type == F32)
        ((float *)j->y)[m * j->N + n] = sum;
    else
        ((uint16_t *)j->y)[m * j->N + n] = half_from_f32(sum, j->y_type);
}

/* Rows that are asked for before they are needed, a line of the cache at a time, into the second cache, in the order of
 * memory: then the processor's own prefetching goes on from there. Rows asked for side by side, as the loops use them, halve
 * what some processors (AMD's of 2022) read. */
struct ahead {
    const char *at, *row_end;
    int64_t row, skip; /* bytes: of a row that are wanted, and from there to the next one's */
};

PART_OF_LOOPS struct ahead ahead_of(const void *first, int64_t row_bytes, int64_t stride)
{
    return (struct ahead){ first, (const char *)first + row_bytes, row_bytes, stride - row_bytes };
}

PART_OF_LOOPS void ahead_ask(struct ahead *a, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch(a->at + i, 0, 2);
    a->at += bytes;
}

/* On to the next row where one is asked for whole. */
PART_OF_LOOPS void ahead_turn(struct ahead *a)
{
    if (a->at < a->row_end)
        return;
    a->at += a->skip;
    a->row_end += a->skip + a->row;
}

#define ISA(name) portable_##name
#define TARGET
#define LANES 4
#define SUMS 8
#define FMA(a, b, c) ((a) * (b) + (c))
#define WIDEN(p) ((VEC){ (float)(p)[0], (float)(p)[1], (float)(p)[2], (float)(p)[3] })
#define HALVES(p) ((VEC){ f16_to_f32((p)[0]), f16_to_f32((p)[1]), f16_to_f32((p)[2]), f16_to_f32((p)[3]) })
#define ADD_UP(v) (((v)[0] + (v)[2]) + ((v)[1] + (v)[3]))
#include "backend/cpu/narrow_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static inline float add_up(__m256 v)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Every processor with AVX2 has F16C. */
#define ISA(name) avx2_##name
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define SUMS 8
#define FMA(a, b, c) ((VEC)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define WIDEN(p) ((VEC)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))))
#define HALVES(p) ((VEC)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define ADD_UP(v) add_up((__m256)(v))
#include "backend/cpu/narrow_isa.h"

#define ISA(name) avx512_##name
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define LANES 16
#define SUMS 16
#define FMA(a, b, c) ((VEC)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define WIDEN(p) ((VEC)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))))
#define HALVES(p) ((VEC)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p))))
#define ADD_UP(v) _mm512_reduce_add_ps((__m512)(v))
#include "backend/cpu/narrow_isa.h"
#endif

const struct narrow *narrow_of(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_AVX512)
        return &avx512_narrow;
    if (isa >= CPU_AVX2)
        return &avx2_narrow;
#endif
    (void)isa;
    return &portable_narrow;
}

/* Rows of x a power of two apart would all lie in the same few lines of the first cache. */
static int64_t row_floats(int64_t K)
{
    return (K + 63) / 64 * 64 + 16;
}

size_t narrow_scratch(const struct matmul_shape *s)
{
    return (size_t)(NARROW_ROWS * row_floats(s->K)) * sizeof(float);
}

static void set_rows(const struct narrow *n, struct narrow_job *j, const void *x, float *scratch)
{
    j->x = scratch;
    j->ldx = row_floats(j->K);
    for (int64_t m = 0; m < j->M; m++) {
        if (j->type == F32)
            memcpy(scratch + m * j->ldx, (const float *)x + m * j->K, (size_t)j->K * sizeof(float));
        else if (j->scales)
            simd_widen(scratch + m * j->ldx, x, j->type, m * j->K, j->K);
        else
            n->spread(scratch + m * j->ldx, (const uint16_t *)x + m * j->K, j->type, j->K);
    }
}

static struct narrow_job job_of(const struct matmul_shape *s, const void *w, const void *bias, void *y)
{
    return (struct narrow_job){ .w = w,
                                .ldw = s->K,
                                .bias = s->bias ? bias : NULL,
                                .y = y,
                                .M = s->M,
                                .N = s->N,
                                .K = s->K,
                                .type = s->ab,
                                .y_type = s->c,
                                .relu = s->relu,
                                .add = s->add };
}

static void run(const struct narrow *n, int threads, const struct narrow_job *j)
{
    const int64_t bytes = j->K * (j->scales ? 1 : (int64_t)dtype_bytes(j->type));
    const int64_t rows = PIECE_BYTES / bytes, fair = j->N / (4 * threads);
    const int64_t piece = (rows < fair ? rows : fair) / 8 * 8 + 8;

#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < j->N; i += piece)
        n->columns(j, i, i + piece < j->N ? i + piece : j->N);
}

void narrow_run(enum cpu_isa isa, int threads, const struct matmul_shape *s, const void *x, const void *w,
                const void *bias, void *y, void *scratch)
{
    struct narrow_job j = job_of(s, w, bias, y);

    set_rows(narrow_of(isa), &j, x, scratch);
    run(narrow_of(isa), threads, &j);
}

void narrow_run_q8(enum cpu_isa isa, int threads, const struct matmul_shape *s, const void *x,
                   const struct narrow_q8 *w, const void *bias, void *y, void *scratch)
{
    struct narrow_job j = job_of(s, w->w, bias, y);

    j.scales = w->scales;
    set_rows(narrow_of(isa), &j, x, scratch);
    run(narrow_of(isa), threads, &j);
}
