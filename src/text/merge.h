/* text/merge.h - one piece -> ids: from single bytes, the adjacent pair of lowest rank is merged wherever it occurs,
 * left to right, until no pair has a rank (Sennrich et al. 2016, arXiv:1508.07909, on bytes as in GPT-2). */
#ifndef TUNEUP_TEXT_MERGE_H
#define TUNEUP_TEXT_MERGE_H

#include "text/vocab.h"

#define MERGE_MAX_PIECE (INT32_MAX / 4)

/* Working memory, kept from piece to piece; zeroed = empty. For one thread. */
struct merge_scratch {
    struct merge_node *nodes; /* [max_nodes] long pieces only: 36 bytes a byte of the piece */
    uint64_t *heap;
    int32_t *batch;
    int64_t max_nodes;
};
/* Writes at most n ids to out and returns how many; -1 in out where a byte has no token. n <= MERGE_MAX_PIECE.
 * Time: n^2 up to 64 bytes, n log n above. -1 and ERR_MEMORY on error. */
int64_t merge_piece(const struct vocab *v, struct merge_scratch *s, const char *piece, size_t n, int32_t *out,
                    struct err *err);
void merge_scratch_free(struct merge_scratch *s);

#endif
