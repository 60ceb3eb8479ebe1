/* report/runs.h - the runs themselves, one by one: for lists, for other programs, and as the raw data in a report. */
#ifndef TUNEUP_REPORT_RUNS_H
#define TUNEUP_REPORT_RUNS_H

#include <stdio.h>

#include "base/json.h"
#include "report/load.h"

/* Everything that the file knows of a run; with `whole` its steps, metrics, memory and its own record too. Unknown numbers
 * are null. NULL without memory. */
json_t *runs_json(const struct loaded *l, const struct load_run *r, bool whole);
/* A row a run, its head first; words are made harmless for spreadsheets. whole: with its command line and why it has
 * no energy, the longest columns. */
void runs_csv(FILE *out, const struct loaded *l, bool whole);
/* A table for people. */
void runs_table(FILE *out, const struct loaded *l);
const struct load_run *runs_find(const struct loaded *l, int64_t id); /* NULL: no such run */

#endif
