/* tensor/shape.h - the extents of a tensor, outermost first, row-major. A scalar has rank 0 and one element. */
#ifndef TUNEUP_TENSOR_SHAPE_H
#define TUNEUP_TENSOR_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHAPE_MAX 6

struct shape {
    int rank;
    int64_t dim[SHAPE_MAX];
};

#define SHAPE_TEXT_MAX 128

struct shape shape_of(int rank, ...); /* int64_t extents */
bool shape_equal(const struct shape *a, const struct shape *b);
/* Number of elements; -1 when an extent is negative or the product does not fit. */
int64_t shape_count(const struct shape *s);
/* "[4,512]" into out[SHAPE_TEXT_MAX]; returns out. */
const char *shape_print(const struct shape *s, char *out);

#endif
