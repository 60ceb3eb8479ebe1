/* linear, linear_dx, linear_dw: y = x wT + bias + z and its gradients, each one matrix product; bias_grad, where the weights
 * do not learn.
 *
 * A run may have fewer rows than planned; its products have exactly its rows, so that its numbers are the same bits
 * whatever was planned. matmul.c makes such a product when it first sees it and keeps it: 0.2 ms each (AVX2). Few rows, as in
 * decoding, have kernels of their own. */
#include <string.h>

#include "backend/cpu/call.h"
#include "backend/cpu/narrow.h"
#include "backend/cpu/simd.h"

static int64_t rows_of(const struct buffer *b)
{
    return b->shape.dim[0];
}

static int64_t columns_of(const struct buffer *b)
{
    return b->shape.dim[1];
}

static struct matmul_shape shape_linear(const struct kernel *k, int64_t rows)
{
    const struct buffer *x = kernel_in(k, 0), *y = kernel_out(k, 0);

    return (struct matmul_shape){ .M = rows,
                                  .N = columns_of(y),
                                  .K = columns_of(x),
                                  .b_transposed = true,
                                  .ab = x->dtype,
                                  .c = y->dtype,
                                  .bias = kernel_in(k, 2) != NULL,
                                  .relu = k->step->attrs.relu,
                                  .add = kernel_in(k, 3) != NULL };
}

static struct matmul_shape shape_dx(const struct kernel *k, int64_t rows, bool add)
{
    const struct buffer *dy = kernel_in(k, 0), *dx = kernel_out(k, 0);

    return (struct matmul_shape){
        .M = rows, .N = columns_of(dx), .K = columns_of(dy), .ab = dy->dtype, .c = dx->dtype, .add = add
    };
}

static struct matmul_shape shape_dw(const struct kernel *k, int64_t rows, bool add)
{
    const struct buffer *dy = kernel_in(k, 0), *x = kernel_in(k, 1), *dw = kernel_out(k, 0);

    return (struct matmul_shape){ .M = columns_of(dy),
                                  .N = columns_of(x),
                                  .K = rows,
                                  .a_transposed = true,
                                  .ab = dy->dtype,
                                  .c = dw->dtype,
                                  .add = add };
}

/* On AMX's tiles 16 rows take little longer than four. */
#define NARROW_BESIDE_TILES 4

static bool is_narrow(const struct cpu *cpu, const struct matmul_shape *s)
{
    const bool tiles = s->ab == BF16 && matmul_ways(cpu->matmul).tiles;

    return s->M <= cpu->narrow_rows && !(tiles && s->M > NARROW_BESIDE_TILES);
}

static int linear_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct matmul_shape s = shape_linear(k, rows_of(kernel_in(k, 0)));

    k->scratch_bytes = narrow_scratch(&s);
    return is_narrow(cpu_of(b), &s) ? 0 : matmul_prepare(cpu_of(b)->matmul, &s, &k->scratch_bytes, err);
}

static int linear_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                      const struct run_context *c, struct err *err)
{
    const struct matmul_shape s = shape_linear(k, kernel_rows(k, c));

    if (s.add && in[3] != out[0]) /* products add in place */
        memcpy(out[0], in[3], (size_t)(s.M * s.N) * dtype_bytes(s.c));
    if (is_narrow(cpu_of(b), &s)) {
        narrow_run(cpu_of(b)->isa, b->threads, &s, in[0], in[1], in[2], out[0], scratch);
        return 0;
    }
    return matmul_run(cpu_of(b)->matmul, &s, in[0], in[1], in[2], out[0], scratch, k->scratch_bytes, err);
}

static int dx_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const bool adds = k->step->attrs.accumulate != ACCUMULATE_NO;
    const struct matmul_shape s = shape_dx(k, rows_of(kernel_in(k, 0)), adds);

    return matmul_prepare(cpu_of(b)->matmul, &s, &k->scratch_bytes, err);
}

