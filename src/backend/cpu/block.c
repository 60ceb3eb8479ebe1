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
#include "backend/cpu/block_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ISA(name) avx2_##name
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define TILE_ROWS 6
#define FMA(a, b, c) ((VEC)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LARGER(a, b) ((VEC)_mm256_max_ps((__m256)(a), (__m256)(b)))
#include "backend/cpu/block_isa.h"

#define ISA(name) avx512_##name
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define LANES 16
#define TILE_ROWS 12
#define FMA(a, b, c) ((VEC)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LARGER(a, b) ((VEC)_mm512_max_ps((__m512)(a), (__m512)(b)))
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
