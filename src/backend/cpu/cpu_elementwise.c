/* Sums of two, ReLU, dropout and conversion: memory is read and written once, in tiles that fit the first cache. */
#include "backend/cpu/call.h"

SIMD_CLONES static void add_tile(float *restrict y, const float *restrict a, const float *restrict b, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

SIMD_CLONES static void relu_tile(float *restrict y, const float *restrict x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i]; /* a NaN stays one */
}

SIMD_CLONES static void relu_grad_tile(float *restrict dx, const float *restrict dy, const float *restrict y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] > 0 ? dy[i] : 0;
}

SIMD_CLONES static void scale_tile(float *restrict y, const float *restrict x, float scale, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = scale * x[i];
}

/* Of one operand or two of one shape. */
static void map_part(const struct cpu_call *a, int part)
{
    const enum op op = a->kernel->step->op;
    const struct simd_part p = simd_part(kernel_elements(a->kernel, a->c), 64, part, a->parts);
    float first[SIMD_TILE], second[SIMD_TILE], result[SIMD_TILE];

    for (int64_t i = p.begin; i < p.end; i += SIMD_TILE) {
        const int64_t n = p.end - i < SIMD_TILE ? p.end - i : SIMD_TILE;
        const float *x = simd_load(a->in[0], a->type, i, n, first);
        const float *z = op == OP_RELU || op == OP_SCALE ? NULL : simd_load(a->in[1], a->type, i, n, second);
        float *y = simd_room(a->out[0], a->type, i, result);

        if (op == OP_ADD)
            add_tile(y, x, z, n);
        else if (op == OP_RELU)
            relu_tile(y, x, n);
        else if (op == OP_SCALE)
            scale_tile(y, x, (float)a->attrs->scale, n);
        else
            relu_grad_tile(y, x, z, n);
        simd_store(a->out[0], a->type, i, n, y);
    }
}

/* From fp32 or bf16 to either. */
static void convert_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(kernel_elements(a->kernel, a->c), 64, part, a->parts);
    const enum dtype from = kernel_in(a->kernel, 0)->dtype;
    float tile[SIMD_TILE];

    for (int64_t i = p.begin; i < p.end; i += SIMD_TILE) {
        const int64_t n = p.end - i < SIMD_TILE ? p.end - i : SIMD_TILE;
        float *y = simd_room(a->out[0], a->type, i, tile);
        const float *x = simd_load(a->in[0], from, i, n, y);

        if (a->type == F32 && x != y)
            memcpy(y, x, (size_t)n * sizeof *y);
        simd_store(a->out[0], a->type, i, n, x);
    }
}

static void dropout_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t C = kernel_out(a->kernel, 0)->shape.dim[1];
    float *factor = cpu_buffer(a, part, 0);

    for (int64_t n = p.begin; n < p.end; n++) {
        const float *x = simd_load(a->in[0], a->type, n * C, C, cpu_buffer(a, part, 1));
        float *y = simd_room(a->out[0], a->type, n * C, cpu_buffer(a, part, 2));

        cpu_dropout_factors(a, n, C, factor);
        simd_multiply(y, x, factor, C);
        simd_store(a->out[0], a->type, n * C, C, y);
    }
}

static int map_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                   const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, map_part);
    return 0;
}

static int convert_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                       const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, convert_part);
    return 0;
}

static int dropout_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    k->scratch_bytes = cpu_buffer_bytes(b, 3, kernel_out(k, 0)->shape.dim[1]);
    return 0;
}

static int dropout_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                       const struct run_context *c, struct err *err)
{
    const struct buffer *y = kernel_out(k, 0);
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 3, y->shape.dim[1]);

    (void)err;
    if (cpu_drops(&a))
        cpu_parts(&a, dropout_part);
    else if (out[0] != in[0])
        memcpy(out[0], in[0], (size_t)(a.rows * y->shape.dim[1]) * dtype_bytes(y->dtype));
    return 0;
}

const struct cpu_op cpu_add = { cpu_no_scratch, map_run }, cpu_relu = { cpu_no_scratch, map_run },
                    cpu_relu_grad = { cpu_no_scratch, map_run }, cpu_scale = { cpu_no_scratch, map_run },
                    cpu_dropout = { dropout_prepare, dropout_run }, cpu_convert = { cpu_no_scratch, convert_run };
