/* The norm of the gradient, clipping by it, and AdamW in one pass over gradient, parameter, moments and master copy: the
 * formulas are in graph/optimizer.h. And the average of weights. The ranges begin anywhere in the flat tensors. */
#include "backend/cpu/call.h"

#include <math.h>

#include "backend/dynamic8.h"
#include "graph/optimizer.h"

SIMD_CLONES static double tile_squares(const float *x, int64_t n)
{
    simd_d4 s0 = { 0 }, s1 = { 0 }, d0, d1;
    simd_f4 v0, v1;
    double rest = 0;
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        memcpy(&v0, x + i, sizeof v0);
        memcpy(&v1, x + i + 4, sizeof v1);
        d0 = __builtin_convertvector(v0, simd_d4);
        d1 = __builtin_convertvector(v1, simd_d4);
        s0 += d0 * d0;
        s1 += d1 * d1;
    }
    for (; i < n; i++)
        rest += (double)x[i] * (double)x[i];
    s0 += s1;
    return ((s0[0] + s0[1]) + (s0[2] + s0[3])) + rest;
}

/* Elements whose squares are one number in scratch, so that the sum does not depend on the number of threads. */
#define SUMSQ_BLOCK (64 * SIMD_TILE)

static int64_t blocks_of(const struct op_attrs *a)
{
    return (a->count + SUMSQ_BLOCK - 1) / SUMSQ_BLOCK;
}

static double block_squares(const struct cpu_call *a, int64_t block)
{
    const int64_t begin = block * SUMSQ_BLOCK, end = begin + SUMSQ_BLOCK;
    const enum dtype type = kernel_in(a->kernel, 0)->dtype;
    const int64_t stop = end < a->attrs->count ? end : a->attrs->count;
    float buffer[SIMD_TILE];
    double sum = 0;

    for (int64_t i = begin; i < stop; i += SIMD_TILE) {
        const int64_t n = stop - i < SIMD_TILE ? stop - i : SIMD_TILE;

        sum += tile_squares(simd_load(a->in[0], type, a->attrs->begin + i, n, buffer), n);
    }
    return sum;
}

static void sumsq_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(blocks_of(a->attrs), 1, part, a->parts);

    for (int64_t i = p.begin; i < p.end; i++)
        ((double *)a->scratch)[i] = block_squares(a, i);
}

static int sumsq_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)b;
    (void)err;
    k->scratch_bytes = (size_t)blocks_of(&k->step->attrs) * sizeof(double);
    return 0;
}

static int sumsq_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);
    double sum = 0;

    (void)err;
    cpu_parts(&a, sumsq_part);
    for (int64_t i = 0; i < blocks_of(a.attrs); i++)
        sum += ((const double *)scratch)[i];
    *(double *)out[0] = a.adds ? *(const double *)out[0] + sum : sum;
    return 0;
}

SIMD_CLONES static void scale_tile(float *x, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

static float clip_factor(const double *sum, const double *hyper)
{
    return sum ? (float)optimizer_clip_factor(*sum, hyper) : 1.0f;
}

static void scale_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->attrs->count, 64, part, a->parts);
    const float factor = clip_factor(a->in[0], a->in[1]);
    float buffer[SIMD_TILE];

    for (int64_t i = p.begin; i < p.end; i += SIMD_TILE) {
        const int64_t n = p.end - i < SIMD_TILE ? p.end - i : SIMD_TILE, at = a->attrs->begin + i;

        if (a->type == F32) {
            scale_tile((float *)a->out[0] + at, factor, n);
            continue;
        }
        simd_widen(buffer, a->out[0], a->type, at, n);
        scale_tile(buffer, factor, n);
        simd_store(a->out[0], a->type, at, n, buffer);
    }
}

static int scale_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    if (clip_factor(in[0], in[1]) != 1.0f)
        cpu_parts(&a, scale_part);
    return 0;
}

struct adamw {
    float clip, beta1, rest1, beta2, rest2, inverse1, inverse2, epsilon, lr, decay;
};

static struct adamw adamw_of(const struct cpu_call *a)
{
    const double *h = a->in[1];
    const int group = a->attrs->group;

