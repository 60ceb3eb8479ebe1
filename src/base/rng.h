/* base/rng.h - counter-based random numbers: a draw is a function of (seed, purpose, step, row, position), so that
 * recomputation, resume and the number of ranks leave every draw unchanged.
 * Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", doi 10.1145/2063384.2063405. */
#ifndef TUNEUP_BASE_RNG_H
#define TUNEUP_BASE_RNG_H

#include <stdint.h>

/* What a draw is for: keeps streams of one seed apart. Values are part of the checkpoint format. */
enum rng_purpose { RNG_INIT = 1, RNG_DROPOUT = 2, RNG_SHUFFLE = 3, RNG_TASK = 4, RNG_SAMPLE = 5, RNG_STUDY = 6 };

struct rng_block {
    uint32_t v[4];
};

static inline struct rng_block rng_philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2,
                                          uint32_t c3)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;

        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return (struct rng_block){ { c0, c1, c2, c3 } };
}

/* A sequential view of one stream: (seed, purpose, stream) fixes it, and counter is all the state there is. */
struct rng {
    uint64_t seed;
    uint32_t purpose, stream;
    uint64_t counter;
};

uint32_t rng_u32(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n); /* uniform in 0..n-1 without bias; n > 0 */
double rng_uniform(struct rng *r); /* in [0,1), 53 bits */
double rng_normal(struct rng *r); /* mean 0, deviation 1 (Box-Muller) */

#endif
