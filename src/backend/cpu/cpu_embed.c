/* Rows of a table, and their gradients. A token may occur many times: its occurrences are chained in order, and whoever
 * takes the first one adds up all of them in fp32 and rounds once. So a sum has one order, whatever the threads do. */
#include "backend/cpu/call.h"

#include "backend/operands.h"

static void embed_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(a->rows, 1, part, a->parts);
    const size_t bytes = (size_t)kernel_out(a->kernel, 0)->shape.dim[1] * dtype_bytes(a->type);
    const int32_t *ids = a->in[0];

    for (int64_t n = p.begin; n < p.end; n++)
        memcpy((char *)a->out[0] + (size_t)n * bytes, (const char *)a->in[1] + (size_t)ids[n] * bytes, bytes);
}

static int embed_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 0, 0);

    if (operands_check_ids(in[0], a.rows, 0, kernel_in(k, 1)->shape.dim[0], "token", err) != 0)
        return -1;
    cpu_parts(&a, embed_part);
    return 0;
}

/* After the parts' buffers: the first row of each token, and the next row with the same token as each row; -1 = none. */
struct chains {
    int32_t *first, *next;
};

static struct chains chains_of(const struct cpu_call *a)
{
    int32_t *first = (int32_t *)(a->scratch + (size_t)(a->parts * a->n_buffers * a->room) * sizeof(float));

    return (struct chains){ first, first + kernel_out(a->kernel, 0)->shape.dim[0] };
}

static void chain(const struct cpu_call *a)
{
    const struct chains c = chains_of(a);
    const int32_t *ids = a->in[0];

    memset(c.first, -1, (size_t)kernel_out(a->kernel, 0)->shape.dim[0] * sizeof *c.first);
    for (int64_t n = a->rows - 1; n >= 0; n--) {
        c.next[n] = c.first[ids[n]];
        c.first[ids[n]] = (int32_t)n;
    }
}

static void sum_token(const struct cpu_call *a, int part, int32_t id, int32_t n)
{
    const struct chains c = chains_of(a);
    const int64_t C = kernel_out(a->kernel, 0)->shape.dim[1];
    float *sum = cpu_buffer(a, part, 0);

    memset(sum, 0, (size_t)C * sizeof *sum);
    for (; n >= 0; n = c.next[n])
        simd_add(sum, simd_load(a->in[1], a->type, n * C, C, cpu_buffer(a, part, 1)), C);
    cpu_give(a, 0, id * C, C, sum);
}

/* Tokens are dealt to the parts in turn, since first occurrences crowd at the start. */
static void embed_grad_part(const struct cpu_call *a, int part)
{
    const struct chains c = chains_of(a);
    const int32_t *ids = a->in[0];
    int64_t seen = 0;

    for (int64_t n = 0; n < a->rows; n++)
        if (c.first[ids[n]] == n && ids[n] != a->attrs->skip_row && seen++ % a->parts == part)
            sum_token(a, part, ids[n], (int32_t)n);
}

static void clear_part(const struct cpu_call *a, int part)
{
    const struct simd_part p = simd_part(shape_count(&kernel_out(a->kernel, 0)->shape), 64, part, a->parts);
    const size_t each = dtype_bytes(a->type);

    memset((char *)a->out[0] + (size_t)p.begin * each, 0, (size_t)(p.end - p.begin) * each);
}

static int embed_grad_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct shape *table = &kernel_out(k, 0)->shape;
    const int64_t N = kernel_in(k, 0)->shape.dim[0];

    if (N > INT32_MAX)
        return err_set(err, ERR_INFEASIBLE, "the cpu backend counts tokens of a batch up to %d", INT32_MAX);
    k->scratch_bytes = cpu_buffer_bytes(b, 2, table->dim[1]) + (size_t)(table->dim[0] + N) * sizeof(int32_t);
    return 0;
}

static int embed_grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                          const struct run_context *c, struct err *err)
{
    const struct shape *table = &kernel_out(k, 0)->shape;
    const struct cpu_call a = cpu_call(b, k, in, out, scratch, c, 2, table->dim[1]);

    if (operands_check_ids(in[0], a.rows, 0, table->dim[0], "token", err) != 0)
        return -1;
    chain(&a);
    if (!a.adds)
        cpu_parts(&a, clear_part);
    cpu_parts(&a, embed_grad_part);
    return 0;
}

const struct cpu_op cpu_embed = { cpu_no_scratch, embed_run }, cpu_embed_grad = { embed_grad_prepare, embed_grad_run };
