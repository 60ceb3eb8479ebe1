/* report/iteration.h - where the time of PPO's iterations goes: generating answers, scoring them with the four models, training
 * actor and critic, and the rest. Runs tell the seconds of the three parts with every step. */
#ifndef TUNEUP_REPORT_ITERATION_H
#define TUNEUP_REPORT_ITERATION_H

#include "report/load.h"

enum iteration_part { ITERATION_GENERATE, ITERATION_SCORE, ITERATION_TRAIN, ITERATION_REST, ITERATION_N };
extern const char *const iteration_metrics[ITERATION_REST]; /* as in metrics.jsonl */
extern const char *const iteration_names[ITERATION_N]; /* for people */

/* Mean seconds of an iteration after the warm-up, over the counted runs of a cell. False: its runs do not tell. */
bool iteration_parts(const struct loaded *l, int cell, double seconds[ITERATION_N]);

#endif
