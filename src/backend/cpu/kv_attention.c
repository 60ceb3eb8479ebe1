/* kv_attention: attention to a cache of keys and values, for prompts and for the steps of decoding. */
#include <string.h>

#include "backend/cpu/flash.h"
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

static int kv_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct heads cache = heads_of(b, k, NULL, 0, columns_of(k));

    (void)err;
    k->scratch_bytes = (size_t)flash_floats(&cache) * sizeof(float) * (size_t)b->threads;
    return 0;
}

static int kv_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                  const struct run_context *c, struct err *err)
{
    const struct heads g = heads_of(b, k, in[3], c->B, c->T), cache = heads_of(b, k, in[3], c->B, columns_of(k));
    const int32_t *at = in[4];
    const int64_t each = flash_floats(&cache);

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

        flash_head(&f, (float *)scratch + cpu_thread() * each, head);
    }
    return 0;
}

const struct cpu_op cpu_kv_attention = { kv_prepare, kv_run };
