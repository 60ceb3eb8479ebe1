/* report/figures.h - the report's figures, drawn by gnuplot as SVG whose words are text. gnuplot is a program of its own
 * and may be missing: then the figures are absent and `reason` says why. Words from the study are quoted for gnuplot, and
 * every id in the SVG gets a prefix, so that several can stand in one page. */
#ifndef TUNEUP_REPORT_FIGURES_H
#define TUNEUP_REPORT_FIGURES_H

#include <stdio.h>

#include "report/ratios.h"

enum figure_kind {
    FIGURE_RATIOS,
    FIGURE_MEMORY,
    FIGURE_STEPS,
    FIGURE_SPLIT,
    FIGURE_TRADEOFF,
    FIGURE_TIMELINE,
    FIGURE_N
};
struct figure {
    enum figure_kind kind;
    const char *phase; /* borrowed from the study */
    char *svg; /* owned */
};
struct figures {
    struct figure *list; /* owned: each kind of each phase that there is something to draw of */
    int n;
    char reason[512]; /* why there are none; "" */
};

/* A missing gnuplot is no error here. */
int figures_build(struct figures *f, const struct loaded *l, const struct comparisons *c, struct err *err);
void figures_free(struct figures *f);
const char *figures_find(const struct figures *f, enum figure_kind kind, const char *phase); /* the SVG, or NULL */
/* A cell's name and ranks, quoted for gnuplot. */
void figures_label(FILE *out, const struct load_cell *c);
/* Writes PHASE-ratios, -memory, -steps, -split, -tradeoff and -timeline as .svg, .pdf and .png into a folder; here a missing gnuplot is an error. */
/* only: "svg", "pdf" or "png"; NULL: all three. */
int figures_save(const char *output, const char *only, const struct loaded *l, const struct comparisons *c,
                 struct err *err);

/* The first counted and completed run of a cell: what one run looked like. NULL if there is none. */
const struct load_run *figures_example(const struct loaded *l, int cell);

#endif
