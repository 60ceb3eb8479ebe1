/* One number a token, and the loss of pairs. The head reads each hidden state once, and that is all its time; its gradient
 * leaves out the states whose number has no gradient: prompts and padding, half of a batch and more. */
#include "backend/cpu/call.h"

#include <math.h>

#include "backend/cpu/block.h"
#include "backend/operands.h"

enum { BUFFER_W, BUFFER_H, HEAD_BUFFERS, BUFFER_DH = HEAD_BUFFERS, BUFFER_DW, GRAD_BUFFERS };

static int64_t width(const struct kernel *k)
{
    return kernel_in(k, 1)->shape.dim[1];
}

static void head_part(const struct cpu_call *a, int part, const struct block *block)
{
    const enum dtype type = kernel_in(a->kernel, 0)->dtype;
    const struct simd_part p = simd_part(a->rows, 16, part, a->parts);
    const int64_t E = width(a->kernel);
    const float *w = simd_load(a->in[1], type, 0, E, cpu_buffer(a, part, BUFFER_W));

    for (int64_t n = p.begin; n < p.end; n++) {
        const float *h = simd_load(a->in[0], type, n * E, E, cpu_buffer(a, part, BUFFER_H));

        cpu_prefetch(a->in[0], type, (n + 1) * E, n + 1 < p.end ? E : 0);
        block->dot_rows((float *)a->out[0] + n, h, E, w, E, 1, E);
    }
}

static int head_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    k->scratch_bytes = cpu_buffer_bytes(b, HEAD_BUFFERS, width(k));
    return 0;
}

static int head_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, HEAD_BUFFERS, width(k));
    const struct block *block = block_of(cpu_of(b)->isa);

    (void)err;
#pragma omp parallel for schedule(static) num_threads(a.parts)
    for (int part = 0; part < a.parts; part++)
        head_part(&a, part, block);
    return 0;
}

SIMD_CLONES static void state_grad(float *restrict dh, float *restrict dw, const float *restrict h,
                                   const float *restrict w, float dr, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        dh[i] = dr * w[i];
        dw[i] += dr * h[i];
    }
}

static void head_grad_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const int64_t E = width(a->kernel);
    const float *dr = a->in[0], *w = simd_load(a->in[2], a->type, 0, E, cpu_buffer(a, part, BUFFER_W));
    float *dw = cpu_buffer(a, part, BUFFER_DW);

    memset(dw, 0, (size_t)E * sizeof *dw);
    for (int64_t n = p.begin; n < p.end; n++) {
        float *dh = simd_room(a->out[0], a->type, n * E, cpu_buffer(a, part, BUFFER_DH));

        if (dr[n] == 0)
            memset(dh, 0, (size_t)E * sizeof *dh);
        else
            state_grad(dh, dw, simd_load(a->in[1], a->type, n * E, E, cpu_buffer(a, part, BUFFER_H)), w, dr[n], E);
        simd_store(a->out[0], a->type, n * E, E, dh);
    }
}

static int head_grad_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    k->scratch_bytes = cpu_buffer_bytes(b, GRAD_BUFFERS, width(k));
    return 0;
}

static int head_grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                         const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, GRAD_BUFFERS, width(k));

    (void)err;
    cpu_parts(&a, head_grad_part);
    for (int part = 1; part < a.parts; part++)
        simd_add(cpu_buffer(&a, 0, BUFFER_DW), cpu_buffer(&a, part, BUFFER_DW), width(k));
    if (out[1])
        cpu_give(&a, 1, 0, width(k), cpu_buffer(&a, 0, BUFFER_DW));
    return 0;
}

/* Pair p of a call: its scores, and what is compared. */
struct pair_view {
    const float *chosen, *rejected;
    int64_t chosen_begin, rejected_begin, chosen_last, rejected_last, n;
};

static struct pair_view pair_view(const struct cpu_call *a, int64_t p)
{
    const int32_t *pair = (const int32_t *)a->in[1] + PAIR_N * p;
    const float *r = a->in[0];

