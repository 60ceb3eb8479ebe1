/* study/outcome.h - what one run of a cell left behind, as the study stores it: the run.json and metrics.jsonl of a phase
 * beside what the meter saw from outside. Unknown is NAN or -1, never 0. */
#ifndef TUNEUP_STUDY_OUTCOME_H
#define TUNEUP_STUDY_OUTCOME_H

#include <stdint.h>

#include "base/err.h"

enum { OUTCOME_N_KINDS = 8, OUTCOME_MAX_RANKS = 256 };
extern const char *const outcome_kinds[OUTCOME_N_KINDS]; /* "param" ... "workspace": the plan's words */

struct outcome_step {
    int64_t step, tokens, peak_bytes;
    double loss, lr, grad_norm, seconds, joules;
};

/* Any further number of a step, or (step 0) of the whole run, under the name that the phase gave it: "accuracy", "kl". */
enum { OUTCOME_NAME_MAX = 48, OUTCOME_MAX_METRICS = 64 }; /* longer names, and more of them in one line, are left out */
struct outcome_metric {
    int64_t step;
    char name[OUTCOME_NAME_MAX];
    double value; /* finite */
};

struct outcome {
    int64_t warmup_steps, tokens, peak_bytes;
    double steady_s, steady_j, tokens_per_s, final_loss, eval_loss, perplexity;
    char energy_state[16], energy_reason[512]; /* of steady_j: "measured", "estimated", "unavailable" */
    int64_t planned[OUTCOME_N_KINDS], allocated[OUTCOME_N_KINDS]; /* bytes of the heaviest rank */
    int64_t planned_peak_bytes;
    double planned_flops, planned_bytes_moved, planned_comm_bytes; /* for an optimizer step */
    int64_t rank_peak_bytes[OUTCOME_MAX_RANKS];
    int n_ranks;
    struct outcome_step *steps; /* owned */
    int n_steps;
    struct outcome_metric *metrics; /* owned */
    int n_metrics;
    char *run_json; /* owned: the file as it is */
};

void outcome_init(struct outcome *o); /* all unknown */
/* Reads folder/run.json and folder/metrics.jsonl. ERR_INPUT for what does not follow their form. */
int outcome_read(struct outcome *o, const char *folder, struct err *err);
/* Of a command: the file in which it told its steps (measure/steps.h; NULL: none), with whatever other numbers its lines have,
 * and, unless pattern is NULL, the last number that its output (folder/stdout.txt, then stderr.txt) has where the pattern's group is: the
 * final loss. Neither need be there. */
int outcome_read_command(struct outcome *o, const char *folder, const char *metrics, const char *pattern,
                         struct err *err);
void outcome_free(struct outcome *o);

#endif
