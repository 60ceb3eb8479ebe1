/* Cross-entropy of stored logits, and the critic's loss. A row's maximum and sum are found together, tile by tile, so that it is read once; the
 * losses of rows are added in row order, whoever made them. */
#include "backend/cpu/call.h"

#include <math.h>

#include "backend/operands.h"
#include "backend/row_loss.h"

/* The largest of n numbers; NaN if one of them is. */
SIMD_CLONES static float tile_max(const float *restrict x, int64_t n)
{
    float max = -INFINITY;
    int nan = 0;

#pragma omp simd reduction(max : max) reduction(| : nan)
    for (int64_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        nan |= x[i] != x[i];
    }
    return nan ? NAN : max;
}

SIMD_CLONES static float tile_exp_sum(const float *restrict x, float max, int64_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += simd_exp(x[i] - max);
    return sum;
}

SIMD_CLONES static void tile_softmax(float *restrict y, const float *restrict x, float lse, float scale, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = simd_exp(x[i] - lse) * scale;
}

static int64_t vocabulary(const struct kernel *k)
{
    return kernel_in(k, 0)->shape.dim[1];
}

static int64_t tile_of(int64_t V, int64_t at)
{
    return V - at < SIMD_TILE ? V - at : SIMD_TILE;
}

static double log_sum(const void *logits, enum dtype type, int64_t begin, int64_t V)
{
    float buffer[SIMD_TILE], max = -INFINITY;
    double sum = 0;

    for (int64_t v = 0; v < V; v += SIMD_TILE) {
        const int64_t n = tile_of(V, v);
        const float *x = simd_load(logits, type, begin + v, n, buffer);
        const float top = tile_max(x, n);

        if (top > max || top != top) {
            sum *= exp((double)max - (double)top);
            max = top;
        }
        if (max > -INFINITY || max != max)
            sum += (double)tile_exp_sum(x, max, n);
    }
    return (double)max + log(sum);
}

static double element(const void *x, enum dtype type, int64_t i)
{
    return (double)(type == F32 ? ((const float *)x)[i] : half_to_f32(((const uint16_t *)x)[i], type));
}

/* The loss of row n by its target's log-probability; in[old] and the input after it may be missing. */
static struct row_loss token_loss(const struct cpu_call *a, int old, int64_t n, double logp)
{
    const float *was = a->in[old], *advantage = a->in[old + 1];

    if (!was)
        return (struct row_loss){ -logp, -1 };
    return row_loss_policy(logp, (double)was[n], (double)advantage[n], a->attrs->clip);
}

/* Scratch is a double a row. */
static void loss_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t V = vocabulary(a->kernel);
    const enum dtype type = kernel_in(a->kernel, 0)->dtype;
    const int32_t *target = a->in[1];
    float *lse = a->out[1], *logps = a->out[2];
    double *loss = (double *)a->scratch;

    for (int64_t n = p.begin; n < p.end; n++) {
        const double sum = target[n] >= 0 ? log_sum(a->in[0], type, n * V, V) : 0;

        const double logp = target[n] >= 0 ? element(a->in[0], type, n * V + target[n]) - sum : 0;

        loss[n] = target[n] >= 0 ? token_loss(a, 3, n, logp).loss : 0;
        lse[n] = (float)sum;
        if (logps)
            logps[n] = (float)logp;
    }
}

static int loss_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)b;
    (void)err;
    k->scratch_bytes = (size_t)kernel_in(k, 0)->shape.dim[0] * sizeof(double);
    return 0;
}

static int loss_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);
    const double *loss = scratch;
    double sum = 0;

    if (operands_check_ids(in[1], a.rows, INT32_MIN, vocabulary(k), "target", err) != 0)
        return -1;
    cpu_parts(&a, loss_part);
    for (int64_t n = 0; n < a.rows; n++)
        sum += loss[n];
    *(float *)out[0] = (float)(sum * (double)((const float *)in[2])[0]);
    return 0;
}

/* What softmax - onehot of row n is multiplied by. */
static float grad_scale(const struct cpu_call *a, int64_t n, int64_t V, int32_t target)
{
    const float *lse = a->in[1], *norm = a->in[3];

    if (target < 0)
        return 0;
    const double logp = element(a->in[0], a->type, n * V + target) - (double)lse[n];
    return norm[1] * (float)-token_loss(a, 4, n, logp).slope;
}

static void grad_row(const struct cpu_call *a, int64_t n, int64_t V)
{
    const int32_t target = ((const int32_t *)a->in[2])[n];
    const float lse = ((const float *)a->in[1])[n], scale = grad_scale(a, n, V, target);
    float buffer[SIMD_TILE], result[SIMD_TILE];

    for (int64_t v = 0; v < V; v += SIMD_TILE) {
        const int64_t m = tile_of(V, v);
        float *y = simd_room(a->out[0], a->type, n * V + v, result);

        if (target < 0)
            memset(y, 0, (size_t)m * sizeof *y);
        else
            tile_softmax(y, simd_load(a->in[0], a->type, n * V + v, m, buffer), lse, scale, m);
        if (target >= v && target < v + m)
            y[target - v] -= scale;
        simd_store(a->out[0], a->type, n * V + v, m, y);
    }
}

static void grad_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);

    for (int64_t n = p.begin; n < p.end; n++)
        grad_row(a, n, vocabulary(a->kernel));
}

static int grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    if (operands_check_ids(in[2], a.rows, INT32_MIN, vocabulary(k), "target", err) != 0)
        return -1;
    cpu_parts(&a, grad_part);
    return 0;
}

static struct row_loss critic_loss(const struct cpu_call *a, int64_t n)
{
    const float *v = a->in[0], *old = a->in[1], *wanted = a->in[2];

    if (((const int32_t *)a->in[3])[n] < 0)
        return (struct row_loss){ 0, 0 };
    return row_loss_value((double)v[n], (double)old[n], (double)wanted[n], a->attrs->clip);
}

/* A number a row, on one thread: threads would cost more than they do. */
static int value_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);
    double sum = 0;

    (void)err;
    for (int64_t n = 0; n < a.rows; n++)
        sum += critic_loss(&a, n).loss;
    *(float *)out[0] = (float)(sum * (double)((const float *)in[4])[0]);
    return 0;
}

static int value_grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                          const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);
    const double scale = (double)((const float *)in[4])[1];

    (void)err;
    for (int64_t n = 0; n < a.rows; n++)
        ((float *)out[0])[n] = (float)(critic_loss(&a, n).slope * scale);
    return 0;
}

const struct cpu_op cpu_cross_entropy = { loss_prepare, loss_run },
                    cpu_cross_entropy_grad = { cpu_no_scratch, grad_run },
                    cpu_value_loss = { cpu_no_scratch, value_run },
                    cpu_value_loss_grad = { cpu_no_scratch, value_grad_run };
