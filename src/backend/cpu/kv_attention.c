/* kv_attention: attention to a cache of keys and values. Prompts go by blocks, as all attention does (flash.c). A single
 * query reads every key and value once and that is all that takes time, so it has loops of its own: the query's products with
 * all keys, their softmax, the mix of the values. A head is done by one thread, in the same order whatever the batch. */
#include <string.h>

#include "backend/cpu/flash.h"
#include "backend/cpu/narrow.h"
#include "backend/operands.h"

static int64_t columns_of(const struct kernel *k)
{
    return kernel_out(k, 1)->shape.dim[1];
}

static void append(const struct heads *g, const struct heads *cache, int64_t b, int64_t at, const void *x, void *to)
{
    const size_t row = (size_t)(g->H * g->D) * dtype_bytes(g->type);

    memcpy((char *)to + (size_t)(b * cache->T + at) * row, (const char *)x + (size_t)(b * g->T) * row,
           (size_t)g->T * row);
}

/* Room for a single query: its scores, its channels as they are multiplied, and the mixed values. */
static int64_t query_floats(const struct heads *cache)
{
    return cache->padded_T + 2 * cache->padded_D;
}

static int64_t floats_of(const struct heads *g, const struct heads *cache)
{
    return g->T == 1 ? query_floats(cache) : flash_floats(cache);
}

static void read_query(const struct heads *g, const struct narrow *n, float *q, const void *from, int64_t head)
{
    const void *x = (const char *)from + heads_at(g, head, 0);

    if (g->type == F32)
        memcpy(q, x, (size_t)g->D * sizeof *q);
    else
        n->spread(q, x, g->D);
    for (int64_t d = 0; d < g->D; d++)
        q[d] *= g->scale;
}

/* f->at: the column of the one query. */
static void query_head(const struct flash *f, const struct narrow *n, float *work, int64_t head)
{
    const struct heads *g = f->queries, *cache = f->keys;
    const struct span seen = heads_span(cache, head);
    const int64_t end = f->at + 1 < seen.end ? f->at + 1 : seen.end, count = end > seen.first ? end - seen.first : 0;
    const size_t first = heads_at(cache, head, seen.first);
    float *score = work, *q = score + cache->padded_T, *mixed = q + cache->padded_D;
    const struct narrow_job products = { .x = q,
                                         .w = (const char *)f->k + first,
                                         .ldw = g->H * g->D,
                                         .y = score,
                                         .M = 1,
                                         .N = count,
                                         .K = g->D,
                                         .type = g->type,
                                         .y_type = F32 };
    const int32_t begin = 0, last = (int32_t)count;
    float max = -INFINITY, sum = 0, factor;

    read_query(g, n, q, f->q, head);
    n->columns(&products, 0, count);
    g->block->softmax(score, count, 1, count, &begin, &last, &max, &sum, &factor);
    n->mix(mixed, score, (const char *)f->v + first, g->type, g->H * g->D, count, g->D);
    heads_write(g, f->o, mixed, head, 0, 1, sum > 0 ? 1 / sum : sum); /* not a number stays so */
}

static int kv_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct heads cache = heads_of(b, k, NULL, 0, columns_of(k));

    const int64_t one = query_floats(&cache), many = flash_floats(&cache);

    (void)err;
    k->scratch_bytes = (size_t)(one > many ? one : many) * sizeof(float) * (size_t)b->threads;
    return 0;
}

static int kv_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                  const struct run_context *c, struct err *err)
{
    const struct heads g = heads_of(b, k, in[3], c->B, c->T), cache = heads_of(b, k, in[3], c->B, columns_of(k));
    const int32_t *at = in[4];
    const struct narrow *n = narrow_of(cpu_of(b)->isa);
    const int64_t each = floats_of(&g, &cache);

    if (operands_check_columns(at, c->B, cache.T - g.T, err) != 0)
        return -1;
    for (int64_t row = 0; row < c->B; row++) {
        append(&g, &cache, row, at[row], in[1], out[1]);
        append(&g, &cache, row, at[row], in[2], out[2]);
    }
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t head = 0; head < g.B * g.H; head++) {
        const struct flash f = {
            .queries = &g, .keys = &cache, .at = at[head / g.H], .q = in[0], .k = out[1], .v = out[2], .o = out[0]
        };

        float *work = (float *)scratch + cpu_thread() * each;

        if (g.T == 1)
            query_head(&f, n, work, head);
        else
            flash_head(&f, work, head);
    }
    return 0;
}

const struct cpu_op cpu_kv_attention = { kv_prepare, kv_run };
