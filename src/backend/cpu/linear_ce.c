/* linear_ce and linear_ce_train: the loss over a vocabulary, and its gradients, from hidden states, chunk rows of logits at a
 * time. A chunk is three matrix products around one pass over its logits, which turns them into their gradient in place
 * (fp32) or beside them (16 bits).
 *
 * Rows without a target are left out before all that: the rows that have one are gathered, and gradients scattered back.
 * The gradient of the weights grows in fp32 over the chunks: in place, or in scratch if it has 16 bits, rounded once. */
#include <math.h>
#include <string.h>

#include "backend/cpu/block.h"
#include "backend/cpu/cpu.h"
#include "backend/operands.h"
#include "backend/row_loss.h"

/* Where things lie in scratch; sizes are the planned ones. */
struct room {
    int64_t *row; /* [N] the rows that have a target, in order */
    double *loss; /* [chunk] */
    void *h, *dh; /* [chunk,E] of the working type */
    float *logits; /* [chunk,V] */
    void *dlogits; /* [chunk,V] of the working type: the same memory as logits if that is fp32 */
    float *dw; /* [V,E] if chunks of 16-bit numbers are to be added up, else NULL */
    void *matmul;
    size_t matmul_bytes;
};

struct work {
    const struct block *block;
    struct matmul *matmul;
    struct room room;
    enum dtype type;
    int64_t N, E, V, chunk;
    bool train, learns; /* learns: dw is wanted */
    const void *h, *w;
    const int32_t *target;
    const float *norm, *old, *advantage; /* the last two: NULL = cross-entropy */
    double clip;
    float *logp; /* NULL = not wanted */
    void *dh, *dw;
    bool adds; /* to dw */
};

static size_t take(size_t *used, int64_t n, size_t size)
{
    const size_t at = *used;

    *used += ((size_t)n * size + 63) / 64 * 64;
    return at;
}

static struct work work_of(const struct backend *b, const struct kernel *k, bool train)
{
    const struct buffer *h = kernel_in(k, 0), *w = kernel_in(k, 1);
    const int64_t N = h->shape.dim[0], chunk = k->step->attrs.chunk;

    return (struct work){ .block = block_of(cpu_of(b)->isa),
                          .matmul = cpu_of(b)->matmul,
                          .type = h->dtype,
                          .N = N,
                          .E = h->shape.dim[1],
                          .V = w->shape.dim[0],
                          .chunk = chunk < N ? chunk : N,
                          .train = train,
                          .learns = train && kernel_out(k, 2) };
}

/* Fills w->room for a planned N; returns the bytes before the matrix products' own. */
static size_t lay_out(struct work *w, int64_t planned, char *scratch)
{
    const size_t size = dtype_bytes(w->type);
    const bool half = w->type != F32, sums = w->learns && half && planned > w->chunk;
    size_t used = 0;
    const size_t row = take(&used, planned, sizeof *w->room.row), loss = take(&used, w->chunk, sizeof *w->room.loss),
                 h = take(&used, w->chunk * w->E, size), dh = take(&used, w->train ? w->chunk * w->E : 0, size),
                 logits = take(&used, w->chunk * w->V, sizeof(float)),
                 dlogits = take(&used, w->train && half ? w->chunk * w->V : 0, size),
                 dw = take(&used, sums ? w->V * w->E : 0, sizeof(float));

    if (scratch)
        w->room = (struct room){ .row = (void *)(scratch + row),
                                 .loss = (void *)(scratch + loss),
                                 .h = scratch + h,
                                 .dh = scratch + dh,
                                 .logits = (void *)(scratch + logits),
                                 .dlogits = scratch + (half ? dlogits : logits),
                                 .dw = sums ? (void *)(scratch + dw) : NULL,
                                 .matmul = scratch + used };
    return used;
}

