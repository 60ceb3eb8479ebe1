/* The sequential view spends one Philox block a draw: simple, and fast enough for everything but dropout, which calls
 * rng_philox itself. */
#include "base/rng.h"

#include <math.h>

static struct rng_block next_block(struct rng *r)
{
    const uint64_t n = r->counter++;

    return rng_philox((uint32_t)r->seed, (uint32_t)(r->seed >> 32), (uint32_t)n, (uint32_t)(n >> 32), r->purpose,
                      r->stream);
}

uint32_t rng_u32(struct rng *r)
{
    return next_block(r).v[0];
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
    const uint32_t limit = UINT32_MAX - UINT32_MAX % n;
    uint32_t u;

    do
        u = rng_u32(r);
    while (u >= limit);
    return u % n;
}

static double unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 21) ^ (low >> 11)) * 0x1p-53;
}

double rng_uniform(struct rng *r)
{
    const struct rng_block b = next_block(r);

    return unit(b.v[0], b.v[1]);
}

double rng_normal(struct rng *r)
{
    const struct rng_block b = next_block(r);
    const double u = 1.0 - unit(b.v[0], b.v[1]), v = unit(b.v[2], b.v[3]);

    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}
