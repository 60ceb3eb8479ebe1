/* report/headlines.h - what a study found, in a few plain sentences. Names of cells are the study's own words: escape
 * them for where they go. */
#ifndef TUNEUP_REPORT_HEADLINES_H
#define TUNEUP_REPORT_HEADLINES_H

#include "report/ratios.h"

enum { HEADLINES_MAX = 24 };
struct headlines {
    char line[HEADLINES_MAX][1000];
    bool bad[HEADLINES_MAX]; /* something to look at: failed runs, a technique that is not exact after all */
    int n;
};

/* Over all phases: the questions that Chen, Soto, Tuttle and Zong ask of their study (IPDPSW 2024, doi
 * 10.1109/IPDPSW63119.2024.00162), what could not be measured, what went wrong. */
void headlines_overall(struct headlines *h, const struct loaded *l, const struct comparisons *c);
/* Of one phase: its best cells, exactness, prediction, and where PPO's time goes. */
void headlines_phase(struct headlines *h, const struct loaded *l, const struct comparisons *c, const char *phase);

void headlines_say(struct headlines *h, bool bad, const char *format, ...) ERR_PRINTF(3, 4);
/* The row of a baseline's group with the largest ratio that is surely better, and whose numbers are right; or NULL. */
const struct comparison *headlines_best(const struct comparisons *c, int base, enum ratio_kind kind);

/* Bytes of the heaviest rank over all kinds, as planned and as allocated, of one run; -1 = unknown. */
int64_t headlines_planned(const struct load_run *r);
int64_t headlines_allocated(const struct load_run *r);
/* Seconds of a step after the warm-up as predicted and as measured, means over the cell's runs; false: not both are known. */
bool headlines_seconds(const struct loaded *l, int cell, double *predicted_s, double *measured_s);

#endif
