/* data/task.h - the built-in task data: preference records of everyday tasks whose answers can be checked, so that beside
 * the learned score of a reward model there is a true one.
 *
 * A record is {"prompt": "\n\nHuman: ...\n\nAssistant:", "chosen": " ...", "rejected": " ...", "source": kind}: the layout
 * of Dahoas/rm-static. chosen is right, rejected is not: mostly a slip on the way, sometimes no answer at all. Lengths
 * are like those of real preference data, and the longer answer is only a little more often the right one.
 * Called by cli/cmd_data.c, by the built-in study, and by PPO's report (task_right). */
#ifndef TUNEUP_DATA_TASK_H
#define TUNEUP_DATA_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define TASK_MAX_RECORDS INT64_C(100000000)

struct task_options {
    const char *kinds; /* "largest,fastest": only these; NULL: all */
    bool plain; /* one turn, and no talk around question and answer: for models that are to learn in minutes */
};

/* Writes n records as JSON lines; the file appears whole or not at all. Record i is a function of (options, seed, eval, i).
 * No question of an eval file is in any train file, whatever their seeds. ERR_USAGE if n < 1 or > TASK_MAX_RECORDS, or if a
 * kind is unknown. */
int task_write(const char *path, int64_t n, uint64_t seed, bool eval, const struct task_options *o, struct err *err);
/* Whether the answer to the last question of the prompt is right: the question is parsed back and worked out anew. What
 * counts is the last number in the answer, or, where the answer is words, how it ends. False for prompts of other origin
 * (see task_known) and for anything that begins a new turn before the answer is there. */
bool task_right(const char *prompt, const char *answer);
/* The name of the kind of task that a prompt asks for, or NULL if it is none of these. */
const char *task_known(const char *prompt);

#endif