static struct matmul_shape shape_logits(const struct work *w, int64_t rows)
{
    return (struct matmul_shape){ .M = rows, .N = w->V, .K = w->E, .b_transposed = true, .ab = w->type, .c = F32 };
}

static struct matmul_shape shape_dh(const struct work *w, int64_t rows)
{
    return (struct matmul_shape){ .M = rows, .N = w->E, .K = w->V, .ab = w->type, .c = w->type };
}

static struct matmul_shape shape_dw(const struct work *w, int64_t rows, enum dtype into, bool add)
{
    return (struct matmul_shape){
        .M = w->V, .N = w->E, .K = rows, .a_transposed = true, .ab = w->type, .c = into, .add = add
    };
}

static int prepare(struct backend *b, struct kernel *k, bool train, struct err *err)
{
    struct work w = work_of(b, k, train);
    size_t products = 0;
    const struct matmul_shape shapes[] = { shape_logits(&w, w.chunk), shape_dh(&w, w.chunk),
                                           shape_dw(&w, w.chunk, w.type, true), shape_dw(&w, w.chunk, F32, true) };

    for (int i = 0; i < (w.learns ? COUNT_OF(shapes) : train ? 2 : 1); i++)
        if (matmul_prepare(w.matmul, &shapes[i], &products, err) != 0)
            return -1;
    k->scratch_bytes = lay_out(&w, w.N, NULL) + products;
    return 0;
}

static int64_t gather_targets(const struct work *w)
{
    int64_t n = 0;

    for (int64_t i = 0; i < w->N; i++)
        if (w->target[i] >= 0)
            w->room.row[n++] = i;
    return n;
}

static void copy_rows(const struct work *w, const int64_t *row, int64_t rows, bool gather)
{
    const size_t bytes = (size_t)w->E * dtype_bytes(w->type);

    for (int64_t i = 0; i < rows; i++) {
        const size_t here = (size_t)i * bytes, there = (size_t)row[i] * bytes;

        if (gather)
            memcpy((char *)w->room.h + here, (const char *)w->h + there, bytes);
        else
            memcpy((char *)w->dh + there, (const char *)w->room.dh + here, bytes);
    }
}

static struct row_loss token_loss(const struct work *w, int64_t n, double logp)
{
    if (!w->old)
        return (struct row_loss){ -logp, -1 };
    return row_loss_policy(logp, (double)w->old[n], (double)w->advantage[n], w->clip);
}

/* Row i of the logits, which is row n of all: its loss; and, to train, the logits' gradient. */
static double row_pass(const struct work *w, int64_t i, int64_t n)
{
    const int32_t first = 0, end = (int32_t)w->V, target = w->target[n];
    float *x = w->room.logits + i * w->V, max = -INFINITY, sum = 0, factor;
    const float logit = x[target];

    w->block->softmax(x, w->V, 1, w->V, &first, &end, &max, &sum, &factor);
    const double logp = (double)logit - ((double)max + log((double)sum));
    const struct row_loss row = token_loss(w, n, logp);
    if (w->logp)
        w->logp[n] = (float)logp;
    if (w->train) {
        const float slope = w->norm[1] * (float)-row.slope, scale = slope / sum, wanted = x[target] * scale - slope;
        const size_t size = dtype_bytes(w->type);
        char *to = (char *)w->room.dlogits + (size_t)(i * w->V) * size;

        w->block->narrow(to, w->type, w->V, x, w->V, 1, w->V, scale);
        dtype_convert(to + (size_t)target * size, w->type, &wanted, F32, 1);
    }
    return row.loss;
}

static int product(const struct work *w, struct matmul_shape s, const void *a, const void *b, void *c, struct err *err)
{
    return matmul_run(w->matmul, &s, a, b, NULL, c, w->room.matmul, w->room.matmul_bytes, err);
}

