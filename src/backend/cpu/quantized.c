/* quantize, linear_q8: weights in int8 with a scale for each group of a row. Products are those of few rows (narrow.h),
 * however many there are: decoding is what these weights are for. */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/narrow.h"
#include "backend/cpu/simd.h"

#define ROWS 8 /* of weights that a thread takes at a time */

/* The largest magnitude's bits: above those of infinity for what is no number. */
SIMD_CLONES static uint32_t largest_bits(const float *w, int64_t n)
{
    uint32_t largest = 0;

#pragma omp simd reduction(max : largest)
    for (int64_t k = 0; k < n; k++) {
        uint32_t bits;

        memcpy(&bits, &w[k], 4);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* Adding 1.5 * 2^23 rounds to the nearest integer, and leaves it in the low bits. */
SIMD_CLONES static void round_group(int8_t *restrict q, const float *restrict w, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t k = 0; k < n; k++) {
        const float shifted = w[k] * factor + 12582912.0f;
        uint32_t bits;

        memcpy(&bits, &shifted, 4);
        q[k] = (int8_t)(uint8_t)bits;
    }
}

/* Returns the group's scale. */
static float quantize_group(int8_t *q, const float *w, int64_t n)
{
    const uint32_t bits = largest_bits(w, n);
    float largest;

    memcpy(&largest, &bits, 4);
    if (!(largest >= 1e-36f && largest < INFINITY)) {
        memset(q, 0, (size_t)n);
        return largest < 1e-36f ? 0.0f : NAN;
    }
    round_group(q, w, 127.0f / largest, n);
    return largest / 127.0f;
}

static int quantize_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)b;
    (void)k;
    (void)err;
    return 0;
}

static int quantize_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                        const struct run_context *c, struct err *err)
{
    const struct buffer *w = kernel_in(k, 0);
    const int64_t M = w->shape.dim[0], K = w->shape.dim[1], G = kernel_out(k, 1)->shape.dim[1];

    (void)scratch;
    (void)c;
    (void)err;
#pragma omp parallel for schedule(dynamic, ROWS) num_threads(b->threads)
    for (int64_t m = 0; m < M; m++)
        for (int64_t g = 0; g < G; g++) {
            const int64_t at = g * INT8_GROUP, n = K - at < INT8_GROUP ? K - at : INT8_GROUP;
            float buffer[INT8_GROUP];
            const float *from = simd_load(in[0], w->dtype, m * K + at, n, buffer);

            ((float *)out[1])[m * G + g] = quantize_group((int8_t *)out[0] + m * K + at, from, n);
        }
    return 0;
}

static struct matmul_shape shape_q8(const struct kernel *k, int64_t rows)
{
    const struct buffer *x = kernel_in(k, 0), *y = kernel_out(k, 0);

    return (struct matmul_shape){ .M = rows,
                                  .N = y->shape.dim[1],
                                  .K = x->shape.dim[1],
                                  .b_transposed = true,
                                  .ab = x->dtype,
                                  .c = y->dtype,
                                  .bias = kernel_in(k, 3) != NULL,
                                  .relu = k->step->attrs.relu };
}

static int q8_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct matmul_shape s = shape_q8(k, kernel_in(k, 0)->shape.dim[0]);

    (void)b;
    (void)err;
    k->scratch_bytes = narrow_scratch(&s);
    return 0;
}

static int q8_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                  const struct run_context *c, struct err *err)
{
    const int64_t rows = kernel_rows(k, c);

    (void)err;
    for (int64_t n = 0; n < rows; n += NARROW_ROWS) {
        const struct matmul_shape s = shape_q8(k, rows - n < NARROW_ROWS ? rows - n : NARROW_ROWS);
        const struct narrow_q8 w = { in[1], in[2] };

        narrow_run_q8(cpu_of(b)->isa, b->threads, &s, (const char *)in[0] + (size_t)(n * s.K) * dtype_bytes(s.ab), &w,
                      in[3], (char *)out[0] + (size_t)(n * s.N) * dtype_bytes(s.c), scratch);
    }
    return 0;
}

const struct cpu_op cpu_quantize = { quantize_prepare, quantize_run };
const struct cpu_op cpu_linear_q8 = { q8_prepare, q8_run };
