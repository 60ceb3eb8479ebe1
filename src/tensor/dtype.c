/* Half precision is converted through its bit fields, so that no instruction set is assumed. */
#include "tensor/dtype.h"

#include <math.h>

#include "base/err.h"

static const struct {
    const char *name;
    size_t bytes;
} types[DTYPE_N] = {
    [F32] = { "fp32", 4 }, [BF16] = { "bf16", 2 },     [F16] = { "fp16", 2 }, [I32] = { "int32", 4 },
    [F64] = { "fp64", 8 }, [REST16] = { "rest16", 2 }, [I8] = { "int8", 1 },
};

size_t dtype_bytes(enum dtype t)
{
    return types[t].bytes;
}

const char *dtype_name(enum dtype t)
{
    return types[t].name;
}

float f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
    uint32_t u;
    float f;

    if (exponent == 0) {
        f = ldexpf((float)fraction, -24);
        return sign ? -f : f;
    }
    u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | fraction << 13;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f16_from_f32(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    const uint32_t sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(ldexpf(fabsf(f), 24)));
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

static double load(const void *p, enum dtype t, int64_t i)
{
    switch (t) {
    case F32:
        return (double)((const float *)p)[i];
    case BF16:
        return (double)bf16_to_f32(((const uint16_t *)p)[i]);
    case F16:
        return (double)f16_to_f32(((const uint16_t *)p)[i]);
    case F64:
        return ((const double *)p)[i];
    default:
        MUST(!"a type that can be converted");
    }
    return 0;
}

static void save(void *p, enum dtype t, int64_t i, double v)
{
    switch (t) {
    case F32:
        ((float *)p)[i] = (float)v;
        break;
    case BF16:
        ((uint16_t *)p)[i] = bf16_from_f32((float)v);
        break;
    case F16:
        ((uint16_t *)p)[i] = f16_from_f32((float)v);
        break;
    case F64:
        ((double *)p)[i] = v;
        break;
    default:
        MUST(!"a type that can be converted");
    }
}

void dtype_convert(void *dst, enum dtype to, const void *src, enum dtype from, int64_t n)
{
    if (to == from) {
        memcpy(dst, src, (size_t)n * dtype_bytes(to));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        save(dst, to, i, load(src, from, i));
}
