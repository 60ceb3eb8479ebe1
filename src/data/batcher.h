/* data/batcher.h - samples -> batches of ids, the only form of text the engine sees.
 *
 * Order: a permutation of the samples, padded to a multiple of the rank count by repeating its head. Rank r of R takes
 * its rows r, r+R, ..., so that at every step the ranks together see exactly the next R*B rows of it, and every rank has
 * the same number of steps. The last batch of an epoch may have fewer rows.
 * What is padding follows from lengths alone, since one id is begin, end and padding at once.
 * Called by the phases, one batcher for training and one for evaluation.
 * Memory: 12 bytes an id of the largest batch and 8 bytes a sample, once, in batcher_init; nothing after it. */
#ifndef TUNEUP_DATA_BATCHER_H
#define TUNEUP_DATA_BATCHER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "data/sample.h"

#define BATCH_NO_TARGET (-100)

struct batch {
    int64_t B, T; /* this batch's extents, at most the batcher's; for pairs, B chosen rows and then as many rejected */
    int32_t *ids; /* [B,T], padded with the samples' pad id */
    int32_t *positions; /* [B,T] rows of the position embedding: 2, 3, ... on the text, 1 on padding */
    int32_t *targets; /* [B,T] the id at t+1, or BATCH_NO_TARGET where the loss does not count */
    int32_t *spans; /* [B,2] first and one past last visible key */
    int64_t n_targets; /* counted targets in this rank's batch */
    int64_t n_tokens; /* ids that are not padding */
    /* Row i stands at first_row + i*row_stride in the epoch's order (of a pair both rows do): the row's number for
     * counter-based random numbers, the same for every number of ranks. */
    int64_t first_row, row_stride;
};

struct batcher_options {
    int64_t B, T; /* samples and ids of a full batch on one rank */
    int rank, ranks;
    uint64_t seed; /* of the permutations */
    enum convention convention;
    /* Cut T to the batch's longest row, rounded up to a multiple of 8. Exact, since padding on the right is never seen
     * by the text; refused with CONVENTION_PAPER, whose loss counts padding. */
    bool trim;
    bool reference_order; /* torch's randperm with seed 0, the same in every epoch, as DeepSpeed-Chat draws it */
    bool left_pad; /* prompts for generation */
    bool in_order; /* no shuffling: the samples as they stand */
};

struct batcher {
    const struct samples *samples; /* borrowed: outlives the batcher */
    struct batcher_options options;
    struct batch batch; /* owned: overwritten by every step */
    int64_t *order; /* owned: the epoch's permutation of the samples */
    int64_t epoch, next_step;
};

/* Stands before step 0 of epoch 0 afterwards. Errors: ERR_USAGE for impossible options, ERR_INPUT for no samples or
 * samples longer than T, ERR_MEMORY. On error *b is empty. */
int batcher_init(struct batcher *b, const struct samples *s, const struct batcher_options *o, struct err *err);
int batcher_epoch(struct batcher *b, int64_t epoch, struct err *err); /* starts an epoch */
int batcher_step(struct batcher *b, struct err *err); /* 1 = b->batch filled, 0 = end of the epoch, -1 = error */
int64_t batcher_steps(const struct batcher *b); /* batches of an epoch, the same on every rank */
/* Resume: the next batcher_step gives that batch. step = batcher_steps() is the end of the epoch. */
int batcher_seek(struct batcher *b, int64_t epoch, int64_t step, struct err *err);
void batcher_free(struct batcher *b);

#endif
