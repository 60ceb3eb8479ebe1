/* tensor/dtype.h - element types, and the conversions between them that are exact or round to nearest even. */
#ifndef TUNEUP_TENSOR_DTYPE_H
#define TUNEUP_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* REST16: what a BF16 elsewhere lacks to be the fp32 number that it was rounded from (fp32_rest). */
enum dtype { F32, BF16, F16, I32, F64, REST16, I8, DTYPE_N };

size_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t); /* "fp32", "bf16", "fp16", "int32", "fp64", "rest16", "int8" */
/* Converts n elements; any pair of F32, BF16, F16, F64. src and dst do not overlap. */
void dtype_convert(void *dst, enum dtype to, const void *src, enum dtype from, int64_t n);

static inline float bf16_to_f32(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float f;

    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
    const uint32_t quiet = u | 0x400000u; /* a NaN whose low bits alone are set must not round to infinity */
    return (uint16_t)(((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded) >> 16);
}

/* A fp32 number in two halves: h = bf16_from_f32(f), and the distance of their bits, which has a sign. Together they give
 * f back; half way below h, where the distance would be 2^15, the next number nearer to h. */
static inline int16_t fp32_rest(float f, uint16_t h)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    const int32_t distance = (int32_t)(u - ((uint32_t)h << 16));
    return (int16_t)(distance > 32767 ? 32767 : distance < -32768 ? -32768 : distance);
}

static inline float fp32_whole(uint16_t h, int16_t rest)
{
    const uint32_t u = ((uint32_t)h << 16) + (uint32_t)(int32_t)rest;
    float f;

    memcpy(&f, &u, 4);
    return f;
}

/* Half precision by its bits, so that no instruction set is assumed, and without branches, so that compilers make vectors of
 * it. No step has a result below fp32's normal numbers, which processors are slow with or flush to zero. */
static inline float f16_to_f32(uint16_t h)
{
    const uint32_t exponent = h & 0x7c00u, moved = (h & 0x7fffu) << 13; /* to where fp32 has them */
    uint32_t u = moved + (exponent == 0x7c00u ? 224u << 23 : exponent == 0 ? 113u << 23 : 112u << 23);
    float f;

    memcpy(&f, &u, 4);
    f -= exponent == 0 ? 0x1p-14f : 0.0f; /* a multiple of 2^-24 was put behind a leading one of 2^-14 */
    memcpy(&u, &f, 4);
    u |= (uint32_t)(h & 0x8000u) << 16;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t f16_from_f32(float f)
{
    uint32_t u, low;

    memcpy(&u, &f, 4);
    const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    const uint32_t small = magnitude < 0x38800000u ? magnitude : 0; /* below 2^-14: a multiple of 2^-24 */
    float x;
    memcpy(&x, &small, 4);
    x += 0.5f; /* whose last bit is 2^-24: the sum rounds there */
    memcpy(&low, &x, 4);
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    const uint32_t normal = (rounded - 0x38000000u) >> 13, capped = magnitude >= 0x477ff000u ? 0x7c00u : normal;
    const uint32_t number = magnitude < 0x38800000u ? low - 0x3f000000u : capped; /* 65520 and above: infinity */
    return (uint16_t)(sign | (magnitude > 0x7f800000u ? 0x7e00u : number));
}

/* Of either type of 16 bits, BF16 or F16. */
static inline float half_to_f32(uint16_t h, enum dtype t)
{
    return t == F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static inline uint16_t half_from_f32(float f, enum dtype t)
{
    return t == F16 ? f16_from_f32(f) : bf16_from_f32(f);
}

#endif