/* rows of the gathered list from `row` on; adds: to what dw holds by then. */
static int chunk_pass(const struct work *w, const int64_t *row, int64_t rows, bool adds, double *loss, struct err *err)
{
    const struct room *r = &w->room;
    const enum dtype into = w->room.dw ? F32 : w->type;

    copy_rows(w, row, rows, true);
    if (product(w, shape_logits(w, rows), r->h, w->w, r->logits, err) != 0)
        return -1;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        r->loss[i] = row_pass(w, i, row[i]);
    for (int64_t i = 0; i < rows; i++)
        *loss += r->loss[i];
    if (!w->train)
        return 0;
    if (product(w, shape_dh(w, rows), r->dlogits, w->w, r->dh, err) != 0)
        return -1;
    if (w->learns &&
        product(w, shape_dw(w, rows, into, adds), r->dlogits, r->h, r->dw ? (void *)r->dw : w->dw, err) != 0)
        return -1;
    copy_rows(w, row, rows, false);
    return 0;
}

/* The gradient of 16 bits from its sum in scratch. */
static void round_dw(const struct work *w)
{
    uint16_t *dw = w->dw;

#pragma omp parallel for schedule(static)
    for (int64_t v = 0; v < w->V; v++) {
        float *sum = w->room.dw + v * w->E;

        for (int64_t e = 0; w->adds && e < w->E; e++)
            sum[e] += half_to_f32(dw[v * w->E + e], w->type);
        w->block->narrow(dw + v * w->E, w->type, w->E, sum, w->E, 1, w->E, 1);
    }
}

static int all_chunks(struct work *w, float *loss, struct err *err)
{
    const int64_t n = gather_targets(w), chunks = (n + w->chunk - 1) / w->chunk;
    const int64_t each = chunks ? (n + chunks - 1) / chunks : 0;
    double sum = 0;

    if (chunks <= 1)
        w->room.dw = NULL; /* nothing to add up */
    for (int64_t i = 0; i < n; i += each) {
        const int64_t rows = n - i < each ? n - i : each;
        const bool adds = i > 0 || (w->adds && !w->room.dw);

        if (chunk_pass(w, w->room.row + i, rows, adds, &sum, err) != 0)
            return -1;
    }
    if (w->learns && n == 0 && !w->adds)
        memset(w->dw, 0, (size_t)(w->V * w->E) * dtype_bytes(w->type));
    if (w->room.dw)
        round_dw(w);
    *loss = (float)(sum * (double)w->norm[0]);
    return 0;
}

static int run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
               const struct run_context *c, bool train, struct err *err)
{
    struct work w = work_of(b, k, train);
    const size_t used = lay_out(&w, w.N, scratch);

    MUST(w.room.row);
    w.room.matmul_bytes = k->scratch_bytes - used;
    w.N = kernel_rows(k, c);
    w.h = in[0];
    w.w = in[1];
    w.target = in[2];
    w.norm = in[3];
    w.old = in[4];
    w.advantage = in[5];
    w.clip = k->step->attrs.clip;
    w.logp = out[train ? 3 : 1];
    if (operands_check_ids(w.target, w.N, INT32_MIN, w.V, "target", err) != 0)
        return -1;
    if (w.logp)
        memset(w.logp, 0, (size_t)w.N * sizeof *w.logp);
    if (train) {
        w.dh = out[1];
        w.dw = out[2];
        w.adds = kernel_adds(k, c);
        memset(w.dh, 0, (size_t)(w.N * w.E) * dtype_bytes(w.type));
    }
    return all_chunks(&w, out[0], err);
}

static int loss_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    return prepare(b, k, false, err);
}

static int loss_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    return run(b, k, in, out, scratch, c, false, err);
}

static int train_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    return prepare(b, k, true, err);
}

static int train_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    return run(b, k, in, out, scratch, c, true, err);
}

const struct cpu_op cpu_linear_ce = { loss_prepare, loss_run };
const struct cpu_op cpu_linear_ce_train = { train_prepare, train_run };
