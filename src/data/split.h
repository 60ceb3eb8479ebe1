/* data/split.h - which records of a data set belong to which phase: "--data_split 2,4,4" with a seed gives the same
 * records as DeepSpeed-Chat does. Called by the run's set-up, once a data set. */
#ifndef TUNEUP_DATA_SPLIT_H
#define TUNEUP_DATA_SPLIT_H

#include <stdint.h>

#include "base/err.h"

#define SPLIT_PHASES 3

struct split {
    double part[SPLIT_PHASES]; /* in any unit: 2,4,4 is 0.2, 0.4, 0.4 */
};

/* What the n records are: one side of a set that comes in two, or a single file, of which 9 in 10 are for training. */
enum split_side { SPLIT_GIVEN, SPLIT_TRAIN_OF_ONE, SPLIT_EVAL_OF_ONE };

/* "2,4,4": one to three numbers, none negative, not all zero; those left out are 0. ERR_USAGE. */
int split_parse(struct split *s, const char *text, struct err *err);
/* bounds[0] = 0 to bounds[3] = n: phase i (from 1) has the shuffled records bounds[i-1] to bounds[i]-1. */
void split_bounds(const struct split *s, int64_t n, int64_t bounds[SPLIT_PHASES + 1]);
/* The numbers of the records of a phase (1, 2 or 3), in order, as a new array that the caller frees with mem_free.
 * *n_rows may become 0. Errors: ERR_INPUT if n > SHUFFLE_MAX, ERR_MEMORY. */
int split_rows(const struct split *s, int64_t n, enum split_side side, uint32_t seed, int phase, int64_t **rows,
               int64_t *n_rows, struct err *err);

#endif
