/* attention and attention_grad: the textbook form, which keeps the probabilities [B,H,T,T]. Whole rows of scores, hidden
 * ones too, as libraries without fused attention do it: what flash attention is measured against. */
#include <string.h>

#include "backend/cpu/heads.h"

struct work {
    float *kt, *vt; /* by block of keys: [D, BLOCK_TOKENS] */
    float *k, *v; /* [T, D] */
    float *dk, *dv; /* [T, D] */
    float *q, *o, *dq; /* [BLOCK_TOKENS, D] */
    float *p, *ds; /* [BLOCK_TOKENS, T] */
    float *max, *sum, *factor; /* by query of the block */
};

/* Returns the floats that a thread needs. */
static int64_t take_work(const struct heads *g, bool backward, float *work, struct work *w)
{
    const int64_t whole = g->padded_T * g->padded_D, block = BLOCK_TOKENS * g->padded_D;
    const int64_t extra = backward ? whole : 0;
    int64_t used = 0;

    w->kt = heads_take(work, &used, backward ? 0 : whole);
    w->vt = heads_take(work, &used, extra);
    w->k = heads_take(work, &used, extra);
    w->v = heads_take(work, &used, backward ? 0 : whole);
    w->dk = heads_take(work, &used, extra);
    w->dv = heads_take(work, &used, extra);
    w->q = heads_take(work, &used, block);
    w->o = heads_take(work, &used, block);
    w->dq = heads_take(work, &used, backward ? block : 0);
    w->p = heads_take(work, &used, BLOCK_TOKENS * g->padded_T);
    w->ds = heads_take(work, &used, backward ? BLOCK_TOKENS * g->padded_T : 0);
    w->max = heads_take(work, &used, BLOCK_TOKENS);
    w->sum = heads_take(work, &used, BLOCK_TOKENS);
    w->factor = heads_take(work, &used, BLOCK_TOKENS);
    return used;
}

static void read_transposed(const struct heads *g, float *out, const void *in, int64_t head)
{
    for (int64_t t = 0; t < g->T; t += BLOCK_TOKENS)
        heads_read_transposed(g, out + t * g->D, in, head, t, heads_rows(g, t));
}

/* s = a bT of the block's queries with all keys; bt by blocks. */
static void scores(const struct heads *g, float *s, const float *a, const float *bt, int64_t rows)
{
    for (int64_t t = 0; t < g->T; t += BLOCK_TOKENS)
        g->block->product(s + t, g->padded_T, a, g->padded_D, 1, bt + t * g->D, BLOCK_TOKENS, rows, BLOCK_TOKENS, g->D,
                          false);
}

/* The block's rows of probabilities in the tensor. */
static void *probs_at(const struct heads *g, void *probs, int64_t head, int64_t t)
{
    return (char *)probs + (size_t)((head * g->line + t) * g->line) * dtype_bytes(g->type);
}

