/* Shapes come from files too, so counting elements is checked for overflow. */
#include "tensor/shape.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/err.h"

struct shape shape_of(int rank, ...)
{
    struct shape s = { .rank = rank };
    va_list args;

    MUST(rank >= 0 && rank <= SHAPE_MAX);
    va_start(args, rank);
    for (int i = 0; i < rank; i++)
        s.dim[i] = va_arg(args, int64_t);
    va_end(args);
    return s;
}

bool shape_equal(const struct shape *a, const struct shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

int64_t shape_count(const struct shape *s)
{
    int64_t n = 1;

    for (int i = 0; i < s->rank; i++)
        if (s->dim[i] < 0 || __builtin_mul_overflow(n, s->dim[i], &n))
            return -1;
    return n;
}

const char *shape_print(const struct shape *s, char *out)
{
    size_t n = 0;

    n += (size_t)snprintf(out + n, SHAPE_TEXT_MAX - n, "[");
    for (int i = 0; i < s->rank; i++)
        n += (size_t)snprintf(out + n, SHAPE_TEXT_MAX - n, "%s%" PRId64, i ? "," : "", s->dim[i]);
    snprintf(out + n, SHAPE_TEXT_MAX - n, "]");
    return out;
}
