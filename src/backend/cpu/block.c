/* block_isa.h, compiled for each instruction set. Vectors are the compiler's own (vector_size); fused multiply-add and
 * the maximum are the instructions that need their names. */
#include "backend/cpu/block.h"

#include <math.h>

#define AHEAD 8 /* rows to ask for before they are needed */

#define ISA(name) portable_##name
#define TARGET
#define LANES 4
#define TILE_ROWS 6
#define FMA(a, b, c) ((a) * (b) + (c))
#define LARGER(a, b) ((VEC)(((IVEC)(a) & ((a) > (b))) | ((IVEC)(b) & ~((a) > (b)))))
#define LARGEST(v) fmaxf(fmaxf((v)[0], (v)[1]), fmaxf((v)[2], (v)[3]))
#define ADD_UP(v) (((v)[0] + (v)[2]) + ((v)[1] + (v)[3]))
#include "backend/cpu/block_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static inline float largest8(__m256 v)
{
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

__attribute__((target("avx2"))) static inline float add_up8(__m256 v)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#define ISA(name) avx2_##name
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TILE_ROWS 6
#define FMA(a, b, c) ((VEC)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGER(a, b) ((VEC)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define LARGEST(v) largest8((__m256)(v))
#define ADD_UP(v) add_up8((__m256)(v))
#include "backend/cpu/block_isa.h"

#define ISA(name) avx512_##name
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define LANES 16
#define TILE_ROWS 12
#define FMA(a, b, c) ((VEC)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LARGER(a, b) ((VEC)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define LARGEST(v) _mm512_reduce_max_ps((__m512)(v))
#define ADD_UP(v) _mm512_reduce_add_ps((__m512)(v))
#include "backend/cpu/block_isa.h"
#endif

const struct block *block_of(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= CPU_AVX512)
        return &avx512_block;
    if (isa >= CPU_AVX2)
        return &avx2_block;
#endif
    (void)isa;
    return &portable_block;
}
