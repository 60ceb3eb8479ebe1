/* report/recorded.h - runs that were metered one by one, `tuneup measure --label L -o runs.jsonl -- CMD`, read as if they
 * were a study: a cell for each label (or command line, where there is none), the first label the baseline of all. Such
 * runs share no blocks and are compared unpaired. */
#ifndef TUNEUP_REPORT_RECORDED_H
#define TUNEUP_REPORT_RECORDED_H

#include "report/load.h"

/* Files of such lines, or other tools' tables (csv_import.h); of several files, a table without labels is named by its
 * file. On error *l is empty; ERR_INPUT with the line. Called by load_study for files that are no database. */
int recorded_load(struct loaded *l, const char *const *paths, int n, struct err *err);

#endif
