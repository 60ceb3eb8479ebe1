/* report/tradeoff.h - two figures of a phase as gnuplot scripts: the map of its trade-offs (SpeedUp by EnergyUp, or by MemoryUp
 * where no energy is known; the size of a point is its MemoryUp), and power and memory over the time of a run. Called by
 * figures.c, which runs gnuplot. */
#ifndef TUNEUP_REPORT_TRADEOFF_H
#define TUNEUP_REPORT_TRADEOFF_H

#include <stdio.h>

#include "report/ratios.h"

/* All of a script but its terminal. false: there is nothing to draw. two: both power and memory are known. */
bool tradeoff_draw(FILE *out, const struct loaded *l, const struct comparisons *c, const char *phase);
bool tradeoff_timeline(FILE *out, const struct loaded *l, const char *phase, bool *two);

#endif
