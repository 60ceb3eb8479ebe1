/* Layer norm (Ba et al. 2016, arXiv:1607.06450), alone and after a residual sum with dropout. Each row is read from memory
 * once and worked on in the first cache. Gradients of g and b are summed by each part over its rows, then over parts. */
#include "backend/cpu/call.h"

#include <math.h>

SIMD_CLONES static float row_sum(const float *x, int64_t n)
{
    simd_f8 s0 = { 0 }, s1 = { 0 }, v0, v1;
    float rest = 0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16) {
        memcpy(&v0, x + i, sizeof v0);
        memcpy(&v1, x + i + 8, sizeof v1);
        s0 += v0;
        s1 += v1;
    }
    for (; i < n; i++)
        rest += x[i];
    s0 += s1;
    return SIMD_SUM8(s0) + rest;
}

SIMD_CLONES static float row_squares(const float *x, float mean, int64_t n)
{
    simd_f8 s0 = { 0 }, s1 = { 0 }, v0, v1;
    float rest = 0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16) {
        memcpy(&v0, x + i, sizeof v0);
        memcpy(&v1, x + i + 8, sizeof v1);
        v0 -= mean;
        v1 -= mean;
        s0 += v0 * v0;
        s1 += v1 * v1;
    }
    for (; i < n; i++)
        rest += (x[i] - mean) * (x[i] - mean);
    s0 += s1;
    return SIMD_SUM8(s0) + rest;
}

SIMD_CLONES static void row_affine(float *restrict y, const float *restrict x, const float stats[2],
                                   const float *restrict g, const float *restrict b, int64_t n)
{
    const float mean = stats[0], inverse = stats[1];

#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * inverse * g[i] + b[i];
}

static void norm_row(float *y, const float *x, float stats[2], const float *g, const float *b, int64_t C)
{
    stats[0] = row_sum(x, C) / (float)C;
    stats[1] = 1.0f / sqrtf(row_squares(x, stats[0], C) / (float)C + 1e-5f);
    row_affine(y, x, stats, g, b, C);
}

static int64_t width(const struct kernel *k)
{
    return kernel_out(k, 0)->shape.dim[1];
}

static void layernorm_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t C = width(a->kernel);
    const float *g = simd_load(a->in[1], a->type, 0, C, cpu_buffer(a, part, 0));
    const float *b = simd_load(a->in[2], a->type, 0, C, cpu_buffer(a, part, 1));

    for (int64_t n = p.begin; n < p.end; n++) {
        const float *x = simd_load(a->in[0], a->type, n * C, C, cpu_buffer(a, part, 2));
        float *y = simd_room(a->out[0], a->type, n * C, cpu_buffer(a, part, 3));

        cpu_prefetch(a->in[0], a->type, (n + 1) * C, n + 1 < p.end ? C : 0);
        norm_row(y, x, (float *)a->out[1] + 2 * n, g, b, C);
        simd_store(a->out[0], a->type, n * C, C, y);
    }
}

SIMD_CLONES static void add_rows(float *restrict s, const float *restrict a, const float *restrict r, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        s[i] = a[i] + r[i];
}

SIMD_CLONES static void add_kept(float *restrict s, const float *restrict a, const float *restrict r,
                                 const float *restrict factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        s[i] = a[i] + r[i] * factor[i];
}

/* s of row n, as it was stored. */
static const float *residual_row(const struct cpu_call *a, int part, int64_t n, int64_t C)
{
    const float *x = simd_load(a->in[0], a->type, n * C, C, cpu_buffer(a, part, 2));
    const float *r = simd_load(a->in[1], a->type, n * C, C, cpu_buffer(a, part, 3));
    float *s = simd_room(a->out[0], a->type, n * C, cpu_buffer(a, part, 4)), *factor = cpu_buffer(a, part, 5);

    if (cpu_drops(a)) {
        cpu_dropout_factors(a, n, C, factor);
        add_kept(s, x, r, factor, C);
    } else {
        add_rows(s, x, r, C);
    }
    simd_store(a->out[0], a->type, n * C, C, s);
    return simd_load(a->out[0], a->type, n * C, C, s);
}

static void add_norm_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t C = width(a->kernel);
    const float *g = simd_load(a->in[2], a->type, 0, C, cpu_buffer(a, part, 0));
    const float *b = simd_load(a->in[3], a->type, 0, C, cpu_buffer(a, part, 1));

    for (int64_t n = p.begin; n < p.end; n++) {
        const float *s = residual_row(a, part, n, C);
        float *y = simd_room(a->out[1], a->type, n * C, cpu_buffer(a, part, 2));

        norm_row(y, s, (float *)a->out[2] + 2 * n, g, b, C);
        simd_store(a->out[1], a->type, n * C, C, y);
    }
}

/* Means over the row of dy g, and of dy g times the normalized x. */
SIMD_CLONES static void row_means(const float *dy, const float *x, const float stats[2], const float *g, int64_t n,
                                  float means[2])
{
    const float mean = stats[0];
    simd_f8 s = { 0 }, t = { 0 }, d, w, v;
    float rest_s = 0, rest_t = 0;
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        memcpy(&d, dy + i, sizeof d);
        memcpy(&w, g + i, sizeof w);
        memcpy(&v, x + i, sizeof v);
        d *= w;
        s += d;
        t += d * (v - mean);
    }
    for (; i < n; i++) {
        rest_s += dy[i] * g[i];
        rest_t += dy[i] * g[i] * (x[i] - mean);
    }
    means[0] = (SIMD_SUM8(s) + rest_s) / (float)n;
    means[1] = (SIMD_SUM8(t) + rest_t) * stats[1] / (float)n;
}

