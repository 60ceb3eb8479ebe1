/* study/study.h - runs a study: every cell in every block, one after the other, each a fresh process group under the
 * meters, recorded the moment it ends. What is recorded is never run again, so a study that was interrupted, or killed,
 * goes on where it stopped. A cell that fails is a result too. */
#ifndef TUNEUP_STUDY_STUDY_H
#define TUNEUP_STUDY_STUDY_H

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"
#include "study/cells.h"

struct study_options {
    const char *output; /* folder: study.db, and inputs/ and run/ while it works */
    const char *program; /* what runs the phases; NULL = this program */
    bool retry_failed; /* forget failed results first */
    bool again; /* one block more of what the caller has just run: what is recorded is no news */
};

/* 0 = all is recorded; n > 0 = signal n asked to stop, and what was complete is recorded; -1 = error. *n_failed counts
 * the runs of this call that failed. */
int study_run(const struct cells *s, const struct study_options *o, int *n_failed, struct err *err);
/* The plan of a study for people: cells, command lines, order of the first block. */
void study_print(const struct cells *s, FILE *out);

#endif
