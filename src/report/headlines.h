/* report/headlines.h - what a study found, in a few plain sentences. Names of cells are the study's own words: escape
 * them for where they go. */
#ifndef TUNEUP_REPORT_HEADLINES_H
#define TUNEUP_REPORT_HEADLINES_H

#include "report/ratios.h"

enum { HEADLINES_MAX = 24 };
struct headlines {
    char line[HEADLINES_MAX][640];
    bool bad[HEADLINES_MAX]; /* something to look at: failed runs, a technique that is not exact after all */
    int n;
};

void headlines_build(struct headlines *h, const struct loaded *l, const struct comparisons *c);

/* Bytes of the heaviest rank over all kinds, as planned and as allocated, of one run; -1 = unknown. */
int64_t headlines_planned(const struct load_run *r);
int64_t headlines_allocated(const struct load_run *r);

#endif