static void softmax(const struct heads *g, struct work *w, struct span seen, int64_t t, int64_t rows)
{
    int32_t first[BLOCK_TOKENS], end[BLOCK_TOKENS];

    for (int64_t i = 0; i < rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    heads_seen(seen, t, rows, 0, g->T, first, end);
    g->block->softmax(w->p, g->padded_T, rows, g->padded_T, first, end, w->max, w->sum, w->factor);
    for (int64_t i = 0; i < rows; i++)
        w->factor[i] = w->sum[i] > 0 ? 1 / w->sum[i] : w->sum[i]; /* not a number stays so */
    g->block->scale_rows(w->p, g->padded_T, rows, g->padded_T, w->factor);
}

static void forward_head(const struct heads *all, float *memory, int64_t head, void *const *in, void *const *out)
{
    const struct heads own = heads_one(all, head), *g = &own;
    const struct span seen = heads_span(g, head);
    struct work w;

    take_work(g, false, memory, &w);
    read_transposed(g, w.kt, in[1], head);
    heads_read(g, w.v, in[2], head, 0, g->T, 1);
    for (int64_t t = g->first; t < g->T; t += BLOCK_TOKENS) {
        const int64_t rows = heads_rows(g, t);

        heads_read(g, w.q, in[0], head, t, rows, g->scale);
        scores(g, w.p, w.q, w.kt, rows);
        softmax(g, &w, seen, t, rows);
        g->block->narrow(probs_at(g, out[1], head, t), g->type, g->line, w.p, g->padded_T, rows, g->T, 1);
        g->block->product(w.o, g->padded_D, w.p, g->padded_T, 1, w.v, g->padded_D, rows, g->padded_D, g->T, false);
        heads_write(g, out[0], w.o, head, t, rows, 1);
    }
}

/* The queries from t on: their dq, and their shares of dk and dv. o holds their incoming gradients. */
static void backward_queries(const struct heads *g, struct work *w, int64_t t, int64_t rows)
{
    const struct block *b = g->block;
    const int64_t d = g->padded_D, ld = g->padded_T;

    b->product(w->dv, d, w->p, 1, ld, w->o, d, g->T, d, rows, t > g->first);
    scores(g, w->ds, w->o, w->vt, rows);
    b->dot_rows(w->sum, w->p, ld, w->ds, ld, rows, g->T);
    b->softmax_grad(w->ds, w->p, ld, rows, g->T, w->sum);
    b->product(w->dk, d, w->ds, 1, ld, w->q, d, g->T, d, rows, t > g->first);
    b->product(w->dq, d, w->ds, ld, 1, w->k, d, rows, d, g->T, false);
}

static void backward_head(const struct heads *all, float *memory, int64_t head, void *const *in, void *const *out)
{
    const struct heads own = heads_one(all, head), *g = &own;
    struct work w;

    take_work(g, true, memory, &w);
    heads_read(g, w.k, in[2], head, 0, g->T, 1);
    read_transposed(g, w.vt, in[3], head);
    for (int64_t t = g->first; t < g->T; t += BLOCK_TOKENS) {
        const int64_t rows = heads_rows(g, t);

        heads_read(g, w.q, in[1], head, t, rows, g->scale);
        heads_read(g, w.o, in[0], head, t, rows, 1);
        g->block->widen(w.p, g->padded_T, probs_at(g, in[4], head, t), g->type, g->line, rows, g->T, g->padded_T, 1);
        backward_queries(g, &w, t, rows);
        heads_write(g, out[0], w.dq, head, t, rows, g->scale);
    }
    if (g->first == g->T) /* it has no query */
        return;
    heads_give(g, out[1], w.dk, head, 0, g->T);
    heads_give(g, out[2], w.dv, head, 0, g->T);
}

static int prepare(struct backend *b, struct kernel *k, const struct buffer *probs, bool backward)
{
    const struct heads g = heads_of(b, k, NULL, probs->shape.dim[0], probs->shape.dim[2]);
    struct work w;

    k->scratch_bytes = (size_t)take_work(&g, backward, NULL, &w) * sizeof(float) * (size_t)b->threads;
    return 0;
}

static int attention_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    return prepare(b, k, kernel_out(k, 1), false);
}

static int grad_prepare(struct backend *b, struct kernel *k, struct err *err)
{
    (void)err;
    return prepare(b, k, kernel_in(k, 4), true);
}

static int attention_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                         const struct run_context *c, struct err *err)
{
    const struct heads g = heads_now(b, k, in[3], c);
    struct work w;
    const int64_t each = take_work(&g, false, NULL, &w);

    (void)err;
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t head = 0; head < g.B * g.H; head++)
        forward_head(&g, (float *)scratch + cpu_thread() * each, head, in, out);
    return 0;
}

static int grad_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const struct heads g = heads_now(b, k, in[5], c);
    struct work w;
    const int64_t each = take_work(&g, true, NULL, &w);

    (void)err;
#pragma omp parallel for schedule(dynamic) num_threads(b->threads)
    for (int64_t head = 0; head < g.B * g.H; head++)
        for (int64_t h = heads_shares(&g, head) ? -1 : head; h >= 0; h = heads_sharing(&g, head, h))
            backward_head(&g, (float *)scratch + cpu_thread() * each, h, in, out);
    return 0;
}

const struct cpu_op cpu_attention = { attention_prepare, attention_run };
const struct cpu_op cpu_attention_grad = { grad_prepare, grad_run };
