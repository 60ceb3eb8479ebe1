/* kv_attention: attention to a cache of keys and values. Prompts go by blocks, as all attention does (flash.c). A single
 * query reads every key and value once and that is all that takes time, so it has loops of its own: the query's products with
 * all keys, their softmax, the mix of the values, side by side for all heads that a thread has: a cache's rows hold all heads, and
 * memory gives what is read in order several times faster than one head's part of each row. A head is done by one thread, in
 * the same order whatever the batch. */
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

/* Room for a single query: each head's scores, its channels as they are multiplied, the mixed values, and
 * what these are to be multiplied by. */
static int64_t query_floats(const struct heads *cache)
{
    return cache->H * (cache->padded_T + 2 * cache->D + 1);
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
        n->spread(q, x, g->type, g->D);
    for (int64_t d = 0; d < g->D; d++)
        q[d] *= g->scale;
}

/* Makes a head's scores probabilities but for the factor that it returns. */
static float soften(const struct heads *g, float *score, int64_t count)
{
    const int32_t begin = 0, end = (int32_t)count;
    float max = -INFINITY, sum = 0, factor;

    g->block->softmax(score, count, 1, count, &begin, &end, &max, &sum, &factor);
    return sum > 0 ? 1 / sum : sum; /* not a number stays so */
}

/* Heads of one row, from `head` on. f->at: the column of the one query. */
static void query_heads(const struct flash *f, const struct narrow *n, float *work, int64_t head, int64_t heads)
{
    const struct heads *g = f->queries, *cache = f->keys;
    const struct span seen = heads_span(cache, head);
    const int64_t end = f->at + 1 < seen.end ? f->at + 1 : seen.end, count = end > seen.first ? end - seen.first : 0;
    const size_t first = heads_at(cache, head, seen.first);
    float *score = work, *q = score + heads * cache->padded_T, *mixed = q + heads * g->D,
          *factor = mixed + heads * g->D;
    struct narrow_cache c = { (const char *)f->k + first, g->type, g->H * g->D, count, heads, g->D };

    for (int64_t h = 0; h < heads; h++)
        read_query(g, n, q + h * g->D, f->q, head + h);
    n->products(score, cache->padded_T, q, &c);
    for (int64_t h = 0; h < heads; h++)
        factor[h] = soften(g, score + h * cache->padded_T, count);
    c.w = (const char *)f->v + first;
    n->mix(mixed, score, cache->padded_T, &c);
    for (int64_t h = 0; h < heads; h++)
        heads_write(g, f->o, mixed + h * g->D, head + h, 0, 1, factor[h]);
}

/* How many heads a thread takes at a time: a single query's side by side, as long as no thread is without work. */
static int64_t heads_at_a_time(const struct heads *g, int threads)
{
    const int64_t parts = threads > 1 ? (2 * threads + g->B - 1) / g->B : 1;

    return g->T > 1 || parts > g->H ? 1 : (g->H + parts - 1) / parts;
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
    const int64_t each = floats_of(&g, &cache), together = heads_at_a_time(&g, b->threads);
    const int64_t parts = (g.H + together - 1) / together;

    if (operands_check_columns(at, c->B, cache.T - g.T, err) != 0)
        return -1;
    for (int64_t row = 0; row < c->B; row++) {
        append(&g, &cache, row, at[row], in[1], out[1]);
        append(&g, &cache, row, at[row], in[2], out[2]);
    }
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t i = 0; i < g.B * parts; i++) {
        const int64_t row = i / parts, first = i % parts * together, left = g.H - first;
        const struct flash f = {
            .queries = &g, .keys = &cache, .at = at[row], .q = in[0], .k = out[1], .v = out[2], .o = out[0]
        };
        float *work = (float *)scratch + cpu_thread() * each;

        if (g.T == 1)
            query_heads(&f, n, work, row * g.H + first, left < together ? left : together);
        else
            flash_head(&f, work, row * g.H + first);
    }
    return 0;
}

const struct cpu_op cpu_kv_attention = { kv_prepare, kv_run };
