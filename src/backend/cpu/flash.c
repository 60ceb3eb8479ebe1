/* flash_attention and its gradient: exact attention by blocks, so that no [T,T] tensor exists (Dao, Fu, Ermon, Rudra and Re
 * 2022, arXiv:2205.14135, algorithms 1 and 4). Blocks that causality or the spans hide are never visited.
 *
 * A head's keys and values, and in the gradient its queries, are first copied as fp32 to memory of the thread, which stays
 * in its cache: rows of a head lie H*D apart in the tensors. With tile registers, bf16 goes another way (flash_tiles.c). */
#include "backend/cpu/flash.h"

#include <string.h>

/* --- forward --- */

struct forward {
    float *keys; /* by block: [D, BLOCK_TOKENS] */
    float *values; /* [T, D] */
    float *q, *o; /* [BLOCK_TOKENS, D] */
    float *s; /* [BLOCK_TOKENS, BLOCK_TOKENS] */
    float *max, *sum, *factor; /* by query of the block */
};

/* Returns the floats that a thread needs. */
static int64_t forward_work(const struct heads *keys, float *work, struct forward *w)
{
    const int64_t block = BLOCK_TOKENS * keys->padded_D;
    int64_t used = 0;

    w->keys = heads_take(work, &used, keys->padded_T * keys->D);
    w->values = heads_take(work, &used, keys->padded_T * keys->padded_D);
    w->q = heads_take(work, &used, block);
    w->o = heads_take(work, &used, block);
    w->s = heads_take(work, &used, BLOCK_TOKENS * BLOCK_TOKENS);
    w->max = heads_take(work, &used, BLOCK_TOKENS);
    w->sum = heads_take(work, &used, BLOCK_TOKENS);
    w->factor = heads_take(work, &used, BLOCK_TOKENS);
    return used;
}

static void read_keys(const struct heads *g, struct forward *w, const void *k, const void *v, int64_t head,
                      struct span seen)
{
    for (int64_t t = seen.first / BLOCK_TOKENS * BLOCK_TOKENS; t < seen.end; t += BLOCK_TOKENS) {
        heads_read_transposed(g, w->keys + t * g->D, k, head, t, heads_rows(g, t));
        heads_read(g, w->values + t * g->padded_D, v, head, t, heads_rows(g, t), 1);
    }
}

/* Adds the keys from `key` on to the running softmax of the block of queries; query counts as keys do. */
static void forward_block(const struct heads *g, struct forward *w, struct span seen, int64_t query, int64_t rows,
                          int64_t key)
{
    const int64_t n = seen.end - key < BLOCK_TOKENS ? seen.end - key : BLOCK_TOKENS;
    int32_t first[BLOCK_TOKENS], end[BLOCK_TOKENS];

    heads_seen(seen, query, rows, key, n, first, end);
    g->block->product(w->s, BLOCK_TOKENS, w->q, g->padded_D, 1, w->keys + key * g->D, BLOCK_TOKENS, rows, BLOCK_TOKENS,
                      g->D, false);
    g->block->softmax(w->s, BLOCK_TOKENS, rows, BLOCK_TOKENS, first, end, w->max, w->sum, w->factor);
    g->block->scale_rows(w->o, g->padded_D, rows, g->padded_D, w->factor);
    g->block->product(w->o, g->padded_D, w->s, BLOCK_TOKENS, 1, w->values + key * g->padded_D, g->padded_D, rows,
                      g->padded_D, n, true);
}

