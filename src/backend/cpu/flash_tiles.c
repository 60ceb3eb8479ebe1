/* flash.c's two passes in bf16 on tile registers (amx.h): scores and sums in fp32, as there, while the probabilities and the
 * gradients of scores are rounded to bf16 where they are multiplied, as GPUs' kernels do (Dao 2023, arXiv:2307.08691).
 *
 * A head's operands are packed once, straight from the tensors; each block of scores is packed as it is used: as it lies,
 * or turned. */
#include "backend/cpu/flash.h"

#include <string.h>

#include "backend/cpu/amx.h"

#define BLOCK BLOCK_TOKENS

/* Memory of a thread, in floats, as a place for bf16. */
static uint16_t *take_packed(float *work, int64_t *used, int64_t n)
{
    return (void *)heads_take(work, used, n / 2);
}

/* Tokens t .. t+rows of a head; in room [BLOCK, D] if they do not lie side by side. */
static struct amx_source tokens(const struct heads *g, uint16_t *room, const void *x, int64_t head, int64_t t,
                                int64_t rows, bool across)
{
    if (heads_together(g, t, rows) == rows)
        return (struct amx_source){ (const char *)x + heads_at(g, head, t), g->H * g->D, BF16, across };
    for (int64_t i = 0; i < rows; i++)
        memcpy(room + i * g->D, (const char *)x + heads_at(g, head, t + i), (size_t)g->D * sizeof *room);
    return (struct amx_source){ room, g->D, BF16, across };
}

static void pack_rows(const struct heads *g, uint16_t *room, uint16_t *out, const void *x, int64_t head, int64_t t,
                      int64_t rows)
{
    const struct amx_source s = tokens(g, room, x, head, t, rows, false);

    amx_pack_a(out, &s, rows, g->D);
}

/* As the right operand: rows by channels, transposed, to be summed over channels. */
static void pack_turned(const struct heads *g, uint16_t *room, uint16_t *out, const void *x, int64_t head, int64_t t,
                        int64_t rows)
{
    const struct amx_source s = tokens(g, room, x, head, t, rows, false);

    amx_pack_b(out, &s, rows, g->D);
}

/* As the right operand, to be summed over its rows. */
static void pack_mixed(const struct heads *g, uint16_t *room, uint16_t *out, const void *x, int64_t head, int64_t t,
                       int64_t rows)
{
    const struct amx_source s = tokens(g, room, x, head, t, rows, true);

    amx_pack_b(out, &s, g->D, rows);
}

/* Scores of queries with keys, or their gradients, as the left operand: rows are queries, or, turned, keys. */
static void pack_scores(uint16_t *out, const float *s, int64_t queries, int64_t keys, bool turned)
{
    const struct amx_source from = { s, BLOCK, F32, turned };

    amx_pack_a(out, &from, turned ? keys : queries, turned ? queries : keys);
}

static void scale_scores(const struct heads *g, float *s, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        g->block->scale_rows(s + i * BLOCK, BLOCK, 1, BLOCK, &g->scale);
}

/* --- forward --- */

struct forward {
    uint16_t *keys, *values; /* by block */
    uint16_t *q, *room, *p; /* [BLOCK, D], the same, [BLOCK, BLOCK] */
    float *s, *o; /* [BLOCK, BLOCK], [BLOCK, D] */
    float *max, *sum, *factor; /* by query of the block */
};

static int64_t forward_work(const struct heads *keys, float *work, struct forward *w)
{
    const int64_t block = BLOCK * keys->padded_D;
    int64_t used = 0;

    w->keys = take_packed(work, &used, keys->padded_T * keys->padded_D);
    w->values = take_packed(work, &used, keys->padded_T * keys->padded_D);
    w->q = take_packed(work, &used, block);
    w->room = take_packed(work, &used, block);
    w->p = take_packed(work, &used, BLOCK * BLOCK);
    w->s = heads_take(work, &used, BLOCK * BLOCK);
    w->o = heads_take(work, &used, block);
    w->max = heads_take(work, &used, BLOCK);
    w->sum = heads_take(work, &used, BLOCK);
    w->factor = heads_take(work, &used, BLOCK);
    return used;
}

int64_t flash_tiles_floats(const struct heads *keys)
{
    struct forward w;

    return forward_work(keys, NULL, &w);
}

static int64_t keys_of_block(struct span seen, int64_t key)
{
    return seen.end - key < BLOCK ? seen.end - key : BLOCK;
}

