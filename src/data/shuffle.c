/* All three are Fisher-Yates; they differ in the generator, the direction, and how a draw is brought into range. */
#include "data/shuffle.h"

#include "base/err.h"
#include "base/rng.h"

#define MT_N 624
#define MT_M 397

struct mt {
    uint32_t state[MT_N];
    int at;
};

static void mt_seed(struct mt *m, uint32_t seed)
{
    m->state[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        m->state[i] = 1812433253u * (m->state[i - 1] ^ (m->state[i - 1] >> 30)) + i;
    m->at = MT_N;
}

static void mt_refill(struct mt *m)
{
    for (int i = 0; i < MT_N; i++) {
        const uint32_t y = (m->state[i] & 0x80000000u) | (m->state[(i + 1) % MT_N] & 0x7fffffffu);

        m->state[i] = m->state[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    m->at = 0;
}

static uint32_t mt_draw(struct mt *m)
{
    if (m->at == MT_N)
        mt_refill(m);
    uint32_t y = m->state[m->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static void count_up(int64_t n, int64_t *out)
{
    MUST(n >= 0 && n <= SHUFFLE_MAX);
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
}

static void swap(int64_t *a, int64_t *b)
{
    const int64_t t = *a;

    *a = *b;
    *b = t;
}

void shuffle_numpy(uint32_t seed, int64_t n, int64_t *out)
{
    struct mt m;

    mt_seed(&m, seed);
    count_up(n, out);
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t mask = (uint32_t)i, draw;

        for (int shift = 1; shift < 32; shift *= 2)
            mask |= mask >> shift;
        do
            draw = mt_draw(&m) & mask;
        while (draw > (uint32_t)i);
        swap(&out[i], &out[draw]);
    }
}

void shuffle_torch(uint32_t seed, int64_t n, int64_t *out)
{
    struct mt m;

    mt_seed(&m, seed);
    count_up(n, out);
    for (int64_t i = 0; i < n - 1; i++)
        swap(&out[i], &out[i + mt_draw(&m) % (uint32_t)(n - i)]);
}

void shuffle_epoch(uint64_t seed, int64_t epoch, int64_t n, int64_t *out)
{
    struct rng r = { .seed = seed, .purpose = RNG_SHUFFLE, .stream = (uint32_t)epoch };

    count_up(n, out);
    for (int64_t i = n - 1; i > 0; i--)
        swap(&out[i], &out[rng_below(&r, (uint32_t)i + 1)]);
}
