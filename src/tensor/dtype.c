/* Between any two types by way of fp64, which has the numbers of them all. */
#include "tensor/dtype.h"

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
