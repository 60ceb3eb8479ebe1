/* data/shuffle.h - permutations: two that repeat what other tools draw, so that the same seed picks the same records,
 * and our own.
 * MT19937: Matsumoto, Nishimura 1998, doi 10.1145/272991.272995. Called by split.c, sample.c and batcher.c. */
#ifndef TUNEUP_DATA_SHUFFLE_H
#define TUNEUP_DATA_SHUFFLE_H

#include <stdint.h>

/* Larger sets would need 64-bit draws, which the other tools make in another way. */
#define SHUFFLE_MAX INT64_C(200000000)

/* Each fills out[0..n-1] with a permutation of 0..n-1; 0 <= n <= SHUFFLE_MAX. */
void shuffle_numpy(uint32_t seed, int64_t n, int64_t *out); /* numpy.random.RandomState(seed).shuffle of 0..n-1 */
void shuffle_torch(uint32_t seed, int64_t n, int64_t *out); /* torch.randperm(n) on the CPU */
/* A permutation of its own for every epoch: a function of (seed, epoch), whatever the number of ranks. */
void shuffle_epoch(uint64_t seed, int64_t epoch, int64_t n, int64_t *out);

#endif
