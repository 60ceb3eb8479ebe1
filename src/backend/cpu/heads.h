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
    float scale;
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
                           .scale = 1.0f / sqrtf((float)D) };
}

/* The address of token t of a head in a tensor [B*T, H*D]; rows are H*D apart. */
static inline size_t heads_at(const struct heads *g, int64_t head, int64_t t)
{
    const int64_t b = head / g->H, h = head % g->H;

    return (size_t)(((b * g->T + t) * g->H + h) * g->D) * dtype_bytes(g->type);
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

/* Reads tokens t .. t+rows of a head as fp32 [rows, padded_D]. */
static inline void heads_read(const struct heads *g, float *out, const void *in, int64_t head, int64_t t, int64_t rows,
                              float scale)
{
    g->block->widen(out, g->padded_D, (const char *)in + heads_at(g, head, t), g->type, g->H * g->D, rows, g->D,
                    g->padded_D, scale);
}

/* The same as [D, BLOCK_TOKENS]. */
static inline void heads_read_transposed(const struct heads *g, float *out, const void *in, int64_t head, int64_t t,
                                         int64_t rows)
{
    g->block->widen_transposed(out, BLOCK_TOKENS, (const char *)in + heads_at(g, head, t), g->type, g->H * g->D, rows,
                               g->D, BLOCK_TOKENS);
}

static inline void heads_write(const struct heads *g, void *out, const float *in, int64_t head, int64_t t, int64_t rows,
                               float scale)
{
    g->block->narrow((char *)out + heads_at(g, head, t), g->type, g->H * g->D, in, g->padded_D, rows, g->D, scale);
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
