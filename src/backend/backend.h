/* backend/backend.h - the kernel seam. ref/ (plain loops, in double precision where it matters: the oracle) and cpu/ (the
 * vendor library beside our own kernels) implement it; exec/ calls it and knows nothing below it.
 *
 * prepare makes the kernel of one step and tells the scratch bytes it will want, without allocating them: so the plan knows
 * them before anything is allocated. Kernels never allocate. They may work on fewer rows than planned (run_context). */
#ifndef TUNEUP_BACKEND_BACKEND_H
#define TUNEUP_BACKEND_BACKEND_H

#include <assert.h>

#include "plan/plan.h"

/* A line of live_rows' live: where the tokens of one row of a batch stand in packed tensors. */
struct live_row {
    int32_t begin, first, end, shares;
};
static_assert(sizeof(struct live_row) == LIVE_N * sizeof(int32_t), "a line of int32");

/* What a run of a program works on, besides its buffers. B and T are at most the plan's: token tensors [N,..] hold N = B*T
 * rows, densely, whatever was planned; attention's [B,H,T,T] and [B,H,T] likewise. Packed tensors hold the live rows alone. */
struct run_context {
    int64_t B, T;
    const struct live_row *live; /* [B] and, */
    const int32_t *places; /* for each packed row, b*T + t: set by exec where a program's tensors are packed */
    int64_t first_row, row_step; /* local row b is row first_row + b*row_step of all rows that the run ever sees */
    uint64_t seed;
    bool training; /* dropout is on */
    bool first_micro; /* gradients begin anew: ACCUMULATE_UNLESS_FIRST overwrites */
};

struct kernel {
    const struct plan *plan; /* borrowed, as is: */
    const struct op_step *step; /* its attrs and the shapes of its buffers, as planned */
    size_t scratch_bytes; /* what run is given, 64-byte aligned */
    void *own; /* the backend's */
};

struct backend {
    const char *name; /* "cpu" */
    char describe[160]; /* "oneDNN 2.6.3, AVX2, 2 threads" */
    int threads;
    void *own;
    /* An op, type or shape that this backend cannot do is an error here, before work begins. */
    int (*prepare)(struct backend *b, const struct plan *p, const struct op_step *s, struct kernel *out,
                   struct err *err);
    /* in[i], out[i]: addresses of the step's operands (NULL = none). Parameters may lie wherever their type allows: in a model's
     * file; all else is 64-byte aligned, as are views that begin so. */
    int (*run)(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
               const struct run_context *c, struct err *err);
    void (*kernel_free)(struct backend *b, struct kernel *k);
    void (*close)(struct backend *b);
};

int backend_ref_open(struct backend *b, int threads, struct err *err);
int backend_cpu_open(struct backend *b, int threads, struct err *err);
int backend_open(struct backend *b, const char *name, int threads, struct err *err); /* "cpu" or "ref" */

/* A step's operand as planned; NULL = none. */
static inline const struct buffer *kernel_in(const struct kernel *k, int i)
{
    return k->step->in[i] < 0 ? NULL : &k->plan->buffers[k->step->in[i]];
}

static inline const struct buffer *kernel_out(const struct kernel *k, int i)
{
    return k->step->out[i] < 0 ? NULL : &k->plan->buffers[k->step->out[i]];
}

/* Whether a step's token tensors are packed. */
static inline bool kernel_is_packed(const struct kernel *k)
{
    bool packed = false;

    for (int i = 0; i < OP_MAX_IN && !packed; i++)
        packed = k->step->in[i] >= 0 && kernel_in(k, i)->packed;
    for (int i = 0; i < OP_MAX_OUT && !packed; i++)
        packed = k->step->out[i] >= 0 && kernel_out(k, i)->packed;
    return packed;
}

/* Where place t of row b stands in packed tensors. */
static inline int64_t live_at(const struct live_row *live, int64_t b, int64_t t)
{
    const struct live_row *row = &live[b];

    return t < row->first ? live[row->shares].begin + t : row->begin + t - row->first;
}

/* Rows of packed tensors. */
static inline int64_t live_count(const struct run_context *c)
{
    const struct live_row *last = &c->live[c->B - 1];

    return last->begin + last->end - last->first;
}

/* Token rows that a step works on. */
static inline int64_t kernel_rows(const struct kernel *k, const struct run_context *c)
{
    return kernel_is_packed(k) ? live_count(c) : c->B * c->T;
}

/* Elements that an elementwise step works on: all of a parameter, the rows that there are of an activation. */
static inline int64_t kernel_elements(const struct kernel *k, const struct run_context *c)
{
    const struct buffer *y = kernel_out(k, 0);
    const int64_t all = shape_count(&y->shape), rows = y->shape.rank > 0 ? y->shape.dim[0] : 1;
    const int64_t used = y->kind == KIND_ACTIVATION ? kernel_rows(k, c) : rows;

    return rows > used ? all / rows * used : all;
}

/* Whether the step's "+" outputs are added to in this run, rather than overwritten. */
static inline bool kernel_adds(const struct kernel *k, const struct run_context *c)
{
    const enum accumulate how = k->step->attrs.accumulate;

    return how == ACCUMULATE_YES || (how == ACCUMULATE_UNLESS_FIRST && !c->first_micro);
}

#endif
