/* data/sample.h - tokenized samples of one phase, as they are before padding: rows of ids of any length up to max_ids.
 * Padding is the batcher's business, so memory is the ids themselves and 24 bytes a row.
 * Filled by tokenize.c, read by batcher.c; the statistics also serve "tuneup data check". */
#ifndef TUNEUP_DATA_SAMPLE_H
#define TUNEUP_DATA_SAMPLE_H

#include <stdint.h>

#include "base/err.h"

/* Which age of DeepSpeed-Chat to follow. NOW: the end is the one id "</s>" and padding is not in the loss. PAPER (early
 * 2024): the end is the text "<|endoftext|>", seven ids, and padding counts. */
enum convention { CONVENTION_NOW, CONVENTION_PAPER };

/* Phase 1: prompt + chosen. Phase 2: two rows a sample, prompt + chosen and prompt + rejected. Phase 3: the prompt. */
enum sample_kind { SAMPLE_TEXT, SAMPLE_PAIR, SAMPLE_PROMPT };

struct sample_row {
    int64_t at, n; /* ids[at] to ids[at + n - 1] */
    int64_t n_whole; /* before it was cut to max_ids */
};

struct samples {
    enum sample_kind kind;
    int64_t max_ids; /* longer rows are cut to it; longer prompts are dropped */
    int32_t pad; /* the id that padding is shown as: the end id, since masks come from lengths, never from ids */
    int64_t n; /* samples */
    int64_t n_dropped; /* prompts longer than max_ids */
    struct sample_row *rows; /* owned: [n * samples_rows_each()]; of a pair the chosen row comes first */
    int32_t *ids; /* owned */
    int64_t rows_capacity, n_ids, ids_capacity;
};

static inline int64_t samples_rows_each(const struct samples *s)
{
    return s->kind == SAMPLE_PAIR ? 2 : 1;
}

/* An empty set. Errors: ERR_USAGE if max_ids < 2 (nothing could be predicted). */
int samples_init(struct samples *s, enum sample_kind kind, int64_t max_ids, int32_t pad, struct err *err);
/* Adds a sample: the ids of its row, and for a pair those of the rejected row (else NULL, 0). On error s is unchanged. */
int samples_add(struct samples *s, const int32_t *ids, int64_t n, const int32_t *rejected, int64_t n_rejected,
                struct err *err);
/* Mixes the samples of several data sets: shuffle_numpy with this seed. */
int samples_shuffle(struct samples *s, uint32_t seed, struct err *err);
/* Pairs whose two rows are the same ids, so that there is nothing to tell apart. */
int64_t samples_equal_pairs(const struct samples *s);
void samples_free(struct samples *s);

/* Lengths of rows in any unit. A quantile q is the smallest length that at least q of the rows do not exceed. */
struct sample_stats {
    int64_t n_rows, total; /* total is the sum of lengths */
    int64_t p10, p50, p90, p99, longest;
    int64_t limit; /* what the rest is about: rows longer than it are cut, shorter ones padded to it */
    int64_t n_cut, total_cut; /* rows that are cut, and what they lose */
    double padding; /* share of n_rows * limit that is padding */
};
/* Sorts the lengths. n = 0 gives zeros. */
void sample_stats_of(int64_t *lengths, int64_t n, int64_t limit, struct sample_stats *out);
/* Of the rows before they were cut, with limit = max_ids. Dropped prompts are not in it. */
int samples_stats(const struct samples *s, struct sample_stats *out, struct err *err);

#endif