static void forward_block(const struct heads *g, struct forward *w, struct span seen, int64_t query, int64_t rows,
                          int64_t key)
{
    const int64_t n = keys_of_block(seen, key), d = g->padded_D;
    int32_t first[BLOCK], end[BLOCK];

    heads_seen(seen, query, rows, key, n, first, end);
    amx_multiply(w->s, BLOCK, w->q, w->keys + key * d, rows, n, d, false);
    scale_scores(g, w->s, rows);
    g->block->softmax(w->s, BLOCK, rows, BLOCK, first, end, w->max, w->sum, w->factor);
    g->block->scale_rows(w->o, d, rows, d, w->factor);
    pack_scores(w->p, w->s, rows, n, false);
    amx_multiply(w->o, d, w->p, w->values + key * d, rows, d, n, true);
}

static void forward_queries(const struct heads *g, struct forward *w, struct span seen, int64_t query, int64_t rows)
{
    const int64_t end = query + rows < seen.end ? query + rows : seen.end;

    for (int64_t i = 0; i < rows; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0;
    }
    memset(w->o, 0, (size_t)(BLOCK * g->padded_D) * sizeof *w->o);
    for (int64_t key = seen.first / BLOCK * BLOCK; key < end; key += BLOCK)
        forward_block(g, w, seen, query, rows, key);
    for (int64_t i = 0; i < rows; i++)
        w->factor[i] = w->sum[i] > 0 ? 1 / w->sum[i] : w->sum[i]; /* not a number stays so */
    g->block->scale_rows(w->o, g->padded_D, rows, g->padded_D, w->factor);
}

void flash_tiles_head(const struct flash *f, float *work, int64_t head)
{
    const struct heads own = heads_one(f->queries, head), keys = heads_one(f->keys, head), *g = &own;
    struct span seen = heads_span(&keys, head);
    struct forward w;

    seen.end = f->at + g->T < seen.end ? f->at + g->T : seen.end; /* keys beyond are not there yet */
    forward_work(&keys, work, &w);
    for (int64_t t = seen.first / BLOCK * BLOCK; t < seen.end; t += BLOCK) {
        pack_turned(&keys, w.room, w.keys + t * g->padded_D, f->k, head, t, keys_of_block(seen, t));
        pack_mixed(&keys, w.room, w.values + t * g->padded_D, f->v, head, t, keys_of_block(seen, t));
    }
    amx_begin();
    for (int64_t t = g->first; t < g->T; t += BLOCK) {
        const int64_t rows = heads_rows(g, t);

        pack_rows(g, w.room, w.q, f->q, head, t, rows);
        forward_queries(g, &w, seen, f->at + t, rows);
        heads_write(g, f->o, w.o, head, t, rows, 1);
        for (int64_t i = 0; f->lse && i < rows; i++)
            f->lse[head * g->line + t + i] = w.sum[i] == 0 ? INFINITY : w.max[i] + logf(w.sum[i]);
    }
    amx_end();
}

/* --- gradient --- */

struct backward {
    uint16_t *q, *go; /* by block, of the head's own tokens: left operands */
    uint16_t *q_mixed, *go_mixed; /* by block: right ones */
    uint16_t *k_turned, *v_turned, *k_mixed, *room; /* [BLOCK, D] */
    uint16_t *packed; /* [BLOCK, BLOCK] */
    float *p, *ds; /* [BLOCK, BLOCK], queries by keys */
    float *dq, *dk, *dv; /* [T, D], [BLOCK, D] */
    float *mean; /* [T]: do . o, what softmax's gradient subtracts */
    const float *lse;
};

static int64_t backward_work(const struct heads *g, float *work, struct backward *w)
{
    const int64_t whole = g->padded_T * g->padded_D, block = BLOCK * g->padded_D;
    int64_t used = 0;

    w->q = take_packed(work, &used, whole);
    w->go = take_packed(work, &used, whole);
    w->q_mixed = take_packed(work, &used, whole);
    w->go_mixed = take_packed(work, &used, whole);
    w->k_turned = take_packed(work, &used, block);
    w->v_turned = take_packed(work, &used, block);
    w->k_mixed = take_packed(work, &used, block);
    w->room = take_packed(work, &used, block);
    w->packed = take_packed(work, &used, BLOCK * BLOCK);
    w->p = heads_take(work, &used, BLOCK * BLOCK);
    w->ds = heads_take(work, &used, BLOCK * BLOCK);
    w->dq = heads_take(work, &used, whole);
    w->dk = heads_take(work, &used, block);
    w->dv = heads_take(work, &used, block);
    w->mean = heads_take(work, &used, g->padded_T);
    return used;
}

