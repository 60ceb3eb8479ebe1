/* backend/cpu/simd.h - what the processor's own kernels share: loops in plain C that the compiler turns into vectors for
 * each instruction set, rows of any working type seen as fp32, an exponential, and how work is split over threads.
 *
 * A hot loop is a SIMD_CLONES function of pointers and counts, marked "omp simd": gcc makes a version for AVX-512, AVX2
 * and the oldest processor, and the loader picks one. It holds no "omp parallel", whose body would not be cloned. */
#ifndef TUNEUP_BACKEND_CPU_SIMD_H
#define TUNEUP_BACKEND_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#include "tensor/dtype.h"

/* clang 14 has no clones of this kind, and a sanitizer's run time is not ready when the loader asks which to take. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SIMD_CLONES
#endif

/* e^x: relative error below 1.2e-7 (2 ulp); 0 below -86.6, infinite above 88.72, NaN of NaN. The argument is split as
 * n ln2 + r with |r| <= ln2/2; adding 1.5 * 2^23 rounds to the integer n and leaves it in the low bits. e^r is its Taylor
 * polynomial of degree 7, in which the last term is below half an ulp. */
static inline float simd_exp(float x)
{
    const float magic = 12582912.0f, clamped = x < -86.6f ? -86.6f : x > 88.72f ? 88.72f : x;
    const float shifted = clamped * 1.44269504f + magic, n = shifted - magic;
    const float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.98412698e-4f, scale;
    uint32_t bits;

    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4b400000u + 126u) << 23; /* 2^(n-1): n = 128 would not fit */
    memcpy(&scale, &bits, 4);
    return x < -86.6f ? 0.0f : x > 88.72f ? __builtin_inff() : p * scale * 2.0f;
}

/* Sums side by side, of gcc's and clang's own vector types: for reductions, whose order then is the same whatever the
 * instruction set, and which read memory in order with more than one addition under way. */
typedef float simd_f8 __attribute__((vector_size(32)));
typedef float simd_f4 __attribute__((vector_size(16)));
typedef double simd_d4 __attribute__((vector_size(32)));

#define SIMD_SUM8(v) ((((v)[0] + (v)[4]) + ((v)[2] + (v)[6])) + (((v)[1] + (v)[5]) + ((v)[3] + (v)[7])))

void simd_from_bf16(float *restrict y, const uint16_t *restrict x, int64_t n);
void simd_to_bf16(uint16_t *restrict y, const float *restrict x, int64_t n);
void simd_from_f16(float *restrict y, const uint16_t *restrict x, int64_t n);
void simd_to_f16(uint16_t *restrict y, const float *restrict x, int64_t n);
void simd_add(float *restrict y, const float *restrict x, int64_t n); /* y += x */
void simd_multiply(float *restrict y, const float *restrict x, const float *restrict factor, int64_t n);

/* n elements from `begin` on of a tensor of 16-bit numbers, as fp32. */
static inline void simd_widen(float *y, const void *x, enum dtype type, int64_t begin, int64_t n)
{
    if (type == F16)
        simd_from_f16(y, (const uint16_t *)x + begin, n);
    else
        simd_from_bf16(y, (const uint16_t *)x + begin, n);
}

/* n elements from `begin` on of a tensor of any working type, as fp32: in place, or in buffer[n]. */
static inline const float *simd_load(const void *x, enum dtype type, int64_t begin, int64_t n, float *buffer)
{
    if (type == F32)
        return (const float *)x + begin;
    simd_widen(buffer, x, type, begin, n);
    return buffer;
}

/* Where to write n elements as fp32; simd_store then rounds them into place, if they are not there already. */
static inline float *simd_room(void *y, enum dtype type, int64_t begin, float *buffer)
{
    return type == F32 ? (float *)y + begin : buffer;
}

static inline void simd_store(void *y, enum dtype type, int64_t begin, int64_t n, const float *buffer)
{
    if (type == BF16)
        simd_to_bf16((uint16_t *)y + begin, buffer, n);
    else if (type == F16)
        simd_to_f16((uint16_t *)y + begin, buffer, n);
}

/* Elements that are worked on at a time where a row may be long: three or four such buffers stay in the first cache. */
#define SIMD_TILE 1024

/* The share of part `part` of `parts` in n things, in multiples of grain: fixed by its arguments alone, so that sums over
 * a part are the same in every run. */
struct simd_part {
    int64_t begin, end;
};

static inline struct simd_part simd_part(int64_t n, int64_t grain, int part, int parts)
{
    const int64_t grains = (n + grain - 1) / grain;
    const int64_t begin = grains * part / parts * grain, end = grains * (part + 1) / parts * grain;

    return (struct simd_part){ begin < n ? begin : n, end < n ? end : n };
}

#endif