static void forward_queries(const struct heads *g, struct forward *w, struct span seen, int64_t query, int64_t rows)
{
    const int64_t end = query + rows < seen.end ? query + rows : seen.end;

    for (int64_t i = 0; i < rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    memset(w->o, 0, (size_t)(rows * g->padded_D) * sizeof *w->o);
    for (int64_t key = seen.first / BLOCK_TOKENS * BLOCK_TOKENS; key < end; key += BLOCK_TOKENS)
        forward_block(g, w, seen, query, rows, key);
    for (int64_t i = 0; i < rows; i++)
        w->factor[i] = w->sum[i] > 0 ? 1 / w->sum[i] : w->sum[i]; /* not a number stays so */
    g->block->scale_rows(w->o, g->padded_D, rows, g->padded_D, w->factor);
}

int64_t flash_floats(const struct heads *keys)
{
    struct forward w;

    return keys->tiles ? flash_tiles_floats(keys) : forward_work(keys, NULL, &w);
}

void flash_head(const struct flash *f, float *work, int64_t head)
{
    const struct heads own = heads_one(f->queries, head), keys = heads_one(f->keys, head), *g = &own;
    struct span seen = heads_span(&keys, head);
    struct forward w;

    if (g->tiles) {
        flash_tiles_head(f, work, head);
        return;
    }
    seen.end = f->at + g->T < seen.end ? f->at + g->T : seen.end; /* keys beyond are not there yet */
    forward_work(&keys, work, &w);
    read_keys(&keys, &w, f->k, f->v, head, seen);
    for (int64_t t = g->first; t < g->T; t += BLOCK_TOKENS) {
        const int64_t rows = heads_rows(g, t);

        heads_read(g, w.q, f->q, head, t, rows, g->scale);
        forward_queries(g, &w, seen, f->at + t, rows);
        heads_write(g, f->o, w.o, head, t, rows, 1);
        for (int64_t i = 0; f->lse && i < rows; i++)
            f->lse[head * g->line + t + i] = w.sum[i] == 0 ? INFINITY : w.max[i] + logf(w.sum[i]);
    }
}

/* --- gradient --- */

struct backward {
    float *q, *go, *dq; /* [T, D]; q is scaled */
    float *mean, *lse; /* [T]; mean: do . o, what softmax's gradient subtracts */
    float *k, *dk, *dv; /* [BLOCK_TOKENS, D] */
    float *kt, *vt; /* [D, BLOCK_TOKENS] */
    float *p, *ds; /* [BLOCK_TOKENS, BLOCK_TOKENS], queries by keys */
};

static int64_t backward_work(const struct heads *g, float *work, struct backward *w)
{
    const int64_t whole = g->padded_T * g->padded_D, block = BLOCK_TOKENS * g->padded_D;
    int64_t used = 0;

    w->q = heads_take(work, &used, whole);
    w->go = heads_take(work, &used, whole);
    w->dq = heads_take(work, &used, whole);
    w->mean = heads_take(work, &used, g->padded_T);
    w->k = heads_take(work, &used, block);
    w->dk = heads_take(work, &used, block);
    w->dv = heads_take(work, &used, block);
    w->kt = heads_take(work, &used, block);
    w->vt = heads_take(work, &used, block);
    w->p = heads_take(work, &used, BLOCK_TOKENS * BLOCK_TOKENS);
    w->ds = heads_take(work, &used, BLOCK_TOKENS * BLOCK_TOKENS);
    return used;
}

static int64_t backward_floats(const struct heads *g)
{
    struct backward w;

    return g->tiles ? flash_tiles_grad_floats(g) : backward_work(g, NULL, &w);
}

/* All queries of the head, their incoming gradients, and mean; dq serves as room for o until it is needed. */
static void read_queries(const struct heads *g, struct backward *w, int64_t head, const void *go, const void *q,
                         const void *o)
{
    const int64_t at = g->first * g->padded_D, rows = g->T - g->first;

    heads_read(g, w->q + at, q, head, g->first, rows, g->scale);
    heads_read(g, w->go + at, go, head, g->first, rows, 1);
    heads_read(g, w->dq + at, o, head, g->first, rows, 1);
    g->block->dot_rows(w->mean + g->first, w->go + at, g->padded_D, w->dq + at, g->padded_D, rows, g->padded_D);
    memset(w->dq + at, 0, (size_t)(rows * g->padded_D) * sizeof *w->dq);
}

/* The keys from `key` on and the queries from `query` on. */
static void backward_block(const struct heads *g, struct backward *w, struct span seen, int64_t query, int64_t key,
                           int64_t keys)
{
    const struct block *b = g->block;
    const int64_t rows = heads_rows(g, query), d = g->padded_D, at = query * d;
    int32_t first[BLOCK_TOKENS], end[BLOCK_TOKENS];

    heads_seen(seen, query, rows, key, keys, first, end);
    b->product(w->p, BLOCK_TOKENS, w->q + at, d, 1, w->kt, BLOCK_TOKENS, rows, BLOCK_TOKENS, g->D, false);
    b->exponential(w->p, BLOCK_TOKENS, rows, BLOCK_TOKENS, first, end, w->lse + query);
    b->product(w->dv, d, w->p, 1, BLOCK_TOKENS, w->go + at, d, keys, d, rows, true);
    b->product(w->ds, BLOCK_TOKENS, w->go + at, d, 1, w->vt, BLOCK_TOKENS, rows, BLOCK_TOKENS, g->D, false);
    b->softmax_grad(w->ds, w->p, BLOCK_TOKENS, rows, BLOCK_TOKENS, w->mean + query);
    b->product(w->dk, d, w->ds, 1, BLOCK_TOKENS, w->q + at, d, keys, d, rows, true);
    b->product(w->dq + at, d, w->ds, BLOCK_TOKENS, 1, w->k, d, rows, d, keys, true);
}

static void backward_keys(const struct heads *g, struct backward *w, struct span seen, int64_t head, int64_t key,
                          const void *k, const void *v)
{
    const int64_t rows = heads_rows(g, key), keys = seen.end - key < rows ? seen.end - key : rows;
    const size_t bytes = (size_t)(BLOCK_TOKENS * g->padded_D) * sizeof(float);

    memset(w->dk, 0, bytes);
    memset(w->dv, 0, bytes);
    if (keys <= 0 || key + rows <= seen.first)
        return;
    heads_read(g, w->k, k, head, key, rows, 1);
    heads_read_transposed(g, w->kt, k, head, key, rows);
    heads_read_transposed(g, w->vt, v, head, key, rows);
    for (int64_t query = key > g->first ? key : g->first; query < g->T; query += BLOCK_TOKENS)
        backward_block(g, w, seen, query, key, keys);
}

static void backward_head(const struct heads *all, float *work, int64_t head, void *const *in, void *const *out)
{
    const struct heads own = heads_one(all, head), *g = &own;
    const struct span seen = heads_span(g, head);
    struct backward w;

    if (g->tiles) {
        flash_tiles_grad_head(all, work, head, in, out);
        return;
    }
    backward_work(g, work, &w);
    w.lse = (float *)in[5] + head * g->line;
    read_queries(g, &w, head, in[0], in[1], in[4]);
    for (int64_t key = 0; key < g->T; key += BLOCK_TOKENS) {
        backward_keys(g, &w, seen, head, key, in[2], in[3]);
        heads_give(g, out[1], w.dk, head, key, heads_rows(g, key));
        heads_give(g, out[2], w.dv, head, key, heads_rows(g, key));
    }
    heads_write(g, out[0], w.dq + g->first * g->padded_D, head, g->first, g->T - g->first, g->scale);
}

/* --- the ops --- */

static int flash_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct shape *lse = &kernel_out(k, 1)->shape;
    const struct heads g = heads_of(b, k, NULL, lse->dim[0], lse->dim[2]);

    (void)err;
    k->scratch_bytes = (size_t)flash_floats(&g) * sizeof(float) * (size_t)b->threads;
    return 0;
}

