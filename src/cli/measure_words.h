/* cli/measure_words.h - a measured command's record in a few lines for people, on stderr. */
#ifndef TUNEUP_CLI_MEASURE_WORDS_H
#define TUNEUP_CLI_MEASURE_WORDS_H

#include "measure/job.h"
#include "measure/steps.h"

/* The machine's draw before the run. */
struct measure_idle {
    double seconds, watts; /* NAN = unknown or not asked for */
    double net_j; /* joules of the run beyond it */
};
void measure_words_print(const struct job_record *r, const char *label, const struct steps *s,
                         const struct steps_window *w, const struct measure_idle *idle);
/* The ratios of a label over another one, from FILE.jsonl or a study's file. ERR_USAGE: no such label. */
int measure_words_versus(const char *path, const char *label, const char *base, struct err *err);
/* The widest interval of these ratios, as stats_half_width; NAN while there is none. */
int measure_words_width(const char *path, const char *label, const char *base, double *width, struct err *err);

#endif