    return (struct adamw){ .clip = clip_factor(a->in[2], h),
                           .beta1 = (float)h[HYPER_BETA1],
                           .rest1 = (float)(1 - h[HYPER_BETA1]),
                           .beta2 = (float)h[HYPER_BETA2],
                           .rest2 = (float)(1 - h[HYPER_BETA2]),
                           .inverse1 = (float)(1 / h[HYPER_CORRECTION1]),
                           .inverse2 = (float)(1 / h[HYPER_CORRECTION2]),
                           .epsilon = (float)h[HYPER_EPSILON],
                           .lr = (float)h[HYPER_LR + group],
                           .decay = (float)h[HYPER_DECAY + group] };
}

SIMD_CLONES static void adamw_tile(const struct adamw *a, const float *restrict g, float *restrict p, float *restrict m,
                                   float *restrict v, int64_t n)
{
    const struct adamw h = *a;

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float grad = g[i] * h.clip;

        m[i] = h.beta1 * m[i] + h.rest1 * grad;
        v[i] = h.beta2 * v[i] + h.rest2 * grad * grad;
        p[i] -= h.lr * (m[i] * h.inverse1 / (sqrtf(v[i] * h.inverse2) + h.epsilon) + h.decay * p[i]);
    }
}

SIMD_CLONES static void whole_tile(float *restrict p, const uint16_t *restrict h, const int16_t *restrict rest,
                                   int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        p[i] = fp32_whole(h[i], rest[i]);
}

SIMD_CLONES static void halves_tile(uint16_t *restrict h, int16_t *restrict rest, const float *restrict p, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        h[i] = bf16_from_f32(p[i]);
        rest[i] = fp32_rest(p[i], h[i]);
    }
}

/* Weights of which one half is the bf16 parameter. */
static void adamw_halves(const struct cpu_call *a, int part)
{
    const struct simd_part range = simd_part(a->attrs->count, 64, part, a->parts);
    const enum dtype g_type = kernel_in(a->kernel, 0)->dtype;
    const struct adamw h = adamw_of(a);
    float g_buffer[SIMD_TILE], p[SIMD_TILE], *m = a->out[1], *v = a->out[2];

    for (int64_t i = range.begin; i < range.end; i += SIMD_TILE) {
        const int64_t n = range.end - i < SIMD_TILE ? range.end - i : SIMD_TILE, at = a->attrs->begin + i;
        uint16_t *param = (uint16_t *)a->out[0] + at;
        int16_t *rest = (int16_t *)a->out[3] + i;

        whole_tile(p, param, rest, n);
        adamw_tile(&h, simd_load(a->in[0], g_type, at, n, g_buffer), p, m + i, v + i, n);
        halves_tile(param, rest, p, n);
    }
}

static void adamw_part(const struct cpu_call *a, int part)
{
    const struct simd_part range = simd_part(a->attrs->count, 64, part, a->parts);
    const enum dtype g_type = kernel_in(a->kernel, 0)->dtype;
    const struct adamw h = adamw_of(a);
    float g_buffer[SIMD_TILE], p_buffer[SIMD_TILE], *m = a->out[1], *v = a->out[2], *master = a->out[3];

    for (int64_t i = range.begin; i < range.end; i += SIMD_TILE) {
        const int64_t n = range.end - i < SIMD_TILE ? range.end - i : SIMD_TILE, at = a->attrs->begin + i;
        const float *g = simd_load(a->in[0], g_type, at, n, g_buffer);
        float *p = master ? master + i : simd_room(a->out[0], a->type, at, p_buffer);

        if (!master && a->type != F32)
            simd_widen(p, a->out[0], a->type, at, n);
        adamw_tile(&h, g, p, m + i, v + i, n);
        if (master && a->type == F32)
            memcpy((float *)a->out[0] + at, p, (size_t)n * sizeof *p);
        simd_store(a->out[0], a->type, at, n, p);
    }
}

static int adamw_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, out[3] && kernel_out(k, 3)->dtype == REST16 ? adamw_halves : adamw_part);
    return 0;
}