int64_t flash_tiles_grad_floats(const struct heads *g)
{
    struct backward w;

    return backward_work(g, NULL, &w);
}

/* dk and dv serve as room for do and o until they are needed. */
static void read_queries(const struct heads *g, struct backward *w, int64_t head, const void *go, const void *q,
                         const void *o)
{
    const int64_t d = g->padded_D;

    for (int64_t t = g->first; t < g->T; t += BLOCK) {
        const int64_t rows = heads_rows(g, t), at = (t - g->first) * d;

        pack_rows(g, w->room, w->q + at, q, head, t, rows);
        pack_rows(g, w->room, w->go + at, go, head, t, rows);
        pack_mixed(g, w->room, w->q_mixed + at, q, head, t, rows);
        pack_mixed(g, w->room, w->go_mixed + at, go, head, t, rows);
        heads_read(g, w->dk, go, head, t, rows, 1);
        heads_read(g, w->dv, o, head, t, rows, 1);
        g->block->dot_rows(w->mean + t, w->dk, d, w->dv, d, rows, d);
    }
    memset(w->dq, 0, (size_t)(g->padded_T * d) * sizeof *w->dq);
}

/* The keys from `key` on and the queries from `query` on. */
static void backward_block(const struct heads *g, struct backward *w, struct span seen, int64_t query, int64_t key,
                           int64_t keys)
{
    const struct block *b = g->block;
    const int64_t rows = heads_rows(g, query), d = g->padded_D, at = (query - g->first) * d;
    int32_t first[BLOCK], end[BLOCK];

    heads_seen(seen, query, rows, key, keys, first, end);
    amx_multiply(w->p, BLOCK, w->q + at, w->k_turned, rows, keys, d, false);
    scale_scores(g, w->p, rows);
    b->exponential(w->p, BLOCK, rows, BLOCK, first, end, w->lse + query);
    pack_scores(w->packed, w->p, rows, keys, true);
    amx_multiply(w->dv, d, w->packed, w->go_mixed + at, keys, d, rows, true);
    amx_multiply(w->ds, BLOCK, w->go + at, w->v_turned, rows, keys, d, false);
    b->softmax_grad(w->ds, w->p, BLOCK, rows, amx_whole(keys), w->mean + query);
    pack_scores(w->packed, w->ds, rows, keys, true);
    amx_multiply(w->dk, d, w->packed, w->q_mixed + at, keys, d, rows, true);
    pack_scores(w->packed, w->ds, rows, keys, false);
    amx_multiply(w->dq + at, d, w->packed, w->k_mixed, rows, d, keys, true);
}

static void backward_keys(const struct heads *g, struct backward *w, struct span seen, int64_t head, int64_t key,
                          const void *k, const void *v)
{
    const int64_t rows = heads_rows(g, key), keys = seen.end - key < rows ? seen.end - key : rows;
    const size_t bytes = (size_t)(BLOCK * g->padded_D) * sizeof(float);

    memset(w->dk, 0, bytes);
    memset(w->dv, 0, bytes);
    if (keys <= 0 || key + rows <= seen.first)
        return;
    pack_turned(g, w->room, w->k_turned, k, head, key, keys);
    pack_turned(g, w->room, w->v_turned, v, head, key, keys);
    pack_mixed(g, w->room, w->k_mixed, k, head, key, keys);
    const int64_t hidden = key > g->first ? (key - g->first) / BLOCK * BLOCK : 0; /* whole blocks before the key */
    for (int64_t query = g->first + hidden; query < g->T; query += BLOCK)
        backward_block(g, w, seen, query, key, keys);
    for (int64_t i = 0; i < rows; i++)
        g->block->scale_rows(w->dk + i * g->padded_D, g->padded_D, 1, g->padded_D, &g->scale);
}

void flash_tiles_grad_head(const struct heads *all, float *work, int64_t head, void *const *in, void *const *out)
{
    const struct heads own = heads_one(all, head), *g = &own;
    const struct span seen = heads_span(g, head);
    struct backward w;

    backward_work(g, work, &w);
    w.lse = (const float *)in[5] + head * g->line;
    read_queries(g, &w, head, in[0], in[1], in[4]);
    amx_begin();
    for (int64_t key = 0; key < g->T; key += BLOCK) {
        backward_keys(g, &w, seen, head, key, in[2], in[3]);
        heads_give(g, out[1], w.dk, head, key, heads_rows(g, key));
        heads_give(g, out[2], w.dv, head, key, heads_rows(g, key));
    }
    amx_end();
    heads_write(g, out[0], w.dq, head, g->first, g->T - g->first, g->scale);
}