static int dx_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                  const struct run_context *c, struct err *err)
{
    const struct matmul_shape s = shape_dx(k, kernel_rows(k, c), kernel_adds(k, c));

    return matmul_run(cpu_of(b)->matmul, &s, in[0], in[1], NULL, out[0], scratch, k->scratch_bytes, err);
}

#define STRIP 128 /* columns that one thread sums at a time */
#define GROUP 32 /* rows summed before they are added to the total: shorter sums round less */

SIMD_CLONES static void sum_wide(float *restrict sum, const float *restrict dy, int64_t ld, int64_t rows,
                                 int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sum[j] += dy[i * ld + j];
}

SIMD_CLONES static void sum_bf16(float *restrict sum, const uint16_t *restrict dy, int64_t ld, int64_t rows,
                                 int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sum[j] += bf16_to_f32(dy[i * ld + j]);
}

SIMD_CLONES static void sum_f16(float *restrict sum, const uint16_t *restrict dy, int64_t ld, int64_t rows,
                                int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd
        for (int64_t j = 0; j < columns; j++)
            sum[j] += f16_to_f32(dy[i * ld + j]);
}

static void store_sum(void *db, enum dtype type, const float *sum, int64_t columns, bool add)
{
    float *wide = db;
    uint16_t *narrow = db;

    for (int64_t j = 0; j < columns; j++) {
        if (type == F32)
            wide[j] = sum[j] + (add ? wide[j] : 0);
        else
            narrow[j] = half_from_f32(sum[j] + (add ? half_to_f32(narrow[j], type) : 0), type);
    }
}

/* db = the sum of dy's rows. */
static void sum_rows(void *db, enum dtype db_type, const void *dy, enum dtype type, int64_t rows, int64_t columns,
                     bool add)
{
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < columns; j += STRIP) {
        const int64_t n = columns - j < STRIP ? columns - j : STRIP;
        float total[STRIP] = { 0 };

        for (int64_t i = 0; i < rows; i += GROUP) {
            const int64_t group = rows - i < GROUP ? rows - i : GROUP, at = i * columns + j;
            float part[STRIP] = { 0 };

            if (type == F32)
                sum_wide(part, (const float *)dy + at, columns, group, n);
            else
                (type == F16 ? sum_f16 : sum_bf16)(part, (const uint16_t *)dy + at, columns, group, n);
            for (int64_t l = 0; l < n; l++)
                total[l] += part[l];
        }
        store_sum((char *)db + (size_t)j * dtype_bytes(db_type), db_type, total, n, add);
    }
}

static int dw_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const bool adds = k->step->attrs.accumulate != ACCUMULATE_NO;
    const struct matmul_shape s = shape_dw(k, rows_of(kernel_in(k, 0)), adds);

    return matmul_prepare(cpu_of(b)->matmul, &s, &k->scratch_bytes, err);
}

static int dw_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                  const struct run_context *c, struct err *err)
{
    const bool adds = kernel_adds(k, c);
    const struct matmul_shape s = shape_dw(k, kernel_rows(k, c), adds);

    if (out[1])
        sum_rows(out[1], kernel_out(k, 1)->dtype, in[0], s.ab, s.K, s.M, adds);
    return matmul_run(cpu_of(b)->matmul, &s, in[0], in[1], NULL, out[0], scratch, k->scratch_bytes, err);
}

static int bias_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct buffer *dy = kernel_in(k, 0), *db = kernel_out(k, 0);

    (void)b;
    (void)scratch;
    (void)err;
    sum_rows(out[0], db->dtype, in[0], dy->dtype, kernel_rows(k, c), columns_of(dy), kernel_adds(k, c));
    return 0;
}

const struct cpu_op cpu_linear = { linear_prepare, linear_run };
const struct cpu_op cpu_linear_dx = { dx_prepare, dx_run };
const struct cpu_op cpu_linear_dw = { dw_prepare, dw_run };
const struct cpu_op cpu_bias_grad = { cpu_no_scratch, bias_run };