/* The largest magnitude's bits: above those of infinity for what is no number. */
SIMD_CLONES static uint32_t largest_bits(const float *x, int64_t n)
{
    uint32_t largest = 0;

#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &x[i], 4);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static float block_scale(const float *x, int64_t n)
{
    const uint32_t bits = largest_bits(x, n);
    float largest;

    memcpy(&largest, &bits, 4);
    return dynamic8_scale(largest);
}

/* Codes of a block, as integers of the width of floats between: the same number of lanes in each loop. */
SIMD_CLONES static void decode_m(float *restrict m, const int8_t *restrict q, float scale, int64_t n)
{
    int32_t wide[STATE_BLOCK];

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        wide[i] = (int32_t)q[i];
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        m[i] = dynamic8_signed(wide[i], scale);
}

SIMD_CLONES static void decode_v(float *restrict v, const uint8_t *restrict q, float scale, int64_t n)
{
    int32_t wide[STATE_BLOCK];

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        wide[i] = q[i];
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        v[i] = dynamic8_unsigned(wide[i], scale);
}

SIMD_CLONES static void encode_m(int8_t *restrict q, const float *restrict m, float inverse, int64_t n)
{
    int32_t wide[STATE_BLOCK];

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        wide[i] = dynamic8_to_signed(m[i], inverse);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        q[i] = (int8_t)wide[i];
}

SIMD_CLONES static void encode_v(uint8_t *restrict q, const float *restrict v, float inverse, int64_t n)
{
    int32_t wide[STATE_BLOCK];

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        wide[i] = dynamic8_to_unsigned(v[i], inverse);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        q[i] = (uint8_t)wide[i];
}

/* Blocks of the share from element i on, n elements. */
static void decode_moments(const struct cpu_call *a, int64_t i, int64_t n, float *m, float *v)
{
    for (int64_t k = 0; k < n; k += STATE_BLOCK) {
        const int64_t count = n - k < STATE_BLOCK ? n - k : STATE_BLOCK, block = (i + k) / STATE_BLOCK;

        decode_m(m + k, (const int8_t *)a->out[1] + i + k, ((const float *)a->out[4])[block], count);
        decode_v(v + k, (const uint8_t *)a->out[2] + i + k, ((const float *)a->out[5])[block], count);
    }
}

static void encode_moments(const struct cpu_call *a, int64_t i, int64_t n, const float *m, const float *v)
{
    for (int64_t k = 0; k < n; k += STATE_BLOCK) {
        const int64_t count = n - k < STATE_BLOCK ? n - k : STATE_BLOCK, block = (i + k) / STATE_BLOCK;
        const float m_scale = block_scale(m + k, count), v_scale = block_scale(v + k, count);
        int8_t *mq = (int8_t *)a->out[1] + i + k;
        uint8_t *vq = (uint8_t *)a->out[2] + i + k;

        ((float *)a->out[4])[block] = m_scale;
        ((float *)a->out[5])[block] = v_scale;
        if (m_scale > 0)
            encode_m(mq, m + k, 1 / m_scale, count);
        else
            memset(mq, 0, (size_t)count);
        if (v_scale > 0)
            encode_v(vq, v + k, 1 / v_scale, count);
        else
            memset(vq, 0, (size_t)count);
    }
}

/* n weights from element i of the share on as fp32: in place, or in buffer. */
static float *weights_load(const struct cpu_call *a, int64_t i, int64_t n, float *buffer)
{
    const int64_t at = a->attrs->begin + i;
    void *master = a->out[3];

    if (master && kernel_out(a->kernel, 3)->dtype == REST16) {
        whole_tile(buffer, (const uint16_t *)a->out[0] + at, (const int16_t *)master + i, n);
        return buffer;
    }
    if (master)
        return (float *)master + i;
    if (a->type != F32)
        simd_widen(buffer, a->out[0], a->type, at, n);
    return simd_room(a->out[0], a->type, at, buffer);
}

static void weights_store(const struct cpu_call *a, int64_t i, int64_t n, const float *p)
{
    const int64_t at = a->attrs->begin + i;
    void *master = a->out[3];

    if (master && kernel_out(a->kernel, 3)->dtype == REST16)
        halves_tile((uint16_t *)a->out[0] + at, (int16_t *)master + i, p, n);
    else if (master && a->type == F32)
        memcpy((float *)a->out[0] + at, p, (size_t)n * sizeof *p);
    else
        simd_store(a->out[0], a->type, at, n, p);
}

/* Parts and tiles are whole blocks, but for the last. */
static void adamw8_part(const struct cpu_call *a, int part)
{
    const struct simd_part range = simd_part(a->attrs->count, STATE_BLOCK, part, a->parts);
    const enum dtype g_type = kernel_in(a->kernel, 0)->dtype;
    const struct adamw h = adamw_of(a);
    float g_buffer[SIMD_TILE], p_buffer[SIMD_TILE], m[SIMD_TILE], v[SIMD_TILE];

    for (int64_t i = range.begin; i < range.end; i += SIMD_TILE) {
        const int64_t n = range.end - i < SIMD_TILE ? range.end - i : SIMD_TILE;
        const float *g = simd_load(a->in[0], g_type, a->attrs->begin + i, n, g_buffer);
        float *p = weights_load(a, i, n, p_buffer);

        decode_moments(a, i, n, m, v);
        adamw_tile(&h, g, p, m, v, n);
        weights_store(a, i, n, p);
        encode_moments(a, i, n, m, v);
    }
}

static int adamw8_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                      const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, adamw8_part);
    return 0;
}

