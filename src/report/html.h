/* report/html.h - the report: one HTML file that needs nothing else, no script, no network. Every word that comes from the
 * study's file is escaped. */
#ifndef TUNEUP_REPORT_HTML_H
#define TUNEUP_REPORT_HTML_H

#include <stdio.h>

#include "report/figures.h"
#include "report/ratios.h"

/* Loads the study, builds ratios and figures, writes the file (whole or not at all), and the figures one by one into the
 * folder figures_path unless that is NULL. */
int html_report(const char *study_path, const char *output_path, const char *figures_path, struct err *err);
/* study_path is for the words on how to reproduce it. */
void html_print(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                const char *study_path);

#endif
