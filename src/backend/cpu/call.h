/* backend/cpu/call.h - one call of a kernel of our own, split into parts: as many as there are threads, each the same
 * share whichever thread does it. Scratch is a row of fp32 buffers for each part. */
#ifndef TUNEUP_BACKEND_CPU_CALL_H
#define TUNEUP_BACKEND_CPU_CALL_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

struct cpu_call {
    const struct kernel *kernel;
    const struct op_attrs *attrs;
    void *const *in;
    void *const *out;
    char *scratch;
    const struct run_context *c;
    int parts;
    enum dtype type; /* the working type: that of output 0 */
    int64_t rows; /* kernel_rows */
    const int32_t *places; /* of packed rows; NULL: rows are their own */
    bool adds; /* kernel_adds */
    int n_buffers;
    int64_t room; /* floats of a buffer: the row width, in whole groups of dropout's draws */
};

/* Floats that hold a row of `width`. */
static inline int64_t cpu_room(int64_t width)
{
    return (width + 127) / 128 * 128;
}

static inline size_t cpu_buffer_bytes(const struct backend *b, int n_buffers, int64_t width)
{
    return (size_t)b->threads * (size_t)n_buffers * (size_t)cpu_room(width) * sizeof(float);
}

/* Each part has n_buffers of `width` floats in scratch. */
static inline struct cpu_call cpu_call(struct backend *b, const struct kernel *k, void *const *in, void *const *out,
                                       void *scratch, const struct run_context *c, int n_buffers, int64_t width)
{
    return (struct cpu_call){ .kernel = k,
                              .attrs = &k->step->attrs,
                              .in = in,
                              .out = out,
                              .scratch = scratch,
                              .c = c,
                              .parts = b->threads,
                              .type = kernel_out(k, 0)->dtype,
                              .rows = kernel_rows(k, c),
                              .places = kernel_is_packed(k) ? c->places : NULL,
                              .adds = kernel_adds(k, c),
                              .n_buffers = n_buffers,
                              .room = cpu_room(width) };
}

static inline float *cpu_buffer(const struct cpu_call *a, int part, int buffer)
{
    return (float *)a->scratch + ((int64_t)part * a->n_buffers + buffer) * a->room;
}

/* Asks for a row of an operand ahead of its use: a row is about a page, where the processor's own foresight ends. */
static inline void cpu_prefetch(const void *x, enum dtype type, int64_t begin, int64_t n)
{
    const char *row = (const char *)x + (size_t)begin * dtype_bytes(type);

    for (size_t i = 0; i < (size_t)n * dtype_bytes(type); i += 64)
        __builtin_prefetch(row + i);
}

static inline void cpu_parts(const struct cpu_call *a, void (*work)(const struct cpu_call *a, int part))
{
#pragma omp parallel for schedule(static) num_threads(a->parts)
    for (int part = 0; part < a->parts; part++)
        work(a, part);
}

/* The prepare of kernels that have nothing to prepare. */
int cpu_no_scratch(struct backend *b, struct kernel *k, struct err *err);

/* Writes n sums into a "+" output from `begin` on; sum is overwritten. */
void cpu_give(const struct cpu_call *a, int output, int64_t begin, int64_t n, float *sum);

/* What dropout multiplies each of the C channels of token row n by: 0 or 1/(1-p). factor has cpu_room(C) floats. */
void cpu_dropout_factors(const struct cpu_call *a, int64_t n, int64_t C, float *factor);
static inline bool cpu_drops(const struct cpu_call *a)
{
    return a->c->training && a->attrs->p > 0;
}

#endif