static int flash_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                     const struct run_context *c, struct err *err)
{
    const struct heads g = heads_now(b, k, in[3], c);
    const struct flash f = {
        .queries = &g, .keys = &g, .q = in[0], .k = in[1], .v = in[2], .o = out[0], .lse = out[1]
    };
    const int64_t each = flash_floats(&g);

    (void)err;
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t head = 0; head < g.B * g.H; head++)
        flash_head(&f, (float *)scratch + cpu_thread() * each, head);
    return 0;
}

static int grad_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    const struct shape *lse = &kernel_in(k, 5)->shape;
    const struct heads g = heads_of(b, k, NULL, lse->dim[0], lse->dim[2]);

    (void)err;
    k->scratch_bytes = (size_t)backward_floats(&g) * sizeof(float) * (size_t)b->threads;
    return 0;
}

static int grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct heads g = heads_now(b, k, in[6], c);
    const int64_t each = backward_floats(&g);

    (void)err;
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t head = 0; head < g.B * g.H; head++)
        for (int64_t h = heads_shares(&g, head) ? -1 : head; h >= 0; h = heads_sharing(&g, head, h))
            backward_head(&g, (float *)scratch + cpu_thread() * each, h, in, out);
    return 0;
}

const struct cpu_op cpu_flash_attention = { flash_prepare, flash_run };
const struct cpu_op cpu_flash_attention_grad = { grad_prepare, grad_run };
