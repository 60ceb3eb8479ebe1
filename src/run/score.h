/* run/score.h - a reward model's judgement of each record of a data file: `tuneup score`. */
#ifndef TUNEUP_RUN_SCORE_H
#define TUNEUP_RUN_SCORE_H

#include "run/run.h"

/* A record with two answers has two scores; one with a single text (prompt and chosen, a prompt alone, or "text") one. */
struct score {
    int64_t index; /* of the record in the file, from 0; records left out by --skip_bad_records do not count */
    int n;
    double value[2]; /* chosen, rejected */
};

struct scores {
    struct score *list; /* owned: one a record, in the file's order, on every rank */
    int64_t n;
    bool tells; /* this rank is the one that speaks */
};

/* Texts end as in training, with "<|endoftext|>"; longer ones than max_seq_len are cut, which is told. */
int score_file(const struct run_request *q, struct scores *out, struct err *err);
void scores_free(struct scores *s);

extern const struct run_form run_scores;

#endif