    return (struct pair_view){ .chosen = r + p * a->c->T,
                               .rejected = r + (a->c->B / 2 + p) * a->c->T,
                               .chosen_begin = pair[PAIR_CHOSEN_BEGIN],
                               .rejected_begin = pair[PAIR_REJECTED_BEGIN],
                               .chosen_last = pair[PAIR_CHOSEN_LAST],
                               .rejected_last = pair[PAIR_REJECTED_LAST],
                               .n = pair[PAIR_TERMS] };
}

static int64_t at_most(int64_t x, int64_t last)
{
    return x < last ? x : last;
}

/* In double precision: a pair has as many terms as an answer has ids, which is nothing beside its hidden states. */
static double pair_sum(const struct pair_view *v)
{
    double sum = 0;

    for (int64_t k = 0; k < v->n; k++) {
        const double x = (double)v->chosen[at_most(v->chosen_begin + k, v->chosen_last)] -
                         (double)v->rejected[at_most(v->rejected_begin + k, v->rejected_last)];

        sum += log1p(exp(-fabs(x))) + (x < 0 ? -x : 0);
    }
    return sum;
}

static void pair_loss_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->c->B / 2, 1, part, a->parts);
    double *loss = (double *)a->scratch;

    for (int64_t i = p.begin; i < p.end; i++) {
        const struct pair_view v = pair_view(a, i);

        loss[i] = v.n > 0 ? pair_sum(&v) / (double)v.n : log(2);
    }
}

static int pair_loss_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)b;
    (void)err;
    k->scratch_bytes = (size_t)kernel_in(k, 1)->shape.dim[0] * sizeof(double);
    return 0;
}

static int pair_loss_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                         const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);
    double sum = 0;

    if (operands_check_pairs(in[1], c->B, c->T, err) != 0)
        return -1;
    cpu_parts(&a, pair_loss_part);
    for (int64_t p = 0; p < c->B / 2; p++)
        sum += ((const double *)scratch)[p];
    *(float *)out[0] = (float)(sum * (double)((const float *)in[2])[0]);
    return 0;
}

/* Where a row has ended, all terms are about its last score: those are added up apart, in double precision. */
static void pair_grad(const struct pair_view *v, double scale, float *chosen, float *rejected)
{
    double chosen_end = 0, rejected_end = 0;

    for (int64_t k = 0; k < v->n; k++) {
        const int64_t c = at_most(v->chosen_begin + k, v->chosen_last);
        const int64_t r = at_most(v->rejected_begin + k, v->rejected_last);
        const double slope = scale / (1 + exp((double)v->chosen[c] - (double)v->rejected[r]));

        chosen_end += c == v->chosen_last ? slope : 0;
        rejected_end += r == v->rejected_last ? slope : 0;
        chosen[c] = (float)-slope;
        rejected[r] = (float)slope;
    }
    if (chosen_end != 0)
        chosen[v->chosen_last] = (float)-chosen_end;
    if (rejected_end != 0)
        rejected[v->rejected_last] = (float)rejected_end;
}

static void pair_grad_part(const struct cpu_call *a, int part)
{
    const int64_t T = a->c->T, Q = a->c->B / 2;
    const struct simd_part p = simd_part(Q, 1, part, a->parts);

    for (int64_t i = p.begin; i < p.end; i++) {
        const struct pair_view v = pair_view(a, i);
        float *chosen = (float *)a->out[0] + i * T, *rejected = chosen + Q * T;

        memset(chosen, 0, (size_t)T * sizeof *chosen);
        memset(rejected, 0, (size_t)T * sizeof *rejected);
        if (v.n > 0)
            pair_grad(&v, (double)((const float *)a->in[2])[1] / (double)v.n, chosen, rejected);
    }
}

static int pair_grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                         const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    if (operands_check_pairs(in[1], c->B, c->T, err) != 0)
        return -1;
    cpu_parts(&a, pair_grad_part);
    return 0;
}

const struct cpu_op cpu_value_head = { head_prepare, head_run },
                    cpu_value_head_grad = { head_grad_prepare, head_grad_run },
                    cpu_pair_loss = { pair_loss_prepare, pair_loss_run },
                    cpu_pair_loss_grad = { cpu_no_scratch, pair_grad_run };
