/* Whole rows; single values are converted by tensor/dtype.h. */
#include "backend/cpu/simd.h"

SIMD_CLONES void simd_from_bf16(float *restrict y, const uint16_t *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = bf16_to_f32(x[i]);
}

SIMD_CLONES void simd_to_bf16(uint16_t *restrict y, const float *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = bf16_from_f32(x[i]);
}

SIMD_CLONES void simd_from_f16(float *restrict y, const uint16_t *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = f16_to_f32(x[i]);
}

SIMD_CLONES void simd_to_f16(uint16_t *restrict y, const float *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = f16_from_f32(x[i]);
}

SIMD_CLONES void simd_add(float *restrict y, const float *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

SIMD_CLONES void simd_multiply(float *restrict y, const float *restrict x, const float *restrict factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * factor[i];
}