SIMD_CLONES static void ema_tile(float *restrict average, const float *restrict param, float decay, float rest,
                                 int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        average[i] = decay * average[i] + rest * param[i];
}

static void ema_part(const struct cpu_call *a, int part)
{
    const struct simd_part range = simd_part(a->attrs->count, 64, part, a->parts);
    const enum dtype param_type = kernel_in(a->kernel, 0)->dtype;
    const float decay = a->attrs->p, rest = (float)(1 - (double)decay);
    float param_buffer[SIMD_TILE], buffer[SIMD_TILE];

    for (int64_t i = range.begin; i < range.end; i += SIMD_TILE) {
        const int64_t n = range.end - i < SIMD_TILE ? range.end - i : SIMD_TILE, at = a->attrs->begin + i;
        float *average = simd_room(a->out[0], a->type, at, buffer);

        if (average == buffer)
            simd_widen(average, a->out[0], a->type, at, n);
        ema_tile(average, simd_load(a->in[0], param_type, at, n, param_buffer), decay, rest, n);
        simd_store(a->out[0], a->type, at, n, average);
    }
}

static int ema_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                   const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, ema_part);
    return 0;
}

static void accumulate_part(const struct cpu_call *a, int part)
{
    const struct simd_part range = simd_part(a->attrs->count, 64, part, a->parts);
    const enum dtype x_type = kernel_in(a->kernel, 0)->dtype;
    float x[SIMD_TILE];

    if (!a->adds && x_type == a->type) {
        const size_t size = dtype_bytes(x_type), begin = (size_t)(a->attrs->begin + range.begin) * size;
        memcpy((char *)a->out[0] + begin, (const char *)a->in[0] + begin, (size_t)(range.end - range.begin) * size);
        return;
    }
    for (int64_t i = range.begin; i < range.end; i += SIMD_TILE) {
        const int64_t n = range.end - i < SIMD_TILE ? range.end - i : SIMD_TILE, at = a->attrs->begin + i;

        if (x_type == F32)
            memcpy(x, (const float *)a->in[0] + at, (size_t)n * sizeof *x);
        else
            simd_widen(x, a->in[0], x_type, at, n);
        cpu_give(a, 0, at, n, x);
    }
}

static int accumulate_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                          const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    (void)err;
    cpu_parts(&a, accumulate_part);
    return 0;
}

const struct cpu_op cpu_sumsq = { sumsq_prepare, sumsq_run }, cpu_grad_scale = { cpu_no_scratch, scale_run },
                    cpu_adamw = { cpu_no_scratch, adamw_run }, cpu_adamw8 = { cpu_no_scratch, adamw8_run },
                    cpu_ema = { cpu_no_scratch, ema_run }, cpu_accumulate = { cpu_no_scratch, accumulate_run };
