/* backend/cpu/heads.h - where the heads of attention's operands lie, for both forms of attention.
 *
 * Work is spread over heads: one thread does all of a head, in memory of its own, so results depend neither on the number
 * of threads nor on which does what. Queries and keys are taken BLOCK_TOKENS at a time. */
#ifndef TUNEUP_BACKEND_CPU_HEADS_H
#define TUNEUP_BACKEND_CPU_HEADS_H

#include <math.h>

#include "backend/cpu/block.h"
#include "backend/cpu/cpu.h"

#define BLOCK_TOKENS 64

struct heads {
    const struct block *block;
    const int32_t *spans;
    enum dtype type;
    int64_t B, T, H, D;
    int64_t padded_T, padded_D;
    int64_t first; /* of one head's own tokens: those before are another row's, keys alone */
    int64_t line; /* the batch's T: [B,H,T] and the like have such lines, however many of it one row uses */
    const struct live_row *live; /* of packed tensors; NULL: row b's tokens begin at b*T */
    float scale;
    bool tiles; /* flash attention by tiles (flash_tiles.c) */
};

static inline int64_t heads_blocks(int64_t T)
{
    return (T + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

/* For B and T of a run, or as planned. */
static inline struct heads heads_of(const struct backend *b, const struct kernel *k, const int32_t *spans, int64_t B,
                                    int64_t T)
{
    const struct buffer *q = kernel_in(k, 0);
    const int64_t H = k->step->attrs.heads, D = q->shape.dim[1] / H;

    return (struct heads){ .block = block_of(cpu_of(b)->isa),
                           .spans = spans,
                           .type = q->dtype,
                           .B = B,
                           .T = T,
                           .H = H,
                           .D = D,
                           .padded_T = heads_blocks(T) * BLOCK_TOKENS,
                           .padded_D = block_padded(D),
                           .line = T,
                           .scale = 1.0f / sqrtf((float)D),
                           .tiles = q->dtype == BF16 && matmul_ways(cpu_of(b)->matmul).tiles };
}

/* Of what a run works on. */
static inline struct heads heads_now(const struct backend *b, const struct kernel *k, const int32_t *spans,
                                     const struct run_context *c)
{
    struct heads g = heads_of(b, k, spans, c->B, c->T);

    g.live = kernel_is_packed(k) ? c->live : NULL;
    return g;
}

/* The same for one head alone: its row may have fewer tokens than the batch. */
static inline struct heads heads_one(const struct heads *g, int64_t head)
{
    struct heads own = *g;

    if (g->live) {
        own.T = g->live[head / g->H].end;
        own.first = g->live[head / g->H].first;
        own.padded_T = heads_blocks(own.T) * BLOCK_TOKENS;
    }
    return own;
}

/* The address of token t of a head in a tensor [N, H*D]; rows are H*D apart. */
static inline size_t heads_at(const struct heads *g, int64_t head, int64_t t)
{
    const int64_t b = head / g->H, h = head % g->H, n = g->live ? live_at(g->live, b, t) : b * g->line + t;

    return (size_t)((n * g->H + h) * g->D) * dtype_bytes(g->type);
}

static inline int64_t heads_clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* The keys that row `head`'s queries may see at all. */
struct span {
    int64_t first, end;
};

static inline struct span heads_span(const struct heads *g, int64_t head)
{
    const int32_t *s = g->spans + 2 * (head / g->H);
    const int64_t end = heads_clamp(s[1], 0, g->T);

    return (struct span){ heads_clamp(s[0], 0, end), end };
}

/* Which of the keys key .. key+n each of the queries query .. query+rows sees: columns first[i] to end[i]. */
static inline void heads_seen(struct span s, int64_t query, int64_t rows, int64_t key, int64_t n, int32_t *first,
                              int32_t *end)
{
    for (int64_t i = 0; i < rows; i++) {
        const int64_t last = query + i + 1 < s.end ? query + i + 1 : s.end;

        first[i] = (int32_t)heads_clamp(s.first - key, 0, n);
        end[i] = (int32_t)heads_clamp(last - key, 0, n);
    }
}

/* Of the tokens t .. t+rows of one head, the first so many lie side by side. */
static inline int64_t heads_together(const struct heads *g, int64_t t, int64_t rows)
{
    return t < g->first && g->first - t < rows ? g->first - t : rows;
}

/* The head of the next row after `after`'s that shares the beginning of `head`'s row; -1: there is none. A thread that has done
 * a head does these too, since they add to its keys' gradients. */
static inline int64_t heads_sharing(const struct heads *g, int64_t head, int64_t after)
{
    for (int64_t b = after / g->H + 1; g->live && b < g->B; b++)
        if (g->live[b].shares == head / g->H)
            return b * g->H + head % g->H;
    return -1;
}

static inline bool heads_shares(const struct heads *g, int64_t head)
{
    return g->live && g->live[head / g->H].shares >= 0;
}

/* Reads tokens t .. t+rows of a head as fp32 [rows, padded_D]. */
static inline void heads_read(const struct heads *g, float *out, const void *in, int64_t head, int64_t t, int64_t rows,
                              float scale)
{
    for (int64_t i = 0, n; i < rows; i += n) {
        n = heads_together(g, t + i, rows - i);
        g->block->widen(out + i * g->padded_D, g->padded_D, (const char *)in + heads_at(g, head, t + i), g->type,
                        g->H * g->D, n, g->D, g->padded_D, scale);
    }
}

/* The same as [D, BLOCK_TOKENS]. */
static inline void heads_read_transposed(const struct heads *g, float *out, const void *in, int64_t head, int64_t t,
                                         int64_t rows)
{
    for (int64_t i = 0, n; i < rows; i += n) {
        n = heads_together(g, t + i, rows - i);
        g->block->widen_transposed(out + i, BLOCK_TOKENS, (const char *)in + heads_at(g, head, t + i), g->type,
                                   g->H * g->D, n, g->D, BLOCK_TOKENS - i);
    }
}

static inline void heads_write(const struct heads *g, void *out, const float *in, int64_t head, int64_t t, int64_t rows,
                               float scale)
{
    g->block->narrow((char *)out + heads_at(g, head, t), g->type, g->H * g->D, in, g->padded_D, rows, g->D, scale);
}

/* The gradients of keys or values t .. t+rows: what belongs to another row is added there. */
static inline void heads_give(const struct heads *g, void *out, const float *in, int64_t head, int64_t t, int64_t rows)
{
    const int64_t shared = heads_clamp(g->first - t, 0, rows);

    for (int64_t i = 0; i < shared; i++) {
        char *to = (char *)out + heads_at(g, head, t + i);
        for (int64_t d = 0; d < g->D; d++) {
            if (g->type == F32)
                ((float *)to)[d] += in[i * g->padded_D + d];
            else
                ((uint16_t *)to)[d] =
                    half_from_f32(half_to_f32(((uint16_t *)to)[d], g->type) + in[i * g->padded_D + d], g->type);
        }
    }
    if (rows > shared)
        heads_write(g, out, in + shared * g->padded_D, head, t + shared, rows - shared, 1);
}

static inline int64_t heads_rows(const struct heads *g, int64_t t)
{
    return g->T - t < BLOCK_TOKENS ? g->T - t : BLOCK_TOKENS;
}

/* Floats a thread may use from *used on; they begin at a multiple of 64 bytes. */
static inline float *heads_take(float *work, int64_t *used, int64_t n)
{
    float *at = work ? work + *used : NULL;

    *used += (n + 15) / 16 * 16;
    return at;
}

#endif