SIMD_CLONES static void row_grad(float *restrict dx, const float *restrict dy, const float *restrict x,
                                 const float stats[2], const float means[2], const float *restrict g,
                                 float *restrict dg, float *restrict db, int64_t n)
{
    const float mean = stats[0], inverse = stats[1], mean_d = means[0], mean_dx = means[1];

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float normalized = (x[i] - mean) * inverse;

        dg[i] += dy[i] * normalized;
        db[i] += dy[i];
        dx[i] = inverse * (dy[i] * g[i] - mean_d - normalized * mean_dx);
    }
}

/* Where the operands of a gradient op are; -1 = it has none of this kind. */
struct norm_grad_operands {
    int ds, x, stats, g, dr, dg;
};

static const struct norm_grad_operands *operands_of(const struct cpu_call *a)
{
    static const struct norm_grad_operands layernorm = { -1, 1, 2, 3, -1, 1 }, add_norm = { 1, 2, 3, 4, 1, 2 };

    return a->kernel->step->op == OP_LAYERNORM_GRAD ? &layernorm : &add_norm;
}

/* The gradient of what went through dropout. */
static void dropped_row(const struct cpu_call *a, int part, int output, int64_t n, int64_t C, const float *dx)
{
    float *dr = simd_room(a->out[output], a->type, n * C, cpu_buffer(a, part, 1)), *factor = cpu_buffer(a, part, 2);

    if (cpu_drops(a)) {
        cpu_dropout_factors(a, n, C, factor);
        simd_multiply(dr, dx, factor, C);
    } else {
        memcpy(dr, dx, (size_t)C * sizeof *dr);
    }
    simd_store(a->out[output], a->type, n * C, C, dr);
}

enum { FORWARD_BUFFERS = 6, GRAD_DG = 5, GRAD_DB = 6, GRAD_BUFFERS = 7 };

static void grad_part(const struct cpu_call *a, int part)
{
    const struct norm_grad_operands *o = operands_of(a);
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t C = width(a->kernel);
    const float *g = simd_load(a->in[o->g], a->type, 0, C, cpu_buffer(a, part, 0));
    float *dg = cpu_buffer(a, part, GRAD_DG), *db = cpu_buffer(a, part, GRAD_DB), means[2];

    memset(dg, 0, (size_t)C * sizeof *dg);
    memset(db, 0, (size_t)C * sizeof *db);
    for (int64_t n = p.begin; n < p.end; n++) {
        const float *dy = simd_load(a->in[0], a->type, n * C, C, cpu_buffer(a, part, 1));
        const float *x = simd_load(a->in[o->x], a->type, n * C, C, cpu_buffer(a, part, 2));
        const float *stats = (const float *)a->in[o->stats] + 2 * n;
        float *dx = simd_room(a->out[0], a->type, n * C, cpu_buffer(a, part, 3));

        row_means(dy, x, stats, g, C, means);
        row_grad(dx, dy, x, stats, means, g, dg, db, C);
        if (o->ds >= 0 && a->in[o->ds])
            simd_add(dx, simd_load(a->in[o->ds], a->type, n * C, C, cpu_buffer(a, part, 4)), C);
        if (o->dr >= 0 && a->out[o->dr])
            dropped_row(a, part, o->dr, n, C, dx);
        simd_store(a->out[0], a->type, n * C, C, dx);
    }
}

/* Channels are parted now: each adds up what the parts have, in their order, into the first one's buffers. */
static void sum_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(width(a->kernel), 64, part, a->parts);

    for (int which = 0; which < 2; which++) {
        float *sum = cpu_buffer(a, 0, GRAD_DG + which) + p.begin;

        if (!a->out[operands_of(a)->dg + which])
            continue;
        for (int other = 1; other < a->parts; other++)
            simd_add(sum, cpu_buffer(a, other, GRAD_DG + which) + p.begin, p.end - p.begin);
        cpu_give(a, operands_of(a)->dg + which, p.begin, p.end - p.begin, sum);
    }
}

static int forward_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    k->scratch_bytes = cpu_buffer_bytes(b, FORWARD_BUFFERS, width(k));
    return 0;
}

static int forward_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                       const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, FORWARD_BUFFERS, width(k));

    (void)err;
    cpu_parts(&a, k->step->op == OP_LAYERNORM ? layernorm_part : add_norm_part);
    return 0;
}

static int grad_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    k->scratch_bytes = cpu_buffer_bytes(b, GRAD_BUFFERS, width(k));
    return 0;
}

static int grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, GRAD_BUFFERS, width(k));

    (void)err;
    cpu_parts(&a, grad_part);
    cpu_parts(&a, sum_part);
    return 0;
}

const struct cpu_op cpu_layernorm = { forward_prepare, forward_run }, cpu_layernorm_grad = { grad_prepare, grad_run },
                    cpu_add_norm = { forward_prepare, forward_run }, cpu_add_norm_grad = { grad_prepare, grad_run };
