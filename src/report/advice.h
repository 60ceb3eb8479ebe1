/* report/advice.h - what advise.h found, in words for a person and as JSON. Words of the study are made harmless for a
 * terminal. */
#ifndef TUNEUP_REPORT_ADVICE_H
#define TUNEUP_REPORT_ADVICE_H

#include <stdio.h>

#include "base/json.h"
#include "report/advise.h"

void advice_print(FILE *out, const struct advice *a, const struct loaded *l);
/* {"schema_version", "want": {"speed", "memory", "energy"}, "limits": {"memory", "seconds", "joules", "loss_increase"},
 *  "groups": [{"phase", "ranks", "baseline", "recommended", "best", "tied", "pareto", "reason", "weights":
 *  {"speed": {"value", "low", "high"}, ...}, "next", "cells": [{"phase", "cell", "ranks", "techniques", "feasible", "fails",
 *  "excluded", "pareto", "dominated_by", "tied", "switches", "needs", "ratios": {"SpeedUp": {"value", "low", "high", "n",
 *  "verdict", "source"}, ...}, "utility": {...}, "final_loss"}]}]}. What is unknown is null. NULL without memory. */
json_t *advice_json(const struct advice *a, const struct loaded *l);

/* The first of the group's phases of which no cell, at any rank count, meets the limits: its group, and the cell that is
 * nearest to them; NULL when every phase has one. */
const struct advise_group *advice_infeasible(const struct advice *a, const struct loaded *l,
                                             const struct advise_cell **nearest);
/* "1.30 GiB where --max_memory allows 1.00 GiB": the limits that a cell fails; "" when it meets all. */
void advice_fails(const struct advise_wish *wish, const struct advise_cell *c, char *out, size_t size);

#endif
