/* graph/live.h - which places of a batch's rows are worked on when padding is not: integers alone, the same for live_rows on
 * every backend and for who counts beforehand what will be live. */
#ifndef TUNEUP_GRAPH_LIVE_H
#define TUNEUP_GRAPH_LIVE_H

#include <stdbool.h>
#include <stdint.h>

/* One row of T places, as a program is given it. */
struct live_inputs {
    const int32_t *span; /* [2] its visible keys */
    const int32_t *targets; /* [T], or NULL */
    const int32_t *pair; /* [PAIR_N] what its scores are compared with, or NULL */
    bool chosen; /* is it the pair's first row? */
    int64_t T;
};

/* How many places of a rejected row are as in its chosen one: the same visible ids from the rows' begin on, none of which is
 * compared. */
int64_t live_shared(const struct live_inputs *chosen, const int32_t *chosen_ids, const struct live_inputs *rejected,
                    const int32_t *rejected_ids);

/* One past the last place that is seen as a key, has a target or a score that is compared. */
int64_t live_end(const struct live_inputs *in);

#endif
