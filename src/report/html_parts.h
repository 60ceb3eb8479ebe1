/* report/html_parts.h - the parts of the report that are about ratios: the table of all phases, and a phase's own section.
 * The words and numbers below are for html.c too. */
#ifndef TUNEUP_REPORT_HTML_PARTS_H
#define TUNEUP_REPORT_HTML_PARTS_H

#include <stdio.h>

#include "report/figures.h"
#include "report/headlines.h"
#include "report/ratios.h"

void html_headlines(FILE *out, const struct headlines *h);
/* A row for each choice of techniques and rank count, three ratios for each phase. */
void html_glance(FILE *out, const struct loaded *l, const struct comparisons *c);
/* Sentences, ratios, figures, the split of PPO's time, predictions. */
void html_phase(FILE *out, const struct loaded *l, const struct comparisons *c, const struct figures *f,
                const char *phase);

void html_text(FILE *out, const char *s); /* escaped: the one way for words of the study */
void html_sentence(FILE *out, const char *s); /* the same, and a full stop unless it has one */
const char *html_plural(int64_t n); /* "s", or "" for 1 */
void html_number(FILE *out, double value, const char *format); /* a cell; "3": three digits, "4": four decimals */
void html_ranks(FILE *out, const struct load_cell *c); /* a cell of a table; of a command a dash */
void html_mib(FILE *out, int64_t bytes); /* a cell */

#endif
